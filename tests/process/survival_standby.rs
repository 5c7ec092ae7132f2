//! Standbys, zygotes and connections that survive, together: each piece has its own suite, and here they meet.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, ListenOptions, RestartLimit, Scheduling, SpawnMethod};
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::any_below;
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::seen::Seen;
use nix::sys::signal::Signal;

use crate::survival::{self, Client};
use crate::survival_attacks::starved;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_standby_answers_what_its_predecessor_had_begun_shared",
        app: || standing_by(Scheduling::Shared, SpawnMethod::Exec),
        check: promoted_in_a_request,
    },
    Scenario {
        name: "survival_standby_answers_what_its_predecessor_had_begun_per_worker",
        app: || standing_by(Scheduling::PerWorker, SpawnMethod::Exec),
        check: promoted_in_a_request,
    },
    Scenario {
        name: "survival_standby_answers_what_its_predecessor_had_begun_round_robin",
        app: || standing_by(Scheduling::RoundRobin, SpawnMethod::Exec),
        check: promoted_in_a_request,
    },
    Scenario {
        name: "survival_standby_of_a_zygote_answers_what_its_predecessor_had_begun",
        app: || standing_by(Scheduling::RoundRobin, SpawnMethod::Zygote),
        check: promoted_in_a_request,
    },
    Scenario {
        name: "survival_standby_without_a_free_descriptor_fails_and_the_next_one_answers",
        app: || {
            let cluster = cluster(1, Scheduling::Shared, SpawnMethod::Exec).standby(2);
            cluster.worker(starved).main()
        },
        check: failed_activation,
    },
    Scenario {
        name: "survival_standby_of_the_old_generation_gets_no_slot_of_the_new_one_in_the_midst_of_a_reload",
        app: || {
            let cluster = cluster(2, Scheduling::RoundRobin, SpawnMethod::Exec).standby(2);
            cluster.worker(survival::serve).main()
        },
        check: killed_in_a_reload,
    },
    Scenario {
        name: "survival_storm_of_kills_among_workers_of_a_zygote_that_stand_by_and_take_turns_costs_nothing",
        app: || {
            let cluster = cluster(3, Scheduling::RoundRobin, SpawnMethod::Zygote).standby(1);
            cluster.worker(load::serve).main()
        },
        check: |master| storm(master, 20),
    },
    Scenario {
        name: "survival_storm_of_kills_among_workers_of_a_zygote_that_take_turns_costs_nothing",
        app: || {
            let cluster = cluster(3, Scheduling::RoundRobin, SpawnMethod::Zygote);
            cluster.worker(load::serve).main()
        },
        check: |master| storm(master, 20),
    },
];

pub(crate) fn cluster(workers: u32, scheduling: Scheduling, spawn: SpawnMethod) -> ClusterBuilder {
    cluster_at("127.0.0.1", workers, scheduling, spawn)
}

/// [`cluster`] at another address of this machine.
pub(crate) fn cluster_at(host: &str, workers: u32, scheduling: Scheduling, spawn: SpawnMethod) -> ClusterBuilder {
    let options = ListenOptions::new().survive_kill(true).scheduling(scheduling);
    let cluster = probe::cluster().workers(workers).spawn(spawn);
    let cluster = cluster.restart_limit(RestartLimit::unlimited());
    cluster.listen_with("http", format!("{host}:0"), options)
}

fn standing_by(scheduling: Scheduling, spawn: SpawnMethod) -> ExitCode {
    cluster(1, scheduling, spawn).standby(1).worker(survival::serve).main()
}

const HELD: &str = "GET /held HTTP/1.1\r\nhost: x\r\n\r\n";

fn gate(master: &Master, is_open: bool) {
    let path = master.directory().join("gate");
    if is_open {
        fs::write(path, "").expect("the directory is ours");
    } else {
        fs::remove_file(path).ok();
    }
}

/// Three times over: the active worker is killed with a request begun, one unread, and a connection between two.
fn promoted_in_a_request(master: &mut Master) {
    let mut waits = Client::of(master);
    let mut idle = Client::of(master);
    let mut active = waits.pid();
    assert_eq!(idle.pid(), active);
    for next in 2..=4 {
        let standby = master.sees(next, "standby").pid();
        gate(master, false);
        let begun = master.count_said("begun");
        waits.say(HELD);
        master.until("the request has begun", |master| master.count_said("begun") > begun);
        let mut half = Client::of(master);
        half.say("GET / HTTP/1.1\r\nho");
        send(active, Signal::SIGKILL);
        assert_eq!(idle.pid(), standby);
        assert_eq!(waits.finished(master), standby.to_string());
        half.say("st: x\r\n\r\n");
        assert_eq!(half.answer().body, standby.to_string());
        assert_eq!(waits.pid(), standby);
        master.sees(next, "promoted");
        active = standby;
    }
    assert_eq!(master.seen("exit").len(), 3);
}

fn failed_activation(master: &mut Master) {
    let mut client = Client::of(master);
    let first = client.pid();
    master.sees(2, "standby");
    let third = master.sees(3, "standby").pid();
    fs::write(master.directory().join("starve"), "").expect("the directory is ours");
    master.hears("starved");
    client.say(HELD);
    master.hears("begun");
    send(first, Signal::SIGKILL);
    let exit = master.sees(2, "exit");
    assert_eq!(exit.code(), Some(1), "{exit:?}");
    assert_eq!(master.counts_of(2, ["promoted", "listening", "ready"]), [1, 0, 0]);
    master.sees(3, "ready");
    assert_eq!(client.finished(master), third.to_string());
    assert_eq!(client.pid(), third);
}

/// A kill in the pause between two batches sends everybody back, so that the standbys of the old generation are the right
/// ones. After a reload that went well they are not, and gone.
fn killed_in_a_reload(master: &mut Master) {
    let mut clients: Vec<Client> = (0..4).map(|_| Client::of(master)).collect();
    for client in &mut clients {
        client.pid();
    }
    master.sees(3, "standby");
    master.sees(4, "standby");
    let pause_ms = limit(Duration::from_millis(1_500)).as_millis() as u64;
    let care = Care {
        pause_ms,
        ..Care::default()
    };
    master.order(&Order::Reload(care));
    let new = master.sees(5, "ready");
    assert_eq!(new.0["worker"]["generation"], 1);
    master.sees(1, "exit");
    send(new.pid(), Signal::SIGKILL);
    let finished = master.expect_count("reload_finished", 1).swap_remove(0);
    assert!(finished.data()["result"]["Err"].is_object(), "{finished:?}");
    for client in &mut clients {
        client.pid();
    }
    master.post();
    assert!(all_are_of(master, 0), "{}", master.snapshot());
    let before = master.seen("promoted");
    assert!(
        before.iter().all(|promoted| promoted.0["worker"]["generation"] == 0),
        "{before:?}"
    );

    let generation: u64 = master
        .ask(&Order::Reload(Care::default()), "reloaded ")
        .parse()
        .expect("a number");
    for client in &mut clients {
        client.pid();
    }
    let stands_by = |master: &Master| {
        let seen = master.seen("standby");
        seen.into_iter()
            .find(|seen| seen.0["worker"]["generation"] == generation)
    };
    master.until("one of the new generation stands by", |master| {
        stands_by(master).is_some()
    });
    gate(master, false);
    let begun = master.count_said("begun");
    for client in &mut clients {
        client.say(HELD);
    }
    master.until("all have begun", |master| master.count_said("begun") == begun + 4);
    let promoted = master.seen("promoted").len();
    send(alive(master)[0], Signal::SIGKILL);
    let promoted = master.expect_count("promoted", promoted + 1).swap_remove(promoted);
    assert_eq!(promoted.0["worker"]["generation"], generation);
    for client in &mut clients {
        client.finished(master);
        client.pid();
    }
    assert!(all_are_of(master, generation), "{}", master.snapshot());
}

fn all_are_of(master: &mut Master, generation: u64) -> bool {
    let snapshot = master.snapshot();
    let slots = snapshot["workers"].as_array().expect("a list");
    slots
        .iter()
        .filter(|worker| worker["standby"] == false)
        .all(|worker| worker["generation"] == generation)
}

fn storm(master: &mut Master, kills: usize) {
    let port = master.expect_ready().expect("it listens");
    let load = Load::start(port, 8);
    let mut chance = 3;
    for count in 1..=kills {
        load.goes_on_for(60);
        let alive = || alive(master);
        master.until("somebody serves", |_| !alive().is_empty());
        let alive = alive();
        let at = any_below(alive.len() as u64, &mut chance);
        send(alive[usize::try_from(at).expect("a few")], Signal::SIGKILL);
        master.expect_count("exit", count);
    }
    load.goes_on_for(60);
    load.stop().is_flawless();
    let lost = master.seen("rescued").into_iter().find(|seen| seen.data()["lost"] != 0);
    assert!(lost.is_none(), "{lost:?}");
    assert!(!master.seen("rescued").is_empty(), "nothing was at stake");
}

/// The process ids of those that have a slot and are ready.
fn alive(master: &Master) -> Vec<u32> {
    let (ready, exits) = (master.seen("ready"), master.seen("exit"));
    let lives = |ready: &&Seen| exits.iter().all(|exit| exit.worker() != ready.worker());
    ready.iter().filter(lives).map(Seen::pid).collect()
}
