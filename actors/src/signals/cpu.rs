//! Processor time of workers, as `/proc/<pid>/stat` counts it.
//!
//! A load is the time used between two readings, so the first one of a worker tells none. A process id is only read by,
//! and only while its worker is known to live; should it have ended and a stranger have its number, the start time differs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use actix_cluster::{Mono, WorkerId};

use super::Word;

/// One reading of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Used {
    ticks: u64,
    started: u64,
}

/// The last reading of each worker.
#[derive(Debug, Default)]
pub(crate) struct CpuTimes {
    last: BTreeMap<WorkerId, (Used, Mono)>,
}

impl CpuTimes {
    /// How much it used since the last look. A span shorter than `shortest` goes on: the counter has steps of 10 ms.
    pub(crate) fn word(&mut self, worker: WorkerId, pid: u32, now: Mono, shortest: Duration) -> Word {
        let Some(used) = read(pid) else { return Word::Silent };
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

fn read(pid: u32) -> Option<Used> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/stat")).ok()?;
    file.take(LENGTH_MAX).read_to_end(&mut text).ok()?;
    parse(&String::from_utf8_lossy(&text))
}

/// proc(5): the name is in parentheses and may hold any of its own; user time, system time and start are fields 14, 15
/// and 22.
fn parse(stat: &str) -> Option<Used> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Used {
        ticks: field(14)?.saturating_add(field(15)?),
        started: field(22)?,
    })
}

/// `USER_HZ`, a part of the kernel's interface: 100 on every architecture that Rust's standard library runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// As much as is read.
const LENGTH_MAX: u64 = 4 * 1024;

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

    #[test]
    fn the_kernels_line_is_read_whatever_the_process_is_called() {
        let line = "12 (a) R 1 (x) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0 1 0 777 1 1";
        assert_eq!(
            parse(line),
            Some(Used {
                ticks: 42,
                started: 777
            })
        );
        assert_eq!(parse("12 (a) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn our_own_time_grows_while_we_work() {
        let pid = std::process::id();
        let before = read(pid).expect("we are there");
        let mut sum = 0_u64;
        while read(pid).is_some_and(|now| now.ticks < before.ticks + 3) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
        assert_eq!(read(u32::MAX), None);
    }
}
