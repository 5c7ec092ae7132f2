//! Every fact that can happen to a cluster, in the past tense.
//!
//! Not here: what follows from them ([`super::Supervision`]) and facts about one process ([`super::lifecycle`]).

use crate::model::{BoundAddress, Exit, RecycleReason, Slot, SpecName, WorkerError, WorkerId};
use crate::policy::RolloutOptions;

use super::{Reconfiguration, SpecConfig};

/// Names one request, so that its answer finds the caller; one number for all kinds of requests. Chosen by the caller of the machine.
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
    /// It is a standby and could take a slot.
    WorkerStandsBy { id: WorkerId },
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
    /// It has begun so many requests since its start, by its own word.
    WorkerServed { id: WorkerId, requests: u64 },
    /// A handle wants one more slot of this spec (Node's `fork`); answered by `Action::Forked`.
    SlotForkRequested { request: RequestId, spec: SpecName },
    /// A handle wants this worker stopped and its slot not filled again (Node's `worker.disconnect`).
    WorkerStopRequested { id: WorkerId },
    /// A handle wants this worker replaced; counts as no failure.
    RestartRequested { id: WorkerId },
    /// A handle wants a failed or stopped slot filled again, with a full restart budget.
    SlotStartRequested { slot: Slot },
    /// A handle wants another number of slots for this spec; answered by `Action::Scaled`.
    ScaleRequested {
        request: RequestId,
        spec: SpecName,
        target: ScaleTarget,
        /// How many requests each worker has in progress: the least busy go first, of unknown ones the youngest last.
        active: Vec<(WorkerId, u64)>,
    },
    /// A handle wants all workers, or those of one spec, replaced by a new generation; answered by
    /// `Action::ReloadFinished`. Before its first worker comes `Action::GenerationAdded`.
    ReloadRequested {
        request: RequestId,
        spec: Option<SpecName>,
        options: RolloutOptions,
        /// Wait for the end of a running one (one may wait) instead of being refused?
        queue: bool,
    },
    /// The answer to an `Action::CanaryVerdict`.
    CanaryJudged {
        request: RequestId,
        good: bool,
        why: String,
    },
    /// This worker is to be replaced on purpose, its successor first; counts as no failure. Ignored if it is not
    /// there to stay.
    RecycleRequested { id: WorkerId, why: RecycleReason },
    /// A handle adds a spec at the end of the order and starts it; answered by `Action::SpecAnswered` when each slot has a
    /// ready worker. If one fails before that, the spec is taken away again.
    SpecAddRequested {
        request: RequestId,
        config: Box<SpecConfig>,
    },
    /// A handle stops every worker of a spec (OTP's `terminate_child`); answered by `Action::SpecAnswered` when they
    /// are gone. Of a stopped one: at once.
    SpecStopRequested { request: RequestId, spec: SpecName },
    /// A handle starts every slot of a stopped spec; answered by `Action::SpecAnswered` when each has a
    /// ready worker. If one fails before that, all are stopped again.
    SpecStartRequested { request: RequestId, spec: SpecName },
    /// The same with OTP's answers of `restart_child`: `Running`, `Restarting`.
    SpecRestartRequested { request: RequestId, spec: SpecName },
    /// A handle removes a stopped spec; answered by `Action::SpecAnswered` at once.
    SpecDeleteRequested { request: RequestId, spec: SpecName },
    /// A handle wants other rules or other descriptions, all of them or none; answered by `Action::SpecAnswered` at once.
    /// Nobody is started or stopped.
    ReconfigureRequested {
        request: RequestId,
        changes: Box<Reconfiguration>,
    },
    /// A handle wants every worker stopped and no slot filled again (Node's `cluster.disconnect`).
    ClusterDisconnectRequested,
    /// The end of the cluster is wanted; at once (`now`) means `SIGKILL`. A second one can only make it faster.
    ShutdownRequested { now: bool },
}

/// How many slots are wanted. What cannot be is brought to the nearest that can, and the answer says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleTarget {
    To(i64),
    /// More, or less if negative.
    By(i64),
}
