//! What the actors of the master say to each other, and the model's types as actix messages.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use actix::Message as ActixMessage;

use crate::ipc::{Activation, Incoming, ToMaster};
use crate::master::{Command, Link};
use crate::model::{
    ClusterEvent, EndCause, EventKind, Heartbeat, ListenKey, ListenOptions, Message, OutputStream, Payload, Secret,
    Signal, WorkerId, WorkerStats,
};
use crate::policy::ShutdownPolicy;
use crate::process::Reaped;
pub(crate) use crate::supervision::Report as News;

impl ActixMessage for ClusterEvent {
    type Result = ();
}

impl ActixMessage for Command {
    type Result = ();
}

/// Frames of one worker, in order. To its `WorkerActor`.
pub(crate) struct Frames(pub(crate) Vec<Incoming<ToMaster>>);

impl ActixMessage for Frames {
    type Result = ();
}

/// Something happened to a worker's process or channel. To its `WorkerActor`.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The channel ended: by end-of-file, or because of a broken rule.
    ChannelClosed,
    /// A frame broke the protocol.
    ProtocolBroken(String),
    /// The process is gone and reaped; `true` if it was the kernel that killed it for want of memory.
    Died(Reaped, bool),
    /// A line on a piped stream.
    Line(OutputStream, String),
    /// So many lines, with so many bytes, were not passed on.
    LinesDropped(OutputStream, u64, u64),
}

impl ActixMessage for Happening {
    type Result = ();
}

/// What the supervisor wants done with a worker. To its `WorkerActor`.
#[derive(Debug)]
pub(crate) enum WorkerOrder {
    /// Give it the slot that it was promoted to.
    Activate(Activation, Vec<OwnedFd>),
    /// End it in order.
    Stop(ShutdownPolicy),
    /// Send it a signal for the user, and remember for what, if it is meant to end it.
    Kill(Signal, Option<EndCause>),
    /// Close its channel.
    CloseChannel,
}

impl ActixMessage for WorkerOrder {
    type Result = Result<(), nix::errno::Errno>;
}

/// What a worker did, in order. From a `WorkerActor` to the supervisor.
#[derive(Debug)]
pub(crate) struct Reports {
    pub(crate) worker: WorkerId,
    pub(crate) reports: Vec<Report>,
}

impl ActixMessage for Reports {
    type Result = ();
}

/// What the dispatcher of connections has to tell of a worker. To the supervisor.
#[derive(Debug)]
pub(crate) struct Dispatched {
    pub(crate) worker: Arc<Link>,
    pub(crate) kind: EventKind,
}

impl ActixMessage for Dispatched {
    type Result = ();
}

/// One thing a worker did.
#[derive(Debug)]
pub(crate) enum Report {
    /// A step of its life.
    Fact(News),
    /// It said something: messages in a row, which are published in one go.
    Said(Vec<Message>),
    /// A line on a piped stream.
    Line(OutputStream, String),
    /// So many lines, with so many bytes, were not passed on.
    LinesDropped(OutputStream, u64, u64),
    /// It gave a sign of life; `tell`: this one is worth an event.
    Beat { heartbeat: Heartbeat, tell: bool },
    /// It will be silent for so long.
    MoreTime(Duration),
    /// What it announces about itself.
    Announced(Payload),
    /// Its counters.
    Stats(WorkerStats),
    /// Its future failed, in its own words.
    Failed(String),
    /// It wants a listener.
    WantsListener(Wish),
    /// It asks for what the workers of a listener share, and offers something.
    OffersSecret {
        request: u64,
        key: ListenKey,
        offered: Secret,
    },
    /// It accepts on a listener.
    Accepts { key: ListenKey, adopts: bool },
    /// It gave a listener back.
    GaveBack(ListenKey),
}

/// A listener that a worker asks for at run time.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The number of the request, for the answer.
    pub(crate) request: u64,
    pub(crate) key: ListenKey,
    /// Where the worker stands, for relative paths.
    pub(crate) cwd: Option<std::path::PathBuf>,
    pub(crate) options: ListenOptions,
}
