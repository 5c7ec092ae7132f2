//! What follows from each fact about a worker: the restart rules of [`Supervision`].
//!
//! Not here: its doors (in `mod.rs`), what handles order ([`super::orders`]), what comes true by all this together
//! ([`super::settle`]).

use std::time::Duration;

use crate::model::{EventKind, Exit, ExitReason, GaveUp, Mono, WorkerError, WorkerId};
use crate::policy::{AutoShutdown, Escalation, affected_by, declines_restart, has_nothing_to_do};

use super::changes::Way;
use super::seat::{Asked, Occupant, Purpose, Role, SeatKey, SeatState, Stage, Turn};
use super::{Course, Supervision};

/// For what a slot is left without a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    Failed,
    Stopped,
    /// Stopped, because its worker had nothing to do.
    Declined,
}

/// Facts about workers.
impl Supervision {
    pub(super) fn forked(&mut self, id: WorkerId) {
        let Some((key, role, worker)) = self.roster.find(id).filter(|(_, _, worker)| !worker.forked) else {
            return self.ignore();
        };
        // A start that fails leaves the cluster as it was.
        self.had_workers |= !matches!(self.roster.seat(key).request, Some(Asked::Start(_)));
        self.roster.put(key, role, Occupant { forked: true, ..worker });
        self.publish(Some(id), EventKind::Fork);
        if role == Role::Main {
            let seat = self.roster.seat_mut(key);
            if let Some(Asked::Fork(request)) = seat.request {
                seat.request = None;
                let slot = seat.slot.clone();
                self.answer_fork(request, Ok((slot, id)));
            }
        }
    }

    /// A step of a worker's life that is told on, and what it changes.
    pub(super) fn heard(&mut self, id: WorkerId, kind: EventKind, change: impl FnOnce(&mut Occupant)) {
        let Some((key, role, mut worker)) = self.roster.find(id).filter(|(_, _, worker)| worker.forked) else {
            return self.ignore();
        };
        change(&mut worker);
        self.roster.put(key, role, worker);
        self.publish(Some(id), kind);
    }

    pub(super) fn got_ready(&mut self, id: WorkerId, now: Mono) {
        self.heard(id, EventKind::Ready, |worker| worker.ready_at = Some(now));
        let Some((key, role, mut worker)) = self.roster.find(id).filter(|(_, _, worker)| worker.is_ready()) else {
            return;
        };
        worker.expires_at = self.expiry(key, now);
        worker.served_out_at = self.share_of_requests(key);
        self.roster.put(key, role, worker);
        self.had_workers = true;
        if role == Role::Main {
            self.roster.change(key, |content| content.awaited = false);
            self.start_succeeded(key);
        }
        self.newcomer_ready(key, id, now);
    }

    pub(super) fn failed(&mut self, id: WorkerId, error: WorkerError) {
        self.note_words(id, &error);
        let is_unkillable = error == WorkerError::Unkillable;
        let before = self.roster.find(id).filter(|(_, _, worker)| worker.forked);
        self.heard(id, EventKind::Error(error), |worker| {
            if is_unkillable {
                worker.stage = Stage::Unkillable(worker.purpose());
            }
        });
        if let Some((key, _, worker)) = before.filter(|_| is_unkillable)
            && !worker.is_unkillable()
        {
            self.not_waited_for(key.spec, id);
        }
    }

    pub(super) fn exited(&mut self, id: WorkerId, exit: Exit, now: Mono) {
        let Some((key, role, worker)) = self.roster.find(id) else {
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
        self.recycling.forget(id);
        if !worker.is_unkillable() {
            self.not_waited_for(key.spec, id);
        }
        let stable_after = self.specs[&key.spec].config.stable_after;
        let seat = self.roster.seat_mut(key);
        seat.last_exit = Some(exit.clone());
        if worker.ready_at.is_some_and(|ready| now.since(ready) >= stable_after) {
            seat.streak = 0;
        }
        match role {
            Role::Main => self.main_exited(key, worker, &exit, now),
            Role::Coming => self.newcomer_exited(key, id, exit, now),
            Role::Leaving => {
                self.roster.change(key, |content| content.beside = None);
                self.lay_down(key);
            }
        }
    }

    fn main_exited(&mut self, key: SeatKey, worker: Occupant, exit: &Exit, now: Mono) {
        self.roster.change(key, |content| content.awaited = false);
        let seat = self.roster.seat_mut(key);
        if let Some(Asked::Fork(request)) = seat.request {
            // The caller is told and decides; a slot that nobody got is not kept.
            seat.request = None;
            self.answer_fork(request, Err(super::orders::spawn_refusal(exit)));
            return self.retire(key, Down::Stopped);
        }
        if matches!(self.course, Course::ShuttingDown { .. }) {
            return self.retire(key, Down::Stopped);
        }
        let is_in_group = self.group.as_ref().is_some_and(|group| group.covers(key.spec));
        match worker.purpose() {
            Some(Purpose::Remove) => self.retire(key, Down::Stopped),
            Some(Purpose::Fail) => self.retire(key, Down::Failed),
            Some(Purpose::Hold) => self.left_with_group(key),
            // It would have been stopped with its group anyway, and the group's failure counts once.
            Some(Purpose::Replace) | None if is_in_group => self.hold(key),
            Some(Purpose::Replace) => self.queue_restart(key),
            None if self.is_failure_of_reload(key, worker, exit) => self.refill(key),
            None => self.judge(key, worker.id, exit, now),
        }
    }

    /// An end that nobody ordered: deserved, too often, who goes with it, when?
    fn judge(&mut self, key: SeatKey, id: WorkerId, exit: &Exit, now: Mono) {
        if has_nothing_to_do(exit) {
            self.start_succeeded(key);
            self.retire(key, Down::Declined);
            // Who never could serve has not ended, because it has not begun: OTP's `ignore` ends no cluster.
            if exit.was_ready {
                self.significant_end(key, None);
            }
            return;
        }
        if self.start_failed(key, id, exit) {
            return;
        }
        let spec = &self.specs[&key.spec].config;
        if declines_restart(exit) {
            self.retire(key, Down::Failed);
            return self.significant_end(key, None);
        }
        if !spec.restart.deserves_restart(exit) {
            self.retire(key, Down::Stopped);
            return self.significant_end(key, None);
        }
        if self.is_too_often(key, now) {
            return;
        }
        let seat = self.roster.seat_mut(key);
        seat.streak = seat.streak.saturating_add(1);
        let mut delay = self.specs[&key.spec].config.delay.delay(seat.streak, &mut self.random);
        if seat.streak > 1 && matches!(exit.reason, ExitReason::SpawnFailed(_)) {
            delay = delay.max(RETRY_OF_START);
        }
        let scheduled = EventKind::RestartScheduled {
            slot: seat.slot.clone(),
            delay,
            attempt: seat.window.count().unwrap_or(seat.streak),
        };
        let affected = self.affected(key.spec, id);
        if !affected.is_empty() {
            self.publish(None, scheduled);
            self.hold(key);
            return self.take_down_group(affected, now + delay);
        }
        if delay.is_zero() {
            self.queue_restart(key);
        } else {
            let seat = self.roster.seat_mut(key);
            seat.restarts = seat.restarts.saturating_add(1);
            self.roster.set(key, SeatState::Waiting { until: now + delay });
        }
        self.publish(None, scheduled);
    }

    /// Counts the restart: for the slot, for its spec, for the cluster. The first that has too many acts.
    fn is_too_often(&mut self, key: SeatKey, now: Mono) -> bool {
        let seat = self.roster.seat_mut(key);
        let slot = seat.slot.clone();
        let is_allowed = seat.window.record(now);
        let spec = self.specs.get_mut(&key.spec).expect("a slot's spec is kept");
        if !is_allowed {
            let gave_up = GaveUp::Slot {
                slot,
                limit: spec.config.limit.max,
                period: spec.config.limit.period,
            };
            self.publish(None, EventKind::GaveUp(gave_up.clone()));
            self.retire(key, Down::Failed);
            self.significant_end(key, Some(gave_up));
            return true;
        }
        if let (Some(intensity), Some(window)) = (spec.config.intensity, &mut spec.window)
            && !window.record(now)
        {
            let gave_up = GaveUp::Spec {
                spec: slot.spec,
                limit: intensity.max,
                period: intensity.period,
            };
            let escalation = spec.config.escalation;
            self.roster.seat_mut(key).window.take_back();
            self.publish(None, EventKind::GaveUp(gave_up.clone()));
            self.retire(key, Down::Failed);
            match escalation {
                Escalation::FailSpec => {
                    self.fail_spec(key.spec);
                    self.significant_end(key, Some(gave_up));
                }
                Escalation::StopCluster => self.shut_down(false, Some(gave_up)),
            }
            return true;
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
            self.shut_down(false, Some(gave_up));
            return true;
        }
        false
    }

    /// Which specs go with this worker of this spec. A strategy that panics is told of, and nobody goes.
    fn affected(&mut self, failed: super::SpecKey, id: WorkerId) -> Vec<super::SpecKey> {
        self.asked_strategy(failed).unwrap_or_else(|panic| {
            self.publish(Some(id), EventKind::Error(WorkerError::Strategy(panic)));
            Vec::new()
        })
    }

    /// Does nobody go with a worker of this spec?
    pub(super) fn goes_alone(&self, failed: super::SpecKey) -> bool {
        self.asked_strategy(failed).map_or(true, |affected| affected.is_empty())
    }

    /// What the strategy says, or how it panics.
    fn asked_strategy(&self, failed: super::SpecKey) -> Result<Vec<super::SpecKey>, String> {
        // Keys grow with every spec that is added.
        let position = self.order.partition_point(|key| *key < failed);
        let affected = affected_by(&*self.config.strategy, position, self.order.len())?;
        Ok(self.order.get(affected).unwrap_or_default().to_vec())
    }

    /// A worker has ended by itself and is not restarted: does that end the cluster?
    fn significant_end(&mut self, key: SeatKey, gave_up: Option<GaveUp>) {
        if !self.specs[&key.spec].config.significant {
            return;
        }
        let is_left = |(key, spec): (&super::SpecKey, &super::Spec)| {
            let sums = self.roster.sums_of(*key);
            spec.config.significant && sums.target > sums.failed
        };
        let ends = match self.config.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !self.specs.iter().any(is_left),
        };
        if ends && matches!(self.course, Course::Running) {
            self.shut_down(false, gave_up);
        }
    }

    pub(super) fn queue_restart(&mut self, key: SeatKey) {
        let seat = self.roster.seat_mut(key);
        seat.restarts = seat.restarts.saturating_add(1);
        let state = match &self.group {
            Some(group) if group.covers(key.spec) => SeatState::Held,
            Some(_) | None => SeatState::Queued(Turn::Restart),
        };
        self.roster.set(key, state);
    }

    /// No worker comes to this slot by itself any more.
    pub(super) fn retire(&mut self, key: SeatKey, down: Down) {
        let request = self.roster.seat_mut(key).request.take();
        match request {
            Some(Asked::Fork(request)) => self.answer_fork(request, Err(super::ForkRefused::Stopping)),
            Some(Asked::Start(request)) => self.start_overtaken(request),
            None => {}
        }
        let state = match down {
            Down::Failed => {
                // A successor beside it may still fill the slot; one in place was this one.
                if self.changes.get(&key).is_some_and(|change| change.way == Way::InPlace) {
                    self.changes.remove(&key);
                }
                SeatState::Failed
            }
            Down::Stopped | Down::Declined => {
                self.cancel_change(key);
                SeatState::Stopped
            }
        };
        self.roster.change(key, |content| {
            content.state = state;
            content.awaited = false;
            content.declined = down == Down::Declined;
        });
        self.lay_down(key);
    }

    /// Tells that a slot is empty and stays so, once the second process is gone too.
    pub(super) fn lay_down(&mut self, key: SeatKey) {
        let seat = self.roster.seat(key);
        let is_down = matches!(seat.state(), SeatState::Failed | SeatState::Stopped);
        if !is_down || seat.beside().is_some() {
            return;
        }
        let slot = seat.slot.clone();
        if seat.is_extra && seat.state() == SeatState::Stopped {
            self.changes.remove(&key);
            self.forget_seat(key);
        }
        self.ended.insert(key.spec);
        self.actions.push_back(super::Action::SlotGone { slot });
    }
}

/// In a row of failures a start that failed is tried again only after this, even without a delay: its failure is known in
/// the instant of the try, so tries at once would follow each other within one turn of the master, and nobody could be
/// heard who wants them to end. (OTP sends itself a message for each try.)
const RETRY_OF_START: Duration = Duration::from_millis(10);
