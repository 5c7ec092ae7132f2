//! The names that most programs and plug-ins need, for `use actix_cluster::prelude::*`.
//!
//! At most twelve, and none that actix's own prelude has too, so that both can be imported together.

pub use crate::{
    Cluster, ClusterBuilder, ClusterEvent, ClusterHandle, EventFilter, EventKind, RestartLimit, RestartType,
    SubscribeOptions, Worker, WorkerId, WorkerRef,
};
