//! The servers under test: this same program, started once more in another role, or a foreign one.
//!
//! Every role serves one route: `GET /` answers with the process id of whoever serves.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use actix_cluster::{
    Cluster, ClusterBuilder, ListenOptions, RestartDelay, RestartLimit, RolloutOptions, Scheduling, ServeError,
    SpawnMethod, SubscribeOptions, Worker,
};
use actix_web::{App, HttpServer, web};
use serde_json::Value;

use crate::child::{self, Child};
use crate::{Failure, http, proc};

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A cluster with one socket for each worker.
    PerWorker,
    /// A cluster with one socket for all workers.
    Shared,
    /// A cluster whose master hands connections over in turn.
    RoundRobin,
    /// To whoever holds the fewest.
    LeastConnections,
    /// To the better one of two.
    TwoChoices,
    /// By the client's address.
    Sticky,
    /// As `PerWorker`, and one more worker stands by.
    Standby,
    /// As `Shared`, and one more worker stands by.
    StandbyShared,
    /// As `PerWorker`, and each worker writes a flight recorder.
    Recorded,
    /// As `PerWorker`, and a zygote makes the workers.
    Zygote,
    /// As `Shared`, and a zygote makes the workers.
    ZygoteShared,
    /// As `PerWorker`, and its connections survive their worker.
    Survives,
    /// One process, an unmodified `HttpServer` with as many threads.
    Threads,
}

impl Role {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerWorker => "per-worker",
            Self::Shared => "shared",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::TwoChoices => "two-choices",
            Self::Sticky => "sticky",
            Self::Standby => "per-worker, standby",
            Self::StandbyShared => "shared, standby",
            Self::Recorded => "recorded",
            Self::Zygote => "per-worker, zygote",
            Self::ZygoteShared => "shared, zygote",
            Self::Survives => "survives",
            Self::Threads => "threads",
        }
    }
}

/// Plays the role that the environment names, if it names one; for the first line of `main`.
#[must_use]
pub fn play() -> Option<ExitCode> {
    let name = std::env::var(ROLE).ok()?;
    let role = ALL.into_iter().find(|role| role.name() == name)?;
    let address = std::env::var(ADDRESS).unwrap_or_default();
    let workers = crate::number(WORKERS, 1);
    Some(match role {
        Role::PerWorker => cluster(&address, workers, Scheduling::PerWorker).main(),
        Role::Shared => cluster(&address, workers, Scheduling::Shared).main(),
        Role::Standby => cluster(&address, workers, Scheduling::PerWorker).standby(1).main(),
        Role::StandbyShared => cluster(&address, workers, Scheduling::Shared).standby(1).main(),
        Role::RoundRobin => cluster(&address, workers, Scheduling::RoundRobin).main(),
        Role::LeastConnections => cluster(&address, workers, Scheduling::LeastConnections).main(),
        Role::TwoChoices => cluster(&address, workers, Scheduling::TwoChoices).main(),
        Role::Sticky => cluster(&address, workers, Scheduling::Sticky).main(),
        Role::Recorded => cluster(&address, workers, Scheduling::PerWorker)
            .flight_recorder(32 << 10)
            .main(),
        Role::Zygote => zygote(&address, workers, Scheduling::PerWorker),
        Role::ZygoteShared => zygote(&address, workers, Scheduling::Shared),
        Role::Survives => spread(&address, workers, Scheduling::PerWorker, true).main(),
        Role::Threads => threads(&address, workers),
    })
}

fn cluster(address: &str, workers: usize, scheduling: Scheduling) -> ClusterBuilder {
    spread(address, workers, scheduling, crate::number(SURVIVE, 0) == 1)
}

fn zygote(address: &str, workers: usize, scheduling: Scheduling) -> ExitCode {
    let cluster = cluster(address, workers, scheduling);
    cluster.spawn(SpawnMethod::Zygote).main()
}

fn spread(address: &str, workers: usize, scheduling: Scheduling, survives: bool) -> ClusterBuilder {
    let options = ListenOptions::new().scheduling(scheduling).survive_kill(survives);
    let surge = u32::try_from(crate::number(SURGE, 1)).unwrap_or(1);
    let mut builder = Cluster::builder()
        .workers(u32::try_from(workers).unwrap_or(1))
        .reload_options(RolloutOptions::new().surge(surge))
        .listen_with("http", address, options)
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .worker(serve);
    if std::env::var_os(EVENTS).is_some() {
        let options = SubscribeOptions::lifecycle();
        builder = builder.on_event_with(options, |event, _| {
            println!("{}", serde_json::to_string(event).unwrap_or_default());
        });
    }
    builder
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    worker.serve("http", || App::new().route("/", web::get().to(pid))).await
}

fn threads(address: &str, workers: usize) -> ExitCode {
    let server = || {
        HttpServer::new(|| App::new().route("/", web::get().to(pid)))
            .workers(workers)
            .bind(address)
    };
    match actix_rt::System::new().block_on(async { server()?.run().await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn pid() -> String {
    format!("{}\n", std::process::id())
}

/// A server in a process of its own; ended when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its events as JSON lines, if it was asked for them.
    pub events: Receiver<String>,
}

/// Does a server write its events?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// No.
    Off,
    /// As JSON lines on standard output.
    On,
}

impl Server {
    /// Starts this program in `role`, or the foreign program named by `ACTIX_CLUSTER_BENCH_SERVER`, which must know the
    /// options of the example `http_server`, in its place.
    ///
    /// # Errors
    /// It does not start, or does not answer within ten seconds.
    pub fn start(role: Role, workers: usize, events: Events) -> Result<Self, Failure> {
        Self::start_with(role, workers, events, 1)
    }

    /// [`start`](Self::start) of one that reloads with so many processes more than wanted; a foreign one does as it likes.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(role: Role, workers: usize, events: Events, surge: u32) -> Result<Self, Failure> {
        let address = child::free_address()?;
        let mut command = match std::env::var_os(FOREIGN).filter(|_| matches!(role, Role::PerWorker | Role::Shared)) {
            Some(program) => {
                let mut command = Command::new(program);
                let workers = workers.to_string();
                command.args(["--listen", &address.to_string(), "--workers", &workers]);
                command.args(["--scheduling", role.name()]);
                if events == Events::On {
                    command.args(["--events", "json"]);
                }
                command
            }
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.env(ROLE, role.name()).env(ADDRESS, address.to_string());
                command.env(WORKERS, workers.to_string()).env(SURGE, surge.to_string());
                if events == Events::On {
                    command.env(EVENTS, "1");
                }
                command
            }
        };
        let mut child = Child::start(command.stdout(Stdio::piped()), address)?;
        let lines = child.take_output().map(BufReader::new);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        child.wait_until("answer of the server", || http::ask(address).is_ok())?;
        Ok(Self {
            child,
            address,
            events: receiver,
        })
    }

    /// The next event, as JSON, within `limit`.
    ///
    /// # Errors
    /// There was none; or it is no JSON.
    pub fn next_event(&self, limit: Duration) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&self.events.recv_timeout(limit)?)?)
    }

    /// Waits for the event of this name, `limit` for each one before it.
    ///
    /// # Errors
    /// It did not come.
    pub fn await_event(&self, name: &str, limit: Duration) -> Result<(), Failure> {
        while self.next_event(limit)?["event"] != name {}
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Processor time of all its processes, in clock ticks of 10 ms.
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        proc::family_cpu_ticks(self.child.pid())
    }
}

const ALL: [Role; 13] = [
    Role::PerWorker,
    Role::Shared,
    Role::Standby,
    Role::StandbyShared,
    Role::RoundRobin,
    Role::LeastConnections,
    Role::TwoChoices,
    Role::Sticky,
    Role::Recorded,
    Role::Zygote,
    Role::ZygoteShared,
    Role::Survives,
    Role::Threads,
];
const ROLE: &str = "ACTIX_CLUSTER_BENCH_ROLE";
const ADDRESS: &str = "ACTIX_CLUSTER_BENCH_ADDRESS";
const WORKERS: &str = "ACTIX_CLUSTER_BENCH_WORKERS";
const SURGE: &str = "ACTIX_CLUSTER_BENCH_SURGE";
/// Set by whoever wants to know what keepers cost.
const SURVIVE: &str = "ACTIX_CLUSTER_BENCH_SURVIVE";
const EVENTS: &str = "ACTIX_CLUSTER_BENCH_EVENTS";
const FOREIGN: &str = "ACTIX_CLUSTER_BENCH_SERVER";
