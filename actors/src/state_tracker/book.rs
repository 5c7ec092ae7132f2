//! What is known of each worker, living or dead: events and views go in, records come out.
//!
//! No clock and no actor here. A worker that lives is read through its own view, so a record is never older than the
//! question; events add what a view cannot tell, and all there is of a worker that could not be started.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use actix_cluster::{
    EventKind, Exit, ExitStatus, Generation, Mono, Signal, Slot, WorkerId, WorkerInfo, WorkerRef, WorkerSnapshot,
    WorkerState, WorkerTimes,
};
use serde::Serialize;
use serde_json::Value;

/// What is known of one worker.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WorkerRecord {
    /// Its id.
    pub id: WorkerId,
    /// The place it fills or filled.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// Its process id; `None` if it could not be started.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Can it serve?
    pub ready: bool,
    /// Does it serve, and was it heard of in time? See [`StateReader::is_healthy`](super::StateReader::is_healthy).
    pub healthy: bool,
    /// When each step of its life happened, on the master's monotonic clock.
    pub times: WorkerTimes,
    /// How long it has listened (or been ready, if it listens on nothing), to now or to its end.
    #[serde(rename = "uptime_ms", serialize_with = "millis")]
    pub uptime: Duration,
    /// Requests it has begun.
    pub requests: u64,
    /// Errors it has counted.
    pub errors: u64,
    /// Restarts of its slot before it.
    pub restarts: u32,
    /// When it was last heard of.
    pub last_heartbeat: Option<Mono>,
    /// Whatever was put down about it.
    pub metadata: BTreeMap<String, Value>,
    /// How it ended.
    pub exit: Option<Exit>,
}

impl WorkerRecord {
    fn new(info: &WorkerInfo) -> Self {
        Self {
            id: info.id,
            slot: info.slot.clone(),
            generation: info.generation,
            pid: info.pid,
            state: info.state,
            ready: false,
            healthy: false,
            times: WorkerTimes::default(),
            uptime: Duration::ZERO,
            requests: 0,
            errors: 0,
            restarts: 0,
            last_heartbeat: None,
            metadata: BTreeMap::new(),
            exit: None,
        }
    }

    /// The code it ended with, if it ended by itself.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.exit.as_ref()?.status.code()
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub fn exit_signal(&self) -> Option<Signal> {
        match self.exit.as_ref()?.status {
            ExitStatus::Signal { signal, .. } => Some(signal),
            _ => None,
        }
    }

    /// How long each step of its start took.
    #[must_use]
    pub fn start_up(&self) -> StartUp {
        let times = &self.times;
        let span = |from: Option<Mono>, to: Option<Mono>| Some(to?.since(from?));
        StartUp {
            online: span(times.created, times.online),
            listening: span(times.online, times.listening),
            ready: span(times.listening.or(times.online).or(times.created), times.ready),
            total: span(times.promoted.or(times.created), times.ready),
        }
    }

    /// What a view tells, and how healthy that is.
    fn take_over(&mut self, view: &WorkerSnapshot, exit: Option<Exit>, rule: HealthRule) {
        self.state = view.state;
        self.ready = view.ready;
        self.times = view.times;
        self.requests = view.stats.requests;
        self.errors = view.stats.errors;
        self.restarts = view.restarts;
        // A worker that stood by has come to one.
        self.slot.clone_from(&view.slot);
        self.last_heartbeat = view.last_heartbeat;
        self.exit = exit.or(self.exit.take());
        let now = view.times.created.unwrap_or_default().since_start() + view.uptime;
        self.look_at(Mono::new(now), rule);
    }

    fn look_at(&mut self, now: Mono, rule: HealthRule) {
        let until = self.times.exited.unwrap_or(now);
        let serves_since = self.times.listening.or(self.times.ready);
        self.uptime = serves_since.map_or(Duration::ZERO, |since| until.since(since));
        let serves = self.state == WorkerState::Listening || (self.state == WorkerState::Online && self.ready);
        // Born is heard of, as in the guide: a worker has as long for its first beat as for any other.
        let heard = self.last_heartbeat.or(self.times.created);
        let is_fresh = heard.is_some_and(|heard| now.since(heard) < rule.stale_after);
        self.healthy = serves && (is_fresh || !rule.needs_heartbeat);
    }

    /// What an event tells.
    fn learn(&mut self, info: &WorkerInfo, kind: &EventKind, at: Mono) {
        self.state = self.state.max(info.state);
        self.pid = info.pid.or(self.pid);
        let times = &mut self.times;
        let step = match kind {
            EventKind::Fork => &mut times.created,
            EventKind::Online => &mut times.online,
            EventKind::Standby => &mut times.standby,
            EventKind::Promoted => {
                self.slot = info.slot.clone();
                &mut times.promoted
            }
            EventKind::Listening(_) => &mut times.listening,
            EventKind::Ready => &mut times.ready,
            EventKind::Exiting => &mut times.exiting,
            EventKind::Disconnect => &mut times.disconnected,
            EventKind::Exit(exit) => {
                self.exit = Some(exit.clone());
                &mut times.exited
            }
            _ => return,
        };
        step.get_or_insert(at);
    }
}

/// How long each step of a start took; `None` for what has not happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StartUp {
    /// From the fork to online: the program was loaded and reached the library.
    pub online: Option<Duration>,
    /// From online to listening.
    pub listening: Option<Duration>,
    /// From listening (or online, if it listens on nothing) to ready.
    pub ready: Option<Duration>,
    /// From the fork to ready.
    pub total: Option<Duration>,
}

/// When a worker counts as healthy.
#[derive(Clone, Copy, Debug)]
pub(super) struct HealthRule {
    pub(super) stale_after: Duration,
    /// False where heartbeats are off.
    pub(super) needs_heartbeat: bool,
}

/// The records, of which those of the dead are bounded.
#[derive(Debug)]
pub(super) struct Book {
    entries: BTreeMap<WorkerId, Entry>,
    /// Oldest death first.
    dead: VecDeque<WorkerId>,
    history: usize,
}

#[derive(Debug)]
struct Entry {
    record: WorkerRecord,
    /// `None` once it is dead, and if it was before anybody could ask for it.
    link: Option<WorkerRef>,
    /// Its death is in the list.
    is_buried: bool,
    is_warned: bool,
}

impl Book {
    pub(super) const fn new(history: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            dead: VecDeque::new(),
            history,
        }
    }

    /// An event about a worker; `link` if it can be had.
    pub(super) fn learn(
        &mut self,
        info: &WorkerInfo,
        kind: &EventKind,
        at: Mono,
        link: Option<WorkerRef>,
        rule: HealthRule,
    ) {
        let entry = self
            .entries
            .entry(info.id)
            .or_insert_with(|| Entry::new(WorkerRecord::new(info)));
        entry.record.learn(info, kind, at);
        entry.link = entry.link.take().or(link);
        self.refresh(info.id, rule);
    }

    /// All workers that live: events were missed, or none was heard yet.
    pub(super) fn meet_all(&mut self, living: Vec<WorkerRef>, rule: HealthRule) {
        let ids: BTreeSet<WorkerId> = living.iter().map(WorkerRef::id).collect();
        for (id, entry) in &mut self.entries {
            let is_lost = entry.link.is_none() && !ids.contains(id);
            if is_lost {
                entry.record.state = WorkerState::Dead;
            }
        }
        for link in living {
            let info = info_of(&link);
            let entry = self
                .entries
                .entry(info.id)
                .or_insert_with(|| Entry::new(WorkerRecord::new(&info)));
            entry.link.get_or_insert(link);
        }
        self.all(rule);
    }

    pub(super) fn get(&mut self, id: WorkerId, rule: HealthRule) -> Option<WorkerRecord> {
        self.refresh(id, rule);
        self.entries.get(&id).map(|entry| entry.record.clone())
    }

    /// All records, by id.
    pub(super) fn all(&mut self, rule: HealthRule) -> Vec<WorkerRecord> {
        let ids: Vec<WorkerId> = self.entries.keys().copied().collect();
        ids.into_iter().for_each(|id| self.refresh(id, rule));
        self.entries.values().map(|entry| entry.record.clone()).collect()
    }

    pub(super) fn record_mut(&mut self, id: WorkerId) -> Option<&mut WorkerRecord> {
        self.entries.get_mut(&id).map(|entry| &mut entry.record)
    }

    pub(super) fn forget(&mut self, id: WorkerId) -> bool {
        self.dead.retain(|dead| *dead != id);
        self.entries.remove(&id).is_some()
    }

    /// The record of a worker whose start takes, or took, at least `limit`; once for each worker.
    pub(super) fn slow(&mut self, id: WorkerId, limit: Duration, rule: HealthRule) -> Option<(WorkerRecord, Duration)> {
        self.refresh(id, rule);
        let entry = self.entries.get_mut(&id).filter(|entry| !entry.is_warned)?;
        let times = &entry.record.times;
        let is_booting = times.ready.is_none() && entry.record.state < WorkerState::Exiting;
        let until = match &entry.link {
            // One that stands by is not late, and starts anew when it gets a slot.
            Some(link) if is_booting && link.is_standby() => return None,
            Some(link) if is_booting => {
                let view = link.snapshot();
                Mono::new(view.times.created?.since_start() + view.uptime)
            }
            _ => times.ready?,
        };
        let took = until.since(times.promoted.or(times.created)?);
        entry.is_warned = took >= limit;
        entry.is_warned.then(|| (entry.record.clone(), took))
    }

    fn refresh(&mut self, id: WorkerId, rule: HealthRule) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let (was_told, record) = (entry.is_buried, &mut entry.record);
        match &entry.link {
            Some(link) => record.take_over(&link.snapshot(), link.exit(), rule),
            None => record.look_at(record.times.exited.unwrap_or_default(), rule),
        }
        if record.state.is_dead() && !was_told {
            entry.is_buried = true;
            // What it says now it says for ever.
            entry.link = None;
            self.dead.push_back(id);
            if self.dead.len() > self.history
                && let Some(oldest) = self.dead.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
    }
}

impl Entry {
    const fn new(record: WorkerRecord) -> Self {
        Self {
            record,
            link: None,
            is_warned: false,
            is_buried: false,
        }
    }
}

fn info_of(link: &WorkerRef) -> WorkerInfo {
    WorkerInfo {
        id: link.id(),
        slot: link.slot().clone(),
        generation: link.generation(),
        pid: Some(link.pid()),
        state: link.state(),
        exited_after_disconnect: link.exited_after_disconnect(),
    }
}

pub(super) fn millis<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
