//! The master's side of passing sockets and files to one worker with a message. The worker's side is in its context, and
//! says what both mean; what the receiver does with them is in [`crate::descriptors`].

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;

use crate::ipc::{self, PassError, SendError, ToWorker};
use crate::model::Message;
use crate::worker_ref::WorkerRef;

impl WorkerRef {
    /// [`Worker::send_with_socket`](crate::Worker::send_with_socket), to the worker.
    ///
    /// # Errors
    /// As there.
    pub fn send_with_socket<T: Serialize + ?Sized>(
        &self,
        message: &T,
        socket: impl Into<OwnedFd>,
    ) -> Result<(), SendError> {
        self.send_with_fds(message, vec![socket.into()])
    }

    /// [`Worker::send_with_copy`](crate::Worker::send_with_copy), to the worker.
    ///
    /// # Errors
    /// As there.
    pub fn send_with_copy<T: Serialize + ?Sized>(&self, message: &T, socket: &impl AsFd) -> Result<(), SendError> {
        ipc::send_copy(&self.link.outbox, message, socket.as_fd())
    }

    /// [`Worker::call_with_fds`](crate::Worker::call_with_fds), of the worker.
    ///
    /// # Errors
    /// As there.
    pub async fn call_with_fds(
        &self,
        question: &(impl Serialize + ?Sized),
        fds: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<Message, PassError> {
        ipc::call_with_fds::<ToWorker>(&self.link.outbox, &self.link.calls, question, fds, deadline).await
    }
}
