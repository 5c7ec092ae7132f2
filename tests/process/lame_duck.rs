//! Stops in two steps: not ready first, and only later not accepting. What clients, the master and the report see of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, ReadyWhen, ServeError, WhenEmpty, Worker, WorkerSpec};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::reports::reporting;
use actix_cluster_tests::scenario::Scenario;
use actix_web::{App, HttpResponse, web};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::master_death::gone_in_time;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_lame_duck_is_not_ready_and_accepts_until_a_second_signal_ends_its_time",
        app: || serving().lame_duck(LONG).main(),
        check: accepts_and_is_not_ready,
    },
    Scenario {
        name: "the_end_of_the_lame_duck_time_begins_the_drain_and_the_report_tells_both",
        app: || reporting(serving().lame_duck(SHORT)),
        check: ends_by_itself,
    },
    Scenario {
        name: "f_038_i_10_the_grace_counts_from_the_end_of_the_lame_duck_time_and_lost_requests_are_told",
        app: || serving().lame_duck(SHORT).grace(limit(4 * SHORT)).main(),
        check: forced,
    },
    Scenario {
        name: "an_immediate_stop_knows_no_lame_duck_time",
        app: || serving().workers(2).lame_duck(LONG).main(),
        check: |master| {
            master.expect_ready();
            // In the middle of it.
            master.order(&Order::Disconnect(1));
            master.sees(1, "exiting");
            master.signal(Signal::SIGQUIT);
            assert_eq!(master.wait().code(), Some(131));
            for exit in master.seen("exit") {
                assert_eq!((exit.signal(), &exit.data()["forced"]), (Some(9), &true.into()));
            }
        },
    },
    Scenario {
        name: "the_death_of_the_master_ends_the_lame_duck_time",
        app: || serving().lame_duck(LONG).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Disconnect(1));
            master.sees(1, "exiting");
            master.signal(Signal::SIGKILL);
            gone_in_time(master);
        },
    },
    Scenario {
        name: "a_worker_that_leaves_or_is_signalled_by_itself_is_a_lame_duck_too_and_a_booting_one_is_not",
        app: || {
            let own = WorkerSpec::new("never", 1).ready_when(ReadyWhen::Called);
            let own = own
                .lame_duck(LONG)
                .worker(|worker: Worker| async move { probe::idle(&worker).await });
            serving().lame_duck(SHORT).spec(own).main()
        },
        check: by_itself,
    },
    Scenario {
        name: "a_reload_with_a_lame_duck_time_fails_no_request",
        app: || load::cluster().workers(3).lame_duck(Duration::from_millis(100)).main(),
        check: |master| {
            let port = master.expect_ready().unwrap();
            let load = Load::start(port, 3);
            for generation in 1..=3 {
                let reloaded = master.ask(&Order::Reload(Care::default()), "reloaded ");
                assert_eq!(reloaded, generation.to_string());
            }
            load.stop().is_flawless();
            for exit in master.seen("exit") {
                assert!(drain(&exit.0, "lame_duck_ms") >= 100.0, "{:?}", exit.0);
            }
        },
    },
];

/// Longer than any test: only something else can end it.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(400);

fn serving() -> ClusterBuilder {
    let cluster = probe::cluster()
        .grace(Duration::from_secs(20))
        .listen("http", "127.0.0.1:0");
    cluster.when_empty(WhenEmpty::Wait).worker(serve)
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    probe::do_as_told(&worker);
    let told = worker.clone();
    actix_rt::spawn(async move {
        told.shutdown().announced().await;
        probe::say(&format!(
            "announced {} {}",
            told.is_ready(),
            told.shutdown().is_started()
        ));
        told.shutdown().started().await;
        probe::say("started");
    });
    let app = worker.clone();
    let routes = move || {
        App::new()
            .app_data(web::Data::new(app))
            .route("/ready", web::get().to(ready))
            .route("/held", web::get().to(held))
            .route("/never", web::get().to(never))
    };
    worker.serve("http", routes).await
}

async fn ready(worker: web::Data<Worker>) -> HttpResponse {
    if worker.is_ready() {
        HttpResponse::Ok().finish()
    } else {
        HttpResponse::ServiceUnavailable().finish()
    }
}

/// Answered when the drain has begun.
async fn held(worker: web::Data<Worker>) -> &'static str {
    probe::say("asked");
    worker.shutdown().started().await;
    // The master has heard that the drain has begun, and with this request in progress.
    worker.call::<Value>("drained", Duration::from_secs(5)).await.ok();
    "answered"
}

async fn never() -> HttpResponse {
    probe::say("asked");
    std::future::pending().await
}

fn client(port: u16) -> Client {
    Client::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit(SOON))
}

/// A number of an exit's drain report; times are in milliseconds.
fn drain(exit: &Value, what: &str) -> f64 {
    let drain = &exit["data"]["drain"];
    drain[what].as_f64().unwrap_or_else(|| panic!("no {what} in {drain}"))
}

fn accepts_and_is_not_ready(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let status = |path: &str| client(port).get(path).unwrap().status;
    assert_eq!(status("/ready"), 200);
    master.order(&Order::Disconnect(1));
    assert_eq!(master.sees(1, "exiting").state(), "exiting");
    master.hears("announced false false");
    // Everybody is told: the health check by a new connection, and who asks the master.
    assert_eq!(status("/ready"), 503);
    let snapshot = master.snapshot();
    let worker = &snapshot["workers"][0];
    assert_eq!(
        (&worker["ready"], &worker["stats"]["draining"]),
        (&false.into(), &false.into())
    );
    let pid = master.once(1, "ready").pid();
    send(pid, Signal::SIGTERM);
    // One signal says what it knows.
    assert_eq!(status("/ready"), 503);
    assert_eq!(master.count_said("started"), 0);
    // Another one, because the kernel may take two of one kind for one.
    send(pid, Signal::SIGINT);
    let exit = master.sees(1, "exit");
    assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
    assert!(drain(&exit.0, "lame_duck_ms") < 600_000.0);
}

fn ends_by_itself(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let held = std::thread::spawn(move || client(port).get("/held").map(|response| response.text()));
    master.hears("asked");
    master.order(&Order::Shutdown);
    assert_eq!(held.join().unwrap().unwrap(), "answered");
    let report = master.report();
    let told = &report["workers"][0]["exit"]["drain"];
    assert!(told["lame_duck_ms"].as_f64().unwrap() >= 400.0, "{report}");
    assert_eq!(
        (&told["in_progress_at_start"], &told["lost"]),
        (&1.into(), &0.into()),
        "{report}"
    );
    // What the event told is the same.
    assert_eq!(&master.seen("exit")[0].data()["drain"], told);
}

fn forced(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let never = std::thread::spawn(move || client(port).get("/never").map(|response| response.status));
    master.hears("asked");
    master.order(&Order::Disconnect(1));
    let exit = master.sees(1, "exit");
    assert_eq!((exit.signal(), &exit.data()["forced"]), (Some(9), &true.into()));
    // By the clock of the master's machine, from the order to the exit.
    let (duck, drained) = (drain(&exit.0, "lame_duck_ms"), drain(&exit.0, "drained_in_ms"));
    assert!(
        duck >= 400.0 && duck + drained >= 800.0,
        "killed before its time: {:?}",
        exit.0
    );
    let report = &exit.data()["drain"];
    assert_eq!(
        (&report["in_progress_at_start"], &report["lost"]),
        (&1.into(), &1.into())
    );
    assert!(never.join().unwrap().is_err());
}

fn by_itself(master: &mut Master) {
    master.sees(1, "ready");
    master.sees(2, "online");
    let pid = master.once(1, "ready").pid();
    send(pid, Signal::SIGTERM);
    let exit = master.sees(1, "exit");
    assert_eq!((exit.code(), exit.reason()), (Some(0), &"voluntary".into()));
    // The master hears of it a little later than it begins.
    assert!(drain(&exit.0, "lame_duck_ms") >= 200.0, "{:?}", exit.0);
    master.sees(3, "ready");
    master.order(&Order::Send(3, "disconnect".to_owned()));
    assert!(drain(&master.sees(3, "exit").0, "lame_duck_ms") >= 200.0);
    // Nobody waits for who was not ready, though its spec has the longest time of all.
    master.order(&Order::Disconnect(2));
    let exit = master.sees(2, "exit");
    assert_eq!(exit.code(), Some(0));
    assert!(drain(&exit.0, "lame_duck_ms") < 400_000.0);
}
