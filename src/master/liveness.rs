//! Which of a worker's heartbeats count as life, and which are worth an event. What silence means is not judged here.

use std::time::Duration;

use crate::model::Mono;

/// The heartbeats of one worker so far.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// How often it was told to give one; `None` if it was not told at all.
    interval: Option<Duration>,
    last: u64,
    told: Option<Mono>,
}

/// What a heartbeat is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody asked for it, or its number is not the next one.
    Nothing,
    /// The loop that sent it turns. `tell`: it is worth an event.
    Life { tell: bool },
}

impl Liveness {
    pub(crate) const fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            last: 0,
            told: None,
        }
    }

    /// A heartbeat came. The channel loses nothing and mixes nothing up, so only the next number is one that the loop has
    /// just counted; a replayed one, or one from the future, comes from somewhere else and proves nothing.
    ///
    /// A worker that beats faster than it was told lives no more than others: at most two of its beats in each interval
    /// become events, or its flood would push everybody's events out of the subscribers' queues.
    pub(crate) fn hear(&mut self, n: u64, now: Mono) -> Verdict {
        let Some(interval) = self.interval else {
            return Verdict::Nothing;
        };
        if self.last.checked_add(1) != Some(n) {
            return Verdict::Nothing;
        }
        self.last = n;
        let tell = self.told.is_none_or(|told| now.since(told) >= interval / 2);
        if tell {
            self.told = Some(now);
        }
        Verdict::Life { tell }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Mono {
        Mono::new(Duration::from_millis(ms))
    }

    #[test]
    fn f_042_a_repeated_number_and_one_from_the_future_are_no_life() {
        let mut liveness = Liveness::new(Some(Duration::from_millis(100)));
        let life = |tell| Verdict::Life { tell };
        for (at, n, expected) in [
            (0, 0, Verdict::Nothing),
            (0, 2, Verdict::Nothing),
            (0, 1, life(true)),
            (100, 1, Verdict::Nothing),
            (200, u64::MAX, Verdict::Nothing),
            (300, 2, life(true)),
            (301, 4, Verdict::Nothing),
            (400, 3, life(true)),
            (500, 2, Verdict::Nothing),
        ] {
            assert_eq!(liveness.hear(n, ms(at)), expected, "{n} at {at}");
        }
    }

    #[test]
    fn a_worker_that_counted_to_the_end_says_no_more() {
        let mut liveness = Liveness::new(Some(Duration::from_millis(100)));
        liveness.last = u64::MAX;
        for n in [0, 1, u64::MAX] {
            assert_eq!(liveness.hear(n, ms(1)), Verdict::Nothing);
        }
    }

    #[test]
    fn a_flood_makes_two_events_for_each_interval() {
        let mut liveness = Liveness::new(Some(Duration::from_millis(100)));
        let told = (1..=10_000_u64).filter(|n| liveness.hear(*n, ms(n / 10)) == Verdict::Life { tell: true });
        assert_eq!(told.count(), 21);
    }

    #[test]
    fn what_nobody_asked_for_is_nothing() {
        assert_eq!(Liveness::new(None).hear(1, ms(1)), Verdict::Nothing);
    }
}
