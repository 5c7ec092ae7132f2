//! A cluster that heals itself: hangs, crashes and leaks that you bring about, and what is done about each.
//!
//! `cargo run --example self_healing`, then in another terminal one of these, and `curl localhost:8083` after it:
//!
//! | type | see |
//! |---|---|
//! | `curl localhost:8083` | `worker 1, pid …` |
//! | `curl -m 1 localhost:8083/hang` | within 3 s `worker … is unwell: …` twice, then `worker … ended: SIGKILL (hung: loop `main` did not turn)` and its successor |
//! | `curl localhost:8083/crash` | `ended: SIGABRT (crash)`, and its successor at once |
//! | `curl 'localhost:8083/leak?mb=100'` | `is replaced: …`: its successor is ready before it goes, and nobody is refused |
//! | `curl 'localhost:8083/leak?mb=200'` | `ended: SIGKILL (used too much memory: …)` |
//! | `kill -STOP` of a worker's pid | the same as for `/hang` |
//!
//! Limits are far shorter than the defaults of `HealthMonitor` and `MemoryWatchdog`, so that you need not wait.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, ClusterBuilder, ClusterEvent, EventKind, RestartLimit, ServeError, ToListenAddr, Worker};
use actix_cluster_actors::{HealthConfig, HealthMonitor, MemoryConfig, MemoryLimit, MemoryWatchdog};
use actix_web::{App, web};
use serde::Deserialize;

pub(crate) fn main() -> ExitCode {
    cluster("127.0.0.1:8083").on_event(|event, _| tell(event)).main()
}

/// The whole cluster; the suite of scenarios runs it on another address.
pub(crate) fn cluster(address: impl ToListenAddr) -> ClusterBuilder {
    // A beat every 0.2 s, a look every 0.5 s, 1 s of silence is a miss, and the third one is the end.
    let health = HealthConfig::new()
        .interval(Duration::from_millis(200))
        .check(Duration::from_millis(500))
        .stale_after(Duration::from_secs(1));
    let health = HealthMonitor::new(health).expect("the limits agree");
    // Replaced above 96 MiB and by chance up to 8 MiB more, killed at 160 MiB.
    let memory = MemoryConfig::new(MemoryLimit::mib(160))
        .period(Duration::from_millis(500))
        .soft(0.6)
        .spread(0.05);
    let memory = MemoryWatchdog::new(memory).expect("the limits agree");
    let cluster = Cluster::builder()
        .workers(2)
        .restart_limit(RestartLimit::new(100, Duration::from_secs(60)))
        .listen("http", address)
        .worker(serve);
    memory.attach(health.attach(cluster))
}

/// What is worth a line.
fn tell(event: &ClusterEvent) {
    let Some(worker) = &event.worker else { return };
    let worker = format!("worker {} (pid {})", worker.id, worker.pid.unwrap_or_default());
    match &event.kind {
        EventKind::Ready => println!("{worker} is ready"),
        EventKind::Unhealthy(why) => println!("{worker} is unwell: {why}"),
        EventKind::Recovered => println!("{worker} is well again"),
        EventKind::Recycling(why) => println!("{worker} is replaced: {why:?}"),
        EventKind::Exit(exit) => println!("{worker} ended: {exit}"),
        _ => {}
    }
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    let who = format!("worker {}, pid {}\n", worker.id(), worker.pid());
    let app = move || {
        let who = who.clone();
        App::new()
            .route("/", web::get().to(move || std::future::ready(who.clone())))
            .route("/hang", web::get().to(hang))
            .route("/crash", web::get().to(async || -> String { std::process::abort() }))
            .route("/leak", web::get().to(leak))
    };
    worker.serve("http", app).await
}

/// Blocks the loop that serves, for ever.
async fn hang() -> String {
    loop {
        std::thread::park();
    }
}

#[derive(Deserialize)]
struct Leak {
    mb: usize,
}

/// Keeps so much more memory.
async fn leak(query: web::Query<Leak>) -> String {
    let kept: &'static [u8] = Box::leak(vec![1; query.mb << 20].into_boxed_slice());
    format!("kept {} bytes\n", kept.len())
}
