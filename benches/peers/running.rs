//! A target that runs: started, watched, reloaded, stopped; and the certainty that nothing of it is left.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actix_cluster_benches::{Failure, now, rest, wait_for};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::{Connection, ask, fetch};
use crate::install::Installed;
use crate::kernel;
use crate::place::{self, Scratch};
use crate::targets::{Master, Ready, Reload, Stop, Target};

/// A started target. Dropped, it is ended with all it has started.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    target: &'a Target,
    words: Words,
    scratch: Scratch,
    child: Child,
    master: u32,
    workers: usize,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How long it took from the start of the program until all workers were ready.
    pub(crate) start_time: Duration,
}

/// What is put in place of the words in braces.
#[derive(Debug)]
struct Words(Vec<(&'static str, String)>);

impl Words {
    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.0 {
            text = text.replace(name, value);
        }
        text
    }
}

impl<'a> Running<'a> {
    /// Starts a target and waits until all of its workers are ready.
    ///
    /// # Errors
    /// It cannot be started, or is not ready within `limit`.
    pub(crate) fn start(
        target: &'a Target,
        installed: &Installed,
        workers: usize,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let scratch = Scratch::new()?;
        let address = free_address()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let words = Words(vec![
            ("{port}", address.port().to_string()),
            ("{workers}", workers.to_string()),
            ("{scratch}", text(scratch.path())),
            ("{prefix}", text(&place::prefix(target.folder))),
            ("{folder}", text(&place::here().join(target.folder))),
            ("{self}", text(&installed.driver)),
            ("{ours}", text(&installed.ours)),
            ("{ours-static}", installed.ours_static().map(text).unwrap_or_default()),
        ]);
        if target.id == "nginx" {
            configure_nginx(&words, &scratch)?;
        }
        let begun = now();
        let child = command(target, &words, &scratch, target.start)?.spawn()?;
        let mut running = Self {
            target,
            words,
            scratch,
            master: child.id(),
            child,
            workers,
            address,
            start_time: Duration::ZERO,
        };
        if let Err(error) = running.wait_until_ready(begun, limit) {
            return Err(format!("{error}; it said: {}", running.said()).into());
        }
        Ok(running)
    }

    fn wait_until_ready(&mut self, begun: Instant, limit: Duration) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Master::Daemon(path) = self.target.master {
            let path = self.words.fill(path);
            self.master = wait_for("process id of the daemon", limit, || {
                fs::read_to_string(&path).ok()?.trim().parse().ok()
            })?;
        }
        let master = self.master;
        wait_for("sign that all workers are ready", limit, || {
            if !kernel::is_alive(master) {
                return Some(Err("the master ended"));
            }
            let is_ready = match self.target.ready {
                Ready::Lines => self.ready_lines() >= self.workers,
                Ready::State => {
                    let state = runtime.block_on(fetch(self.address, "/state", ANSWER)).ok();
                    let state = state.and_then(|state| serde_json::from_str::<Value>(&state).ok());
                    let ready = state.and_then(|state| state["ready"].as_u64());
                    ready.is_some_and(|ready| ready >= self.workers as u64)
                }
                Ready::Seen => {
                    (self.target.workers.is_empty() || self.workers().len() >= self.workers)
                        && runtime
                            .block_on(ask(self.address, Connection::New, None, ANSWER))
                            .is_ok()
                }
            };
            if !is_ready && self.workers > 10 {
                // Looking at many processes again and again would cost them more than it tells.
                rest(Duration::from_millis(4));
            }
            is_ready.then_some(Ok(()))
        })??;
        self.start_time = begun.elapsed();
        wait_for("answer", limit, || {
            runtime.block_on(ask(self.address, Connection::New, None, ANSWER)).ok()
        })?;
        Ok(())
    }

    fn ready_lines(&self) -> usize {
        let lines = fs::read(self.scratch.path().join(READY)).unwrap_or_default();
        lines.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The process that supervises.
    pub(crate) fn master(&self) -> u32 {
        self.master
    }

    /// The processes that serve, by their command lines; also those that stand by, which only the target itself can tell from them.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let mut found = kernel::descendants(self.master);
        found.retain(|pid| kernel::command_line(*pid).contains(self.target.workers) && kernel::name(*pid) != ZYGOTE);
        found
    }

    /// The workers as the target itself names them, if it does: who stands by is none yet, and a helper of the master's may have a
    /// worker's command line.
    ///
    /// # Errors
    /// It does not say.
    pub(crate) fn own_workers(&self) -> Result<Vec<u32>, Failure> {
        let Ready::State = self.target.ready else {
            return Ok(self.workers());
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let state = runtime.block_on(fetch(self.address, "/state", ANSWER));
        let state = state.map_err(|class| format!("no answer from /state ({class:?})"))?;
        let state: Value = serde_json::from_str(&state)?;
        let workers = state["workers"].as_array().into_iter().flatten();
        Ok(workers
            .filter(|worker| worker["standby"] != true)
            .filter_map(|worker| u32::try_from(worker["pid"].as_u64()?).ok())
            .collect())
    }

    /// Begins to replace all workers. A command has ended when this returns.
    ///
    /// # Errors
    /// There is no way, or the command fails.
    pub(crate) fn reload(&self) -> Result<(), Failure> {
        match self.target.reload {
            Reload::Never => Err("it has no reload".into()),
            Reload::Signal(signal) => Ok(kill(pid(self.master), signal)?),
            Reload::Command(words) => self.command(words),
        }
    }

    fn command(&self, words: &[&str]) -> Result<(), Failure> {
        let mut child = command(self.target, &self.words, &self.scratch, words)?.spawn()?;
        let status = wait_for("end of the command", COMMAND, || child.try_wait().transpose())??;
        if status.success() {
            return Ok(());
        }
        Err(format!("{words:?} ended with {status}").into())
    }

    /// What the program has written, for an error's text: the last lines.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(self.scratch.path().join(OUTPUT)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // In order if it can be had; what is left after that is swept.
        match self.target.stop {
            Stop::Terminate => {
                kill(pid(self.master), Signal::SIGTERM).ok();
            }
            Stop::Command(words) => {
                self.command(words).ok();
            }
        }
        let master = self.master;
        wait_for("end", STOP, || {
            reap();
            (!kernel::is_alive(master)).then_some(())
        })
        .ok();
        sweep();
        self.child.wait().ok();
    }
}

/// Kills whatever this program has started and has not ended, with its own children. We are their reaper, so nobody escapes.
pub(crate) fn sweep() {
    let own = std::process::id();
    let begun = now();
    while begun.elapsed() < SWEEP {
        let left = kernel::descendants(own);
        if left.is_empty() {
            return;
        }
        for process in left {
            kill(pid(process), Signal::SIGKILL).ok();
        }
        rest(Duration::from_millis(2));
        reap();
    }
}

/// Takes the exits of orphans that became ours.
fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Makes orphans of targets ours, so that [`sweep`] finds them.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

fn command(target: &Target, words: &Words, scratch: &Scratch, line: &[&str]) -> Result<Command, Failure> {
    let (program, arguments) = line.split_first().ok_or("no program")?;
    let output = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(scratch.path().join(OUTPUT))?;
    let mut command = Command::new(words.fill(program));
    command.args(arguments.iter().map(|word| words.fill(word)));
    for (name, value) in target.env {
        command.env(name, words.fill(value));
    }
    command.env("PEERS_PREFIX", words.fill("{prefix}"));
    command.env("PEERS_PORT", words.fill("{port}"));
    command.env("PEERS_WORKERS", words.fill("{workers}"));
    command.env("PEERS_READY", scratch.path().join(READY));
    command.current_dir(scratch.path());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

fn configure_nginx(words: &Words, scratch: &Scratch) -> Result<(), Failure> {
    let template = fs::read_to_string(place::here().join("nginx/nginx.conf"))?;
    let text = ["port", "workers", "scratch"].iter().fold(template, |text, name| {
        let value = words.fill(&format!("{{{name}}}"));
        text.replace(&format!("@{}@", name.to_uppercase()), &value)
    });
    Ok(fs::write(scratch.path().join("nginx.conf"), text)?)
}

/// A port nobody uses now. Somebody could take it before the target does; then the target says so.
fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A process id as the kernel's calls take it.
pub(crate) fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

/// What our process calls itself that workers are copied from; its command line is theirs.
const ZYGOTE: &str = "zygote";
const READY: &str = "ready";
const OUTPUT: &str = "output";
/// For an answer while a target starts.
const ANSWER: Duration = Duration::from_secs(5);
/// For a command of a target, with the start of its interpreter.
const COMMAND: Duration = Duration::from_secs(60);
/// For an ordered stop, before everything is killed.
const STOP: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(10);
