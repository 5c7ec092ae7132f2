//! What is behind a descriptor: nobody's word is taken for it.
//!
//! Used for descriptors given by number (socket activation) and for those that come with messages. The kernel is asked
//! through `fstat`, `SO_TYPE`, `SO_ACCEPTCONN` and the family of the local address.

use std::fmt;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname, getsockopt, sockopt,
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
            found: file_kind(mode).to_owned(),
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
        address: address_of(fd, domain),
    })
}

/// The kind of `fd`, if it is a listening TCP or Unix stream socket.
///
/// # Errors
/// When it is anything else.
pub(crate) fn check_listener(fd: impl AsFd) -> Result<SocketKind, WrongKind> {
    check(fd, &LISTENER)
}

/// Takes up the listening socket that is descriptor `number` of this process (socket activation).
///
/// A duplicate is taken: the number stays open, so that it can be asked for again after its last user has released it.
/// It becomes non-blocking, as all sockets here, and is kept from children.
///
/// # Errors
/// When there is no such descriptor, or it is no listening stream socket.
pub(crate) fn adopt_listener(number: RawFd) -> Result<BoundSocket, ListenError> {
    let asked = ListenAddr::Fd(number);
    let step = |step: &'static str| {
        let asked = &asked;
        move |errno: Errno| failed(asked, step, errno, adopt_way_out(errno))
    };
    let from_io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    let fd = sys::socket::duplicate(number).map_err(|error| step("take the descriptor")(from_io(error)))?;
    // Checked on the duplicate, not on the number: that one somebody else could close and reuse meanwhile.
    let kind = check_listener(&fd).map_err(|wrong| refused(&asked, wrong.to_string()))?;
    let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(step("read its flags"))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(step("make it non-blocking"))?;
    sys::socket::close_on_exec(number).map_err(|error| step("keep it from children")(from_io(error)))?;
    let unnamed = || BoundAddress::unix("");
    let mut address = kind.address.unwrap_or_else(unnamed);
    address.fd = Some(number);
    Ok(BoundSocket { fd, address })
}

/// The connected TCP stream behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_tcp_stream(fd: OwnedFd) -> Result<TcpStream, WrongKind> {
    // That it still *is* connected is not asked: a peer that has reset it meanwhile is the next read's news.
    checked(fd, &TCP_STREAM).map(TcpStream::from)
}

/// The listening TCP socket behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_tcp_listener(fd: OwnedFd) -> Result<TcpListener, WrongKind> {
    checked(fd, &TCP_LISTENER).map(TcpListener::from)
}

/// The UDP socket behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_udp_socket(fd: OwnedFd) -> Result<UdpSocket, WrongKind> {
    checked(fd, &UDP_SOCKET).map(UdpSocket::from)
}

/// The connected Unix stream behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_unix_stream(fd: OwnedFd) -> Result<UnixStream, WrongKind> {
    checked(fd, &UNIX_STREAM).map(UnixStream::from)
}

/// The listening Unix socket behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_unix_listener(fd: OwnedFd) -> Result<UnixListener, WrongKind> {
    checked(fd, &UNIX_LISTENER).map(UnixListener::from)
}

/// The Unix datagram socket behind `fd`.
///
/// # Errors
/// When it is something else; it is closed then.
pub fn into_unix_datagram(fd: OwnedFd) -> Result<UnixDatagram, WrongKind> {
    checked(fd, &UNIX_DATAGRAM).map(UnixDatagram::from)
}

/// A kind of socket that somebody needs.
struct Wanted {
    name: &'static str,
    domains: &'static [Domain],
    socket_type: SocketType,
    is_listening: bool,
}

const IP: &[Domain] = &[Domain::Inet, Domain::Inet6];
const UNIX: &[Domain] = &[Domain::Unix];
const STREAM_DOMAINS: &[Domain] = &[Domain::Inet, Domain::Inet6, Domain::Unix];

const LISTENER: Wanted = wanted(
    "a listening TCP or Unix socket",
    STREAM_DOMAINS,
    SocketType::Stream,
    true,
);
const TCP_LISTENER: Wanted = wanted("a listening TCP socket", IP, SocketType::Stream, true);
const TCP_STREAM: Wanted = wanted("a TCP stream", IP, SocketType::Stream, false);
const UDP_SOCKET: Wanted = wanted("a UDP socket", IP, SocketType::Datagram, false);
const UNIX_LISTENER: Wanted = wanted("a listening Unix socket", UNIX, SocketType::Stream, true);
const UNIX_STREAM: Wanted = wanted("a Unix stream", UNIX, SocketType::Stream, false);
const UNIX_DATAGRAM: Wanted = wanted("a Unix datagram socket", UNIX, SocketType::Datagram, false);

const fn wanted(name: &'static str, domains: &'static [Domain], socket_type: SocketType, is_listening: bool) -> Wanted {
    Wanted {
        name,
        domains,
        socket_type,
        is_listening,
    }
}

fn checked(fd: OwnedFd, wanted: &Wanted) -> Result<OwnedFd, WrongKind> {
    check(&fd, wanted).map(|_| fd)
}

fn check(fd: impl AsFd, wanted: &Wanted) -> Result<SocketKind, WrongKind> {
    let wrong = |found| WrongKind {
        wanted: wanted.name,
        found,
    };
    let kind = describe(fd).map_err(|not_a_socket| wrong(not_a_socket.found))?;
    let fits = wanted.domains.contains(&kind.domain)
        && kind.socket_type == wanted.socket_type
        && kind.is_listening == wanted.is_listening;
    if fits { Ok(kind) } else { Err(wrong(kind.to_string())) }
}

fn address_of(fd: impl AsFd, domain: Domain) -> Option<BoundAddress> {
    match domain {
        Domain::Inet | Domain::Inet6 => tcp_address(fd).ok().map(BoundAddress::tcp),
        Domain::Unix => {
            let local: UnixAddr = getsockname(fd.as_fd().as_raw_fd()).ok()?;
            local.path().map(BoundAddress::unix)
        }
        Domain::Other => None,
    }
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
    use std::fs::File;

    use nix::sys::epoll::{Epoll, EpollCreateFlags};

    use super::super::testing::TestDir;
    use super::*;

    fn found(fd: impl Into<OwnedFd>) -> String {
        into_tcp_stream(fd.into()).unwrap_err().found
    }

    #[test]
    fn f_084_every_wrong_kind_is_refused_and_named() {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert_eq!(found(epoll.0), "no file at all (an epoll, event or pid descriptor)");
        assert_eq!(found(pipe), "a pipe");
        assert_eq!(found(File::open("/").unwrap()), "a directory");
        assert_eq!(found(File::open("/dev/null").unwrap()), "a character device");
        assert_eq!(found(File::open("/proc/self/exe").unwrap()), "a regular file");
        assert_eq!(
            found(TcpListener::bind("127.0.0.1:0").unwrap()),
            "a listening TCP socket"
        );
        assert_eq!(found(UdpSocket::bind("[::1]:0").unwrap()), "a UDP socket");
        assert_eq!(found(UnixStream::pair().unwrap().0), "a Unix stream");
        assert_eq!(found(UnixDatagram::pair().unwrap().0), "a Unix datagram socket");
    }

    #[test]
    fn f_084_each_conversion_takes_its_own_kind_and_no_other() {
        let dir = TestDir::new();
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let things: [OwnedFd; 6] = [
            stream.into(),
            listener.into(),
            UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            UnixStream::pair().unwrap().0.into(),
            UnixListener::bind(dir.path().join("s")).unwrap().into(),
            UnixDatagram::pair().unwrap().0.into(),
        ];
        let conversions: [fn(OwnedFd) -> bool; 6] = [
            |fd| into_tcp_stream(fd).is_ok(),
            |fd| into_tcp_listener(fd).is_ok(),
            |fd| into_udp_socket(fd).is_ok(),
            |fd| into_unix_stream(fd).is_ok(),
            |fd| into_unix_listener(fd).is_ok(),
            |fd| into_unix_datagram(fd).is_ok(),
        ];
        for (i, thing) in things.iter().enumerate() {
            for (j, convert) in conversions.iter().enumerate() {
                assert_eq!(convert(thing.try_clone().unwrap()), i == j, "thing {i}, conversion {j}");
            }
        }
    }

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
