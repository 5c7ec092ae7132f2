//! Talking to workers: configuration when a worker comes online, ping and pong, questions in both directions.
//!
//! `cargo run --example messaging`; it ends by itself after the workers have reported.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    CallError, Cluster, ClusterEvent, ClusterHandle, EventKind, Message, RestartType, Worker, WorkerRef,
};
use serde::{Deserialize, Serialize};

/// What the master tells its workers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Order {
    Configure { max_connections: u32 },
    Ping { n: u32 },
}

/// What the workers tell their master.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Report {
    Status { healthy: bool },
    Metrics { limit: u32 },
}

fn main() -> ExitCode {
    Cluster::builder()
        .workers(2)
        .restart(RestartType::Temporary)
        .worker(work)
        .on_event(configure)
        .on_message(|worker, message| listen(&worker, &message))
        .main()
}

/// Master: every worker gets its configuration as soon as it is online, and a ping whose answer is awaited.
fn configure(event: &ClusterEvent, cluster: &ClusterHandle) {
    let (EventKind::Online, Some(info)) = (&event.kind, &event.worker) else {
        return;
    };
    let Some(worker) = cluster.worker(info.id) else { return };
    if let Err(error) = worker.send(&Order::Configure { max_connections: 1000 }) {
        eprintln!("master: worker {} not configured: {error}", worker.id());
    }
    actix_rt::spawn(async move {
        let pong: Result<u32, CallError> = worker.call(&Order::Ping { n: 41 }, Duration::from_secs(5)).await;
        println!("master: worker {} answers {pong:?}", worker.id());
    });
}

/// Master: what workers say, and what they ask.
fn listen(worker: &WorkerRef, message: &Message) {
    match (message.reply(), message.parse::<Report>()) {
        (Some(reply), _) => {
            if let Err(error) = reply.ok(&format!("may worker {} stop? yes", worker.id())) {
                eprintln!("master: no answer: {error}");
            }
        }
        (None, Ok(report)) => println!("master: worker {} reports {report:?}", worker.id()),
        (None, Err(error)) => eprintln!("master: worker {} said something odd: {error}", worker.id()),
    }
}

/// Worker: obeys until it is configured and pinged, then asks whether it may stop.
async fn work(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let mut messages = worker.messages().ok_or("the messages are taken")?;
    worker.send(&Report::Status { healthy: true })?;
    let (mut configured, mut pinged) = (false, false);
    while !(configured && pinged) {
        let message = messages.next().await.ok_or("the master is gone")?;
        match message.parse()? {
            Order::Configure { max_connections } => {
                worker.send(&Report::Metrics { limit: max_connections })?;
                configured = true;
            }
            Order::Ping { n } => {
                message.reply().ok_or("a ping is a call")?.ok(&(n + 1))?;
                pinged = true;
            }
        }
    }
    let answer: String = worker.call("may I stop?", Duration::from_secs(5)).await?;
    println!("worker {}: {answer}", worker.id());
    Ok(())
}
