//! A storm of kills: the server whose workers are killed, the clients that must not notice, and the killer.
//!
//! Each request has a number. Handlers append it to a file when they begin, and once more, marked, when they come to their
//! end: so it is known how often each one ran, whatever became of the worker. Clients check that the answer is the one to their own request.

mod clients;
mod promise;
mod server;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use clients::{Asked, Clients};
pub use promise::Promise;
pub use server::{Kind, Plan, play};

use crate::http::Connection;
use crate::{Failure, now, proc, rest};

/// One storm.
#[derive(Clone, Debug)]
pub struct Storm {
    /// The server.
    pub plan: Plan,
    /// The clients' connections.
    pub connection: Connection,
    /// The method of every request.
    pub method: &'static str,
    /// From kill to kill.
    pub every: Duration,
    /// What the workers are killed with.
    pub signal: Signal,
    /// For so long.
    pub time: Duration,
}

/// What came of a storm.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    /// Workers killed.
    pub kills: u32,
    /// What the clients saw.
    pub asked: Asked,
    /// Requests that were begun twice.
    pub twice: usize,
    /// Requests that were begun more often than that.
    pub more: usize,
    /// Requests that ran to the end of the handler more than twice.
    pub ended_more: usize,
    /// Times that there was nobody to kill: no worker could be told from its keeper yet, or it had ended meanwhile.
    pub missed: u32,
}

impl Storm {
    /// Lets it rage.
    ///
    /// # Errors
    /// The server does not start.
    pub fn rage(&self) -> Result<Damage, Failure> {
        let log = Log::new(&self.plan)?;
        let plan = Plan {
            log: log.0.clone(),
            ..self.plan.clone()
        };
        let server = server::start(&plan)?;
        let over = Arc::new(AtomicBool::new(false));
        let clients = Clients::start(server.address, self.connection, self.method, Arc::clone(&over));
        rest(Duration::from_millis(100));
        let begun = now();
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let mut damage = Damage::default();
        while begun.elapsed() < self.time {
            rest(self.every);
            let workers = proc::workers(server.pid());
            match workers.get(dice.below(workers.len())) {
                Some(pid) if kill(Pid::from_raw(pid.cast_signed()), self.signal).is_ok() => damage.kills += 1,
                Some(_) | None => damage.missed += 1,
            }
        }
        // Those that were hit last are part of it.
        rest(Duration::from_millis(200));
        over.store(true, Ordering::Relaxed);
        damage.asked = clients.finish()?;
        drop(server);
        for Runs { begun, ended } in log.runs()?.into_values() {
            damage.twice += usize::from(begun == 2);
            damage.more += usize::from(begun > 2);
            damage.ended_more += usize::from(ended > 2);
        }
        Ok(damage)
    }
}

/// How often handlers ran for one request.
#[derive(Default)]
struct Runs {
    begun: u32,
    ended: u32,
}

/// The file with the numbers of the requests that ran; removed when dropped.
struct Log(PathBuf);

impl Log {
    fn new(plan: &Plan) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("actix-cluster-storm-{}", std::process::id()));
        fs::write(&path, [])?;
        let log = Self(path);
        if let Some(uid) = plan.user {
            std::os::unix::fs::chown(&log.0, Some(uid), None)?;
        }
        Ok(log)
    }

    fn runs(&self) -> Result<HashMap<u64, Runs>, Failure> {
        let mut runs: HashMap<u64, Runs> = HashMap::new();
        for mark in fs::read(&self.0)?.chunks_exact(8) {
            let mark = u64::from_ne_bytes(mark.try_into()?);
            let of_request = runs.entry(mark & !server::ENDED).or_default();
            if mark & server::ENDED == 0 {
                of_request.begun += 1;
            } else {
                of_request.ended += 1;
            }
        }
        Ok(runs)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// xorshift: the same storm each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0).unwrap_or(0) % bound.max(1)
    }
}
