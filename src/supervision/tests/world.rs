//! A simulated world: scripted processes under the real machines, seeded chance, time as a number.
//!
//! One world lives through one [`Plan`]. The master may be held up: then processes go on, and what they do, what handles
//! want and what is due waits for it. Not here: what must hold ([`super::trace`]), what the processes do
//! ([`super::script`]), what is done to them ([`super::deed`]), and how one ends ([`super::history`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write;

use super::deed::{Deed, First, deeds};
use super::history::Trace;
use super::meddle::failure;
use super::mutants::Border;
use super::mutants_table::Mutant;
use super::plan::{Plan, Sort};
use super::script::{Birth, Process, S, Script};
use super::settings::{config, surroundings};
use super::trace::Judge;
use super::*;
use crate::model::{Exit, Generation, SpawnStep};

/// Something that is under way.
#[derive(Debug)]
pub(super) enum Happening {
    /// A process says something, or ends.
    Says(WorkerId, LifeInput),
    /// The master reads what a process said.
    IsRead(WorkerId),
    /// A message reaches the cluster's machine.
    Arrives(Input),
    /// An order reaches a process's machine.
    Ordered(WorkerId, ShutdownPolicy),
    /// The slot of a standby reaches its machine.
    Activated(WorkerId),
    Meddles(u32, Deed),
}

impl Happening {
    /// Does it wait for a master that does not run?
    const fn is_up_to_master(&self) -> bool {
        match self {
            Self::Says(..) => false,
            Self::IsRead(_) | Self::Arrives(_) | Self::Ordered(..) | Self::Activated(_) => true,
            Self::Meddles(_, deed) => deed.is_up_to_master(),
        }
    }
}

/// How late a timer may be by chance. A master that reads what happened no sooner than it looks at what is due was held
/// up for longer.
const CHANCE: Duration = Duration::from_millis(10);

pub(super) struct World {
    pub(super) plan: Plan,
    start: Mono,
    pub(super) now: Mono,
    pub(super) machine: Supervision,
    pub(super) judge: Judge,
    /// What stands between the machines and the world: nothing, unless they are to be broken.
    pub(super) border: Border,
    /// What its orders have led to at once: the end of every spawn.
    inputs: VecDeque<Input>,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    /// When the machines of the processes want to be called.
    timers: BTreeSet<(Mono, WorkerId)>,
    /// What is under way, and where it lies.
    agenda: BinaryHeap<Reverse<(Mono, u64, usize)>>,
    under_way: Vec<Option<Happening>>,
    free: Vec<usize>,
    sequence: u64,
    latency: Duration,
    pub(super) faults_until: Mono,
    /// Until when the master does not run, and what comes first then.
    pub(super) held_up: Option<(Mono, First)>,
    pub(super) spawns_fail: Option<(SpawnStep, Mono)>,
    /// What the workers of a generation are like, if they are not like any other.
    pub(super) generations: BTreeMap<Generation, Option<Script>>,
    /// Processes so far.
    pub(super) births: u32,
    pub(super) kills: u32,
    /// The scripts and deeds that were met, a bit each.
    pub(super) met: u64,
    pub(super) steps: u64,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new(plan: Plan, start: Mono, trace: Trace, mutant: Option<Mutant>) -> Self {
        let (config, surroundings) = (config(&plan), surroundings(&plan));
        let deeds = deeds(&plan, surroundings.faults);
        let mut border = Border::new(mutant);
        let mut world = Self {
            plan,
            start,
            now: start,
            machine: Supervision::new(border.config(config.clone())),
            border,
            judge: Judge::new(config),
            inputs: VecDeque::new(),
            processes: BTreeMap::new(),
            timers: BTreeSet::new(),
            agenda: BinaryHeap::new(),
            under_way: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            latency: surroundings.latency,
            faults_until: start + surroundings.faults,
            held_up: None,
            spawns_fail: None,
            generations: BTreeMap::new(),
            births: 0,
            kills: 0,
            met: 0,
            steps: 0,
            trace,
        };
        world.later(Duration::ZERO, Happening::Arrives(Input::Started));
        for (number, at, deed) in deeds {
            world.later(at, Happening::Meddles(number, deed));
        }
        world
    }

    /// May something still go wrong?
    pub(super) fn is_faulty(&self) -> bool {
        self.now < self.faults_until
    }

    pub(super) fn later(&mut self, delay: Duration, what: Happening) {
        let place = match self.free.pop() {
            Some(place) => {
                self.under_way[place] = Some(what);
                place
            }
            None => {
                self.under_way.push(Some(what));
                self.under_way.len() - 1
            }
        };
        self.sequence += 1;
        self.agenda.push(Reverse((self.now + delay, self.sequence, place)));
    }

    pub(super) fn hold_up_master(&mut self, time: Duration, first: First) {
        let before = self.held_up.map_or(self.now, |(until, _)| until);
        let until = before.max(self.now + time);
        self.held_up = Some((until, first));
        self.judge.held_up(self.now, until);
    }

    pub(super) const fn is_master_held_up(&self) -> bool {
        self.held_up.is_some()
    }

    /// When something is next, if the machine has not finished.
    fn next(&self) -> Option<Mono> {
        if self.judge.finished.is_some() {
            return None;
        }
        let happens = self.agenda.peek().map(|Reverse((at, ..))| *at);
        let timer = self.timers.first().map(|(at, _)| *at);
        let due = timer.into_iter().chain(self.machine.next_deadline()).min();
        let due = match self.held_up {
            Some((until, _)) => Some(due.map_or(until, |due| due.max(until))),
            None => due,
        };
        happens.into_iter().chain(due).min().map(|at| at.max(self.now))
    }

    /// Runs until nothing happens before `end`, or the machine has finished.
    pub(super) fn run_until(&mut self, end: Mono) {
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = at;
            self.steps += 1;
            if let Some((_, first)) = self.held_up.take_if(|(until, _)| *until <= at)
                && first == First::WhatIsDue
            {
                let by = Mono::new(self.now.since_start().saturating_sub(CHANCE));
                self.pass_time(by);
                continue;
            }
            // What happened goes before what is due: a worker whose word is under way is not late.
            match self.agenda.peek() {
                Some(&Reverse((happens, sequence, place))) if happens <= at => {
                    self.agenda.pop();
                    self.happens_at(sequence, place);
                }
                Some(_) | None => self.pass_time(self.now),
            }
        }
        if self.judge.finished.is_none() {
            self.now = end;
        }
    }

    fn happens_at(&mut self, sequence: u64, place: usize) {
        let happening = self.under_way[place].take().expect("it is under way");
        match self.held_up {
            Some((until, _)) if happening.is_up_to_master() => {
                self.under_way[place] = Some(happening);
                self.agenda.push(Reverse((until, sequence, place)));
            }
            Some(_) | None => {
                self.free.push(place);
                self.happen(happening);
            }
        }
    }

    /// Looks at what was due by then.
    fn pass_time(&mut self, by: Mono) {
        // What was late may make something due that is late too: a successor may be too old when its turn comes.
        for _ in 0..3 {
            if self.machine.next_deadline().is_some_and(|at| at <= by) {
                self.turn(None);
                self.drain_inputs();
            }
        }
        let next = self.machine.next_deadline();
        assert!(
            next.is_none_or(|at| at > by),
            "I-45: {next:?} is asked for again and again at {}",
            self.now
        );
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= by) {
            if let Some(process) = self.processes.get_mut(&id) {
                self.judge.looked_at(id, self.now);
                process.life.handle_deadline(self.now);
                let next = process.life.next_deadline();
                assert!(
                    next.is_none_or(|next| next > by),
                    "I-45: worker {id}: {at} at {}",
                    self.now
                );
                self.drain_process(id);
            }
        }
        self.judge.time_passed(by);
    }

    pub(super) fn happen(&mut self, what: Happening) {
        if matches!(self.trace, Trace::Told) {
            eprintln!("{:>14.3?} {what:?}", self.now.since(self.start));
        }
        match what {
            Happening::Arrives(input) => {
                self.inputs.push_back(input);
                self.drain_inputs();
            }
            Happening::Says(id, what) => self.said(id, what),
            Happening::IsRead(id) => self.read(id),
            Happening::Activated(id) => {
                self.learn(id, &LifeInput::Activated);
                self.serve_slot(id);
            }
            Happening::Ordered(id, policy) => self.learn(id, &LifeInput::StopOrdered(policy)),
            Happening::Meddles(number, deed) => self.meddle(number, deed),
        }
    }

    /// The master's machine of a process learns something.
    pub(super) fn learn(&mut self, id: WorkerId, what: &LifeInput) {
        if let Some(process) = self.processes.get_mut(&id) {
            let note = process.life.handle(what.clone(), self.now);
            self.judge.fed(id, what, note, self.now);
            self.drain_process(id);
        }
    }

    /// Feeds the machine and does what it orders, until it has no more orders, as the master does.
    fn drain_inputs(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.turn(Some(input));
        }
    }

    /// Something happens to the cluster's machine, or time passes.
    fn turn(&mut self, input: Option<Input>) {
        self.judge.told(input.as_ref(), self.now);
        match input {
            Some(input) => {
                if let Some(input) = self.border.input(input) {
                    self.machine.handle(input, self.now);
                }
            }
            None if self.border.lets_time_pass() => self.machine.handle_deadline(self.now),
            None => {}
        }
        self.carry_out();
        self.judge.after_turn(&mut self.machine, self.now);
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.border.next_action(&mut self.machine) {
            self.judge.see(&action, &self.machine, self.now);
            let after = self.now.since(self.start);
            match &mut self.trace {
                Trace::Off => {}
                Trace::Told => eprintln!("{after:>14.3?}  {action:?}"),
                Trace::Summed(sum) => write!(sum, "{after:?} {action:?}").expect("a sum takes any text"),
            }
            match action {
                Action::Spawn { id, generation, .. } => self.spawn(id, generation, false),
                Action::SpawnStandby { id, generation, .. } => self.spawn(id, generation, true),
                Action::Promote { id, .. } => self.later(self.latency, Happening::Activated(id)),
                Action::GenerationAdded { generation, .. } => {
                    let dice = self.plan.dice(Sort::Generation, generation.0);
                    let script = dice.and_then(|mut dice| Birth::script_of_generation(&mut dice));
                    self.generations.insert(generation, script);
                }
                Action::CanaryVerdict { request, .. } => self.judge_canary(request),
                Action::Stop { id, policy } => self.later(self.latency, Happening::Ordered(id, policy)),
                Action::Publish { .. }
                | Action::SlotAdded { .. }
                | Action::Forked { .. }
                | Action::SlotGone { .. }
                | Action::Scaled { .. }
                | Action::GenerationGone { .. }
                | Action::ReloadFinished { .. }
                | Action::SpecAnswered { .. }
                | Action::SpecsTaken { .. }
                | Action::SpecGone { .. }
                | Action::Finished(_) => {}
            }
        }
    }

    /// A good verdict, a bad one, or none at all.
    fn judge_canary(&mut self, request: RequestId) {
        let generation = self.machine.reloading().unwrap_or_default();
        let dice = self.plan.dice(Sort::Generation, generation.0);
        let (good, answers, takes) = dice.map_or((true, true, Duration::ZERO), |mut dice| {
            // What its script is, is drawn first.
            Birth::script_of_generation(&mut dice);
            (!dice.once_in(3), !dice.once_in(4), dice.millis(0, 1500))
        });
        if answers {
            let why = "errors".to_owned();
            let judged = Input::CanaryJudged { request, good, why };
            self.later(takes, Happening::Arrives(judged));
        }
    }

    pub(super) fn drain_process(&mut self, id: WorkerId) {
        let mut is_dead = false;
        while let Some(process) = self.processes.get_mut(&id)
            && let Some(output) = self.border.next_output(id, &mut process.life)
        {
            match output {
                Output::Order(order) => self.obey(id, order),
                Output::Fact(report) => {
                    self.judge.said(id, &report, self.now);
                    is_dead |= matches!(report.fact, Fact::Exited(_));
                    let input = match report.fact {
                        Fact::Online => Input::WorkerOnline { id },
                        Fact::StandsBy => Input::WorkerStandsBy { id },
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
        self.arm(id);
        if is_dead {
            self.processes.remove(&id);
        }
    }

    fn arm(&mut self, id: WorkerId) {
        if let Some(process) = self.processes.get_mut(&id) {
            let next = process.life.next_deadline();
            if process.armed != next {
                if let Some(before) = process.armed {
                    self.timers.remove(&(before, id));
                }
                self.timers.extend(next.map(|at| (at, id)));
                process.armed = next;
            }
        }
    }

    fn spawn(&mut self, id: WorkerId, generation: Generation, is_standby: bool) {
        let birth = self.next_birth(generation).standing_by(is_standby);
        if self.is_faulty() {
            let script = Script::ALL.iter().position(|script| *script == birth.script);
            self.met |= 1 << script.expect("all are known");
        }
        let fails = match self.spawns_fail {
            Some((step, until)) if self.now < until => Some(step),
            Some(_) | None => (birth.script == S::SpawnFails).then_some(SpawnStep::Exec),
        };
        if let Some(step) = fails {
            let exit = Exit::not_started(failure(step));
            return self.inputs.push_back(Input::WorkerExited { id, exit });
        }
        self.inputs.push_back(Input::WorkerForked { id });
        self.judge.born(id, birth.config(), self.now);
        let life = Lifecycle::new(self.border.life_config(birth.config()), self.now);
        self.processes.insert(id, Process::new(birth, life));
        self.play(id, birth);
        self.drain_process(id);
    }
}
