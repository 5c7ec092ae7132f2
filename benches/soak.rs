//! Kills and restarts by the thousand: descriptors, zombies and memory of the master must stay flat.
//!
//! 300 kills by default, 10,000 with `ACTIX_CLUSTER_SOAK=1`. Ends with an error if something grew.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, ClusterHandle, RestartDelay, RestartLimit, RunError, ServeError, Worker};
use actix_cluster_benches::{Failure, beside, code, http, is_soak, now, number, proc, wait_for};
use actix_web::{App, web};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// More than this is no noise of the allocator.
const RSS_GROWTH_MAX_KIB: u64 = 2048;
const WORKERS: u32 = 2;

fn main() -> ExitCode {
    match actix_rt::System::new().block_on(run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.into()
        }
    }
}

async fn run() -> Result<ExitCode, RunError> {
    let cluster = Cluster::builder()
        .workers(WORKERS)
        .listen("http", "127.0.0.1:0")
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .worker(serve)
        .build()?
        .start()
        .await?;
    let soaking = beside(cluster.handle(), async |handle| soak(&handle));
    cluster.wait().await?;
    Ok(code(soaking))
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    worker
        .serve("http", || {
            App::new().route("/", web::get().to(async || format!("{}\n", std::process::id())))
        })
        .await
}

/// What must not grow.
#[derive(Clone, Copy, Debug)]
struct Tally {
    descriptors: usize,
    zombies: usize,
    rss_kib: u64,
}

fn soak(handle: &ClusterHandle) -> Result<(), Failure> {
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", if is_soak() { 10_000 } else { 300 });
    // The list of the last 1,024 dead workers fills first: that is memory in use, and no leak.
    let warm_up = kills.min(2_000) / 2;
    all_ready(handle)?;
    let begun = now();
    let mut first = None;
    let mut killed = 0;
    while killed < kills {
        for worker in handle.workers() {
            kill(Pid::from_raw(worker.pid().cast_signed()), Signal::SIGKILL)?;
            wait_for("death", LIMIT, || worker.is_dead().then_some(()))?;
            killed += 1;
            if killed.is_multiple_of((kills / 10).max(1)) {
                all_ready(handle)?;
                println!("{killed} kills: {:?}", tally());
            }
        }
        all_ready(handle)?;
        if first.is_none() && killed >= warm_up {
            first = Some(tally());
        }
    }
    let time = begun.elapsed();
    if let Some(address) = handle
        .address("http")
        .and_then(|address| address.to_string().parse().ok())
    {
        http::ask(address)?;
    }
    let (first, last) = (first.unwrap_or_else(tally), tally());
    let growth = last.rss_kib.saturating_sub(first.rss_kib);
    let is_flat = last.descriptors <= first.descriptors && last.zombies == 0 && growth <= RSS_GROWTH_MAX_KIB;
    println!("{killed} kills in {time:?}; after {warm_up}: {first:?}; at the end: {last:?}");
    if !is_flat {
        return Err("not flat".into());
    }
    println!("flat");
    Ok(())
}

fn tally() -> Tally {
    Tally {
        descriptors: proc::open_descriptors(),
        zombies: proc::zombies(),
        rss_kib: proc::rss_kib(),
    }
}

fn all_ready(handle: &ClusterHandle) -> Result<(), Failure> {
    wait_for("full cluster", LIMIT, || {
        let ready = handle.workers().iter().filter(|worker| worker.is_ready()).count();
        (ready == WORKERS as usize).then_some(())
    })
}

const LIMIT: Duration = Duration::from_secs(30);
