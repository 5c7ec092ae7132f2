//! Every order that the cluster's machine can give, in the imperative.
//!
//! Not here: how they are carried out (that is the master).

use crate::model::{EventKind, GaveUp, Generation, Slot, SpawnFailure, SpecName, WorkerId};
use crate::policy::ShutdownPolicy;

use super::RequestId;

/// An order. Carry them out in the order in which they come.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Start this worker. Answer with `WorkerForked`, or with `WorkerExited` and `SpawnFailed` if it could not be.
    Spawn {
        id: WorkerId,
        slot: Slot,
        generation: Generation,
        /// Restarts of its slot before it.
        restarts: u32,
    },
    /// Tell this worker's `Lifecycle` to stop. May come a second time with a faster policy.
    Stop { id: WorkerId, policy: ShutdownPolicy },
    /// Publish this event; every state a handle can read is already the new one.
    Publish { worker: Option<WorkerId>, kind: EventKind },
    /// The slot that a `SlotForkRequested` gets; comes before its worker is started.
    SlotAdded { request: RequestId, slot: Slot },
    /// The answer to a `SlotForkRequested`; exactly one for each.
    Forked {
        request: RequestId,
        result: Result<(Slot, WorkerId), ForkRefused>,
    },
    /// No worker will come to this slot by itself any more: what is kept for it (listeners) may be released.
    SlotGone { slot: Slot },
    /// The end; nothing follows but refusals of late requests. Comes exactly once.
    Finished(Outcome),
}

/// Why a `fork` was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForkRefused {
    /// There is no such spec.
    #[error("there is no worker spec named `{0}`; fork one that the cluster was built with")]
    UnknownSpec(SpecName),
    /// The cluster is stopping, or was told to stop its workers before this one could be started.
    #[error("the cluster is stopping its workers; nothing is started any more")]
    Stopping,
    /// There are as many slots as one master keeps.
    #[error("there are {0} slots already, as many as a master keeps; let some workers end first")]
    TooManySlots(usize),
    /// The process could not be started; its slot was taken away again.
    #[error("could not start: {0}")]
    Spawn(SpawnFailure),
}

/// How the cluster ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In order.
    Clean,
    /// Too many restarts over all slots.
    GaveUp(GaveUp),
    /// Nobody was left to wait for, and at least one slot had failed.
    AllFailed,
    /// By an immediate shutdown.
    Killed,
    /// These processes did not die of `SIGKILL` and were left behind.
    Unkillable(Vec<WorkerId>),
}
