//! What a worker's flight recorder held: its own last notes, read by the master when it could not speak any more.
//!
//! Everything in here was written by the worker, so it is a hint for people: nothing is decided by it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::json;

/// The last notes of a worker: what it did, was doing, and how far it had come.
///
/// Times are on the worker's own clock, from its start. Texts are one line each, at most 216 bytes as they were written;
/// what is unreadable in them is replaced and control characters are escaped. Together they are bounded: the oldest markers
/// and the requests that do not fit are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlightRecord {
    /// How far it had come.
    pub phase: FlightPhase,
    /// The number of its last heartbeat; 0 without.
    pub heartbeats: u64,
    /// Requests in progress: those that a thread was in the middle of first, then the oldest.
    pub requests: Vec<FlightRequest>,
    /// Further requests in progress.
    pub more_requests: u64,
    /// Its last markers ([`Worker::mark`](crate::Worker::mark)), oldest first.
    pub marks: Vec<FlightMark>,
}

/// How far a worker had come, as it noted itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FlightPhase {
    /// Not ready yet.
    #[default]
    Starting,
    /// Ready: serving, or idle if no request is in progress.
    Running,
    /// It has to stop, and still accepts.
    LameDuck,
    /// It accepts no more.
    Draining,
    /// Its function has returned.
    Ending,
}

/// A request that was in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlightRequest {
    /// What it was: method and path, without the query.
    pub line: String,
    /// When it began.
    #[serde(rename = "began_ms", with = "json::millis")]
    pub began: Duration,
    /// The thread that was in the middle of it; `None` for one that waited for something. A loop that hangs hangs in this
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
}

/// A marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlightMark {
    /// Its number, from 1.
    pub n: u64,
    /// When it was set.
    #[serde(rename = "at_ms", with = "json::millis")]
    pub at: Duration,
    /// What it says.
    pub text: String,
}

impl FlightRecord {
    /// The requests that a thread was in the middle of.
    pub fn running(&self) -> impl Iterator<Item = &FlightRequest> {
        self.requests.iter().filter(|request| request.tid.is_some())
    }

    /// Bytes of text.
    pub(crate) fn text_len(&self) -> usize {
        let lines = self.requests.iter().map(|request| request.line.len());
        lines.chain(self.marks.iter().map(|mark| mark.text.len())).sum()
    }
}

impl fmt::Display for FlightRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = u64::try_from(self.requests.len()).unwrap_or(u64::MAX);
        let requests = requests.saturating_add(self.more_requests);
        write!(f, "{}, requests in progress: {requests}", self.phase)?;
        for request in self.running() {
            write!(f, ", in the middle of {:?}", request.line)?;
        }
        if let Some(mark) = self.marks.last() {
            write!(f, ", last marker {:?}", mark.text)?;
        }
        Ok(())
    }
}

impl fmt::Display for FlightPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::LameDuck => "lame duck",
            Self::Draining => "draining",
            Self::Ending => "ending",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_in_one_line_what_it_was_in_the_middle_of() {
        let request = |line: &str, tid| FlightRequest {
            line: line.to_owned(),
            began: Duration::from_millis(1500),
            tid,
        };
        let record = FlightRecord {
            phase: FlightPhase::Running,
            heartbeats: 3,
            requests: vec![request("GET /stuck", Some(7)), request("GET /waits", None)],
            more_requests: 1,
            marks: vec![FlightMark {
                n: 1,
                at: Duration::ZERO,
                text: "cache warm".to_owned(),
            }],
        };
        let line = "running, requests in progress: 3, in the middle of \"GET /stuck\", last marker \"cache warm\"";
        assert_eq!(record.to_string(), line);
        assert_eq!(record.text_len(), 30);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["requests"][0]["began_ms"], 1500.0);
        assert!(json["requests"][1].get("tid").is_none());
        assert_eq!(serde_json::from_value::<FlightRecord>(json).unwrap(), record);
    }
}
