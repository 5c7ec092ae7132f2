//! What a flight recorder costs: a marker, a request of the worker's own server, and answers per second with and without.
//!
//! The answers are measured in turns, with and without, so that a slow second of the machine hits both alike.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, RestartType, Worker};
use actix_cluster_benches::http::Connection;
use actix_cluster_benches::load::{self, Load};
use actix_cluster_benches::rounds;
use actix_cluster_benches::server::{self, Role};
use actix_cluster_benches::{Failure, median, now, number};

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
    }
    // In a cluster's worker this ends the process.
    let recorded = if std::env::var_os(PLAIN).is_some() { 0 } else { 32 << 10 };
    let notes = || {
        Cluster::builder()
            .workers(1)
            .restart(RestartType::Temporary)
            .flight_recorder(recorded)
            .worker(note)
            .run()
    };
    if actix_cluster::is_worker() {
        return ExitCode::from(u8::from(notes().is_err()));
    }
    println!("| what | ns, the best of {TURNS} turns of {TIMES} |");
    println!("|---|---|");
    let measured = notes().map_err(Failure::from);
    match measured.and_then(|_| answers()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The worker that measures its own notes.
async fn note(worker: Worker) {
    for len in [0, 20, 80, 216] {
        let text = "x".repeat(len);
        let ns = best(|| worker.mark(black_box(&text)));
        println!("| marker of {len} bytes | {ns:.1} |");
    }
    let ns = best(|| {
        let request = worker.note_request(black_box("GET /some/path/of/usual/length"));
        request.running(|| black_box(()));
    });
    println!("| request of 30 bytes, begun, polled once and ended | {ns:.1} |");
}

/// Nanoseconds of one call.
fn best(mut work: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..TURNS {
        let begun = now();
        (0..TIMES).for_each(|_| work());
        best = best.min(begun.elapsed());
    }
    best.as_secs_f64() * 1e9 / f64::from(TIMES)
}

fn answers() -> Result<(), Failure> {
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 15);
    let time = Duration::from_secs(number("ACTIX_CLUSTER_BENCH_SECONDS", 1) as u64);
    let order = Load {
        connections: 32,
        time,
        connection: Connection::KeepAlive,
    };
    let servers = rounds::run(&[Role::PerWorker, Role::Recorded], order, rounds, load::run)?;
    println!("\n2 workers, 32 kept connections, {rounds} rounds of {time:?}; medians");
    println!("| recorder | req/s | of without | cpu µs/req |");
    println!("|---|---|---|---|");
    for (name, server) in ["none", "32 KiB"].into_iter().zip(&servers) {
        let ratio = median(&mut server.ratios(&servers[0]));
        println!(
            "| {name} | {:.0} | {ratio:.3} | {:.2} |",
            server.rate(),
            server.cpu_micros()
        );
    }
    Ok(())
}

/// Set: the worker has no recorder, and what is left is the price of a look.
const PLAIN: &str = "ACTIX_CLUSTER_BENCH_PLAIN";
const TURNS: u32 = 20;
const TIMES: u32 = 100_000;
