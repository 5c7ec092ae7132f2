//! One Rust program becomes a supervised, self-healing cluster of worker processes.
#![cfg(target_os = "linux")]

mod builder;
mod clock;
mod cluster;
mod config;
mod error;
mod events;
mod guard;
mod handle;
mod ipc;
mod master;
pub mod model;
mod policy;
mod process;
mod socket;
mod supervision;
mod sys;
mod worker;

pub use builder::ClusterBuilder;
pub use cluster::{Cluster, RunningCluster, is_master, is_worker, worker_id};
pub use error::{BuildError, CommandError, RunError};
pub use events::Events;
pub use handle::{Broadcast, ClusterHandle, WorkerRef};
pub use ipc::{CallError, SendError};
pub use master::{Interest, SubscribeOptions};
#[doc(inline)]
pub use model::*;
pub use policy::*;
pub use worker::*;

/// Descriptors that came with a message, as the sockets they are. Each conversion refuses another kind of thing.
pub mod descriptors {
    pub use crate::socket::kind::{
        WrongKind, into_tcp_listener, into_tcp_stream, into_udp_socket, into_unix_datagram, into_unix_listener,
        into_unix_stream,
    };
}
