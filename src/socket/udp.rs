//! Binding UDP addresses.
//!
//! Not here: who shares what ([`super::table`]), and receiving.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{SockProtocol, SockType, SockaddrStorage, bind, setsockopt, sockopt};

use super::bind::{BoundSocket, Claim, choose_families, ip_way_out, tcp_address, unbound};
use super::failed;
use crate::model::{BoundAddress, ListenAddr, ListenError, ListenOptions};

/// Binds `address`. Datagrams are queued from now on.
///
/// A group is made as for TCP, with another point at which one of several claims wins: UDP has no `listen`, so the first
/// socket is *bound* without `SO_REUSEPORT`, and lets others join only then.
///
/// # Errors
/// When the kernel refuses a step.
pub(crate) fn bind_udp(address: SocketAddr, options: &ListenOptions, claim: Claim) -> Result<BoundSocket, ListenError> {
    let asked = ListenAddr::Udp(address);
    let step = |step| {
        let asked = &asked;
        move |errno| failed(asked, step, errno, way_out(errno))
    };
    let fd = unbound(address, SockType::Datagram, SockProtocol::Udp).map_err(step("make a socket"))?;
    if options.reuse_address {
        setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(step("set SO_REUSEADDR"))?;
    }
    choose_families(&fd, address, options).map_err(step("set IPV6_V6ONLY"))?;
    if let Some(len) = options.recv_buffer_len {
        setsockopt(&fd, sockopt::RcvBuf, &(len as usize)).map_err(step("set SO_RCVBUF"))?;
    }
    if let Some(len) = options.send_buffer_len {
        setsockopt(&fd, sockopt::SndBuf, &(len as usize)).map_err(step("set SO_SNDBUF"))?;
    }
    let share_port = || setsockopt(&fd, sockopt::ReusePort, &true).map_err(step("set SO_REUSEPORT"));
    if claim == Claim::JoinGroup {
        share_port()?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(step("bind"))?;
    if claim == Claim::FirstOfGroup {
        share_port()?;
    }
    let local = tcp_address(&fd).map_err(step("read the bound address"))?;
    Ok(BoundSocket {
        fd,
        address: BoundAddress::udp(local),
    })
}

fn way_out(errno: Errno) -> &'static str {
    match errno {
        Errno::EADDRINUSE => "stop the process that holds it (`ss -lunp` shows which), or choose another port",
        Errno::EAFNOSUPPORT => "this kernel runs without IPv6: use an IPv4 address",
        other => ip_way_out(other),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
    use std::os::fd::OwnedFd;

    use nix::sys::socket::getsockopt;

    use super::*;
    use crate::model::AddressType;

    const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn udp(address: SocketAddr, claim: Claim) -> Result<BoundSocket, ListenError> {
        bind_udp(address, &ListenOptions::default(), claim)
    }

    fn with(change: impl FnOnce(&mut ListenOptions)) -> ListenOptions {
        let mut options = ListenOptions::default();
        change(&mut options);
        options
    }

    fn at(bound: &BoundSocket) -> SocketAddr {
        bound.address.socket_addr().unwrap()
    }

    fn received(fd: &OwnedFd) -> usize {
        let socket = UdpSocket::from(fd.try_clone().unwrap());
        std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
    }

    #[test]
    fn n_210_a_held_port_is_named_with_the_step_and_the_way_out() {
        let held = udp(LOCAL, Claim::Alone).unwrap();
        assert_eq!(held.address.address_type, AddressType::Udp4);
        for claim in [Claim::Alone, Claim::FirstOfGroup, Claim::JoinGroup] {
            let error = udp(at(&held), claim).unwrap_err();
            assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("cannot listen on udp:{}: bind: EADDRINUSE", at(&held))),
                "{text}"
            );
            assert!(text.contains("ss -lunp"), "{text}");
        }
    }

    #[test]
    fn n_204_ipv6_only_leaves_the_ipv4_port_to_another() {
        let six = bind_udp(
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            &with(|it| it.ipv6_only = true),
            Claim::Alone,
        )
        .unwrap();
        assert_eq!(six.address.address_type, AddressType::Udp6);
        udp((Ipv4Addr::UNSPECIFIED, at(&six).port()).into(), Claim::Alone).unwrap();
        let both = udp((Ipv6Addr::UNSPECIFIED, 0).into(), Claim::Alone).unwrap();
        assert!(udp((Ipv4Addr::UNSPECIFIED, at(&both).port()).into(), Claim::Alone).is_err());
    }

    #[test]
    fn n_205_only_who_says_so_shares_an_address() {
        let reusing = with(|it| it.reuse_address = true);
        let first = bind_udp(LOCAL, &reusing, Claim::Alone).unwrap();
        bind_udp(at(&first), &reusing, Claim::Alone).unwrap();
        udp(at(&first), Claim::Alone).unwrap_err();
    }

    #[test]
    fn the_kernel_spreads_datagrams_over_a_group_that_no_stranger_can_join() {
        let first = udp(LOCAL, Claim::FirstOfGroup).unwrap();
        let address = at(&first);
        let mut group = vec![first];
        group.extend((0..3).map(|_| udp(address, Claim::JoinGroup).unwrap()));
        assert!(udp(address, Claim::FirstOfGroup).is_err());
        assert!(udp(address, Claim::Alone).is_err());
        for _ in 0..200 {
            UdpSocket::bind(LOCAL).unwrap().send_to(b"x", address).unwrap();
        }
        let got: Vec<_> = group.iter().map(|socket| received(&socket.fd)).collect();
        assert_eq!(got.iter().sum::<usize>(), 200);
        assert!(got.iter().all(|count| *count > 10), "{got:?}");
    }

    #[test]
    fn buffers_are_as_long_as_asked() {
        let options = with(|it| (it.recv_buffer_len, it.send_buffer_len) = (Some(8192), Some(9000)));
        let bound = bind_udp(LOCAL, &options, Claim::Alone).unwrap();
        // The kernel doubles them, for its own book-keeping.
        assert_eq!(getsockopt(&bound.fd, sockopt::RcvBuf).unwrap(), 2 * 8192);
        assert_eq!(getsockopt(&bound.fd, sockopt::SndBuf).unwrap(), 2 * 9000);
    }
}
