//! Errors, one enum for each moment at which somebody can act.

use std::process::ExitCode;
use std::time::Duration;

use crate::model::{
    GaveUp, ListenAddrError, ListenError, ReloadError, Signal, Slot, SpecFault, SpecName, StartError, WorkerId,
};

/// The configuration contradicts itself. Nothing has happened yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No worker function was given.
    #[error("no worker function: call `.worker(..)`, or `.exec(..)` for a foreign program")]
    NoWorker,
    /// A text is no listen address.
    #[error("listener {name:?}: {source}")]
    Address {
        /// The listener's name.
        name: String,
        /// What is wrong with the text.
        source: ListenAddrError,
    },
    /// The service manager has handed over no such socket.
    #[error("listener {name:?}: {why}; `listen_activated_or` has an address for this case")]
    NotActivated {
        /// The listener's name.
        name: String,
        /// What there is instead.
        why: String,
    },
    /// Two listeners have one name.
    #[error("two listeners are named {0:?}: give each its own name")]
    DuplicateListener(String),
    /// Two listeners are one descriptor, and each would take the other's connections.
    #[error(
        "listeners {first:?} and {second:?} are both descriptor {fd}; name what the service manager hands over \
         (`FileDescriptorName=`), or give one of them an address"
    )]
    SameDescriptor {
        /// The one that was declared first.
        first: String,
        /// The other one.
        second: String,
        /// The number of the descriptor.
        fd: std::os::fd::RawFd,
    },
    /// A listener is to be scheduled by a policy that was not given.
    #[error("listener {0:?} has custom scheduling, but no policy: give it one with `.schedule({0:?}, ..)`")]
    NoPolicy(String),
    /// A scheduling policy is for a listener that is not declared.
    #[error(
        "there is a scheduling policy for the listener {name:?}, but none of this name is declared; declared: {declared}"
    )]
    PolicyForNothing {
        /// The name it is for.
        name: String,
        /// The names there are.
        declared: String,
    },
    /// Two specs have one name.
    #[error("two specs are named {0}: give each its own name (the builder's own is `worker` unless named otherwise)")]
    DuplicateSpec(SpecName),
    /// A spec has nothing to run.
    #[error("spec {0} has no worker function: give it one with `.worker(..)`, or give one to the builder")]
    NoWorkerIn(SpecName),
    /// A spec names a listener that is not declared.
    #[error("spec {spec} wants the listener {name:?}, but none of this name is declared; declared: {declared}")]
    UnknownListener {
        /// The spec.
        spec: SpecName,
        /// The name it wants.
        name: String,
        /// The names there are.
        declared: String,
    },
    /// A spec contradicts itself.
    #[error("spec {0}: {1}")]
    Spec(SpecName, SpecFault),
    /// A number or duration is out of range.
    #[error("{what} is {value}: {rule}")]
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// What it was set to.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
}

/// The cluster could not run, or ended in another way than an orderly one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A declared listener could not be had.
    #[error("listener {name:?}: {source}")]
    Listen {
        /// The listener's name.
        name: String,
        /// Why not.
        source: ListenError,
    },
    /// This process was started as a worker, but its contract with the master cannot be read.
    #[error("started as a worker with a broken contract: {0}")]
    Contract(String),
    /// The operating system refused something the master needs.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Too many restarts.
    #[error("gave up: {}{}", describe(what), after(last))]
    GaveUp {
        /// Who was restarted too often.
        what: GaveUp,
        /// The failure after which it was too often.
        last: Option<Box<LastFailure>>,
    },
    /// The hook [`before_start`](crate::ClusterBuilder::before_start) said that there is nothing to do: nothing was bound or
    /// started. Its exit code is 0.
    #[error("not started: there is nothing to do")]
    Ignored,
    /// The hook [`before_start`](crate::ClusterBuilder::before_start) failed or panicked: nothing was bound or started.
    #[error("not started: {0}")]
    BeforeStart(String),
    /// Every slot has failed.
    #[error("every slot has failed{}", after(last))]
    AllFailed {
        /// The last failure.
        last: Option<Box<LastFailure>>,
    },
    /// An immediate stop was asked for by a signal.
    #[error("stopped at once by {0}")]
    Interrupted(Signal),
    /// These workers did not die of `SIGKILL` and were left behind: the kernel holds them.
    #[error("workers {0:?} did not die of SIGKILL and were left behind")]
    Unkillable(Vec<WorkerId>),
    /// The supervisor itself broke. The workers end because their channels close.
    #[error("the supervisor ended unexpectedly; this is a bug")]
    SupervisorLost,
}

impl RunError {
    /// The exit code for a program that ends with this error: 2 for wrong usage, 128 + n for an immediate stop by
    /// signal n (as shells do it), 0 if there was nothing to do, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Build(_) => 2,
            Self::Ignored => 0,
            Self::Interrupted(signal) => u8::try_from(128 + signal.number()).unwrap_or(1),
            Self::Listen { .. }
            | Self::Contract(_)
            | Self::Io { .. }
            | Self::GaveUp { .. }
            | Self::BeforeStart(_)
            | Self::AllFailed { .. }
            | Self::Unkillable(_)
            | Self::SupervisorLost => 1,
        }
    }
}

impl From<RunError> for ExitCode {
    fn from(error: RunError) -> Self {
        Self::from(error.exit_code())
    }
}

/// The exit code of a program whose whole business was this reload: 1.
impl From<ReloadError> for ExitCode {
    fn from(_: ReloadError) -> Self {
        Self::FAILURE
    }
}

/// The worker that failed last before a cluster ended for its failures: the end of the chain "the cluster could not go on: this
/// worker: its own reason" (OTP's error of a supervisor that does not start).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} in {slot}: {why}")]
#[non_exhaustive]
pub struct LastFailure {
    /// The worker.
    pub worker: WorkerId,
    /// Its place.
    pub slot: Slot,
    /// How it ended, or why it could not be started, and what it said about that itself.
    pub why: String,
}

fn after(last: &Option<Box<LastFailure>>) -> String {
    last.as_ref()
        .map(|last| format!("; the last failure: {last}"))
        .unwrap_or_default()
}

fn describe(gave_up: &GaveUp) -> String {
    let (what, limit, period): (String, u32, Duration) = match gave_up {
        GaveUp::Slot { slot, limit, period } => (format!("slot {slot}"), *limit, *period),
        GaveUp::Spec { spec, limit, period } => (format!("spec {spec}"), *limit, *period),
        GaveUp::Cluster { limit, period } => ("the cluster".to_owned(), *limit, *period),
    };
    format!("{what} needed more than {limit} restarts in {period:?}")
}

/// A request through the handle could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The cluster has ended.
    #[error("the cluster has ended")]
    Gone,
    /// The cluster is shutting down: nothing is started any more.
    #[error("the cluster is shutting down")]
    ShuttingDown,
    /// No worker with this id lives.
    #[error("no worker {0} (it may have exited)")]
    UnknownWorker(WorkerId),
    /// No spec has this name.
    #[error("no spec named {0}")]
    UnknownSpec(SpecName),
    /// No slot like this.
    #[error("no slot {0}")]
    UnknownSlot(Slot),
    /// The slot is filled or about to be.
    #[error("slot {0} is running")]
    AlreadyRunning(Slot),
    /// The spec runs already.
    #[error("spec {spec} runs already, with worker {worker}")]
    AlreadyStarted {
        /// The spec.
        spec: SpecName,
        /// One of its workers.
        worker: WorkerId,
    },
    /// There is a stopped spec with this name.
    #[error("there is a stopped spec {0} already: start it, or delete it first")]
    AlreadyPresent(SpecName),
    /// The spec runs.
    #[error("spec {0} is running: stop it first")]
    SpecRunning(SpecName),
    /// The spec's workers are between a failure and their next start.
    #[error("spec {0} is being restarted: stop it first")]
    SpecRestarting(SpecName),
    /// The spec contradicts itself.
    #[error("spec {spec} cannot be: {why}")]
    InvalidSpec {
        /// The spec.
        spec: SpecName,
        /// Why.
        #[source]
        why: SpecFault,
    },
    /// The spec names a listener that the builder did not declare.
    #[error("spec {spec} wants the listener {listener:?}, but none of this name is declared; declared: {declared}")]
    UnknownListener {
        /// The spec.
        spec: SpecName,
        /// The name it wants.
        listener: String,
        /// The names there are.
        declared: String,
    },
    /// What is to hold for the whole cluster contradicts itself.
    #[error("{0}")]
    InvalidRules(&'static str),
    /// A listener's socket could not be had.
    #[error(transparent)]
    Listener(ListenError),
    /// There are as many slots as one master keeps.
    #[error("there are {0} slots already, as many as a master keeps; let some workers end first")]
    TooManySlots(usize),
    /// The worker could not be started.
    #[error("could not start: {0}")]
    Spawn(crate::model::SpawnFailure),
    /// One of the spec's workers ended before it was ready; nothing of the spec runs.
    #[error("spec {spec} could not start: {0}", spec = .0.spec)]
    NotStarted(#[source] Box<StartError>),
    /// The kernel refused to deliver the signal.
    #[error("cannot send {signal} to worker {worker}: errno {errno}")]
    Signal {
        /// The worker.
        worker: WorkerId,
        /// The signal.
        signal: Signal,
        /// The errno.
        errno: i32,
    },
}
