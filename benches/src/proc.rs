//! What `/proc` tells about a process. Not here: anything the framework says about itself.

use std::fs;
use std::str::FromStr;

/// Descriptors this process has open, without the one that counts them.
#[must_use]
pub fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// Resident memory of this process in KiB.
#[must_use]
pub fn rss_kib() -> u64 {
    field("/proc/self/status", "VmRSS:")
}

/// Proportional share of the memory of process `pid` in KiB: shared pages are counted in parts.
#[must_use]
pub fn pss_kib(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Children of this process that have ended and were not reaped.
#[must_use]
pub fn zombies() -> usize {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let stats = names.filter_map(|name| Stat::of(&name));
    stats.filter(|stat| stat.is_zombie() && stat.parent() == own).count()
}

/// Processes that the main thread of `pid` started and that were not reaped.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The workers of the master `pid`, without their keepers and without those that have ended.
#[must_use]
pub fn workers(pid: u32) -> Vec<u32> {
    let is_worker = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // A keeper has its name before it has a group of its own.
        let stat = Stat::of(&pid.to_string());
        name != "keeper\n" && stat.is_some_and(|stat| !stat.is_zombie() && stat.group() == *pid)
    };
    children(pid).into_iter().filter(is_worker).collect()
}

/// Processor time this process has used, in clock ticks of 10 ms.
#[must_use]
pub fn cpu_ticks() -> u64 {
    ticks_of("self")
}

/// Processor time that process `pid` alone has used, in clock ticks of 10 ms.
#[must_use]
pub fn cpu_ticks_of(pid: u32) -> u64 {
    ticks_of(&pid.to_string())
}

/// Processor time that process `pid` and its children have used, in clock ticks of 10 ms.
#[must_use]
pub fn family_cpu_ticks(pid: u32) -> u64 {
    cpu_ticks_of(pid) + children(pid).into_iter().map(cpu_ticks_of).sum::<u64>()
}

fn ticks_of(process: &str) -> u64 {
    Stat::of(process).map_or(0, |stat| stat.ticks())
}

/// The fields of `/proc/PID/stat` behind the name, which is in brackets and may contain anything.
struct Stat(String);

impl Stat {
    fn of(process: &str) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        Some(Self(line.rsplit_once(") ")?.1.to_owned()))
    }

    fn is_zombie(&self) -> bool {
        self.0.starts_with('Z')
    }

    fn parent(&self) -> u32 {
        self.number(1)
    }

    fn group(&self) -> u32 {
        self.number(2)
    }

    /// In user mode and in the kernel.
    fn ticks(&self) -> u64 {
        self.number::<u64>(11) + self.number::<u64>(12)
    }

    fn number<T: FromStr + Default>(&self, at: usize) -> T {
        let field = self.0.split(' ').nth(at);
        field.and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
