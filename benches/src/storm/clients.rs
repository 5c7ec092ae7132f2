//! The clients in the storm: each asks again as soon as it is answered, and takes no excuse.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::Connection;
use crate::{Failure, now, percentile};

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Requests that were sent.
    pub requests: u64,
    /// Without a whole answer to them, by what came instead.
    pub failed: BTreeMap<String, u64>,
    /// Answered with another status than 200: the server says that it could not.
    pub refused: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The latency that half of the requests stay below.
    pub p50: Duration,
    /// The latency that 99 % stay below.
    pub p99: Duration,
    /// The longest.
    pub worst: Duration,
}

impl Asked {
    /// Requests without a whole answer.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The clients, on a thread of their own.
#[derive(Debug)]
pub struct Clients(JoinHandle<Result<Asked, Failure>>);

impl Clients {
    /// Starts asking until `over`.
    #[must_use]
    pub fn start(address: SocketAddr, connection: Connection, method: &'static str, over: Arc<AtomicBool>) -> Self {
        Self(std::thread::spawn(move || ask_all(address, connection, method, &over)))
    }

    /// What they saw.
    ///
    /// # Errors
    /// They could not run.
    pub fn finish(self) -> Result<Asked, Failure> {
        self.0.join().map_err(|_| "the clients panicked")?
    }
}

#[derive(Default)]
struct Tally {
    asked: RefCell<Asked>,
    latencies: RefCell<Vec<Duration>>,
    number: Cell<u64>,
}

fn ask_all(
    address: SocketAddr,
    connection: Connection,
    method: &'static str,
    over: &Arc<AtomicBool>,
) -> Result<Asked, Failure> {
    let tally = Rc::new(Tally::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = tokio::task::LocalSet::new();
    for _ in 0..CLIENTS {
        let client = Client {
            address,
            connection,
            method,
            tally: Rc::clone(&tally),
        };
        clients.spawn_local(client.ask_until(Arc::clone(over)));
    }
    runtime.block_on(clients);
    let mut asked = tally.asked.take();
    let mut latencies = tally.latencies.take();
    asked.p50 = percentile(&mut latencies, 50);
    asked.p99 = percentile(&mut latencies, 99);
    asked.worst = percentile(&mut latencies, 100);
    Ok(asked)
}

struct Client {
    address: SocketAddr,
    connection: Connection,
    method: &'static str,
    tally: Rc<Tally>,
}

impl Client {
    async fn ask_until(self, over: Arc<AtomicBool>) {
        let mut kept = None;
        while !over.load(Ordering::Relaxed) {
            let number = self.tally.number.get() + 1;
            self.tally.number.set(number);
            let begun = now();
            let answer = tokio::time::timeout(PATIENCE, self.exchange(number, &mut kept)).await;
            let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let mut asked = self.tally.asked.borrow_mut();
            asked.requests += 1;
            match answer {
                Ok(200) => self.tally.latencies.borrow_mut().push(begun.elapsed()),
                Ok(_) => asked.refused += 1,
                Err(what) => {
                    kept = None;
                    *asked.failed.entry(what).or_default() += 1;
                }
            }
        }
    }

    /// The status of the answer; an error is anything but a whole answer to this very request.
    async fn exchange(&self, number: u64, kept: &mut Option<TcpStream>) -> Result<u16, String> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => {
                self.tally.asked.borrow_mut().connections += 1;
                let connecting = TcpStream::connect(self.address).await;
                connecting.map_err(|error| format!("connect: {:?}", error.kind()))?
            }
        };
        let close = match self.connection {
            Connection::New => "Connection: close\r\n",
            Connection::KeepAlive => "",
        };
        let length = if self.method == "POST" {
            "Content-Length: 0\r\n"
        } else {
            ""
        };
        let method = self.method;
        let request = format!("{method} /r/{number} HTTP/1.1\r\nHost: localhost\r\n{length}{close}\r\n");
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| format!("{what}: {:?}", error.kind())
        };
        stream.write_all(request.as_bytes()).await.map_err(failed("write"))?;
        let mut answer = [0; 1024];
        let mut len = 0;
        loop {
            let read = stream.read(&mut answer[len..]).await.map_err(failed("read"))?;
            len += read;
            match whole(&answer[..len]) {
                Some((status, ends, body)) if !ends && self.connection == Connection::KeepAlive => {
                    *kept = Some(stream);
                    return judge(status, body, number);
                }
                // The end of the connection is part of the answer.
                Some((status, _, body)) if read == 0 => return judge(status, body, number),
                None if read == 0 => return Err(format!("end after {len} bytes").replace("after 0 bytes", "at once")),
                Some(_) | None => {}
            }
        }
    }
}

fn judge(status: u16, body: &str, number: u64) -> Result<u16, String> {
    if status == 200 && body.trim_end().parse() != Ok(number) {
        return Err("the answer to another request".to_owned());
    }
    Ok(status)
}

/// Status, whether the connection ends with it, and body, if the answer is whole.
fn whole(answer: &[u8]) -> Option<(u16, bool, &str)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    (body.len() == length).then(|| (status, head.contains("connection: close"), body))
}

/// Connections at once.
const CLIENTS: usize = 32;
/// A request that is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
