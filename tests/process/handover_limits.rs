//! The master accepts and hands connections over: what happens when somebody can take no more.

use std::io::IoSlice;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;

use actix_cluster::{
    AtLimit, Candidate, Client, ClusterBuilder, ListenError, ListenOptions, Scheduling, SchedulingFn, ServeError,
    ServeOptions, Worker,
};
use actix_cluster_tests::fault::served_by;
use actix_cluster_tests::http;
use actix_cluster_tests::leftovers::{open_fds, rss_kib};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::Tcp;
use actix_cluster_tests::{Deadline, limit};
use actix_web::{App, web};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::handover::{cluster, tell_pid};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_087_descriptors_on_their_way_to_a_worker_that_does_not_read_stay_few",
        app: || unprivileged(3).worker(tell_pid).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let still = master.expect_ever_of(1, "ready").pid();
            master.stop_process(still);
            master.ask(&Order::Limit("nofile".to_owned(), Some(NOFILE)), "limited");
            // More than the limit for all descriptors of this user that are under way.
            for _ in 0..2 * NOFILE {
                let connect = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
                drop(connect.expect("it listens"));
            }
            let served: Vec<_> = (0..50).map(|_| std::thread::spawn(move || served_by(port))).collect();
            let deadline = Deadline::after(limit(SOON));
            while served.iter().filter(|client| client.is_finished()).count() + 1 < served.len() {
                assert!(!deadline.is_over(), "all but one at most come to those that read");
                std::thread::yield_now();
            }
            send(still, Signal::SIGCONT);
            for client in served {
                client.join().expect("no panic").expect("it is served");
            }
            assert_eq!(master.snapshot()["handover"]["lost"], 0);
        },
    },
    Scenario {
        name: "f_087_while_this_user_has_too_many_descriptors_under_way_connections_wait",
        app: || unprivileged(2).worker(clogging).main(),
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            master.ask(&Order::Limit("nofile".to_owned(), Some(NOFILE)), "limited");
            master.order(&Order::Send(1, "clog".to_owned()));
            master.expect_said("clogged");
            let clients: Vec<_> = (0..10).map(|_| std::thread::spawn(move || served_by(port))).collect();
            // Both workers have nothing to do: it is the kernel that refuses.
            waits(master, |waiting| waiting == 10);
            assert_eq!(master.snapshot()["handover"]["passed"], 0);
            master.order(&Order::Send(1, "unclog".to_owned()));
            for client in clients {
                client.join().expect("no panic").expect("it is served");
            }
            let handed = &master.snapshot()["handover"];
            assert!(handed["lost"] == 0 && handed["waiting"] == 0, "{handed}");
        },
    },
    Scenario {
        name: "f_128_while_all_are_full_a_storm_of_clients_waits_in_the_kernel",
        app: || {
            let options = ListenOptions::new().scheduling(Scheduling::RoundRobin);
            let cluster = probe::cluster().workers(2).listen_with("http", "127.0.0.1:0", options);
            cluster.worker(|worker| two_at_once(worker, AtLimit::Leave)).main()
        },
        check: storm,
    },
    Scenario {
        name: "n_092_a_full_worker_that_is_to_close_further_connections_does_not_pass_them_on",
        app: || {
            let first = SchedulingFn::new("the first", |_: &Client, workers: &[Candidate]| {
                workers.first().map(|_| 0)
            });
            let cluster = probe::cluster().workers(2).listen("http", "127.0.0.1:0");
            let cluster = cluster.schedule("http", first);
            cluster.worker(|worker| two_at_once(worker, AtLimit::Close)).main()
        },
        check: |master| {
            let port = master.expect_ready().expect("it listens");
            let first = master.expect_ever_of(1, "ready").pid();
            let held = [(); 2].map(|()| {
                let mut client = http_client(port);
                assert_eq!(client.get("/").expect("it is served").text(), first.to_string());
                client
            });
            // There is a second worker with room; it is not asked.
            let mut dropped = Tcp::connect(port).expect("it listens");
            assert_eq!(dropped.rest(), (String::new(), true));
            let deadline = Deadline::after(limit(SOON));
            while master.snapshot()["workers"][0]["stats"]["errors"] != 1 {
                assert!(!deadline.is_over(), "{}", master.snapshot());
            }
            let handed = &master.snapshot()["handover"];
            assert!(handed["repeated"] == 0 && handed["passed"] == 3, "{handed}");
            drop(held);
            // With room again it serves.
            let deadline = Deadline::after(limit(SOON));
            while http_client(port).get("/").is_err() {
                assert!(!deadline.is_over(), "it has room again");
            }
        },
    },
];

fn http_client(port: u16) -> http::Client {
    http::Client::new((Ipv4Addr::LOCALHOST, port).into(), limit(SOON))
}

fn storm(master: &mut Master) {
    let port = master.expect_ready().expect("it listens");
    let mut holding: Vec<_> = (0..4).map(|_| http_client(port)).collect();
    for client in &mut holding {
        client.get("/").expect("it is served");
    }
    let (fds, rss) = usage(master);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| Tcp::connect(port).expect("the kernel's queue has room"))
        .collect();
    for client in &mut clients {
        client.say("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    }
    waits(master, |waiting| waiting + 2 >= QUEUE);
    // They are offered round and round, and refused.
    let deadline = Deadline::after(limit(SOON));
    while master.snapshot()["handover"]["repeated"].as_u64() < Some(20) {
        assert!(!deadline.is_over(), "nobody has room");
    }
    let (more_fds, more_rss) = usage(master);
    assert!(more_fds <= fds + 64 + 8, "{fds} descriptors became {more_fds}");
    assert!(more_rss <= rss + 2048, "{rss} KiB became {more_rss} KiB");
    drop(holding);
    for client in &mut clients {
        let (answer, is_whole) = client.rest();
        assert!(is_whole && answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    let handed = &master.snapshot()["handover"];
    assert!(handed["lost"] == 0 && handed["waiting"] == 0, "{handed}");
}

fn usage(master: &Master) -> (usize, u64) {
    let (fds, rss) = (open_fds(master.pid()), rss_kib(master.pid()));
    (fds.expect("it lives"), rss.expect("it lives"))
}

/// Asks until the number of connections that wait in the master is such a one.
fn waits(master: &mut Master, is_wanted: impl Fn(u64) -> bool) {
    let deadline = Deadline::after(limit(SOON));
    loop {
        let handed = master.snapshot()["handover"].clone();
        if handed["waiting"].as_u64().is_some_and(&is_wanted) {
            return;
        }
        assert!(!deadline.is_over(), "{handed}");
    }
}

/// A cluster of a user without privileges: the kernel counts the descriptors under way of no other.
fn unprivileged(workers: u32) -> ClusterBuilder {
    if Uid::effective().is_root() {
        setgroups(&[]).expect("root may");
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setresgid(gid, gid, gid).expect("root may");
        setresuid(uid, uid, uid).expect("root may");
    }
    cluster(workers, Scheduling::RoundRobin)
}

/// As `tell_pid`, and sends more descriptors than are allowed to nobody, when it is told to.
async fn clogging(worker: Worker) -> Result<(), ListenError> {
    let mut under_way = Vec::new();
    worker.on_message(move |message| match probe::text_of(&message).as_str() {
        "clog" => under_way.extend(clog()),
        _ => under_way.clear(),
    });
    tell_pid(worker).await
}

fn clog() -> [std::os::fd::OwnedFd; 2] {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a soft limit may be as high as the hard one");
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).expect("a pair can be had");
    let fds = [ours.as_raw_fd(); 200];
    for _ in 0..=NOFILE / 200 {
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(
            ours.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &rights,
            MsgFlags::empty(),
            None,
        )
        .expect("there is room");
    }
    probe::say("clogged");
    [ours, theirs]
}

/// Serves an application with two connections at once.
async fn two_at_once(worker: Worker, at_limit: AtLimit) -> Result<(), ServeError> {
    let options = ServeOptions::new().max_connections(2).at_limit(at_limit);
    let options = options.keep_alive(limit(SOON));
    let answer = || async { std::process::id().to_string() };
    let app = move || App::new().route("/", web::get().to(answer));
    worker.serve_with("http", options, app).await
}

/// The soft limit of the master for descriptors, which is its user's for those under way.
const NOFILE: u64 = 256;
/// As every system has it.
const NOBODY: u32 = 65534;
/// Connections of one listener that wait in the master at most.
const QUEUE: u64 = 64;
const CLIENTS: usize = 400;
