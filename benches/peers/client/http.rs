//! One request and its answer, over a connection that is new or kept.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failed;

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// For one request; its end is part of the answer.
    New,
    /// Until the server closes it.
    Kept,
}

/// What a target answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The process that answered, as its body says.
    pub(crate) pid: u32,
    /// The connection, if another request may follow on it.
    pub(crate) kept: Option<TcpStream>,
}

/// Asks for `/`, on `kept` or on a new connection.
pub(crate) async fn ask(
    address: SocketAddr,
    connection: Connection,
    kept: Option<TcpStream>,
    limit: Duration,
) -> Result<Answer, Failed> {
    let request: &[u8] = match connection {
        Connection::New => b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        Connection::Kept => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    };
    let exchange = async {
        let mut buffer = [0; 1024];
        let (len, response, stream) = exchange(address, connection, kept, request, &mut buffer).await?;
        let text = std::str::from_utf8(&buffer[response.body..len]).unwrap_or_default();
        let pid = text.trim_end().parse().map_err(|_| Failed::Bad)?;
        let kept = (connection == Connection::Kept && !response.closes).then_some(stream);
        Ok(Answer { pid, kept })
    };
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or(Err(Failed::Timeout))
}

async fn exchange(
    address: SocketAddr,
    connection: Connection,
    kept: Option<TcpStream>,
    request: &[u8],
    buffer: &mut [u8],
) -> Result<(usize, Response, TcpStream), Failed> {
    let is_kept = kept.is_some();
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address).await.map_err(|error| class(&error))?,
    };
    // As long as nothing has come, the end of a kept connection may have crossed the request.
    let ended = |len: usize, class: Failed| match class {
        Failed::Reset | Failed::Empty if is_kept && len == 0 => Failed::Stale,
        other => other,
    };
    let sent = stream.write_all(request).await;
    sent.map_err(|error| ended(0, class(&error)))?;
    let mut len = 0;
    loop {
        let read = stream.read(&mut buffer[len..]).await;
        let read = read.map_err(|error| ended(len, class(&error)))?;
        len += read;
        let response = parse(&buffer[..len])?;
        let is_whole = response.as_ref().is_some_and(|response| match response.len {
            Some(body) => len >= response.body + body,
            None => read == 0,
        });
        match response {
            // Who asks for the end waits for it: a connection's end is part of its cost.
            Some(response) if is_whole && (connection == Connection::Kept || read == 0) => {
                return Ok((len, response, stream));
            }
            _ if read == 0 && len == 0 => return Err(ended(0, Failed::Empty)),
            _ if read == 0 || len == buffer.len() => return Err(Failed::Bad),
            _ => {}
        }
    }
}

/// Where the body of a response begins, how long it is, and whether the connection ends with it.
struct Response {
    body: usize,
    len: Option<usize>,
    closes: bool,
}

/// The head of a response, if it is whole. Anything but a success is a failure.
fn parse(bytes: &[u8]) -> Result<Option<Response>, Failed> {
    let mut headers = [httparse::EMPTY_HEADER; 24];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = head.parse(bytes).map_err(|_| Failed::Bad)? else {
        return Ok(None);
    };
    if head.code != Some(200) {
        return Err(Failed::Bad);
    }
    let value = |name: &str| {
        let header = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    Ok(Some(Response {
        body,
        len: value("content-length").and_then(|len| len.trim().parse().ok()),
        closes: value("connection").is_some_and(|word| word.eq_ignore_ascii_case("close")),
    }))
}

fn class(error: &io::Error) -> Failed {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failed::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => Failed::Reset,
        _ => Failed::Other,
    }
}

/// The whole body behind `path`, however long.
pub(crate) async fn fetch(address: SocketAddr, path: &str, limit: Duration) -> Result<String, Failed> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| class(&error))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(|error| class(&error))?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        read.map_err(|error| class(&error))?;
        let response = parse(&answer)?.ok_or(Failed::Bad)?;
        Ok(String::from_utf8_lossy(&answer[response.body..]).into_owned())
    };
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or(Err(Failed::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole_and_only_a_success_counts() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Le").is_ok_and(|head| head.is_none()));
        let head = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nConnection: Close\r\n\r\n42\n");
        let head = head.expect("a success").expect("a whole head");
        assert_eq!((head.len, head.closes), (Some(3), true));
        assert!(matches!(parse(b"HTTP/1.1 503 No\r\n\r\n"), Err(Failed::Bad)));
        assert!(matches!(parse(b"SSH-2.0\r\n\r\n"), Err(Failed::Bad)));
    }
}
