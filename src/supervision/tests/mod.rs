//! Tests of the two machines: tables for the rules, and a simulated world for what must hold in every interleaving.

/// `assert_eq` whose text begins with the name of the rule.
macro_rules! same {
    ($left:expr, $right:expr, $($rule:tt)+) => {{
        let (left, right) = (&$left, &$right);
        assert!(*left == *right, "{}: {left:?} and not {right:?}", format_args!($($rule)+));
    }};
}

mod administration;
mod auto_end;
mod cluster;
mod counted;
mod deed;
mod driver;
mod hang;
mod history;
mod judge_process;
mod judge_reload;
mod judge_restarts;
mod judge_slots;
mod judge_specs;
mod judge_standby;
mod lame_duck;
mod many;
mod meddle;
mod metamorphic;
mod mutants;
mod mutants_table;
mod otp;
mod otp_limits;
mod plan;
mod process;
mod reload;
mod script;
mod seen;
mod settings;
mod shrink;
mod simulate;
mod specs;
mod standby;
mod totality;
mod trace;
mod world;

use std::sync::Arc;
use std::time::Duration;

use super::life::Note;
use super::*;
use crate::policy::WhenEmpty;
use crate::policy::{
    Backoff, ReadyWhen, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy, RestartType, ShutdownPolicy,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The instant this many milliseconds after the start.
fn ms(millis: u64) -> Mono {
    Mono::new(Duration::from_millis(millis))
}

/// Limits with round numbers: boot 2 s, answer 1 s, grace 5 s.
fn limits() -> LifecycleConfig {
    LifecycleConfig {
        ready_when: ReadyWhen::Listening,
        boot: 2 * SECOND,
        more_time: 3 * SECOND,
        ask: SECOND,
        is_standby: false,
        shutdown: ShutdownPolicy::Grace(5 * SECOND),
        lame_duck: Duration::ZERO,
    }
}

/// One spec named "web" of `count` permanent workers; delays without jitter, 5 restarts in 60 s.
fn web(count: u32) -> SupervisionConfig {
    SupervisionConfig {
        specs: vec![SpecConfig {
            restart: RestartType::Permanent,
            delay: RestartDelay::Backoff(Backoff::default().jitter(0.0)),
            limit: RestartLimit::default(),
            stable_after: 60 * SECOND,
            shutdown: ShutdownPolicy::Grace(5 * SECOND),
            ..SpecConfig::new("web", count)
        }],
        intensity: None,
        max_booting: 4,
        when_empty: WhenEmpty::Stop,
        seed: 1,
        ..SupervisionConfig::default()
    }
}

/// Three specs "a", "b", "c" of one worker each, under this strategy; no delays.
fn abc(strategy: impl RestartStrategy + 'static) -> SupervisionConfig {
    let spec = |name: &str| SpecConfig {
        delay: RestartDelay::AtOnce,
        shutdown: ShutdownPolicy::Grace(5 * SECOND),
        ..SpecConfig::new(name, 1)
    };
    SupervisionConfig {
        specs: vec![spec("a"), spec("b"), spec("c")],
        strategy: Arc::new(strategy),
        ..web(0)
    }
}
