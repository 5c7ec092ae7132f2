//! A small blocking HTTP/1.1 client on std alone, so that the suites do not test a server with its own parser.
//!
//! It never asks twice: when a kept connection turns out to be dead the caller sees the error, because whether a client
//! sees one is what the suites want to know. Not here: TLS, redirects, compression, pipelining.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Deadline;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, chunks already joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.header(name)
            .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }
}

/// A client with at most one connection, kept between requests as long as the server allows.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    limit: Duration,
    kept: Option<Connection>,
    connects: usize,
}

impl Client {
    /// A client of `address` that gives each request `limit`, connecting included.
    #[must_use]
    pub fn new(address: SocketAddr, limit: Duration) -> Self {
        Self {
            address,
            limit,
            kept: None,
            connects: 0,
        }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, &[])
    }

    /// `POST path` with `body`.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.request("POST", path, body)
    }

    /// One request and its whole answer, on the kept connection if there is one.
    ///
    /// # Errors
    /// `TimedOut` past the limit, `UnexpectedEof` when the server ended in the middle of its answer (or before it),
    /// `InvalidData` for what is not HTTP, else what the socket said. The connection is gone after any of them.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        let deadline = Deadline::after(self.limit);
        let mut connection = match self.kept.take() {
            Some(connection) => connection,
            None => {
                self.connects += 1;
                Connection::open(self.address, deadline)?
            }
        };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {length}\r\n\r\n",
            self.address
        );
        connection.write(&[head.as_bytes(), body].concat(), deadline)?;
        let (response, is_open) = connection.read_response(method, deadline)?;
        if is_open && !response.has_token("connection", "close") {
            self.kept = Some(connection);
        }
        Ok(response)
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connects(&self) -> usize {
        self.connects
    }

    /// Whether the next request would use a connection that is already there.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Waits until the server closes the kept connection: true for an orderly end, false for a reset.
    ///
    /// # Errors
    /// `NotConnected` without a kept connection, `TimedOut` past the limit, `InvalidData` when bytes come instead.
    pub fn closed_by_server(&mut self) -> io::Result<bool> {
        let mut connection = self.kept.take().ok_or(ErrorKind::NotConnected)?;
        match connection.fill(Deadline::after(self.limit)) {
            Ok(0) => Ok(true),
            Ok(_) => Err(ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// A socket and what was read from it too early.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr, deadline: Deadline) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, deadline.remaining().ok_or(ErrorKind::TimedOut)?)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream
                .set_write_timeout(Some(deadline.remaining().ok_or(ErrorKind::TimedOut)?))?;
            let written = self.stream.write(bytes).map_err(timed_out)?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// One read into the buffer; 0 at the end.
    fn fill(&mut self, deadline: Deadline) -> io::Result<usize> {
        self.stream
            .set_read_timeout(Some(deadline.remaining().ok_or(ErrorKind::TimedOut)?))?;
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes).map_err(timed_out)?;
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// The answer, and whether the connection can carry another request.
    fn read_response(&mut self, method: &str, deadline: Deadline) -> io::Result<(Response, bool)> {
        let mut response = loop {
            let response = self.read_head(deadline)?;
            // 1xx answers precede the real one.
            if response.status >= 200 {
                break response;
            }
        };
        let mut is_open = true;
        if method == "HEAD" || matches!(response.status, 204 | 304) {
        } else if response.has_token("transfer-encoding", "chunked") {
            self.read_chunks(&mut response.body, deadline)?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid("content-length is no number"))?;
            response.body = self.take(length, deadline)?;
        } else {
            while self.fill(deadline)? > 0 {
                check_size(self.buffer.len())?;
            }
            (response.body, is_open) = (std::mem::take(&mut self.buffer), false);
        }
        Ok((response, is_open))
    }

    fn read_head(&mut self, deadline: Deadline) -> io::Result<Response> {
        let status_line = self.line(deadline)?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1));
        let status = status
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line(deadline)?;
            if line.is_empty() {
                return Ok(Response {
                    status,
                    headers,
                    body: Vec::new(),
                });
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid("a header without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            if headers.len() > HEADERS_MAX {
                return Err(invalid("too many headers"));
            }
        }
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>, deadline: Deadline) -> io::Result<()> {
        loop {
            let line = self.line(deadline)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16).map_err(|_| invalid("chunk length is no number"))?;
            if length == 0 {
                while !self.line(deadline)?.is_empty() {}
                return Ok(());
            }
            check_size(body.len().saturating_add(length))?;
            body.extend(self.take(length, deadline)?);
            if !self.line(deadline)?.is_empty() {
                return Err(invalid("a chunk is longer than it said"));
            }
        }
    }

    fn line(&mut self, deadline: Deadline) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.buffer.len() > LINE_LEN_MAX {
                return Err(invalid("a line is too long"));
            }
            self.fill_some(deadline)?;
        }
    }

    fn take(&mut self, length: usize, deadline: Deadline) -> io::Result<Vec<u8>> {
        check_size(length)?;
        while self.buffer.len() < length {
            self.fill_some(deadline)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill_some(&mut self, deadline: Deadline) -> io::Result<()> {
        match self.fill(deadline)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A socket says `WouldBlock` where its time limit passed.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock {
        ErrorKind::TimedOut.into()
    } else {
        error
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn check_size(length: usize) -> io::Result<()> {
    if length > BODY_LEN_MAX {
        Err(invalid("the body is too long"))
    } else {
        Ok(())
    }
}

const HEADERS_MAX: usize = 256;
const LINE_LEN_MAX: usize = 64 * 1024;
const BODY_LEN_MAX: usize = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// Gives the canned answers one by one on each connection, each after a request's head and 4 more bytes for a POST.
    fn server(connections: Vec<Vec<&'static str>>) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = thread::spawn(move || {
            let mut requests = Vec::new();
            for answers in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") && !request.ends_with(b"\r\n\r\nbody") {
                        let mut byte = [0];
                        stream.read_exact(&mut byte).unwrap();
                        request.push(byte[0]);
                    }
                    if request.starts_with(b"POST") {
                        stream.read_exact(&mut [0; 4]).unwrap();
                    }
                    requests.push(String::from_utf8(request).unwrap());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            requests
        });
        (address, served)
    }

    fn client(address: SocketAddr) -> Client {
        Client::new(address, crate::limit(Duration::from_secs(5)))
    }

    #[test]
    fn a_connection_is_kept_for_the_next_request() {
        let one = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Worker: 7\r\n\r\nhi";
        let two = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        let (address, served) = server(vec![vec![one, two]]);
        let mut client = client(address);
        let first = client.get("/a").unwrap();
        assert_eq!(
            (first.status, first.text().as_str(), first.header("x-worker")),
            (200, "hi", Some("7"))
        );
        let second = client.post("/b", b"body").unwrap();
        assert_eq!((second.status, second.text().as_str()), (404, "abcde"));
        assert_eq!((client.connects(), client.is_kept()), (1, true));
        assert!(client.closed_by_server().unwrap());
        let requests = served.join().unwrap();
        assert!(requests[0].starts_with("GET /a HTTP/1.1\r\nhost: 127.0.0.1:") && requests[1].starts_with("POST /b "));
    }

    #[test]
    fn a_server_that_says_close_is_connected_to_anew() {
        let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na";
        let to_the_end = "HTTP/1.0 200 OK\r\n\r\nall of it";
        let (address, served) = server(vec![vec![closing], vec![to_the_end]]);
        let mut client = client(address);
        assert_eq!(client.get("/").unwrap().text(), "a");
        assert_eq!(client.get("/").unwrap().text(), "all of it");
        assert_eq!((client.connects(), client.is_kept()), (2, false));
        served.join().unwrap();
    }

    #[test]
    fn cut_odd_and_silent_answers_are_errors() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
        let (address, served) = server(vec![vec![cut], vec!["SSH-2.0-x\r\n"], vec![]]);
        let mut client = client(address);
        assert_eq!(client.get("/").unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(client.get("/").unwrap_err().kind(), ErrorKind::InvalidData);
        drop(client);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut hasty = Client::new(silent.local_addr().unwrap(), Duration::from_millis(50));
        assert_eq!(hasty.get("/").unwrap_err().kind(), ErrorKind::TimedOut);
        let _last = TcpStream::connect(address).unwrap();
        served.join().unwrap();
    }
}
