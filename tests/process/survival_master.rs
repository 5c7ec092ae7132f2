//! The one death that no connection survives: the master's, while workers are killed and connections move. What is promised
//! then is an end that everybody sees at once, and nothing left: no worker, no keeper, no zygote, no port.

use std::net::TcpListener;
use std::time::Duration;

use actix_cluster::{Scheduling, SpawnMethod};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

use crate::master_death::gone_in_time;
use crate::survival::alive;
use crate::survival_standby::cluster;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_shared",
        app: || {
            let cluster = cluster(3, Scheduling::Shared, SpawnMethod::Exec);
            cluster.worker(load::serve).main()
        },
        check: killed_in_the_storm,
    },
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_per_worker",
        app: || {
            let cluster = cluster(3, Scheduling::PerWorker, SpawnMethod::Exec).standby(1);
            cluster.worker(load::serve).main()
        },
        check: killed_in_the_storm,
    },
    Scenario {
        name: "survival_a_master_that_is_killed_in_a_storm_leaves_nothing_and_nobody_waiting_round_robin",
        app: || {
            let cluster = cluster(3, Scheduling::RoundRobin, SpawnMethod::Zygote).standby(1);
            cluster.worker(load::serve).main()
        },
        check: killed_in_the_storm,
    },
];

fn killed_in_the_storm(master: &mut Master) {
    master.expect_ready();
    let rounds = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
        100
    } else {
        6
    };
    let mut chance = 11;
    for _ in 0..rounds {
        let mut storm = Master::start(master.name());
        let port = storm.expect_ready().expect("it listens");
        let load = Load::start(port, 6);
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
        TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    }
}
