//! Servers side by side: all of them run at the same time and are loaded one after the other, round by round, so that a
//! slow minute of the machine is a slow minute for each of them.

use std::net::SocketAddr;
use std::time::Duration;

use crate::http::Connection;
use crate::load::{Load, Outcome};
use crate::server::{Events, Role, Server};
use crate::{Failure, median, percentile, proc};

/// A server and what it did, round by round.
#[derive(Debug)]
pub struct Candidate {
    /// What it is.
    pub role: Role,
    /// Of each round.
    pub outcomes: Vec<Outcome>,
    /// Of all rounds.
    requests: f64,
    master_ticks: u64,
    all_ticks: u64,
    server: Server,
}

/// Loads one server of each role with two workers or threads, so many times.
///
/// # Errors
/// When a server does not start, or cannot be loaded.
pub fn run(
    roles: &[Role],
    order: Load,
    rounds: usize,
    load: fn(SocketAddr, Load) -> Result<Outcome, Failure>,
) -> Result<Vec<Candidate>, Failure> {
    let mut candidates = Vec::new();
    for &role in roles {
        let server = Server::start(role, 2, Events::Off)?;
        // Warms caches and page tables; its figures are dropped.
        load(server.address, order)?;
        candidates.push(Candidate {
            role,
            outcomes: Vec::new(),
            requests: 0.0,
            master_ticks: 0,
            all_ticks: 0,
            server,
        });
    }
    let count = candidates.len();
    for round in 0..rounds {
        // Nobody is always the first after a pause of the machine.
        for turn in 0..count {
            let candidate = &mut candidates[(round + turn) % count];
            let pid = candidate.server.pid();
            let before = (proc::cpu_ticks_of(pid), candidate.server.cpu_ticks());
            let outcome = load(candidate.server.address, order)?;
            candidate.master_ticks += proc::cpu_ticks_of(pid) - before.0;
            candidate.all_ticks += candidate.server.cpu_ticks() - before.1;
            candidate.requests += outcome.rate * order.time.as_secs_f64();
            candidate.outcomes.push(outcome);
        }
    }
    Ok(candidates)
}

impl Candidate {
    /// The start of its row: who, how, answers per second, and how many times those of `base`.
    #[must_use]
    pub fn row(&self, base: &Self, connection: Connection) -> String {
        let (rate, ratio) = (self.rate(), median(&mut self.ratios(base)));
        format!("{} | {} | {rate:.0} | {ratio:.2}", self.role.name(), connection.name())
    }

    /// Answers per second, the median of the rounds.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let mut rates: Vec<f64> = self.outcomes.iter().map(|outcome| outcome.rate).collect();
        median(&mut rates)
    }

    /// How many times the answers of `base`, of each round: neighbours in time, so that what else the machine does cancels out.
    #[must_use]
    pub fn ratios(&self, base: &Self) -> Vec<f64> {
        let pairs = self.outcomes.iter().zip(&base.outcomes);
        pairs.map(|(own, base)| own.rate / base.rate).collect()
    }

    /// Processor time of all its processes for one request, in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> f64 {
        self.all_ticks as f64 * 1e4 / self.requests
    }

    /// The same of its first process alone.
    #[must_use]
    pub fn master_micros(&self) -> f64 {
        self.master_ticks as f64 * 1e4 / self.requests
    }

    /// Of its rounds: the median latencies of half and of 99 % of the requests in microseconds, and all errors.
    #[must_use]
    pub fn latencies_and_errors(&self) -> String {
        let middle = |pick: fn(&Outcome) -> Duration| {
            let mut samples: Vec<Duration> = self.outcomes.iter().map(pick).collect();
            percentile(&mut samples, 50).as_micros()
        };
        let (half, most) = (middle(|outcome| outcome.p50), middle(|outcome| outcome.p99));
        let errors: u64 = self.outcomes.iter().map(|outcome| outcome.errors).sum();
        format!("{half} | {most} | {errors}")
    }
}
