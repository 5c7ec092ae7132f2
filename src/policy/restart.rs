//! Does this end deserve a restart?
//!
//! Not here: how often ([`super::intensity`]), how soon ([`super::backoff`]), and ends that the master ordered (only the
//! roster knows why it gave the order).

use serde::Serialize;

use crate::model::{Exit, ExitReason, exit_code};

/// Which ends of a worker are followed by a restart: OTP's restart types.
///
/// Whatever the type, exit code 125 ([`exit_code::DO_NOT_RESTART`]) is never followed by a restart: the slot is marked
/// failed (the rule and the number are those of s6). Neither is code 123 ([`exit_code::NOTHING_TO_DO`]), which is no failure
/// (OTP's `ignore`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartType {
    /// Always, even after a clean end: for services. The default.
    #[default]
    Permanent,
    /// Unless it ended of its own announced will with code 0 (OTP's `normal`): for jobs that must succeed once.
    Transient,
    /// Never: for jobs that are tried once.
    Temporary,
}

impl RestartType {
    /// Is `exit` followed by a restart?
    #[must_use]
    pub fn deserves_restart(self, exit: &Exit) -> bool {
        if declines_restart(exit) || has_nothing_to_do(exit) {
            return false;
        }
        match self {
            Self::Permanent => true,
            Self::Transient => !is_normal(exit),
            Self::Temporary => false,
        }
    }
}

/// Did the worker say "do not restart me" by its exit code?
pub(crate) fn declines_restart(exit: &Exit) -> bool {
    exit.status.code() == Some(exit_code::DO_NOT_RESTART)
}

/// Did the worker say "there is nothing for me to do" by its exit code? What it was ended for outweighs it.
pub(crate) fn has_nothing_to_do(exit: &Exit) -> bool {
    exit.status.code() == Some(exit_code::NOTHING_TO_DO)
        && match exit.reason {
            ExitReason::Voluntary | ExitReason::Crash => true,
            ExitReason::Ordered
            | ExitReason::Killed
            | ExitReason::BootTimeout
            | ExitReason::Protocol(_)
            | ExitReason::ChannelClosed
            | ExitReason::Hang(_)
            | ExitReason::Memory(_)
            | ExitReason::Oom
            | ExitReason::SpawnFailed(_) => false,
        }
}

/// OTP's `normal`: code 0, and not after something it was ended for. A program that does not speak the channel's protocol
/// cannot announce its end, so code 0 alone is success enough.
fn is_normal(exit: &Exit) -> bool {
    exit.status.is_success()
        && match exit.reason {
            ExitReason::Ordered | ExitReason::Voluntary | ExitReason::Crash | ExitReason::Killed => true,
            ExitReason::BootTimeout
            | ExitReason::Protocol(_)
            | ExitReason::ChannelClosed
            | ExitReason::Hang(_)
            | ExitReason::Memory(_)
            | ExitReason::Oom
            | ExitReason::SpawnFailed(_) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExitStatus, Signal, SpawnFailure, SpawnStep};

    fn exit(status: ExitStatus, reason: ExitReason) -> Exit {
        Exit {
            status,
            reason,
            forced: false,
            requests_cut: 0,
            was_ready: true,
            drain: None,
            last_words: None,
        }
    }

    const SEGV: ExitStatus = ExitStatus::Signal {
        signal: Signal::SEGV,
        core: true,
    };

    #[test]
    fn o_043_o_044_o_045_o_050_o_051_o_052_restart_types() {
        use RestartType::{Permanent, Temporary, Transient};
        let normal = exit(ExitStatus::Code(0), ExitReason::Voluntary);
        let silent_normal = exit(ExitStatus::Code(0), ExitReason::Crash);
        let failed = exit(ExitStatus::Code(1), ExitReason::Voluntary);
        let crashed = exit(SEGV, ExitReason::Crash);
        let closed = exit(ExitStatus::Code(0), ExitReason::ChannelClosed);
        let not_started = Exit::not_started(SpawnFailure {
            step: SpawnStep::Exec,
            errno: Some(2),
            detail: "no such file".to_owned(),
        });
        for (exit, transient) in [
            (normal, false),
            (silent_normal, false),
            (failed, true),
            (crashed, true),
            (closed, true),
            (not_started, true),
        ] {
            assert!(Permanent.deserves_restart(&exit), "{exit}");
            assert_eq!(Transient.deserves_restart(&exit), transient, "{exit}");
            assert!(!Temporary.deserves_restart(&exit), "{exit}");
        }
    }

    #[test]
    fn f_022_code_125_is_never_restarted() {
        let declined = exit(ExitStatus::Code(exit_code::DO_NOT_RESTART), ExitReason::Crash);
        for kind in [RestartType::Permanent, RestartType::Transient, RestartType::Temporary] {
            assert!(!kind.deserves_restart(&declined));
        }
    }
}
