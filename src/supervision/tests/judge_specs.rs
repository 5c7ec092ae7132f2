//! The judge's rules for specs: which are in the list, what holds for them, and starts by hand.
//!
//! Not here: their slots ([`super::judge_slots`]) and restarts ([`super::judge_restarts`]).

use super::judge_restarts::AskedFor;
use super::trace::{Judge, Seen};
use super::*;
use crate::model::{RecycleReason, SpecName};

/// What may be a reason to recycle a worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Why {
    pub(super) is_asked: bool,
    /// So many it has served.
    pub(super) requests: u64,
    /// Its limits when it got ready.
    pub(super) max_requests: u64,
    pub(super) max_age: Option<Duration>,
    /// Since its successor failed, and its limit then.
    pub(super) again: Option<(Mono, Duration)>,
    /// Was there a limit for its age when that was last looked up?
    pub(super) is_aging: bool,
}

impl Judge {
    pub(super) fn why(&mut self, id: WorkerId, change: impl FnOnce(&mut Why)) {
        if let Some(seen) = self.workers.get_mut(&id) {
            change(&mut seen.why);
        }
    }

    /// I-41: nobody is recycled before his time, more or less by a tenth.
    pub(super) fn is_due_for_recycling(&self, id: WorkerId, why: &RecycleReason, now: Mono) {
        let seen = self.seen(id);
        let config = &self.specs[&seen.slot.spec];
        let is_due = match why {
            RecycleReason::Age => {
                let limit = seen.why.max_age.into_iter().chain(config.max_age).min();
                let first = limit.zip(seen.ready_at).map(|(limit, ready)| (ready, limit));
                let mut tries = first.into_iter().chain(seen.why.again);
                tries.any(|(since, limit)| now.since(since) >= limit / 10 * 9)
            }
            RecycleReason::Requests => {
                let limit = seen.why.max_requests;
                limit > 0 && seen.why.requests >= (limit - limit / 10).max(1)
            }
            _ => seen.why.is_asked,
        };
        assert!(is_due, "I-41: {id} is recycled for {why:?} at {now}: {seen:?}");
    }

    /// A successor has ended, or is told to stop, beside the worker that is to be recycled. The next try is an age away, and another age is for
    /// those that get ready later.
    pub(super) fn recycled_again(&mut self, id: WorkerId, now: Mono) {
        let seen = self.seen(id);
        let is_successor = seen.is_for_recycling && self.beside(&seen.slot) == Some(id);
        let old = self.view.get(&seen.slot).and_then(|slot| slot.worker);
        let again = self.specs[&seen.slot.spec].max_age.map(|limit| (now, limit));
        if let Some(old) = old.filter(|_| is_successor) {
            self.why(old, |why| (why.again, why.is_aging) = (again, again.is_some()));
        }
    }

    /// I-37: whoever grows old in its place has a time at which it is too old, waits for its turn, or is being replaced.
    pub(super) fn nobody_is_ageless(&self, machine: &Supervision) {
        if self.shutdown_at.is_some() {
            return;
        }
        for (key, seat) in machine.roster.seats() {
            let Some(worker) = seat.content().main().filter(|worker| worker.is_ready()) else {
                continue;
            };
            // A group that goes down takes everybody along, whatever was to become of them.
            let is_seen_to = machine.group.as_ref().is_some_and(|group| group.covers(key.spec))
                || worker.expires_at.is_some()
                || machine.recycling.wanted.contains_key(&worker.id)
                || machine.changes.contains_key(&key);
            let why = &self.seen(worker.id).why;
            assert!(is_seen_to || !why.is_aging, "I-37: {} is never too old", worker.id);
        }
    }

    /// What came with this request is in force.
    pub(super) fn specs_taken(&mut self, request: RequestId) {
        self.begins("a new description");
        match self.waits_for(request).cloned() {
            Some(Input::SpecAddRequested { config, .. }) => {
                let is_there = self.order.contains(&config.name);
                assert!(!is_there, "O-074: there is a spec `{}` already", config.name);
                self.describe(&config);
            }
            Some(Input::ReconfigureRequested { changes, .. }) => self.reconfigured(&changes),
            other => panic!("O-074: {other:?} brings no description"),
        }
    }

    fn describe(&mut self, config: &SpecConfig) {
        let name = &config.name;
        let longest = self.longest.entry(name.clone()).or_default();
        *longest = (*longest).max(config.shutdown.longest());
        self.specs.insert(name.clone(), config.clone());
        if !self.order.contains(name) {
            self.order.push(name.clone());
            self.generations.insert(name.clone(), self.newest);
        }
    }

    fn reconfigured(&mut self, changes: &Reconfiguration) {
        if let Some(strategy) = &changes.strategy {
            self.config.strategy = Arc::clone(strategy);
        }
        if let Some(intensity) = changes.intensity {
            retune(&mut self.cluster_restarts, self.config.intensity, intensity);
            self.config.intensity = intensity;
        }
        self.config.auto_shutdown = changes.auto_shutdown.unwrap_or(self.config.auto_shutdown);
        self.config.when_empty = changes.when_empty.unwrap_or(self.config.when_empty);
        for config in &changes.specs {
            if self.order.contains(&config.name) {
                let before = self.specs[&config.name].intensity;
                let restarts = self.spec_restarts.entry(config.name.clone()).or_default();
                retune(restarts, before, config.intensity);
                let places = self.places.iter_mut().filter(|(slot, _)| slot.spec == config.name);
                places.for_each(|(_, place)| keep_last(&mut place.restarts, config.limit.max));
            }
            self.describe(config);
        }
    }

    /// O-074: only what was deleted, what never came up, and a temporary one that has ended.
    pub(super) fn spec_gone(&mut self, name: &SpecName) {
        let place = self.order.iter().position(|known| known == name);
        let Some(place) = place else {
            panic!("O-074: `{name}` is gone, and was not there")
        };
        let left = self.alive.iter().find(|id| self.spec_of(**id) == name);
        same!(left, None, "O-074: `{name}` is gone with a worker");
        let is_own = self.own.as_ref() == Some(name);
        let is_temporary = self.specs[name].restart == RestartType::Temporary;
        let is_wanted = match &self.turn.input {
            Some(Input::SpecDeleteRequested { spec, .. }) => spec == name,
            Some(Input::SpecAddRequested { config, .. }) => config.name == *name && is_temporary,
            _ => false,
        };
        let is_undone = self.failed_starts.iter().any(|(spec, is_new)| *is_new && spec == name);
        let has_ended = is_temporary && !is_own && self.shutdown_at.is_none();
        assert!(
            is_wanted || is_undone || has_ended,
            "O-074: `{name}` is taken away for nothing"
        );
        self.disturb_reload();
        self.order.remove(place);
        self.spec_restarts.remove(name);
        self.failed_starts.retain(|(spec, _)| spec != name);
        if is_own {
            self.own = None;
        }
        if let Some(group) = &mut self.group {
            group.specs.remove(name);
        }
    }

    /// A slot has what somebody waited for, or can never have it.
    pub(super) fn has_come(&mut self, id: WorkerId) {
        if self.is_main(id) {
            let slot = self.workers[&id].slot.clone();
            let place = self.places.entry(slot).or_default();
            place.asked = place.asked.filter(|asked| *asked != AskedFor::Ready);
        }
    }

    /// O-012: a start is answered when everybody is ready, or when nobody of it is left.
    pub(super) fn spec_answered(&mut self, request: RequestId, input: &Input, result: &Result<(), SpecRefused>) {
        let is_now = self.turn.input.as_ref().and_then(meddle::request_of) == Some(request);
        self.turn.is_refused |= is_now && result.is_err();
        let spec = match input {
            Input::SpecAddRequested { config, .. } => &config.name,
            Input::SpecStartRequested { spec, .. } | Input::SpecRestartRequested { spec, .. } => spec,
            _ => return,
        };
        match result {
            Ok(()) if !is_now => {
                let mut asked = self.places.iter().filter(|(slot, _)| slot.spec == *spec);
                let waiting = asked.find(|(_, place)| place.asked == Some(AskedFor::Ready));
                let waiting = waiting.map(|(slot, _)| slot);
                same!(waiting, None, "O-012: `{spec}` has started before it is ready");
            }
            Err(SpecRefused::NotStarted(_)) => {
                let left = self.alive.iter().find(|id| {
                    let seen = self.seen(**id);
                    seen.slot.spec == *spec && !seen.is_unkillable && seen.is_undone
                });
                same!(left, None, "O-012: `{spec}` has not started, and one is left");
                if let Some(place) = self.failed_starts.iter().position(|(known, _)| known == spec) {
                    self.failed_starts.remove(place);
                }
            }
            _ => {}
        }
    }

    pub(super) fn specs_after_turn(&mut self, machine: &Supervision) {
        if machine.phase() != Phase::Stopped {
            same!(machine.spec_names(), self.order, "O-074: the list of specs");
        }
        if let Some(spec) = self.turn.failed_start.clone() {
            let of_spec = |seen: &&mut Seen| seen.slot.spec == spec;
            let alive = &self.alive;
            let living = self.workers.iter_mut().filter(|(id, _)| alive.contains(id));
            for seen in living.map(|(_, seen)| seen).filter(of_spec) {
                seen.is_undone = true;
                assert!(!seen.is_wanted(), "O-012: {seen:?} stays, and its spec has not started");
            }
        }
    }
}

/// The restarts that still count under another limit; without one none are counted.
fn retune(restarts: &mut Vec<Mono>, before: Option<RestartIntensity>, after: Option<RestartIntensity>) {
    match (before, after) {
        (Some(_), Some(after)) => keep_last(restarts, after.max),
        (None, _) | (_, None) => restarts.clear(),
    }
}

fn keep_last(restarts: &mut Vec<Mono>, max: u32) {
    let surplus = restarts.len().saturating_sub(max as usize);
    restarts.drain(..surplus);
}
