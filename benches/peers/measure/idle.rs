//! E: so many workers with nothing to do: time to start them, and what they cost the master and the machine.

use actix_cluster_benches::{Failure, now, rest};
use serde_json::{Value, json};
use std::time::Duration;

use super::{Effort, START};
use crate::install::Installed;
use crate::kernel;
use crate::running::Running;
use crate::targets::Target;

pub(super) fn take(target: &Target, variant: &str, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let workers: usize = variant.parse()?;
    let running = Running::start(target, installed, workers, START)?;
    // Asking wakes the master and a worker, so rest comes after it.
    let pids = running.own_workers()?;
    rest(SETTLE);
    // Helpers belong to the bill: keepers, a zygote, standbys, whatever else was started.
    let all = kernel::descendants(running.master());
    let cpu = || {
        let sum = |pids: &[u32]| pids.iter().map(|pid| kernel::cpu(*pid)).sum::<Duration>();
        (kernel::cpu(running.master()), sum(&pids), sum(&all))
    };
    let (begun, before) = (now(), cpu());
    rest(effort.time * 2);
    let (time, after) = (begun.elapsed(), cpu());
    let a_minute = |before: Duration, after: Duration| {
        after.saturating_sub(before).as_secs_f64() * 1e3 * 60.0 / time.as_secs_f64()
    };
    let pss = |pids: &[u32]| pids.iter().map(|pid| kernel::pss_kib(*pid)).sum::<u64>();
    let each = (pids.len() as f64).max(1.0);
    let master_pss = kernel::pss_kib(running.master());
    Ok(json!({
        "start_ms": running.start_time.as_secs_f64() * 1e3,
        "workers_found": pids.len(),
        "master_rss_kib": kernel::rss_kib(running.master()),
        "master_pss_kib": master_pss,
        "master_cpu_ms_a_minute": a_minute(before.0, after.0),
        "worker_pss_kib": pss(&pids) as f64 / each,
        "worker_cpu_ms_a_minute": a_minute(before.1, after.1) / each,
        "processes": all.len() + 1,
        "all_in_pss_kib": (master_pss + pss(&all)) as f64 / each,
        "all_in_cpu_ms_a_minute": a_minute(before.0 + before.2, after.0 + after.2) / each,
    }))
}

const SETTLE: Duration = Duration::from_secs(2);
