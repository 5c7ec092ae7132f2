//! Everything a subscriber can learn.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::json;
use super::{
    BoundAddress, CustomEvent, Exit, Generation, Heartbeat, Message, Mono, RecycleReason, ReloadError, Settings, Slot,
    SpawnFailure, SpecName, Unhealthy, WorkerId, WorkerState,
};

/// One fact about the cluster.
///
/// All facts pass one sequencer, so every subscriber sees them in the same order. The worker's state in here, and every
/// state a [`ClusterHandle`](crate::ClusterHandle) tells, is already the new one when the event is delivered.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClusterEvent {
    /// Counts every event of this master from 1, without gaps; gaps in delivery are announced by `Lagged`.
    pub seq: u64,
    /// When it was published, on the master's monotonic clock. Of several things that the master learnt in one turn the
    /// exact times are in [`WorkerTimes`](crate::WorkerTimes).
    #[serde(rename = "at_ms")]
    pub at: Mono,
    /// The same on the wall clock: for people, never for decisions.
    #[serde(rename = "time_ms", with = "json::unix_millis")]
    pub time: SystemTime,
    /// The worker it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerInfo>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The worker an event is about, as it is after the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its id.
    pub id: WorkerId,
    /// The place it fills; none of a standby ([`Slot::is_standby`]).
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// Its process id; `None` if it could not be started.
    pub pid: Option<u32>,
    /// Its state after the event.
    pub state: WorkerState,
    /// Node's `exitedAfterDisconnect`: unset while nobody asked, then whether the end was voluntary.
    pub exited_after_disconnect: Option<bool>,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The settings for the next workers were set: at start and by `ClusterHandle::setup`, never by a fork. A copy of
    /// what was in force then.
    Setup(Box<Settings>),
    /// A worker's process was started.
    Fork,
    /// The library in the worker runs and reads its channel. It says nothing about user code, which begins after it.
    Online,
    /// The worker has booted and stands by: it waits for a slot, and costs no time when it gets one.
    Standby,
    /// The worker stood by and has a slot from now on, which `WorkerInfo::slot` tells. It listens and gets ready next.
    Promoted,
    /// The worker listens; once for each socket.
    Listening(BoundAddress),
    /// The worker can serve; from here on its boot limit is off.
    Ready,
    /// Every wanted slot holds a ready worker. Sent each time this becomes true.
    AllReady {
        /// How many workers are ready.
        workers: usize,
    },
    /// The worker said something.
    Message(Message),
    /// A sign of life of the worker's loops. Sent only where heartbeats are on ([`heartbeat`](crate::ClusterBuilder::heartbeat));
    /// of a worker that sends too many, some are told.
    Heartbeat(Heartbeat),
    /// A line on a piped standard stream, without its line end.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// The line; longer ones than 64 KiB come in parts, bytes that are not UTF-8 are replaced.
        line: String,
    },
    /// Lines on a piped standard stream were read and not passed on, because the worker prints more than it may
    /// ([`output_limit`](crate::ClusterBuilder::output_limit)). At most once a second for each stream, and before its exit.
    OutputDropped {
        /// Which stream.
        stream: OutputStream,
        /// How many lines since the last time this was told.
        lines: u64,
        /// How many bytes they had, without their ends.
        bytes: u64,
    },
    /// The worker was told to stop or said that it stops.
    Exiting,
    /// The worker's channel is closed.
    Disconnect,
    /// The process is gone and reaped. Exactly one for each `Fork`, after the worker's last message.
    Exit(Exit),
    /// Something went wrong that is not an exit.
    Error(WorkerError),
    /// A slot gets a new worker after `delay`.
    RestartScheduled {
        /// The slot.
        slot: Slot,
        /// How long to wait; zero for at once.
        #[serde(rename = "delay_ms", with = "json::millis")]
        delay: Duration,
        /// Restarts of this slot within its window, this one included.
        attempt: u32,
    },
    /// Too many restarts; what was given up stays down.
    GaveUp(GaveUp),
    /// A reload began; its workers are of this generation.
    ReloadStarted {
        /// The new generation.
        generation: Generation,
        /// The one spec that is reloaded; `None` for all.
        spec: Option<SpecName>,
    },
    /// A reload ended: everybody runs the new generation, or everybody the old one again.
    ReloadFinished {
        /// The generation that it was to bring.
        generation: Generation,
        /// What became of it.
        result: Result<(), ReloadError>,
    },
    /// A spec has another number of slots now.
    Scaled {
        /// The spec.
        spec: SpecName,
        /// How many slots were wanted before.
        from: u32,
        /// How many are wanted now.
        to: u32,
    },
    /// Connections of this worker, which is dead, were found to be as good as new: other workers serve them. Only of
    /// listeners that survive a kill ([`ListenOptions::survive_kill`](crate::ListenOptions)).
    Rescued {
        /// How many go on.
        saved: u32,
        /// How many had to be closed although their clients wait for an answer.
        lost: u32,
    },
    /// A request is not given to another worker after the death of this one; its client gets an error (502).
    RequestRefused {
        /// The listener it came in on.
        listener: String,
        /// Its method and path, without the query; empty if it was no longer to be had.
        line: String,
        /// How many workers it may have killed, this one included; where the listener has
        /// [`max_runs`](crate::ListenOptions::max_runs), how often it had begun in one that died of whatever.
        strikes: u8,
        /// Why.
        why: Refusal,
    },
    /// The worker is being replaced on purpose; it serves until its successor does.
    Recycling(RecycleReason),
    /// A plug-in found the worker unwell.
    Unhealthy(Box<Unhealthy>),
    /// The plug-in that found the worker unwell finds it well again.
    Recovered,
    /// Something a plug-in made known.
    Custom(CustomEvent),
    /// An orderly shutdown began; nothing is started any more.
    ShutdownStarted,
    /// A subscriber is gone without having been asked to go; its subscription is ended.
    SubscriberLost {
        /// Its name, as the subscription was called.
        name: String,
        /// What became of it.
        why: SubscriberLoss,
    },
    /// Events were dropped because this subscriber was too slow. Has the number of the last event it stands for.
    Lagged {
        /// The first missing sequence number.
        from: u64,
        /// The last missing sequence number.
        to: u64,
    },
}

/// What went wrong with a worker, short of its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkerError {
    /// It could not be started.
    #[error("could not start: {0}")]
    Spawn(SpawnFailure),
    /// It broke the channel's protocol; it is being ended.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// It asked for a listener and could not have it.
    #[error("could not listen on {address}: {detail}")]
    Listen {
        /// What it asked for.
        address: String,
        /// The errno, if a system call failed.
        errno: Option<i32>,
        /// What went wrong, in words.
        detail: String,
    },
    /// Its own report: its future returned an error or panicked.
    #[error("the worker failed: {0}")]
    Failed(String),
    /// The cluster's restart strategy panicked when it was asked who goes with this worker, which is now restarted alone.
    #[error("the restart strategy panicked, only this worker is restarted: {0}")]
    Strategy(String),
    /// It serves, but its connections do not survive it, although they were to
    /// ([`survive_kill`](crate::ListenOptions::survive_kill)). Told once for each reason, of the first worker it is true of.
    #[error("its connections do not survive it: {0}")]
    NoKeeper(String),
    /// `SIGKILL` did not end it within its limit; the kernel holds it.
    #[error("SIGKILL did not end it yet")]
    Unkillable,
}

/// Why a request of a dead worker is not served by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// It may have been the death of as many workers as a request is given to.
    #[error("workers died of it")]
    TooManyDeaths,
    /// It had begun as often as a request of its listener may ([`max_runs`](crate::ListenOptions::max_runs)).
    #[error("it has begun as often as it may (max_runs)")]
    TooManyRuns,
    /// It had begun, and may not be begun twice: its method is not idempotent.
    #[error("it may have been carried out, and may not be repeated")]
    NotRepeatable,
}

/// What was given up, after how many restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GaveUp {
    /// One slot restarted too often: it stays down, the others go on.
    Slot {
        /// The slot.
        slot: Slot,
        /// Restarts that were allowed within the period.
        limit: u32,
        /// The period.
        #[serde(rename = "period_ms", with = "json::millis")]
        period: Duration,
    },
    /// A spec restarted too often: it stays down, or the cluster shuts down, as its escalation says.
    Spec {
        /// The spec.
        spec: SpecName,
        /// Restarts that were allowed within the period.
        limit: u32,
        /// The period.
        #[serde(rename = "period_ms", with = "json::millis")]
        period: Duration,
    },
    /// The cluster as a whole restarted too often: it shuts down.
    Cluster {
        /// Restarts that were allowed within the period.
        limit: u32,
        /// The period.
        #[serde(rename = "period_ms", with = "json::millis")]
        period: Duration,
    },
}

/// What became of a subscriber that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SubscriberLoss {
    /// It could not be started: its start function panicked.
    #[error("its start function panicked")]
    NotStarted,
    /// It ended before it was done with this event: its handler panicked, or it was stopped at that moment. In a flood the
    /// next few events wait in its mailbox, so one that stops itself then ends before it is done with the next one.
    #[error("it ended before it was done with event {seq}: its handler panicked, or it was stopped at that moment")]
    Broken {
        /// The number of the event.
        seq: u64,
    },
    /// Its actor was stopped before, and the next event found nobody.
    #[error("its actor was stopped")]
    Stopped,
}

impl ClusterEvent {
    /// How many bytes of a worker's making it holds on to beside its own size: they bound queues besides their length.
    /// Everything else in an event is short, or the user's own.
    pub(crate) fn held_bytes(&self) -> usize {
        if let EventKind::Message(message) = &self.kind {
            return message.payload().len();
        }
        if let EventKind::Output { line: text, .. }
        | EventKind::Error(WorkerError::Protocol(text) | WorkerError::Failed(text)) = &self.kind
        {
            return text.len();
        }
        if let EventKind::Exit(exit) = &self.kind {
            return exit.last_words.as_ref().map_or(0, |words| words.text_len());
        }
        if let EventKind::Unhealthy(unhealthy) = &self.kind {
            return unhealthy.evidence.flight.as_ref().map_or(0, |words| words.text_len());
        }
        0
    }
}

/// A standard stream of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
