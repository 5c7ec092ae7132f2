//! `kill -9` of the only worker until somebody else has answered: with a worker that stands by, and with one that is started.
//!
//! The servers run side by side and are killed in turn, each when it has come to rest: with the standby booted again. The
//! client connects right after the kill, so its connection waits in the queue that the master keeps open.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_benches::server::{self, Events, Role, Server};
use actix_cluster_benches::{Failure, load, micros, now, number, percentile, rest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    server: Server,
    latencies: Vec<Duration>,
    failures: u32,
}

fn measure() -> Result<(), Failure> {
    let kills = number("ACTIX_CLUSTER_BENCH_KILLS", 300);
    let mut all = Vec::new();
    for role in [Role::PerWorker, Role::Standby, Role::Shared, Role::StandbyShared] {
        all.push(Measured {
            role,
            server: Server::start(role, 1, Events::On)?,
            latencies: Vec::new(),
            failures: 0,
        });
    }
    for _ in 0..kills {
        for measured in &mut all {
            measured.kill_and_ask()?;
        }
    }
    println!("SIGKILL to first answer, {kills} kills each:");
    for measured in &mut all {
        println!(
            "{:>20}: p50 {} µs, p90 {} µs, p99 {} µs, {} failed attempts",
            measured.role.name(),
            micros(percentile(&mut measured.latencies, 50)),
            micros(percentile(&mut measured.latencies, 90)),
            micros(percentile(&mut measured.latencies, 99)),
            measured.failures,
        );
    }
    Ok(())
}

impl Measured {
    /// The state in which there is nothing more to come: everybody is ready, or stands by again.
    const fn last_event(&self) -> &'static str {
        match self.role {
            Role::Standby | Role::StandbyShared => "standby",
            Role::PerWorker
            | Role::Shared
            | Role::RoundRobin
            | Role::LeastConnections
            | Role::TwoChoices
            | Role::Sticky
            | Role::Recorded
            | Role::Zygote
            | Role::Threads => "all_ready",
        }
    }

    fn kill_and_ask(&mut self) -> Result<(), Failure> {
        loop {
            let line = self.server.events.recv_timeout(Duration::from_secs(20))?;
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["event"] == self.last_event() {
                break;
            }
        }
        let victim = load::ask(self.server.address)?;
        rest(Duration::from_millis(10));
        let begun = now();
        kill(Pid::from_raw(victim.cast_signed()), Signal::SIGKILL)?;
        for _ in 0..1000 {
            match load::ask(self.server.address) {
                Ok(pid) if pid != victim => {
                    self.latencies.push(begun.elapsed());
                    return Ok(());
                }
                Ok(_) | Err(_) => self.failures += 1,
            }
        }
        Err("nobody else answers".into())
    }
}
