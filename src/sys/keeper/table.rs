//! The table of descriptors: what is in it, what a number means, and what this process is called.
//!
//! Not here: what becomes of a connection ([`super::saving`]).

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use nix::libc;
use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::unistd::close;

use super::post::borrow;
use crate::sys::process::is_open;

/// A listener whose connections are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Survivor {
    /// Its place in the contract.
    pub(super) listener: u32,
    /// Where it listens.
    pub(super) address: SocketAddr,
}

/// The listeners of a contract whose connections are saved: TCP ones that are marked so.
pub(super) fn survivors(listeners: &[(RawFd, bool)], awaited: &[(Option<SocketAddr>, bool)]) -> Vec<Survivor> {
    let here = listeners.iter().map(|(fd, survives)| (local_address(*fd), *survives));
    let all = here.chain(awaited.iter().copied());
    let marked = (0..).zip(all).filter(|(_, (_, survives))| *survives);
    marked
        .filter_map(|(listener, (address, _))| {
            let address = address?;
            Some(Survivor { listener, address })
        })
        .collect()
}

/// Which listener accepted this connection, if `fd` is one of theirs: an established TCP connection has the address of its
/// listener, or its port if that one listens on every address.
pub(super) fn listener_of(fd: RawFd, survivors: &[Survivor]) -> Option<u32> {
    let local = local_address(fd)?;
    let listens_there = |ip: IpAddr| ip.is_unspecified() || ip == local.ip();
    let same_port = survivors
        .iter()
        .filter(|survivor| survivor.address.port() == local.port() && listens_there(survivor.address.ip()));
    let found = same_port.min_by_key(|survivor| survivor.address.ip().is_unspecified())?;
    let is_stream = getsockopt(&borrow(fd), sockopt::SockType) == Ok(SockType::Stream);
    let is_listener = getsockopt(&borrow(fd), sockopt::AcceptConn) != Ok(false);
    (is_stream && !is_listener).then_some(found.listener)
}

/// Everything that is open, in no order.
pub(super) fn open_numbers() -> Vec<RawFd> {
    let listed = fs::read_dir("/proc/self/fd").map(|entries| {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        entries.filter_map(name).collect::<Vec<RawFd>>()
    });
    match listed {
        // The list has one number too many: that of itself, which is closed by now.
        Ok(numbers) => numbers.into_iter().filter(|number| is_open(*number)).collect(),
        // No `/proc` here, or no descriptor left in the whole system.
        Err(_) => {
            let most = RawFd::try_from(super::descriptors_max()).unwrap_or(RawFd::MAX);
            (0..most.min(SEARCHED_MAX)).filter(|number| is_open(*number)).collect()
        }
    }
}

/// Closes a number as the end of a process would: without waiting for bytes that somebody does not read.
pub(super) fn close_as_at_exit(fd: RawFd) {
    let socket = borrow(fd);
    if getsockopt(&socket, sockopt::Linger).is_ok_and(|linger| linger.l_onoff != 0 && linger.l_linger > 0) {
        let off = libc::linger {
            l_onoff: 0,
            l_linger: 0,
        };
        // Then this one waits, and the others behind it.
        nix::sys::socket::setsockopt(&socket, sockopt::Linger, &off).ok();
    }
    // Closed it is in any case.
    close(fd).ok();
}

/// For `ps`, in place of the worker's command line.
pub(super) fn show_as(name: &str) {
    let Some((start, end)) = arguments_place() else { return };
    let Some(room) = end.checked_sub(start).filter(|room| *room > 1) else {
        return;
    };
    let shown = &name.as_bytes()[..name.len().min(room - 1)];
    // SAFETY: the kernel says that the arguments of this process, which it has put on its stack, are in these bytes; this
    // process has its own copy of the stack, and nobody in it reads the arguments any more. The last byte stays zero.
    unsafe {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
        start.write_bytes(0, room);
        start.copy_from_nonoverlapping(shown.as_ptr(), shown.len());
    }
}

/// `arg_start` and `arg_end` of `proc_pid_stat(5)`.
fn arguments_place() -> Option<(usize, usize)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name before it may hold anything, spaces and parentheses too.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(48 - 3);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (start != 0).then_some((start, end))
}

fn local_address(fd: RawFd) -> Option<SocketAddr> {
    let address = getsockname::<SockaddrStorage>(fd).ok()?;
    let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::from((v4.ip(), v4.port())),
        (None, Some(v6)) => SocketAddr::from((v6.ip(), v6.port())),
        (None, None) => return None,
    };
    // A client of IPv4 at a socket for both.
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// How far numbers are tried one by one: 50 ms. Only where `/proc` is missing.
const SEARCHED_MAX: RawFd = 1 << 18;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::sys::socket::cookie;

    #[test]
    fn a_connection_is_known_by_its_listeners_address() {
        let on = |address: &str| TcpListener::bind(address).unwrap();
        let one = on("127.0.0.1:0");
        let port = one.local_addr().unwrap().port();
        let other = on("0.0.0.0:0");
        let unmarked = on("127.0.0.1:0");
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let fds = [&one, &unmarked, &other].map(|listener| listener.as_raw_fd());
        let marked = survivors(
            &[
                (fds[0], true),
                (fds[1], false),
                (fds[2], true),
                (unix.as_raw_fd(), true),
            ],
            &[],
        );
        let awaited = [&one, &unmarked, &other].map(|it| Some(it.local_addr().unwrap()));
        let awaited = [
            (awaited[0], true),
            (awaited[1], false),
            (awaited[2], true),
            (None, true),
        ];
        assert_eq!(
            survivors(&[], &awaited),
            marked,
            "a standby knows them before it has them"
        );
        assert_eq!(marked.iter().map(|it| it.listener).collect::<Vec<_>>(), [0, 2]);
        for (listener, expected) in [(&one, Some(0)), (&unmarked, None), (&other, Some(2))] {
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let server = listener.accept().unwrap().0;
            assert_eq!(listener_of(server.as_raw_fd(), &marked), expected);
            // The worker's own connection to a listener of the same cluster is nobody's client here.
            assert_eq!(listener_of(client.as_raw_fd(), &marked), None);
            assert_eq!(listener_of(listener.as_raw_fd(), &marked), None);
            let copy = server.try_clone().unwrap();
            assert_eq!(cookie(server.as_fd()), cookie(copy.as_fd()));
            assert_ne!(cookie(server.as_fd()), cookie(client.as_fd()));
        }
        let both = Survivor {
            listener: 5,
            address: SocketAddr::from(([0, 0, 0, 0], port)),
        };
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let server = one.accept().unwrap().0;
        let exact = [both, marked[0]];
        assert_eq!(listener_of(server.as_raw_fd(), &exact), Some(0), "the exact one first");
        assert_eq!(listener_of(server.as_raw_fd(), &exact[..1]), Some(5));
        drop(client);
        assert_eq!(listener_of(-5, &marked), None);
        assert_eq!(listener_of(0, &marked), None);
    }

    #[test]
    fn what_is_open_is_listed() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let open = open_numbers();
        assert!(open.contains(&one.as_raw_fd()) && open.contains(&other.as_raw_fd()));
    }

    #[test]
    fn the_kernel_tells_where_the_arguments_are() {
        let (start, end) = arguments_place().unwrap();
        let shown = fs::read("/proc/self/cmdline").unwrap();
        assert_eq!(end - start, shown.len());
    }
}
