//! B: four workers, sixteen clients with new connections, and every 200 ms one of those that serve is killed.

use std::time::Duration;

use actix_cluster_benches::{Failure, now, rest};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::{Effort, START};
use crate::client::{Connection, Load, Loader, Pace};
use crate::install::Installed;
use crate::kernel;
use crate::running::{Running, pid};
use crate::targets::Target;

pub(super) fn take(target: &Target, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let running = Running::start(target, installed, WORKERS, START)?;
    let loader = Loader::start(Load {
        address: running.address,
        connection: Connection::New,
        pace: Pace::Closed(CLIENTS),
    });
    rest(WARM_UP);
    loader.take_seen();
    loader.next_phase();
    let (begun, mut turns, mut kills, mut fewest) = (now(), 0_u32, 0_u32, WORKERS);
    while begun.elapsed() < effort.time {
        rest(EVERY.saturating_sub(begun.elapsed().saturating_sub(EVERY * turns)));
        let mut alive = running.own_workers()?;
        alive.retain(|pid| kernel::is_alive(*pid));
        fewest = fewest.min(alive.len());
        // One that serves: standbys would be wasted kills. The choice turns, so that each slot has its share.
        let seen = loader.take_seen();
        let serving: Vec<u32> = alive.iter().copied().filter(|pid| seen.contains(pid)).collect();
        let victims = if serving.is_empty() { &alive } else { &serving };
        let victim = victims.get(turns as usize % victims.len().max(1));
        turns += 1;
        // A storm in which nobody is found to be killed is none.
        if victim.is_some_and(|victim| kill(pid(*victim), Signal::SIGKILL).is_ok()) {
            kills += 1;
        }
    }
    loader.next_phase();
    rest(AFTER);
    let after = running.own_workers()?.len();
    let phases = loader.stop()?;
    let mut result = phases.get(1).ok_or("no phase")?.to_json();
    result["kills"] = json!(kills);
    result["fewest_workers"] = json!(fewest);
    result["workers_after"] = json!(after);
    Ok(result)
}

const WORKERS: usize = 4;
const CLIENTS: usize = 16;
const EVERY: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(500);
