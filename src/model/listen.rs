//! What to listen on, and how connections are spread.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListenAddr {
    /// A TCP address; port 0 lets the kernel choose once, for all workers.
    Tcp(SocketAddr),
    /// Every local address: `[::]` taking IPv4 too, or `0.0.0.0` where IPv6 is not available (Node's `listen(port)`).
    AnyHost {
        /// The port; 0 lets the kernel choose once, for all workers.
        port: u16,
    },
    /// A Unix socket at this path. A relative one is relative to the asking process.
    Unix(PathBuf),
    /// A descriptor *of the master* that is a listening socket already (socket activation).
    Fd(RawFd),
    /// A UDP address; port 0 lets the kernel choose once, for all workers.
    Udp(SocketAddr),
    /// A descriptor *of the master* that is a bound UDP socket already (socket activation).
    UdpFd(RawFd),
}

impl ListenAddr {
    /// The descriptor of the master that it is, if it is one.
    pub(crate) const fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Fd(number) | Self::UdpFd(number) => Some(*number),
            Self::Tcp(_) | Self::AnyHost { .. } | Self::Unix(_) | Self::Udp(_) => None,
        }
    }

    /// The UDP address that is meant where only a UDP one can be meant.
    pub(crate) fn into_udp(self) -> Result<Self, ListenAddrError> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Ok(Self::Udp(address)),
            Self::Fd(number) | Self::UdpFd(number) => Ok(Self::UdpFd(number)),
            Self::AnyHost { .. } | Self::Unix(_) => Err(ListenAddrError {
                text: format!("udp:{self}"),
            }),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::AnyHost { port } => write!(f, "*:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::UdpFd(fd) => write!(f, "udp:fd:{fd}"),
        }
    }
}

/// A text that is no listen address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address to listen on: use \"127.0.0.1:8080\", \"[::1]:8080\", \"*:8080\", \"unix:/path\", \"fd:3\", \
     \"udp:0.0.0.0:53\" or \"udp:fd:3\""
)]
pub struct ListenAddrError {
    /// The text.
    pub text: String,
}

impl std::str::FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ListenAddrError { text: text.to_owned() };
        if let Some(rest) = text.strip_prefix("udp:") {
            let address: Self = rest.parse().map_err(|_| wrong())?;
            return match address {
                Self::Tcp(_) | Self::Fd(_) => address.into_udp(),
                Self::AnyHost { .. } | Self::Unix(_) | Self::Udp(_) | Self::UdpFd(_) => Err(wrong()),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(wrong())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        if let Some(fd) = text.strip_prefix("fd:") {
            return fd.parse().ok().filter(|fd| *fd >= 0).map(Self::Fd).ok_or_else(wrong);
        }
        if let Some(port) = text.strip_prefix("*:") {
            return port.parse().map(|port| Self::AnyHost { port }).map_err(|_| wrong());
        }
        let text = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        text.parse().map(Self::Tcp).map_err(|_| wrong())
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl<T: Into<IpAddr>> From<(T, u16)> for ListenAddr {
    fn from((ip, port): (T, u16)) -> Self {
        Self::Tcp(SocketAddr::new(ip.into(), port))
    }
}

impl From<PathBuf> for ListenAddr {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

/// Anything that names a listen address; texts are checked when the builder is built.
pub trait ToListenAddr {
    /// The address.
    ///
    /// # Errors
    /// When a text is no address.
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError>;
}

impl ToListenAddr for ListenAddr {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        Ok(self.clone())
    }
}

impl ToListenAddr for SocketAddr {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        Ok(ListenAddr::Tcp(*self))
    }
}

impl ToListenAddr for str {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        self.parse()
    }
}

impl ToListenAddr for String {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        self.parse()
    }
}

impl ToListenAddr for (&str, u16) {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        let text = if self.0.contains(':') {
            format!("[{}]:{}", self.0, self.1)
        } else {
            format!("{}:{}", self.0, self.1)
        };
        text.parse()
    }
}

impl ToListenAddr for PathBuf {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        Ok(ListenAddr::Unix(self.clone()))
    }
}

impl<T: ToListenAddr + ?Sized> ToListenAddr for &T {
    fn to_listen_addr(&self) -> Result<ListenAddr, ListenAddrError> {
        (**self).to_listen_addr()
    }
}

/// How connections on one address are spread over the workers.
///
/// With the first two the workers accept, and the kernel decides. With the others the *master* accepts and hands each
/// connection over; that costs some microseconds for each connection and nothing for the requests on it. A server that
/// accepts for itself ([`Worker::listener`](crate::Worker::listener)) then listens on a port of its own on the loopback
/// address, to which connections are copied: it works, but sees the copier's address instead of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Scheduling {
    /// One socket, accepted on by all (Node's `none`): whoever wakes first takes the connection.
    Shared,
    /// One `SO_REUSEPORT` socket for each slot, all of them created and kept open by the master: the kernel spreads
    /// connections evenly, and the queue of a dead worker waits for its successor. TCP and UDP only; datagrams of one
    /// sender then always come to the same slot.
    PerWorker,
    /// Handed over, one after the other (Node's `rr`): exactly even.
    RoundRobin,
    /// Handed over to whoever holds the fewest.
    LeastConnections,
    /// Handed over to the better one of two that are drawn by lot.
    TwoChoices,
    /// Handed over by the client's address: the same client always comes to the same slot. See [`Sticky`](crate::Sticky).
    Sticky,
    /// Handed over by a policy of your own: [`ClusterBuilder::schedule`](crate::ClusterBuilder::schedule).
    Custom,
}

impl Scheduling {
    /// Does the master accept, and hand connections over?
    #[must_use]
    pub const fn hands_over(self) -> bool {
        match self {
            Self::Shared | Self::PerWorker => false,
            Self::RoundRobin | Self::LeastConnections | Self::TwoChoices | Self::Sticky | Self::Custom => true,
        }
    }
}

/// How to listen.
///
/// ```
/// use actix_cluster::{ListenOptions, Scheduling};
///
/// let options = ListenOptions::new().survive_kill(true).scheduling(Scheduling::Shared);
/// assert_eq!((options.survive_kill, options.backlog), (true, 1024));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
#[must_use = "options do nothing until a socket is opened with them"]
pub struct ListenOptions {
    /// Connections the kernel queues before they are accepted. Default 1024; the kernel's limit is
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// On an IPv6 address: take IPv6 only. Default: an unspecified address takes IPv4 too.
    pub ipv6_only: bool,
    /// How connections are spread. Default (`None`): what the variable `ACTIX_CLUSTER_SCHED_POLICY` of the master says
    /// for TCP (`shared`, `per-worker`, `round-robin`, `least-connections`, `two-choices` or `sticky`, and Node's words
    /// `none` and `rr`), else `PerWorker` for TCP; `Shared` for Unix paths, descriptors and UDP.
    pub scheduling: Option<Scheduling>,
    /// Permission bits of a Unix path, from its birth on. Default: what the umask leaves of 0777.
    pub mode: Option<u32>,
    /// UDP only: lets other sockets that say so too be bound to the same address (`SO_REUSEADDR`, Node's `reuseAddr`), of
    /// this cluster or of strangers. Of several, one gets each datagram, except for multicast, which all get. Default: no.
    pub reuse_address: bool,
    /// UDP only: bytes for datagrams that wait to be received (`SO_RCVBUF`). The kernel's limit is `net.core.rmem_max`.
    /// Default: the kernel's, `net.core.rmem_default`.
    pub recv_buffer_len: Option<u32>,
    /// UDP only: the same for datagrams that wait to be sent (`SO_SNDBUF`, `net.core.wmem_max`).
    pub send_buffer_len: Option<u32>,
    /// Connections outlive the worker that accepted them: however it dies, those it had not read from yet, and with
    /// actix-cluster's own serving those whose request is not answered yet, are given to another worker. Default: no.
    ///
    /// For declared TCP listeners; anywhere else it is refused. Unix paths have no counters in the kernel that would tell
    /// how far a connection came, and listeners asked for at run time are closed with their last slot. Each worker that
    /// gets such a listener has a second, sleeping process beside it, the *keeper*.
    ///
    /// The keeper shares the worker's descriptors, so a worker should not take descriptors of its own: with
    /// `unshare(CLONE_FILES)` on a thread that accepts, or by executing another program in its place. Connections that it
    /// accepts from then on end with it, as without a keeper. Those from before are still saved; but the keeper has them open,
    /// so that their clients see an end only when the server shuts them down (as actix-cluster's own serving does), or the
    /// worker ends.
    pub survive_kill: bool,
    /// How often a request is begun in all, whatever its workers died of, before its client is answered 502. With
    /// [`survive_kill`](Self#structfield.survive_kill) only; at least 1. Default (`None`): only deaths that may be the request's doing
    /// count, and the second of them is the last; a worker that is killed from outside (`SIGKILL`, `SIGTERM`…) counts
    /// nothing, so that a request may begin any number of times, until somebody lives long enough to answer it.
    ///
    /// `Some(n)` takes the place of that rule: each death counts in which the request had begun. `Some(2)` bounds what its
    /// handlers may do twice, and costs clients a 502 where two kills in a row hit the same request; `Some(1)` repeats
    /// nothing; with `Some(5)` a request that kills its workers kills five. A request counts as begun from when its whole
    /// head is about to be given to the server, so it may have run less often than it is counted, and never more often.
    pub max_runs: Option<u8>,
}

impl ListenOptions {
    /// The defaults. Each field tells its own, and what it means; a setter gives it another value.
    pub const fn new() -> Self {
        Self {
            backlog: 1024,
            ipv6_only: false,
            scheduling: None,
            mode: None,
            reuse_address: false,
            recv_buffer_len: None,
            send_buffer_len: None,
            survive_kill: false,
            max_runs: None,
        }
    }

    /// Sets how many connections the kernel queues: [`backlog`](Self#structfield.backlog).
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Sets whether an IPv6 address takes IPv6 only: [`ipv6_only`](Self#structfield.ipv6_only).
    pub const fn ipv6_only(mut self, yes: bool) -> Self {
        self.ipv6_only = yes;
        self
    }

    /// Sets how connections are spread: [`scheduling`](Self#structfield.scheduling).
    pub const fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = Some(scheduling);
        self
    }

    /// Sets the permission bits of a Unix path: [`mode`](Self#structfield.mode).
    pub const fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Sets whether others may bind the same UDP address: [`reuse_address`](Self#structfield.reuse_address).
    pub const fn reuse_address(mut self, yes: bool) -> Self {
        self.reuse_address = yes;
        self
    }

    /// Sets the bytes for datagrams to be received: [`recv_buffer_len`](Self#structfield.recv_buffer_len).
    pub const fn recv_buffer_len(mut self, bytes: u32) -> Self {
        self.recv_buffer_len = Some(bytes);
        self
    }

    /// Sets the bytes for datagrams to be sent: [`send_buffer_len`](Self#structfield.send_buffer_len).
    pub const fn send_buffer_len(mut self, bytes: u32) -> Self {
        self.send_buffer_len = Some(bytes);
        self
    }

    /// Sets whether connections outlive the worker that accepted them: [`survive_kill`](Self#structfield.survive_kill).
    pub const fn survive_kill(mut self, yes: bool) -> Self {
        self.survive_kill = yes;
        self
    }

    /// Sets how often a request is begun in all: [`max_runs`](Self#structfield.max_runs).
    pub const fn max_runs(mut self, runs: u8) -> Self {
        self.max_runs = Some(runs);
        self
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An error of listening, as the asking worker and the `error` event see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("cannot listen on {address}: {detail}")]
pub struct ListenError {
    /// What was asked for.
    pub address: String,
    /// The errno, if a system call failed.
    pub errno: Option<i32>,
    /// Which step failed, with the errno's name, and the way out where there is one.
    pub detail: String,
}

/// Identifies one listener of the cluster: a declared one by name, or one asked for at run time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ListenKey {
    /// Declared in the builder.
    Named(String),
    /// Asked for at run time: the address as asked, and how many listeners of the same address the asking worker holds
    /// already (Node's rule: the n-th port-0 listener of every worker is the same socket).
    Asked {
        /// The address as asked for; Unix paths are absolute.
        address: ListenAddr,
        /// The n-th of this address in the worker, from 0.
        index: u32,
    },
}

impl fmt::Display for ListenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Asked { address, index } => write!(f, "{address}#{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setter that sets its neighbour, or nothing, is found by comparing with what all fields together are.
    #[test]
    fn every_setter_sets_its_own_field_and_no_other() {
        let all = ListenOptions {
            backlog: 7,
            ipv6_only: true,
            scheduling: Some(Scheduling::Sticky),
            mode: Some(0o600),
            reuse_address: true,
            recv_buffer_len: Some(1),
            send_buffer_len: Some(2),
            survive_kill: true,
            max_runs: Some(3),
        };
        let set = ListenOptions::new()
            .backlog(7)
            .ipv6_only(true)
            .scheduling(Scheduling::Sticky)
            .mode(0o600)
            .reuse_address(true)
            .recv_buffer_len(1)
            .send_buffer_len(2)
            .survive_kill(true)
            .max_runs(3);
        assert_eq!(set, all);
        assert_eq!(ListenOptions::default(), ListenOptions::new());
    }

    #[test]
    fn texts_are_read_as_the_addresses_they_name() {
        let read = |text: &str| text.parse::<ListenAddr>().unwrap();
        assert_eq!(read("127.0.0.1:80"), ListenAddr::Tcp(([127, 0, 0, 1], 80).into()));
        assert_eq!(read("localhost:80"), read("127.0.0.1:80"));
        assert_eq!(read("*:0"), ListenAddr::AnyHost { port: 0 });
        assert_eq!(read("unix:/tmp/x"), ListenAddr::Unix("/tmp/x".into()));
        assert_eq!(read("fd:3"), ListenAddr::Fd(3));
        assert_eq!(read("udp:[::1]:53"), ListenAddr::Udp("[::1]:53".parse().unwrap()));
        assert_eq!(read("udp:fd:3"), ListenAddr::UdpFd(3));
        assert_eq!(read("udp:localhost:53").to_string(), "udp:127.0.0.1:53");
        for wrong in [
            "",
            "80",
            "unix:",
            "fd:-1",
            "*:70000",
            "example.org:80",
            "udp:*:53",
            "udp:unix:/x",
            "udp:udp:[::]:1",
        ] {
            assert!(wrong.parse::<ListenAddr>().is_err(), "{wrong}");
        }
    }
}
