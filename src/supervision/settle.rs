//! After each input: who may be started, and what has come true by all this together.
//!
//! Not here: why somebody is queued.

use crate::model::{EventKind, Generation, Mono, WorkerId};
use crate::policy::WhenEmpty;

use super::seat::{Beside, SeatKey, SeatState};
use super::{Action, Course, Outcome, Supervision};

impl Supervision {
    pub(super) fn settle(&mut self, now: Mono) {
        loop {
            self.advance(now);
            let had_reload = self.reloads.running.is_some();
            self.advance_ordered_stop();
            self.answer_stops();
            self.forget_temporaries();
            // A reload may have ended with its spec. Who waited for that goes on now: nothing else may happen for long.
            if !had_reload || self.reloads.running.is_some() {
                break;
            }
        }
        self.tell_all_ready();
        if let Some(outcome) = self.outcome() {
            self.end_reloads(&crate::model::ReloadFailure::ShuttingDown);
            self.end_starts();
            self.course = Course::Stopped;
            self.actions.push_back(Action::Finished(outcome));
        }
    }

    fn advance(&mut self, now: Mono) {
        if self.course == Course::Running {
            self.advance_group(now);
            self.advance_changes(now);
            self.start_queued(now);
            self.advance_reload(now);
            self.advance_recycling(now);
            // A change in place has made room for nobody else, but a reload that ended may have queued the next one.
            self.start_queued(now);
            self.advance_standbys(now);
        }
    }

    /// May one more worker boot?
    pub(super) fn may_boot(&self) -> bool {
        self.roster.sums().booting < self.config.max_booting.max(1)
    }

    fn start_queued(&mut self, now: Mono) {
        while self.course == Course::Running
            && self.may_boot()
            && let Some(key) = self.roster.first_queued()
        {
            let worker = self.fill(key, self.generation_for(key), now);
            self.roster.set(key, SeatState::Filled(worker));
            self.change_spawned(key, now);
            let seat = self.roster.seat(key);
            self.had_workers |= seat.request.is_none();
        }
    }

    /// Starts a successor beside whoever is in the slot.
    pub(super) fn spawn_beside(&mut self, key: SeatKey, generation: Generation, now: Mono) {
        let worker = self.fill(key, generation, now);
        self.roster.change(key, |content| {
            content.beside = Some(Beside::Coming(worker));
        });
    }

    pub(super) fn spawn(&mut self, key: SeatKey, generation: Generation) -> WorkerId {
        let id = self.next_id;
        self.next_id = id.next();
        let seat = self.roster.seat(key);
        self.actions.push_back(Action::Spawn {
            id,
            slot: seat.slot.clone(),
            generation,
            restarts: seat.restarts,
        });
        id
    }

    fn tell_all_ready(&mut self) {
        let sums = self.roster.sums();
        let all_ready = self.course == Course::Running && sums.target > 0 && sums.ready == sums.target;
        if all_ready && !self.all_ready {
            self.publish(None, EventKind::AllReady { workers: sums.ready });
        }
        self.all_ready = all_ready;
    }

    /// How the cluster has ended, if it has.
    fn outcome(&self) -> Option<Outcome> {
        let sums = self.roster.sums();
        match &self.course {
            Course::Prepared | Course::Stopped => None,
            Course::Running => {
                let is_over = self.config.when_empty == WhenEmpty::Stop
                    && self.had_workers
                    && self.roster.is_at_rest()
                    && self.standbys.is_empty()
                    // What was emptied by hand may be filled by hand.
                    && !self.was_emptied
                    && !self.specs.values().any(|spec| spec.is_open);
                is_over.then_some(if sums.failed > 0 {
                    Outcome::AllFailed
                } else {
                    Outcome::Clean
                })
            }
            // Whom SIGKILL does not end is not waited for.
            Course::ShuttingDown { .. } if sums.living() + self.standbys.living() > 0 => None,
            Course::ShuttingDown { .. } if sums.unkillable > 0 || !self.standbys.is_empty() => {
                let standbys = self.standbys.iter().map(|standby| standby.worker);
                let left = self.roster.workers().chain(standbys);
                Some(Outcome::Unkillable(left.map(|worker| worker.id).collect()))
            }
            Course::ShuttingDown {
                gave_up: Some(gave_up), ..
            } => Some(Outcome::GaveUp(gave_up.clone())),
            Course::ShuttingDown { brutal: true, .. } => Some(Outcome::Killed),
            Course::ShuttingDown { brutal: false, .. } => Some(Outcome::Clean),
        }
    }

    pub(super) fn ignore(&mut self) {
        self.ignored = self.ignored.saturating_add(1);
    }

    pub(super) fn publish(&mut self, worker: Option<WorkerId>, kind: EventKind) {
        self.actions.push_back(Action::Publish { worker, kind });
    }
}
