//! Erlang's supervisor: starts that are none, and every way to stop.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    AutoShutdown, Cluster, ClusterBuilder, RestartType, RunError, ShutdownPolicy, WhenEmpty, Worker, WorkerSpec,
    is_worker,
};
use actix_cluster_tests::leftovers::{self, children_of, open_fds};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::outside::{let_pass, wait_at_gate};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::reports::reporting;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::seen::Seen;
use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_001_a_cluster_without_workers_starts_and_stops_in_order",
        app: || probe::cluster().workers(0).worker(polite).main(),
        check: |master| {
            master.expect("setup");
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.snapshot()["workers"], Value::Array(Vec::new()));
            assert!(children_of(master.pid()).unwrap().is_empty());
            master.signal(Signal::SIGTERM);
            master.expect("shutdown_started");
            assert_eq!(master.wait().code(), Some(0));
            assert!(master.seen("fork").is_empty() && master.seen("gave_up").is_empty());
        },
    },
    Scenario {
        name: "o_008_a_wrong_configuration_is_an_error_and_leaves_nothing",
        app: wrong_configurations,
        check: |master| {
            assert_eq!(master.wait().code(), Some(2), "wrong usage");
            let refused = master.said("refused ");
            assert_eq!(refused.len(), WRONG.len(), "{refused:?}");
            assert_eq!(master.said("left ").len(), 0);
            let files: Vec<_> = fs::read_dir(master.directory()).unwrap().collect();
            assert_eq!(files.len(), 1, "the log, and no socket: {files:?}");
            let log = master.log();
            assert!(log.starts_with("error: workers is 10001: at most 10000"), "{log}");
        },
    },
    Scenario {
        name: "o_016_a_stop_may_wait_for_ever",
        app: || {
            let cluster = probe::cluster().workers(2).worker(until_the_gate);
            cluster.shutdown_policy(ShutdownPolicy::Infinity).main()
        },
        check: |master| {
            master.expect_ready();
            master.signal(Signal::SIGTERM);
            master.expect_all(&[(1, "exiting"), (2, "exiting")]);
            master.never("an end by force", probe::GRACE, |line| line["event"] == "exit");
            master.open_gate("0");
            master.open_gate("1");
            for exit in master.expect_all(&[(1, "exit"), (2, "exit")]) {
                obeyed(&exit);
            }
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "o_016_a_spec_that_waits_for_ever_waits_for_an_end_that_its_worker_chose",
        app: || {
            // The builder's own limit must not count for the spec.
            let patient = WorkerSpec::new("patient", 1).restart(RestartType::Temporary);
            let patient = patient.shutdown_policy(ShutdownPolicy::Infinity);
            let cluster = probe::cluster().grace(SHORT).spec(patient);
            cluster.worker(until_the_gate).main()
        },
        check: |master| {
            master.expect_ready();
            let pid = master.once(2, "ready").pid();
            actix_cluster_tests::master::send(pid, Signal::SIGTERM);
            master.expect_of(2, "exiting");
            master.never("an end by force", 4 * SHORT, |line| line["event"] == "exit");
            master.open_gate("0");
            let exit = master.expect_of(2, "exit");
            assert_eq!((exit.code(), exit.reason()), (Some(0), &"voluntary".into()));
            assert_eq!(exit.data()["forced"], false);
            // The builder's own worker has its own limit.
            master.signal(Signal::SIGTERM);
            forced(&master.expect_of(1, "exit"));
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "o_053_a_worker_that_broke_its_channel_and_is_then_told_to_stop_holds_nobody_up",
        app: || {
            let cluster = probe::cluster()
                .workers(2)
                .when_empty(WhenEmpty::Wait)
                .grace(limit(Duration::from_secs(3)))
                .orphan_grace(Duration::from_secs(20));
            cluster.worker(break_the_channel).main()
        },
        check: |master| {
            master.expect_ready();
            let pid = master.once(1, "fork").pid();
            master.order(&Order::Send(1, "break".to_owned()));
            master.sees(1, "disconnect");
            assert!(leftovers::process(pid).is_some(), "it lives on");
            master.ask(&Order::Disconnect(1), "disconnect");
            // Others are heard while it is being ended.
            master.ask(&Order::Call(2, "?".to_owned()), "answer ");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.signal(), &exit.data()["forced"]), (Some(9), &true.into()));
            assert_eq!(
                (exit.exited_after_disconnect(), exit.reason()),
                (Some(false), &"channel_closed".into())
            );
            assert_eq!(master.seen("fork").len(), 2, "it was told to stop for good");
        },
    },
    Scenario {
        name: "o_017_who_does_not_react_is_killed_at_its_own_limit_and_its_neighbour_is_polite",
        app: || {
            let deaf = WorkerSpec::new("deaf", 1).shutdown_policy(ShutdownPolicy::Grace(SHORT));
            let cluster = probe::cluster().grace(Duration::from_secs(600)).spec(deaf);
            reporting(cluster.worker(deaf_if_named_so))
        },
        check: |master| polite_and_deaf(master),
    },
    Scenario {
        name: "o_018_who_does_not_react_is_killed_among_many_of_one_kind",
        app: || reporting(probe::cluster().workers(2).grace(4 * SHORT).worker(the_second_is_deaf)),
        check: |master| polite_and_deaf(master),
    },
    Scenario {
        name: "o_019_who_is_to_be_killed_at_once_is_and_its_neighbour_is_polite",
        app: || {
            let brutal = WorkerSpec::new("brutal", 1).shutdown_policy(ShutdownPolicy::Brutal);
            reporting(probe::cluster().spec(brutal).worker(says_that_it_heard))
        },
        check: |master| {
            master.expect_ready();
            let report = shut_down(master);
            forced(&master.once(2, "exit"));
            obeyed(&master.once(1, "exit"));
            // The last started is told first; who ends first is the scheduler's affair, and the report says who did.
            assert!(seq(&master.once(2, "exiting")) < seq(&master.once(1, "exiting")));
            let mut exits = [1, 2].map(|worker| master.once(worker, "exit"));
            exits.sort_by_key(seq);
            let ends = report["workers"].as_array().unwrap().iter();
            let ends: Vec<_> = ends.map(|end| end["id"].as_u64().unwrap()).collect();
            assert_eq!(ends, exits.each_ref().map(Seen::worker));
            assert_eq!((master.count_said("heard 2"), master.count_said("heard 1")), (0, 1));
        },
    },
    Scenario {
        name: "o_020_ten_that_are_to_be_killed_at_once_are_killed_at_once",
        app: || {
            let cluster = probe::cluster().workers(10).shutdown_policy(ShutdownPolicy::Brutal);
            reporting(cluster.worker(says_that_it_heard))
        },
        check: |master| {
            master.expect_ready();
            let report = shut_down(master);
            assert_eq!(report["workers"].as_array().unwrap().len(), 10);
            for worker in 1..=10 {
                forced(&master.once(worker, "exit"));
                assert_eq!(master.count_said(&format!("heard {worker}")), 0);
            }
            assert_eq!((master.seen("exit").len(), master.seen("fork").len()), (10, 10));
            // Nobody was waited for: neither the second for an answer, nor any grace.
            assert!(took(&report) < limit(Duration::from_secs(1)), "{report}");
        },
    },
    Scenario {
        name: "o_036_those_who_stop_slowly_stop_together",
        app: || reporting(probe::cluster().workers(3).grace(limit(4 * SHORT)).worker(slow)),
        check: |master| {
            master.expect_ready();
            let report = shut_down(master);
            let [first, second, third] = [1, 2, 3].map(|worker| master.once(worker, "exit"));
            obeyed(&first);
            obeyed(&second);
            forced(&third);
            // Every order came before the first end: nobody waited for anybody.
            let orders = [1, 2, 3].map(|worker| seq(&master.once(worker, "exiting")));
            assert!(
                orders.into_iter().max() < Some(seq(&first).min(seq(&second))),
                "{orders:?}"
            );
            // Not less than the limit, and not the 10 x SHORT of the slowest: it was cut.
            let took = took(&report);
            assert!(took >= limit(4 * SHORT) && took < limit(10 * SHORT), "{took:?}");
        },
    },
];

/// Waits for the end of a [`reporting`] program; nobody was restarted.
pub(crate) fn reported(master: &mut Master) -> Value {
    let report = master.report();
    assert!(master.seen("restart_scheduled").is_empty());
    report
}

/// Shuts down through the handle, waits for the end of all, and gives the report.
fn shut_down(master: &mut Master) -> Value {
    master.order(&Order::Shutdown);
    reported(master)
}

fn polite_and_deaf(master: &mut Master) {
    master.expect_ready();
    let report = shut_down(master);
    obeyed(&master.once(1, "exit"));
    let exit = master.once(2, "exit");
    forced(&exit);
    let lasted = at(&exit) - at(&master.once(2, "exiting"));
    assert!(lasted >= SHORT && lasted < SHORT + limit(SOON), "{lasted:?}");
    // The report says the same of both.
    for end in report["workers"].as_array().unwrap() {
        assert_eq!(&end["exit"], master.once(end["id"].as_u64().unwrap(), "exit").data());
    }
}

fn obeyed(exit: &Seen) {
    assert_eq!(
        (exit.code(), exit.reason()),
        (Some(0), &"ordered".into()),
        "{:?}",
        exit.0
    );
    assert_eq!(
        (exit.exited_after_disconnect(), &exit.data()["forced"]),
        (Some(true), &false.into())
    );
}

fn forced(exit: &Seen) {
    assert_eq!(
        (exit.signal(), exit.reason()),
        (Some(9), &"ordered".into()),
        "{:?}",
        exit.0
    );
    assert_eq!(
        (exit.exited_after_disconnect(), &exit.data()["forced"]),
        (Some(true), &true.into())
    );
}

fn took(report: &Value) -> Duration {
    Duration::from_secs_f64(report["took_ms"].as_f64().unwrap() / 1000.0)
}

fn at(event: &Seen) -> Duration {
    Duration::from_secs_f64(event.0["at_ms"].as_f64().unwrap() / 1000.0)
}

fn seq(event: &Seen) -> u64 {
    event.0["seq"].as_u64().unwrap()
}

/// Tries every wrong configuration; ends with the first one's error.
fn wrong_configurations() -> ExitCode {
    assert!(!is_worker(), "nothing is forked");
    let base = || {
        Cluster::builder()
            .workers(1)
            .listen("web", "unix:web.sock")
            .worker(polite)
    };
    let own = std::process::id();
    let before = open_fds(own).unwrap();
    for wrong in WRONG {
        match wrong(base()).run() {
            Err(RunError::Build(error)) => probe::say(&format!("refused {error}")),
            other => probe::say(&format!("accepted {other:?}")),
        }
        let children = children_of(own).unwrap();
        if !children.is_empty() || open_fds(own).unwrap() != before {
            probe::say(&format!("left {children:?}"));
        }
    }
    WRONG[0](base()).main()
}

/// Each contradicts itself in another way.
const WRONG: &[fn(ClusterBuilder) -> ClusterBuilder] = &[
    |cluster| cluster.workers(10_001),
    |cluster| cluster.orphan_grace(Duration::from_secs(31)),
    |cluster| cluster.boot_limit(Duration::ZERO),
    |cluster| cluster.listen("web", "127.0.0.1:0"),
    |cluster| cluster.listen("other", "nowhere"),
    |cluster| cluster.spec(WorkerSpec::new("worker", 1)),
    |cluster| cluster.spec(WorkerSpec::new("a", 1)).spec(WorkerSpec::new("a", 2)),
    |cluster| {
        let job = WorkerSpec::new("job", 1).significant(true);
        cluster.auto_shutdown(AutoShutdown::AnySignificant).spec(job)
    },
    |_| Cluster::builder().listen("web", "unix:web.sock"),
];

/// Shuts its channel down on a message and cares for nothing any more; answers calls until then.
async fn break_the_channel(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    loop {
        tokio::select! {
            () = worker.shutdown().started() => return,
            message = messages.next() => match message.as_ref().and_then(actix_cluster::Message::reply) {
                Some(reply) => reply.ok(&true).expect("a bool has a JSON form"),
                None => break,
            },
        }
    }
    // Past the library, which would end the process for it.
    shutdown(CHANNEL, Shutdown::Write).expect("the channel is open");
    loop {
        std::thread::park();
    }
}

/// The channel's number in every worker.
const CHANNEL: i32 = 3;

async fn polite(worker: Worker) {
    probe::idle(&worker).await;
}

async fn says_that_it_heard(worker: Worker) {
    worker.shutdown().started().await;
    probe::say(&format!("heard {}", worker.id()));
}

async fn deaf_if_named_so(worker: Worker) {
    if worker.slot().spec.as_str() == "deaf" {
        std::future::pending::<()>().await;
    }
    probe::idle(&worker).await;
}

async fn the_second_is_deaf(worker: Worker) {
    if worker.slot().index == 1 {
        std::future::pending::<()>().await;
    }
    probe::idle(&worker).await;
}

/// Ends only when the gate of its slot is opened, once it was told to stop.
async fn until_the_gate(worker: Worker) {
    worker.shutdown().started().await;
    let gate = worker.slot().index.to_string();
    let waiting = actix_rt::task::spawn_blocking(move || wait_at_gate(&gate));
    waiting.await.expect("the gate opens");
}

/// Needs 1, 1 and 5 times as long as the other workers of this file are given.
async fn slow(worker: Worker) {
    worker.shutdown().started().await;
    let times = if worker.slot().index == 2 { 10 } else { 1 };
    let stopping = actix_rt::task::spawn_blocking(move || let_pass(limit(times * SHORT)));
    stopping.await.expect("time passes");
}

const SHORT: Duration = Duration::from_millis(250);
