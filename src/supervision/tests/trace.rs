//! The judge of the simulated world: reads what the machines publish and order, and knows nothing of how they decide.

use std::collections::BTreeMap;

use super::*;
use crate::model::{EventKind, ExitReason, GaveUp, WorkerError};

/// What was seen of one worker.
#[derive(Debug, Default)]
struct Seen {
    slot: Option<Slot>,
    steps: Vec<&'static str>,
    ready_at: Option<Mono>,
    stops: Vec<ShutdownPolicy>,
}

/// What was seen of one slot.
#[derive(Debug, Default)]
struct Place {
    occupant: Option<WorkerId>,
    restarts: Vec<Mono>,
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
    last_id: WorkerId,
    shutting_down: bool,
    pub(super) finished: Option<Outcome>,
    pub(super) answers: BTreeMap<RequestId, usize>,
}

impl Judge {
    pub(super) fn new(config: SupervisionConfig) -> Self {
        Self {
            config,
            workers: BTreeMap::new(),
            places: BTreeMap::new(),
            cluster_restarts: Vec::new(),
            last_id: WorkerId::new(0),
            shutting_down: false,
            finished: None,
            answers: BTreeMap::new(),
        }
    }

    pub(super) fn see(&mut self, action: &Action, machine: &Supervision, now: Mono) {
        assert!(self.finished.is_none(), "{action:?} after the end");
        match action {
            Action::Spawn { id, slot, .. } => {
                assert!(!self.shutting_down, "I-11: spawn of {id} in a shutdown");
                assert!(*id > self.last_id, "I-04: id {id} after {}", self.last_id);
                self.last_id = *id;
                let place = self.places.entry(slot.clone()).or_default();
                assert_eq!(place.occupant, None, "I-01, I-04: two workers in {slot}");
                place.occupant = Some(*id);
                self.workers.entry(*id).or_default().slot = Some(slot.clone());
            }
            Action::Stop { id, policy } => {
                let stops = &mut self.workers.get_mut(id).expect("stopped workers were spawned").stops;
                stops.push(*policy);
                assert!(
                    stops.len() == 1 || (stops.len() == 2 && *policy == ShutdownPolicy::Brutal),
                    "I-35: {id} was stopped by {stops:?}"
                );
            }
            Action::Publish { worker: Some(id), kind } => self.step(*id, kind, now),
            Action::Publish { worker: None, kind } => self.verdict(kind, machine, now),
            Action::SlotAdded { .. }
            | Action::Scaled { .. }
            | Action::GenerationAdded { .. }
            | Action::GenerationGone { .. }
            | Action::CanaryVerdict { .. }
            | Action::ReloadFinished { .. }
            | Action::SpecAnswered { .. } => {}
            Action::Forked { request, .. } => *self.answers.entry(*request).or_default() += 1,
            Action::SlotGone { slot } => {
                let held = self.places.get(slot).and_then(|place| place.occupant);
                assert_eq!(held, None, "{slot} is gone with a worker in it");
            }
            Action::Finished(outcome) => self.finished = Some(outcome.clone()),
        }
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
                other => panic!("{} is about no worker", other.name()),
            };
        assert!(legal, "I-03: worker {id}: {} after {steps:?}", kind.name());
        steps.push(kind.name());
        match kind {
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
        assert_eq!(place.occupant.take(), Some(id));
        place.unjudged = is_fault;
        let spec = &self.config.specs[0];
        if seen.ready_at.is_some_and(|ready| now.since(ready) >= spec.stable_after) {
            place.streak = 0;
        }
    }

    fn verdict(&mut self, kind: &EventKind, machine: &Supervision, now: Mono) {
        let limit = self.config.specs[0].limit;
        let within = |restarts: &[Mono], period| restarts.iter().filter(|at| now.since(**at) <= period).count();
        match kind {
            EventKind::RestartScheduled { slot, delay, .. } => {
                assert!(!self.shutting_down, "I-11: restart in a shutdown");
                let place = self.places.get_mut(slot).expect("the slot had a worker");
                assert!(
                    std::mem::take(&mut place.unjudged),
                    "I-15: restart of {slot} without a fault"
                );
                place.restarts.push(now);
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
            }
            EventKind::GaveUp(GaveUp::Slot { slot, .. }) => {
                let place = self.places.get_mut(slot).expect("the slot had a worker");
                assert!(
                    std::mem::take(&mut place.unjudged),
                    "I-15: {slot} given up without a fault"
                );
                assert_eq!(
                    within(&place.restarts, limit.period),
                    limit.max as usize,
                    "I-13: only then"
                );
            }
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
