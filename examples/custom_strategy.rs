//! A restart strategy of your own: everybody depends on one spec, and nobody on any other.
//!
//! `cargo run --example custom_strategy`: the worker of `store` fails, and the `web` workers, whose connections to it are
//! worth nothing now, are replaced with it; then a `web` worker fails, and is replaced alone. It ends by itself.
//!
//! None of OTP's three says that: `OneForOne` would leave the `web` workers with a dead store, and under `RestForOne` one of
//! them would take the other along.

use std::process::ExitCode;

use actix_cluster::{
    Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, RestartDelay, Signal, StrategyFn, Worker,
    WorkerSpec,
};

pub(crate) fn main() -> ExitCode {
    cluster().main()
}

/// The whole cluster. Like `main` it can be named from outside: the suite of scenarios runs this very file.
pub(crate) fn cluster() -> ClusterBuilder {
    // Specs are asked about by their position, in the order in which they are given.
    const STORE: usize = 0;
    let strategy = StrategyFn::new("the store for all", |failed, specs| match failed {
        STORE => 0..specs,
        alone => alone..alone,
    });
    let spec = |name, workers| WorkerSpec::new(name, workers).restart_delay(RestartDelay::AtOnce);
    Cluster::builder()
        .workers(0)
        .spec(spec("store", 1).worker(store))
        .spec(spec("web", 2).worker(web))
        .strategy(strategy)
        .on_event(play())
}

async fn store(worker: Worker) {
    worker.shutdown().started().await;
}

async fn web(worker: Worker) {
    worker.shutdown().started().await;
}

/// Each time everybody is ready: shows who that is, and lets the next one fail.
fn play() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let mut victims = ["store", "web"].into_iter();
    move |event, handle| {
        if !matches!(event.kind, EventKind::AllReady { .. }) {
            return;
        }
        let workers = handle.workers();
        let names: Vec<String> = workers
            .iter()
            .map(|worker| format!("{}={}", worker.slot(), worker.pid()))
            .collect();
        println!("ready: {}", names.join(" "));
        let victim = victims.next();
        let failed = workers
            .into_iter()
            .find(|worker| Some(worker.slot().spec.as_str()) == victim);
        let handle = handle.clone();
        actix_rt::spawn(async move {
            let done = match failed {
                Some(worker) => {
                    println!("fails: {}", worker.slot());
                    handle.kill(worker.id(), Signal::KILL).await
                }
                None => handle.shutdown().await.map(drop),
            };
            done.expect("the cluster runs");
        });
    }
}
