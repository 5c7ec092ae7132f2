//! What the example of axum promises: a worker that is killed costs no client an error, neither between two requests on a
//! kept connection nor in the midst of one.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use actix_cluster::{ClusterBuilder, RestartDelay, RestartLimit, Worker};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{limit, load, probe};
use axum::Router;
use axum::routing::get;
use nix::sys::signal::Signal;

#[path = "../../examples/axum.rs"]
mod axum_example;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_the_example_of_axum_is_killed_between_two_requests_of_a_kept_connection",
        app: || cluster().worker(axum_example::serve).main(),
        check: |master| {
            let address = address(master);
            let mut client = Client::new(address, limit(SOON));
            let mut last = 0;
            for _ in 0..KILLS {
                let worker = hello(&mut client);
                assert_ne!(worker, last, "the dead do not answer");
                send(master.once(worker, "ready").pid(), Signal::SIGKILL);
                last = worker;
            }
            hello(&mut client);
            assert_eq!(client.connects(), 1, "one connection for all");
            ends(master);
        },
    },
    Scenario {
        name: "survival_axum_is_killed_in_the_midst_of_requests",
        app: || cluster().worker(slow).main(),
        check: |master| {
            let address = address(master);
            let mut client = Client::new(address, limit(SOON));
            for turn in 0..KILLS {
                let path = format!("/{turn}");
                let asking = std::thread::spawn(move || {
                    let answer = client.get(&path);
                    (client, answer)
                });
                let first = begun(master, turn);
                send(first, Signal::SIGKILL);
                let second = begun(master, turn);
                assert_ne!(first, second);
                std::fs::write(master.directory().join(turn.to_string()), "").expect("the directory is ours");
                let (back, answer) = asking.join().expect("it asks");
                let answer = answer.expect("it is answered");
                assert_eq!((answer.status, answer.text()), (200, second.to_string()));
                client = back;
            }
            assert_eq!(client.connects(), 1, "one connection for all");
            ends(master);
        },
    },
];

/// The program names a port of its own, so what is run here is what it is made of.
const _: fn() -> ExitCode = axum_example::main;

const KILLS: u32 = 30;

fn cluster() -> ClusterBuilder {
    let cluster = axum_example::cluster("127.0.0.1:0")
        .workers(2)
        .restart_limit(RestartLimit::unlimited())
        .restart_delay(RestartDelay::AtOnce);
    probe::watched(cluster)
}

/// Tells when it begins a request, and answers when it is let.
async fn slow(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let held = worker.clone();
    let turn = move |axum::extract::Path(turn): axum::extract::Path<String>| {
        let held = held.clone();
        async move {
            let pid = std::process::id();
            probe::say(&format!("begun {turn} {pid}"));
            load::held(&held, &turn).await;
            pid.to_string()
        }
    };
    axum_example::speak(&worker, Router::new().route("/{turn}", get(turn))).await
}

fn address(master: &Master) -> SocketAddr {
    let port = master.expect_ready().expect("it listens");
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The worker that answers.
fn hello(client: &mut Client) -> u64 {
    let answer = client.get("/").expect("it is answered");
    let text = answer.text();
    let worker = text.strip_prefix("hello from worker ").map(str::trim_end);
    worker.and_then(|id| id.parse().ok()).expect("it tells who it is")
}

/// The process that has begun the request of this turn.
fn begun(master: &Master, turn: u32) -> u32 {
    let pid = master.expect_said(&format!("begun {turn} "));
    pid.parse().expect("it tells its process")
}

/// It takes no orders of the suite's, so it is told by signal.
fn ends(master: &mut Master) {
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}
