//! UDP sockets of the master over the lives of workers: deaths, reloads, stops, and whatever policy connections have.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as Client};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ListenError, ListenOptions, RestartType, Scheduling,
    WhenEmpty, Worker, WorkerId,
};
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::puppet::tell;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::udp::{self, ask, bound, echo, sockets_at};
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_218_udp_is_shared_whatever_the_policy_for_connections_is",
        app: || {
            if std::env::var_os(POLICY).is_none() && !actix_cluster::is_worker() {
                return with_the_policy("per-worker");
            }
            temporary(3).worker(udp::run).main()
        },
        check: |master| {
            master.expect_ready();
            let ports = [1, 2, 3].map(|worker| bound(&tell(master, worker, "bind 127.0.0.1:0")).port());
            assert_eq!(sockets_at(ports[0]), 1);
            for worker in 1..=3 {
                tell(master, worker, "echo 1");
            }
            assert!(ask((Ipv4Addr::LOCALHOST, ports[0]).into()).is_some());
        },
    },
    Scenario {
        name: "n_154_a_worker_without_sockets_is_disconnected_beside_one_with_a_udp_socket",
        app: || {
            temporary(0)
                .on_event(disconnect_one_then_all)
                .worker(bind_if_told)
                .main()
        },
        check: |master| {
            master.ask(&Order::Fork(Vec::new()), "forked 1");
            // Before that it would be stopped by SIGTERM.
            master.sees(1, "online");
            master.order(&Order::Fork(vec![("BOUND".to_owned(), "y".to_owned())]));
            master.hears("all are gone");
            for worker in [1, 2] {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
            }
            assert_eq!(master.counts_of(1, ["listening", "disconnect", "exit"]), [0, 1, 1]);
            assert_eq!(master.counts_of(2, ["listening", "disconnect", "exit"]), [1, 1, 1]);
        },
    },
    Scenario {
        name: "a_declared_udp_socket_keeps_what_arrives_while_nobody_lives",
        app: || declared(Scheduling::Shared, 1),
        check: |master| keeps_over_a_kill(master, 1),
    },
    Scenario {
        name: "a_udp_socket_of_a_slot_keeps_what_arrives_while_its_worker_is_dead",
        app: || declared(Scheduling::PerWorker, 3),
        check: |master| keeps_over_a_kill(master, 3),
    },
    Scenario {
        name: "no_datagram_is_lost_in_a_reload_of_those_who_share_a_socket",
        app: || declared(Scheduling::Shared, 3),
        check: |master| {
            master.expect_ready();
            let address = declared_at(master);
            master.order(&Order::Reload(probe::Care::default()));
            let mut answered = BTreeSet::new();
            // Workers 4 to 6 are the new ones: their answers, and nobody else's, end the row.
            let deadline = Deadline::after(limit(Duration::from_secs(30)));
            while master.seen("exit").len() < 3 {
                assert!(!deadline.is_over(), "the reload does not end");
                answered.insert(ask(address).expect("an answer to each question"));
            }
            assert!(answered.iter().any(|worker| *worker > 3), "{answered:?}");
            assert!(ask(address).is_some_and(|worker| worker > 3));
        },
    },
    Scenario {
        name: "what_had_arrived_at_the_stop_is_received",
        app: || {
            temporary(1)
                .listen_udp("dns", "127.0.0.1:0")
                .worker(count_at_the_stop)
                .main()
        },
        check: |master| {
            let address = declared_at(master);
            let client = Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
            for _ in 0..50 {
                client.send_to(b"x", address).expect("it is bound");
            }
            master.order(&Order::Disconnect(1));
            master.hears("received 50");
            assert_eq!(master.sees(1, "exit").code(), Some(0));
        },
    },
];

const POLICY: &str = "ACTIX_CLUSTER_SCHED_POLICY";

fn temporary(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().workers(workers).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

/// This very program with the variable set, as the master.
fn with_the_policy(policy: &str) -> ExitCode {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().expect("a running program has a path");
    let error = std::process::Command::new(program).env(POLICY, policy).exec();
    panic!("it cannot be executed again: {error}");
}

/// Echoes on a declared socket with its own id.
fn declared(scheduling: Scheduling, workers: u32) -> ExitCode {
    let options = ListenOptions::new().scheduling(scheduling);
    let cluster = probe::cluster().workers(workers).when_empty(WhenEmpty::Wait);
    let serve = |worker: Worker| async move {
        let socket = worker.udp_socket("dns")?;
        echo(&socket, worker.id().get()).await;
        Ok::<_, ListenError>(())
    };
    cluster
        .listen_udp_with("dns", "127.0.0.1:0", options)
        .worker(serve)
        .main()
}

fn declared_at(master: &Master) -> SocketAddr {
    let listening = master.sees(1, "listening");
    let port = listening.data()["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    (Ipv4Addr::LOCALHOST, port.expect("it has a port")).into()
}

/// Everybody is stopped and killed with datagrams in their sockets; the successors answer each of them.
fn keeps_over_a_kill(master: &mut Master, workers: u64) {
    master.expect_ready();
    let address = declared_at(master);
    let pids: Vec<u32> = (1..=workers).map(|worker| master.sees(worker, "fork").pid()).collect();
    for pid in &pids {
        master.stop_process(*pid);
    }
    let clients: Vec<Client> = (0..20)
        .map(|_| Client::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free"))
        .collect();
    for client in &clients {
        client.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
        client.send_to(b"who", address).expect("it is bound");
    }
    for worker in 1..=workers {
        master.order(&Order::Kill(worker, Signal::SIGKILL as i32));
    }
    for client in &clients {
        let mut buf = [0; 32];
        let len = client.recv(&mut buf).expect("what had arrived is answered");
        let worker: u64 = String::from_utf8_lossy(&buf[..len]).parse().expect("a worker's id");
        assert!(worker > workers);
    }
}

async fn bind_if_told(worker: Worker) -> Result<(), ListenError> {
    let socket = match std::env::var_os("BOUND") {
        Some(_) => Some(worker.bind_udp("127.0.0.1:0").await?),
        None => None,
    };
    probe::idle(&worker).await;
    drop(socket);
    Ok(())
}

/// Worker 1 at the second one's `listening`, and everybody at its `disconnect`.
fn disconnect_one_then_all(event: &ClusterEvent, handle: &ClusterHandle) {
    let id = event.worker.as_ref().map(|worker| worker.id.get());
    let handle = handle.clone();
    match (id, &event.kind) {
        (Some(2), EventKind::Listening(_)) => {
            actix_rt::spawn(async move { handle.disconnect(WorkerId::new(1)).await.expect("it lives") });
        }
        (Some(1), EventKind::Disconnect) => {
            actix_rt::spawn(async move {
                handle.disconnect_all().await.expect("the cluster runs");
                probe::say("all are gone");
            });
        }
        _ => {}
    }
}

/// Receives nothing before it is told to stop.
async fn count_at_the_stop(worker: Worker) -> Result<(), ListenError> {
    let socket = worker.udp_socket("dns")?;
    worker.shutdown().started().await;
    let mut count = 0;
    while let Some(received) = socket.next(&mut [0; 8]).await {
        received.expect("nothing went wrong before");
        count += 1;
    }
    probe::say(&format!("received {count}"));
    Ok(())
}
