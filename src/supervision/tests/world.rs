//! A simulated world: scripted processes under the real machines, seeded chance, time as a number.

use std::collections::BTreeMap;

use super::trace::Judge;
use super::*;
use crate::model::{BoundAddress, Exit, ExitStatus, Signal, SlotState, SpawnFailure, SpawnStep, WorkerError};
use crate::policy::SplitMix64;

/// How a process behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Good,
    /// Obeys `SIGTERM` but not the request.
    Deaf,
    /// Obeys nothing but `SIGKILL`.
    Stubborn,
    CrashesAtBoot,
    CrashesLater,
    EndsWithZero,
    Leaves,
    Declines,
    NeverReady,
    ClosesChannel,
    BreaksProtocol,
    Lies,
    SpawnFails,
    /// Dies 8 s after `SIGKILL`.
    Undead,
}

use Script as S;
const SCRIPTS: [Script; 20] = [
    S::Good,
    S::Good,
    S::Good,
    S::Good,
    S::Good,
    S::Deaf,
    S::Stubborn,
    S::CrashesAtBoot,
    S::CrashesAtBoot,
    S::CrashesLater,
    S::CrashesLater,
    S::EndsWithZero,
    S::Leaves,
    S::Declines,
    S::NeverReady,
    S::ClosesChannel,
    S::BreaksProtocol,
    S::Lies,
    S::SpawnFails,
    S::Undead,
];

/// Something that is under way.
#[derive(Debug)]
enum Happening {
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
    /// When `SIGKILL` has an excuse, I-10.
    excuses: Vec<Mono>,
    boot_limit: Option<Mono>,
    kills: usize,
    asked: usize,
}

struct World {
    now: Mono,
    random: SplitMix64,
    machine: Supervision,
    judge: Judge,
    processes: BTreeMap<WorkerId, Process>,
    under_way: BTreeMap<(Mono, u64), Happening>,
    sequence: u64,
    /// How long a message between the two machines takes.
    latency: Duration,
    faults_until: Mono,
    requests: u64,
}

const GRACE: ShutdownPolicy = ShutdownPolicy::Grace(Duration::from_secs(2));
const BOOT: Duration = Duration::from_secs(3);

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut pick = |below: u64| random.next_u64() % below;
        let restart = [
            RestartType::Permanent,
            RestartType::Permanent,
            RestartType::Transient,
            RestartType::Temporary,
        ][pick(4) as usize];
        let config = SupervisionConfig {
            specs: vec![SpecConfig {
                count: 1 + pick(5) as u32,
                restart,
                delay: RestartDelay::Backoff(Backoff::new().base(500 * MS).cap(5 * SECOND)),
                limit: RestartLimit::new(pick(5) as u32, SECOND * (1 + pick(20) as u32)),
                stable_after: 3 * SECOND,
                shutdown: if pick(8) == 0 { ShutdownPolicy::Brutal } else { GRACE },
                ..SpecConfig::new("web", 0)
            }],
            intensity: (pick(3) == 0).then(|| RestartIntensity::new(3 + pick(8) as u32, 10 * SECOND)),
            max_booting: pick(5) as usize,
            when_empty: if pick(2) == 0 { WhenEmpty::Stop } else { WhenEmpty::Wait },
            seed,
            ..SupervisionConfig::default()
        };
        let latency = MS * pick(3) as u32;
        let faults_until = ms(5_000 + pick(15_000));
        let mut world = Self {
            now: Mono::default(),
            random,
            machine: Supervision::new(config.clone()),
            judge: Judge::new(config),
            processes: BTreeMap::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            latency,
            faults_until,
            requests: 0,
        };
        world.later(Duration::ZERO, Happening::Arrives(Input::Started));
        world.later(500 * MS, Happening::Meddles);
        world
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn later(&mut self, delay: Duration, what: Happening) {
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
        self.machine.handle_deadline(self.now);
        self.drain_cluster();
        let ids: Vec<WorkerId> = self.processes.keys().copied().collect();
        for id in ids {
            if let Some(process) = self.processes.get_mut(&id) {
                process.life.handle_deadline(self.now);
                self.drain_process(id);
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrives(input) => {
                self.machine.handle(input, self.now);
                self.drain_cluster();
            }
            Happening::Does(id, input) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return;
                };
                process.excuse(&input, self.now);
                process.life.handle(input, self.now);
                if process.life.is_ready() {
                    process.boot_limit = None;
                }
                self.drain_process(id);
            }
            Happening::Ordered(id, policy) => self.happen(Happening::Does(id, LifeInput::StopOrdered(policy))),
            Happening::Meddles => self.meddle(),
        }
    }

    fn drain_cluster(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            self.judge.see(&action, &self.machine, self.now);
            match action {
                Action::Spawn { id, .. } => self.spawn(id),
                Action::Stop { id, policy } => self.later(self.latency, Happening::Ordered(id, policy)),
                Action::Publish { .. }
                | Action::SlotAdded { .. }
                | Action::Forked { .. }
                | Action::SlotGone { .. }
                | Action::Scaled { .. }
                | Action::GenerationAdded { .. }
                | Action::GenerationGone { .. }
                | Action::CanaryVerdict { .. }
                | Action::ReloadFinished { .. }
                | Action::SpecAnswered { .. }
                | Action::Finished(_) => {}
            }
        }
    }

    fn drain_process(&mut self, id: WorkerId) {
        let Some(mut process) = self.processes.remove(&id) else {
            return;
        };
        let mut is_dead = false;
        while let Some(output) = process.life.poll_output() {
            assert!(!is_dead, "{output:?} of worker {id} after its exit");
            match output {
                Output::Order(order) => self.obey(id, &mut process, order),
                Output::Fact(report) => {
                    is_dead = matches!(report.fact, Fact::Exited(_));
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
        if !is_dead {
            self.processes.insert(id, process);
        }
    }

    fn obey(&mut self, id: WorkerId, process: &mut Process, order: Order) {
        let dies = |status| Happening::Does(id, LifeInput::Exited(status));
        match (order, process.script) {
            (Order::SendStop, script) => {
                process.asked += 1;
                assert_eq!(process.asked, 1, "I-35: worker {id} was asked twice");
                if !matches!(script, S::Deaf | S::Stubborn | S::Undead) {
                    let drain = MS * self.pick(1500) as u32;
                    self.later(MS, Happening::Does(id, LifeInput::Leaving));
                    self.later(drain + MS, Happening::Does(id, LifeInput::ChannelClosed));
                    self.later(drain + 2 * MS, dies(ExitStatus::Code(0)));
                }
            }
            (Order::Signal(Signal::KILL), script) => {
                process.kills += 1;
                assert_eq!(process.kills, 1, "I-10: worker {id} was killed twice");
                let excused = process
                    .excuses
                    .iter()
                    .chain(&process.boot_limit)
                    .any(|at| *at <= self.now);
                assert!(
                    excused,
                    "I-10: worker {id} was killed at {} ({:?})",
                    self.now, process.excuses
                );
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

    fn spawn(&mut self, id: WorkerId) {
        let faulty = self.now < self.faults_until;
        let script = if faulty {
            SCRIPTS[self.pick(SCRIPTS.len() as u64) as usize]
        } else {
            S::Good
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
        let process = Process {
            life: Lifecycle::new(config, self.now),
            script,
            excuses: Vec::new(),
            boot_limit: (config.ready_when != ReadyWhen::Spawned).then_some(self.now + BOOT),
            kills: 0,
            asked: 0,
        };
        self.processes.insert(id, process);
        self.play(id, script);
        self.drain_process(id);
    }

    /// Puts under way what the process does of its own.
    fn play(&mut self, id: WorkerId, script: Script) {
        let address = BoundAddress::tcp(([127, 0, 0, 1], 8080).into());
        let (online, later) = (MS * (1 + self.pick(900) as u32), MS * (2500 + self.pick(4000) as u32));
        let code = |code| LifeInput::Exited(ExitStatus::Code(code));
        let mut acts: Vec<(Duration, LifeInput)> = Vec::new();
        if script != S::NeverReady {
            acts.push((online, LifeInput::Online));
            acts.push((online + 10 * MS, LifeInput::Listening(address.clone())));
            acts.push((online + 20 * MS, LifeInput::Ready));
        }
        match script {
            S::Good | S::Deaf | S::Stubborn | S::NeverReady | S::Undead | S::SpawnFails => {}
            S::CrashesAtBoot => acts.insert(0, (online / 2, code(1))),
            S::CrashesLater => {
                acts.push((later, LifeInput::ChannelClosed));
                acts.push((later, code(101)));
            }
            S::EndsWithZero => acts.push((later, code(0))),
            S::Leaves => {
                acts.push((later, LifeInput::Leaving));
                acts.push((later + 50 * MS, code(0)));
            }
            S::Declines => acts.push((later, code(125))),
            S::ClosesChannel => acts.push((later, LifeInput::ChannelClosed)),
            S::BreaksProtocol => acts.push((later, LifeInput::ProtocolBroken("not JSON".to_owned()))),
            S::Lies => {
                for at in [Duration::ZERO, online + 5 * MS, later] {
                    acts.extend([
                        (at, LifeInput::Ready),
                        (at, LifeInput::Listening(address.clone())),
                        (at, LifeInput::Online),
                        (at, LifeInput::Online),
                    ]);
                }
            }
        }
        for (at, act) in acts {
            self.later(at, Happening::Does(id, act));
        }
    }

    /// A handle, or a late message, does something.
    fn meddle(&mut self) {
        let id = WorkerId::new(self.pick(12));
        let input = match self.pick(16) {
            0 | 1 => Input::WorkerStopRequested { id },
            2 | 3 => Input::RestartRequested { id },
            4 | 5 => {
                self.requests += 1;
                let spec = if self.pick(4) == 0 { "unknown" } else { "web" };
                Input::SlotForkRequested {
                    request: RequestId(self.requests),
                    spec: spec.into(),
                }
            }
            6..=8 => {
                let Some(slot) = self.machine.slots().into_iter().find(|slot| slot.worker.is_none()) else {
                    return self.later(100 * MS, Happening::Meddles);
                };
                let down = matches!(slot.state, SlotState::Failed | SlotState::Stopped);
                if down && self.machine.phase() == Phase::Running {
                    self.judge.forgive(&slot.slot);
                }
                Input::SlotStartRequested { slot: slot.slot }
            }
            9 if self.pick(6) == 0 => Input::ClusterDisconnectRequested,
            10 if self.pick(6) == 0 => Input::ShutdownRequested { now: self.pick(3) == 0 },
            11 => Input::WorkerFailed {
                id: WorkerId::new(9_999),
                error: WorkerError::Unkillable,
            },
            12 | 13 => {
                let signal = [Signal::TERM, Signal::KILL, Signal::USR1][self.pick(3) as usize];
                self.happen(Happening::Does(id, LifeInput::KillOrdered(signal)));
                Input::WorkerReady {
                    id: WorkerId::new(9_999),
                }
            }
            _ => Input::Started,
        };
        self.happen(Happening::Arrives(input.clone()));
        if self.pick(3) == 0 && !matches!(input, Input::SlotForkRequested { .. }) {
            self.happen(Happening::Arrives(input));
        }
        if self.now < self.faults_until {
            let pause = MS * (50 + self.pick(1200) as u32);
            self.later(pause, Happening::Meddles);
        }
    }
}

impl Process {
    /// Notes from when on `SIGKILL` is allowed because of this input.
    fn excuse(&mut self, input: &LifeInput, now: Mono) {
        let grace = now + 2 * SECOND;
        match input {
            LifeInput::StopOrdered(ShutdownPolicy::Brutal) | LifeInput::KillOrdered(Signal::KILL) => {
                self.excuses.push(now)
            }
            LifeInput::StopOrdered(_)
            | LifeInput::Leaving
            | LifeInput::ChannelClosed
            | LifeInput::ProtocolBroken(_)
            | LifeInput::KillOrdered(_) => self.excuses.push(grace),
            LifeInput::Online
            | LifeInput::Listening(_)
            | LifeInput::Ready
            | LifeInput::Stats(_)
            | LifeInput::Exited(_) => {}
        }
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    let calm = world.faults_until + 60 * SECOND;
    world.run_until(calm);
    if world.judge.finished.is_none() {
        // I-37: the faults have stopped; whoever is wanted and not given up is there.
        let slots = world.machine.slots();
        let failed = slots.iter().filter(|slot| slot.state == SlotState::Failed).count();
        assert_eq!(
            world.machine.ready(),
            world.machine.target() - failed,
            "I-37: {slots:?}"
        );
        world.happen(Happening::Arrives(Input::ShutdownRequested { now: false }));
        world.run_until(calm + 30 * SECOND);
    }
    // I-12: it ends, and at that moment nobody lives who is not named.
    let outcome = world.judge.finished.clone().expect("I-12: a shutdown ends");
    let left_behind = match &outcome {
        Outcome::Unkillable(ids) => ids.clone(),
        Outcome::Clean | Outcome::GaveUp(_) | Outcome::AllFailed | Outcome::Killed => Vec::new(),
    };
    assert!(
        world.processes.keys().all(|id| left_behind.contains(id)),
        "I-12: {outcome:?}"
    );
    assert!(world.judge.is_balanced(&left_behind), "I-02: {:?}", world.judge);
    let answers = &world.judge.answers;
    assert_eq!(answers.len() as u64, world.requests, "I-38: every fork is answered");
    assert!(answers.values().all(|count| *count == 1), "I-21: once");
}

#[test]
fn simulated_world_keeps_every_invariant() {
    let seeds = std::env::var("SIMULATE_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(3_000) {
        if let Err(panic) = std::panic::catch_unwind(|| simulate(seed)) {
            eprintln!("the simulated world broke with seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
