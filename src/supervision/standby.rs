//! Workers that stand by: booted, without a slot, until one is empty.
//!
//! A slot that is to get a worker gets one of them if there is one of the right spec and generation, and a new process
//! otherwise; every other rule of slots is the same for both. Nobody waits for a standby: it is started when no slot boots
//! or waits for its turn, one at a time, and its ends are counted nowhere but in its own back-off, so that a program that
//! boots no more harms those that serve neither by its restarts nor by the places it takes. Not here: the slots.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{EventKind, ExitReason, Generation, Mono, RecycleReason, WorkerError, WorkerId};
use crate::policy::{Backoff, RestartDelay, ShutdownPolicy};

use super::orders::newborn;
use super::seat::{Occupant, Purpose, SeatKey, SpecKey, Stage};
use super::{Action, Course, Input, Supervision};

/// Everybody who stands by, and when the next may be started.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    members: BTreeMap<WorkerId, Standby>,
    rests: BTreeMap<SpecKey, Rest>,
    /// The specs that want some. Most want none, and there may be thousands of them.
    wanting: BTreeSet<SpecKey>,
}

/// One process without a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standby {
    pub(super) spec: SpecKey,
    /// It is "ready" when it can be promoted.
    pub(super) worker: Occupant,
    /// Another one is to take its place; it can be promoted until then.
    pub(super) is_old: bool,
}

/// Why no standby of a spec is started now.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    until: Option<Mono>,
    /// Ends in a row that nobody ordered.
    streak: u32,
}

impl Standby {
    /// Is it there to stay?
    fn is_wanted(&self) -> bool {
        self.worker.stage == Stage::Wanted
    }
}

impl Standbys {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Standby> {
        self.members.values()
    }

    pub(super) fn of(&self, spec: SpecKey) -> impl DoubleEndedIterator<Item = &Standby> {
        self.iter().filter(move |standby| standby.spec == spec)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Processes whose end may be waited for.
    pub(super) fn living(&self) -> usize {
        self.iter().filter(|standby| !standby.worker.is_unkillable()).count()
    }

    /// The same of one spec.
    pub(super) fn living_of(&self, spec: SpecKey) -> usize {
        let living = self.of(spec).filter(|standby| !standby.worker.is_unkillable());
        living.count()
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let ages = self.iter().filter_map(|standby| standby.worker.expires_at);
        let rests = self.rests.values().filter_map(|rest| rest.until);
        ages.chain(rests).min()
    }

    /// Is the next one of this spec put off?
    #[cfg(test)]
    pub(super) fn rests(&self, spec: SpecKey) -> bool {
        self.rests.get(&spec).is_some_and(|rest| rest.until.is_some())
    }

    /// So many of a spec are to stand by.
    pub(super) fn want(&mut self, spec: SpecKey, count: u32) {
        if count > 0 {
            self.wanting.insert(spec);
        } else {
            self.wanting.remove(&spec);
        }
    }

    pub(super) fn forget_spec(&mut self, spec: SpecKey) {
        self.wanting.remove(&spec);
        self.rests.remove(&spec);
    }

    fn change(&mut self, id: WorkerId, change: impl FnOnce(&mut Standby)) {
        if let Some(standby) = self.members.get_mut(&id) {
            change(standby);
        }
    }

    fn rest(&mut self, spec: SpecKey, until: Mono) {
        let rest = self.rests.entry(spec).or_default();
        rest.until = Some(rest.until.map_or(until, |before| before.max(until)));
    }

    /// Looks at what is due: rests that are over, and who has become old.
    fn time_passed(&mut self, now: Mono) {
        for rest in self.rests.values_mut() {
            rest.until = rest.until.filter(|until| *until > now);
        }
        for standby in self.members.values_mut() {
            if standby.worker.expires_at.take_if(|at| *at <= now).is_some() {
                standby.is_old = true;
            }
        }
    }
}

/// Facts and orders about those who stand by.
impl Supervision {
    /// Takes what is about one of them; gives back what is about somebody else.
    pub(super) fn take_standby_input(&mut self, input: Input, now: Mono) -> Option<Input> {
        let id = match &input {
            Input::WorkerForked { id }
            | Input::WorkerOnline { id }
            | Input::WorkerStandsBy { id }
            | Input::WorkerListening { id, .. }
            | Input::WorkerReady { id }
            | Input::WorkerExiting { id }
            | Input::WorkerDisconnected { id }
            | Input::WorkerExited { id, .. }
            | Input::WorkerFailed { id, .. }
            | Input::WorkerServed { id, .. }
            | Input::WorkerStopRequested { id }
            | Input::RestartRequested { id }
            | Input::RecycleRequested { id, .. } => *id,
            Input::Started
            | Input::SlotForkRequested { .. }
            | Input::SlotStartRequested { .. }
            | Input::ScaleRequested { .. }
            | Input::ReloadRequested { .. }
            | Input::CanaryJudged { .. }
            | Input::SpecAddRequested { .. }
            | Input::SpecStopRequested { .. }
            | Input::SpecStartRequested { .. }
            | Input::SpecRestartRequested { .. }
            | Input::SpecDeleteRequested { .. }
            | Input::ReconfigureRequested { .. }
            | Input::ClusterDisconnectRequested
            | Input::ShutdownRequested { .. } => return Some(input),
        };
        let Some(standby) = self.standbys.members.get(&id).copied() else {
            return Some(input);
        };
        self.standby_learns(id, standby, input, now);
        None
    }

    fn standby_learns(&mut self, id: WorkerId, standby: Standby, input: Input, now: Mono) {
        let is_forked = standby.worker.forked;
        match input {
            Input::WorkerForked { .. } if !is_forked => {
                self.standbys.change(id, |standby| standby.worker.forked = true);
                self.publish(Some(id), EventKind::Fork);
            }
            Input::WorkerExited { exit, .. } => {
                match (is_forked, &exit.reason) {
                    (true, _) => self.publish(Some(id), EventKind::Exit(exit)),
                    (false, ExitReason::SpawnFailed(failure)) => {
                        let error = WorkerError::Spawn(failure.clone());
                        self.publish(Some(id), EventKind::Error(error));
                    }
                    (false, _) => {}
                }
                self.standby_ended(id, standby, now);
            }
            Input::WorkerOnline { .. } if is_forked => self.publish(Some(id), EventKind::Online),
            Input::WorkerStandsBy { .. } if is_forked && standby.worker.is_booting() => {
                let age = self.specs[&standby.spec].config.standby_age;
                let expires_at = self.aged(age, now);
                self.standbys.change(id, |standby| {
                    standby.worker.ready_at = Some(now);
                    standby.worker.expires_at = expires_at;
                });
                self.publish(Some(id), EventKind::Standby);
            }
            Input::WorkerExiting { .. } if is_forked => {
                self.standbys.change(id, |standby| standby.worker.end());
                self.publish(Some(id), EventKind::Exiting);
            }
            Input::WorkerDisconnected { .. } if is_forked => {
                self.standbys.change(id, |standby| standby.worker.end());
                self.publish(Some(id), EventKind::Disconnect);
            }
            Input::WorkerFailed { error, .. } if is_forked => self.standby_failed(id, standby, error),
            Input::WorkerStopRequested { .. } | Input::RestartRequested { .. } => self.stop_standby(id, None),
            Input::RecycleRequested { why, .. } => self.recycle_standby(id, standby, why),
            // It has no slot to listen or to serve in; and what is told before its birth is no fact.
            Input::WorkerServed { .. } => {}
            _ => self.ignore(),
        }
    }

    fn standby_failed(&mut self, id: WorkerId, standby: Standby, error: WorkerError) {
        let is_unkillable = error == WorkerError::Unkillable;
        self.publish(Some(id), EventKind::Error(error));
        if is_unkillable && !standby.worker.is_unkillable() {
            self.standbys.change(id, |standby| {
                standby.worker.stage = Stage::Unkillable(standby.worker.purpose());
                standby.worker.expires_at = None;
            });
            self.not_waited_for(standby.spec, id);
        }
    }

    /// Another one takes its place first. One that boots is that other one itself.
    fn recycle_standby(&mut self, id: WorkerId, standby: Standby, why: RecycleReason) {
        if standby.worker.is_ready() && !standby.is_old && !self.is_stopping() {
            self.standbys.change(id, |standby| standby.is_old = true);
            self.publish(Some(id), EventKind::Recycling(why));
        } else {
            self.ignore();
        }
    }

    fn standby_ended(&mut self, id: WorkerId, standby: Standby, now: Mono) {
        self.standbys.members.remove(&id);
        self.recycling.forget(id);
        if !standby.worker.is_unkillable() {
            self.not_waited_for(standby.spec, id);
        }
        // With the last one of a temporary spec the spec goes.
        self.ended.insert(standby.spec);
        if standby.worker.purpose().is_some() {
            return;
        }
        let stable_after = self.specs[&standby.spec].config.stable_after;
        let was_stable = standby
            .worker
            .ready_at
            .is_some_and(|ready| now.since(ready) >= stable_after);
        let rest = self.standbys.rests.entry(standby.spec).or_default();
        rest.streak = if was_stable { 1 } else { rest.streak.saturating_add(1) };
        // Its own back-off whatever the spec's is: nobody waits for a standby, so it need not be tried at once.
        let backoff = RestartDelay::Backoff(Backoff::new().first_at_once(false));
        let delay = backoff.delay(rest.streak, &mut self.random);
        self.standbys.rest(standby.spec, now + delay);
    }

    /// Tells one to end. Its place is free for another at once.
    fn stop_standby(&mut self, id: WorkerId, faster: Option<ShutdownPolicy>) {
        let Some(mut standby) = self.standbys.members.get(&id).copied() else {
            return;
        };
        let is_unkillable = standby.worker.is_unkillable();
        let policy = faster.unwrap_or_else(|| self.stop_policy(standby.spec));
        let is_first = standby.worker.take_order(Purpose::Remove);
        standby.worker.expires_at = None;
        self.standbys.members.insert(id, standby);
        if is_first || (faster.is_some() && !is_unkillable) {
            self.actions.push_back(Action::Stop { id, policy });
        }
    }

    /// All of the specs that are meant; the last started first.
    pub(super) fn stop_standbys(&mut self, of: impl Fn(SpecKey) -> bool, faster: Option<ShutdownPolicy>) {
        let meant = self.standbys.iter().rev().filter(|standby| of(standby.spec));
        for id in meant.map(|standby| standby.worker.id).collect::<Vec<_>>() {
            self.stop_standby(id, faster);
        }
    }
}

/// Who is promoted, and how many there are to be.
impl Supervision {
    /// Who comes to this slot: one who stands by, or a new process.
    pub(super) fn fill(&mut self, key: SeatKey, generation: Generation, now: Mono) -> Occupant {
        match self.promotable(key, generation) {
            Some(id) => self.promote(key, id, now),
            None => newborn(self.spawn(key, generation), generation),
        }
    }

    /// The freshest kind first, and of these the one who waits for the longest time. A slot that was forked may have an
    /// environment of its own, which no standby has.
    fn promotable(&self, key: SeatKey, generation: Generation) -> Option<WorkerId> {
        let is_apt = |standby: &&Standby| standby.worker.is_ready() && standby.worker.generation == generation;
        let apt = self.standbys.of(key.spec).filter(is_apt);
        let best = apt.min_by_key(|standby| (standby.is_old, standby.worker.id))?;
        (!self.roster.seat(key).is_forked).then_some(best.worker.id)
    }

    fn promote(&mut self, key: SeatKey, id: WorkerId, now: Mono) -> Occupant {
        let standby = self.standbys.members.remove(&id).expect("it was found there");
        let generation = standby.worker.generation;
        let seat = self.roster.seat(key);
        self.actions.push_back(Action::Promote {
            id,
            slot: seat.slot.clone(),
            restarts: seat.restarts,
        });
        self.publish(Some(id), EventKind::Promoted);
        // It boots, so the program is good; and it has the processor before its own successor does.
        self.standbys.rests.entry(key.spec).or_default().streak = 0;
        self.standbys.rest(key.spec, now + REFILL);
        Occupant {
            forked: true,
            ..newborn(id, generation)
        }
    }

    /// Has everybody who is to stand by, and nobody else.
    pub(super) fn advance_standbys(&mut self, now: Mono) {
        self.standbys.time_passed(now);
        let mut concerned = self.standbys.wanting.clone();
        concerned.extend(self.standbys.iter().map(|standby| standby.spec));
        for spec in concerned {
            for id in self.superfluous(spec) {
                self.stop_standby(id, None);
            }
            if self.may_start_standby(spec) {
                self.start_standby(spec);
            }
        }
    }

    /// How many of a spec are to stand by: none for slots that nobody wants filled.
    fn standbys_wanted(&self, spec: SpecKey) -> usize {
        let sums = self.roster.sums_of(spec);
        let is_served = sums.target > sums.failed && !self.group.as_ref().is_some_and(|group| group.covers(spec));
        if is_served {
            self.specs[&spec].config.standby as usize
        } else {
            0
        }
    }

    /// What the next worker of a spec runs, wherever it comes to.
    fn standby_generation(&self, spec: SpecKey) -> Generation {
        let is_proven = self.reloads.running.as_ref().is_some_and(|rollout| rollout.is_proven());
        let goal = self.reloads.goal(spec).filter(|_| is_proven);
        goal.unwrap_or_else(|| self.specs[&spec].generation)
    }

    fn superfluous(&self, spec: SpecKey) -> Vec<WorkerId> {
        let (wanted, generation) = (self.standbys_wanted(spec), self.standby_generation(spec));
        // While it is not sure where a reload ends, those that it may go back to are kept.
        let kept = self.reloads.goal(spec).map(|_| self.specs[&spec].generation);
        let is_useful = |of: Generation| of == generation || Some(of) == kept;
        let mut order: Vec<&Standby> = self.standbys.of(spec).filter(|standby| standby.is_wanted()).collect();
        let mut gone: Vec<WorkerId> = Vec::new();
        order.retain(|standby| {
            let is_kept = wanted > 0 && is_useful(standby.worker.generation);
            if !is_kept {
                gone.push(standby.worker.id);
            }
            is_kept
        });
        for of in [Some(generation), kept.filter(|kept| *kept != generation)] {
            let mates = order.iter().filter(|standby| Some(standby.worker.generation) == of);
            // The best first: fresh and ready, then those that boot. Old ones go as soon as enough others are ready.
            let mut mates: Vec<&Standby> = mates.copied().collect();
            mates.sort_by_key(|it| (it.is_old, !it.worker.is_ready(), it.worker.id));
            let fresh = mates.iter().filter(|it| !it.is_old).count();
            let ready = mates.iter().filter(|it| !it.is_old && it.worker.is_ready()).count();
            let olds = mates.split_off(fresh);
            gone.extend(mates.iter().skip(wanted).map(|it| it.worker.id));
            gone.extend(olds.iter().skip(wanted.saturating_sub(ready)).map(|it| it.worker.id));
        }
        gone
    }

    /// Slots go first: nothing of theirs boots, waits for its turn, or goes down.
    fn may_start_standby(&self, spec: SpecKey) -> bool {
        let generation = self.standby_generation(spec);
        let is_fresh = |it: &&Standby| it.is_wanted() && !it.is_old && it.worker.generation == generation;
        let rests = self.standbys.rests.get(&spec).is_some_and(|rest| rest.until.is_some());
        self.course == Course::Running
            && !rests
            && self.standbys.of(spec).filter(is_fresh).count() < self.standbys_wanted(spec)
            && !self.standbys.iter().any(|standby| standby.worker.is_booting())
            && self.roster.sums().booting == 0
            && self.roster.first_queued().is_none()
            && self.group.is_none()
    }

    fn start_standby(&mut self, spec: SpecKey) {
        let (id, generation) = (self.next_id, self.standby_generation(spec));
        self.next_id = id.next();
        let standby = Standby {
            spec,
            worker: newborn(id, generation),
            is_old: false,
        };
        self.standbys.members.insert(id, standby);
        self.actions.push_back(Action::SpawnStandby {
            id,
            spec: self.specs[&spec].config.name.clone(),
            generation,
        });
    }
}

/// From a promotion to the start of the next standby: the one that was promoted is to serve first, also where all share
/// one processor.
const REFILL: Duration = Duration::from_millis(20);
