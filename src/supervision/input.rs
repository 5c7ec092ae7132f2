//! Every fact that can happen to a cluster, in the past tense.
//!
//! Not here: what follows from them ([`super::Supervision`]) and facts about one process ([`super::lifecycle`]).

use crate::model::{BoundAddress, Exit, Slot, SpecName, WorkerError, WorkerId};

/// Names one `fork` request, so that its answer finds the caller. Chosen by the caller of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId(pub(crate) u64);

/// A fact. About unknown or dead workers it is ignored and counted: late news must not hurt a successor.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The master is set up; workers may be started.
    Started,
    /// The kernel said that the worker's process exists.
    WorkerForked { id: WorkerId },
    /// The library in it runs.
    WorkerOnline { id: WorkerId },
    /// It listens on one more socket.
    WorkerListening { id: WorkerId, address: BoundAddress },
    /// It can serve.
    WorkerReady { id: WorkerId },
    /// It was told to stop, or said that it stops.
    WorkerExiting { id: WorkerId },
    /// Its channel is closed.
    WorkerDisconnected { id: WorkerId },
    /// It is gone. A spawn that failed is told so too, without a `WorkerForked` before.
    WorkerExited { id: WorkerId, exit: Exit },
    /// Something went wrong with it, short of its end.
    WorkerFailed { id: WorkerId, error: WorkerError },
    /// A handle wants one more slot of this spec (Node's `fork`); answered by `Action::Forked`.
    SlotForkRequested { request: RequestId, spec: SpecName },
    /// A handle wants this worker stopped and its slot not filled again (Node's `worker.disconnect`).
    WorkerStopRequested { id: WorkerId },
    /// A handle wants this worker replaced; counts as no failure.
    RestartRequested { id: WorkerId },
    /// A handle wants a failed or stopped slot filled again, with a full restart budget.
    SlotStartRequested { slot: Slot },
    /// A handle wants every worker stopped and no slot filled again (Node's `cluster.disconnect`).
    ClusterDisconnectRequested,
    /// The end of the cluster is wanted; at once (`now`) means `SIGKILL`. A second one can only make it faster.
    ShutdownRequested { now: bool },
}
