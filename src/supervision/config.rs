//! What the cluster's machine is told to keep.
//!
//! Not here: how it keeps it.

use std::sync::Arc;
use std::time::Duration;

use crate::model::SpecName;
#[cfg(test)]
use crate::model::{Counts, Generation};
use crate::policy::{
    AutoShutdown, Escalation, OneForOne, RestartDelay, RestartIntensity, RestartLimit, RestartStrategy, RestartType,
    RolloutOptions, ShutdownPolicy, WhenEmpty,
};

use super::SpecRefused;

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
        }
    }

    /// OTP's rule: what is restarted always never ends, so its end cannot mean anything.
    ///
    /// # Errors
    /// The one combination that contradicts itself, or a cluster that does not care for significance.
    pub(crate) fn check(&self, auto_shutdown: AutoShutdown) -> Result<(), SpecRefused> {
        let reason = match (self.significant, self.restart, auto_shutdown) {
            (false, _, _) => return Ok(()),
            (true, RestartType::Permanent, _) => {
                "a permanent worker is always restarted, so its end cannot be significant; make it transient or temporary"
            }
            (true, _, AutoShutdown::Never) => {
                "nothing follows from a significant worker's end; set `auto_shutdown` to any or all"
            }
            (true, RestartType::Transient | RestartType::Temporary, _) => return Ok(()),
        };
        Err(SpecRefused::Invalid(self.name.clone(), reason))
    }
}

/// One spec as it is now.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct SpecStatus {
    /// What its next worker runs, as long as no reload has got further.
    pub(crate) generation: Generation,
    /// `specs` is 1.
    pub(crate) counts: Counts,
}
