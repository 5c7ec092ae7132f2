//! One scrape is the whole cluster, whatever happens to it: numbers that never fall, answers while workers hang.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, EventKind, RestartLimit, ServeError, Worker};
use actix_cluster_actors::metrics::{Metrics, MetricsConfig};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::openmetrics::{Exposition, get};
use actix_cluster_tests::outside::let_pass;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use actix_web::{App, web};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "no_counter_falls_while_workers_are_killed_and_the_cluster_is_scraped",
        app: || metered(served(3)).main(),
        check: killed_and_scraped,
    },
    Scenario {
        name: "requests_that_were_told_survive_their_worker_exactly",
        app: || metered(served(3)).main(),
        check: told_and_killed,
    },
    Scenario {
        name: "a_scrape_is_answered_while_a_worker_hangs",
        app: || metered(served(2).heartbeat(limit(Duration::from_millis(100)))).main(),
        check: scraped_while_one_hangs,
    },
    Scenario {
        name: "scrapers_that_never_read_cost_nobody_anything",
        app: || metered(served(1)).main(),
        check: slow_readers,
    },
    Scenario {
        name: "a_port_in_use_is_told_and_the_probe_of_readiness_follows_the_cluster",
        app: port_in_use,
        check: |master| {
            let told = master.expect_said("refused ");
            assert!(told.contains("choose another port"), "{told}");
            let port = port(master);
            let ready = get(port, "/healthz").expect("it is answered");
            assert_eq!(
                (ready.status, ready.text().as_str()),
                (200, "ready 2 of 2, at least 2\n")
            );
            master.ask(&Order::Disconnect(1), "disconnect");
            master.expect_of(1, "disconnect");
            assert_eq!(get(port, "/healthz").expect("it is answered").status, 503);
            assert_eq!(get(port, "/").expect("it is answered").status, 404);
        },
    },
];

/// Adds metrics, whose port is said when all are ready.
pub(crate) fn metered(cluster: ClusterBuilder) -> ClusterBuilder {
    let metrics = Metrics::new(MetricsConfig::new().listen((Ipv4Addr::LOCALHOST, 0).into()));
    let view = metrics.view();
    let cluster = metrics.attach(cluster).expect("there is a free port");
    cluster.on_event(move |event, _| {
        if let (EventKind::AllReady { .. }, Some(address)) = (&event.kind, view.address()) {
            probe::say(&format!("metrics {}", address.port()));
        }
    })
}

/// The port of the metrics.
pub(crate) fn port(master: &Master) -> u16 {
    // Said on a thread of its own: before or after the probe shows that all are ready.
    master.until("the port of the metrics", |master| !master.said("metrics ").is_empty());
    let (port, _) = master.said("metrics ").remove(0);
    port.parse().expect("a port")
}

/// Waits until a scrape is so.
pub(crate) fn until(port: u16, what: &str, is_so: impl Fn(&Exposition) -> bool) -> Exposition {
    let deadline = Deadline::after(limit(SOON));
    loop {
        let scrape = Exposition::scrape(port);
        if is_so(&scrape) {
            return scrape;
        }
        assert!(!deadline.is_over(), "{what}: not in {scrape:?}");
        let_pass(Duration::from_millis(20));
    }
}

fn served(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().workers(workers);
    let cluster = cluster.restart_limit(RestartLimit::unlimited());
    cluster.listen("http", "127.0.0.1:0").worker(serve)
}

/// Answers with its process id; `hang` blocks the loop for ever.
async fn serve(worker: Worker) -> Result<(), ServeError> {
    let hang = async || -> String {
        loop {
            std::thread::park();
        }
    };
    let pid = async || std::process::id().to_string();
    let app = move || {
        App::new()
            .route("/", web::get().to(pid))
            .route("/hang", web::get().to(hang))
    };
    worker.serve("http", app).await
}

/// The process ids of those that live, with the requests that each has told.
fn living(master: &mut Master) -> Vec<(u32, u64)> {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().cloned().unwrap_or_default();
    let told = workers.iter().filter_map(|worker| {
        let pid = u32::try_from(worker["pid"].as_u64()?).ok()?;
        Some((pid, worker["stats"]["requests"].as_u64()?))
    });
    told.collect()
}

/// Clients at work; who answered how often, and how often was asked.
struct Clients {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    answers: Arc<Mutex<BTreeMap<u32, u64>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(port: u16, count: usize) -> Self {
        let (stop, asked, answers) = (Arc::default(), Arc::default(), Arc::default());
        let client = |_| {
            let (stop, asked, answers) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&answers));
            std::thread::spawn(move || ask(port, &stop, &asked, &answers))
        };
        let threads = (0..count).map(client).collect();
        Self {
            stop,
            asked,
            answers,
            threads,
        }
    }

    fn answered_by(&self, pid: u32) -> u64 {
        self.answers.lock().unwrap().get(&pid).copied().unwrap_or_default()
    }

    fn stop(self) -> (u64, BTreeMap<u32, u64>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let answers = self.answers.lock().unwrap().clone();
        (self.asked.load(Ordering::Relaxed), answers)
    }
}

fn ask(port: u16, stop: &AtomicBool, asked: &AtomicU64, answers: &Mutex<BTreeMap<u32, u64>>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while !stop.load(Ordering::Relaxed) {
        asked.fetch_add(1, Ordering::Relaxed);
        // A connection for each: a killed worker takes its own along.
        if let Ok(response) = Client::new(address, limit(SOON)).get("/")
            && let Ok(pid) = response.text().parse()
        {
            *answers.lock().unwrap().entry(pid).or_default() += 1;
        }
        let_pass(Duration::from_millis(2));
    }
}

fn killed_and_scraped(master: &mut Master) {
    let http = master.expect_ready().expect("a listener is declared");
    let port = port(master);
    let clients = Clients::start(http, 4);
    let (mut before, mut killed) = (Exposition::scrape(port), BTreeMap::new());
    for round in 0..100 {
        if round % 5 == 0 {
            let (pid, told) = next_victim(master, &killed, &clients, round % 25 == 0);
            killed.insert(pid, told);
            send(pid, Signal::SIGKILL);
        }
        let now = Exposition::scrape(port);
        now.follows(&before);
        before = now;
    }
    let (asked, answers) = clients.stop();
    // The living tell everything in the end, and of the killed everything counts that they had told.
    let alive: u64 = answers
        .iter()
        .filter(|(pid, _)| !killed.contains_key(*pid))
        .map(|(_, count)| count)
        .sum();
    let told = alive + killed.values().sum::<u64>();
    let last = until(port, "everything that was told", |scrape| {
        scrape.sum("actix_cluster_requests_total", &[]) >= as_number(told)
            && scrape.sum("actix_cluster_ready_workers", &[]) >= 3.0
            && scrape.sum("actix_cluster_exits_total", &["reason=crash"]) >= 20.0
    });
    last.follows(&before);
    let counted = last.sum("actix_cluster_requests_total", &[]);
    assert!(counted <= as_number(asked), "{counted} of {asked}");
    assert_exact(last.sum("actix_cluster_exits_total", &["reason=crash"]), 20);
    assert_exact(last.sum("actix_cluster_restarts_total", &["cause=crash"]), 20);
    assert_exact(last.sum("actix_cluster_events_total", &["kind=exit"]), 20);
    assert_exact(last.sum("actix_cluster_events_total", &["kind=fork"]), 23);
    assert_exact(last.sum("actix_cluster_metrics_events_missed_total", &[]), 0);
    let answered: u64 = answers.values().sum();
    eprintln!("asked {asked}, answered {answered}, told before a death or alive {told}, counted {counted}");
}

/// Somebody who lives and was not killed yet, with the requests it has told; if it is to be a busy one, then one that has
/// told all that it had answered a moment ago.
fn next_victim(master: &mut Master, killed: &BTreeMap<u32, u64>, clients: &Clients, busy: bool) -> (u32, u64) {
    let deadline = Deadline::after(limit(SOON));
    let mut answered = BTreeMap::new();
    loop {
        for (pid, told) in living(master).into_iter().filter(|(pid, _)| !killed.contains_key(pid)) {
            // From the third request on, the first report is not all there is.
            let due = clients.answered_by(pid);
            let mark = *answered.entry(pid).or_insert(due.max(3));
            if !busy || (due >= 3 && told >= mark) {
                return (pid, told);
            }
        }
        assert!(!deadline.is_over(), "nobody is left to be killed");
        let_pass(Duration::from_millis(20));
    }
}

/// What was told before a death is counted after it, to the last request; three times over.
fn told_and_killed(master: &mut Master) {
    let http = master.expect_ready().expect("a listener is declared");
    let (port, address) = (port(master), SocketAddr::from((Ipv4Addr::LOCALHOST, http)));
    let mut asked = 0;
    for round in 1..=3 {
        for _ in 0..50 {
            asked += 1;
            assert_eq!(
                Client::new(address, limit(SOON))
                    .get("/")
                    .expect("it is answered")
                    .status,
                200
            );
        }
        let all = |scrape: &Exposition| scrape.sum("actix_cluster_requests_total", &[]) >= as_number(asked);
        let told = until(port, "all requests", all);
        for (pid, _) in living(master) {
            send(pid, Signal::SIGKILL);
        }
        let after = until(port, "three ends", |scrape| {
            scrape.sum("actix_cluster_exits_total", &[]) >= f64::from(3 * round)
                && scrape.sum("actix_cluster_ready_workers", &[]) >= 3.0
        });
        after.follows(&told);
        assert_exact(after.sum("actix_cluster_requests_total", &[]), asked);
    }
}

fn scraped_while_one_hangs(master: &mut Master) {
    let http = master.expect_ready().expect("a listener is declared");
    let port = port(master);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
    let mut hung = TcpStream::connect(address).unwrap();
    hung.write_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // Its heart stops, and its age grows past anything a healthy one has.
    let silent = |scrape: &Exposition| scrape.sum("actix_cluster_worker_heartbeat_age_seconds", &[]) > 1.0;
    let now = until(port, "a heartbeat that is old", silent);
    assert_exact(now.sum("actix_cluster_workers", &["state=listening"]), 2);
    assert_exact(now.sum("actix_cluster_live_workers", &[]), 2);
    assert!(now.sum("actix_cluster_worker_resident_memory_bytes", &["slot=0"]) > 1e5);
    assert_eq!(now.count("actix_cluster_worker_loop_lag_seconds"), 2);
    assert_eq!(now.count("actix_cluster_master_lag_seconds"), 1);
    assert_eq!(now.count("actix_cluster_worker_queue_bytes"), 2);
    // Two scrapers at once see the same cluster.
    let scraper = || std::thread::spawn(move || (0..20).map(|_| Exposition::scrape(port)).collect::<Vec<_>>());
    for scraper in [scraper(), scraper()] {
        let scrapes = scraper.join().unwrap();
        scrapes.windows(2).for_each(|pair| pair[1].follows(&pair[0]));
    }
    for (pid, _) in living(master) {
        send(pid, Signal::SIGKILL);
    }
    until(port, "their successors", |scrape| {
        scrape.sum("actix_cluster_exits_total", &[]) >= 2.0
    });
}

fn slow_readers(master: &mut Master) {
    master.expect_ready();
    let port = port(master);
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..60 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let head: &[u8] = if number % 2 == 0 {
            b"GET /metrics HTTP/1.1\r\n\r\n"
        } else {
            b"GET /met"
        };
        // Those that find no place are closed at once.
        stream.write_all(head).ok();
        slow.push(stream);
    }
    // Supervision does not notice.
    let (pid, _) = living(master)[0];
    send(pid, Signal::SIGKILL);
    master.expect_of(2, "ready");
    // When their time is over there is room again.
    let deadline = Deadline::after(limit(SOON));
    while get(port, "/metrics").is_err() {
        assert!(!deadline.is_over(), "the places are not given back");
        let_pass(Duration::from_millis(100));
    }
    let mut long = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    long.write_all(&[b'x'; 10_000]).ok();
    let mut answer = String::new();
    long.read_to_string(&mut answer).ok();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    drop(slow);
}

fn port_in_use() -> ExitCode {
    let config = MetricsConfig::new().min_ready(2);
    let first = Metrics::new(config.listen((Ipv4Addr::LOCALHOST, 0).into()));
    let view = first.view();
    let cluster = first.attach(served(2)).expect("there is a free port");
    if let Some(taken) = view.address() {
        let second = Metrics::new(MetricsConfig::new().listen(taken)).attach(served(1));
        probe::say(&format!(
            "refused {}",
            second.err().map(|error| error.to_string()).unwrap_or_default()
        ));
    }
    let cluster = cluster.on_event(move |event, _| {
        if let (EventKind::AllReady { .. }, Some(address)) = (&event.kind, view.address()) {
            probe::say(&format!("metrics {}", address.port()));
        }
    });
    cluster.main()
}

pub(crate) fn assert_exact(number: f64, wanted: u64) {
    assert!((number - as_number(wanted)).abs() < 0.5, "{number} and not {wanted}");
}

fn as_number(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("tests count little"))
}

/// The limit for what comes by itself: the slowest is a scraper's time, 5 s.
const SOON: Duration = Duration::from_secs(20);
