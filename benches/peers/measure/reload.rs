//! C: four workers are replaced while sixteen clients ask in a closed loop.

use std::time::Duration;

use actix_cluster_benches::{Failure, now, rest, wait_for};
use serde_json::{Value, json};

use super::{Effort, START};
use crate::client::{Connection, Load, Loader, Pace};
use crate::install::Installed;
use crate::kernel;
use crate::running::Running;
use crate::targets::Target;

pub(super) fn take(target: &Target, variant: &str, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let running = Running::start(target, installed, WORKERS, START)?;
    let loader = Loader::start(Load {
        address: running.address,
        connection: if variant == "new" {
            Connection::New
        } else {
            Connection::Kept
        },
        pace: Pace::Closed(CLIENTS),
    });
    rest(WARM_UP);
    loader.next_phase();
    rest(effort.time.min(BEFORE));
    let old = running.own_workers()?;
    if old.len() < WORKERS {
        return Err(format!("{} workers before the reload, not {WORKERS}", old.len()).into());
    }
    loader.next_phase();
    let begun = now();
    running.reload()?;
    wait_for("end of the reload", LIMIT, || {
        // Whoever still stands by does not make up for one that is missing. Our own are asked for when the old ones are gone, so that
        // asking costs the reload nothing.
        let is_over = old.iter().all(|pid| !kernel::is_alive(*pid))
            && running.own_workers().is_ok_and(|new| new.len() >= old.len());
        is_over.then_some(())
    })?;
    let time = begun.elapsed();
    loader.next_phase();
    rest(AFTER);
    let phases = loader.stop()?;
    let failed = phases
        .iter()
        .filter_map(|phase| phase.to_json()["failed"].as_u64())
        .sum::<u64>();
    let phase = |at: usize| phases.get(at).map(crate::client::Outcome::to_json);
    Ok(json!({
        "reload_ms": time.as_secs_f64() * 1e3,
        "failed": failed,
        "classes": classes(&phases),
        "answers": phases.iter().map(crate::client::Outcome::answers).sum::<u64>(),
        "before": phase(1),
        "during": phase(2),
        "after": phase(3),
    }))
}

/// Failures by class, over all phases.
fn classes(phases: &[crate::client::Outcome]) -> serde_json::Map<String, Value> {
    let mut all = serde_json::Map::new();
    for phase in phases {
        for (name, count) in phase.to_json()["classes"].as_object().into_iter().flatten() {
            let sum = all.get(name).and_then(Value::as_u64).unwrap_or_default() + count.as_u64().unwrap_or_default();
            all.insert(name.clone(), json!(sum));
        }
    }
    all
}

const WORKERS: usize = 4;
const CLIENTS: usize = 16;
const WARM_UP: Duration = Duration::from_millis(500);
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_millis(500);
/// granian takes 14 s.
const LIMIT: Duration = Duration::from_secs(40);
