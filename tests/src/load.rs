//! HTTP clients that ask without end while something happens to the cluster, and the workers they ask.
//!
//! Each client is a thread with one request in progress at a time. Not here: how often may go wrong what was asked (the
//! suites say never).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, ServeError, Worker};
use actix_web::{App, web};

use crate::http::Client;
use crate::outside::let_pass;
use crate::{Deadline, limit, probe};

/// A cluster of workers that [`serve`].
pub fn cluster() -> ClusterBuilder {
    probe::cluster().listen("http", "127.0.0.1:0").worker(serve)
}

/// A worker that answers every request with its generation and its process id, after a moment.
///
/// # Errors
/// When it cannot have its listener.
pub async fn serve(worker: Worker) -> Result<(), ServeError> {
    let answer = format!("{} {}", worker.generation(), worker.pid());
    let handler = move || {
        let answer = answer.clone();
        async move {
            actix_rt::time::sleep(MOMENT).await;
            answer
        }
    };
    worker
        .serve("http", move || App::new().route("/", web::get().to(handler)))
        .await
}

/// In a worker: waits until a file of this name exists in the private directory, or the worker is told to stop.
pub async fn held(worker: &Worker, file: &str) {
    while !Path::new(file).exists() && !worker.shutdown().is_started() {
        actix_rt::time::sleep(MOMENT).await;
    }
}

/// In a worker: is busy with something for so long, like a start that fills a cache.
pub async fn busy(time: Duration) {
    actix_rt::time::sleep(time).await;
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Outcome>>,
}

/// What came of their requests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many were answered.
    pub answered: u64,
    /// How many connections were opened for them.
    pub connects: usize,
    /// What went wrong, each with the client's kind and the number of its request.
    pub failed: Vec<String>,
    /// The generations that answered.
    pub generations: BTreeSet<u32>,
}

impl Load {
    /// Starts `each` clients that keep their connection and `each` that open one for every request.
    #[must_use]
    pub fn start(port: u16, each: usize) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), each)
    }

    /// [`start`](Self::start) for a cluster that listens at another address.
    #[must_use]
    pub fn start_at(address: SocketAddr, each: usize) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |keeps: bool| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || ask_until(&stop, &asked, address, keeps))
        };
        let clients = (0..2 * each).map(|number| client(number % 2 == 0)).collect();
        Self { stop, asked, clients }
    }

    /// Waits until so many more requests were made.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn goes_on_for(&self, requests: u64) {
        let (until, deadline) = (
            self.asked.load(Ordering::Relaxed) + requests,
            Deadline::after(limit(PATIENCE)),
        );
        while self.asked.load(Ordering::Relaxed) < until {
            assert!(!deadline.is_over(), "the clients are stuck");
            let_pass(MOMENT);
        }
    }

    /// Lets every client ask a little more, and finish its last request.
    ///
    /// # Panics
    /// If they are stuck.
    #[must_use]
    pub fn stop(mut self) -> Outcome {
        self.goes_on_for(2 * self.clients.len() as u64);
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for client in std::mem::take(&mut self.clients) {
            let own = client.join().expect("a client does not panic");
            all.answered += own.answered;
            all.connects += own.connects;
            all.failed.extend(own.failed);
            all.generations.extend(own.generations);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failed check nobody asks how it went.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Some requests were made, and none of them failed.
    ///
    /// # Panics
    /// If not.
    pub fn is_flawless(&self) {
        assert!(self.answered > 0, "nothing was asked");
        assert!(
            self.failed.is_empty(),
            "{} of {} requests failed: {:?}",
            self.failed.len(),
            self.answered,
            &self.failed[..self.failed.len().min(10)]
        );
    }
}

fn ask_until(stop: &AtomicBool, asked: &AtomicU64, address: SocketAddr, keeps: bool) -> Outcome {
    let new = || Client::new(address, limit(PATIENCE));
    let (mut client, mut outcome) = (new(), Outcome::default());
    while !stop.load(Ordering::Relaxed) {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        if !keeps {
            outcome.connects += client.connects();
            client = new();
            // A port is in use for a while after its connection: there are not enough of them to go without a pause.
            let_pass(MOMENT);
        }
        let failed = match client.get("/") {
            Ok(response) if response.status == 200 => {
                let generation = response
                    .text()
                    .split(' ')
                    .next()
                    .and_then(|text| text.parse::<u32>().ok());
                outcome.generations.extend(generation);
                outcome.answered += 1;
                continue;
            }
            Ok(response) => format!("status {}", response.status),
            Err(error) => format!("{:?}: {error}", error.kind()),
        };
        let kind = if keeps { "kept" } else { "new" };
        outcome.failed.push(format!("{kind} {number}: {failed}"));
    }
    outcome.connects += client.connects();
    outcome
}

/// What a request takes at least: enough that some are in progress whenever something happens.
const MOMENT: Duration = Duration::from_millis(2);

/// No request may take longer, whatever happens.
const PATIENCE: Duration = Duration::from_secs(10);
