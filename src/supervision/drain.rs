//! How one process's stop went: its lame-duck time and its drain, for the report in its exit.
//!
//! Not here: the deadlines of the stop ([`crate::policy`]), and what the process does meanwhile.

use std::time::Duration;

use crate::model::{DrainReport, Mono, WorkerStats};

/// The stop of one process, from the order or its own announcement on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    told_at: Mono,
    /// For how long it may go on accepting.
    pub(super) lame_duck: Duration,
    /// When it stopped accepting, by its own word, and what was in progress then.
    begun: Option<(Mono, u64)>,
    /// What was in progress when it was told.
    active: u64,
}

impl Drain {
    pub(super) const fn new(lame_duck: Duration, active: u64, now: Mono) -> Self {
        Self {
            told_at: now,
            lame_duck,
            begun: None,
            active,
        }
    }

    /// From when its time to drain counts, if it is told (again) to stop now.
    pub(super) fn counts_from(&self, now: Mono) -> Mono {
        match self.begun {
            Some(_) => now,
            None => now.max(self.told_at + self.lame_duck),
        }
    }

    /// It reported its numbers; the first report that says so marks the end of accepting.
    pub(super) fn heard(&mut self, stats: WorkerStats, now: Mono) {
        if stats.draining {
            self.begun.get_or_insert((now, stats.active));
        }
    }

    /// It is gone.
    pub(super) fn report(&self, lost: u64, now: Mono) -> DrainReport {
        let silent = || (now.min(self.told_at + self.lame_duck), self.active);
        let (begun, in_progress_at_start) = self.begun.unwrap_or_else(silent);
        DrainReport {
            lame_duck: begun.since(self.told_at),
            drained_in: now.since(begun),
            in_progress_at_start,
            lost,
        }
    }
}
