//! What workers say about their load, and when they said it.
//!
//! A word is believed as a number and as nothing else: who spoke is known by the channel it came through.

use std::collections::BTreeMap;
use std::time::Duration;

use actix_cluster::{Message, Mono, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Word;

/// The message by which a worker says how busy it is, `{"type": "load", "load": 0.7}`: `worker.send(&LoadReport::new(0.7))`.
///
/// 0 is idle, 1 is as much as it can do. Say it at least once in each period of the `Autoscaler`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename = "load")]
#[non_exhaustive]
pub struct LoadReport {
    /// The load.
    pub load: f64,
}

impl LoadReport {
    /// This load.
    #[must_use]
    pub const fn new(load: f64) -> Self {
        Self { load }
    }
}

/// As much as is looked at; the load is read whatever it is, to tell a wrong one from none.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    load: Value,
}

/// The last word of each worker.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    last: BTreeMap<WorkerId, (f64, Mono)>,
}

impl Spoken {
    /// Takes a message, if it is a load.
    pub(crate) fn hear(&mut self, worker: WorkerId, message: &Message, at: Mono) {
        let Ok(said) = message.parse::<Said>() else { return };
        if said.kind == "load" {
            // JSON has no NaN: whatever is not a number is none.
            self.last.insert(worker, (said.load.as_f64().unwrap_or(f64::NAN), at));
        }
    }

    /// What it said last, unless that is older than `fresh`.
    pub(crate) fn word(&self, worker: WorkerId, now: Mono, fresh: Duration) -> Word {
        match self.last.get(&worker) {
            None => Word::Silent,
            Some((_, at)) if now.since(*at) > fresh => Word::Stale,
            Some((load, _)) => Word::Load(*load),
        }
    }

    /// Forgets everybody else.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(WorkerId) -> bool) {
        self.last.retain(|id, _| is_kept(*id));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FRESH: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Mono {
        Mono::new(Duration::from_secs(seconds))
    }

    fn heard(value: &Value) -> Word {
        let mut spoken = Spoken::default();
        spoken.hear(WorkerId::new(1), &Message::for_test(value).unwrap(), at(5));
        spoken.word(WorkerId::new(1), at(10), FRESH)
    }

    #[test]
    fn the_guides_message_is_heard_and_others_are_not() {
        assert_eq!(heard(&json!({"type": "load", "load": 0.5})), Word::Load(0.5));
        assert_eq!(heard(&json!({"type": "load", "load": 1, "x": []})), Word::Load(1.0));
        assert_eq!(
            heard(&serde_json::to_value(LoadReport::new(0.25)).unwrap()),
            Word::Load(0.25)
        );
        for other in [
            json!("load"),
            json!({"load": 0.5}),
            json!({"type": "ready", "load": 1}),
            json!([1]),
        ] {
            assert_eq!(heard(&other), Word::Silent, "{other}");
        }
    }

    #[test]
    fn f_180_what_is_no_number_is_heard_as_none() {
        // `null` is what serializers make of NaN.
        for wrong in [
            json!({"type": "load"}),
            json!({"type": "load", "load": null}),
            json!({"type": "load", "load": "9"}),
        ] {
            assert!(matches!(heard(&wrong), Word::Load(load) if load.is_nan()), "{wrong}");
        }
    }

    #[test]
    fn a_word_grows_stale_and_goes_with_its_worker() {
        let mut spoken = Spoken::default();
        let (one, load) = (WorkerId::new(1), Message::for_test(&LoadReport::new(0.5)).unwrap());
        spoken.hear(one, &load, at(5));
        assert_eq!(spoken.word(one, at(25), FRESH), Word::Load(0.5));
        assert_eq!(spoken.word(one, at(26), FRESH), Word::Stale);
        spoken.keep(|_| false);
        assert_eq!(spoken.word(one, at(6), FRESH), Word::Silent);
    }
}
