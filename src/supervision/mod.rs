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
mod batch;
mod changes;
mod children;
mod config;
mod drain;
mod ending;
mod groups;
mod input;
mod life;
mod lifecycle;
mod orders;
mod reconfigure;
mod recycle;
mod rollout;
mod roster;
mod rules;
mod scale;
mod seat;
mod settle;
mod standby;
mod starts;

pub(crate) use action::{Action, ForkRefused, Outcome, ScaleRefused, Scaled, SpecRefused};
pub(crate) use config::{Rules, SpecConfig, SpecStatus, SupervisionConfig};
pub(crate) use input::{Input, RequestId, ScaleTarget};
pub(crate) use life::{Fact, LifeInput, LifecycleConfig, Order, Output, Report};
pub(crate) use lifecycle::Lifecycle;
pub(crate) use reconfigure::Reconfiguration;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::model::{
    Counts, EventKind, GaveUp, Generation, Mono, Phase, ReloadFailure, Slot, SlotSnapshot, SlotState, SpecName,
    WorkerId,
};
use crate::policy::{SplitMix64, Window};

use changes::Change;
use children::{PendingStop, Spec};
use groups::Group;
use recycle::Recycling;
use rollout::Reloads;
use roster::Roster;
use seat::{Occupant, Purpose, SeatKey, SeatState, SpecKey, Stage, Turn};
use standby::{Standby, Standbys};
use starts::Start;

/// The cluster's machine: keeps each slot what it should be, and ends exactly once.
///
/// ```text
///  slot:     Queued ──► Filled ──► Waiting ──► Queued …      restart rules, after an exit nobody ordered
///                         │ │ └──► Failed                    restarted too often, or exit code 125
///                         │ └────► Held ─────► Queued        stopped with its group
///                         └──────► Stopped                   not wanted again, or nothing to do
///
///  beside:   ── ──► Coming ──► (in place of the other, which is) Leaving ──► ──      reload, recycling
///                     └─────────────────────────────────────────────┘ a failure
///
///  reload:   Forward ──► done        the first failure: Forward ──► Back ──► done
///
///  cluster:  Prepared ── Started ──► Running ──► ShuttingDown ──► Stopped
/// ```
///
/// It never signals a process: it orders `Stop`, and waits for `WorkerExited`.
#[derive(Debug)]
pub(crate) struct Supervision {
    /// Without the specs.
    config: SupervisionConfig,
    course: Course,
    specs: BTreeMap<SpecKey, Spec>,
    /// Their keys, in start order, so that a spec's position costs no walk.
    order: Vec<SpecKey>,
    by_name: BTreeMap<SpecName, SpecKey>,
    next_spec: SpecKey,
    roster: Roster,
    next_id: WorkerId,
    /// The restarts of the whole cluster.
    restarts: Option<Window>,
    random: SplitMix64,
    /// The specs that go down and up together.
    group: Option<Group>,
    /// The slots in which one worker is replaced by another on purpose.
    changes: BTreeMap<SeatKey, Change>,
    reloads: Reloads,
    recycling: Recycling,
    standbys: Standbys,
    /// Who waits until every slot of a spec has a ready worker.
    starts: BTreeMap<RequestId, Start>,
    /// Who waits until the processes of a spec are gone.
    stops: Vec<PendingStop>,
    /// Specs of which a slot went down just now.
    ended: BTreeSet<SpecKey>,
    /// Was a spec emptied by hand, and with that forgotten?
    was_emptied: bool,
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
    ShuttingDown {
        brutal: bool,
        gave_up: Option<GaveUp>,
        /// The spec whose workers are being waited for; the earlier ones are stopped after it.
        at: Option<SpecKey>,
    },
    Stopped,
}

/// As many slots as one master keeps; each costs memory for as long as it may be started again.
const SLOTS_MAX: usize = 100_000;

impl Supervision {
    /// A cluster that waits for `Started`.
    pub(crate) fn new(mut config: SupervisionConfig) -> Self {
        let specs = std::mem::take(&mut config.specs);
        let mut machine = Self {
            course: Course::Prepared,
            specs: BTreeMap::new(),
            order: Vec::new(),
            by_name: BTreeMap::new(),
            next_spec: SpecKey(0),
            roster: Roster::default(),
            next_id: WorkerId::FIRST,
            restarts: config.intensity.map(Window::from),
            random: SplitMix64::new(config.seed),
            group: None,
            changes: BTreeMap::new(),
            reloads: Reloads::default(),
            recycling: Recycling::default(),
            standbys: Standbys::default(),
            starts: BTreeMap::new(),
            stops: Vec::new(),
            ended: BTreeSet::new(),
            was_emptied: false,
            had_workers: false,
            all_ready: false,
            ignored: 0,
            actions: VecDeque::new(),
            config,
        };
        for spec in specs {
            if !machine.by_name.contains_key(&spec.name) {
                machine.add_spec(spec, true);
            }
        }
        machine
    }

    /// A fact happened.
    pub(crate) fn handle(&mut self, input: Input, now: Mono) {
        if self.course == Course::Stopped {
            self.ignore();
            return self.refuse_late(&input);
        }
        let Some(input) = self.take_standby_input(input, now) else {
            return self.settle(now);
        };
        match input {
            Input::Started => match self.course {
                Course::Prepared => self.course = Course::Running,
                Course::Running | Course::ShuttingDown { .. } | Course::Stopped => self.ignore(),
            },
            Input::WorkerForked { id } => self.forked(id),
            Input::WorkerOnline { id } => self.heard(id, EventKind::Online, |_| {}),
            // Only who is no standby any more, or never was, comes here.
            Input::WorkerStandsBy { .. } => self.ignore(),
            Input::WorkerListening { id, address } => self.heard(id, EventKind::Listening(address), |_| {}),
            Input::WorkerReady { id } => self.got_ready(id, now),
            Input::WorkerExiting { id } => self.heard(id, EventKind::Exiting, Occupant::end),
            Input::WorkerDisconnected { id } => self.heard(id, EventKind::Disconnect, Occupant::end),
            Input::WorkerFailed { id, error } => self.failed(id, error),
            Input::WorkerServed { id, requests } => self.served(id, requests),
            Input::WorkerExited { id, exit } => self.exited(id, exit, now),
            Input::SlotForkRequested { request, spec } => self.add_slot(request, spec),
            Input::WorkerStopRequested { id } => self.order(id, Purpose::Remove, now),
            Input::RestartRequested { id } => self.order(id, Purpose::Replace, now),
            Input::SlotStartRequested { slot } => self.start_slot(&slot),
            Input::ScaleRequested {
                request,
                spec,
                target,
                active,
            } => self.scale(request, spec, target, &active),
            Input::ReloadRequested {
                request,
                spec,
                options,
                queue,
            } => self.reload(request, spec, options, queue),
            Input::CanaryJudged { request, good, why } => self.canary_judged(request, good, why),
            Input::RecycleRequested { id, why } => self.recycle(id, why),
            Input::SpecAddRequested { request, config } => self.spec_add(request, *config),
            Input::SpecStopRequested { request, spec } => self.spec_stop(request, spec),
            Input::SpecStartRequested { request, spec } => self.spec_start(request, spec, SpecRefused::AlreadyStarted),
            Input::SpecRestartRequested { request, spec } => {
                self.spec_start(request, spec, |spec, _| SpecRefused::Running(spec));
            }
            Input::SpecDeleteRequested { request, spec } => self.spec_delete(request, spec),
            Input::ReconfigureRequested { request, changes } => self.reconfigure(request, *changes),
            // A shutdown is that already, in order.
            Input::ClusterDisconnectRequested if self.is_stopping() => self.ignore(),
            Input::ClusterDisconnectRequested => {
                self.end_reloads(&ReloadFailure::Overtaken);
                self.stop_every_slot(None);
            }
            Input::ShutdownRequested { now } => self.shut_down(now, None),
        }
        self.settle(now);
    }

    /// Time passed.
    pub(crate) fn handle_deadline(&mut self, now: Mono) {
        while let Some(key) = self.roster.first_due(now) {
            self.roster.set(key, SeatState::Queued(Turn::Restart));
        }
        while let Some(id) = self.roster.first_expired(now) {
            self.expired(id);
        }
        self.settle(now);
    }

    /// What must be done next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle_deadline`](Self::handle_deadline).
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let group = self.group.as_ref().and_then(|group| group.next_deadline());
        let changes = self.changes.values().filter_map(Change::next_deadline);
        let is_running = self.course == Course::Running;
        self.roster
            .next_deadline()
            .into_iter()
            .chain(group)
            .chain(changes)
            .chain(self.standbys.next_deadline().filter(|_| is_running))
            // A reload rests while a group restarts.
            .chain(self.reloads.next_deadline().filter(|_| self.group.is_none()))
            .min()
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
        let key = self.find_slot(slot)?;
        Some(self.roster.seat(key).snapshot().state)
    }

    /// How many workers should be ready; a failed slot is one that is missing.
    pub(crate) const fn target(&self) -> usize {
        self.roster.sums().target
    }

    /// How many slots have a worker that can serve and is to stay.
    #[cfg(test)]
    pub(crate) const fn ready(&self) -> usize {
        self.roster.sums().ready
    }

    /// Does `WorkerServed` with this number change anything? Workers count all the time, and few come to their limit.
    pub(crate) fn has_served_out(&self, id: WorkerId, requests: u64) -> bool {
        let worker = self.roster.find(id).map(|(_, _, worker)| worker);
        worker
            .and_then(|worker| worker.served_out_at)
            .is_some_and(|limit| limit <= requests)
    }

    /// A spec as it is now (OTP's `get_childspec`); `None` if there is no such spec.
    pub(crate) fn spec(&self, name: &SpecName) -> Option<SpecStatus> {
        let key = *self.by_name.get(name)?;
        let spec = &self.specs[&key];
        Some(SpecStatus {
            config: spec.config.clone(),
            generation: spec.generation,
            counts: counts(1, self.roster.sums_of(key), self.standbys.of(key)),
        })
    }

    /// Every spec's name, in start order (OTP's `which_children`).
    pub(crate) fn spec_names(&self) -> Vec<SpecName> {
        self.specs.values().map(|spec| spec.config.name.clone()).collect()
    }

    /// What holds for all specs now.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            strategy: Arc::clone(&self.config.strategy),
            intensity: self.config.intensity,
            auto_shutdown: self.config.auto_shutdown,
            when_empty: self.config.when_empty,
        }
    }

    /// How many of what (OTP's `count_children`).
    pub(crate) fn counts(&self) -> Counts {
        counts(self.specs.len(), self.roster.sums(), self.standbys.iter())
    }

    /// The generation that a reload brings now; `None` if none runs.
    pub(crate) fn reloading(&self) -> Option<Generation> {
        self.reloads.target()
    }

    /// Inputs about unknown or dead workers, and requests that came too late.
    #[cfg(test)]
    pub(crate) const fn ignored(&self) -> u64 {
        self.ignored
    }
}

/// Sums as a handle sees them.
fn counts<'a>(specs: usize, sums: roster::Sums, standbys: impl Iterator<Item = &'a Standby>) -> Counts {
    let (processes, ready) = standbys.fold((0, 0), |(processes, ready), standby| {
        (processes + 1, ready + usize::from(standby.worker.is_ready()))
    });
    Counts {
        specs,
        active: sums.filled + processes,
        standbys: ready,
        workers: sums.target + sums.declined,
        restarting: sums.waiting,
        ready: sums.ready,
        failed: sums.failed,
        declined: sums.declined,
    }
}

#[cfg(test)]
mod tests;
