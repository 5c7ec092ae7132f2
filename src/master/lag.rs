//! How punctual the supervising loop is: a tick on its own thread, so that whatever holds supervision up (a signal that
//! stops the process, a machine that sleeps, a starved group) is seen as what it is. Nothing is judged here.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::master::Directory;
use crate::model::{Lag, Mono, Phase};

/// Measures until the cluster has ended.
///
/// Comes round three times for each heartbeat, and at most that often: the ticks are to be few beside the heartbeats
/// themselves.
pub(crate) async fn measure(interval: Duration, directory: Arc<Directory>) {
    let mut lag = begin(interval, clock::now());
    while directory.read().phase != Phase::Stopped {
        directory.write().lag = Some(lag);
        tokio::time::sleep(lag.period).await;
        lag = turn(lag, clock::now());
    }
}

fn begin(interval: Duration, now: Mono) -> Lag {
    Lag {
        period: interval / 3,
        tolerance: (interval / 2).max(HICCUP),
        turned: now,
        late: Duration::ZERO,
        steady_since: now,
        pauses: 0,
        paused: Duration::ZERO,
    }
}

/// The loop has come round. What is no pause yet cannot make a worker that beats look silent for longer than a judge
/// has to grant anyway.
fn turn(before: Lag, now: Mono) -> Lag {
    let gap = now.since(before.turned);
    let late = gap.saturating_sub(before.period);
    let paused = before.is_held_up(now);
    Lag {
        turned: now,
        late,
        steady_since: if paused { now } else { before.steady_since },
        pauses: before.pauses + u64::from(paused),
        paused: before.paused.saturating_add(if paused { gap } else { Duration::ZERO }),
        ..before
    }
}

/// A busy machine makes everybody late by so much now and then; if that were a pause, no hang would ever be found on it.
const HICCUP: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_146_a_gap_between_two_turns_is_a_pause_and_ends_with_the_turn_after_it() {
        let (interval, ms) = (Duration::from_millis(300), |ms| Mono::new(Duration::from_millis(ms)));
        let lag = turn(begin(interval, ms(0)), ms(240));
        assert_eq!(
            (lag.steady_since, lag.pauses, lag.late),
            (ms(0), 0, Duration::from_millis(140))
        );
        // A machine that slept for a day, on a clock that went on.
        let lag = turn(lag, ms(86_400_000));
        assert_eq!((lag.steady_since, lag.pauses), (ms(86_400_000), 1));
        assert_eq!(lag.paused, Duration::from_millis(86_400_000 - 240));
        let lag = turn(lag, ms(86_400_105));
        assert_eq!((lag.steady_since, lag.late), (ms(86_400_000), Duration::from_millis(5)));
        assert_eq!(
            lag.paused,
            Duration::from_millis(86_400_000 - 240),
            "being late is no pause"
        );
    }
}
