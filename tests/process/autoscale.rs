//! The number of workers follows the load, and holds when the load is not known.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, Connection, ListenError, ServeError, Worker};
use actix_cluster_actors::{AutoscaleConfig, Autoscaler, LoadReport, LoadSignal};
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::live_for;
use actix_web::{App, web};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "guide_autoscaling_adds_above_and_removes_below_and_fails_no_request",
        app: || {
            let cluster = load::cluster().workers(2).worker(busy);
            scaled(config(LoadSignal::Messages), cluster)
        },
        check: with_the_load,
    },
    Scenario {
        name: "f_180_when_workers_say_no_load_or_nonsense_their_number_holds",
        app: || {
            let cluster = probe::cluster().workers(2).worker(as_the_file_says);
            scaled(config(LoadSignal::Messages), cluster)
        },
        check: held,
    },
    Scenario {
        name: "connections_that_wait_to_be_accepted_bring_workers_and_all_are_served",
        app: || {
            let cluster = probe::cluster().listen("tcp", "127.0.0.1:0").workers(2).worker(late);
            scaled(config(LoadSignal::Queue).queue_full(8), cluster)
        },
        check: queues,
    },
    Scenario {
        name: "workers_that_use_the_processor_get_help",
        app: || {
            let cluster = probe::cluster().workers(1).worker(spinning);
            // Whatever else this machine does, a process that never sleeps gets more than this.
            let low = config(LoadSignal::Cpu).add_above(0.1).remove_below(0.04);
            scaled(low.min(1).max(2).every(limit(3 * EVERY)), cluster)
        },
        check: processor,
    },
];

/// The guide's limits, shortened, with up to four workers.
fn config(signal: LoadSignal) -> AutoscaleConfig {
    AutoscaleConfig::new()
        .max(4)
        .every(limit(EVERY))
        .cool_down_up(limit(2 * EVERY))
        .cool_down_down(limit(4 * EVERY))
        .signals([signal])
}

fn scaled(config: AutoscaleConfig, cluster: ClusterBuilder) -> ExitCode {
    let scaler = Autoscaler::new(config).unwrap();
    scaler.attach(cluster).main()
}

/// Answers in a moment, and says how many requests it has in progress: eight are as many as it can do.
async fn busy(worker: Worker) -> Result<(), ServeError> {
    let active = Arc::new(AtomicU32::new(0));
    let handler = {
        let active = Arc::clone(&active);
        move || {
            let active = Arc::clone(&active);
            async move {
                active.fetch_add(1, Ordering::Relaxed);
                live_for(EVERY / 3).await;
                active.fetch_sub(1, Ordering::Relaxed);
                "0 done"
            }
        }
    };
    let teller = worker.clone();
    actix_rt::spawn(async move {
        loop {
            let load = f64::from(active.load(Ordering::Relaxed)) / 8.0;
            // The next word counts as well.
            teller.send(&LoadReport::new(load)).ok();
            live_for(EVERY / 5).await;
        }
    });
    let app = move || App::new().route("/", web::get().to(handler.clone()));
    worker.serve("http", app).await
}

fn with_the_load(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let (light, heavy) = (Load::start(port, 1), Load::start(port, 16));
    reaches(master, 4);
    heavy.goes_on_for(100);
    heavy.stop().is_flawless();
    reaches(master, 2);
    light.goes_on_for(20);
    light.stop().is_flawless();
    // One at a time, each told before it was done, with its reason and its inputs.
    let changes = master.seen("scaled");
    assert!(changes.len() >= 4, "{changes:?}");
    for change in &changes {
        let (from, to) = (&change.data()["from"], &change.data()["to"]);
        assert_eq!(
            from.as_u64().unwrap().abs_diff(to.as_u64().unwrap()),
            1,
            "{:?}",
            change.0
        );
        let why = if to.as_u64() > from.as_u64() {
            "load_high"
        } else {
            "load_low"
        };
        let told = decisions(master)
            .into_iter()
            .rfind(|it| it["seq"].as_u64() < change.0["seq"].as_u64());
        let told = told.unwrap()["data"]["data"].clone();
        assert_eq!((&told["from"], &told["to"], &told["why"]), (from, to, &json!(why)));
        assert_eq!(told["readings"][0]["signal"], "messages");
        let load = told["load"].as_f64().unwrap();
        assert!(if why == "load_high" { load > 0.8 } else { load < 0.2 }, "{told}");
    }
    for exit in master.seen("exit") {
        assert_eq!((exit.code(), exit.reason()), (Some(0), &json!("ordered")));
    }
}

/// Says what is in the file `load`, as it is; nothing if it is empty or not there.
async fn as_the_file_says(worker: Worker) {
    let shutdown = worker.shutdown();
    while !shutdown.is_started() {
        let text = fs::read_to_string("load").unwrap_or_default();
        if let Ok(load) = serde_json::from_str::<Value>(&text) {
            worker.send(&json!({"type": "load", "load": load})).ok();
        }
        live_for(EVERY / 5).await;
    }
}

fn held(master: &mut Master) {
    master.expect_ready();
    let say = |master: &Master, load: &str| fs::write(master.directory().join("load"), load).unwrap();
    expect_decision(master, "missing");
    say(master, "0.5");
    expect_decision(master, "in_range");
    let holds = |master: &Master| master.never("a change", 6 * EVERY, |line| line["event"] == "scaled");
    say(master, "");
    expect_decision(master, "stale");
    holds(master);
    for nonsense in ["null", "-1", "1e7", "\"1.0\""] {
        say(master, nonsense);
        expect_decision(master, "nonsense");
        holds(master);
        say(master, "0.5");
        expect_decision(master, "in_range");
    }
    // It would have seen a load all that time.
    say(master, "1.0");
    assert_eq!(master.expect("scaled").data()["to"], 3);
}

/// Listens, and does not accept before the file `open` is there; then says hello to everybody.
async fn late(worker: Worker) -> Result<(), ListenError> {
    let connections = worker.incoming("tcp")?;
    load::held(&worker, "open").await;
    connections.serve_with(hello).await;
    Ok(())
}

async fn hello(mut connection: Connection) {
    // Its client sees what is missing.
    connection.write_all(b"hello").await.ok();
}

fn queues(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let clients: Vec<TcpStream> = (0..60).map(connect).collect();
    let told = expect_decision(master, "load_high");
    assert_eq!(told["readings"][0]["signal"], "queue");
    // It may be at four by now.
    master.until("three workers", |master| {
        master.seen("scaled").iter().any(|scaled| scaled.data()["to"] == 3)
    });
    fs::write(master.directory().join("open"), "").unwrap();
    for mut client in clients {
        client.set_read_timeout(Some(limit(SOON))).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "hello");
    }
    reaches(master, 2);
}

/// One thread that never sleeps while the file `work` is there.
async fn spinning(worker: Worker) {
    let thread = std::thread::spawn({
        let shutdown = worker.shutdown().clone();
        move || {
            while !shutdown.is_started() {
                if !Path::new("work").exists() {
                    std::thread::park_timeout(EVERY / 5);
                }
            }
        }
    });
    worker.shutdown().started().await;
    thread.join().unwrap();
}

fn processor(master: &mut Master) {
    master.expect_ready();
    let file = master.directory().join("work");
    fs::write(&file, "").unwrap();
    let told = expect_decision(master, "load_high");
    assert_eq!(told["readings"][0]["signal"], "cpu");
    reaches(master, 2);
    fs::remove_file(file).unwrap();
    reaches(master, 1);
    assert_eq!(expect_told(master, "load_low")["from"], 2);
}

/// Waits until the last change was to this number.
fn reaches(master: &Master, workers: u64) {
    master.until(&format!("{workers} workers"), |master| {
        master
            .seen("scaled")
            .last()
            .is_some_and(|it| it.data()["to"] == workers)
    });
}

/// What the autoscaler has told so far.
fn decisions(master: &Master) -> Vec<Value> {
    let all = master.seen("custom").into_iter().map(|seen| seen.0);
    all.filter(|it| it["data"]["source"] == "autoscaler" && it["data"]["name"] == "decision")
        .collect()
}

/// Waits for the next decision of this reason.
fn expect_decision(master: &Master, why: &str) -> Value {
    let what = format!("a decision because of {why}");
    let line = master.expect_line(&what, SOON, |line| line["data"]["data"]["why"] == why);
    line["data"]["data"].clone()
}

/// A decision of this reason that was told already.
fn expect_told(master: &Master, why: &str) -> Value {
    let told = decisions(master).into_iter().map(|it| it["data"]["data"].clone());
    told.into_iter().find(|it| it["why"] == why).expect("it was told")
}

/// How often the autoscaler looks.
const EVERY: Duration = Duration::from_millis(150);
