//! What is behind a descriptor: nobody's word is taken for it.
//!
//! Used for descriptors given by number (socket activation) and for those that come with messages. The kernel is asked
//! through `fstat`, `SO_TYPE`, `SO_ACCEPTCONN` and the family of the local address.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, readlink};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getpeername, getsockname, getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat};

use super::bind::{BoundSocket, tcp_address};
use super::{common_way_out, failed, refused};
use crate::model::{BoundAddress, ListenAddr, ListenError};
use crate::sys;

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// IPv4.
    Inet,
    /// IPv6, which may take IPv4 too.
    Inet6,
    /// Unix.
    Unix,
    /// Netlink, packet, vsock and the like.
    Other,
}

/// The type of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketType {
    /// Bytes in order.
    Stream,
    /// Single messages.
    Datagram,
    /// Raw, sequenced packets and the like.
    Other,
}

/// What a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketKind {
    /// Its family.
    pub(crate) domain: Domain,
    /// Its type.
    pub(crate) socket_type: SocketType,
    /// Whether it accepts connections (`listen` was called).
    pub(crate) is_listening: bool,
    /// Its local address, if it has one that can be named.
    pub(crate) address: Option<BoundAddress>,
}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.domain, self.socket_type, self.is_listening) {
            (Domain::Inet | Domain::Inet6, SocketType::Stream, true) => "a listening TCP socket",
            (Domain::Inet | Domain::Inet6, SocketType::Stream, false) => "a TCP stream",
            (Domain::Inet | Domain::Inet6, SocketType::Datagram, _) => "a UDP socket",
            (Domain::Unix, SocketType::Stream, true) => "a listening Unix socket",
            (Domain::Unix, SocketType::Stream, false) => "a Unix stream",
            (Domain::Unix, SocketType::Datagram, _) => "a Unix datagram socket",
            (Domain::Other, _, _) | (_, SocketType::Other, _) => "a socket of another kind",
        };
        f.write_str(name)
    }
}

/// The descriptor is not the kind of thing that is needed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the descriptor is {found}, but {wanted} is needed")]
#[non_exhaustive]
pub struct WrongKind {
    /// What is needed.
    pub wanted: &'static str,
    /// What it is.
    pub found: String,
}

/// What `fd` is.
///
/// # Errors
/// When it is no socket; the error says what it is instead.
pub(crate) fn describe(fd: impl AsFd) -> Result<SocketKind, WrongKind> {
    let fd = fd.as_fd();
    let mode = fstat(fd).map_or(SFlag::empty(), |stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
    });
    if mode != SFlag::S_IFSOCK {
        return Err(WrongKind {
            wanted: "a socket",
            found: special_kind(fd).unwrap_or_else(|| file_kind(mode).to_owned()),
        });
    }
    let family = getsockname::<SockaddrStorage>(fd.as_raw_fd())
        .ok()
        .and_then(|it| it.family());
    let domain = match family {
        Some(AddressFamily::Inet) => Domain::Inet,
        Some(AddressFamily::Inet6) => Domain::Inet6,
        Some(AddressFamily::Unix) => Domain::Unix,
        _ => Domain::Other,
    };
    let socket_type = match getsockopt(&fd, sockopt::SockType) {
        Ok(SockType::Stream) => SocketType::Stream,
        Ok(SockType::Datagram) => SocketType::Datagram,
        Ok(_) | Err(_) => SocketType::Other,
    };
    Ok(SocketKind {
        domain,
        socket_type,
        is_listening: getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false),
        address: address_of(fd, domain, socket_type),
    })
}

/// Takes up the listening socket that is descriptor `number` of this process (socket activation).
///
/// A duplicate is taken: the number stays open, so that it can be asked for again after its last user has released it.
/// It becomes non-blocking, as all sockets here, and is kept from children.
///
/// # Errors
/// When there is no such descriptor, or it is no listening stream socket.
pub(crate) fn adopt_listener(number: RawFd) -> Result<BoundSocket, ListenError> {
    adopt(number, &ListenAddr::Fd(number), &LISTENER)
}

/// [`adopt_listener`] for a bound UDP socket.
///
/// # Errors
/// When there is no such descriptor, or it is no UDP socket, or it is not bound.
pub(crate) fn adopt_udp(number: RawFd) -> Result<BoundSocket, ListenError> {
    let asked = ListenAddr::UdpFd(number);
    let adopted = adopt(number, &asked, &UDP_SOCKET)?;
    if adopted.address.port == Some(0) {
        let detail = "the descriptor is a UDP socket without an address: bind it before this program starts";
        return Err(refused(&asked, detail.to_owned()));
    }
    Ok(adopted)
}

fn adopt(number: RawFd, asked: &ListenAddr, wanted: &Wanted) -> Result<BoundSocket, ListenError> {
    let step = |step: &'static str| move |errno: Errno| failed(asked, step, errno, adopt_way_out(errno));
    let from_io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    let fd = sys::socket::duplicate(number).map_err(|error| step("take the descriptor")(from_io(error)))?;
    // Checked on the duplicate, not on the number: that one somebody else could close and reuse meanwhile.
    let kind = check(&fd, wanted).map_err(|wrong| refused(asked, wrong.to_string()))?;
    let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(step("read its flags"))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(step("make it non-blocking"))?;
    sys::socket::close_on_exec(number).map_err(|error| step("keep it from children")(from_io(error)))?;
    let unnamed = || BoundAddress::unix("");
    let mut address = kind.address.unwrap_or_else(unnamed);
    address.fd = Some(number);
    Ok(BoundSocket { fd, address })
}

/// A kind of socket that somebody needs.
pub(super) struct Wanted {
    pub(super) name: &'static str,
    domains: &'static [Domain],
    socket_type: SocketType,
    state: State,
}

/// What a socket must have gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `listen`.
    Listening,
    /// `connect` or `accept`; that it still is connected is not asked.
    Connected,
    /// Datagrams need neither.
    Any,
}

const IP: &[Domain] = &[Domain::Inet, Domain::Inet6];
const UNIX: &[Domain] = &[Domain::Unix];
const STREAM_DOMAINS: &[Domain] = &[Domain::Inet, Domain::Inet6, Domain::Unix];

const LISTENER: Wanted = wanted(
    "a listening TCP or Unix socket",
    STREAM_DOMAINS,
    SocketType::Stream,
    State::Listening,
);
pub(super) const STREAM: Wanted = wanted(
    "a TCP or Unix stream",
    STREAM_DOMAINS,
    SocketType::Stream,
    State::Connected,
);
pub(super) const TCP_LISTENER: Wanted = wanted("a listening TCP socket", IP, SocketType::Stream, State::Listening);
pub(super) const TCP_STREAM: Wanted = wanted("a TCP stream", IP, SocketType::Stream, State::Connected);
pub(super) const UDP_SOCKET: Wanted = wanted("a UDP socket", IP, SocketType::Datagram, State::Any);
pub(super) const UNIX_LISTENER: Wanted = wanted("a listening Unix socket", UNIX, SocketType::Stream, State::Listening);
pub(super) const UNIX_STREAM: Wanted = wanted("a Unix stream", UNIX, SocketType::Stream, State::Connected);
pub(super) const UNIX_DATAGRAM: Wanted = wanted("a Unix datagram socket", UNIX, SocketType::Datagram, State::Any);

const fn wanted(name: &'static str, domains: &'static [Domain], socket_type: SocketType, state: State) -> Wanted {
    Wanted {
        name,
        domains,
        socket_type,
        state,
    }
}

/// What `fd` is, if it is what is wanted.
///
/// # Errors
/// When it is anything else.
pub(super) fn check(fd: impl AsFd, wanted: &Wanted) -> Result<SocketKind, WrongKind> {
    let wrong = |found| WrongKind {
        wanted: wanted.name,
        found,
    };
    let kind = describe(&fd).map_err(|not_a_socket| wrong(not_a_socket.found))?;
    let is_such = wanted.domains.contains(&kind.domain) && kind.socket_type == wanted.socket_type;
    let is_in_state = match wanted.state {
        State::Listening => kind.is_listening,
        State::Connected if is_such && !kind.is_listening && !was_connected(&fd) => {
            return Err(wrong(format!("{kind} that was never connected")));
        }
        State::Connected => !kind.is_listening,
        State::Any => true,
    };
    if is_such && is_in_state {
        Ok(kind)
    } else {
        Err(wrong(kind.to_string()))
    }
}

/// Has this stream had a peer? One whose peer has reset it meanwhile counts: that is the next read's news.
fn was_connected(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    if getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok() {
        return true;
    }
    // A connection that is over has an error or an end to read; a socket that never had one has neither. `poll` leaves
    // the error where it is.
    let traces = PollFlags::POLLERR | PollFlags::POLLIN;
    let mut fds = [PollFd::new(fd, traces)];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|found| found.intersects(traces))
}

fn address_of(fd: impl AsFd, domain: Domain, socket_type: SocketType) -> Option<BoundAddress> {
    match domain {
        Domain::Inet | Domain::Inet6 if socket_type == SocketType::Datagram => {
            tcp_address(fd).ok().map(BoundAddress::udp)
        }
        Domain::Inet | Domain::Inet6 => tcp_address(fd).ok().map(BoundAddress::tcp),
        Domain::Unix => {
            let local: UnixAddr = getsockname(fd.as_fd().as_raw_fd()).ok()?;
            local.path().map(BoundAddress::unix)
        }
        Domain::Other => None,
    }
}

/// The kernel's own name of what has no name in the file system: `anon_inode:[eventpoll]`, `anon_inode:[pidfd]`.
fn special_kind(fd: BorrowedFd<'_>) -> Option<String> {
    let link = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok()?;
    let link = link.to_str()?;
    let name = if link.starts_with("pidfd:") {
        "pidfd"
    } else {
        link.strip_prefix("anon_inode:")?.trim_matches(['[', ']'])
    };
    Some(format!("no file at all but a kernel object ({name})"))
}

fn file_kind(mode: SFlag) -> &'static str {
    match mode {
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a pipe",
        SFlag::S_IFCHR => "a character device",
        SFlag::S_IFBLK => "a block device",
        _ => "no file at all (an epoll, event or pid descriptor)",
    }
}

fn adopt_way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::EBADF => "the master was started without this descriptor: check the socket unit, or the number",
        other => common_way_out(other),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn n_069_a_descriptor_given_by_number_is_adopted_and_stays_open() {
        let outer = TcpListener::bind("127.0.0.1:0").unwrap();
        let adopted = adopt_listener(outer.as_raw_fd()).unwrap();
        assert_eq!(adopted.address.fd, Some(outer.as_raw_fd()));
        assert_eq!(adopted.address.socket_addr(), Some(outer.local_addr().unwrap()));
        let inner = TcpListener::from(adopted.fd);
        assert_eq!(inner.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(inner);
        adopt_listener(outer.as_raw_fd()).unwrap();
    }

    #[test]
    fn n_069_a_number_that_is_no_listener_is_refused() {
        let stream = UnixStream::pair().unwrap().0;
        let error = adopt_listener(stream.as_raw_fd()).unwrap_err();
        assert_eq!(
            error.detail,
            "the descriptor is a Unix stream, but a listening TCP or Unix socket is needed"
        );
        let error = adopt_listener(RawFd::MAX).unwrap_err();
        assert_eq!(error.errno, Some(Errno::EBADF as i32));
        assert!(error.to_string().contains("started without this descriptor"), "{error}");
        assert!(adopt_listener(-1).is_err());
    }
}
