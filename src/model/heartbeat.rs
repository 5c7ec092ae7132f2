//! Signs of life: what a worker's loops say about themselves, and what the master knows about its own loop.
//!
//! Not here: what follows from silence. That is a plug-in's decision.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Mono;
use super::json;

/// A sign of life of a worker, sent by the loop that serves requests: while that loop is stuck, none comes.
///
/// What a worker says about itself is a hint: it proves that its loop runs, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Heartbeat {
    /// Counts from 1. Only the next number counts as life: a repeated one, or one from the future, is nothing.
    pub n: u64,
    /// Requests in progress.
    pub active: u64,
    /// Every loop the worker watches, at most 64; the first is the one that sends this.
    pub loops: Vec<LoopBeat>,
}

/// One loop of a worker, as its worker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LoopBeat {
    /// What it was named, at most 64 bytes; `main` is the worker's own.
    pub name: String,
    /// Its thread, as the kernel numbers it.
    pub tid: u32,
    /// How much later than due it last ran: near zero in a loop that turns.
    #[serde(rename = "late_ms", with = "json::millis")]
    pub late: Duration,
    /// What it said it was doing, at most 128 bytes; empty if it said nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doing: String,
}

impl LoopBeat {
    /// The longest name, in bytes.
    pub(crate) const NAME_MAX: usize = 64;
    /// The longest text of what it does, in bytes.
    pub(crate) const DOING_MAX: usize = 128;

    /// A loop's word about itself. Texts that are too long are cut.
    #[must_use]
    pub fn new(name: &str, tid: u32, late: Duration, doing: &str) -> Self {
        Self {
            name: brief(name, Self::NAME_MAX),
            tid,
            late,
            doing: brief(doing, Self::DOING_MAX),
        }
    }
}

impl Heartbeat {
    /// The most loops of one worker.
    pub(crate) const LOOPS_MAX: usize = 64;

    /// A sign of life.
    #[must_use]
    pub const fn new(n: u64, active: u64, loops: Vec<LoopBeat>) -> Self {
        Self { n, active, loops }
    }
}

/// How punctual the master's supervising loop is, measured on its own thread. A worker whose word the master could not
/// read is not to blame for its silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lag {
    /// How often the loop is to come round.
    #[serde(rename = "period_ms", with = "json::millis")]
    pub period: Duration,
    /// How late it may be before that is a pause.
    #[serde(rename = "tolerance_ms", with = "json::millis")]
    pub tolerance: Duration,
    /// When it came round last.
    #[serde(rename = "turned_ms")]
    pub turned: Mono,
    /// How late that was.
    #[serde(rename = "late_ms", with = "json::millis")]
    pub late: Duration,
    /// Since when it has not been held up: the master's start, or the end of its last pause (it was stopped, the machine
    /// slept, or it got no time).
    #[serde(rename = "steady_since_ms")]
    pub steady_since: Mono,
    /// Pauses since the master's start.
    pub pauses: u64,
    /// How long they lasted, together. Only this much is taken off a silence: a pause excuses itself, and no more.
    #[serde(default, rename = "paused_ms", with = "json::millis")]
    pub paused: Duration,
}

impl Lag {
    /// Is the loop held up at `now`? Then what workers said may lie unread.
    #[must_use]
    pub fn is_held_up(&self, now: Mono) -> bool {
        now.since(self.turned) > self.period.saturating_add(self.tolerance)
    }

    /// How late the loop is at `now`, a reading of [`ClusterSnapshot::now`](super::ClusterSnapshot::now).
    #[must_use]
    pub fn at(&self, now: Mono) -> Duration {
        now.since(self.turned).saturating_sub(self.period).max(self.late)
    }
}

/// The first `max` bytes, cut where a character begins.
pub(super) fn brief(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "ä".repeat(100);
        let beat = LoopBeat::new(&long, 1, Duration::ZERO, &long);
        assert_eq!((beat.name.len(), beat.doing.len()), (64, 128));
        assert_eq!(LoopBeat::new(&format!("x{long}"), 1, Duration::ZERO, "").name.len(), 63);
    }

    #[test]
    fn the_lag_grows_while_the_loop_does_not_come_round() {
        let ms = |ms| Mono::new(Duration::from_millis(ms));
        let lag = Lag {
            period: Duration::from_millis(100),
            tolerance: Duration::from_millis(250),
            turned: ms(1_000),
            late: Duration::from_millis(5),
            steady_since: ms(0),
            pauses: 0,
            paused: Duration::ZERO,
        };
        assert_eq!(lag.at(ms(1_050)), Duration::from_millis(5));
        assert_eq!(lag.at(ms(1_400)), Duration::from_millis(300));
        assert_eq!(lag.at(ms(0)), Duration::from_millis(5));
        assert!(!lag.is_held_up(ms(1_350)) && lag.is_held_up(ms(1_351)));
    }
}
