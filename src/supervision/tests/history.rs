//! One history: a world from its plan to its end, and what there is to tell about it.
//!
//! Not here: what happens in between ([`super::world`]), and who lives through many ([`super::simulate`]).

use std::fmt::{self, Write};

use super::changes::{Way, Why};
use super::mutants_table::Mutant;
use super::plan::Plan;
use super::settings::surroundings;
use super::world::{Happening, World};
use super::*;

/// What there is to tell about a history that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// Calls of the machines.
    pub(super) steps: u64,
    pub(super) births: u32,
    pub(super) generations: u32,
    pub(super) kills: u32,
    pub(super) met: u64,
    /// All that the cluster's machine ordered and when after the start, as one number; 0 if it was not asked for.
    pub(super) trace: u64,
}

/// What is made of all that the cluster's machine orders.
#[derive(Debug)]
pub(super) enum Trace {
    Off,
    /// It is printed, with what happens.
    Told,
    Summed(Sum),
}

/// A sum over text.
#[derive(Debug)]
pub(super) struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Write for Sum {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        Ok(())
    }
}

impl World {
    /// I-37, I-38: whoever is wanted and not given up is there, and everybody was answered.
    fn is_settled(&self) -> bool {
        self.judge.finished.is_some()
            || (self.is_complete() && self.machine.reloading().is_none() && self.judge.unanswered().is_empty())
    }

    /// Who is given up is not missed. Nor are those that are replaced in place because of their age: that goes on for ever.
    fn is_complete(&self) -> bool {
        let in_place = |change: &&Change| (change.why, change.way) == (Why::Recycling, Way::InPlace);
        let relieved = self.machine.changes.values().filter(in_place).count();
        let failed = self.machine.counts().failed;
        self.machine.ready() + relieved >= self.machine.target() - failed
    }

    fn unsettled(&self) -> String {
        if self.is_complete() {
            let open = self.judge.unanswered();
            return format!("I-38: at {} nobody answered {open:?}", self.now);
        }
        let (ready, target) = (self.machine.ready(), self.machine.target());
        let slots = self.machine.slots();
        format!("I-37: at {} {ready} of {target} are ready: {slots:?}", self.now)
    }

    fn comes_to_rest(&mut self) {
        let limit = self.now + self.judge.settle_limit();
        while !self.is_settled() {
            assert!(self.now < limit, "{}", self.unsettled());
            self.run_until(self.now + SECOND);
        }
    }

    /// The faults have stopped: it comes to rest, and stays there while whoever has a fault left ends.
    fn settle(&mut self) {
        // By then every script is over, and so is the last time that the master was held up.
        let held_up = self.held_up.map_or(self.now, |(until, _)| until);
        self.run_until(held_up + 10 * SECOND);
        for _ in 0..3 {
            self.comes_to_rest();
            self.run_until(self.now + 3 * SECOND);
        }
        self.comes_to_rest();
        self.judge.standbys_are_there(&self.machine);
    }

    fn end(&mut self) {
        if self.judge.finished.is_none() {
            self.happen(Happening::Arrives(Input::ShutdownRequested { now: false }));
            self.run_until(self.now + 60 * SECOND);
        }
        // I-12: it ends, and at that moment nobody lives who is not named.
        assert!(self.judge.finished.is_some(), "I-12: a shutdown ends");
        let left_behind = match &self.judge.finished {
            Some(Outcome::Unkillable(ids)) => ids.clone(),
            _ => Vec::new(),
        };
        let left = self.processes.keys().find(|id| !left_behind.contains(id));
        same!(left, None, "I-12: it lives after the end");
        self.judge.balanced(&left_behind);
        same!(self.judge.unanswered(), Vec::new(), "I-38: nobody answered");
    }
}

/// Lives through a plan; panics with the invariant that does not hold.
pub(super) fn live_through(plan: Plan, trace: Trace) -> History {
    live_broken(plan, trace, None)
}

/// The same with machines that are broken.
pub(super) fn live_broken(plan: Plan, trace: Trace, mutant: Option<Mutant>) -> History {
    let start = surroundings(&plan).start;
    live_on(World::new(plan, start, trace, mutant))
}

/// With this time on the clock at the start.
pub(super) fn live_from(start: Mono, plan: Plan, trace: Trace) -> History {
    live_on(World::new(plan, start, trace, None))
}

fn live_on(mut world: World) -> History {
    world.run_until(world.faults_until);
    world.settle();
    world.end();
    History {
        steps: world.steps,
        births: world.births,
        generations: u32::try_from(world.generations.len()).expect("there are few reloads"),
        kills: world.kills,
        met: world.met,
        trace: match world.trace {
            Trace::Off | Trace::Told => 0,
            Trace::Summed(Sum(sum)) => sum,
        },
    }
}

/// What the cluster's machine was told, and when; time that passed without an input is `None`.
pub(super) type Told = (Mono, Option<Input>);

/// What a cluster was told in this history, until the faults stop.
pub(super) fn history(plan: Plan) -> (SupervisionConfig, Vec<Told>) {
    let start = surroundings(&plan).start;
    let mut world = World::new(plan, start, Trace::Off, None);
    world.judge.diary = Some(Vec::new());
    let config = world.judge.config.clone();
    world.run_until(world.faults_until);
    (config, world.judge.diary.take().unwrap_or_default())
}
