//! The smallest cluster: one service as several supervised processes on one port.
//!
//! `cargo run --example hello`, then `curl localhost:8080`, `kill -9` the process that answered, and `curl` again.

use std::process::ExitCode;

use actix_cluster::{Cluster, Worker};
use actix_web::{App, web};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    Cluster::builder().listen("http", "127.0.0.1:8080").worker(serve).main()
}

async fn serve(worker: Worker) -> Result<(), actix_cluster::ServeError> {
    let id = worker.id();
    let hello = move || async move { format!("hello from worker {id}, process {}\n", std::process::id()) };
    worker
        .serve("http", move || App::new().route("/", web::get().to(hello)))
        .await
}
