//! The clients in the storm: each asks again as soon as it is answered, and takes no excuse.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::http::{self, Connection};
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
                Err(what) => *asked.failed.entry(what).or_default() += 1,
            }
        }
    }

    /// The status of the answer; an error is anything but a whole answer to this very request.
    async fn exchange(&self, number: u64, kept: &mut Option<TcpStream>) -> Result<u16, String> {
        self.tally.asked.borrow_mut().connections += u64::from(kept.is_none());
        let request = http::request(self.method, &format!("/r/{number}"), self.connection);
        let answer = http::exchange(self.address, request.as_bytes(), self.connection, kept).await;
        let answer = answer.map_err(|broken| broken.to_string())?;
        if answer.status == 200 && answer.number != Some(number) {
            *kept = None;
            return Err("the answer to another request".to_owned());
        }
        Ok(answer.status)
    }
}

/// Connections at once.
const CLIENTS: usize = 32;
/// A request that is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
