//! A cluster inside a program that owns its `main` and its actix `System`.
//!
//! `cargo run --example embedded`; the master does work of its own beside the cluster and stops it after two seconds.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{Cluster, RunError, Worker};
use actix_web::{App, web};

fn main() -> ExitCode {
    match actix_rt::System::new().block_on(run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.into()
        }
    }
}

async fn run() -> Result<(), RunError> {
    // In a worker this call runs the worker and does not return.
    let cluster = Cluster::builder()
        .workers(2)
        .listen("http", "127.0.0.1:0")
        .worker(serve)
        .build()?
        .start()
        .await?;
    let handle = cluster.handle();
    if handle.all_ready().await.is_ok() {
        for worker in handle.snapshot().workers {
            println!(
                "worker {} (process {}) listens on {}",
                worker.id,
                worker.pid.unwrap_or(0),
                worker.addresses[0]
            );
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    actix_rt::spawn(async move { handle.shutdown().await });
    let report = cluster.wait().await?;
    println!("stopped {} workers, {} by force", report.workers.len(), report.forced());
    Ok(())
}

async fn serve(worker: Worker) -> Result<(), actix_cluster::ServeError> {
    worker
        .serve("http", || App::new().route("/", web::get().to(async || "hello\n")))
        .await
}
