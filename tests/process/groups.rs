//! Clusters of several specs: who goes down with whom, in which order they come and go, and whose end ends all.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    AutoShutdown, ClusterBuilder, OneForAll, RestForOne, RestartDelay, RestartIntensity, RestartType, Worker,
    WorkerSpec,
};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_032_one_for_all_stops_everybody_from_the_last_and_starts_from_the_first",
        app: || three().strategy(OneForAll).main(),
        check: |master| {
            ready(master);
            // `a` has workers 1 and 2, `b` has 3, `c` has 4.
            group(master, 3, &["c", "b", "a"], &["a.0", "a.1", "b.0", "c.0"]);
        },
    },
    Scenario {
        name: "o_040_rest_for_one_takes_the_later_specs_only",
        app: || three().strategy(RestForOne).main(),
        check: |master| {
            ready(master);
            group(master, 3, &["c", "b"], &["b.0", "c.0"]);
            assert_eq!(
                (master.life_of(1).len(), master.life_of(2).len()),
                (3, 3),
                "a spec before was touched"
            );
            // Its own spec counts as a whole: both workers of `a`, and everybody after.
            group(master, 1, &["c", "b", "a"], &["a.0", "a.1", "b.0", "c.0"]);
        },
    },
    Scenario {
        name: "one_for_one_leaves_the_other_specs_alone",
        app: || three().main(),
        check: |master| {
            ready(master);
            group(master, 3, &["b"], &["b.0"]);
            assert_eq!(master.seen("fork").len(), 5);
        },
    },
    Scenario {
        name: "a_worker_that_dies_while_its_group_goes_down_counts_for_the_group",
        app: || three().strategy(OneForAll).main(),
        check: |master| {
            let pids = ready(master);
            for pid in pids {
                send(pid, Signal::SIGKILL);
            }
            master.expect("all_ready");
            assert_eq!(master.seen("fork").len(), 8);
            order_of_start(master, 4, &["a.0", "a.1", "b.0", "c.0"]);
        },
    },
    Scenario {
        name: "a_cluster_stops_its_specs_in_the_reverse_of_the_order_of_start",
        app: || three().main(),
        check: |master| {
            ready(master);
            order_of_start(master, 0, &["a.0", "a.1", "b.0", "c.0"]);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            order_of_stop(master, 0, &["c", "b", "a"]);
        },
    },
    Scenario {
        name: "the_end_of_any_significant_worker_ends_the_cluster",
        app: || with_jobs(AutoShutdown::AnySignificant).main(),
        check: |master| {
            ready(master);
            // Of others it does not.
            let pid = master.once(1, "ready").pid();
            send(pid, Signal::SIGKILL);
            master.expect("all_ready");
            // One that is restarted has not come to its end.
            let pid = master.once(2, "ready").pid();
            send(pid, Signal::SIGKILL);
            master.expect("all_ready");
            master.order(&Order::Send(3, "disconnect".to_owned()));
            master.expect("shutdown_started");
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.seen("exit").len(), master.seen("fork").len());
        },
    },
    Scenario {
        name: "only_the_end_of_the_last_significant_worker_ends_the_cluster",
        app: || with_jobs(AutoShutdown::AllSignificant).main(),
        check: |master| {
            ready(master);
            master.order(&Order::Send(3, "disconnect".to_owned()));
            assert_eq!(master.once(3, "exit").code(), Some(0));
            master.post();
            assert!(master.seen("shutdown_started").is_empty());
            master.order(&Order::Send(2, "disconnect".to_owned()));
            master.expect("shutdown_started");
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "o_032_o_060_o_076_those_who_go_down_with_a_group_end_nothing_and_count_for_nothing",
        app: || {
            let tried_once = quick("once", 1).restart(RestartType::Temporary);
            let cluster = with_jobs(AutoShutdown::AnySignificant).strategy(OneForAll);
            let cluster = cluster.spec(tried_once);
            let twice = RestartIntensity::new(2, Duration::from_secs(3_600));
            cluster.restart_intensity(twice).main()
        },
        check: |master| {
            ready(master);
            let mut victim = 1;
            // Worker 4 does not come back.
            for come in [4, 7] {
                send(master.once(victim, "fork").pid(), Signal::SIGKILL);
                master.expect("all_ready");
                assert_eq!(master.seen("fork").len(), come + 3);
                order_of_start(master, come, &["worker.0", "job.0", "job.1"]);
                victim = come as u64 + 1;
            }
            assert!(master.seen("shutdown_started").is_empty());
            // The third failure is one too many for the cluster.
            send(master.once(victim, "fork").pid(), Signal::SIGKILL);
            assert!(master.expect("gave_up").data()["cluster"].is_object());
            assert_ne!(master.wait().code(), Some(0));
            assert_eq!(master.seen("fork").len(), 10);
        },
    },
    Scenario {
        name: "a_reload_of_one_spec_leaves_the_others_alone",
        app: || three().main(),
        check: |master| {
            ready(master);
            let spec = |name: &str| {
                let spec = Some(name.to_owned());
                Order::Reload(Care {
                    spec,
                    ..Care::default()
                })
            };
            assert_eq!(master.ask(&spec("a"), "reloaded "), "1");
            let snapshot = master.snapshot();
            let workers = snapshot["workers"].as_array().unwrap();
            let runs: Vec<_> = workers
                .iter()
                .map(|worker| {
                    (
                        worker["slot"]["spec"].as_str().unwrap(),
                        worker["generation"].as_u64().unwrap(),
                    )
                })
                .collect();
            assert_eq!(runs, [("b", 0), ("c", 0), ("a", 1), ("a", 1)]);
            let why = master.ask(&spec("d"), "not reloaded: ");
            assert_eq!(why, "there is no worker spec named `d`");
            // All of them, each spec from where it is.
            assert_eq!(master.ask(&Order::Reload(Care::default()), "reloaded "), "2");
            let snapshot = master.snapshot();
            let workers = snapshot["workers"].as_array().unwrap();
            assert!(
                workers.len() == 4 && workers.iter().all(|worker| worker["generation"] == 2),
                "{snapshot}"
            );
        },
    },
    Scenario {
        name: "a_group_that_goes_down_overtakes_a_reload",
        app: || three().strategy(OneForAll).worker(obedient).main(),
        check: |master| {
            let pids = ready(master);
            master.order(&Order::Reload(Care {
                probation_ms: 600_000,
                ..Care::default()
            }));
            master.expect("reload_started");
            send(pids[3], Signal::SIGKILL);
            master.hears("not reloaded: its workers were stopped or restarted together meanwhile");
            master.post();
            let snapshot = master.snapshot();
            let workers = snapshot["workers"].as_array().unwrap();
            assert!(
                workers.len() == 4 && workers.iter().all(|worker| worker["generation"] == 0),
                "{snapshot}"
            );
        },
    },
    Scenario {
        name: "a_refused_addition_of_a_spec_changes_nothing_of_the_one_that_runs",
        app: adds_twice,
        check: |master| {
            master.expect_said("mark first");
            master.expect_said("refused spec b runs already");
            master.order(&Order::Kill(2, 9));
            master.expect_of(2, "exit");
            master.expect_said("mark first");
        },
    },
];

/// Spec `a` with workers 1 and 2, `b` with 3, `c` with 4, all of which do as they are told.
fn three() -> ClusterBuilder {
    probe::cluster()
        .name("a")
        .workers(2)
        .spec(quick("b", 1))
        .spec(quick("c", 1))
        .worker(obedient)
}

/// Worker 1, which means nothing, and the jobs 2 and 3.
fn with_jobs(rule: AutoShutdown) -> ClusterBuilder {
    let jobs = quick("job", 2).restart(RestartType::Transient).significant(true);
    probe::cluster()
        .workers(1)
        .spec(jobs)
        .auto_shutdown(rule)
        .worker(obedient)
}

fn quick(name: &str, workers: u32) -> WorkerSpec {
    WorkerSpec::new(name, workers).restart_delay(RestartDelay::AtOnce)
}

async fn obedient(worker: Worker) {
    probe::do_as_told(&worker);
    worker.shutdown().started().await;
}

/// Waits until everybody is ready; their process ids.
fn ready(master: &mut Master) -> Vec<u32> {
    master.expect_ready();
    crate::reload::pids(master)
}

/// Kills the worker `id`: these specs go down one after the other, and then these slots are filled one after the other.
fn group(master: &mut Master, victim: u64, down: &[&str], up: &[&str]) {
    let (exits, forks) = (master.seen("exit").len(), master.seen("fork").len());
    // Ids grow, slots stay.
    let slot = master.once(victim, "fork").0["worker"]["slot"].clone();
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    let worker = workers.iter().find(|worker| worker["slot"] == slot).unwrap();
    send(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
    master.expect("all_ready");
    let gone = master.seen("exit").split_off(exits);
    let come = master.seen("fork").split_off(forks);
    assert_eq!((gone.len(), come.len()), (up.len(), up.len()));
    let last_gone = gone.iter().map(|exit| seq(&exit.0)).max();
    let first_come = come.iter().map(|fork| seq(&fork.0)).min();
    assert!(
        last_gone < first_come,
        "somebody came before all were gone: {last_gone:?} {first_come:?}"
    );
    order_of_start(master, forks, up);
    // The victim went first; the others go in order.
    order_of_stop(master, exits + 1, down);
    for exit in &gone[1..] {
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
    }
}

/// After the first `skip`, workers were started for these slots in this order.
fn order_of_start(master: &Master, skip: usize, slots: &[&str]) {
    let forks = master.seen("fork").split_off(skip);
    let order: Vec<_> = forks.iter().map(|fork| slot(&fork.0)).collect();
    assert_eq!(order, slots);
}

/// After the first `skip`, workers ended by spec in this order, and nobody was told to before the spec after was gone.
fn order_of_stop(master: &Master, skip: usize, specs: &[&str]) {
    let exits = master.seen("exit").split_off(skip);
    let place = |line: &Value| {
        let spec = line["worker"]["slot"]["spec"].as_str().unwrap();
        specs.iter().position(|known| *known == spec).unwrap()
    };
    let mut last = None;
    for exit in &exits {
        let told = master.once(exit.worker(), "exiting");
        for earlier in exits.iter().filter(|earlier| place(&earlier.0) < place(&exit.0)) {
            assert!(
                seq(&earlier.0) < seq(&told.0),
                "{} was told before {} was gone",
                slot(&exit.0),
                slot(&earlier.0)
            );
        }
        assert!(last <= Some(place(&exit.0)), "out of order: {}", slot(&exit.0));
        last = Some(place(&exit.0));
    }
}

fn slot(line: &Value) -> String {
    let slot = &line["worker"]["slot"];
    format!("{}.{}", slot["spec"].as_str().unwrap(), slot["index"])
}

fn seq(line: &Value) -> u64 {
    line["seq"].as_u64().unwrap()
}

fn adds_twice() -> ExitCode {
    let b = |mark: &str| WorkerSpec::new("b", 1).env("MARK", mark);
    let cluster = probe::cluster().spec(b("first"));
    let cluster = cluster.on_event(move |event, handle| {
        if event.kind.name() == "all_ready" {
            let (handle, again) = (handle.clone(), b("second"));
            actix_rt::spawn(async move {
                if let Err(error) = handle.add_spec(again).await {
                    probe::say(&format!("refused {error}"));
                }
            });
        }
    });
    let work = |worker: Worker| async move {
        if let Ok(mark) = std::env::var("MARK") {
            probe::say(&format!("mark {mark}"));
        }
        probe::idle(&worker).await;
    };
    cluster.worker(work).main()
}
