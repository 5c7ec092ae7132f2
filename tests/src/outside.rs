//! What surrounds a scenario's processes: gates that hold them up, parents with bad habits, instants hit by chance.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::leftovers;
use crate::master::{Master, SOON, send};
use crate::probe::Order;
use crate::{Deadline, limit};

/// In a scenario's process: blocks this thread until the test opens the gate of this name, possibly for ever.
pub fn wait_at_gate(name: &str) {
    make_gate(Path::new(name));
    File::open(name).expect("a gate can be opened for reading");
}

/// In a scenario's process: blocks this thread until a file of this name exists in the private directory.
pub fn wait_for_file(name: &str) {
    while !Path::new(name).exists() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// In a scenario's master: replaces itself by the same program started through coreutils' `env` with these options,
/// like `--ignore-signal=HUP` or `--block-signal=TERM`. Comes back at once the second time, and in workers.
pub fn inherit_through_env(options: &[&str]) {
    if actix_cluster::is_worker() || std::env::var_os(INHERITED_VAR).is_some() {
        return;
    }
    let program = std::env::current_exe().expect("a running program has a path");
    let error = Command::new("env")
        .args(options)
        .arg(program)
        .env(INHERITED_VAR, "1")
        .exec();
    panic!("env of coreutils 8.31 or newer is needed: {error}");
}

/// An instant hit by chance: lets this much time pass. For faults that may come at any moment, never to wait *for*
/// something.
pub fn let_pass(span: Duration) {
    let deadline = Deadline::after(span);
    while let Some(left) = deadline.remaining() {
        std::thread::park_timeout(left);
    }
}

/// The next number of a row that looks like chance and is the same in every run, below `limit`.
pub fn any_below(limit: u64, state: &mut u64) -> u64 {
    // Knuth's constants of a linear congruential generator; the upper half of the bits is good enough for instants.
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % limit.max(1)
}

impl Master {
    /// Watches for `span` (stretched like every limit) that no line comes for which `unwanted` says yes.
    ///
    /// # Panics
    /// If one comes, or the program ends.
    pub fn never(&self, what: &str, span: Duration, unwanted: impl Fn(&Value) -> bool) {
        let deadline = Deadline::after(limit(span));
        loop {
            match self.next_line(&deadline) {
                Ok(line) => {
                    if unwanted(&line) {
                        self.fail(&format!("{what}, which must not be"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.fail("the program ended"),
            }
        }
    }

    /// Waits until each of these was said once, in any order; returns what follows each.
    pub fn expect_all_said(&self, texts: &[&str]) -> Vec<String> {
        let mut rests = vec![None; texts.len()];
        while rests.contains(&None) {
            let line = self.expect_line(&format!("{texts:?} to be said"), SOON, |line| line["said"].is_string());
            let said = line["said"].as_str().unwrap_or_default();
            let open = (0..texts.len()).find(|at| rests[*at].is_none() && said.starts_with(texts[*at]));
            if let Some(at) = open {
                rests[at] = said.strip_prefix(texts[at]).map(str::to_owned);
            }
        }
        rests.into_iter().flatten().collect()
    }

    /// Waits until the log has this text so many times: for what is no event.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn expect_log(&mut self, text: &str, times: usize) {
        let deadline = Deadline::after(limit(SOON));
        while self.log().matches(text).count() < times {
            if deadline.is_over() {
                self.fail(&format!("not {times} times in the log: {text:?}"));
            }
            self.ask(&Order::Ping, "pong");
        }
    }

    /// Lets through whoever waits at the gate of this name, once somebody does.
    ///
    /// # Panics
    /// If nobody comes to the gate in time.
    pub fn open_gate(&self, name: &str) {
        let path = self.directory().join(name);
        make_gate(&path);
        let deadline = Deadline::after(limit(SOON));
        // Without a reader this fails, and so it waits for one.
        while OpenOptions::new()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .is_err()
        {
            if deadline.is_over() {
                self.fail(&format!("nobody came to the gate {name}"));
            }
            std::thread::yield_now();
        }
    }

    /// Stops a process and waits until it stands still.
    ///
    /// # Panics
    /// If it does not stop in time.
    pub fn stop_process(&self, pid: u32) {
        send(pid, Signal::SIGSTOP);
        let deadline = Deadline::after(limit(SOON));
        while !leftovers::is_stopped(pid) {
            if deadline.is_over() {
                self.fail(&format!("{pid} did not stop"));
            }
            std::thread::yield_now();
        }
    }

    /// Waits until this process is dead; its parent may not have reaped it yet.
    ///
    /// # Panics
    /// If it is still alive after `within`.
    pub fn expect_dead(&self, pid: u32, within: Duration) {
        let deadline = Deadline::after(limit(within));
        while let Some(process) = leftovers::process(pid).filter(|process| process.state != 'Z') {
            if deadline.is_over() {
                self.fail(&format!("still alive after {within:?}: {process:?}"));
            }
            std::thread::yield_now();
        }
    }
}

fn make_gate(path: &Path) {
    // Both sides make it, whoever comes first.
    mkfifo(path, Mode::S_IRWXU).ok();
}

const INHERITED_VAR: &str = "ACTIX_CLUSTER_TEST_INHERITED";
