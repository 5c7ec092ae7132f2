//! The limits of a `HealthMonitor`, validated once. What follows from them is in `judge`.

use std::time::Duration;

/// Limits and actions of a [`HealthMonitor`](super::HealthMonitor).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a configuration does nothing until a monitor has it"]
pub struct HealthConfig {
    pub(super) interval: Duration,
    pub(super) check: Duration,
    pub(super) stale_after: Duration,
    pub(super) boot: Option<Duration>,
    pub(super) drain: Option<Duration>,
    pub(super) extension: Duration,
    pub(super) replace_after: Option<u32>,
    pub(super) kill_after: Option<u32>,
    pub(super) core_dump: bool,
    pub(super) act_on_loops: bool,
    pub(super) act_on_deaf: bool,
    pub(super) pause_for_debugger: bool,
    pub(super) evidence: bool,
    pub(super) max_at_once: usize,
    pub(super) min_ready: usize,
}

/// The defaults: a beat every 3 s, a check every 5 s, stale after 10 s, killed at the third miss.
impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            check: Duration::from_secs(5),
            stale_after: Duration::from_secs(10),
            boot: None,
            drain: None,
            extension: Duration::from_secs(60),
            replace_after: None,
            kill_after: Some(3),
            core_dump: false,
            act_on_loops: false,
            act_on_deaf: false,
            pause_for_debugger: false,
            evidence: true,
            max_at_once: 1,
            min_ready: 1,
        }
    }
}

impl HealthConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often workers beat. Default 3 s; 10 ms to one hour. If the builder is given a longer
    /// [`heartbeat`](actix_cluster::ClusterBuilder::heartbeat) afterwards, the monitor says so in the log once, and no limit is shorter
    /// than what workers that beat in time need.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How often the beats are looked at. Default 5 s.
    pub const fn check(mut self, period: Duration) -> Self {
        self.check = period;
        self
    }

    /// How long a ready worker may be silent before a check counts it as a miss. Default 10 s; at least two intervals, and
    /// half a second more than one, or a worker that beats in time would be called silent.
    pub const fn stale_after(mut self, silence: Duration) -> Self {
        self.stale_after = silence;
        self
    }

    /// How long a worker may be silent on its way to ready. Default `None`: only the cluster's own boot limit
    /// (`ClusterBuilder::boot_limit`) ends a boot, because many a worker blocks its loop while it loads.
    pub const fn boot(mut self, silence: Option<Duration>) -> Self {
        self.boot = silence;
        self
    }

    /// How long a worker may be silent while it drains. Default `None`: only the grace period ends a drain.
    pub const fn drain(mut self, silence: Option<Duration>) -> Self {
        self.drain = silence;
        self
    }

    /// How much longer than its limit a worker may be silent if it asks for more time (`Worker::more_time`), counted from
    /// its last beat. Default 60 s; zero grants none.
    pub const fn extension(mut self, most: Duration) -> Self {
        self.extension = most;
        self
    }

    /// At which miss in a row the worker is replaced, its successor first. Default `None`: never. The worker that hangs
    /// then gets the ladder of every ordered stop: a request, `SIGTERM`, and `SIGKILL` after the grace period.
    pub const fn replace_after(mut self, misses: Option<u32>) -> Self {
        self.replace_after = misses;
        self
    }

    /// At which miss in a row the worker gets `SIGKILL`; the restart rules do the rest. Default 3; `None` for never.
    pub const fn kill_after(mut self, misses: Option<u32>) -> Self {
        self.kill_after = misses;
        self
    }

    /// Sends `SIGABRT` first, for a core file, and `SIGKILL` at the next miss. Default: no.
    pub const fn core_dump(mut self, yes: bool) -> Self {
        self.core_dump = yes;
        self
    }

    /// Treats a worker of which one watched loop does not turn like one that is silent. Default: no; the loop is named in
    /// an event, and the worker serves on with the others.
    pub const fn act_on_loops(mut self, yes: bool) -> Self {
        self.act_on_loops = yes;
        self
    }

    /// Treats a worker that listened and accepts on nothing any more like one that is silent. Default: no; it is told in an
    /// event, and the worker is not counted as ready in [`ClusterHealth`](super::ClusterHealth).
    pub const fn act_on_deaf(mut self, yes: bool) -> Self {
        self.act_on_deaf = yes;
        self
    }

    /// Leaves a worker alone while a debugger is attached to it. Default: no, because `strace` looks the same.
    pub const fn pause_for_debugger(mut self, yes: bool) -> Self {
        self.pause_for_debugger = yes;
        self
    }

    /// Looks into `/proc` before anything is done: state, what the kernel waits for, its stack. Default: yes; what needs
    /// privilege is left out without it.
    pub const fn evidence(mut self, yes: bool) -> Self {
        self.evidence = yes;
        self
    }

    /// How many workers may be acted on at the same time, until each is gone; the others wait for a later check. Default 1:
    /// when many workers seem to hang at once, the machine is more likely to blame than all of them.
    pub const fn max_at_once(mut self, workers: usize) -> Self {
        self.max_at_once = workers;
        self
    }

    /// How many ready workers make a ready cluster. Default 1.
    pub const fn min_ready(mut self, workers: usize) -> Self {
        self.min_ready = workers;
        self
    }

    /// The same for workers that beat so often only: nobody is called silent who beats in time.
    pub(super) fn for_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        let least = self.least();
        self.stale_after = self.stale_after.max(least);
        for limit in [&mut self.boot, &mut self.drain].into_iter().flatten() {
            *limit = least.max(*limit);
        }
        self
    }

    /// The shortest limit on silence that a worker which beats in time keeps.
    fn least(&self) -> Duration {
        let twice = self.interval.saturating_mul(2);
        twice.max(self.interval.saturating_add(HICCUPS))
    }

    /// Refuses limits that contradict each other.
    pub(super) fn validate(&self) -> Result<(), HealthConfigError> {
        if self.interval.is_zero() || self.check.is_zero() {
            return Err(HealthConfigError::Zero);
        }
        for (what, limit) in [
            ("stale_after", Some(self.stale_after)),
            ("boot", self.boot),
            ("drain", self.drain),
        ] {
            let least = self.least();
            if limit.is_some_and(|limit| limit < least) {
                return Err(HealthConfigError::TooImpatient { what, least });
            }
        }
        if self.kill_after == Some(0) || self.replace_after == Some(0) || self.max_at_once == 0 {
            return Err(HealthConfigError::NoMiss);
        }
        if let (Some(replace), Some(kill)) = (self.replace_after, self.kill_after)
            && replace >= kill
        {
            return Err(HealthConfigError::Order { replace, kill });
        }
        Ok(())
    }
}

/// Limits that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HealthConfigError {
    /// A zero period.
    #[error("`interval` and `check` must be more than zero; to have no monitor, add none")]
    Zero,
    /// A limit on silence that a worker which beats in time would break.
    #[error("`{what}` must be at least {least:?} with this interval, or a worker that beats in time is called silent")]
    TooImpatient {
        /// Which limit.
        what: &'static str,
        /// What it must be at least.
        least: Duration,
    },
    /// Acting without a miss, or never on anybody.
    #[error("`kill_after`, `replace_after` and `max_at_once` are at least 1; `None` means never")]
    NoMiss,
    /// Replacing a worker that was killed before.
    #[error("`replace_after` ({replace}) must come before `kill_after` ({kill})")]
    Order {
        /// The miss at which it would be replaced.
        replace: u32,
        /// The miss at which it is killed.
        kill: u32,
    },
}

/// By so much master and worker may be late without anybody calling it a pause.
const HICCUPS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn guide_heartbeat_the_defaults_are_three_five_ten_and_three_misses() {
        let config = HealthConfig::new();
        assert_eq!((config.interval, config.check), (3 * SECOND, 5 * SECOND));
        assert_eq!((config.stale_after, config.kill_after), (10 * SECOND, Some(3)));
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_refused_with_the_way_out() {
        let refused = [
            HealthConfig::new().interval(Duration::ZERO),
            HealthConfig::new().check(Duration::ZERO),
            HealthConfig::new().stale_after(5 * SECOND),
            HealthConfig::new().boot(Some(5 * SECOND)),
            HealthConfig::new().drain(Some(SECOND)),
            HealthConfig::new().kill_after(Some(0)),
            HealthConfig::new().replace_after(Some(0)),
            HealthConfig::new().max_at_once(0),
            HealthConfig::new().replace_after(Some(3)),
        ];
        for config in refused {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains('`'), "{error}");
        }
        assert_eq!(HealthConfig::new().replace_after(Some(2)).validate(), Ok(()));
        assert_eq!(
            HealthConfig::new().replace_after(Some(2)).kill_after(None).validate(),
            Ok(())
        );
    }
}
