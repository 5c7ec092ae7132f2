//! Signals of load: what each worker carries, and one number made of it that no single worker can bend.
//!
//! Here is the arithmetic; where the numbers come from is in `spoken` (the workers' own words), `cpu` and
//! `crate::kernel` (the kernel's). Not here: what follows from a load.

pub(crate) mod cpu;
mod spoken;

use serde::{Deserialize, Serialize};

pub use spoken::LoadReport;
pub(crate) use spoken::Spoken;

/// Where a load is read. In each of them 0 is idle and 1 is as much as a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LoadSignal {
    /// What workers say: the message `{"type": "load", "load": 0.7}` ([`LoadReport`]).
    Messages,
    /// Processor time of each worker's process between two looks; 1 is one whole processor. A worker with several busy
    /// threads may exceed it.
    Cpu,
    /// Connections that wait to be accepted, for each worker, on the fullest TCP address of the spec. Unix sockets do not
    /// tell: the kernel shows no queue of theirs, so a spec that listens on none but those has no such signal.
    Queue,
    /// How late the worker's main loop is, by its heartbeat. None where heartbeats are off.
    LoopLag,
}

/// What one signal says of all workers together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reading {
    /// Which signal.
    pub signal: LoadSignal,
    /// The load; `None` if no more than half of those asked told one that is fresh and makes sense.
    pub load: Option<f64>,
    /// How many told a load that counts: workers, or sockets of the fullest address.
    pub told: u32,
    /// How many told nothing yet.
    pub silent: u32,
    /// How many told something too long ago.
    pub stale: u32,
    /// How many told what is no load: not a number, negative, or more than a million.
    pub nonsense: u32,
}

/// What one of them told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Word {
    Load(f64),
    Stale,
    Silent,
}

impl Reading {
    /// Makes one load of many. `cap` is the most that one of them counts.
    ///
    /// From three on the highest and the lowest are left out, so that one liar moves nothing; of two, the cap keeps one
    /// from speaking for both. More than half must have told one, or there is no load.
    pub(crate) fn of(signal: LoadSignal, words: impl IntoIterator<Item = Word>, cap: f64) -> Self {
        let mut reading = Self::none(signal);
        let mut loads = Vec::new();
        for word in words {
            match word {
                Word::Load(load) if (0.0..=LOAD_MAX).contains(&load) => loads.push(load.min(cap)),
                Word::Load(_) => reading.nonsense += 1,
                Word::Stale => reading.stale += 1,
                Word::Silent => reading.silent += 1,
            }
        }
        reading.told = u32::try_from(loads.len()).unwrap_or(u32::MAX);
        if reading.told > reading.nonsense + reading.stale + reading.silent {
            reading.load = trimmed_mean(loads);
        }
        reading
    }

    const fn none(signal: LoadSignal) -> Self {
        Self {
            signal,
            load: None,
            told: 0,
            silent: 0,
            stale: 0,
            nonsense: 0,
        }
    }
}

fn trimmed_mean(mut loads: Vec<f64>) -> Option<f64> {
    loads.sort_by(f64::total_cmp);
    let inner = match loads.len() {
        0 => return None,
        1 | 2 => &loads[..],
        more => &loads[1..more - 1],
    };
    let count = u32::try_from(inner.len()).unwrap_or(u32::MAX);
    Some(inner.iter().sum::<f64>() / f64::from(count))
}

/// No load is more: Unix load averages of the largest machines stay far below.
const LOAD_MAX: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(loads: &[f64]) -> Reading {
        Reading::of(LoadSignal::Messages, loads.iter().map(|load| Word::Load(*load)), 1.0)
    }

    #[test]
    fn a_load_is_the_average_of_those_who_told_one() {
        assert_eq!(of(&[0.4]).load, Some(0.4));
        assert_eq!(of(&[0.25, 0.75]).load, Some(0.5));
        assert_eq!(of(&[0.0, 0.25, 0.75, 1.0]).load, Some(0.5));
        assert_eq!(of(&[]).load, None);
    }

    #[test]
    fn f_180_one_liar_moves_nothing_or_next_to_nothing() {
        for lie in [0.0, 1.0, 5e5] {
            assert_eq!(of(&[0.5, lie, 0.5]).load, Some(0.5), "{lie}");
        }
        // Of two, a lie counts as full and no more.
        assert_eq!(of(&[0.5, 5e5]).load, Some(0.75));
        for nonsense in [f64::NAN, -0.1, f64::INFINITY, 1e6 + 1.0, f64::NEG_INFINITY] {
            let reading = of(&[0.5, nonsense, 0.5]);
            assert_eq!((reading.load, reading.nonsense), (Some(0.5), 1));
            assert_eq!(of(&[0.5, nonsense]).load, None);
        }
    }

    #[test]
    fn f_180_no_load_without_a_fresh_word_of_more_than_half() {
        use Word::{Load, Silent, Stale};
        let of = |words: &[Word]| Reading::of(LoadSignal::Cpu, words.iter().copied(), 1.0);
        assert_eq!(of(&[Load(0.5), Load(0.5), Stale]).load, Some(0.5));
        assert_eq!(of(&[Load(0.5), Silent]).load, None);
        let reading = of(&[Load(0.5), Stale, Silent]);
        assert_eq!((reading.load, reading.stale, reading.silent), (None, 1, 1));
    }
}
