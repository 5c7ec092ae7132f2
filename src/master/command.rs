//! What a handle can ask of the supervisor, each with the way to answer.

use std::ffi::OsString;

use tokio::sync::oneshot;

use crate::error::CommandError;
use crate::model::{Settings, ShutdownReport, Signal, Slot, WorkerId};

/// A request of a [`ClusterHandle`](crate::ClusterHandle). Every one is answered exactly once, or its sender dropped,
/// which the handle reports as a stopped cluster.
pub(crate) enum Command {
    /// One more worker (Node's `fork`).
    Fork {
        env: Vec<(OsString, OsString)>,
        reply: oneshot::Sender<Result<WorkerId, CommandError>>,
    },
    /// Settings for the next workers; the reply is what is in force now, or the panic of `change`.
    Setup {
        change: Box<dyn FnOnce(&mut Settings) + Send>,
        reply: oneshot::Sender<std::thread::Result<Settings>>,
    },
    /// Stop one worker for good.
    Disconnect {
        worker: WorkerId,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Replace one worker.
    Restart {
        worker: WorkerId,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Stop every worker for good; answered when the last is gone.
    DisconnectAll { reply: oneshot::Sender<()> },
    /// Close a worker's channel without a word.
    CloseChannel {
        worker: WorkerId,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Send a signal to one worker.
    Kill {
        worker: WorkerId,
        signal: Signal,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Start a slot that failed or was stopped.
    StartSlot {
        slot: Slot,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Stop everything; answered when all is gone.
    Shutdown {
        urgency: Urgency,
        reply: Option<oneshot::Sender<ShutdownReport>>,
    },
}

/// How fast to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Requests in progress are finished, up to the grace period.
    Graceful,
    /// `SIGKILL` at once. With the signal that asked for it, if one did.
    Immediate(Option<Signal>),
}
