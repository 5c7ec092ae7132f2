//! The limits of an `Autoscaler`, validated once. What follows from them is in `decide`.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_cluster::SpecName;

use crate::signals::LoadSignal;

/// Limits and signals of an [`Autoscaler`](super::Autoscaler).
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a configuration does nothing until an autoscaler has it"]
pub struct AutoscaleConfig {
    pub(super) spec: SpecName,
    pub(super) min: u32,
    pub(super) max: Option<u32>,
    pub(super) add_above: f64,
    pub(super) remove_below: f64,
    pub(super) every: Duration,
    pub(super) cool_down_up: Duration,
    pub(super) cool_down_down: Duration,
    pub(super) step_up: u32,
    pub(super) step_down: u32,
    pub(super) signals: BTreeSet<LoadSignal>,
    pub(super) queue_full: u32,
    pub(super) lag_full: Duration,
    pub(super) dry_run: bool,
}

impl Default for AutoscaleConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl AutoscaleConfig {
    /// From 2 workers to as many as there are processors, one more above a load of 0.8, one less below 0.2, looked at every
    /// 10 s, by processor time and accept queue.
    pub fn new() -> Self {
        Self {
            spec: SpecName::from("worker"),
            min: 2,
            max: None,
            add_above: 0.8,
            remove_below: 0.2,
            every: Duration::from_secs(10),
            cool_down_up: Duration::from_secs(30),
            cool_down_down: Duration::from_secs(60),
            step_up: 1,
            step_down: 1,
            signals: BTreeSet::from([LoadSignal::Cpu, LoadSignal::Queue]),
            queue_full: 32,
            lag_full: Duration::from_millis(100),
            dry_run: false,
        }
    }

    /// Which spec is scaled. Default: `worker`, the builder's own.
    pub fn spec(mut self, spec: impl Into<SpecName>) -> Self {
        self.spec = spec.into();
        self
    }

    /// How few workers there may be. Default 2, at least 1. A spec that somebody has set to no worker at all is left alone.
    pub const fn min(mut self, workers: u32) -> Self {
        self.min = workers;
        self
    }

    /// How many workers there may be. Default: as many as the processors this process may use, by affinity and by the quota
    /// of its cgroup (rounded down), and no less than `min`.
    pub const fn max(mut self, workers: u32) -> Self {
        self.max = Some(workers);
        self
    }

    /// Above this load workers are added. Default 0.8. Whatever one worker says counts as a quarter above this at most.
    pub const fn add_above(mut self, load: f64) -> Self {
        self.add_above = load;
        self
    }

    /// Below this load workers are removed, unless those who stay would then be above `add_above`. Default 0.2; 0 for never.
    pub const fn remove_below(mut self, load: f64) -> Self {
        self.remove_below = load;
        self
    }

    /// How often it looks. Default 10 s. What a worker said counts for two of these periods.
    pub const fn every(mut self, period: Duration) -> Self {
        self.every = period;
        self
    }

    /// How long after any change of the number a worker may be added. Default 30 s.
    pub const fn cool_down_up(mut self, time: Duration) -> Self {
        self.cool_down_up = time;
        self
    }

    /// How long after any change a worker may be removed, and how long the load must have been low without a break. Default
    /// 60 s: adding too late costs answers, removing too late costs memory.
    pub const fn cool_down_down(mut self, time: Duration) -> Self {
        self.cool_down_down = time;
        self
    }

    /// How many workers are added at once. Default 1.
    pub const fn step_up(mut self, workers: u32) -> Self {
        self.step_up = workers;
        self
    }

    /// How many workers are removed at once. Default 1.
    pub const fn step_down(mut self, workers: u32) -> Self {
        self.step_down = workers;
        self
    }

    /// What the load is read from; the highest counts. Default: [`LoadSignal::Cpu`] and [`LoadSignal::Queue`], which need
    /// nothing of the workers. Each must be there, or nothing changes.
    pub fn signals(mut self, signals: impl IntoIterator<Item = LoadSignal>) -> Self {
        self.signals = signals.into_iter().collect();
        self
    }

    /// For [`LoadSignal::Queue`]: how many connections that wait make a load of 1, for each worker. Default 32.
    pub const fn queue_full(mut self, connections: u32) -> Self {
        self.queue_full = connections;
        self
    }

    /// For [`LoadSignal::LoopLag`]: how late a loop is at a load of 1. Default 100 ms.
    pub const fn lag_full(mut self, late: Duration) -> Self {
        self.lag_full = late;
        self
    }

    /// Tells what it would do, and does nothing. Default: no.
    pub const fn dry_run(mut self, yes: bool) -> Self {
        self.dry_run = yes;
        self
    }

    /// The bounds, with `processors` for a maximum that was not chosen.
    pub(super) fn bounds(&self, processors: u32) -> (u32, u32) {
        (self.min, self.max.unwrap_or(processors).max(self.min))
    }

    /// The most that one worker's word counts.
    pub(super) fn cap(&self) -> f64 {
        self.add_above * 1.25
    }

    /// How old a worker's word may be.
    pub(super) fn fresh(&self) -> Duration {
        self.every.saturating_mul(2)
    }

    /// Refuses limits that contradict each other.
    pub(super) fn validate(&self) -> Result<(), AutoscaleConfigError> {
        let Self {
            min,
            add_above,
            remove_below,
            ..
        } = *self;
        if min == 0 {
            return Err(AutoscaleConfigError::NoMinimum);
        }
        if let Some(max) = self.max.filter(|max| *max < min) {
            return Err(AutoscaleConfigError::Bounds { min, max });
        }
        // Also refuses what is no number.
        let in_order = remove_below >= 0.0 && remove_below < add_above && add_above <= THRESHOLD_MAX;
        if !in_order {
            return Err(AutoscaleConfigError::Thresholds {
                add_above,
                remove_below,
            });
        }
        if self.step_up == 0 || self.step_down == 0 {
            return Err(AutoscaleConfigError::NoStep);
        }
        if self.every.is_zero() || self.queue_full == 0 || self.lag_full.is_zero() {
            return Err(AutoscaleConfigError::Zero);
        }
        if self.signals.is_empty() {
            return Err(AutoscaleConfigError::NoSignal);
        }
        Ok(())
    }
}

/// Limits that contradict each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AutoscaleConfigError {
    /// None at all is no load to judge by.
    #[error("`min` must be at least 1: without a worker there is no load to scale by")]
    NoMinimum,
    /// No number is between them.
    #[error("`min` ({min}) is more than `max` ({max})")]
    Bounds {
        /// The fewest.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Every load would be too high and too low at once, or none would be either.
    #[error(
        "`remove_below` ({remove_below}) must be 0 or more and less than `add_above` ({add_above}), and that at most 10,000"
    )]
    Thresholds {
        /// Above this workers are added.
        add_above: f64,
        /// Below this workers are removed.
        remove_below: f64,
    },
    /// A step that leads nowhere.
    #[error("`step_up` and `step_down` must be at least 1; to only watch, use `dry_run`")]
    NoStep,
    /// A period, queue or lag of nothing.
    #[error("`every`, `queue_full` and `lag_full` must be more than zero")]
    Zero,
    /// Nothing to judge by.
    #[error("`signals` must name at least one")]
    NoSignal,
}

/// A load that counts must fit above it.
const THRESHOLD_MAX: f64 = 1e4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guide_autoscaling_the_defaults_are_two_processors_and_ten_seconds() {
        let config = AutoscaleConfig::new();
        assert_eq!((config.bounds(8), config.every), ((2, 8), Duration::from_secs(10)));
        assert_eq!((config.add_above, config.remove_below), (0.8, 0.2));
        assert_eq!(config.validate(), Ok(()));
        // One processor is no contradiction to a minimum that nobody chose.
        assert_eq!(config.bounds(1), (2, 2));
        assert_eq!(AutoscaleConfig::new().max(3).bounds(8), (2, 3));
    }

    #[test]
    fn contradictions_are_refused_with_the_way_out() {
        let config = AutoscaleConfig::new;
        let refused = [
            config().min(0),
            config().min(5).max(4),
            config().max(0),
            config().add_above(0.2),
            config().add_above(f64::NAN),
            config().add_above(f64::INFINITY),
            config().remove_below(-0.1),
            config().remove_below(f64::NAN),
            config().step_up(0),
            config().step_down(0),
            config().every(Duration::ZERO),
            config().queue_full(0),
            config().lag_full(Duration::ZERO),
            config().signals([]),
        ];
        for config in refused {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains('`'), "{error}");
        }
    }
}
