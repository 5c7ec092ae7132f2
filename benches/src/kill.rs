//! One kill of the only worker that serves, and what comes after it.

use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::server::Server;
use crate::{Failure, http, micros, now, percentile, rest};

/// One kill.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// By the wall clock, which all processes share; since 1970.
    pub at: Duration,
    /// Until somebody else has answered.
    pub latency: Duration,
    /// Attempts before that that had no answer, or one of the victim.
    pub failures: u32,
}

/// Kills whoever answers with SIGKILL, and asks until somebody else does. The connection waits in the queue that the master
/// keeps open, so it is one attempt.
///
/// # Errors
/// Nobody answers, or after a thousand attempts nobody else.
pub fn kill_and_ask(server: &Server) -> Result<Kill, Failure> {
    let victim = http::ask(server.address)?;
    // Lets the worker get to rest, as it would be in life.
    rest(Duration::from_millis(10));
    let (at, begun) = (wall(), now());
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)?;
    for failures in 0..1000 {
        if http::ask(server.address).is_ok_and(|pid| pid != victim) {
            return Ok(Kill {
                at,
                latency: begun.elapsed(),
                failures,
            });
        }
    }
    Err("nobody else answers".into())
}

/// Latencies of one server.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// From the kill to the answer.
    pub answers: Vec<Duration>,
    /// In all.
    pub failures: u32,
}

impl Latencies {
    /// Notes one.
    pub fn add(&mut self, kill: Kill) {
        self.answers.push(kill.latency);
        self.failures += kill.failures;
    }

    /// As words: microseconds and counts.
    #[must_use]
    pub fn told(&self) -> String {
        let mut answers = self.answers.clone();
        let [p50, p90, p99] = [50, 90, 99].map(|percent| micros(percentile(&mut answers, percent)));
        let (kills, failures) = (answers.len(), self.failures);
        format!("p50 {p50} µs, p90 {p90} µs, p99 {p99} µs, {kills} kills, {failures} failed attempts")
    }
}

/// From kills to each of the events that tell of a successor.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Samples, in the order of [`STEPS`].
    pub events: [Vec<Duration>; 4],
    /// From the exit to the successor's first word.
    pub started: Vec<Duration>,
}

/// The events between a kill and the answer.
pub const STEPS: [&str; 4] = ["exit", "fork", "online", "ready"];

impl Steps {
    /// Kills and asks, and reads the events of it.
    ///
    /// # Errors
    /// As [`kill_and_ask`]; or the successor's events do not come.
    pub fn kill_and_ask(&mut self, server: &Server) -> Result<Kill, Failure> {
        while server.events.try_recv().is_ok() {}
        let kill = kill_and_ask(server)?;
        let mut at = [None; 4];
        while at[3].is_none() {
            let event = server.next_event(Duration::from_secs(5))?;
            if let Some(step) = STEPS.iter().position(|step| event["event"] == *step) {
                at[step] = Some(time(&event).saturating_sub(kill.at));
            }
        }
        for (samples, at) in self.events.iter_mut().zip(at) {
            samples.extend(at);
        }
        if let [Some(exit), _, Some(online), _] = at {
            self.started.push(online.saturating_sub(exit));
        }
        Ok(kill)
    }

    /// As words: the percentiles of each, in microseconds.
    #[must_use]
    pub fn told(&self, percents: &[usize]) -> String {
        let told = |samples: &Vec<Duration>| {
            let mut samples = samples.clone();
            let parts = percents
                .iter()
                .map(|percent| micros(percentile(&mut samples, *percent)));
            parts.collect::<Vec<_>>().join("/")
        };
        let events = STEPS.iter().zip(&self.events);
        let mut parts: Vec<String> = events
            .map(|(name, samples)| format!("{name} {}", told(samples)))
            .collect();
        parts.push(format!("exit to online {}", told(&self.started)));
        parts.join(", ")
    }
}

fn time(event: &Value) -> Duration {
    Duration::from_secs_f64(event["time_ms"].as_f64().unwrap_or_default() / 1000.0)
}

#[expect(clippy::disallowed_methods, reason = "measuring is reading the clock")]
fn wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
