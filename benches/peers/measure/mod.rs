//! What is measured, one file each: a cell is one measure of one target in one round, and its result is a JSON object.

mod crash;
mod idle;
mod ipc;
mod reload;
mod storm;
mod throughput;

use std::time::Duration;

use actix_cluster_benches::Failure;
use serde_json::Value;

use crate::install::Installed;
use crate::targets::{Reload, TARGETS, Target};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// From the kill of the only worker until its successor answers.
    Crash,
    /// A worker killed every 200 ms, under load.
    Storm,
    /// All workers replaced, under load.
    Reload,
    /// Answers a second, and their latencies.
    Throughput,
    /// What idle workers cost, and how fast they start.
    Idle,
    /// Messages between master and worker.
    Ipc,
}

/// All of them, in the order of the tables.
pub(crate) const MEASURES: [Measure; 6] = [
    Measure::Crash,
    Measure::Storm,
    Measure::Reload,
    Measure::Throughput,
    Measure::Idle,
    Measure::Ipc,
];

impl Measure {
    /// Its letter in options and in the raw data.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Self::Crash => "A",
            Self::Storm => "B",
            Self::Reload => "C",
            Self::Throughput => "D",
            Self::Idle => "E",
            Self::Ipc => "F",
        }
    }

    /// Which measure has this letter.
    pub(crate) fn of_letter(letter: &str) -> Option<Self> {
        MEASURES.into_iter().find(|measure| measure.letter() == letter)
    }

    /// Whom it is taken of, and in how many variants each.
    pub(crate) fn cells(self) -> Vec<(&'static str, &'static str)> {
        let variants: &[&str] = match self {
            Self::Crash | Self::Storm => &[""],
            Self::Reload => &["new", "keep-alive"],
            Self::Throughput => &["keep-alive", "new", "open"],
            Self::Idle => &["2", "50", "200"],
            Self::Ipc => return vec![("ours", ""), ("node-rr", "")],
        };
        let takes_part = |target: &&Target| {
            let is_possible = self != Self::Reload || !matches!(target.reload, Reload::Never);
            is_possible && !target.without.contains(self.letter())
        };
        let ids = TARGETS.iter().filter(takes_part).map(|target| target.id);
        ids.flat_map(|id| variants.iter().map(move |variant| (id, *variant)))
            .collect()
    }

    /// How often a cell is taken in a run of so many rounds. A closed loop falls into one of two states (see the README), so it needs
    /// more of them; starting 200 interpreters, and F, are long and steady.
    pub(crate) fn rounds(self, variant: &str, rounds: usize) -> usize {
        match self {
            Self::Throughput if variant != "open" => rounds * 3,
            Self::Idle | Self::Ipc => rounds.min(2),
            _ => rounds,
        }
    }

    /// How long one cell may take before everything it started is killed.
    pub(crate) const fn limit(self) -> Duration {
        match self {
            Self::Ipc => Duration::from_secs(900),
            Self::Crash | Self::Idle => Duration::from_secs(300),
            Self::Storm | Self::Reload | Self::Throughput => Duration::from_secs(90),
        }
    }
}

/// How thorough a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// How long a load lasts.
    pub(crate) time: Duration,
    /// Kills in one cell of A.
    pub(crate) kills: usize,
}

/// Takes one cell.
///
/// # Errors
/// The target does not do what it is asked for.
pub(crate) fn take(
    measure: Measure,
    target: &Target,
    variant: &str,
    effort: Effort,
    installed: &Installed,
) -> Result<Value, Failure> {
    match measure {
        Measure::Crash => crash::take(target, effort, installed),
        Measure::Storm => storm::take(target, effort, installed),
        Measure::Reload => reload::take(target, variant, effort, installed),
        Measure::Throughput => throughput::take(target, variant, effort, installed),
        Measure::Idle => idle::take(target, variant, effort, installed),
        Measure::Ipc => ipc::take(target, installed),
    }
}

/// How long a target may take to start; 200 interpreters on a crowded machine take more than a minute.
const START: Duration = Duration::from_secs(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_loops_are_taken_more_often_and_long_starts_less() {
        let rounds = |measure: Measure, variant| measure.rounds(variant, 3);
        assert_eq!(rounds(Measure::Throughput, "new"), 9);
        assert_eq!(rounds(Measure::Throughput, "open"), 3);
        assert_eq!((rounds(Measure::Idle, "2"), rounds(Measure::Crash, "")), (2, 3));
        assert_eq!(Measure::Idle.rounds("2", 1), 1);
    }

    #[test]
    fn who_is_linked_statically_takes_part_in_two_measures() {
        let takes_part = |measure: &&Measure| measure.cells().iter().any(|(id, _)| *id == "ours-static");
        let letters: String = MEASURES
            .iter()
            .filter(takes_part)
            .map(|measure| measure.letter())
            .collect();
        assert_eq!(letters, "AE");
    }
}
