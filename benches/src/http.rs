//! As much HTTP/1.1 as the servers under test answer with; whatever else comes is an error. One request after the other.
//!
//! Every server here answers a number: its process id, or the number of the request.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// For one request.
    New,
    /// For the whole run.
    KeepAlive,
}

impl Connection {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new connections",
            Self::KeepAlive => "keep-alive",
        }
    }
}

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The number that its body is, if it is one.
    pub number: Option<u64>,
    /// The server says that the connection ends with it.
    pub closes: bool,
}

impl Answer {
    /// The answer that `bytes` are, if they are a whole one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, body) = std::str::from_utf8(bytes).ok()?.split_once("\r\n\r\n")?;
        let (mut length, mut closes) = (0, false);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        (body.len() == length).then(|| Self {
            status,
            number: body.trim_end().parse().ok(),
            closes,
        })
    }
}

/// Where an exchange ended without a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// There was no connection.
    Connect(io::ErrorKind),
    /// The request could not be sent.
    Write(io::ErrorKind),
    /// The answer could not be read.
    Read(io::ErrorKind),
    /// The connection ended after so many bytes of an answer.
    Ended(usize),
    /// The answer is longer than any server here gives.
    TooLong,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => write!(f, "connect: {kind:?}"),
            Self::Write(kind) => write!(f, "write: {kind:?}"),
            Self::Read(kind) => write!(f, "read: {kind:?}"),
            Self::Ended(0) => f.write_str("end at once"),
            Self::Ended(len) => write!(f, "end after {len} bytes"),
            Self::TooLong => f.write_str("answer too long"),
        }
    }
}

impl std::error::Error for Broken {}

/// The bytes of a request without a body.
#[must_use]
pub fn request(method: &str, path: &str, connection: Connection) -> String {
    let close = match connection {
        Connection::New => "Connection: close\r\n",
        Connection::KeepAlive => "",
    };
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}{close}\r\n")
}

/// Sends `request` on the connection that was kept, or on a new one, and reads the answer. The connection is kept if it may live on.
///
/// # Errors
/// There was no whole answer; the connection is gone then.
pub async fn exchange(
    address: SocketAddr,
    request: &[u8],
    connection: Connection,
    kept: &mut Option<TcpStream>,
) -> Result<Answer, Broken> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address)
            .await
            .map_err(|error| Broken::Connect(error.kind()))?,
    };
    let sent = stream.write_all(request).await;
    sent.map_err(|error| Broken::Write(error.kind()))?;
    let mut room = [0; 1024];
    let mut len = 0;
    loop {
        let read = stream.read(&mut room[len..]).await;
        let read = read.map_err(|error| Broken::Read(error.kind()))?;
        len += read;
        match Answer::parse(&room[..len]) {
            Some(answer) if connection == Connection::KeepAlive && !answer.closes => {
                *kept = Some(stream);
                return Ok(answer);
            }
            // The end of a connection is part of its cost, and of what was promised.
            Some(answer) if read == 0 => return Ok(answer),
            None if len == room.len() => return Err(Broken::TooLong),
            None if read == 0 => return Err(Broken::Ended(len)),
            Some(_) | None => {}
        }
    }
}

/// Asks once, on a connection of its own: the process id of whoever answers.
///
/// # Errors
/// No connection, or no whole answer within five seconds, or one that is none.
pub fn ask(address: SocketAddr) -> io::Result<u32> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request("GET", "/", Connection::New).as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = Answer::parse(&answer).filter(|answer| answer.status == 200);
    let pid = answer.and_then(|answer| u32::try_from(answer.number?).ok());
    pid.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nCONNECTION: Close\r\ndate: x\r\n\r\n17\n";
        let answer = |status, number, closes| Answer { status, number, closes };
        assert_eq!(Answer::parse(text.as_bytes()), Some(answer(200, Some(17), true)));
        for len in 0..text.len() {
            assert_eq!(Answer::parse(&text.as_bytes()[..len]), None, "{len}");
        }
        assert_eq!(Answer::parse(format!("{text}more").as_bytes()), None);
        assert_eq!(Answer::parse(b"HTTP/1.0 200 OK\r\n\r\n"), None);
        assert_eq!(
            Answer::parse(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            Some(answer(502, None, false))
        );
    }
}
