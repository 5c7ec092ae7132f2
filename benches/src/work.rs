//! Small pieces of work of the master, through the public API: `micro` takes their time, `instructions` counts what they execute.
//!
//! Not here: what only the inside can reach. The codec and the machine are counted in the crate's own unit tests.

use actix::System;
use actix_cluster::testing::{Recorder, RecordingHandle};
use actix_cluster::{
    ClusterEvent, ClusterHandle, ClusterSnapshot, EventKind, Events, Message, Mono, Slot, SubscribeOptions, WorkerId,
    WorkerSnapshot, WorkerState,
};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What does a piece of work once.
pub type Once = Box<dyn FnMut()>;

/// A piece of work: its name, and what makes it ready to be done again and again.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its name in tables and in the baseline.
    pub name: &'static str,
    /// Prepares it; the closure does it once.
    pub prepare: fn() -> Result<Once, Failure>,
}

/// All of them.
pub const WORKS: [Work; 6] = [
    Work {
        name: "event to JSON",
        prepare: event_to_json,
    },
    Work {
        name: "message to a struct",
        prepare: message_to_struct,
    },
    Work {
        name: "snapshot of 100 workers",
        prepare: snapshot,
    },
    Work {
        name: "snapshot of 100 workers to JSON",
        prepare: snapshot_to_json,
    },
    Work {
        name: "fan-out of 64 events to 1",
        prepare: || fan_out(1),
    },
    Work {
        name: "fan-out of 64 events to 5",
        prepare: || fan_out(5),
    },
];

#[derive(Serialize, Deserialize)]
struct Datum {
    id: u64,
    data: String,
}

fn message() -> Result<Message, Failure> {
    Ok(Message::for_test(&Datum {
        id: 1,
        data: "x".repeat(100),
    })?)
}

fn event_to_json() -> Result<Once, Failure> {
    let worker = WorkerSnapshot::for_test(1, Slot::new("worker", 0), WorkerState::Online);
    let event = ClusterEvent::for_test(1, Mono::default(), Some(worker.info()), EventKind::Message(message()?));
    Ok(Box::new(move || {
        std::hint::black_box(serde_json::to_vec(&event).expect("events have a JSON form"));
    }))
}

fn message_to_struct() -> Result<Once, Failure> {
    let message = message()?;
    Ok(Box::new(move || {
        std::hint::black_box(message.parse::<Datum>().expect("it was one"));
    }))
}

/// A cluster without processes, and the runtime that its handle wants.
struct Recorded {
    system: actix::SystemRunner,
    cluster: ClusterHandle,
    recorder: Recorder,
}

impl Recorded {
    fn new() -> Self {
        let workers = (0..100).map(|index| {
            WorkerSnapshot::for_test(u64::from(index) + 1, Slot::new("worker", index), WorkerState::Listening)
        });
        let system = System::new();
        let (cluster, recorder) = system.block_on(async { RecordingHandle::new(ClusterSnapshot::for_test(workers)) });
        Self {
            system,
            cluster,
            recorder,
        }
    }
}

fn snapshot() -> Result<Once, Failure> {
    let recorded = Recorded::new();
    Ok(Box::new(move || {
        std::hint::black_box(recorded.cluster.snapshot());
    }))
}

fn snapshot_to_json() -> Result<Once, Failure> {
    let snapshot = Recorded::new().cluster.snapshot();
    Ok(Box::new(move || {
        std::hint::black_box(serde_json::to_vec(&snapshot).expect("snapshots have a JSON form"));
    }))
}

fn fan_out(subscribers: usize) -> Result<Once, Failure> {
    let recorded = Recorded::new();
    let options = SubscribeOptions::lifecycle();
    let mut streams: Vec<Events> = (0..subscribers)
        .map(|_| recorded.cluster.events_with(&options))
        .collect();
    Ok(Box::new(move || {
        recorded.system.block_on(async {
            for _ in 0..64 {
                recorded.recorder.publish(Some(WorkerId::new(1)), EventKind::Ready);
            }
            for stream in &mut streams {
                for _ in 0..64 {
                    let event = stream.next().await.expect("every event comes to every subscriber");
                    std::hint::black_box(event);
                }
            }
        });
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_work_can_be_done_again() {
        for work in WORKS {
            let mut once = (work.prepare)().expect(work.name);
            once();
            once();
        }
    }
}
