//! Tests of the journaled stream: what would become of the connection if the worker were killed at this point. That is
//! asked of the real kernel's counters and the real journal.

use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::http1::is_idempotent;
use super::*;
use crate::model::rescue::{Verdict, verdict};

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
pub(super) const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
pub(super) const SERVE: Verdict = Verdict::Serve { drain: 0, strikes: 0 };

pub(super) fn test_journal() -> &'static Journal {
    static JOURNAL: OnceLock<Journal> = OnceLock::new();
    JOURNAL.get_or_init(|| Journal::map(4096).unwrap())
}

fn noting() -> Noting {
    Noting {
        journal: test_journal(),
        listener: 7,
        rules: Rules {
            is_repeatable: is_idempotent,
            kept_max: 1 << 16,
        },
    }
}

pub(super) struct Pair {
    pub(super) client: TcpStream,
    pub(super) server: Journaled,
}

pub(super) async fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

pub(super) async fn pair() -> Pair {
    let (client, server) = streams().await;
    let server = Journaled::new(server, &noting(), false, 0).unwrap();
    Pair { client, server }
}

impl Pair {
    /// What would become of it if the worker were killed now. Asked until all that is under way has arrived.
    pub(super) fn verdict(&self) -> Verdict {
        verdict(
            tcp::counted(self.server.as_fd()).unwrap(),
            test_journal().read(self.server.as_fd().as_raw_fd(), cookie(self.server.as_fd()).unwrap()),
        )
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// What the server reads, until it would have to wait: at least so many bytes.
    pub(super) async fn read(&mut self, least: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < least {
            let len = within(self.server.read_buf(&mut read)).await.unwrap();
            assert!(len > 0, "the end after {read:?}");
        }
        read
    }

    /// Would the server have to wait for more?
    async fn is_pending(&mut self) -> bool {
        let mut one = [0];
        tokio::select! {
            biased;
            read = self.server.read(&mut one) => panic!("read {read:?}"),
            // Twice through the reactor: whatever has happened by now was seen.
            () = async { for _ in 0..3 { tokio::time::sleep(Duration::from_millis(1)).await; } } => true,
        }
    }

    pub(super) async fn answer(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.unwrap();
    }

    pub(super) async fn receive(&mut self, expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        within(self.client.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, expected);
    }

    /// As the next worker takes it over.
    async fn taken_over(self) -> Self {
        let copy = self.server.as_fd().try_clone_to_owned().unwrap();
        let Self { client, server } = self;
        let mut server = server;
        server.moved();
        drop(server);
        let stream = TcpStream::from_std(std::net::TcpStream::from(copy)).unwrap();
        let server = Journaled::new(stream, &noting(), true, 1).unwrap();
        Self { client, server }
    }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

#[actix_rt::test]
async fn a_request_can_be_repeated_until_its_answer_is_written() {
    let mut pair = pair().await;
    assert_eq!(pair.verdict(), SERVE);
    for _ in 0..3 {
        pair.send(GET).await;
        assert_eq!(pair.read(GET.len()).await, GET);
        assert_eq!(pair.verdict(), Verdict::Again);
        assert!(pair.is_pending().await);
        pair.answer(OK).await;
        assert_eq!(pair.verdict(), SERVE);
        assert_eq!(peek::waiting(pair.server.as_fd()).unwrap(), 0);
        pair.receive(OK).await;
        assert!(pair.is_pending().await);
    }
}

#[actix_rt::test]
async fn half_a_head_is_nothing_begun_and_a_post_runs_once() {
    let mut pair = pair().await;
    let (first, rest) = POST.split_at(20);
    pair.send(first).await;
    assert_eq!(pair.read(20).await, first);
    assert_eq!(pair.verdict(), SERVE);
    pair.send(rest).await;
    assert_eq!(pair.read(rest.len()).await, rest);
    assert_eq!(pair.verdict(), Verdict::Unanswered);
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
}

#[actix_rt::test]
async fn pipelined_requests_are_let_through_one_by_one() {
    let mut pair = pair().await;
    pair.send(&[GET, POST, GET].concat()).await;
    assert_eq!(pair.read(GET.len()).await, GET);
    assert!(pair.is_pending().await);
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    assert_eq!(pair.read(POST.len()).await, POST);
    assert_eq!(pair.verdict(), Verdict::Unanswered);
    pair.answer(OK).await;
    assert_eq!(pair.read(GET.len()).await, GET);
    pair.answer(OK).await;
    assert_eq!(peek::waiting(pair.server.as_fd()).unwrap(), 0);
    pair.receive(&[OK, OK, OK].concat()).await;
}

#[actix_rt::test]
async fn who_waits_for_the_gate_is_woken_when_it_opens() {
    let mut pair = pair().await;
    pair.send(&[GET, GET].concat()).await;
    pair.read(GET.len()).await;
    let Pair { client, server } = pair;
    let (mut reader, mut writer) = tokio::io::split(server);
    let waiting = actix_rt::spawn(async move {
        let mut next = vec![0; GET.len()];
        reader.read_exact(&mut next).await.unwrap();
        next
    });
    tokio::task::yield_now().await;
    writer.write_all(OK).await.unwrap();
    assert_eq!(within(waiting).await.unwrap(), GET);
    drop(client);
}

#[actix_rt::test]
async fn an_answer_in_parts_cannot_be_repeated_once_begun() {
    let mut pair = pair().await;
    pair.send(GET).await;
    pair.read(GET.len()).await;
    let (head, body) = OK.split_at(30);
    pair.answer(head).await;
    assert_eq!(pair.verdict(), Verdict::Break);
    pair.answer(body).await;
    assert_eq!(pair.verdict(), SERVE);
    pair.receive(OK).await;
}

#[actix_rt::test]
async fn interim_responses_are_no_part_of_the_answer() {
    let mut pair = pair().await;
    let head = b"PUT / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    pair.send(head).await;
    pair.read(head.len()).await;
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let (first, rest) = interim.split_at(10);
    pair.answer(first).await;
    assert_eq!(pair.verdict(), Verdict::Break);
    pair.answer(rest).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.send(b"hello").await;
    assert_eq!(pair.read(5).await, b"hello");
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    pair.receive(&[&interim[..], OK].concat()).await;
}

#[actix_rt::test]
async fn a_slow_reader_of_a_large_answer_gets_it_whole_and_asks_again() {
    let mut pair = pair().await;
    pair.send(GET).await;
    pair.read(GET.len()).await;
    let len = 6 << 20;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
    let answer = [head.as_bytes(), &vec![b'x'; len]].concat();
    let Pair { mut client, mut server } = pair;
    let (expected, request) = (answer.len(), GET);
    let writing = actix_rt::spawn(async move {
        server.write_all(&answer).await.unwrap();
        server
    });
    let mut part = vec![0; 60_000];
    let mut received = 0;
    while received < expected {
        let len = part.len().min(expected - received);
        received += within(client.read(&mut part[..len])).await.unwrap();
        tokio::task::yield_now().await;
    }
    let server = within(writing).await.unwrap();
    let mut pair = Pair { client, server };
    assert_eq!(pair.verdict(), SERVE);
    pair.send(request).await;
    assert_eq!(pair.read(GET.len()).await, GET);
    assert_eq!(pair.verdict(), Verdict::Again);
}

#[actix_rt::test]
async fn the_next_worker_finds_the_request_whole() {
    let mut pair = pair().await;
    pair.send(GET).await;
    pair.read(GET.len()).await;
    pair.answer(OK).await;
    pair.send(&[GET, POST].concat()).await;
    pair.read(GET.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    let mut pair = pair.taken_over().await;
    assert_eq!(pair.server.strikes(), 1);
    assert_eq!(pair.verdict(), Verdict::Serve { drain: 0, strikes: 1 });
    assert_eq!(pair.read(GET.len()).await, GET);
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(OK).await;
    assert_eq!((pair.verdict(), pair.server.strikes()), (SERVE, 0));
    assert_eq!(pair.read(POST.len()).await, POST);
    pair.answer(OK).await;
    pair.receive(&[OK, OK, OK].concat()).await;
}

#[actix_rt::test]
async fn the_last_answer_ends_the_connection() {
    let mut pair = pair().await;
    pair.send(b"GET / HTTP/1.0\r\n\r\n").await;
    pair.read(18).await;
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), Verdict::End { drain: 0 });
    pair.server.shutdown().await.unwrap();
    drop(pair.server);
    let mut answer = Vec::new();
    within(pair.client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, OK);
}

#[actix_rt::test]
async fn a_request_that_is_too_long_is_taken_out_as_it_is_read() {
    let len: usize = 1 << 20;
    let mut pair = pair().await;
    let head = format!("PUT / HTTP/1.1\r\ncontent-length: {len}\r\n\r\n");
    pair.send(head.as_bytes()).await;
    assert_eq!(pair.read(head.len()).await, head.as_bytes());
    assert_eq!(peek::waiting(pair.server.as_fd()).unwrap(), 0);
    assert_eq!(pair.verdict(), Verdict::Unanswered);
    let Pair { mut client, mut server } = pair;
    let sending = actix_rt::spawn(async move {
        client.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        client.write_all(GET).await.unwrap();
        client
    });
    let mut body = vec![0; len];
    within(server.read_exact(&mut body)).await.unwrap();
    let client = within(sending).await.unwrap();
    let mut pair = Pair { client, server };
    assert_eq!(pair.verdict(), Verdict::Unanswered);
    assert!(pair.is_pending().await, "the next request waits");
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    assert_eq!(pair.read(GET.len()).await, GET);
    assert_eq!(pair.verdict(), Verdict::Again);
}

#[actix_rt::test]
async fn a_chunked_request_is_kept_until_it_is_too_long() {
    let mut pair = pair().await;
    let head = b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    pair.send(head).await;
    pair.read(head.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    let mut chunk = b"8000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x8000, b'x');
    chunk.extend(b"\r\n");
    pair.send(&chunk).await;
    pair.read(chunk.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    for _ in 0..3 {
        pair.send(&chunk).await;
        pair.read(chunk.len()).await;
    }
    assert_eq!(pair.verdict(), Verdict::Unanswered);
    pair.send(b"0\r\n\r\n").await;
    pair.read(5).await;
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    pair.receive(OK).await;
}

#[actix_rt::test]
async fn what_is_no_http_is_a_plain_stream() {
    let mut pair = pair().await;
    pair.send(b"GET / HTTP").await;
    pair.read(10).await;
    pair.send(b"\r\n\x16\x03\x01 hello").await;
    pair.send(b"\r\n\r\nworld").await;
    assert_eq!(pair.read(20).await, b"\r\n\x16\x03\x01 hello\r\n\r\nworld");
    assert!(!pair.server.is_followed());
    assert_eq!(pair.verdict(), Verdict::Break);
    assert_eq!(peek::waiting(pair.server.as_fd()).unwrap(), 0);
    pair.answer(b"as you like").await;
    pair.receive(b"as you like").await;
}

#[actix_rt::test]
async fn another_protocol_begins_with_101() {
    let mut pair = pair().await;
    let request = b"GET / HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    pair.send(request).await;
    pair.read(request.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.send(b"early").await;
    let switching = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    pair.answer(switching).await;
    assert_eq!(pair.verdict(), Verdict::Break);
    assert_eq!(pair.read(5).await, b"early");
    pair.answer(b"late").await;
    pair.receive(&[&switching[..], b"late"].concat()).await;
}

#[actix_rt::test]
async fn the_end_of_the_client_is_seen_while_it_waits_for_its_answer() {
    let mut pair = pair().await;
    pair.send(GET).await;
    pair.read(GET.len()).await;
    pair.client.shutdown().await.unwrap();
    assert_eq!(within(pair.server.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), Verdict::End { drain: 0 });
    drop(pair.server);
    let mut answer = Vec::new();
    within(pair.client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, OK);
}

#[actix_rt::test]
async fn closing_over_a_request_resets_nothing() {
    let mut pair = pair().await;
    pair.send(&[GET, GET].concat()).await;
    pair.read(GET.len()).await;
    pair.answer(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    assert_eq!(pair.verdict(), Verdict::Break);
    pair.server.shutdown().await.unwrap();
    drop(pair.server);
    let mut answer = Vec::new();
    within(pair.client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(b"until the end"));
}

#[actix_rt::test]
async fn a_note_ends_with_its_stream_and_a_number_that_is_used_again_begins_anew() {
    let mut pair = pair().await;
    pair.send(POST).await;
    pair.read(POST.len()).await;
    let number = pair.server.as_fd().as_raw_fd();
    // Another owner of the same socket keeps the number from being anybody else's meanwhile.
    let Pair { server, .. } = pair;
    let journal = test_journal();
    let again = journal.open(number, 7, 0, 0, 0).unwrap();
    let noted = journal.read(number, 0).unwrap();
    assert_eq!(noted.marks.strikes(), 0);
    let counted = crate::model::rescue::Counted::default();
    assert_eq!(verdict(counted, Some(noted)), SERVE, "nothing of the first one is left");
    drop(again);
    assert_eq!(journal.read(number, 0), None);
    drop(server);
}

/// The worst of clients: each byte a segment of its own, and a window that does not grow because nothing is taken out.
#[actix_rt::test]
async fn many_small_segments_of_a_kept_request_do_not_close_the_window() {
    let pair = pair().await;
    pair.client.set_nodelay(true).unwrap();
    let len = (1 << 16) - 60;
    let head = format!("PUT / HTTP/1.1\r\ncontent-length: {len}\r\n\r\n");
    let Pair { mut client, mut server } = pair;
    let sending = actix_rt::spawn(async move {
        client.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..len / 4 {
            client.write_all(b"abcd").await.unwrap();
        }
        client
    });
    let mut body = vec![0; len];
    within(server.read_exact(&mut body)).await.unwrap();
    let client = within(sending).await.unwrap();
    assert_eq!(Pair { client, server }.verdict(), Verdict::Again);
}

#[actix_rt::test]
async fn a_kept_request_that_closes_the_window_is_taken_out_after_a_while() {
    let (client, server) = streams().await;
    let mut noting = noting();
    noting.rules.kept_max = 1 << 20;
    let mut server = Journaled::new(server, &noting, false, 0).unwrap();
    let len = 1 << 19;
    let head = format!("PUT / HTTP/1.1\r\ncontent-length: {len}\r\n\r\n");
    let mut client = client;
    let sending = actix_rt::spawn(async move {
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; len]).await.unwrap();
        client
    });
    let mut body = vec![0; len];
    within(server.read_exact(&mut body)).await.unwrap();
    let client = within(sending).await.unwrap();
    assert_eq!(Pair { client, server }.verdict(), Verdict::Unanswered);
}

#[actix_rt::test]
async fn only_a_request_in_pieces_costs_the_kernel_an_offset() {
    let mut pair = pair().await;
    for _ in 0..2 {
        pair.send(GET).await;
        assert_eq!(pair.read(GET.len()).await, GET);
        pair.answer(OK).await;
        pair.receive(OK).await;
    }
    // Two at once: the second is seen, and left until the first is answered.
    pair.send(&[GET, GET].concat()).await;
    for _ in 0..2 {
        assert_eq!(pair.read(GET.len()).await, GET);
        pair.answer(OK).await;
        pair.receive(OK).await;
    }
    assert_eq!(peek::offset(pair.server.as_fd()).unwrap(), None);
    let (first, rest) = GET.split_at(9);
    pair.send(first).await;
    assert_eq!(pair.read(first.len()).await, first);
    pair.send(rest).await;
    assert_eq!(pair.read(rest.len()).await, rest, "what was read is not read again");
    assert_eq!(pair.verdict(), Verdict::Again);
    assert_eq!(peek::offset(pair.server.as_fd()).unwrap(), Some(GET.len()));
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    pair.send(&[GET, POST].concat()).await;
    assert_eq!(pair.read(GET.len()).await, GET);
    pair.answer(OK).await;
    assert_eq!(pair.read(POST.len()).await, POST);
}
