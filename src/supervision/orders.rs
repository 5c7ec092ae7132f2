//! What handles order of slots and of the whole cluster, and how workers are told to stop.
//!
//! Not here: scaling, reload, recycling and specs as wholes, each in its own file.

use crate::model::{EventKind, Exit, ExitReason, GaveUp, Mono, ReloadError, ReloadFailure, Slot, SpecName, WorkerId};
use crate::policy::ShutdownPolicy;

use super::rules::Down;
use super::seat::{Asked, Beside, Content, Occupant, Purpose, Role, Seat, SeatKey, SeatState, SpecKey, Stage, Turn};
use super::{
    Action, Course, ForkRefused, Input, RequestId, SLOTS_MAX, ScaleRefused, SpecRefused, Supervision, groups::Group,
};

impl Supervision {
    /// Node's `fork`.
    pub(super) fn add_slot(&mut self, request: RequestId, spec: SpecName) {
        if self.is_stopping() {
            return self.answer_fork(request, Err(ForkRefused::Stopping));
        }
        let Some(&key) = self.by_name.get(&spec) else {
            return self.answer_fork(request, Err(ForkRefused::UnknownSpec(spec)));
        };
        let spec = self.specs.get_mut(&key).expect("what has a name is kept");
        // The lowest one that is free: what is kept for a number, a socket above all, would be kept for each that was ever used.
        let is_free = |index: &u32| {
            let index = *index;
            !self.roster.holds(SeatKey { spec: key, index })
        };
        let free = (spec.next_index..u32::MAX).find(is_free);
        let Some(index) = free.filter(|_| self.roster.len() < SLOTS_MAX) else {
            return self.answer_fork(request, Err(ForkRefused::TooManySlots(self.roster.len())));
        };
        spec.next_index = index + 1;
        spec.is_open = false;
        self.was_emptied = false;
        let key = SeatKey { spec: key, index };
        self.add_seat(key);
        let seat = self.roster.seat_mut(key);
        seat.is_extra = true;
        seat.is_forked = true;
        seat.request = Some(Asked::Fork(request));
        let slot = seat.slot.clone();
        self.actions.push_back(Action::SlotAdded { request, slot });
    }

    /// A new slot, to be started in its turn.
    pub(super) fn add_seat(&mut self, key: SeatKey) {
        let spec = &self.specs[&key.spec].config;
        let slot = Slot {
            spec: spec.name.clone(),
            index: key.index,
        };
        let content = Content {
            state: self.first_state(key.spec),
            beside: None,
            awaited: true,
            declined: false,
        };
        self.roster.add(key, Seat::new(slot, spec.limit.into(), content));
    }

    /// A slot is no more; its number is free.
    pub(super) fn forget_seat(&mut self, key: SeatKey) {
        self.roster.remove(key);
        if let Some(spec) = self.specs.get_mut(&key.spec) {
            spec.next_index = spec.next_index.min(key.index);
        }
    }

    /// A slot that is down is to be started in its turn, with a full budget.
    pub(super) fn revive(&mut self, key: SeatKey) {
        let state = self.first_state(key.spec);
        let seat = self.roster.seat_mut(key);
        seat.forgive();
        seat.restarts = seat.restarts.saturating_add(1);
        self.roster.change(key, |content| {
            content.state = state;
            content.awaited = true;
        });
    }

    /// While its group goes down, nobody of it is started.
    fn first_state(&self, spec: SpecKey) -> SeatState {
        match &self.group {
            Some(group) if group.covers(spec) => SeatState::Held,
            Some(_) | None => SeatState::Queued(Turn::First),
        }
    }

    pub(super) fn start_slot(&mut self, slot: &Slot) {
        let key = self.find_slot(slot).filter(|key| {
            let down = matches!(self.roster.seat(*key).state(), SeatState::Failed | SeatState::Stopped);
            down && !self.is_stopping()
        });
        let Some(key) = key else {
            return self.ignore();
        };
        if let Some(spec) = self.specs.get_mut(&key.spec) {
            spec.is_open = false;
        }
        self.roster.seat_mut(key).forgive();
        self.queue_restart(key);
    }

    pub(super) fn find_slot(&self, slot: &Slot) -> Option<SeatKey> {
        let key = SeatKey {
            spec: *self.by_name.get(&slot.spec)?,
            index: slot.index,
        };
        self.roster.holds(key).then_some(key)
    }

    pub(super) const fn is_stopping(&self) -> bool {
        matches!(self.course, Course::ShuttingDown { .. } | Course::Stopped)
    }

    /// Stops one worker; what becomes of its slot is remembered until its exit.
    pub(super) fn order(&mut self, id: WorkerId, purpose: Purpose, now: Mono) {
        match (self.roster.find(id), purpose) {
            (Some((key, Role::Main, worker)), _) => self.stop_main(key, worker, purpose, None),
            // A successor that must not be is a failed one.
            (Some((key, Role::Coming, _)), Purpose::Remove) => {
                self.newcomer_failed(key, Some(id), ReloadFailure::Overtaken, now);
            }
            (Some((_, Role::Coming | Role::Leaving, _)) | None, _) => self.ignore(),
        }
    }

    /// Stops every slot, last started first; with `faster`, also those that are stopping already.
    pub(super) fn stop_every_slot(&mut self, faster: Option<ShutdownPolicy>) {
        for key in self.roster.keys().into_iter().rev() {
            self.stop_slot(key, Purpose::Remove, faster);
        }
    }

    /// Stops whoever is in a slot, and makes the slot what `purpose` says.
    pub(super) fn stop_slot(&mut self, key: SeatKey, purpose: Purpose, faster: Option<ShutdownPolicy>) {
        let state = self.roster.seat(key).state();
        match (state, purpose) {
            (SeatState::Filled(worker), _) => self.stop_main(key, worker, purpose, faster),
            (SeatState::Queued(_) | SeatState::Waiting { .. }, Purpose::Hold) => {
                self.roster.set(key, SeatState::Held);
            }
            (SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Held, Purpose::Remove) => {
                self.retire(key, Down::Stopped);
            }
            (SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Held, Purpose::Fail) => {
                self.retire(key, Down::Failed);
            }
            (SeatState::Queued(_) | SeatState::Waiting { .. }, Purpose::Replace)
            | (SeatState::Held, Purpose::Hold | Purpose::Replace)
            | (SeatState::Failed | SeatState::Stopped, _) => {}
        }
        if self.roster.holds(key) && purpose != Purpose::Replace {
            self.cancel_change(key);
            self.stop_beside(key, faster);
        }
    }

    fn stop_main(&mut self, key: SeatKey, mut worker: Occupant, purpose: Purpose, faster: Option<ShutdownPolicy>) {
        let (id, is_unkillable) = (worker.id, worker.is_unkillable());
        let policy = faster.unwrap_or_else(|| self.stop_policy(key.spec));
        let is_first = worker.take_order(purpose);
        self.roster.put(key, Role::Main, worker);
        if is_first || (faster.is_some() && !is_unkillable) {
            self.actions.push_back(Action::Stop { id, policy });
        }
        if purpose == Purpose::Remove {
            self.cancel_change(key);
        }
    }

    /// Stops the second process of a slot, if there is one.
    pub(super) fn stop_beside(&mut self, key: SeatKey, faster: Option<ShutdownPolicy>) {
        let Some(beside) = self.roster.seat(key).beside() else {
            return;
        };
        let mut worker = beside.worker();
        let is_unkillable = worker.is_unkillable();
        let policy = faster.unwrap_or_else(|| self.stop_policy(key.spec));
        let is_first = worker.take_order(Purpose::Remove);
        self.roster
            .change(key, |content| content.beside = Some(Beside::Leaving(worker)));
        if is_first || (faster.is_some() && !is_unkillable) {
            self.actions.push_back(Action::Stop { id: worker.id, policy });
        }
    }

    /// How workers of a spec are stopped; in an immediate shutdown nobody is asked, not even a successor that goes first.
    pub(super) fn stop_policy(&self, spec: SpecKey) -> ShutdownPolicy {
        match self.course {
            Course::ShuttingDown { brutal: true, .. } => ShutdownPolicy::Brutal,
            Course::Prepared | Course::Running | Course::ShuttingDown { .. } | Course::Stopped => {
                self.specs[&spec].config.shutdown
            }
        }
    }

    pub(super) fn shut_down(&mut self, at_once: bool, gave_up: Option<GaveUp>) {
        match &mut self.course {
            Course::Prepared | Course::Running => {
                self.course = Course::ShuttingDown {
                    brutal: at_once,
                    gave_up,
                    at: None,
                };
                self.end_reloads(&ReloadFailure::ShuttingDown);
                self.group = None;
                for key in self.changes.keys().copied().collect::<Vec<_>>() {
                    self.cancel_change(key);
                }
                self.publish(None, EventKind::ShutdownStarted);
                // They serve nobody, so nobody has to go before them.
                self.stop_standbys(|_| true, at_once.then_some(ShutdownPolicy::Brutal));
                if at_once {
                    self.stop_every_slot(Some(ShutdownPolicy::Brutal));
                } else {
                    self.begin_ordered_stop();
                }
            }
            Course::ShuttingDown { brutal, .. } if at_once && !*brutal => {
                *brutal = true;
                self.stop_standbys(|_| true, Some(ShutdownPolicy::Brutal));
                self.stop_every_slot(Some(ShutdownPolicy::Brutal));
            }
            Course::ShuttingDown { .. } | Course::Stopped => self.ignore(),
        }
    }

    /// Nobody is to come; who lives is stopped spec by spec, the last one first.
    fn begin_ordered_stop(&mut self) {
        let last = self.specs.keys().next_back().copied();
        self.stop_spec_of_shutdown(last);
        for key in self.roster.keys().into_iter().rev() {
            match self.roster.seat(key).state() {
                SeatState::Queued(_) | SeatState::Waiting { .. } | SeatState::Held => self.retire(key, Down::Stopped),
                SeatState::Filled(_) | SeatState::Failed | SeatState::Stopped => {}
            }
        }
    }

    /// Goes on to the spec before when the one that was told to stop is gone.
    pub(super) fn advance_ordered_stop(&mut self) {
        while let Course::ShuttingDown {
            at: Some(at),
            brutal: false,
            ..
        } = self.course
            && self.roster.sums_of(at).living() == 0
        {
            let before = self.specs.range(..at).next_back().map(|(key, _)| *key);
            self.stop_spec_of_shutdown(before);
        }
    }

    fn stop_spec_of_shutdown(&mut self, spec: Option<SpecKey>) {
        if let Course::ShuttingDown { at, .. } = &mut self.course {
            *at = spec;
        }
        if let Some(spec) = spec {
            for key in self.roster.keys_of(spec).into_iter().rev() {
                self.stop_slot(key, Purpose::Remove, None);
            }
        }
    }

    /// The restart of a group has begun: nothing else goes on with its slots.
    pub(super) fn overtaken_by(&mut self, group: &Group) {
        let keys: Vec<SeatKey> = self.changes.keys().copied().collect();
        for key in keys.into_iter().filter(|key| group.covers(key.spec)) {
            self.cancel_change(key);
        }
    }

    pub(super) fn answer_fork(&mut self, request: RequestId, result: Result<(Slot, WorkerId), ForkRefused>) {
        self.actions.push_back(Action::Forked { request, result });
    }

    /// What is asked for after the end is refused, because everybody gets an answer.
    pub(super) fn refuse_late(&mut self, input: &Input) {
        let action = match input {
            Input::SlotForkRequested { request, .. } => Action::Forked {
                request: *request,
                result: Err(ForkRefused::Stopping),
            },
            Input::ScaleRequested { request, .. } => Action::Scaled {
                request: *request,
                result: Err(ScaleRefused::Stopping),
            },
            Input::ReloadRequested { request, .. } => Action::ReloadFinished {
                request: *request,
                result: Err(ReloadError::general(ReloadFailure::ShuttingDown)),
            },
            Input::SpecAddRequested { request, .. }
            | Input::SpecStopRequested { request, .. }
            | Input::SpecStartRequested { request, .. }
            | Input::SpecRestartRequested { request, .. }
            | Input::SpecDeleteRequested { request, .. }
            | Input::ReconfigureRequested { request, .. } => Action::SpecAnswered {
                request: *request,
                result: Err(SpecRefused::Stopping),
            },
            Input::Started
            | Input::WorkerForked { .. }
            | Input::WorkerOnline { .. }
            | Input::WorkerStandsBy { .. }
            | Input::WorkerListening { .. }
            | Input::WorkerReady { .. }
            | Input::WorkerExiting { .. }
            | Input::WorkerDisconnected { .. }
            | Input::WorkerExited { .. }
            | Input::WorkerFailed { .. }
            | Input::WorkerServed { .. }
            | Input::WorkerStopRequested { .. }
            | Input::RestartRequested { .. }
            | Input::SlotStartRequested { .. }
            | Input::CanaryJudged { .. }
            | Input::RecycleRequested { .. }
            | Input::ClusterDisconnectRequested
            | Input::ShutdownRequested { .. } => return,
        };
        self.actions.push_back(action);
    }
}

pub(super) fn spawn_refusal(exit: &Exit) -> ForkRefused {
    match &exit.reason {
        ExitReason::SpawnFailed(failure) => ForkRefused::Spawn(failure.clone()),
        ExitReason::Ordered
        | ExitReason::Voluntary
        | ExitReason::Crash
        | ExitReason::BootTimeout
        | ExitReason::Protocol(_)
        | ExitReason::ChannelClosed
        | ExitReason::Hang(_)
        | ExitReason::Memory(_)
        | ExitReason::Oom
        | ExitReason::Killed => ForkRefused::Stopping,
    }
}

/// A worker that is about to be started.
pub(super) const fn newborn(id: WorkerId, generation: crate::model::Generation) -> Occupant {
    Occupant {
        id,
        generation,
        forked: false,
        ready_at: None,
        expires_at: None,
        served_out_at: None,
        stage: Stage::Wanted,
    }
}
