//! What follows from each fact: the private half of [`Supervision`].
//!
//! Not here: its doors (in `mod.rs`), the sums over the slots (in [`super::roster`]).

use crate::model::{EventKind, Exit, ExitReason, GaveUp, Generation, Mono, Slot, SpecName, WorkerError, WorkerId};
use crate::policy::{ShutdownPolicy, declines_restart};

use super::roster::{Occupant, Purpose, SeatKey, SeatState, Stage, Turn};
use super::{Action, Course, ForkRefused, Outcome, RequestId, SLOTS_MAX, Supervision, WhenEmpty};

/// For what a slot is left without a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    Failed,
    Stopped,
}

/// Facts about workers.
impl Supervision {
    pub(super) fn forked(&mut self, id: WorkerId) {
        let Some((key, worker)) = self.roster.find(id).filter(|(_, worker)| !worker.forked) else {
            return self.ignore();
        };
        self.had_workers = true;
        self.roster
            .set(key, SeatState::Filled(Occupant { forked: true, ..worker }));
        self.publish(Some(id), EventKind::Fork);
        let seat = self.roster.seat_mut(key);
        if let Some(request) = seat.request.take() {
            let result = Ok((seat.slot.clone(), id));
            self.actions.push_back(Action::Forked { request, result });
        }
    }

    /// A step of a worker's life that is told on, and what it changes.
    pub(super) fn heard(&mut self, id: WorkerId, kind: EventKind, change: impl FnOnce(&mut Occupant)) {
        let Some((key, mut worker)) = self.roster.find(id).filter(|(_, worker)| worker.forked) else {
            return self.ignore();
        };
        change(&mut worker);
        self.roster.set(key, SeatState::Filled(worker));
        self.publish(Some(id), kind);
    }

    pub(super) fn exited(&mut self, id: WorkerId, exit: Exit, now: Mono) {
        let Some((key, worker)) = self.roster.find(id) else {
            return self.ignore();
        };
        // Nobody was told of a worker that never was, so nobody is told of its exit.
        match (worker.forked, &exit.reason) {
            (true, _) => self.publish(Some(id), EventKind::Exit(exit.clone())),
            (false, ExitReason::SpawnFailed(failure)) => {
                self.publish(Some(id), EventKind::Error(WorkerError::Spawn(failure.clone())));
            }
            (false, _) => {}
        }
        let seat = self.roster.seat_mut(key);
        seat.last_exit = Some(exit.clone());
        let stable_after = self.config.specs[seat.spec].stable_after;
        if worker.ready_at.is_some_and(|ready| now.since(ready) >= stable_after) {
            seat.streak = 0;
        }
        if let Some(request) = seat.request.take() {
            // The caller is told and decides; a slot that nobody got is not kept.
            self.refuse(request, spawn_refusal(exit));
            return self.retire(key, Down::Stopped);
        }
        // In a shutdown every worker was ordered to stop, so every purpose is `Remove`.
        match worker.purpose() {
            Some(Purpose::Remove) => self.retire(key, Down::Stopped),
            Some(Purpose::Replace) => self.queue_restart(key),
            None => self.judge(key, &exit, now),
        }
    }

    /// An end that nobody ordered: deserved, too often, when?
    fn judge(&mut self, key: SeatKey, exit: &Exit, now: Mono) {
        let seat = self.roster.seat_mut(key);
        let spec = &self.config.specs[seat.spec];
        if declines_restart(exit) {
            return self.retire(key, Down::Failed);
        }
        if !spec.restart.deserves_restart(exit) {
            return self.retire(key, Down::Stopped);
        }
        if !seat.window.record(now) {
            let gave_up = GaveUp::Slot {
                slot: seat.slot.clone(),
                limit: spec.limit.max,
                period: spec.limit.period,
            };
            self.publish(None, EventKind::GaveUp(gave_up));
            return self.retire(key, Down::Failed);
        }
        if let (Some(intensity), Some(restarts)) = (self.config.intensity, &mut self.restarts)
            && !restarts.record(now)
        {
            let gave_up = GaveUp::Cluster {
                limit: intensity.max,
                period: intensity.period,
            };
            self.publish(None, EventKind::GaveUp(gave_up.clone()));
            self.retire(key, Down::Failed);
            return self.shut_down(false, Some(gave_up));
        }
        seat.streak = seat.streak.saturating_add(1);
        let delay = spec.delay.delay(seat.streak, &mut self.random);
        let scheduled = EventKind::RestartScheduled {
            slot: seat.slot.clone(),
            delay,
            attempt: seat.window.count().unwrap_or(seat.streak),
        };
        if delay.is_zero() {
            self.queue_restart(key);
        } else {
            seat.restarts = seat.restarts.saturating_add(1);
            self.roster.set(key, SeatState::Waiting { until: now + delay });
        }
        self.publish(None, scheduled);
    }

    fn queue_restart(&mut self, key: SeatKey) {
        let seat = self.roster.seat_mut(key);
        seat.restarts = seat.restarts.saturating_add(1);
        self.roster.set(key, SeatState::Queued(Turn::Restart));
    }

    /// No worker comes to this slot by itself any more.
    fn retire(&mut self, key: SeatKey, down: Down) {
        let seat = self.roster.seat_mut(key);
        let slot = seat.slot.clone();
        let (request, is_extra) = (seat.request.take(), seat.is_extra);
        if let Some(request) = request {
            self.refuse(request, ForkRefused::Stopping);
        }
        match down {
            Down::Failed => self.roster.set(key, SeatState::Failed),
            Down::Stopped if is_extra => self.roster.remove(key),
            Down::Stopped => self.roster.set(key, SeatState::Stopped),
        }
        self.actions.push_back(Action::SlotGone { slot });
    }
}

/// What handles ask for.
impl Supervision {
    pub(super) fn add_slot(&mut self, request: RequestId, spec: SpecName) {
        if matches!(self.course, Course::ShuttingDown { .. } | Course::Stopped) {
            return self.refuse(request, ForkRefused::Stopping);
        }
        let Some(position) = self.config.specs.iter().position(|known| known.name == spec) else {
            return self.refuse(request, ForkRefused::UnknownSpec(spec));
        };
        let index = self.next_index[position];
        let (Some(next), true) = (index.checked_add(1), self.roster.len() < SLOTS_MAX) else {
            return self.refuse(request, ForkRefused::TooManySlots(self.roster.len()));
        };
        self.next_index[position] = next;
        let window = self.config.specs[position].limit.into();
        let slot = Slot { spec, index };
        self.actions.push_back(Action::SlotAdded {
            request,
            slot: slot.clone(),
        });
        self.roster.add(slot, position, window, Some(request));
    }

    pub(super) fn start_slot(&mut self, slot: &Slot) {
        let key = self.roster.find_slot(slot).filter(|key| {
            let down = matches!(self.roster.seat(*key).state(), SeatState::Failed | SeatState::Stopped);
            down && !matches!(self.course, Course::ShuttingDown { .. })
        });
        let Some(key) = key else {
            return self.ignore();
        };
        let seat = self.roster.seat_mut(key);
        seat.window.reset();
        seat.streak = 0;
        self.queue_restart(key);
    }

    /// Stops one worker; what becomes of its slot is remembered until its exit.
    pub(super) fn order(&mut self, id: WorkerId, purpose: Purpose) {
        match self.roster.find(id) {
            Some((key, worker)) => self.stop(key, worker, purpose, None),
            None => self.ignore(),
        }
    }

    /// Stops every slot, last started first; with `faster`, also those that are stopping already.
    pub(super) fn stop_every_slot(&mut self, faster: Option<ShutdownPolicy>) {
        for key in self.roster.keys_in_reverse() {
            match self.roster.seat(key).state() {
                SeatState::Queued(_) | SeatState::Waiting { .. } => self.retire(key, Down::Stopped),
                SeatState::Filled(worker) => self.stop(key, worker, Purpose::Remove, faster),
                SeatState::Failed | SeatState::Stopped => {}
            }
        }
    }

    pub(super) fn shut_down(&mut self, at_once: bool, gave_up: Option<GaveUp>) {
        let faster = at_once.then_some(ShutdownPolicy::Brutal);
        match &mut self.course {
            Course::Prepared | Course::Running => {
                self.course = Course::ShuttingDown {
                    brutal: at_once,
                    gave_up,
                };
                self.publish(None, EventKind::ShutdownStarted);
                self.stop_every_slot(faster);
            }
            Course::ShuttingDown { brutal, .. } if at_once && !*brutal => {
                *brutal = true;
                self.stop_every_slot(faster);
            }
            Course::ShuttingDown { .. } | Course::Stopped => self.ignore(),
        }
    }

    fn stop(&mut self, key: SeatKey, worker: Occupant, purpose: Purpose, faster: Option<ShutdownPolicy>) {
        let id = worker.id;
        let policy = self.config.specs[self.roster.seat(key).spec].shutdown;
        // "Not again" outweighs "again", whichever came first.
        let purpose = match worker.purpose() {
            Some(Purpose::Remove) => Purpose::Remove,
            Some(Purpose::Replace) | None => purpose,
        };
        let (stage, order) = match worker.stage {
            Stage::Wanted | Stage::Ending => (Stage::Stopping(purpose), Some(faster.unwrap_or(policy))),
            Stage::Stopping(_) => (Stage::Stopping(purpose), faster),
            Stage::Unkillable(_) => (Stage::Unkillable(Some(purpose)), None),
        };
        self.roster.set(key, SeatState::Filled(Occupant { stage, ..worker }));
        if let Some(policy) = order {
            self.actions.push_back(Action::Stop { id, policy });
        }
    }
}

/// After each input.
impl Supervision {
    /// Starts what may be started, and looks whether something became true by all this together.
    pub(super) fn settle(&mut self) {
        while self.course == Course::Running
            && self.roster.sums().booting < self.config.max_booting.max(1)
            && let Some(key) = self.roster.first_queued()
        {
            self.spawn(key);
        }
        let sums = self.roster.sums();
        let all_ready = self.course == Course::Running && sums.target > 0 && sums.ready == sums.target;
        if all_ready && !self.all_ready {
            self.publish(None, EventKind::AllReady { workers: sums.ready });
        }
        self.all_ready = all_ready;
        if let Some(outcome) = self.outcome() {
            self.course = Course::Stopped;
            self.actions.push_back(Action::Finished(outcome));
        }
    }

    fn spawn(&mut self, key: SeatKey) {
        let id = self.next_id;
        self.next_id = id.next();
        let worker = Occupant {
            id,
            forked: false,
            ready_at: None,
            stage: Stage::Wanted,
        };
        self.roster.set(key, SeatState::Filled(worker));
        let seat = self.roster.seat(key);
        self.had_workers |= seat.request.is_none();
        self.actions.push_back(Action::Spawn {
            id,
            slot: seat.slot.clone(),
            generation: Generation::default(),
            restarts: seat.restarts,
        });
    }

    /// How the cluster has ended, if it has.
    fn outcome(&self) -> Option<Outcome> {
        let sums = self.roster.sums();
        match &self.course {
            Course::Prepared | Course::Stopped => None,
            Course::Running => {
                let is_over = self.config.when_empty == WhenEmpty::Stop && self.had_workers && self.roster.is_at_rest();
                is_over.then_some(if sums.failed > 0 {
                    Outcome::AllFailed
                } else {
                    Outcome::Clean
                })
            }
            // Whom SIGKILL does not end is not waited for.
            Course::ShuttingDown { .. } if sums.filled > sums.unkillable => None,
            Course::ShuttingDown { .. } if sums.unkillable > 0 => Some(Outcome::Unkillable(
                self.roster.workers().map(|worker| worker.id).collect(),
            )),
            Course::ShuttingDown {
                gave_up: Some(gave_up), ..
            } => Some(Outcome::GaveUp(gave_up.clone())),
            Course::ShuttingDown { brutal: true, .. } => Some(Outcome::Killed),
            Course::ShuttingDown { brutal: false, .. } => Some(Outcome::Clean),
        }
    }

    pub(super) fn refuse(&mut self, request: RequestId, refused: ForkRefused) {
        let result = Err(refused);
        self.actions.push_back(Action::Forked { request, result });
    }

    pub(super) fn ignore(&mut self) {
        self.ignored = self.ignored.saturating_add(1);
    }

    fn publish(&mut self, worker: Option<WorkerId>, kind: EventKind) {
        self.actions.push_back(Action::Publish { worker, kind });
    }
}

fn spawn_refusal(exit: Exit) -> ForkRefused {
    match exit.reason {
        ExitReason::SpawnFailed(failure) => ForkRefused::Spawn(failure),
        ExitReason::Ordered
        | ExitReason::Voluntary
        | ExitReason::Crash
        | ExitReason::BootTimeout
        | ExitReason::Protocol(_)
        | ExitReason::ChannelClosed
        | ExitReason::Killed => ForkRefused::Stopping,
    }
}
