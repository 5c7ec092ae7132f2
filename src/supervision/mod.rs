//! The machines: facts and time in, orders out.
//!
//! Two machines of one shape. [`Lifecycle`] knows what *one process* is doing and turns whatever it does into exactly one
//! exit. [`Supervision`] knows what *each slot* should be, and never what a process is doing. Both are driven by four verbs:
//!
//! ```text
//! handle(input, now)        a fact happened
//! handle_deadline(now)      time passed
//! poll_*() -> Option        what must be done next; the caller loops until None
//! next_deadline() -> Option when to call again
//! ```
//!
//! Feed what has happened before time that has passed: a worker whose "ready" waits in the channel is not late.
//!
//! Not here: actors, processes, sockets, clocks. Time is an argument, chance is a seed, so every run can be replayed.

mod action;
mod input;
mod lifecycle;
mod roster;

pub(crate) use action::{Action, ForkRefused, Outcome};
pub(crate) use input::{Input, RequestId};
pub(crate) use lifecycle::{Fact, LifeInput, Lifecycle, LifecycleConfig, Note, Order, Output, Report};

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Mono, Phase, SlotSnapshot, SpecName, WorkerId};
use crate::policy::{RestartDelay, RestartIntensity, RestartLimit, RestartType, ShutdownPolicy};

/// What the cluster should be.
#[derive(Clone, Debug)]
pub(crate) struct SupervisionConfig {
    /// The specs, in start order.
    pub(crate) specs: Vec<SpecConfig>,
    /// How often the cluster as a whole may restart workers; `None` for any number of times.
    pub(crate) intensity: Option<RestartIntensity>,
    /// How many workers may be between spawn and ready at once; 0 counts as 1.
    pub(crate) max_booting: usize,
    /// What happens when nobody is left and nobody is to come.
    pub(crate) when_empty: WhenEmpty,
    /// Where the jitter of the delays comes from.
    pub(crate) seed: u64,
}

/// One spec, as far as supervision goes.
#[derive(Clone, Debug)]
pub(crate) struct SpecConfig {
    pub(crate) name: SpecName,
    pub(crate) count: u32,
    pub(crate) restart: RestartType,
    pub(crate) delay: RestartDelay,
    /// For each slot.
    pub(crate) limit: RestartLimit,
    /// A run of at least this long, from ready to exit, ends a row of failures.
    pub(crate) stable_after: Duration,
    pub(crate) shutdown: ShutdownPolicy,
}

/// What happens when nobody is left and nobody is to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum WhenEmpty {
    /// The cluster ends.
    #[default]
    Stop,
    /// It waits for a handle to fork or start something.
    Wait,
}
