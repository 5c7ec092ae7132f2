//! What a recorder writes down of each command.
//!
//! Not here: the answers ([`super::recorder`]).

use std::ffi::OsString;

use crate::model::{Announcement, EndCause, RecycleReason, Settings, Signal, Slot, SpecName, SubscriberLoss, WorkerId};
use crate::policy::RolloutOptions;

/// A command as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordedCommand {
    /// `fork`, with the environment. Answered with a new worker that is shown from then on.
    Fork(Vec<(OsString, OsString)>),
    /// `setup`, with the default settings as they were changed.
    Setup(Box<Settings>),
    /// `disconnect`.
    Disconnect(WorkerId),
    /// `restart`.
    Restart(WorkerId),
    /// `disconnect_all`.
    DisconnectAll,
    /// `close_channel`.
    CloseChannel(WorkerId),
    /// `kill`, and `kill_for` with its cause.
    Kill(WorkerId, Signal, Option<EndCause>),
    /// `publish`.
    Publish(Option<WorkerId>, Announcement),
    /// `start_slot`.
    StartSlot(Slot),
    /// `scale` (without a spec) and `scale_spec`. Answered with the number that was asked for.
    Scale {
        /// The spec; `None` for the builder's own.
        spec: Option<SpecName>,
        /// How many.
        workers: i64,
    },
    /// `reload` and `reload_with`. Answered with the next generation; a verdict is not asked.
    Reload {
        /// The spec; `None` for all.
        spec: Option<SpecName>,
        /// With which care.
        rollout: RolloutOptions,
    },
    /// `recycle`.
    Recycle(WorkerId, RecycleReason),
    /// `add_spec`.
    AddSpec(SpecName),
    /// `reconfigure` or `replace_spec`: the specs that were named.
    Reconfigure(Vec<SpecName>),
    /// `stop_spec`.
    StopSpec(SpecName),
    /// `start_spec`.
    StartSpec(SpecName),
    /// `restart_spec`.
    RestartSpec(SpecName),
    /// `delete_spec`.
    DeleteSpec(SpecName),
    /// `shutdown`.
    Shutdown,
    /// `shutdown_now`.
    ShutdownNow,
    /// A subscriber of this name is gone; published as the master does.
    SubscriberLost(String, SubscriberLoss),
}
