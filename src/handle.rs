//! The remote control of a running cluster.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use actix_rt::ArbiterHandle;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::error::CommandError;
use crate::ipc::SendError;
use crate::master::{Command, Directory, Link, Subscribers, Urgency};
use crate::model::{
    BoundAddress, ClusterSnapshot, EventFilter, EventKind, FlightRecord, Kind, Lag, Mono, Payload, PayloadError,
    Settings, ShutdownReport, Signal, Slot, WorkerId,
};
use crate::subscription::SubscribeOptions;
use crate::worker_ref::WorkerRef;

/// The remote control of a running cluster: clonable, usable from any thread.
///
/// Reading (`snapshot`, `worker`, `workers`) never waits: it sees a view that the supervisor publishes before it
/// delivers the event that tells of a change. Commands wait for the supervisor, which answers each of them once.
/// Dropping every handle does not stop the cluster.
#[derive(Clone)]
pub struct ClusterHandle {
    pub(crate) shared: Arc<Shared>,
}

/// What all clones of a handle share.
pub(crate) struct Shared {
    /// The supervisor, or what stands in for it in a unit test of a plug-in.
    pub(crate) commands: Recipient<Command>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) subscribers: Arc<Subscribers>,
    /// Where pumps run, and nothing else: not on the thread that supervises, and not where an actor may block.
    pub(crate) pumps: ArbiterHandle,
    /// Whoever holds one of these is given a moment for the last events when the cluster ends. The handle itself does not.
    pub(crate) consumers: mpsc::WeakSender<()>,
}

impl ClusterHandle {
    pub(crate) fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Starts one more worker in a new slot (Node's `cluster.fork(env)`), with `env` laid over the settings'
    /// environment for this slot and all its restarts. The slot's index is the lowest that is free. Answers when the process
    /// exists.
    ///
    /// # Errors
    /// [`CommandError::Spawn`] if it could not be started (the restart rules apply to the slot all the same),
    /// [`CommandError::TooManySlots`], [`CommandError::UnknownSpec`] in a cluster without a spec of the builder's own,
    /// [`CommandError::ShuttingDown`], [`CommandError::Gone`]; [`CommandError::UnknownWorker`] if it was started but has died since,
    /// and 1,024 others after it.
    pub async fn fork<K, V>(&self, env: impl IntoIterator<Item = (K, V)>) -> Result<WorkerRef, CommandError>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env = env.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let id = self.ask(|reply| Command::Fork { env, reply }).await??;
        // It may be dead already.
        self.worker_dead_or_alive(id).ok_or(CommandError::UnknownWorker(id))
    }

    /// Changes the settings for the *next* workers (Node's cumulative `setupPrimary`): what `change` leaves alone stays
    /// as it was. Running workers are not touched. Publishes `Setup`; answers with what is in force now.
    ///
    /// # Errors
    /// [`CommandError::Gone`].
    ///
    /// # Panics
    /// If `change` does; then nothing has changed.
    pub async fn setup(&self, change: impl FnOnce(&mut Settings) + Send + 'static) -> Result<Settings, CommandError> {
        let changed = self.ask(|reply| Command::Setup {
            change: Box::new(change),
            reply,
        });
        // Supervision has survived a panic of `change`; its author is to see it.
        Ok(changed.await?.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Stops one worker for good (Node's `worker.disconnect()`): it stops accepting, drains, closes its channel and
    /// ends, or is killed after its grace period. Its slot is not filled again. Answers when the order is given; asking
    /// twice is the same as asking once.
    ///
    /// # Errors
    /// [`CommandError::UnknownWorker`] if it has exited, [`CommandError::Gone`].
    pub async fn disconnect(&self, worker: WorkerId) -> Result<(), CommandError> {
        self.ask(|reply| Command::Disconnect { worker, reply }).await?
    }

    /// Stops one worker in order and fills its slot again; counts as no failure. Answers when the order is given.
    ///
    /// # Errors
    /// [`CommandError::UnknownWorker`] if it has exited, [`CommandError::Gone`].
    pub async fn restart(&self, worker: WorkerId) -> Result<(), CommandError> {
        self.ask(|reply| Command::Restart { worker, reply }).await?
    }

    /// Stops every worker for good (Node's `cluster.disconnect`) and waits until the last one is gone.
    ///
    /// # Errors
    /// [`CommandError::Gone`] if the cluster had ended before.
    pub async fn disconnect_all(&self) -> Result<(), CommandError> {
        self.ask(|reply| Command::DisconnectAll { reply }).await
    }

    /// Sends a signal to one worker (Node's `worker.kill`). A signal that asks politely (`TERM`, `INT`, `QUIT`, `HUP`)
    /// is followed by `SIGKILL` after the grace period. The end counts as unasked: restart rules apply. A worker that
    /// has exited is no error.
    ///
    /// # Errors
    /// [`CommandError::Signal`] if the kernel refuses (a worker under another user), [`CommandError::Gone`].
    pub async fn kill(&self, worker: WorkerId, signal: Signal) -> Result<(), CommandError> {
        self.ask(|reply| Command::Kill {
            worker,
            signal,
            cause: None,
            reply,
        })
        .await?
    }

    /// Closes a worker's channel without a word: the worker takes that for the master's death and ends.
    ///
    /// # Errors
    /// [`CommandError::UnknownWorker`] if it has exited, [`CommandError::Gone`].
    pub async fn close_channel(&self, worker: WorkerId) -> Result<(), CommandError> {
        self.ask(|reply| Command::CloseChannel { worker, reply }).await?
    }

    /// Starts a slot that has failed or was stopped; its restart budget begins anew.
    ///
    /// # Errors
    /// [`CommandError::UnknownSlot`], [`CommandError::AlreadyRunning`], [`CommandError::ShuttingDown`],
    /// [`CommandError::Gone`].
    pub async fn start_slot(&self, slot: Slot) -> Result<(), CommandError> {
        self.ask(|reply| Command::StartSlot { slot, reply }).await?
    }

    /// Stops the cluster in order and waits until every process is gone: workers stop accepting, finish the requests in
    /// progress and end; who takes longer than its grace period is killed. The report says how each one ended. A
    /// second call waits for the same end.
    ///
    /// # Errors
    /// [`CommandError::Gone`] if the cluster had ended before.
    pub async fn shutdown(&self) -> Result<ShutdownReport, CommandError> {
        self.ask(|reply| Command::Shutdown {
            urgency: Urgency::Graceful,
            reply: Some(reply),
        })
        .await
    }

    /// Kills every worker at once and waits until all are gone.
    ///
    /// # Errors
    /// [`CommandError::Gone`] if the cluster had ended before.
    pub async fn shutdown_now(&self) -> Result<ShutdownReport, CommandError> {
        self.ask(|reply| Command::Shutdown {
            urgency: Urgency::Immediate(None),
            reply: Some(reply),
        })
        .await
    }

    /// The whole cluster at this instant.
    #[must_use]
    pub fn snapshot(&self) -> ClusterSnapshot {
        self.shared.directory.snapshot()
    }

    /// How late the supervising loop is: zero if it comes round in time. `None` where heartbeats are off
    /// ([`ClusterBuilder::heartbeat`](crate::ClusterBuilder::heartbeat)).
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        let lag = self.shared.directory.read().lag;
        lag.map(|lag| lag.at(crate::clock::now()))
    }

    /// The present instant, and how punctual the supervising loop is, as in a snapshot; `None` where heartbeats are off. For whoever
    /// judges one worker, and needs no snapshot of all.
    #[must_use]
    pub fn punctuality(&self) -> Option<(Mono, Lag)> {
        let lag = self.shared.directory.read().lag;
        lag.map(|lag| (crate::clock::now(), lag))
    }

    /// Where a declared listener is bound: with port 0, here is the real one.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<BoundAddress> {
        self.shared.directory.read().listeners.get(listener).cloned()
    }

    /// Duplicates of listening sockets that somebody may keep while this program is restarted, by name: of declared
    /// listeners that all workers share ([`Scheduling::Shared`](crate::Scheduling::Shared), or handed over). Not of Unix paths
    /// that the cluster has bound, which it removes when it ends.
    ///
    /// As long as somebody holds such a duplicate, clients are queued, whether this program runs or not. Its successor takes
    /// it back with [`listen_activated`](crate::ClusterBuilder::listen_activated).
    ///
    /// # Errors
    /// [`CommandError::Listener`] when there is no free descriptor, [`CommandError::Gone`].
    pub async fn listener_sockets(&self) -> Result<Vec<(String, OwnedFd)>, CommandError> {
        let sockets = self.ask(|reply| Command::Sockets { reply }).await?;
        sockets.map_err(CommandError::Listener)
    }

    /// One worker, unless it is dead.
    #[must_use]
    pub fn worker(&self, id: WorkerId) -> Option<WorkerRef> {
        self.shared.directory.worker(id).map(|link| self.refer(link))
    }

    /// One worker, also one of the last 1,024 that died: what its last events tell is handled after its death, and its
    /// last numbers are asked for then.
    #[must_use]
    pub fn worker_dead_or_alive(&self, id: WorkerId) -> Option<WorkerRef> {
        self.shared.directory.dead_or_alive(id).map(|link| self.refer(link))
    }

    /// Every worker that is not dead, by id (Node's `cluster.workers`).
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerRef> {
        self.shared
            .directory
            .workers()
            .into_iter()
            .map(|link| self.refer(link))
            .collect()
    }

    /// What a worker's flight recorder holds at this moment, whatever the worker does: also of one that hangs. Of a dead worker,
    /// one of the last 64, what it held at the end. `None` without a recorder
    /// ([`ClusterBuilder::flight_recorder`](crate::ClusterBuilder::flight_recorder)), of a program that writes none, and of a worker
    /// that nobody remembers. Reads the worker's memory once, which takes some microseconds.
    #[must_use]
    pub fn flight_record(&self, worker: WorkerId) -> Option<Arc<FlightRecord>> {
        self.shared.directory.dead_or_alive(worker)?.flight_record()
    }

    /// Sends a message to every connected worker. One that cannot take it does not keep it from the others.
    ///
    /// # Errors
    /// [`PayloadError`] if the message has no JSON form; then nobody gets it.
    pub fn broadcast<T: Serialize + ?Sized>(&self, message: &T) -> Result<Broadcast, PayloadError> {
        let payload = Payload::from_value(message)?;
        let mut result = Broadcast::default();
        for worker in self.workers() {
            match worker.send(&payload) {
                Ok(()) => result.sent += 1,
                Err(error) => result.failed.push((worker.id(), error)),
            }
        }
        Ok(result)
    }

    /// Waits until every wanted slot holds a ready worker; at once if that is so. A slot that has failed is wanted
    /// still, and a cluster without slots is never ready, so put a limit around this.
    ///
    /// # Errors
    /// [`CommandError::Gone`] if the cluster ends before that.
    pub async fn all_ready(&self) -> Result<(), CommandError> {
        let only = EventFilter::kinds(Kind::AllReady);
        let mut events = self.events_with(&SubscribeOptions::new().filter(only));
        let now = self.snapshot();
        // Slots, not workers: during a reload one may have two that are ready.
        if now.target > 0 && now.counts.ready >= now.target {
            return Ok(());
        }
        let ready = events
            .next_where(|event| matches!(event.kind, EventKind::AllReady { .. }))
            .await;
        ready.map(|_| ()).ok_or(CommandError::Gone)
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    fn refer(&self, link: Arc<Link>) -> WorkerRef {
        WorkerRef::new(link, self.clone())
    }

    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.shared
            .commands
            .send(command(reply))
            .await
            .map_err(|_| CommandError::Gone)?;
        answer.await.map_err(|_| CommandError::Gone)
    }
}

impl fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterHandle").finish_non_exhaustive()
    }
}

/// What became of a broadcast.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// Workers whose channel took the message.
    pub sent: usize,
    /// Workers whose channel did not, and why.
    pub failed: Vec<(WorkerId, SendError)>,
}
