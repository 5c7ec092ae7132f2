//! What users do with a channel: send a message, ask a question, answer one. The same on both sides.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::calls::{Calls, NoAnswer};
use super::frame::{ANNOUNCEMENT_MAX, ToMaster, Wire};
use super::outbox::{Outbox, PushError};
use crate::model::{ListenKey, Message, Payload, PayloadError, ReplyError, ReplySink, Secret};

/// A message could not be put on its way. The message is still the caller's; descriptors come back here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side does not read fast enough: wait, or drop the message.
    #[error("the channel is full: the other side does not read fast enough")]
    Full(Vec<OwnedFd>),
    /// The channel is closed.
    #[error("the channel is closed")]
    Closed(Vec<OwnedFd>),
    /// The message has no JSON form, or is longer than 1 MiB, or carries more than 64 descriptors.
    #[error("the message cannot be sent: {reason}")]
    Unfit {
        /// Why.
        reason: String,
        /// The descriptors.
        fds: Vec<OwnedFd>,
    },
}

impl SendError {
    /// The descriptors that were to go along.
    #[must_use]
    pub fn into_fds(self) -> Vec<OwnedFd> {
        match self {
            Self::Full(fds) | Self::Closed(fds) | Self::Unfit { fds, .. } => fds,
        }
    }

    /// The same, as an error that has no descriptors to give back, and those apart from it.
    fn split(self) -> (Self, Vec<OwnedFd>) {
        match self {
            Self::Full(fds) => (Self::Full(Vec::new()), fds),
            Self::Closed(fds) => (Self::Closed(Vec::new()), fds),
            Self::Unfit { reason, fds } => (
                Self::Unfit {
                    reason,
                    fds: Vec::new(),
                },
                fds,
            ),
        }
    }

    /// Would a later attempt make sense?
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// Is the channel closed?
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

/// A call got no answer that could be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The question could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The other side ended before it answered.
    #[error("the other side is gone")]
    Gone,
    /// No answer within the deadline. A late one is dropped.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The other side answered with an error, or dropped the call without an answer.
    #[error("refused: {0}")]
    Refused(String),
    /// The answer does not have the form asked for.
    #[error(transparent)]
    Answer(#[from] PayloadError),
    /// Too many calls wait for an answer already.
    #[error("too many calls are open")]
    TooMany,
}

/// A call with descriptors got no answer that could be used. They were not given away: here they are, open as before.
///
/// The other side may hold copies nevertheless: if it was killed or is late, it may have begun to use them.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct PassError {
    /// What went wrong.
    #[source]
    pub error: CallError,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
}

/// Sends a message and a duplicate of `fd`.
pub(crate) fn send_copy<T: Serialize + ?Sized>(
    outbox: &Outbox,
    message: &T,
    fd: BorrowedFd<'_>,
) -> Result<(), SendError> {
    send(outbox, message, vec![duplicate(fd)?])
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, SendError> {
    fd.try_clone_to_owned().map_err(|error| SendError::Unfit {
        reason: format!("a descriptor cannot be duplicated: {error}; is RLIMIT_NOFILE reached?"),
        fds: Vec::new(),
    })
}

/// Sends a message.
pub(crate) fn send<T: Serialize + ?Sized>(outbox: &Outbox, message: &T, fds: Vec<OwnedFd>) -> Result<(), SendError> {
    outbox.push_message(message, fds).map_err(refused)
}

/// Says something about this worker that the master keeps.
pub(crate) fn announce<T: Serialize + ?Sized>(outbox: &Outbox, value: &T) -> Result<(), SendError> {
    let unfit = |reason: String| SendError::Unfit {
        reason,
        fds: Vec::new(),
    };
    let payload = Payload::from_value(value).map_err(|error| unfit(error.to_string()))?;
    if payload.as_str().len() > ANNOUNCEMENT_MAX {
        return Err(unfit(format!("an announcement has at most {ANNOUNCEMENT_MAX} bytes")));
    }
    outbox.push(&ToMaster::Announce(payload), Vec::new()).map_err(refused)
}

/// Asks a question and waits for its answer.
pub(crate) async fn call<W: Wire, A: DeserializeOwned>(
    outbox: &Outbox,
    calls: &Calls,
    question: &(impl Serialize + ?Sized),
    deadline: Duration,
) -> Result<A, CallError> {
    let payload = Payload::from_value(question)?;
    let question = |id| W::call(id, payload);
    Ok(ask(outbox, calls, question, Vec::new(), deadline).await?.parse()?)
}

/// Offers what the workers of a listener are to share, and waits for what they do share.
pub(crate) async fn share_secret(
    outbox: &Outbox,
    calls: &Calls,
    key: ListenKey,
    offered: Secret,
    deadline: Duration,
) -> Result<Vec<u8>, CallError> {
    let frame = |id| ToMaster::Secret { id, key, offered };
    Ok(ask(outbox, calls, frame, Vec::new(), deadline).await?.parse()?)
}

/// Asks a question with descriptors along and waits for its answer, which may bring some, too.
///
/// What travels are duplicates; the caller's own are closed when the answer is there and it is no refusal.
pub(crate) async fn call_with_fds<W: Wire>(
    outbox: &Outbox,
    calls: &Calls,
    question: &(impl Serialize + ?Sized),
    fds: Vec<OwnedFd>,
    deadline: Duration,
) -> Result<Message, PassError> {
    let payload = match Payload::from_value(question) {
        Ok(payload) => payload,
        Err(error) => {
            let error = CallError::Answer(error);
            return Err(PassError { error, fds });
        }
    };
    let copies: Result<Vec<OwnedFd>, SendError> = fds.iter().map(|fd| duplicate(fd.as_fd())).collect();
    let asked = match copies {
        Ok(copies) => ask(outbox, calls, |id| W::call(id, payload), copies, deadline).await,
        Err(error) => Err(error.into()),
    };
    asked.map_err(|error| match error {
        // Of what comes back with it we hold the originals.
        CallError::Send(error) => PassError {
            error: error.split().0.into(),
            fds,
        },
        error @ (CallError::Gone
        | CallError::TimedOut(_)
        | CallError::Refused(_)
        | CallError::Answer(_)
        | CallError::TooMany) => PassError { error, fds },
    })
}

async fn ask<W: Wire>(
    outbox: &Outbox,
    calls: &Calls,
    question: impl FnOnce(u64) -> W,
    fds: Vec<OwnedFd>,
    deadline: Duration,
) -> Result<Message, CallError> {
    let failed = |error| match error {
        NoAnswer::Gone | NoAnswer::Closed => CallError::Gone,
        NoAnswer::TimedOut => CallError::TimedOut(deadline),
        NoAnswer::Refused(why) => CallError::Refused(why),
        NoAnswer::Full => CallError::TooMany,
    };
    let (id, ticket) = calls.open().map_err(failed)?;
    outbox.push(&question(id), fds).map_err(refused)?;
    ticket.wait(deadline).await.map_err(failed)
}

fn refused(error: PushError) -> SendError {
    match error {
        PushError::Full(fds) => SendError::Full(fds),
        PushError::Closed(fds) => SendError::Closed(fds),
        PushError::Payload(why, fds) => SendError::Unfit {
            reason: why.to_string(),
            fds,
        },
        PushError::TooLarge(why, fds) => SendError::Unfit {
            reason: why.to_string(),
            fds,
        },
    }
}

/// Where the answer to a call goes: one channel, one call. Dropped unused, it tells the caller that nobody answered.
pub(crate) struct CallReply<W: Wire> {
    outbox: Outbox,
    id: u64,
    is_answered: bool,
    direction: PhantomData<fn() -> W>,
}

impl<W: Wire> CallReply<W> {
    pub(crate) const fn new(outbox: Outbox, id: u64) -> Self {
        Self {
            outbox,
            id,
            is_answered: false,
            direction: PhantomData,
        }
    }

    fn send(&mut self, answer: Result<Payload, String>, fds: Vec<OwnedFd>) -> Result<(), ReplyError> {
        self.is_answered = true;
        let pushed = self.outbox.push(&W::reply(self.id, answer), fds);
        pushed.map_err(|error| {
            // A caller whose channel is full or closed gets no answer: its deadline or its end tells it.
            tracing::debug!(err = %error, "answer to a call not sent");
            let reason = error.to_string();
            let fds = refused(error).into_fds();
            ReplyError { reason, fds }
        })
    }
}

impl<W: Wire> ReplySink for CallReply<W> {
    fn answer(mut self: Box<Self>, answer: Result<Payload, String>, fds: Vec<OwnedFd>) -> Result<(), ReplyError> {
        self.send(answer, fds)
    }
}

impl<W: Wire> Drop for CallReply<W> {
    fn drop(&mut self) {
        if !self.is_answered {
            // Nothing is lost with it.
            self.send(Err("nobody answered".to_owned()), Vec::new()).ok();
        }
    }
}
