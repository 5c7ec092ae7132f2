//! May a request whose worker died be served again?
//!
//! Not here: how it was found (the keeper), and what it is answered with if not (the worker that refuses it).

use crate::model::{Exit, ExitReason, ExitStatus, Refusal, Signal};

/// What is known about a connection of a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orphan {
    /// Its server had a request of it that was not answered.
    pub(crate) has_begun: bool,
    /// That request may be begun a second time.
    pub(crate) is_repeatable: bool,
    /// The deaths that were counted against the request before.
    pub(crate) strikes: u8,
    /// This worker may have died of it.
    pub(crate) is_suspect: bool,
    /// How often a request of its listener may begin, if every death counts and not only those that it may have caused.
    pub(crate) max_runs: Option<u8>,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Another worker serves it, and is told of its strikes.
    Serve { strikes: u8 },
    /// Its request is answered with an error.
    Refuse { strikes: u8, why: Refusal },
}

/// Decides about one connection. A request that is not begun carries no blame.
pub(crate) const fn fate(orphan: Orphan) -> Fate {
    if !orphan.has_begun {
        return Fate::Serve {
            strikes: orphan.strikes,
        };
    }
    // One count serves both rules: a listener has one of them, and for as long as the cluster lives.
    let (counts, limit, why) = match orphan.max_runs {
        Some(max) => (true, max, Refusal::TooManyRuns),
        None => (orphan.is_suspect, STRIKES_MAX, Refusal::TooManyDeaths),
    };
    let strikes = orphan.strikes.saturating_add(counts as u8);
    if !orphan.is_repeatable {
        return Fate::Refuse {
            strikes,
            why: Refusal::NotRepeatable,
        };
    }
    if strikes >= limit {
        return Fate::Refuse { strikes, why };
    }
    Fate::Serve { strikes }
}

/// May the worker have died of a request? Not if it was stopped in order or killed from outside.
pub(crate) fn is_suspect(exit: &Exit) -> bool {
    match &exit.reason {
        ExitReason::Hang(_) | ExitReason::Memory(_) | ExitReason::Oom => true,
        ExitReason::Ordered
        | ExitReason::BootTimeout
        | ExitReason::Protocol(_)
        | ExitReason::ChannelClosed
        | ExitReason::Killed
        | ExitReason::SpawnFailed(_) => false,
        ExitReason::Voluntary | ExitReason::Crash => match exit.status {
            ExitStatus::Code(code) => code != 0,
            ExitStatus::Signal { signal, .. } => !FROM_OUTSIDE.contains(&signal),
            ExitStatus::NotStarted | ExitStatus::Unknown => false,
        },
    }
}

/// What people and service managers send; a request makes none of these.
const FROM_OUTSIDE: [Signal; 5] = [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP];
/// A request that may have killed so many workers is given to no further one.
const STRIKES_MAX: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn orphan(has_begun: bool, is_repeatable: bool, strikes: u8, is_suspect: bool) -> Orphan {
        Orphan {
            has_begun,
            is_repeatable,
            strikes,
            is_suspect,
            max_runs: None,
        }
    }

    #[test]
    fn where_runs_are_bounded_every_death_counts_whatever_it_was_of() {
        let after = |max_runs, strikes, is_suspect| {
            fate(Orphan {
                max_runs: Some(max_runs),
                ..orphan(true, true, strikes, is_suspect)
            })
        };
        for is_suspect in [false, true] {
            for max_runs in 1..=255 {
                for before in 0..=255_u8 {
                    let strikes = before.saturating_add(1);
                    let wanted = if strikes < max_runs {
                        Fate::Serve { strikes }
                    } else {
                        let why = Refusal::TooManyRuns;
                        Fate::Refuse { strikes, why }
                    };
                    assert_eq!(after(max_runs, before, is_suspect), wanted, "{before} of {max_runs}");
                }
            }
        }
        let unbegun = Orphan {
            max_runs: Some(1),
            ..orphan(false, true, 1, true)
        };
        assert_eq!(fate(unbegun), Fate::Serve { strikes: 1 });
        let unrepeatable = Orphan {
            max_runs: Some(9),
            ..orphan(true, false, 0, false)
        };
        let why = Refusal::NotRepeatable;
        assert_eq!(fate(unrepeatable), Fate::Refuse { strikes: 1, why });
    }

    #[test]
    fn a_request_is_given_to_two_workers_at_most_and_one_that_is_not_repeatable_to_one() {
        let serve = |strikes| Fate::Serve { strikes };
        let refuse = |strikes, why| Fate::Refuse { strikes, why };
        let table = [
            (orphan(false, false, 0, true), serve(0)),
            (orphan(false, true, 1, true), serve(1)),
            (orphan(true, true, 0, false), serve(0)),
            (orphan(true, true, 0, true), serve(1)),
            (orphan(true, true, 1, false), serve(1)),
            (orphan(true, true, 1, true), refuse(2, Refusal::TooManyDeaths)),
            (orphan(true, true, 255, true), refuse(255, Refusal::TooManyDeaths)),
            (orphan(true, false, 0, false), refuse(0, Refusal::NotRepeatable)),
            (orphan(true, false, 1, true), refuse(2, Refusal::NotRepeatable)),
        ];
        for (orphan, wanted) in table {
            assert_eq!(fate(orphan), wanted, "{orphan:?}");
        }
    }

    #[test]
    fn who_is_killed_from_outside_or_stopped_suspects_no_request() {
        let exit = |status, reason| Exit {
            status,
            reason,
            ..Exit::not_started(crate::model::SpawnFailure {
                step: crate::model::SpawnStep::Exec,
                errno: None,
                detail: String::new(),
            })
        };
        let signal = |signal| ExitStatus::Signal { signal, core: false };
        let table = [
            (signal(Signal::SEGV), ExitReason::Crash, true),
            (signal(Signal::ABRT), ExitReason::Crash, true),
            (signal(Signal::KILL), ExitReason::Crash, false),
            (signal(Signal::TERM), ExitReason::Crash, false),
            (signal(Signal::KILL), ExitReason::Oom, true),
            (signal(Signal::KILL), ExitReason::Hang("main".to_owned()), true),
            (signal(Signal::KILL), ExitReason::Ordered, false),
            (signal(Signal::SEGV), ExitReason::Killed, false),
            (ExitStatus::Code(101), ExitReason::Crash, true),
            (ExitStatus::Code(0), ExitReason::Crash, false),
            (ExitStatus::Code(1), ExitReason::Ordered, false),
            (ExitStatus::Unknown, ExitReason::Crash, false),
        ];
        for (status, reason, wanted) in table {
            let exit = exit(status, reason);
            assert_eq!(is_suspect(&exit), wanted, "{exit:?}");
        }
    }
}
