//! Metrics that workers define: refused where they would break the text, summed in the master, exact after an ordered end.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Message, RestartLimit, Worker};
use actix_cluster_actors::metrics::worker::{WorkerMetrics, scrape};
use actix_cluster_actors::metrics::{MetricError, is_ours};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::openmetrics::Exposition;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_web::{App, web};
use nix::sys::signal::Signal;

use crate::metrics::{assert_exact, metered, port, until};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "what_workers_count_is_summed_and_survives_their_ends",
        app: counting,
        check: counted,
    },
    Scenario {
        name: "a_worker_that_lies_about_its_metrics_harms_its_own_only",
        app: counting,
        check: lied,
    },
    Scenario {
        name: "i_40_no_counter_falls_or_is_lost_when_standbys_take_slots",
        app: || {
            let cluster = probe::cluster().listen("http", "127.0.0.1:0").worker(count_in_a_slot);
            let cluster = cluster.restart_limit(RestartLimit::unlimited());
            metered(cluster.workers(2).standby(1)).main()
        },
        check: promoted,
    },
    Scenario {
        name: "a_worker_can_show_the_whole_cluster_in_its_own_application",
        app: counting,
        check: |master| {
            master.expect_ready();
            master.order(&Order::Send(1, "scrape".to_owned()));
            let text: String = serde_json::from_str(&master.expect_said("text ")).expect("a text");
            let scrape = Exposition::read(&text).expect("it is in the format");
            assert_exact(scrape.sum("actix_cluster_target_workers", &[]), 2);
        },
    },
];

fn counting() -> ExitCode {
    let cluster = metered(probe::cluster().workers(2).worker(count));
    let other = |_: actix_cluster::WorkerRef, message: Message| {
        if let Some(reply) = message.reply()
            && !is_ours(&message)
        {
            reply.err("not for me");
        }
    };
    cluster.on_message(other).main()
}

/// `work N` counts, `quit` ends in order right after counting 100, `lie` says what no report may, `scrape` asks for all.
async fn count(worker: Worker) -> Result<(), MetricError> {
    let metrics = WorkerMetrics::new(&worker);
    refuses(&metrics);
    let jobs = metrics.counter("jobs_total", "Jobs done", &[("queue", "a\"b\nc\\d")])?;
    let queue = metrics.gauge("queue_length", "Jobs that wait", &[])?;
    let took = metrics.histogram("took_seconds", "Time", &[], &[0.1, 1.0])?;
    let own = metrics.per_slot().gauge("own", "For each slot", &[])?;
    queue.set(5.0);
    own.set(1.0);
    let (ear, took) = (worker.clone(), RefCell::new(took));
    worker.on_message(
        move |message| match message.parse::<String>().unwrap_or_default().as_str() {
            "quit" => {
                jobs.inc_by(100);
                ear.disconnect();
            }
            "lie" => {
                for lie in LIES {
                    let lie: serde_json::Value = serde_json::from_str(lie).expect("a lie has a form");
                    ear.send(&lie).expect("there is room");
                }
            }
            "scrape" => {
                let ear = ear.clone();
                actix_rt::spawn(async move {
                    let text = scrape(&ear, limit(Duration::from_secs(5)))
                        .await
                        .expect("the master answers");
                    probe::say(&format!("text {}", serde_json::to_string(&text).expect("it is text")));
                });
            }
            text => {
                let n = text
                    .strip_prefix("work ")
                    .and_then(|n| n.parse().ok())
                    .unwrap_or_default();
                jobs.inc_by(n);
                took.borrow_mut().observe(0.5);
            }
        },
    );
    worker.ready();
    worker.shutdown().started().await;
    Ok(())
}

/// Counts its process when it begins, and requests when it has a slot; each for its slot.
async fn count_in_a_slot(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let metrics = WorkerMetrics::new(&worker).per_slot();
    metrics.counter("processes", "Begun", &[])?.inc();
    worker.activated().await;
    let answered = metrics.counter("answered", "Requests", &[])?;
    let app = move || {
        let answered = answered.clone();
        let answer = move || {
            answered.inc();
            std::future::ready("")
        };
        App::new().route("/", web::get().to(answer))
    };
    Ok(worker.serve("http", app).await?)
}

/// Names that would break the text are errors of the one who registers them.
fn refuses(metrics: &WorkerMetrics) {
    for name in ["a\"b", "a\nb", "", "1", "actix_cluster_requests"] {
        assert!(
            matches!(metrics.counter(name, "Help", &[]), Err(MetricError::Name(_))),
            "{name:?}"
        );
    }
    assert!(matches!(
        metrics.gauge("a", "two\nlines", &[]),
        Err(MetricError::Help(_))
    ));
    assert!(matches!(
        metrics.gauge("a", "Help", &[("l\"", "v")]),
        Err(MetricError::Label(_))
    ));
    metrics.gauge("same", "Help", &[]).unwrap();
    assert!(matches!(
        metrics.counter("same", "Help", &[]),
        Err(MetricError::Differs(_))
    ));
}

fn counted(master: &mut Master) {
    master.expect_ready();
    let port = port(master);
    master.order(&Order::Send(1, "work 10".to_owned()));
    master.order(&Order::Send(2, "work 20".to_owned()));
    let jobs = |scrape: &Exposition| scrape.sum("jobs_total", &[]);
    let told = until(port, "30 jobs", |scrape| jobs(scrape) >= 30.0);
    assert_exact(jobs(&told), 30);
    assert_exact(told.sum("queue_length", &[]), 10);
    assert_eq!((told.count("own"), told.count("queue_length")), (2, 1));
    assert_exact(told.sum("took_seconds_count", &[]), 2);
    assert_exact(told.sum("took_seconds_bucket", &["le=0.1"]), 0);
    assert_exact(told.sum("took_seconds_bucket", &["le=1.0"]), 2);
    // One ends in order right after it counted: its last words are counted, too.
    master.order(&Order::Send(1, "quit".to_owned()));
    master.expect_of(1, "exit");
    let after = until(port, "130 jobs", |scrape| jobs(scrape) >= 130.0);
    after.follows(&told);
    assert_exact(jobs(&after), 130);
    // One is killed: what it told stays, and what it held is gone.
    let pid = master.once(2, "ready").pid();
    send(pid, Signal::SIGKILL);
    let gone = until(port, "its exit", |scrape| {
        scrape.sum("actix_cluster_exits_total", &["reason=crash"]) >= 1.0 && scrape.sum("queue_length", &[]) > 4.0
    });
    gone.follows(&after);
    assert_exact(jobs(&gone), 130);
}

/// Everything was told before somebody is killed, so everything is counted.
fn promoted(master: &mut Master) {
    let http = master.expect_ready().expect("a listener is declared");
    let (port, address) = (port(master), SocketAddr::from((Ipv4Addr::LOCALHOST, http)));
    let mut before = Exposition::default();
    for round in 0..4_u32 {
        for _ in 0..20 {
            let answer = Client::new(address, limit(Duration::from_secs(10))).get("/");
            assert_eq!(answer.expect("it is answered").status, 200);
        }
        let asked = f64::from((round + 1) * 20);
        let told = until(port, "all requests, and one that stands by", |scrape| {
            scrape.follows(&before);
            let sum = |name| scrape.sum(name, &[]);
            sum("actix_cluster_requests_total") >= asked
                && sum("answered_total") >= asked
                && sum("processes_total") >= f64::from(3 + round)
        });
        for slot in ["slot=0", "slot=1"] {
            let sum = |name| told.sum(name, &[slot]);
            assert!(sum("answered_total") <= sum("actix_cluster_requests_total"), "{told:?}");
        }
        assert_exact(
            told.sum("actix_cluster_requests_total", &[]),
            u64::from((round + 1) * 20),
        );
        assert_exact(told.sum("answered_total", &[]), u64::from((round + 1) * 20));
        assert_exact(told.sum("processes_total", &["slot=standby"]), u64::from(round + 1));
        let (oldest, standby) = (u64::from(round + 1), u64::from(round + 3));
        master.sees(standby, "standby");
        send(master.sees(oldest, "fork").pid(), Signal::SIGKILL);
        master.sees(oldest, "exit");
        master.sees(standby, "ready");
        before = told;
    }
    let last = until(port, "the last standby", |scrape| {
        scrape.follows(&before);
        scrape.sum("processes_total", &[]) >= 7.0
    });
    assert_exact(last.sum("answered_total", &[]), 80);
    assert_exact(last.sum("actix_cluster_requests_total", &[]), 80);
    assert_exact(last.sum("actix_cluster_requests_total", &["slot=standby"]), 0);
}

fn lied(master: &mut Master) {
    master.expect_ready();
    let port = port(master);
    master.order(&Order::Send(2, "work 20".to_owned()));
    let before = until(port, "20 jobs", |scrape| scrape.sum("jobs_total", &[]) >= 20.0);
    master.order(&Order::Send(1, "lie".to_owned()));
    let refused = |scrape: &Exposition| scrape.sum("actix_cluster_worker_series_refused_total", &[]);
    let after = until(port, "refusals", |scrape| refused(scrape) >= 5.0);
    after.follows(&before);
    assert_exact(after.sum("jobs_total", &[]), 20);
    assert_exact(after.sum("actix_cluster_worker_series_refused_total", &["slot=1"]), 0);
    assert_exact(after.sum("actix_cluster_live_workers", &[]), 2);
}

/// Reports that the library never makes.
const LIES: [&str; 5] = [
    r#"{"actix_cluster_metrics": 1}"#,
    r#"{"actix_cluster_metrics": [{"name": "a\nb 1", "help": "", "value": {"counter": 1}}]}"#,
    r##"{"actix_cluster_metrics": [{"name": "a", "help": "\n# EOF", "value": {"counter": 1}}]}"##,
    r#"{"actix_cluster_metrics": [{"name": "actix_cluster_requests", "help": "", "value": {"counter": 1}}]}"#,
    r#"{"actix_cluster_metrics": [{"name": "jobs", "help": "", "labels": {"queue": "a\"b\nc\\d"}, "value": {"gauge": 1e308}}]}"#,
];
