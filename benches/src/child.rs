//! A server in a process of its own: a port for it, its start, its end.
//!
//! Not here: what it is (that is said by its environment).

use std::net::{SocketAddr, TcpListener};
use std::process::{self, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::{Failure, wait_for};

/// Ended when dropped.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Child {
    /// Starts `command`, which is to listen at `address`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(command: &mut Command, address: SocketAddr) -> Result<Self, Failure> {
        let process = command.stdin(Stdio::null()).spawn()?;
        Ok(Self { process, address })
    }

    /// Asks until it `is_up`.
    ///
    /// # Errors
    /// It is not within ten seconds.
    pub fn wait_until(&self, what: &str, mut is_up: impl FnMut() -> bool) -> Result<(), Failure> {
        wait_for(what, Duration::from_secs(10), || is_up().then_some(()))
    }

    /// What it writes, if that was wanted and not taken before.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Its workers end with it: that is one of the things the framework is for.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A port nobody uses now. Somebody could take it before the server does; then the server says so.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
