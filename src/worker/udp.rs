//! UDP in a worker: a socket of the master's that all workers share, one of the slot's, or one of this process's own.
//!
//! Not here: binding (the socket room does it, in the master or for this process), and who shares what.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{SockaddrStorage, recvfrom};

use crate::model::{BoundAddress, ListenAddr, ListenAddrError, ListenError, ListenOptions, Scheduling, ToListenAddr};
use crate::socket::bind::Claim;
use crate::socket::typed;
use crate::socket::udp::bind_udp;
use crate::worker::context::Worker;
use crate::worker::listener::{Lease, Listener, no_slot};
use crate::worker::shutdown::Shutdown;

/// A bound UDP socket of this worker: everything that [`tokio::net::UdpSocket`] can do, and an end with the worker's.
///
/// Dropping it closes this worker's copy and gives the share back. A socket that the master bound lives on as long as the
/// cluster if it was declared, else as long as a worker has a share of it.
pub struct UdpSocket {
    // First, because fields are dropped in this order: nothing is received any more when the master hears of it.
    socket: tokio::net::UdpSocket,
    address: BoundAddress,
    shutdown: Shutdown,
    /// How much may still be received after the stop.
    rest: AtomicUsize,
    worker: Worker,
    /// `None` for a socket of this process's own.
    lease: Option<Lease>,
}

impl Worker {
    /// The UDP socket that the builder declared as `name` with [`listen_udp`](crate::ClusterBuilder::listen_udp). Tells the master
    /// that this worker listens. A worker takes each once.
    ///
    /// A worker on probation in a reload receives on it at once: datagrams have no queue that could be left to a predecessor.
    ///
    /// # Errors
    /// [`ListenError`] if there is no such socket, it was taken already, or it is no UDP socket.
    pub fn udp_socket(&self, name: &str) -> Result<UdpSocket, ListenError> {
        UdpSocket::of_master(self.socket(name)?)
    }

    /// Asks the master for a UDP socket at run time (Node's `dgram.bind` in a worker). The master binds once; every worker that
    /// asks for the same address shares the socket, and each datagram comes to one of them. With port 0 all workers get
    /// the same port, a second request for port 0 by one worker another one; who asks for a port that the cluster got
    /// that way shares it too. Tells the master that this worker listens.
    ///
    /// The address is one of IP and port (`"0.0.0.0:53"`, with or without `udp:` in front), or the number of a descriptor
    /// of the master (`"fd:3"`). A dropped future gives the socket back.
    ///
    /// # Errors
    /// [`ListenError`] with the master's errno (`EADDRINUSE`, `EACCES`, …). It is not sticky: asking again may succeed.
    pub async fn bind_udp(&self, address: impl ToListenAddr) -> Result<UdpSocket, ListenError> {
        self.bind_udp_with(address, ListenOptions::default()).await
    }

    /// [`bind_udp`](Self::bind_udp) with options. All workers must ask with the same ones.
    ///
    /// With [`Scheduling::PerWorker`] each slot has a socket of its own on the address, which the master keeps: what a dead worker
    /// did not receive waits for the slot's next one.
    ///
    /// # Errors
    /// As `bind_udp`.
    pub async fn bind_udp_with(
        &self,
        address: impl ToListenAddr,
        options: ListenOptions,
    ) -> Result<UdpSocket, ListenError> {
        let address = udp_address(&address)?;
        UdpSocket::of_master(self.ask_for(address, options).await?)
    }

    /// A UDP socket of this process's own, for which nobody is asked and of which nobody is told (Node's `exclusive`): it ends
    /// with this process. With [`Scheduling::PerWorker`] in the options it is bound with `SO_REUSEPORT` (Node's `reusePort`), so that
    /// other sockets of the same user which say so too, here or elsewhere, can have the same address.
    ///
    /// # Errors
    /// [`ListenError`] with the errno; `EADDRINUSE` too if the address is one that the master bound.
    pub fn own_udp_socket(
        &self,
        address: impl ToListenAddr,
        options: &ListenOptions,
    ) -> Result<UdpSocket, ListenError> {
        let address = match udp_address(&address)? {
            ListenAddr::Udp(address) => address,
            other @ (ListenAddr::Tcp(_)
            | ListenAddr::AnyHost { .. }
            | ListenAddr::Unix(_)
            | ListenAddr::Fd(_)
            | ListenAddr::UdpFd(_)) => {
                return Err(ListenError {
                    address: other.to_string(),
                    errno: None,
                    detail: "a number names a descriptor of the master: ask for it with `bind_udp`".to_owned(),
                });
            }
        };
        let claim = match options.scheduling {
            Some(Scheduling::PerWorker) => Claim::JoinGroup,
            // Datagrams are not handed over one by one: the settings of connections mean one socket here.
            Some(
                Scheduling::Shared
                | Scheduling::RoundRobin
                | Scheduling::LeastConnections
                | Scheduling::TwoChoices
                | Scheduling::Sticky
                | Scheduling::Custom,
            )
            | None => Claim::Alone,
        };
        let bound = bind_udp(address, options, claim)?;
        UdpSocket::new(self, bound.fd.into(), bound.address, None)
    }
}

impl UdpSocket {
    fn of_master(listener: Listener) -> Result<Self, ListenError> {
        let (worker, lease, address, fd) = listener.into_parts();
        let fd = fd.or_else(|| lease.socket_if_here());
        let fd = fd.ok_or_else(|| no_slot(&address))?;
        let socket = typed::into_udp_socket(fd).map_err(|wrong| ListenError {
            address: address.to_string(),
            errno: None,
            detail: wrong.to_string(),
        })?;
        let key = lease.key.clone();
        let socket = Self::new(&worker, socket, address.clone(), Some(lease))?;
        worker.tell_listening(key, address, false);
        Ok(socket)
    }

    fn new(
        worker: &Worker,
        socket: std::net::UdpSocket,
        address: BoundAddress,
        lease: Option<Lease>,
    ) -> Result<Self, ListenError> {
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(|error| ListenError {
            address: address.to_string(),
            errno: error.raw_os_error(),
            detail: error.to_string(),
        })?;
        Ok(Self {
            socket,
            address,
            shutdown: worker.shutdown().clone(),
            rest: AtomicUsize::new(REST_MAX),
            worker: worker.clone(),
            lease,
        })
    }

    /// Where it is bound: the port is the real one.
    #[must_use]
    pub const fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// The next datagram, cut to the length of `buf`, and its sender. `None` once this worker was told to stop, its lame-duck
    /// time is over and everything that had arrived by then (at most 4,096 datagrams) was received.
    ///
    /// Safe to drop and call again: no datagram is lost.
    ///
    /// # Errors
    /// The kernel's, mostly about an earlier datagram that could not be delivered: go on.
    pub async fn next(&self, buf: &mut [u8]) -> Option<io::Result<(usize, SocketAddr)>> {
        if !self.shutdown.is_started() {
            tokio::select! {
                biased;
                () = self.shutdown.started() => {}
                received = self.socket.recv_from(buf) => return Some(received),
            }
        }
        self.rest(buf)
    }

    /// As the standard library's socket, non-blocking. The share is kept until the worker ends.
    ///
    /// # Errors
    /// If the runtime cannot let go of it.
    pub fn into_std(self) -> io::Result<std::net::UdpSocket> {
        if let Some(lease) = self.lease {
            self.worker.inner.listeners.keep(lease);
        }
        self.socket.into_std()
    }

    /// Asks the kernel and not the runtime: a datagram may wait although its readiness has not been delivered yet.
    fn rest(&self, buf: &mut [u8]) -> Option<io::Result<(usize, SocketAddr)>> {
        let spend = |left: usize| left.checked_sub(1);
        self.rest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .ok()?;
        // An error is the end here: nothing more is waited for.
        let (len, sender) = recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), buf).ok()?;
        let sender = sender?;
        let v4 = sender
            .as_sockaddr_in()
            .map(|it| std::net::SocketAddrV4::from(*it).into());
        let v6 = || {
            sender
                .as_sockaddr_in6()
                .map(|it| std::net::SocketAddrV6::from(*it).into())
        };
        Some(Ok((len, v4.or_else(v6)?)))
    }
}

impl Deref for UdpSocket {
    type Target = tokio::net::UdpSocket;

    fn deref(&self) -> &Self::Target {
        &self.socket
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("address", &self.address)
            .field("is_own", &self.lease.is_none())
            .finish_non_exhaustive()
    }
}

fn udp_address(address: &impl ToListenAddr) -> Result<ListenAddr, ListenError> {
    let address = address.to_listen_addr().and_then(ListenAddr::into_udp);
    address.map_err(|error: ListenAddrError| ListenError {
        address: error.text.clone(),
        errno: None,
        detail: error.to_string(),
    })
}

/// Datagrams received after the stop began: a flood must not hold it up.
const REST_MAX: usize = 4096;
