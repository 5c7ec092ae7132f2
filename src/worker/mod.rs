//! The child's side: what runs inside a worker process.
//!
//! `runtime` is the life of the process, `heartbeat` its signs of life, `context` what user code has in its hands, `flight` what
//! it notes for the time after its death, `listeners` and `listener` what it may accept on, `parting` what it keeps as it ends,
//! `handover` the connections the master
//! passes to it, `serve` how it serves, `secret` what it shares with its siblings, `standby` what a worker without a slot keeps for
//! later, `udp` what it may receive on. Nothing here knows the master's actors, policies or machines.

pub(crate) mod context;
pub(crate) mod counters;
pub(crate) mod flight;
pub(crate) mod handover;
mod heartbeat;
mod inject;
pub(crate) mod listener;
mod listeners;
mod parting;
mod proxy;
mod runtime;
mod secret;
pub(crate) mod serve;
pub(crate) mod shutdown;
mod standby;
mod survival;
mod udp;
#[cfg(feature = "web")]
mod web;

pub use context::{Messages, Worker};
pub use counters::{ActiveRequest, Counters};
pub use flight::RequestNote;
pub use heartbeat::{LoopError, LoopWatch};
pub use inject::InjectError;
pub use listener::Listener;
pub use runtime::WorkerOutput;
pub(crate) use runtime::{attach, run, run_here};
#[cfg(feature = "web")]
pub use serve::app::WebApp;
pub use serve::conn::{ConnectionGuard, Stream};
pub use serve::http1_stream::Http1Stream;
pub use serve::incoming::{Connection, Incoming, RemoteIncoming};
#[cfg(feature = "web")]
pub use serve::web::{AtLimit, ServeError, ServeOptions};
pub use shutdown::Shutdown;
pub use udp::UdpSocket;
