//! The server in the storm: this same program, in the role that a variable describes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use actix_cluster::{Cluster, EventKind, ListenOptions, RestartDelay, RestartLimit, Scheduling, Worker};
use actix_web::{App, HttpServer, web};
use serde::{Deserialize, Serialize};

use crate::child::{self, Child};
use crate::{Failure, proc};

/// What the server is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// How its connections are spread.
    pub scheduling: Scheduling,
    /// Do connections survive their worker?
    pub survive: bool,
    /// How often a request may begin, if that is bounded.
    pub max_runs: Option<u8>,
    /// How long each handler waits.
    pub handler_ms: u64,
    /// Who serves.
    pub kind: Kind,
    /// Workers.
    pub workers: u32,
    /// As whom it runs; as this process if nobody is named.
    pub user: Option<u32>,
    /// Where handlers note what they run.
    pub log: PathBuf,
}

/// Who serves in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The framework.
    Own,
    /// An unmodified `HttpServer`.
    HttpServer,
}

/// Plays the server, if the environment says so; for the first line of `main`.
#[must_use]
pub fn play() -> Option<ExitCode> {
    let plan: Plan = serde_json::from_str(&std::env::var(PLAN).ok()?).ok()?;
    let mut options = ListenOptions::new()
        .scheduling(plan.scheduling)
        .survive_kill(plan.survive);
    options.max_runs = plan.max_runs;
    let builder = Cluster::builder()
        .workers(plan.workers)
        .listen_with("http", std::env::var(ADDRESS).unwrap_or_default(), options)
        .restart_delay(RestartDelay::AtOnce)
        .restart_limit(RestartLimit::unlimited())
        .on_event(|event, _| {
            if let EventKind::Error(error) = &event.kind {
                eprintln!("error: {error}");
            }
            if let EventKind::Rescued { saved, lost: 1.. } = event.kind {
                eprintln!(
                    "worker {:?}: {saved} saved, others lost",
                    event.worker.as_ref().map(|it| it.id)
                );
            }
        })
        .worker(move |worker| serve(worker, plan.clone()));
    Some(builder.main())
}

async fn serve(worker: Worker, plan: Plan) -> Result<(), String> {
    let log = OpenOptions::new().append(true).open(&plan.log);
    let state = web::Data::from(Arc::new(State {
        log: log.map_err(|error| error.to_string())?,
        wait: Duration::from_millis(plan.handler_ms),
    }));
    let app = move || {
        App::new()
            .app_data(state.clone())
            .route("/r/{number}", web::route().to(run))
    };
    match plan.kind {
        Kind::Own => worker.serve("http", app).await.map_err(|error| error.to_string()),
        Kind::HttpServer => unmodified(&worker, app).await.map_err(|error| error.to_string()),
    }
}

async fn unmodified<F, T, B>(worker: &Worker, app: F) -> Result<(), Failure>
where
    F: Fn() -> App<T> + Clone + Send + 'static,
    T: actix_web::dev::ServiceFactory<
            actix_web::dev::ServiceRequest,
            Config = (),
            Response = actix_web::dev::ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    B: actix_web::body::MessageBody + 'static,
{
    let server = HttpServer::new(app).workers(1).disable_signals();
    worker
        .run_server(server.listen(worker.listener("http")?)?.run())
        .await?;
    Ok(())
}

struct State {
    log: File,
    wait: Duration,
}

async fn run(number: web::Path<u64>, state: web::Data<State>) -> Result<String, actix_web::Error> {
    // Each is one write of eight bytes to the end: whole or not there, whatever becomes of this process.
    (&state.log).write_all(&number.to_ne_bytes())?;
    if !state.wait.is_zero() {
        actix_rt::time::sleep(state.wait).await;
    }
    (&state.log).write_all(&(*number | ENDED).to_ne_bytes())?;
    Ok(format!("{number}\n"))
}

/// Starts it in a process of its own, and waits until all its workers are there.
///
/// # Errors
/// It does not start, or does not listen within ten seconds.
pub(super) fn start(plan: &Plan) -> Result<Child, Failure> {
    let address = child::free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env(PLAN, serde_json::to_string(plan)?)
        .env(ADDRESS, address.to_string());
    if let Some(uid) = plan.user {
        command.uid(uid).gid(uid).current_dir("/");
    }
    let server = Child::start(&mut command, address)?;
    let wanted = usize::try_from(plan.workers).unwrap_or(1);
    server.wait_until("worker of the server", || {
        proc::workers(server.pid()).len() == wanted && TcpStream::connect(address).is_ok()
    })?;
    Ok(server)
}

/// Set in the number of a request whose handler came to its end.
pub(super) const ENDED: u64 = 1 << 63;
const PLAN: &str = "ACTIX_CLUSTER_BENCH_STORM";
const ADDRESS: &str = "ACTIX_CLUSTER_BENCH_ADDRESS";
