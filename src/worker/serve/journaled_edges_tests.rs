//! Tests of the journaled stream where a connection's course is unusual: an answer that comes early, and a connection that
//! becomes somebody else's.

use std::os::fd::{AsFd, AsRawFd};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::tests::{GET, OK, Pair, SERVE, pair, test_journal};
use crate::model::rescue::{Verdict, verdict};
use crate::sys::socket::cookie;
use crate::sys::{peek, tcp};

/// Servers read on to the end of a body that nobody wants, and go on with the connection.
#[actix_rt::test]
async fn an_answer_before_the_end_of_the_body_is_noted_as_the_last_until_that_end_comes() {
    let mut pair = pair().await;
    let head = b"PUT / HTTP/1.1\r\ncontent-length: 5\r\n\r\n";
    pair.send(head).await;
    pair.read(head.len()).await;
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), Verdict::End { drain: 0 });
    pair.send(b"he").await;
    assert_eq!(pair.read(2).await, b"he");
    assert_eq!(pair.verdict(), Verdict::End { drain: 0 }, "the answer is whole");
    pair.send(b"llo").await;
    assert_eq!(pair.read(3).await, b"llo");
    assert_eq!(peek::waiting(pair.server.as_fd()).unwrap(), 0);
    assert_eq!(pair.verdict(), SERVE, "and now the connection is as any other");
    pair.send(GET).await;
    pair.read(GET.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(OK).await;
    assert_eq!(pair.verdict(), SERVE);
    pair.receive(&[OK, OK].concat()).await;
}

#[actix_rt::test]
async fn an_early_answer_that_ends_the_connection_stays_the_last() {
    let mut pair = pair().await;
    let head = b"PUT / HTTP/1.1\r\ncontent-length: 5\r\n\r\n";
    pair.send(head).await;
    pair.read(head.len()).await;
    pair.answer(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .await;
    pair.send(b"hello").await;
    pair.read(5).await;
    assert_eq!(pair.verdict(), Verdict::End { drain: 0 });
}

/// From the moment before it is given away until its descriptor is closed: nothing that the next owner does with it is
/// judged by the note of the one before.
#[actix_rt::test]
async fn a_note_about_a_connection_that_moved_harms_nobody() {
    let mut pair = pair().await;
    pair.send(GET).await;
    pair.read(GET.len()).await;
    pair.answer(OK).await;
    pair.receive(OK).await;
    let (number, itself) = (pair.server.as_fd().as_raw_fd(), cookie(pair.server.as_fd()).unwrap());
    let journal = test_journal();
    pair.server.moving().unwrap();
    assert_eq!(pair.verdict(), SERVE, "it may not be on its way yet");
    let copy = pair.server.as_fd().try_clone_to_owned().unwrap();
    let mut next = TcpStream::from_std(copy.into()).unwrap();
    pair.server.moved();
    next.write_all(OK).await.unwrap();
    assert_eq!(pair.verdict(), Verdict::Leave);
    let Pair { server, .. } = pair;
    let counted = tcp::counted(server.as_fd()).unwrap();
    // Another descriptor in the number's place would be another test's.
    let noted = journal.read(number, itself);
    assert_eq!(verdict(counted, noted), Verdict::Leave);
    assert_eq!(journal.read(number, itself + 1), None, "the number's next owner");
    drop(server);
}

#[actix_rt::test]
async fn a_connection_that_nobody_took_is_judged_as_before() {
    let mut pair = pair().await;
    pair.server.moving().unwrap();
    pair.server.stays();
    pair.send(GET).await;
    pair.read(GET.len()).await;
    assert_eq!(pair.verdict(), Verdict::Again);
    pair.answer(b"HTTP/1.1 200 OK\r\n").await;
    assert_eq!(pair.verdict(), Verdict::Break);
}
