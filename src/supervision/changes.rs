//! One worker is replaced by another on purpose: the successor beside it first, or in place.
//!
//! ```text
//!  beside:    Booting ── ready ──► Probation ── survived ──► Leaving ── the predecessor is gone ──► done
//!  in place:  Emptying ── the predecessor is gone ──► Booting ──► Probation ──► done
//!  either:    any ── the successor ends, or is late ──► failed; beside, the predecessor never noticed
//! ```
//!
//! Not here: whose turn it is and what a failure means for the others ([`super::rollout`], [`super::recycle`]).

use std::time::Duration;

use crate::model::{Exit, Mono, ReloadFailure, WorkerId};
use crate::policy::RolloutOptions;

use super::seat::{Beside, Content, Occupant, Purpose, Role, SeatKey, SeatState, Turn};
use super::{Action, Supervision};

/// The replacement of one slot's worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) why: Why,
    pub(super) way: Way,
    progress: Progress,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Reload,
    Recycling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The successor first; there are two for a while.
    Beside,
    /// The predecessor is stopped first; there is none for a while.
    InPlace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// In place: the predecessor is stopping, or the slot waits for its turn to boot.
    Emptying,
    Booting {
        deadline: Mono,
    },
    Probation {
        until: Mono,
    },
    /// Beside: the predecessor is stopping.
    Leaving,
}

impl Change {
    pub(super) const fn next_deadline(&self) -> Option<Mono> {
        match self.progress {
            Progress::Booting { deadline } => Some(deadline),
            Progress::Probation { until } => Some(until),
            Progress::Emptying | Progress::Leaving => None,
        }
    }
}

/// How many more changes may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    beside: usize,
    in_place: usize,
}

impl Room {
    /// So many are missing already.
    pub(super) const fn leave_out_in_place(&mut self, missing: usize) {
        self.in_place = self.in_place.saturating_sub(missing);
    }

    /// For how many?
    pub(super) const fn left(self) -> usize {
        self.beside.saturating_add(self.in_place)
    }

    /// Which way the next one goes, if there is room.
    pub(super) const fn next(&mut self) -> Option<Way> {
        if self.beside > 0 {
            self.beside -= 1;
            Some(Way::Beside)
        } else if self.in_place > 0 {
            self.in_place -= 1;
            Some(Way::InPlace)
        } else {
            None
        }
    }
}

impl Supervision {
    /// What the options leave room for now; a process that still drains beside its successor takes room too.
    pub(super) fn room(&self, options: &RolloutOptions) -> Room {
        let of = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let in_place = self.changes.values().filter(|change| change.way == Way::InPlace);
        Room {
            beside: of(options.surge).saturating_sub(self.roster.sums().beside),
            in_place: of(options.max_unavailable).saturating_sub(in_place.count()),
        }
    }

    pub(super) fn begin_change(&mut self, key: SeatKey, why: Why, way: Way, now: Mono) {
        match way {
            Way::Beside => {
                let deadline = now + self.options_of(why).step_deadline;
                let progress = Progress::Booting { deadline };
                self.changes.insert(key, Change { why, way, progress });
                self.spawn_beside(key, self.goal_of(key), now);
            }
            Way::InPlace => {
                let progress = Progress::Emptying;
                self.changes.insert(key, Change { why, way, progress });
                match self.roster.seat(key).state() {
                    SeatState::Filled(_) => self.stop_slot(key, Purpose::Replace, None),
                    SeatState::Waiting { .. } | SeatState::Failed | SeatState::Stopped => {
                        self.roster.set(key, SeatState::Queued(Turn::Restart));
                    }
                    SeatState::Queued(_) | SeatState::Held => {}
                }
            }
        }
    }

    /// How long a worker that is being started leaves the queue to the predecessor it stands beside. In place there is
    /// none, and nothing to be left.
    pub(crate) fn probation_of(&self, id: WorkerId) -> Duration {
        let change = self
            .roster
            .find(id)
            .filter(|(_, role, _)| *role == Role::Coming)
            .and_then(|(key, _, _)| self.changes.get(&key));
        change.map_or(Duration::ZERO, |change| self.options_of(change.why).probation)
    }

    /// A slot's new worker is being started: if it is the successor of a change in place, its limit begins.
    pub(super) fn change_spawned(&mut self, key: SeatKey, now: Mono) {
        let Some(change) = self.changes.get(&key).filter(|change| change.way == Way::InPlace) else {
            return;
        };
        let deadline = now + self.options_of(change.why).step_deadline;
        self.set_progress(key, Progress::Booting { deadline });
    }

    /// A worker got ready: if it is a successor, its probation begins.
    pub(super) fn newcomer_ready(&mut self, key: SeatKey, id: WorkerId, now: Mono) {
        let Some(change) = self.changes.get(&key).copied() else {
            return;
        };
        if matches!(change.progress, Progress::Booting { .. })
            && self.newcomer(key, change.way).is_some_and(|worker| worker.id == id)
        {
            let until = now + self.options_of(change.why).probation;
            self.set_progress(key, Progress::Probation { until });
        }
    }

    /// A successor that was still beside has ended.
    pub(super) fn newcomer_exited(&mut self, key: SeatKey, id: WorkerId, exit: Exit, now: Mono) {
        self.roster.change(key, |content| content.beside = None);
        self.newcomer_failed(key, Some(id), ReloadFailure::Exited(Box::new(exit)), now);
        self.lay_down(key);
    }

    /// A slot's own worker has ended, unasked. Says whether that was a failure of a reload, which costs the slot
    /// nothing, because the worker never was what the slot should hold: neither its budget, nor, if its workers are not
    /// restarted, its place. Only where others go down with a failed worker the rules of the group come first.
    pub(super) fn is_failure_of_reload(&mut self, key: SeatKey, worker: Occupant, exit: &Exit) -> bool {
        let is_newcomer = self.changes.get(&key).is_some_and(|change| {
            change.why == Why::Reload && change.way == Way::InPlace && change.progress != Progress::Emptying
        });
        let is_forward = self.reloads.goal(key.spec).is_some();
        let is_blamed = self.is_blamed(key, worker, exit);
        let is_taken_back = self.is_taken_back(key, worker, exit);
        if is_newcomer {
            self.changes.remove(&key);
        }
        if is_newcomer || is_blamed {
            self.abort_reload(Some(worker.id), ReloadFailure::Exited(Box::new(exit.clone())));
        }
        if is_newcomer {
            self.note_emptied(key);
        }
        let is_alone = || self.goes_alone(key.spec) || !self.specs[&key.spec].config.restart.deserves_restart(exit);
        (is_newcomer && is_forward) || ((is_blamed || is_taken_back) && is_alone())
    }

    /// Fills a slot again whose worker failed in a reload: with the one that was to take it back, if there is one.
    pub(super) fn refill(&mut self, key: SeatKey) {
        self.queue_restart(key);
        let is_coming = matches!(self.roster.seat(key).beside(), Some(Beside::Coming(_)));
        if is_coming && self.reloads.is_going_back() && self.changes.get(&key).is_some_and(|it| it.why == Why::Reload) {
            self.take_over(key);
        }
    }

    /// A successor is not what it should be. Beside, it goes and nothing has happened; what follows for the others is
    /// up to who wanted the change.
    pub(super) fn newcomer_failed(&mut self, key: SeatKey, id: Option<WorkerId>, reason: ReloadFailure, now: Mono) {
        let change = self.changes.remove(&key);
        if matches!(self.roster.seat(key).beside(), Some(Beside::Coming(_))) {
            self.stop_beside(key, None);
        }
        match change {
            Some(Change { why: Why::Reload, .. }) if self.reloads.is_going_back() => {
                // The way back must not fail. Without a successor beside it the slot is restarted, by the restart rules.
                if let SeatState::Filled(worker) = self.roster.seat(key).state()
                    && worker.generation != self.goal_of(key)
                {
                    self.stop_slot(key, Purpose::Replace, None);
                }
            }
            Some(Change {
                why: Why::Reload, way, ..
            }) => {
                self.abort_reload(id, reason);
                if way == Way::InPlace && self.newcomer(key, way).is_some_and(|worker| !worker.is_ready()) {
                    self.note_emptied(key);
                    self.stop_slot(key, Purpose::Replace, None);
                }
            }
            Some(Change {
                why: Why::Recycling,
                way: Way::Beside,
                ..
            }) => self.postpone_expiry(key, now),
            Some(Change {
                why: Why::Recycling,
                way: Way::InPlace,
                ..
            })
            | None => {}
        }
    }

    /// The slot has other worries; a successor beside it is not wanted any more.
    pub(super) fn cancel_change(&mut self, key: SeatKey) {
        if self.changes.remove(&key).is_some() && matches!(self.roster.seat(key).beside(), Some(Beside::Coming(_))) {
            self.stop_beside(key, None);
        }
    }

    /// Moves on each change that waits for the time, or for an end that has come.
    pub(super) fn advance_changes(&mut self, now: Mono) {
        let keys: Vec<SeatKey> = self.changes.keys().copied().collect();
        for key in keys {
            // One failure may have ended the others.
            let Some(change) = self.changes.get(&key).copied() else {
                continue;
            };
            let newcomer = self.newcomer(key, change.way);
            match change.progress {
                Progress::Booting { deadline } if deadline <= now => {
                    let late = newcomer.map(|worker| worker.id);
                    self.newcomer_failed(key, late, ReloadFailure::NotReadyInTime, now);
                }
                Progress::Probation { until } if until <= now => match newcomer.filter(Occupant::is_ready) {
                    Some(_) if change.way == Way::Beside => self.take_over(key),
                    Some(_) => self.change_done(key, change, now),
                    // It is ending; its exit says why.
                    None => self.set_progress(key, Progress::Leaving),
                },
                Progress::Booting { .. } | Progress::Probation { .. } | Progress::Emptying | Progress::Leaving => {}
            }
            let beside = self.roster.seat(key).beside();
            if let Some(change) = self.changes.get(&key).copied()
                && (change.way, change.progress) == (Way::Beside, Progress::Leaving)
                && match beside {
                    None => true,
                    Some(Beside::Leaving(worker)) => worker.is_unkillable(),
                    Some(Beside::Coming(_)) => false,
                }
            {
                self.change_done(key, change, now);
            }
        }
    }

    /// The successor becomes the slot's worker; its predecessor may go.
    fn take_over(&mut self, key: SeatKey) {
        let content = self.roster.seat(key).content();
        let Some(Beside::Coming(newcomer)) = content.beside else {
            return;
        };
        let policy = self.specs[&key.spec].config.shutdown;
        let mut order = None;
        let leaving = content.main().map(|mut old| {
            if old.take_order(Purpose::Remove) {
                order = Some(Action::Stop { id: old.id, policy });
            }
            Beside::Leaving(old)
        });
        self.roster.change(key, |content| {
            *content = Content {
                state: SeatState::Filled(newcomer),
                beside: leaving,
                awaited: false,
                declined: false,
            };
        });
        self.actions.extend(order);
        // Whoever waited for the predecessor to be ready has a ready worker now.
        self.start_succeeded(key);
        self.set_progress(key, Progress::Leaving);
    }

    fn change_done(&mut self, key: SeatKey, change: Change, now: Mono) {
        self.changes.remove(&key);
        if change.why == Why::Reload {
            let is_last = !self.changes.values().any(|change| change.why == Why::Reload);
            self.reloads.one_done(is_last, now);
        }
    }

    fn newcomer(&self, key: SeatKey, way: Way) -> Option<Occupant> {
        let content = self.roster.seat(key).content();
        match (way, content.beside) {
            (Way::Beside, Some(Beside::Coming(worker))) => Some(worker),
            (Way::Beside, Some(Beside::Leaving(_)) | None) => None,
            (Way::InPlace, _) => content.main(),
        }
    }

    fn set_progress(&mut self, key: SeatKey, progress: Progress) {
        if let Some(change) = self.changes.get_mut(&key) {
            change.progress = progress;
        }
    }

    fn options_of(&self, why: Why) -> RolloutOptions {
        match why {
            Why::Reload => self.reloads.options(),
            Why::Recycling => self.config.recycle,
        }
    }

    /// For a change of a slot, what its successor runs.
    fn goal_of(&self, key: SeatKey) -> crate::model::Generation {
        self.reloads
            .goal(key.spec)
            .unwrap_or_else(|| self.specs[&key.spec].generation)
    }

    /// What is to be recycled next must be in its slot, and to stay there.
    pub(super) fn may_be_replaced(&self, id: WorkerId) -> Option<SeatKey> {
        let (key, role, worker) = self.roster.find(id)?;
        let seat = self.roster.seat(key);
        let is_free = seat.beside().is_none() && seat.request.is_none() && !self.changes.contains_key(&key);
        let is_there = role == Role::Main && worker.stage == super::Stage::Wanted;
        (is_free && is_there).then_some(key)
    }
}
