//! What it costs that connections outlive their worker: the same cluster with and without, in the same run.
//!
//! Servers of two workers are loaded in turns, round by round, so that a slow second of the machine is a slow second
//! for all. There are three: as ever; with keepers, and the journal on every connection (`survive_kill`); and as ever
//! once more, which tells how much of a difference is noise.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{Cluster, ListenOptions, Scheduling, ServeError, Worker};
use actix_cluster_benches::load::{self, Connection, Load, Outcome};
use actix_cluster_benches::{Failure, median, number, percentile, proc, wait_for};
use actix_web::{App, web};

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(ADDRESS) {
        return cluster(&address, std::env::var_os(SURVIVES).is_some());
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn cluster(address: &str, survives: bool) -> ExitCode {
    let options = ListenOptions::new()
        .scheduling(Scheduling::PerWorker)
        .survive_kill(survives);
    let cluster = Cluster::builder().workers(2).listen_with("http", address, options);
    cluster.worker(serve).main()
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    let pid = || async { format!("{}\n", std::process::id()) };
    worker
        .serve("http", move || App::new().route("/", web::get().to(pid)))
        .await
}

/// A server under test; ended when dropped.
struct Server {
    name: &'static str,
    address: SocketAddr,
    child: Child,
    outcomes: Vec<Outcome>,
    ticks: u64,
}

impl Server {
    fn start(name: &'static str, survives: bool) -> Result<Self, Failure> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ADDRESS, address.to_string()).stdin(Stdio::null());
        if survives {
            command.env(SURVIVES, "1");
        }
        let server = Self {
            name,
            address,
            child: command.spawn()?,
            outcomes: Vec::new(),
            ticks: 0,
        };
        wait_for("answer of the server", Duration::from_secs(10), || {
            load::ask(address).ok()
        })?;
        Ok(server)
    }

    fn round(&mut self, order: Load) -> Result<(), Failure> {
        let ticks = proc::family_cpu_ticks(self.child.id());
        self.outcomes.push(load::run(self.address, order)?);
        self.ticks += proc::family_cpu_ticks(self.child.id()) - ticks;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn measure() -> Result<(), Failure> {
    let rounds = number("ACTIX_CLUSTER_BENCH_ROUNDS", 21);
    let time = Duration::from_millis(number("ACTIX_CLUSTER_BENCH_MILLIS", 500) as u64);
    println!("2 workers, 32 connections, {rounds} rounds of {time:?} each; medians");
    println!("| connections | server | req/s | ratio, median (quartiles) | cpu µs/req | p50 µs | p99 µs | errors |");
    println!("|---|---|---|---|---|---|---|---|");
    for connection in [Connection::New, Connection::KeepAlive] {
        let order = Load {
            connections: 32,
            time,
            connection,
        };
        let mut servers = [
            Server::start("as ever", false)?,
            Server::start("survives", true)?,
            Server::start("as ever, again", false)?,
        ];
        for server in &mut servers {
            // Warms caches and page tables; its figures are dropped.
            server.round(order)?;
            server.outcomes.clear();
            server.ticks = 0;
        }
        for round in 0..rounds {
            // Nobody is always the first after a pause of the machine.
            for turn in 0..servers.len() {
                servers[(round + turn) % 3].round(order)?;
            }
        }
        for server in &servers {
            tell(server, &servers[0], connection, time);
        }
    }
    Ok(())
}

fn tell(server: &Server, base: &Server, connection: Connection, time: Duration) {
    let mut rates: Vec<f64> = server.outcomes.iter().map(|outcome| outcome.rate).collect();
    let requests: f64 = rates.iter().map(|rate| rate * time.as_secs_f64()).sum();
    // Of neighbours in time, so that what else the machine does cancels out.
    let pairs = server.outcomes.iter().zip(&base.outcomes);
    let mut ratios: Vec<f64> = pairs.map(|(own, base)| own.rate / base.rate).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let quarter = |part: usize| ratios.get(ratios.len() * part / 4).copied().unwrap_or_default();
    let middle = |pick: fn(&Outcome) -> Duration| {
        let mut samples: Vec<Duration> = server.outcomes.iter().map(pick).collect();
        percentile(&mut samples, 50).as_micros()
    };
    println!(
        "| {} | {} | {:.0} | {:.3} ({:.3}–{:.3}) | {:.1} | {} | {} | {} |",
        connection.name(),
        server.name,
        median(&mut rates),
        quarter(2),
        quarter(1),
        quarter(3),
        server.ticks as f64 * 1e4 / requests,
        middle(|outcome| outcome.p50),
        middle(|outcome| outcome.p99),
        server.outcomes.iter().map(|outcome| outcome.errors).sum::<u64>(),
    );
}

const ADDRESS: &str = "ACTIX_CLUSTER_BENCH_JOURNAL_ADDRESS";
const SURVIVES: &str = "ACTIX_CLUSTER_BENCH_JOURNAL_SURVIVES";
