//! The judge's rules for slots: who may be started, who may be stopped, in which order, and what a handle can read.
//!
//! Not here: restarts and groups ([`super::judge_restarts`]), reloads ([`super::judge_reload`]).

use super::trace::{Judge, Seen};
use super::*;
use crate::model::{GaveUp, Generation, RecycleReason, SlotSnapshot, SpecName};

impl Judge {
    pub(super) fn seen(&self, id: WorkerId) -> &Seen {
        &self.workers[&id]
    }

    pub(super) fn spec_of(&self, id: WorkerId) -> &SpecName {
        &self.workers[&id].slot.spec
    }

    pub(super) fn is_living(&self, id: WorkerId) -> bool {
        self.is_there(id) && !self.workers[&id].is_unkillable
    }

    /// Has it a process, with a slot or without?
    pub(super) fn is_there(&self, id: WorkerId) -> bool {
        self.alive.contains(&id) || self.standing.contains(&id)
    }

    pub(super) fn occupants(&self, slot: &Slot) -> Vec<WorkerId> {
        self.places
            .get(slot)
            .map(|place| place.occupants.clone())
            .unwrap_or_default()
    }

    /// The second one of its slot, as a handle saw it before this turn.
    pub(super) fn beside(&self, slot: &Slot) -> Option<WorkerId> {
        self.view.get(slot).and_then(|slot| slot.beside)
    }

    pub(super) fn is_main(&self, id: WorkerId) -> bool {
        self.view
            .get(&self.workers[&id].slot)
            .is_some_and(|slot| slot.worker == Some(id))
    }

    fn place_in_order(&self, spec: &SpecName) -> Option<usize> {
        self.order.iter().position(|known| known == spec)
    }

    pub(super) fn spawned(&mut self, id: WorkerId, slot: &Slot, generation: Generation, now: Mono) {
        self.begins("a spawn");
        assert!(id > self.last_id, "I-04: id {id} after {}", self.last_id);
        self.last_id = id;
        self.may_run(&slot.spec, generation, id);
        self.nobody_stands_by_for(id, slot, generation);
        self.enters(id, slot, generation, now);
    }

    /// A worker comes to a slot, from wherever.
    pub(super) fn enters(&mut self, id: WorkerId, slot: &Slot, generation: Generation, now: Mono) {
        if let Some(group) = self.group.as_ref().filter(|group| group.specs.contains(&slot.spec)) {
            let left: Vec<_> = group.victims.iter().filter(|id| self.is_living(**id)).collect();
            assert!(
                left.is_empty(),
                "O-032: {id} in {slot} while {left:?} of its group live"
            );
            assert!(now >= group.until, "I-14: the group is back before its delay is over");
        }
        let is_for_recycling = self.occupants(slot).iter().any(|id| self.turn.recycled.contains(id));
        for other in self.occupants(slot) {
            self.may_be_joined(slot, other, generation);
        }
        let is_reloaded = self.reload.as_ref().is_some_and(|reload| reload.covers(&slot.spec));
        let place = self.places.entry(slot.clone()).or_default();
        let early = place.not_before.take().is_some_and(|at| now < at) && place.occupants.is_empty();
        assert!(!early || is_reloaded, "I-14: {slot} is filled before its delay is over");
        place.occupants.push(id);
        // Who stood by may be older than who is there.
        place.occupants.sort_unstable();
        assert!(place.occupants.len() <= 2, "I-01: {:?} in {slot}", place.occupants);
        self.alive.insert(id);
        self.turn.spawned.push(id);
        let seen = Seen {
            is_for_recycling,
            ..Seen::new(slot.clone(), generation, now)
        };
        self.workers.insert(id, seen);
        self.canary_spawned(generation);
    }

    /// I-04: two in one slot only while one of them replaces the other.
    fn may_be_joined(&self, slot: &Slot, other: WorkerId, generation: Generation) {
        let seen = self.seen(other);
        let is_reloaded = self
            .reload
            .as_ref()
            .is_some_and(|reload| reload.replaces(seen, generation));
        let is_replaced = seen.is_wanted() && (is_reloaded || self.turn.recycled.contains(&other));
        // The slot's own worker may die and come back beside its successor, or its predecessor.
        let is_second = self.beside(slot) == Some(other);
        assert!(
            is_replaced || is_second,
            "I-04: a second worker in {slot} beside {other}: {seen:?}"
        );
    }

    pub(super) fn stopped(&mut self, id: WorkerId, policy: ShutdownPolicy, now: Mono) {
        assert!(self.is_there(id), "I-09: worker {id} is stopped, and it is dead");
        let slot = self.workers[&id].slot.clone();
        let wanted = if self.at_once {
            ShutdownPolicy::Brutal
        } else {
            self.specs[&slot.spec].shutdown
        };
        same!(policy, wanted, "I-10: the way in which worker {id} is stopped");
        let stops = &self.workers[&id].stops;
        assert!(
            stops.is_empty() || (stops.len() == 1 && self.at_once),
            "I-35: {id} was stopped by {stops:?} before"
        );
        if self.standing.contains(&id) {
            if self.workers[&id].stops.is_empty() {
                self.turn.dismissed.push(id);
            }
        } else if self.workers[&id].stops.is_empty() {
            self.has_reason_to_stop(id, &slot);
            self.may_be_relieved(id, now);
            self.stops_in_order(id, &slot);
            self.newcomer_stopped(id);
            self.recycled_again(id, now);
            let seen = &self.workers[&id];
            if seen.ready_at.is_none() || self.beside(&slot) == Some(id) {
                self.lost += 1;
            }
        }
        self.workers.get_mut(&id).expect("checked").stops.push(policy);
        if self.alive.contains(&id) {
            self.turn.stopped.push(id);
        }
    }

    /// I-15: nobody is stopped for nothing.
    fn has_reason_to_stop(&self, id: WorkerId, slot: &Slot) {
        let spec = &slot.spec;
        let is_of_spec = |gave_up: &GaveUp| matches!(gave_up, GaveUp::Spec { spec: failed, .. } if failed == spec);
        let has_reason = self.turn.is_request()
            || self.shutdown_at.is_some()
            || self.group.as_ref().is_some_and(|group| group.specs.contains(spec))
            || self.beside(slot).is_some()
            || self.turn.recycled.contains(&id)
            || self.turn.gave_up.as_ref().is_some_and(is_of_spec)
            || self.turn.failed_start.as_ref() == Some(spec)
            || self.reload.as_ref().is_some_and(|reload| reload.covers(spec));
        assert!(has_reason, "I-15: worker {id} in {slot} is stopped for nothing");
    }

    /// O-085: the last spec first. Who was not trusted yet, or had been replaced, goes at once.
    fn stops_in_order(&self, id: WorkerId, slot: &Slot) {
        let is_second = self.beside(slot) == Some(id) || self.turn.is_request() && self.shutdown_at.is_none();
        if is_second || self.at_once {
            return;
        }
        let covers = |spec: &SpecName| match (&self.group, self.shutdown_at) {
            (_, Some(_)) => true,
            (Some(group), None) => group.specs.contains(&slot.spec) && group.specs.contains(spec),
            (None, None) => false,
        };
        let mine = self.place_in_order(&slot.spec);
        let later = self.alive.iter().find(|other| {
            let spec = self.spec_of(**other);
            self.is_living(**other) && covers(spec) && self.place_in_order(spec) > mine
        });
        same!(later, None, "O-085: {id} is stopped before that one of a later spec");
    }

    /// I-08 and I-27: the slots that a handle reads hold exactly who lives.
    pub(super) fn view_changed(&mut self, changes: Vec<(u64, Option<SlotSnapshot>)>) {
        let comes_back = |slot: &Slot| changes.iter().flat_map(|(_, new)| new).any(|new| new.slot == *slot);
        for (place, _) in changes.iter().filter(|(_, slot)| slot.is_none()) {
            if let Some(slot) = self.names.remove(place) {
                self.view.remove(&slot);
                let occupants = self.places.remove(&slot).unwrap_or_default().occupants;
                if !comes_back(&slot) {
                    self.forked.remove(&slot);
                }
                assert!(
                    occupants.is_empty() || comes_back(&slot),
                    "I-08: {slot} is forgotten with {occupants:?}"
                );
                // A spec of the same name may have come in its place.
                if !occupants.is_empty() {
                    self.places.entry(slot).or_default().occupants = occupants;
                }
            }
        }
        for (place, snapshot) in changes.into_iter().filter_map(|(place, slot)| Some((place, slot?))) {
            let slot = snapshot.slot.clone();
            let mut kept: Vec<WorkerId> = snapshot.worker.into_iter().chain(snapshot.beside).collect();
            kept.sort_unstable();
            same!(kept, self.occupants(&slot), "I-08: who is in {slot}, and who lives");
            self.revived(&slot, &snapshot);
            self.names.insert(place, slot.clone());
            self.view.insert(slot, snapshot);
        }
    }

    /// I-08: what the machine keeps besides is about who lives and who waits.
    fn records_are_bounded(&self, machine: &Supervision) {
        let dead = machine.recycling.wanted.keys().find(|id| !self.alive.contains(id));
        same!(dead, None, "I-08: a dead worker is to be recycled");
        let (kept, waiting) = (machine.stops.len() + machine.starts.len(), self.open.len());
        assert!(kept <= waiting, "I-08: {kept} requests are kept, {waiting} are open");
        let lost = machine.changes.keys().find(|key| !machine.roster.holds(**key));
        same!(lost, None, "I-08: a slot that is forgotten is being changed");
    }

    pub(super) fn slots_after_turn(&mut self, machine: &Supervision, now: Mono) {
        self.records_are_bounded(machine);
        if !self.turn.spawned.is_empty() {
            self.room_is_kept();
        }
        let wanted = self.alive.iter().filter(|id| self.seen(**id).is_wanted()).count();
        let seconds = self.view.values().filter(|slot| slot.beside.is_some()).count();
        let most = machine.target() + seconds;
        assert!(
            wanted <= most || self.shutdown_at.is_some(),
            "I-01: {wanted} live, {most} are to"
        );
        self.start_asked();
        if self.finished.is_none() && matches!(self.turn.input, Some(Input::ShutdownRequested { .. })) {
            assert!(self.shutdown_at.is_some(), "I-12: the shutdown does not begin");
        }
        if let Some(begun) = self.shutdown_at.filter(|_| self.finished.is_none()) {
            self.shutdown_goes_on(begun, now);
        }
    }

    /// I-01, I-30, I-41: there are no more seconds than the options allow, and no more that boot.
    fn room_is_kept(&self) {
        let is_second = |id: &&WorkerId| self.beside(&self.seen(**id).slot) == Some(**id);
        let new: Vec<&WorkerId> = self.turn.spawned.iter().filter(is_second).collect();
        let recycle = &self.config.recycle;
        let recycling = match (recycle.surge, recycle.max_unavailable) {
            (0, 0) => 1,
            (surge, _) => surge,
        };
        let seconds = self.view.values().filter_map(|slot| slot.beside);
        let seconds = seconds.filter(|id| self.is_living(*id)).count();
        for id in new {
            let slot = &self.seen(*id).slot;
            let is_recycled = |old: &WorkerId| self.seen(*old).slot == *slot;
            let (most, rule) = match self.turn.recycled.iter().any(is_recycled) {
                true => (recycling, "I-41"),
                false => (self.reload.as_ref().map_or(0, |reload| reload.options.surge), "I-01"),
            };
            assert!(seconds <= most as usize, "{rule}: {seconds} besides, room for {most}");
        }
        let is_booting = |id: &&WorkerId| {
            let seen = self.seen(**id);
            seen.is_wanted() && seen.ready_at.is_none() && !seen.is_ending()
        };
        let booting = self.alive.iter().filter(is_booting).count();
        let most = self.config.max_booting.max(1);
        assert!(booting <= most, "I-30: {booting} boot, at most {most} may");
    }

    /// I-12: everybody whose turn it is was told, and the limits add up.
    fn shutdown_goes_on(&self, begun: Mono, now: Mono) {
        let living: Vec<WorkerId> = self.alive.iter().copied().filter(|id| self.is_living(*id)).collect();
        let last = living.iter().map(|id| self.place_in_order(self.spec_of(*id))).max();
        for id in living {
            let stops = &self.seen(id).stops;
            if self.at_once {
                same!(stops.last(), Some(&ShutdownPolicy::Brutal), "I-12: {id} is not killed");
            } else if Some(self.place_in_order(self.spec_of(id))) == last {
                assert!(!stops.is_empty(), "I-12: {id} is not stopped in the shutdown");
            }
        }
        // The longest that it had, because a worker keeps the time that it was given; and a lame duck has another second.
        let grace = |spec: &SpecName| self.longest[spec].saturating_add(SECOND);
        // Five seconds after SIGKILL a process is left behind; messages take their time.
        let limit = self.order.iter().fold(self.held_up_since(begun, now), |sum, spec| {
            sum.saturating_add(grace(spec)).saturating_add(5 * SECOND + 50 * MS)
        });
        assert!(
            now.since(begun) <= limit,
            "I-12: the shutdown takes longer than {limit:?}"
        );
    }

    /// I-12: at the end nobody lives but who is named, and the outcome is the true one.
    pub(super) fn finished(&mut self, outcome: &Outcome) {
        same!(self.finished, None, "I-12: one end");
        let left: Vec<WorkerId> = self.alive.union(&self.standing).copied().collect();
        let living: Vec<&WorkerId> = left.iter().filter(|id| self.is_living(**id)).collect();
        assert!(living.is_empty(), "I-12: {living:?} live after the end");
        match outcome {
            _ if self.shutdown_at.is_none() => {
                same!(left, Vec::new(), "I-12: {left:?} live after the end");
                same!(self.config.when_empty, WhenEmpty::Stop, "I-12: nobody wanted an end");
                assert!(
                    matches!(outcome, Outcome::Clean | Outcome::AllFailed),
                    "I-12: {outcome:?}"
                );
            }
            Outcome::Unkillable(ids) => {
                let mut ids = ids.clone();
                ids.sort_unstable();
                same!(ids, left, "I-12: who is left behind");
            }
            _ if !left.is_empty() => panic!("I-12: {left:?} are left behind and not named"),
            Outcome::GaveUp(_) => assert!(self.gave_up.is_some(), "I-12: nothing was given up"),
            Outcome::Killed => assert!(self.at_once, "I-12: nobody was killed"),
            Outcome::Clean => assert!(self.gave_up.is_none() && !self.at_once, "I-12: {outcome:?}"),
            Outcome::AllFailed => panic!("I-12: {outcome:?} after a shutdown"),
        }
        self.finished = Some(outcome.clone());
    }

    /// How much longer everything may take because the master did not run.
    fn held_up_since(&self, begun: Mono, now: Mono) -> Duration {
        let late = |(from, until): &(Mono, Mono)| {
            // What was looked at late before then may have moved into this time by the time to read.
            let is_near = *until + 20 * SECOND >= begun;
            let read = if is_near { 150 * MS } else { Duration::ZERO };
            (*until).min(now).since((*from).max(begun)) + read
        };
        self.pauses.iter().map(late).sum()
    }

    /// The master does not run in this time.
    pub(super) fn held_up(&mut self, from: Mono, until: Mono) {
        self.pauses.push((from, until));
    }

    pub(super) fn recycling(&mut self, id: WorkerId, why: &RecycleReason, now: Mono) {
        self.begins("recycling");
        self.is_due_for_recycling(id, why, now);
        let is_free = self.reload.is_none() && self.has_no_group(now);
        assert!(is_free, "I-41: {id} is recycled while others are replaced");
        let seen = self.seen(id);
        let is_there = self.alive.contains(&id) && seen.is_wanted() && !seen.is_ending();
        assert!(
            is_there,
            "I-41: {id} is recycled, and it is not there to stay: {seen:?}"
        );
        self.turn.recycled.push(id);
    }
}
