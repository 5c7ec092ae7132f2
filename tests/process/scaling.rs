//! More workers, fewer workers, and other workers in the place of old ones, while clients ask.

use std::time::Duration;

use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::outside::any_below;
use actix_cluster_tests::probe::{Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::reload::{new_is_held, next_result, open, pids, runs};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "i_24_a_cluster_grows_and_shrinks_to_nothing_and_comes_back_and_fails_no_request",
        app: || load::cluster().workers(2).main(),
        check: up_and_down,
    },
    Scenario {
        name: "f_178_signals_scale_by_one_and_never_below_none",
        app: || load::cluster().workers(1).main(),
        check: by_signal,
    },
    Scenario {
        name: "f_178_an_impossible_number_of_workers_is_brought_to_what_can_be_and_told",
        app: || load::cluster().workers(2).main(),
        check: |master| {
            master.expect_ready();
            assert_eq!(master.ask(&Order::Scale(1 << 31), "scaled "), "100000");
            let scaled = master.expect("scaled");
            assert_eq!(
                (&scaled.data()["from"], &scaled.data()["to"]),
                (&2.into(), &100_000.into())
            );
            // Nothing of it is irrevocable, and the master is not too busy with it to hear that.
            assert_eq!(master.ask(&Order::Scale(3), "scaled "), "3");
            settles(master, 3, 0);
        },
    },
    Scenario {
        name: "f_172_scaling_during_a_reload_ends_at_the_last_target_and_the_new_generation",
        app: || load::cluster().workers(3).worker(new_is_held).main(),
        check: during_a_reload,
    },
    Scenario {
        name: "f_172_a_reload_during_scaling_reaches_everybody",
        app: || load::cluster().workers(2).main(),
        check: |master| {
            let port = master.expect_ready().unwrap();
            let load = Load::start(port, 2);
            let mut chance = 1;
            for generation in 1..=10 {
                // Never all of them gone: somebody serves.
                let workers = 1 + u32::try_from(any_below(5, &mut chance)).unwrap();
                master.order(&Order::Scale(workers));
                assert_eq!(
                    master.ask(&Order::Reload(Care::default()), "reloaded "),
                    generation.to_string()
                );
                settles(master, workers as usize, generation);
            }
            load.stop().is_flawless();
        },
    },
    Scenario {
        name: "i_24_a_recycled_worker_leaves_when_its_successor_is_ready",
        app: || load::cluster().workers(2).main(),
        check: recycled,
    },
    Scenario {
        name: "i_24_workers_of_a_certain_age_are_replaced_without_a_gap",
        app: || load::cluster().workers(2).max_age(Duration::from_millis(300)).main(),
        check: aged,
    },
];

fn up_and_down(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 4);
    for workers in [5, 1, 4, 2, 6, 3] {
        assert_eq!(master.ask(&Order::Scale(workers), "scaled "), workers.to_string());
        settles(master, workers as usize, 0);
        load.goes_on_for(100);
    }
    load.stop().is_flawless();
    // An empty cluster that was made empty waits.
    assert_eq!(master.ask(&Order::Scale(0), "scaled "), "0");
    settles(master, 0, 0);
    assert_eq!(master.snapshot()["phase"], "running");
    let waiting = Load::start(port, 1);
    assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
    settles(master, 2, 0);
    waiting.goes_on_for(50);
    waiting.stop().is_flawless();
    let steps: Vec<_> = master.seen("scaled").iter().map(|seen| seen.data().clone()).collect();
    let targets = [2, 5, 1, 4, 2, 6, 3, 0, 2];
    let wanted: Vec<_> = targets
        .windows(2)
        .map(|step| json!({"spec": "worker", "from": step[0], "to": step[1]}))
        .collect();
    assert_eq!(steps, wanted);
    for exit in master.seen("exit") {
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
        assert_eq!(exit.exited_after_disconnect(), Some(true));
    }
    assert!(master.seen("restart_scheduled").is_empty());
}

fn by_signal(master: &mut Master) {
    master.expect_ready();
    for (signal, workers) in [
        (Signal::SIGTTIN, 2),
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
        (Signal::SIGTTOU, 0),
    ] {
        master.signal(signal);
        assert_eq!(master.expect("scaled").data()["to"], workers);
        settles(master, workers, 0);
    }
    // Fewer than none there are not.
    master.signal(Signal::SIGTTOU);
    master.expect_log("workers are wanted signal=SIGTTOU workers=0", 2);
    master.signal(Signal::SIGTTIN);
    let scaled = master.expect("scaled");
    assert_eq!((&scaled.data()["from"], &scaled.data()["to"]), (&0.into(), &1.into()));
    settles(master, 1, 0);
}

fn during_a_reload(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    master.signal(Signal::SIGHUP);
    master.expect("reload_started");
    for workers in [5, 2, 4] {
        assert_eq!(master.ask(&Order::Scale(workers), "scaled "), workers.to_string());
    }
    open(master, 1);
    assert_eq!(next_result(master), json!({"Ok": null}));
    settles(master, 4, 1);
    // Also when the slot goes whose successor is being waited for.
    master.signal(Signal::SIGUSR2);
    master.expect("reload_started");
    assert_eq!(master.ask(&Order::Scale(1), "scaled "), "1");
    assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
    open(master, 2);
    assert_eq!(next_result(master), json!({"Ok": null}));
    settles(master, 2, 2);
    load.stop().is_flawless();
}

fn recycled(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    let old = pids(master);
    master.ask(&Order::Recycle(2, "a whim".to_owned()), "recycle");
    let recycling = master.once(2, "recycling");
    assert_eq!(recycling.data(), &json!({"asked": "a whim"}));
    let exit = master.once(2, "exit");
    let ready = master.once(3, "ready");
    assert!(seq(&ready.0) < seq(&master.once(2, "exiting").0));
    assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
    assert_eq!(ready.0["worker"]["slot"], recycling.0["worker"]["slot"]);
    settles(master, 2, 0);
    assert_eq!(pids(master)[0], old[0]);
    // It was no failure.
    assert!(master.seen("restart_scheduled").is_empty());
    master.ask(&Order::Recycle(2, String::new()), "error no worker 2");
    load.stop().is_flawless();
}

fn aged(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    for worker in [1, 2] {
        assert_eq!(master.sees(worker, "recycling").data(), "age");
        assert_eq!(master.sees(worker, "exit").code(), Some(0));
    }
    // Their successors grow old too.
    master.expect_count("recycling", 6);
    load.stop().is_flawless();
    assert!(master.seen("restart_scheduled").is_empty());
    // One successor at a time, and it was ready before its predecessor was stopped.
    let mut beside = 0;
    for line in [master.seen("fork"), master.seen("exit")].concat() {
        let is_first = line.worker() <= 2;
        beside = beside.max(if line.0["event"] == "fork" && !is_first {
            line.worker()
        } else {
            0
        });
    }
    assert!(beside > 4, "nobody was replaced twice");
    for exiting in master.seen("exiting") {
        let slot = &exiting.0["worker"]["slot"];
        let successor = master
            .seen("ready")
            .into_iter()
            .find(|ready| &ready.0["worker"]["slot"] == slot && ready.worker() > exiting.worker());
        assert!(successor.is_some_and(|ready| seq(&ready.0) < seq(&exiting.0)), "a gap");
    }
}

fn seq(line: &serde_json::Value) -> u64 {
    line["seq"].as_u64().unwrap()
}

/// Waits until there are exactly so many workers, all ready and of this generation, and nobody else.
fn settles(master: &mut Master, count: usize, generation: u64) {
    master.post();
    let gone = |master: &Master| master.seen("fork").len() - master.seen("exit").len() == count;
    master.until("those who leave to be gone", gone);
    runs(master, count, generation);
}
