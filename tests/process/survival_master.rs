//! The one death that no connection survives: the master's, while workers are killed and connections move. What is promised
//! then is an end that everybody sees at once, and nothing left: no worker, no keeper, no zygote, no port.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Scheduling, SpawnMethod};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

use crate::master_death::gone_in_time;
use crate::survival::alive;
use crate::survival_standby::cluster_at;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_shared",
        app: || stormed(Scheduling::Shared, SpawnMethod::Exec, 0),
        check: killed_in_the_storm,
    },
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_per_worker",
        app: || stormed(Scheduling::PerWorker, SpawnMethod::Exec, 1),
        check: killed_in_the_storm,
    },
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_round_robin",
        app: || stormed(Scheduling::RoundRobin, SpawnMethod::Zygote, 1),
        check: killed_in_the_storm,
    },
];

/// At an address of its own: nobody else may take the port when it is free again.
fn stormed(scheduling: Scheduling, spawn: SpawnMethod, standbys: u32) -> ExitCode {
    let host = std::env::var(HOST_VAR).unwrap_or_else(|_| "127.0.0.1".to_owned());
    let cluster = cluster_at(&host, 3, scheduling, spawn).standby(standbys);
    cluster.worker(load::serve).main()
}

fn killed_in_the_storm(master: &mut Master) {
    master.expect_ready();
    let rounds = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
        100
    } else {
        6
    };
    let host = master.own_host();
    let mut chance = 11;
    for _ in 0..rounds {
        let mut storm = Master::start_with(master.name(), |command| {
            command.env(HOST_VAR, host.to_string());
        });
        let port = storm.expect_ready().expect("it listens");
        let load = Load::start_at(SocketAddr::from((host, port)), 6);
        for kills in 1..=4 {
            load.goes_on_for(30);
            storm.until("somebody is ready", |storm| !alive(storm).is_empty());
            let alive = alive(&storm);
            let at = any_below(alive.len() as u64, &mut chance);
            send(alive[usize::try_from(at).expect("a few")], Signal::SIGKILL);
            // The last death may be in any state when the master's comes.
            if kills < 4 {
                storm.expect_count("exit", kills);
            }
        }
        let_pass(Duration::from_micros(any_below(6_000, &mut chance)));
        storm.signal(Signal::SIGKILL);
        gone_in_time(&mut storm);
        // Each of the clients goes on to ask, so that nobody may hang; and none may find an answer that is not whole.
        let outcome = load.stop();
        assert!(outcome.answered > 0 && !outcome.failed.is_empty(), "{outcome:?}");
        let is_an_end = |failed: &String| {
            let ends = ["ConnectionRefused", "ConnectionReset", "BrokenPipe", "UnexpectedEof"];
            ends.iter().any(|end| failed.contains(end))
        };
        let others: Vec<_> = outcome.failed.iter().filter(|failed| !is_an_end(failed)).collect();
        assert!(others.is_empty(), "{others:?}");
        storm.finish();
        TcpListener::bind((host, port)).expect("the port is free");
    }
}

/// The address to listen at.
const HOST_VAR: &str = "ACTIX_CLUSTER_TEST_HOST";
