//! Answering in place of the server: a request that no worker is to try again.
//!
//! It has ended a worker too often, or it may not run twice and had begun in one that is dead. The client gets a status, and
//! the connection ends in order.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::conn::{Accepted, Connections, Stream};
use super::http1::{Exchange, Rules, Step, is_idempotent};
use crate::sys::peek;

/// Answers a connection that is to be refused, in a task of its own that `connections` counts; gives back any other.
pub(super) fn unless_refused(mut accepted: Accepted, connections: &Connections) -> Option<Accepted> {
    let Some(status) = accepted.passed.as_ref().and_then(|passed| passed.fail) else {
        return Some(accepted);
    };
    let open = connections.open_passed(accepted.passed.as_mut());
    tokio::spawn(async move {
        let _open = open;
        let mut stream = accepted.stream;
        if let Stream::Tcp(stream) = &stream {
            // Whatever was peeked at by others is ours to read.
            peek::set_offset(std::os::fd::AsFd::as_fd(stream), None).ok();
        }
        if let Err(err) = refuse(&mut stream, status).await {
            tracing::debug!(%err, "a refused client did not wait for its answer");
        }
    });
    None
}

async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), status: u16) -> io::Result<()> {
    // Without a whole head it is not known whether the answer has a body; then it is the last thing on it anyway.
    let is_head = timeout(HEAD_PATIENCE, read_head(stream)).await.unwrap_or(Ok(false))?;
    stream.write_all(answer(status, is_head).as_bytes()).await?;
    stream.shutdown().await?;
    // What the client still sends must not meet a closed socket: the reset could overtake the answer.
    let mut nowhere = tokio::io::sink();
    let rest = timeout(LINGER, tokio::io::copy(stream, &mut nowhere));
    rest.await.unwrap_or(Ok(0)).map(drop)
}

/// Reads on until the head is whole or cannot be: is it a HEAD request?
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut exchange = Exchange::new(Rules {
        is_repeatable: is_idempotent,
        kept_max: u64::MAX,
    });
    let mut part = [0; 4096];
    loop {
        let len = stream.read(&mut part).await?;
        if len == 0 {
            return Ok(false);
        }
        match exchange.arrived(&part[..len]) {
            Ok(delivery) if delivery.step == Step::None => {}
            Ok(_) => return Ok(exchange.is_head()),
            Err(_) => return Ok(false),
        }
    }
}

fn answer(status: u16, is_head: bool) -> String {
    let reason = match status {
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    };
    let len = TEXT.len();
    let body = if is_head { "" } else { TEXT };
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

const TEXT: &str = "The process that was working on this request ended, and the request will not be tried again.\n";
/// For the rest of a head. It had begun in another worker, so it is here.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long the client may take to close.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer_to(request: &[u8]) -> String {
        let (mut client, mut server) = tokio::io::duplex(1 << 16);
        let refusing = actix_rt::spawn(async move { refuse(&mut server, 502).await });
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        // It hears the end of the client, and does not wait for more.
        drop(client);
        timeout(Duration::from_secs(20), refusing)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        answer
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
