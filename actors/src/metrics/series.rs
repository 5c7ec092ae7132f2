//! What a worker-defined metric is: its name, labels and value, their bounds, and the report that carries them.
//!
//! Both sides check: the worker where a metric is registered, the master again for every report, because a report is what
//! some process claims. Not here: sending, and adding up.

use std::collections::BTreeMap;

use actix_cluster::Message;
use serde::{Deserialize, Serialize};

/// Labels by name. A map, so the same labels in another order are the same series.
pub(super) type Labels = BTreeMap<String, String>;

/// Why a metric was not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// The name cannot be a metric's.
    #[error(
        "`{0:?}` cannot be a metric's name: letters, digits, `_` and `:`, no digit first, at most 128 bytes, not beginning with \
         `actix_cluster_`, not ending as only derived series do (`_bucket`, `_count`, `_sum`, `_created`, `_info`; `_total` for counters only)"
    )]
    Name(String),
    /// The help text cannot be one.
    #[error("the help text of `{0}` must be one line of at most 256 bytes")]
    Help(String),
    /// A label's name cannot be one.
    #[error(
        "`{0:?}` cannot be a label's name: letters, digits and `_`, no digit and no `__` first, at most 64 bytes, and not \
         `le`, `spec` or `slot`"
    )]
    Label(String),
    /// A label's value is too long.
    #[error("the value of label `{0}` is longer than 128 bytes")]
    LabelValue(String),
    /// Too many labels.
    #[error("`{0}` has more than 8 labels, or one of them twice")]
    Labels(String),
    /// Bounds of a histogram that are none.
    #[error("the bounds of `{0}` must be 1 to 32 finite numbers, each greater than the one before")]
    Bounds(String),
    /// The same name was registered as another kind of metric, with another help text or with other bounds.
    #[error("`{0}` is registered already, with another kind, help text or bounds")]
    Differs(String),
    /// The worker has as many series as it may.
    #[error("this worker has 256 series already; use fewer values of labels")]
    TooMany,
}

/// One series with its value since the start of the worker's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) help: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: Labels,
    /// One series for each slot, instead of one for the cluster.
    #[serde(default)]
    pub(super) per_slot: bool,
    pub(super) value: Value,
}

/// The value of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Buckets),
}

/// The value of a histogram: how many observations in each bucket, the last of which has no bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Buckets {
    pub(super) bounds: Vec<f64>,
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
}

/// The kinds of series, in the words of the exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesKind {
    Counter,
    Gauge,
    Histogram,
}

impl Value {
    pub(super) const fn kind(&self) -> SeriesKind {
        match self {
            Self::Counter(_) => SeriesKind::Counter,
            Self::Gauge(_) => SeriesKind::Gauge,
            Self::Histogram(_) => SeriesKind::Histogram,
        }
    }

    /// Could `later` be what the same process tells after this?
    pub(super) fn may_become(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Counter(now), Self::Counter(later)) => later >= now,
            (Self::Gauge(_), Self::Gauge(_)) => true,
            (Self::Histogram(now), Self::Histogram(later)) => {
                now.bounds == later.bounds && now.counts.iter().zip(&later.counts).all(|(now, later)| later >= now)
            }
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => false,
        }
    }

    /// Adds another process's value; false if the two are of different forms, and then nothing is added.
    pub(super) fn add(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(more)) => *sum = sum.saturating_add(*more),
            (Self::Gauge(sum), Self::Gauge(more)) => *sum = finite(*sum + more),
            (Self::Histogram(sum), Self::Histogram(more)) if sum.bounds == more.bounds => {
                for (sum, more) in sum.counts.iter_mut().zip(&more.counts) {
                    *sum = sum.saturating_add(*more).min(Buckets::COUNT_MAX);
                }
                sum.sum = finite(sum.sum + more.sum);
            }
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => return false,
        }
        true
    }

    /// What came to it since `before`, of which it [may have become](Self::may_become) this.
    pub(super) fn less(mut self, before: &Self) -> Self {
        match (&mut self, before) {
            (Self::Counter(now), Self::Counter(before)) => *now = now.saturating_sub(*before),
            (Self::Histogram(now), Self::Histogram(before)) => {
                for (now, before) in now.counts.iter_mut().zip(&before.counts) {
                    *now = now.saturating_sub(*before);
                }
                now.sum = finite(now.sum - before.sum);
            }
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram(_), _) => {}
        }
        self
    }
}

impl Buckets {
    /// More than can be observed; the encoder adds buckets up, and a sum of so many cannot overflow.
    const COUNT_MAX: u64 = 1 << 56;
    const BOUNDS_MAX: usize = 32;

    pub(super) fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.to_vec(),
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] = self.counts[bucket].saturating_add(1).min(Self::COUNT_MAX);
        self.sum = finite(self.sum + value);
    }

    fn are_bounds(bounds: &[f64]) -> bool {
        (1..=Self::BOUNDS_MAX).contains(&bounds.len())
            && bounds.iter().all(|bound| bound.is_finite())
            && bounds.windows(2).all(|pair| pair[0] < pair[1])
    }
}

impl Series {
    /// How many one worker may have, and one slot over all its workers.
    pub(super) const MAX: usize = 256;

    /// Checks everything that could break the text or the bounds, and takes the `_total` off a counter's name: the text
    /// format puts it there.
    pub(super) fn checked(mut self) -> Result<Self, MetricError> {
        if let (Value::Counter(_), Some(stem)) = (&self.value, self.name.strip_suffix("_total")) {
            self.name = stem.to_owned();
        }
        if !is_name(&self.name) {
            return Err(MetricError::Name(self.name));
        }
        if self.help.len() > 256 || self.help.chars().any(|c| c.is_control() || c == '\\') {
            return Err(MetricError::Help(self.name));
        }
        if self.labels.len() > 8 {
            return Err(MetricError::Labels(self.name));
        }
        for (label, value) in &self.labels {
            if !is_label(label) {
                return Err(MetricError::Label(label.clone()));
            }
            if value.len() > 128 {
                return Err(MetricError::LabelValue(label.clone()));
            }
        }
        match &self.value {
            Value::Histogram(buckets)
                if !Buckets::are_bounds(&buckets.bounds)
                    || buckets.counts.len() != buckets.bounds.len() + 1
                    || buckets.counts.iter().any(|count| *count > Buckets::COUNT_MAX)
                    || !buckets.sum.is_finite() =>
            {
                Err(MetricError::Bounds(self.name))
            }
            Value::Counter(_) | Value::Gauge(_) | Value::Histogram(_) => Ok(self),
        }
    }
}

fn is_name(name: &str) -> bool {
    const DERIVED: [&str; 6] = ["_bucket", "_count", "_sum", "_created", "_info", "_total"];
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
        && !name.starts_with("actix_cluster_")
        && !DERIVED.iter().any(|suffix| name.ends_with(suffix))
}

fn is_label(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with("__")
        && !["le", "spec", "slot"].contains(&name)
}

/// The nearest number that has a form in JSON and in the text.
fn finite(number: f64) -> f64 {
    if number.is_nan() {
        0.0
    } else {
        number.clamp(f64::MIN, f64::MAX)
    }
}

/// What a worker tells the master: all of its series, each with its value since the process's start, so that a report
/// that is lost is made up for by the next one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report<S> {
    #[serde(rename = "actix_cluster_metrics")]
    pub(super) series: Vec<S>,
}

/// The question by which a worker asks for the text.
pub(super) const SCRAPE: &str = "actix_cluster_metrics: scrape";

/// What a message is to the metrics.
pub(super) enum Ours {
    Report,
    Scrape,
    No,
}

/// Looks at the beginning only: workers may talk by the million, and most of it is not for us.
pub(super) fn recognize(message: &Message) -> Ours {
    let text = message.payload().as_str();
    if message.is_call() && text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) == Some(SCRAPE) {
        Ours::Scrape
    } else if text.starts_with("{\"actix_cluster_metrics\":") {
        Ours::Report
    } else {
        Ours::No
    }
}

/// Is this message between the metrics of a worker and those of the master? A handler of your own lets it pass: above
/// all, it must not answer it.
#[must_use]
pub fn is_ours(message: &Message) -> bool {
    !matches!(recognize(message), Ours::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, value: Value) -> Series {
        Series {
            name: name.to_owned(),
            help: "Help".to_owned(),
            labels: Labels::new(),
            per_slot: false,
            value,
        }
    }

    #[test]
    fn names_that_would_break_the_text_are_refused() {
        let counter = |name: &str| series(name, Value::Counter(0)).checked();
        for bad in [
            "",
            "1a",
            "a b",
            "a\"b",
            "a\nb",
            "ä",
            "a{",
            "actix_cluster_x",
            "a_bucket",
            "a_total_total",
            "a-b",
        ] {
            assert!(matches!(counter(bad), Err(MetricError::Name(_))), "{bad:?}");
        }
        assert!(counter(&"x".repeat(129)).is_err());
        assert_eq!(counter("jobs_total").unwrap().name, "jobs");
        assert_eq!(counter("a:b_C9").unwrap().name, "a:b_C9");
        assert!(series("x_total", Value::Gauge(0.0)).checked().is_err());
    }

    #[test]
    fn labels_and_help_are_bounded_and_values_may_be_anything() {
        let with = |label: &str, value: &str| {
            let mut it = series("a", Value::Gauge(0.0));
            it.labels.insert(label.to_owned(), value.to_owned());
            it.checked()
        };
        for bad in ["", "a:b", "__x", "le", "slot", "spec", "a\"", "a\n", "9"] {
            assert!(matches!(with(bad, "v"), Err(MetricError::Label(_))), "{bad:?}");
        }
        assert!(with("path", "a\"b\nc\\").is_ok());
        assert!(matches!(
            with("path", &"x".repeat(129)),
            Err(MetricError::LabelValue(_))
        ));
        let mut it = series("a", Value::Gauge(0.0));
        it.help = "two\nlines".to_owned();
        assert!(matches!(it.checked(), Err(MetricError::Help(_))));
    }

    #[test]
    fn a_histogram_has_ascending_bounds_and_a_count_for_each_bucket() {
        let with = |bounds: &[f64]| series("h", Value::Histogram(Buckets::new(bounds))).checked();
        assert!(with(&[0.1, 1.0]).is_ok());
        for bad in [
            &[][..],
            &[1.0, 1.0],
            &[2.0, 1.0],
            &[f64::NAN],
            &[f64::INFINITY],
            &[0.0; 33],
        ] {
            assert!(matches!(with(bad), Err(MetricError::Bounds(_))), "{bad:?}");
        }
        let mut short = Buckets::new(&[1.0]);
        short.counts.pop();
        assert!(series("h", Value::Histogram(short)).checked().is_err());
        let mut lie = Buckets::new(&[1.0]);
        lie.counts[0] = u64::MAX;
        assert!(series("h", Value::Histogram(lie)).checked().is_err());
        let mut seen = Buckets::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            seen.observe(value);
        }
        assert_eq!((seen.counts, seen.sum), (vec![2, 1, 1], 12.0));
    }
}
