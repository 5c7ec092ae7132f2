//! How the supervisor works facts off: through the one door, in order.
//!
//! Not here: what is carried out.

use std::collections::VecDeque;

use actix::prelude::*;

use crate::clock;
use crate::master::ClusterSupervisor;
use crate::model::Mono;
use crate::supervision::Input;

/// Facts that wait, and when to look at them again.
#[derive(Default)]
pub(super) struct Turns {
    /// Facts that came up while actions were being carried out; they wait for their turn.
    inputs: VecDeque<Input>,
    deadline: Option<(Mono, SpawnHandle)>,
}

impl Turns {
    pub(super) fn add(&mut self, input: Input) {
        self.inputs.push_back(input);
    }
}

impl ClusterSupervisor {
    /// The one door: passes the fact and the clock to the machine, carries out what it decides, re-arms its timer.
    pub(super) fn step(&mut self, input: Input, ctx: &mut Context<Self>) {
        self.turns.add(input);
        self.go_on(ctx);
    }

    fn go_on(&mut self, ctx: &mut Context<Self>) {
        while let Some(input) = self.turns.inputs.pop_front() {
            self.take(input, ctx);
        }
        self.arm(ctx);
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.next_deadline();
        if self.turns.deadline.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, handle)) = self.turns.deadline.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = next {
            let handle = ctx.run_later(clock::now().until(at), |supervisor, ctx| {
                supervisor.turns.deadline = None;
                supervisor.time_passed(ctx);
                supervisor.go_on(ctx);
            });
            self.turns.deadline = Some((at, handle));
        }
    }
}
