//! The memory and the processor time of one process, and the memory of the machine, from `/proc`.

use procfs::Current;
use procfs::process::{Process, Stat};

/// What the kernel counts for one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Bytes in memory, those shared with others included.
    pub(crate) rss: u64,
    /// When it began, in the kernel's ticks: tells it from another process with its number.
    pub(crate) started: u64,
}

/// What a process has used of the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// In user and in system mode, in the kernel's ticks ([`TICKS_PER_SECOND`]).
    pub(crate) ticks: u64,
    /// As in [`Resident`].
    pub(crate) started: u64,
}

/// Reads a process that must be a child of `parent`. The number of one that has been reaped may be a stranger's, but a
/// stranger is no child of ours; who it is and what it uses come from one read.
pub(crate) fn resident(pid: u32, parent: u32) -> Option<Resident> {
    let stat = stat(pid)?;
    let is_ours = u32::try_from(stat.ppid) == Ok(parent);
    Some(Resident {
        rss: rss_in(&stat).filter(|_| is_ours)?,
        started: stat.starttime,
    })
}

/// Bytes in memory of a process, whoever's it is.
pub(crate) fn rss(pid: u32) -> Option<u64> {
    rss_in(&stat(pid)?)
}

fn rss_in(stat: &Stat) -> Option<u64> {
    // What is dead, or has given its memory back already, uses nothing, and says nothing about who lives.
    let is_alive = !matches!(stat.state, 'Z' | 'X') && stat.rss > 0;
    is_alive.then(|| stat.rss.saturating_mul(procfs::page_size()))
}

/// The processor time of a process, whoever's it is.
pub(crate) fn used(pid: u32) -> Option<Used> {
    let stat = stat(pid)?;
    Some(Used {
        ticks: stat.utime.saturating_add(stat.stime),
        started: stat.starttime,
    })
}

/// Its share: bytes in memory, each divided by the number of processes that have it. The kernel walks all its pages for
/// this, so ask seldom. `None` without the right to look.
pub(crate) fn proportional(pid: u32) -> Option<u64> {
    let rollup = open(pid)?.smaps_rollup().ok()?;
    let pss = rollup
        .memory_map_rollup
        .0
        .iter()
        .filter_map(|map| map.extension.map.get("Pss"))
        .sum();
    (pss > 0).then_some(pss)
}

/// How much memory the machine has.
pub(crate) fn of_the_machine() -> Option<u64> {
    let total = procfs::Meminfo::current().ok()?.mem_total;
    (total > 0).then_some(total)
}

fn stat(pid: u32) -> Option<Stat> {
    open(pid)?.stat().ok()
}

fn open(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

/// `USER_HZ`, a part of the kernel's interface: 100 on every architecture that Rust's standard library runs on.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use procfs::FromRead;

    use super::*;

    #[test]
    fn f_187_what_is_not_there_dead_or_not_ours_is_unknown() {
        let parent = std::os::unix::process::parent_id();
        let own = std::process::id();
        let known = resident(own, parent).expect("this process can be read");
        assert!(known.rss > 1 << 20 && known.started > 0, "{known:?}");
        assert!(rss(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(
            (resident(own, own), rss(u32::MAX)),
            (None, None),
            "somebody else's child"
        );
        assert_eq!(resident(u32::MAX, parent), None);
        assert_eq!(resident(0, parent), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // Not reaped, so its number stays; in the end it is a zombie, of which the kernel says zero pages.
        while resident(child.id(), own).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(resident(child.id(), own), None);
        child.wait().unwrap();
    }

    #[test]
    fn the_share_is_not_more_than_everything_and_the_machine_has_more() {
        let own = std::process::id();
        let share = proportional(own).expect("this process may look at itself");
        let machine = of_the_machine().expect("the machine has memory");
        assert!(share > 0 && share < machine, "{share} of {machine}");
        assert_eq!(proportional(u32::MAX), None);
    }

    #[test]
    fn the_kernels_line_is_read_whatever_the_process_is_called() {
        let numbers =
            "1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0 1 0 777 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1";
        let line = format!("12 (a) R 1 (x) S {numbers}\n");
        let stat = Stat::from_read(line.as_bytes()).unwrap();
        assert_eq!(
            (stat.comm.as_str(), stat.utime, stat.stime, stat.starttime),
            ("a) R 1 (x", 40, 2, 777)
        );
        for odd in ["", "12 (a) S 1"] {
            assert!(Stat::from_read(odd.as_bytes()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn our_own_time_grows_while_we_work() {
        let pid = std::process::id();
        let before = used(pid).expect("we are there");
        let mut sum = 0_u64;
        while used(pid).is_some_and(|now| now.ticks < before.ticks + 3) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
        assert_eq!(used(u32::MAX), None);
    }
}
