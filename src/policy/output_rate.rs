//! How much of what a worker prints is passed on?

use std::time::Duration;

use crate::model::Mono;

/// What one worker may still print: so many bytes a second, and what it saved of the last second.
#[derive(Clone, Debug)]
pub(crate) struct OutputRate {
    /// `None` for any amount.
    per_second: Option<u64>,
    left: u64,
    since: Mono,
}

impl OutputRate {
    /// Full at `now`.
    pub(crate) const fn new(per_second: Option<u64>, now: Mono) -> Self {
        let left = match per_second {
            Some(bytes) => bytes,
            None => 0,
        };
        Self {
            per_second,
            left,
            since: now,
        }
    }

    /// Takes `bytes`, if there are so many left. More than a whole second's are taken if nothing of it is used: else a line that
    /// is longer would never get through.
    pub(crate) fn allows(&mut self, bytes: u64, now: Mono) -> bool {
        let Some(per_second) = self.per_second else {
            return true;
        };
        self.save(per_second, now);
        if self.left < bytes && self.left < per_second {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        true
    }

    fn save(&mut self, per_second: u64, now: Mono) {
        let passed = now.since(self.since);
        if passed >= Duration::from_secs(1) {
            (self.left, self.since) = (per_second, now);
            return;
        }
        // Less than a second's, so it fits; what is less than a byte is saved until it is one.
        let (rate, second) = (u128::from(per_second.max(1)), 1_000_000_000_u128);
        let saved = u64::try_from(rate * passed.as_nanos() / second).unwrap_or(u64::MAX);
        let took = u64::try_from((u128::from(saved) * second).div_ceil(rate)).unwrap_or(u64::MAX);
        self.left = per_second.min(self.left.saturating_add(saved));
        self.since = self.since + Duration::from_nanos(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono::new(Duration::from_millis(ms))
    }

    #[test]
    fn a_second_is_saved_and_no_more() {
        let mut rate = OutputRate::new(Some(1_000), ms(0));
        for (bytes, at, is_allowed) in [
            (600, 0, true),
            (600, 0, false),
            (400, 0, true),
            (1, 0, false),
            (100, 99, false),
            (100, 100, true),
            (1_000, 60_000, true),
            (1, 60_000, false),
        ] {
            assert_eq!(rate.allows(bytes, ms(at)), is_allowed, "{bytes} at {at}");
        }
    }

    #[test]
    fn a_line_longer_than_a_second_allows_gets_through_once_nothing_else_did() {
        let mut rate = OutputRate::new(Some(10), ms(0));
        assert!(rate.allows(65_536, ms(0)));
        assert!(!rate.allows(65_536, ms(999)));
        assert!(rate.allows(65_536, ms(1_000)));
    }

    #[test]
    fn without_a_limit_everything_is_allowed() {
        let mut rate = OutputRate::new(None, ms(0));
        assert!((0..100).all(|_| rate.allows(u64::MAX, ms(0))));
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_passes_however_it_is_asked() {
        let (mut rate, mut passed) = (OutputRate::new(Some(1_000), ms(0)), 0);
        for at in 0..100_000 {
            passed += u64::from(rate.allows(7, ms(at))) * 7;
        }
        assert!((99_000..=101_000).contains(&passed), "{passed}");
    }
}
