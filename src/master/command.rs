//! What a handle can ask of the supervisor, each with the way to answer.

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use crate::administration::{ClusterRules, SpecSnapshot};
use crate::changes::ReloadOptions;
use crate::error::CommandError;
use crate::events::Events;
use crate::model::{
    Announcement, ClusterSnapshot, EndCause, Generation, ListenError, RecycleReason, ReloadError, Settings,
    ShutdownReport, Signal, Slot, SpecName, SubscriberLoss, WorkerId, WorkerSnapshot,
};
use crate::spec::WorkerSpec;
use crate::subscription::SubscribeOptions;
use crate::supervision::{Reconfiguration, RequestId, ScaleTarget};

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
        cause: Option<EndCause>,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Make something known for a plug-in.
    Publish {
        worker: Option<WorkerId>,
        announcement: Announcement,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Start a slot that failed or was stopped.
    StartSlot {
        slot: Slot,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// Another number of workers.
    Scale {
        /// The builder's own, if none is named.
        spec: Option<SpecName>,
        target: ScaleTarget,
        reply: Option<oneshot::Sender<Result<u32, CommandError>>>,
    },
    /// A new generation.
    Reload {
        options: ReloadOptions,
        reply: Option<oneshot::Sender<Result<Generation, ReloadError>>>,
    },
    /// The verdict on a canary.
    Judged {
        request: RequestId,
        verdict: Result<(), String>,
    },
    /// Replace one worker, its successor first.
    Recycle {
        worker: WorkerId,
        why: RecycleReason,
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// One more spec.
    AddSpec { spec: Box<WorkerSpec>, reply: SpecReply },
    /// Other rules, other descriptions.
    Reconfigure {
        changes: Box<Reconfiguration>,
        /// How the workers of the specs in it are started.
        specs: Vec<WorkerSpec>,
        reply: SpecReply,
    },
    /// Descriptions in force: of one spec, or of all.
    Specs {
        spec: Option<SpecName>,
        reply: oneshot::Sender<Vec<SpecSnapshot>>,
    },
    /// The rules in force.
    Rules { reply: oneshot::Sender<ClusterRules> },
    /// Something to do with a whole spec.
    Spec {
        spec: SpecName,
        order: SpecOrder,
        reply: SpecReply,
    },
    /// A snapshot and every event after it.
    Follow {
        options: Box<SubscribeOptions>,
        reply: oneshot::Sender<(ClusterSnapshot, Events)>,
    },
    /// Duplicates of the sockets that somebody may keep for this program's successor.
    Sockets {
        reply: oneshot::Sender<Result<Vec<(String, OwnedFd)>, ListenError>>,
    },
    /// A subscriber is gone; everybody is to hear of it.
    SubscriberLost { name: String, why: SubscriberLoss },
    /// Stop everything; answered when all is gone.
    Shutdown {
        urgency: Urgency,
        reply: Option<oneshot::Sender<ShutdownReport>>,
    },
}

/// The way back to who wants something done to a spec; the workers that it has then.
pub(crate) type SpecReply = oneshot::Sender<Result<Vec<WorkerId>, CommandError>>;

/// What to do with a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpecOrder {
    /// Stop its workers.
    Stop,
    /// Start its slots.
    Start,
    /// Start its slots again, which must not run.
    Restart,
    /// Forget it.
    Delete,
}

/// Judges the workers of a canary.
pub(crate) type Verdict = Box<dyn FnOnce(Vec<WorkerSnapshot>) -> Result<(), String> + Send>;

/// How fast to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Requests in progress are finished, up to the grace period.
    Graceful,
    /// `SIGKILL` at once. With the signal that asked for it, if one did.
    Immediate(Option<Signal>),
}
