//! The flight recorder: what a worker was doing is known although it was killed, aborted or hangs.
//!
//! `ACTIX_CLUSTER_SOAK=1` kills a thousand workers in the middle of their markers instead of two hundred.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

use actix_cluster::{
    ClusterBuilder, EventKind, ReadyWhen, RestartLimit, ServeError, WhenEmpty, Worker, WorkerId, WorkerSpec,
};
use actix_cluster_tests::leftovers::{open_fds, rss_kib};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit, stuck};
use actix_web::{App, HttpRequest, web};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "flight_recorder_a_killed_worker_leaves_the_requests_it_was_in_and_its_last_markers",
        app: || serving().main(),
        check: |master| {
            let words = kill_in_a_request(master, 1, "/spin");
            let pid = master.once(1, "fork").pid();
            let running: Vec<&Value> = requests(&words).filter(|request| request["tid"].is_number()).collect();
            assert_eq!(running.len(), 1, "{words}");
            assert_eq!(
                (&running[0]["line"], &running[0]["tid"]),
                (&json!("GET /spin"), &json!(pid))
            );
            // Those that only wait are there too; one that was answered is not, and no query ever.
            let mut lines: Vec<_> = requests(&words).map(|it| it["line"].as_str().unwrap()).collect();
            lines.sort_unstable();
            assert_eq!(lines, ["GET /spin", "GET /wait", "by hand"], "{words}");
            assert_eq!(words["phase"], "running");
            let texts: Vec<_> = marks(&words).map(|it| it["text"].as_str().unwrap()).collect();
            assert_eq!(texts, ["up", r"two\nlines", "in /wait", "in /spin"]);
            assert_eq!(words["more_requests"], 0);
            // An orderly end has last words too.
            master.once(2, "ready");
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(last_words(master, 2)["phase"], "ending");
        },
    },
    Scenario {
        name: "flight_recorder_a_worker_that_aborts_names_the_request_that_did_it",
        app: || serving().main(),
        check: |master| {
            master.expect_ready();
            let _connection = ask(master, "/abort?token=secret");
            let exit = master.expect_of(1, "exit");
            assert_eq!(exit.signal(), Some(6));
            let words = &exit.data()["last_words"];
            assert_eq!(requests(words).next().unwrap()["line"], "GET /abort", "{words}");
            assert!(!exit.0.to_string().contains("secret"));
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "flight_recorder_a_worker_that_hangs_is_read_while_it_hangs",
        app: || {
            let cluster = stuck::monitored(stuck::config(), serving());
            let tell = |event: &actix_cluster::ClusterEvent, handle: &actix_cluster::ClusterHandle| {
                if let (EventKind::Unhealthy(_), Some(worker)) = (&event.kind, &event.worker)
                    && let Some(record) = handle.flight_record(worker.id)
                {
                    let lines: Vec<&str> = record.running().map(|request| request.line.as_str()).collect();
                    probe::say(&format!("it hangs in {lines:?}"));
                }
            };
            cluster.on_event(tell).main()
        },
        check: |master| {
            master.expect_ready();
            let _connection = ask(master, "/spin");
            master.hears(r#"it hangs in ["GET /spin"]"#);
            let evidence = master.sees(1, "unhealthy").data()["evidence"]["flight"].clone();
            let words = last_words(master, 1);
            for record in [&evidence, &words] {
                assert_eq!(requests(record).next().unwrap()["line"], "GET /spin", "{record}");
            }
            assert!(words["heartbeats"].as_u64().unwrap() > 0, "{words}");
            master.once(2, "ready");
        },
    },
    Scenario {
        name: "flight_recorder_a_foreign_program_and_a_spec_without_one_leave_no_record",
        app: || {
            let shell = WorkerSpec::new("shell", 1)
                .exec("/bin/sh")
                .ready_when(ReadyWhen::Spawned);
            let shell = shell
                .args(["-c", "kill -9 $$"])
                .restart(actix_cluster::RestartType::Temporary);
            let bare = WorkerSpec::new("bare", 1).flight_recorder(0);
            let cluster = probe::cluster().when_empty(WhenEmpty::Wait).flight_recorder(SIZE);
            let cluster = cluster.spec(shell).spec(bare).worker(idle);
            let tell = |event: &actix_cluster::ClusterEvent, handle: &actix_cluster::ClusterHandle| {
                if let (EventKind::Exit(_), Some(worker)) = (&event.kind, &event.worker) {
                    let record = handle.flight_record(worker.id);
                    probe::say(&format!("{} left {}", worker.slot.spec, record.is_some()));
                    assert!(handle.flight_record(WorkerId::new(99)).is_none());
                }
            };
            cluster.on_event(tell).main()
        },
        check: |master| {
            master.hears("shell left false");
            for (worker, spec, left) in [(3, "bare", false), (1, "worker", true)] {
                let pid = master.once(worker, "ready").pid();
                send(pid, Signal::SIGKILL);
                master.hears(&format!("{spec} left {left}"));
                assert_eq!(last_words(master, worker).is_object(), left);
            }
        },
    },
    Scenario {
        name: "flight_recorder_every_marker_of_a_worker_killed_while_it_writes_is_whole_and_the_last_is_there",
        app: || {
            let cluster = probe::cluster().restart_limit(RestartLimit::unlimited());
            let cluster = cluster.flight_recorder(SIZE);
            cluster.worker(mark_without_end).main()
        },
        check: kill_while_marking,
    },
];

/// A cluster of one worker with a recorder, that serves on `http`.
fn serving() -> ClusterBuilder {
    let cluster = probe::cluster().listen("http", "127.0.0.1:0");
    cluster.flight_recorder(SIZE).worker(serve)
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    // No core file in the tests' folder.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("a limit can be lowered");
    worker.mark("up");
    worker.mark("two\nlines");
    let _by_hand = worker.note_request("by hand");
    let answering = worker.clone();
    let answer = move |request: HttpRequest| {
        let worker = answering.clone();
        async move {
            let path = request.path().to_owned();
            if path != "/" {
                worker.mark(&format!("in {path}"));
                probe::say(&format!("in {path}"));
            }
            match path.as_str() {
                "/spin" => loop {
                    std::hint::spin_loop();
                },
                "/wait" => std::future::pending::<()>().await,
                "/abort" => std::process::abort(),
                _ => {}
            }
            "x"
        }
    };
    let routes = move || App::new().default_service(web::to(answer));
    worker.serve("http", routes).await
}

/// Sends a request and does not wait for an answer.
fn ask(master: &Master, path: &str) -> TcpStream {
    let port = master.port();
    let mut connection = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    write!(connection, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("it is open");
    connection
}

/// Kills the worker when it is in this request, beside one that waits and one that was answered; its last words.
fn kill_in_a_request(master: &mut Master, worker: u64, path: &str) -> Value {
    master.expect_ready();
    let port = master.port();
    let mut client = actix_cluster_tests::http::Client::new(([127, 0, 0, 1], port).into(), limit(SOON));
    client.get("/").expect("it answers");
    let _waiting = ask(master, "/wait?token=secret");
    master.expect_said("in /wait");
    let _asked = ask(master, path);
    master.expect_said(&format!("in {path}"));
    send(master.once(worker, "fork").pid(), Signal::SIGKILL);
    last_words(master, worker)
}

fn last_words(master: &Master, worker: u64) -> Value {
    master.sees(worker, "exit").data()["last_words"].clone()
}

fn requests(words: &Value) -> impl Iterator<Item = &Value> {
    words["requests"].as_array().expect("there is a record").iter()
}

fn marks(words: &Value) -> impl Iterator<Item = &Value> {
    words["marks"].as_array().expect("there is a record").iter()
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

/// Writes markers as fast as it can, and now and then to a file which is the last that is surely complete.
async fn mark_without_end(worker: Worker) {
    let file = fs::File::create(format!("marked-{}", worker.id())).expect("the private directory is writable");
    let marking = worker.clone();
    std::thread::spawn(move || {
        for n in 1_u64.. {
            marking.mark(&text_of(n));
            if n % 64 == 0 {
                file.write_all_at(&n.to_ne_bytes(), 0).expect("the file is open");
            }
        }
    });
    probe::idle(&worker).await;
}

/// A marker that says its number at both ends and in its length.
fn text_of(n: u64) -> String {
    format!("{n} {} {n}", "x".repeat(usize::try_from(n % 150).expect("it is small")))
}

fn kill_while_marking(master: &mut Master) {
    let kills: u64 = if std::env::var_os("ACTIX_CLUSTER_SOAK").is_some() {
        1_000
    } else {
        200
    };
    let (mut fds, mut rss) = (0, 0);
    let (mut shown, mut most_behind) = (0, 0);
    for worker in 1..=kills {
        let pid = master.once(worker, "ready").pid();
        let surely = wait_for_markers(master, worker);
        if worker == kills / 2 {
            (fds, rss) = (open_fds(master.pid()).unwrap(), rss_kib(master.pid()).unwrap());
        }
        send(pid, Signal::SIGKILL);
        let words = last_words(master, worker);
        let numbers: Vec<u64> = marks(&words).map(|mark| mark["n"].as_u64().unwrap()).collect();
        for mark in marks(&words) {
            let n = mark["n"].as_u64().unwrap();
            assert_eq!(mark["text"], text_of(n), "a torn marker of worker {worker}");
        }
        // Without a gap: of those that are shown none was lost, the last complete one neither.
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
        let last = *numbers.last().expect("there are markers");
        let told = told_in(master, worker).unwrap();
        assert!(
            surely <= told && told <= last && last < told + 128,
            "{told} was complete, {last} is last"
        );
        most_behind = most_behind.max(last - told);
        shown += numbers.len();
    }
    master.once(kills + 1, "ready");
    let (fds_now, rss_now) = (open_fds(master.pid()).unwrap(), rss_kib(master.pid()).unwrap());
    eprintln!(
        "{kills} kills: {shown} markers shown, all whole, at most {most_behind} after the last told one; descriptors \
         {fds} then {fds_now}, memory {rss} then {rss_now} KiB"
    );
    assert_eq!(memories(master.pid()), 1, "one for the worker that lives");
    assert!(fds_now <= fds, "descriptors grew from {fds} to {fds_now}");
    assert!(rss_now < rss + 16 * 1024, "memory grew from {rss} to {rss_now} KiB");
}

/// The number of the marker that was surely complete at the last look.
fn told_in(master: &Master, worker: u64) -> Option<u64> {
    let bytes = fs::read(master.directory().join(format!("marked-{worker}"))).ok()?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

fn wait_for_markers(master: &Master, worker: u64) -> u64 {
    let deadline = Deadline::after(limit(SOON));
    loop {
        if let Some(n) = told_in(master, worker) {
            return n;
        }
        assert!(!deadline.is_over(), "worker {worker} sets no markers");
        std::thread::yield_now();
    }
}

/// How many flight recorders this process holds.
fn memories(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the master runs");
    let names = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    names
        .filter(|name| name.to_string_lossy().contains("actix-cluster-flight"))
        .count()
}

/// The size of a recorder.
const SIZE: usize = 16 << 10;
