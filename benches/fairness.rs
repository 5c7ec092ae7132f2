//! Who gets how much under each way to spread connections, and what handing them over costs.
//!
//! First 1,000 connections each, one after the other and from 32 clients at once. Then answers per second, all servers at
//! the same time and loaded in turn, round by round, with the processor time of the master alone and of all processes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_cluster_benches::http::{self, Connection};
use actix_cluster_benches::load::{self, Load};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, number, rounds};

const ROLES: [Role; 6] = [
    Role::Shared,
    Role::PerWorker,
    Role::RoundRobin,
    Role::LeastConnections,
    Role::TwoChoices,
    Role::Sticky,
];
const COSTS: [Role; 4] = [Role::PerWorker, Role::Shared, Role::RoundRobin, Role::LeastConnections];

fn main() -> ExitCode {
    if let Some(code) = server::play() {
        return code;
    }
    match spread().and_then(|()| cost()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn spread() -> Result<(), Failure> {
    println!("| scheduling | workers | clients | share of each worker, ‰ | widest from even |");
    println!("|---|---|---|---|---|");
    for workers in [2, 4] {
        for role in ROLES {
            for clients in [1, 32] {
                // A new one each time: what came before is not to be evened out.
                let server = Server::start(role, workers, Events::On)?;
                // Whoever is not ready yet would have no share.
                server.await_event("all_ready", Duration::from_secs(10))?;
                let shares = ask_all(&server, clients)?;
                let mut shares: Vec<usize> = shares.into_values().collect();
                if shares.len() > workers {
                    return Err(format!("{} processes answered for {workers} workers", shares.len()).into());
                }
                shares.resize(workers, 0);
                let even = CONNECTIONS / workers;
                let widest = shares.iter().map(|share| share.abs_diff(even)).max().unwrap_or(0);
                let shares: Vec<String> = shares.iter().map(ToString::to_string).collect();
                println!(
                    "| {} | {workers} | {clients} | {} | {widest} |",
                    role.name(),
                    shares.join("/")
                );
            }
        }
    }
    Ok(())
}

/// 1,000 connections: how many each process served.
fn ask_all(server: &Server, clients: usize) -> Result<BTreeMap<u32, usize>, Failure> {
    let (begun, address) = (AtomicUsize::new(0), server.address);
    let ask = || {
        let mut served = Vec::new();
        while begun.fetch_add(1, Ordering::SeqCst) < CONNECTIONS {
            served.push(http::ask(address)?);
        }
        Ok::<_, std::io::Error>(served)
    };
    let mut shares = BTreeMap::new();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        for client in asking {
            for pid in client.join().map_err(|_| "a client panicked")?? {
                *shares.entry(pid).or_default() += 1;
            }
        }
        Ok(shares)
    })
}

fn cost() -> Result<(), Failure> {
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 9);
    let time = Duration::from_secs(number("ACTIX_CLUSTER_BENCH_SECONDS", 1) as u64);
    println!("\n2 workers, 32 connections, {rounds} rounds of {time:?}; medians");
    println!(
        "| scheduling | connections | req/s | of per-worker | cpu µs/req | master µs/req | p50 µs | p99 µs | errors |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for connection in [Connection::New, Connection::KeepAlive] {
        let order = Load {
            connections: 32,
            time,
            connection,
        };
        let candidates = rounds::run(&COSTS, order, rounds, load::run)?;
        for candidate in &candidates {
            println!(
                "| {} | {:.1} | {:.1} | {} |",
                candidate.row(&candidates[0], connection),
                candidate.cpu_micros(),
                candidate.master_micros(),
                candidate.latencies_and_errors(),
            );
        }
    }
    Ok(())
}

const CONNECTIONS: usize = 1000;
