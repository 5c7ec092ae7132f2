//! Processor time of workers, made of what the kernel counts.
//!
//! A load is the time used between two readings, so the first one of a worker tells none. A process id is only read by,
//! and only while its worker is known to live; should it have ended and a stranger have its number, the start time differs.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_cluster::{Mono, WorkerId};

use super::Word;
use crate::kernel::process::{self, TICKS_PER_SECOND, Used};

/// The last reading of each worker.
#[derive(Debug, Default)]
pub(crate) struct CpuTimes {
    last: BTreeMap<WorkerId, (Used, Mono)>,
}

impl CpuTimes {
    /// How much it used since the last look. A span shorter than `shortest` goes on: the counter has steps of 10 ms.
    pub(crate) fn word(&mut self, worker: WorkerId, pid: u32, now: Mono, shortest: Duration) -> Word {
        let Some(used) = process::used(pid) else {
            return Word::Silent;
        };
        self.told(worker, used, now, shortest)
    }

    fn told(&mut self, worker: WorkerId, used: Used, now: Mono, shortest: Duration) -> Word {
        let before = self.last.get(&worker).copied();
        if let Some((_, at)) = before
            && now.since(at) < shortest
        {
            return Word::Silent;
        }
        self.last.insert(worker, (used, now));
        match before {
            Some((before, at)) if before.started == used.started => {
                let ticks = u32::try_from(used.ticks.saturating_sub(before.ticks)).unwrap_or(u32::MAX);
                Word::Load(f64::from(ticks) / TICKS_PER_SECOND / now.since(at).as_secs_f64())
            }
            Some(_) | None => Word::Silent,
        }
    }

    /// Forgets everybody else.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(WorkerId) -> bool) {
        self.last.retain(|id, _| is_kept(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WorkerId = WorkerId::new(1);

    fn at(ms: u64) -> Mono {
        Mono::new(Duration::from_millis(ms))
    }

    #[test]
    fn a_load_is_what_was_used_between_two_looks() {
        let (mut times, shortest) = (CpuTimes::default(), Duration::from_millis(50));
        let used = |ticks| Used { ticks, started: 7 };
        assert_eq!(times.told(ONE, used(1000), at(0), shortest), Word::Silent);
        assert_eq!(times.told(ONE, used(1050), at(1000), shortest), Word::Load(0.5));
        // Too soon: the span goes on.
        assert_eq!(times.told(ONE, used(1051), at(1010), shortest), Word::Silent);
        assert_eq!(times.told(ONE, used(1250), at(2000), shortest), Word::Load(2.0));
        // A counter that goes backwards is no load below none; a stranger's number is nobody's load.
        assert_eq!(times.told(ONE, used(0), at(3000), shortest), Word::Load(0.0));
        let other = Used { ticks: 9, started: 8 };
        assert_eq!(times.told(ONE, other, at(4000), shortest), Word::Silent);
        times.keep(|_| false);
        assert_eq!(times.told(ONE, other, at(5000), shortest), Word::Silent);
    }
}
