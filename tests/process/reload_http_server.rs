//! Reloads of workers that run an unmodified actix-web `HttpServer`: what they cost those who connect anew, and those who keep
//! their connections.

use std::io;
use std::time::Duration;

use actix_cluster::Worker;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{limit, probe};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::{App, HttpServer, web};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a_reload_of_an_http_server_loses_no_new_connection",
        app: || cluster().worker(plain).main(),
        check: |master| {
            let kept = reloads(master);
            // HTTP's own race: the server ends an idle connection on which the next request is on its way.
            eprintln!("{RELOADS} reloads: {kept} kept connections ended under a request");
        },
    },
    Scenario {
        name: "an_http_server_without_connections_stops_at_once",
        app: || cluster().worker(plain).main(),
        check: |master| {
            let quickest = quickest_drain(master);
            assert!(quickest < 250.0, "{quickest} ms");
        },
    },
    Scenario {
        name: "a_reload_of_an_http_server_that_announces_its_end_loses_nothing",
        app: || cluster().worker(announcing).main(),
        check: |master| assert_eq!(reloads(master), 0),
    },
];

/// The quickest, since others use the machine, too; each waited a quarter of a second when none looked for connections.
fn quickest_drain(master: &mut Master) -> f64 {
    master.expect_ready().expect("a listener is declared");
    master.signal(Signal::SIGHUP);
    let drains = (0..2).map(|_| {
        let exit = master.expect("exit");
        exit.0["data"]["drain"]["drained_in_ms"].as_f64().expect("it drained")
    });
    drains.fold(f64::MAX, f64::min)
}

fn reloads(master: &mut Master) -> usize {
    let port = master.expect_ready().expect("a listener is declared");
    let load = Load::start(port, 8);
    load.goes_on_for(200);
    for _ in 0..RELOADS {
        master.signal(Signal::SIGHUP);
        master.expect("reload_started");
        let is_end = |line: &Value| line["event"] == "reload_finished";
        let finished = master.expect_line("the end of the reload", limit(LONG), is_end);
        eprintln!("a reload: {}", finished["data"]);
        load.goes_on_for(200);
    }
    let outcome = load.stop();
    let (kept, new): (Vec<_>, Vec<_>) = outcome.failed.iter().partition(|failed| failed.starts_with("kept"));
    eprintln!("{} answered, kept {kept:?}, new {new:?}", outcome.answered);
    assert!(new.is_empty(), "{} new connections lost: {new:?}", new.len());
    kept.len()
}

fn cluster() -> actix_cluster::ClusterBuilder {
    probe::cluster().workers(2).listen("http", "127.0.0.1:0")
}

async fn plain(worker: Worker) -> io::Result<()> {
    let generation = worker.generation();
    let app = move || App::new().route("/", web::get().to(move || answer(generation)));
    let listener = worker.listener("http").map_err(io::Error::other)?;
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?;
    worker.run_server(server.run()).await
}

/// Its answers say that the connection ends, as soon as the worker stops: so clients end it, and not the server.
async fn announcing(worker: Worker) -> io::Result<()> {
    let (generation, shutdown) = (worker.generation(), worker.shutdown().clone());
    let app = move || {
        let shutdown = shutdown.clone();
        let announce = move |request, service: &_| {
            let (stops, answer) = (shutdown.is_started(), Service::call(service, request));
            async move {
                let mut answer: ServiceResponse<_> = answer.await?;
                if stops {
                    answer
                        .response_mut()
                        .head_mut()
                        .set_connection_type(ConnectionType::Close);
                }
                Ok(answer)
            }
        };
        App::new()
            .wrap_fn(announce)
            .route("/", web::get().to(move || answer(generation)))
    };
    let listener = worker.listener("http").map_err(io::Error::other)?;
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener)?;
    worker.run_server(server.run()).await
}

async fn answer(generation: actix_cluster::Generation) -> String {
    load::busy(MOMENT).await;
    format!("{generation} {}", std::process::id())
}

const RELOADS: usize = 5;
/// How long one reload may take.
const LONG: Duration = Duration::from_secs(30);
/// What a request takes: enough that some are in progress whenever something happens.
const MOMENT: Duration = Duration::from_millis(2);
