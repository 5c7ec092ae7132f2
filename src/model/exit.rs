//! How a worker's life ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FlightRecord, Signal, json};

/// Exit codes with a meaning to the master.
pub mod exit_code {
    /// The worker ended in order.
    pub const SUCCESS: i32 = 0;
    /// The worker's future returned an error.
    pub const FAILED: i32 = 1;
    /// A panic ended the worker (the code Rust's own runtime uses).
    pub const PANICKED: i32 = 101;
    /// The worker could not be set up before user code ran (working directory, user, descriptors).
    pub const BOOT_FAILED: i32 = 124;
    /// "There is nothing for me to do": the slot stays down, whatever its restart type, and that is no failure (OTP's
    /// `ignore`).
    pub const NOTHING_TO_DO: i32 = 123;
    /// "Do not restart me": the slot stays down, whatever its restart type (s6 uses the same number).
    pub const DO_NOT_RESTART: i32 = 125;
}

/// What the kernel says about the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// Which one.
        signal: Signal,
        /// Was a core file written?
        core: bool,
    },
    /// There never was a process: the spawn failed.
    NotStarted,
    /// Somebody else in this process reaped the child, so the kernel no longer tells (F-130).
    Unknown,
}

impl ExitStatus {
    /// The exit code, if it ended by itself.
    #[must_use]
    pub const fn code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal { .. } | Self::NotStarted | Self::Unknown => None,
        }
    }

    /// The signal, if one ended it.
    #[must_use]
    pub const fn signal(self) -> Option<Signal> {
        match self {
            Self::Signal { signal, .. } => Some(signal),
            Self::Code(_) | Self::NotStarted | Self::Unknown => None,
        }
    }

    /// Did it end with code 0?
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core: false } => write!(f, "{signal}"),
            Self::Signal { signal, core: true } => write!(f, "{signal} (core dumped)"),
            Self::NotStarted => f.write_str("not started"),
            Self::Unknown => f.write_str("status unknown (reaped by somebody else)"),
        }
    }
}

/// Why it ended, as far as the master can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitReason {
    /// The master had ordered it to stop.
    Ordered,
    /// The worker announced its own end and kept its word.
    Voluntary,
    /// It ended without having been asked.
    Crash,
    /// It was not ready within the boot limit and was killed.
    BootTimeout,
    /// It broke the channel's protocol and was ended for it.
    Protocol(String),
    /// It closed its channel but lived on, and was ended for it.
    ChannelClosed,
    /// A loop of it, named here, did not turn, and it was ended for that.
    Hang(String),
    /// It used more memory than it may, as told here, and a plug-in ended it for that.
    Memory(String),
    /// The kernel killed it because the machine, or its control group, was out of memory.
    Oom,
    /// A signal sent through the handle ended it.
    Killed,
    /// The process could not be started.
    SpawnFailed(SpawnFailure),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordered => f.write_str("ordered"),
            Self::Voluntary => f.write_str("voluntary"),
            Self::Crash => f.write_str("crash"),
            Self::BootTimeout => f.write_str("not ready within the boot limit"),
            Self::Protocol(what) => write!(f, "protocol violation: {what}"),
            Self::ChannelClosed => f.write_str("closed its channel"),
            Self::Hang(name) => write!(f, "hung: loop `{name}` did not turn"),
            Self::Memory(what) => write!(f, "used too much memory: {what}"),
            Self::Oom => f.write_str(
                "out of memory: the kernel killed it; let it have more, or replace it before (MemoryWatchdog)",
            ),
            Self::Killed => f.write_str("killed through the handle"),
            Self::SpawnFailed(failure) => write!(f, "could not be started: {failure}"),
        }
    }
}

/// The end of one worker: what the kernel said and what the master knows besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Code or signal.
    pub status: ExitStatus,
    /// Why.
    pub reason: ExitReason,
    /// Did the master have to use `SIGKILL`?
    pub forced: bool,
    /// Requests that were in progress when it was last heard of and cannot have been finished: 0 after a clean end.
    pub requests_cut: u64,
    /// Was the worker ready when it ended? `false` marks a boot failure.
    pub was_ready: bool,
    /// How its stop went; `None` if it ended without having been told to stop, and without having announced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainReport>,
    /// What its flight recorder held ([`ClusterBuilder::flight_recorder`](crate::ClusterBuilder::flight_recorder)), also when it was
    /// killed from one instruction to the next; `None` without a recorder, and for a program that writes none. The worker's
    /// own words: a hint for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_words: Option<Arc<FlightRecord>>,
}

/// How a worker spent the time between the order to stop (or its own announcement) and its end, by the master's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DrainReport {
    /// How long it went on accepting although it was not ready any more. Of a worker that did not tell when it stopped
    /// accepting: the time that it had for it.
    #[serde(rename = "lame_duck_ms", with = "json::millis")]
    pub lame_duck: Duration,
    /// How long it drained after that, up to the end of its process.
    #[serde(rename = "drained_in_ms", with = "json::millis")]
    pub drained_in: Duration,
    /// Requests in progress when it stopped accepting; of one that did not tell, when it was told to stop. As it counted
    /// them itself, so 0 for a server that does not count.
    pub in_progress_at_start: u64,
    /// Requests that were in progress when it was last heard of and were lost: 0 unless it had to be ended.
    pub lost: u64,
}

impl Exit {
    /// The end of a worker that never began.
    #[must_use]
    pub fn not_started(failure: SpawnFailure) -> Self {
        Self {
            status: ExitStatus::NotStarted,
            reason: ExitReason::SpawnFailed(failure),
            forced: false,
            requests_cut: 0,
            was_ready: false,
            drain: None,
            last_words: None,
        }
    }

    /// Was this end wanted, by the master or by the worker itself?
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self.reason, ExitReason::Ordered | ExitReason::Voluntary)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.status, self.reason)?;
        if self.forced { f.write_str(", forced") } else { Ok(()) }
    }
}

/// The step of a spawn that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpawnStep {
    /// Checking the settings (a NUL byte in an argument, an environment that is too large).
    Settings,
    /// Getting the declared listeners' sockets for the slot.
    Listeners,
    /// Making the channel's socket pair.
    Channel,
    /// Making pipes for standard output or error.
    Pipes,
    /// `posix_spawn`: fork, file actions, working directory, exec.
    Exec,
    /// Opening the pidfd.
    Pidfd,
    /// Registering descriptors with the runtime.
    Register,
}

impl fmt::Display for SpawnStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "settings",
            Self::Listeners => "listeners",
            Self::Channel => "channel",
            Self::Pipes => "pipes",
            Self::Exec => "exec",
            Self::Pidfd => "pidfd",
            Self::Register => "register",
        })
    }
}

/// A spawn that failed: which step, with which errno, on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    /// The step that failed.
    pub step: SpawnStep,
    /// The errno, if a system call failed.
    pub errno: Option<i32>,
    /// The errno's text and the thing it is about, with the way out where there is one.
    pub detail: String,
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.detail)
    }
}
