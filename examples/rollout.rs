//! Deploys a program: serves with one, replaces it by another when told to, and says how that went.
//!
//! The two programs are cluster programs like the other examples, or whatever reads `ACTIX_CLUSTER_WORKER`: this master
//! starts them as its workers. The outcome is one line of JSON on standard output; with `--once` it is the exit code too.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use actix_cluster::{
    Canary, Cluster, ClusterBuilder, ClusterHandle, EventKind, Generation, ListenAddr, ReadyWhen, ReloadError,
    ReloadOptions, RestartDelay, RolloutOptions, WorkerSnapshot,
};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// Serve with a program, then roll out another one: at once with --now, else for each line on standard input.
#[derive(Parser)]
struct Args {
    /// Where to listen; the programs take the listener by the name `http`.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: ListenAddr,
    /// How many workers to keep.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// The program that serves.
    #[arg(long)]
    from: PathBuf,
    /// The program to roll out.
    #[arg(long)]
    to: PathBuf,
    /// Roll out as soon as all workers are ready.
    #[arg(long)]
    now: bool,
    /// End after the first roll-out: with 0 if it was good, with 1 if not.
    #[arg(long)]
    once: bool,
    /// When a worker counts as ready.
    #[arg(long, default_value = "listening")]
    ready: Ready,
    /// How many processes more than wanted may live.
    #[arg(long, default_value_t = 1)]
    surge: u32,
    /// How many workers may be missing.
    #[arg(long, default_value_t = 0)]
    max_unavailable: u32,
    /// From one batch to the next, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// How long a newcomer must live before it is given a connection, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    probation_ms: u64,
    /// How long a newcomer may take to get ready, in milliseconds.
    #[arg(long, default_value_t = 30_000)]
    step_deadline_ms: u64,
    /// Replace so many first, and judge them.
    #[arg(long, default_value_t = 0)]
    canary: u32,
    /// How long the canary serves before it is judged, in milliseconds.
    #[arg(long, default_value_t = 10_000, requires = "canary")]
    bake_ms: u64,
    /// The canary is bad if more of its requests than this failed, in percent.
    #[arg(long, requires = "canary")]
    max_errors: Option<u64>,
    /// The canary is bad if this program, called with its process ids, does not end with 0.
    #[arg(long, requires = "canary")]
    verdict: Option<PathBuf>,
    /// How long a worker may take to stop, in milliseconds.
    #[arg(long, default_value_t = 30_000)]
    grace_ms: u64,
    /// Arguments of both programs.
    #[arg(last = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ready {
    Spawned,
    Online,
    Listening,
    Called,
}

/// Ends with the last outcome.
pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let (outcomes, outcome) = std::sync::mpsc::channel();
    let cluster = cluster(&args);
    let mut roll_out = Some(move |handle: &ClusterHandle| {
        let handle = handle.clone();
        actix_rt::spawn(async move { roll_out_when_told(&args, &handle, &outcomes).await });
    });
    let ended = cluster
        .on_event(move |event, handle| {
            if matches!(event.kind, EventKind::AllReady { .. })
                && let Some(roll_out) = roll_out.take()
            {
                roll_out(handle);
            }
        })
        .run();
    match (ended, outcome.try_iter().last()) {
        (Err(error), _) => {
            eprintln!("error: {error}");
            error.into()
        }
        (Ok(_), Some(Err(error))) => error.into(),
        (Ok(_), Some(Ok(_)) | None) => ExitCode::SUCCESS,
    }
}

fn cluster(args: &Args) -> ClusterBuilder {
    let ready_when = match args.ready {
        Ready::Spawned => ReadyWhen::Spawned,
        Ready::Online => ReadyWhen::Online,
        Ready::Listening => ReadyWhen::Listening,
        Ready::Called => ReadyWhen::Called,
    };
    Cluster::builder()
        .workers(args.workers)
        .listen("http", &args.listen)
        .exec(&args.from)
        .args(&args.args)
        .ready_when(ready_when)
        .restart_delay(RestartDelay::AtOnce)
        .grace(Duration::from_millis(args.grace_ms))
        .reload_options(care(args))
}

fn care(args: &Args) -> RolloutOptions {
    let options = RolloutOptions::new()
        .surge(args.surge)
        .max_unavailable(args.max_unavailable)
        .pause(Duration::from_millis(args.pause_ms))
        .probation(Duration::from_millis(args.probation_ms))
        .step_deadline(Duration::from_millis(args.step_deadline_ms));
    let canary = Canary {
        count: args.canary,
        bake: Duration::from_millis(args.bake_ms),
    };
    if args.canary == 0 {
        options
    } else {
        options.canary(canary)
    }
}

async fn roll_out_when_told(
    args: &Args,
    cluster: &ClusterHandle,
    outcomes: &std::sync::mpsc::Sender<Result<Generation, ReloadError>>,
) {
    say(&json!({"serving": args.from, "listening": cluster.address("http")}));
    let mut orders = orders(args.now);
    while orders.recv().await.is_some() {
        let (max_errors, verdict) = (args.max_errors, args.verdict.clone());
        let options = ReloadOptions::new(care(args))
            .exec(&args.to)
            .verdict(move |canary| judge(&canary, max_errors, verdict.as_deref()));
        let begun = tokio::time::Instant::now();
        let outcome = cluster.reload_with(options).await;
        say(&tell(&outcome, begun.elapsed()));
        // The receiver lives as long as the cluster.
        outcomes.send(outcome).ok();
        if args.once {
            // It cannot be stopping already unless somebody else asked for it.
            cluster.shutdown().await.ok();
            return;
        }
    }
}

/// One for each line on standard input; at its end no more will come.
fn orders(now: bool) -> tokio::sync::mpsc::UnboundedReceiver<()> {
    let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
    if now {
        sender.send(()).ok();
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || sender.send(()).is_err() {
                return;
            }
        }
    });
    orders
}

/// Runs on the plug-ins' thread, so a program that takes its time delays nobody but other plug-ins.
fn judge(canary: &[WorkerSnapshot], max_errors: Option<u64>, verdict: Option<&Path>) -> Result<(), String> {
    let sum = |of: fn(&WorkerSnapshot) -> u64| canary.iter().map(of).sum::<u64>();
    let (requests, errors) = (sum(|worker| worker.stats.requests), sum(|worker| worker.stats.errors));
    if max_errors.is_some_and(|percent| 100 * errors > percent * requests) {
        return Err(format!("{errors} of {requests} requests failed"));
    }
    let Some(program) = verdict else {
        return Ok(());
    };
    let pids = canary.iter().filter_map(|worker| worker.pid).map(|pid| pid.to_string());
    let output = Command::new(program)
        .args(pids)
        .output()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{}: {}",
            output.status,
            said.lines().next().unwrap_or_default()
        )),
    }
}

fn tell(outcome: &Result<Generation, ReloadError>, took: Duration) -> Value {
    let took_ms = took.as_secs_f64() * 1_000.0;
    match outcome {
        Ok(generation) => json!({"outcome": "good", "generation": generation, "took_ms": took_ms}),
        Err(error) => json!({"outcome": "failed", "reason": error.to_string(), "error": error, "took_ms": took_ms}),
    }
}

fn say(line: &Value) {
    // Nobody may be listening; the exit code says it too.
    writeln!(std::io::stdout(), "{line}").ok();
}
