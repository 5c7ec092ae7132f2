//! Workers that hang: seen, named, ended and replaced within the limit, and nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_cluster::Worker;
use actix_cluster_tests::fault::{self, Fault, Good};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::{any_below, let_pass, wait_for_file};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::punctuality::Punctuality;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, CHECK, INTERVAL, SLACK, killed_in_time, tell};
use actix_cluster_tests::{Deadline, limit};
use actix_web::{App, HttpServer, web};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "guide_heartbeat_every_interval_and_it_stops_with_the_worker",
        app: || stuck::cluster(1).main(),
        check: beats,
    },
    Scenario {
        name: "f_029_guide_heartbeat_a_stopped_worker_is_killed_within_the_limit_and_replaced",
        app: || stuck::cluster(2).main(),
        check: |master| {
            master.expect_ready();
            let stopped = master.once(1, "ready").pid();
            send(stopped, Signal::SIGSTOP);
            let took = killed_in_time(master, 1);
            eprintln!("f_029: killed {took:?} after it was stopped");
            // Never asked: a stopped process does not see a polite signal.
            let life = master.life_of(1);
            assert!(!life.contains(&"exiting".to_owned()), "{life:?}");
            let missed: Vec<u64> = told(master, 1).iter().filter_map(|it| it["missed"].as_u64()).collect();
            assert_eq!(missed, [1, 2, 3]);
            let last = &told(master, 1)[2];
            assert_eq!((&last["reason"], &last["action"]), (&json!("hang"), &json!("kill")));
            assert_eq!(last["evidence"]["state"], "T (stopped)");
            master.expect_of(3, "ready");
            assert!(told(master, 2).is_empty(), "its sibling is well");
        },
    },
    Scenario {
        name: "f_030_an_endless_loop_in_the_event_loop_is_a_hang",
        app: || stuck::cluster(1).main(),
        check: |master| {
            master.expect_ready();
            tell(master, 1, "spin");
            killed_in_time(master, 1);
            assert_eq!(told(master, 1)[0]["evidence"]["state"], "R (running)");
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_031_a_blocked_loop_is_a_hang_also_while_another_thread_lives",
        app: || stuck::cluster(1).main(),
        check: |master| {
            master.expect_ready();
            tell(master, 1, "helper");
            killed_in_time(master, 1);
            assert!(
                master.count_said("helper lives") > 5,
                "its other thread ran all the time"
            );
            assert_eq!(told(master, 1)[0]["evidence"]["state"], "S (sleeping)");
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_032_one_blocked_arbiter_of_four_is_named_while_the_others_serve",
        app: four_arbiters,
        check: one_of_four_is_blocked,
    },
    Scenario {
        name: "f_042_replayed_heartbeats_and_those_from_the_future_are_no_life",
        app: || stuck::cluster(1).main(),
        check: |master| {
            master.expect_ready();
            tell(master, 1, "replay");
            killed_in_time(master, 1);
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "f_042_heartbeats_that_are_none_or_a_flood_harm_their_sender_alone",
        app: || stuck::monitored(stuck::config(), fault::unheard()).main(),
        check: lies_and_floods,
    },
    Scenario {
        name: "f_044_work_on_another_thread_for_ten_times_the_limit_is_no_hang",
        app: || stuck::cluster(1).main(),
        check: |master| {
            master.expect_ready();
            let long = limit(stuck::HANG) * 10;
            master.order(&Order::Send(1, format!("sync {}", long.as_millis())));
            master.expect_line("sync done", long + SOON, |line| line["said"] == "sync done");
            assert!(master.seen("unhealthy").is_empty() && master.seen("exit").is_empty());
        },
    },
    Scenario {
        name: "f_045_a_hung_worker_that_comes_back_as_it_is_killed_ends_once_and_is_replaced_once",
        app: || stuck::cluster(1).main(),
        check: comes_back,
    },
];

/// What the monitor told of a worker so far.
fn told(master: &Master, worker: u64) -> Vec<Value> {
    let seen = master.seen("unhealthy");
    let own = seen.iter().filter(|seen| seen.0["worker"]["id"] == worker);
    own.map(|seen| seen.data().clone()).collect()
}

fn beats(master: &mut Master) {
    master.expect_ready();
    let machine = Punctuality::of_this_machine();
    let beats = master.expect_count_of(1, "heartbeat", 10);
    let numbers: Vec<u64> = beats.iter().filter_map(|beat| beat.data()["n"].as_u64()).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    assert_eq!(beats[9].data()["loops"][0]["name"], "main");
    let at = |beat: &Value| Duration::from_secs_f64(beat["at_ms"].as_f64().expect("a time") / 1000.0);
    let span = at(&beats[9].0) - at(&beats[0].0);
    assert!(
        span >= limit(INTERVAL) * 8 && span < limit(INTERVAL) * 9 + limit(SLACK) + machine.worst(),
        "{span:?}"
    );
    let worker = &master.snapshot()["workers"][0];
    let heard = worker["last_heartbeat"].as_f64().expect("it beat");
    assert!(heard > worker["times"]["ready"].as_f64().expect("it is ready"));
    // Disconnected in order: nothing more is heard, and nobody misses it.
    master.ask(&Order::Restart(1), "restart");
    master.expect_of(1, "exit");
    let life = master.life_of(1);
    assert_eq!(life.last().map(String::as_str), Some("exit"), "{life:?}");
    master.expect_count_of(2, "heartbeat", 10);
    assert!(master.seen("unhealthy").is_empty());
}

/// One process, an unmodified server with four threads, each of which is watched.
fn four_arbiters() -> ExitCode {
    let cluster = probe::cluster().listen("http", "127.0.0.1:0").worker(serve_on_four);
    stuck::monitored(stuck::config().interval(limit(BEAT)), cluster).main()
}

async fn serve_on_four(worker: Worker) -> std::io::Result<()> {
    let listener = worker.listener("http").expect("it is declared");
    let (watcher, threads) = (worker.clone(), Arc::new(AtomicU32::new(0)));
    let server = HttpServer::new(move || {
        let number = threads.fetch_add(1, Ordering::Relaxed);
        let watch = watcher.watch_loop(&format!("http-{number}")).expect("this is a loop");
        let block = move || {
            watch.doing("GET /block");
            async {
                // So that a beat can still tell what it is doing.
                stuck::live_for(limit(BEAT) * 2).await;
                probe::say("blocks");
                wait_for_file("enough");
                "unblocked"
            }
        };
        App::new()
            .route("/", web::get().to(move || async move { number.to_string() }))
            .route("/block", web::get().to(block))
    });
    let server = server.workers(4).disable_signals().listen(listener)?.run();
    worker.run_server(server).await
}

fn one_of_four_is_blocked(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    // Connections that stay with the thread they came to.
    let mut clients: Vec<(u32, TcpStream)> = Vec::new();
    let is_missing = |clients: &[(u32, TcpStream)]| (0..4).any(|n| !clients.iter().any(|(number, _)| *number == n));
    while is_missing(&clients) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream
            .set_read_timeout(Some(limit(SOON)))
            .expect("a socket has a timeout");
        let number = ask(&mut stream, "/").parse().expect("a number");
        clients.push((number, stream));
    }
    let (_, victim) = clients.iter_mut().find(|(number, _)| *number == 2).expect("it has one");
    victim
        .write_all(b"GET /block HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is open");
    master.expect_said("blocks");
    let within = limit(BEAT + CHECK + SLACK);
    let unhealthy = master.expect_line("the loop to be named", within, |line| line["event"] == "unhealthy");
    let data = &unhealthy["data"];
    assert_eq!(
        (&data["reason"], &data["action"]),
        (&json!({"loop": "http-2"}), &json!("tell"))
    );
    assert_eq!(data["evidence"]["doing"], "GET /block");
    assert!(
        data["evidence"]["tid"].as_u64() != unhealthy["worker"]["pid"].as_u64(),
        "not the main thread: {data}"
    );
    // For longer than a silent worker would live, the other three serve.
    let long = Deadline::after(limit(stuck::HANG) * 2);
    while !long.is_over() {
        for (number, stream) in clients.iter_mut().filter(|(number, _)| *number != 2) {
            assert_eq!(ask(stream, "/"), number.to_string());
        }
        let_pass(Duration::from_millis(20));
    }
    assert!(master.seen("exit").is_empty(), "it is told, and nothing else");
    std::fs::write(master.directory().join("enough"), "").expect("the directory is ours");
    master.expect_of(1, "recovered");
    assert_eq!(told(master, 1).len(), 1, "told once");
}

/// Asks on an open connection; the body of the answer.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("it is open");
    let (mut answer, mut byte) = (Vec::new(), [0]);
    // The body is one character.
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("it is answered");
        answer.push(byte[0]);
    }
    stream.read_exact(&mut byte).expect("it is answered");
    char::from(byte[0]).to_string()
}

fn lies_and_floods(master: &mut Master) {
    let good = Good::ready(master);
    for body in [
        r#"{"n":18446744073709551616}"#,
        r#"{"n":-1}"#,
        r#"{"n":NaN}"#,
        r#"{"n":1,"loops":[{"name":"a","late_ms":1e999}]}"#,
    ] {
        let line = format!("{{\"t\":\"heartbeat\",\"m\":{body}}}\n");
        let worker = fault::attack(master, Fault::raw(&line));
        let exit = master.expect_ever_of(worker, "exit");
        assert!(exit.reason()["protocol"].is_string(), "{body}: {:?}", exit.0);
        good.is_up(master);
    }
    // Every number there is, from the first to the hundred-thousandth: the right ones among them count as life.
    let flood = "{\"t\":\"heartbeat\",\"m\":{\"n\":{n}}}\n".to_owned();
    let worker = fault::attack(
        master,
        Fault::Raw {
            bytes: flood,
            times: 100_000,
        },
    );
    good.is_up(master);
    // It is deaf in the end, and found out: when all of that was read.
    master.until("its end", |master| master.counts_of(worker, ["exit"]) == [1]);
    let exit = master.expect_ever_of(worker, "exit");
    assert_eq!(exit.reason(), &json!({"hang": "main"}), "{:?}", exit.0);
    let beats = master.counts_of(worker, ["heartbeat"])[0];
    assert!(beats < 200, "{beats} events of one worker");
    assert_eq!(master.counts_of(1, ["exit", "unhealthy"]), [0, 0]);
}

fn comes_back(master: &mut Master) {
    master.expect_ready();
    let (mut chance, mut worker, mut killed) = (7, 1, 0);
    for _ in 0..6 {
        let pid = master.once(worker, "ready").pid();
        master.stop_process(pid);
        let second = |line: &Value| line["event"] == "unhealthy" && line["data"]["missed"] == 2;
        master.expect_line("the miss before the last", limit(SOON), second);
        // Just before the next check, or just after it.
        let_pass(limit(CHECK) - Duration::from_millis(10) + Duration::from_millis(any_below(20, &mut chance)));
        send(pid, Signal::SIGCONT);
        let end = master.expect_line("an end or a recovery", limit(SOON), |line| {
            line["worker"]["id"] == worker && (line["event"] == "exit" || line["event"] == "recovered")
        });
        // It may be heard of again when its end was decided already; that was told first.
        let is_decided = |told: &Value| told["action"] == "kill";
        if end["event"] == "exit" || told(master, worker).iter().any(is_decided) {
            master.once(worker, "exit");
            killed += 1;
            worker += 1;
            master.expect_of(worker, "ready");
        }
    }
    eprintln!("f_045: {killed} of 6 were killed as they came back, the others recovered");
    let count = |kind| master.seen(kind).len();
    assert_eq!((count("exit"), count("fork")), (killed, killed + 1));
}

/// In the scenario with four threads.
const BEAT: Duration = Duration::from_millis(200);
