//! The published view of the cluster: what any thread may read without asking the supervisor.
//!
//! Written by the supervisor alone, and always *before* the event that tells of the change is delivered. Nothing is
//! decided from it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::clock;
use crate::ipc::{Calls, Outbox};
use crate::master::handover::Tally;
use crate::master::messages::News;
use crate::master::unread::Unread;
use crate::model::{
    BoundAddress, ClusterSnapshot, Counts, Exit, FlightRecord, Generation, Heartbeat, Lag, ListenKey, LoopBeat, Mono,
    Payload, Phase, Slot, SlotSnapshot, WorkerId, WorkerInfo, WorkerSnapshot, WorkerState, WorkerStats, WorkerTimes,
};
use crate::recorder::Recording;
use crate::supervision::Fact;

/// One worker as everybody sees it, with the way to talk to it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: WorkerId,
    /// What it was born to; of a standby no real slot.
    birth: Place,
    /// Where a standby came to when it was promoted.
    promotion: OnceLock<Place>,
    pub(crate) generation: Generation,
    pub(crate) pid: u32,
    pub(crate) outbox: Outbox,
    pub(crate) calls: Calls,
    view: RwLock<View>,
    /// The worker's flight recorder, while it lives: this is kept longer than descriptors may be.
    recording: Mutex<Option<Arc<Recording>>>,
}

/// A slot as its worker finds it.
#[derive(Debug)]
struct Place {
    slot: Slot,
    /// Restarts of the slot before it.
    restarts: u32,
}

/// The part of a worker's record that changes.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) state: WorkerState,
    pub(crate) ready: bool,
    pub(crate) exited_after_disconnect: Option<bool>,
    pub(crate) times: WorkerTimes,
    pub(crate) stats: WorkerStats,
    pub(crate) addresses: Vec<BoundAddress>,
    /// The listeners it accepts on.
    pub(crate) accepting: Vec<ListenKey>,
    pub(crate) last_heartbeat: Option<Mono>,
    pub(crate) loops: Vec<LoopBeat>,
    pub(crate) more_time_until: Option<Mono>,
    pub(crate) unread: Unread,
    pub(crate) exit: Option<Exit>,
    pub(crate) announced: Option<Payload>,
}

impl Link {
    pub(crate) fn new(
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        pid: u32,
        restarts: u32,
        outbox: Outbox,
        calls: Calls,
    ) -> Self {
        let view = RwLock::new(View {
            state: WorkerState::Created,
            ready: false,
            exited_after_disconnect: None,
            times: WorkerTimes {
                created: Some(clock::now()),
                ..WorkerTimes::default()
            },
            stats: WorkerStats::default(),
            addresses: Vec::new(),
            accepting: Vec::new(),
            last_heartbeat: None,
            loops: Vec::new(),
            more_time_until: None,
            unread: Unread::default(),
            exit: None,
            announced: None,
        });
        Self {
            id,
            birth: Place { slot, restarts },
            promotion: OnceLock::new(),
            generation,
            pid,
            outbox,
            calls,
            view,
            recording: Mutex::default(),
        }
    }

    /// The place it fills.
    pub(crate) fn slot(&self) -> &Slot {
        &self.place().slot
    }

    /// Restarts of its slot before it.
    pub(crate) fn restarts(&self) -> u32 {
        self.place().restarts
    }

    fn place(&self) -> &Place {
        self.promotion.get().unwrap_or(&self.birth)
    }

    /// It stood by, and has this slot from now on.
    pub(crate) fn promote(&self, slot: Slot, restarts: u32) {
        // A worker is promoted once: the machine forgets the standby with it.
        self.promotion.set(Place { slot, restarts }).ok();
        self.change().times.promoted = Some(clock::now());
    }

    pub(crate) fn with_recording(self, recording: Option<Recording>) -> Self {
        *self.recording() = recording.map(Arc::new);
        self
    }

    /// What its flight recorder holds; of a dead one, what it held.
    pub(crate) fn flight_record(&self) -> Option<Arc<FlightRecord>> {
        // Read without the lock: others may ask too.
        let recording = self.recording().clone();
        match recording {
            Some(recording) => recording.look().map(Arc::new),
            None => self.view().exit.as_ref()?.last_words.clone(),
        }
    }

    fn recording(&self) -> MutexGuard<'_, Option<Arc<Recording>>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker without a process, for unit tests of plug-ins: what is sent to it waits in its outbox.
    #[cfg(feature = "test-util")]
    fn unconnected(worker: &WorkerSnapshot) -> Self {
        let (outbox, calls) = (Outbox::new(crate::ipc::Limits::default()), Calls::new());
        let (slot, pid) = (worker.slot.clone(), worker.pid.unwrap_or_default());
        Self::new(worker.id, slot, worker.generation, pid, worker.restarts, outbox, calls)
    }

    #[cfg(feature = "test-util")]
    fn show(&self, worker: &WorkerSnapshot) {
        *self.change() = View {
            state: worker.state,
            ready: worker.ready,
            exited_after_disconnect: worker.exited_after_disconnect,
            times: worker.times,
            stats: worker.stats,
            addresses: worker.addresses.clone(),
            accepting: Vec::new(),
            last_heartbeat: worker.last_heartbeat,
            loops: worker.loops.clone(),
            more_time_until: worker.more_time_until,
            unread: Unread::over_at(worker.unread_until),
            exit: None,
            announced: worker
                .announced
                .as_ref()
                .and_then(|value| Payload::from_value(value).ok()),
        };
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the state after a step of the worker's life.
    pub(crate) fn learn(&self, news: &News) {
        let now = Some(clock::now());
        let mut view = self.change();
        view.state = news.state;
        view.exited_after_disconnect = news.exited_after_disconnect;
        match &news.fact {
            Fact::Online => view.times.online = now,
            Fact::StandsBy => view.times.standby = now,
            Fact::Listening(address) => {
                view.times.listening = view.times.listening.or(now);
                // A worker may repeat itself, or make addresses up without end.
                if view.addresses.len() < ADDRESSES_MAX && !view.addresses.contains(address) {
                    view.addresses.push(address.clone());
                }
            }
            Fact::Ready => {
                view.ready = true;
                view.times.ready = now;
            }
            Fact::Exiting => {
                view.ready = false;
                view.times.exiting = now;
            }
            Fact::Disconnected => {
                view.ready = false;
                view.times.disconnected = now;
            }
            Fact::Exited(exit) => {
                view.ready = false;
                view.times.exited = now;
                view.exit = Some(exit.clone());
                // What it held is in the exit.
                *self.recording() = None;
            }
            Fact::Error(_) => {}
        }
    }

    /// Its loops turn.
    pub(crate) fn alive(&self, heartbeat: &Heartbeat) {
        let mut view = self.change();
        view.last_heartbeat = Some(clock::now());
        view.loops.clone_from(&heartbeat.loops);
    }

    /// It asks to be left alone for a while.
    pub(crate) fn more_time(&self, time: Duration) {
        self.change().more_time_until = Some(clock::now() + time);
    }

    /// Is that news? It is not, beyond as many listeners as are kept.
    pub(crate) fn accepts(&self, key: &ListenKey) -> bool {
        let mut view = self.change();
        // A worker may make listeners up without end.
        let is_news = view.accepting.len() < ADDRESSES_MAX && !view.accepting.contains(key);
        if is_news {
            view.accepting.push(key.clone());
        }
        is_news
    }

    pub(crate) fn gave_back(&self, key: &ListenKey) {
        self.change().accepting.retain(|held| held != key);
    }

    pub(crate) fn info(&self) -> WorkerInfo {
        let view = self.view();
        WorkerInfo {
            id: self.id,
            slot: self.slot().clone(),
            generation: self.generation,
            pid: Some(self.pid),
            state: view.state,
            exited_after_disconnect: view.exited_after_disconnect,
        }
    }

    pub(crate) fn snapshot(&self) -> WorkerSnapshot {
        self.snapshot_at(clock::now())
    }

    /// One instant for all workers of a snapshot.
    fn snapshot_at(&self, now: Mono) -> WorkerSnapshot {
        let view = self.view();
        let announced = view.announced.clone();
        let mut shown = WorkerSnapshot {
            id: self.id,
            slot: self.slot().clone(),
            standby: self.slot().is_standby(),
            generation: self.generation,
            pid: Some(self.pid),
            state: view.state,
            ready: view.ready,
            exited_after_disconnect: view.exited_after_disconnect,
            uptime: view.times.created.map_or_else(Default::default, |created| {
                view.times.exited.unwrap_or(now).since(created)
            }),
            times: view.times,
            restarts: self.restarts(),
            stats: view.stats,
            addresses: view.addresses.clone(),
            accepting: view.accepting.len(),
            last_heartbeat: view.last_heartbeat,
            loops: view.loops.clone(),
            more_time_until: view.more_time_until,
            unread_until: view.unread.until(now),
            announced: None,
        };
        drop(view);
        // Parsed without the lock: it may be long.
        shown.announced = announced.and_then(|announced| announced.parse().ok());
        shown
    }
}

/// Every worker that is not dead, every slot, and where the cluster is in its life.
#[derive(Debug)]
pub(crate) struct Directory {
    table: RwLock<Table>,
    /// Counted by the dispatcher of connections.
    pub(crate) handover: Arc<Tally>,
}

/// The state behind the directory's lock.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) workers: BTreeMap<WorkerId, Arc<Link>>,
    /// The last dead ones, oldest first.
    departed: VecDeque<Arc<Link>>,
    /// By their place in the start order.
    pub(crate) slots: BTreeMap<u64, SlotSnapshot>,
    /// Where the declared listeners are bound.
    pub(crate) listeners: BTreeMap<String, BoundAddress>,
    pub(crate) phase: Phase,
    pub(crate) counts: Counts,
    pub(crate) reloading: Option<Generation>,
    pub(crate) target: usize,
    pub(crate) lag: Option<Lag>,
    pub(crate) seq: u64,
}

impl Directory {
    pub(crate) fn new(listeners: BTreeMap<String, BoundAddress>) -> Self {
        let table = Table {
            workers: BTreeMap::new(),
            departed: VecDeque::new(),
            slots: BTreeMap::new(),
            listeners,
            phase: Phase::Running,
            counts: Counts::default(),
            reloading: None,
            target: 0,
            lag: None,
            seq: 0,
        };
        Self {
            table: RwLock::new(table),
            handover: Arc::default(),
        }
    }

    /// A view that nobody supervises, for unit tests of plug-ins: workers that are not connected.
    #[cfg(feature = "test-util")]
    pub(crate) fn show(&self, shown: &ClusterSnapshot) {
        let mut table = self.write();
        table.phase = shown.phase;
        table.counts = shown.counts;
        table.reloading = shown.reloading;
        table.target = shown.target;
        table.seq = shown.seq;
        table.listeners.clone_from(&shown.listeners);
        table.slots = (0..).zip(shown.slots.iter().cloned()).collect();
        let known = std::mem::take(&mut table.workers);
        for worker in &shown.workers {
            let link = known.get(&worker.id).cloned();
            let link = link.unwrap_or_else(|| Arc::new(Link::unconnected(worker)));
            link.show(worker);
            table.workers.insert(worker.id, link);
        }
        table.departed.extend(known.into_values().filter(|link| {
            let is_gone = shown.workers.iter().all(|worker| worker.id != link.id);
            if is_gone {
                link.change().state = WorkerState::Dead;
            }
            is_gone
        }));
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn worker(&self, id: WorkerId) -> Option<Arc<Link>> {
        self.read().workers.get(&id).cloned()
    }

    /// Takes a dead worker out of the table. Its record stays findable for a while.
    pub(crate) fn depart(&self, id: WorkerId) {
        let mut table = self.write();
        if let Some(link) = table.workers.remove(&id) {
            if table.departed.len() == DEPARTED_MAX {
                table.departed.pop_front();
            }
            table.departed.push_back(link);
            if let Some(older) = table.departed.iter().rev().nth(RECORDS_KEPT)
                && let Some(exit) = &mut older.change().exit
            {
                exit.last_words = None;
            }
        }
    }

    pub(crate) fn dead_or_alive(&self, id: WorkerId) -> Option<Arc<Link>> {
        let table = self.read();
        let departed = || table.departed.iter().rev().find(|link| link.id == id);
        table.workers.get(&id).or_else(departed).cloned()
    }

    pub(crate) fn workers(&self) -> Vec<Arc<Link>> {
        self.read().workers.values().cloned().collect()
    }

    pub(crate) fn snapshot(&self) -> ClusterSnapshot {
        let table = self.read();
        let now = clock::now();
        let workers: Vec<WorkerSnapshot> = table.workers.values().map(|link| link.snapshot_at(now)).collect();
        ClusterSnapshot {
            master_pid: std::process::id(),
            phase: table.phase,
            counts: table.counts,
            reloading: table.reloading,
            uptime: now.since_start(),
            target: table.target,
            ready: workers.iter().filter(|worker| worker.ready).count(),
            lag: table.lag,
            handover: self.handover.stats(),
            seq: table.seq,
            listeners: table.listeners.clone(),
            workers,
            slots: table.slots.values().cloned().collect(),
        }
    }
}

/// Addresses of one worker that are shown; more than it can get from the master.
const ADDRESSES_MAX: usize = 256;

/// Dead workers whose record is kept, so that a handler of their last words finds them.
const DEPARTED_MAX: usize = 1024;

/// Those of them that keep what their flight recorder held, which is some kilobytes each.
const RECORDS_KEPT: usize = 64;

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
