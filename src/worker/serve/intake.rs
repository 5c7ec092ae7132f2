//! The worker's accepting: one listener name, any number of sockets. What happens on a connection is not known here.
//!
//! Besides its own socket a worker may have adopted those of other slots (a slot without a worker lends its queue to a
//! sibling). No socket is ever shut down here: dropping ours leaves the queue with the master, who keeps them all open.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::conn::{Accepted, Passed};
use super::listener::{Family, Listener, StdListener, family};
use crate::clock;
use crate::model::{Mono, Slot};
use crate::socket::accept_error::{AcceptErrorAction, accept_error_action};
use crate::worker::handover::{Given, Handover};
use crate::worker::shutdown::Shutdown;

/// A way to change an [`Intake`] that does not keep it alive.
#[derive(Debug)]
pub(crate) struct WeakIntake(Weak<Inner>);

impl WeakIntake {
    /// The intake, while somebody accepts on it.
    pub(crate) fn upgrade(&self) -> Option<Intake> {
        self.0.upgrade().map(|inner| Intake { inner })
    }
}

/// The sockets this worker accepts on for one listener. Clones are the same set; one task accepts, others may change it.
#[derive(Clone)]
pub(crate) struct Intake {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("sockets", &self.inner.sockets.borrow().len())
            .finish_non_exhaustive()
    }
}

impl Intake {
    /// Takes connections from `own`, until `shutdown`.
    #[cfg(test)]
    pub(crate) fn new(own: OwnedFd, shutdown: Shutdown) -> io::Result<Self> {
        Self::held(own, shutdown, Duration::ZERO)
    }

    /// Takes connections from `own`, until `shutdown`, but leaves them to others for the time of `probation`.
    ///
    /// # Errors
    /// When `own` is no listening socket of a kind we serve. Outside of a runtime this panics, as every registration of
    /// a descriptor does.
    pub(crate) fn held(own: OwnedFd, shutdown: Shutdown, probation: Duration) -> io::Result<Self> {
        let intake = Self::awaiting(shutdown, || ());
        intake.inner.on_wait.take();
        intake.open(own, probation)?;
        Ok(intake)
    }

    /// Takes no connections but those that are handed over, until `shutdown` and the master's word that none follows.
    /// `own` only tells of what kind they are.
    ///
    /// # Errors
    /// When `own` is no listening socket of a kind we serve.
    pub(crate) fn handed(own: &OwnedFd, shutdown: Shutdown, handover: Arc<Handover>) -> io::Result<Self> {
        let intake = Self::awaiting(shutdown, || ());
        intake.inner.on_wait.take();
        intake.open_handed(own, handover)?;
        Ok(intake)
    }

    /// Has no socket before it is [`open`](Self::open), and calls `on_wait` when somebody waits for its connections.
    pub(crate) fn awaiting(shutdown: Shutdown, on_wait: impl FnOnce() + 'static) -> Self {
        let notice = shutdown.clone();
        let inner = Inner {
            sockets: RefCell::new(Vec::new()),
            on_wait: Cell::new(Some(Box::new(on_wait))),
            given: RefCell::default(),
            is_watching: Cell::new(false),
            family: Cell::new(None),
            last_given: RefCell::new(Box::pin(std::future::ready(()))),
            injected: RefCell::default(),
            next: Cell::new(0),
            pause: RefCell::new(None),
            acceptor: RefCell::new(None),
            has_heard_end: Cell::new(false),
            stopping: RefCell::new(Box::pin(async move { notice.started().await })),
            sweep: RefCell::new(None),
            shutdown,
        };
        Self { inner: Rc::new(inner) }
    }

    /// Serves a connection that was handed over: next, before those that wait to be accepted. If nobody takes it soon it
    /// is dropped, which gives it to another worker.
    pub(crate) fn give(&self, given: Given) {
        self.inner.given.borrow_mut().push_back((clock::now(), given));
        if let Some(acceptor) = self.inner.acceptor.take() {
            acceptor.wake();
        }
        if !self.inner.is_watching.replace(true) {
            actix_rt::spawn(refuse_what_waits(Rc::downgrade(&self.inner)));
        }
    }

    /// Takes connections from `own` from now on, but leaves them to others for the time of `probation`.
    ///
    /// # Errors
    /// When `own` is no listening socket of a kind we serve.
    pub(crate) fn open(&self, own: OwnedFd, probation: Duration) -> io::Result<()> {
        self.inner.family.set(Some(family(&own)?));
        let own = Listener::adopt(own)?;
        let mut own = Socket::new(Source::Own, own);
        if !probation.is_zero() {
            own.is_on_probation = true;
            own.pause = Some(Box::pin(tokio::time::sleep(probation)));
        }
        self.inner.sockets.borrow_mut().insert(0, own);
        if let Some(acceptor) = self.inner.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    /// Takes what is handed over from now on; see [`handed`](Self::handed).
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_handed(&self, own: &OwnedFd, handover: Arc<Handover>) -> io::Result<()> {
        self.inner.family.set(Some(family(own)?));
        *self.inner.last_given.borrow_mut() = Box::pin(async move {
            handover.ended().await;
        });
        Ok(())
    }

    /// A way to change the set from elsewhere.
    pub(crate) fn downgrade(&self) -> WeakIntake {
        WeakIntake(Rc::downgrade(&self.inner))
    }

    /// Accepts on `slot`'s socket too, from now on, its queue included. A second socket for the same slot replaces the
    /// first. Once the stop has started nothing is adopted: the queue stays with the master, who will find a sibling.
    ///
    /// # Errors
    /// When `fd` is no listening socket of a kind we serve.
    pub(crate) fn add(&self, slot: Slot, fd: OwnedFd) -> io::Result<()> {
        if self.inner.shutdown.is_started() {
            return Ok(());
        }
        let listener = Listener::adopt(fd)?;
        self.remove(&slot);
        let socket = Socket::new(Source::Adopted(slot), listener);
        self.inner.sockets.borrow_mut().push(socket);
        if let Some(acceptor) = self.inner.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    /// Serves a connection that was accepted elsewhere, before those that wait to be accepted. Closes what is no stream of a
    /// kind we serve.
    pub(crate) fn inject(&self, stream: OwnedFd) {
        match Accepted::adopt(stream) {
            Ok(accepted) => self.inner.injected.borrow_mut().push_back(accepted),
            Err(error) => return tracing::warn!(err = %error, "a passed connection cannot be served"),
        }
        if let Some(acceptor) = self.inner.acceptor.take() {
            acceptor.wake();
        }
    }

    /// Stops accepting on `slot`'s socket; its queue belongs to another worker now. True if it was here.
    pub(crate) fn remove(&self, slot: &Slot) -> bool {
        let mut sockets = self.inner.sockets.borrow_mut();
        let before = sockets.len();
        sockets.retain(|socket| !matches!(&socket.source, Source::Adopted(adopted) if adopted == slot));
        sockets.len() < before
    }

    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// The next connection. `None` when the stop has started and every connection that was queued by then is taken:
    /// whoever got through the handshake is served and not reset.
    pub(crate) async fn accept(&self) -> Option<Accepted> {
        std::future::poll_fn(|cx| self.inner.poll_accept(cx)).await
    }
}

struct Inner {
    shutdown: Shutdown,
    sockets: RefCell<Vec<Socket>>,
    /// Connections that were accepted elsewhere.
    injected: RefCell<VecDeque<Accepted>>,
    /// Connections that were handed over and not taken yet, with the time of their coming.
    given: RefCell<VecDeque<(Mono, Given)>>,
    /// Is there a task that refuses what is not taken in time?
    is_watching: Cell<bool>,
    /// Of what kind its connections are; not known before it has a socket.
    family: Cell<Option<Family>>,
    /// No connection is handed over any more.
    last_given: RefCell<Pin<Box<dyn Future<Output = ()>>>>,
    has_heard_end: Cell<bool>,
    /// Called when the connections are waited for the first time, if there is no socket yet.
    on_wait: Cell<Option<Box<dyn FnOnce()>>>,
    /// Whose turn it is.
    next: Cell<usize>,
    /// Set while the process is out of descriptors or memory.
    pause: RefCell<Option<Pin<Box<Sleep>>>>,
    /// The accepting task, to be told of a new socket.
    acceptor: RefCell<Option<Waker>>,
    stopping: RefCell<Pin<Box<dyn Future<Output = ()>>>>,
    sweep: RefCell<Option<Sweep>>,
}

impl Inner {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        self.acceptor.replace(Some(cx.waker().clone()));
        if let Some(on_wait) = self.on_wait.take() {
            on_wait();
        }
        let injected = || self.injected.borrow_mut().pop_front();
        if let Some(accepted) = self.next_given().or_else(injected) {
            return Poll::Ready(Some(accepted));
        }
        // Asked before the sockets: under load some is always ready, and the stop must not wait for a quiet moment.
        if self.shutdown.is_started() {
            return self.poll_last(cx);
        }
        if let Poll::Ready(accepted) = self.poll_sockets(cx) {
            return Poll::Ready(Some(accepted));
        }
        ready!(self.stopping.borrow_mut().as_mut().poll(cx));
        self.poll_last(cx)
    }

    /// What was queued at the stop, and then what the master had on its way to us.
    fn poll_last(&self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        if let Some(accepted) = self.sweep() {
            return Poll::Ready(Some(accepted));
        }
        if !self.has_heard_end.get() {
            ready!(self.last_given.borrow_mut().as_mut().poll(cx));
            self.has_heard_end.set(true);
        }
        Poll::Ready(self.next_given())
    }

    fn next_given(&self) -> Option<Accepted> {
        loop {
            let (_, given) = self.given.borrow_mut().pop_front()?;
            let Given {
                fd,
                strikes,
                fail,
                receipt,
            } = given;
            // Without a socket it has not said that it listens, and nobody knows of it.
            let Some(family) = self.family.get() else { continue };
            let (stream, peer) = match family.stream(fd) {
                Ok(stream) => stream,
                Err(err) => {
                    tracing::warn!(%err, "a connection that was handed over cannot be served here");
                    continue;
                }
            };
            // Of a Unix path nobody could tell later whether it was touched: there each one is acknowledged before it is served.
            let is_last = family == Family::Unix || self.given.borrow().is_empty();
            return Some(Accepted {
                stream,
                peer,
                passed: Some(Passed::new(strikes, fail, receipt, is_last)),
            });
        }
    }

    /// One accept each in turn, so that a flooded socket cannot starve an adopted one.
    fn poll_sockets(&self, cx: &mut Context<'_>) -> Poll<Accepted> {
        let mut pause = self.pause.borrow_mut();
        if let Some(timer) = pause.as_mut() {
            ready!(timer.as_mut().poll(cx));
            *pause = None;
        }
        let mut sockets = self.sockets.borrow_mut();
        for _ in 0..sockets.len() {
            let turn = self.next.get() % sockets.len();
            self.next.set(turn + 1);
            match ready_or_next(sockets[turn].poll_accept(cx)) {
                Some(Ok(accepted)) => return Poll::Ready(accepted),
                Some(Err(error)) => {
                    tracing::warn!(err = %error, "out of resources, accepting paused for 500 ms");
                    let timer = pause.insert(Box::pin(tokio::time::sleep(PAUSE)));
                    ready!(timer.as_mut().poll(cx));
                }
                None => {}
            }
        }
        Poll::Pending
    }

    fn sweep(&self) -> Option<Accepted> {
        self.sweep
            .borrow_mut()
            .get_or_insert_with(|| Sweep::new(self.sockets.take()))
            .next()
    }
}

/// Refuses connections that were handed over and are not taken in time: the server accepts nothing now (it has as many as
/// it wants), and somebody else may. One that cannot even get here, because its loop is stuck, is for others to deal with.
async fn refuse_what_waits(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(GIVEN_PATIENCE).await;
        let Some(inner) = inner.upgrade() else { return };
        let now = clock::now();
        let mut given = inner.given.borrow_mut();
        // At the stop they are served, like those in the kernel's queue.
        while !inner.shutdown.is_started()
            && given
                .front()
                .is_some_and(|(came, _)| now.since(*came) >= GIVEN_PATIENCE)
        {
            given.pop_front();
        }
        if given.is_empty() {
            inner.is_watching.set(false);
            return;
        }
    }
}

/// The last pass over the queues. It asks the kernel and not the runtime: a connection may be queued although its
/// readiness event has not been delivered yet.
struct Sweep {
    listeners: Vec<StdListener>,
    left: usize,
}

impl Sweep {
    fn new(sockets: Vec<Socket>) -> Self {
        let own = sockets.into_iter().filter(|socket| !socket.is_on_probation);
        let listeners = own.filter_map(|socket| socket.listener.into_std());
        Self {
            listeners: listeners.collect(),
            left: SWEEP_MAX,
        }
    }

    fn next(&mut self) -> Option<Accepted> {
        while let Some(listener) = self.listeners.last() {
            if self.left == 0 {
                self.listeners.clear();
                break;
            }
            self.left -= 1;
            match listener.accept() {
                Ok(accepted) => return Some(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => match accept_error_action(error.raw_os_error()) {
                    AcceptErrorAction::TakeNext => continue,
                    AcceptErrorAction::PauseAll | AcceptErrorAction::PauseListener => {
                        tracing::warn!(err = %error, "queued connections left behind at the stop");
                    }
                },
            }
            self.listeners.pop();
        }
        None
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Own,
    Adopted(Slot),
}

struct Socket {
    source: Source,
    listener: Listener,
    /// Set after an error of this socket alone, and for the time of a probation.
    pause: Option<Pin<Box<Sleep>>>,
    /// The queue is the predecessor's until the pause is over, also at a stop.
    is_on_probation: bool,
}

impl Socket {
    fn new(source: Source, listener: Listener) -> Self {
        Self {
            source,
            listener,
            pause: None,
            is_on_probation: false,
        }
    }

    /// `Err` only where all sockets have to pause.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        // Bounded: each attempt and each wait spends from the runtime's budget for this task, which ends in `Pending`.
        loop {
            if let Some(timer) = self.pause.as_mut() {
                ready!(timer.as_mut().poll(cx));
                self.pause = None;
                self.is_on_probation = false;
            }
            let error = match ready!(self.listener.poll_accept(cx)) {
                Ok(accepted) => return Poll::Ready(Ok(accepted)),
                Err(error) => error,
            };
            match accept_error_action(error.raw_os_error()) {
                AcceptErrorAction::TakeNext => {}
                AcceptErrorAction::PauseAll => return Poll::Ready(Err(error)),
                AcceptErrorAction::PauseListener => {
                    tracing::warn!(err = %error, "listening socket failed, trying again in 500 ms");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

fn ready_or_next<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// How long a connection that was handed over waits for a server that could accept it and does not.
const GIVEN_PATIENCE: Duration = Duration::from_millis(50);

/// How long accepting rests after an error that another attempt would only repeat.
const PAUSE: Duration = Duration::from_millis(500);

/// How many connections the last pass takes at most: as many as the longest usual queue (`somaxconn`) holds.
const SWEEP_MAX: usize = 4096;

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
