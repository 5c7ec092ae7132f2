//! What the cluster's machine is told to keep.
//!
//! Not here: how it keeps it.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Counts, Generation, SpecFault, SpecName};
use crate::policy::{
    AutoShutdown, Escalation, OneForOne, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy, RestartType,
    RolloutOptions, ShutdownPolicy, WhenEmpty,
};

/// What the cluster should be.
#[derive(Clone, Debug)]
pub(crate) struct SupervisionConfig {
    /// The specs, in start order. Names are unique; of two with one name the second is left out.
    pub(crate) specs: Vec<SpecConfig>,
    /// Who is restarted together with a worker that failed.
    pub(crate) strategy: Arc<dyn RestartStrategy>,
    /// How often the cluster as a whole may restart workers; `None` for any number of times.
    pub(crate) intensity: Option<RestartIntensity>,
    /// Does the end of a significant worker end the cluster?
    pub(crate) auto_shutdown: AutoShutdown,
    /// How many workers may be between spawn and ready at once; 0 counts as 1.
    pub(crate) max_booting: usize,
    /// How workers are replaced on purpose, one at a time or more (`surge`, `max_unavailable`, `probation`,
    /// `step_deadline` count).
    pub(crate) recycle: RolloutOptions,
    /// What happens when nobody is left and nobody is to come.
    pub(crate) when_empty: WhenEmpty,
    /// Where the jitter of the delays comes from.
    pub(crate) seed: u64,
}

impl Default for SupervisionConfig {
    fn default() -> Self {
        Self {
            specs: Vec::new(),
            strategy: Arc::new(OneForOne),
            intensity: None,
            auto_shutdown: AutoShutdown::Never,
            max_booting: 4,
            recycle: RolloutOptions::default(),
            when_empty: WhenEmpty::Stop,
            seed: 0,
        }
    }
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
    /// For all its slots together; `None` for any number of times.
    pub(crate) intensity: Option<RestartIntensity>,
    /// What follows when that was too often.
    pub(crate) escalation: Escalation,
    /// A run of at least this long, from ready to exit, ends a row of failures.
    pub(crate) stable_after: Duration,
    pub(crate) shutdown: ShutdownPolicy,
    /// Does the end of its workers count for `auto_shutdown`? Not allowed for permanent ones, whose end never counts.
    pub(crate) significant: bool,
    /// How long after its ready a worker is replaced, more or less by a tenth.
    pub(crate) max_age: Option<Duration>,
    /// After how many requests a worker is replaced, more or less by a tenth; 0 for never.
    pub(crate) max_requests: u64,
    /// How many workers stand by for its slots.
    pub(crate) standby: u32,
    /// How long one does, more or less by a tenth, before another takes its place; `None` for ever.
    pub(crate) standby_age: Option<Duration>,
}

impl SpecConfig {
    /// A spec with OTP's defaults where there are such.
    pub(crate) fn new(name: impl Into<SpecName>, count: u32) -> Self {
        Self {
            name: name.into(),
            count,
            restart: RestartType::Permanent,
            delay: RestartDelay::default(),
            limit: RestartLimit::default(),
            intensity: None,
            escalation: Escalation::default(),
            stable_after: Duration::from_secs(60),
            shutdown: ShutdownPolicy::default(),
            significant: false,
            max_age: None,
            max_requests: 0,
            standby: 0,
            standby_age: Some(STANDBY_AGE),
        }
    }

    /// Is it a description that can be, in a cluster with this rule?
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn check(&self, auto_shutdown: AutoShutdown) -> Result<(), SpecFault> {
        let name = self.name.as_str();
        let fault = if name.is_empty() {
            SpecFault::NoName
        } else if name.len() > NAME_MAX {
            SpecFault::LongName
        } else if name.chars().any(char::is_control) {
            SpecFault::UnprintableName
        } else if self.count > COUNT_MAX {
            SpecFault::TooManyWorkers
        } else if self.intensity.is_some_and(|intensity| intensity.period.is_zero()) {
            SpecFault::NoPeriod
        } else if self.max_age.is_some_and(|age| age.is_zero()) {
            SpecFault::NoAge
        } else if self.standby > STANDBY_MAX {
            SpecFault::TooManyStandbys
        } else if self.standby_age.is_some_and(|age| age.is_zero()) {
            SpecFault::NoStandbyAge
        } else {
            match (self.significant, self.restart, auto_shutdown) {
                (true, RestartType::Permanent, _) => SpecFault::SignificantPermanent,
                (true, RestartType::Transient | RestartType::Temporary, AutoShutdown::Never) => {
                    SpecFault::SignificantForNothing
                }
                (false, _, _) | (true, RestartType::Transient | RestartType::Temporary, _) => return Ok(()),
            }
        };
        Err(fault)
    }
}

/// One spec as it is now.
#[derive(Clone, Debug)]
pub(crate) struct SpecStatus {
    /// Its description in force.
    pub(crate) config: SpecConfig,
    /// What its next worker runs, as long as no reload has got further.
    pub(crate) generation: Generation,
    /// `specs` is 1.
    pub(crate) counts: Counts,
}

/// What holds for all specs.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) strategy: Arc<dyn RestartStrategy>,
    pub(crate) intensity: Option<RestartIntensity>,
    pub(crate) auto_shutdown: AutoShutdown,
    pub(crate) when_empty: WhenEmpty,
}

/// A spec's name is shown in every event and log line of its workers.
const NAME_MAX: usize = 64;
/// What a standby has opened before (connections to a database, say) is not good for ever.
const STANDBY_AGE: Duration = Duration::from_secs(3600);
/// They cost as much as workers that serve, and are there for the few that end at one time.
const STANDBY_MAX: u32 = 64;
/// As many workers as a builder may ask for.
const COUNT_MAX: u32 = 10_000;
