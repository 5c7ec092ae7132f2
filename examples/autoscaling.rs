//! As many workers as the load asks for, with the load in the example itself.
//!
//! `cargo run --example autoscaling`: after a second 20 clients begin to ask without a pause, and one worker becomes two,
//! three and four, with a line for each decision; when the clients have asked 4,000 times and stop, the workers become fewer again,
//! and with the last one left it ends by itself, after some 30 s: `at most 4 workers, failed requests: 0`.
//!
//! The load is what the workers say: how many requests they have in progress, of four that each may have. Looks and
//! cool-downs are far shorter than the defaults of `Autoscaler`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use actix_cluster::{Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ServeError, Worker};
use actix_cluster_actors::{AutoscaleConfig, Autoscaler, LoadReport, LoadSignal};
use actix_web::{App, web};

/// Requests in progress that make a worker busy.
const FULL: u32 = 4;

pub(crate) fn main() -> ExitCode {
    cluster(Duration::from_secs(1)).main()
}

/// The whole cluster, with a look every `pace`; the suite of scenarios runs it faster.
pub(crate) fn cluster(pace: Duration) -> ClusterBuilder {
    let limits = AutoscaleConfig::new()
        .min(1)
        .max(4)
        .every(pace)
        .cool_down_up(2 * pace)
        .cool_down_down(3 * pace)
        .signals([LoadSignal::Messages]);
    let scaler = Autoscaler::new(limits).expect("the limits agree");
    let cluster = Cluster::builder()
        .workers(1)
        .listen("http", "127.0.0.1:0")
        .worker(move |worker| serve(worker, pace));
    scaler.attach(cluster).on_event(follow())
}

/// Begins the load when the first worker is ready, tells what is decided, and ends when all is quiet again.
fn follow() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let (mut load, mut highest) = (None, 1);
    move |event, cluster| match &event.kind {
        EventKind::AllReady { .. } => {
            if load.is_none()
                && let Some(address) = cluster.address("http").and_then(|bound| bound.socket_addr())
            {
                println!("20 clients begin to ask {address}");
                load = Some(std::thread::spawn(move || ask(address)));
            }
        }
        EventKind::Custom(decision) if decision.source == "autoscaler" => {
            println!("decision: {}", decision.data.as_str());
        }
        EventKind::Scaled { from, to, .. } => {
            highest = highest.max(*to);
            println!("{from} workers become {to}");
            if *to == 1 && load.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
                let failed = load.take().map_or(0, |load| load.join().expect("it counts"));
                eprintln!("at most {highest} workers, failed requests: {failed}");
                let cluster = cluster.clone();
                actix_rt::spawn(async move { drop(cluster.shutdown().await) });
            }
        }
        _ => {}
    }
}

/// 4,000 requests of 20 clients, a connection for each, so that new workers get their part; how many failed.
fn ask(address: SocketAddr) -> u64 {
    let (asked, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|clients| {
        for _ in 0..20 {
            clients.spawn(|| {
                while asked.fetch_add(1, Ordering::Relaxed) < 4_000 {
                    if !is_answered(address) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    println!("the clients are done");
    failed.into_inner()
}

fn is_answered(address: SocketAddr) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        connection.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().is_ok_and(|text| text.starts_with("HTTP/1.1 200 "))
}

/// Answers after a moment, and says in every period how busy it is.
async fn serve(worker: Worker, pace: Duration) -> Result<(), ServeError> {
    let active = Arc::new(AtomicU32::new(0));
    let (teller, seen) = (worker.clone(), Arc::clone(&active));
    actix_rt::spawn(async move {
        loop {
            let load = f64::from(seen.load(Ordering::Relaxed)) / f64::from(FULL);
            teller.send(&LoadReport::new(load.min(1.0))).ok(); // The next word counts as well.
            actix_rt::time::sleep(pace / 5).await;
        }
    });
    let handler = move || {
        let active = Arc::clone(&active);
        async move {
            active.fetch_add(1, Ordering::Relaxed);
            actix_rt::time::sleep(pace / 20).await;
            active.fetch_sub(1, Ordering::Relaxed);
            "done"
        }
    };
    let app = move || App::new().route("/", web::get().to(handler.clone()));
    worker.serve("http", app).await
}
