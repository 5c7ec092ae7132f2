//! A plug-in of your own: an actor that hears what workers say, and acts. Its unit test needs no process.
//!
//! `cargo run --example custom_subscriber`: each worker is tired after three seconds, says so, and is replaced, its
//! successor first. `cargo test --example custom_subscriber` runs the test at the end of this file.

use std::process::ExitCode;

use actix::prelude::*;
use actix_cluster::{Cluster, ClusterEvent, ClusterHandle, EventKind, RecycleReason, SubscribeOptions, Worker};
use actix_cluster_actors::{EventLog, EventLogConfig};

/// Replaces each worker that says `tired`.
struct Nurse(ClusterHandle);

/// What it wants to hear: messages only, and none may be lost.
fn wishes() -> SubscribeOptions {
    SubscribeOptions::messages().name("nurse")
}

impl Actor for Nurse {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Nurse {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        let (EventKind::Message(message), Some(worker)) = (event.kind, event.worker) else {
            return;
        };
        if message.parse::<String>().is_ok_and(|text| text == "tired") {
            let cluster = self.0.clone();
            let why = RecycleReason::Asked("it is tired".to_owned());
            // It may have died meanwhile; then the restart rules have replaced it.
            ctx.wait(async move { drop(cluster.recycle(worker.id, why).await) }.into_actor(self));
        }
    }
}

fn main() -> ExitCode {
    let log = EventLog::new(EventLogConfig::new(), std::io::stdout());
    Cluster::builder()
        .workers(2)
        .subscribe_with(log.options(), |_| log.start())
        .subscribe_with(wishes(), |cluster| Nurse(cluster).start())
        .worker(work)
        .main()
}

async fn work(worker: Worker) {
    actix::clock::sleep(std::time::Duration::from_secs(3)).await;
    worker.send("tired").ok(); // If the master is gone, so is this worker soon.
    worker.shutdown().started().await;
}

#[cfg(test)]
mod tests {
    use actix_cluster::testing::{RecordedCommand, RecordingHandle};
    use actix_cluster::{ClusterSnapshot, Message, Slot, WorkerId, WorkerSnapshot, WorkerState};

    use super::*;

    #[actix_rt::test]
    async fn who_is_tired_is_replaced_and_nobody_else() {
        let worker = |id| WorkerSnapshot::for_test(id, Slot::new("worker", 0), WorkerState::Online);
        let (cluster, mut recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker(1), worker(2)]));
        let nurse = Nurse(cluster.clone()).start();
        cluster.subscribe_with(nurse.recipient(), &wishes());
        for (id, text) in [(1, "fine"), (2, "tired")] {
            let said = EventKind::Message(Message::for_test(text).unwrap());
            recorder.publish(Some(WorkerId::new(id)), said);
        }
        let command = recorder.next_command().await;
        assert!(matches!(command, RecordedCommand::Recycle(worker, _) if worker == WorkerId::new(2)));
        assert!(recorder.commands().is_empty());
    }
}
