//! The limits of a `MemoryWatchdog`, validated once. What follows from them is in `judge`.

use std::time::Duration;

/// How much memory one worker may use.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MemoryLimit {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what there is: of the limit of the worker's control group, or of the machine's memory where that
    /// is less or the group has none. More than 0, at most 100.
    Percent(f64),
}

impl MemoryLimit {
    /// So many MiB.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self::Bytes(mib.saturating_mul(1 << 20))
    }

    /// In bytes, if that is known.
    pub(super) fn bytes(self, available: Option<u64>) -> Option<u64> {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (available? as f64 * percent / 100.0) as u64,
        };
        (bytes > 0).then_some(bytes)
    }
}

/// Limits and actions of a [`MemoryWatchdog`](super::MemoryWatchdog).
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a configuration does nothing until a watchdog has it"]
pub struct MemoryConfig {
    pub(super) limit: MemoryLimit,
    pub(super) period: Duration,
    pub(super) soft: f64,
    pub(super) hard: Option<f64>,
    pub(super) spread: f64,
    pub(super) max_at_once: usize,
    pub(super) proportional: bool,
    pub(super) forecast: Option<Duration>,
    pub(super) report: bool,
}

impl MemoryConfig {
    /// This limit for each worker, and the defaults: read and reported every 5 s, replaced above 90 % of the limit, killed at
    /// the limit.
    pub const fn new(limit: MemoryLimit) -> Self {
        Self {
            limit,
            period: Duration::from_secs(5),
            soft: 0.9,
            hard: Some(1.0),
            spread: 0.25,
            max_at_once: 1,
            proportional: false,
            forecast: Some(Duration::from_secs(15 * 60)),
            report: true,
        }
    }

    /// How often the memory of all workers is read and reported. Default 5 s; more than zero.
    pub const fn period(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// Above which part of the limit a worker is replaced, its successor first. Default 0.9; more than 0, at most 1.
    pub const fn soft(mut self, part: f64) -> Self {
        self.soft = part;
        self
    }

    /// At which part of the limit a worker is killed, at most one at each reading. Default 1.0; at least `soft`; `None` for
    /// never: then only the kernel ends a worker whose replacement is too slow.
    pub const fn hard(mut self, part: Option<f64>) -> Self {
        self.hard = part;
        self
    }

    /// How far above the soft limit the threshold of a single worker may lie, by chance, as a part of the way to the hard one:
    /// so that those which started together and grow alike do not go together. Default 0.25; 0 to 1.
    pub const fn spread(mut self, part: f64) -> Self {
        self.spread = part;
        self
    }

    /// How many workers may be on their way out for their memory at once. Default 1; the cluster's own bound for recycling
    /// (`ClusterBuilder::recycle`: surge and missing workers) holds besides.
    pub const fn max_at_once(mut self, workers: usize) -> Self {
        self.max_at_once = workers;
        self
    }

    /// Judges by the share (PSS) instead of the resident set (RSS), which counts what workers share for each of them. The
    /// share costs the kernel a walk through all pages, so it is read only of those whose RSS is over. Needs the worker's own
    /// user or privilege; unreadable, it is unknown, and nothing is done. Default: no.
    pub const fn proportional(mut self, yes: bool) -> Self {
        self.proportional = yes;
        self
    }

    /// Tells of a worker that will reach its limit within this time if it goes on as it does. Default 15 min; `None` for
    /// never. Nothing else follows from it.
    pub const fn forecast(mut self, within: Option<Duration>) -> Self {
        self.forecast = within;
        self
    }

    /// Publishes what was read as an event, each time. Default: yes.
    pub const fn report(mut self, yes: bool) -> Self {
        self.report = yes;
        self
    }

    /// Refuses limits that contradict each other. What is not a number is in no range.
    pub(super) fn validate(&self) -> Result<(), MemoryConfigError> {
        match self.limit {
            MemoryLimit::Bytes(0) => return Err(MemoryConfigError::ZeroLimit),
            MemoryLimit::Percent(percent) if !(percent > 0.0 && percent <= 100.0) => {
                return Err(MemoryConfigError::Percent(percent));
            }
            MemoryLimit::Bytes(_) | MemoryLimit::Percent(_) => {}
        }
        if self.period.is_zero() || self.max_at_once == 0 {
            return Err(MemoryConfigError::Zero);
        }
        if !(self.soft > 0.0 && self.soft <= 1.0) {
            return Err(MemoryConfigError::Soft(self.soft));
        }
        if !(0.0..=1.0).contains(&self.spread) {
            return Err(MemoryConfigError::Spread(self.spread));
        }
        match self.hard {
            Some(hard) if !(hard >= self.soft && hard.is_finite()) => {
                let soft = self.soft;
                Err(MemoryConfigError::Order { soft, hard })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Limits that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryConfigError {
    /// A limit that every worker is over.
    #[error("a limit of 0 bytes would end every worker; to have no limit, add no `MemoryWatchdog`")]
    ZeroLimit,
    /// No part of the memory that could be a limit.
    #[error("`MemoryLimit::Percent` is more than 0 and at most 100, not {0}")]
    Percent(f64),
    /// A zero period, or acting on nobody.
    #[error("`period` and `max_at_once` must be more than zero; to have no watchdog, add none")]
    Zero,
    /// No part of the limit.
    #[error("`soft` is a part of the limit, more than 0 and at most 1, not {0}")]
    Soft(f64),
    /// No part of the way between the limits.
    #[error("`spread` is 0 to 1, not {0}")]
    Spread(f64),
    /// Killed before it would be replaced.
    #[error("`hard` ({hard}) must not be less than `soft` ({soft}); `hard(None)` never kills")]
    Order {
        /// Where a worker would be replaced.
        soft: f64,
        /// Where it would be killed.
        hard: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guide_memory_the_defaults_are_five_seconds_and_ninety_percent() {
        let config = MemoryConfig::new(MemoryLimit::mib(512));
        assert_eq!((config.period, config.soft), (Duration::from_secs(5), 0.9));
        assert_eq!((config.hard, config.report), (Some(1.0), true));
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_refused_with_the_way_out() {
        let good = || MemoryConfig::new(MemoryLimit::mib(64));
        let refused = [
            MemoryConfig::new(MemoryLimit::Bytes(0)),
            MemoryConfig::new(MemoryLimit::Percent(0.0)),
            MemoryConfig::new(MemoryLimit::Percent(-1.0)),
            MemoryConfig::new(MemoryLimit::Percent(100.5)),
            MemoryConfig::new(MemoryLimit::Percent(f64::NAN)),
            MemoryConfig::new(MemoryLimit::Percent(f64::INFINITY)),
            good().period(Duration::ZERO),
            good().max_at_once(0),
            good().soft(0.0),
            good().soft(1.1),
            good().soft(f64::NAN),
            good().hard(Some(0.8)),
            good().hard(Some(f64::NAN)),
            good().hard(Some(f64::INFINITY)),
            good().spread(-0.1),
            good().spread(f64::NAN),
        ];
        for config in refused {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains('`'), "{error}");
        }
        for config in [good().hard(None).soft(1.0), good().hard(Some(0.9)), good().spread(0.0)] {
            assert_eq!(config.validate(), Ok(()));
        }
    }

    #[test]
    fn a_percentage_of_nothing_known_is_not_known() {
        assert_eq!(MemoryLimit::Percent(50.0).bytes(None), None);
        assert_eq!(MemoryLimit::Percent(50.0).bytes(Some(1000)), Some(500));
        assert_eq!(MemoryLimit::Percent(0.001).bytes(Some(1000)), None, "less than a byte");
        assert_eq!(MemoryLimit::mib(u64::MAX).bytes(None), Some(u64::MAX));
    }
}
