//! What is counted: answers, failures by class, latencies, and the longest time without an answer.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Why a request has no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nobody listens.
    Refused,
    /// The connection was torn down.
    Reset,
    /// It ended in order, without a byte.
    Empty,
    /// A kept connection ended under the request, without a byte of an answer. A client that may repeat a request would do so.
    Stale,
    /// No answer in time.
    Timeout,
    /// The answer was cut off, or is no success.
    Bad,
    /// Too many were waiting already, so it was not sent (open loop).
    Unsent,
    /// Another error of the kernel, for example no port left.
    Other,
}

/// All of them, with the names they have in the tables.
pub(crate) const FAILURES: [(Failed, &str); 8] = [
    (Failed::Refused, "refused"),
    (Failed::Reset, "reset"),
    (Failed::Empty, "empty"),
    (Failed::Stale, "stale"),
    (Failed::Timeout, "timeout"),
    (Failed::Bad, "bad"),
    (Failed::Unsent, "unsent"),
    (Failed::Other, "other"),
];

/// One phase of a load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    latencies: Histogram<u64>,
    /// How late requests of an open loop were sent: the client's share of their latencies.
    late: Histogram<u64>,
    failures: [u64; FAILURES.len()],
    begun: Instant,
    /// How long the phase was.
    pub(crate) time: Duration,
    last_answer: Instant,
    max_gap: Duration,
}

impl Outcome {
    /// Begins to count.
    pub(crate) fn new(now: Instant) -> Self {
        // From a microsecond to a minute, three digits: a few dozen KiB, and no allocation while it counts.
        let latencies = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds that the crate allows");
        Self {
            late: latencies.clone(),
            latencies,
            failures: [0; FAILURES.len()],
            begun: now,
            time: Duration::ZERO,
            last_answer: now,
            max_gap: Duration::ZERO,
        }
    }

    pub(crate) fn sent(&mut self, late: Duration) {
        self.late
            .saturating_record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn answered(&mut self, begun: Instant, now: Instant) {
        let micros = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(micros.max(1));
        self.max_gap = self.max_gap.max(now - self.last_answer);
        self.last_answer = now;
    }

    pub(crate) fn failed(&mut self, class: Failed) {
        if let Some(at) = FAILURES.iter().position(|(failed, _)| *failed == class) {
            self.failures[at] += 1;
        }
    }

    pub(crate) fn end(&mut self, now: Instant) {
        self.max_gap = self.max_gap.max(now - self.last_answer);
        self.time = now - self.begun;
    }

    /// Adds what another load counted at the same time. The longest gap is then the longest of either.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so this cannot fail.
        self.latencies.add(&other.latencies).ok();
        self.late.add(&other.late).ok();
        for (count, more) in self.failures.iter_mut().zip(other.failures) {
            *count += more;
        }
        self.time = self.time.max(other.time);
        self.max_gap = self.max_gap.max(other.max_gap);
    }

    /// Whole answers.
    pub(crate) fn answers(&self) -> u64 {
        self.latencies.len()
    }

    /// As it is kept beside the table. Latencies in microseconds, the gap in milliseconds.
    pub(crate) fn to_json(&self) -> Value {
        let seconds = self.time.as_secs_f64();
        let classes = FAILURES.iter().zip(self.failures).filter(|(_, count)| *count > 0);
        let classes: serde_json::Map<String, Value> = classes
            .map(|((_, name), count)| ((*name).to_owned(), json!(count)))
            .collect();
        let mut told = json!({
            "seconds": seconds,
            "answers": self.answers(),
            "per_second": self.answers() as f64 / seconds.max(1e-9),
            "failed": self.failures.iter().sum::<u64>(),
            "classes": classes,
            "p50_us": self.latencies.value_at_quantile(0.5),
            "p99_us": self.latencies.value_at_quantile(0.99),
            "p999_us": self.latencies.value_at_quantile(0.999),
            "max_us": self.latencies.max(),
            "max_gap_ms": self.max_gap.as_secs_f64() * 1e3,
        });
        if !self.late.is_empty() {
            told["late_p99_us"] = json!(self.late.value_at_quantile(0.99));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told_with_its_class_and_the_longest_gap() {
        let begun = actix_cluster_benches::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut outcome = Outcome::new(begun);
        outcome.answered(begun, at(2));
        outcome.answered(at(2), at(52));
        outcome.failed(Failed::Reset);
        assert_eq!(
            outcome.to_json().get("late_p99_us"),
            None,
            "a closed loop is never late"
        );
        outcome.sent(Duration::from_micros(30));
        outcome.end(at(60));
        let told = outcome.to_json();
        assert_eq!((outcome.answers(), &told["failed"]), (2, &json!(1)));
        assert_eq!(told["classes"], json!({ "reset": 1 }));
        assert_eq!(told["max_gap_ms"], json!(50.0));
        assert_eq!(told["max_us"].as_u64().map(|us| us / 100), Some(500));
        assert_eq!(told["late_p99_us"], json!(30));
        let mut both = outcome.clone();
        both.add(&outcome);
        assert_eq!(
            (both.answers(), both.to_json()["failed"].as_u64(), both.time),
            (4, Some(2), outcome.time)
        );
    }
}
