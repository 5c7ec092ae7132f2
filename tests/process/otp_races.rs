//! Erlang's supervisor: workers that end in their own way while they are being stopped.

use actix_cluster::{RestartType, Worker, WorkerSpec};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::any_below;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::reports::reporting;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::seen::Seen;
use actix_rt::signal::unix::{SignalKind, signal};
use nix::sys::signal::{Signal, raise};

use crate::otp_stops::reported;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_021_twelve_that_end_by_themselves_while_the_master_stops_are_told_as_they_were",
        app: || of_each_restart_type(4).worker(end_as_the_slot_says).main(),
        check: |master| {
            let mut chance = 1;
            let mut told = [false; 2];
            one_race(master, &mut chance, &mut told);
            for _ in 1..20 {
                let mut again = Master::start(master.name());
                one_race(&mut again, &mut chance, &mut told);
                again.finish();
            }
            assert_eq!(
                told, [true; 2],
                "some ended before they were told to stop, and some after it"
            );
        },
    },
    Scenario {
        name: "o_022_a_stop_that_is_answered_with_another_code_is_a_stop_and_the_code_is_told",
        app: || reporting(of_each_restart_type(2).worker(answer_with_a_code)),
        check: |master| {
            master.expect_ready();
            // One of each kind alone, then the rest with the cluster.
            for worker in [1, 3, 5] {
                master.ask(&Order::Disconnect(worker), "disconnect");
                answered_with_its_code(&master.expect_of(worker, "exit"));
            }
            master.order(&Order::Shutdown);
            let report = reported(master);
            for worker in [2, 4, 6] {
                answered_with_its_code(&master.once(worker, "exit"));
            }
            let codes = report["workers"].as_array().unwrap().iter();
            let codes: Vec<_> = codes
                .map(|end| end["exit"]["status"]["code"].as_i64().unwrap())
                .collect();
            assert_eq!(codes, [16, 14, 12], "in the order of their ends");
            assert_eq!(
                (master.seen("fork").len(), master.seen("restart_scheduled").len()),
                (6, 0)
            );
        },
    },
];

/// So many workers of each restart type; nobody is ready before it can hear a signal.
fn of_each_restart_type(count: u32) -> actix_cluster::ClusterBuilder {
    let spec = |name: &str, restart| WorkerSpec::new(name, count).restart(restart);
    probe::cluster()
        .workers(count)
        .grace(std::time::Duration::from_secs(600))
        .ready_when(actix_cluster::ReadyWhen::Called)
        .spec(spec("transient", RestartType::Transient))
        .spec(spec("temporary", RestartType::Temporary))
}

/// The master is told to stop, and while it does the workers are told, in an order of chance, to end in their own way.
fn one_race(master: &mut Master, chance: &mut u64, told: &mut [bool; 2]) {
    master.expect_ready();
    let mut pids: Vec<u32> = (1..=12).map(|worker| master.once(worker, "fork").pid()).collect();
    master.signal(Signal::SIGTERM);
    master.expect("shutdown_started");
    while !pids.is_empty() {
        let next = any_below(pids.len() as u64, chance);
        send(pids.swap_remove(usize::try_from(next).unwrap()), Signal::SIGUSR1);
    }
    assert_eq!(master.wait().code(), Some(0));
    assert_eq!((master.seen("fork").len(), master.seen("exit").len()), (12, 12));
    assert!(master.seen("restart_scheduled").is_empty());
    for exit in master.seen("exit") {
        let status = match exit.0["worker"]["slot"]["index"].as_u64().unwrap() {
            0 => (Some(0), None),
            1 => (Some(7), None),
            2 => (None, Some(9)),
            _ => (Some(0), None),
        };
        assert_eq!((exit.code(), exit.signal()), status, "{:?}", exit.0);
        assert_eq!(exit.data()["forced"], false, "nobody had to be killed: {:?}", exit.0);
        let announces = exit.0["worker"]["slot"]["index"] == 3;
        let was_told = exit.reason() == "ordered";
        told[usize::from(was_told)] = true;
        match exit.exited_after_disconnect() {
            Some(true) if was_told => {}
            Some(true) => assert!(announces && exit.reason() == "voluntary", "{:?}", exit.0),
            Some(false) => assert!(!announces && exit.reason() == "crash", "{:?}", exit.0),
            None => panic!("it ended: {:?}", exit.0),
        }
    }
}

fn answered_with_its_code(exit: &Seen) {
    let code = 10 + i64::try_from(exit.worker()).unwrap();
    assert_eq!((exit.code(), exit.reason()), (Some(code), &"ordered".into()));
    assert_eq!(
        (exit.exited_after_disconnect(), &exit.data()["forced"]),
        (Some(true), &false.into())
    );
}

/// Cares for no order to stop; on `SIGUSR1` it returns, fails, is killed or leaves.
async fn end_as_the_slot_says(worker: Worker) {
    let mut go = signal(SignalKind::user_defined1()).expect("a handler can be installed");
    worker.ready();
    go.recv().await;
    match worker.slot().index {
        0 => exit_without_a_word(0),
        1 => exit_without_a_word(7),
        2 => raise(Signal::SIGKILL).expect("a process may signal itself"),
        _ => worker.disconnect(),
    }
}

async fn answer_with_a_code(worker: Worker) {
    worker.ready();
    worker.shutdown().started().await;
    worker.exit_now(10 + i32::try_from(worker.id().get()).expect("ids are small"))
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends the process past the library"
)]
fn exit_without_a_word(code: i32) -> ! {
    std::process::exit(code)
}
