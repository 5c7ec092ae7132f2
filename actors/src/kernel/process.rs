//! The memory of one process, and of the machine, from `/proc`.

use procfs::Current;
use procfs::process::Process;

/// What the kernel counts for one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Bytes in memory, those shared with others included.
    pub(crate) rss: u64,
    /// When it began, in the kernel's ticks: tells it from another process with its number.
    pub(crate) started: u64,
}

/// Reads a process that must be a child of `parent`. The number of one that has been reaped may be a stranger's, but a
/// stranger is no child of ours; who it is and what it uses come from one read.
pub(crate) fn resident(pid: u32, parent: u32) -> Option<Resident> {
    let stat = open(pid)?.stat().ok()?;
    // What is dead, or has given its memory back already, uses nothing, and says nothing about who lives.
    let is_alive = !matches!(stat.state, 'Z' | 'X') && stat.rss > 0;
    let is_ours = u32::try_from(stat.ppid) == Ok(parent);
    (is_alive && is_ours).then_some(Resident {
        rss: stat.rss.saturating_mul(procfs::page_size()),
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

fn open(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_187_what_is_not_there_dead_or_not_ours_is_unknown() {
        let parent = std::os::unix::process::parent_id();
        let own = std::process::id();
        let known = resident(own, parent).expect("this process can be read");
        assert!(known.rss > 1 << 20 && known.started > 0, "{known:?}");
        assert_eq!(resident(own, own), None, "somebody else's child");
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
}
