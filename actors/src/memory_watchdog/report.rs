//! What a `MemoryWatchdog` has read and what it tells, as plain values.

use std::sync::{Arc, Mutex, PoisonError};

use actix_cluster::{Slot, WorkerId};
use serde::Serialize;

use crate::kernel::group::GroupMemory;

/// The memory of the cluster at one instant; the data of the event `report`. What is unknown is `None`, never 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// What the machine has.
    pub machine_bytes: Option<u64>,
    /// The control group of the master.
    pub group: GroupReport,
    /// The sum over the workers that could be read.
    pub used_bytes: u64,
    /// Each worker that is alive.
    pub workers: Vec<WorkerMemory>,
    /// Workers that were left out of the event, because it would be too long; always 0 in [`MemoryView`].
    pub left_out: usize,
}

/// A control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupReport {
    /// What it uses, the file cache included.
    pub usage_bytes: Option<u64>,
    /// The narrowest limit of it and those above it.
    pub limit_bytes: Option<u64>,
    /// How often the kernel killed a process of it for want of memory.
    pub oom_kills: Option<u64>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerMemory {
    /// Its id.
    pub id: WorkerId,
    /// Its place.
    pub slot: Slot,
    /// Its resident set.
    pub rss_bytes: Option<u64>,
    /// Its share, where that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss_bytes: Option<u64>,
    /// Its limit.
    pub limit_bytes: Option<u64>,
}

impl WorkerMemory {
    /// By how much it is judged.
    pub(super) fn used(&self, proportional: bool, soft: f64) -> Option<u64> {
        let (rss, limit) = (self.rss_bytes?, self.limit_bytes);
        // The share is at most the resident set, and was read only where that is over.
        let is_over = proportional && limit.is_some_and(|limit| rss as f64 > limit as f64 * soft);
        if is_over { self.pss_bytes } else { Some(rss) }
    }
}

impl From<GroupMemory> for GroupReport {
    fn from(told: GroupMemory) -> Self {
        Self {
            usage_bytes: told.usage,
            limit_bytes: told.limit,
            oom_kills: told.oom_kills,
        }
    }
}

impl MemoryReport {
    /// As much of it as fits into an event.
    pub(super) fn cut(&self) -> Self {
        let kept = self.workers.len().min(WORKERS_MAX);
        Self {
            workers: self.workers[..kept].to_vec(),
            left_out: self.workers.len() - kept,
            ..self.clone()
        }
    }
}

/// What a [`MemoryWatchdog`](super::MemoryWatchdog) knows, readable from any thread; clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct MemoryView {
    last: Arc<Mutex<MemoryReport>>,
}

impl MemoryView {
    /// What was read last; empty before the first reading.
    #[must_use]
    pub fn report(&self) -> MemoryReport {
        // The report is replaced whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, report: MemoryReport) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// An event carries at most 64 KiB, and a worker takes less than 256 bytes of it.
const WORKERS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use actix_cluster::CustomEvent;

    fn worker(rss: Option<u64>, pss: Option<u64>) -> WorkerMemory {
        WorkerMemory {
            id: WorkerId::new(u64::MAX),
            slot: Slot::new(
                "a-spec-with-a-name-that-is-rather-long-for-a-name-of-a-spec-but-allowed",
                u32::MAX,
            ),
            rss_bytes: rss,
            pss_bytes: pss,
            limit_bytes: Some(u64::MAX / 2),
        }
    }

    #[test]
    fn the_report_of_many_workers_fits_into_an_event() {
        let report = MemoryReport {
            workers: vec![worker(Some(u64::MAX), Some(u64::MAX)); 1000],
            ..MemoryReport::default()
        };
        let cut = report.cut();
        assert_eq!((cut.workers.len(), cut.left_out), (200, 800));
        CustomEvent::new("memory", "report", &cut).unwrap();
    }

    #[test]
    fn f_187_a_share_that_cannot_be_read_is_unknown_where_it_decides() {
        let most = u64::MAX / 2;
        assert_eq!(worker(Some(most), None).used(true, 0.9), None);
        assert_eq!(worker(Some(most), Some(7)).used(true, 0.9), Some(7));
        assert_eq!(worker(Some(most), None).used(false, 0.9), Some(most));
        assert_eq!(worker(Some(9), None).used(true, 0.9), Some(9));
        assert_eq!(worker(None, Some(7)).used(true, 0.9), None);
    }
}
