//! Plug-in actors for [`actix-cluster`](actix_cluster): subscribers that watch a cluster and act on what they see.
//!
//! | actor | watches | does |
//! |---|---|---|
//! | [`EventLog`] | every event its [`EventFilter`](actix_cluster::EventFilter) lets through | writes each as one line of JSON |
//! | [`HealthMonitor`] | the heartbeats of every worker | tells which loops no longer turn, and replaces or kills their workers |
//! | [`StateTracker`] | the steps of every worker's life | keeps their records, tells of slow starts, reports |
//! | [`SystemdNotifier`] | the cluster's readiness, reloads and stop | tells the service manager, and that the supervising loop turns |
//!
//! Each is written against the public API of `actix-cluster` alone, so each is also a template for one of your own. A
//! file always has the same four parts: the configuration, a decision without effects, the actor, and its
//! `Handler<ClusterEvent>`.
//!
//! Plug-ins run beside supervision and never in its way: on a thread of their own, behind a bounded queue. What a slow one
//! misses is announced to it by a `Lagged` event.
#![forbid(unsafe_code)]

mod event_log;
mod health_monitor;
mod rotating_file;
mod state_tracker;
mod systemd;

pub use event_log::{EventLog, EventLogConfig, EventLogCounts};
pub use health_monitor::{ClusterHealth, HealthConfig, HealthConfigError, HealthMonitor, HealthView};
pub use rotating_file::{RotatingFile, Rotation};
pub use state_tracker::{
    Forget, GetAll, GetState, GetTable, IsHealthy, MetadataError, SetMetadata, StartUp, StateReader, StateTracker,
    StateTrackerConfig, WorkerRecord,
};
pub use systemd::{SystemdConfig, SystemdNotifier};

/// The program in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
