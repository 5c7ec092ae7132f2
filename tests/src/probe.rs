//! Inside a scenario's processes: the subscriber that shows every event to the test, and the ear for the test's orders.
//!
//! Both use the public API only, so the harness is its first user. Everything shown is one JSON line on standard output,
//! which master and workers share: a line shorter than a pipe's atomic size is never torn.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use actix_cluster::{
    Canary, Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, Message, PlugInThread, Program, RecycleReason,
    ReloadOptions, RestartDelay, RestartType, RolloutOptions, Settings, Signal, Slot, SpawnMethod, StdioMode,
    SubscribeOptions, Worker, WorkerId, WorkerRef, WorkerSpec,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::fault::{self, Fault};
use crate::limit;

/// `zygote` runs the suite with workers that a zygote makes; everything must hold for them, too.
pub const METHOD_VAR: &str = "ACTIX_CLUSTER_TEST_SPAWN";

/// The durations of the test profile: everything that takes half a minute in production takes half a second here.
pub const BOOT: Duration = Duration::from_secs(30);
/// From the order to stop to `SIGKILL`.
pub const GRACE: Duration = Duration::from_secs(2);

/// A cluster in the test profile, seen by the probe: restarts at once, unlimited; boot 30 s, grace 2 s, both
/// stretched as all limits are.
pub fn cluster() -> ClusterBuilder {
    cluster_showing(|_| true)
}

/// [`cluster`] that shows only these events: a flood of them would keep the test busy longer than the cluster.
pub fn cluster_showing(shown: fn(&ClusterEvent) -> bool) -> ClusterBuilder {
    Cluster::builder()
        .workers(1)
        .spawn(method())
        .restart_delay(RestartDelay::AtOnce)
        .boot_limit(limit(BOOT))
        .grace(limit(GRACE))
        .on_event_with(beside("probe"), move |event, _| {
            if shown(event) {
                print(event);
            }
        })
        .on_event_with(beside("ear"), obey_from_the_first_event())
}

/// How the workers of [`cluster`] come to be: executed, or made by a zygote where [`METHOD_VAR`] is `zygote`.
fn method() -> SpawnMethod {
    match std::env::var(METHOD_VAR).as_deref() {
        Ok("zygote") => SpawnMethod::Zygote,
        _ => SpawnMethod::Exec,
    }
}

/// Both on one thread: what an order brought about is shown before its answer.
fn beside(name: &str) -> SubscribeOptions {
    SubscribeOptions::new().name(name).thread(PlugInThread::Shared)
}

/// [`cluster`] whose workers are executed, whatever [`METHOD_VAR`] says: for what is about that.
pub fn executing() -> ClusterBuilder {
    cluster().spawn(SpawnMethod::Exec)
}

/// Any cluster, seen by the probe and obeying its orders.
pub fn watched(cluster: ClusterBuilder) -> ClusterBuilder {
    cluster
        .on_event(|event, _| print(event))
        .on_event(obey_from_the_first_event())
}

/// A line that the test can wait for with `expect_said`. From any process of the scenario.
pub fn say(what: &str) {
    print(&Said {
        said: what,
        pid: std::process::id(),
    });
}

/// The message text `what` is said and the worker lives until it is told to stop.
pub async fn idle(worker: &Worker) {
    worker.shutdown().started().await;
}

/// The order that a test gives its scenario's master, as one JSON line on standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Answered by `said: "pong"`.
    Ping,
    /// `handle.fork`; answered by `said: "forked <id>"` or `said: "error …"`.
    Fork(Vec<(String, String)>),
    /// `handle.disconnect`.
    Disconnect(u64),
    /// `handle.disconnect_all`; answered by `said: "all disconnected"`.
    DisconnectAll,
    /// `handle.kill` with this signal number.
    Kill(u64, i32),
    /// `handle.restart`.
    Restart(u64),
    /// `handle.close_channel`.
    CloseChannel(u64),
    /// `handle.start_slot` of this index.
    StartSlot(u32),
    /// `handle.shutdown`; answered by `said: "report …"` with the report as JSON.
    Shutdown,
    /// `worker.send` of a text.
    Send(u64, String),
    /// `handle.broadcast` of a text; answered by `said: "sent <n>"`.
    Broadcast(String),
    /// `worker.call` with a text, answered by `said: "answer …"`.
    Call(u64, String),
    /// `handle.snapshot`, answered by `said: "snapshot …"` with the snapshot as JSON.
    Snapshot,
    /// `handle.all_ready`, answered by `said: "all ready"`.
    AllReady,
    /// `handle.setup`; answered by `said: "settings …"` with the settings as JSON.
    Setup(Change),
    /// `fault::start`; answered by `said: "forked <id>"` or `said: "error …"`.
    Hostile(Fault),
    /// Sets the soft limit of the master for descriptors (`nofile`), processes (`nproc`) or the size of files (`fsize`), `None` for as much as may be;
    /// answered by `said: "limited"`.
    Limit(String, Option<u64>),
    /// `handle.reload_with`; answered by `said: "reloaded <generation>"` or `said: "not reloaded: …"`.
    Reload(Care),
    /// `handle.scale`; answered by `said: "scaled <n>"`.
    Scale(u32),
    /// `handle.recycle` for this reason, answered by `said: "recycle"`.
    Recycle(u64, String),
    /// `handle.stop_spec`, `start_spec`, `restart_spec` or `delete_spec`, or `add_spec` of one temporary worker, by its
    /// first word; answered by `said: "<word> done"` or `said: "<word> error …"`.
    Spec(String, String),
    /// `handle.add_spec` of so many workers, answered by `said: "added"`.
    AddSpec(String, u32),
    /// Another order whose future is polled at most so often and then dropped, answered by `said: "dropped"` or, if it
    /// came to its end, besides its own answer, by `said: "not dropped"`.
    Dropped(Box<Self>, u32),
}

/// How a test reloads: what is `None` or false stays at its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Care {
    /// Waits for the one that runs.
    pub queue: bool,
    /// Only this spec.
    pub spec: Option<String>,
    /// Brings this program.
    pub exec: Option<PathBuf>,
    /// Processes more than wanted.
    pub surge: Option<u32>,
    /// Workers that may be missing.
    pub max_unavailable: Option<u32>,
    /// How long a successor must live, in milliseconds.
    pub probation_ms: u64,
    /// From one batch to the next, in milliseconds.
    pub pause_ms: u64,
    /// How long a successor may take, in milliseconds.
    pub step_ms: Option<u64>,
    /// The canary: how many, and for how many milliseconds.
    pub canary: Option<(u32, u64)>,
    /// The verdict on it: the worker ids it is asked about are said as `judged …`; a text is a bad one.
    pub verdict: Option<Result<(), String>>,
}

impl Care {
    fn options(self) -> ReloadOptions {
        let mut rollout = RolloutOptions::new()
            .probation(Duration::from_millis(self.probation_ms))
            .pause(Duration::from_millis(self.pause_ms));
        if let Some(surge) = self.surge {
            rollout = rollout.surge(surge);
        }
        if let Some(workers) = self.max_unavailable {
            rollout = rollout.max_unavailable(workers);
        }
        if let Some(limit) = self.step_ms {
            rollout = rollout.step_deadline(Duration::from_millis(limit));
        }
        if let Some((count, bake)) = self.canary {
            let bake = Duration::from_millis(bake);
            rollout = rollout.canary(Canary { count, bake });
        }
        let mut options = ReloadOptions::new(rollout);
        if let Some(spec) = self.spec {
            options = options.spec(spec.as_str());
        }
        if let Some(program) = self.exec {
            options = options.exec(program);
        }
        if self.queue {
            options = options.queue();
        }
        if let Some(verdict) = self.verdict {
            options = options.verdict(move |canary| {
                let ids: Vec<u64> = canary.iter().map(|worker| worker.id.get()).collect();
                say(&format!("judged {ids:?}"));
                verdict
            });
        }
        options
    }
}

/// A change of the settings: what is `None` or false stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The program.
    pub exec: Option<PathBuf>,
    /// Its arguments.
    pub args: Option<Vec<String>>,
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// Both outputs piped.
    pub silent: bool,
}

impl Change {
    fn apply(self, settings: &mut Settings) {
        if let Some(program) = self.exec {
            settings.exec = Program::Path(program);
        }
        if let Some(args) = self.args {
            settings.args = Some(args.into_iter().map(Into::into).collect());
        }
        if let Some(directory) = self.cwd {
            settings.cwd = Some(directory);
        }
        if self.silent {
            settings.stdout = StdioMode::Piped;
            settings.stderr = StdioMode::Piped;
        }
    }
}

#[derive(Serialize)]
struct Said<'a> {
    said: &'a str,
    pid: u32,
}

fn print(line: &impl Serialize) {
    let mut line = serde_json::to_vec(line).expect("what a probe shows has a JSON form");
    line.push(b'\n');
    // The test may have gone away; then nobody is there to be told.
    std::io::stdout().lock().write_all(&line).ok();
}

/// Starts a thread that reads the test's orders, once the handle is known.
fn obey_from_the_first_event() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let mut started = false;
    move |_, handle| {
        if !std::mem::replace(&mut started, true) {
            let (orders, mut inbox) = tokio::sync::mpsc::unbounded_channel();
            std::thread::spawn(move || {
                for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                    let order: Order = serde_json::from_str(&line).expect("the test sends orders");
                    if orders.send(order).is_err() {
                        return;
                    }
                }
            });
            let handle = handle.clone();
            actix_rt::spawn(async move {
                while let Some(order) = inbox.recv().await {
                    let handle = handle.clone();
                    actix_rt::spawn(async move { obey(order, &handle).await });
                }
            });
        }
    }
}

async fn obey(order: Order, handle: &ClusterHandle) {
    let worker = |id: u64| handle.worker(WorkerId::new(id));
    let said = match order {
        Order::Ping => "pong".to_owned(),
        Order::Fork(env) => match handle.fork(env).await {
            Ok(worker) => format!("forked {}", worker.id()),
            Err(error) => format!("error {error}"),
        },
        Order::Disconnect(id) => outcome("disconnect", handle.disconnect(WorkerId::new(id)).await),
        Order::DisconnectAll => outcome("all disconnected", handle.disconnect_all().await),
        Order::Kill(id, signal) => {
            let signal = Signal::from_number(signal).expect("the test names a signal");
            outcome("kill", handle.kill(WorkerId::new(id), signal).await)
        }
        Order::Restart(id) => outcome("restart", handle.restart(WorkerId::new(id)).await),
        Order::CloseChannel(id) => outcome("close", handle.close_channel(WorkerId::new(id)).await),
        Order::StartSlot(index) => outcome("start", handle.start_slot(Slot::new("worker", index)).await),
        // `main` returns at the same time, so what follows from the answer may not happen any more: see `reports`.
        Order::Shutdown => match handle.shutdown().await {
            Ok(_) => "shut down".to_owned(),
            Err(error) => format!("error {error}"),
        },
        Order::Send(id, text) => match worker(id).map(|worker| worker.send(&text)) {
            Some(Ok(())) => "sent".to_owned(),
            Some(Err(error)) => format!("error {error}"),
            None => "error no such worker".to_owned(),
        },
        Order::Broadcast(text) => match handle.broadcast(&text) {
            Ok(broadcast) => format!("sent {}", broadcast.sent),
            Err(error) => format!("error {error}"),
        },
        Order::Call(id, text) => match worker(id) {
            Some(worker) => match worker
                .call::<serde_json::Value>(&text, limit(Duration::from_secs(5)))
                .await
            {
                Ok(answer) => format!("answer {answer}"),
                Err(error) => format!("error {error}"),
            },
            None => "error no such worker".to_owned(),
        },
        Order::Snapshot => {
            format!(
                "snapshot {}",
                serde_json::to_string(&handle.snapshot()).expect("a snapshot has a JSON form")
            )
        }
        Order::AllReady => outcome("all ready", handle.all_ready().await),
        Order::Setup(change) => match handle.setup(|settings| change.apply(settings)).await {
            Ok(settings) => format!(
                "settings {}",
                serde_json::to_string(&settings).expect("settings have a JSON form")
            ),
            Err(error) => format!("error {error}"),
        },
        Order::Hostile(fault) => match fault::start(fault, handle).await {
            Ok(forked) => forked,
            Err(error) => format!("error {error}"),
        },
        Order::Limit(what, soft) => {
            set_limit(&what, soft);
            "limited".to_owned()
        }
        Order::Reload(care) => match handle.reload_with(care.options()).await {
            Ok(generation) => format!("reloaded {generation}"),
            Err(error) => format!("not reloaded: {error}"),
        },
        Order::Scale(workers) => match handle.scale(workers).await {
            Ok(workers) => format!("scaled {workers}"),
            Err(error) => format!("error {error}"),
        },
        Order::Recycle(id, why) => {
            let why = RecycleReason::Asked(why);
            outcome("recycle", handle.recycle(WorkerId::new(id), why).await)
        }
        Order::Spec(word, name) => {
            let result = match word.as_str() {
                "stop" => handle.stop_spec(name).await,
                "start" => handle.start_spec(name).await.map(drop),
                "restart" => handle.restart_spec(name).await.map(drop),
                "delete" => handle.delete_spec(name).await,
                "add" => {
                    let spec = WorkerSpec::new(name, 1).restart(RestartType::Temporary);
                    handle.add_spec(spec).await.map(drop)
                }
                other => panic!("no order {other:?}"),
            };
            format!("{word} {}", outcome("done", result))
        }
        Order::AddSpec(name, workers) => {
            let spec = WorkerSpec::new(name.as_str(), workers).restart_delay(RestartDelay::AtOnce);
            outcome("added", handle.add_spec(spec).await.map(drop))
        }
        Order::Dropped(order, polls) => match polled(Box::pin(obey(*order, handle)), polls).await {
            Some(()) => "not dropped".to_owned(),
            None => "dropped".to_owned(),
        },
    };
    say(&said);
}

/// Polls a future whenever it asks for it, but at most so often.
async fn polled<F: Future + Unpin>(mut future: F, polls: u32) -> Option<F::Output> {
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        let Some(less) = left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        left = less;
        match Pin::new(&mut future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Sets a soft limit of this process.
fn set_limit(what: &str, soft: Option<u64>) {
    let resource = match what {
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "fsize" => Resource::RLIMIT_FSIZE,
        other => panic!("no limit {other:?}"),
    };
    let (_, hard) = getrlimit(resource).expect("the limit can be read");
    setrlimit(resource, soft.unwrap_or(hard), hard).expect("a soft limit may be as high as the hard one");
}

fn outcome(done: &str, result: Result<(), actix_cluster::CommandError>) -> String {
    result.map_or_else(|error| format!("error {error}"), |()| done.to_owned())
}

/// Lets a worker do what the messages say: `disconnect`, `exit_now` or `close_channel`; any other text is said.
pub fn do_as_told(worker: &Worker) {
    let told = worker.clone();
    let is_first = worker.on_message(move |message| match text_of(&message).as_str() {
        "disconnect" => told.disconnect(),
        "exit_now" => told.exit_now(0),
        "close_channel" => told.close_channel(),
        other => say(other),
    });
    assert!(is_first, "the messages have one owner");
}

/// A message that is a text.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn text_of(message: &Message) -> String {
    message.parse().expect("the scenario's messages are texts")
}

/// The worker of an event.
///
/// # Panics
/// If the event is about none, or about a dead one.
#[must_use]
pub fn worker_of(event: &ClusterEvent, handle: &ClusterHandle) -> WorkerRef {
    let info = event.worker.as_ref().expect("the event is about a worker");
    handle.worker(info.id).expect("the worker of the event lives")
}
