//! Running an unmodified `HttpServer` inside a worker. It accepts and drains by itself; only its stop is driven here.
//!
//! Its stop closes every connection on which no request is in progress *as it sees it*: one that was accepted a moment ago, and
//! one whose next request has arrived and was not read yet, too. So it accepts nothing more for a moment first.

use std::io;
use std::pin::pin;
use std::time::Duration;

use actix_web::dev::Server;

use crate::clock;
use crate::sys::quiet::quiet_for;
use crate::worker::shutdown::Shutdown;

/// Runs an actix-web `HttpServer` until it ends, or until the worker is told to stop and it has stopped gracefully.
///
/// Two settings belong on every `HttpServer` inside a worker:
/// - `.workers(1)`: by default each `HttpServer` starts one thread for each CPU, so that N worker processes would run
///   N times N threads. The processes *are* the parallelism here.
/// - `.disable_signals()`: the worker handles SIGTERM itself. A server with handlers of its own would stop on the
///   terminal's Ctrl-C at once, where the cluster stops in order.
///
/// `.shutdown_timeout(seconds)` (default 30) limits how long requests in progress may take at the stop; keep it below
/// the grace period of the cluster.
pub(crate) async fn run_server(server: Server, shutdown: &Shutdown) -> io::Result<()> {
    let handle = server.handle();
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = shutdown.started() => {}
    }
    // The server must be polled while it stops: it is what carries the stop out.
    let stop = async {
        handle.pause().await;
        // What was accepted is read and answered meanwhile; what comes from here on is somebody else's to accept.
        settle().await;
        handle.stop(true).await;
    };
    let ((), ended) = tokio::join!(stop, server);
    ended
}

/// Until nothing has begun and nothing has come on any connection for the time of [`SETTLE`], but no longer than that. Who
/// connects for each request is gone at once; who keeps a connection in use is waited for, so that an application that
/// announces the end can do so.
async fn settle() {
    let begun = clock::now();
    loop {
        // The server's thread may not have heard yet that it should pause: so it is asked later, never now.
        let left = SETTLE.saturating_sub(clock::now().since(begun));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(LOOK.min(left)).await;
        if quiet_for().is_none_or(|quiet| quiet >= SETTLE) {
            return;
        }
    }
}

/// How long a connection must be quiet before the server's stop may close it. Longer than a request is under way on most
/// networks, and nothing beside the second at which a stopping `HttpServer` looks whether its connections have ended.
const SETTLE: Duration = Duration::from_millis(250);
/// The time between two looks. Many loops of a server's accepting thread.
const LOOK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use actix_web::{App, HttpResponse, HttpServer, web};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;

    #[actix_rt::test]
    async fn an_http_server_stops_gracefully() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let begun = web::Data::new(Notify::new());
        let release = std::sync::Arc::new(Notify::new());
        let (seen, gate) = (begun.clone(), release.clone());
        let server = HttpServer::new(move || {
            let gate = gate.clone();
            App::new().app_data(seen.clone()).route(
                "/",
                web::get().to(move |begun: web::Data<Notify>| {
                    let gate = gate.clone();
                    async move {
                        begun.notify_one();
                        gate.notified().await;
                        HttpResponse::Ok().body("done")
                    }
                }),
            )
        })
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap()
        .run();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let running = actix_rt::spawn(async move { run_server(server, &stop).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        begun.notified().await;
        shutdown.start();
        release.notify_one();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
            "{answer}"
        );
        actix_rt::time::timeout(Duration::from_secs(5), running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}
