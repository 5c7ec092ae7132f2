//! Binding TCP addresses.
//!
//! Not here: Unix paths ([`super::unix_path`]) and who shares what ([`super::table`]).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, getsockname, listen, setsockopt,
    socket, sockopt,
};

use super::{common_way_out, failed};
use crate::model::{BoundAddress, ListenError, ListenOptions};

/// A listening socket, non-blocking and close-on-exec.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    /// The socket.
    pub(crate) fd: OwnedFd,
    /// Where it really listens.
    pub(crate) address: BoundAddress,
}

/// What a socket is to the others on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The only one on the port.
    Alone,
    /// The first of a group of `SO_REUSEPORT` sockets; it fails if anybody else holds the port.
    FirstOfGroup,
    /// One more of a group that the caller holds already.
    JoinGroup,
}

/// Binds `address` and listens on it.
///
/// `SO_REUSEPORT` alone would let two clusters of one user listen on one port, each getting half the connections. The
/// first socket of a group therefore *listens* without it: `listen` is the kernel's one point where of several sockets
/// bound with `SO_REUSEADDR` exactly one wins. Between bind and listen would be too early, since two racing clusters may
/// both have bound by then. Only the winner lets others join, and a stranger's later first socket still fails.
///
/// # Errors
/// When the kernel refuses a step.
pub(crate) fn bind_tcp(address: SocketAddr, options: &ListenOptions, claim: Claim) -> Result<BoundSocket, ListenError> {
    let fd = prepare_tcp(address, options, claim)?;
    start_tcp(&fd, address, options)?;
    if claim == Claim::FirstOfGroup {
        setsockopt(&fd, sockopt::ReusePort, &true)
            .map_err(|errno| failed(&address, "let the group share the port", errno, way_out(errno)))?;
    }
    let local = tcp_address(&fd).map_err(|errno| failed(&address, "read the bound address", errno, ""))?;
    Ok(BoundSocket {
        fd,
        address: BoundAddress::tcp(local),
    })
}

/// Binds `address` without listening yet, so that a caller may make sure of everything else before the kernel gives the
/// socket its first connection.
///
/// # Errors
/// When the kernel refuses a step.
pub(crate) fn prepare_tcp(address: SocketAddr, options: &ListenOptions, claim: Claim) -> Result<OwnedFd, ListenError> {
    let step = |step| move |errno| failed(&address, step, errno, way_out(errno));
    let fd = unbound(address, SockType::Stream, SockProtocol::Tcp).map_err(step("make a socket"))?;
    // Connections of a former life in TIME_WAIT must not keep the port from its next one.
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(step("set SO_REUSEADDR"))?;
    choose_families(&fd, address, options).map_err(step("set IPV6_V6ONLY"))?;
    match claim {
        Claim::JoinGroup => setsockopt(&fd, sockopt::ReusePort, &true).map_err(step("set SO_REUSEPORT"))?,
        Claim::Alone | Claim::FirstOfGroup => {}
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(step("bind"))?;
    Ok(fd)
}

/// A socket that could have this address.
pub(super) fn unbound(address: SocketAddr, kind: SockType, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)
}

/// Takes IPv4 on an IPv6 address too, or leaves it to others.
pub(super) fn choose_families(fd: &OwnedFd, address: SocketAddr, options: &ListenOptions) -> Result<(), Errno> {
    if address.is_ipv6() && (options.ipv6_only || address.ip().is_unspecified()) {
        // Said in both directions: net.ipv6.bindv6only may have turned the kernel's default round.
        setsockopt(fd, sockopt::Ipv6V6Only, &options.ipv6_only)?;
    }
    Ok(())
}

/// Listens on a socket made by [`prepare_tcp`].
///
/// # Errors
/// When the kernel refuses; `EADDRINUSE` if somebody else was faster.
pub(crate) fn start_tcp(fd: &OwnedFd, address: SocketAddr, options: &ListenOptions) -> Result<(), ListenError> {
    listen(fd, backlog(options)).map_err(|errno| failed(&address, "listen", errno, way_out(errno)))
}

/// Binds every local address: `[::]` taking IPv4 too, or `0.0.0.0` where the machine has no IPv6.
///
/// Only this form falls back, because only here nobody asked for IPv6 by name.
///
/// # Errors
/// When the kernel refuses a step for another reason.
pub(crate) fn bind_any_host(port: u16, options: &ListenOptions, claim: Claim) -> Result<BoundSocket, ListenError> {
    any_host(port, options.ipv6_only, |address| bind_tcp(address, options, claim))
}

fn any_host<T>(
    port: u16,
    ipv6_only: bool,
    mut bind: impl FnMut(SocketAddr) -> Result<T, ListenError>,
) -> Result<T, ListenError> {
    let error = match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    let has_no_ipv6 = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL]
        .into_iter()
        .any(|errno| error.errno == Some(errno as i32));
    if has_no_ipv6 && !ipv6_only {
        return bind((Ipv4Addr::UNSPECIFIED, port).into());
    }
    Err(error)
}

/// The local address of a TCP socket.
///
/// # Errors
/// `EAFNOSUPPORT` if it is no IP socket.
pub(crate) fn tcp_address(fd: impl AsFd) -> Result<SocketAddr, Errno> {
    let storage: SockaddrStorage = getsockname(fd.as_fd().as_raw_fd())?;
    let v4 = storage.as_sockaddr_in().map(|it| SocketAddrV4::from(*it).into());
    let v6 = || storage.as_sockaddr_in6().map(|it| SocketAddrV6::from(*it).into());
    v4.or_else(v6).ok_or(Errno::EAFNOSUPPORT)
}

/// The kernel cuts every backlog to `net.core.somaxconn`; -1 asks for just that, and stands for what nix calls too large.
pub(crate) fn backlog(options: &ListenOptions) -> Backlog {
    i32::try_from(options.backlog)
        .ok()
        .and_then(|backlog| Backlog::new(backlog).ok())
        .unwrap_or(Backlog::MAXALLOWABLE)
}

fn way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::EADDRINUSE => "stop the process that holds it (`ss -ltnp` shows which), or choose another port",
        Errno::EAFNOSUPPORT => "this kernel runs without IPv6: use an IPv4 address, or \"*:port\" for either",
        other => ip_way_out(other),
    }
}

/// Out of what TCP and UDP addresses have in common.
pub(super) fn ip_way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES => {
            "a port below net.ipv4.ip_unprivileged_port_start needs CAP_NET_BIND_SERVICE: grant it, lower that \
             sysctl, or choose a higher port"
        }
        Errno::EADDRNOTAVAIL => "no interface of this machine has the address: see `ip address`",
        other => common_way_out(other),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Barrier;

    use super::*;
    use crate::model::AddressType;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn tcp(address: SocketAddr, claim: Claim) -> Result<BoundSocket, ListenError> {
        bind_tcp(address, &ListenOptions::default(), claim)
    }

    fn accept_all(fd: &OwnedFd) -> usize {
        let listener = TcpListener::from(fd.try_clone().unwrap());
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    fn in_use(result: Result<BoundSocket, ListenError>) {
        let error = result.unwrap_err();
        assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
        assert!(
            error
                .detail
                .contains("EADDRINUSE: Address already in use; stop the process")
        );
    }

    #[test]
    fn n_059_n_060_the_bound_address_names_the_real_port() {
        let bound = tcp(LOCAL, Claim::Alone).unwrap();
        assert_eq!(bound.address.address, "127.0.0.1");
        assert_eq!(bound.address.address_type, AddressType::Ipv4);
        assert_eq!(bound.address.fd, None);
        assert_ne!(bound.address.port, Some(0));
        TcpStream::connect(bound.address.socket_addr().unwrap()).unwrap();
        assert_eq!(accept_all(&bound.fd), 1);
        let listener = TcpListener::from(bound.fd);
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn n_062_an_unspecified_ipv6_address_takes_ipv4_too() {
        let bound = tcp("[::]:0".parse().unwrap(), Claim::Alone).unwrap();
        let port = bound.address.port.unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        assert_eq!(accept_all(&bound.fd), 2);
        in_use(tcp((Ipv4Addr::UNSPECIFIED, port).into(), Claim::FirstOfGroup));
    }

    #[test]
    fn n_063_ipv6_only_leaves_the_ipv4_port_to_others() {
        let options = ListenOptions {
            ipv6_only: true,
            ..ListenOptions::default()
        };
        let bound = bind_tcp("[::]:0".parse().unwrap(), &options, Claim::FirstOfGroup).unwrap();
        assert_eq!(
            (bound.address.address.as_str(), bound.address.address_type),
            ("::", AddressType::Ipv6)
        );
        let port = bound.address.port.unwrap();
        tcp((Ipv4Addr::UNSPECIFIED, port).into(), Claim::Alone).unwrap();
    }

    #[test]
    fn n_089_f_116_any_host_falls_back_to_ipv4_only_where_ipv6_is_missing() {
        let bound = bind_any_host(0, &ListenOptions::default(), Claim::Alone).unwrap();
        assert_eq!(bound.address.address, "::");
        for (errno, ipv6_only, falls_back) in [
            (Errno::EAFNOSUPPORT, false, true),
            (Errno::EADDRNOTAVAIL, false, true),
            (Errno::EAFNOSUPPORT, true, false),
            (Errno::EADDRINUSE, false, false),
        ] {
            let got = any_host(80, ipv6_only, |address| {
                if address.is_ipv6() {
                    return Err(failed(&address, "bind", errno, ""));
                }
                Ok(address)
            });
            assert_eq!(got.is_ok(), falls_back, "{errno:?}");
        }
    }

    #[test]
    fn f_116_an_address_of_nobody_is_named_and_does_not_fall_back() {
        let error = tcp("[2001:db8::1]:0".parse().unwrap(), Claim::Alone).unwrap_err();
        assert_eq!(error.errno, Some(Errno::EADDRNOTAVAIL as i32));
        assert!(
            error
                .to_string()
                .contains("no interface of this machine has the address"),
            "{error}"
        );
        assert!(way_out(Errno::EACCES).contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn f_115_a_held_port_is_in_use_for_single_sockets_and_groups() {
        let single = tcp(LOCAL, Claim::Alone).unwrap();
        let taken = single.address.socket_addr().unwrap();
        in_use(tcp(taken, Claim::Alone));
        in_use(tcp(taken, Claim::FirstOfGroup));
        let group = tcp(LOCAL, Claim::FirstOfGroup).unwrap();
        let taken = group.address.socket_addr().unwrap();
        let _second = tcp(taken, Claim::JoinGroup).unwrap();
        in_use(tcp(taken, Claim::Alone));
        in_use(tcp(taken, Claim::FirstOfGroup));
    }

    #[test]
    fn the_kernel_spreads_over_a_group_made_exclusively_first() {
        for asked in [LOCAL, (Ipv6Addr::UNSPECIFIED, 0).into()] {
            let first = tcp(asked, Claim::FirstOfGroup).unwrap();
            let address = first.address.socket_addr().unwrap();
            let mut group = vec![first];
            group.extend((0..3).map(|_| tcp(address, Claim::JoinGroup).unwrap()));
            let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
            let _clients: Vec<_> = (0..200).map(connect).collect();
            let got: Vec<_> = group.iter().map(|socket| accept_all(&socket.fd)).collect();
            assert_eq!(got.iter().sum::<usize>(), 200);
            assert!(got.iter().all(|count| *count > 10), "{got:?}");
        }
    }

    #[test]
    fn of_groups_racing_for_one_port_exactly_one_wins() {
        // An address of its own, so that no other test can be given the port in between.
        let own = SocketAddr::new(Ipv4Addr::new(127, 0, 7, 1).into(), 0);
        let mut won = 0;
        for _ in 0..200 {
            let free = tcp(own, Claim::Alone).unwrap().address.socket_addr().unwrap();
            let barrier = Barrier::new(4);
            let race = || {
                barrier.wait();
                tcp(free, Claim::FirstOfGroup)
            };
            let results: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            let winners = results.iter().filter(|result| result.is_ok()).count();
            assert!(winners <= 1, "{results:?}");
            won += winners;
        }
        // Not in every round: a child of a parallel test holds a copy of the freed port between its fork and its exec.
        assert!(won >= 100, "only {won} of 200 races had a winner");
    }

    #[test]
    fn any_backlog_is_taken() {
        for backlog in [0, 1, 100_000, u32::MAX] {
            let options = ListenOptions {
                backlog,
                ..ListenOptions::default()
            };
            bind_tcp(LOCAL, &options, Claim::Alone).unwrap();
        }
    }
}
