//! Clusters within a cluster: masters under a master, their ends and what follows above and below.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    AutoShutdown, Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ReadyWhen, RestartDelay,
    RestartIntensity, RestartType, Worker, WorkerSpec,
};
use actix_cluster_tests::leftovers;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_054_a_nested_master_restarts_its_own_workers_and_one_that_gives_up_is_restarted_as_it_was_described",
        app: || app(inner, outer),
        check: gives_up,
    },
    Scenario {
        name: "o_077_a_nested_master_comes_back_in_its_slot_after_a_kill_an_end_and_a_restart",
        app: || app(inner, outer),
        check: comes_back,
    },
    Scenario {
        name: "o_061_the_end_of_a_significant_nested_cluster_ends_the_outer_one",
        app: || app(inner_with_a_job, || with_jobs(true)),
        check: |master| {
            inner_workers(master, 1);
            fs::write(master.directory().join("done"), "").unwrap();
            assert_eq!(master.wait().code(), Some(0));
            let exit = master.once(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            assert_eq!(master.seen("fork").len(), 2);
        },
    },
    Scenario {
        name: "o_061_the_end_of_any_other_nested_cluster_ends_nobody_else",
        app: || app(inner_with_a_job, || with_jobs(false)),
        check: |master| {
            inner_workers(master, 1);
            fs::write(master.directory().join("done"), "").unwrap();
            let exit = master.once(1, "exit");
            assert_eq!(exit.code(), Some(0));
            master.post();
            let snapshot = master.snapshot();
            assert_eq!((&snapshot["phase"], &snapshot["ready"]), (&"running".into(), &1.into()));
            assert!(master.seen("restart_scheduled").is_empty());
        },
    },
    Scenario {
        name: "a_stop_of_the_outer_cluster_drains_the_workers_of_the_inner_one",
        app: || app(inner, outer),
        check: |master| {
            inner_workers(master, 2);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            // The one that is added afterwards may have come too.
            assert_eq!(master.count_said("drained"), master.said("inner ").len());
            assert!(master.count_said("drained") >= 2);
            let exit = master.once(1, "exit");
            assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
            assert_eq!(
                master.life_of(1),
                ["fork", "online", "ready", "exiting", "disconnect", "exit"]
            );
        },
    },
    Scenario {
        name: "a_killed_outer_master_takes_everybody_along_within_a_second",
        app: || app(inner, outer),
        check: |master| {
            let inner = inner_workers(master, 2);
            let above = master.once(1, "fork").pid();
            master.signal(Signal::SIGKILL);
            for pid in inner.into_iter().chain([above]) {
                master.expect_dead(pid, Duration::from_secs(1));
            }
        },
    },
    Scenario {
        name: "a_nested_cluster_that_cannot_start_says_why_above",
        // An address of the documentation's own, which no machine has.
        app: || app(|| inner().listen("http", "203.0.113.1:80"), outer),
        check: |master| {
            // Too often, as any worker.
            assert_eq!(master.wait().code(), Some(1));
            let error = master.once(1, "error").data().to_string();
            assert!(
                error.contains("listener \\\"http\\\"") && error.contains("203.0.113.1"),
                "{error}"
            );
            assert_eq!(master.once(1, "exit").code(), Some(1));
        },
    },
];

/// The outer cluster, or the inner one where the variable says so: its workers inherit it.
fn app(inner: fn() -> ClusterBuilder, outer: fn() -> ClusterBuilder) -> ExitCode {
    if std::env::var_os(INNER_VAR).is_some() {
        return inner().main();
    }
    outer().main()
}

fn nested() -> WorkerSpec {
    WorkerSpec::new("inner", 1)
        .cluster()
        .env(INNER_VAR, "1")
        .restart_delay(RestartDelay::AtOnce)
}

fn outer() -> ClusterBuilder {
    probe::cluster().workers(0).spec(nested())
}

fn with_jobs(is_significant: bool) -> ClusterBuilder {
    let job = nested().restart(RestartType::Transient).significant(is_significant);
    let cluster = probe::cluster().workers(0).spec(job);
    cluster.spec(nested_idle()).auto_shutdown(AutoShutdown::AnySignificant)
}

/// Another one, that has no end of its own.
fn nested_idle() -> WorkerSpec {
    WorkerSpec::new("idle", 1).cluster().env(INNER_VAR, "idle")
}

/// Two workers, of whom one may be restarted; the first of these clusters adds a third to itself.
fn inner() -> ClusterBuilder {
    Cluster::builder()
        .workers(2)
        .ready_when(ReadyWhen::Called)
        .restart_delay(RestartDelay::AtOnce)
        .restart_intensity(RestartIntensity::new(1, Duration::from_secs(3_600)))
        .on_event(add_once)
        .worker(inner_worker)
}

fn add_once(event: &ClusterEvent, handle: &ClusterHandle) {
    if matches!(event.kind, EventKind::AllReady { .. }) && fs::File::create_new("added").is_ok() {
        let handle = handle.clone();
        actix_rt::spawn(async move {
            if let Err(error) = handle
                .add_spec(WorkerSpec::new("added", 1).ready_when(ReadyWhen::Called))
                .await
            {
                probe::say(&format!("not added: {error}"));
            }
        });
    }
}

fn inner_with_a_job() -> ClusterBuilder {
    let job = WorkerSpec::new("job", 1)
        .ready_when(ReadyWhen::Called)
        .restart(RestartType::Temporary)
        .significant(true);
    let cluster = Cluster::builder().workers(0).worker(inner_worker);
    cluster.spec(job).auto_shutdown(AutoShutdown::AnySignificant)
}

async fn inner_worker(worker: Worker) {
    probe::say(&format!("inner {} {}", worker.slot().spec, std::process::id()));
    worker.on_shutdown(|| async { probe::say("drained") });
    // Not before it has said who it is: the outer cluster is ready after that.
    worker.ready();
    if std::env::var_os(INNER_VAR).is_some_and(|which| which == "1") && worker.slot().spec.as_str() == "job" {
        actix_cluster_tests::load::held(&worker, "done").await;
        return;
    }
    probe::idle(&worker).await;
}

/// Waits until the outer cluster is ready; the inner workers of the builder's own kind, who must have been ready before.
fn inner_workers(master: &mut Master, count: usize) -> Vec<u32> {
    master.expect_ready();
    let all: Vec<u32> = master
        .said("inner ")
        .into_iter()
        .filter(|(text, _)| !text.starts_with("added"))
        .map(|(_, pid)| u32::try_from(pid).unwrap())
        .collect();
    assert!(all.len() >= count, "ready before its workers: {all:?}");
    all
}

fn children(pid: u32) -> Vec<u32> {
    let children = leftovers::children_of(pid).unwrap();
    let live = children.into_iter().filter(|child| child.state != 'Z');
    live.map(|child| child.pid).collect()
}

fn gives_up(master: &mut Master) {
    inner_workers(master, 2);
    let first = master.once(1, "ready").pid();
    let added = u32::try_from(master.expect_inner("added", 1)[0]).unwrap();
    assert!(children(first).contains(&added));
    let workers = master.expect_inner("worker", 2);
    // One that dies is the inner master's affair.
    send(u32::try_from(workers[0]).unwrap(), Signal::SIGKILL);
    let workers = master.expect_inner("worker", 3);
    assert!(children(first).contains(&u32::try_from(workers[2]).unwrap()));
    assert_eq!(master.life_of(1), ["fork", "online", "ready"]);
    // One more is too much, and the outer master's affair: its own exit tells.
    send(u32::try_from(workers[1]).unwrap(), Signal::SIGKILL);
    let exit = master.once(1, "exit");
    assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(1), Some(false)));
    assert_eq!(exit.reason(), "crash");
    let error = master.once(1, "error").data().to_string();
    assert!(error.contains("needed more than 1 restarts"), "{error}");
    for pid in [workers[2], u64::from(added)] {
        master.expect_dead(u32::try_from(pid).unwrap(), SOON);
    }
    // It comes back with what it was described with.
    let second = master.once(2, "ready");
    assert_eq!(second.0["worker"]["slot"], exit.0["worker"]["slot"]);
    let workers = master.expect_inner("worker", 5);
    let mut now = children(second.pid());
    now.sort_unstable();
    let mut wanted: Vec<u32> = workers[3..].iter().map(|pid| u32::try_from(*pid).unwrap()).collect();
    wanted.sort_unstable();
    assert_eq!(now, wanted, "others than its static workers");
}

fn comes_back(master: &mut Master) {
    inner_workers(master, 2);
    for (id, end) in [(1, "kill"), (2, "term"), (3, "restart")] {
        let pid = master.once(id, "ready").pid();
        let below = children(pid);
        match end {
            "kill" => send(pid, Signal::SIGKILL),
            "term" => send(pid, Signal::SIGTERM),
            _ => drop(master.ask(&Order::Restart(id), "restart")),
        }
        let exit = master.once(id, "exit");
        let (code, signal) = if end == "kill" {
            (None, Some(9))
        } else {
            (Some(0), None)
        };
        assert_eq!((exit.code(), exit.signal()), (code, signal), "{end}");
        for pid in below {
            master.expect_dead(pid, Duration::from_secs(1));
        }
        let again = master.once(id + 1, "ready");
        assert_eq!(again.0["worker"]["slot"], exit.0["worker"]["slot"], "{end}");
        assert_ne!(again.pid(), pid);
        assert!(children(again.pid()).len() >= 2, "{end}: ready before its workers");
    }
}

/// What the inner workers said.
trait Inner {
    /// Waits until so many workers of this spec have come; their process ids, oldest first.
    fn expect_inner(&self, spec: &str, count: usize) -> Vec<u64>;
}

impl Inner for Master {
    fn expect_inner(&self, spec: &str, count: usize) -> Vec<u64> {
        let text = format!("inner {spec} ");
        self.until("an inner worker", |master| master.said(&text).len() >= count);
        self.said(&text).into_iter().map(|(_, pid)| pid).collect()
    }
}

const INNER_VAR: &str = "ACTIX_CLUSTER_TEST_INNER";
