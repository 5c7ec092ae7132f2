//! Tests of a worker that leaves while others accept: what its clients notice, over real sockets. The other worker is a
//! second application in this process; the master between them is a list.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use actix_web::{App, HttpResponse, web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::conn::Connections;
use super::http1::is_idempotent;
use super::incoming::Incoming;
use super::intake::Intake;
use super::survival::{Giving, Others, Survival};
use super::web::{Books, ServeError, ServeOptions, serve_app};
use crate::sys::journal::Journal;
use crate::worker::counters::Counters;
use crate::worker::handover::Given;
use crate::worker::shutdown::Shutdown;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const GATED: &[u8] = b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n";

/// The master: keeps what it is given, for the next worker.
#[derive(Default)]
struct Between {
    has_taker: bool,
    refuses: bool,
    has_no_room: AtomicBool,
    turned_away: Notify,
    /// It is known from this stop on.
    stop: Option<Shutdown>,
    given: Mutex<Vec<(OwnedFd, u8)>>,
    came: Notify,
}

impl Others for Between {
    fn wanted(&self) -> Pin<Box<dyn Future<Output = bool> + '_>> {
        Box::pin(async {
            if let Some(stop) = &self.stop {
                stop.started().await;
            }
            self.has_taker
        })
    }

    fn give(&self, connection: BorrowedFd<'_>, strikes: u8) -> Giving {
        if self.refuses {
            return Giving::Never;
        }
        if self.has_no_room.load(Ordering::SeqCst) {
            self.turned_away.notify_one();
            return Giving::Later;
        }
        let connection = connection.try_clone_to_owned().unwrap();
        self.given.lock().unwrap().push((connection, strikes));
        self.came.notify_one();
        Giving::Taken
    }
}

/// A worker; it answers with its name.
struct Served {
    intake: Intake,
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    begun: Arc<Notify>,
    gate: Arc<Notify>,
    serving: JoinHandle<Result<(), ServeError>>,
}

fn journal() -> &'static Journal {
    static JOURNAL: OnceLock<Journal> = OnceLock::new();
    JOURNAL.get_or_init(|| Journal::map(4096).unwrap())
}

fn serve(name: &'static str, between: &Arc<Between>) -> Served {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    let (begun, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let others = Arc::clone(between);
    let books = Books {
        local: Some(address),
        counters: Counters::default(),
        recorder: None,
        survival: Some(Survival::new(journal(), 0, is_idempotent, 1 << 17, others)),
    };
    let (app_begun, app_gate) = (Arc::clone(&begun), Arc::clone(&gate));
    let app = move || {
        App::new()
            .route("/", web::get().to(move || async move { HttpResponse::Ok().body(name) }))
            .route(
                "/gate",
                web::get().to(move || {
                    let (begun, gate) = (Arc::clone(&app_begun), Arc::clone(&app_gate));
                    async move {
                        begun.notify_one();
                        gate.notified().await;
                        HttpResponse::Ok().body(name)
                    }
                }),
            )
    };
    let options = ServeOptions::new().client_request_timeout(Duration::from_millis(500));
    let options = options.keep_alive(Duration::from_secs(2));
    let serving = actix_rt::spawn(serve_app(intake.clone(), books, options, app));
    Served {
        intake,
        address,
        shutdown,
        begun,
        gate,
        serving,
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn idle_client(&self, name: &str) -> TcpStream {
        let mut client = self.connect().await;
        ask(&mut client, name).await;
        client
    }

    /// It has ended, and what it gave away goes on there.
    async fn passes_to(self, next: &Self, between: &Between) {
        within(self.serving).await.unwrap().unwrap();
        next.take(between);
    }

    fn take(&self, between: &Between) {
        for (fd, strikes) in between.given.lock().unwrap().drain(..) {
            self.intake.give(Given {
                fd,
                strikes,
                fail: None,
                receipt: None,
            });
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

async fn answer(client: &mut TcpStream, name: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(name.as_bytes()) {
        answer.push(within(client.read_u8()).await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

async fn ask(client: &mut TcpStream, name: &str) {
    client.write_all(GET).await.unwrap();
    let answer = answer(client, name).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.contains("close"),
        "{answer}"
    );
}

fn with_taker() -> Arc<Between> {
    Arc::new(Between {
        has_taker: true,
        ..Between::default()
    })
}

#[actix_rt::test]
async fn idle_connections_of_a_leaving_worker_go_on_elsewhere() {
    let between = with_taker();
    let (old, new) = (serve("old", &between), serve("new", &between));
    // Used a moment ago, not used at all, and in the middle of a head: what today's rules wait for.
    let mut used = old.idle_client("old").await;
    let mut partial = old.idle_client("old").await;
    let mut fresh = old.connect().await;
    let (first, rest) = GET.split_at(9);
    partial.write_all(first).await.unwrap();
    let _witness = old.idle_client("old").await;
    old.shutdown.start();
    old.passes_to(&new, &between).await;
    partial.write_all(rest).await.unwrap();
    let text = answer(&mut partial, "new").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for client in [&mut used, &mut partial, &mut fresh] {
        ask(client, "new").await;
    }
}

#[actix_rt::test]
async fn a_request_in_progress_is_finished_here_and_the_next_one_is_answered_elsewhere() {
    let between = with_taker();
    let (old, new) = (serve("old", &between), serve("new", &between));
    let mut client = old.connect().await;
    // The second one is pipelined: it has come, and is nobody's yet.
    client.write_all(&[GATED, GET].concat()).await.unwrap();
    within(old.begun.notified()).await;
    let _witness = old.idle_client("old").await;
    old.shutdown.start();
    within(between.came.notified()).await;
    old.gate.notify_one();
    let text = answer(&mut client, "old").await;
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("close"), "{text}");
    old.passes_to(&new, &between).await;
    assert!(answer(&mut client, "new").await.starts_with("HTTP/1.1 200"));
    ask(&mut client, "new").await;
}

#[actix_rt::test]
async fn a_client_that_resets_on_the_way_harms_nobody() {
    let between = with_taker();
    let (old, new) = (serve("old", &between), serve("new", &between));
    let mut client = old.idle_client("old").await;
    let (gone, late) = (old.idle_client("old").await, old.idle_client("old").await);
    old.shutdown.start();
    within(old.serving).await.unwrap().unwrap();
    gone.set_zero_linger().unwrap();
    drop(gone);
    new.take(&between);
    late.set_zero_linger().unwrap();
    drop(late);
    ask(&mut client, "new").await;
    new.shutdown.start();
    within(new.serving).await.unwrap().unwrap();
    assert_eq!(between.given.lock().unwrap().len(), 1, "the one that is still there");
}

/// The time limit for a first request is not that for the next one, on whichever worker.
#[actix_rt::test]
async fn a_connection_that_moved_may_be_idle_as_long_as_any_other() {
    let between = with_taker();
    let (old, new) = (serve("old", &between), serve("new", &between));
    let mut client = old.idle_client("old").await;
    let mut silent = old.idle_client("old").await;
    old.shutdown.start();
    old.passes_to(&new, &between).await;
    // What is tested is the passing of time: longer than `client_request_timeout`, shorter than `keep_alive`.
    tokio::time::sleep(Duration::from_millis(700)).await;
    ask(&mut client, "new").await;
    let mut rest = String::new();
    within(silent.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "", "closed without a word when its time is over");
}

#[actix_rt::test]
async fn what_nobody_takes_ends_by_the_rules_for_all() {
    for (has_taker, refuses) in [(false, false), (true, true)] {
        let between = Arc::new(Between {
            has_taker,
            refuses,
            ..Between::default()
        });
        let old = serve("old", &between);
        let mut busy = old.connect().await;
        busy.write_all(GATED).await.unwrap();
        within(old.begun.notified()).await;
        let mut used = old.idle_client("old").await;
        old.shutdown.start();
        let mut rest = String::new();
        within(used.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "", "closed in order");
        old.gate.notify_one();
        within(busy.read_to_string(&mut rest)).await.unwrap();
        assert!(rest.ends_with("old"), "{rest}");
        within(old.serving).await.unwrap().unwrap();
    }
}

/// Hundreds of idle connections at once fill the way to the master: none of them is closed for that.
#[actix_rt::test]
async fn what_there_is_no_room_for_waits_and_is_not_closed() {
    let between = with_taker();
    let (old, new) = (serve("old", &between), serve("new", &between));
    let (mut used, mut fresh) = (old.idle_client("old").await, old.connect().await);
    let _witness = old.idle_client("old").await;
    between.has_no_room.store(true, Ordering::SeqCst);
    old.shutdown.start();
    for _ in 0..3 {
        within(between.turned_away.notified()).await;
    }
    // A request that comes meanwhile goes along.
    used.write_all(GET).await.unwrap();
    between.has_no_room.store(false, Ordering::SeqCst);
    old.passes_to(&new, &between).await;
    assert!(answer(&mut used, "new").await.starts_with("HTTP/1.1 200"));
    ask(&mut fresh, "new").await;
}

/// A server that is not ours, and closes what is idle when it is told to stop.
#[actix_rt::test]
async fn other_servers_close_and_the_connection_goes_on_elsewhere() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let between = Arc::new(Between {
        has_taker: true,
        stop: Some(shutdown.clone()),
        ..Between::default()
    });
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    let others: Arc<dyn Others> = Arc::<Between>::clone(&between);
    let survival = Survival::new(journal(), 0, is_idempotent, 1 << 17, others);
    let connections = Connections::default();
    let incoming = Incoming::new(intake, connections.clone());
    let mut incoming = incoming.surviving(Some(survival)).http1();
    let mut clients = [
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    ];
    let mut served = Vec::new();
    for client in &mut clients {
        let mut connection = within(incoming.accept()).await.unwrap();
        client.write_all(GET).await.unwrap();
        within(connection.read_exact(&mut [0; GET.len()])).await.unwrap();
        connection
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold")
            .await
            .unwrap();
        answer(client, "old").await;
        served.push(connection);
    }
    let [mut waits, mut closes] = <[_; 2]>::try_from(served).unwrap();
    let waiting = actix_rt::spawn(async move { waits.read(&mut [0]).await });
    tokio::task::yield_now().await;
    shutdown.start();
    assert!(within(incoming.accept()).await.is_none());
    within(closes.shutdown()).await.unwrap();
    drop(closes);
    assert_eq!(within(waiting).await.unwrap().unwrap(), 0);
    assert_eq!(connections.count(), 0);
    let new = serve("new", &between);
    new.take(&between);
    for client in &mut clients {
        ask(client, "new").await;
    }
}
