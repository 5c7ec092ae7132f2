//! What can happen to one process, and what its machine says about it.
//!
//! Not here: the machine ([`super::lifecycle`]) and the facts about a cluster ([`super::input`]).

use std::time::Duration;

use crate::model::{BoundAddress, EndCause, Exit, ExitStatus, Signal, WorkerError, WorkerState, WorkerStats};
use crate::policy::{ReadyWhen, ShutdownPolicy};

/// The limits of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LifecycleConfig {
    /// What makes it ready.
    pub(crate) ready_when: ReadyWhen,
    /// From birth to ready; `Duration::MAX` for no limit.
    pub(crate) boot: Duration,
    /// How much later than that it may be ready, if it asks for more time.
    pub(crate) more_time: Duration,
    /// From the request to stop to `SIGTERM`, if it does not answer.
    pub(crate) ask: Duration,
    /// How long it may take to end when the master ends it for a fault, after a polite signal, or when it leaves by itself.
    pub(crate) shutdown: ShutdownPolicy,
    /// Has it no slot yet? Then nothing makes it ready before it is told that it has one.
    pub(crate) is_standby: bool,
    /// How long it goes on accepting after it was told to stop; its time to end counts from there.
    pub(crate) lame_duck: Duration,
}

/// A fact about the process.
#[derive(Clone, Debug)]
pub(crate) enum LifeInput {
    /// It said: I run.
    Online,
    /// It listens on one more socket.
    Listening(BoundAddress),
    /// It said: I can serve.
    Ready,
    /// It said: I have booted, and wait for a slot.
    StandsBy,
    /// It is told that it has a slot.
    Activated,
    /// It said: I stop.
    Leaving,
    /// It asks for so much more time.
    MoreTime(Duration),
    /// What it said lay unread for so long, for a reason that is not its own.
    Unread(Duration),
    /// It reported its numbers.
    Stats(WorkerStats),
    /// End-of-file or an error on its channel.
    ChannelClosed,
    /// It sent something that no worker sends.
    ProtocolBroken(String),
    /// It has to stop.
    StopOrdered(ShutdownPolicy),
    /// A plug-in is about to end it, for this.
    Blamed(EndCause),
    /// The kernel's killer for want of memory has taken it, as far as can be told. Comes just before `Exited`.
    OutOfMemory,
    /// A handle wants it signalled.
    KillOrdered(Signal),
    /// It was reaped. The last input that counts; feed it after everything read from the channel.
    Exited(ExitStatus),
}

/// What the machine made of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// It was legal and had its effect.
    Taken,
    /// It was out of order, a repetition, or too late; nothing changed but the count.
    Ignored,
}

/// What to do, or what to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Do this to the process.
    Order(Order),
    /// Tell the cluster's machine.
    Fact(Report),
}

/// Something to do to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Send it the request to stop.
    SendStop,
    /// Signal it; that it is gone already is no error.
    Signal(Signal),
    /// Close the master's end of its channel.
    CloseChannel,
}

/// A fact, with the public view of the worker right after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) fact: Fact,
    pub(crate) state: WorkerState,
    pub(crate) exited_after_disconnect: Option<bool>,
}

/// A fact, in legal order only; `Exited` is the last one and comes exactly once, right after or some time after
/// exactly one `Disconnected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Online,
    Listening(BoundAddress),
    StandsBy,
    Ready,
    Exiting,
    Disconnected,
    Error(WorkerError),
    Exited(Exit),
}
