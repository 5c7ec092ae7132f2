//! Nouns: the values every other room speaks about.
//!
//! Only plain values live here: no actor, no runtime, no system call, no clock. What *decides* about these values is in
//! [`crate::policy`] and [`crate::supervision`].

mod address;
mod event;
mod exit;
mod filter;
mod flight;
mod health;
mod heartbeat;
mod id;
pub(crate) mod json;
mod kind;
mod listen;
mod message;
mod reload;
pub(crate) mod rescue;
mod scheduling;
mod secret;
mod settings;
mod signal;
mod snapshot;
mod spec;
mod state;
mod text;
mod time;

pub use address::{AddressType, BoundAddress};
pub use event::{ClusterEvent, EventKind, GaveUp, OutputStream, Refusal, SubscriberLoss, WorkerError, WorkerInfo};
pub use exit::{DrainReport, Exit, ExitReason, ExitStatus, SpawnFailure, SpawnStep, exit_code};
pub use filter::EventFilter;
pub use flight::{FlightMark, FlightPhase, FlightRecord, FlightRequest};
pub use health::{Announcement, CustomEvent, EndCause, Evidence, HealthAction, Unhealthy, UnhealthyReason};
pub use heartbeat::{Heartbeat, Lag, LoopBeat};
pub use id::{Generation, Slot, SpecName, WorkerId};
pub use kind::{Kind, Kinds};
pub(crate) use listen::ListenKey;
pub use listen::{ListenAddr, ListenAddrError, ListenError, ListenOptions, Scheduling, ToListenAddr};
pub(crate) use message::ReplySink;
pub use message::{Message, Payload, PayloadError, Reply, ReplyError};
pub use reload::{RecycleReason, ReloadError, ReloadFailure};
pub use scheduling::{Candidate, Client};
pub(crate) use secret::Secret;
pub use settings::{Program, Settings, SpawnMethod, StdioMode};
pub use signal::Signal;
pub use snapshot::{
    ClusterSnapshot, Counts, HandoverStats, Phase, ShutdownReport, SlotSnapshot, SlotState, WorkerEnd, WorkerSnapshot,
    WorkerStats, WorkerTimes,
};
pub use spec::{SpecFault, StartError};
pub use state::WorkerState;
pub(crate) use text::{OneLine, bounded};
pub use time::Mono;
