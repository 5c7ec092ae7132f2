//! The judge's rules for reloads, and for successors of any kind.
//!
//! A reload that turns back does not say so before its end; so what is allowed on one of the ways only is allowed until
//! a failure was seen.

use std::collections::BTreeSet;

use super::trace::{Judge, Seen};
use super::*;
use crate::model::{Exit, Generation, ReloadError, ReloadFailure, SpecName};
use crate::policy::RolloutOptions;

/// The reload that runs.
#[derive(Debug)]
pub(super) struct Reload {
    request: RequestId,
    pub(super) generation: Generation,
    spec: Option<SpecName>,
    pub(super) options: RolloutOptions,
    /// Did others change the slots meanwhile?
    pub(super) is_disturbed: bool,
    /// A failure was seen: it must turn back.
    is_failed: bool,
    is_judged: Option<bool>,
    is_asked: bool,
    /// When it began: slots, ready ones, and workers lost so far.
    target: usize,
    ready: usize,
    lost: usize,
}

impl Reload {
    pub(super) fn covers(&self, spec: &SpecName) -> bool {
        self.spec.as_ref().is_none_or(|covered| covered == spec)
    }

    /// Does it, on one of its ways, replace this worker by one of that generation?
    pub(super) fn replaces(&self, old: &Seen, new: Generation) -> bool {
        let is_change = (new == self.generation) != (old.generation == self.generation);
        self.covers(&old.slot.spec) && (is_change || old.is_left_over)
    }
}

impl Judge {
    pub(super) fn generation_of(&self, spec: &SpecName) -> Generation {
        self.generations.get(spec).copied().unwrap_or(Generation(0))
    }

    pub(super) fn disturb_reload(&mut self) {
        if let Some(reload) = &mut self.reload {
            reload.is_disturbed = true;
        }
    }

    /// A generation is announced: whose?
    pub(super) fn announced(&mut self, request: RequestId, generation: Generation, machine: &Supervision) {
        self.begins("a reload");
        assert!(self.reload.is_none(), "I-21: {generation} while another reload runs");
        assert!(generation > self.newest, "I-19: {generation} was there before");
        let Some(Input::ReloadRequested { spec, options, .. }) = self.waits_for(request) else {
            panic!("I-21: nobody asked for {generation}");
        };
        self.reload = Some(Reload {
            request,
            generation,
            spec: spec.clone(),
            options: *options,
            // What else happened in this turn came before it: a start that failed, or a spec that is given up, has stopped
            // others.
            is_disturbed: self.turn.is_request()
                || self.group.is_some()
                || self.turn.failed_start.is_some()
                || self.turn.gave_up.is_some(),
            is_failed: false,
            is_judged: None,
            is_asked: false,
            target: machine.target(),
            ready: self.ready_before,
            lost: self.turn.lost_before,
        });
    }

    pub(super) fn reload_started(&mut self, generation: Generation, spec: Option<&SpecName>) {
        self.begins("a reload");
        let reload = self.reload.as_ref().filter(|reload| reload.generation == generation);
        let is_it = reload.is_some_and(|reload| reload.spec.as_ref() == spec);
        assert!(is_it, "I-21: {generation} starts, and nobody announced it");
    }

    /// I-19: what a worker runs is what its spec runs, or what a reload brings that has not failed.
    pub(super) fn may_run(&self, spec: &SpecName, generation: Generation, id: WorkerId) {
        assert!(
            !self.gone.contains(&generation),
            "I-19: {id} is of {generation}, which is gone"
        );
        let is_new = self
            .reload
            .as_ref()
            .is_some_and(|reload| reload.covers(spec) && reload.generation == generation && !reload.is_failed);
        let is_old = self.generation_of(spec) == generation;
        assert!(
            is_new || is_old,
            "I-19: worker {id} of `{spec}` is of generation {generation}"
        );
    }

    /// I-20: before the verdict no more slots than the canary hold somebody of the new generation who is to stay.
    pub(super) fn canary_spawned(&self, generation: Generation) {
        let Some(reload) = self.reload.as_ref().filter(|reload| reload.generation == generation) else {
            return;
        };
        let watched = reload.options.canary.filter(|canary| canary.count > 0);
        if let Some(canary) = watched.filter(|_| reload.is_judged != Some(true)) {
            let new = self.alive.iter().map(|id| self.seen(*id));
            let new = new.filter(|seen| seen.generation == generation && seen.is_wanted());
            let count = new.map(|seen| &seen.slot).collect::<BTreeSet<_>>().len();
            assert!(
                count <= canary.count as usize,
                "I-20: {count} are replaced before the verdict"
            );
        }
    }

    pub(super) fn verdict_asked(&mut self, request: RequestId) {
        let reload = self
            .reload
            .as_mut()
            .filter(|reload| reload.request == request && !reload.is_asked);
        reload
            .expect("I-21: one verdict is asked for, by the reload that runs")
            .is_asked = true;
    }

    pub(super) fn canary_judged(&mut self, request: RequestId, good: bool) {
        let is_meant =
            |reload: &&mut Reload| reload.request == request && reload.is_asked && reload.is_judged.is_none();
        if let Some(reload) = self.reload.as_mut().filter(is_meant) {
            reload.is_judged = Some(good);
            reload.is_failed |= !good;
        }
    }

    /// A worker ended. Was that a failure of the reload?
    pub(super) fn newcomer_ended(&mut self, id: WorkerId, exit: &Exit) {
        let seen = &self.workers[&id];
        let is_second = self.beside(&seen.slot) == Some(id);
        let is_good = seen.ready_at.is_some() && exit.is_orderly() && exit.status.is_success();
        let is_failure = seen.stops.is_empty() && (is_second || !is_good);
        if let Some(reload) = self
            .reload
            .as_mut()
            .filter(|reload| reload.generation == seen.generation)
        {
            reload.is_failed |= is_failure;
        }
    }

    /// A worker is stopped. Is that a step back?
    pub(super) fn newcomer_stopped(&mut self, id: WorkerId) {
        let seen = &self.workers[&id];
        let of_others = self.turn.is_request()
            || self.turn.gave_up.is_some()
            || self.turn.is_final
            || self.turn.failed_start.is_some();
        let is_relieved = self.is_main(id)
            && self.beside(&seen.slot).is_some_and(|second| {
                // A successor that recycling had started before the reload takes over all the same.
                let second = self.seen(second);
                second.generation == seen.generation || second.is_for_recycling
            });
        if let Some(reload) = self
            .reload
            .as_mut()
            .filter(|reload| reload.generation == seen.generation)
        {
            reload.is_failed |= !of_others && !is_relieved;
        }
    }

    /// I-20, I-41: who serves is stopped only when his successor can, unless he may be missing.
    pub(super) fn may_be_relieved(&self, id: WorkerId, now: Mono) {
        let seen = self.seen(id);
        let spec = &seen.slot.spec;
        let has_other_reason = self.turn.is_request()
            || self.shutdown_at.is_some()
            || self.turn.gave_up.is_some()
            || self.turn.failed_start.is_some()
            || self.group.as_ref().is_some_and(|group| group.specs.contains(spec));
        if has_other_reason || !self.is_main(id) {
            return;
        }
        let reload = self.reload.as_ref().filter(|reload| reload.covers(spec));
        let Some(second) = self.beside(&seen.slot) else {
            let recycled = self.turn.recycled.contains(&id);
            if recycled {
                let spawned = self
                    .turn
                    .spawned
                    .last()
                    .is_some_and(|new| self.seen(*new).slot == seen.slot);
                let in_place = !spawned && self.config.recycle.max_unavailable > 0;
                assert!(in_place, "I-41: {id} is stopped before its successor is ready");
            } else if let Some(reload) = reload {
                let in_place = reload.options.max_unavailable > 0 && self.occupants(&seen.slot) == [id];
                assert!(in_place, "I-20: {id} is stopped before its successor is ready");
            }
            return;
        };
        let successor = self.seen(second);
        if !self.alive.contains(&second) || !successor.stops.is_empty() {
            // On the way back a successor that failed is not waited for.
            return;
        }
        let (rule, probation) = match reload {
            _ if successor.is_for_recycling => ("I-41", self.config.recycle.probation),
            Some(reload) if successor.generation == reload.generation => ("I-20", reload.options.probation),
            // What is known to be good needs no proof.
            Some(_) | None => ("I-20", Duration::ZERO),
        };
        let ready = successor.ready_at.filter(|_| !successor.is_ending());
        let is_proven = ready.is_some_and(|ready| now.since(ready) >= probation);
        assert!(
            is_proven,
            "{rule}: {id} is stopped before its successor {second} is ready: {successor:?}"
        );
    }

    /// I-19: after a reload everybody is of one generation, the new or the old.
    pub(super) fn reload_finished(
        &mut self,
        generation: Generation,
        result: &Result<(), ReloadError>,
        machine: &Supervision,
    ) {
        let reload = self.reload.take();
        let reload = reload.filter(|reload| reload.generation == generation);
        let reload = reload.unwrap_or_else(|| panic!("I-21: {generation} ends, and does not run"));
        let is_cut_off = result
            .as_ref()
            .is_err_and(|error| matches!(error.reason, ReloadFailure::Overtaken | ReloadFailure::ShuttingDown));
        // A slot in which somebody cannot be killed cannot be replaced.
        let is_stuck = |slot: &Slot| self.occupants(slot).iter().any(|id| self.seen(*id).is_unkillable);
        let others = self.alive.iter().copied().filter(|id| {
            let is_meant = self.is_living(*id) && reload.covers(self.spec_of(*id));
            is_meant && (self.seen(*id).generation == generation) != result.is_ok()
        });
        let (stuck, wrong): (Vec<_>, Vec<_>) = others.partition(|id| is_stuck(&self.seen(*id).slot));
        for id in stuck {
            self.workers.get_mut(&id).expect("it lives").is_left_over = true;
        }
        assert!(
            is_cut_off || wrong.is_empty(),
            "I-19: {wrong:?} after {generation} {result:?}"
        );
        assert!(
            result.is_err() || !reload.is_failed,
            "I-19: {generation} is good, and it failed"
        );
        if !reload.is_disturbed && !is_cut_off {
            same!(
                machine.target(),
                reload.target,
                "I-19: as many slots as before {generation}"
            );
        }
        if result.is_ok() {
            for spec in self.order.iter().filter(|spec| reload.covers(spec)) {
                self.generations.insert(spec.clone(), generation);
            }
            self.newest = generation;
        }
        self.turn
            .reloaded
            .push((reload.request, result.is_ok().then_some(generation)));
    }

    /// I-21: the answer is that of the reload, or a refusal.
    pub(super) fn reload_answered(&self, request: RequestId, result: &Result<Generation, ReloadError>) {
        let finished = self.turn.reloaded.iter().find(|(known, _)| *known == request);
        match (finished, result) {
            (Some((_, good)), _) => same!(*good, result.as_ref().ok().copied(), "I-21: another answer"),
            (None, Ok(generation)) => panic!("I-21: {generation} is good, and did not run"),
            (None, Err(error)) if error.reason == ReloadFailure::Busy => {
                assert!(self.turn.had_reload, "I-21: busy with nothing");
            }
            (None, Err(_)) => {}
        }
    }

    /// Who boots for longer than a step may take, without a failure, is not waited for on the way back: it would never come
    /// to an end if there is no boot limit.
    fn late_on_the_way_back(&self, reload: &Reload, now: Mono) -> usize {
        let is_late = |id: &&WorkerId| {
            let seen = self.seen(**id);
            let is_booting = seen.ready_at.is_none() && seen.is_wanted() && reload.covers(&seen.slot.spec);
            is_booting && seen.spawned_at + reload.options.step_deadline <= now
        };
        let late = self.alive.iter().filter(is_late).count();
        if reload.is_failed { late } else { 0 }
    }

    pub(super) fn reload_after_turn(&self, machine: &Supervision, now: Mono) {
        for id in &self.turn.spawned {
            let spec = self.spec_of(*id);
            let mates = self
                .alive
                .iter()
                .filter(|id| self.spec_of(**id) == spec)
                .map(|id| self.seen(*id));
            let mates = mates.filter(|seen| seen.is_wanted() && !seen.is_left_over);
            let generations: BTreeSet<Generation> = mates.map(|seen| seen.generation).collect();
            assert!(generations.len() <= 2, "I-19: {generations:?} live in `{spec}`");
        }
        if let Some(reload) = self.reload.as_ref().filter(|reload| !reload.is_disturbed) {
            let lost = self.lost - reload.lost + self.late_on_the_way_back(reload, now);
            let missing = reload.options.max_unavailable as usize + lost;
            let ready = machine.ready();
            assert!(
                ready + missing >= reload.ready,
                "I-20: {ready} of {} ready, {missing} may be missing",
                reload.ready
            );
        }
    }
}
