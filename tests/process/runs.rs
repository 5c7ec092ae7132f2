//! How often a request begins in all, when its workers are killed from outside one after the other.
//!
//! Each run appends a byte to a file before anything else, so it is known how often the handler began, whatever became of
//! the worker.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use actix_cluster::{ListenOptions, RestartLimit, Scheduling, ServeError, Worker};
use actix_cluster_tests::load;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{limit, probe};
use actix_web::{App, web};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "runs_a_request_killed_twice_from_outside_is_answered_502_where_two_are_the_most",
        app: || of(Some(2), Scheduling::Shared),
        check: |master| is_refused_after(master, 2),
    },
    Scenario {
        name: "runs_the_count_goes_along_where_the_master_hands_connections_over",
        app: || of(Some(2), Scheduling::RoundRobin),
        check: |master| is_refused_after(master, 2),
    },
    Scenario {
        name: "runs_three_are_three_and_one_is_one",
        app: || of(Some(3), Scheduling::PerWorker),
        check: |master| is_refused_after(master, 3),
    },
    Scenario {
        name: "runs_one_run_is_never_repeated",
        app: || of(Some(1), Scheduling::Shared),
        check: |master| is_refused_after(master, 1),
    },
    Scenario {
        name: "runs_what_is_killed_from_outside_begins_a_third_time_without_a_bound",
        app: || of(None, Scheduling::Shared),
        check: |master| {
            let mut client = killed(master, 2);
            master.until("it has begun a third time", |_| runs(master) == 3);
            fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            assert!(answer(&mut client).starts_with("HTTP/1.1 200"));
            assert_eq!(runs(master), 3);
            assert!(master.seen("request_refused").is_empty());
        },
    },
    Scenario {
        name: "runs_what_is_answered_counts_nothing_for_the_next_request",
        app: || of(Some(2), Scheduling::Shared),
        check: |master| {
            let mut client = killed(master, 1);
            master.until("it has begun again", |_| runs(master) == 2);
            fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            assert!(answer(&mut client).starts_with("HTTP/1.1 200"));
            fs::remove_file(master.directory().join("gate")).expect("it is there");
            // The same connection: another request, which may begin twice again.
            say(&mut client);
            master.until("the next one has begun", |_| runs(master) == 3);
            kill(master, 2);
            master.until("and again", |_| runs(master) == 4);
            fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            assert!(answer(&mut client).starts_with("HTTP/1.1 200"));
            assert_eq!(runs(master), 4);
        },
    },
];

fn of(max_runs: Option<u8>, scheduling: Scheduling) -> ExitCode {
    let mut options = ListenOptions::new().survive_kill(true).scheduling(scheduling);
    options.max_runs = max_runs;
    let cluster = probe::cluster().restart_limit(RestartLimit::unlimited());
    cluster.listen_with("http", "127.0.0.1:0", options).worker(serve).main()
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    let data = web::Data::new(worker.clone());
    let app = move || App::new().app_data(data.clone()).route("/held", web::get().to(held));
    worker.serve("http", app).await
}

async fn held(worker: web::Data<Worker>) -> &'static str {
    let mut runs = OpenOptions::new()
        .append(true)
        .create(true)
        .open(RUNS)
        .expect("the directory is ours");
    runs.write_all(b".").expect("there is room for a byte");
    // The test looks at the file when it sees this.
    probe::say("begun");
    load::held(&worker, "gate").await;
    "done"
}

/// Kills `most` workers of one request: it is answered 502, told with its reason, and never began more often.
fn is_refused_after(master: &mut Master, most: u8) {
    let mut client = killed(master, u64::from(most));
    let answer = answer(&mut client);
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(runs(master), usize::from(most));
    let refused = master.expect_count("request_refused", 1).swap_remove(0);
    let data = refused.data();
    assert_eq!(data["why"], "too_many_runs", "{data}");
    assert_eq!(data["strikes"], most, "{data}");
    assert_eq!(data["line"], "GET /held", "{data}");
}

/// A client whose request has begun in so many workers that were killed in it, from the first on.
fn killed(master: &mut Master, workers: u64) -> TcpStream {
    master.expect_ready();
    let port = master.port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    client
        .set_read_timeout(Some(limit(SOON)))
        .expect("a time limit can be set");
    say(&mut client);
    for worker in 1..=workers {
        let wanted = usize::try_from(worker).expect("a few");
        master.until("the request has begun", |master| runs(master) == wanted);
        kill(master, worker);
    }
    client
}

fn kill(master: &Master, worker: u64) {
    send(master.sees(worker, "fork").pid(), Signal::SIGKILL);
    master.sees(worker, "exit");
}

fn say(client: &mut TcpStream) {
    let request = b"GET /held?secret HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).expect("the server takes it");
}

fn answer(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut space = [0; 1024];
    while !answer.ends_with(b"done") {
        match client.read(&mut space).expect("an answer, or the end") {
            0 => break,
            len => answer.extend_from_slice(&space[..len]),
        }
    }
    String::from_utf8(answer).expect("answers are text")
}

fn runs(master: &Master) -> usize {
    fs::read(master.directory().join(RUNS)).map_or(0, |runs| runs.len())
}

/// A byte for each time that the handler began.
const RUNS: &str = "runs";
