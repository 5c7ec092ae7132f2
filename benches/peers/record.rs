//! The raw data: one line of JSON for each cell that was taken, written at once, so that a run can be stopped and resumed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use actix_cluster_benches::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::measure::Measure;

/// One cell: a measure of a target in a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The letter.
    pub(crate) measure: String,
    pub(crate) target: String,
    /// Which load or size, where a measure has several.
    pub(crate) variant: String,
    pub(crate) round: usize,
    /// When, in seconds since 1970.
    pub(crate) at: u64,
    /// How quiet the machine was right before.
    pub(crate) noise: Value,
    /// With what effort; unknown of what was taken before that was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) effort: Option<Taken>,
    /// The commit of this project, with a `+` if there were changes; none without git.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The options that a cell depends on. Cells of one measure with different ones are not to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// How often it is taken.
    pub(crate) rounds: usize,
    /// How long a load lasts.
    pub(crate) seconds: f64,
    /// Kills in a cell of A.
    pub(crate) kills: usize,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rounds, seconds, kills } = self;
        write!(to, "--rounds {rounds} --seconds {seconds} --kills {kills}")
    }
}

/// The file with all of them.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    pub(crate) all: Vec<Record>,
}

impl Records {
    /// Of these, and of no file.
    #[cfg(test)]
    pub(crate) fn of(all: Vec<Record>) -> Self {
        let path = PathBuf::from("raw.jsonl");
        Self { path, all }
    }

    /// Reads what was taken before.
    ///
    /// # Errors
    /// A line is no record.
    pub(crate) fn open(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder)?;
        let path = folder.join("raw.jsonl");
        let text = if path.exists() {
            fs::read_to_string(&path)?
        } else {
            String::new()
        };
        let read = text.lines().map(serde_json::from_str);
        let all = read
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{}: {error}; move it away to begin anew", path.display()))?;
        Ok(Self { path, all })
    }

    /// Was this cell taken, with a result?
    pub(crate) fn has(&self, measure: Measure, target: &str, variant: &str, round: usize) -> bool {
        self.all
            .iter()
            .any(|record| record.is(measure, target, variant) && record.round == round && record.result.is_some())
    }

    /// Is there something that would stay beside what is to be taken, and was taken with another effort?
    ///
    /// # Errors
    /// There is.
    pub(crate) fn refuse_mixture(&self, effort: Taken, stays: impl Fn(&Record) -> bool) -> Result<(), Failure> {
        let other = |record: &&Record| stays(record) && record.effort != Some(effort);
        let Some(record) = self.all.iter().find(other) else {
            return Ok(());
        };
        let theirs = record
            .effort
            .map_or_else(|| "unknown options".to_owned(), |taken| taken.to_string());
        Err(format!(
            "{} has cells of measure {} (of {}, for one) that were taken with {theirs}, and these would be taken with {effort}. Give the same, \
             another --out, or --anew to forget all old cells of the measures that are taken",
            self.path.display(),
            record.measure,
            record.target,
        )
        .into())
    }

    /// Forgets cells, in the file too.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn forget(&mut self, is_stale: impl Fn(&Record) -> bool) -> Result<(), Failure> {
        self.all.retain(|record| !is_stale(record));
        let mut text = String::new();
        for record in &self.all {
            text.push_str(&serde_json::to_string(record)?);
            text.push('\n');
        }
        Ok(fs::write(&self.path, text)?)
    }

    /// Keeps a cell; an earlier attempt at the same one gives way.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep(&mut self, record: Record) -> Result<(), Failure> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
        writeln!(file, "{}", serde_json::to_string(&record)?)?;
        self.all.push(record);
        Ok(())
    }

    /// The results of one measure of one target.
    pub(crate) fn results(&self, measure: Measure, target: &str, variant: &str) -> Vec<&Value> {
        let of = self.all.iter().filter(|record| record.is(measure, target, variant));
        of.filter_map(|record| record.result.as_ref()).collect()
    }

    /// The same with their rounds, for comparing neighbours in time.
    pub(crate) fn rounds(&self, measure: Measure, target: &str, variant: &str) -> Vec<(usize, &Value)> {
        let of = self.all.iter().filter(|record| record.is(measure, target, variant));
        of.filter_map(|record| Some((record.round, record.result.as_ref()?)))
            .collect()
    }

    /// The runs that failed: which round, and why.
    pub(crate) fn errors(&self, measure: Measure, target: &str, variant: &str) -> Vec<(usize, &str)> {
        let of = self.all.iter().filter(|record| record.is(measure, target, variant));
        of.filter_map(|record| Some((record.round, record.error.as_deref()?)))
            .collect()
    }
}

impl Record {
    fn is(&self, measure: Measure, target: &str, variant: &str) -> bool {
        self.measure == measure.letter() && self.target == target && self.variant == variant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Taken = Taken {
        rounds: 3,
        seconds: 3.0,
        kills: 15,
    };

    fn record(measure: &str, effort: Option<Taken>) -> Record {
        Record {
            measure: measure.to_owned(),
            target: "nginx".to_owned(),
            variant: String::new(),
            round: 0,
            at: 0,
            noise: Value::Null,
            effort,
            commit: None,
            result: Some(Value::Null),
            error: None,
        }
    }

    #[test]
    fn what_stays_beside_other_options_is_refused_and_named() {
        let shorter = Taken { rounds: 1, ..EFFORT };
        let same = Records::of(vec![record("A", Some(EFFORT)), record("D", Some(shorter))]);
        same.refuse_mixture(EFFORT, |record| record.measure == "A")
            .expect("the same options");
        let refused = same.refuse_mixture(EFFORT, |_| true).expect_err("others").to_string();
        assert!(
            refused.contains("measure D") && refused.contains("--rounds 1 "),
            "{refused}"
        );
        let old = Records::of(vec![record("A", None)]);
        old.refuse_mixture(EFFORT, |_| true).expect_err("nobody knows");
    }

    #[test]
    fn a_line_from_before_efforts_were_noted_is_read() {
        let line = r#"{"measure":"A","target":"ours","variant":"","round":1,"at":5,"noise":{},"error":"gone"}"#;
        let record: Record = serde_json::from_str(line).expect("a record");
        assert_eq!((record.effort, record.commit, record.round), (None, None, 1));
    }
}
