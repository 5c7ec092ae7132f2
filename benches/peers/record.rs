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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The file with all of them.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    pub(crate) all: Vec<Record>,
}

impl Records {
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

    /// Why there is none, if there is none.
    pub(crate) fn error(&self, measure: Measure, target: &str, variant: &str) -> Option<&str> {
        let mut of = self.all.iter().filter(|record| record.is(measure, target, variant));
        of.find_map(|record| record.error.as_deref())
    }
}

impl Record {
    fn is(&self, measure: Measure, target: &str, variant: &str) -> bool {
        self.measure == measure.letter() && self.target == target && self.variant == variant
    }
}
