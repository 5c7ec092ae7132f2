//! A simulated world: scripted processes under the real machines, seeded chance, time as a number.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mutants::Border;
use super::mutants_table::Mutant;
use super::script::{S, SCRIPTS, Script};
use super::trace::Judge;
use super::*;
use crate::model::{Exit, ExitStatus, Generation, Signal, SlotState, SpawnFailure, SpawnStep};
use crate::policy::{
    AutoShutdown, Escalation, OneForAll, OneForOne, RestForOne, RestartStrategy, RolloutOptions, SplitMix64,
};

/// Something that is under way.
#[derive(Debug)]
pub(super) enum Happening {
    /// A process does something.
    Does(WorkerId, LifeInput),
    /// A message reaches the cluster's machine.
    Arrives(Input),
    /// An order reaches a process's machine.
    Ordered(WorkerId, ShutdownPolicy),
    /// A handle does something at random.
    Meddles,
}

#[derive(Debug)]
struct Process {
    life: Lifecycle,
    script: Script,
}

pub(super) struct World {
    pub(super) now: Mono,
    random: SplitMix64,
    pub(super) machine: Supervision,
    pub(super) judge: Judge,
    /// What stands between the machines and the world: nothing, unless they are to be broken.
    border: Border,
    processes: BTreeMap<WorkerId, Process>,
    under_way: BTreeMap<(Mono, u64), Happening>,
    sequence: u64,
    /// How long a message between the two machines takes.
    latency: Duration,
    pub(super) faults_until: Mono,
    pub(super) last_request: u64,
    /// What the workers of a generation are like, if they are not like any other.
    generations: BTreeMap<Generation, Script>,
}

const GRACE: ShutdownPolicy = ShutdownPolicy::Grace(Duration::from_secs(2));
const BOOT: Duration = Duration::from_secs(3);

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = SplitMix64::new(seed);
        let config = some_config(&mut random, seed);
        let mut pick = |below: u64| random.next_u64() % below;
        let latency = MS * pick(3) as u32;
        let faults_until = ms(5_000 + pick(15_000));
        let mut border = Border::new(mutant);
        let mut world = Self {
            now: Mono::default(),
            random,
            machine: Supervision::new(border.config(config.clone())),
            border,
            judge: Judge::new(config),
            processes: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            latency,
            faults_until,
            last_request: 0,
            generations: BTreeMap::new(),
        };
        world.later(Duration::ZERO, Happening::Arrives(Input::Started));
        world.later(500 * MS, Happening::Meddles);
        world
    }

    pub(super) fn pick(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    pub(super) fn later(&mut self, delay: Duration, what: Happening) {
        self.sequence += 1;
        self.under_way.insert((self.now + delay, self.sequence), what);
    }

    /// Runs until nothing happens before `end`, or the machine has finished.
    fn run_until(&mut self, end: Mono) {
        while self.judge.finished.is_none() {
            let next = self.under_way.keys().next().map(|(at, _)| *at);
            let lives = self
                .processes
                .values()
                .filter_map(|process| process.life.next_deadline());
            let Some(at) = next.into_iter().chain(lives).chain(self.machine.next_deadline()).min() else {
                break;
            };
            if at > end {
                break;
            }
            self.now = at.max(self.now);
            // What happened goes before what is due: a worker whose word is under way is not late.
            match self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                Some(entry) => {
                    let what = entry.remove();
                    self.happen(what);
                }
                None => self.pass_time(),
            }
        }
        if self.judge.finished.is_none() {
            self.now = end;
        }
    }

    fn pass_time(&mut self) {
        self.judge.told(None, self.now);
        if self.border.lets_time_pass() {
            self.machine.handle_deadline(self.now);
        }
        let next = self.machine.next_deadline();
        assert!(
            next.is_none_or(|at| at > self.now),
            "I-45: {next:?} is asked for again at {}",
            self.now
        );
        self.drain_cluster();
        let ids: Vec<WorkerId> = self.processes.keys().copied().collect();
        for id in ids {
            if let Some(process) = self.processes.get_mut(&id) {
                process.life.handle_deadline(self.now);
                let next = process.life.next_deadline();
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "I-45: worker {id} asks for {next:?} again at {}",
                    self.now
                );
                self.drain_process(id);
            }
        }
        self.judge.time_passed(self.now);
    }

    pub(super) fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrives(input) => {
                self.judge.told(Some(&input), self.now);
                if let Some(input) = self.border.input(input) {
                    self.machine.handle(input, self.now);
                }
                self.drain_cluster();
            }
            Happening::Does(id, input) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return;
                };
                let note = process.life.handle(input.clone(), self.now);
                self.judge.fed(id, &input, note, self.now);
                self.drain_process(id);
            }
            Happening::Ordered(id, policy) => self.happen(Happening::Does(id, LifeInput::StopOrdered(policy))),
            Happening::Meddles => self.meddle(),
        }
    }

    fn drain_cluster(&mut self) {
        while let Some(action) = self.border.next_action(&mut self.machine) {
            self.judge.see(&action, &self.machine, self.now);
            match action {
                Action::Spawn { id, generation, .. } => self.spawn(id, generation),
                Action::GenerationAdded { generation, .. } => {
                    let script = [
                        S::Good,
                        S::Good,
                        S::CrashesAtBoot,
                        S::NeverReady,
                        S::CrashesLater,
                        S::SpawnFails,
                    ][self.pick(6) as usize];
                    self.generations.insert(generation, script);
                }
                Action::CanaryVerdict { request, .. } => {
                    let (good, why) = (self.pick(3) > 0, "errors".to_owned());
                    if self.pick(4) > 0 {
                        let judged = Input::CanaryJudged { request, good, why };
                        let takes = MS * self.pick(1500) as u32;
                        self.later(takes, Happening::Arrives(judged));
                    }
                }
                Action::Stop { id, policy } => self.later(self.latency, Happening::Ordered(id, policy)),
                Action::Publish { .. }
                | Action::SlotAdded { .. }
                | Action::Forked { .. }
                | Action::SlotGone { .. }
                | Action::Scaled { .. }
                | Action::GenerationGone { .. }
                | Action::ReloadFinished { .. }
                | Action::SpecAnswered { .. }
                | Action::Finished(_) => {}
            }
        }
        self.judge.after_turn(&mut self.machine, self.now);
    }

    fn drain_process(&mut self, id: WorkerId) {
        let Some(mut process) = self.processes.remove(&id) else {
            return;
        };
        let mut is_dead = false;
        while let Some(output) = self.border.next_output(id, &mut process.life) {
            match output {
                Output::Order(order) => self.obey(id, &mut process, order),
                Output::Fact(report) => {
                    self.judge.said(id, &report);
                    is_dead |= matches!(report.fact, Fact::Exited(_));
                    let input = match report.fact {
                        Fact::Online => Input::WorkerOnline { id },
                        Fact::Listening(address) => Input::WorkerListening { id, address },
                        Fact::Ready => Input::WorkerReady { id },
                        Fact::Exiting => Input::WorkerExiting { id },
                        Fact::Disconnected => Input::WorkerDisconnected { id },
                        Fact::Error(error) => Input::WorkerFailed { id, error },
                        Fact::Exited(exit) => Input::WorkerExited { id, exit },
                    };
                    self.later(self.latency, Happening::Arrives(input));
                }
            }
        }
        self.judge.heard_out(id);
        if !is_dead {
            self.processes.insert(id, process);
        }
    }

    fn obey(&mut self, id: WorkerId, process: &mut Process, order: Order) {
        self.judge.ordered(id, order, self.now);
        let dies = |status| Happening::Does(id, LifeInput::Exited(status));
        match (order, process.script) {
            (Order::SendStop, script) => {
                if !matches!(script, S::Deaf | S::Stubborn | S::Undead) {
                    let drain = MS * self.pick(1500) as u32;
                    self.later(MS, Happening::Does(id, LifeInput::Leaving));
                    self.later(drain + MS, Happening::Does(id, LifeInput::ChannelClosed));
                    self.later(drain + 2 * MS, dies(ExitStatus::Code(0)));
                }
            }
            (Order::Signal(Signal::KILL), script) => {
                let takes = if script == S::Undead { 8 * SECOND } else { MS };
                self.later(
                    takes,
                    dies(ExitStatus::Signal {
                        signal: Signal::KILL,
                        core: false,
                    }),
                );
            }
            (Order::Signal(signal), script) => {
                if !matches!(script, S::Stubborn | S::Undead) {
                    self.later(MS, dies(ExitStatus::Signal { signal, core: false }));
                }
            }
            (Order::CloseChannel, _) => self.later(MS, Happening::Does(id, LifeInput::ChannelClosed)),
        }
    }

    fn spawn(&mut self, id: WorkerId, generation: Generation) {
        let faulty = self.now < self.faults_until;
        let given = self.generations.get(&generation).filter(|script| **script != S::Good);
        let script = match given {
            Some(script) if faulty => *script,
            None if faulty => SCRIPTS[self.pick(SCRIPTS.len() as u64) as usize],
            Some(_) | None => S::Good,
        };
        if script == S::SpawnFails {
            let failure = SpawnFailure {
                step: SpawnStep::Exec,
                errno: Some(11),
                detail: "EAGAIN".to_owned(),
            };
            let exit = Exit::not_started(failure);
            return self.later(Duration::ZERO, Happening::Arrives(Input::WorkerExited { id, exit }));
        }
        self.later(Duration::ZERO, Happening::Arrives(Input::WorkerForked { id }));
        let rules = [
            ReadyWhen::Spawned,
            ReadyWhen::Online,
            ReadyWhen::Listening,
            ReadyWhen::Called,
        ];
        let config = LifecycleConfig {
            ready_when: rules[self.pick(4) as usize],
            boot: BOOT,
            ask: 500 * MS,
            shutdown: GRACE,
        };
        self.judge.born(id, config, self.now);
        let process = Process {
            life: Lifecycle::new(self.border.life_config(config), self.now),
            script,
        };
        self.processes.insert(id, process);
        self.play(id, script);
        self.drain_process(id);
    }
}

/// One to three specs with any settings.
fn some_config(random: &mut SplitMix64, seed: u64) -> SupervisionConfig {
    let mut pick = |below: u64| random.next_u64() % below;
    let all: Arc<dyn RestartStrategy> = Arc::new(OneForAll);
    let strategies: [Arc<dyn RestartStrategy>; 4] =
        [Arc::new(OneForOne), Arc::new(OneForOne), all, Arc::new(RestForOne)];
    let strategy = Arc::clone(&strategies[pick(4) as usize]);
    let auto_shutdown = [
        AutoShutdown::Never,
        AutoShutdown::Never,
        AutoShutdown::AnySignificant,
        AutoShutdown::AllSignificant,
    ][pick(4) as usize];
    let names = ["web", "jobs", "cache"];
    let count = 1 + pick(3) as usize;
    let mut spec = |name: &str| {
        let restart = [
            RestartType::Permanent,
            RestartType::Permanent,
            RestartType::Transient,
            RestartType::Temporary,
        ][pick(4) as usize];
        SpecConfig {
            restart,
            delay: RestartDelay::Backoff(Backoff::new().base(500 * MS).cap(5 * SECOND)),
            limit: RestartLimit::new(pick(5) as u32, SECOND * (1 + pick(20) as u32)),
            intensity: (pick(3) == 0).then(|| RestartIntensity::new(2 + pick(6) as u32, 10 * SECOND)),
            escalation: [Escalation::FailSpec, Escalation::StopCluster][pick(2) as usize],
            stable_after: 3 * SECOND,
            shutdown: if pick(8) == 0 { ShutdownPolicy::Brutal } else { GRACE },
            significant: restart != RestartType::Permanent && pick(3) == 0,
            max_age: (pick(4) == 0).then_some(4 * SECOND),
            ..SpecConfig::new(name, 1 + pick(4) as u32)
        }
    };
    SupervisionConfig {
        specs: names[..count].iter().map(|name| spec(name)).collect(),
        strategy,
        intensity: (pick(3) == 0).then(|| RestartIntensity::new(3 + pick(12) as u32, 10 * SECOND)),
        auto_shutdown,
        max_booting: pick(5) as usize,
        recycle: RolloutOptions::new().step_deadline(2 * SECOND),
        when_empty: if pick(2) == 0 { WhenEmpty::Stop } else { WhenEmpty::Wait },
        seed,
    }
}

/// One history; what was seen of it as one number.
fn simulate(seed: u64) -> u64 {
    simulate_broken(seed, None)
}

/// The same with machines that are broken.
pub(super) fn simulate_broken(seed: u64, mutant: Option<Mutant>) -> u64 {
    let mut world = World::new(seed, mutant);
    // The last handle meddles up to a second later.
    world.run_until(world.faults_until + SECOND);
    let limit = world.now + world.judge.settle_limit();
    while world.judge.finished.is_none() && !world.has_settled() {
        assert!(world.now < limit, "{}", world.unsettled());
        world.run_until(world.now + SECOND);
    }
    // It stays so, while whoever has a fault left ends.
    for _ in 0..5 {
        world.run_until(world.now + SECOND);
        let limit = world.now + world.judge.settle_limit();
        while world.judge.finished.is_none() && !world.has_settled() {
            assert!(world.now < limit, "{}", world.unsettled());
            world.run_until(world.now + SECOND);
        }
    }
    if world.judge.finished.is_none() {
        world.happen(Happening::Arrives(Input::ShutdownRequested { now: false }));
        world.run_until(world.now + 60 * SECOND);
    }
    assert!(world.judge.finished.is_some(), "I-12: a shutdown ends");
    let left_behind = match &world.judge.finished {
        Some(Outcome::Unkillable(ids)) => ids.clone(),
        _ => Vec::new(),
    };
    let left = world.processes.keys().find(|id| !left_behind.contains(id));
    same!(left, None, "I-12: it lives after the end");
    world.judge.balanced(&left_behind);
    same!(world.judge.unanswered(), Vec::new(), "I-38: nobody answered");
    world.judge.hash
}

/// What the cluster's machine was told, and when; time that passed without an input is `None`.
pub(super) type Told = (Mono, Option<Input>);

/// What a cluster was told in this history, until the faults stop.
pub(super) fn history(seed: u64) -> (SupervisionConfig, Vec<Told>) {
    let mut world = World::new(seed, None);
    world.judge.diary = Some(Vec::new());
    let config = world.judge.config.clone();
    world.run_until(world.faults_until);
    (config, world.judge.diary.take().unwrap_or_default())
}

impl World {
    fn failed(&self) -> usize {
        let slots = self.machine.slots();
        slots.iter().filter(|slot| slot.state == SlotState::Failed).count()
    }

    /// I-37, I-38: whoever is wanted and not given up is there, and everybody was answered.
    fn has_settled(&self) -> bool {
        self.machine.ready() == self.machine.target() - self.failed()
            && self.machine.reloading().is_none()
            && self.judge.unanswered().is_empty()
    }

    fn unsettled(&self) -> String {
        let open = self.judge.unanswered();
        if !open.is_empty() || self.machine.reloading().is_some() {
            return format!("I-38: at {} nobody answered {open:?}", self.now);
        }
        let (ready, target) = (self.machine.ready(), self.machine.target());
        format!(
            "I-37: at {} {ready} of {target} are ready: {:?}",
            self.now,
            self.machine.slots()
        )
    }
}

#[test]
fn simulated_world_keeps_every_invariant() {
    let seeds = std::env::var("SIMULATE_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let first = std::env::var("SIMULATE_FROM")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0);
    for seed in first..first + seeds.unwrap_or(3_000) {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("the simulated world broke: SIMULATE_FROM={seed} SIMULATE_SEEDS=1");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn i_42_the_same_seed_gives_the_same_history() {
    for seed in 0..150 {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
