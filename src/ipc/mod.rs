//! The channel between the master and a worker: newline-delimited JSON over a Unix stream, with descriptors.
//!
//! Both sides use the same code: a [`Channel`] moves bytes, a [`Decoder`] turns them into frames, an [`Outbox`] holds what
//! is not sent yet, [`Calls`] pairs answers with questions. Nothing here decides what a frame is *for*.

mod calls;
mod channel;
mod codec;
mod encode;
mod frame;
mod outbox;

pub(crate) use calls::{CallError, CallTicket, Calls};
pub(crate) use channel::{Channel, ChannelError, ReadOutcome};
pub(crate) use codec::{Counters, Decoder, FrameError};
pub(crate) use encode::FRAME_LEN_MAX;
pub(crate) use frame::{BoundListener, FRAME_FDS_MAX, Incoming, PROTOCOL, ToMaster, ToWorker, Wire};
pub(crate) use outbox::{Limits, Outbox, PushError};
