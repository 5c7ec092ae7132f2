//! Workers that are executed and workers that a zygote makes, side by side: how soon one serves, how many a second, and what
//! each costs.
//!
//! `ACTIX_CLUSTER_BENCH_KILLS` kills of the only worker of each of two servers, in turn. Then tiny workers,
//! `ACTIX_CLUSTER_BENCH_WORKERS` of them (default 1,000 and 5,000): started, 1,000 of them killed at once, all replaced;
//! `ACTIX_CLUSTER_BENCH_BOOTING` of them boot at once (default 64).

use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use actix_cluster::{
    Cluster, ClusterHandle, EventKind, RestartDelay, RestartLimit, RunError, SpawnMethod, SubscribeOptions, Worker,
    WorkerRef,
};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, beside, code, load, micros, now, number, percentile, proc, rest};
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

/// Both servers at the same time, loaded in turn: medians of neighbours in time.
fn latency(kills: usize) -> Result<(), Failure> {
    let mut sides =
        [Role::PerWorker, Role::Zygote].map(|role| (role, Server::start(role, 1, Events::On), Steps::default()));
    for _ in 0..kills {
        for (_, server, steps) in &mut sides {
            let server = server.as_ref().map_err(ToString::to_string)?;
            steps.add(server)?;
        }
    }
    for (role, _, mut steps) in sides {
        print!("{:>10}: from SIGKILL, µs p50/p99:", role.name());
        for (name, samples) in STEPS.iter().zip(&mut steps.events) {
            print!(
                " {name} {}/{},",
                micros(percentile(samples, 50)),
                micros(percentile(samples, 99))
            );
        }
        let [p50, p99] = [50, 99].map(|at| micros(percentile(&mut steps.answers, at)));
        println!(
            " answer {p50}/{p99}; exit to online {}",
            micros(percentile(&mut steps.started, 50))
        );
    }
    Ok(())
}

/// What was seen of one server's kills.
#[derive(Default)]
struct Steps {
    events: [Vec<Duration>; 4],
    /// From the exit to the successor's first word.
    started: Vec<Duration>,
    answers: Vec<Duration>,
}

impl Steps {
    fn add(&mut self, server: &Server) -> Result<(), Failure> {
        let victim = load::ask(server.address)?;
        // Lets the worker get to rest, as it would be in life.
        rest(Duration::from_millis(10));
        while server.events.try_recv().is_ok() {}
        let (killed, begun) = (wall(), now());
        kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)?;
        let mut attempts = 0;
        // Its successor, or nobody: the connection waits in the queue that the master keeps open.
        while load::ask(server.address).map_or(true, |pid| pid == victim) {
            attempts += 1;
            if attempts > 1000 {
                return Err("no successor answers".into());
            }
        }
        self.answers.push(begun.elapsed());
        let mut at = [Duration::ZERO; 4];
        while at[3].is_zero() {
            let line = server.events.recv_timeout(Duration::from_secs(5))?;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            let name = event["event"].as_str().unwrap_or_default();
            if let Some(step) = STEPS.iter().position(|step| *step == name) {
                let time = Duration::from_secs_f64(event["time_ms"].as_f64().unwrap_or_default() / 1000.0);
                at[step] = time.saturating_sub(killed);
                self.events[step].push(at[step]);
            }
        }
        self.started.push(at[2].saturating_sub(at[0]));
        Ok(())
    }
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
        .step_by(workers / 50)
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

/// The wall clock, which both processes share.
#[expect(clippy::disallowed_methods, reason = "measuring is reading the clock")]
fn wall() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

const STEPS: [&str; 4] = ["exit", "fork", "online", "ready"];
const WORKERS: &str = "ACTIX_CLUSTER_BENCH_WORKERS";
const METHOD: &str = "ACTIX_CLUSTER_BENCH_METHOD";
