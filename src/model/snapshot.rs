//! The cluster at one instant, as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::json;
use super::{BoundAddress, Exit, Generation, Lag, LoopBeat, Mono, Slot, WorkerId, WorkerState};

/// When each step of a worker's life happened, on the master's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerTimes {
    /// The process was started.
    pub created: Option<Mono>,
    /// It came online.
    pub online: Option<Mono>,
    /// Its first listener was up.
    pub listening: Option<Mono>,
    /// It could serve.
    pub ready: Option<Mono>,
    /// It was told to stop, or said that it stops.
    pub exiting: Option<Mono>,
    /// Its channel closed.
    pub disconnected: Option<Mono>,
    /// It was reaped.
    pub exited: Option<Mono>,
    /// It had booted and stood by.
    #[serde(default)]
    pub standby: Option<Mono>,
    /// It stood by and got a slot.
    #[serde(default)]
    pub promoted: Option<Mono>,
}

/// What a worker says about its work. Numbers from a worker are hints: nothing is decided by them alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Requests begun since its start.
    pub requests: u64,
    /// Errors counted since its start.
    pub errors: u64,
    /// Requests in progress when it last reported.
    pub active: u64,
    /// It has stopped accepting. While it is `Exiting` and has not, it is a lame duck.
    pub draining: bool,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// Its id.
    pub id: WorkerId,
    /// The place it fills; none of a standby ([`Slot::is_standby`]).
    pub slot: Slot,
    /// Does it stand by, or boot for that? Then `slot` is no place ([`Slot::is_standby`]), and `ready` is false.
    #[serde(default)]
    pub standby: bool,
    /// Its generation.
    pub generation: Generation,
    /// Its process id.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Can it serve?
    pub ready: bool,
    /// Node's `exitedAfterDisconnect`.
    pub exited_after_disconnect: Option<bool>,
    /// When each step happened.
    pub times: WorkerTimes,
    /// Time since it was started.
    #[serde(rename = "uptime_ms", with = "json::millis")]
    pub uptime: Duration,
    /// Restarts of its slot before it.
    pub restarts: u32,
    /// Its own counters.
    pub stats: WorkerStats,
    /// Where it listens.
    pub addresses: Vec<BoundAddress>,
    /// On how many listeners it accepts now: what it told and did not take back.
    #[serde(default)]
    pub accepting: usize,
    /// When its last heartbeat was read; `None` before the first, and where heartbeats are off.
    #[serde(default)]
    pub last_heartbeat: Option<Mono>,
    /// Its loops, as that heartbeat told.
    #[serde(default)]
    pub loops: Vec<LoopBeat>,
    /// Until when it asked to be left alone ([`Worker::more_time`](crate::Worker::more_time)); whether that is granted is
    /// up to who judges.
    #[serde(default)]
    pub more_time_until: Option<Mono>,
    /// Until when something that it said lay unread last, because a subscriber that must not lose messages was full
    /// ([`WhenFull::HoldBack`](crate::WhenFull::HoldBack)): the snapshot's instant, if it is so now; `None` if it never was. Its silence
    /// before this instant tells nothing.
    #[serde(default)]
    pub unread_until: Option<Mono>,
    /// What it announced about itself; see [`Worker::announce`](crate::Worker::announce).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<serde_json::Value>,
}

impl WorkerSnapshot {
    /// Does it listen, and was it heard of within `stale` before `now`? The state tracker's old question; 10 s is the
    /// usual answer to how long. A worker without heartbeats is never healthy in this sense.
    #[must_use]
    pub fn is_healthy(&self, now: Mono, stale: Duration) -> bool {
        self.state == WorkerState::Listening && self.last_heartbeat.is_some_and(|at| now.since(at) < stale)
    }
}

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SlotState {
    /// A worker is to be started as soon as the number of parallel boots allows.
    Queued,
    /// A worker fills it.
    Filled,
    /// Waiting for its next restart.
    Waiting {
        /// When.
        until: Mono,
    },
    /// Restarted too often, or its worker asked not to be restarted for a failure: stays down until started by hand.
    Failed,
    /// Its worker ended and is not wanted again.
    Stopped,
    /// Its worker said that there is nothing to do ([`exit_code::NOTHING_TO_DO`](crate::exit_code)); started by hand only.
    Declined,
    /// Stopped because a worker it depends on failed; started again as soon as everybody of its group is gone.
    Held,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SlotSnapshot {
    /// Which one.
    pub slot: Slot,
    /// What it is doing.
    pub state: SlotState,
    /// Who fills it.
    pub worker: Option<WorkerId>,
    /// Who is beside it while one replaces the other: the successor that is not trusted yet, or the predecessor that drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<WorkerId>,
    /// Restarts since the cluster's start.
    pub restarts: u32,
    /// How its last worker ended.
    pub last_exit: Option<Exit>,
}

/// Where the cluster is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Keeping its slots filled.
    Running,
    /// Stopping; absorbing: nothing is started any more and nothing cancels it.
    ShuttingDown,
    /// Every process is gone.
    Stopped,
}

/// How many of what: OTP's `count_children`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Specs, running or not.
    pub specs: usize,
    /// Processes that live, as far as the master knows; those that stand by, or boot for that, included.
    pub active: usize,
    /// Slots that are to hold a worker; those that wait for a restart, were given up or declined included.
    pub workers: usize,
    /// Slots that wait for a restart.
    pub restarting: usize,
    /// Slots whose worker can serve.
    pub ready: usize,
    /// Slots that were given up.
    pub failed: usize,
    /// Slots whose worker had nothing to do; among `workers`, as OTP counts them.
    #[serde(default)]
    pub declined: usize,
    /// Workers that stand by and could take a slot now.
    #[serde(default)]
    pub standbys: usize,
}

/// What became of the connections that passed through the master, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HandoverStats {
    /// Passed to a worker and acknowledged by it.
    pub passed: u64,
    /// Passed again, because the first worker refused, died or left.
    pub repeated: u64,
    /// Taken over from dead workers.
    pub rescued: u64,
    /// Requests of dead workers that were answered with an error.
    pub refused: u64,
    /// Closed, although nobody had served them: there was no worker for too long, or it was not known what was served.
    pub lost: u64,
    /// Waiting for a worker now.
    pub waiting: u64,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClusterSnapshot {
    /// The master's process id.
    pub master_pid: u32,
    /// Where the cluster is in its life.
    pub phase: Phase,
    /// Time since the master started.
    #[serde(rename = "uptime_ms", with = "json::millis")]
    pub uptime: Duration,
    /// How many of what, over all specs.
    pub counts: Counts,
    /// The generation that a running reload brings.
    pub reloading: Option<Generation>,
    /// How many workers should be ready.
    pub target: usize,
    /// How many are.
    pub ready: usize,
    /// How punctual the supervising loop is; `None` where heartbeats are off, because measuring would wake an idle master.
    #[serde(default)]
    pub lag: Option<Lag>,
    /// Connections that the master handed over.
    #[serde(default)]
    pub handover: HandoverStats,
    /// The sequence number of the last event this snapshot includes.
    pub seq: u64,
    /// Where the declared listeners are bound, by name.
    pub listeners: BTreeMap<String, BoundAddress>,
    /// Every worker that is not dead, by id.
    pub workers: Vec<WorkerSnapshot>,
    /// Every slot, in start order.
    pub slots: Vec<SlotSnapshot>,
}

impl ClusterSnapshot {
    /// When it was taken, on the master's monotonic clock.
    #[must_use]
    pub const fn now(&self) -> Mono {
        Mono::new(self.uptime)
    }
}

/// How one worker ended in a shutdown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerEnd {
    /// Which worker.
    pub id: WorkerId,
    /// Its place.
    pub slot: Slot,
    /// How it ended.
    pub exit: Exit,
}

/// What a shutdown did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Every worker that lived when the shutdown began, in the order of their ends.
    pub workers: Vec<WorkerEnd>,
    /// How long it took.
    #[serde(rename = "took_ms", with = "json::millis")]
    pub took: Duration,
}

impl ShutdownReport {
    /// Workers that had to be killed.
    #[must_use]
    pub fn forced(&self) -> usize {
        self.workers.iter().filter(|end| end.exit.forced).count()
    }

    /// Requests that were in progress in workers that had to be killed.
    #[must_use]
    pub fn requests_cut(&self) -> u64 {
        self.workers.iter().map(|end| end.exit.requests_cut).sum()
    }

    /// The longest time that a worker took from the order to stop to its end, lame-duck time included.
    #[must_use]
    pub fn longest_stop(&self) -> Duration {
        let stops = self.workers.iter().filter_map(|end| end.exit.drain);
        stops
            .map(|drain| drain.lame_duck + drain.drained_in)
            .max()
            .unwrap_or_default()
    }

    /// Did every worker end by itself with code 0?
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.workers
            .iter()
            .all(|end| !end.exit.forced && end.exit.status.is_success())
    }
}
