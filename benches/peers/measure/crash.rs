//! A: the only worker is killed; how long until its successor answers.
//!
//! A probe connects at once and every two milliseconds, and as soon as one fails, until one is answered by another process; so
//! a probe that is lost in the dead worker is told as failed and hides nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use actix_cluster_benches::{Failure, now};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Effort, START};
use crate::client::{Connection, FAILURES, Failed, ask};
use crate::install::Installed;
use crate::running::{Running, pid};
use crate::targets::Target;

pub(super) fn take(target: &Target, effort: Effort, installed: &Installed) -> Result<Value, Failure> {
    let running = Running::start(target, installed, 1, START)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = Vec::new();
    let mut failed = Vec::new();
    // One kill to warm up what is done for the first time only; it is not counted.
    for kills in 0..=effort.kills {
        let probes = tokio::task::LocalSet::new();
        let killed = probes.block_on(&runtime, kill_and_probe(running.address, target.min_life));
        let (time, failures) =
            killed.map_err(|error| format!("{error} after {kills} kills; it said: {}", running.said()))?;
        if kills > 0 {
            times.push(time.as_secs_f64() * 1e3);
            failed.extend(failures);
        }
    }
    let classes = FAILURES.iter().map(|(class, name)| {
        let count = failed.iter().filter(|failed| *failed == class).count();
        ((*name).to_owned(), json!(count))
    });
    Ok(json!({
        "ms": times,
        "failed": failed.len(),
        "classes": classes.filter(|(_, count)| *count != json!(0)).collect::<serde_json::Map<_, _>>(),
    }))
}

async fn kill_and_probe(address: SocketAddr, min_life: Duration) -> Result<(Duration, Vec<Failed>), Failure> {
    let before = ask(address, Connection::New, None, ANSWER).await;
    let victim = before
        .map_err(|class| format!("no answer before a kill ({class:?})"))?
        .pid;
    // It is to be at rest, as it would be in life, and old enough for masters that mistrust the young.
    tokio::time::sleep(min_life).await;
    let (sender, mut answers) = mpsc::unbounded_channel();
    let probe = {
        let sender = Rc::new(sender);
        move || {
            let sender = Rc::clone(&sender);
            tokio::task::spawn_local(async move {
                let answer = ask(address, Connection::New, None, ANSWER).await;
                // Whoever waits may have gone.
                sender.send(answer.map(|answer| answer.pid)).ok();
            });
        }
    };
    let mut failures = Vec::new();
    let begun = now();
    kill(pid(victim), Signal::SIGKILL)?;
    probe();
    loop {
        match tokio::time::timeout(EVERY, answers.recv()).await {
            Ok(Some(Ok(pid))) if pid != victim => return Ok((begun.elapsed(), failures)),
            Ok(Some(Err(class))) => {
                failures.push(class);
                // A refusal takes a few microseconds; so many of them would be a load of their own.
                tokio::time::sleep(AGAIN).await;
                probe();
            }
            // The dead one's last answer, or nothing yet.
            Ok(Some(Ok(_)) | None) | Err(_) => probe(),
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("no successor answered within {LIMIT:?}").into());
        }
    }
}

const ANSWER: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(2);
const AGAIN: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(10);
