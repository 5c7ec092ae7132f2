//! Tests of the table, with real sockets.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::testing::TestDir;
use super::*;
use crate::clock;
use crate::model::WorkerId;

fn local() -> ListenAddr {
    ListenAddr::Tcp((Ipv4Addr::LOCALHOST, 0).into())
}

/// An address that no other test uses, for those that let a port go and take it again.
fn own(last: u8) -> ListenAddr {
    ListenAddr::Tcp((Ipv4Addr::new(127, 0, 8, last), 0).into())
}

fn slot(index: u32) -> Slot {
    Slot::new("web", index)
}

/// Worker `index` + 1, alone in its slot.
fn holder(slot: &Slot) -> Holder<'_> {
    let worker = WorkerId::new(u64::from(slot.index) + 1);
    Holder { slot, worker }
}

fn asked(address: ListenAddr, index: u32) -> ListenKey {
    ListenKey::Asked { address, index }
}

fn with(scheduling: Scheduling) -> ListenOptions {
    ListenOptions {
        scheduling: Some(scheduling),
        ..ListenOptions::default()
    }
}

fn ask(table: &mut ListenerTable, key: &ListenKey, index: u32) -> Result<Handout, ListenError> {
    table.acquire(key, None, &ListenOptions::default(), holder(&slot(index)))
}

fn connect(address: &BoundAddress) -> TcpStream {
    TcpStream::connect(address.socket_addr().unwrap()).unwrap()
}

/// Accepts everything in the queue.
fn accept_all(fd: OwnedFd) -> Vec<TcpStream> {
    let listener = TcpListener::from(fd);
    std::iter::from_fn(|| listener.accept().ok().map(|(stream, _)| stream)).collect()
}

#[test]
fn i_023_declared_listeners_queue_clients_before_any_worker_asks() {
    let mut table = ListenerTable::default();
    let address = table.declare("http", &local(), &ListenOptions::default()).unwrap();
    let _client = connect(&address);
    let handout = ask(&mut table, &ListenKey::Named("http".to_owned()), 1).unwrap();
    assert_eq!(handout.scheduling, Scheduling::PerWorker);
    assert_eq!(accept_all(handout.fd).len(), 1);
    assert_eq!(table.address("http"), Some(&address));
    assert!(!table.release(&handout.key, holder(&slot(1))));
    connect(&address);
}

#[test]
fn unknown_and_doubled_names_are_refused_with_the_names_there_are() {
    let mut table = ListenerTable::default();
    let key = ListenKey::Named("htp".to_owned());
    assert!(
        ask(&mut table, &key, 0)
            .unwrap_err()
            .detail
            .ends_with("declared: none is")
    );
    for name in ["http", "admin"] {
        table.declare(name, &local(), &ListenOptions::default()).unwrap();
    }
    assert!(
        ask(&mut table, &key, 0)
            .unwrap_err()
            .detail
            .ends_with("declared: admin, http")
    );
    assert!(
        table
            .declare("http", &local(), &ListenOptions::default())
            .unwrap_err()
            .detail
            .contains("already")
    );
}

#[test]
fn n_062_f_118_three_workers_get_one_port_which_outlives_them() {
    for scheduling in [Scheduling::Shared, Scheduling::PerWorker] {
        let mut table = ListenerTable::default();
        let key = asked(ListenAddr::Tcp((Ipv6Addr::UNSPECIFIED, 0).into()), 0);
        let mut take = |index| {
            table
                .acquire(&key, None, &with(scheduling), holder(&slot(index)))
                .unwrap()
        };
        let addresses: Vec<_> = (0..3).map(|index| take(index).address).collect();
        assert!(addresses.iter().all(|it| *it == addresses[0] && it.port != Some(0)));
        TcpStream::connect((Ipv4Addr::LOCALHOST, addresses[0].port.unwrap())).unwrap();
        // The successor in a slot, after a crash or a reload.
        assert_eq!(take(1).address, addresses[0]);
    }
}

#[test]
fn n_085_the_second_port_0_listener_of_every_worker_is_another_shared_one() {
    let mut table = ListenerTable::default();
    let mut port = |index, slot| ask(&mut table, &asked(local(), index), slot).unwrap().address.port;
    assert_eq!(port(0, 0), port(0, 1));
    assert_eq!(port(1, 0), port(1, 1));
    assert_ne!(port(0, 0), port(1, 0));
}

#[test]
fn n_074_n_075_n_079_a_second_bind_of_a_port_is_refused_and_leaves_nothing_behind() {
    let mut table = ListenerTable::default();
    let port = ask(&mut table, &asked(own(1), 0), 1)
        .unwrap()
        .address
        .socket_addr()
        .unwrap();
    table.close_all();
    let (first, second) = (asked(port.into(), 0), asked(port.into(), 1));
    ask(&mut table, &first, 1).unwrap();
    let error = ask(&mut table, &second, 1).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
    assert!(error.detail.contains("of this very cluster"), "{error}");
    assert_eq!(table.addresses().len(), 1);
    assert!(table.release(&first, holder(&slot(1))));
    ask(&mut table, &first, 2).unwrap();
    ask(&mut table, &first, 1).unwrap();
    assert!(!table.release(&first, holder(&slot(1))));
    assert!(table.release(&first, holder(&slot(2))));
}

#[test]
fn n_082_n_083_f_115_another_clusters_port_is_in_use_until_it_is_free() {
    for scheduling in [Scheduling::Shared, Scheduling::PerWorker] {
        let (mut a, mut b) = (ListenerTable::default(), ListenerTable::default());
        let bound = a.declare("http", &own(2), &with(scheduling)).unwrap();
        a.acquire(
            &ListenKey::Named("http".to_owned()),
            None,
            &with(scheduling),
            holder(&slot(0)),
        )
        .unwrap();
        let key = asked(bound.socket_addr().unwrap().into(), 0);
        for asker in 0..2 {
            let error = b
                .acquire(&key, None, &with(scheduling), holder(&slot(asker)))
                .unwrap_err();
            assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
            assert!(!error.detail.contains("very cluster"));
        }
        a.close_all();
        assert_eq!(
            b.acquire(&key, None, &with(scheduling), holder(&slot(0)))
                .unwrap()
                .address,
            bound
        );
    }
}

#[test]
fn f_119_conflicting_options_are_an_error_for_the_later_asker() {
    let mut table = ListenerTable::default();
    let key = asked(local(), 0);
    let bound = ask(&mut table, &key, 0).unwrap().address;
    let backlog = ListenOptions {
        backlog: 7,
        ..ListenOptions::default()
    };
    for other in [backlog, with(Scheduling::Shared)] {
        let error = table.acquire(&key, None, &other, holder(&slot(1))).unwrap_err();
        assert!(error.detail.contains("bound already with other options"), "{error}");
    }
    let said_aloud = table
        .acquire(&key, None, &with(Scheduling::PerWorker), holder(&slot(1)))
        .unwrap();
    assert_eq!(said_aloud.address, bound);
}

#[test]
fn n_065_n_066_a_path_is_shared_and_gone_after_the_last_holder() {
    let dir = TestDir::new();
    let mut table = ListenerTable::default();
    let options = ListenOptions::default();
    let relative = asked(ListenAddr::Unix("s".into()), 0);
    let first = table
        .acquire(&relative, Some(dir.path()), &options, holder(&slot(0)))
        .unwrap();
    let path = dir.path().join("s");
    assert_eq!(first.key, asked(ListenAddr::Unix(path.clone()), 0));
    assert_eq!(first.scheduling, Scheduling::Shared);
    let second = table.acquire(&first.key, None, &options, holder(&slot(1))).unwrap();
    assert_eq!(second.address, first.address);
    assert!(!table.release(&first.key, holder(&slot(0))));
    UnixStream::connect(&path).unwrap();
    assert_eq!(table.release_slot(&slot(1)), [first.key]);
    assert!(!path.exists());

    let (mut a, mut b) = (ListenerTable::default(), ListenerTable::default());
    a.declare("s", &ListenAddr::Unix(path.clone()), &options).unwrap();
    let error = b.declare("s", &ListenAddr::Unix(path.clone()), &options).unwrap_err();
    assert_eq!(error.errno, Some(Errno::EADDRINUSE as i32));
    drop(b);
    UnixStream::connect(&path).unwrap();
    a.close_all();
    assert!(!path.exists());
}

#[test]
fn of_two_workers_in_a_slot_the_last_to_let_go_ends_its_share() {
    let dir = TestDir::new();
    let (mut table, path) = (ListenerTable::default(), dir.path().join("s"));
    let (key, slot) = (asked(ListenAddr::Unix(path.clone()), 0), slot(0));
    let of = |worker| Holder {
        slot: &slot,
        worker: WorkerId::new(worker),
    };
    let options = ListenOptions::default();
    for worker in [1, 2] {
        table.acquire(&key, None, &options, of(worker)).unwrap();
    }
    // Who never had it ends nothing, and nobody lets go twice.
    for worker in [2, 2, 3] {
        assert!(!table.release(&key, of(worker)), "worker {worker}");
    }
    UnixStream::connect(&path).unwrap();
    assert!(table.release(&key, of(1)));
    assert!(!path.exists());

    // A dead one neither lets go nor stands in the way of the slot's next worker.
    table.acquire(&key, None, &options, of(4)).unwrap();
    table.died(of(4));
    UnixStream::connect(&path).unwrap();
    table.acquire(&key, None, &options, of(5)).unwrap();
    assert!(table.release(&key, of(5)));
    assert!(!path.exists());

    // Of a slot that is gone nothing is left, whoever held it.
    table.acquire(&key, None, &options, of(6)).unwrap();
    table.died(of(6));
    assert_eq!(table.release_slot(&slot), [key]);
    assert!(!path.exists());
}

#[test]
fn f_117_kept_locks_hold_the_master_up_once_in_a_turn() {
    let dir = TestDir::new();
    let directory: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let kept = Flock::lock(directory, FlockArg::LockExclusiveNonblock).unwrap();
    let mut table = ListenerTable::default();
    let ask_many = |table: &mut ListenerTable| {
        let begin = clock::now();
        for index in 0..64 {
            let key = asked(ListenAddr::Unix(dir.path().join(format!("s{index}"))), 0);
            let error = ask(table, &key, 0).unwrap_err();
            assert_eq!(error.errno, Some(Errno::EWOULDBLOCK as i32), "{error}");
        }
        clock::now().since(begin)
    };
    // Each for itself waited 200 ms: 12.8 s in all.
    let took = ask_many(&mut table);
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(kept);
    // Who finds no lock needs no patience.
    ask(&mut table, &asked(ListenAddr::Unix(dir.path().join("s")), 0), 0).unwrap();
    table.begin_turn();
    assert!(table.patience.is_left());
}

#[test]
fn the_closed_socket_of_a_slot_comes_back_for_its_queue_and_is_made_anew_for_the_slot() {
    let mut table = ListenerTable::default();
    let address = table.declare("http", &local(), &ListenOptions::default()).unwrap();
    let key = ListenKey::Named("http".to_owned());
    for index in 0..2 {
        drop(table.hand_out("http", &slot(index)).unwrap());
    }
    let mut clients: Vec<_> = (0..40).map(|_| connect(&address)).collect();
    let queue = table.close_socket_of(&key, &slot(1)).expect("some of them wait in it");
    assert!(table.close_socket_of(&key, &slot(1)).is_none());
    let mut served = accept_all(queue);
    served.extend(accept_all(table.hand_out("http", &slot(0)).unwrap().fd));
    assert_eq!(served.len(), 40);
    clients.extend((0..40).map(|_| connect(&address)));
    assert_eq!(accept_all(table.hand_out("http", &slot(0)).unwrap().fd).len(), 40);
    assert!(table.close_socket_of(&key, &slot(0)).is_none(), "its queue is empty");
    assert_eq!(table.hand_out("http", &slot(1)).unwrap().address, address);
    connect(&address);
}

#[test]
fn per_worker_sockets_are_refused_where_they_do_not_exist() {
    for address in [ListenAddr::Unix("/run/x".into()), ListenAddr::Fd(0)] {
        let error = ListenerTable::default()
            .declare("x", &address, &with(Scheduling::PerWorker))
            .unwrap_err();
        assert!(error.detail.contains("use shared scheduling"), "{error}");
    }
}

#[test]
fn n_069_a_descriptor_of_the_master_serves_as_listener_again_and_again() {
    let outer = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = asked(ListenAddr::Fd(outer.as_raw_fd()), 0);
    let mut table = ListenerTable::default();
    for _ in 0..2 {
        let handout = ask(&mut table, &key, 0).unwrap();
        let _client = connect(&handout.address);
        assert_eq!(accept_all(handout.fd).len(), 1);
        assert!(table.release(&key, holder(&slot(0))));
    }
}

#[test]
fn f_097_the_listeners_of_a_slot_and_of_the_cluster_are_limited() {
    let mut table = ListenerTable::default();
    // Of one descriptor, so that the limits and not the ports are what is tried.
    let outer = TcpListener::bind("127.0.0.1:0").unwrap();
    let key = |index| asked(ListenAddr::Fd(outer.as_raw_fd()), index);
    for index in 0..1024 {
        ask(&mut table, &key(index), index / 64).unwrap();
    }
    let error = ask(&mut table, &key(1024), 99).unwrap_err();
    assert!(error.detail.contains("the cluster has 1024"), "{error}");
    let error = ask(&mut table, &key(100), 0).unwrap_err();
    assert!(error.detail.contains("slot web.0 holds 64"), "{error}");
    ask(&mut table, &key(5), 0).unwrap();
    assert_eq!(table.release_slot(&slot(0)).len(), 64);
    ask(&mut table, &key(1024), 0).unwrap();
}

#[test]
fn f_121_the_queue_of_a_dead_worker_is_served_by_the_adopter_without_a_reset() {
    let mut table = ListenerTable::default();
    let address = table.declare("http", &local(), &ListenOptions::default()).unwrap();
    let key = ListenKey::Named("http".to_owned());
    let survivor = ask(&mut table, &key, 0).unwrap();
    let victim = ask(&mut table, &key, 1).unwrap();
    let mut clients: Vec<_> = (0..400).map(|_| connect(&address)).collect();
    drop(victim);
    let mut served = accept_all(survivor.fd);
    let queued = accept_all(table.socket_of(&key, &slot(1)).unwrap().unwrap());
    assert!(queued.len() > 100, "{} in the dead worker's queue", queued.len());
    served.extend(queued);
    assert_eq!(served.len(), 400);
    for stream in &mut served {
        stream.write_all(b"!").unwrap();
    }
    for client in &mut clients {
        client.read_exact(&mut [0]).unwrap();
    }
    // The successor gets the very same socket.
    let before = table.socket_of(&key, &slot(1)).unwrap().unwrap();
    let after = ask(&mut table, &key, 1).unwrap().fd;
    let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
    assert_eq!(inode(&before), inode(&after));
    assert!(table.release_slot(&slot(1)).is_empty());
    assert!(
        table.socket_of(&key, &slot(1)).unwrap().is_some(),
        "a queue is never closed"
    );
    assert!(table.socket_of(&key, &slot(2)).unwrap().is_none());
}

/// The limit holds for the whole process: the steps run in one of their own.
#[test]
fn f_103_a_process_without_descriptors_gets_errors_and_leaves_nothing_behind() {
    let name = "socket::table::tests::f_103_steps";
    let program = std::env::current_exe().unwrap();
    let run = std::process::Command::new(program)
        .args([name, "--exact", "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by f_103 in a process of its own"]
fn f_103_steps() {
    let dir = TestDir::new();
    let unix = ListenAddr::Unix(dir.path().join("s"));
    let mut table = ListenerTable::default();
    let group = asked(local(), 9);
    ask(&mut table, &group, 0).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = || u64::from(TcpListener::bind("127.0.0.1:0").unwrap().as_raw_fd().unsigned_abs());
    let base = open();
    for (key, needs) in [(asked(local(), 0), 2), (asked(unix, 0), 3), (group, 2)] {
        for free in 0..needs {
            setrlimit(Resource::RLIMIT_NOFILE, base + free, hard).unwrap();
            let error = ask(&mut table, &key, 1).unwrap_err();
            assert_eq!(
                error.errno,
                Some(Errno::EMFILE as i32),
                "{key} with {free} free: {error}"
            );
            assert!(error.detail.contains("raise RLIMIT_NOFILE"), "{error}");
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
            assert_eq!(open(), base, "{key} with {free} free left a descriptor behind");
            assert!(!dir.path().join("s").exists());
        }
    }
    ask(&mut table, &asked(local(), 0), 1).unwrap();
}
