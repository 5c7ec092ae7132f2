//! The examples of the plug-ins do what their first lines promise, at the pace of a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster_tests::http::Client;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::openmetrics::{Exposition, get};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::{Scenario, has_keepers};
use clap::Parser;
use nix::sys::signal::Signal;

use crate::metrics::{assert_exact, port, until};

#[path = "../../examples/autoscaling.rs"]
mod autoscaling;
#[path = "../../examples/chaos.rs"]
mod chaos;
#[path = "../../examples/http_server.rs"]
mod http_server;
#[path = "../../examples/metrics.rs"]
mod metrics_example;
#[path = "../../examples/self_healing.rs"]
mod self_healing;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "the_example_of_self_healing_heals_a_crash_a_hang_and_two_leaks",
        app: || probe::watched(self_healing::cluster("127.0.0.1:0")).main(),
        check: healed,
    },
    Scenario {
        name: "the_example_of_autoscaling_goes_up_and_down_with_its_load_and_ends",
        app: || probe::watched(autoscaling::cluster(limit(PACE))).main(),
        check: scaled,
    },
    Scenario {
        name: "the_example_of_metrics_counts_every_order_also_of_the_dead",
        app: || {
            let (cluster, view) =
                metrics_example::cluster("127.0.0.1:0", (Ipv4Addr::LOCALHOST, 0).into()).expect("there is a free port");
            let address = view.address().map(|address| address.port());
            probe::watched(cluster)
                .on_event(move |event, _| {
                    if matches!(event.kind, actix_cluster::EventKind::AllReady { .. }) {
                        probe::say(&format!("metrics {}", address.expect("it listens")));
                    }
                })
                .main()
        },
        check: counted,
    },
    Scenario {
        name: "the_example_of_chaos_kills_and_fails_no_request",
        app: || {
            let counts = std::sync::Arc::default();
            let code = probe::watched(chaos::cluster(true, limit(PACE), 10, &counts)).main();
            eprintln!("{counts:?}");
            code
        },
        check: chaotic,
    },
    Scenario {
        name: "http_server_with_health_heals_a_hang_beside_metrics_of_its_own",
        app: || server(&["--health", "--health-ms", "1000", "--metrics", "127.0.0.1:0"]),
        check: hang_is_healed,
    },
    Scenario {
        name: "http_server_without_health_leaves_a_hang_alone",
        app: || server(&[]),
        check: |master| {
            let address = address(master);
            break_by(address, "/hang");
            master.never("an end", Duration::from_secs(2), |line| line["event"] == "exit");
            ends(master);
        },
    },
];

/// Programs name ports of their own, so what is run here is what they are made of.
const _: [fn() -> ExitCode; 5] = [
    autoscaling::main,
    chaos::main,
    http_server::main,
    metrics_example::main,
    self_healing::main,
];

/// How often the autoscaler looks.
const PACE: Duration = Duration::from_millis(150);

/// The program, with the routes that break things.
fn server(more: &[&str]) -> ExitCode {
    let usual = [
        "http_server",
        "--listen",
        "127.0.0.1:0",
        "--workers",
        "2",
        "--faults",
        "--grace-ms",
        "500",
        "--events",
        "json",
    ];
    http_server::run(&http_server::Args::parse_from(usual.iter().chain(more)))
}

fn address(master: &Master) -> SocketAddr {
    let port = master.expect_ready().expect("it listens");
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A request that gets no answer.
fn break_by(address: SocketAddr, path: &str) {
    let impatient = limit(Duration::from_millis(500));
    assert!(Client::new(address, impatient).get(path).is_err(), "{path} is answered");
}

/// Somebody answers.
fn is_served(address: SocketAddr) {
    let answer = Client::new(address, limit(SOON)).get("/");
    assert_eq!(answer.expect("somebody answers").status, 200);
}

fn healed(master: &mut Master) {
    let address = address(master);
    break_by(address, "/crash");
    let crash = master.expect("exit");
    assert_eq!((crash.reason(), crash.signal()), (&"crash".into(), Some(6)));
    master.expect("all_ready");
    break_by(address, "/hang");
    master.expect("unhealthy");
    let hang = master.expect("exit");
    assert!(hang.reason()["hang"].is_string(), "{hang:?}");
    master.expect("all_ready");
    Client::new(address, limit(SOON))
        .get("/leak?mb=100")
        .expect("it is kept");
    let fat = master.expect("recycling").worker();
    is_served(address);
    let replaced = master.expect("exit");
    assert_eq!((replaced.worker(), replaced.reason()), (fat, &"ordered".into()));
    is_served(address);
    // It may be killed before it answers; a look in the midst of the filling replaces it instead.
    let killed = (0..3).find_map(|_| {
        drop(Client::new(address, limit(SOON)).get("/leak?mb=200"));
        Some(master.expect("exit")).filter(|exit| exit.reason() != "ordered")
    });
    let killed = killed.expect("one of them is over the hard limit at once");
    assert!(killed.reason()["memory"].is_string(), "{killed:?}");
    master.expect("all_ready");
    is_served(address);
}

fn scaled(master: &mut Master) {
    assert_eq!(master.wait_within(Duration::from_secs(60)).code(), Some(0));
    let steps: Vec<u64> = master
        .seen("scaled")
        .iter()
        .filter_map(|it| it.data()["to"].as_u64())
        .collect();
    assert_eq!(steps.iter().max(), Some(&4), "{steps:?}");
    assert_eq!(steps.last(), Some(&1), "{steps:?}");
    assert!(master.log().contains("failed requests: 0"), "{}", master.log());
}

fn chaotic(master: &mut Master) {
    assert_eq!(master.wait_within(Duration::from_secs(60)).code(), Some(0));
    let (log, count) = (master.log(), |name: &str| format!(" {name}: 0,"));
    assert!(log.contains(&count("failed")), "{log}");
    assert!(
        !log.contains(&count("answers")) && !log.contains(&count("kills")),
        "{log}"
    );
}

fn counted(master: &mut Master) {
    let address = address(master);
    let scraped = port(master);
    let order = |drink: &str, times: usize| {
        for _ in 0..times {
            let answer = Client::new(address, limit(SOON)).get(drink).expect("it is served");
            assert_eq!(answer.status, 200);
        }
    };
    order("/tea", 20);
    order("/coffee", 3);
    let ordered = |drink| move |scrape: &Exposition| scrape.sum("shop_orders_total", &[drink]);
    let (tea, coffee) = (ordered("drink=tea"), ordered("drink=coffee"));
    let before = until(scraped, "all orders", |scrape| tea(scrape) + coffee(scrape) > 22.5);
    assert_exact(tea(&before), 20);
    send(master.once(1, "ready").pid(), Signal::SIGKILL);
    master.once(3, "ready");
    order("/tea", 7);
    let after = until(scraped, "the orders of the living and the dead", |scrape| {
        tea(scrape) > 26.5
    });
    after.follows(&before);
    assert_exact(tea(&after), 27);
    assert_exact(coffee(&after), 3);
    assert_exact(after.sum("shop_order_seconds_count", &[]), 30);
    let ready = get(scraped, "/healthz").expect("it is answered");
    assert_eq!(
        (ready.status, ready.text().as_str()),
        (200, "ready 2 of 2, at least 1\n")
    );
}

fn hang_is_healed(master: &mut Master) {
    let address = address(master);
    break_by(address, "/hang");
    // Its connection survives, so another worker gets the request; after the second one nobody does.
    let hung = if has_keepers() { 2 } else { 1 };
    for hang in master.expect_count("exit", hung) {
        assert!(hang.reason()["hang"].is_string(), "{hang:?}");
    }
    master.once(2 + hung as u64, "ready");
    is_served(address);
    // Nobody else was taken for hung, although the metrics want beats at another pace.
    assert_eq!(master.seen("exit").len(), hung);
    ends(master);
}

/// It takes no orders of the suite's, so it is told by signal.
fn ends(master: &mut Master) {
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}
