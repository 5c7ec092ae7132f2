//! A master that is a worker of another cluster: what it hears from above becomes orders to its own cluster, and what
//! becomes of that is told upwards.
//!
//! Not here: supervision (that is the `master` room, which does not know that there is an above), and the channel (that is the
//! `worker` room, which does not know that there is a below).

use std::time::Duration;

use actix_rt::System;

use crate::cluster::RunningCluster;
use crate::config::Config;
use crate::error::RunError;
use crate::ipc::ToMaster;
use crate::master;
use crate::model::ShutdownReport;
use crate::plug_ins::PlugIn;
use crate::process::Contract;
use crate::worker::{self, Worker};

/// Runs the nested cluster on a `System` of its own until it ends.
pub(crate) fn run(
    contract: &'static Contract,
    config: Config,
    plug_ins: Vec<PlugIn>,
) -> Result<ShutdownReport, RunError> {
    System::new().block_on(async move { start(contract, config, plug_ins)?.wait().await })
}

/// Starts the nested cluster on the `System` of this thread.
pub(crate) fn start(
    contract: &'static Contract,
    config: Config,
    plug_ins: Vec<PlugIn>,
) -> Result<RunningCluster, RunError> {
    // When the master above is gone this one goes at once: its workers see that by their own channels, and need the time.
    let above = worker::attach(contract, Duration::ZERO)?;
    let begins_empty = config.workers == 0 && config.more_specs.iter().all(|spec| spec.config.count == 0);
    let mut running = match master::start(config, plug_ins) {
        Ok(running) => running,
        Err(error) => {
            above.tell(&ToMaster::Failed(error.to_string()));
            return Err(error);
        }
    };
    let (handle, up) = (running.handle(), above.clone());
    actix_rt::spawn(async move {
        // A cluster that begins with nobody has nobody to wait for; one that ends first is not ready.
        if begins_empty || handle.all_ready().await.is_ok() {
            up.ready();
        }
    });
    let (handle, up) = (running.handle(), above.clone());
    actix_rt::spawn(async move {
        up.shutdown().started().await;
        // If it has ended already there is nothing left to stop.
        handle.shutdown().await.ok();
    });
    running.above = Some(above);
    Ok(running)
}

/// Says upwards how the cluster has ended; the exit code says it too. What is sent now is delivered when the process ends.
pub(crate) fn tell_end(above: &Worker, result: &Result<ShutdownReport, RunError>) {
    match result {
        Ok(_) => above.leave(),
        Err(error) => above.tell(&ToMaster::Failed(error.to_string())),
    }
}
