//! Any tokio server can take the connections: here axum, through its own listener trait.
//!
//! `cargo run --example axum`, then `curl localhost:8081`. What a `kill -9` of a worker costs a client that keeps its connection is
//! nothing, as long as its process `keeper of worker …` lives and the slots have restarts left: by default 5 each in 60 s, and the
//! cluster ends, with its connections, when none has.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::process::ExitCode;

use actix_cluster::{Cluster, ClusterBuilder, Connection, ListenOptions, RemoteIncoming, ToListenAddr, Worker};
use axum::Router;
use axum::routing::get;

pub(crate) fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    cluster("127.0.0.1:8081").worker(serve).main()
}

/// The cluster; the suite of scenarios runs it on another address.
pub(crate) fn cluster(address: impl ToListenAddr) -> ClusterBuilder {
    // A worker that is killed costs no client an error; `http1` below makes the most of it.
    Cluster::builder().listen_with("http", address, ListenOptions::new().survive_kill(true))
}

pub(crate) async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let id = worker.id();
    let app = Router::new().route("/", get(move || async move { format!("hello from worker {id}\n") }));
    speak(&worker, app).await
}

/// Serves any application of axum's.
pub(crate) async fn speak(worker: &Worker, app: Router) -> Result<(), Box<dyn std::error::Error>> {
    let incoming = Accept(worker.incoming("http")?.http1().into_remote());
    let shutdown = worker.shutdown().clone();
    axum::serve(incoming, app)
        .with_graceful_shutdown(async move { shutdown.started().await })
        .await?;
    Ok(())
}

/// The worker's connections as axum wants them.
struct Accept(RemoteIncoming);

impl axum::serve::Listener for Accept {
    type Io = Connection;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.accept().await {
            Some(connection) => {
                let peer = connection.peer;
                (connection, peer)
            }
            // The worker was told to stop: the graceful shutdown ends the server.
            None => never(pending::<Infallible>()).await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(None)
    }
}

async fn never<T>(nothing: impl Future<Output = Infallible>) -> T {
    match nothing.await {}
}
