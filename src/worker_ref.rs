//! One worker, as the handle's users see it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::CommandError;
use crate::handle::ClusterHandle;
use crate::ipc::{self, CallError, SendError, ToWorker};
use crate::master::Link;
use crate::model::{
    Exit, FlightRecord, Generation, Payload, RecycleReason, Signal, Slot, WorkerId, WorkerSnapshot, WorkerState,
};

/// One worker, as the master sees it. Stays valid, and tells the truth, after the worker's death.
#[derive(Clone)]
pub struct WorkerRef {
    pub(crate) link: Arc<Link>,
    handle: ClusterHandle,
}

impl WorkerRef {
    pub(crate) const fn new(link: Arc<Link>, handle: ClusterHandle) -> Self {
        Self { link, handle }
    }

    /// The cluster it belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterHandle {
        self.handle.clone()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.link.id
    }

    /// The place it fills. Of a standby a stand-in, until its promotion: its spec with the index 2³² − 1, which no slot has
    /// ([`Slot::is_standby`]).
    #[must_use]
    pub fn slot(&self) -> &Slot {
        self.link.slot()
    }

    /// Does it stand by, or boot for that? Then [`slot`](Self::slot) is no place.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.slot().is_standby()
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.link.generation
    }

    /// Its process id. After its death the number may belong to a stranger: never signal by it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.link.pid
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.link.view().state
    }

    /// Can it serve?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.link.view().ready
    }

    /// Is its channel open? True from the fork until the `Disconnect` event.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state().is_connected()
    }

    /// Is its process gone?
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().is_dead()
    }

    /// Node's `exitedAfterDisconnect`: unset while it lives and nobody asked, then whether the end was voluntary.
    #[must_use]
    pub fn exited_after_disconnect(&self) -> Option<bool> {
        self.link.view().exited_after_disconnect
    }

    /// How it ended, once it is dead.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        self.link.view().exit.clone()
    }

    /// [`ClusterHandle::flight_record`] of this worker.
    #[must_use]
    pub fn flight_record(&self) -> Option<Arc<FlightRecord>> {
        self.link.flight_record()
    }

    /// Everything the master knows about it.
    #[must_use]
    pub fn snapshot(&self) -> WorkerSnapshot {
        self.link.snapshot()
    }

    /// What it announced about itself; see [`Worker::announce`](crate::Worker::announce).
    #[must_use]
    pub fn announced(&self) -> Option<Payload> {
        self.link.view().announced.clone()
    }

    /// Bytes that wait to be sent to it and are not with the kernel yet: more than 0 for long if it does not read.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.link.outbox.queued_bytes()
    }

    /// Sends a message. Returns at once: the message waits in a bounded queue until the kernel takes it. A message sent
    /// before the worker runs is kept for it.
    ///
    /// # Errors
    /// [`SendError::Full`] if the worker does not read fast enough, [`SendError::Closed`] if its channel is closed,
    /// [`SendError::Unfit`] if the message has no JSON form or is too long.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        self.send_with_fds(message, Vec::new())
    }

    /// [`send`](Self::send) with open descriptors (sockets, files) along; the receiver gets copies of its own, these are
    /// closed here once sent. To keep one, pass a `try_clone`.
    ///
    /// # Errors
    /// As `send`; the error gives the descriptors back.
    pub fn send_with_fds<T: Serialize + ?Sized>(&self, message: &T, fds: Vec<OwnedFd>) -> Result<(), SendError> {
        ipc::send(&self.link.outbox, message, fds)
    }

    /// Asks the worker something and waits for its answer, at most `deadline`.
    ///
    /// # Errors
    /// See [`CallError`]; a worker that dies answers `Gone` at once.
    pub async fn call<A: DeserializeOwned>(
        &self,
        question: &(impl Serialize + ?Sized),
        deadline: Duration,
    ) -> Result<A, CallError> {
        ipc::call::<ToWorker, _>(&self.link.outbox, &self.link.calls, question, deadline).await
    }

    /// [`ClusterHandle::disconnect`] for this worker.
    ///
    /// # Errors
    /// As there.
    pub async fn disconnect(&self) -> Result<(), CommandError> {
        self.handle.disconnect(self.id()).await
    }

    /// [`ClusterHandle::restart`] for this worker.
    ///
    /// # Errors
    /// As there.
    pub async fn restart(&self) -> Result<(), CommandError> {
        self.handle.restart(self.id()).await
    }

    /// [`ClusterHandle::recycle`] for this worker.
    ///
    /// # Errors
    /// As there.
    pub async fn recycle(&self, why: RecycleReason) -> Result<(), CommandError> {
        self.cluster().recycle(self.id(), why).await
    }

    /// [`ClusterHandle::kill`] for this worker.
    ///
    /// # Errors
    /// As there.
    pub async fn kill(&self, signal: Signal) -> Result<(), CommandError> {
        self.handle.kill(self.id(), signal).await
    }

    /// [`ClusterHandle::close_channel`] for this worker.
    ///
    /// # Errors
    /// As there.
    pub async fn close_channel(&self) -> Result<(), CommandError> {
        self.handle.close_channel(self.id()).await
    }
}

impl fmt::Debug for WorkerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.link.view();
        f.debug_struct("WorkerRef")
            .field("id", &self.link.id)
            .field("slot", self.link.slot())
            .field("pid", &self.link.pid)
            .field("state", &view.state)
            .finish_non_exhaustive()
    }
}
