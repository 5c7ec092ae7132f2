//! D: two workers and as much as 64 kept or 32 new connections ask for; and what 1,000 requests a second wait, whoever else waits.
//!
//! The closed loops run on two threads. One would be at its limit at 140,000 answers a second, more than four fifths of that in the
//! kernel's TCP, and every server that is faster would look as fast as that.

use std::time::Duration;

use actix_cluster_benches::{Failure, now, rest};
use serde_json::{Value, json};

use super::{Effort, START};
use crate::client::{Connection, Load, Loader, Outcome, Pace};
use crate::install::Installed;
use crate::kernel;
use crate::running::Running;
use crate::targets::Target;

pub(super) fn take(target: &Target, variant: &str, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let (connection, paces) = match variant {
        "keep-alive" => (Connection::Kept, vec![Pace::Closed(32); 2]),
        "new" => (Connection::New, vec![Pace::Closed(16); 2]),
        "open" => (Connection::Kept, vec![Pace::Open(1000)]),
        other => return Err(format!("there is no load {other:?}").into()),
    };
    let running = Running::start(target, installed, WORKERS, START)?;
    let address = running.address;
    let load = |pace| Load {
        address,
        connection,
        pace,
    };
    let loaders: Vec<Loader> = paces.into_iter().map(|pace| Loader::start(load(pace))).collect();
    rest(WARM_UP);
    let processes = kernel::descendants(running.master());
    let cpu = || {
        let workers = processes.iter().map(|pid| kernel::cpu(*pid)).sum::<Duration>();
        (kernel::cpu(running.master()), workers)
    };
    let own = || kernel::cpu(std::process::id());
    loaders.iter().for_each(Loader::next_phase);
    let (begun, before, own_before) = (now(), cpu(), own());
    rest(effort.time);
    let (time, after, own_after) = (begun.elapsed(), cpu(), own());
    loaders.iter().for_each(Loader::next_phase);
    let mut phase: Option<Outcome> = None;
    for loader in loaders {
        let one = loader.stop()?.into_iter().nth(1).ok_or("no phase")?;
        match &mut phase {
            Some(sum) => sum.add(&one),
            None => phase = Some(one),
        }
    }
    let phase = phase.ok_or("no load")?;
    let mut result = phase.to_json();
    let (master, workers) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let percent = |spent: Duration| 100.0 * spent.as_secs_f64() / time.as_secs_f64();
    result["master_cpu_percent"] = json!(percent(master));
    result["workers_cpu_percent"] = json!(percent(workers));
    result["client_cpu_percent"] = json!(percent(own_after.saturating_sub(own_before)));
    result["cpu_us_per_answer"] = json!((master + workers).as_secs_f64() * 1e6 / phase.answers().max(1) as f64);
    Ok(result)
}

const WORKERS: usize = 2;
const WARM_UP: Duration = Duration::from_millis(700);
