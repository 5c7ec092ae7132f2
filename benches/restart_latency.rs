//! `kill -9` of the only worker until its successor has answered.
//!
//! The client connects right after the kill, so its connection waits in the queue that the master keeps open. A second
//! series reads the master's events too, to see where the time goes. `ACTIX_CLUSTER_BENCH_SERVER=PATH` measures another
//! program with the options of the example `http_server`, for example one that was built differently.

use std::process::ExitCode;

use actix_cluster_benches::kill::{Latencies, Steps, kill_and_ask};
use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, number};

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
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", 300);
    for role in [Role::PerWorker, Role::Shared] {
        let server = Server::start(role, 1, Events::Off)?;
        let mut latencies = Latencies::default();
        for _ in 0..kills {
            latencies.add(kill_and_ask(&server)?);
        }
        println!("{}: SIGKILL to first answer: {}", role.name(), latencies.told());
    }
    let server = Server::start(Role::PerWorker, 1, Events::On)?;
    let (mut steps, mut latencies) = (Steps::default(), Latencies::default());
    for _ in 0..kills.div_ceil(2) {
        latencies.add(steps.kill_and_ask(&server)?);
    }
    println!(
        "per-worker, medians in µs from the SIGKILL (with events written): {}; answer {}",
        steps.told(&[50]),
        latencies.told()
    );
    Ok(())
}
