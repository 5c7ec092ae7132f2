//! For the unit tests of plug-ins (feature `test-util`): events made up, and a handle that records instead of commanding.
//!
//! A plug-in is an actor with `Handler<ClusterEvent>` that holds a [`ClusterHandle`]. Here it gets the ordinary handle
//! type, with nobody behind it: reads show what the test says, commands are written down and answered, events are the
//! test's own. No process is started.
//!
//! ```
//! use actix_cluster::testing::{RecordedCommand, RecordingHandle};
//! use actix_cluster::{ClusterEvent, ClusterSnapshot, EventKind, Slot, WorkerId, WorkerSnapshot, WorkerState};
//!
//! # #[actix_rt::main]
//! # async fn main() {
//! let worker = WorkerSnapshot::for_test(1, Slot::new("worker", 0), WorkerState::Listening);
//! let (cluster, mut recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker]));
//!
//! // What is tested: here, a few lines instead of an actor.
//! let mut events = cluster.events();
//! recorder.publish(Some(WorkerId::new(1)), EventKind::Ready);
//! let worker = events.next().await.and_then(|event| event.worker).expect("it is about a worker");
//! cluster.disconnect(worker.id).await.expect("the recorder says yes");
//!
//! assert_eq!(recorder.next_command().await, RecordedCommand::Disconnect(worker.id));
//! # }
//! ```
//!
//! Not here: a simulated cluster. A command is answered and has no effect; what should follow from it, the test says.

mod recorded;
mod recorder;
mod values;

pub use recorded::RecordedCommand;
pub use recorder::{Recorder, RecordingHandle};

#[cfg(doc)]
use crate::handle::ClusterHandle;
