//! Signals as a type, so that an unknown one cannot be asked for by a misspelt name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Linux signal by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// `SIGHUP`: hang-up.
    pub const HUP: Self = Self(1);
    /// `SIGINT`: interrupt (Ctrl-C).
    pub const INT: Self = Self(2);
    /// `SIGQUIT`: quit now.
    pub const QUIT: Self = Self(3);
    /// `SIGABRT`: abort.
    pub const ABRT: Self = Self(6);
    /// `SIGKILL`: cannot be caught.
    pub const KILL: Self = Self(9);
    /// `SIGUSR1`: free for the application.
    pub const USR1: Self = Self(10);
    /// `SIGSEGV`: invalid memory reference.
    pub const SEGV: Self = Self(11);
    /// `SIGUSR2`: free for the application.
    pub const USR2: Self = Self(12);
    /// `SIGTERM`: please end.
    pub const TERM: Self = Self(15);
    /// `SIGCONT`: continue a stopped process.
    pub const CONT: Self = Self(18);
    /// `SIGSTOP`: stop the process; cannot be caught.
    pub const STOP: Self = Self(19);

    /// The highest signal number of Linux.
    pub const MAX: i32 = 64;

    /// The signal with this number; `None` unless it is in `1..=64`.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<Self> {
        if number >= 1 && number <= Self::MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number the kernel uses.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Does the default action of this signal end a process politely, so that an escalation makes sense?
    #[must_use]
    pub const fn asks_to_end(self) -> bool {
        matches!(self, Self::TERM | Self::INT | Self::QUIT | Self::HUP)
    }

    /// The usual name; `None` for the real-time signals and the two unnamed ones.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let index = usize::try_from(self.0).ok()?.checked_sub(1)?;
        NAMES.get(index).copied()
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// Names of the signals 1 to 31 in the numbering of x86 and arm.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_012_every_number_of_a_signal_has_a_text_and_none_panics() {
        for number in -1..=65 {
            match Signal::from_number(number) {
                Some(signal) => assert!(!signal.to_string().is_empty()),
                None => assert!(!(1..=64).contains(&number)),
            }
        }
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
        assert_eq!(Signal::from_number(34).unwrap().to_string(), "signal 34");
    }
}
