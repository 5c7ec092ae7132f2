//! Workers that do not come up, or will not go: what the others, the start and the stop of the cluster see of it.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::Worker;
use actix_cluster_tests::fault::{self, Fault, Good, attack};
use actix_cluster_tests::leftovers;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::reports::reporting;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_stopped_worker_does_not_stop_the_shutdown",
        app,
        check: |master| {
            let good = Good::ready(master);
            let id = attack(master, Fault::Stopped);
            let pid = master.once(id, "ready").pid();
            let deadline = Deadline::after(limit(Duration::from_secs(5)));
            while leftovers::process(pid).is_some_and(|process| process.state != 'T') {
                assert!(!deadline.is_over(), "it was never stopped");
            }
            good.serves(master);
            stops_by_force(master, id);
        },
    },
    Scenario {
        name: "a_worker_that_ignores_sigterm_does_not_stop_the_shutdown",
        app,
        check: |master| {
            let good = Good::ready(master);
            let script = format!("trap '' TERM; {}{}", fault::SHELL_READY, fault::SHELL_LIVES_ON);
            let id = attack(master, Fault::Shell(script));
            master.once(id, "ready");
            good.serves(master);
            stops_by_force(master, id);
        },
    },
    Scenario {
        name: "every_kind_of_bad_worker_at_once_leaves_the_service_and_the_shutdown_intact",
        app: unheard,
        check: all_at_once,
    },
    Scenario {
        name: "a_worker_that_exits_before_it_is_ready_fails_its_slot_only",
        app: exits_at_boot,
        check: |master| {
            let good = Good::ready(master);
            master.order(&Order::Fork(vec![("EXITS".to_owned(), "1".to_owned())]));
            let gave_up = master.expect("gave_up");
            assert_eq!(gave_up.data()["slot"]["slot"]["index"], 1, "{:?}", gave_up.data());
            for exit in master.seen("exit") {
                assert_eq!(
                    (exit.code(), exit.data()["was_ready"].as_bool()),
                    (Some(1), Some(false))
                );
            }
            good.serves(master);
        },
    },
    Scenario {
        name: "a_worker_that_never_gets_ready_is_replaced_at_the_boot_limit",
        app: short_boot,
        check: |master| {
            let good = Good::ready(master);
            for fault in [Fault::NeverReady, Fault::Shell(fault::SHELL_LIVES_ON.to_owned())] {
                let id = attack(master, fault);
                let exit = master.once(id, "exit");
                assert_eq!((exit.signal(), exit.reason().as_str()), (Some(9), Some("boot_timeout")));
                master.once(id + 1, "ready");
                master.order(&Order::Disconnect(id + 1));
                master.once(id + 1, "exit");
                good.serves(master);
            }
        },
    },
    Scenario {
        name: "an_interrupt_during_the_start_stops_in_order",
        app: never_ready,
        check: |master| {
            master.expect("fork");
            master.signal(Signal::SIGINT);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "a_second_interrupt_during_the_start_stops_at_once",
        app: deaf_at_boot,
        check: |master| {
            master.once(1, "online");
            master.signal(Signal::SIGINT);
            master.expect("shutdown_started");
            master.signal(Signal::SIGINT);
            assert_eq!(master.wait().code(), Some(128 + 2));
        },
    },
];

fn app() -> ExitCode {
    reporting(fault::cluster())
}

fn unheard() -> ExitCode {
    fault::unheard().main()
}

/// The orderly stop ends with success, and only this worker had to be killed.
fn stops_by_force(master: &mut Master, id: u64) {
    master.order(&Order::Shutdown);
    let report = master.report();
    for end in report["workers"].as_array().unwrap() {
        assert_eq!(end["exit"]["forced"].as_bool(), Some(end["id"] == id), "{end}");
    }
}

fn all_at_once(master: &mut Master) {
    let good = Good::ready(master);
    let flood = |bytes: &str| Fault::Raw {
        bytes: bytes.to_owned(),
        times: 1_000_000,
    };
    let closed = format!(
        "{}trap '' TERM; exec 3>&-; {}",
        fault::SHELL_READY,
        fault::SHELL_LIVES_ON
    );
    let faults = [
        Fault::Deaf,
        Fault::Stopped,
        Fault::NeverReady,
        Fault::raw("garbage\n"),
        Fault::raw("{\"t\":\"msg\","),
        flood("{\"t\":\"heartbeat\",\"m\":{\"n\":{n}}}\n"),
        flood("{\"t\":\"failed\",\"m\":\"{n}\"}\n"),
        Fault::Surplus { each: 200, times: 100 },
        Fault::Shell(closed),
        Fault::Shell("exit 3".to_owned()),
    ];
    for fault in faults {
        attack(master, fault);
    }
    for _ in 0..5 {
        good.is_up(master);
    }
    assert_eq!(master.life_of(1), ["fork", "online", "listening", "ready"]);
    master.order(&Order::Shutdown);
    assert_eq!(master.wait().code(), Some(0));
}

fn exits_at_boot() -> ExitCode {
    if std::env::var_os("EXITS").is_some() {
        return ExitCode::FAILURE;
    }
    app()
}

fn short_boot() -> ExitCode {
    fault::cluster().boot_limit(limit(Duration::from_secs(2))).main()
}

fn never_ready() -> ExitCode {
    let idle = |worker: Worker| async move { probe::idle(&worker).await };
    probe::cluster()
        .workers(3)
        .listen("tcp", "127.0.0.1:0")
        .worker(idle)
        .main()
}

fn deaf_at_boot() -> ExitCode {
    let deaf = |_: Worker| std::future::pending::<()>();
    probe::cluster()
        .grace(Duration::from_secs(60))
        .listen("tcp", "127.0.0.1:0")
        .worker(deaf)
        .main()
}
