//! How is one worker stopped? The ladder: ask, `SIGTERM`, `SIGKILL`, and a notice if even that does not help.
//!
//! Not here: the worker's state, and the sending (that is `supervision::lifecycle` and the master).

use std::time::Duration;

use serde::Serialize;

use crate::model::{Mono, json};

/// How long a worker gets to end by itself when it is told to stop: OTP's `shutdown` of a child.
///
/// A stop always begins with a friendly request over the channel; a worker that does not answer it within 1 s, or is not
/// online yet, gets `SIGTERM` as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownPolicy {
    /// `SIGKILL` after this long. The default, with 30 s.
    #[serde(rename = "grace_ms", with = "json::millis")]
    Grace(Duration),
    /// Never `SIGKILL`: wait as long as it takes. A worker that hangs hangs the shutdown.
    Infinity,
    /// `SIGKILL` at once, without a request (OTP's `brutal_kill`).
    Brutal,
}

impl ShutdownPolicy {
    /// How long a worker may take to end, as it is told: for ever if there is no limit.
    pub(crate) const fn longest(self) -> Duration {
        match self {
            Self::Grace(grace) => grace,
            Self::Infinity => Duration::MAX,
            Self::Brutal => Duration::ZERO,
        }
    }
}

impl Default for ShutdownPolicy {
    fn default() -> Self {
        Self::Grace(Duration::from_secs(30))
    }
}

/// What is to be done next to a worker that is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Send `SIGTERM`.
    Terminate,
    /// Send `SIGKILL`.
    Kill,
    /// Tell that `SIGKILL` did not help; comes once.
    Unkillable,
}

/// The deadlines of one stop. Each rung is given out at most once; a second order can only make the stop sooner.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ladder {
    terminate_at: Option<Mono>,
    kill_at: Option<Mono>,
    unkillable_at: Option<Mono>,
    killed: bool,
}

impl Ladder {
    /// How long a killed process may take to die before it is called unkillable.
    const KILL_TAKES_AT_MOST: Duration = Duration::from_secs(5);

    /// `SIGTERM` is due at `at`, unless the worker answers before.
    pub(crate) fn terminate_at(&mut self, at: Mono) {
        if !self.killed {
            self.terminate_at = Some(sooner(self.terminate_at, at));
        }
    }

    /// The worker answered: no `SIGTERM`.
    pub(crate) fn answered(&mut self) {
        self.terminate_at = None;
    }

    /// `SIGKILL` is due when `policy` says so, counted from now.
    pub(crate) fn kill_by(&mut self, policy: ShutdownPolicy, now: Mono) {
        let at = match policy {
            ShutdownPolicy::Grace(grace) => now + grace,
            ShutdownPolicy::Infinity => return,
            ShutdownPolicy::Brutal => now,
        };
        if !self.killed {
            self.kill_at = Some(sooner(self.kill_at, at));
        }
    }

    /// Somebody sent `SIGKILL`.
    pub(crate) fn killed(&mut self, now: Mono) {
        if !self.killed {
            *self = Self {
                terminate_at: None,
                kill_at: None,
                unkillable_at: Some(now + Self::KILL_TAKES_AT_MOST),
                killed: true,
            };
        }
    }

    /// Everything is due this much later.
    pub(crate) fn postpone(&mut self, delay: Duration) {
        for at in [&mut self.terminate_at, &mut self.kill_at, &mut self.unkillable_at] {
            *at = at.map(|at| at + delay);
        }
    }

    /// Was `SIGKILL` sent?
    pub(crate) const fn is_killed(&self) -> bool {
        self.killed
    }

    /// The next rung that is due now, if one is. Ask again until there is none.
    pub(crate) fn due(&mut self, now: Mono) -> Option<Rung> {
        let is_due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        if is_due(self.kill_at) {
            self.killed(now);
            return Some(Rung::Kill);
        }
        if is_due(self.terminate_at) {
            self.terminate_at = None;
            return Some(Rung::Terminate);
        }
        if is_due(self.unkillable_at) {
            self.unkillable_at = None;
            return Some(Rung::Unkillable);
        }
        None
    }

    /// When to ask again.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        [self.terminate_at, self.kill_at, self.unkillable_at]
            .into_iter()
            .flatten()
            .min()
    }
}

fn sooner(set: Option<Mono>, at: Mono) -> Mono {
    set.map_or(at, |set| set.min(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Mono {
        Mono::new(Duration::from_secs(seconds))
    }

    #[test]
    fn the_whole_ladder_each_rung_once() {
        let mut ladder = Ladder::default();
        assert_eq!(ladder.next_deadline(), None);
        ladder.kill_by(ShutdownPolicy::default(), s(0));
        ladder.terminate_at(s(1));
        assert_eq!((ladder.due(s(0)), ladder.next_deadline()), (None, Some(s(1))));
        assert_eq!((ladder.due(s(1)), ladder.due(s(1))), (Some(Rung::Terminate), None));
        assert_eq!(ladder.next_deadline(), Some(s(30)));
        assert_eq!((ladder.due(s(30)), ladder.due(s(30))), (Some(Rung::Kill), None));
        assert_eq!((ladder.due(s(35)), ladder.due(s(99))), (Some(Rung::Unkillable), None));
        assert_eq!(ladder.next_deadline(), None);
    }

    #[test]
    fn i_35_a_second_order_can_only_make_it_sooner() {
        let mut ladder = Ladder::default();
        ladder.kill_by(ShutdownPolicy::Grace(Duration::from_secs(10)), s(0));
        ladder.kill_by(ShutdownPolicy::Grace(Duration::from_secs(10)), s(5));
        ladder.kill_by(ShutdownPolicy::Infinity, s(5));
        assert_eq!(ladder.next_deadline(), Some(s(10)));
        ladder.kill_by(ShutdownPolicy::Brutal, s(6));
        assert_eq!(ladder.due(s(6)), Some(Rung::Kill));
        ladder.kill_by(ShutdownPolicy::Brutal, s(7));
        assert_eq!(ladder.due(s(7)), None);
    }

    #[test]
    fn a_late_caller_kills_without_a_useless_sigterm_first() {
        let mut ladder = Ladder::default();
        ladder.kill_by(ShutdownPolicy::Grace(Duration::from_secs(3)), s(0));
        ladder.terminate_at(s(1));
        assert_eq!((ladder.due(s(100)), ladder.due(s(100))), (Some(Rung::Kill), None));
    }

    #[test]
    fn f_157_endless_limits_do_not_overflow() {
        let mut ladder = Ladder::default();
        ladder.kill_by(ShutdownPolicy::Grace(Duration::MAX), s(1));
        assert_eq!(ladder.due(s(u64::from(u32::MAX))), None);
        ladder.killed(Mono::new(Duration::MAX));
        assert!(ladder.is_killed());
    }
}
