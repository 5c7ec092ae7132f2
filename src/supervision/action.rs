//! Every order that the cluster's machine can give, in the imperative.
//!
//! Not here: how they are carried out (that is the master).

use crate::model::{
    EventKind, GaveUp, Generation, ReloadError, Slot, SpawnFailure, SpecFault, SpecName, StartError, WorkerId,
};
use crate::policy::ShutdownPolicy;

use super::RequestId;

/// An order. Carry them out in the order in which they come.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Start this worker. Answer with `WorkerForked`, or with `WorkerExited` and `SpawnFailed` if it could not be.
    Spawn {
        id: WorkerId,
        slot: Slot,
        /// The generation whose image and settings it runs.
        generation: Generation,
        /// Restarts of its slot before it.
        restarts: u32,
    },
    /// Start this worker, which is to stand by: without a slot, and what belongs to one. Answer as for `Spawn`.
    SpawnStandby {
        id: WorkerId,
        spec: SpecName,
        generation: Generation,
    },
    /// This worker, which stands by, has this slot from now on: give it what belongs to the slot. It boots from here to its
    /// `WorkerReady`. A failure is its end.
    Promote {
        id: WorkerId,
        slot: Slot,
        /// Restarts of the slot before it.
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
    /// The answer to a `ScaleRequested`; exactly one for each.
    Scaled {
        request: RequestId,
        result: Result<Scaled, ScaleRefused>,
    },
    /// A reload brings this generation: whoever is spawned with it from now on runs what is on disk now.
    GenerationAdded { request: RequestId, generation: Generation },
    /// Nobody will be spawned with this generation any more: what is kept for it (image, settings) may be released.
    GenerationGone { generation: Generation },
    /// These workers of the new generation have served for the bake time: are they good? Answer with `CanaryJudged`
    /// within the step deadline; silence is a bad verdict.
    CanaryVerdict { request: RequestId, workers: Vec<WorkerId> },
    /// The answer to a `ReloadRequested`; exactly one for each.
    ReloadFinished {
        request: RequestId,
        result: Result<Generation, ReloadError>,
    },
    /// The answer to an input about a spec; exactly one for each.
    SpecAnswered {
        request: RequestId,
        result: Result<(), SpecRefused>,
    },
    /// The descriptions of specs that came with this request are in force: whoever is spawned from now on is started by
    /// them.
    SpecsTaken { request: RequestId },
    /// This spec is no longer in the list: what is kept for it (how its workers are started) may be released.
    SpecGone { spec: SpecName },
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
    /// The process could not be started; its slot is there, and goes by the restart rules.
    #[error("could not start: {0}")]
    Spawn(SpawnFailure),
}

/// What a scaling did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    /// How many slots were wanted.
    pub(crate) from: u32,
    /// How many are wanted now.
    pub(crate) to: u32,
    /// Was something else asked for that cannot be?
    pub(crate) clamped: bool,
}

/// Why a scaling was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScaleRefused {
    /// There is no such spec.
    #[error("there is no worker spec named `{0}`")]
    UnknownSpec(SpecName),
    /// The cluster is stopping.
    #[error("the cluster is stopping its workers; nothing is started any more")]
    Stopping,
}

/// Why something was not done to a spec: OTP's answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpecRefused {
    /// There is no such spec.
    #[error("there is no worker spec named `{0}`")]
    NotFound(SpecName),
    /// It runs already; this is one of its workers.
    #[error("the worker spec `{0}` runs already, with worker {1}")]
    AlreadyStarted(SpecName, WorkerId),
    /// There is one with this name, and it is stopped: start or delete that one.
    #[error("there is a stopped worker spec `{0}` already; start it, or delete it first")]
    AlreadyPresent(SpecName),
    /// It runs; stop it first.
    #[error("the worker spec `{0}` is running; stop it first")]
    Running(SpecName),
    /// Its workers are between a failure and their next start; stop it first.
    #[error("the worker spec `{0}` is being restarted; stop it first")]
    Restarting(SpecName),
    /// It contradicts itself.
    #[error("the worker spec `{0}` cannot be: {1}")]
    Invalid(SpecName, SpecFault),
    /// What is to hold for the whole cluster contradicts itself.
    #[error("{0}")]
    InvalidRules(&'static str),
    /// There would be more slots than one master keeps.
    #[error("more than {0} slots, as many as a master keeps; let some workers end first")]
    TooManySlots(usize),
    /// The cluster is stopping, or its workers were told to stop meanwhile.
    #[error("the cluster is stopping its workers; nothing is started any more")]
    Stopping,
    /// One of its workers ended before it was ready; nothing of the spec runs.
    #[error("the worker spec `{spec}` could not start: {0}", spec = .0.spec)]
    NotStarted(Box<StartError>),
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
