//! A scenario's master, from outside: what it shows, what can be done to it, and that nothing is left of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::probe::Order;
use crate::scenario::SCENARIO_VAR;
pub use crate::seen::Seen;
use crate::waits::patience_with;
use crate::{Deadline, leftovers, limit};

/// How long anything may take that should take no time at all.
pub const SOON: Duration = Duration::from_secs(10);

/// A running master.
#[derive(Debug)]
pub struct Master {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// Everything shown so far; the test has looked at the first `looked` of them.
    seen: RefCell<Vec<Value>>,
    looked: Cell<usize>,
    /// Which of them were answers, and are nothing to wait for.
    answers: RefCell<BTreeSet<usize>>,
    token: String,
    directory: PathBuf,
    ended: Option<ExitStatus>,
}

impl Master {
    /// Starts the program of the scenario `name` in a session and a directory of its own.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, |_| {})
    }

    /// Starts it once more, beside the one the test has, for scenarios with two clusters; `change` has the last word.
    #[must_use]
    pub fn start_with(name: &str, change: impl FnOnce(&mut Command)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let token = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("actix-cluster-test-{token}"));
        fs::create_dir_all(&directory).expect("a private directory can be made");
        let log = fs::File::create(directory.join("log")).expect("the private directory is writable");
        let program = std::env::current_exe().expect("a running program has a path");
        let mut command = Command::new(program);
        command
            .env(SCENARIO_VAR, name)
            .env(leftovers::TOKEN_VAR, &token)
            .env(
                ZYGOTE_PATIENCE_VAR,
                limit(Duration::from_secs(1)).as_millis().to_string(),
            )
            .current_dir(&directory);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        change(&mut command);
        let mut child = command.spawn().expect("the suite can start itself");
        let stdout = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Bytes, not text: a scenario may print anything.
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if let Ok(value) = serde_json::from_slice(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self {
            name: name.to_owned(),
            child,
            stdin,
            lines,
            seen: RefCell::new(Vec::new()),
            looked: Cell::new(0),
            answers: RefCell::default(),
            token,
            directory,
            ended: None,
        }
    }

    /// The scenario's name, to start its program once more.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its private directory, which is also its working directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits for the next line for which `wanted` says yes; what comes before it stays in the trace. Next after the line
    /// that was waited for before: [`seen`](Self::seen) and its like take none away.
    ///
    /// # Panics
    /// With the whole trace and the log, if it does not come in time or the program ends.
    pub fn expect_line(&self, what: &str, within: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Deadline::after(limit(within));
        loop {
            match self.next_line(&deadline) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("no {what} within {within:?}")),
                Err(RecvTimeoutError::Disconnected) => self.fail(&format!("the program ended before {what}")),
            }
        }
    }

    /// Waits for the next event of this kind.
    pub fn expect(&self, kind: &str) -> Seen {
        Seen(self.expect_line(kind, SOON, |line| line["event"] == kind))
    }

    /// Waits for the next event of this kind about this worker.
    pub fn expect_of(&self, worker: u64, kind: &str) -> Seen {
        let what = format!("{kind} of worker {worker}");
        Seen(self.expect_line(&what, SOON, |line| {
            line["event"] == kind && line["worker"]["id"] == worker
        }))
    }

    /// The event of this kind about this worker, whether it was shown already or is still to come: for what happens to a
    /// worker at most once.
    pub fn once(&self, worker: u64, kind: &str) -> Seen {
        self.take_arrived();
        let is_it = |line: &&Value| line["event"] == kind && line["worker"]["id"] == worker;
        let shown = self.seen.borrow().iter().find(is_it).cloned();
        shown.map_or_else(|| self.expect_of(worker, kind), Seen)
    }

    /// Waits for events in any order: each of `wanted` (worker, kind) once.
    pub fn expect_all(&self, wanted: &[(u64, &str)]) -> Vec<Seen> {
        let mut open: Vec<_> = wanted.to_vec();
        let mut found = Vec::new();
        while !open.is_empty() {
            let line = self.expect_line(&format!("{open:?}"), SOON, |line| {
                open.iter()
                    .any(|(worker, kind)| line["event"] == *kind && line["worker"]["id"] == *worker)
            });
            open.retain(|(worker, kind)| !(line["event"] == *kind && line["worker"]["id"] == *worker));
            found.push(Seen(line));
        }
        found
    }

    /// Waits until some process of the scenario says something that begins with `text`; returns the rest.
    pub fn expect_said(&self, text: &str) -> String {
        self.expect_said_within(text, SOON)
    }

    /// [`expect_said`](Self::expect_said) of what takes long.
    pub fn expect_said_within(&self, text: &str, within: Duration) -> String {
        let said = |line: &Value| {
            line["said"]
                .as_str()
                .and_then(|said| said.strip_prefix(text))
                .map(str::to_owned)
        };
        let line = self.expect_line(&format!("{text:?} to be said"), within, |line| said(line).is_some());
        said(&line).expect("the line was chosen for this")
    }

    /// Waits until all workers are ready, and returns the port of the declared listener, if there is one.
    pub fn expect_ready(&self) -> Option<u16> {
        self.expect("all_ready");
        self.last_port()
    }

    /// The port of the last `listening` event, which is waited for if none was seen: a snapshot shows a worker before its
    /// events are told.
    pub fn port(&self) -> u16 {
        self.take_arrived();
        let seen = self.last_port();
        seen.unwrap_or_else(|| self.expect("listening").data()["port"].as_u64().expect("a TCP port") as u16)
    }

    fn last_port(&self) -> Option<u16> {
        let seen = self.seen.borrow();
        let port = seen.iter().rev().find(|line| line["event"] == "listening")?["data"]["port"].as_u64()?;
        u16::try_from(port).ok()
    }

    /// Gives an order to the program's probe.
    pub fn order(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("orders have a JSON form");
        line.push(b'\n');
        let stdin = self.stdin.as_mut().expect("standard input is open until the end");
        stdin.write_all(&line).expect("the program reads its orders");
    }

    /// Gives an order and waits for the answer that begins with `text`. What happens besides is left for later waits.
    pub fn ask(&mut self, order: &Order, text: &str) -> String {
        self.take_arrived();
        let looked = self.looked.replace(self.seen.borrow().len());
        self.order(order);
        let answer = self.expect_said_within(text, patience_with(order));
        self.answers.borrow_mut().insert(self.looked.replace(looked) - 1);
        answer
    }

    /// The cluster's snapshot.
    pub fn snapshot(&mut self) -> Value {
        let text = self.ask(&Order::Snapshot, "snapshot ");
        serde_json::from_str(&text).expect("a snapshot is JSON")
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Every event of this kind so far.
    #[must_use]
    pub fn seen(&self, kind: &str) -> Vec<Seen> {
        self.take_arrived();
        let seen = self.seen.borrow();
        seen.iter()
            .filter(|line| line["event"] == kind)
            .cloned()
            .map(Seen)
            .collect()
    }

    /// How often this text was said so far.
    #[must_use]
    pub fn count_said(&self, text: &str) -> usize {
        self.take_arrived();
        let seen = self.seen.borrow();
        seen.iter().filter(|line| line["said"] == text).count()
    }

    /// How often each of these kinds was seen of this worker.
    #[must_use]
    pub fn counts_of<const N: usize>(&self, worker: u64, kinds: [&str; N]) -> [usize; N] {
        let life = self.life_of(worker);
        kinds.map(|kind| life.iter().filter(|seen| *seen == kind).count())
    }

    /// The kinds of all events about this worker so far, in order.
    #[must_use]
    pub fn life_of(&self, worker: u64) -> Vec<String> {
        self.take_arrived();
        let seen = self.seen.borrow();
        let own = seen.iter().filter(|line| line["worker"]["id"] == worker);
        own.filter_map(|line| line["event"].as_str().map(str::to_owned))
            .collect()
    }

    /// Waits until `count` events of this kind have been shown since the start, also before other lines that the test
    /// has waited for: what the master shows and what a worker says come in any order.
    pub fn expect_count(&self, kind: &str, count: usize) -> Vec<Seen> {
        self.expect_at_least(count, |line| line["event"] == kind)
    }

    /// [`expect_count`](Self::expect_count) of events about this worker.
    pub fn expect_count_of(&self, worker: u64, kind: &str, count: usize) -> Vec<Seen> {
        self.expect_at_least(count, |line| line["event"] == kind && line["worker"]["id"] == worker)
    }

    /// The first event of this kind about this worker, whether it has been waited past or is yet to come.
    pub fn expect_ever_of(&self, worker: u64, kind: &str) -> Seen {
        self.expect_count_of(worker, kind, 1).swap_remove(0)
    }

    /// [`expect_count`](Self::expect_count) of whatever lines `wanted` says yes to.
    pub fn expect_at_least(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Seen> {
        loop {
            self.take_arrived();
            let found: Vec<_> = self
                .seen
                .borrow()
                .iter()
                .filter(|line| wanted(line))
                .cloned()
                .map(Seen)
                .collect();
            if found.len() >= count {
                return found;
            }
            self.expect_line(&format!("event {} of {count}", found.len() + 1), SOON, |line| {
                wanted(line)
            });
        }
    }

    /// Everything said so far that begins with `text`: the rest of it, and the process that said it.
    #[must_use]
    pub fn said(&self, text: &str) -> Vec<(String, u64)> {
        self.take_arrived();
        let seen = self.seen.borrow();
        let rest = |line: &Value| {
            Some((
                line["said"].as_str()?.strip_prefix(text)?.to_owned(),
                line["pid"].as_u64()?,
            ))
        };
        seen.iter().filter_map(rest).collect()
    }

    /// Waits until the master has ended by itself, and reads what it still had to show.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(SOON)
    }

    /// Waits so long.
    pub fn wait_within(&mut self, within: Duration) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let deadline = Deadline::after(limit(within));
        // The pipe is closed when the last process that holds it is gone: all of the scenario's.
        loop {
            match self.lines.recv_timeout(deadline.remaining().unwrap_or_default()) {
                Ok(line) => self.seen.borrow_mut().push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.fail(&format!("not ended within {within:?}")),
            }
        }
        let status = self.child.wait().expect("our child is ours to wait for");
        self.ended = Some(status);
        status
    }

    /// The checks after every scenario: the master still answers, stops in order if it has not ended, and leaves nothing.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn finish(&mut self) {
        if self.ended.is_none() && self.child.try_wait().ok().flatten().is_none() {
            self.post();
            self.signal(Signal::SIGTERM);
            let status = self.wait_within(Duration::from_secs(10));
            if status.code() != Some(0) {
                self.fail(&format!("an orderly stop ended with {status}"));
            }
        }
        self.wait();
        self.leaves_nothing();
    }

    /// What must hold after every fault: the master answers at once, ready = target, no zombie stays.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn post(&mut self) {
        self.ask(&Order::Ping, "pong");
        let deadline = Deadline::after(limit(SOON));
        loop {
            let snapshot = self.snapshot();
            // Slots, not workers: in a reload one slot may have two that are ready.
            let slots = |which: &str| snapshot["counts"][which].as_u64().unwrap_or(0);
            let settled = slots("ready") + slots("failed") >= snapshot["target"].as_u64().unwrap_or(0);
            let zombies = leftovers::zombies_of(self.pid()).unwrap_or_default();
            if settled && zombies.is_empty() {
                return;
            }
            if deadline.is_over() {
                self.fail(&format!("not settled: zombies {zombies:?}, {snapshot}"));
            }
        }
    }

    /// No process of the scenario lives.
    fn leaves_nothing(&self) {
        let deadline = Deadline::after(limit(Duration::from_secs(2)));
        loop {
            let left = leftovers::carrying(&self.token).expect("the list of processes can be read");
            if left.is_empty() {
                return;
            }
            if deadline.is_over() {
                self.fail(&format!("left behind: {left:?}"));
            }
            std::thread::yield_now();
        }
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Ends the test with everything that was seen.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, why: &str) -> ! {
        self.take_arrived();
        let mut text = format!("{why}\n--- shown:\n");
        let seen = self.seen.borrow();
        for line in &seen[seen.len().saturating_sub(SHOWN)..] {
            let short: String = line.to_string().chars().take(400).collect();
            writeln!(text, "{short}").expect("a string can be written to");
        }
        let log = self.log();
        let tail = log.len().saturating_sub(8_000);
        panic!("{text}--- log:\n{}", log.get(tail..).unwrap_or(&log))
    }

    /// The first line that nobody has looked at.
    pub(crate) fn next_line(&self, deadline: &Deadline) -> Result<Value, RecvTimeoutError> {
        let (mut seen, answers) = (self.seen.borrow_mut(), self.answers.borrow());
        while answers.contains(&self.looked.get()) {
            self.looked.set(self.looked.get() + 1);
        }
        let at = self.looked.get();
        if at == seen.len() {
            let line = self.lines.recv_timeout(deadline.remaining().unwrap_or_default())?;
            seen.push(line);
        }
        self.looked.set(at + 1);
        Ok(seen[at].clone())
    }

    fn take_arrived(&self) {
        self.seen.borrow_mut().extend(self.lines.try_iter());
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // Whatever happened: nothing of a scenario outlives its test.
        if self.ended.is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
        for left in leftovers::carrying(&self.token).unwrap_or_default() {
            send(left.pid, Signal::SIGKILL);
        }
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// How much of the trace a failed test shows.
const SHOWN: usize = 200;

/// Signals a process of the scenario.
pub fn send(pid: u32, signal: Signal) {
    // A process that has ended meanwhile needs no signal.
    kill(
        Pid::from_raw(i32::try_from(pid).expect("process ids are small")),
        signal,
    )
    .ok();
}

/// The signal that ended a process, if one did.
#[must_use]
pub fn ended_by(status: ExitStatus) -> Option<i32> {
    status.signal()
}

/// How long a scenario's master waits for its zygote: on a busy machine it would execute the worker instead.
pub const ZYGOTE_PATIENCE_VAR: &str = "ACTIX_CLUSTER_ZYGOTE_PATIENCE_MS";
