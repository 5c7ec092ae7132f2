//! What `/proc` tells about a process. Not here: anything the framework says about itself.

use std::fs;

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
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_zombie = |stat: String| {
        // The name is in brackets and may contain anything.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        fields.next() == Some("Z") && fields.next() == Some(&own)
    };
    let stats = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.map(is_zombie).filter(|is_zombie| *is_zombie).count()
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
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    ticks_of(&pid.to_string()) + children.split_whitespace().map(ticks_of).sum::<u64>()
}

fn ticks_of(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or_default()
    };
    number(11) + number(12)
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
