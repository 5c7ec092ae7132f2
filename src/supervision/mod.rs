//! The machines: facts and time in, orders out.
//!
//! Two machines of one shape. [`Lifecycle`] knows what *one process* is doing and turns whatever it does into exactly one
//! exit. [`Supervision`] knows what *each slot* should be, and never what a process is doing. Both are driven by four verbs:
//!
//! ```text
//! handle(input, now)        a fact happened
//! handle_deadline(now)      time passed
//! poll_*() -> Option        what must be done next; the caller loops until None
//! next_deadline() -> Option when to call again
//! ```
//!
//! Feed what has happened before time that has passed: a worker whose "ready" waits in the channel is not late.
//!
//! Not here: actors, processes, sockets, clocks. Time is an argument, chance is a seed, so every run can be replayed.

mod action;
mod config;
mod input;
mod life;
mod lifecycle;
mod roster;
mod rules;

pub(crate) use action::{Action, ForkRefused, Outcome, ScaleRefused, Scaled, SpecRefused};
pub(crate) use config::{SpecConfig, SpecStatus, SupervisionConfig};
pub(crate) use input::{Input, RequestId, ScaleTarget};
pub(crate) use life::{Fact, LifeInput, LifecycleConfig, Order, Output, Report};
pub(crate) use lifecycle::Lifecycle;

use std::collections::VecDeque;

use crate::model::{
    Counts, EventKind, GaveUp, Mono, Phase, ReloadError, ReloadFailure, Slot, SlotSnapshot, SlotState, SpecName,
    WorkerError, WorkerId,
};
use crate::policy::{SplitMix64, WhenEmpty, Window};

use roster::{Occupant, Purpose, Roster, SeatState, Stage, Turn};

/// The cluster's machine: keeps each slot what it should be, and ends exactly once.
///
/// ```text
///  slot:     Queued ──► Filled ──► Waiting ──► Queued …      restart rules, after an exit nobody ordered
///                         │ └────► Failed                    restarted too often, or exit code 125
///                         └──────► Stopped                   not wanted again
///
///  cluster:  Prepared ── Started ──► Running ──► ShuttingDown ──► Stopped
/// ```
///
/// It never signals a process: it orders `Stop`, and waits for `WorkerExited`.
#[derive(Debug)]
pub(crate) struct Supervision {
    config: SupervisionConfig,
    course: Course,
    roster: Roster,
    next_id: WorkerId,
    /// The index of the next slot of each spec.
    next_index: Vec<u32>,
    /// The restarts of the whole cluster.
    restarts: Option<Window>,
    random: SplitMix64,
    /// Was there ever something that the cluster can be empty of?
    had_workers: bool,
    all_ready: bool,
    ignored: u64,
    actions: VecDeque<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Course {
    Prepared,
    Running,
    ShuttingDown { brutal: bool, gave_up: Option<GaveUp> },
    Stopped,
}

/// As many slots as one master keeps; each costs memory for as long as it may be started again.
const SLOTS_MAX: usize = 100_000;

impl Supervision {
    /// A cluster that waits for `Started`.
    pub(crate) fn new(config: SupervisionConfig) -> Self {
        let mut roster = Roster::default();
        for (position, spec) in config.specs.iter().enumerate() {
            for index in 0..spec.count {
                roster.add(
                    Slot {
                        spec: spec.name.clone(),
                        index,
                    },
                    position,
                    spec.limit.into(),
                    None,
                );
            }
        }
        Self {
            course: Course::Prepared,
            roster,
            next_id: WorkerId::FIRST,
            next_index: config.specs.iter().map(|spec| spec.count).collect(),
            restarts: config.intensity.map(Window::from),
            random: SplitMix64::new(config.seed),
            had_workers: false,
            all_ready: false,
            ignored: 0,
            actions: VecDeque::new(),
            config,
        }
    }

    /// A fact happened.
    pub(crate) fn handle(&mut self, input: Input, now: Mono) {
        if self.course == Course::Stopped {
            if let Input::SlotForkRequested { request, .. } = input {
                self.refuse(request, ForkRefused::Stopping);
            }
            return self.ignore();
        }
        match input {
            Input::Started => match self.course {
                Course::Prepared => self.course = Course::Running,
                Course::Running | Course::ShuttingDown { .. } | Course::Stopped => self.ignore(),
            },
            Input::WorkerForked { id } => self.forked(id),
            Input::WorkerOnline { id } => self.heard(id, EventKind::Online, |_| {}),
            Input::WorkerListening { id, address } => self.heard(id, EventKind::Listening(address), |_| {}),
            Input::WorkerReady { id } => self.heard(id, EventKind::Ready, |worker| worker.ready_at = Some(now)),
            Input::WorkerExiting { id } => self.heard(id, EventKind::Exiting, Occupant::end),
            Input::WorkerDisconnected { id } => self.heard(id, EventKind::Disconnect, Occupant::end),
            Input::WorkerFailed { id, error } => {
                let is_unkillable = error == WorkerError::Unkillable;
                self.heard(id, EventKind::Error(error), |worker| {
                    if is_unkillable {
                        worker.stage = Stage::Unkillable(worker.purpose());
                    }
                });
            }
            Input::WorkerExited { id, exit } => self.exited(id, exit, now),
            Input::SlotForkRequested { request, spec } => self.add_slot(request, spec),
            Input::WorkerStopRequested { id } => self.order(id, Purpose::Remove),
            Input::RestartRequested { id } => self.order(id, Purpose::Replace),
            Input::SlotStartRequested { slot } => self.start_slot(&slot),
            Input::ScaleRequested { request, .. } => self.actions.push_back(Action::Scaled {
                request,
                result: Err(ScaleRefused::Stopping),
            }),
            Input::ReloadRequested { request, .. } => self.actions.push_back(Action::ReloadFinished {
                request,
                result: Err(ReloadError::general(ReloadFailure::ShuttingDown)),
            }),
            Input::SpecAddRequested { request, .. }
            | Input::SpecStopRequested { request, .. }
            | Input::SpecStartRequested { request, .. }
            | Input::SpecRestartRequested { request, .. }
            | Input::SpecDeleteRequested { request, .. } => self.actions.push_back(Action::SpecAnswered {
                request,
                result: Err(SpecRefused::Stopping),
            }),
            Input::CanaryJudged { .. } | Input::RecycleRequested { .. } => self.ignore(),
            Input::ClusterDisconnectRequested => self.stop_every_slot(None),
            Input::ShutdownRequested { now } => self.shut_down(now, None),
        }
        self.settle();
    }

    /// Time passed.
    pub(crate) fn handle_deadline(&mut self, now: Mono) {
        while let Some(key) = self.roster.first_due(now) {
            self.roster.set(key, SeatState::Queued(Turn::Restart));
        }
        self.settle();
    }

    /// What must be done next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle_deadline`](Self::handle_deadline).
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.roster.next_deadline()
    }

    /// Where the cluster is in its life.
    pub(crate) const fn phase(&self) -> Phase {
        match self.course {
            Course::Prepared | Course::Running => Phase::Running,
            Course::ShuttingDown { .. } => Phase::ShuttingDown,
            Course::Stopped => Phase::Stopped,
        }
    }

    /// The slots that have changed since the last call: the place in the start order, and the slot unless it was
    /// forgotten.
    pub(crate) fn take_changes(&mut self) -> Vec<(u64, Option<SlotSnapshot>)> {
        self.roster.take_changes()
    }

    /// Every slot, in start order.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> Vec<SlotSnapshot> {
        self.roster.snapshots()
    }

    /// What a slot is doing; `None` if there is no such slot.
    pub(crate) fn slot_state(&self, slot: &Slot) -> Option<SlotState> {
        self.roster.state_of(slot)
    }

    /// A spec as it is now (OTP's `get_childspec`); `None` if there is no such spec.
    pub(crate) fn spec(&self, name: &SpecName) -> Option<SpecStatus> {
        let config = self.config.specs.iter().find(|spec| spec.name == *name)?.clone();
        Some(SpecStatus {
            config,
            generation: crate::model::Generation::default(),
            counts: Counts::default(),
        })
    }

    /// How many of what (OTP's `count_children`).
    pub(crate) fn counts(&self) -> Counts {
        Counts::default()
    }

    /// How many workers should be ready; a failed slot is one that is missing.
    pub(crate) const fn target(&self) -> usize {
        self.roster.sums().target
    }

    /// How many can serve and are to stay.
    #[cfg(test)]
    pub(crate) const fn ready(&self) -> usize {
        self.roster.sums().ready
    }

    /// Inputs about unknown or dead workers, and requests that came too late.
    #[cfg(test)]
    pub(crate) const fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests;
