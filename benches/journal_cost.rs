//! What it costs that connections outlive their worker: the same cluster with and without, in the same run.
//!
//! Servers of two workers are loaded in turns, round by round, so that a slow second of the machine is a slow second
//! for all. There are three: as ever; with keepers, and the journal on every connection (`survive_kill`); and as ever
//! once more, which tells how much of a difference is noise.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_benches::http::Connection;
use actix_cluster_benches::load::{self, Load};
use actix_cluster_benches::rounds::{self, Candidate};
use actix_cluster_benches::server::{self, Role};
use actix_cluster_benches::{Failure, number, quantile};

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
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
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 21);
    let time = Duration::from_millis(number("ACTIX_CLUSTER_BENCH_MILLIS", 500) as u64);
    println!("2 workers, 32 connections, {rounds} rounds of {time:?} each; medians");
    println!("| connections | server | req/s | ratio, median (quartiles) | cpu µs/req | p50 µs | p99 µs | errors |");
    println!("|---|---|---|---|---|---|---|---|");
    for connection in [Connection::New, Connection::KeepAlive] {
        let order = Load {
            connections: 32,
            time,
            connection,
        };
        let servers = [Role::PerWorker, Role::Survives, Role::PerWorker];
        let servers = rounds::run(&servers, order, rounds, load::run)?;
        for (name, server) in ["as ever", "survives", "as ever, again"].into_iter().zip(&servers) {
            tell(name, server, &servers[0], connection);
        }
    }
    Ok(())
}

fn tell(name: &str, server: &Candidate, base: &Candidate, connection: Connection) {
    let mut ratios = server.ratios(base);
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| quantile(&mut ratios, part));
    println!(
        "| {} | {name} | {:.0} | {middle:.3} ({low:.3}–{high:.3}) | {:.1} | {} |",
        connection.name(),
        server.rate(),
        server.cpu_micros(),
        server.latencies_and_errors(),
    );
}
