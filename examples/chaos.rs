//! Clients and a killer side by side: workers die by `kill -9` all the time, and a live line says what it costs.
//!
//! `cargo run --release --example chaos`: eight clients ask three workers without a pause, half of them on connections that they
//! keep, half on a new one for each request; every 50 ms a worker, drawn by lot, is killed. A line each second:
//! `7s: 7636 answers, 115 kills, 0 failed` (a debug build on a busy machine). After ten seconds it ends by itself, with 0 if nothing
//! failed.
//!
//! `cargo run --release --example chaos -- without` shows the same with `survive_kill` off: what others pay for a kill.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix_cluster::{
    Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ListenOptions, RestartDelay, RestartLimit,
    ServeError, Signal, Worker,
};
use actix_web::{App, web};

pub(crate) fn main() -> ExitCode {
    let survives = std::env::args().nth(1).as_deref() != Some("without");
    let counts = Arc::new(Counts::default());
    let code = cluster(survives, Duration::from_secs(1), 10, &counts).main();
    if counts.failed.load(Ordering::Relaxed) == 0 {
        code
    } else {
        ExitCode::FAILURE
    }
}

/// What the clients and the killer have seen.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    answers: AtomicU64,
    failed: AtomicU64,
    kills: AtomicU64,
    is_over: AtomicBool,
}

/// The whole cluster, with a line after each of `lines` times `pace`; the suite of scenarios runs it faster.
pub(crate) fn cluster(survives: bool, pace: Duration, lines: u32, counts: &Arc<Counts>) -> ClusterBuilder {
    Cluster::builder()
        .workers(3)
        .listen_with("http", "127.0.0.1:0", ListenOptions::new().survive_kill(survives))
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .worker(serve)
        .on_event(begin(pace, lines, Arc::clone(counts)))
}

/// Begins when all workers are ready for the first time.
fn begin(
    pace: Duration,
    lines: u32,
    counts: Arc<Counts>,
) -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let mut has_begun = false;
    move |event, cluster| {
        if !matches!(event.kind, EventKind::AllReady { .. }) || std::mem::replace(&mut has_begun, true) {
            return;
        }
        let address = cluster.address("http").and_then(|bound| bound.socket_addr());
        let address = address.expect("it is a TCP address");
        for number in 0..8 {
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || ask(address, number % 2 == 0, &counts));
        }
        actix_rt::spawn(kill(cluster.clone(), pace / 20, Arc::clone(&counts)));
        actix_rt::spawn(tell(cluster.clone(), pace, lines, Arc::clone(&counts)));
    }
}

async fn tell(cluster: ClusterHandle, pace: Duration, lines: u32, counts: Arc<Counts>) {
    for line in 1..=lines {
        actix_rt::time::sleep(pace).await;
        let [answers, kills, failed] =
            [&counts.answers, &counts.kills, &counts.failed].map(|it| it.load(Ordering::Relaxed));
        println!("{:?}: {answers} answers, {kills} kills, {failed} failed", pace * line);
    }
    counts.is_over.store(true, Ordering::Relaxed);
    // Failing means that it ends already.
    cluster.shutdown().await.ok();
}

/// One worker after the other, drawn by a small generator; those that are booting are as good as others.
async fn kill(cluster: ClusterHandle, pause: Duration, counts: Arc<Counts>) {
    let mut lot = 1_usize;
    while !counts.is_over.load(Ordering::Relaxed) {
        actix_rt::time::sleep(pause).await;
        let workers = cluster.workers();
        lot = lot
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let Some(worker) = workers.get((lot >> 33) % workers.len().max(1)) else {
            continue;
        };
        if worker.kill(Signal::KILL).await.is_ok() {
            counts.kills.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Asks until it is over. A connection is kept until it fails, or used once.
fn ask(address: SocketAddr, is_kept: bool, counts: &Counts) {
    let mut kept = None;
    while !counts.is_over.load(Ordering::Relaxed) {
        let connection = kept.take().map_or_else(|| connect(address), Ok);
        match connection.and_then(|connection| exchange(connection, is_kept)) {
            Ok(connection) => {
                counts.answers.fetch_add(1, Ordering::Relaxed);
                kept = connection;
            }
            // The cluster may have stopped by now, and then it is no failure.
            Err(_) if counts.is_over.load(Ordering::Relaxed) => {}
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("failed: {error}");
            }
        }
    }
}

fn connect(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(BufReader::new(stream))
}

/// One request, and the whole answer; the connection, if it is to be kept.
fn exchange(mut connection: BufReader<TcpStream>, is_kept: bool) -> std::io::Result<Option<BufReader<TcpStream>>> {
    let close = if is_kept { "" } else { "connection: close\r\n" };
    let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{close}\r\n");
    connection.get_mut().write_all(request.as_bytes())?;
    let (mut line, mut len) = (String::new(), 0);
    connection.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(std::io::Error::other(format!("answered with {line:?}")));
    }
    while line.trim_end() != "" {
        line.clear();
        connection.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    connection.read_exact(&mut vec![0; len])?;
    Ok(is_kept.then_some(connection))
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    let answer = || async {
        actix_rt::time::sleep(Duration::from_millis(1)).await;
        format!("{}\n", std::process::id())
    };
    worker
        .serve("http", move || App::new().route("/", web::get().to(answer)))
        .await
}
