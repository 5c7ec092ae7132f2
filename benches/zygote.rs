//! Workers that are executed and workers that a zygote makes, side by side: how soon one serves, how many a second, and what
//! each costs.
//!
//! `ACTIX_CLUSTER_BENCH_KILLS` kills of the only worker of each of two servers, in turn. Then tiny workers,
//! `ACTIX_CLUSTER_BENCH_WORKERS` of them (default 1,000 and 5,000): started, 1,000 of them killed at once, all replaced;
//! `ACTIX_CLUSTER_BENCH_BOOTING` of them boot at once (default 64).

use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};
use std::time::Duration;

use actix_cluster::{
    Cluster, ClusterHandle, EventKind, RestartDelay, RestartLimit, RunError, SpawnMethod, SubscribeOptions, Worker,
    WorkerRef,
};
use actix_cluster_benches::kill::{Latencies, Steps};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, beside, code, now, number, proc, rest};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
    }
    if let Ok(method) = std::env::var(METHOD) {
        return scale(&method);
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), Failure> {
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", 300);
    if kills > 0 {
        latency(kills)?;
    }
    let sizes = match number(WORKERS, 0) {
        0 => vec![1000, 5000],
        workers => vec![workers],
    };
    for workers in sizes {
        for method in ["exec", "zygote"] {
            let mut command = Command::new(std::env::current_exe()?);
            command.env(METHOD, method).env(WORKERS, workers.to_string());
            if !command.status()?.success() {
                return Err(format!("{workers} workers by {method} failed").into());
            }
        }
    }
    Ok(())
}

/// Both servers at the same time, killed in turn: medians of neighbours in time.
fn latency(kills: usize) -> Result<(), Failure> {
    let mut sides = Vec::new();
    for role in [Role::PerWorker, Role::Zygote] {
        let server = Server::start(role, 1, Events::On)?;
        sides.push((role, server, Steps::default(), Latencies::default()));
    }
    for round in 0..kills {
        // Nobody is always the first after a pause of the machine.
        for turn in 0..sides.len() {
            let at = (round + turn) % sides.len();
            let (_, server, steps, latencies) = &mut sides[at];
            latencies.add(steps.kill_and_ask(server)?);
        }
    }
    for (role, _, steps, latencies) in sides {
        println!(
            "{:>18}: from SIGKILL, µs p50/p99: {}; answer {}",
            role.name(),
            steps.told(&[50, 99]),
            latencies.told()
        );
    }
    Ok(())
}

/// In a process of its own: many tiny workers.
fn scale(method: &str) -> ExitCode {
    let method = if method == "zygote" {
        SpawnMethod::Zygote
    } else {
        SpawnMethod::Exec
    };
    // A channel and a pidfd for each worker; the usual limit is 1,024.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
    match actix_rt::System::new().block_on(run(method)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.into()
        }
    }
}

async fn run(method: SpawnMethod) -> Result<ExitCode, RunError> {
    let workers = number(WORKERS, 1000);
    let booting = NonZeroUsize::new(number("ACTIX_CLUSTER_BENCH_BOOTING", 64)).unwrap_or(NonZeroUsize::MIN);
    let begun = now();
    let cluster = Cluster::builder()
        .workers(u32::try_from(workers).unwrap_or(1))
        .max_booting(booting)
        .spawn(method)
        .boot_limit(Duration::from_secs(120))
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .worker(|worker: Worker| async move { worker.shutdown().started().await })
        .build()?
        .start()
        .await?;
    let measuring = beside(cluster.handle(), move |handle| async move {
        handle.all_ready().await?;
        let (took, rss) = (begun.elapsed(), proc::rss_kib());
        storm(&handle, method, (took, rss), workers).await
    });
    cluster.wait().await?;
    Ok(code(measuring))
}

async fn storm(
    handle: &ClusterHandle,
    method: SpawnMethod,
    (took, rss): (Duration, u64),
    workers: usize,
) -> Result<(), Failure> {
    let start_cpu = proc::cpu_ticks();
    let options = SubscribeOptions::lifecycle().capacity(workers * 16);
    let mut events = handle.events_with(&options);
    let pids: Vec<u32> = handle.workers().iter().map(WorkerRef::pid).collect();
    let some: Vec<u64> = pids
        .iter()
        .step_by((workers / 50).max(1))
        .map(|pid| proc::pss_kib(*pid))
        .collect();
    let pss = some.iter().sum::<u64>() / some.len() as u64;
    let victims = workers.min(1000);
    rest(Duration::from_secs(1));
    let killed = now();
    for pid in &pids[..victims] {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    }
    let sent = killed.elapsed();
    let (mut exits, mut ready, mut noticed) = (0, 0, Duration::ZERO);
    while ready < victims {
        let event = events.next().await.ok_or("the cluster ended")?;
        match event.kind {
            EventKind::Exit(_) => {
                exits += 1;
                noticed = killed.elapsed();
            }
            EventKind::Ready => ready += 1,
            EventKind::Lagged { .. } => return Err("events were lost".into()),
            _ => {}
        }
    }
    println!(
        "{workers:>6} {method:?}: all ready after {took:.0?} ({:.0} a second, {} ms of the master's processor); master {rss} KiB, a \
         worker {pss} KiB (proportional); {victims} kills sent in {sent:.0?}, {exits} exits noticed after {noticed:.0?}, all replaced \
         after {:.0?}",
        workers as f64 / took.as_secs_f64(),
        start_cpu * 10,
        killed.elapsed()
    );
    handle.shutdown().await?;
    Ok(())
}

const WORKERS: &str = "ACTIX_CLUSTER_BENCH_WORKERS";
const METHOD: &str = "ACTIX_CLUSTER_BENCH_METHOD";
