//! Tests of serving an application: what clients see when the worker stops, over real sockets.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use actix_web::{App, HttpRequest, HttpResponse, web};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};

use super::intake::Intake;
use super::web::{Books, ServeError, ServeOptions, serve_app};
use crate::clock;
use crate::worker::counters::Counters;
use crate::worker::shutdown::Shutdown;

const BIG: usize = 8 << 20;
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const GATED: &[u8] = b"GET /gate HTTP/1.1\r\nhost: x\r\n\r\n";

/// A response body of unknown length, fed by the test.
struct Fed(mpsc::Receiver<Bytes>);

impl MessageBody for Fed {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(Ok))
    }
}

/// A served application and the levers of the test.
struct Served {
    address: SocketAddr,
    shutdown: Shutdown,
    counters: Counters,
    begun: Rc<Notify>,
    gate: Rc<Notify>,
    feed: Rc<RefCell<Option<mpsc::Receiver<Bytes>>>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

fn listen() -> (std::net::TcpListener, SocketAddr, Shutdown) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address, Shutdown::new())
}

fn serve(options: ServeOptions) -> Served {
    let (listener, address, shutdown) = listen();
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    serve_on(intake, address, shutdown, options)
}

fn serve_on(intake: Intake, address: SocketAddr, shutdown: Shutdown, options: ServeOptions) -> Served {
    let (counters, begun, gate) = (Counters::default(), Rc::new(Notify::new()), Rc::new(Notify::new()));
    let feed = Rc::new(RefCell::new(None));
    let (app_begun, app_gate, app_feed) = (begun.clone(), gate.clone(), Rc::clone(&feed));
    let app = move || {
        let (echo_begun, gate, feed) = (app_begun.clone(), app_gate.clone(), app_feed.clone());
        App::new()
            .app_data(web::PayloadConfig::new(BIG))
            .route("/", web::get().to(|| async { HttpResponse::Ok().body("hello") }))
            .route(
                "/local",
                web::get().to(|request: HttpRequest| async move { request.app_config().local_addr().to_string() }),
            )
            .route("/big", web::get().to(|| async { vec![b'x'; BIG] }))
            .route("/fail", web::get().to(HttpResponse::InternalServerError))
            .route("/panic", web::get().to(|| async { panic_on_request() }))
            .route(
                "/gate",
                web::get().to(move || {
                    let (begun, gate) = (app_begun.clone(), gate.clone());
                    async move {
                        begun.notify_one();
                        gate.notified().await;
                        HttpResponse::Ok().body("through")
                    }
                }),
            )
            .route(
                "/fed",
                web::get().to(move || {
                    let fed = feed.borrow_mut().take().unwrap();
                    async move { HttpResponse::Ok().body(Fed(fed)) }
                }),
            )
            .route(
                "/count",
                web::post().to(move |body: web::Payload| {
                    echo_begun.notify_one();
                    async move { body.to_bytes().await.unwrap().len().to_string() }
                }),
            )
    };
    let books = Books {
        local: Some(address),
        counters: counters.clone(),
        recorder: None,
        survival: None,
    };
    let serving = actix_rt::spawn(serve_app(intake, books, options, app));
    Served {
        address,
        shutdown,
        counters,
        begun,
        gate,
        feed,
        serving,
    }
}

fn panic_on_request() -> HttpResponse {
    panic!("asked to")
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that takes little at a time.
    async fn connect_slowly(&self) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1 << 16).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// A connection that was used once and is idle.
    async fn idle_client(&self) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(GET).await.unwrap();
        let answer = read_until(&mut client, b"hello").await;
        assert!(!answer.contains("connection: close"), "{answer}");
        client
    }

    /// Starts the stop and returns when it has reached the connections.
    async fn stop(&self) {
        let mut witness = self.idle_client().await;
        self.shutdown.start();
        assert_eq!(
            rest(&mut witness).await,
            "",
            "idle connections are closed, and not reset"
        );
    }

    async fn ended(self) {
        within(5, self.serving).await.unwrap().unwrap();
        assert_eq!(self.counters.snapshot().active, 0);
    }
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future)
        .await
        .expect("in time")
}

async fn read_until(client: &mut TcpStream, end: &[u8]) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        answer.push(within(5, client.read_u8()).await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

async fn rest(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = String::new();
    within(5, client.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[actix_rt::test]
async fn idle_connections_are_closed_at_once_and_not_reset() {
    let mut fastest = Duration::MAX;
    // The machine may be busy elsewhere; the claim is about what the stop itself takes.
    for _ in 0..5 {
        let served = serve(ServeOptions::default());
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(served.idle_client().await);
        }
        // What is tested is the passing of time: unused for this long is idle.
        tokio::time::sleep(Duration::from_millis(260)).await;
        let begun = clock::now();
        served.shutdown.start();
        for client in &mut clients {
            assert_eq!(rest(client).await, "");
        }
        served.ended().await;
        fastest = fastest.min(clock::now().since(begun));
        if fastest < Duration::from_millis(100) {
            return;
        }
    }
    panic!("took {fastest:?}");
}

#[actix_rt::test]
async fn a_busy_connection_is_told_of_the_close_by_its_next_response() {
    let served = serve(ServeOptions::default());
    let mut client = served.idle_client().await;
    served.shutdown.start();
    tokio::task::yield_now().await;
    client.write_all(GET).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("hello"),
        "{answer}"
    );
    drop(client);
    served.ended().await;
}

#[actix_rt::test]
async fn a_request_in_progress_is_answered_and_told_of_the_close() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect().await;
    client.write_all(GATED).await.unwrap();
    served.begun.notified().await;
    assert_eq!(served.counters.snapshot().active, 1);
    served.stop().await;
    served.gate.notify_one();
    let answer = rest(&mut client).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("through"),
        "{answer}"
    );
    drop(client);
    served.ended().await;
}

#[actix_rt::test]
async fn a_large_body_in_flight_arrives_whole() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect().await;
    client.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let head = read_until(&mut client, b"\r\n\r\n").await;
    assert!(!head.contains("connection: close"), "its head was sent before the stop");
    served.stop().await;
    assert_eq!(rest(&mut client).await.len(), BIG);
    served.ended().await;
}

#[actix_rt::test]
async fn a_slow_reader_gets_all_of_a_body_that_outlasts_the_keep_alive_time() {
    let options = ServeOptions::new().keep_alive(Duration::from_millis(400));
    let options = options.client_disconnect_timeout(Duration::ZERO);
    let (listener, address, shutdown) = listen();
    // Accepted sockets inherit it: what the kernel does not buffer is left to the dispatcher.
    setsockopt(&listener, sockopt::SndBuf, &(1 << 16)).unwrap();
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    let served = serve_on(intake, address, shutdown, options);
    let mut client = served.connect_slowly().await;
    client.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    served.shutdown.start();
    // Slow, but never silent: the pace is the point of the test.
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut part = vec![0; BIG / 12];
    for _ in 0..12 {
        pace.tick().await;
        client.read_exact(&mut part).await.unwrap();
    }
    assert_eq!(rest(&mut client).await.len(), BIG % 12);
    served.ended().await;
}

#[actix_rt::test]
async fn a_stream_begun_before_the_stop_is_finished_and_then_closed() {
    let served = serve(ServeOptions::default());
    let (feed, fed) = mpsc::channel(1);
    served.feed.replace(Some(fed));
    let mut client = served.connect().await;
    client.write_all(b"GET /fed HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    feed.send(Bytes::from_static(b"one")).await.unwrap();
    read_until(&mut client, b"one\r\n").await;
    served.stop().await;
    feed.send(Bytes::from_static(b"two")).await.unwrap();
    drop(feed);
    let begun = clock::now();
    assert_eq!(rest(&mut client).await, "3\r\ntwo\r\n0\r\n\r\n");
    assert!(
        clock::now().since(begun) < Duration::from_millis(500),
        "closed at its end"
    );
    served.ended().await;
}

#[actix_rt::test]
async fn a_partly_received_head_gets_its_chance() {
    let served = serve(ServeOptions::default());
    let mut fresh = served.connect().await;
    let mut used = served.idle_client().await;
    let (first, last) = GET.split_at(10);
    fresh.write_all(first).await.unwrap();
    used.write_all(first).await.unwrap();
    served.stop().await;
    for client in [&mut fresh, &mut used] {
        client.write_all(last).await.unwrap();
        let answer = rest(client).await;
        assert!(
            answer.contains("connection: close") && answer.ends_with("hello"),
            "{answer}"
        );
    }
    drop((fresh, used));
    served.ended().await;
}

#[actix_rt::test]
async fn a_head_that_never_ends_cannot_hold_the_stop_up() {
    let options = ServeOptions::new().client_request_timeout(Duration::from_millis(700));
    let served = serve(options);
    let mut used = served.idle_client().await;
    used.write_all(b"GET /").await.unwrap();
    served.stop().await;
    assert_eq!(rest(&mut used).await, "");
    served.ended().await;
}

#[actix_rt::test]
async fn what_was_queued_before_the_stop_is_served() {
    let (listener, address, shutdown) = listen();
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let (late, prompt) = clients.split_at_mut(5);
    for client in prompt.iter_mut() {
        client.write_all(GET).await.unwrap();
    }
    shutdown.start();
    let served = serve_on(intake, address, shutdown, ServeOptions::default());
    for client in prompt.iter_mut() {
        let answer = rest(client).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }
    // These connected before the stop and ask only after it.
    for client in late.iter_mut() {
        client.write_all(GET).await.unwrap();
        assert!(rest(client).await.ends_with("hello"));
    }
    drop(clients);
    served.ended().await;
}

#[actix_rt::test]
async fn a_new_connection_that_stays_silent_is_closed_after_a_moment() {
    let served = serve(ServeOptions::default());
    let mut silent = served.connect().await;
    served.stop().await;
    assert_eq!(rest(&mut silent).await, "");
    served.ended().await;
}

#[actix_rt::test]
async fn an_upload_in_progress_completes() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect().await;
    let head = format!("POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 17);
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&[b'x'; 1 << 16]).await.unwrap();
    served.begun.notified().await;
    served.stop().await;
    client.write_all(&[b'x'; 1 << 16]).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("131072"),
        "{answer}"
    );
    drop(client);
    served.ended().await;
}

#[actix_rt::test]
async fn pipelined_requests_are_answered_and_a_further_one_resets_nothing() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect().await;
    client.write_all(&[GATED, GET].concat()).await.unwrap();
    served.begun.notified().await;
    served.stop().await;
    served.gate.notify_one();
    let answers = read_until(&mut client, b"hello").await;
    assert!(answers.contains("through"), "{answers}");
    client.write_all(GET).await.unwrap();
    assert_eq!(rest(&mut client).await, "", "closed, and not reset");
    drop(client);
    served.ended().await;
}

#[actix_rt::test]
async fn a_further_request_does_not_cut_the_last_answer() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect_slowly().await;
    served.stop().await;
    client.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, b"\r\n\r\n").await.contains("connection: close"));
    // Read on until the server has handed everything to its kernel, which shows in the request being over.
    let mut got = 0;
    let mut part = vec![0; 1 << 16];
    while served.counters.snapshot().active > 0 || got < BIG * 3 / 4 {
        got += client.read(&mut part).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(GET).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(got + rest(&mut client).await.len(), BIG);
    drop(client);
    served.ended().await;
}

#[actix_rt::test]
async fn a_panic_ends_its_own_connection_only() {
    let served = serve(ServeOptions::default());
    let mut client = served.connect().await;
    client
        .write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(matches!(within(5, client.read(&mut [0])).await, Ok(0) | Err(_)));
    let mut client = served.idle_client().await;
    client
        .write_all(b"GET /fail HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    let stats = served.counters.snapshot();
    assert_eq!((stats.requests, stats.errors, stats.active), (3, 2, 0));
    served.shutdown.start();
    served.ended().await;
}

#[actix_rt::test]
async fn the_limit_on_connections_lets_the_rest_wait() {
    let served = serve(ServeOptions::new().max_connections(1));
    let first = served.idle_client().await;
    let mut second = served.connect().await;
    second
        .write_all(b"GET /local HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut nothing = [0];
    let waiting = second.read(&mut nothing);
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    drop(first);
    read_until(&mut second, served.address.to_string().as_bytes()).await;
    served.shutdown.start();
    drop(second);
    served.ended().await;
}

#[actix_rt::test]
async fn unix_paths_are_served() {
    let path = std::env::temp_dir().join(format!("web-{}.sock", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let shutdown = Shutdown::new();
    let intake = Intake::new(listener.into(), shutdown.clone()).unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    client.write_all(GET).await.unwrap();
    shutdown.start();
    let served = serve_on(intake, ([127, 0, 0, 1], 0).into(), shutdown, ServeOptions::default());
    assert!(rest(&mut client).await.ends_with("hello"));
    drop(client);
    served.ended().await;
}
