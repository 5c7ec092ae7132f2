//! Decisions: small pure answers to one question each.
//!
//! | question | answered in |
//! |---|---|
//! | does this end deserve a restart? | [`restart`] |
//! | who goes with it? | [`strategy`] |
//! | too often? | [`intensity`] |
//! | how long to wait? | [`backoff`] |
//! | what if nobody is left, or one that matters has ended? | [`when_empty`] |
//! | how careful is a reload? | [`rollout`] |
//! | who gets a connection that the master accepted? | [`scheduling`] |
//! | may a request whose worker died be served again? | [`strikes`] |
//! | how much of what a worker prints is passed on? | [`output_rate`] |
//! | how is a worker stopped, and when is it ready? | [`shutdown`], [`readiness`] |
//!
//! Not here: who asks (that is [`crate::supervision`]), clocks, random sources, effects of any kind.

mod backoff;
mod intensity;
mod output_rate;
mod readiness;
mod restart;
mod rollout;
mod scheduling;
mod shutdown;
mod strategy;
mod strikes;
mod when_empty;

pub(crate) use backoff::SplitMix64;
pub use backoff::{Backoff, RestartDelay};
pub(crate) use intensity::Window;
pub use intensity::{Escalation, RestartIntensity, RestartLimit};
pub(crate) use output_rate::OutputRate;
pub use readiness::ReadyWhen;
pub use restart::RestartType;
pub(crate) use restart::{declines_restart, has_nothing_to_do};
pub use rollout::{Canary, RolloutOptions};
pub use scheduling::{LeastConnections, RoundRobin, SchedulingFn, SchedulingPolicy, Sticky, TwoChoices};
pub(crate) use scheduling::{ListenerPolicy, choose, for_listener, policy_of};
pub use shutdown::ShutdownPolicy;
pub(crate) use shutdown::{Ladder, Rung};
pub(crate) use strategy::affected_by;
pub use strategy::{OneForAll, OneForOne, RestForOne, RestartStrategy, StrategyFn};
pub(crate) use strikes::{Fate, Orphan, fate, is_suspect};
pub use when_empty::{AutoShutdown, WhenEmpty};
