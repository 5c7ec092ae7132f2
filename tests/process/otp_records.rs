//! Erlang's supervisor: what its reports say, and that no reason makes a report huge.

use actix_cluster::{EventKind, RecycleReason, RestartType, WhenEmpty, Worker, WorkerSpec};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_087_reports_of_progress_and_crash_name_supervisor_context_reason_and_offender",
        app: || {
            let once = WorkerSpec::new("job", 1)
                .restart(RestartType::Temporary)
                .exec("/no/such/program");
            let cluster = probe::cluster().spec(once).when_empty(WhenEmpty::Wait);
            cluster.worker(crash_on_message).main()
        },
        check: |master| {
            let fork = master.expect_of(1, "fork");
            master.expect_of(1, "ready");
            master.order(&Order::Send(1, "now".to_owned()));
            let exit = master.sees(1, "exit");
            let error = master.sees(2, "error");
            master.until("a successor", |master| master.seen("fork").len() > 1);
            the_events_say_who(&[(&fork.0, true), (&exit.0, true), (&error.0, false)]);
            assert_eq!((exit.code(), exit.reason()), (Some(9), &"crash".into()));
            assert_eq!(error.data()["spawn"]["step"], "exec");
            // The log: the same, with what the process was made of.
            let (supervisor, pid) = (master.pid(), fork.pid());
            let who =
                format!("master={supervisor} worker=1 slot=worker.0 pid={pid} program=same restart=\"permanent\"");
            the_log_has(master, &["INFO", "worker forked", &who]);
            the_log_has(master, &["WARN", "worker lost", &who, "exit=exit code 9 (crash)"]);
            let who =
                format!("master={supervisor} worker=2 slot=job.0 pid=0 program=/no/such/program restart=\"temporary\"");
            let why = "err=could not start: exec: cannot run \"/no/such/program\"";
            the_log_has(master, &["WARN", "worker error", &who, why]);
        },
    },
    Scenario {
        name: "o_087_each_of_several_failed_starts_names_its_worker",
        app: || {
            let jobs = WorkerSpec::new("job", 3)
                .restart(RestartType::Temporary)
                .exec("/no/such/program");
            let cluster = probe::cluster().workers(0).spec(jobs).when_empty(WhenEmpty::Wait);
            cluster.worker(crash_on_message).main()
        },
        check: |master| {
            master.until("all have failed", |master| master.seen("error").len() == 3);
            let slots: Vec<u64> = master
                .seen("error")
                .iter()
                .map(|error| error.0["worker"]["slot"]["index"].as_u64().unwrap())
                .collect();
            assert_eq!(slots, [0, 1, 2]);
        },
    },
    Scenario {
        name: "o_087_a_report_names_the_program_that_a_reload_has_brought",
        app: || probe::cluster().worker(crash_on_message).main(),
        check: |master| {
            master.expect_ready();
            let missing = Care {
                exec: Some("/no/such/program".into()),
                ..Care::default()
            };
            master.ask(&Order::Reload(missing), "not reloaded: ");
            the_log_has(
                master,
                &["WARN", "worker error", "worker=2", "program=/no/such/program"],
            );
        },
    },
    Scenario {
        name: "o_088_a_huge_reason_makes_no_huge_line_and_no_huge_event",
        app: || {
            probe::cluster()
                .restart(RestartType::Temporary)
                .when_empty(WhenEmpty::Wait)
                .workers(2)
                .worker(fail_at_length)
                .main()
        },
        check: |master| {
            master.expect_ready();
            for worker in 1..=2 {
                master.order(&Order::Send(worker, "now".to_owned()));
                let error = master.sees(worker, "error");
                assert_eq!(master.sees(worker, "exit").code(), Some(1));
                let text = error.data()["failed"].as_str().unwrap();
                // What it said first is there, and how much is not.
                assert!(text.starts_with("first words\n"), "{}", &text[..40]);
                assert!(text.ends_with(" bytes more)"), "{}", &text[text.len() - 40..]);
                assert!(text.len() < 4_200, "{}", text.len());
            }
            no_line_is_long(master, 2);
        },
    },
    Scenario {
        name: "o_088_a_worker_that_says_the_reason_itself_makes_no_huge_line_either",
        app: || {
            let cluster = probe::cluster()
                .restart(RestartType::Temporary)
                .when_empty(WhenEmpty::Wait);
            cluster.worker(lie_at_length).main()
        },
        check: |master| {
            master.expect_ready();
            master.order(&Order::Send(1, "now".to_owned()));
            let text = master.sees(1, "error").data()["failed"].clone();
            let text = text.as_str().unwrap();
            assert!(
                text.starts_with("first words\nxxx") && text.ends_with("… (895916 bytes more)"),
                "{text}"
            );
            assert_eq!(master.sees(1, "exit").code(), Some(1));
            no_line_is_long(master, 1);
        },
    },
    Scenario {
        name: "o_088_a_plug_in_that_gives_a_huge_reason_makes_no_huge_line",
        app: || {
            let mut asked = false;
            let cluster = probe::cluster().on_event(move |event, handle| {
                if let (EventKind::Ready, Some(worker), false) = (&event.kind, &event.worker, asked) {
                    asked = true;
                    let (handle, id, why) = (handle.clone(), worker.id, RecycleReason::Asked(at_length(900_000)));
                    actix_rt::spawn(async move { handle.recycle(id, why).await });
                }
            });
            cluster.worker(idle).main()
        },
        check: |master| {
            let why = master.expect_of(1, "recycling").data()["asked"].clone();
            assert!(why.as_str().unwrap().len() < 4_200);
            master.sees(2, "ready");
            no_line_is_long(master, 0);
        },
    },
];

/// The fixed fields of every event about a worker; a start that failed has no process.
fn the_events_say_who(events: &[(&Value, bool)]) {
    for (event, has_process) in events {
        for field in ["seq", "at_ms", "time_ms", "event"] {
            assert!(!event[field].is_null(), "{field}: {event}");
        }
        let worker = event["worker"].as_object().expect("it is about a worker");
        let fields: Vec<&str> = worker.keys().map(String::as_str).collect();
        assert_eq!(
            fields,
            ["exited_after_disconnect", "generation", "id", "pid", "slot", "state"]
        );
        assert_eq!(worker["pid"].is_u64(), *has_process, "{event}");
        assert!(
            worker["slot"]["spec"].is_string() && worker["slot"]["index"].is_u64(),
            "{event}"
        );
    }
}

/// A line of the log has all of these, in this order except for the phrase.
fn the_log_has(master: &mut Master, parts: &[&str]) {
    let log = master.log();
    let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "{parts:?} in\n{log}");
}

/// Every line of the log is short, and so many tell of a failure, each in one line.
fn no_line_is_long(master: &mut Master, failures: usize) {
    master.ask(&Order::Ping, "pong");
    let log = master.log();
    for line in log.lines() {
        assert!(line.len() < 5_000, "{} bytes: {}", line.len(), &line[..200]);
    }
    let told = log
        .lines()
        .filter(|line| line.contains(r"err=the worker failed: first words\n"))
        .count();
    assert_eq!(told, failures, "{}", log.len());
}

/// Some words, then so many bytes.
fn at_length(bytes: usize) -> String {
    format!("first words\n{}", "é\n\u{1}".repeat(bytes / 4))
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn crash_on_message(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    tokio::select! {
        _ = messages.next() => worker.exit_now(9),
        () = worker.shutdown().started() => {}
    }
}

/// The first fails with 900 KiB, the second with more than a frame may have.
async fn fail_at_length(worker: Worker) -> Result<(), String> {
    let mut messages = worker.messages().expect("nobody took them before");
    tokio::select! {
        _ = messages.next() => Err(at_length(if worker.slot().index == 0 { 900 << 10 } else { 4 << 20 })),
        () = worker.shutdown().started() => Ok(()),
    }
}

/// Says the reason past the library, so that nothing has seen it before the master.
async fn lie_at_length(worker: Worker) {
    let mut messages = worker.messages().expect("nobody took them before");
    tokio::select! {
        _ = messages.next() => {
            let text = format!("first words\\n{}", "x".repeat(900_000));
            let line = format!("{{\"t\":\"failed\",\"m\":\"{text}\"}}\n");
            let mut left = line.as_bytes();
            while !left.is_empty() {
                match send(CHANNEL, left, MsgFlags::MSG_NOSIGNAL) {
                    Ok(sent) => left = &left[sent..],
                    // The buffer is full: a moment later it may not be.
                    Err(Errno::EAGAIN) => drop(poll(&mut [], PollTimeout::from(1_u8))),
                    Err(error) => panic!("the master reads: {error}"),
                }
            }
            worker.exit_now(1);
        }
        () = worker.shutdown().started() => {}
    }
}

/// The channel's number in every worker.
const CHANNEL: i32 = 3;
