//! What plug-ins make known through the cluster's own events, and why they end a worker.
//!
//! Not here: how a plug-in comes to its judgement.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::heartbeat::brief;
use super::json;
use super::{FlightRecord, Payload, PayloadError};

/// Something a plug-in wants everybody to know; see [`ClusterHandle::publish`](crate::ClusterHandle::publish).
///
/// The set is closed: what only the master can know (a fork, an exit) cannot be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Announcement {
    /// A worker is not well.
    Unhealthy(Box<Unhealthy>),
    /// A worker that was not well is again.
    Recovered,
    /// A kind of your own.
    Custom(CustomEvent),
}

/// A worker is not well: who says why, since when, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unhealthy {
    /// Why.
    pub reason: UnhealthyReason,
    /// How long it has been so.
    #[serde(rename = "for_ms", with = "json::millis")]
    pub lasted: Duration,
    /// Checks in a row that found it so; 0 for a first notice before the limit.
    pub missed: u32,
    /// What is done about it.
    pub action: HealthAction,
    /// What was found out before anything was done.
    #[serde(default)]
    pub evidence: Evidence,
}

impl Unhealthy {
    /// A first notice, of which nothing follows.
    #[must_use]
    pub fn new(reason: UnhealthyReason, lasted: Duration) -> Self {
        Self {
            reason,
            lasted,
            missed: 0,
            action: HealthAction::Tell,
            evidence: Evidence::default(),
        }
    }
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} for {:.1} s, missed {}",
            self.reason,
            self.lasted.as_secs_f64(),
            self.missed
        )
    }
}

/// Why a worker is called unhealthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnhealthyReason {
    /// It is silent on its way to ready.
    Boot,
    /// It was ready, and its main loop is silent.
    Hang,
    /// One of its other loops does not turn; the worker itself speaks.
    Loop(String),
    /// It is silent while it drains.
    Drain,
    /// It listened, and accepts on nothing any more.
    NotListening,
    /// Another reason, of another plug-in.
    Other(String),
}

impl fmt::Display for UnhealthyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("loop `main` silent before it was ready"),
            Self::Hang => f.write_str("loop `main` silent"),
            Self::Loop(name) => write!(f, "loop `{name}` does not turn"),
            Self::Drain => f.write_str("loop `main` silent while draining"),
            Self::NotListening => f.write_str("accepts on nothing any more"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// What is done about an unhealthy worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HealthAction {
    /// Nothing but telling.
    #[default]
    Tell,
    /// It is replaced, its successor first.
    Replace,
    /// It gets `SIGABRT`, for a core file.
    Abort,
    /// It gets `SIGKILL`.
    Kill,
}

/// What the kernel and the worker's last words tell about a loop that does not turn. Empty where nothing was to be had:
/// most of it needs privilege, or the worker's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Evidence {
    /// The thread it is about.
    pub tid: Option<u32>,
    /// Its state, as the kernel words it: `R (running)`, `T (stopped)`, `D (disk sleep)`, …
    pub state: String,
    /// The kernel's function it waits in.
    pub wchan: String,
    /// The system call it is in, as `/proc` writes it.
    pub syscall: String,
    /// The kernel's part of its stack.
    pub kernel_stack: Vec<String>,
    /// The process that traces it, a debugger in all probability.
    pub tracer: Option<u32>,
    /// What the loop said it was doing, when it could speak last.
    pub doing: String,
    /// What its flight recorder held at that moment, if it has one: which request it was in the middle of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flight: Option<Arc<FlightRecord>>,
}

/// An event of a kind of your own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CustomEvent {
    /// Who says it: the plug-in's name, at most 64 bytes.
    pub source: String,
    /// What it is called, at most 64 bytes.
    pub name: String,
    /// What it says, at most 64 KiB.
    pub data: Payload,
}

impl CustomEvent {
    const DATA_MAX: usize = 64 * 1024;

    /// An event; names that are too long are cut.
    ///
    /// # Errors
    /// [`PayloadError`] when `data` has no JSON form, or one that is longer than 64 KiB.
    pub fn new<T: Serialize + ?Sized>(source: &str, name: &str, data: &T) -> Result<Self, PayloadError> {
        let data = Payload::from_value(data)?;
        if data.as_str().len() > Self::DATA_MAX {
            return Err(PayloadError(serde::ser::Error::custom(
                "an event's data is at most 64 KiB",
            )));
        }
        Ok(Self {
            source: brief(source, 64),
            name: brief(name, 64),
            data,
        })
    }
}

/// Why a plug-in ends a worker: the reason in its exit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndCause {
    /// This loop of it does not turn; the exit says [`ExitReason::Hang`](crate::ExitReason::Hang) with this name.
    Hang(String),
    /// It uses more memory than it may; the exit says [`ExitReason::Memory`](crate::ExitReason::Memory) with this text.
    Memory(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_event_is_bounded() {
        let event = CustomEvent::new(&"s".repeat(100), "n", &[1, 2]).unwrap();
        assert_eq!((event.source.len(), event.data.as_str()), (64, "[1,2]"));
        assert!(CustomEvent::new("s", "n", &"x".repeat(70_000)).is_err());
    }

    #[test]
    fn an_unhealthy_worker_reads_back_as_it_was_told() {
        let told = Unhealthy::new(UnhealthyReason::Loop("http".to_owned()), Duration::from_millis(1500));
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Unhealthy>(&text).unwrap(), told);
        assert_eq!(told.to_string(), "loop `http` does not turn for 1.5 s, missed 0");
    }
}
