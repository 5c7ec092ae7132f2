//! Where a worker's memory is going: a line through the last readings, and when it meets a limit. Pure.
//!
//! The slope is the median of the slopes between all pairs (Theil and Sen): a few readings that are far off, as after a burst,
//! do not move it much.

use std::collections::VecDeque;
use std::time::Duration;

use actix_cluster::Mono;

/// The last readings of one worker.
#[derive(Debug, Default)]
pub(super) struct Trend {
    points: VecDeque<(Mono, u64)>,
}

impl Trend {
    pub(super) fn push(&mut self, at: Mono, used: u64) {
        // Two readings of one instant have no slope between them.
        if self.points.back().is_some_and(|(last, _)| at <= *last) {
            return;
        }
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back((at, used));
    }

    /// In what time the limit is met if it goes on like this. `None` if that is not to be seen: too few readings, no clear
    /// rise, or beyond the limit already.
    pub(super) fn reaches(&self, limit: u64) -> Option<Duration> {
        if self.points.len() < POINTS_MIN {
            return None;
        }
        let (newest, _) = *self.points.back()?;
        let (oldest, _) = *self.points.front()?;
        let span = newest.since(oldest).as_secs_f64();
        // Seconds before the newest, as negative numbers.
        let points: Vec<(f64, f64)> = self
            .points
            .iter()
            .map(|(at, used)| (-newest.since(*at).as_secs_f64(), *used as f64))
            .collect();
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (index, (at, used)) in points.iter().enumerate() {
            slopes.extend(
                points[..index]
                    .iter()
                    .map(|(before, less)| (used - less) / (at - before)),
            );
        }
        let rising = slopes.iter().filter(|slope| **slope > 0.0).count();
        let slope = median(&mut slopes)?;
        let is_clear = rising * 4 >= slopes.len() * 3 && slope * span >= limit as f64 * RISE_MIN;
        if !is_clear {
            return None;
        }
        let mut levels: Vec<f64> = points.iter().map(|(at, used)| used - slope * at).collect();
        let left = limit as f64 - median(&mut levels)?;
        if left <= 0.0 {
            return None;
        }
        Duration::try_from_secs_f64(left / slope).ok()
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// As much as is kept: with a reading every 5 s, almost three minutes.
const POINTS_MAX: usize = 32;
/// Fewer say nothing.
const POINTS_MIN: usize = 8;
/// A rise of less than this part of the limit within all that is kept is noise.
const RISE_MIN: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn trend(used: impl IntoIterator<Item = u64>) -> Trend {
        let mut trend = Trend::default();
        for (step, used) in used.into_iter().enumerate() {
            trend.push(Mono::new(Duration::from_secs(5 * step as u64)), used);
        }
        trend
    }

    #[test]
    fn a_steady_leak_is_foretold_to_the_second() {
        // 1 MiB in 5 s, 31 MiB now, 144 to go.
        let told = trend((0..32).map(|step| step * MIB)).reaches(175 * MIB).unwrap();
        assert_eq!(told.as_secs(), 720, "12 minutes");
    }

    #[test]
    fn a_wild_reading_now_and_then_does_not_move_it_much() {
        let wild = |step: u64| if step % 8 == 1 { 500 * MIB } else { step * MIB };
        let told = trend((0..32).map(wild)).reaches(175 * MIB).unwrap().as_secs();
        assert!((500..1000).contains(&told), "{told}");
    }

    #[test]
    fn no_rise_no_forecast() {
        let saw = |step: u64| (step % 5) * MIB + 100 * MIB;
        for (name, trend) in [
            ("nothing", trend([])),
            ("too few", trend((0..7).map(|step| step * MIB))),
            ("flat", trend(std::iter::repeat_n(90 * MIB, 32))),
            ("falling", trend((0..32).map(|step| (100 - step) * MIB))),
            ("a saw", trend((0..32).map(saw))),
            ("noise", trend((0..32).map(|step| 50 * MIB + step))),
            ("beyond it", trend((0..32).map(|step| (400 + step) * MIB))),
            (
                "extremes",
                trend((0..32).map(|step| if step % 2 == 0 { 0 } else { u64::MAX })),
            ),
        ] {
            assert_eq!(trend.reaches(200 * MIB), None, "{name}");
        }
        assert_eq!(trend((0..32).map(|step| step * MIB)).reaches(0), None);
    }

    #[test]
    fn a_reading_that_is_not_later_is_none_and_old_ones_go() {
        let mut trend = trend((0..100).map(|step| step * MIB));
        assert_eq!(trend.points.len(), POINTS_MAX);
        trend.push(Mono::new(Duration::ZERO), u64::MAX);
        assert_eq!(trend.points.back().unwrap().1, 99 * MIB);
    }
}
