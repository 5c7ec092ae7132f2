//! The master accepts and hands connections over: none is lost on the way, whoever dies, leaves or refuses.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_cluster::{
    ClusterBuilder, ListenError, ListenOptions, RestartLimit, RestartType, Scheduling, WhenEmpty, Worker,
};
use actix_cluster_tests::fault::served_by;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_007_n_107_i_22_connections_that_a_killed_worker_had_not_acknowledged_are_served_by_others",
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
        app: || {
            let cluster = cluster(2, Scheduling::RoundRobin).grace(Duration::from_secs(60));
            cluster.worker(tell_pid).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let pids = [1, 2].map(|worker| master.expect_ever_of(worker, "ready").pid());
            pids.iter().for_each(|pid| master.stop_process(*pid));
            let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
            let clients: Vec<TcpStream> = (0..200).map(connect).collect();
            master.signal(Signal::SIGTERM);
            master.expect("shutdown_started");
            pids.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
            for mut client in clients {
                client.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
                let mut text = String::new();
                client.read_to_string(&mut text).expect("it is served and not reset");
                assert!(text.parse().is_ok_and(|pid: u32| pids.contains(&pid)), "{text}");
            }
            assert!(master.wait().success());
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

pub(crate) fn cluster(workers: u32, scheduling: Scheduling) -> ClusterBuilder {
    let options = ListenOptions::new().scheduling(scheduling);
    probe::cluster()
        .workers(workers)
        .restart_limit(RestartLimit::unlimited())
        .listen_with("tcp", "127.0.0.1:0", options)
}

pub(crate) async fn tell_pid(worker: Worker) -> Result<(), ListenError> {
    tell(worker, std::process::id().to_string()).await
}

pub(crate) async fn tell(worker: Worker, text: String) -> Result<(), ListenError> {
    let serve = move |mut connection: actix_cluster::Connection| {
        let text = text.clone();
        // A client that has gone needs no answer.
        async move { drop(connection.write_all(text.as_bytes()).await) }
    };
    worker.incoming("tcp")?.serve_with(serve).await;
    Ok(())
}

/// Tells its process id and keeps the connection until the client ends it.
pub(crate) async fn hold(worker: Worker) -> Result<(), ListenError> {
    let serve = |mut connection: actix_cluster::Connection| async move {
        let text = format!("{:10}", std::process::id());
        if connection.write_all(text.as_bytes()).await.is_ok() {
            drop(connection.read_u8().await);
        }
    };
    worker.incoming("tcp")?.serve_with(serve).await;
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
        Box::leak(Box::new((filled, rest)));
        probe::say("starved");
    });
    tell_pid(worker).await
}

fn killed_with_connections_on_their_way(master: &mut Master) {
    let port = master.expect_ready().expect("it listens");
    for _ in 0..20 {
        let pids: Vec<(u64, u32)> = living(master);
        let (victim, pid) = pids[0];
        master.stop_process(pid);
        let passed = |master: &mut Master| master.snapshot()["handover"]["passed"].as_u64().expect("a number");
        let before = passed(master);
        let clients: Vec<_> = (0..10).map(|_| asking(port)).collect();
        let deadline = Deadline::after(limit(SOON));
        // They come in turn, as far as there is room: while the other one serves the first, the next are on their way.
        while passed(master) == before {
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

/// A client that asks who serves it, on a thread of its own.
fn asking(port: u16) -> JoinHandle<Result<u32, std::io::ErrorKind>> {
    std::thread::spawn(move || served_by(port))
}

/// A connection that is held open, and by whom.
pub(crate) fn held_by(port: u16) -> (u32, TcpStream) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(limit(SOON))).expect("a limit can be set");
    let mut text = [0; 10];
    stream.read_exact(&mut text).expect("it is served");
    let text = String::from_utf8_lossy(&text).into_owned();
    (text.trim().parse().expect("a process id"), stream)
}

/// Connects and resets at once.
pub(crate) fn reset(port: u16) {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let no_linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &no_linger).expect("it is a socket");
}

/// Ids and process ids of the workers that can serve, by id.
pub(crate) fn living(master: &mut Master) -> Vec<(u64, u32)> {
    let workers = until_ready(master, 1)["workers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ready = workers.iter().filter(|worker| worker["ready"] == true);
    let of = |worker: &Value| Some((worker["id"].as_u64()?, u32::try_from(worker["pid"].as_u64()?).ok()?));
    ready.filter_map(of).collect()
}

/// Asks until so many are ready and nobody else lives.
pub(crate) fn until_ready(master: &mut Master, at_least: usize) -> Value {
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
