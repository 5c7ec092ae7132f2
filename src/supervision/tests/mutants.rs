//! Broken machines: what a mutant does at the border between a machine and the simulated world.
//!
//! The machines themselves have no hooks. A mutant gets another configuration than the judge knows, or loses, doubles or
//! falsifies what goes in or comes out. Not here: which invariant must catch which ([`super::mutants_table`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::life::Report;
use super::mutants_table::Mutant;
use super::*;
use crate::model::{
    EventKind, ExitReason, Generation, RecycleReason, ReloadError, ReloadFailure, Signal, SpecName, WorkerError,
    WorkerState,
};
use crate::policy::{AutoShutdown, OneForAll, OneForOne};

/// What stands between the machines and the world.
pub(super) struct Border {
    mutant: Option<Mutant>,
    actions: VecDeque<Action>,
    outputs: VecDeque<(WorkerId, Output)>,
    alive: BTreeMap<WorkerId, Slot>,
    /// Who was started to stand by, and of which generation.
    standbys: BTreeMap<WorkerId, Generation>,
    policies: BTreeMap<SpecName, ShutdownPolicy>,
    stopped: BTreeSet<WorkerId>,
    order: Vec<SpecName>,
    reloading: bool,
    newest: Generation,
    is_stopping: bool,
    recycled: Option<WorkerId>,
    /// The last addition of a spec, and the one that was taken and whose workers come now.
    added: Option<RequestId>,
    taken: Option<RequestId>,
}

impl Border {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self {
            mutant,
            actions: VecDeque::new(),
            outputs: VecDeque::new(),
            alive: BTreeMap::new(),
            standbys: BTreeMap::new(),
            policies: BTreeMap::new(),
            stopped: BTreeSet::new(),
            order: Vec::new(),
            reloading: false,
            newest: Generation(0),
            is_stopping: false,
            recycled: None,
            added: None,
            taken: None,
        }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn config(&mut self, mut config: SupervisionConfig) -> SupervisionConfig {
        let Some(mutant) = self.mutant else { return config };
        let backoff = Backoff::new().base(500 * MS).cap(5 * SECOND);
        for spec in &mut config.specs {
            self.policies.insert(spec.name.clone(), spec.shutdown);
            self.order.push(spec.name.clone());
            match mutant {
                Mutant::LimitPlusOne => spec.limit.max += 1,
                Mutant::LimitMinusOne => spec.limit.max = spec.limit.max.saturating_sub(1),
                Mutant::PeriodHalved => spec.limit.period /= 2,
                Mutant::SpecIntensityPlusOne => spec.intensity.iter_mut().for_each(|limit| limit.max += 1),
                Mutant::BaseHalved => spec.delay = RestartDelay::Backoff(backoff.base(250 * MS)),
                Mutant::CapTooLow => spec.delay = RestartDelay::Backoff(backoff.cap(600 * MS)),
                Mutant::JitterTooWide => spec.delay = RestartDelay::Backoff(backoff.jitter(0.5)),
                Mutant::StableAtOnce => spec.stable_after = Duration::ZERO,
                Mutant::NeverStable => spec.stable_after = Duration::MAX,
                Mutant::PermanentIsNot if spec.restart == RestartType::Permanent => {
                    spec.restart = RestartType::Temporary;
                }
                Mutant::TemporaryIs if spec.restart == RestartType::Temporary => {
                    spec.restart = RestartType::Permanent;
                }
                Mutant::GraceShortened if spec.shutdown != ShutdownPolicy::Brutal => {
                    spec.shutdown = ShutdownPolicy::Grace(SECOND);
                }
                Mutant::EndsForAnybody => spec.significant = true,
                Mutant::OneMoreStandsBy => spec.standby += 1,
                Mutant::NobodyStandsBy => spec.standby = 0,
                _ => {}
            }
        }
        match mutant {
            Mutant::IntensityPlusOne => config.intensity.iter_mut().for_each(|limit| limit.max += 1),
            Mutant::NobodyGoesAlong => config.strategy = Arc::new(OneForOne),
            Mutant::AllGoAlong => config.strategy = Arc::new(OneForAll),
            Mutant::EndsForAnybody => config.auto_shutdown = AutoShutdown::AnySignificant,
            Mutant::OneMoreBoots => config.max_booting = config.max_booting.max(1) + 1,
            Mutant::EndsWhenEmpty => config.when_empty = WhenEmpty::Stop,
            Mutant::RecyclesTwoAtOnce => config.recycle.surge += 1,
            Mutant::RecyclesOneMoreInPlace => config.recycle.max_unavailable += 1,
            _ => {}
        }
        config
    }

    pub(super) fn life_config(&self, mut config: LifecycleConfig) -> LifecycleConfig {
        match self.mutant {
            Some(Mutant::BootLimitHalved) => config.boot /= 2,
            Some(Mutant::BootLimitGone) => config.boot = Duration::MAX,
            Some(Mutant::LameDuckForgotten) => config.lame_duck = Duration::ZERO,
            Some(Mutant::MoreTimeRefused) => config.more_time = Duration::ZERO,
            Some(Mutant::FaultGraceHalved) => config.shutdown = ShutdownPolicy::Grace(SECOND),
            _ => {}
        }
        config
    }

    pub(super) fn lets_time_pass(&self) -> bool {
        !self.is(Mutant::DeafToTime)
    }

    /// What the cluster's machine hears of what happened.
    pub(super) fn input(&mut self, mut input: Input) -> Option<Input> {
        if let Input::SpecAddRequested { config, request } = &input {
            self.added = Some(*request);
            self.policies.insert(config.name.clone(), config.shutdown);
            self.order.push(config.name.clone());
        }
        match (self.mutant, &mut input) {
            (Some(Mutant::ExitLost), Input::WorkerExited { .. })
            | (Some(Mutant::ReadyLost), Input::WorkerReady { .. })
            | (Some(Mutant::IgnoresShutdown), Input::ShutdownRequested { .. }) => return None,
            (Some(Mutant::ReadyOfAnother), Input::WorkerReady { id }) => {
                *id = self.alive.keys().find(|other| *other != id).copied().unwrap_or(*id);
            }
            (Some(Mutant::AsksThoughAtOnce), Input::ShutdownRequested { now }) => *now = false,
            (Some(Mutant::RecyclesTooSoon), Input::WorkerServed { requests, .. }) => *requests += 60,
            (Some(Mutant::ReconfiguresLimit), Input::ReconfigureRequested { changes, .. }) => {
                changes.specs.iter_mut().for_each(|spec| spec.limit.max += 1);
            }
            (Some(Mutant::BadCanaryIsGood), Input::CanaryJudged { good, .. }) => *good = true,
            (
                Some(Mutant::ScalesOneMore),
                Input::ScaleRequested {
                    target: ScaleTarget::To(count),
                    ..
                },
            ) => *count += 1,
            (Some(mutant), Input::ReloadRequested { options, .. }) => match mutant {
                Mutant::SurgePlusOne if options.surge > 0 => options.surge += 1,
                Mutant::UnavailablePlusOne => options.max_unavailable += 1,
                Mutant::ProbationSkipped => options.probation = Duration::ZERO,
                Mutant::CanaryTooMany => options.canary.iter_mut().for_each(|canary| canary.count += 1),
                _ => {}
            },
            _ => {}
        }
        Some(input)
    }

    /// What the world sees of what the cluster's machine orders.
    pub(super) fn next_action(&mut self, machine: &mut Supervision) -> Option<Action> {
        let Some(mutant) = self.mutant else {
            return machine.poll_action();
        };
        while self.actions.is_empty() {
            let action = machine.poll_action()?;
            self.note(&action);
            self.pass(mutant, action);
        }
        self.actions.pop_front()
    }

    fn note(&mut self, action: &Action) {
        match action {
            Action::Spawn { id, slot, .. } | Action::Promote { id, slot, .. } => {
                drop(self.alive.insert(*id, slot.clone()));
            }
            Action::SpawnStandby { id, generation, .. } => drop(self.standbys.insert(*id, *generation)),
            Action::Stop { id, .. } => drop(self.stopped.insert(*id)),
            Action::Publish {
                worker: Some(id),
                kind: EventKind::Exit(_) | EventKind::Error(WorkerError::Spawn(_)),
            } => {
                self.alive.remove(id);
            }
            Action::Publish {
                worker: Some(id),
                kind: EventKind::Recycling(_),
            } => self.recycled = Some(*id),
            Action::Publish {
                kind: EventKind::ReloadStarted { generation, .. },
                ..
            } => (self.reloading, self.newest) = (true, *generation),
            Action::Publish {
                kind: EventKind::ReloadFinished { .. },
                ..
            } => self.reloading = false,
            Action::Publish {
                kind: EventKind::ShutdownStarted,
                ..
            } => self.is_stopping = true,
            _ => {}
        }
    }

    fn pass(&mut self, mutant: Mutant, action: Action) {
        match action {
            Action::Spawn { .. } => self.pass_spawn(mutant, action),
            Action::SpawnStandby { id, ref spec, .. } => {
                let slot = Slot::new(spec.clone(), 0);
                self.give(action);
                if mutant == Mutant::PromotesTheBooting {
                    self.give(Action::Promote { id, slot, restarts: 0 });
                }
            }
            Action::Promote { id, slot, restarts } => self.pass_promotion(mutant, id, slot, restarts),
            Action::Stop { id, policy } => match mutant {
                Mutant::StopsBrutally => self.give(Action::Stop {
                    id,
                    policy: ShutdownPolicy::Brutal,
                }),
                Mutant::ForgetsOne if self.is_stopping => {}
                Mutant::ForgetsStandbys if self.is_stopping && self.stands_by(id) => {}
                Mutant::KeepsStandbys if self.stands_by(id) && self.standbys[&id] < self.newest => {}
                Mutant::StopsTwice => {
                    self.give(Action::Stop { id, policy });
                    self.give(Action::Stop { id, policy });
                }
                _ => self.give(action),
            },
            Action::Publish { worker: Some(id), kind } => self.pass_fact(mutant, id, kind),
            Action::Publish { worker: None, kind } => self.pass_notice(mutant, kind),
            Action::ReloadFinished { request, result: Ok(_) } if mutant == Mutant::SuccessIsFailure => {
                let result = Err(ReloadError::general(ReloadFailure::NotReadyInTime));
                self.give(Action::ReloadFinished { request, result });
            }
            Action::SpecsTaken { request } => {
                self.give(action);
                if mutant == Mutant::StartedTooEarly && self.added == Some(request) {
                    self.taken = self.added;
                }
                if mutant == Mutant::SpecLost {
                    self.give(Action::SpecGone { spec: "web".into() });
                }
            }
            Action::SpecGone { .. } if mutant == Mutant::SpecKept => {}
            Action::GenerationAdded { .. } => {
                if mutant == Mutant::ReloadsTwice {
                    self.give(action.clone());
                }
                self.give(action);
            }
            Action::Scaled { .. } => match mutant {
                Mutant::AnswerLost => {}
                Mutant::AnswersTwice => {
                    self.give(action.clone());
                    self.give(action);
                }
                _ => self.give(action),
            },
            _ => self.give(action),
        }
    }

    /// Was it started to stand by, and has no slot yet?
    fn stands_by(&self, id: WorkerId) -> bool {
        self.standbys.contains_key(&id) && !self.alive.contains_key(&id)
    }

    fn pass_promotion(&mut self, mutant: Mutant, id: WorkerId, mut slot: Slot, restarts: u32) {
        let action = match mutant {
            Mutant::PromotesElsewhere => {
                slot.index += 100;
                Action::Promote { id, slot, restarts }
            }
            Mutant::StartsThoughOneStandsBy => Action::Spawn {
                id: WorkerId::new(id.get() + 1_000),
                slot,
                generation: self.standbys[&id],
                restarts,
            },
            _ => Action::Promote { id, slot, restarts },
        };
        self.give(action);
    }

    fn pass_spawn(&mut self, mutant: Mutant, action: Action) {
        let Action::Spawn {
            id,
            slot,
            generation,
            restarts,
        } = action.clone()
        else {
            return;
        };
        let spawn = |id, slot: &Slot, generation| Action::Spawn {
            id,
            slot: slot.clone(),
            generation,
            restarts,
        };
        let mate = self
            .alive
            .iter()
            .find(|(mate, at)| **mate != id && **at == slot && !self.stopped.contains(mate));
        let mate = mate.map(|(mate, _)| *mate);
        match mutant {
            Mutant::SpawnLost => return,
            Mutant::IdReused => return self.give(spawn(WorkerId::new(1), &slot, generation)),
            Mutant::SpawnsElsewhere => {
                let elsewhere = Slot {
                    index: slot.index + 100,
                    ..slot
                };
                return self.give(spawn(id, &elsewhere, generation));
            }
            Mutant::OtherGeneration => return self.give(spawn(id, &slot, Generation(77))),
            _ => self.give(action),
        }
        match (mutant, mate) {
            (Mutant::SpawnsTwo, _) => self.give(spawn(WorkerId::new(id.get() + 1_000), &slot, generation)),
            (Mutant::OldFirst, Some(mate)) if self.reloading => self.stop(mate),
            (Mutant::RecyclesOldFirst, Some(mate)) if self.recycled == Some(mate) => self.stop(mate),
            _ => {}
        }
    }

    fn stop(&mut self, id: WorkerId) {
        let policy = self.alive.get(&id).and_then(|slot| self.policies.get(&slot.spec));
        let policy = policy.copied().unwrap_or(ShutdownPolicy::Brutal);
        self.give(Action::Stop { id, policy });
    }

    fn pass_fact(&mut self, mutant: Mutant, id: WorkerId, kind: EventKind) {
        let (is_exit, is_fork) = (matches!(kind, EventKind::Exit(_)), matches!(kind, EventKind::Fork));
        let is_ready = matches!(kind, EventKind::Ready);
        let stands_by = matches!(kind, EventKind::Standby);
        let action = Action::Publish { worker: Some(id), kind };
        let after = match mutant {
            Mutant::ExitUntold if is_exit => return,
            Mutant::StandbyUntold if stands_by => return,
            Mutant::ExitToldTwice if is_exit => Some(action.clone()),
            Mutant::StopsTheDead if is_exit => Some(Action::Stop {
                id,
                policy: ShutdownPolicy::Brutal,
            }),
            Mutant::RecyclesTheDead if is_exit => {
                let kind = EventKind::Recycling(RecycleReason::Age);
                Some(Action::Publish { worker: Some(id), kind })
            }
            Mutant::StartedTooEarly if is_fork => self.taken.take().map(|request| {
                let result = Ok(());
                Action::SpecAnswered { request, result }
            }),
            Mutant::AllReadyTooEarly if is_fork => Some(notice(EventKind::AllReady { workers: 99 })),
            Mutant::ShutsDownUnasked if is_ready => Some(notice(EventKind::ShutdownStarted)),
            _ => None,
        };
        self.give(action);
        self.actions.extend(after);
    }

    fn pass_notice(&mut self, mutant: Mutant, mut kind: EventKind) {
        let mut after = Vec::new();
        match (mutant, &mut kind) {
            (Mutant::VerdictLost, EventKind::RestartScheduled { .. }) => return,
            (Mutant::DelayTold, EventKind::RestartScheduled { delay, .. }) => *delay += SECOND,
            (Mutant::GivesUpTwice, EventKind::GaveUp(_)) => after.push(notice(kind.clone())),
            (Mutant::FailureIsSuccess, EventKind::ReloadFinished { result, .. }) => *result = Ok(()),
            (Mutant::SuccessIsFailure, EventKind::ReloadFinished { result, .. }) if result.is_ok() => {
                *result = Err(ReloadError::general(ReloadFailure::NotReadyInTime));
            }
            (Mutant::GoneTooEarly, EventKind::ReloadStarted { .. }) => {
                after.push(Action::GenerationGone {
                    generation: Generation(0),
                });
            }
            (Mutant::SpawnsInShutdown, EventKind::ShutdownStarted) => after.push(Action::Spawn {
                id: WorkerId::new(9_000),
                slot: Slot::new("web", 0),
                generation: Generation(0),
                restarts: 0,
            }),
            (Mutant::RestartsInShutdown, EventKind::ShutdownStarted) => {
                let (slot, delay) = (Slot::new("web", 0), Duration::ZERO);
                after.push(notice(EventKind::RestartScheduled {
                    slot,
                    delay,
                    attempt: 1,
                }));
            }
            (Mutant::FinishesEarly, EventKind::ShutdownStarted) => after.push(Action::Finished(Outcome::Clean)),
            (Mutant::StopsEveryoneAtOnce, EventKind::ShutdownStarted) => {
                let living = |id: &&WorkerId| !self.stopped.contains(id);
                let place = |id: &WorkerId| self.order.iter().position(|spec| *spec == self.alive[id].spec);
                let last = self.alive.keys().filter(living).map(place).max();
                let early = self.alive.keys().filter(living).filter(|id| Some(place(id)) != last);
                let alive: Vec<WorkerId> = early.copied().collect();
                self.give(notice(kind));
                return alive.into_iter().for_each(|id| self.stop(id));
            }
            _ => {}
        }
        self.give(notice(kind));
        self.actions.extend(after);
    }

    fn give(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// What the world sees of what a process's machine orders and tells.
    pub(super) fn next_output(&mut self, id: WorkerId, life: &mut Lifecycle) -> Option<Output> {
        let Some(mutant) = self.mutant else {
            return life.poll_output();
        };
        while self.outputs.is_empty() {
            let output = life.poll_output()?;
            falsify(mutant, output, &mut |output| self.outputs.push_back((id, output)));
        }
        self.outputs.pop_front().map(|(_, output)| output)
    }
}

fn notice(kind: EventKind) -> Action {
    Action::Publish { worker: None, kind }
}

fn falsify(mutant: Mutant, mut output: Output, give: &mut impl FnMut(Output)) {
    let signal = |signal| Output::Order(Order::Signal(signal));
    let (mut before, mut after) = (None, None);
    match (mutant, &mut output) {
        (Mutant::KillsAtOnce, Output::Order(Order::SendStop)) => after = Some(signal(Signal::KILL)),
        (Mutant::NeverKills, Output::Order(Order::Signal(Signal::KILL))) => return,
        (Mutant::KillsTwice, Output::Order(Order::Signal(Signal::KILL)))
        | (Mutant::AsksTwice, Output::Order(Order::SendStop))
        | (
            Mutant::ExitFactTwice,
            Output::Fact(Report {
                fact: Fact::Exited(_), ..
            }),
        ) => before = Some(output.clone()),
        (Mutant::TerminatesTheReady, Output::Fact(Report { fact: Fact::Ready, .. })) => {
            after = Some(signal(Signal::TERM));
        }
        (
            Mutant::SignalsTheDead,
            Output::Fact(Report {
                fact: Fact::Exited(_), ..
            }),
        ) => {
            after = Some(signal(Signal::TERM));
        }
        (
            Mutant::HidesUnkillable,
            Output::Fact(Report {
                fact: Fact::Error(WorkerError::Unkillable),
                ..
            }),
        )
        | (
            Mutant::ExitFactLost,
            Output::Fact(Report {
                fact: Fact::Exited(_), ..
            }),
        )
        | (Mutant::ReadyUntold, Output::Fact(Report { fact: Fact::Ready, .. })) => return,
        (
            Mutant::StateBehind,
            Output::Fact(Report {
                fact: Fact::Online,
                state,
                ..
            }),
        ) => *state = WorkerState::Created,
        (
            Mutant::OrderedIsCrash | Mutant::CrashIsOrdered | Mutant::HangIsCrash,
            Output::Fact(Report {
                fact: Fact::Exited(exit),
                ..
            }),
        ) => {
            exit.reason = match (mutant, &exit.reason) {
                (Mutant::OrderedIsCrash, ExitReason::Ordered) => ExitReason::Crash,
                (Mutant::CrashIsOrdered, ExitReason::Crash) => ExitReason::Ordered,
                (Mutant::HangIsCrash, ExitReason::Hang(_)) => ExitReason::Crash,
                (_, reason) => reason.clone(),
            };
        }
        _ => {}
    }
    before.into_iter().chain([output]).chain(after).for_each(give);
}
