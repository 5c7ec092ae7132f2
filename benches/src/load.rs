//! A closed-loop HTTP load: so many connections, each asks again as soon as it is answered. And `wrk`, if it is wanted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::http::{self, Connection};
use crate::{Failure, now, percentile};

/// What to do to a server.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at once.
    pub connections: usize,
    /// For how long.
    pub time: Duration,
    /// One connection for many requests, or a new one for each?
    pub connection: Connection,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Answers per second.
    pub rate: f64,
    /// The latency that half of the requests stay below.
    pub p50: Duration,
    /// The latency that 99 % of the requests stay below.
    pub p99: Duration,
    /// Requests without a whole answer.
    pub errors: u64,
    /// Answers by process; empty if the tool does not tell.
    pub shares: BTreeMap<u32, u64>,
}

/// Runs the load on this thread.
///
/// # Errors
/// The runtime does not start.
pub fn run(address: SocketAddr, load: Load) -> Result<Outcome, Failure> {
    let end = now() + load.time;
    run_until(address, load, move |now| now >= end)
}

/// Runs the load on this thread until `is_over`, whatever its time says.
///
/// # Errors
/// As [`run`].
pub fn run_until(
    address: SocketAddr,
    load: Load,
    is_over: impl Fn(Instant) -> bool + Clone + 'static,
) -> Result<Outcome, Failure> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let begun = now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = tokio::task::LocalSet::new();
    for _ in 0..load.connections {
        clients.spawn_local(client(address, load.connection, is_over.clone(), Rc::clone(&tally)));
    }
    runtime.block_on(clients);
    let mut tally = tally.take();
    Ok(Outcome {
        rate: tally.latencies.len() as f64 / begun.elapsed().as_secs_f64(),
        p50: percentile(&mut tally.latencies, 50),
        p99: percentile(&mut tally.latencies, 99),
        errors: tally.errors,
        shares: tally.shares,
    })
}

/// The same by `wrk`, which must be installed. It does not tell who answered.
///
/// # Errors
/// It is not there, or says something else than expected.
pub fn run_wrk(address: SocketAddr, load: Load) -> Result<Outcome, Failure> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "-c", &load.connections.to_string()]);
    command.args(["-d", &format!("{}s", load.time.as_secs().max(1))]);
    if load.connection == Connection::New {
        command.args(["-H", "Connection: close"]);
    }
    let output = command.arg(format!("http://{address}/")).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned)
    };
    let time = |name: &str| word(name).and_then(|word| parse_time(&word)).unwrap_or_default();
    let rate = word("Requests/sec:").and_then(|word| word.parse().ok());
    Ok(Outcome {
        rate: rate.ok_or_else(|| format!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)))?,
        p50: time("50%"),
        p99: time("99%"),
        errors: u64::from(text.contains("Socket errors") || text.contains("Non-2xx")),
        shares: BTreeMap::new(),
    })
}

#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    errors: u64,
    shares: BTreeMap<u32, u64>,
}

async fn client(
    address: SocketAddr,
    connection: Connection,
    is_over: impl Fn(Instant) -> bool,
    tally: Rc<RefCell<Tally>>,
) {
    let request = http::request("GET", "/", connection);
    let mut kept = None;
    let mut begun = now();
    while !is_over(begun) {
        let answer = http::exchange(address, request.as_bytes(), connection, &mut kept).await;
        let pid = answer.ok().filter(|answer| answer.status == 200);
        let pid = pid.and_then(|answer| u32::try_from(answer.number?).ok());
        let done = now();
        let mut tally = tally.borrow_mut();
        match pid {
            Some(pid) => {
                tally.latencies.push(done - begun);
                *tally.shares.entry(pid).or_default() += 1;
            }
            None => tally.errors += 1,
        }
        begun = done;
    }
}

/// `wrk` says 850.00us, 1.20ms, 1.01s.
fn parse_time(text: &str) -> Option<Duration> {
    let unit = text.find(|char: char| char.is_ascii_alphabetic())?;
    let value: f64 = text[..unit].parse().ok()?;
    let scale = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(value * scale))
}
