//! UDP sockets in the table.

use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::model::WorkerId;

/// An address that no other test uses.
fn at(port: u16) -> ListenAddr {
    ListenAddr::Udp((Ipv4Addr::new(127, 0, 10, 1), port).into())
}

fn slot(index: u32) -> Slot {
    Slot::new("dns", index)
}

fn holder(slot: &Slot) -> Holder<'_> {
    let worker = WorkerId::new(u64::from(slot.index) + 1);
    Holder { slot, worker }
}

fn asked(address: ListenAddr, index: u32) -> ListenKey {
    ListenKey::Asked { address, index }
}

fn ask(table: &mut ListenerTable, key: &ListenKey, index: u32) -> Result<Handout, ListenError> {
    table.acquire(key, None, &ListenOptions::default(), holder(&slot(index)))
}

fn send(to: &BoundAddress) {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.send_to(b"x", to.socket_addr().unwrap()).unwrap();
}

fn received(fd: &OwnedFd) -> usize {
    let socket = UdpSocket::from(fd.try_clone().unwrap());
    std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
}

#[test]
fn one_socket_is_shared_until_its_last_holder_lets_go() {
    let mut table = ListenerTable::default();
    let key = asked(at(0), 0);
    let (first, second) = (ask(&mut table, &key, 0).unwrap(), ask(&mut table, &key, 1).unwrap());
    assert_eq!(
        (&first.address, first.scheduling),
        (&second.address, Scheduling::Shared)
    );
    assert_ne!(
        ask(&mut table, &asked(at(0), 1), 0).unwrap().address.port,
        first.address.port
    );
    send(&first.address);
    assert_eq!(received(&second.fd), 1);
    assert!(!table.release(&key, holder(&slot(0))));
    send(&first.address);
    assert_eq!(received(&first.fd), 1);
    drop((first.fd, second.fd));
    assert!(table.release(&key, holder(&slot(1))));
    UdpSocket::bind(first.address.socket_addr().unwrap()).unwrap();
}

#[test]
fn n_216_who_names_the_port_that_was_chosen_for_another_shares_its_socket() {
    let mut table = ListenerTable::default();
    let zero = asked(at(0), 0);
    let first = ask(&mut table, &zero, 0).unwrap();
    let named = asked(at(first.address.port.unwrap()), 0);
    let second = ask(&mut table, &named, 1).unwrap();
    assert_eq!(first.address, second.address);
    send(&first.address);
    assert_eq!(received(&second.fd), 1);
    // Each of the two keys has holders of its own, and the socket lives as long as either.
    assert!(table.release(&zero, holder(&slot(0))));
    drop(first.fd);
    send(&first.address);
    assert_eq!(received(&ask(&mut table, &named, 2).unwrap().fd), 1);
    // With other options there is a socket of its own or none.
    let address = at(first.address.port.unwrap());
    let mut options = ListenOptions {
        scheduling: Some(Scheduling::PerWorker),
        ..ListenOptions::default()
    };
    let error = table
        .acquire(&asked(address.clone(), 1), None, &options, holder(&slot(3)))
        .unwrap_err();
    assert!(error.detail.contains("bound already with other options"), "{error}");
    options.scheduling = None;
    options.reuse_address = true;
    let error = table
        .acquire(&asked(address, 1), None, &options, holder(&slot(3)))
        .unwrap_err();
    assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
    assert!(error.detail.contains("of this very cluster"), "{error}");
}

#[test]
fn a_socket_for_each_slot_is_kept_for_the_slots_next_worker() {
    let mut table = ListenerTable::default();
    let options = ListenOptions {
        scheduling: Some(Scheduling::PerWorker),
        ..ListenOptions::default()
    };
    let address = table.declare("dns", &at(0), &options).unwrap();
    let key = ListenKey::Named("dns".to_owned());
    let mut take = |index| ask(&mut table, &key, index).unwrap().fd;
    drop((0..4).map(&mut take).collect::<Vec<_>>());
    for _ in 0..200 {
        send(&address);
    }
    let got: Vec<usize> = (0..4).map(|index| received(&take(index))).collect();
    assert_eq!(got.iter().sum::<usize>(), 200);
    assert!(got.iter().all(|count| *count > 10), "{got:?}");
}

#[test]
fn a_tcp_listener_of_the_same_port_is_another_thing() {
    let mut table = ListenerTable::default();
    let udp = ask(&mut table, &asked(at(0), 0), 0).unwrap();
    let tcp = ListenAddr::Tcp(udp.address.socket_addr().unwrap());
    ask(&mut table, &asked(tcp, 0), 0).unwrap();
}

#[test]
fn n_203_a_number_must_be_that_of_a_bound_udp_socket() {
    use std::os::fd::AsRawFd;
    let mut table = ListenerTable::default();
    let mut take = |number| ask(&mut table, &asked(ListenAddr::UdpFd(number), 0), 0);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let handout = take(socket.as_raw_fd()).unwrap();
    assert_eq!(handout.address.socket_addr(), Some(socket.local_addr().unwrap()));
    assert_eq!(handout.address.fd, Some(socket.as_raw_fd()));
    send(&handout.address);
    assert_eq!(received(&handout.fd), 1);
    let tcp = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let error = take(tcp.as_raw_fd()).unwrap_err();
    assert_eq!(
        error.detail,
        "the descriptor is a listening TCP socket, but a UDP socket is needed"
    );
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
    let inet = nix::sys::socket::AddressFamily::Inet;
    let unbound = nix::sys::socket::socket(inet, nix::sys::socket::SockType::Datagram, flags, None).unwrap();
    assert!(
        take(unbound.as_raw_fd())
            .unwrap_err()
            .detail
            .contains("without an address")
    );
}

#[test]
fn datagrams_are_not_handed_over() {
    let options = ListenOptions {
        scheduling: Some(Scheduling::RoundRobin),
        ..ListenOptions::default()
    };
    let error = ListenerTable::default().declare("dns", &at(0), &options).unwrap_err();
    assert!(error.detail.contains("use shared or per-worker scheduling"), "{error}");
}
