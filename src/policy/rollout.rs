//! How careful is a reload?
//!
//! Not here: the roll-out itself (that is `supervision::rollout`).

use std::time::Duration;

/// How a reload replaces the workers of one generation by those of the next.
///
/// Workers are replaced in batches, in start order. With `surge` a successor is started *beside* the worker it replaces,
/// which is stopped only when the successor is ready and has survived its probation; with `max_unavailable` a worker is
/// stopped first. The first failure ends the reload and brings the old generation back everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutOptions {
    pub(crate) surge: u32,
    pub(crate) max_unavailable: u32,
    pub(crate) pause: Duration,
    pub(crate) probation: Duration,
    pub(crate) step_deadline: Duration,
    pub(crate) canary: Option<Canary>,
}

/// A first batch that is watched for a while before the others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// How many workers are replaced at first.
    pub count: u32,
    /// How long they serve before the verdict is asked for.
    pub bake: Duration,
}

impl RolloutOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many more processes than wanted may live. Default: 1. A predecessor that still drains counts.
    #[must_use]
    pub const fn surge(mut self, surge: u32) -> Self {
        self.surge = surge;
        self
    }

    /// How many workers may be missing, because they are stopped before their successors are started. Default: 0.
    #[must_use]
    pub const fn max_unavailable(mut self, workers: u32) -> Self {
        self.max_unavailable = workers;
        self
    }

    /// The time between the end of one batch and the begin of the next. Default: none.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How long a successor must live after it got ready, before its predecessor is stopped. Default: none.
    ///
    /// Meanwhile the predecessor serves alone: the successor listens, but leaves the queue of connections until its
    /// probation is over, so that no request is lost with one that crashes. (Where the worker accepts itself. A server
    /// that was given a plain listener accepts from the first moment on.) A successor in place of a missing worker
    /// serves at once.
    #[must_use]
    pub const fn probation(mut self, probation: Duration) -> Self {
        self.probation = probation;
        self
    }

    /// From the start of a successor until it must be ready; also how long the verdict on a canary may take. Default: 60 s.
    /// The boot limit of the worker holds besides.
    #[must_use]
    pub const fn step_deadline(mut self, deadline: Duration) -> Self {
        self.step_deadline = deadline;
        self
    }

    /// Replace a few first and ask whether they are good. Default: no.
    #[must_use]
    pub const fn canary(mut self, canary: Canary) -> Self {
        self.canary = Some(canary);
        self
    }
}

impl Default for RolloutOptions {
    fn default() -> Self {
        Self {
            surge: 1,
            max_unavailable: 0,
            pause: Duration::ZERO,
            probation: Duration::ZERO,
            step_deadline: Duration::from_secs(60),
            canary: None,
        }
    }
}
