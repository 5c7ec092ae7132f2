//! A server for scrapers and nobody else: `GET /metrics`, `GET /healthz`, one request for each connection, everything
//! bounded.
//!
//! A framework would serve more than is wanted here. Whoever sends no request, or never reads the answer, has the time
//! limit, and then is closed; who comes when all places are taken is closed at once and comes again.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::MetricsView;

/// Serves until the thread ends.
pub(super) async fn serve(listener: TcpListener, view: MetricsView) {
    serve_within(TIME_MAX, listener, view, &Rc::default()).await;
}

/// Each has so much time. `open` is how many are served.
async fn serve_within(time: Duration, listener: TcpListener, view: MetricsView, open: &Rc<Cell<usize>>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if open.get() < CONNECTIONS_MAX => {
                let place = Place::take(open);
                let view = view.clone();
                actix::spawn(async move {
                    // Who is too slow, or gone, has itself to blame; there is nothing to tell it.
                    drop(timeout(time, answer(stream, &view)).await);
                    drop(place);
                });
            }
            Ok(_) => tracing::debug!(limit = CONNECTIONS_MAX, "scraper turned away: too many at once"),
            Err(err) => {
                tracing::warn!(%err, "no scraper could be accepted");
                // No room for descriptors, most likely: it is back when something was closed.
                sleep(PAUSE).await;
            }
        }
    }
}

/// A place among those that are served at once; given back when dropped, also by a panic.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn answer(mut stream: TcpStream, view: &MetricsView) -> io::Result<()> {
    let (response, is_head) = match read_head(&mut stream).await? {
        Some(head) => respond(&head, view),
        None => (
            Response::text("431 Request Header Fields Too Large", "the head is too long\n"),
            false,
        ),
    };
    let Response {
        status,
        kind,
        more,
        body,
    } = response;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if !is_head {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await?;
    // Closing while something lies unread would reset the connection and take the answer along.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// The request up to the empty line; `None` if that is too long.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_MAX {
            return Ok(None);
        }
        let read = stream.read(&mut part).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&part[..read]);
    }
    Ok(Some(head))
}

struct Response {
    status: &'static str,
    kind: &'static str,
    more: &'static str,
    body: String,
}

impl Response {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            more: "",
            body: body.into(),
        }
    }
}

/// The answer to a request, and whether only its head is wanted.
fn respond(head: &[u8], view: &MetricsView) -> (Response, bool) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return (Response::text("400 Bad Request", "this is no HTTP request\n"), false);
    };
    if !version.starts_with("HTTP/1.") {
        return (Response::text("400 Bad Request", "this is no HTTP/1 request\n"), false);
    }
    let is_head = method == "HEAD";
    let path = target.split('?').next().unwrap_or_default();
    let response = match path {
        "/metrics" | "/healthz" if !is_head && method != "GET" => Response {
            more: "allow: GET, HEAD\r\n",
            ..Response::text("405 Method Not Allowed", "GET only\n")
        },
        "/metrics" => Response {
            kind: CONTENT_TYPE,
            ..Response::text("200 OK", view.render())
        },
        "/healthz" => {
            let (is_ready, told) = view.readiness();
            Response::text(if is_ready { "200 OK" } else { "503 Service Unavailable" }, told)
        }
        _ => Response::text("404 Not Found", "here are /metrics and /healthz\n"),
    };
    (response, is_head)
}

/// What [`MetricsView::render`] is, for a route of your own.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Scrapers that are served at the same time.
const CONNECTIONS_MAX: usize = 32;
/// From the connection to the end of the answer.
const TIME_MAX: Duration = Duration::from_secs(5);
/// The longest head of a request.
const HEAD_MAX: usize = 8 * 1024;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use actix_cluster::testing::RecordingHandle;
    use actix_cluster::{ClusterSnapshot, Slot, WorkerSnapshot, WorkerState};
    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
    use tokio::net::TcpSocket;
    use tokio::task::yield_now;

    use super::*;
    use crate::metrics::{Metrics, MetricsConfig};

    /// An answer far too long for what the kernel keeps of it, and a server that says how many it serves.
    fn long_answers(time: Duration) -> (std::net::SocketAddr, Rc<Cell<usize>>) {
        let worker =
            |slot| WorkerSnapshot::for_test(u64::from(slot) + 1, Slot::new("web", slot), WorkerState::Listening);
        let (cluster, _recorder) = RecordingHandle::new(ClusterSnapshot::for_test((0..500).map(worker)));
        let view = MetricsView::new(1);
        view.begin(cluster);
        let socket = TcpSocket::new_v4().unwrap();
        // Those that are accepted have it from the one that listens.
        setsockopt(&socket, SndBuf, &4096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(64).unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Rc::default());
        let count = Rc::clone(&open);
        actix::spawn(async move { serve_within(time, listener, view, &count).await });
        (address, open)
    }

    async fn asking(address: std::net::SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        setsockopt(&socket, RcvBuf, &4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        stream
    }

    /// Everything up to the end: how long the body is, and how long it was to be.
    async fn read(mut stream: TcpStream) -> (usize, usize) {
        let mut answer = Vec::new();
        // What was cut off may end with an error, too.
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let promised = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        (body.len(), promised.unwrap().parse().unwrap())
    }

    #[actix_rt::test]
    async fn who_never_reads_the_answer_is_cut_off_and_others_are_served_meanwhile() {
        let (address, open) = long_answers(Duration::from_millis(500));
        let mut stuck = Vec::new();
        for _ in 1..CONNECTIONS_MAX {
            stuck.push(asking(address).await);
        }
        let (got, promised) = read(asking(address).await).await;
        assert_eq!(got, promised);
        assert!(promised > 100_000, "{promised} bytes are no long answer");
        let places_are_back = async {
            while open.get() > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), places_are_back).await.unwrap();
        for stream in stuck {
            let (got, promised) = read(stream).await;
            assert!(got < promised, "all {got} bytes found room: nothing was stuck");
        }
    }

    fn status(request: &str) -> String {
        let view = Metrics::new(MetricsConfig::new()).view();
        let (response, _) = respond(request.as_bytes(), &view);
        response.status.split(' ').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn only_what_is_offered_is_answered() {
        let table = [
            ("GET /metrics HTTP/1.1\r\n\r\n", "200"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../x HTTP/1.1\r\n\r\n", "404"),
            // Nobody is ready before the cluster runs.
            ("GET /healthz HTTP/1.1\r\n\r\n", "503"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics HTTP/2\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            ("\u{1}\u{2}", "400"),
        ];
        for (request, wanted) in table {
            assert_eq!(status(request), wanted, "{request:?}");
        }
    }
}
