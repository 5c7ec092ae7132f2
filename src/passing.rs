//! The master's side of passing sockets and files to one worker with a message. The other side, with the same words, is
//! in the worker's context; what the receiver does with them is in [`crate::descriptors`].

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;

use crate::handle::WorkerRef;
use crate::ipc::{self, PassError, SendError, ToWorker};
use crate::model::Message;

impl WorkerRef {
    /// [`send`](Self::send) with one socket or file along, which moves: it is closed here once sent. The receiver takes it by
    /// its kind, [`Message::take_tcp_stream`](crate::Message::take_tcp_stream) and the like.
    ///
    /// # Errors
    /// As `send`; [`SendError::into_fds`] gives it back.
    pub fn send_with_socket<T: Serialize + ?Sized>(
        &self,
        message: &T,
        socket: impl Into<OwnedFd>,
    ) -> Result<(), SendError> {
        self.send_with_fds(message, vec![socket.into()])
    }

    /// [`send`](Self::send) with a duplicate of a socket or file along; this one stays open here (Node's `keepOpen`). Both are
    /// the same thing to the kernel: what one side reads, the other does not, and a connection ends with the last of them.
    ///
    /// # Errors
    /// As `send`, and [`SendError::Unfit`] if there is no free descriptor for the duplicate.
    pub fn send_with_copy<T: Serialize + ?Sized>(&self, message: &T, socket: &impl AsFd) -> Result<(), SendError> {
        ipc::send_copy(&self.link.outbox, message, socket.as_fd())
    }

    /// [`call`](Self::call) with open descriptors along, at most 64; the answer may bring some, too. They are the other side's
    /// when it answers, and only then: if it refuses, dies, or does not answer in time, the error gives them back. So
    /// until the answer a passed connection stays open, even if the other side closes it.
    ///
    /// # Errors
    /// [`PassError`], with the descriptors.
    pub async fn call_with_fds(
        &self,
        question: &(impl Serialize + ?Sized),
        fds: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<Message, PassError> {
        ipc::call_with_fds::<ToWorker>(&self.link.outbox, &self.link.calls, question, fds, deadline).await
    }
}
