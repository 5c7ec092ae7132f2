//! The channel between the master and a worker: newline-delimited JSON over a Unix stream, with descriptors.
//!
//! Both sides use the same code: a [`Channel`] moves bytes, a [`Decoder`] turns them into frames, an [`Outbox`] holds what
//! is not sent yet, [`Calls`] pairs answers with questions. Nothing here decides what a frame is *for*.

mod activation;
mod beat;
mod calls;
mod channel;
mod codec;
#[cfg(test)]
mod counted_tests;
mod encode;
mod frame;
#[cfg(test)]
mod heartbeat_tests;
mod outbox;
mod talk;

pub(crate) use activation::Activation;
pub(crate) use calls::Calls;
pub(crate) use channel::{Channel, ChannelError, ReadOutcome};
pub(crate) use codec::{Counters, Decoder};
pub(crate) use frame::{ANNOUNCEMENT_MAX, BoundListener, Incoming, PROTOCOL, ToMaster, ToWorker};
pub(crate) use outbox::{Limits, Outbox};
pub use talk::{CallError, PassError, SendError};
pub(crate) use talk::{CallReply, announce, call, call_with_fds, send, send_copy, share_secret};
