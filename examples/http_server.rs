//! The program that outside measurements and tests drive: see `--help`, and the table of routes in `examples/README.md`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    Backoff, CallError, Cluster, ClusterBuilder, ClusterSnapshot, ListenAddr, ListenOptions, Message, RestartDelay,
    RestartLimit, Scheduling, SpawnMethod, Worker, WorkerRef,
};
use actix_cluster_actors::metrics::{Metrics, MetricsConfig, MetricsError, is_ours};
use actix_cluster_actors::{
    AutoscaleConfig, Autoscaler, EventLog, EventLogConfig, HealthConfig, HealthMonitor, MemoryConfig, MemoryLimit,
    MemoryWatchdog,
};
use actix_web::{App, HttpResponse, HttpServer, Responder, web};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

/// A clustered HTTP server with routes for every way to go wrong.
///
/// Restarts are at once and without a limit unless `--backoff-ms` or `--max-restarts` says otherwise.
#[derive(Parser)]
pub(crate) struct Args {
    /// Where to listen: host:port, *:port or unix:/path.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: ListenAddr,
    /// How many workers to keep; default: one for each CPU.
    #[arg(long)]
    workers: Option<u32>,
    /// How many more to keep booted without a slot, ready to follow one that ends.
    #[arg(long, default_value_t = 0)]
    standby: u32,
    /// Keep as many as the load asks for, from MIN to MAX; `--workers` is how many to begin with, default MIN.
    #[arg(long, value_name = "MIN..MAX", value_parser = range)]
    autoscale: Option<(u32, u32)>,
    /// How connections are spread; default: per-worker for TCP, shared for Unix paths.
    #[arg(long)]
    scheduling: Option<Spread>,
    /// Let connections die with the worker that is killed; default: on TCP others serve them on (`survive_kill`).
    #[arg(long)]
    no_survive_kill: bool,
    /// Answer a request 502 instead of beginning it once more, whatever its workers died of; default: only deaths that may
    /// be its doing count, and the second of them is the last.
    #[arg(long, value_name = "N", conflicts_with = "no_survive_kill", value_parser = clap::value_parser!(u8).range(1..))]
    max_runs: Option<u8>,
    /// Who accepts: the cluster's own loop, or an unmodified actix-web server.
    #[arg(long, default_value = "own")]
    server: Server,
    /// How workers come to be: the program is executed anew, or copied from a zygote (faster; see `SpawnMethod`).
    #[arg(long, default_value = "exec")]
    spawn: Method,
    /// Write every event as one JSON line on standard output.
    #[arg(long)]
    events: Option<Format>,
    /// Offer the routes that break things.
    #[arg(long)]
    faults: bool,
    /// Where to serve `/metrics` and `/healthz`, on a loopback address; with port 0, standard error tells which.
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Restarts of one slot within 60 s; default: no limit.
    #[arg(long)]
    max_restarts: Option<u32>,
    /// Delay before the second restart in a row, doubling from there; default: restarts are at once.
    #[arg(long)]
    backoff_ms: Option<u64>,
    /// How long a worker may take to stop, in milliseconds.
    #[arg(long, default_value_t = 30_000)]
    grace_ms: u64,
    /// How long a worker that was told to stop goes on accepting, not ready any more, before it drains; in milliseconds.
    #[arg(long, default_value_t = 0)]
    lame_duck_ms: u64,
    /// Watch the workers' heartbeats and kill those whose event loop no longer turns; see `--health-ms`.
    #[arg(long)]
    health: bool,
    /// How long a worker may be silent before a check counts it as a miss, in milliseconds; the third miss in a row is the end. It beats
    /// ten times in it, and is looked at twice.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=3_600_000))]
    health_ms: u64,
    /// Replace workers above nine tenths of so much memory, and kill those that reach it; default: no limit.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    memory_limit_mb: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spread {
    Shared,
    PerWorker,
    RoundRobin,
    LeastConnections,
    TwoChoices,
    Sticky,
}

#[derive(Clone, Copy, ValueEnum)]
enum Server {
    Own,
    HttpServer,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    Exec,
    Zygote,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Json,
}

pub(crate) fn main() -> ExitCode {
    // Wrong usage ends it here.
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_writer(std::io::stderr)
        // Standard error may be full: then lines are lost, not the master.
        .log_internal_errors(false)
        .init();
    run(&args)
}

/// Runs it with what was asked for; the suite of scenarios does, too.
pub(crate) fn run(args: &Args) -> ExitCode {
    match metered(args, cluster(args)) {
        Ok(cluster) => cluster.main(),
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                // As for every contradiction in what was asked for.
                MetricsError::Remote(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// With metrics, if they are wanted.
fn metered(args: &Args, cluster: ClusterBuilder) -> Result<ClusterBuilder, MetricsError> {
    let Some(address) = args.metrics else {
        return Ok(cluster);
    };
    let metrics = Metrics::new(MetricsConfig::new().listen(address));
    let view = metrics.view();
    // Where health is watched, workers beat as often as that needs.
    let cluster = if args.health {
        cluster
    } else {
        cluster.heartbeat(Duration::from_secs(3))
    };
    let cluster = metrics.attach(cluster)?;
    if let Some(address) = view.address() {
        eprintln!("metrics at http://{address}/metrics");
    }
    Ok(cluster)
}

/// Warnings and worse, unless `RUST_LOG` says otherwise.
fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}

fn cluster(args: &Args) -> ClusterBuilder {
    let (server, faults) = (args.server, args.faults);
    let mut builder = Cluster::builder()
        .listen_with("http", &args.listen, args.listen_options())
        .spawn(args.spawn_method())
        .standby(args.standby)
        .restart_delay(args.restart_delay())
        .restart_limit(args.restart_limit())
        .grace(Duration::from_millis(args.grace_ms))
        .lame_duck(Duration::from_millis(args.lame_duck_ms))
        .worker(move |worker| serve(worker, server, faults))
        .on_message(|worker, message| answer(&worker, &message));
    if let Some(workers) = args.workers.or(args.autoscale.map(|(min, _)| min)) {
        builder = builder.workers(workers);
    }
    if let Some((min, max)) = args.autoscale {
        let scaler = Autoscaler::new(AutoscaleConfig::new().min(min).max(max));
        builder = scaler.expect("the range was checked").attach(builder);
    }
    if let Some(limit) = args.memory_limit_mb {
        let config = MemoryConfig::new(MemoryLimit::mib(limit));
        builder = MemoryWatchdog::new(config)
            .expect("a limit of at least 1 MiB")
            .attach(builder);
    }
    if args.health {
        let silence = Duration::from_millis(args.health_ms);
        let config = HealthConfig::new()
            .stale_after(silence)
            .interval(silence / 10)
            .check(silence / 2);
        let health = HealthMonitor::new(config).expect("the parts agree from 1 s on");
        builder = health.attach(builder);
    }
    match args.events {
        // On a thread of its own: nobody may be reading standard output.
        Some(Format::Json) => {
            let log = EventLog::new(EventLogConfig::new(), std::io::stdout());
            log.attach(builder)
        }
        None => builder,
    }
}

impl Args {
    fn listen_options(&self) -> ListenOptions {
        // Elsewhere it is refused: the kernel does not count the bytes of a Unix socket.
        let is_tcp = matches!(self.listen, ListenAddr::Tcp(_) | ListenAddr::AnyHost { .. });
        let mut options = ListenOptions::new().survive_kill(is_tcp && !self.no_survive_kill);
        options.max_runs = self.max_runs;
        options.scheduling = self.scheduling.map(|spread| match spread {
            Spread::Shared => Scheduling::Shared,
            Spread::PerWorker => Scheduling::PerWorker,
            Spread::RoundRobin => Scheduling::RoundRobin,
            Spread::LeastConnections => Scheduling::LeastConnections,
            Spread::TwoChoices => Scheduling::TwoChoices,
            Spread::Sticky => Scheduling::Sticky,
        });
        options
    }

    const fn spawn_method(&self) -> SpawnMethod {
        match self.spawn {
            Method::Exec => SpawnMethod::Exec,
            Method::Zygote => SpawnMethod::Zygote,
        }
    }

    /// At once, unless asked otherwise: storms are driven from outside.
    fn restart_delay(&self) -> RestartDelay {
        self.backoff_ms.map_or(RestartDelay::AtOnce, |base| {
            RestartDelay::Backoff(Backoff::new().base(Duration::from_millis(base)))
        })
    }

    fn restart_limit(&self) -> RestartLimit {
        self.max_restarts.map_or(RestartLimit::unlimited(), |max| {
            RestartLimit::new(max, Duration::from_secs(60))
        })
    }
}

/// `MIN..MAX`, both included.
fn range(text: &str) -> Result<(u32, u32), String> {
    let (min, max) = text
        .split_once("..")
        .ok_or("two numbers with `..` between them, as in 2..8")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number of workers"));
    let (min, max) = (number(min)?, number(max)?);
    if min == 0 || min > max {
        return Err("MIN is at least 1, and MAX no less".to_owned());
    }
    Ok((min, max))
}

/// Master: workers ask for the cluster's state.
fn answer(worker: &WorkerRef, message: &Message) {
    if let Some(reply) = message.reply()
        && !is_ours(message)
    {
        // A snapshot has a JSON form; the call of a worker that is gone needs no answer.
        reply.ok(&worker.cluster().snapshot()).ok();
    }
}

/// Worker: the application, behind one of the two ways to accept.
async fn serve(worker: Worker, server: Server, faults: bool) -> Result<(), Box<dyn std::error::Error>> {
    let routes = {
        let worker = worker.clone();
        move |config: &mut web::ServiceConfig| routes(config, worker.clone(), faults)
    };
    match server {
        Server::Own => worker.serve("http", move || App::new().configure(routes)).await?,
        Server::HttpServer => {
            let server = HttpServer::new(move || App::new().configure(routes.clone()));
            // It accepts as soon as it has a socket, which a worker that stands by has not.
            worker.activated().await;
            let server = server.workers(1).disable_signals().listen(worker.listener("http")?)?;
            worker.run_server(server.run()).await?;
        }
    }
    Ok(())
}

fn routes(config: &mut web::ServiceConfig, worker: Worker, faults: bool) {
    config
        .app_data(web::Data::new(worker))
        .app_data(web::PayloadConfig::new(64 << 20))
        .route("/", web::get().to(async || format!("{}\n", std::process::id())))
        .route("/slow", web::get().to(slow))
        .route("/echo", web::post().to(async |body: web::Bytes| body))
        .route("/ready", web::get().to(ready))
        .route("/state", web::get().to(state));
    if faults {
        config
            .route("/crash", web::get().to(async || -> String { std::process::abort() }))
            .route("/hang", web::get().to(hang))
            .route("/leak", web::get().to(leak));
    }
}

#[derive(Deserialize)]
struct Slow {
    ms: u64,
}

async fn slow(query: web::Query<Slow>) -> impl Responder {
    tokio::time::sleep(Duration::from_millis(query.ms)).await;
    format!("{}\n", std::process::id())
}

async fn state(worker: web::Data<Worker>) -> Result<web::Json<ClusterSnapshot>, actix_web::Error> {
    let snapshot: Result<ClusterSnapshot, CallError> = worker.call("state", Duration::from_secs(5)).await;
    snapshot
        .map(web::Json)
        .map_err(actix_web::error::ErrorServiceUnavailable)
}

/// For load balancers: 503 from the moment in which this worker is told to stop.
async fn ready(worker: web::Data<Worker>) -> HttpResponse {
    if worker.is_ready() {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().body("not ready\n")
    }
}

/// Blocks the event loop for ever, not just this request.
async fn hang() -> HttpResponse {
    loop {
        std::thread::park();
    }
}

#[derive(Deserialize)]
struct Leak {
    mb: usize,
}

async fn leak(query: web::Query<Leak>) -> String {
    let kept: &'static [u8] = Box::leak(vec![1; query.mb << 20].into_boxed_slice());
    format!("kept {} bytes\n", kept.len())
}
