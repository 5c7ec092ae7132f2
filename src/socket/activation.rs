//! Listening sockets that a service manager has opened and handed over (systemd's socket activation).
//!
//! Here: which descriptor has which name, by `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`. Not here: whether it is a
//! listening socket at all, which [`super::kind`] asks the kernel when it is taken up.

use std::ops::Range;
use std::os::fd::RawFd;
use std::path::Path;

use crate::sys;

/// The descriptor that was handed over to this process under `name`. All that were handed over are kept from children.
///
/// # Errors
/// What there is instead, in words.
pub(crate) fn find(name: &str) -> Result<RawFd, String> {
    let [pid, count, names] =
        ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|variable| std::env::var(variable).ok());
    let handed = HandedOver::parse(std::process::id(), pid.as_deref(), count.as_deref(), names.as_deref());
    for number in handed.numbers() {
        // A number that is not open cannot be inherited either, and is told of when it is taken up.
        sys::socket::close_on_exec(number).ok();
    }
    handed.find(name)
}

/// What the variables say.
#[derive(Debug, PartialEq, Eq)]
enum HandedOver {
    /// This process was started in another way, or the variables are somebody else's.
    Nothing,
    /// So many descriptors from the third on, with these names.
    Sockets { count: RawFd, names: Vec<String> },
}

impl HandedOver {
    fn parse(own_pid: u32, pid: Option<&str>, count: Option<&str>, names: Option<&str>) -> Self {
        let is_ours = pid.and_then(|pid| pid.parse().ok()) == Some(own_pid);
        let count = count.and_then(|count| count.parse().ok());
        match count {
            Some(count @ 1..=COUNT_MAX) if is_ours => Self::Sockets {
                count,
                names: names.map_or_else(Vec::new, |names| names.split(':').map(str::to_owned).collect()),
            },
            _ => Self::Nothing,
        }
    }

    fn numbers(&self) -> Range<RawFd> {
        match self {
            Self::Nothing => 0..0,
            Self::Sockets { count, .. } => FIRST..FIRST + count,
        }
    }

    /// By its name; the only one also if nobody chose it a name. One that somebody did is another listener's, perhaps one that
    /// this program had stored itself.
    fn find(&self, name: &str) -> Result<RawFd, String> {
        let Self::Sockets { count, names } = self else {
            return Err(
                "no socket was handed over to this process: LISTEN_PID and LISTEN_FDS do not say so".to_owned(),
            );
        };
        if let ([] | [_], 1) = (names.as_slice(), *count)
            && names.first().is_none_or(|only| is_unchosen(only))
        {
            return Ok(FIRST);
        }
        let place = (FIRST..FIRST + count).zip(names).find(|(_, known)| *known == name);
        place.map(|(number, _)| number).ok_or_else(|| {
            let names = names.join(", ");
            format!("none of what was handed over ({count}) has this name; set FileDescriptorName=, there are: {names}")
        })
    }
}

/// Is it a name that systemd gives where nobody chose one? The socket unit's own, or `stored` for what came without a name
/// from a service; `unknown` is what `sd_listen_fds_with_names` says for a missing one.
fn is_unchosen(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|unit| unit == "socket") || ["", "unknown", "stored"].contains(&name)
}

/// `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;
/// More than any unit has; a larger number is a mistake of whoever set the variable.
const COUNT_MAX: RawFd = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(pid: &str, count: &str, names: Option<&str>) -> HandedOver {
        HandedOver::parse(7, Some(pid), Some(count), names)
    }

    #[test]
    fn sockets_are_found_by_name_and_the_only_one_without_if_nobody_chose_one() {
        let two = handed("7", "2", Some("http:admin"));
        assert_eq!((two.find("http"), two.find("admin")), (Ok(3), Ok(4)));
        assert!(two.find("metrics").unwrap_err().contains("http, admin"));
        assert_eq!(two.numbers(), 3..5);
        for unchosen in ["app.socket", "unknown", "stored", ""] {
            assert_eq!(handed("7", "1", Some(unchosen)).find("http"), Ok(3), "{unchosen}");
        }
        assert_eq!(handed("7", "1", None).find("http"), Ok(3));
        // Somebody chose this one: it is another listener's.
        assert_eq!(handed("7", "1", Some("http")).find("http"), Ok(3));
        assert!(
            handed("7", "1", Some("http"))
                .find("admin")
                .unwrap_err()
                .contains("http")
        );
        assert!(handed("7", "2", None).find("http").is_err());
        // A name without a descriptor is none.
        assert!(handed("7", "2", Some("a:b:c")).find("c").is_err());
    }

    #[test]
    fn what_is_meant_for_another_process_or_makes_no_sense_is_ignored() {
        for (pid, count) in [
            ("8", "1"),
            ("", "1"),
            ("7", "0"),
            ("7", "-1"),
            ("7", "x"),
            ("7", "99999999999"),
        ] {
            assert_eq!(handed(pid, count, None), HandedOver::Nothing, "{pid} {count}");
        }
        assert_eq!(HandedOver::parse(7, None, None, None), HandedOver::Nothing);
        assert!(HandedOver::Nothing.find("http").unwrap_err().contains("LISTEN_PID"));
    }
}
