//! What `/proc` tells: families of processes, their memory and processor time, and how quiet the machine is.

use std::fs;
use std::time::Duration;

use actix_cluster_benches::{now, rest};
use serde_json::{Value, json};

/// The children of a process, whichever of its threads started them.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

fn numbers(list: &str) -> Vec<u32> {
    list.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Children, their children and so on; parents come first.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

/// The command line, words separated by spaces; empty for the dead. Programs may have written another one there.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The name that the process gave itself.
pub(crate) fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Is there such a process, and has it not ended?
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Resident memory in KiB.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Proportional share of the memory in KiB: pages that are shared are counted in parts.
pub(crate) fn pss_kib(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

/// Processor time of all threads that live, by the scheduler's own count, which is exact where clock ticks are not.
pub(crate) fn cpu(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let nanos = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// How quiet the machine is, told beside each result: what others do while nothing of ours runs. Not the load average, which remembers
/// our own cell before.
pub(crate) fn noise() -> Value {
    let before = busy_ticks();
    rest(LISTENING);
    let after = busy_ticks();
    let (busy, total) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let begun = now();
    let mut word = 1_u64;
    for _ in 0..SPINS {
        word = std::hint::black_box(word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    json!({
        "others_busy": if total == 0 { 0.0 } else { busy as f64 / total as f64 },
        "spin_us": begun.elapsed().as_micros() as u64,
    })
}

/// Ticks in which a core was busy, and all ticks, of all cores.
fn busy_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let total: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// Machine and kernel, for the head of the results.
pub(crate) fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let memory = field("/proc/meminfo", "MemTotal:");
    json!({
        "cpu": model.unwrap_or_default().trim_start_matches([' ', '\t', ':']),
        "cores": cpu.lines().filter(|line| line.starts_with("processor")).count(),
        "memory_gib": memory as f64 / f64::from(1 << 20),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

/// How long others are listened to before a cell.
const LISTENING: Duration = Duration::from_millis(150);
/// A few milliseconds of arithmetic, whose time tells of a slower clock or a core that is shared.
const SPINS: u32 = 4_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_told_and_missed_when_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let own = std::process::id();
        assert!(children(own).contains(&child.id()) && descendants(own).contains(&child.id()));
        assert!(is_alive(child.id()) && rss_kib(child.id()) > 0);
        child.kill().expect("it lives");
        child.wait().expect("it ends");
        assert!(!is_alive(child.id()) && command_line(child.id()).is_empty());
    }
}
