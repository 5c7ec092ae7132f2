//! What is done to a simulated cluster: anything, at any time, to anybody. By handles, by the kernel, by the clock.
//!
//! Not here: how it is done ([`super::meddle`]), and what its processes do of their own ([`super::script`]).

use super::plan::{Dice, Plan, Sort};
use super::settings::NAMES;
use super::*;
use crate::model::{Signal, SpawnStep};
use crate::policy::{AutoShutdown, Canary, OneForAll, OneForOne, RestForOne, RolloutOptions};

/// Something that is done at a certain time.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    StopWorker(Whom),
    RestartWorker(Whom),
    RecycleWorker(Whom),
    SignalWorker(Whom, Signal),
    /// The n-th of the slots that have no worker.
    StartSlot(usize),
    Fork(SpecName),
    Scale(SpecName, ScaleTarget, Vec<(WorkerId, u64)>),
    Reload(Option<SpecName>, RolloutOptions, IfBusy),
    StopSpec(SpecName),
    StartSpec(SpecName),
    RestartSpec(SpecName),
    DeleteSpec(SpecName),
    /// With the configuration that one of this name had.
    AddSpec(SpecName),
    Disconnect,
    ShutDown {
        now: bool,
    },
    /// Other rules and another description of a spec.
    Reconfigure(Reconfiguration, Option<(SpecName, Alteration)>),
    /// It has served so many requests since its birth.
    Serve(Whom, u64),
    /// It is found to hang, and ended for that.
    Blame(Whom),
    /// Once more.
    Start,
    /// Something that is said about somebody who is not, not any more, or not yet.
    Rumour(u64, Rumour),
    /// Every process dies in this instant.
    KillEverybody,
    /// No process can be started for a while.
    FailSpawns(SpawnStep, Duration),
    /// The master does not run for a while; what comes first when it does again?
    HoldUpMaster(Duration, First),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// The n-th of those who live.
    Living(usize),
    Number(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfBusy {
    Wait,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rumour {
    Forked,
    Online,
    Ready,
    Exiting,
    Disconnected,
    Unkillable,
    Exited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    WhatHappened,
    WhatIsDue,
}

/// What is different in a description.
#[derive(Clone, Copy, Debug)]
pub(super) enum Alteration {
    Count(u32),
    Restart(RestartType),
    Limit(RestartLimit),
    Intensity(Option<RestartIntensity>),
    Shutdown(ShutdownPolicy),
    MaxAge(Option<Duration>),
    MaxRequests(u64),
    Standby(u32),
}

impl Alteration {
    fn any(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 => Self::Count(dice.number(4)),
            1 => Self::Restart(dice.of([RestartType::Permanent, RestartType::Transient, RestartType::Temporary])),
            2 => Self::Limit(RestartLimit::new(dice.number(5), SECOND * (1 + dice.number(20)))),
            3 => Self::Intensity(some_intensity(dice)),
            4 => Self::Shutdown(dice.of([
                ShutdownPolicy::Brutal,
                ShutdownPolicy::Grace(SECOND),
                ShutdownPolicy::Grace(3 * SECOND),
            ])),
            5 => Self::MaxAge(dice.of([None, Some(4 * SECOND)])),
            6 => Self::MaxRequests(dice.of([0, 50])),
            _ => Self::Standby(dice.number(3)),
        }
    }

    pub(super) fn alter(self, spec: &mut SpecConfig) {
        match self {
            Self::Count(count) => spec.count = count,
            Self::Restart(restart) => spec.restart = restart,
            Self::Limit(limit) => spec.limit = limit,
            Self::Intensity(intensity) => spec.intensity = intensity,
            Self::Shutdown(policy) => spec.shutdown = policy,
            Self::MaxAge(age) => spec.max_age = age,
            Self::MaxRequests(requests) => spec.max_requests = requests,
            Self::Standby(workers) => spec.standby = workers,
        }
    }
}

impl Deed {
    pub(super) const NAMES: [&str; 23] = [
        "stop worker",
        "restart worker",
        "recycle worker",
        "signal worker",
        "start slot",
        "fork",
        "scale",
        "reload",
        "stop spec",
        "start spec",
        "restart spec",
        "delete spec",
        "add spec",
        "disconnect",
        "shut down",
        "start again",
        "rumour",
        "kill everybody",
        "fail spawns",
        "hold up master",
        "reconfigure",
        "serve",
        "blame",
    ];

    /// Its name's place among [`NAMES`](Self::NAMES).
    pub(super) const fn kind(&self) -> usize {
        match self {
            Self::StopWorker(_) => 0,
            Self::RestartWorker(_) => 1,
            Self::RecycleWorker(_) => 2,
            Self::SignalWorker(..) => 3,
            Self::StartSlot(_) => 4,
            Self::Fork(_) => 5,
            Self::Scale(..) => 6,
            Self::Reload(..) => 7,
            Self::StopSpec(_) => 8,
            Self::StartSpec(_) => 9,
            Self::RestartSpec(_) => 10,
            Self::DeleteSpec(_) => 11,
            Self::AddSpec(_) => 12,
            Self::Disconnect => 13,
            Self::ShutDown { .. } => 14,
            Self::Start => 15,
            Self::Rumour(..) => 16,
            Self::KillEverybody => 17,
            Self::FailSpawns(..) => 18,
            Self::HoldUpMaster(..) => 19,
            Self::Reconfigure(..) => 20,
            Self::Serve(..) => 21,
            Self::Blame(_) => 22,
        }
    }

    /// Is it asked of the master? Else the kernel or the clock does it.
    pub(super) const fn is_up_to_master(&self) -> bool {
        !matches!(
            self,
            Self::KillEverybody | Self::FailSpawns(..) | Self::HoldUpMaster(..)
        )
    }

    fn any(dice: &mut Dice) -> Self {
        match dice.below(44) {
            0 => Self::StopWorker(whom(dice)),
            1 | 2 => Self::RestartWorker(whom(dice)),
            3 => Self::Fork(some_spec(dice)),
            4..=6 => Self::StartSlot(dice.below(4) as usize),
            7 if dice.once_in(8) => Self::Disconnect,
            8 if dice.once_in(8) => Self::ShutDown { now: dice.once_in(3) },
            9 | 10 => Self::SignalWorker(whom(dice), dice.of([Signal::TERM, Signal::KILL, Signal::USR1])),
            11..=13 => some_scaling(dice),
            14..=18 => some_reload(dice),
            19..=21 => Self::RecycleWorker(whom(dice)),
            22 | 23 => Self::StopSpec(some_spec(dice)),
            24 => Self::StartSpec(some_spec(dice)),
            25 => Self::RestartSpec(some_spec(dice)),
            26 => Self::DeleteSpec(some_spec(dice)),
            27 => Self::AddSpec(some_spec(dice)),
            28 => Self::KillEverybody,
            29 | 30 => Self::FailSpawns(some_step(dice), dice.millis(100, 3_000)),
            31 | 32 => {
                let time = if dice.once_in(2) {
                    dice.millis(100, 3_000)
                } else {
                    dice.millis(3_000, 60_000)
                };
                Self::HoldUpMaster(time, dice.of([First::WhatHappened, First::WhatIsDue]))
            }
            33 | 34 => {
                let number = dice.of([0, 1, 2, 5, 9_999, u64::MAX]);
                Self::Rumour(number, some_rumour(dice))
            }
            35..=37 => some_reconfiguration(dice),
            38..=40 => Self::Serve(whom(dice), dice.below(300)),
            41 | 42 => Self::Blame(whom(dice)),
            _ => Self::Start,
        }
    }
}

/// Everything that is done, and when after the start.
pub(super) fn deeds(plan: &Plan, until: Duration) -> Vec<(u32, Duration, Deed)> {
    let mut at = 500 * MS;
    let mut deeds = Vec::new();
    for number in 0.. {
        if at >= until {
            break;
        }
        let mut dice = plan.always(Sort::Deed, number);
        let pause = dice.millis(50, 950);
        if plan.dice(Sort::Deed, number).is_some() {
            deeds.push((number, at, Deed::any(&mut dice)));
        }
        at += pause;
    }
    deeds
}

fn whom(dice: &mut Dice) -> Whom {
    match dice.below(4) {
        0 => Whom::Number(dice.below(16)),
        _ => Whom::Living(dice.below(16) as usize),
    }
}

fn some_spec(dice: &mut Dice) -> SpecName {
    let [web, jobs, cache] = NAMES;
    dice.of([web, web, jobs, cache, "unknown"]).into()
}

fn some_step(dice: &mut Dice) -> SpawnStep {
    dice.of([
        SpawnStep::Settings,
        SpawnStep::Listeners,
        SpawnStep::Channel,
        SpawnStep::Pipes,
        SpawnStep::Exec,
        SpawnStep::Pidfd,
        SpawnStep::Register,
    ])
}

fn some_rumour(dice: &mut Dice) -> Rumour {
    dice.of([
        Rumour::Forked,
        Rumour::Online,
        Rumour::Ready,
        Rumour::Exiting,
        Rumour::Disconnected,
        Rumour::Unkillable,
        Rumour::Exited,
    ])
}

fn some_scaling(dice: &mut Dice) -> Deed {
    let count = dice.of([-1, 0, 1, 2, 3, 5, 7]);
    let target = match dice.below(3) {
        0 => ScaleTarget::By(count - 2),
        _ => ScaleTarget::To(count),
    };
    let active = (0..12).map(|id| (WorkerId::new(id), dice.below(5))).collect();
    Deed::Scale(some_spec(dice), target, active)
}

fn some_intensity(dice: &mut Dice) -> Option<RestartIntensity> {
    let max = dice.number(8);
    dice.of([None, Some(5), Some(20)])
        .map(|seconds| RestartIntensity::new(max, SECOND * seconds))
}

fn some_reconfiguration(dice: &mut Dice) -> Deed {
    let strategy: Arc<dyn RestartStrategy> = match dice.below(3) {
        0 => Arc::new(OneForOne),
        1 => Arc::new(OneForAll),
        _ => Arc::new(RestForOne),
    };
    let rule = dice.of([
        AutoShutdown::Never,
        AutoShutdown::Never,
        AutoShutdown::AnySignificant,
        AutoShutdown::AllSignificant,
    ]);
    let changes = Reconfiguration {
        strategy: dice.once_in(4).then_some(strategy),
        intensity: dice.once_in(4).then(|| some_intensity(dice)),
        auto_shutdown: dice.once_in(4).then_some(rule),
        when_empty: dice.once_in(8).then(|| dice.of([WhenEmpty::Stop, WhenEmpty::Wait])),
        specs: Vec::new(),
        only_known: !dice.once_in(4),
    };
    let spec = (!dice.once_in(3)).then(|| (some_spec(dice), Alteration::any(dice)));
    Deed::Reconfigure(changes, spec)
}

fn some_reload(dice: &mut Dice) -> Deed {
    let spec = dice.once_in(3).then(|| some_spec(dice));
    let mut options = RolloutOptions::new()
        .surge(dice.number(3))
        .max_unavailable(dice.number(2))
        .pause(MS * (dice.number(3) * 300))
        .probation(MS * (dice.number(3) * 500))
        .step_deadline(MS * (1000 + dice.number(3) * 1000));
    if dice.once_in(3) {
        options = options.canary(Canary {
            count: dice.number(3),
            bake: SECOND,
        });
    }
    Deed::Reload(spec, options, dice.of([IfBusy::Wait, IfBusy::Refuse]))
}
