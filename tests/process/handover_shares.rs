//! The master accepts and hands connections over: to whom, by which policy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use actix_cluster::{Candidate, Client, ListenError, ListenOptions, Scheduling, SchedulingFn, Worker};
use actix_cluster_tests::fault::served_by;
use actix_cluster_tests::load;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::handover::{cluster, held_by, hold, living, tell, tell_pid, until_ready};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_095_n_101_a_thousand_connections_are_shared_exactly_by_two",
        app: || cluster(2, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| shared_exactly(master, 2),
    },
    Scenario {
        name: "n_101_a_thousand_connections_are_shared_exactly_by_four",
        app: || cluster(4, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| shared_exactly(master, 4),
    },
    Scenario {
        name: "n_101_a_server_that_accepts_for_itself_gets_its_turns_too",
        app: || cluster(2, Scheduling::RoundRobin).worker(accept_for_itself).main(),
        check: |master| shared_exactly(master, 2),
    },
    Scenario {
        name: "f_126_least_connections_fills_up_whoever_holds_the_fewest",
        app: || cluster(3, Scheduling::LeastConnections).worker(hold).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut held: BTreeMap<u32, Vec<TcpStream>> = BTreeMap::new();
            for _ in 0..30 {
                let (pid, stream) = held_by(port);
                held.entry(pid).or_default().push(stream);
            }
            assert!(held.values().all(|streams| streams.len() == 10), "{held:?}");
            // One loses its connections: the next ten are its.
            let (emptied, streams) = held.pop_first().expect("three hold some");
            drop(streams);
            master.until("the ends are told", |_| true);
            let deadline = Deadline::after(limit(SOON));
            let mut got = Vec::new();
            while got.len() < 5 {
                let (pid, stream) = held_by(port);
                if pid == emptied {
                    got.push(stream);
                }
                assert!(!deadline.is_over(), "the emptied one gets none");
            }
        },
    },
    Scenario {
        name: "n_091_full_workers_refuse_and_the_rest_goes_to_one_that_is_not",
        app: || {
            let options = ListenOptions::new().scheduling(Scheduling::RoundRobin);
            let cluster = probe::cluster().workers(3);
            cluster
                .listen_with("tcp", "unix:handed.sock", options)
                .worker(take_some)
                .main()
        },
        check: |master| {
            master.expect("all_ready");
            let path = master.directory().join("handed.sock");
            let connect = |_| std::os::unix::net::UnixStream::connect(&path).expect("it listens");
            let mut clients: Vec<_> = (0..10).map(connect).collect();
            let mut served: BTreeMap<u8, usize> = BTreeMap::new();
            for client in &mut clients {
                client.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
                let mut slot = [0];
                client.read_exact(&mut slot).expect("somebody serves it");
                *served.entry(slot[0]).or_default() += 1;
            }
            assert_eq!(
                served,
                BTreeMap::from([(1, 1), (2, 9)]),
                "slot 0 takes none, slot 1 one"
            );
        },
    },
    Scenario {
        name: "sticky_clients_keep_their_slot_when_others_are_added_and_taken_away",
        app: || cluster(4, Scheduling::Sticky).worker(tell_slot).main(),
        check: sticky_under_scale,
    },
    Scenario {
        name: "a_policy_of_the_users_own_decides",
        app: || {
            let cluster = probe::cluster().workers(2).listen("tcp", "127.0.0.1:0");
            cluster
                .schedule("tcp", SchedulingFn::new("the last one", last))
                .worker(tell_slot)
                .main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let slots: BTreeSet<u32> = (0..10).map(|_| served_by(port).expect("it is served")).collect();
            assert_eq!(slots, BTreeSet::from([1]), "a policy of the user's own decides");
        },
    },
    Scenario {
        name: "n_111_an_application_serves_connections_that_the_master_accepted_also_through_a_reload",
        app: || {
            let options = ListenOptions::new().scheduling(Scheduling::LeastConnections);
            let cluster = probe::cluster().workers(2).listen_with("http", "127.0.0.1:0", options);
            cluster.worker(load::serve).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let clients = load::Load::start(port, 4);
            clients.goes_on_for(200);
            master.ask(&Order::Reload(Care::default()), "reloaded 1");
            clients.goes_on_for(200);
            clients.stop().is_flawless();
        },
    },
    Scenario {
        name: "n_119_the_count_of_open_connections_follows_those_that_were_handed_over",
        app: || {
            let policy = SchedulingFn::new("telling", |_: &Client, workers: &[Candidate]| {
                probe::say(&format!("open {}", workers[0].open));
                workers.iter().position(|worker| worker.has_room)
            });
            let cluster = probe::cluster().workers(1).listen("tcp", "127.0.0.1:0");
            cluster.schedule("tcp", policy).worker(hold).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut held: Vec<_> = (0..12).map(|_| held_by(port).1).collect();
            for open in 0..12 {
                master.expect_said(&format!("open {open}"));
            }
            held.truncate(5);
            let deadline = Deadline::after(limit(SOON));
            // Their ends are told a moment later.
            while master.count_said("open 5") < 2 {
                drop(held_by(port));
                assert!(!deadline.is_over(), "seven of twelve have ended");
            }
        },
    },
];

async fn tell_slot(worker: Worker) -> Result<(), ListenError> {
    let slot = worker.slot().index.to_string();
    tell(worker, slot).await
}

/// A thread of its own with a listener of std's: what an unmodified server does.
async fn accept_for_itself(worker: Worker) -> Result<(), ListenError> {
    let listener = worker.listener("tcp")?;
    listener.set_nonblocking(false).expect("it is a socket");
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            std::io::Write::write_all(&mut client, std::process::id().to_string().as_bytes()).ok();
        }
    });
    worker.shutdown().started().await;
    Ok(())
}

/// As many connections as its slot allows, each told the slot and held: none, one, nine.
async fn take_some(worker: Worker) -> Result<(), ListenError> {
    let slot = worker.slot().index;
    let mut incoming = worker.incoming("tcp")?;
    let mut held = Vec::new();
    for _ in 0..[0, 1, 9][slot as usize] {
        let Some(mut connection) = incoming.accept().await else {
            break;
        };
        drop(connection.write_u8(u8::try_from(slot).expect("it is small")).await);
        held.push(connection);
    }
    worker.shutdown().started().await;
    Ok(())
}

fn last(_: &Client, workers: &[Candidate]) -> Option<usize> {
    workers.iter().rposition(|worker| worker.has_room)
}

fn shared_exactly(master: &mut Master, workers: usize) {
    let port = master.expect_ready().expect("it listens");
    let first: Vec<u32> = (0..workers).map(|_| served_by(port).expect("it is served")).collect();
    let all: BTreeSet<u32> = first.iter().copied().collect();
    assert_eq!(all.len(), workers, "each has had its turn");
    for turn in 0..(1000 - workers) {
        assert_eq!(served_by(port), Ok(first[turn % workers]), "turn {turn}");
    }
    // A client may be answered before the worker's word that it took the connection is read.
    let deadline = Deadline::after(limit(SOON));
    loop {
        let handed = master.snapshot()["handover"].clone();
        let passed = handed["passed"].as_u64();
        assert!(passed <= Some(1000) && handed["lost"] == 0, "{handed}");
        if passed == Some(1000) {
            break;
        }
        assert!(!deadline.is_over(), "{handed}");
    }
}

fn sticky_under_scale(master: &mut Master) {
    let port = master.expect_ready().expect("it listens");
    let homes = || -> Vec<u32> { (1..=100).map(|n| slot_of(Ipv4Addr::new(127, 0, 0, n), port)).collect() };
    let four = homes();
    assert_eq!(four, homes(), "always the same");
    assert_eq!(four.iter().collect::<BTreeSet<_>>().len(), 4);
    master.ask(&Order::Scale(5), "scaled 5");
    until_ready(master, 5);
    let five = homes();
    let moved = four.iter().zip(&five).filter(|(before, after)| before != after);
    let moved: Vec<_> = moved.collect();
    assert!(
        moved.iter().all(|(_, after)| **after == 4),
        "only to the new one: {moved:?}"
    );
    assert!((1..=40).contains(&moved.len()), "{} of 100", moved.len());
    master.ask(&Order::Scale(4), "scaled 4");
    until_ready(master, 4);
    assert_eq!(homes(), four, "as before");
    // A slot that is vacant for a moment: its clients are served by others, and come back.
    let (victim, pid) = living(master)[1];
    send(pid, Signal::SIGKILL);
    master.expect_of(victim, "exit");
    let meanwhile = homes();
    assert!(meanwhile.iter().all(|slot| *slot < 4));
    until_ready(master, 4);
    assert_eq!(homes(), four, "as before");
}

/// Which slot serves a client with this address.
fn slot_of(client: Ipv4Addr, port: u16) -> u32 {
    let runtime = actix_rt::System::new();
    let text = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket can be had");
        socket.bind((client, 0).into()).expect("every 127.x.y.z is ours");
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut text = String::new();
        let talk = async {
            let mut stream = socket.connect(server).await?;
            stream.read_to_string(&mut text).await
        };
        let talk = tokio::time::timeout(limit(SOON), talk).await;
        talk.expect("it is served in time").expect("it is served");
        text
    });
    text.parse().expect("a slot's number")
}
