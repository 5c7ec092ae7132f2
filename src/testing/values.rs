//! Constructors of what only a master makes otherwise.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::model::{
    ClusterEvent, ClusterSnapshot, Counts, EventKind, Generation, HandoverStats, Message, Mono, Payload, PayloadError,
    Phase, Slot, SlotSnapshot, SlotState, WorkerId, WorkerInfo, WorkerSnapshot, WorkerState, WorkerStats, WorkerTimes,
};

impl ClusterEvent {
    /// An event as a master would publish it; its wall-clock time is so long after 1970 as `at` is after the start.
    #[must_use]
    pub fn for_test(seq: u64, at: Mono, worker: Option<WorkerInfo>, kind: EventKind) -> Self {
        Self {
            seq,
            at,
            time: SystemTime::UNIX_EPOCH + at.since_start(),
            worker,
            kind,
        }
    }
}

impl Message {
    /// A message as a worker would send it: no call, no descriptors.
    ///
    /// # Errors
    /// When the value has no JSON form.
    pub fn for_test<T: Serialize + ?Sized>(value: &T) -> Result<Self, PayloadError> {
        Ok(Self::new(Payload::from_value(value)?, None, Vec::new()))
    }
}

impl WorkerSnapshot {
    /// A worker of the first generation in this slot, with `id` as its process id too, no time told and nothing counted;
    /// ready if it is listening. Change the fields that matter.
    #[must_use]
    pub fn for_test(id: u64, slot: Slot, state: WorkerState) -> Self {
        Self {
            id: WorkerId::new(id),
            slot,
            generation: Generation(0),
            pid: u32::try_from(id).ok(),
            state,
            ready: state == WorkerState::Listening,
            exited_after_disconnect: None,
            times: WorkerTimes::default(),
            uptime: Duration::ZERO,
            standby: false,
            restarts: 0,
            stats: WorkerStats::default(),
            addresses: Vec::new(),
            accepting: 0,
            last_heartbeat: None,
            loops: Vec::new(),
            more_time_until: None,
            unread_until: None,
            announced: None,
        }
    }

    /// The worker as an event names it.
    #[must_use]
    pub fn info(&self) -> WorkerInfo {
        WorkerInfo {
            id: self.id,
            slot: self.slot.clone(),
            generation: self.generation,
            pid: self.pid,
            state: self.state,
            exited_after_disconnect: self.exited_after_disconnect,
        }
    }
}

impl ClusterSnapshot {
    /// A running cluster that wants exactly these workers, each in its slot, at event 0. Change the fields that matter.
    #[must_use]
    pub fn for_test(workers: impl IntoIterator<Item = WorkerSnapshot>) -> Self {
        let workers: Vec<WorkerSnapshot> = workers.into_iter().collect();
        let ready = workers.iter().filter(|worker| worker.ready).count();
        let slots = workers.iter().map(|worker| SlotSnapshot {
            slot: worker.slot.clone(),
            state: SlotState::Filled,
            worker: Some(worker.id),
            beside: None,
            restarts: worker.restarts,
            last_exit: None,
        });
        let mut specs: Vec<_> = workers.iter().map(|worker| &worker.slot.spec).collect();
        specs.sort_unstable();
        specs.dedup();
        Self {
            master_pid: std::process::id(),
            phase: Phase::Running,
            uptime: Duration::ZERO,
            counts: Counts {
                specs: specs.len(),
                active: workers.len(),
                workers: workers.len(),
                restarting: 0,
                ready,
                failed: 0,
                declined: 0,
                standbys: 0,
            },
            reloading: None,
            target: workers.len(),
            ready,
            seq: 0,
            lag: None,
            handover: HandoverStats::default(),
            listeners: std::collections::BTreeMap::new(),
            slots: slots.collect(),
            workers,
        }
    }
}
