//! D: two workers and as much as 64 kept or 32 new connections ask for; and what 1,000 requests a second wait, whoever else waits.

use std::time::Duration;

use actix_cluster_benches::{Failure, now, rest};
use serde_json::{Value, json};

use super::{Effort, START};
use crate::client::{Connection, Load, Loader, Pace};
use crate::install::Installed;
use crate::kernel;
use crate::running::Running;
use crate::targets::Target;

pub(super) fn take(target: &Target, variant: &str, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let (connection, pace) = match variant {
        "keep-alive" => (Connection::Kept, Pace::Closed(64)),
        "new" => (Connection::New, Pace::Closed(32)),
        "open" => (Connection::Kept, Pace::Open(1000)),
        other => return Err(format!("there is no load {other:?}").into()),
    };
    let running = Running::start(target, installed, WORKERS, START)?;
    let loader = Loader::start(Load {
        address: running.address,
        connection,
        pace,
    });
    rest(WARM_UP);
    let processes = kernel::descendants(running.master());
    let cpu = || {
        let workers = processes.iter().map(|pid| kernel::cpu(*pid)).sum::<Duration>();
        (kernel::cpu(running.master()), workers)
    };
    loader.next_phase();
    let (begun, before) = (now(), cpu());
    rest(effort.time);
    let (time, after) = (begun.elapsed(), cpu());
    loader.next_phase();
    let phases = loader.stop()?;
    let phase = phases.get(1).ok_or("no phase")?;
    let mut result = phase.to_json();
    let (master, workers) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let percent = |spent: Duration| 100.0 * spent.as_secs_f64() / time.as_secs_f64();
    result["master_cpu_percent"] = json!(percent(master));
    result["workers_cpu_percent"] = json!(percent(workers));
    result["cpu_us_per_answer"] = json!((master + workers).as_secs_f64() * 1e6 / phase.answers().max(1) as f64);
    Ok(result)
}

const WORKERS: usize = 2;
const WARM_UP: Duration = Duration::from_millis(700);
