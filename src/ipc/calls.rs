//! Open calls: which caller waits for which answer. One table for each channel.
//!
//! Because a table belongs to one channel and ids are never reused in it, a late answer of a process that is gone cannot
//! complete a call to its successor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::Message;

/// A call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The other side ended, or its channel closed, before it answered. It may or may not have done what was asked.
    #[error("the other side is gone; it may or may not have done what was asked")]
    Gone,
    /// No answer within the deadline. An answer that comes later is ignored.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The other side answered with an error, or dropped the call without an answer.
    #[error("the call was refused: {0}")]
    Refused(String),
    /// Too many calls wait for an answer, or too many bytes to be sent; nothing was sent. Try again later.
    #[error("too much waits for the other side; try again later")]
    Full,
    /// The channel was closed already; nothing was sent.
    #[error("the channel is closed")]
    Closed,
}

/// The open calls of one channel. Clones share the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    open: Mutex<Open>,
    strays: AtomicU64,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    is_closed: bool,
    waiters: HashMap<u64, oneshot::Sender<Answer>>,
}

type Answer = Result<Message, String>;

impl Calls {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Opens a call: the id to send, and what to wait on.
    ///
    /// # Errors
    /// `Full` with [`OPEN_MAX`] open calls, `Closed` after [`fail_all`](Self::fail_all).
    pub(crate) fn open(&self) -> Result<(u64, CallTicket), NoAnswer> {
        let mut open = self.lock();
        if open.is_closed {
            return Err(NoAnswer::Closed);
        }
        if open.waiters.len() >= OPEN_MAX {
            return Err(NoAnswer::Full);
        }
        let (sender, answer) = oneshot::channel();
        open.last_id += 1;
        let id = open.last_id;
        open.waiters.insert(id, sender);
        let calls = self.clone();
        Ok((id, CallTicket { id, calls, answer }))
    }

    /// Hands the answer to its caller; `false`, and counted, if nobody waits for it (any more).
    pub(crate) fn complete(&self, id: u64, answer: Answer) -> bool {
        let waiter = self.lock().waiters.remove(&id);
        let is_taken = waiter.is_some_and(|waiter| waiter.send(answer).is_ok());
        if !is_taken {
            self.0.strays.fetch_add(1, Relaxed);
        }
        is_taken
    }

    /// The channel is gone: every caller gets [`NoAnswer::Gone`], and nothing can be opened any more.
    pub(crate) fn fail_all(&self) {
        let waiters = {
            let mut open = self.lock();
            open.is_closed = true;
            std::mem::take(&mut open.waiters)
        };
        drop(waiters);
    }

    /// Calls that wait for an answer.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().waiters.len()
    }

    /// Answers that nobody waited for.
    #[cfg(test)]
    pub(crate) fn strays(&self) -> u64 {
        self.0.strays.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller's side of an open call. Dropping it gives the call up.
#[derive(Debug)]
pub(crate) struct CallTicket {
    id: u64,
    calls: Calls,
    answer: oneshot::Receiver<Answer>,
}

impl CallTicket {
    /// Waits for the answer, for at most `limit`.
    ///
    /// # Errors
    /// `Refused`, `TimedOut` or `Gone`.
    pub(crate) async fn wait(mut self, limit: Duration) -> Result<Message, NoAnswer> {
        match tokio::time::timeout(limit, &mut self.answer).await {
            Ok(Ok(answer)) => answer.map_err(NoAnswer::Refused),
            Ok(Err(_)) => Err(NoAnswer::Gone),
            Err(_) => Err(NoAnswer::TimedOut),
        }
    }
}

impl Drop for CallTicket {
    fn drop(&mut self) {
        let waiter = self.calls.lock().waiters.remove(&self.id);
        drop(waiter);
    }
}

/// Calls that may be open on one channel.
const OPEN_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Payload;

    const LONG: Duration = Duration::from_secs(10);

    fn payload(text: &str) -> Message {
        Message::new(Payload::from_value(text).unwrap(), None, Vec::new())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn f_075_strange_answers_are_ignored_and_counted() {
        let calls = Calls::new();
        let (id, ticket) = calls.open().unwrap();
        assert!(!calls.complete(id + 1, Ok(payload("unknown"))));
        assert!(calls.complete(id, Ok(payload("first"))));
        assert!(!calls.complete(id, Ok(payload("twice"))));
        assert_eq!(ticket.wait(LONG).await.unwrap().payload(), payload("first").payload());

        let (id, ticket) = calls.open().unwrap();
        let error = ticket.wait(Duration::ZERO).await.unwrap_err();
        assert!(matches!(error, NoAnswer::TimedOut));
        assert!(!calls.complete(id, Ok(payload("late"))));
        assert_eq!((calls.strays(), calls.len()), (3, 0));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn f_076_an_answer_of_a_dead_process_cannot_reach_its_successor() {
        let (old, new) = (Calls::new(), Calls::new());
        let (old_id, old_ticket) = old.open().unwrap();
        let (new_id, new_ticket) = new.open().unwrap();
        old.fail_all();
        assert!(matches!(old_ticket.wait(LONG).await, Err(NoAnswer::Gone)));
        assert!(!old.complete(old_id, Ok(payload("from the grave"))));
        assert!(new.complete(new_id, Err("no".into())));
        assert!(matches!(new_ticket.wait(LONG).await, Err(NoAnswer::Refused(why)) if why == "no"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn f_011_every_open_call_fails_at_once_and_none_is_opened_after() {
        let calls = Calls::new();
        let tickets: Vec<_> = (0..100).map(|_| calls.open().unwrap().1).collect();
        calls.fail_all();
        for ticket in tickets {
            assert!(matches!(ticket.wait(LONG).await, Err(NoAnswer::Gone)));
        }
        assert!(matches!(calls.open(), Err(NoAnswer::Closed)));
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn calls_are_bounded_and_a_dropped_ticket_makes_room() {
        let calls = Calls::new();
        let mut tickets: Vec<_> = (0..OPEN_MAX).map(|_| calls.open().unwrap()).collect();
        assert!(matches!(calls.open(), Err(NoAnswer::Full)));
        let (old, _) = tickets.pop().unwrap();
        let (new, _ticket) = calls.open().unwrap();
        assert!(new > old, "ids are not reused");
        drop(tickets);
        assert_eq!(calls.len(), 1);
    }
}
