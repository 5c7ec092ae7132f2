//! One Rust program becomes a master and N supervised worker processes that share its listening sockets.
//!
#![cfg_attr(feature = "web", doc = "```no_run")]
#![cfg_attr(not(feature = "web"), doc = "```ignore")]
//! use actix_cluster::{Cluster, ServeError, Worker};
//! use actix_web::{App, web};
//!
//! fn main() -> std::process::ExitCode {
//!     Cluster::builder()
//!         .workers(4)
//!         .listen("http", "127.0.0.1:8080")
//!         .worker(serve)
//!         .main()
//! }
//!
//! async fn serve(worker: Worker) -> Result<(), ServeError> {
//!     let hello = || async { format!("hello from process {}\n", std::process::id()) };
//!     worker.serve("http", move || App::new().route("/", web::get().to(hello))).await
//! }
//! ```
//!
//! `main` runs in every process. In the one you start, [`run`](ClusterBuilder::run) (or [`main`](ClusterBuilder::main))
//! binds the listeners, starts the workers by executing this very program again, and supervises them until it is told to
//! stop. In a worker the same call runs the worker's function and then ends the process. So whatever only the master
//! should do belongs after [`Cluster::run`], into [`ClusterBuilder::on_event`], or behind [`is_master`].
//!
//! # Where to look
//!
//! | if you want to | look at |
//! |---|---|
//! | describe a cluster: workers, listeners, limits | [`ClusterBuilder`] |
//! | serve an actix-web application | `Worker::serve`, `Worker::serve_with` and `ServeOptions`, `Worker::run_server` (feature `web`) |
//! | take sockets that systemd has opened | [`ClusterBuilder::listen_activated`], [`ClusterBuilder::listen_activated_or`] |
//! | serve with another tokio server, or raw TCP | [`Worker::incoming`], [`Incoming`] |
//! | let connections outlive a worker that is killed | [`ListenOptions::survive_kill`], "What a kill costs" below |
//! | listen on an address chosen at run time | [`Worker::bind`] |
//! | receive UDP | [`ClusterBuilder::listen_udp`], [`Worker::udp_socket`], [`Worker::bind_udp`], [`UdpSocket`] |
//! | decide when and how often a worker is restarted | [`RestartType`], [`RestartDelay`], [`RestartLimit`], [`RestartIntensity`] |
//! | have several kinds of workers | [`WorkerSpec`], [`RestartStrategy`], [`StrategyFn`] |
//! | decide how a worker is stopped | [`ClusterBuilder::grace`], [`ShutdownPolicy`], [`Worker::on_shutdown`] |
//! | let a load balancer notice a stop first | [`ClusterBuilder::lame_duck`], [`Worker::is_ready`] |
//! | know what happens | [`ClusterBuilder::on_event`], [`EventKind`], [`Events`] |
//! | know that workers are alive, not only there | [`ClusterBuilder::heartbeat`], [`Worker::watch_loop`], `HealthMonitor` of `actix-cluster-actors` |
//! | know what a worker did before it was killed | [`ClusterBuilder::flight_recorder`], [`Worker::mark`], [`Exit::last_words`] |
//! | watch memory and load, tell metrics or systemd, write a log | the plug-ins of the crate `actix-cluster-actors` |
//! | write a plug-in | [`ClusterBuilder::subscribe`], [`SubscribeOptions`], `testing`, the crate `actix-cluster-actors` |
//! | command a running cluster | [`ClusterHandle`], [`WorkerRef`] |
//! | see its state | [`ClusterHandle::snapshot`], [`WorkerState`] |
//! | talk between master and workers | [`Worker::send`], [`WorkerRef::send`], [`ClusterBuilder::on_message`] |
//! | ask a question and wait for the answer | [`Worker::call`], [`WorkerRef::call`], [`Message::reply`] |
//! | pass open sockets and files | [`WorkerRef::send_with_socket`], [`WorkerRef::call_with_fds`], [`Message::take_tcp_stream`], [`descriptors`] |
//! | serve a connection that was accepted elsewhere | [`Worker::inject`] |
//! | run a cluster inside a program of your own | [`Cluster::start`], [`RunningCluster`] |
//!
//! # What is guaranteed
//!
//! **Order.**
//! - Every subscriber sees the events in one order. [`ClusterEvent::seq`] counts them; what a slow subscriber misses is
//!   told to it by [`EventKind::Lagged`].
//! - When an event is delivered, every state that a handle tells is already the new one.
//! - A worker's steps come in the order of [`WorkerState`] and are never reversed, whatever the worker claims.
//! - Every process has exactly one [`EventKind::Exit`], after its [`EventKind::Disconnect`] and after its last message.
//!
//! **Delivery.**
//! - Messages arrive whole, in order and at most once, each with the descriptors that were sent with it.
//! - What a worker sent before it ended by itself is delivered, also when it called `exit` right after.
//! - Nothing is queued without bound. A side that does not read makes the other's [`send`](Worker::send) return
//!   [`SendError::Full`]; messages are dropped for a subscriber unless it says [`WhenFull::HoldBack`].
//! - A [`call`](Worker::call) ends: with the answer, a refusal, the other side's end, or its deadline.
//!
//! **Restarts.**
//! - A slot is restarted at most [`RestartLimit::max`] times within any period, on a clock that nobody can set; then it
//!   is failed, visibly, and the others go on.
//! - A process that could not be started is a failure like any other: same event, same limit, same delay.
//! - A replacement that somebody ordered costs no part of that budget.
//! - A worker that is not ready within [`ClusterBuilder::boot_limit`] is killed, once, and counted as a failure.
//!
//! **Shutdown.**
//! - An ordered stop takes no longer than the lame-duck time (none, unless you choose one) and the grace period allow: the
//!   worker is asked, gets `SIGTERM` if it does not answer within a second, and `SIGKILL` at the end of its grace. Nothing is
//!   started any more once a shutdown began.
//! - Requests that were begun, and connections that waited in the worker's queue, are answered before it ends.
//! - A declared listener lives as long as the cluster: while workers restart, clients wait in its queue and are not
//!   refused.
//!
//! **Death of the master.**
//! - A worker whose channel ends drains for [`ClusterBuilder::orphan_grace`] (half a second) and ends. A thread of its own
//!   sees to it, so it happens even when the worker's main thread is stuck.
//!
//! **Signals.**
//! - A signal is never sent to a process that is not this master's child: children are held by pidfds, not by numbers.
//!
//! # What a kill costs
//!
//! A listener survives kills if it is declared so:
//!
//! ```
//! use actix_cluster::{Cluster, ListenOptions};
//!
//! let survives = ListenOptions::new().survive_kill(true);
//! let cluster = Cluster::builder().listen_with("http", "127.0.0.1:8080", survives);
//! # let _ = cluster;
//! ```
//!
//! Where it does ([`ListenOptions::survive_kill`]) and is served by `Worker::serve`, or by any server on
//! [`Incoming::http1`]: however a worker dies, a client that …
//!
//! | … | … |
//! |---|---|
//! | waits to be accepted, or has sent nothing, or bytes that nobody read | is served by another worker |
//! | is between two requests | notices nothing: the connection lives on |
//! | has sent a part of a head | sends the rest to another worker |
//! | waits for the answer to a request that may be repeated | gets it from another worker: the request runs a second time; the connection lives on |
//! | the same, with a body that is chunked, or after `100 Continue` | the same; `100 Continue` may come twice |
//! | the same, but the request is longer than 64 KiB or half of the socket's receive buffer, or the rest of one over 8 KiB pauses for 200 ms | gets 502, and the connection ends |
//! | waits for the answer to a request that may not be repeated (`POST`, `PATCH`; you decide) | gets 502, and the connection ends: the request ran at most once |
//! | waits for the answer to a request that two workers may have died of (a kill from outside does not count; [`ListenOptions::max_runs`] counts those, too) | gets 502; an event names the request |
//! | speaks HTTP/1.0, or asks for `HEAD` | the same as others; after the last answer the connection ends in order |
//! | has sent several requests at once | gets the answers that are missing, in their order |
//! | has got a part of its answer, because that took the server several writes | sees the connection break |
//! | has its answer, but not yet read it | gets it whole |
//! | got its answer before its body was read | keeps it; the connection ends |
//! | has the last answer of a connection, sent more behind the request, and the kill falls into the very moment of closing | may see a reset in place of the answer's end |
//! | speaks something else: TLS, HTTP/2, a WebSocket after its upgrade | sees the connection break, unless none of its bytes was read |
//!
//! With a server that accepts for itself (an unmodified `HttpServer`), and on [`Incoming`] without `http1`, connections
//! survive of which nothing was read. Unix paths, UDP and listeners asked for at run time do not survive.
//!
//! When a worker leaves in order (a reload, fewer workers) while others accept, connections between two requests are given
//! to another worker; those with a request in progress follow after their answer. None is closed for it.
//!
//! # What is out of scope
//!
//! More than one machine; state shared between workers (use a database, or messages); a proxy or load balancer; protection
//! against a worker that is hostile *and* runs under the master's own user id (see `SECURITY.md`).
//!
//! # Platform
//!
//! Linux 5.10 or newer, as an ordinary user. On other systems the crate is empty.
#![cfg(target_os = "linux")]

mod administration;
mod builder;
mod changes;
mod clock;
mod cluster;
mod config;
mod error;
mod events;
mod guard;
mod handle;
mod handover;
mod ipc;
mod master;
mod model;
mod nested;
mod passing;
mod plug_ins;
mod policy;
pub mod prelude;
mod process;
mod recorder;
mod socket;
mod spec;
mod subscription;
mod supervision;
mod sys;
#[cfg(feature = "test-util")]
pub mod testing;
mod worker;
mod worker_ref;

// The cluster and its remote control.
pub use administration::{ClusterChanges, ClusterRules, SpecSnapshot};
pub use builder::ClusterBuilder;
pub use changes::ReloadOptions;
pub use cluster::{BeforeStart, Cluster, RunningCluster, is_master, is_worker, worker_id};
pub use handle::{Broadcast, ClusterHandle};
pub use spec::WorkerSpec;
// What happens, and who hears of it.
pub use events::Events;
pub use model::{Announcement, CustomEvent, EndCause, Evidence, HealthAction, Unhealthy, UnhealthyReason};
pub use model::{ClusterEvent, EventKind, GaveUp, OutputStream, Refusal, SubscriberLoss, WorkerError, WorkerInfo};
pub use model::{DrainReport, Exit, ExitReason, ExitStatus, Signal, SpawnFailure, SpawnStep, exit_code};
pub use model::{EventFilter, Kind, Kinds};
pub use model::{FlightMark, FlightPhase, FlightRecord, FlightRequest};
pub use model::{Generation, Mono, Slot, SpecName, WorkerId, WorkerState};
pub use model::{Heartbeat, Lag, LoopBeat};
pub use model::{RecycleReason, ReloadError, ReloadFailure};
pub use model::{SpecFault, StartError};
pub use subscription::{PlugInThread, SubscribeOptions, Subscription, WhenFull};
// The cluster at one instant, and at its end.
pub use model::{
    ClusterSnapshot, Counts, HandoverStats, Phase, ShutdownReport, SlotSnapshot, SlotState, WorkerEnd, WorkerSnapshot,
    WorkerStats, WorkerTimes,
};
// How workers are started, restarted and stopped.
pub use model::{Program, Settings, SpawnMethod, StdioMode};
pub use policy::{
    AutoShutdown, Backoff, Canary, Escalation, OneForAll, OneForOne, ReadyWhen, RestForOne, RestartDelay,
    RestartIntensity, RestartLimit, RestartStrategy, RestartType, RolloutOptions, ShutdownPolicy, StrategyFn,
    WhenEmpty,
};
// Listening.
pub use model::{AddressType, BoundAddress, ListenAddr, ListenAddrError, ListenOptions, Scheduling, ToListenAddr};
pub use model::{Candidate, Client};
pub use policy::{LeastConnections, RoundRobin, SchedulingFn, SchedulingPolicy, Sticky, TwoChoices};
// Talking.
pub use model::{Message, Payload, PayloadError, Reply, ReplyError};
// The worker's side.
pub use worker::{
    ActiveRequest, Connection, ConnectionGuard, Counters, Http1Stream, Incoming, InjectError, Listener, LoopError,
    LoopWatch, Messages, RemoteIncoming, RequestNote, Shutdown, Stream, UdpSocket, Worker, WorkerOutput,
};
#[cfg(feature = "web")]
pub use worker::{AtLimit, ServeError, ServeOptions, WebApp};
pub use worker_ref::WorkerRef;
// Errors, one for each moment at which somebody can act.
pub use error::{BuildError, CommandError, LastFailure, RunError};
pub use ipc::{CallError, PassError, SendError};
pub use model::ListenError;

/// Descriptors that came with a message, as the sockets they are: what the conversions of [`Message`], like
/// [`take_tcp_stream`](Message::take_tcp_stream), do, for descriptors that come from elsewhere. The kernel is asked what the
/// descriptor is; another kind of thing is refused and given back.
pub mod descriptors {
    pub use crate::socket::typed::{
        TakeError, WrongDescriptor, WrongKind, into_tcp_listener, into_tcp_stream, into_udp_socket, into_unix_datagram,
        into_unix_listener, into_unix_stream,
    };
}

/// The programs in the README compile.
#[cfg(all(doctest, feature = "web"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
