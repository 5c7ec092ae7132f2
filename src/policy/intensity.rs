//! Too often? Restarts counted within a period.
//!
//! Not here: what happens when it was too often, and which ends count (that is [`crate::supervision`]).

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::model::{Mono, json};

/// How often one slot may restart: at most `max` restarts within any `period`.
///
/// The window is closed, as OTP computes it: a restart exactly `period` ago still counts, and the restart after the
/// `max`-th is not carried out; the slot is then given up, and the others run on. Unlike OTP's intensity this is counted
/// for each slot, because with N processes N restarts at once are normal. Default: 5 in 60 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RestartLimit {
    /// Restarts allowed within the period; 0 allows none, `u32::MAX` any number.
    pub max: u32,
    /// The period; zero counts only restarts of the same instant.
    #[serde(rename = "period_ms", with = "json::millis")]
    pub period: Duration,
}

impl RestartLimit {
    /// At most `max` restarts within any `period`.
    #[must_use]
    pub const fn new(max: u32, period: Duration) -> Self {
        Self { max, period }
    }

    /// Never give up.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::new(u32::MAX, Duration::ZERO)
    }
}

impl Default for RestartLimit {
    fn default() -> Self {
        Self::new(5, Duration::from_secs(60))
    }
}

/// How often the whole cluster may restart workers: OTP's intensity, over all slots together.
///
/// Off unless set. The window is the same as that of [`RestartLimit`]; the restart after the `max`-th is not carried out,
/// the cluster shuts down, and `run` returns an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct RestartIntensity {
    /// Restarts allowed within the period, over all slots.
    pub max: u32,
    /// The period.
    #[serde(rename = "period_ms", with = "json::millis")]
    pub period: Duration,
}

impl RestartIntensity {
    /// At most `max` restarts of the whole cluster within any `period`.
    #[must_use]
    pub const fn new(max: u32, period: Duration) -> Self {
        Self { max, period }
    }
}

/// What follows when the workers of one spec restart too often, all its slots together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Escalation {
    /// The whole spec is stopped and marked failed; the other specs run on. The default.
    #[default]
    FailSpec,
    /// The cluster shuts down, and `run` returns an error.
    StopCluster,
}

/// The restarts of the last period. Holds at most `max` instants, and none at all if there is no limit.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    max: u32,
    period: Duration,
    restarts: VecDeque<Mono>,
}

impl Window {
    /// Counts a restart now if it is allowed; `false` means that it must not be done (and it is not counted).
    pub(crate) fn record(&mut self, now: Mono) -> bool {
        if self.max == u32::MAX {
            return true;
        }
        // Closed interval: what is exactly one period old still counts.
        while self
            .restarts
            .front()
            .is_some_and(|first| now.since(*first) > self.period)
        {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.max as usize {
            return false;
        }
        self.restarts.push_back(now);
        true
    }

    /// Another limit from here on; what was counted stays counted.
    pub(crate) fn retune(&mut self, max: u32, period: Duration) {
        (self.max, self.period) = (max, period);
        let surplus = self.restarts.len().saturating_sub(max as usize);
        self.restarts.drain(..surplus);
    }

    /// Forgets the last one that was counted: it is not carried out after all.
    pub(crate) fn take_back(&mut self) {
        self.restarts.pop_back();
    }

    /// Forgets everything: the budget is full again.
    pub(crate) fn reset(&mut self) {
        self.restarts.clear();
    }

    /// Restarts counted at the last [`record`](Self::record); `None` if there is no limit and nothing is counted.
    pub(crate) fn count(&self) -> Option<u32> {
        (self.max != u32::MAX).then(|| u32::try_from(self.restarts.len()).unwrap_or(u32::MAX))
    }
}

impl From<RestartLimit> for Window {
    fn from(limit: RestartLimit) -> Self {
        Self {
            max: limit.max,
            period: limit.period,
            restarts: VecDeque::new(),
        }
    }
}

impl From<RestartIntensity> for Window {
    fn from(intensity: RestartIntensity) -> Self {
        RestartLimit::new(intensity.max, intensity.period).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Mono {
        Mono::new(Duration::from_nanos(nanos))
    }

    #[test]
    fn f_020_i_13_the_window_is_closed() {
        let period = Duration::from_nanos(100);
        let mut window = Window::from(RestartLimit::new(3, period));
        assert!(window.record(at(0)) && window.record(at(50)) && window.record(at(99)));
        // Exactly one period after the first, the first still counts; a nanosecond later it does not.
        assert!(!window.record(at(100)));
        assert!(window.record(at(101)));
        assert!(!window.record(at(150)));
        assert_eq!(window.count(), Some(3));
    }

    #[test]
    fn o_029_crashes_far_apart_never_trip_the_limit() {
        let mut window = Window::from(RestartIntensity::new(1, Duration::from_secs(1)));
        for crash in 0..1000 {
            assert!(window.record(Mono::new(Duration::from_millis(2100) * crash)));
        }
    }

    #[test]
    fn no_limit_counts_nothing_and_a_limit_of_zero_allows_nothing() {
        let mut unlimited = Window::from(RestartLimit::unlimited());
        let mut none = Window::from(RestartLimit::new(0, Duration::MAX));
        for nanos in 0..1000 {
            assert!(unlimited.record(at(nanos)));
            assert!(!none.record(at(nanos)));
        }
        assert!(unlimited.restarts.is_empty());
    }

    #[test]
    fn a_reset_gives_the_whole_budget_back() {
        let mut window = Window::from(RestartLimit::new(1, Duration::MAX));
        assert!(window.record(at(1)) && !window.record(at(2)));
        window.reset();
        assert!(window.record(at(3)));
    }
}
