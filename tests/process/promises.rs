//! The promises of `README.md`, each seen from outside by a client or an operator.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, RestartDelay, ServeError, ServeOptions, Worker};
use actix_cluster_tests::http::{Client, Response};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use actix_web::{App, web};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "promise_while_a_killed_worker_is_replaced_clients_wait_and_are_answered",
        app: one_server,
        check: |master| {
            let port = master.expect_ready().expect("a listener is declared");
            for life in 1..=5 {
                let served = body(&get(port, "/"));
                send(served.parse().expect("the body is a pid"), Signal::SIGKILL);
                // Nobody serves now: what connects waits in the queue that the master keeps.
                assert_eq!(master.expect_of(life, "exit").signal(), Some(9));
                let next = body(&get(port, "/"));
                assert_ne!(served, next);
            }
        },
    },
    Scenario {
        name: "promise_a_request_in_progress_is_answered_by_an_ordered_stop",
        app: one_server,
        check: |master| {
            let port = master.expect_ready().expect("a listener is declared");
            let client = std::thread::spawn(move || body(&get(port, "/until-the-stop")));
            master.expect_said("begun");
            master.signal(Signal::SIGTERM);
            assert_eq!(client.join().expect("the client has its answer"), "done");
            assert_eq!(master.expect_of(1, "exit").code(), Some(0));
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "promise_no_worker_outlives_a_killed_master_by_a_second_even_if_stuck",
        app: stuck_workers,
        check: |master| {
            master.expect_ready();
            send(master.pid(), Signal::SIGKILL);
            // Ends when the last process of the scenario is gone.
            master.wait_within(Duration::from_secs(1));
        },
    },
    Scenario {
        name: "promise_a_plug_in_that_blocks_for_ever_delays_no_restart_and_no_stop",
        app: blocked_plug_in,
        check: |master| {
            let first = said_port(master);
            let served = body(&get(first, "/"));
            send(served.parse().expect("the body is a pid"), Signal::SIGKILL);
            let second = said_port(master);
            assert_eq!(first, second, "the socket is the same");
            assert_ne!(body(&get(second, "/")), served);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
        },
    },
];

fn said_port(master: &Master) -> u16 {
    master.expect_said("port ").trim().parse().expect("a port is a number")
}

fn get(port: u16, path: &str) -> Response {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client = Client::new(address, limit(Duration::from_secs(5)));
    client.get(path).expect("every request is answered")
}

fn body(response: &Response) -> String {
    assert_eq!(response.status, 200);
    response.text()
}

fn one_server() -> ExitCode {
    probe::cluster().listen("http", "127.0.0.1:0").worker(serve).main()
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    let stop = worker.shutdown().clone();
    let listener = worker.socket("http")?;
    probe::say(&format!("port {}", listener.address().port.unwrap_or(0)));
    let until_the_stop = move || {
        let stop = stop.clone();
        async move {
            probe::say("begun");
            stop.started().await;
            "done"
        }
    };
    let app = App::new()
        .route("/", web::get().to(async || std::process::id().to_string()))
        .route("/until-the-stop", web::get().to(until_the_stop));
    listener.serve(ServeOptions::default(), || app).await
}

fn stuck_workers() -> ExitCode {
    probe::cluster().workers(3).worker(hang).main()
}

async fn hang(worker: Worker) {
    if worker.slot().index > 0 {
        // Let the news of being online out, and then nothing any more.
        actix_rt::time::timeout(Duration::from_millis(1), worker.shutdown().started())
            .await
            .ok();
        loop {
            std::thread::park();
        }
    }
    probe::idle(&worker).await;
}

fn blocked_plug_in() -> ExitCode {
    Cluster::builder()
        .workers(1)
        .restart_delay(RestartDelay::AtOnce)
        .listen("http", "127.0.0.1:0")
        .worker(serve)
        .on_event(|_, _| {
            loop {
                std::thread::park();
            }
        })
        .main()
}
