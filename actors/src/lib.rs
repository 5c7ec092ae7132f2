//! Plug-in actors for [`actix-cluster`](actix_cluster): subscribers that watch a cluster and act on what they see.
//!
//! | actor | watches | does |
//! |---|---|---|
//! | [`Autoscaler`] | what workers say about their load, and what the kernel knows of it | adds workers and removes them |
//! | [`EventLog`] | every event its [`EventFilter`](actix_cluster::EventFilter) lets through | writes each as one line of JSON |
//! | [`HealthMonitor`] | the heartbeats of every worker | tells which loops no longer turn, and replaces or kills their workers |
//! | [`MemoryWatchdog`] | how much memory each worker uses, as the kernel tells it | replaces those that use too much, kills those that reach the limit |
//! | `metrics::Metrics` (feature `metrics`) | everything, and what workers measure themselves | answers a scrape with the whole cluster as OpenMetrics text |
//! | [`StateTracker`] | the steps of every worker's life | keeps their records, tells of slow starts, reports |
//! | [`SystemdNotifier`] | the cluster's readiness, reloads and stop | tells the service manager, and that the supervising loop turns |
//!
//! [`RotatingFile`] and [`LogPipe`] are no actors but sinks for [`EventLog`]: a file that is put aside when it is too large or too old,
//! and a program that reads lines and is started again when it dies.
//!
//! Each is written against the public API of `actix-cluster` alone, so each is also a template for one of your own. A
//! file always has the same four parts: the configuration, a decision without effects, the actor, and its
//! `Handler<ClusterEvent>`.
//!
//! Plug-ins run beside supervision and never in its way: on a thread of their own, behind a bounded queue. What a slow one
//! misses is announced to it by a `Lagged` event.
#![forbid(unsafe_code)]

mod autoscaler;
mod event_log;
mod health_monitor;
mod kernel;
mod log_pipe;
mod memory_watchdog;
#[cfg(feature = "metrics")]
pub mod metrics;
mod rotating_file;
mod signals;
mod state_tracker;
mod systemd;

pub use autoscaler::{AutoscaleConfig, AutoscaleConfigError, Autoscaler, ScaleDecision, ScaleReason};
pub use event_log::{EventLog, EventLogConfig, EventLogCounts};
pub use health_monitor::{ClusterHealth, HealthConfig, HealthConfigError, HealthMonitor, HealthView};
pub use log_pipe::{LogPipe, LogPipeCounts};
pub use memory_watchdog::{
    GroupReport, MemoryConfig, MemoryConfigError, MemoryLimit, MemoryReport, MemoryView, MemoryWatchdog, WorkerMemory,
};
pub use rotating_file::{RotatingFile, Rotation};
pub use signals::{LoadReport, LoadSignal, Reading};
pub use state_tracker::{
    Forget, GetAll, GetState, GetTable, IsHealthy, MetadataError, SetMetadata, StartUp, StateReader, StateTracker,
    StateTrackerConfig, WorkerRecord,
};
pub use systemd::{SystemdConfig, SystemdNotifier};

/// The programs in the README compile. Some of them need the feature.
#[cfg(all(doctest, feature = "metrics"))]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
