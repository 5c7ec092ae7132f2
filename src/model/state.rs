//! The public word for where a worker's process is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a worker is in its life.
///
/// ```text
/// Created -> Online -> Listening -> Exiting -> Disconnected -> Dead
/// ```
///
/// Steps may be left out (a crash goes from anywhere to `Dead`) and are never reversed; the order of the variants is
/// the order of life, so `a < b` means "`a` comes earlier".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum WorkerState {
    /// The kernel said that the process exists; nothing was heard from it yet.
    Created = 0,
    /// The library in the worker runs and reads its channel. Says nothing about user code.
    Online = 1,
    /// The worker accepts on at least one socket.
    Listening = 2,
    /// Told to stop, or stopping of its own will: accepts nothing new and drains.
    Exiting = 3,
    /// Its channel is closed; the process may still run.
    Disconnected = 4,
    /// The process is gone and reaped.
    Dead = 5,
}

impl WorkerState {
    /// Every state, in the order of life.
    pub const ALL: [Self; 6] = [
        Self::Created,
        Self::Online,
        Self::Listening,
        Self::Exiting,
        Self::Disconnected,
        Self::Dead,
    ];

    /// Is the channel open, as far as the master knows?
    #[must_use]
    pub const fn is_connected(self) -> bool {
        (self as u8) < (Self::Disconnected as u8)
    }

    /// Is the process gone?
    #[must_use]
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::Dead)
    }

    /// The state as one lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Online => "online",
            Self::Listening => "listening",
            Self::Exiting => "exiting",
            Self::Disconnected => "disconnected",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
