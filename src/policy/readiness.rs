//! When does a worker count as ready?
//!
//! Not here: the boot limit that readiness switches off (that is `supervision::lifecycle`).

use serde::Serialize;

/// What makes a worker ready, so that its boot limit is off and it counts for "all ready".
///
/// A worker that calls `ready()` is ready under every rule. Default: [`Listening`](Self::Listening), because a server that
/// has no socket yet can serve nobody (Node's `listening`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReadyWhen {
    /// As soon as the process exists: for programs that do not speak the channel's protocol.
    Spawned,
    /// When the library in it runs.
    Online,
    /// When its first listener is up. The default.
    #[default]
    Listening,
    /// Only when it says so.
    Called,
}
