//! How long to wait before a restart.
//!
//! The jitter comes from a seeded generator that the caller keeps, so the same seed gives the same delays. Not here: what
//! counts as a streak, and when it is over (that is [`crate::supervision`]).

use std::time::Duration;

use serde::Serialize;

use crate::model::json;

/// How long a slot waits before its next worker is started.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartDelay {
    /// Not at all: Node's `cluster.on('exit', () => cluster.fork())`.
    AtOnce,
    /// Longer and longer while it keeps failing. The default, with [`Backoff::default`].
    Backoff(Backoff),
}

impl RestartDelay {
    /// The delay before the restart number `streak` (from 1) in an unbroken row of failures.
    pub(crate) fn delay(&self, streak: u32, random: &mut SplitMix64) -> Duration {
        match self {
            Self::AtOnce => Duration::ZERO,
            Self::Backoff(backoff) => backoff.delay(streak, random),
        }
    }
}

impl Default for RestartDelay {
    fn default() -> Self {
        Self::Backoff(Backoff::default())
    }
}

/// Exponential back-off with a cap and jitter.
///
/// By default: at once the first time, then 1 s, 2 s, 4 s, … up to 60 s, each ±10 %. A worker that ran for long enough
/// (60 s from ready by default) starts the row anew.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Backoff {
    #[serde(rename = "base_ms", with = "json::millis")]
    base: Duration,
    factor: f64,
    #[serde(rename = "cap_ms", with = "json::millis")]
    cap: Duration,
    jitter: f64,
    first_at_once: bool,
}

impl Backoff {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first delay that is not zero. Default: 1 s.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Each delay is this many times the one before. Default: 2. Below 1 (or not a number) counts as 1: delays never shrink.
    #[must_use]
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = if factor > 1.0 { factor } else { 1.0 };
        self
    }

    /// No delay is longer, jitter included. Default: 60 s.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The part of a delay by which it is made shorter or longer at random, 0 to 1, so that slots which failed together do
    /// not start together. Default: 0.1.
    #[must_use]
    pub const fn jitter(mut self, jitter: f64) -> Self {
        // Written so that "not a number" gives 0.
        self.jitter = if jitter > 1.0 {
            1.0
        } else if jitter > 0.0 {
            jitter
        } else {
            0.0
        };
        self
    }

    /// Is the first restart after a stable run done without a delay? Default: yes.
    #[must_use]
    pub const fn first_at_once(mut self, yes: bool) -> Self {
        self.first_at_once = yes;
        self
    }

    /// The delay before the restart number `streak` (from 1).
    pub(crate) fn delay(&self, streak: u32, random: &mut SplitMix64) -> Duration {
        // Drawn always, so that the options of one slot do not shift the delays of the next.
        let spread = random.next_unit().mul_add(2.0, -1.0);
        let steps = match (self.first_at_once, streak) {
            (true, 0 | 1) => return Duration::ZERO,
            (true, later) => later - 2,
            (false, any) => any.saturating_sub(1),
        };
        if self.base.is_zero() {
            return Duration::ZERO;
        }
        let seconds = self.base.as_secs_f64() * self.factor.powf(f64::from(steps)) * self.jitter.mul_add(spread, 1.0);
        // Too large for a `Duration` is larger than any cap.
        Duration::try_from_secs_f64(seconds).map_or(self.cap, |delay| delay.min(self.cap))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(60),
            jitter: 0.1,
            first_at_once: true,
        }
    }
}

/// Vigna's splitmix64: eight bytes of state, good enough to spread delays, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator with this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub(crate) fn next_unit(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 / STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn i_14_each_delay_lies_within_its_jitter_and_never_shrinks() {
        for seed in 0..200 {
            let mut random = SplitMix64::new(seed);
            let mut before = Duration::ZERO;
            for streak in 1..40_u32 {
                let delay = Backoff::default().delay(streak, &mut random);
                if streak == 1 {
                    assert_eq!(delay, Duration::ZERO);
                    continue;
                }
                let middle = 2_f64.powf(f64::from(streak - 2));
                let (low, high) = ((middle * 0.9).min(60.0), (middle * 1.1).min(60.0));
                assert!(
                    (low..=high).contains(&delay.as_secs_f64()),
                    "seed {seed} streak {streak}: {delay:?}"
                );
                assert!(
                    delay >= before,
                    "seed {seed} streak {streak}: {delay:?} after {before:?}"
                );
                before = delay;
            }
        }
    }

    #[test]
    fn without_jitter_the_row_is_exact() {
        let mut random = SplitMix64::new(1);
        let backoff = Backoff::new().jitter(0.0).first_at_once(false);
        let row: Vec<u64> = (1..9).map(|n| backoff.delay(n, &mut random).as_secs()).collect();
        assert_eq!(row, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn f_157_no_setting_and_no_streak_overflows() {
        let mut random = SplitMix64::new(7);
        let extremes = [
            Duration::ZERO,
            Duration::from_nanos(1),
            SECOND * 3_155_760_000,
            Duration::MAX,
        ];
        let numbers = [
            f64::NAN,
            f64::NEG_INFINITY,
            -1.0,
            0.0,
            0.5,
            1.0,
            2.0,
            f64::MAX,
            f64::INFINITY,
        ];
        for base in extremes {
            for cap in extremes {
                for number in numbers {
                    for streak in [0, 1, 2, 3, 64, 1025, u32::MAX] {
                        let backoff = Backoff::new().base(base).cap(cap).factor(number).jitter(number);
                        for backoff in [backoff, backoff.first_at_once(false)] {
                            let delay = backoff.delay(streak, &mut random);
                            assert!(delay <= cap);
                            assert!(!base.is_zero() || delay.is_zero());
                        }
                    }
                }
            }
        }
        assert!(RestartDelay::AtOnce.delay(u32::MAX, &mut random).is_zero());
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }
}
