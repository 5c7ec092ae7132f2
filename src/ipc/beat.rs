//! How a heartbeat stands on the wire: the body of one frame.
//!
//! Not here: how often one is due, and what it says about the worker.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Heartbeat, LoopBeat};

/// Later additions have defaults: `{"n": 1}` alone is a heartbeat.
#[derive(Serialize, Deserialize)]
pub(super) struct HeartbeatBody<'a> {
    n: u64,
    #[serde(default)]
    active: u64,
    #[serde(default)]
    loops: Vec<LoopBody<'a>>,
}

#[derive(Serialize, Deserialize)]
struct LoopBody<'a> {
    name: Cow<'a, str>,
    #[serde(default)]
    tid: u32,
    #[serde(default)]
    late_ms: u64,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    doing: Cow<'a, str>,
}

impl HeartbeatBody<'_> {
    pub(super) fn is_bounded(&self) -> bool {
        let fits = |it: &LoopBody<'_>| it.name.len() <= LoopBeat::NAME_MAX && it.doing.len() <= LoopBeat::DOING_MAX;
        self.loops.len() <= Heartbeat::LOOPS_MAX && self.loops.iter().all(fits)
    }
}

impl<'a> From<&'a Heartbeat> for HeartbeatBody<'a> {
    fn from(beat: &'a Heartbeat) -> Self {
        let loops = beat.loops.iter().map(|it| LoopBody {
            name: Cow::Borrowed(&it.name),
            tid: it.tid,
            late_ms: u64::try_from(it.late.as_millis()).unwrap_or(u64::MAX),
            doing: Cow::Borrowed(&it.doing),
        });
        Self {
            n: beat.n,
            active: beat.active,
            loops: loops.collect(),
        }
    }
}

impl From<HeartbeatBody<'_>> for Heartbeat {
    fn from(body: HeartbeatBody<'_>) -> Self {
        let of = |it: LoopBody<'_>| LoopBeat::new(&it.name, it.tid, Duration::from_millis(it.late_ms), &it.doing);
        Self::new(body.n, body.active, body.loops.into_iter().map(of).collect())
    }
}
