//! The judge's rules for those who stand by: who may be promoted, who must be, how many there are, and that they are in
//! nobody's way.
//!
//! Not here: what holds for whoever has a slot ([`super::judge_slots`]), as who was promoted does from then on.

use super::trace::{Judge, Seen};
use super::*;
use crate::model::{Generation, SpecName};

impl Judge {
    /// Who stands by and is there to stay.
    fn wanted_standbys(&self, spec: &SpecName) -> impl Iterator<Item = (WorkerId, &Seen)> {
        let of_spec = |seen: &Seen| seen.slot.spec == *spec && seen.is_wanted() && !seen.is_ending();
        self.standing
            .iter()
            .map(|id| (*id, self.seen(*id)))
            .filter(move |(_, seen)| of_spec(seen))
    }

    /// Who could be promoted, as far as was told.
    fn promotable(&self, spec: &SpecName, generation: Generation) -> Option<WorkerId> {
        let is_apt = |seen: &Seen| seen.generation == generation && seen.has("standby");
        self.wanted_standbys(spec)
            .find(|(_, seen)| is_apt(seen))
            .map(|(id, _)| id)
    }

    pub(super) fn standby_spawned(
        &mut self,
        id: WorkerId,
        (spec, generation): (&SpecName, Generation),
        machine: &Supervision,
        now: Mono,
    ) {
        self.begins("a standby");
        assert!(id > self.last_id, "I-04: id {id} after {}", self.last_id);
        self.last_id = id;
        self.may_run(spec, generation, id);
        assert!(machine.group.is_none(), "O-032: {id} stands by while a group goes down");
        let is_booting = |seen: &Seen| seen.is_wanted() && seen.ready_at.is_none() && !seen.is_ending();
        let slots = self.alive.iter().find(|id| is_booting(self.seen(**id)));
        same!(slots, None, "I-30: {id} is to stand by before a slot's worker is ready");
        let waits = |seen: &Seen| is_booting(seen) && !seen.has("standby");
        let others = self.standing.iter().find(|id| waits(self.seen(**id)));
        same!(others, None, "I-30: {id} boots to stand by, and so does another");
        self.workers
            .insert(id, Seen::new(Slot::standby(spec.clone()), generation, now));
        self.standing.insert(id);
    }

    /// I-40: only who can, from its spec, with the generation that the slot is to hold; and never to a fork's slot.
    pub(super) fn promoted(&mut self, id: WorkerId, slot: &Slot, now: Mono) {
        self.begins("a promotion");
        assert!(
            self.standing.remove(&id),
            "I-40: {id} is promoted, and does not stand by"
        );
        let seen = self.workers.get_mut(&id).expect("it stands by");
        let can = seen.has("standby") && seen.is_wanted() && !seen.is_ending();
        assert!(can, "I-40: {id} is promoted and could not be: {seen:?}");
        same!(seen.slot.spec, slot.spec, "I-40: {id} comes to a slot of another spec");
        assert!(
            !self.forked.contains(slot),
            "I-40: {id} comes to {slot}, which was forked"
        );
        let (generation, steps) = (seen.generation, std::mem::take(&mut seen.steps));
        self.may_run(&slot.spec, generation, id);
        self.enters(id, slot, generation, now);
        self.workers.get_mut(&id).expect("it has entered").steps = steps;
        self.turn.promoted.push(id);
    }

    /// I-40: nobody boots for a slot that a standby could have.
    pub(super) fn nobody_stands_by_for(&self, id: WorkerId, slot: &Slot, generation: Generation) {
        if !self.forked.contains(slot) {
            let standby = self.promotable(&slot.spec, generation);
            same!(standby, None, "I-40: {id} is started for {slot} though one stands by");
        }
    }

    /// I-03: a promotion is told once, of whoever was promoted.
    pub(super) fn promotion_told(&mut self, id: WorkerId) {
        let place = self.turn.promoted.iter().position(|known| *known == id);
        let place = place.unwrap_or_else(|| panic!("I-03: {id} is said to be promoted, and was not"));
        self.turn.promoted.remove(place);
        self.workers
            .get_mut(&id)
            .expect("it was promoted")
            .steps
            .push("promoted");
    }

    /// I-15: nobody who stands by is stopped for nothing.
    fn standby_stopped(&self, id: WorkerId, machine: &Supervision) {
        let seen = self.seen(id);
        let spec = &seen.slot.spec;
        let age = self.specs.get(spec).and_then(|spec| spec.standby_age);
        let sums = machine.by_name.get(spec).map(|key| machine.roster.sums_of(*key));
        let has_reason = self.turn.is_request()
            || matches!(self.turn.input, Some(Input::ReconfigureRequested { .. }))
            || self.shutdown_at.is_some()
            || self.group.is_some()
            || self.reload.is_some()
            || !self.turn.reloaded.is_empty()
            // Another has come in its place.
            || (seen.has("standby") && (age.is_some() || seen.why.is_asked))
            // There is nobody left to stand by for.
            || sums.is_none_or(|sums| sums.target <= sums.failed);
        assert!(
            has_reason,
            "I-15: {id}, which stands by, is stopped for nothing: {seen:?}"
        );
    }

    pub(super) fn standby_ended(&mut self, id: WorkerId) {
        self.standing.remove(&id);
    }

    /// I-01: no more stand by than are to, but for those that take others' places, and none without a reason.
    pub(super) fn standbys_after_turn(&self, machine: &Supervision) {
        same!(self.turn.promoted, Vec::new(), "I-03: nobody was told of the promotion");
        let mut kept: Vec<WorkerId> = machine.standbys.iter().map(|standby| standby.worker.id).collect();
        kept.sort_unstable();
        let standing: Vec<WorkerId> = self.standing.iter().copied().collect();
        same!(kept, standing, "I-08: who is kept as a standby, and who lives");
        for id in &self.turn.dismissed {
            self.standby_stopped(*id, machine);
        }
        if self.shutdown_at.is_some() {
            let told = |id: &&WorkerId| !self.seen(**id).stops.is_empty();
            let forgotten = self.standing.iter().find(|id| self.is_living(**id) && !told(id));
            same!(forgotten, None, "I-12: it stands by in a shutdown");
            return;
        }
        for spec in &self.order {
            let most = self.specs[spec].standby as usize;
            let mut generations: Vec<Generation> =
                self.wanted_standbys(spec).map(|(_, seen)| seen.generation).collect();
            generations.sort_unstable();
            // Each may have a successor that boots; and a reload keeps those that it may go back to.
            for mates in generations.chunk_by(|one, other| one == other) {
                let (count, generation) = (mates.len(), mates[0]);
                assert!(
                    count <= 2 * most,
                    "I-01: {count} of {generation} stand by in `{spec}`, not {most}"
                );
                // F-183: what is not run any more does not wait to be run.
                self.may_run(spec, generation, WorkerId::new(0));
            }
        }
    }

    /// I-37: when all is quiet, those stand by that are to; unless the last one that ended did so a short time ago.
    pub(super) fn standbys_are_there(&self, machine: &Supervision) {
        if self.finished.is_some() || self.shutdown_at.is_some() {
            return;
        }
        let sums = machine.roster.sums();
        let is_busy = sums.booting > 0 || machine.roster.first_queued().is_some() || machine.group.is_some();
        let boots = machine.standbys.iter().any(|standby| standby.worker.is_booting());
        for spec in &self.order {
            let key = machine.by_name[spec];
            let (of_spec, most) = (machine.roster.sums_of(key), self.specs[spec].standby as usize);
            let wanted = if of_spec.target > of_spec.failed { most } else { 0 };
            let there = self
                .wanted_standbys(spec)
                .filter(|(_, seen)| seen.has("standby"))
                .count();
            let may_miss = is_busy || boots || machine.standbys.rests(key) || self.reload.is_some();
            assert!(
                there >= wanted || may_miss,
                "I-37: {there} of {wanted} stand by in `{spec}`"
            );
        }
    }
}
