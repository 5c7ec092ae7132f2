//! Workers that die in each state.

use std::io;
use std::process::ExitCode;

use actix_cluster::{Backoff, ListenError, RestartDelay, RestartLimit, RestartType, WhenEmpty, Worker, is_worker};
use actix_cluster_tests::leftovers::open_fds;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, raise};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_002_a_worker_that_ends_before_it_says_hello_is_a_failed_boot",
        app: || {
            if is_worker() {
                return ExitCode::from(1);
            }
            let cluster = probe::cluster().restart(RestartType::Temporary);
            cluster.when_empty(WhenEmpty::Wait).worker(forever).main()
        },
        check: |master| {
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.code(), exit.reason()), (Some(1), &"crash".into()));
            assert_eq!(exit.data()["was_ready"], false);
            assert_eq!(exit.exited_after_disconnect(), Some(false));
            assert_eq!(master.life_of(1), ["fork", "disconnect", "exit"]);
        },
    },
    Scenario {
        name: "f_003_a_worker_that_crashes_after_hello_was_never_listening",
        app: || {
            let cluster = probe::cluster().listen("tcp", "127.0.0.1:0");
            cluster.worker(crash_on_message).main()
        },
        check: |master| {
            master.expect_of(1, "online");
            master.order(&Order::Send(1, "crash".to_owned()));
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (None, Some(11)));
            assert_eq!(exit.data()["was_ready"], false);
            assert_eq!(master.life_of(1), ["fork", "online", "disconnect", "exit"]);
            // Its successor never listens either; nothing is ready and that is the target's fault, not the master's.
            master.expect_of(2, "online");
            master.ask(&Order::Ping, "pong");
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "f_004_who_dies_with_a_listen_request_unanswered_costs_the_others_nothing",
        app: || {
            let cluster = probe::cluster().workers(2).when_empty(WhenEmpty::Wait);
            let cluster = cluster.restart_limit(RestartLimit::unlimited());
            cluster
                .ready_when(actix_cluster::ReadyWhen::Called)
                .worker(ask_and_die)
                .main()
        },
        check: killed_while_asking,
    },
    Scenario {
        name: "f_005_a_ready_worker_that_is_killed_is_replaced_at_once_the_first_time",
        app: || {
            let cluster = probe::cluster().restart_delay(RestartDelay::Backoff(Backoff::default()));
            cluster.listen("tcp", "127.0.0.1:0").worker(listen).main()
        },
        check: |master| {
            let pid = master.expect_of(1, "ready").pid();
            send(pid, Signal::SIGKILL);
            let exit = master.expect_of(1, "exit");
            assert_eq!(
                (exit.signal(), exit.data()["was_ready"].as_bool()),
                (Some(9), Some(true))
            );
            let restart = master.expect("restart_scheduled");
            assert_eq!(restart.data()["delay_ms"], 0.0);
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_011_every_open_call_to_a_worker_that_dies_is_answered",
        app: || probe::cluster().worker(hold_calls).main(),
        check: |master| {
            let pid = master.expect_of(1, "ready").pid();
            for _ in 0..5 {
                master.order(&Order::Call(1, "?".to_owned()));
            }
            for _ in 0..5 {
                master.expect_said("asked");
            }
            send(pid, Signal::SIGKILL);
            for _ in 0..5 {
                master.expect_said("error the other side is gone");
            }
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_014_four_workers_that_die_at_once_are_replaced_two_at_a_time",
        app: || {
            let two = std::num::NonZeroUsize::new(2).expect("2 is not 0");
            let cluster = probe::cluster().workers(4).max_booting(two);
            cluster.listen("tcp", "127.0.0.1:0").worker(listen).main()
        },
        check: all_die_at_once,
    },
];

/// Twenty workers of the second slot die, each a little later after its request than the one before.
fn killed_while_asking(master: &mut Master) {
    master.once(1, "ready");
    let before = open_fds(master.pid()).expect("the master runs");
    for worker in 2..2 + DEATHS {
        assert_eq!(master.once(worker, "exit").signal(), Some(9));
    }
    let survivor = master.once(2 + DEATHS, "ready").worker();
    let ports: Vec<_> = master
        .seen("listening")
        .iter()
        .map(|seen| seen.data()["port"].clone())
        .collect();
    assert!(
        ports.iter().all(|port| *port == ports[0]),
        "one address, one port: {ports:?}"
    );
    let port = master.port();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port));
    connect().expect("the first worker has listened all the time");
    let fds = open_fds(master.pid()).expect("the master runs");
    assert!(
        fds < before + 10,
        "twenty dead left descriptors: {before} before, {fds} now"
    );

    // The listener ends with its last holder.
    for worker in [1, survivor] {
        master.order(&Order::Disconnect(worker));
        master.expect_of(worker, "exit");
    }
    let deadline = Deadline::after(limit(SOON));
    while connect().map_err(|error| error.kind()).err() != Some(io::ErrorKind::ConnectionRefused) {
        assert!(!deadline.is_over(), "a listener that nobody holds is closed");
    }
}

fn all_die_at_once(master: &mut Master) {
    master.expect_ready();
    let pids: Vec<_> = master.seen("fork").iter().map(|fork| fork.pid()).collect();
    for pid in pids {
        send(pid, Signal::SIGKILL);
    }
    // The first successors may be ready before the last death is noticed, and that is "all ready" too.
    let exits = master.expect_count("exit", 4);
    let last = exits.iter().filter_map(|exit| exit.0["seq"].as_u64()).max();
    let ready = master.expect_line("all ready again", SOON, |line| {
        line["event"] == "all_ready" && line["data"]["workers"] == 4 && line["seq"].as_u64() > last
    });
    assert_eq!(master.seen("exit").len(), 4);
    assert_eq!(master.seen("restart_scheduled").len(), 4);
    let at = |value: &serde_json::Value| value["seq"].as_u64().expect("events are numbered");
    let (mut booting, mut most) = (0_u64, 0);
    let mut steps = Vec::new();
    for (kind, step) in [("fork", true), ("ready", false)] {
        steps.extend(master.seen(kind).iter().map(|seen| (at(&seen.0), step)));
    }
    steps.sort_unstable();
    for (seq, forked) in steps {
        assert!(seq < at(&ready));
        booting = if forked { booting + 1 } else { booting - 1 };
        most = most.max(booting);
    }
    assert_eq!((booting, most), (0, 2));
}

async fn forever(worker: Worker) {
    probe::idle(&worker).await;
}

async fn listen(worker: Worker) -> Result<(), ListenError> {
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}

async fn crash_on_message(worker: Worker) {
    // No core file in the tests' folder.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit can be lowered");
    let mut messages = worker.messages().expect("nobody took them before");
    if messages.next().await.is_some() {
        // The standard library's handler puts the default action back the first time.
        loop {
            raise(Signal::SIGSEGV).expect("a process can signal itself");
        }
    }
}

async fn ask_and_die(worker: Worker) -> Result<(), ListenError> {
    let deaths_before = u64::from(worker.restarts());
    if worker.slot().index == 1 && deaths_before < DEATHS {
        // Not before the first worker holds the listener.
        actix_cluster_tests::outside::wait_for_file("held");
        let bind = worker.bind("127.0.0.1:0");
        let die = async {
            for _ in 0..deaths_before * deaths_before {
                tokio::task::yield_now().await;
            }
            raise(Signal::SIGKILL).expect("a process can signal itself");
        };
        let (_, ()) = tokio::join!(bind, die);
    }
    let incoming = worker.bind("127.0.0.1:0").await?.incoming()?;
    std::fs::write("held", "").expect("the private directory is writable");
    worker.ready();
    incoming.serve_with(|_| async {}).await;
    Ok(())
}

async fn hold_calls(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    let mut held = Vec::new();
    while let Some(message) = messages.next().await {
        held.push(message);
        probe::say("asked");
    }
}

const DEATHS: u64 = 20;
