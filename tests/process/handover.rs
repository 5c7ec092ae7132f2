//! The master accepts and hands connections over: to whom, and that none is lost on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use actix_cluster::{
    Candidate, Client, ClusterBuilder, ListenError, ListenOptions, RestartLimit, RestartType, Scheduling, SchedulingFn,
    WhenEmpty, Worker,
};
use actix_cluster_tests::fault::served_by;
use actix_cluster_tests::load;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
        name: "f_007_n_107_connections_that_a_killed_worker_had_not_acknowledged_are_served_by_others",
        app: || cluster(2, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: killed_with_connections_on_their_way,
    },
    Scenario {
        name: "n_102_f_126_a_worker_that_acknowledges_nothing_delays_no_more_than_its_window",
        app: || cluster(3, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: one_stands_still,
    },
    Scenario {
        name: "f_089_a_worker_that_leaves_gets_nothing_more_and_nobody_notices",
        app: || cluster(3, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let clients = Clients::start(port, 8);
            for worker in 1..=3 {
                clients.go_on_for(50);
                master.order(&Order::Restart(worker));
                master.expect_of(worker, "exit");
                master.expect_ever_of(worker + 3, "ready");
            }
            clients.go_on_for(50);
            clients.stop();
            let handed = &master.snapshot()["handover"];
            assert_eq!(handed["lost"], 0, "{handed}");
        },
    },
    Scenario {
        name: "f_089_what_is_queued_at_the_stop_is_served_by_the_last_ones",
        app: || cluster(2, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let clients: Vec<_> = (0..200).map(|_| asking(port)).collect();
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            for client in clients {
                // Who came after the last worker had stopped is not served, as with every other scheduling; who was
                // connected, and queued, is.
                let served = client.join().expect("the client does not panic");
                assert!(
                    served.is_ok() || served == Err(std::io::ErrorKind::ConnectionRefused),
                    "{served:?}"
                );
            }
        },
    },
    Scenario {
        name: "f_090_a_client_that_is_gone_already_harms_nobody",
        app: || cluster(2, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            for _ in 0..200 {
                reset(port);
            }
            assert!(served_by(port).is_ok());
            assert!(master.seen("error").is_empty() && master.seen("exit").is_empty());
        },
    },
    Scenario {
        name: "n_105_all_workers_are_dead_and_clients_wait_for_the_next_one",
        app: || {
            let cluster = cluster(2, Scheduling::LeastConnections).restart(RestartType::Temporary);
            cluster.when_empty(WhenEmpty::Wait).worker(tell_pid).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            for worker in 1..=2 {
                master.order(&Order::Kill(worker, Signal::SIGKILL as i32));
                master.expect_of(worker, "exit");
            }
            let clients: Vec<_> = (0..20).map(|_| asking(port)).collect();
            master.ask(&Order::Fork(Vec::new()), "forked 3");
            let pid = master.expect_ever_of(3, "ready").pid();
            for client in clients {
                assert_eq!(client.join().expect("the client does not panic"), Ok(pid));
            }
        },
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
            let options = ListenOptions::default().scheduling(Scheduling::RoundRobin);
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
            let options = ListenOptions::default().scheduling(Scheduling::LeastConnections);
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
    Scenario {
        name: "f_120_a_master_without_descriptors_accepts_again_when_it_has_some",
        app: || cluster(2, Scheduling::RoundRobin).worker(tell_pid).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let open = std::fs::read_dir(format!("/proc/{}/fd", master.pid()))
                .expect("it lives")
                .count();
            master.ask(&Order::Limit("nofile".to_owned(), Some(open as u64)), "limited");
            let clients: Vec<_> = (0..20).map(|_| asking(port)).collect();
            master.expect_log("the master cannot accept", 1);
            master.ask(&Order::Limit("nofile".to_owned(), None), "limited");
            for client in clients {
                client.join().expect("the client does not panic").expect("it is served");
            }
        },
    },
    Scenario {
        name: "f_103_a_worker_without_descriptors_loses_no_connection",
        app: || cluster(2, Scheduling::RoundRobin).worker(starving).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let well = master.expect_ever_of(2, "ready").pid();
            master.order(&Order::Send(1, "starve".to_owned()));
            master.expect_said("starved");
            for _ in 0..20 {
                assert_eq!(served_by(port), Ok(well));
            }
            let handed = &master.snapshot()["handover"];
            assert!(handed["repeated"].as_u64() > Some(0) && handed["lost"] == 0, "{handed}");
        },
    },
    Scenario {
        name: "f_140_a_killed_master_that_hands_over_leaves_nobody",
        app: || cluster(2, Scheduling::RoundRobin).worker(hold).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let mut held: Vec<_> = (0..10).map(|_| held_by(port).1).collect();
            master.signal(Signal::SIGKILL);
            master.wait();
            for stream in &mut held {
                let mut rest = Vec::new();
                // End or reset: whoever had it is gone.
                stream.read_to_end(&mut rest).ok();
            }
        },
    },
];

fn cluster(workers: u32, scheduling: Scheduling) -> ClusterBuilder {
    let options = ListenOptions::default().scheduling(scheduling);
    probe::cluster()
        .workers(workers)
        .restart_limit(RestartLimit::unlimited())
        .listen_with("tcp", "127.0.0.1:0", options)
}

async fn tell_pid(worker: Worker) -> Result<(), ListenError> {
    tell(worker, std::process::id().to_string()).await
}

async fn tell_slot(worker: Worker) -> Result<(), ListenError> {
    let slot = worker.slot().index.to_string();
    tell(worker, slot).await
}

async fn tell(worker: Worker, text: String) -> Result<(), ListenError> {
    let serve = move |mut connection: actix_cluster::Connection| {
        let text = text.clone();
        // A client that has gone needs no answer.
        async move { drop(connection.write_all(text.as_bytes()).await) }
    };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
}

/// Tells its process id and keeps the connection until the client ends it.
async fn hold(worker: Worker) -> Result<(), ListenError> {
    let serve = |mut connection: actix_cluster::Connection| async move {
        let text = format!("{:10}", std::process::id());
        if connection.write_all(text.as_bytes()).await.is_ok() {
            drop(connection.read_u8().await);
        }
    };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
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

/// As `tell_pid`, until it is told to leave itself no descriptor.
async fn starving(worker: Worker) -> Result<(), ListenError> {
    worker.on_message(|message| {
        assert_eq!(probe::text_of(&message), "starve");
        let open = std::fs::read_dir("/proc/self/fd").expect("this process lives");
        let highest = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
        let lowest_free = highest.max().unwrap_or(3);
        // What is between is filled, so that no number is free.
        let filled: Vec<_> = (0..64).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
        let limit = lowest_free + 1 + filled.len() as u64;
        let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
        nix::sys::resource::setrlimit(resource, limit, limit).expect("less is always allowed");
        let rest: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        std::mem::forget((filled, rest));
        probe::say("starved");
    });
    tell_pid(worker).await
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
    let handed = master.snapshot()["handover"].clone();
    assert_eq!(
        (handed["passed"].as_u64(), handed["lost"].as_u64()),
        (Some(1000), Some(0)),
        "{handed}"
    );
}

fn killed_with_connections_on_their_way(master: &mut Master) {
    let port = master.expect_ready().expect("it listens");
    for _ in 0..20 {
        let pids: Vec<(u64, u32)> = living(master);
        let (victim, pid) = pids[0];
        master.stop_process(pid);
        let clients: Vec<_> = (0..10).map(|_| asking(port)).collect();
        let deadline = Deadline::after(limit(SOON));
        while master.snapshot()["handover"]["passed"].as_u64() == Some(0) {
            assert!(!deadline.is_over(), "the other one serves");
        }
        send(pid, Signal::SIGKILL);
        master.expect_of(victim, "exit");
        for client in clients {
            let served = client.join().expect("the client does not panic");
            assert!(served.is_ok_and(|by| by != pid), "{served:?}");
        }
        until_ready(master, 2);
    }
    let handed = master.snapshot()["handover"].clone();
    assert_eq!(handed["lost"], 0, "{handed}");
    assert!(
        handed["repeated"].as_u64() >= Some(20),
        "each had some on their way: {handed}"
    );
}

fn one_stands_still(master: &mut Master) {
    let port = master.expect_ready().expect("it listens");
    let still = master.expect_ever_of(1, "ready").pid();
    master.stop_process(still);
    let clients: Vec<_> = (0..12).map(|_| asking(port)).collect();
    let deadline = Deadline::after(limit(SOON));
    // Those of the others are served at once, whatever the first one does.
    while clients.iter().filter(|client| client.is_finished()).count() < 11 {
        assert!(!deadline.is_over(), "eleven are served");
        std::thread::yield_now();
    }
    assert_eq!(clients.iter().filter(|client| !client.is_finished()).count(), 1);
    send(still, Signal::SIGCONT);
    let served = clients.into_iter().map(|client| client.join().expect("no panic"));
    assert_eq!(served.filter(|served| *served == Ok(still)).count(), 1);
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

/// A client that asks who serves it, on a thread of its own.
fn asking(port: u16) -> JoinHandle<Result<u32, std::io::ErrorKind>> {
    std::thread::spawn(move || served_by(port))
}

/// A connection that is held open, and by whom.
fn held_by(port: u16) -> (u32, TcpStream) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
    let mut text = [0; 10];
    stream.read_exact(&mut text).expect("it is served");
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.trim().parse().expect("a process id"), stream)
}

/// Connects and resets at once.
fn reset(port: u16) {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let no_linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &no_linger).expect("it is a socket");
}

/// Ids and process ids of the workers that can serve, by id.
fn living(master: &mut Master) -> Vec<(u64, u32)> {
    let workers = until_ready(master, 1)["workers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ready = workers.iter().filter(|worker| worker["ready"] == true);
    let of = |worker: &Value| Some((worker["id"].as_u64()?, u32::try_from(worker["pid"].as_u64()?).ok()?));
    ready.filter_map(of).collect()
}

/// Asks until so many are ready and nobody else lives.
fn until_ready(master: &mut Master, at_least: usize) -> Value {
    let deadline = Deadline::after(limit(SOON));
    loop {
        let snapshot = master.snapshot();
        let workers = snapshot["workers"].as_array().cloned().unwrap_or_default();
        let is_settled = workers
            .iter()
            .all(|worker| worker["ready"] == true && worker["state"] == "listening");
        if workers.len() >= at_least && is_settled && snapshot["target"] == snapshot["ready"] {
            return snapshot;
        }
        assert!(!deadline.is_over(), "{at_least} are not ready: {snapshot}");
    }
}

/// Clients that ask again and again, each on a new connection, and are always served.
struct Clients {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(port: u16, count: usize) -> Self {
        let (over, served) = (Arc::default(), Arc::default());
        let client = |_| {
            let over: Arc<AtomicBool> = Arc::clone(&over);
            let served: Arc<AtomicU64> = Arc::clone(&served);
            std::thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    served_by(port).expect("it is served");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = (0..count).map(client).collect();
        Self { over, served, threads }
    }

    fn go_on_for(&self, requests: u64) {
        let wanted = self.served.load(Ordering::SeqCst) + requests;
        let deadline = Deadline::after(limit(SOON));
        while self.served.load(Ordering::SeqCst) < wanted {
            assert!(!deadline.is_over(), "clients are served");
            std::thread::yield_now();
        }
    }

    fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no client went without an answer");
        }
    }
}
