//! `Listener`: a socket a worker may accept on, and the ways to do so.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use crate::ipc::ToMaster;
use crate::model::{BoundAddress, ListenAddr, ListenError, ListenKey, ListenOptions, ToListenAddr, exit_code};
use crate::socket::typed::{self, WrongDescriptor};
use crate::socket::unix_path::absolute;
use crate::worker::context::Worker;
use crate::worker::listeners::{Answer, Bound, Change, Claim};
use crate::worker::proxy::Target;
use crate::worker::serve::http1::is_idempotent;
use crate::worker::serve::incoming::Incoming;
use crate::worker::serve::intake::{Intake, WeakIntake};

/// A listening socket of this worker, not yet accepted on.
///
/// Dropping it gives it back to the master.
#[derive(Debug)]
#[must_use = "a listener does nothing until it is served"]
pub struct Listener {
    worker: Worker,
    lease: Lease,
    address: BoundAddress,
    /// In a standby it comes with the slot.
    fd: Option<OwnedFd>,
    /// The master accepts on it, and hands connections over.
    handed: bool,
}

/// This worker's share of a listener: given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    worker: Worker,
    pub(crate) key: ListenKey,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A worker that ends keeps its share: it is the slot's, and waits for the slot's next worker.
        // One that has no slot has no share either.
        if !self.worker.inner.shutdown.is_started() && !self.worker.is_standby() {
            self.worker.give_back(&self.key);
        }
        // Only now, so that the next request for this key goes out after the release.
        self.worker.inner.listeners.forget(&self.key);
    }
}

impl Listener {
    /// Whose share of which listener it is.
    pub(super) const fn share(&self) -> (&Worker, &ListenKey) {
        (&self.worker, &self.lease.key)
    }
}

/// A request for a listener whose answer is waited for.
struct Request {
    worker: Worker,
    id: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Request {
    fn drop(&mut self) {
        // From here on an answer finds nobody; one that came before is in the receiver, unless it was taken.
        self.answer.close();
        match self.answer.try_recv() {
            Ok(Ok(bound)) => drop(self.worker.listener_of(bound)),
            Ok(Err(_)) => {}
            // Not answered yet, or taken; the latter has nothing left to give up.
            Err(_) => self.worker.inner.listeners.give_up(self.id),
        }
    }
}

impl Worker {
    /// The declared listener `name`, to be accepted on in whatever way. A worker takes each listener once.
    ///
    /// # Errors
    /// [`ListenError`] if there is no such listener, or it was taken already.
    pub fn socket(&self, name: &str) -> Result<Listener, ListenError> {
        self.inner.listeners.take(name).map(|bound| self.listener_of(bound))
    }

    /// The declared TCP listener `name` as the standard library's type, for a server that accepts for itself:
    /// `HttpServer::new(..).listen(worker.listener("http")?)`. Tells the master that this worker listens.
    ///
    /// A server that accepts for itself cannot take over the queue of a slot that has no worker: with
    /// [`Scheduling::PerWorker`](crate::Scheduling) such connections wait for the slot's next worker, and if there will be none
    /// they are copied to the servers that are left. Nor can it be handed a
    /// connection: where the master accepts, it gets a port of its own on the loopback address, and connections are copied
    /// to it.
    ///
    /// # Errors
    /// [`ListenError`] as for [`socket`](Self::socket), or if it is no TCP listener. In a worker that stands by there is no
    /// socket yet: await [`activated`](Self::activated) first, which costs an ordinary worker nothing.
    pub fn listener(&self, name: &str) -> Result<std::net::TcpListener, ListenError> {
        self.socket(name)?.into_tcp()
    }

    /// Asks the master for a listener at run time (Node's `server.listen`). The master binds once; every worker that
    /// asks for the same address shares it. With port 0 all workers get the same port; a second request for port 0 by
    /// one worker gets another one, which the second requests of its siblings share.
    ///
    /// A dropped future gives the listener back. In a worker that stands by it waits for the slot, as
    /// [`activated`](Self::activated) does.
    ///
    /// # Errors
    /// [`ListenError`] with the master's errno (`EADDRINUSE`, `EACCES`, …). It is not sticky: asking again may succeed.
    pub async fn bind(&self, address: impl ToListenAddr) -> Result<Listener, ListenError> {
        self.bind_with(address, ListenOptions::default()).await
    }

    /// [`bind`](Self::bind) with options. All workers must ask with the same ones.
    ///
    /// # Errors
    /// As `bind`.
    pub async fn bind_with(&self, address: impl ToListenAddr, options: ListenOptions) -> Result<Listener, ListenError> {
        let address = address.to_listen_addr().map_err(|error| ListenError {
            address: error.text.clone(),
            errno: None,
            detail: error.to_string(),
        })?;
        // Absolute before it becomes a key, so that both sides mean one listener by it.
        let address = match address {
            ListenAddr::Unix(path) => ListenAddr::Unix(absolute(&path, std::env::current_dir().ok().as_deref())?),
            ListenAddr::Tcp(_)
            | ListenAddr::AnyHost { .. }
            | ListenAddr::Fd(_)
            | ListenAddr::Udp(_)
            | ListenAddr::UdpFd(_) => address,
        };
        self.ask_for(address, options).await
    }

    /// Asks the master and waits for its answer; a dropped future gives back what comes.
    pub(crate) async fn ask_for(&self, address: ListenAddr, options: ListenOptions) -> Result<Listener, ListenError> {
        self.activated().await;
        let (id, key, answer) = self.inner.listeners.ask(&address);
        let mut request = Request {
            worker: self.clone(),
            id,
            answer,
        };
        self.give_back_dropped();
        self.tell(&ToMaster::Bind {
            id,
            key,
            cwd: None,
            options,
        });
        let gone = ListenError {
            address: address.to_string(),
            errno: None,
            detail: "the master is gone".to_owned(),
        };
        let bound = (&mut request.answer).await.unwrap_or(Err(gone))?;
        Ok(self.listener_of(bound))
    }

    /// Tells the master that this worker listens on an address of its own, which the master did not bind.
    pub fn listening(&self, address: BoundAddress) {
        let key = ListenKey::Named(address.to_string());
        self.tell_listening(key, address, false);
    }

    /// Accepts on the declared listener `name`, for any tokio server.
    ///
    /// # Errors
    /// [`ListenError`] as for [`socket`](Self::socket).
    pub fn incoming(&self, name: &str) -> Result<Incoming, ListenError> {
        self.socket(name)?.incoming()
    }

    fn listener_of(&self, bound: Bound) -> Listener {
        let Bound {
            key,
            address,
            fd,
            handed,
        } = bound;
        let lease = Lease {
            worker: self.clone(),
            key,
        };
        Listener {
            worker: self.clone(),
            lease,
            address,
            fd,
            handed,
        }
    }
}

impl Listener {
    /// Where it is bound: the port is the real one.
    #[must_use]
    pub const fn address(&self) -> &BoundAddress {
        &self.address
    }

    pub(crate) const fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(crate) const fn key(&self) -> &ListenKey {
        &self.lease.key
    }

    /// The listening socket itself.
    pub(crate) const fn socket(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// As the standard library's TCP listener, non-blocking, for a server that accepts for itself. Tells the master that
    /// this worker listens. The share is kept until the worker ends.
    ///
    /// # Errors
    /// [`ListenError`] if it is no TCP listener.
    pub fn into_tcp(self) -> Result<std::net::TcpListener, ListenError> {
        self.hand_over(typed::into_tcp_listener)
    }

    /// As the standard library's Unix listener, non-blocking; else as [`into_tcp`](Self::into_tcp).
    ///
    /// # Errors
    /// [`ListenError`] if it is no Unix listener.
    pub fn into_unix(self) -> Result<std::os::unix::net::UnixListener, ListenError> {
        self.hand_over(typed::into_unix_listener)
    }

    /// What it is made of, for whoever receives on it in another way than by accepting.
    pub(crate) fn into_parts(self) -> (Worker, Lease, BoundAddress, Option<OwnedFd>) {
        (self.worker, self.lease, self.address, self.fd)
    }

    /// Accepts on it, for any tokio server. Tells the master that this worker listens.
    ///
    /// # Errors
    /// [`ListenError`] if the socket cannot be registered with the runtime.
    pub fn incoming(self) -> Result<Incoming, ListenError> {
        let connections = self.worker.inner.connections.clone();
        let survival = self.survival(is_idempotent);
        let (intake, lease) = self.intake()?;
        Ok(Incoming::new(intake, connections).surviving(survival).leased(lease))
    }

    fn hand_over<T>(self, convert: impl FnOnce(OwnedFd) -> Result<T, WrongDescriptor>) -> Result<T, ListenError> {
        let Self {
            worker,
            lease,
            address,
            fd,
            handed,
        } = self;
        let wrong = |error: WrongDescriptor| ListenError {
            address: address.to_string(),
            errno: None,
            detail: error.to_string(),
        };
        let fd = fd.or_else(|| lease.socket_if_here()).ok_or_else(|| no_slot(&address))?;
        let (fd, target) = if handed {
            // Its own port: on the public one the master accepts.
            Target::private(&fd).map_err(|error| ListenError {
                address: address.to_string(),
                errno: error.raw_os_error(),
                detail: format!("no port of its own for a server that accepts for itself: {error}"),
            })?
        } else {
            (fd, Target::of(&address))
        };
        let listener = convert(fd).map_err(wrong)?;
        worker.inner.listeners.listens_at(&lease.key, target);
        worker.tell_listening(lease.key.clone(), address.clone(), false);
        worker.inner.listeners.keep(lease);
        Ok(listener)
    }

    /// The accepting side, tied to the master's orders to adopt other slots' sockets.
    pub(crate) fn intake(self) -> Result<(Intake, Lease), ListenError> {
        let Self {
            worker,
            lease,
            address,
            fd,
            handed,
        } = self;
        if address.address_type.is_udp() {
            return Err(ListenError {
                address: address.to_string(),
                errno: None,
                detail: "a UDP socket has no connections to accept: take it with `udp_socket` or `bind_udp`".to_owned(),
            });
        }
        let shutdown = worker.inner.shutdown.clone();
        let refused = |error: std::io::Error| ListenError {
            address: address.to_string(),
            errno: error.raw_os_error(),
            detail: error.to_string(),
        };
        let (intake, is_here) = match fd.map_or_else(|| lease.claim(), |fd| Some(Claim::Here(fd))) {
            Some(Claim::Here(fd)) => {
                let intake = match worker.inner.handover.clone().filter(|_| handed) {
                    Some(handover) => Intake::handed(&fd, shutdown, handover),
                    None => Intake::held(fd, shutdown, worker.probation()),
                };
                (intake.map_err(refused)?, true)
            }
            Some(Claim::Later(socket)) => {
                let waiting = worker.clone();
                let intake = Intake::awaiting(shutdown, move || waiting.waits_for_connections());
                let told = (worker.clone(), lease.key.clone(), address.clone(), handed);
                actix_rt::spawn(open_later(socket, intake.downgrade(), told));
                (intake, false)
            }
            // Only a listener that was taken before its socket was here is without one.
            None => return Err(refused(std::io::ErrorKind::NotFound.into())),
        };
        let mut changes = worker.inner.listeners.adopter(&lease.key);
        let adopted = intake.downgrade();
        actix_rt::spawn(async move {
            while let Some(change) = changes.recv().await {
                let Some(intake) = adopted.upgrade() else { return };
                match change {
                    // A socket that cannot be registered is left to its slot's next worker.
                    Change::Adopt(slot, fd) => match intake.add(slot, fd) {
                        Ok(()) => {}
                        Err(err) => tracing::warn!(%err, "cannot accept for another slot"),
                    },
                    Change::Unadopt(slot) => {
                        intake.remove(&slot);
                    }
                    Change::Inject(stream) => intake.inject(stream),
                    Change::Give(given) => intake.give(given),
                }
            }
        });
        if is_here {
            worker.tell_listening(lease.key.clone(), address, true);
        }
        Ok((intake, lease))
    }
}

impl Lease {
    /// The socket of a listener that was taken before it was here.
    fn claim(&self) -> Option<Claim> {
        match &self.key {
            ListenKey::Named(name) => self.worker.inner.listeners.claim(name),
            ListenKey::Asked { .. } => None,
        }
    }

    pub(crate) fn socket_if_here(&self) -> Option<OwnedFd> {
        match self.claim()? {
            Claim::Here(fd) => Some(fd),
            Claim::Later(_) => None,
        }
    }
}

/// The error of a standby that wants a socket now.
pub(crate) fn no_slot(address: &BoundAddress) -> ListenError {
    ListenError {
        address: address.to_string(),
        errno: None,
        detail:
            "this worker stands by, and its sockets come with its slot: await `Worker::activated` before it takes them"
                .to_owned(),
    }
}

/// Accepts on the socket when it comes with the slot. A worker that cannot is of no use.
async fn open_later(
    socket: oneshot::Receiver<OwnedFd>,
    intake: WeakIntake,
    (worker, key, address, handed): (Worker, ListenKey, BoundAddress, bool),
) {
    // An error means that the listener was given back meanwhile.
    let (Ok(fd), Some(intake)) = (socket.await, intake.upgrade()) else {
        return;
    };
    let opened = match worker.inner.handover.clone().filter(|_| handed) {
        Some(handover) => intake.open_handed(&fd, handover),
        None => intake.open(fd, worker.probation()),
    };
    match opened {
        Ok(()) => worker.tell_listening(key, address, true),
        Err(error) => {
            worker.tell(&ToMaster::Failed(format!("cannot accept on {address}: {error}")));
            crate::worker::runtime::end(exit_code::FAILED)
        }
    }
}
