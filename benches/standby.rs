//! `kill -9` of the only worker until somebody else has answered: with a worker that stands by, with one that is executed, and with
//! one that a zygote makes.
//!
//! The servers run side by side and are killed in turn, each when it has come to rest: with the standby booted again. The
//! client connects right after the kill, so its connection waits in the queue that the master keeps open.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_benches::kill::{Latencies, kill_and_ask};
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

/// One server, and what was measured of it.
struct Measured {
    role: Role,
    /// The state in which there is nothing more to come: everybody is ready, or stands by again.
    last_event: &'static str,
    server: Server,
    latencies: Latencies,
}

fn measure() -> Result<(), Failure> {
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", 300);
    let mut all = Vec::new();
    for (role, last_event) in [
        (Role::PerWorker, "all_ready"),
        (Role::Zygote, "all_ready"),
        (Role::Standby, "standby"),
        (Role::Shared, "all_ready"),
        (Role::ZygoteShared, "all_ready"),
        (Role::StandbyShared, "standby"),
    ] {
        all.push(Measured {
            role,
            last_event,
            server: Server::start(role, 1, Events::On)?,
            latencies: Latencies::default(),
        });
    }
    for round in 0..kills {
        // Nobody is always the first after a pause of the machine.
        for turn in 0..all.len() {
            let at = (round + turn) % all.len();
            all[at].kill_and_ask()?;
        }
    }
    println!("SIGKILL to first answer:");
    for measured in &all {
        println!("{:>20}: {}", measured.role.name(), measured.latencies.told());
    }
    Ok(())
}

impl Measured {
    fn kill_and_ask(&mut self) -> Result<(), Failure> {
        self.server.await_event(self.last_event, Duration::from_secs(20))?;
        self.latencies.add(kill_and_ask(&self.server)?);
        Ok(())
    }
}
