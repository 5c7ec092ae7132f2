//! The settings of a simulated cluster, and of the world it lives in.
//!
//! Not here: what happens to it ([`super::meddle`]) and what its processes do ([`super::script`]).

use super::plan::{Plan, Sort};
use super::*;
use crate::policy::{AutoShutdown, Escalation, OneForAll, OneForOne, RestForOne, RolloutOptions};

/// How long a process may take to boot, and to end.
pub(super) const BOOT: Duration = Duration::from_secs(3);
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How much later than that it may be ready, if it asks.
pub(super) const MORE_TIME: Duration = Duration::from_secs(2);
/// The names of the specs; a history has from one to three of them.
pub(super) const NAMES: [&str; 3] = ["web", "jobs", "cache"];

/// The settings of the world.
pub(super) struct Surroundings {
    /// The clock at the start.
    pub(super) start: Mono,
    /// How long a message between the two machines takes.
    pub(super) latency: Duration,
    /// How long after the start something may go wrong.
    pub(super) faults: Duration,
}

/// What each number of a setting is; those of the specs follow, [`OF_SPEC`] for each.
const OF_CLUSTER: [&str; 10] = [
    "strategy",
    "auto_shutdown",
    "intensity",
    "max_booting",
    "when_empty",
    "seed",
    "number of specs",
    "latency",
    "a clock that runs for long",
    "recycle",
];
const OF_SPEC: [&str; 11] = [
    "count",
    "restart",
    "limit",
    "intensity",
    "escalation",
    "shutdown",
    "significant",
    "max_age",
    "max_requests",
    "standby",
    "standby_age",
];

/// How many settings there are.
pub(super) fn how_many() -> u32 {
    number(OF_CLUSTER.len() + NAMES.len() * OF_SPEC.len())
}

/// What a setting is about.
pub(super) fn name(setting: u32) -> String {
    let setting = setting as usize;
    match OF_CLUSTER.get(setting) {
        Some(name) => (*name).to_owned(),
        None => {
            let of_spec = setting - OF_CLUSTER.len();
            let (spec, what) = (NAMES[of_spec / OF_SPEC.len()], OF_SPEC[of_spec % OF_SPEC.len()]);
            format!("{what} of `{spec}`")
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("there are few settings")
}

pub(super) fn surroundings(plan: &Plan) -> Surroundings {
    let dice = |number| plan.dice(Sort::Setting, number);
    Surroundings {
        start: match dice(8).map(|mut dice| dice.once_in(4)) {
            Some(true) => ms(u64::MAX / 2),
            Some(false) | None => Mono::default(),
        },
        latency: dice(7).map_or(Duration::ZERO, |mut dice| dice.millis(0, 3)),
        // It decides how many deeds there are, so it is no item.
        faults: plan.always(Sort::Setting, u32::MAX).millis(5_000, 20_000),
    }
}

pub(super) fn config(plan: &Plan) -> SupervisionConfig {
    let dice = |number| plan.dice(Sort::Setting, number);
    let one: Arc<dyn RestartStrategy> = Arc::new(OneForOne);
    let strategy = dice(0).map_or(Arc::clone(&one), |mut dice| {
        dice.of([Arc::clone(&one), one, Arc::new(OneForAll), Arc::new(RestForOne)])
    });
    let count = dice(6).map_or(1, |mut dice| 1 + dice.below(3)) as usize;
    SupervisionConfig {
        specs: (0..count).map(|index| spec(plan, index)).collect(),
        strategy,
        intensity: dice(2).and_then(|mut dice| {
            dice.once_in(3)
                .then(|| RestartIntensity::new(3 + dice.number(12), 10 * SECOND))
        }),
        auto_shutdown: dice(1).map_or(AutoShutdown::Never, |mut dice| {
            dice.of([
                AutoShutdown::Never,
                AutoShutdown::Never,
                AutoShutdown::AnySignificant,
                AutoShutdown::AllSignificant,
            ])
        }),
        max_booting: dice(3).map_or(4, |mut dice| dice.below(5) as usize),
        recycle: dice(9)
            .map_or(RolloutOptions::new(), |mut dice| {
                RolloutOptions::new()
                    .surge(dice.of([0, 1, 1, 2]))
                    .max_unavailable(dice.of([0, 0, 1]))
                    .probation(dice.of([Duration::ZERO, 500 * MS]))
            })
            .step_deadline(2 * SECOND),
        when_empty: dice(4).map_or(WhenEmpty::Wait, |mut dice| dice.of([WhenEmpty::Stop, WhenEmpty::Wait])),
        seed: dice(5).map_or(0, |mut dice| dice.below(u64::MAX)),
    }
}

/// Any settings for one spec.
fn spec(plan: &Plan, index: usize) -> SpecConfig {
    let first = number(OF_CLUSTER.len() + index * OF_SPEC.len());
    let dice = |number: u32| plan.dice(Sort::Setting, first + number);
    let restart = dice(1).map_or(RestartType::Permanent, |mut dice| {
        dice.of([
            RestartType::Permanent,
            RestartType::Permanent,
            RestartType::Transient,
            RestartType::Temporary,
        ])
    });
    SpecConfig {
        restart,
        delay: RestartDelay::Backoff(Backoff::new().base(500 * MS).cap(5 * SECOND)),
        limit: dice(2).map_or(RestartLimit::default(), |mut dice| {
            RestartLimit::new(dice.number(5), SECOND * (1 + dice.number(20)))
        }),
        intensity: dice(3).and_then(|mut dice| {
            dice.once_in(3)
                .then(|| RestartIntensity::new(2 + dice.number(6), 10 * SECOND))
        }),
        escalation: dice(4).map_or(Escalation::FailSpec, |mut dice| {
            dice.of([Escalation::FailSpec, Escalation::StopCluster])
        }),
        stable_after: 3 * SECOND,
        shutdown: match dice(5).map(|mut dice| dice.once_in(8)) {
            Some(true) => ShutdownPolicy::Brutal,
            Some(false) | None => ShutdownPolicy::Grace(GRACE),
        },
        significant: restart != RestartType::Permanent && dice(6).is_some_and(|mut dice| dice.once_in(3)),
        max_age: dice(7).and_then(|mut dice| dice.once_in(4).then_some(4 * SECOND)),
        max_requests: dice(8).map_or(0, |mut dice| dice.of([0, 0, 1, 100])),
        standby: dice(9).map_or(0, |mut dice| dice.of([0, 1, 1, 2])),
        standby_age: dice(10).and_then(|mut dice| dice.once_in(3).then_some(5 * SECOND)),
        ..SpecConfig::new(NAMES[index], dice(0).map_or(1, |mut dice| 1 + dice.number(4)))
    }
}
