//! Listening: declared and asked for, shared, refused, given back.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{ExitCode, Stdio};

use actix_cluster::WhenEmpty;
use actix_cluster_tests::leftovers::listening_sockets;
use actix_cluster_tests::master::{Master, SOON, Seen};
use actix_cluster_tests::outside::wait_for_file;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::puppet::{self, bound, tell};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_059_n_060_n_085_every_worker_that_asks_for_port_0_gets_the_same_one",
        app: two_puppets,
        check: |master| {
            master.expect_ready();
            let first = listens(master, 1, "bind 127.0.0.1:0");
            let payload = json!({"address": "127.0.0.1", "port": first.port(), "address_type": "4", "fd": null});
            assert_ne!(first.port(), 0);
            assert_eq!(*master.seen("listening")[0].data(), payload);
            let second = listens(master, 1, "bind 127.0.0.1:0");
            assert_ne!(first, second);
            assert_eq!(listens(master, 2, "bind 127.0.0.1:0"), first);
            assert_eq!(listens(master, 2, "bind 127.0.0.1:0"), second);
            assert_eq!(served_by(first), BTreeSet::from([1, 2]));
            assert_eq!(served_by(second), BTreeSet::from([1, 2]));
        },
    },
    Scenario {
        name: "n_062_an_unspecified_ipv6_address_serves_ipv4_clients_too",
        app: || {
            probe::cluster()
                .workers(3)
                .when_empty(WhenEmpty::Wait)
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            if !has_ipv6() {
                return eprintln!("skipped: this machine has no IPv6");
            }
            master.expect_ready();
            let addresses = [1, 2, 3].map(|worker| listens(master, worker, "bind [::]:0"));
            assert!(addresses.iter().all(|address| *address == addresses[0]));
            let payloads: BTreeSet<_> = master
                .seen("listening")
                .iter()
                .map(|seen| seen.data().to_string())
                .collect();
            assert_eq!(payloads.len(), 1);
            served_by((Ipv4Addr::UNSPECIFIED, addresses[0].port()).into());
            all_disconnect(master, &[1, 2, 3]);
        },
    },
    Scenario {
        name: "n_063_with_ipv6_only_the_ipv4_port_is_free_for_others",
        app: || {
            probe::cluster()
                .workers(3)
                .when_empty(WhenEmpty::Wait)
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            if !has_ipv6() {
                return eprintln!("skipped: this machine has no IPv6");
            }
            master.expect_ready();
            let addresses = [1, 2, 3].map(|worker| listens(master, worker, "bind-v6only [::]:0"));
            let payload = json!({"address": "::", "port": addresses[0].port(), "address_type": "6", "fd": null});
            let listening = master.seen("listening");
            assert_eq!(listening.iter().map(Seen::data).collect::<Vec<_>>(), [&payload; 3]);
            // An address of its own, which nobody else's port is on; a listener for both families would be in its way.
            drop(TcpListener::bind((master.own_host(), addresses[0].port())).unwrap());
            all_disconnect(master, &[1, 2, 3]);
        },
    },
    Scenario {
        name: "n_065_n_066_n_067_n_087_a_relative_path_in_a_deep_directory",
        app: || {
            if actix_cluster::is_worker() {
                wait_for_file("unix-socket-dir");
                std::env::set_current_dir("unix-socket-dir").unwrap();
            }
            probe::cluster().workers(2).worker(puppet::run).main()
        },
        check: |master| {
            std::fs::create_dir(master.directory().join("unix-socket-dir")).unwrap();
            let directory = std::fs::canonicalize(master.directory())
                .unwrap()
                .join("unix-socket-dir");
            master.expect_ready();
            let name = "A".repeat(84);
            let path = directory.join(&name);
            let path_text = path.to_str().unwrap().to_owned();
            assert!(path_text.len() > 108, "a sun_path would hold it");
            // Twice, because what is given back must be free for the same worker again.
            for count in 1..=2 {
                let answer = tell(master, 1, &format!("bind-0777 unix:{name}"));
                let number = answer.split(' ').nth(1).unwrap().to_owned();
                assert_eq!(answer, format!("bound {number} {path_text}"));
                assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
                let serving = tell(master, 1, &format!("serve {number}"));
                let event = master.expect_count_of(1, "listening", count).pop().unwrap();
                let payload = json!({"address": path_text, "port": null, "address_type": "unix", "fd": null});
                assert_eq!(*event.data(), payload);
                // Shared, whatever the worker's own name for it.
                let other = tell(master, 2, &format!("bind-0777 unix:./{name}"));
                assert!(other.ends_with(&path_text), "{other}");
                tell(master, 2, &format!("close {}", other.split(' ').nth(1).unwrap()));
                assert!(path.exists());
                tell(master, 1, &format!("close {}", serving.trim_start_matches("serves ")));
                becomes("the path is removed", || !path.exists());
            }
        },
    },
    Scenario {
        name: "n_066_the_path_of_a_worker_that_is_gone_for_good_is_removed",
        app: || {
            let once = probe::cluster().restart(actix_cluster::RestartType::Temporary);
            once.when_empty(WhenEmpty::Wait).worker(puppet::run).main()
        },
        check: |master| {
            master.expect_ready();
            let answer = tell(master, 1, "bind unix:socket");
            assert!(answer.starts_with("bound "), "{answer}");
            let path = master.directory().join("socket");
            assert!(path.exists());
            tell(master, 1, "close-channel");
            let exit = master.expect_ever_of(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            becomes("the path is removed", || !path.exists());
        },
    },
    Scenario {
        name: "n_069_n_086_a_descriptor_number_means_the_masters",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            // Here descriptor 0 of the master is a pipe, and of the worker /dev/null.
            master.expect_ready();
            let refused = tell(master, 1, "bind fd:0");
            assert!(
                refused.starts_with("refused 0 ") && refused.contains("pipe"),
                "{refused}"
            );
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let mut activated = Master::start_with("n_069_n_086_serve_descriptor_0", |command| {
                command.stdin(Stdio::from(OwnedFd::from(listener)));
            });
            let listening = activated.expect_of(1, "listening");
            let payload = json!({"address": "127.0.0.1", "port": address.port(), "address_type": "4", "fd": 0});
            assert_eq!(*listening.data(), payload);
            assert_eq!(served_by(address), BTreeSet::from([1]));
            activated.signal(Signal::SIGTERM);
            assert!(activated.wait().success());
        },
    },
    Scenario {
        name: "n_069_n_086_serve_descriptor_0",
        app: || {
            let body = |worker: actix_cluster::Worker| async move {
                use tokio::io::AsyncWriteExt;
                let answer = |mut client: actix_cluster::Connection| async move {
                    client.write_all(b"1\n").await.ok();
                };
                // The suite itself runs this with a pipe there, and then there is nothing to serve.
                match worker.bind("fd:0").await {
                    Ok(listener) => listener.incoming().unwrap().serve_with(answer).await,
                    Err(_) => probe::idle(&worker).await,
                }
            };
            probe::cluster().worker(body).main()
        },
        check: |master| {
            let error = master.expect_count_of(1, "error", 1);
            assert_eq!(error[0].data()["listen"]["address"], "fd:0");
        },
    },
    Scenario {
        name: "n_073_each_worker_listens_on_a_socket_of_its_own_on_one_port",
        app: two_puppets,
        check: |master| {
            master.expect_ready();
            let address = listens(master, 1, "bind-per-worker 127.0.0.1:0");
            assert_eq!(listens(master, 2, "bind-per-worker 127.0.0.1:0"), address);
            assert_eq!(listening_sockets(address), 2);
            assert_eq!(served_by(address), BTreeSet::from([1, 2]));
            all_disconnect(master, &[1, 2]);
        },
    },
    Scenario {
        name: "n_074_n_075_n_086_a_workers_own_listener_is_told_and_not_shared",
        app: two_puppets,
        check: |master| {
            master.expect_ready();
            let own: Vec<_> = [1, 2]
                .map(|worker| bound(&tell(master, worker, "own 127.0.0.1:0")))
                .into();
            assert_ne!(own[0].port(), own[1].port());
            for (worker, address) in [(1, own[0]), (2, own[1])] {
                let listening = master.expect_count_of(worker, "listening", 1);
                assert_eq!(listening[0].data()["port"], address.port());
                assert_eq!(listening[0].state(), "listening");
            }
            let shared = bound(&tell(master, 1, "bind 127.0.0.1:0"));
            assert_eq!(bound(&tell(master, 2, "bind 127.0.0.1:0")), shared);
            in_use(&tell(master, 2, &format!("own {}", own[0])));
            in_use(&tell(master, 2, &format!("own {shared}")));
        },
    },
    Scenario {
        name: "n_076_n_077_a_bind_that_is_given_up_leaves_nothing",
        app: two_puppets,
        check: |master| {
            master.expect_ready();
            let address = reserve(master, 1);
            for verb in ["abandon", "abandon", "abandon"] {
                tell(master, 1, &format!("{verb} {address}"));
            }
            // While the answers are still on their way: the last request supersedes the others.
            let answer = tell(master, 1, &format!("bind {address}"));
            assert_eq!(bound(&answer), address);
            assert_eq!(listening_sockets(address), 1);
            // It is a share like any other.
            assert_eq!(bound(&tell(master, 2, &format!("bind {address}"))), address);
            let number = answer.split(' ').nth(1).unwrap();
            tell(master, 1, &format!("close {number}"));
            tell(master, 2, "close 1");
            becomes("nobody listens", || listening_sockets(address) == 0);
            tell(master, 1, &format!("abandon {address}"));
            // The answer has come and was given back before this one is asked.
            let other = bound(&tell(master, 1, "bind 127.0.0.1:0"));
            assert_ne!(other, address);
            becomes("nobody listens", || listening_sockets(address) == 0);
            assert!(master.seen("listening").is_empty());
        },
    },
    Scenario {
        name: "n_078_n_080_n_081_n_083_listening_again_after_closing",
        app: || {
            probe::cluster()
                .workers(2)
                .when_empty(WhenEmpty::Wait)
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            master.expect_ready();
            for (verb, stays) in [
                ("bind-shared", "127.0.70.1:0"),
                ("bind-per-worker", "127.0.70.2:0"),
                ("bind-round-robin", "127.0.70.3:0"),
            ] {
                let address = listens(master, 1, &format!("{verb} {stays}"));
                for _ in 0..2 {
                    // Two at a time, closed and asked for again.
                    let answers = [0, 1].map(|_| tell(master, 2, &format!("{verb} {stays}")));
                    assert_eq!(bound(&answers[0]), address);
                    assert_ne!(bound(&answers[1]), address);
                    for answer in answers {
                        tell(master, 2, &format!("close {}", answer.split(' ').nth(1).unwrap()));
                    }
                }
                // With worker 1 alone, the second listener of the address is gone and the first still serves.
                assert_eq!(served_by(address), BTreeSet::from([1]));
            }
            tell(master, 2, "close-channel");
            let exit = master.expect_ever_of(2, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            master.expect_ever_of(3, "ready");
            all_disconnect(master, &[1, 3]);
        },
    },
    Scenario {
        name: "n_079_n_082_n_083_a_refused_bind_is_no_burden_for_the_next_one",
        app: two_puppets,
        check: |master| {
            master.expect_ready();
            let address = reserve(master, 1);
            let bind = format!("bind {address}");
            let held = tell(master, 1, &bind);
            assert_eq!(bound(&held), address);
            in_use(&tell(master, 1, &bind));
            tell(master, 1, &format!("close {}", held.split(' ').nth(1).unwrap()));
            let held = tell(master, 2, &bind);
            assert_eq!(bound(&held), address);
            assert_eq!(bound(&tell(master, 1, &bind)), address);
            // Another cluster is refused as long as this one holds the port, and not longer.
            let name = "n_079_n_082_n_083_a_refused_bind_is_no_burden_for_the_next_one";
            let mut other = Master::start_with(name, |_| {});
            other.expect_ready();
            in_use(&tell(&mut other, 1, &bind));
            assert_eq!(
                other.expect_count_of(1, "error", 1)[0].data()["listen"]["errno"],
                Errno::EADDRINUSE as i32
            );
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            assert_eq!(bound(&tell(&mut other, 1, &bind)), address);
            other.finish();
        },
    },
    Scenario {
        name: "n_087_n_088_n_089_one_event_for_each_listener_after_the_worker_has_it",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let host = tell(master, 1, "bind *:0");
            let v4 = tell(master, 1, "bind 127.0.0.1:0");
            // Bound, which only the worker knows; it says that it listens when it accepts.
            assert!(master.seen("listening").is_empty());
            tell(master, 1, "serve 1");
            let event = master.expect_count_of(1, "listening", 1).pop().unwrap();
            let port = bound(&host).port();
            let (address, kind) = if has_ipv6() { ("::", "6") } else { ("0.0.0.0", "4") };
            let payload = json!({"address": address, "port": port, "address_type": kind, "fd": null});
            assert_eq!(*event.data(), payload);
            served_by((Ipv4Addr::LOCALHOST, port).into());
            tell(master, 1, "serve 2");
            let event = master.expect_count_of(1, "listening", 2).pop().unwrap();
            assert_eq!(event.data()["port"], bound(&v4).port());
            assert_eq!(tell(master, 1, "echo done"), "done");
            assert_eq!(master.seen("listening").len(), 2);
        },
    },
];

fn two_puppets() -> ExitCode {
    probe::cluster()
        .workers(2)
        .when_empty(WhenEmpty::Wait)
        .worker(puppet::run)
        .main()
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// Binds, serves, and waits for the event.
fn listens(master: &mut Master, worker: u64, bind: &str) -> SocketAddr {
    let answer = tell(master, worker, bind);
    let address = bound(&answer);
    let number = answer.split(' ').nth(1).expect("an answer names the listener");
    master.order(&Order::Send(worker, format!("serve {number}")));
    let listening = master.expect_of(worker, "listening");
    assert_eq!(
        (listening.data()["port"].as_u64(), listening.state()),
        (Some(address.port().into()), "listening")
    );
    address
}

/// An address of its own, with a port that nobody holds.
fn reserve(master: &mut Master, worker: u64) -> SocketAddr {
    let host = master.own_host();
    let answer = tell(master, worker, &format!("bind {host}:0"));
    let address = bound(&answer);
    tell(
        master,
        worker,
        &format!("close {}", answer.split(' ').nth(1).expect("a number")),
    );
    becomes("nobody listens", || listening_sockets(address) == 0);
    address
}

fn in_use(answer: &str) {
    assert!(
        answer.starts_with(&format!("refused {} ", Errno::EADDRINUSE as i32)),
        "{answer}"
    );
}

/// Connects until each of the clients was told by whom it is served; who it was.
fn served_by(address: SocketAddr) -> BTreeSet<u64> {
    let ask = |_| {
        let mut text = String::new();
        TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
        text.trim().parse().unwrap()
    };
    (0..40).map(ask).collect()
}

fn becomes(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Deadline::after(limit(SOON));
    while !is_so() {
        assert!(!deadline.is_over(), "{what}: not within {SOON:?}");
        std::thread::yield_now();
    }
}

/// Each worker is disconnected, and ends with code 0.
fn all_disconnect(master: &mut Master, workers: &[u64]) {
    for worker in workers {
        master.order(&Order::Disconnect(*worker));
    }
    let wanted: Vec<_> = workers.iter().map(|worker| (*worker, "exit")).collect();
    for exit in master.expect_all(&wanted) {
        assert_eq!((exit.code(), exit.signal()), (Some(0), None));
        assert_eq!(exit.exited_after_disconnect(), Some(true));
    }
}
