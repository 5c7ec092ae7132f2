//! The judge's rules for restarts: which ends are judged, how often, how soon, who goes with whom, and what may end the
//! cluster. It counts for itself.

use std::collections::BTreeSet;

use super::trace::Judge;
use super::*;
use crate::model::{Exit, ExitReason, GaveUp, SlotSnapshot, SlotState, SpecName, exit_code};
use crate::policy::{AutoShutdown, Escalation};

/// What was seen of one slot.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) occupants: Vec<WorkerId>,
    /// Since its budget was last full.
    pub(super) restarts: Vec<Mono>,
    pub(super) streak: u32,
    pub(super) not_before: Option<Mono>,
    /// Who waits for its next process decides himself if there is none.
    pub(super) asked: Option<AskedFor>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedFor {
    Process,
    Ready,
}

/// Specs that go down together.
#[derive(Debug)]
pub(super) struct DownGroup {
    pub(super) specs: BTreeSet<SpecName>,
    pub(super) victims: BTreeSet<WorkerId>,
    pub(super) until: Mono,
}

fn is_down(state: SlotState) -> bool {
    matches!(state, SlotState::Failed | SlotState::Stopped | SlotState::Declined)
}

fn has_nothing_to_do(exit: &Exit) -> bool {
    exit.status.code() == Some(exit_code::NOTHING_TO_DO)
        && matches!(exit.reason, ExitReason::Voluntary | ExitReason::Crash)
}

/// What is too old at a restart does not count any more, whatever the period becomes.
fn record(restarts: &mut Vec<Mono>, period: Duration, now: Mono) {
    restarts.retain(|at| now.since(*at) <= period);
}

/// The window is closed: exactly one period ago still counts.
fn within(restarts: &[Mono], period: Duration, now: Mono) -> usize {
    restarts.iter().filter(|at| now.since(**at) <= period).count()
}

impl Judge {
    /// A worker's end was told.
    pub(super) fn ended(&mut self, id: WorkerId, now: Mono) {
        let Some(Input::WorkerExited { exit, .. }) = self.turn.input.clone() else {
            panic!("I-02: worker {id} exits, and nobody said so");
        };
        let must = self.must_be_judged(id, &exit);
        // One that was told to stop had failed by then.
        if self.seen(id).stops.is_empty() {
            self.recycled_again(id, now);
        }
        let seen = &self.workers[&id];
        let place = self.places.get_mut(&seen.slot).expect("it was spawned there");
        let was_asked = place.asked == Some(AskedFor::Process);
        place.occupants.retain(|known| *known != id);
        if was_asked && self.view.get(&seen.slot).is_some_and(|slot| slot.worker == Some(id)) {
            place.asked = None;
        }
        let stable_after = self.specs[&seen.slot.spec].stable_after;
        if seen.ready_at.is_some_and(|ready| now.since(ready) >= stable_after) {
            place.streak = 0;
        }
        self.alive.remove(&id);
        if !was_asked {
            self.newcomer_ended(id, &exit);
        }
        self.turn.end = Some((id, must));
    }

    /// I-15: must this end be followed by a restart, or by giving up?
    fn must_be_judged(&mut self, id: WorkerId, exit: &Exit) -> Option<bool> {
        let seen = &self.workers[&id];
        let spec = &seen.slot.spec;
        let is_ordered = !seen.stops.is_empty() || !self.is_main(id) || self.shutdown_at.is_some();
        let is_in_group = self.group.as_ref().is_some_and(|group| group.specs.contains(spec));
        let nothing_to_do = has_nothing_to_do(exit);
        let deserves = self.deserves_restart(spec, exit);
        if seen.is_unkillable {
            // Whoever wants it gone cannot give it another order, so what it was wanted for cannot be seen.
            let is_ordered = !seen.stops.is_empty();
            // But a slot of whose own worker nothing follows takes the successor beside it along.
            self.turn.is_final |= !is_ordered && !deserves && self.is_main(id);
            self.disturb_reload();
            return is_ordered.then_some(false);
        }
        if is_ordered || is_in_group {
            return Some(false);
        }
        let slot = seen.slot.clone();
        let asked = self.places[&slot].asked;
        if asked == Some(AskedFor::Process) {
            self.disturb_reload();
            return Some(false);
        }
        if let Some(reload) = self.reload.as_ref().filter(|reload| reload.covers(spec))
            && reload.generation == seen.generation
        {
            let is_good = seen.ready_at.is_some() && exit.is_orderly() && exit.status.is_success();
            let position = self.order.iter().position(|known| known == spec).expect("it is known");
            let is_alone = self.config.strategy.affected(position, self.order.len()).is_empty();
            if (is_alone || !deserves) && !is_good {
                // New code that fails costs its slot nothing.
                return Some(false);
            }
            if reload.options.max_unavailable > 0 && asked.is_none() {
                // Nor does a successor in place; the same worker some time later is like any other. A slot that somebody
                // waits for is not replaced.
                self.disturb_reload();
                return None;
            }
        }
        if asked == Some(AskedFor::Ready) && !nothing_to_do {
            return self.start_fails(id);
        }
        if nothing_to_do {
            // That is as good as ready.
            self.places.entry(slot).or_default().asked = None;
        }
        if !deserves {
            self.disturb_reload();
            self.turn.is_final = true;
            // Who never could serve and had nothing to do has not ended, because it has not begun.
            self.turn.is_significant = !nothing_to_do || exit.was_ready;
        }
        Some(deserves)
    }

    fn deserves_restart(&self, spec: &SpecName, exit: &Exit) -> bool {
        let done = exit.status.is_success()
            && matches!(
                exit.reason,
                ExitReason::Ordered | ExitReason::Voluntary | ExitReason::Crash | ExitReason::Killed
            );
        match self.specs[spec].restart {
            _ if exit.status.code() == Some(exit_code::DO_NOT_RESTART) || has_nothing_to_do(exit) => false,
            RestartType::Permanent => true,
            RestartType::Transient => !done,
            RestartType::Temporary => false,
        }
    }

    /// O-012: whoever started it is told, and nobody else judges; the others of its spec are stopped.
    fn start_fails(&mut self, id: WorkerId) -> Option<bool> {
        self.disturb_reload();
        let spec = self.spec_of(id).clone();
        let starts = self.open.values().rev();
        let is_new = starts
            .clone()
            .any(|input| matches!(input, Input::SpecAddRequested { config, .. } if config.name == spec));
        for (slot, place) in &mut self.places {
            if slot.spec == spec && place.asked == Some(AskedFor::Ready) {
                place.asked = None;
            }
        }
        self.failed_starts.push((spec.clone(), is_new));
        self.turn.failed_start = Some(spec);
        Some(false)
    }

    pub(super) fn verdicts_given(&mut self) {
        let Some((id, must)) = self.turn.end else {
            same!(self.turn.verdicts, 0, "I-15: a verdict on nobody's end");
            return;
        };
        match must {
            Some(must) => same!(
                self.turn.verdicts,
                usize::from(must),
                "I-15: verdicts on the end of worker {id}"
            ),
            None => assert!(self.turn.verdicts <= 1, "I-15: verdicts on the end of worker {id}"),
        }
        let is_over =
            self.turn.is_significant || matches!(self.turn.gave_up, Some(GaveUp::Slot { .. } | GaveUp::Spec { .. }));
        let spec = &self.specs[self.spec_of(id)];
        if is_over && spec.significant && self.config.auto_shutdown == AutoShutdown::AnySignificant {
            assert!(
                self.shutdown_at.is_some(),
                "O-057: the significant worker {id} has ended"
            );
        }
    }

    pub(super) fn restart_scheduled(&mut self, slot: &Slot, delay: Duration, now: Mono) {
        self.begins("a restart");
        self.judged(slot);
        let spec = &self.specs[&slot.spec];
        let place = self.places.get_mut(slot).expect("it was spawned there");
        record(&mut place.restarts, spec.limit.period, now);
        place.restarts.push(now);
        let count = within(&place.restarts, spec.limit.period, now);
        assert!(count <= spec.limit.max as usize, "I-13: restart {count} of {slot}");
        let of_spec = self.spec_restarts.entry(slot.spec.clone()).or_default();
        of_spec.push(now);
        if let Some(intensity) = spec.intensity {
            record(of_spec, intensity.period, now);
            let count = within(of_spec, intensity.period, now);
            assert!(
                count <= intensity.max as usize,
                "I-13: restart {count} of the spec of {slot}"
            );
        }
        self.cluster_restarts.push(now);
        if let Some(intensity) = self.config.intensity {
            record(&mut self.cluster_restarts, intensity.period, now);
            let count = within(&self.cluster_restarts, intensity.period, now);
            assert!(count <= intensity.max as usize, "I-13: restart {count} of the cluster");
        }
        place.streak += 1;
        place.not_before = Some(now + delay);
        // What `settings` sets: 500 ms doubled each time, a tenth more or less, 5 s at most, at once the first time.
        let middle = 0.5 * 2_f64.powi(i32::try_from(place.streak).expect("small") - 2);
        let seconds = delay.as_secs_f64();
        let legal = match place.streak {
            1 => delay.is_zero(),
            _ => seconds >= (middle * 0.9).min(5.0) && seconds <= (middle * 1.1).min(5.0),
        };
        assert!(legal, "I-14: {delay:?} for failure {} of {slot}", place.streak);
        self.take_down(&slot.spec, now + delay);
    }

    pub(super) fn given_up(&mut self, gave_up: &GaveUp, now: Mono) {
        let Some((id, _)) = self.turn.end else {
            panic!("I-15: {gave_up:?} without an end");
        };
        let slot = self.workers[&id].slot.clone();
        self.judged(&slot);
        let spec = &self.specs[&slot.spec];
        // The end that is one too many was counted like any other, by the slot and then by its spec, so what was too old
        // then does not come back under a longer period. Where the cluster gives up no restart follows.
        let place = self.places.get_mut(&slot).expect("it was spawned there");
        record(&mut place.restarts, spec.limit.period, now);
        if let (GaveUp::Spec { .. }, Some(intensity)) = (gave_up, spec.intensity) {
            record(
                self.spec_restarts.entry(slot.spec.clone()).or_default(),
                intensity.period,
                now,
            );
        }
        let slot_count = within(&place.restarts, spec.limit.period, now);
        let is_full = slot_count >= spec.limit.max as usize;
        let count =
            |restarts: &[Mono], limit: RestartIntensity| (within(restarts, limit.period, now), limit.max as usize);
        match gave_up {
            GaveUp::Slot { slot: failed, .. } => {
                same!(*failed, slot, "I-13: another slot is given up");
                assert!(
                    is_full,
                    "I-13: {slot} is given up after {slot_count} of {}",
                    spec.limit.max
                );
            }
            GaveUp::Spec { spec: failed, .. } => {
                same!(*failed, slot.spec, "I-13: another spec is given up");
                let restarts = self.spec_restarts.get(failed).map_or(&[][..], Vec::as_slice);
                let (count, max) = count(restarts, spec.intensity.expect("I-13: the spec has no limit"));
                assert!(
                    !is_full && count >= max,
                    "I-13: {failed} is given up after {count} of {max}"
                );
            }
            GaveUp::Cluster { .. } => {
                let limit = self.config.intensity.expect("I-13: the cluster has no limit");
                let (count, max) = count(&self.cluster_restarts, limit);
                assert!(
                    !is_full && count >= max,
                    "I-13: the cluster gives up after {count} of {max}"
                );
            }
        }
        self.disturb_reload();
        self.turn.gave_up = Some(gave_up.clone());
    }

    /// A verdict on the end that this turn is about.
    fn judged(&mut self, slot: &Slot) {
        let ended = self.turn.end.map(|(id, _)| &self.workers[&id].slot);
        same!(ended, Some(slot), "I-15: a verdict on {slot}, where nobody has ended");
        self.turn.verdicts += 1;
    }

    /// Who goes down together from here on.
    fn take_down(&mut self, failed: &SpecName, until: Mono) {
        let position = self.order.iter().position(|spec| spec == failed).expect("it is known");
        let affected = self.config.strategy.affected(position, self.order.len());
        let affected: Vec<SpecName> = self.order[affected].to_vec();
        if affected.is_empty() {
            return;
        }
        self.disturb_reload();
        let mut group = self.group.take().unwrap_or(DownGroup {
            specs: BTreeSet::new(),
            victims: BTreeSet::new(),
            until,
        });
        group.until = group.until.max(until);
        group.specs.extend(affected);
        let victims = self
            .alive
            .iter()
            .copied()
            .filter(|id| group.specs.contains(self.spec_of(*id)));
        group.victims.extend(victims);
        self.group = Some(group);
    }

    /// Is nobody going down, or held down?
    pub(super) fn has_no_group(&self, now: Mono) -> bool {
        self.group
            .as_ref()
            .is_none_or(|group| group.until <= now && !group.victims.iter().any(|id| self.is_living(*id)))
    }

    pub(super) fn group_ends(&mut self, now: Mono) {
        if self.has_no_group(now) {
            self.group = None;
        }
    }

    /// A slot that somebody starts again has a full budget; one that only a new generation revives has what was left.
    pub(super) fn revived(&mut self, slot: &Slot, after: &SlotSnapshot) {
        let Some((before, second)) = self.view.get(slot).map(|before| (before.state, before.beside)) else {
            return;
        };
        let is_by_hand = match &self.turn.input {
            Some(Input::SlotStartRequested { slot: started }) => started == slot,
            Some(Input::SpecStartRequested { spec, .. } | Input::SpecRestartRequested { spec, .. }) => {
                *spec == slot.spec && !self.turn.is_refused
            }
            _ => false,
        };
        let place = self.places.entry(slot.clone()).or_default();
        if second.is_some() && after.worker == second {
            // A successor that is ready took the slot: nobody waits there any more, whatever becomes of it.
            place.not_before = None;
        }
        if is_down(after.state) {
            place.asked = None;
            place.not_before = None;
        } else if is_down(before) && (before != SlotState::Failed || is_by_hand) {
            place.restarts.clear();
            place.streak = 0;
        }
    }

    /// Somebody started a spec by hand: its budget is new, and he waits for its processes.
    pub(super) fn start_asked(&mut self) {
        let spec = match &self.turn.input {
            _ if self.turn.is_refused => return,
            Some(Input::SpecStartRequested { spec, .. } | Input::SpecRestartRequested { spec, .. }) => spec,
            Some(Input::SpecAddRequested { config, .. }) => &config.name,
            _ => return,
        };
        self.spec_restarts.remove(spec);
        for slot in self.view.keys().filter(|slot| slot.spec == *spec) {
            self.places.entry(slot.clone()).or_default().asked = Some(AskedFor::Ready);
        }
    }

    /// I-11: only somebody's order, a limit or a significant end shuts a cluster down.
    pub(super) fn may_shut_down(&mut self) {
        let is_significant = |id| self.specs[self.spec_of(id)].significant;
        let by_end = self.config.auto_shutdown != AutoShutdown::Never;
        // Of a successor in place it cannot be seen whether it ended for good.
        let has_ended =
            self.turn.is_significant || self.turn.gave_up.is_some() || matches!(self.turn.end, Some((_, None)));
        let by_end = by_end && has_ended && self.turn.end.is_some_and(|(id, _)| is_significant(id));
        let by_limit = self.turn.gave_up.as_ref().is_some_and(|gave_up| match gave_up {
            GaveUp::Spec { spec, .. } => self.specs[spec].escalation == Escalation::StopCluster,
            GaveUp::Cluster { .. } => true,
            _ => false,
        });
        let by_order = matches!(self.turn.input, Some(Input::ShutdownRequested { .. }));
        assert!(by_order || by_limit || by_end, "I-11: a shutdown that nobody wants");
        self.gave_up.clone_from(&self.turn.gave_up);
    }
}
