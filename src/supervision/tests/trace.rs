//! The judge of the simulated world: reads what the machines publish and order, and knows nothing of how they decide.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{EventKind, ExitReason, GaveUp, Generation, ReloadError, ReloadFailure, SpecName, WorkerError};

/// What was seen of one worker.
#[derive(Debug, Default)]
struct Seen {
    slot: Option<Slot>,
    generation: Generation,
    is_unkillable: bool,
    /// Perhaps a successor that is not trusted yet, which goes at once.
    may_be_newcomer: bool,
    steps: Vec<&'static str>,
    ready_at: Option<Mono>,
    stops: Vec<ShutdownPolicy>,
}

/// What was seen of one slot.
#[derive(Debug, Default)]
struct Place {
    occupants: Vec<WorkerId>,
    /// It was given up or stopped since; who starts it again may give it a new budget.
    was_gone: bool,
    restarts: Vec<Mono>,
    /// The same, whatever was forgiven.
    all_restarts: Vec<Mono>,
    streak: u32,
    /// An end that the restart rules must judge: at most one verdict each.
    unjudged: bool,
}

#[derive(Debug)]
pub(super) struct Judge {
    config: SupervisionConfig,
    workers: BTreeMap<WorkerId, Seen>,
    places: BTreeMap<Slot, Place>,
    cluster_restarts: Vec<Mono>,
    /// Since somebody started the spec by hand, and ever.
    pub(super) spec_restarts: BTreeMap<SpecName, Vec<Mono>>,
    all_of_spec: BTreeMap<SpecName, Vec<Mono>>,
    specs: BTreeMap<SpecName, SpecConfig>,
    /// In start order.
    order: Vec<SpecName>,
    /// Specs that handles want deleted, or added with this configuration.
    pub(super) asked: BTreeMap<RequestId, (SpecName, Option<SpecConfig>)>,
    /// Specs that went down together, and who lived in them.
    groups: Vec<(BTreeSet<SpecName>, Vec<WorkerId>)>,
    recycling: BTreeSet<WorkerId>,
    reload: Option<(Generation, Option<SpecName>)>,
    gone: BTreeSet<Generation>,
    /// Was an immediate shutdown asked for?
    pub(super) at_once: bool,
    last_id: WorkerId,
    shutting_down: bool,
    pub(super) finished: Option<Outcome>,
    pub(super) answers: BTreeMap<RequestId, usize>,
}

impl Judge {
    pub(super) fn new(config: SupervisionConfig) -> Self {
        Self {
            workers: BTreeMap::new(),
            places: BTreeMap::new(),
            cluster_restarts: Vec::new(),
            spec_restarts: BTreeMap::new(),
            all_of_spec: BTreeMap::new(),
            order: config.specs.iter().map(|spec| spec.name.clone()).collect(),
            specs: config
                .specs
                .iter()
                .map(|spec| (spec.name.clone(), spec.clone()))
                .collect(),
            asked: BTreeMap::new(),
            groups: Vec::new(),
            recycling: BTreeSet::new(),
            reload: None,
            gone: BTreeSet::new(),
            at_once: false,
            last_id: WorkerId::new(0),
            shutting_down: false,
            finished: None,
            answers: BTreeMap::new(),
            config,
        }
    }

    pub(super) fn see(&mut self, action: &Action, machine: &Supervision, now: Mono) {
        assert!(self.finished.is_none(), "{action:?} after the end");
        match action {
            Action::Spawn {
                id, slot, generation, ..
            } => self.spawned(*id, slot, *generation),
            Action::Stop { id, policy } => self.stopped(*id, *policy),
            Action::Publish { worker: Some(id), kind } => self.step(*id, kind, now),
            Action::Publish { worker: None, kind } => self.verdict(kind, machine, now),
            Action::SlotAdded { .. } | Action::CanaryVerdict { .. } => {}
            Action::SpecsTaken { request } => self.answered(*request),
            Action::SpecGone { spec } => self.forget(spec),
            Action::GenerationAdded { generation, .. } => {
                assert_eq!(
                    self.reload.as_ref().map(|(generation, _)| *generation),
                    None,
                    "I-21: {generation}"
                );
            }
            Action::GenerationGone { generation } => {
                self.gone.insert(*generation);
            }
            Action::SpecAnswered {
                request,
                result: Ok(()),
            } => {
                *self.answers.entry(*request).or_default() += 1;
                self.answered(*request);
            }
            Action::Scaled { request, .. }
            | Action::Forked { request, .. }
            | Action::ReloadFinished { request, .. }
            | Action::SpecAnswered { request, .. } => *self.answers.entry(*request).or_default() += 1,
            Action::SlotGone { slot } => {
                let place = self.places.entry(slot.clone()).or_default();
                assert_eq!(place.occupants, [], "{slot} is gone with a worker in it");
                place.was_gone = true;
            }
            Action::Finished(outcome) => self.finished = Some(outcome.clone()),
        }
    }

    fn lives(&self, id: WorkerId) -> bool {
        let seen = &self.workers[&id];
        !seen.is_unkillable && seen.steps.last() != Some(&"exit")
    }

    fn spec_of(&self, id: WorkerId) -> &SpecName {
        &self.workers[&id].slot.as_ref().expect("it was spawned").spec
    }

    fn spawned(&mut self, id: WorkerId, slot: &Slot, generation: Generation) {
        assert!(!self.shutting_down, "I-11: spawn of {id} in a shutdown");
        assert!(id > self.last_id, "I-04: id {id} after {}", self.last_id);
        assert!(!self.gone.contains(&generation), "{id} is of a generation that is gone");
        self.last_id = id;
        for (specs, victims) in &self.groups {
            let dead = victims.iter().all(|victim| !self.lives(*victim));
            assert!(
                dead || !specs.contains(&slot.spec),
                "{id} in {slot} before its group is gone: {victims:?}"
            );
        }
        let place = self.places.entry(slot.clone()).or_default();
        place.occupants.push(id);
        let occupants = place.occupants.clone();
        self.workers.entry(id).or_default().slot = Some(slot.clone());
        self.workers.entry(id).or_default().generation = generation;
        let may_be_newcomer = occupants.len() > 1 || self.reload.is_some();
        self.workers.entry(id).or_default().may_be_newcomer = may_be_newcomer;
        assert!(occupants.len() <= 2, "I-01, I-04: {occupants:?} in {slot}");
        if let [before, _] = occupants[..] {
            let is_replaced = self.reload.is_some() || self.recycling.contains(&before);
            // The old one may die, and come back, while its successor boots.
            if self.recycling.contains(&before) {
                self.recycling.insert(id);
            }
            let seen = &self.workers[&before];
            assert!(
                is_replaced || !seen.stops.is_empty() || seen.is_unkillable,
                "I-04: two workers in {slot}"
            );
        }
        let doubles = self.places.values().filter(|place| place.occupants.len() == 2);
        let doubles = doubles.filter(|place| place.occupants.iter().all(|id| self.lives(*id)));
        assert!(doubles.count() <= 2, "I-01, I-41: more than the largest surge");
    }

    fn stopped(&mut self, id: WorkerId, policy: ShutdownPolicy) {
        let stops = &mut self.workers.get_mut(&id).expect("stopped workers were spawned").stops;
        stops.push(policy);
        assert!(
            stops.len() == 1 || (stops.len() == 2 && policy == ShutdownPolicy::Brutal),
            "I-35: {id} was stopped by {stops:?}"
        );
        if self.shutting_down && !self.at_once && !self.workers[&id].may_be_newcomer {
            let place = |spec: &SpecName| self.order.iter().position(|known| known == spec);
            let mine = place(self.spec_of(id));
            let later = self
                .workers
                .keys()
                .find(|other| self.lives(**other) && place(self.spec_of(**other)) > mine);
            assert_eq!(later, None, "O-085: {id} is stopped before that one of a later spec");
        }
    }

    /// I-19: after a reload everybody is of one generation, the new or the old.
    fn reloaded(&mut self, generation: Generation, result: &Result<(), ReloadError>) {
        let (begun, scope) = self.reload.take().expect("I-21: a reload ends once");
        assert_eq!(begun, generation);
        let is_meant = |id: &WorkerId| self.lives(*id) && scope.as_ref().is_none_or(|spec| self.spec_of(*id) == spec);
        // A slot in which somebody cannot be killed cannot be replaced.
        let is_stuck = |id: &WorkerId| {
            let slot = self.workers[id].slot.as_ref().expect("it was spawned");
            self.places[slot].occupants.iter().any(|id| !self.lives(*id))
        };
        let wrong: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(id, _)| is_meant(id) && !is_stuck(id))
            .filter(|(_, seen)| match result {
                Ok(()) => seen.generation != generation,
                Err(error) => match error.reason {
                    ReloadFailure::Overtaken | ReloadFailure::ShuttingDown => false,
                    _ => seen.generation == generation,
                },
            })
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(wrong, [], "I-19: after {generation} {result:?}");
    }

    /// Who goes down together from here on.
    fn group(&mut self, failed: &SpecName) {
        let position = self.order.iter().position(|spec| spec == failed).expect("it is known");
        let affected = self.config.strategy.affected(position, self.order.len());
        let affected: Vec<&SpecName> = self.order[affected].iter().collect();
        let victims = self.workers.keys().copied();
        let victims: Vec<WorkerId> = victims
            .filter(|id| self.lives(*id) && affected.contains(&self.spec_of(*id)))
            .collect();
        let affected = affected.into_iter().cloned().collect();
        self.groups.push((affected, victims));
    }

    pub(super) fn config_of(&self, spec: &SpecName) -> &SpecConfig {
        self.specs.get(spec).unwrap_or(&self.config.specs[0])
    }

    /// A spec was deleted, or added at the end.
    fn answered(&mut self, request: RequestId) {
        if let Some((spec, config)) = self.asked.remove(&request) {
            self.forget(&spec);
            if let Some(config) = config {
                self.order.push(spec.clone());
                self.specs.insert(spec, config);
            }
        }
    }

    /// A spec is no longer in the list.
    fn forget(&mut self, spec: &SpecName) {
        self.order.retain(|known| known != spec);
        for (specs, _) in &mut self.groups {
            specs.remove(spec);
        }
        self.spec_restarts.remove(spec);
        self.places.retain(|slot, _| slot.spec != *spec);
    }

    /// I-02 and I-03: what a worker goes through, in order.
    fn step(&mut self, id: WorkerId, kind: &EventKind, now: Mono) {
        let seen = self
            .workers
            .get_mut(&id)
            .expect("events are about workers that were spawned");
        let steps = &mut seen.steps;
        let has = |name: &str| steps.contains(&name);
        let legal = !has("exit")
            && match kind {
                EventKind::Fork => steps.is_empty(),
                EventKind::Online => has("fork") && !has("online") && !has("exiting") && !has("disconnect"),
                EventKind::Listening(_) => has("online") && !has("exiting") && !has("disconnect"),
                // Ready at birth is one of the rules, so it may come before online.
                EventKind::Ready => has("fork") && !has("ready") && !has("exiting") && !has("disconnect"),
                EventKind::Exiting => has("fork") && !has("exiting") && !has("disconnect"),
                EventKind::Disconnect => has("fork") && !has("disconnect"),
                EventKind::Exit(_) => has("disconnect"),
                EventKind::Error(WorkerError::Spawn(_)) => steps.is_empty(),
                EventKind::Error(_) => has("fork"),
                EventKind::Recycling(_) => {
                    self.recycling.insert(id);
                    has("ready") || has("fork") || steps.is_empty()
                }
                other => panic!("{} is about no worker", other.name()),
            };
        assert!(legal, "I-03: worker {id}: {} after {steps:?}", kind.name());
        steps.push(kind.name());
        match kind {
            EventKind::Recycling(_) => {}
            EventKind::Error(WorkerError::Unkillable) => seen.is_unkillable = true,
            EventKind::Ready => seen.ready_at = Some(now),
            EventKind::Exit(exit) => self.end(id, exit.reason != ExitReason::Ordered, now),
            EventKind::Error(WorkerError::Spawn(_)) => {
                seen.steps.push("exit");
                self.end(id, true, now);
            }
            _ => {}
        }
    }

    fn end(&mut self, id: WorkerId, is_fault: bool, now: Mono) {
        let seen = &self.workers[&id];
        let place = self
            .places
            .get_mut(seen.slot.as_ref().expect("it was spawned"))
            .expect("it was spawned");
        assert!(place.occupants.contains(&id));
        place.occupants.retain(|known| *known != id);
        place.unjudged |= is_fault;
        let spec = &self.specs[&seen.slot.as_ref().expect("it was spawned").spec];
        if seen.ready_at.is_some_and(|ready| now.since(ready) >= spec.stable_after) {
            place.streak = 0;
        }
    }

    fn verdict(&mut self, kind: &EventKind, machine: &Supervision, now: Mono) {
        let within = |restarts: &[Mono], period| restarts.iter().filter(|at| now.since(**at) <= period).count();
        match kind {
            EventKind::RestartScheduled { slot, delay, .. } => {
                assert!(!self.shutting_down, "I-11: restart in a shutdown");
                let spec = self.specs[&slot.spec].clone();
                let (limit, place) = (spec.limit, self.places.get_mut(slot).expect("the slot had a worker"));
                assert!(
                    std::mem::take(&mut place.unjudged),
                    "I-15: restart of {slot} without a fault"
                );
                if std::mem::take(&mut place.was_gone) && delay.is_zero() {
                    place.restarts.clear();
                    place.streak = 0;
                }
                place.restarts.push(now);
                place.all_restarts.push(now);
                self.all_of_spec.entry(slot.spec.clone()).or_default().push(now);
                let of_spec = self.spec_restarts.entry(slot.spec.clone()).or_default();
                of_spec.push(now);
                if let Some(intensity) = spec.intensity {
                    assert!(
                        within(of_spec, intensity.period) <= intensity.max as usize,
                        "I-13: {slot}"
                    );
                }
                self.cluster_restarts.push(now);
                assert!(
                    within(&place.restarts, limit.period) <= limit.max as usize,
                    "I-13: {slot}"
                );
                if let Some(intensity) = self.config.intensity {
                    assert!(
                        within(&self.cluster_restarts, intensity.period) <= intensity.max as usize,
                        "I-13"
                    );
                }
                place.streak += 1;
                let middle = 0.5 * 2_f64.powi(i32::try_from(place.streak).expect("small") - 2);
                let delay = delay.as_secs_f64();
                let legal = match place.streak {
                    1 => delay == 0.0,
                    _ => delay >= (middle * 0.9).min(5.0) && delay <= (middle * 1.1).min(5.0),
                };
                assert!(legal, "I-14: {delay} for failure {}", place.streak);
                self.group(&slot.spec);
            }
            EventKind::GaveUp(GaveUp::Slot { slot, limit, period }) => {
                let place = self.places.get_mut(slot).expect("the slot had a worker");
                assert!(
                    std::mem::take(&mut place.unjudged),
                    "I-15: {slot} given up without a fault"
                );
                assert!(
                    within(&place.all_restarts, *period) >= *limit as usize,
                    "I-13: only then"
                );
            }
            EventKind::GaveUp(GaveUp::Spec { spec, limit, period }) => {
                let restarts = self.all_of_spec.get(spec).map_or(0, |all| within(all, *period));
                assert!(restarts >= *limit as usize, "I-13: only then");
            }
            EventKind::ReloadStarted { generation, spec } => {
                assert!(!self.shutting_down, "I-11: reload in a shutdown");
                self.reload = Some((*generation, spec.clone()));
            }
            EventKind::ReloadFinished { generation, result } => self.reloaded(*generation, result),
            EventKind::Scaled { from, to, .. } => assert_ne!(from, to, "I-35"),
            EventKind::GaveUp(GaveUp::Cluster { limit, period }) => {
                assert_eq!(
                    within(&self.cluster_restarts, *period),
                    *limit as usize,
                    "I-13: only then"
                );
            }
            EventKind::ShutdownStarted => {
                assert!(!self.shutting_down, "I-35: one shutdown");
                self.shutting_down = true;
            }
            EventKind::AllReady { workers } => assert_eq!((*workers, machine.target()), (machine.ready(), *workers)),
            other => panic!("{} is about a worker", other.name()),
        }
    }

    /// A handle started the slot by hand: its budget is new.
    pub(super) fn forgive(&mut self, slot: &Slot) {
        if let Some(place) = self.places.get_mut(slot) {
            place.restarts.clear();
            place.streak = 0;
        }
    }

    /// I-02: everybody who was forked has exited, but for those the outcome names.
    pub(super) fn is_balanced(&self, left_behind: &[WorkerId]) -> bool {
        self.workers
            .iter()
            .all(|(id, seen)| left_behind.contains(id) || seen.steps.last().is_none_or(|last| *last == "exit"))
    }
}
