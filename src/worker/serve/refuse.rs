//! Answering in place of the server: a request that no worker is to try again.
//!
//! It has ended a worker too often, or it may not run twice and had begun in one that is dead. The client gets a status, and
//! the connection ends in order.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::conn::{Accepted, Connections, Passed, Stream};
use super::survival::Survival;
use crate::sys::peek;

/// Answers a connection that is to be refused, in a task of its own that `connections` counts; gives back any other. With
/// `survival` the client keeps its answer even if this worker is killed right after writing it.
pub(super) fn unless_refused(
    mut accepted: Accepted,
    survival: Option<&Survival>,
    connections: &Connections,
) -> Option<Accepted> {
    let Some(status) = accepted.passed.as_ref().and_then(|passed| passed.fail) else {
        return Some(accepted);
    };
    let (open, survival) = (connections.open(), survival.cloned());
    tokio::spawn(async move {
        let _open = open;
        let took = || accepted.passed.as_mut().and_then(Passed::took);
        refuse(accepted.stream, survival.as_ref(), status, took).await;
    });
    None
}

/// Answers `status` on a connection and ends it. `took` acknowledges the connection, after the answer is written: until then
/// the master's copy, with all that is known of its request, is what is left if this worker is killed. The request would run
/// once more if that were gone.
pub(crate) async fn refuse<T>(stream: Stream, survival: Option<&Survival>, status: u16, took: impl FnOnce() -> T) {
    let mut stream = stream;
    let answer = answer(status, begins_as_head(&stream));
    // Gone before the stream is: its descriptor's number may be another connection's then.
    let _note = survival.and_then(|survival| survival.note_last(stream.as_fd(), answer.len()));
    let written = timeout(LINGER, stream.write_all(answer.as_bytes())).await;
    let _taken = took();
    let ended = match written {
        Ok(Ok(())) => end(&mut stream).await,
        Ok(Err(err)) => Err(err),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    if let Err(err) = ended {
        tracing::debug!(%err, "a refused client did not wait for its answer");
    }
}

async fn end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    // What the client still sends must not meet a closed socket: the reset could overtake the answer.
    let mut nowhere = tokio::io::sink();
    let rest = timeout(LINGER, tokio::io::copy(stream, &mut nowhere));
    rest.await.unwrap_or(Ok(0)).map(drop)
}

/// Is it a HEAD request, as far as can be seen? Nothing is waited for: its bytes are here, or the worker before this one has
/// taken them, and then none will come.
fn begins_as_head(stream: &Stream) -> bool {
    // Whatever was peeked at by others is ours to read. Only TCP on a newer kernel knows of it.
    peek::set_offset(stream.as_fd(), None).ok();
    let mut bytes = [0; 64];
    let mut begin = ReadBuf::new(&mut bytes);
    let Ok(len) = peek::peek(stream.as_fd(), &mut begin) else {
        return false;
    };
    begin.advance(len);
    let head = begin.filled().trim_ascii_start();
    head.starts_with(b"HEAD ")
}

fn answer(status: u16, is_head: bool) -> String {
    let reason = match status {
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    };
    let head = format!("HTTP/1.1 {status} {reason}\r\nconnection: close\r\n");
    if is_head {
        // Without a length it is right, too, where the bytes were the rest of a body and only looked so.
        return format!("{head}\r\n");
    }
    let len = TEXT.len();
    format!("{head}content-type: text/plain; charset=utf-8\r\ncontent-length: {len}\r\n\r\n{TEXT}")
}

const TEXT: &str = "The process that was working on this request ended, and the request will not be tried again.\n";
/// How long the client may take to make room for the answer, and then to close.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use nix::sys::socket::{setsockopt, sockopt};
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    async fn answer_to(request: &[u8]) -> String {
        let (mut client, server) = streams().await;
        client.write_all(request).await.unwrap();
        if !request.is_empty() {
            server.readable().await.unwrap();
        }
        let refusing = actix_rt::spawn(refuse(Stream::Tcp(server), None, 502, || ()));
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        // It hears the end of the client, and does not wait for more.
        drop(client);
        timeout(Duration::from_secs(20), refusing).await.unwrap().unwrap();
        answer
    }

    /// A worker that is killed before the client has its answer leaves the refusal to another, and not the request.
    #[actix_rt::test]
    async fn a_refusal_is_acknowledged_after_its_answer() {
        let (client, server) = streams().await;
        setsockopt(&server, sockopt::SndBuf, &1).unwrap();
        setsockopt(&client, sockopt::RcvBuf, &1).unwrap();
        // Nobody reads, until there is no room for the answer.
        let full = [0; 4096];
        while timeout(Duration::from_millis(50), server.writable()).await.is_ok() {
            server.try_write(&full).ok();
        }
        let took = Rc::new(Cell::new(false));
        let refusing = actix_rt::spawn({
            let took = Rc::clone(&took);
            refuse(Stream::Tcp(server), None, 502, move || took.set(true))
        });
        tokio::task::yield_now().await;
        assert!(!took.get());
        let mut client = client;
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(took.get() && all.ends_with(TEXT.as_bytes()));
        drop(client);
        timeout(Duration::from_secs(20), refusing).await.unwrap().unwrap();
    }

    /// Its bytes were taken by the worker that died of it, and the client has sent all that it has.
    #[actix_rt::test]
    async fn a_request_that_is_not_here_any_more_is_not_waited_for() {
        let answer = timeout(Duration::from_secs(3), answer_to(b"")).await.expect("at once");
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.ends_with(TEXT),
            "{answer}"
        );
        let rest = answer_to(b"HEAD / of a body\r\n").await;
        assert!(
            rest.starts_with("HTTP/1.1 502 ") && !rest.contains("content-length"),
            "{rest}"
        );
    }

    #[actix_rt::test]
    async fn a_refused_request_is_answered_and_its_connection_ends() {
        let answer = answer_to(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
        assert!(
            answer.contains("connection: close\r\n") && answer.ends_with(TEXT),
            "{answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        let answer = answer_to(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = answer_to(b"POST / HTTP/1.1\r\ncontent-length: 100000\r\n\r\nhalf of the body").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        let answer = answer_to(b"\x16\x03\x01 no HTTP").await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
}
