//! What a kill costs clients, by what they were at when it came: the rows of the table in the crate's documentation.
//!
//! One worker, which is killed; its successor has to go on. A row that says what is lost proves that no more is.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_cluster::{ListenOptions, RestartLimit, Scheduling, ServeError, ServeOptions, Worker};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::any_below;
use actix_cluster_tests::probe::{Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::seen::Seen;
use actix_cluster_tests::{limit, probe};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpResponse};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "survival_a_connection_between_requests_lives_on",
        app: one,
        check: |master| {
            let mut client = Client::of(master);
            let first = client.pid();
            let second = kill(master, first);
            assert_eq!(client.pid(), second);
            let third = kill(master, second);
            assert_eq!(client.pid(), third);
        },
    },
    Scenario {
        name: "survival_a_request_that_was_not_read_is_answered_by_another_worker",
        app: one,
        check: |master| {
            let mut client = Client::of(master);
            let first = client.pid();
            send(first, Signal::SIGSTOP);
            client.say("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
            let second = kill(master, first);
            assert_eq!(client.answer().body, second.to_string());
            assert_eq!(client.pid(), second);
        },
    },
    Scenario {
        name: "survival_half_a_head_is_kept_for_the_next_worker",
        app: one,
        check: |master| {
            let mut fresh = Client::of(master);
            let mut used = Client::of(master);
            let first = used.pid();
            for client in [&mut fresh, &mut used] {
                client.say("GET / HTTP/1.1\r\nho");
            }
            let second = kill(master, first);
            for client in [&mut fresh, &mut used] {
                client.say("st: x\r\n\r\n");
                assert_eq!(client.answer().body, second.to_string());
                assert_eq!(client.pid(), second);
            }
        },
    },
    Scenario {
        name: "survival_a_repeatable_request_in_progress_runs_again_and_the_connection_lives_on",
        app: one,
        check: |master| {
            for request in [
                "GET /held HTTP/1.1\r\nhost: x\r\n\r\n",
                "PUT /held HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
                "PUT /held HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "DELETE /held HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
                "POST /held/search HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
            ] {
                let begun = master.count_said("begun");
                let (mut client, second) = killed_in(master, request);
                assert_eq!(client.finished(master), format!("{second}"), "{request}");
                master.until("it has run twice", |master| master.count_said("begun") == begun + 2);
                assert_eq!(client.pid(), second);
            }
        },
    },
    Scenario {
        name: "survival_a_request_that_may_not_be_repeated_runs_once_and_is_answered_502",
        app: one,
        check: |master| {
            let (mut client, _) = killed_in(
                master,
                "POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
            );
            let answer = client.answer();
            assert_eq!(answer.status, 502);
            assert!(answer.head.contains("connection: close"), "{answer:?}");
            assert!(client.ends_in_order());
            assert_eq!(master.count_said("begun"), 1);
        },
    },
    Scenario {
        name: "survival_a_body_too_long_to_be_kept_is_answered_502",
        app: one,
        check: |master| {
            let head = format!("PUT /held HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 20);
            let request = head + &"x".repeat(1 << 20);
            let (mut client, _) = killed_in(master, &request);
            assert_eq!(client.answer().status, 502);
            assert!(client.ends_in_order());
            assert_eq!(master.count_said("begun"), 1);
        },
    },
    Scenario {
        name: "survival_an_old_client_and_a_head_request_are_answered_as_they_have_to_be",
        app: one,
        check: |master| {
            let (mut client, second) = killed_in(master, "GET /held HTTP/1.0\r\n\r\n");
            assert_eq!(client.finished(master), format!("{second}"));
            assert!(client.ends_in_order());
            let (mut client, second) = killed_in(master, "HEAD /held HTTP/1.1\r\nhost: x\r\n\r\n");
            std::fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            let head = client.head();
            assert!(
                head.contains(&format!("content-length: {}", second.to_string().len())),
                "{head}"
            );
            assert_eq!(client.pid(), second);
        },
    },
    Scenario {
        name: "survival_pipelined_requests_are_all_answered_in_their_order",
        app: one,
        check: |master| {
            let three = "GET /held HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\nHEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
            let (mut client, second) = killed_in(master, three);
            assert_eq!(client.finished(master), format!("{second}"));
            assert_eq!(client.answer().body, second.to_string());
            assert!(client.head().starts_with("HTTP/1.1 200"));
            assert_eq!(client.pid(), second);
        },
    },
    Scenario {
        name: "survival_half_an_answer_ends_the_connection",
        app: one,
        check: |master| {
            let mut client = Client::of(master);
            let first = client.pid();
            client.say("GET /part HTTP/1.1\r\nhost: x\r\n\r\n");
            assert!(client.head().contains("content-length: 10"));
            kill(master, first);
            let (rest, _) = client.rest();
            assert_eq!(rest, "first", "nobody answers a second time");
        },
    },
    Scenario {
        name: "survival_another_protocol_ends_with_its_worker",
        app: one,
        check: |master| {
            let mut client = Client::of(master);
            let first = client.pid();
            client.say("GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
            assert!(client.head().starts_with("HTTP/1.1 101"));
            kill(master, first);
            assert_eq!(client.rest().0, "");
            // What is no HTTP at all is the same: only bytes that were not read are saved.
            let mut client = Client::of(master);
            client.say("\x16\x03\x01 this is TLS, say");
            let (answer, _) = client.rest();
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        },
    },
    Scenario {
        name: "survival_a_poison_request_ends_two_workers_and_is_answered_502",
        app: one,
        check: |master| {
            let mut client = Client::of(master);
            client.say("GET /poison?secret HTTP/1.1\r\nhost: x\r\n\r\n");
            let answer = client.answer();
            assert_eq!(answer.status, 502);
            assert!(client.ends_in_order());
            master.expect_count("exit", 2);
            assert_eq!(
                Client::of(master).answer_to("GET / HTTP/1.1\r\nhost: x\r\n\r\n").status,
                200
            );
            assert_eq!(master.seen("exit").len(), 2);
        },
    },
    Scenario {
        name: "survival_a_client_that_is_gone_costs_nothing",
        app: one,
        check: |master| {
            let (client, _) = killed_in(master, "GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
            drop(client);
            let mut client = Client::of(master);
            let first = client.pid();
            client.say("GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
            drop(client);
            kill(master, first);
            std::fs::write(master.directory().join("gate"), "").expect("the directory is ours");
            assert_eq!(
                Client::of(master).answer_to("GET / HTTP/1.1\r\nhost: x\r\n\r\n").status,
                200
            );
        },
    },
    Scenario {
        name: "survival_idle_connections_move_in_a_reload_and_are_not_closed",
        app: || of(2),
        check: |master| {
            let mut clients: Vec<Client> = (0..20).map(|_| Client::of(master)).collect();
            let before: BTreeSet<u32> = clients.iter_mut().map(Client::pid).collect();
            let mut fresh = Client::of(master);
            let mut partial = Client::of(master);
            partial.say("GET / HTTP/1.1\r\nho");
            let load = Load::start(master.port(), 4);
            for generation in 1..=3 {
                master.ask(&Order::Reload(Care::default()), &format!("reloaded {generation}"));
                // Every one of them is still open, and answered by whoever is there now.
                for client in &mut clients {
                    assert!(!before.contains(&client.pid()));
                }
            }
            partial.say("st: x\r\n\r\n");
            assert_eq!(partial.answer().status, 200);
            assert!(!before.contains(&fresh.pid()));
            let outcome = load.stop();
            outcome.is_flawless();
        },
    },
    Scenario {
        name: "survival_a_cluster_that_shrinks_closes_no_idle_connection",
        app: || of(4),
        check: |master| {
            let mut clients: Vec<Client> = (0..20).map(|_| Client::of(master)).collect();
            let four: BTreeSet<u32> = clients.iter_mut().map(Client::pid).collect();
            let load = Load::start(master.port(), 4);
            for size in [2, 4, 1] {
                master.ask(&Order::Scale(size), &format!("scaled {size}"));
                for client in &mut clients {
                    client.pid();
                }
            }
            master.expect_count("exit", 5);
            let last: BTreeSet<u32> = clients.iter_mut().map(Client::pid).collect();
            assert_eq!(last.len(), 1, "{last:?} of {four:?}");
            load.stop().is_flawless();
        },
    },
    Scenario {
        name: "survival_storm_of_kills_costs_no_client_an_error",
        app: || of(3),
        check: |master| {
            master.expect_ready();
            let load = Load::start(master.port(), 8);
            let mut chance = 1;
            for kills in 0..40 {
                load.goes_on_for(50);
                master.until("somebody is ready", |master| !alive(master).is_empty());
                let alive = alive(master);
                let at = any_below(alive.len() as u64, &mut chance);
                send(alive[usize::try_from(at).expect("a few")], Signal::SIGKILL);
                master.expect_count("exit", kills + 1);
            }
            let outcome = load.stop();
            outcome.is_flawless();
        },
    },
];

fn one() -> ExitCode {
    of(1)
}

pub(crate) fn of(workers: u32) -> ExitCode {
    let options = ListenOptions::new().survive_kill(true).scheduling(Scheduling::Shared);
    let cluster = probe::cluster()
        .workers(workers)
        .restart_limit(RestartLimit::unlimited())
        .listen_with("http", "127.0.0.1:0", options);
    cluster.worker(serve).main()
}

pub(crate) async fn serve(worker: Worker) -> Result<(), ServeError> {
    let options = ServeOptions::new().keep_alive(limit(Duration::from_secs(60)));
    let options = options.repeatable(|method, path| method != "POST" || path == "/held/search");
    let data = web::Data::new(worker.clone());
    let app = move || {
        App::new()
            .app_data(data)
            .app_data(web::PayloadConfig::new(4 << 20))
            .route("/", web::route().to(|| async { std::process::id().to_string() }))
            .route("/held", web::route().to(held))
            .route("/held/search", web::route().to(held))
            .route("/poison", web::get().to(poison))
            .route("/part", web::get().to(half))
            .route("/upgrade", web::get().to(upgraded))
    };
    worker.serve_with("http", options, app).await
}

/// Says that it has begun, and answers when the test wants it.
async fn held(_body: Bytes, worker: web::Data<Worker>) -> String {
    probe::say("begun");
    load::held(&worker, "gate").await;
    std::process::id().to_string()
}

async fn poison() -> HttpResponse {
    std::process::abort()
}

/// A half of an answer, and then nothing.
struct Half {
    first: Option<&'static str>,
    size: BodySize,
}

impl MessageBody for Half {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Bytes::from_static(first.as_bytes())))),
            None => Poll::Pending,
        }
    }
}

async fn half() -> HttpResponse<Half> {
    HttpResponse::Ok()
        .message_body(Half {
            first: Some("first"),
            size: BodySize::Sized(10),
        })
        .expect("a head")
}

async fn upgraded() -> HttpResponse<Half> {
    let mut answer = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
    answer
        .upgrade("x")
        .message_body(Half {
            first: None,
            size: BodySize::Stream,
        })
        .expect("a head")
}

/// The process ids of the workers that are ready.
pub(crate) fn alive(master: &Master) -> Vec<u32> {
    let (ready, exits) = (master.seen("ready"), master.seen("exit"));
    let lives = |ready: &&Seen| exits.iter().all(|exit| exit.worker() != ready.worker());
    ready.iter().filter(lives).map(Seen::pid).collect()
}

/// Kills the worker with this process id: its successor's.
pub(crate) fn kill(master: &Master, pid: u32) -> u32 {
    let exits = master.seen("exit").len();
    send(pid, Signal::SIGKILL);
    let exit = master.expect_count("exit", exits + 1);
    let worker = exit.last().expect("it was killed").worker();
    master.expect_of(worker + 1, "ready").pid()
}

/// A client whose request was begun by a worker that was killed then, and the process id of the successor.
fn killed_in(master: &mut Master, request: &str) -> (Client, u32) {
    std::fs::remove_file(master.directory().join("gate")).ok();
    let mut client = Client::of(master);
    let first = client.pid();
    let begun = master.count_said("begun");
    client.say(request);
    master.until("the request has begun", |master| master.count_said("begun") > begun);
    let second = kill(master, first);
    (client, second)
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn of(master: &Master) -> Self {
        master.expect_count("all_ready", 1);
        let port = master.port();
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream
            .set_read_timeout(Some(limit(SOON)))
            .expect("a time limit can be set");
        stream.set_nodelay(true).expect("a flag can be set");
        Self(stream)
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the server takes it");
    }

    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0
                .read_exact(&mut byte)
                .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
            head.push(byte[0]);
        }
        String::from_utf8(head).expect("heads are text")
    }

    /// The next answer, interim ones aside.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = loop {
            let head = self.head();
            if !head.starts_with("HTTP/1.1 1") {
                break head;
            }
        };
        let status = head[9..12].parse().expect("a status is a number");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length is a number"))];
        self.0.read_exact(&mut body).expect("the body comes whole");
        let body = String::from_utf8(body).expect("bodies are text");
        Answer { status, head, body }
    }

    pub(crate) fn answer_to(&mut self, request: &str) -> Answer {
        self.say(request);
        self.answer()
    }

    pub(crate) fn pid(&mut self) -> u32 {
        let answer = self.answer_to("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.parse().expect("it answers with its process id")
    }

    /// Lets the handlers go on: the answer.
    pub(crate) fn finished(&mut self, master: &Master) -> String {
        std::fs::write(master.directory().join("gate"), "").expect("the directory is ours");
        let answer = self.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    pub(crate) fn rest(&mut self) -> (String, bool) {
        let mut rest = Vec::new();
        let is_orderly = match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("neither the end nor a reset: {error}"),
        };
        (String::from_utf8_lossy(&rest).into_owned(), is_orderly)
    }

    pub(crate) fn ends_in_order(&mut self) -> bool {
        let (rest, is_orderly) = self.rest();
        rest.is_empty() && is_orderly
    }
}
