//! A server that is not HTTP: what comes in is echoed, and a stop lets every open connection finish.
//!
//! `cargo run --example raw_tcp`, then `nc localhost 8082`, type something, and `kill -TERM` the master meanwhile: the
//! connection lives on until you close it, at most ten seconds.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, Connection, ListenError, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    Cluster::builder()
        .workers(2)
        .listen("echo", "127.0.0.1:8082")
        .grace(Duration::from_secs(10))
        .worker(serve)
        .main()
}

async fn serve(worker: Worker) -> Result<(), ListenError> {
    worker.incoming("echo")?.serve_with(echo).await;
    Ok(())
}

/// One connection, in a task of its own on the worker's thread.
async fn echo(mut connection: Connection) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = connection.read(&mut bytes).await {
        if connection.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
