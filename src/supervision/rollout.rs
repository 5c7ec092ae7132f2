//! A reload: every worker of one spec or of all is replaced by one of the next generation, and the first failure brings
//! the old generation back everywhere.
//!
//! Not here: whose turn it is ([`super::batch`]), and how one worker is replaced ([`super::changes`]).

use crate::model::{EventKind, Exit, Generation, Mono, ReloadError, ReloadFailure, SpecName, WorkerId};
use crate::policy::RolloutOptions;

use super::changes::{Way, Why};
use super::seat::{Occupant, SeatKey, SpecKey};
use super::{Action, RequestId, Supervision};

/// The reload that runs, the one that waits for it, and the numbers given out.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    pub(super) running: Option<Rollout>,
    queued: Option<Request>,
    /// The last number given out; none is given twice, because the master keeps an image for each.
    last: Generation,
    /// What a spec that is added now runs: the last generation that was good.
    newest: Generation,
}

#[derive(Debug)]
struct Request {
    id: RequestId,
    spec: Option<SpecName>,
    options: RolloutOptions,
}

#[derive(Debug)]
pub(super) struct Rollout {
    request: RequestId,
    /// The one spec; `None` for all.
    scope: Option<SpecKey>,
    target: Generation,
    pub(super) options: RolloutOptions,
    course: RollCourse,
    pub(super) wait: Wait,
    /// Where to look for the next one that is due: who comes before has been looked at, so that a reload of many looks
    /// at each a few times only.
    pub(super) from: SeatKey,
    /// Slots that had been emptied when it turned back, and are filled again by themselves.
    pub(super) emptied: Vec<SeatKey>,
    /// Replacements that succeeded.
    pub(super) done: u32,
    /// Is there nothing to judge, or was the verdict good?
    pub(super) canary_is_good: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum RollCourse {
    Forward,
    /// To the generation that each spec had before, because of this.
    Back(ReloadError),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    /// Between two batches.
    Pause(Mono),
    /// For what the canary does.
    Bake(Mono),
    /// For the verdict on it.
    Verdict(Mono),
}

impl Rollout {
    pub(super) fn covers(&self, spec: SpecKey) -> bool {
        self.scope.is_none_or(|scope| scope == spec)
    }

    pub(super) fn is_forward(&self) -> bool {
        self.course == RollCourse::Forward
    }

    /// Is the new generation good enough for what is not watched: a slot whose old worker died?
    pub(super) fn is_proven(&self) -> bool {
        self.done > 0 && self.canary_is_good
    }
}

impl Reloads {
    /// The generation that the running one brings.
    pub(super) fn target(&self) -> Option<Generation> {
        self.running.as_ref().map(|rollout| rollout.target)
    }

    /// What the running one is about: a spec, or all.
    pub(super) fn scope(&self) -> Option<Option<SpecKey>> {
        self.running.as_ref().map(|rollout| rollout.scope)
    }

    pub(super) fn options(&self) -> RolloutOptions {
        let mut options = self
            .running
            .as_ref()
            .map_or_else(RolloutOptions::default, |rollout| rollout.options);
        if self.is_going_back() {
            // What is known to be good needs no proof.
            options.probation = std::time::Duration::ZERO;
        }
        options
    }

    /// What a successor in this spec runs, if that is not what the spec runs anyway.
    pub(super) fn goal(&self, spec: SpecKey) -> Option<Generation> {
        self.running
            .as_ref()
            .filter(|rollout| rollout.is_forward() && rollout.covers(spec))
            .map(|rollout| rollout.target)
    }

    pub(super) fn is_going_back(&self) -> bool {
        self.running.as_ref().is_some_and(|rollout| !rollout.is_forward())
    }

    pub(super) const fn newest(&self) -> Generation {
        self.newest
    }

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        match self.running.as_ref()?.wait {
            Wait::No => None,
            Wait::Pause(until) | Wait::Bake(until) | Wait::Verdict(until) => Some(until),
        }
    }

    /// One replacement succeeded; with the last of a batch the pause begins.
    pub(super) fn one_done(&mut self, is_last: bool, now: Mono) {
        let Some(rollout) = &mut self.running else { return };
        rollout.done = rollout.done.saturating_add(1);
        if is_last && rollout.is_forward() && !rollout.options.pause.is_zero() {
            rollout.wait = Wait::Pause(now + rollout.options.pause);
        }
    }
}

impl Supervision {
    pub(super) fn reload(
        &mut self,
        request: RequestId,
        spec: Option<SpecName>,
        options: RolloutOptions,
        may_wait: bool,
    ) {
        let unknown = spec.as_ref().filter(|spec| !self.by_name.contains_key(*spec));
        let refused = if self.is_stopping() {
            Some(ReloadFailure::ShuttingDown)
        } else if let Some(spec) = unknown {
            Some(ReloadFailure::UnknownSpec(spec.clone()))
        } else if options.surge == 0 && options.max_unavailable == 0 {
            Some(ReloadFailure::NoRoom)
        } else if self.reloads.running.is_some() && (!may_wait || self.reloads.queued.is_some()) {
            Some(ReloadFailure::Busy)
        } else {
            None
        };
        let asked = Request {
            id: request,
            spec,
            options,
        };
        match refused {
            Some(reason) => self.answer_reload(request, Err(ReloadError::general(reason))),
            None if self.reloads.running.is_some() => self.reloads.queued = Some(asked),
            None => self.begin_reload(asked),
        }
    }

    fn begin_reload(&mut self, Request { id, spec, options }: Request) {
        let scope = match &spec {
            Some(name) => match self.by_name.get(name) {
                Some(key) => Some(*key),
                None => {
                    let reason = ReloadFailure::UnknownSpec(name.clone());
                    return self.answer_reload(id, Err(ReloadError::general(reason)));
                }
            },
            None => None,
        };
        let target = Generation(self.reloads.last.0.saturating_add(1));
        self.reloads.last = target;
        self.reloads.running = Some(Rollout {
            request: id,
            scope,
            target,
            options,
            course: RollCourse::Forward,
            wait: Wait::No,
            from: SeatKey::FIRST,
            emptied: Vec::new(),
            done: 0,
            canary_is_good: options.canary.is_none_or(|canary| canary.count == 0),
        });
        self.actions.push_back(Action::GenerationAdded {
            request: id,
            generation: target,
        });
        self.publish(
            None,
            EventKind::ReloadStarted {
                generation: target,
                spec,
            },
        );
    }

    pub(super) fn canary_judged(&mut self, request: RequestId, good: bool, why: String) {
        let asked = |rollout: &&mut Rollout| rollout.request == request && matches!(rollout.wait, Wait::Verdict(_));
        let Some(rollout) = self.reloads.running.as_mut().filter(asked) else {
            return self.ignore();
        };
        rollout.wait = Wait::No;
        rollout.canary_is_good = good;
        if !good {
            self.abort_reload(None, ReloadFailure::Canary(why));
        }
    }

    /// Turns back. What has not been replaced is untouched, successors that are not trusted yet go, and what has been
    /// replaced is replaced again.
    pub(super) fn abort_reload(&mut self, worker: Option<WorkerId>, reason: ReloadFailure) {
        let Some(rollout) = self.reloads.running.as_mut().filter(|rollout| rollout.is_forward()) else {
            return;
        };
        rollout.course = RollCourse::Back(ReloadError { worker, reason });
        rollout.wait = Wait::No;
        rollout.from = SeatKey::FIRST;
        self.drop_reload_changes();
    }

    fn drop_reload_changes(&mut self) {
        let keys: Vec<SeatKey> = self
            .changes
            .iter()
            .filter(|(_, change)| change.why == Why::Reload)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if self.changes[&key].way == Way::InPlace {
                self.note_emptied(key);
            }
            self.cancel_change(key);
        }
    }

    /// The end of all reloads, wherever they are: the workers are being stopped.
    pub(super) fn end_reloads(&mut self, reason: &ReloadFailure) {
        self.end_running_reload(reason);
        if let Some(queued) = self.reloads.queued.take() {
            self.answer_reload(queued.id, Err(ReloadError::general(reason.clone())));
        }
    }

    pub(super) fn end_running_reload(&mut self, reason: &ReloadFailure) {
        if let Some(rollout) = &mut self.reloads.running {
            // Even if it was on its way back: it did not arrive, and must not say so.
            rollout.course = RollCourse::Back(ReloadError::general(reason.clone()));
            self.drop_reload_changes();
            self.finish_reload();
        }
    }

    /// What a worker that is started now in this slot runs. The new generation only if it is proven, or if this very
    /// slot is to prove it.
    pub(super) fn generation_for(&self, key: SeatKey) -> Generation {
        let is_successor = self.changes.get(&key).is_some_and(|change| change.why == Why::Reload);
        self.reloads
            .running
            .as_ref()
            .filter(|rollout| rollout.is_forward() && rollout.covers(key.spec))
            .filter(|rollout| rollout.is_proven() || is_successor)
            .map_or_else(|| self.specs[&key.spec].generation, |rollout| rollout.target)
    }

    /// Is the end of this worker a failure of the new generation?
    pub(super) fn is_blamed(&self, key: SeatKey, worker: Occupant, exit: &Exit) -> bool {
        self.reloads.goal(key.spec) == Some(worker.generation) && !is_done(worker, exit)
    }

    /// Did this worker fail while its generation is being taken back?
    pub(super) fn is_taken_back(&self, key: SeatKey, worker: Occupant, exit: &Exit) -> bool {
        let is_of_it = |rollout: &Rollout| {
            !rollout.is_forward() && rollout.covers(key.spec) && rollout.target == worker.generation
        };
        self.reloads.running.as_ref().is_some_and(is_of_it) && !is_done(worker, exit)
    }

    /// Begins the next batch, or ends.
    pub(super) fn advance_reload(&mut self, now: Mono) {
        while self.group.is_none() && self.reload_step(now) {}
    }

    /// Does one thing; `false` if something has to happen first.
    fn reload_step(&mut self, now: Mono) -> bool {
        let Some(rollout) = &mut self.reloads.running else {
            return match self.reloads.queued.take() {
                Some(queued) => {
                    self.begin_reload(queued);
                    true
                }
                None => false,
            };
        };
        if self.changes.values().any(|change| change.why == Why::Reload) {
            return false;
        }
        match rollout.wait {
            Wait::No => {}
            Wait::Pause(until) | Wait::Bake(until) | Wait::Verdict(until) if now < until => return false,
            Wait::Pause(_) => rollout.wait = Wait::No,
            Wait::Bake(_) => {
                rollout.wait = Wait::Verdict(now + rollout.options.step_deadline);
                let action = Action::CanaryVerdict {
                    request: rollout.request,
                    workers: self.newcomers(),
                };
                self.actions.push_back(action);
                return false;
            }
            Wait::Verdict(_) => {
                self.abort_reload(None, ReloadFailure::Canary("there was no verdict in time".to_owned()));
                return true;
            }
        }
        self.begin_batch(now)
    }

    /// What every worker of a spec is to run in the end.
    pub(super) fn goal(&self, spec: SpecKey) -> Generation {
        self.reloads.goal(spec).unwrap_or_else(|| self.specs[&spec].generation)
    }

    /// The workers of the new generation.
    fn newcomers(&self) -> Vec<WorkerId> {
        let target = self.reloads.target();
        self.roster
            .workers()
            .filter(|worker| Some(worker.generation) == target && worker.is_ready())
            .map(|worker| worker.id)
            .collect()
    }

    pub(super) fn finish_reload(&mut self) {
        let Some(rollout) = self.reloads.running.take() else {
            return;
        };
        let result = match rollout.course {
            RollCourse::Forward => Ok(rollout.target),
            RollCourse::Back(error) => Err(error),
        };
        let mut gone = vec![rollout.target];
        if result.is_ok() {
            gone = vec![self.reloads.newest];
            self.reloads.newest = rollout.target;
            for (_, spec) in self
                .specs
                .iter_mut()
                .filter(|(key, _)| rollout.scope.is_none_or(|scope| scope == **key))
            {
                gone.push(std::mem::replace(&mut spec.generation, rollout.target));
            }
            gone.sort_unstable();
            gone.dedup();
        }
        let event = EventKind::ReloadFinished {
            generation: rollout.target,
            result: result.as_ref().map(|_| ()).map_err(Clone::clone),
        };
        self.publish(None, event);
        self.answer_reload(rollout.request, result);
        gone.retain(|old| *old != self.reloads.newest && self.specs.values().all(|spec| spec.generation != *old));
        let gone = gone.into_iter().map(|generation| Action::GenerationGone { generation });
        self.actions.extend(gone);
    }

    fn answer_reload(&mut self, request: RequestId, result: Result<Generation, ReloadError>) {
        self.actions.push_back(Action::ReloadFinished { request, result });
    }
}

/// Has it done what it was there for?
fn is_done(worker: Occupant, exit: &Exit) -> bool {
    worker.ready_at.is_some() && exit.is_orderly() && exit.status.is_success()
}
