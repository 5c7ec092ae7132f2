//! Counts that were recorded, and what new ones are worth beside them.
//!
//! Not here: how they are counted (that is in `instructions`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How much more may be executed before it is a regression: hash maps are seeded by chance, and a build of other neighbours inlines
/// otherwise, which moved counts by up to 6 %.
pub const TOLERANCE: f64 = 0.1;

/// What was counted, and how it was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Everything that changes the counts of the same source.
    pub built: String,
    /// Instructions by work.
    pub counts: BTreeMap<String, u64>,
}

/// What new counts are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// None is more than the tolerance above its record.
    Fine,
    /// There is nothing to compare them with; why.
    NotJudged(String),
    /// These are above, or have no record, or have a record and were not counted.
    Wrong(Vec<String>),
}

impl Baseline {
    /// How many times its record a count is, if it has one.
    #[must_use]
    pub fn ratio(&self, name: &str, count: u64) -> Option<f64> {
        let recorded = self.counts.get(name)?;
        Some(count as f64 / (*recorded).max(1) as f64)
    }

    /// Judges `counted`.
    #[must_use]
    pub fn judge(&self, counted: &Self) -> Verdict {
        if self.built != counted.built {
            return Verdict::NotJudged(format!(
                "the baseline was built by \"{}\", this by \"{}\"",
                self.built, counted.built
            ));
        }
        let mut wrong = Vec::new();
        for (name, count) in &counted.counts {
            match self.ratio(name, *count) {
                None => wrong.push(format!("\"{name}\" is not recorded")),
                Some(ratio) if ratio > 1.0 + TOLERANCE => {
                    wrong.push(format!("\"{name}\" is {ratio:.3} of the baseline"))
                }
                Some(_) => {}
            }
        }
        let gone = self.counts.keys().filter(|name| !counted.counts.contains_key(*name));
        wrong.extend(gone.map(|name| format!("\"{name}\" is recorded and was not counted")));
        if wrong.is_empty() {
            Verdict::Fine
        } else {
            Verdict::Wrong(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(built: &str, counts: &[(&str, u64)]) -> Baseline {
        Baseline {
            built: built.to_owned(),
            counts: counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn only_counts_of_the_same_build_are_judged_and_each_of_them_is() {
        let before = baseline("a", &[("x", 1000), ("y", 10)]);
        let judge = |built, counts: &[(&str, u64)]| before.judge(&baseline(built, counts));
        assert_eq!(judge("a", &[("x", 1100), ("y", 1)]), Verdict::Fine);
        assert!(matches!(judge("b", &[("x", 9000)]), Verdict::NotJudged(_)));
        for (counts, wrong) in [
            (&[("x", 1101), ("y", 10)][..], "\"x\" is 1.101 of the baseline"),
            (&[("x", 1000), ("y", 10), ("z", 1)], "\"z\" is not recorded"),
            (&[("x", 1000)], "\"y\" is recorded and was not counted"),
        ] {
            assert_eq!(judge("a", counts), Verdict::Wrong(vec![wrong.to_owned()]));
        }
    }
}
