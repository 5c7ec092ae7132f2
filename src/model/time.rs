//! Monotonic time as a number, so that the machines never need a clock.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant on the master's monotonic clock: time since the master started.
///
/// Nobody can set this clock (`CLOCK_MONOTONIC`), so restart windows and deadlines are immune to wall-clock changes.
/// In JSON it is a number of milliseconds. Arithmetic saturates: a limit of `Duration::MAX` means "never" and does not overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(#[serde(with = "super::json::millis")] Duration);

impl Mono {
    /// The instant `since_start` after the master's start.
    #[must_use]
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// Time since the master's start.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time from this instant until `later`; zero if it has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> Duration {
        later.since(self)
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.0.as_secs_f64())
    }
}
