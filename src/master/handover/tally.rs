//! What became of the connections, counted: written by the dispatcher's thread, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::HandoverStats;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(super) passed: Count,
    pub(super) repeated: Count,
    pub(super) rescued: Count,
    pub(super) refused: Count,
    pub(super) lost: Count,
    waiting: AtomicU64,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// So many wait now.
    pub(super) fn wait(&self, n: usize) {
        self.waiting.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> HandoverStats {
        HandoverStats {
            passed: self.passed.get(),
            repeated: self.repeated.get(),
            rescued: self.rescued.get(),
            refused: self.refused.get(),
            lost: self.lost.get(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}
