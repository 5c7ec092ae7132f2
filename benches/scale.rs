//! Many tiny workers: start them, kill all of them, wait until all are back. Time, and the master's memory.
//!
//! 1,000 workers, or `ACTIX_CLUSTER_BENCH_WORKERS`. A worker does nothing but wait for its end.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_cluster::{
    Cluster, ClusterHandle, EventKind, RestartDelay, RestartLimit, RunError, SubscribeOptions, Worker,
};
use actix_cluster_benches::{Failure, beside, code, now, number, proc, rest};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    // A channel and a pidfd for each worker; the usual limit is 1,024. Workers inherit it and need it not.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
    match actix_rt::System::new().block_on(run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            error.into()
        }
    }
}

async fn run() -> Result<ExitCode, RunError> {
    let workers = number("ACTIX_CLUSTER_BENCH_WORKERS", 1000);
    let begun = now();
    let cluster = Cluster::builder()
        .workers(u32::try_from(workers).unwrap_or(1))
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .worker(|worker: Worker| async move { worker.shutdown().started().await })
        .build()?
        .start()
        .await?;
    let measuring = beside(cluster.handle(), move |handle| measure(handle, workers, begun));
    cluster.wait().await?;
    Ok(code(measuring))
}

async fn measure(handle: ClusterHandle, workers: usize, begun: Instant) -> Result<(), Failure> {
    println!("{workers} workers; master before the first: {} KiB", proc::rss_kib());
    handle.all_ready().await?;
    let rate = |time: Duration| format!("{time:.1?} ({:.0} a second)", workers as f64 / time.as_secs_f64());
    println!(
        "all ready after {}; master {} KiB",
        rate(begun.elapsed()),
        proc::rss_kib()
    );
    idle_cost();
    let options = SubscribeOptions::lifecycle().capacity(workers * 16);
    let mut events = handle.events_with(&options);
    let pids: Vec<u32> = handle.workers().iter().map(actix_cluster::WorkerRef::pid).collect();
    let some = pids.first().copied().unwrap_or_default();
    println!("one worker: {} KiB (proportional)", proc::pss_kib(some));
    let ticks = proc::cpu_ticks();
    let killed = now();
    for pid in pids {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    }
    println!("kills sent in {:.1?}", killed.elapsed());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    loop {
        let event = events.next().await.ok_or("the cluster ended")?;
        let count = counts.entry(event.kind.name()).or_default();
        *count += 1;
        match event.kind {
            EventKind::Exit(_) if *count == workers => println!("all noticed after {:.1?}", killed.elapsed()),
            EventKind::Ready if *count == workers => break,
            EventKind::Lagged { .. } => return Err("events were lost".into()),
            _ => {}
        }
    }
    let cpu = proc::cpu_ticks() - ticks;
    println!(
        "all replaced after {}; master {} KiB, {} ms of processor",
        rate(killed.elapsed()),
        proc::rss_kib(),
        cpu * 10
    );
    let stopping = now();
    handle.shutdown().await?;
    println!("stopped in {:.1?}; zombies: {}", stopping.elapsed(), proc::zombies());
    Ok(())
}

/// What the master costs while nothing happens.
fn idle_cost() {
    let ticks = proc::cpu_ticks();
    rest(Duration::from_secs(2));
    println!(
        "2 s of rest cost the master {} ms of processor",
        (proc::cpu_ticks() - ticks) * 10
    );
}
