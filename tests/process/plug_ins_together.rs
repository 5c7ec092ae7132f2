//! All plug-ins on one cluster: each sees what is its own, and none is in another's way.

use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{EventFilter, RestartLimit, ServeError, Worker};
use actix_cluster_actors::{
    AutoscaleConfig, Autoscaler, EventLog, EventLogConfig, LoadReport, LoadSignal, MemoryConfig, MemoryLimit,
    MemoryWatchdog, RotatingFile, Rotation, StateTracker, StateTrackerConfig, SystemdConfig, SystemdNotifier,
};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::openmetrics::{Exposition, get};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, killed_in_time};
use actix_web::App;
use actix_web::web;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::memory::grow_to;
use crate::metrics::{assert_exact, metered, port, until};
use crate::systemd::{Manager, own_path};
use crate::tracker::record;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "every_plug_in_at_once_sees_a_crash_a_hang_a_fat_worker_more_load_a_reload_and_the_stop",
    app: everything,
    check: one_thing_after_the_other,
}];

/// How often the plug-ins look.
const EVERY: Duration = Duration::from_millis(200);

fn everything() -> ExitCode {
    let cluster = probe::cluster()
        .workers(2)
        .restart_limit(RestartLimit::unlimited())
        .listen("http", "127.0.0.1:0")
        .worker(serve);
    let cluster = metered(stuck::monitored(stuck::config(), cluster));
    // No soft limit below: a reading may find the worker while it grows.
    let limits = MemoryConfig::new(MemoryLimit::mib(256)).period(limit(EVERY)).soft(1.0);
    let cluster = MemoryWatchdog::new(limits).unwrap().attach(cluster);
    let bounds = AutoscaleConfig::new().min(2).max(3).every(limit(EVERY));
    let scaler = Autoscaler::new(bounds.cool_down_up(limit(EVERY)).signals([LoadSignal::Messages]));
    let cluster = scaler.unwrap().attach(cluster);
    let tracker = StateTracker::new(StateTrackerConfig::new()).report_with(limit(EVERY), |records| {
        for record in records {
            probe::say(&format!("record {}", serde_json::to_string(record).unwrap()));
        }
    });
    let manager = SystemdConfig::from_env().socket(own_path());
    let cluster = SystemdNotifier::new(manager).attach(tracker.attach(cluster));
    let config = EventLogConfig::new().filter(EventFilter::all());
    let log = EventLog::new(config, RotatingFile::new("events", Rotation::new()));
    cluster
        .subscribe_with(log.options(), |_| log.start_on_own_thread())
        .main()
}

/// Says again and again how busy it is, which is what the file `load` says, and does what messages say.
async fn serve(worker: Worker) -> Result<(), ServeError> {
    worker.on_message(|message| match probe::text_of(&message).as_str() {
        "grow" => grow_to(280),
        "block" => loop {
            std::thread::park();
        },
        other => panic!("cannot {other}"),
    });
    let teller = worker.clone();
    actix_rt::spawn(async move {
        loop {
            let load = std::fs::read_to_string("load").map_or(0.5, |text| text.parse().unwrap_or(0.5));
            // The next word counts as well.
            teller.send(&LoadReport::new(load)).ok();
            stuck::live_for(limit(EVERY) / 4).await;
        }
    });
    let app = || App::new().route("/", web::get().to(async || "here"));
    worker.serve("http", app).await
}

fn one_thing_after_the_other(master: &mut Master) {
    let manager = Manager::at_path(master);
    let http = master.expect_ready().expect("a listener is declared");
    manager.expect("READY=1");
    let scraped = port(master);
    let first = Exposition::scrape(scraped);
    send(master.once(1, "ready").pid(), Signal::SIGKILL);
    assert_eq!(master.once(1, "exit").reason(), "crash");
    master.once(3, "ready");
    master.order(&Order::Send(2, "block".to_owned()));
    killed_in_time(master, 2);
    master.once(4, "ready");
    master.order(&Order::Send(3, "grow".to_owned()));
    let fat = master.once(3, "exit");
    assert!(fat.reason()["memory"].is_string(), "{:?}", fat.0);
    master.once(5, "ready");
    let load = master.directory().join("load");
    std::fs::write(&load, "0.95").expect("the directory is ours");
    master.once(6, "ready");
    std::fs::write(&load, "0.5").expect("the directory is ours");
    master.signal(Signal::SIGHUP);
    manager.expect("RELOADING=1");
    manager.expect("READY=1");
    for worker in [7, 8, 9] {
        master.once(worker, "ready");
    }
    assert_eq!(get(http, "/").expect("it serves").text(), "here");
    let last = until(scraped, "three of the new generation", |scrape| {
        scrape.sum("actix_cluster_exits_total", &[]) >= 6.0 && scrape.sum("actix_cluster_ready_workers", &[]) >= 3.0
    });
    last.follows(&first);
    for cause in ["crash", "hang", "memory"] {
        assert_exact(last.sum("actix_cluster_exits_total", &[&format!("reason={cause}")]), 1);
        assert_exact(
            last.sum("actix_cluster_restarts_total", &[&format!("cause={cause}")]),
            1,
        );
    }
    assert_exact(last.sum("actix_cluster_exits_total", &["reason=other"]), 0);
    assert_exact(last.sum("actix_cluster_exits_total", &["reason=ordered"]), 3);
    record(master, 3, |it| it["state"] == "dead");
    record(master, 9, |it| it["healthy"] == true);
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    manager.expect("STOPPING=1");
    assert!(
        TcpStream::connect(("127.0.0.1", scraped)).is_err(),
        "nobody answers a scrape"
    );
    logged(master);
}

/// The log holds every event once, in order, and each worker's one end.
fn logged(master: &Master) {
    let text = std::fs::read_to_string(master.directory().join("events")).expect("it was written");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, seq) in lines.iter().zip(1_u64..) {
        assert_eq!(line["seq"], json!(seq), "{line}");
    }
    for worker in 1..=9 {
        let ends = lines
            .iter()
            .filter(|line| line["event"] == "exit" && line["worker"]["id"] == worker);
        assert_eq!(ends.count(), 1, "of worker {worker}");
    }
}
