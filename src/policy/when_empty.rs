//! What if nobody is left?

use serde::Serialize;

/// What the master does when no worker is left and none will come by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenEmpty {
    /// It ends: with success if every worker ended in order, with an error if slots have failed. The default.
    #[default]
    Stop,
    /// It waits for the handle (`fork`, `start_slot`, `shutdown`) or a signal.
    Wait,
}

/// Does the end of a *significant* worker end the cluster? OTP's `auto_shutdown`.
///
/// Only an end that is not followed by a restart counts, and only one that nobody ordered: a stop through the handle,
/// a scale-down or a restart of its group does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AutoShutdown {
    /// No. The default.
    #[default]
    Never,
    /// The first one that ends does.
    AnySignificant,
    /// The last one that ends does.
    AllSignificant,
}
