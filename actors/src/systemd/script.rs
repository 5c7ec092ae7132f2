//! What a service manager is told, and in which order: a decision without effects.
//!
//! The rules are those of `sd_notify(3)`: `READY=1` once, `RELOADING=1` with a stamp and `READY=1` after it around each
//! reload, whatever became of it, `STOPPING=1` once and nothing of this afterwards.

use std::time::Duration;

use actix_cluster::{ClusterSnapshot, EventKind, Phase};
use sd_notify::NotifyState;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The service serves; also the end of a reload.
    Ready,
    /// A reload begins.
    Reloading,
    /// The service stops.
    Stopping,
    /// The supervising loop has just turned.
    Watchdog,
    /// The stop will take so much longer from now on.
    Extend(Duration),
    /// For people.
    Status,
}

impl Note {
    /// The text for the socket, with `status` for people below it.
    pub(super) fn text(&self, status: &str) -> String {
        let status = one_line(status);
        let status = NotifyState::Status(&status);
        let states = match self {
            Self::Ready => vec![NotifyState::Ready, NotifyState::MainPid(std::process::id()), status],
            Self::Reloading => {
                // The clock of the kernel's that systemd compares by; it cannot be refused.
                let stamp = NotifyState::monotonic_usec_now().ok();
                [NotifyState::Reloading]
                    .into_iter()
                    .chain(stamp)
                    .chain([status])
                    .collect()
            }
            Self::Stopping => vec![NotifyState::Stopping, status],
            Self::Watchdog => vec![NotifyState::Watchdog],
            Self::Extend(time) => {
                let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
                vec![NotifyState::ExtendTimeoutUsec(micros)]
            }
            Self::Status => vec![status],
        };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

/// What was said so far.
#[derive(Debug)]
pub(super) struct Script {
    min_ready: usize,
    said: Said,
    /// The end of the last reload that failed, until the next one.
    failure: Option<String>,
    status: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

impl Script {
    pub(super) const fn new(min_ready: usize) -> Self {
        Self {
            min_ready,
            said: Said::Nothing,
            failure: None,
            status: String::new(),
        }
    }

    pub(super) fn status(&self) -> &str {
        &self.status
    }

    /// Nothing but a status was said.
    pub(super) fn is_silent(&self) -> bool {
        self.said == Said::Nothing
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.said == Said::Stopping
    }

    /// An event that may not be left out, in the order of the events.
    pub(super) fn hear(&mut self, kind: &EventKind, now: &ClusterSnapshot) -> Option<Note> {
        match kind {
            EventKind::ReloadStarted { .. } if self.said == Said::Ready => self.turn(Said::Reloading, now),
            EventKind::ReloadFinished { result, .. } => {
                self.failure = result.as_ref().err().map(ToString::to_string);
                let note = if self.said == Said::Reloading {
                    self.turn(Said::Ready, now)
                } else {
                    None
                };
                note.or_else(|| self.look(now))
            }
            EventKind::ShutdownStarted if !self.is_stopping() => self.turn(Said::Stopping, now),
            // What was missed is seen in the cluster as it is now.
            EventKind::Lagged { .. } if self.said == Said::Reloading && now.reloading.is_none() => {
                self.turn(Said::Ready, now)
            }
            _ => None,
        }
    }

    /// The cluster as it is now.
    pub(super) fn look(&mut self, now: &ClusterSnapshot) -> Option<Note> {
        if now.phase != Phase::Running && !self.is_stopping() {
            return self.turn(Said::Stopping, now);
        }
        if self.said == Said::Nothing && now.ready >= self.min_ready {
            return self.turn(Said::Ready, now);
        }
        let status = self.describe(now);
        if status == self.status {
            return None;
        }
        self.status = status;
        Some(Note::Status)
    }

    fn turn(&mut self, said: Said, now: &ClusterSnapshot) -> Option<Note> {
        self.said = said;
        self.status = self.describe(now);
        match said {
            Said::Nothing => None,
            Said::Ready => Some(Note::Ready),
            Said::Reloading => Some(Note::Reloading),
            Said::Stopping => Some(Note::Stopping),
        }
    }

    fn describe(&self, now: &ClusterSnapshot) -> String {
        if self.is_stopping() {
            return format!("stopping, {} workers left", now.workers.len());
        }
        let mut text = format!("{} of {} workers ready", now.ready, now.target);
        if now.counts.failed > 0 {
            text.push_str(&format!(", {} given up", now.counts.failed));
        }
        match (now.reloading, &self.failure) {
            (Some(generation), _) => text.push_str(&format!(", reloading to generation {generation}")),
            (None, Some(why)) => text.push_str(&format!(", the last reload failed: {why}")),
            (None, None) => {}
        }
        text
    }
}

/// A status is one line, and bounded.
fn one_line(text: &str) -> String {
    let chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    chars.take(STATUS_CHARS_MAX).collect()
}

const STATUS_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use actix_cluster::{Generation, ReloadError, ReloadFailure, Slot, WorkerId, WorkerSnapshot, WorkerState};

    use super::*;

    fn cluster(ready: usize, target: usize) -> ClusterSnapshot {
        let worker = |n: usize| WorkerSnapshot::for_test(n as u64 + 1, Slot::new("w", n as u32), WorkerState::Online);
        let mut snapshot = ClusterSnapshot::for_test((0..target).map(worker));
        snapshot.ready = ready;
        snapshot
    }

    fn started() -> EventKind {
        EventKind::ReloadStarted {
            generation: Generation(1),
            spec: None,
        }
    }

    fn finished(result: Result<(), ReloadError>) -> EventKind {
        EventKind::ReloadFinished {
            generation: Generation(1),
            result,
        }
    }

    #[test]
    fn ready_is_said_once_and_only_with_enough_workers() {
        let mut script = Script::new(2);
        assert_eq!(script.look(&cluster(0, 3)), Some(Note::Status));
        assert_eq!(script.look(&cluster(1, 3)), Some(Note::Status));
        assert_eq!(script.look(&cluster(1, 3)), None, "nothing new");
        assert_eq!(script.look(&cluster(2, 3)), Some(Note::Ready));
        assert_eq!(script.look(&cluster(0, 3)), Some(Note::Status));
        assert_eq!(script.look(&cluster(3, 3)), Some(Note::Status));
        assert_eq!(script.status(), "3 of 3 workers ready");
    }

    #[test]
    fn a_reload_is_framed_also_if_it_fails_or_its_end_is_missed() {
        let mut script = Script::new(1);
        let now = cluster(1, 1);
        assert_eq!(script.hear(&started(), &now), None, "before it was ever ready");
        script.look(&now);
        assert_eq!(script.hear(&started(), &now), Some(Note::Reloading));
        assert_eq!(script.hear(&finished(Ok(())), &now), Some(Note::Ready));
        script.hear(&started(), &now);
        let failed = ReloadError {
            worker: Some(WorkerId::new(4)),
            reason: ReloadFailure::Canary("bad\nnews".to_owned()),
        };
        assert_eq!(script.hear(&finished(Err(failed)), &now), Some(Note::Ready));
        let text = Note::Ready.text(script.status());
        assert!(
            text.contains("the last reload failed: worker 4: the verdict on the canary was bad: bad news"),
            "{text}"
        );
        script.hear(&started(), &now);
        assert_eq!(
            script.hear(&EventKind::Lagged { from: 1, to: 2 }, &now),
            Some(Note::Ready)
        );
    }

    #[test]
    fn nothing_but_the_status_follows_the_stop() {
        let mut script = Script::new(1);
        let now = cluster(1, 2);
        script.look(&now);
        assert_eq!(script.hear(&EventKind::ShutdownStarted, &now), Some(Note::Stopping));
        assert_eq!(script.hear(&EventKind::ShutdownStarted, &now), None);
        assert_eq!(script.hear(&started(), &now), None);
        assert_eq!(script.hear(&finished(Ok(())), &now), None);
        assert_eq!(script.look(&cluster(0, 1)), Some(Note::Status));
        assert_eq!(script.status(), "stopping, 1 workers left");
    }

    #[test]
    fn a_text_is_what_systemd_reads() {
        let pid = std::process::id();
        assert_eq!(Note::Ready.text("a\nb"), format!("READY=1\nMAINPID={pid}\nSTATUS=a b"));
        let reloading = Note::Reloading.text("x");
        let stamp = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(stamp.strip_suffix("\nSTATUS=x").unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(
            Note::Extend(Duration::from_secs(10)).text(""),
            "EXTEND_TIMEOUT_USEC=10000000"
        );
        assert_eq!(Note::Watchdog.text("x"), "WATCHDOG=1");
    }
}
