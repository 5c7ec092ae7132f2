//! A keeper, as the master knows it: by a pidfd that it sent, and by nothing else.
//!
//! It is a child of this process although nobody here started it (its worker did), so it is reaped here. What it says is
//! not here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exit_watch::is_watched;
use crate::model::Signal;
use crate::sys::process::{Waited, Whom, peek, pidfd_send_signal, reap};
use crate::sys::reactor::register;

/// A keeper that is to be reaped.
#[derive(Debug)]
pub(crate) struct KeeperHandle {
    pidfd: AsyncFd<OwnedFd>,
}

impl KeeperHandle {
    /// Takes over what came with a keeper's first word. Needs a running runtime, of whatever thread.
    ///
    /// # Errors
    /// `InvalidInput` if the descriptor is no pidfd of a child of this process with that number, or is one of a process that
    /// is reaped elsewhere: a worker may say what it likes, and must not get another one's status thrown away. Else what the
    /// runtime says.
    pub(crate) fn watch(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        let is_child = peek(Whom::Pidfd(pidfd.as_fd())) != Waited::Lost;
        if pid_of(&pidfd) != Some(pid) || !is_child || is_watched(pid) {
            return Err(Errno::EINVAL.into());
        }
        let pidfd = register(pidfd, Interest::READABLE)?;
        Ok(Self { pidfd })
    }

    /// Waits for its end, and reaps it. Cancel-safe; at every later call at once.
    pub(crate) async fn ended(&self) {
        loop {
            // Failing only while the runtime shuts down, and then nobody polls this again.
            let Ok(mut ready) = self.pidfd.readable().await else {
                return std::future::pending().await;
            };
            if self.reap_now() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Reaps it if it has ended; whether it has.
    pub(crate) fn reap_now(&self) -> bool {
        reap(Whom::Pidfd(self.pidfd.get_ref().as_fd())) != Waited::Running
    }

    /// Ends it, whatever it is at.
    pub(crate) fn kill(&self) {
        // It may have ended already, or run as another user, and then it ends with its socket.
        pidfd_send_signal(self.pidfd.get_ref().as_fd(), Signal::KILL.number()).ok();
    }
}

/// Whom a pidfd stands for.
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::process::ProcessHandle;
    use crate::process::tests::sleeper;
    use crate::sys::process::pidfd_open;

    #[tokio::test]
    async fn only_a_child_that_nobody_else_reaps_can_be_a_keeper() {
        let pidfd = |pid: u32| pidfd_open(pid.cast_signed()).unwrap();
        let own = std::process::id();
        assert!(KeeperHandle::watch(own, pidfd(own)).is_err(), "no child");
        assert!(KeeperHandle::watch(own, File::open("/dev/null").unwrap().into()).is_err());
        let worker = ProcessHandle::watch(sleeper()).unwrap();
        assert!(KeeperHandle::watch(worker.pid(), pidfd(worker.pid())).is_err());
        let keeper = sleeper().cast_unsigned();
        assert!(
            KeeperHandle::watch(keeper + 1, pidfd(keeper)).is_err(),
            "another number"
        );
        let handle = KeeperHandle::watch(keeper, pidfd(keeper)).unwrap();
        assert!(!handle.reap_now());
        handle.kill();
        handle.ended().await;
        handle.ended().await;
        assert!(!fs::exists(format!("/proc/{keeper}")).unwrap(), "reaped");
        worker.signal(Signal::KILL).unwrap();
        worker.exited().await;
        worker.reap(false).unwrap();
    }
}
