//! The worker's accepting: one listener name, any number of sockets. What happens on a connection is not known here.
//!
//! Besides its own socket a worker may have adopted those of other slots (a slot without a worker lends its queue to a
//! sibling). No socket is ever shut down here: dropping ours leaves the queue with the master, who keeps them all open.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::conn::Accepted;
use super::listener::{AcceptErrorAction, Listener, StdListener, accept_error_action};
use crate::model::Slot;
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

    /// Has no socket before it is [`open`](Self::open), and calls `on_wait` when somebody waits for its connections.
    pub(crate) fn awaiting(shutdown: Shutdown, on_wait: impl FnOnce() + 'static) -> Self {
        let notice = shutdown.clone();
        let inner = Inner {
            sockets: RefCell::new(Vec::new()),
            on_wait: Cell::new(Some(Box::new(on_wait))),
            next: Cell::new(0),
            pause: RefCell::new(None),
            acceptor: RefCell::new(None),
            stopping: RefCell::new(Box::pin(async move { notice.started().await })),
            sweep: RefCell::new(None),
            shutdown,
        };
        Self { inner: Rc::new(inner) }
    }

    /// Takes connections from `own` from now on, but leaves them to others for the time of `probation`.
    ///
    /// # Errors
    /// When `own` is no listening socket of a kind we serve.
    pub(crate) fn open(&self, own: OwnedFd, probation: Duration) -> io::Result<()> {
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

    /// Stops accepting on `slot`'s socket; its queue belongs to another worker now. True if it was here.
    pub(crate) fn remove(&self, slot: &Slot) -> bool {
        let mut sockets = self.inner.sockets.borrow_mut();
        let before = sockets.len();
        sockets.retain(|socket| !matches!(&socket.source, Source::Adopted(adopted) if adopted == slot));
        sockets.len() < before
    }

    #[cfg(feature = "web")]
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
        // Asked first: under load some socket is always ready, and the stop must not wait for a quiet moment.
        if self.shutdown.is_started() {
            return Poll::Ready(self.sweep());
        }
        self.acceptor.replace(Some(cx.waker().clone()));
        if let Some(on_wait) = self.on_wait.take() {
            on_wait();
        }
        if let Poll::Ready(accepted) = self.poll_sockets(cx) {
            return Poll::Ready(Some(accepted));
        }
        ready!(self.stopping.borrow_mut().as_mut().poll(cx));
        Poll::Ready(self.sweep())
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

/// How long accepting rests after an error that another attempt would only repeat.
const PAUSE: Duration = Duration::from_millis(500);

/// How many connections the last pass takes at most: as many as the longest usual queue (`somaxconn`) holds.
const SWEEP_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::clock;

    fn listener() -> (std::net::TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn intake() -> (Intake, SocketAddr, Shutdown) {
        let (own, address) = listener();
        let shutdown = Shutdown::new();
        (Intake::new(own.into(), shutdown.clone()).unwrap(), address, shutdown)
    }

    async fn accept(intake: &Intake) -> Option<Accepted> {
        tokio::time::timeout(Duration::from_secs(5), intake.accept())
            .await
            .unwrap()
    }

    #[actix_rt::test]
    async fn f_120_accepting_resumes_by_itself_after_the_pause() {
        let (intake, address, _shutdown) = intake();
        let begun = clock::now();
        intake.inner.pause.replace(Some(Box::pin(tokio::time::sleep(PAUSE))));
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(accept(&intake).await.is_some());
        assert!(clock::now().since(begun) >= PAUSE);
    }

    #[actix_rt::test]
    async fn adopted_sockets_are_served_in_turn_and_removed_ones_not() {
        let (intake, own, shutdown) = intake();
        let (lent, lent_address) = listener();
        let mut clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(own).unwrap()).collect();
        // Wake a waiting acceptor: the socket is added while it waits.
        for _ in 0..3 {
            assert!(accept(&intake).await.is_some());
        }
        let waiting = actix_rt::spawn({
            let intake = intake.clone();
            async move { intake.accept().await }
        });
        tokio::task::yield_now().await;
        clients.push(std::net::TcpStream::connect(lent_address).unwrap());
        intake
            .add(Slot::new("other", 3), lent.try_clone().unwrap().into())
            .unwrap();
        assert!(waiting.await.unwrap().is_some());
        assert!(intake.remove(&Slot::new("other", 3)));
        assert!(!intake.remove(&Slot::new("other", 3)));
        clients.push(std::net::TcpStream::connect(lent_address).unwrap());
        shutdown.start();
        assert!(
            accept(&intake).await.is_none(),
            "the removed socket's queue is not ours"
        );
        lent.set_nonblocking(true).unwrap();
        assert!(lent.accept().is_ok(), "its connection still waits for its new owner");
    }

    #[actix_rt::test]
    async fn connections_queued_before_the_stop_are_taken() {
        let (intake, address, shutdown) = intake();
        let clients: Vec<_> = (0..20)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        shutdown.start();
        for _ in &clients {
            assert!(accept(&intake).await.is_some());
        }
        assert!(accept(&intake).await.is_none());
        assert!(accept(&intake).await.is_none(), "and it stays so");
    }

    #[actix_rt::test]
    async fn a_waiting_acceptor_hears_of_the_stop() {
        let (intake, _address, shutdown) = intake();
        let waiting = actix_rt::spawn(async move { intake.accept().await.is_none() });
        tokio::task::yield_now().await;
        shutdown.start();
        assert!(waiting.await.unwrap());
    }

    #[actix_rt::test]
    async fn on_probation_the_queue_is_left_to_others_also_at_the_stop() {
        let (own, address) = listener();
        let shutdown = Shutdown::new();
        let begun = clock::now();
        let probation = Duration::from_millis(100);
        let intake = Intake::held(own.into(), shutdown.clone(), probation).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        assert!(intake.accept().await.is_some());
        assert!(clock::now().since(begun) >= probation);

        let (own, address) = listener();
        let kept = own.try_clone().unwrap();
        let intake = Intake::held(own.into(), shutdown.clone(), Duration::from_secs(60)).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        shutdown.start();
        assert!(intake.accept().await.is_none());
        assert!(kept.accept().is_ok(), "it was not taken");
    }
}
