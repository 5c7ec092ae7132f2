//! `Worker`: what user code in a worker process has in its hands.

use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::guard;
use crate::ipc::{self, CallError, Calls, Channel, Outbox, PassError, SendError, ToMaster};
use crate::model::{BoundAddress, FlightPhase, Generation, ListenKey, Message, Slot, WorkerId, exit_code};
use crate::process::{Contract, Readiness};
use crate::recorder::Recorder;
use crate::worker::counters::Counters;
use crate::worker::flight;
use crate::worker::handover::Handover;
use crate::worker::heartbeat::Loops;
use crate::worker::listeners::Listeners;
use crate::worker::parting::Parting;
use crate::worker::serve::conn::Connections;
use crate::worker::shutdown::Shutdown;
use crate::worker::standby::Gate;

/// This worker process: its identity, its channel to the master, its listeners and its end.
///
/// Clones are the same worker. Can be used from any thread; serving needs the worker's main thread.
#[derive(Clone)]
pub struct Worker {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) contract: &'static Contract,
    pub(crate) channel: Arc<Channel>,
    pub(crate) outbox: Outbox,
    pub(crate) calls: Calls,
    pub(crate) shutdown: Shutdown,
    /// What holds it back until it has a slot.
    pub(crate) gate: Gate,
    pub(crate) counters: Counters,
    pub(crate) listeners: Listeners,
    pub(crate) parting: Parting,
    /// Where connections come from the master; `None` in a cluster within, and under an older master.
    pub(crate) handover: Option<Arc<Handover>>,
    /// The loops whose turning is told with each heartbeat.
    pub(crate) loops: Loops,
    pub(crate) recorder: Option<Recorder<'static>>,
    /// Accepted connections that the end of the worker waits for.
    pub(crate) connections: Connections,
    inbox: Mutex<Option<mpsc::Receiver<Message>>>,
    cleanup: Mutex<Vec<Cleanup>>,
    leaving: AtomicBool,
    connected: AtomicBool,
    /// It has done or said what makes it ready by the master's rule.
    pub(crate) ready: AtomicBool,
}

type Cleanup = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Worker {
    pub(crate) fn new(
        contract: &'static Contract,
        channel: Arc<Channel>,
        listeners: Listeners,
        inbox: mpsc::Receiver<Message>,
    ) -> Self {
        let inner = Inner {
            contract,
            channel,
            outbox: Outbox::default(),
            calls: Calls::new(),
            shutdown: Shutdown::new(),
            gate: Gate::new(contract),
            counters: Counters::default(),
            listeners,
            parting: Parting::default(),
            handover: Handover::take_up(contract),
            loops: Loops::default(),
            recorder: flight::take_up(contract),
            connections: Connections::default(),
            inbox: Mutex::new(Some(inbox)),
            cleanup: Mutex::new(Vec::new()),
            leaving: AtomicBool::new(false),
            connected: AtomicBool::new(true),
            ready: AtomicBool::new(contract.ready == Readiness::Online && contract.standby.is_none()),
        };
        let worker = Self { inner: Arc::new(inner) };
        if worker.is_ready() {
            worker.enter(FlightPhase::Running);
        }
        worker
    }

    /// Its id, unique for the life of the cluster.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.inner.contract.id
    }

    /// The place it fills. Of a standby a stand-in, until its promotion: its spec with the index 2³² − 1, which no slot has
    /// ([`is_standby`](Self::is_standby)).
    #[must_use]
    pub fn slot(&self) -> &Slot {
        self.inner.gate.slot().unwrap_or(&self.inner.contract.slot)
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.inner.contract.generation
    }

    /// Restarts of its slot before it.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.inner.gate.restarts().unwrap_or(self.inner.contract.restarts)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Is the channel to the master open?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.connected.load(Ordering::Acquire)
    }

    /// Sends a message to the master, where it becomes a `Message` event. Returns at once: the message waits in a
    /// bounded queue until the kernel takes it, also when the process ends by itself right after.
    ///
    /// # Errors
    /// [`SendError::Full`] if the master does not read fast enough, [`SendError::Closed`] if the channel is closed,
    /// [`SendError::Unfit`] if the message has no JSON form or is too long.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        self.send_with_fds(message, Vec::new())
    }

    /// [`send`](Self::send) with open descriptors (sockets, files) along; the master gets copies of its own, these are
    /// closed here once sent. To keep one, pass a `try_clone`.
    ///
    /// # Errors
    /// As `send`; the error gives the descriptors back.
    pub fn send_with_fds<T: Serialize + ?Sized>(&self, message: &T, fds: Vec<OwnedFd>) -> Result<(), SendError> {
        ipc::send(&self.inner.outbox, message, fds)
    }

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
        ipc::send_copy(&self.inner.outbox, message, socket.as_fd())
    }

    /// Asks the master something and waits for its answer, at most `deadline`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<A: DeserializeOwned>(
        &self,
        question: &(impl Serialize + ?Sized),
        deadline: Duration,
    ) -> Result<A, CallError> {
        ipc::call::<ToMaster, _>(&self.inner.outbox, &self.inner.calls, question, deadline).await
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
        ipc::call_with_fds::<ToMaster>(&self.inner.outbox, &self.inner.calls, question, fds, deadline).await
    }

    /// The master's messages. They are kept from the process's start on, so none is missed by asking late; at most 1,024
    /// wait here, and then in the channel. The first call gets them, later ones `None`.
    #[must_use]
    pub fn messages(&self) -> Option<Messages> {
        lock(&self.inner.inbox).take().map(|inbox| Messages { inbox })
    }

    /// Calls `handler` with every message of the master, on the worker's main thread. A second handler is not possible:
    /// false means that the messages have an owner already. A panic in it loses that message only, unless the cluster
    /// was built to end workers on panic.
    pub fn on_message(&self, mut handler: impl FnMut(Message) + 'static) -> bool {
        let Some(mut messages) = self.messages() else {
            return false;
        };
        actix_rt::spawn(async move {
            while let Some(message) = messages.next().await {
                guard::call("on_message", || handler(message));
            }
        });
        true
    }

    /// Tells the master that this worker can serve. Listening says so too, unless the cluster was built to wait for this
    /// call ([`ReadyWhen::Called`](crate::ReadyWhen)). A second call has no effect.
    /// In a standby it says that the worker could take a slot, and is told on with the promotion.
    pub fn ready(&self) {
        if self.holds_ready() {
            return;
        }
        self.becomes_ready();
        self.tell(&ToMaster::Ready);
    }

    /// Should new clients be sent to this worker? From when it is ready by the cluster's rule until it is told to stop, its
    /// [`lame_duck`](crate::ClusterBuilder::lame_duck) time excluded: what a load balancer's health check wants to know.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire) && !self.inner.shutdown.is_announced()
    }

    /// Tells the master something about this worker, as one JSON value of at most 16 KiB: the data that OTP's `init` hands
    /// over with its pid. It stands in [`WorkerSnapshot::announced`](crate::WorkerSnapshot) and
    /// [`WorkerRef::announced`](crate::WorkerRef::announced), for each worker anew. Announce before [`ready`](Self::ready), and
    /// whoever waits for the start of this worker finds it there. A second one takes the place of the first.
    ///
    /// # Errors
    /// [`SendError::Unfit`] if the value has no JSON form or is too long, [`SendError::Closed`] if the channel is closed.
    pub fn announce<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SendError> {
        ipc::announce(&self.inner.outbox, value)
    }

    /// Says that there is nothing for this worker to do, and ends it at once: OTP's `ignore`. Its slot stays down, whatever
    /// its restart type, and that is no failure. The same as ending with [`exit_code::NOTHING_TO_DO`](crate::exit_code).
    pub fn decline(&self) -> ! {
        self.exit_now(exit_code::NOTHING_TO_DO)
    }

    /// The notice that this worker has to stop.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// What the master shows as this worker's requests and errors. Serving through the worker counts by itself.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Ends this worker in order, of its own will: after its lame-duck time, if it has one, it stops accepting, drains, runs
    /// its cleanup and ends with code 0. For the master this is a voluntary end. Asking twice is the same as asking once.
    pub fn disconnect(&self) {
        let lame_duck = if self.is_ready() {
            self.inner.contract.lame_duck
        } else {
            Duration::ZERO
        };
        self.wind_down(lame_duck);
    }

    /// Ends this process now, without draining, as a voluntary end. Messages sent before are delivered.
    pub fn exit_now(&self, code: i32) -> ! {
        self.leave();
        crate::worker::runtime::end(code)
    }

    /// Closes the channel without a word. The master takes this for a fault and ends this worker; the worker itself
    /// ends within the cluster's orphan grace. Use [`disconnect`](Self::disconnect) to end in order.
    pub fn close_channel(&self) {
        self.inner.outbox.close();
        self.inner.channel.shut_down();
    }

    /// Runs `cleanup` when the worker ends in order, after its own future, before the channel closes. Several run in the
    /// order in which they were given.
    pub fn on_shutdown<F, Fut>(&self, cleanup: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        lock(&self.inner.cleanup).push(Box::new(|| Box::pin(cleanup())));
    }

    /// Stops in order after `lame_duck`.
    pub(crate) fn wind_down(&self, lame_duck: Duration) {
        self.leave();
        if !lame_duck.is_zero() {
            self.enter(FlightPhase::LameDuck);
        }
        self.inner.shutdown.announce(lame_duck);
    }

    /// Announces the end, once.
    pub(crate) fn leave(&self) {
        if !self.inner.leaving.swap(true, Ordering::AcqRel) {
            self.tell(&ToMaster::Leaving);
        }
    }

    /// Tells the master that it accepts on a listener.
    pub(crate) fn tell_listening(&self, key: ListenKey, address: BoundAddress, adopts: bool) {
        if self.holds_listening(&key, &address, adopts) {
            return;
        }
        if self.inner.contract.ready == Readiness::Listening {
            self.becomes_ready();
        }
        self.tell(&ToMaster::Listening { key, address, adopts });
    }

    /// Sends a control frame. If the channel is closed the master is gone, and the worker is ending anyway.
    pub(crate) fn tell(&self, frame: &ToMaster) {
        if let Err(error) = self.inner.outbox.push(frame, Vec::new()) {
            tracing::debug!(err = %error, "control frame not sent");
        }
    }

    pub(crate) fn take_cleanup(&self) -> Vec<Cleanup> {
        std::mem::take(&mut lock(&self.inner.cleanup))
    }

    pub(crate) fn disconnected(&self) {
        self.inner.connected.store(false, Ordering::Release);
        self.inner.outbox.abandon();
        self.inner.calls.fail_all();
    }

    /// Is anybody going to take messages that no longer fit?
    pub(crate) fn has_reader(&self) -> bool {
        lock(&self.inner.inbox).is_none()
    }

    pub(crate) fn flush(&self, limit: Duration) {
        self.inner.outbox.flush_now(self.inner.channel.as_fd(), limit);
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("id", &self.id())
            .field("slot", self.slot())
            .finish_non_exhaustive()
    }
}

/// The messages of the master, in order.
#[derive(Debug)]
pub struct Messages {
    inbox: mpsc::Receiver<Message>,
}

impl Messages {
    /// The next message; `None` when the channel is closed and everything that came was taken.
    pub async fn next(&mut self) -> Option<Message> {
        self.inbox.recv().await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is put in or taken out whole; a panic in between leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
