//! Families of series, and their text in the OpenMetrics format. What the numbers mean is not known here.

use std::fmt;

use actix_cluster::Slot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::series::{Buckets, Labels, SeriesKind, Value};

/// One name with its series.
#[derive(Debug)]
pub(super) struct Family {
    name: String,
    help: String,
    kind: SeriesKind,
    rows: Vec<(Vec<(String, String)>, Value)>,
}

impl Family {
    pub(super) fn new(name: &str, help: &str, kind: SeriesKind) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            rows: Vec::new(),
        }
    }

    pub(super) fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, SeriesKind::Counter)
    }

    pub(super) fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, SeriesKind::Gauge)
    }

    pub(super) fn row(mut self, labels: Labels, value: Value) -> Self {
        self.push(labels, value);
        self
    }

    pub(super) fn push(&mut self, labels: Labels, value: Value) {
        self.rows.push((labels.into_iter().collect(), value));
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    #[cfg(test)]
    pub(super) fn rows(&self) -> &[(Vec<(String, String)>, Value)] {
        &self.rows
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            SeriesKind::Counter => MetricType::Counter,
            SeriesKind::Gauge => MetricType::Gauge,
            SeriesKind::Histogram => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(&self.name, &self.help, None, kind)?;
        for (labels, value) in &self.rows {
            if labels.is_empty() {
                encode(value, &mut metric)?;
            } else {
                encode(value, &mut metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(value: &Value, metric: &mut MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Counter(value) => metric.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Histogram(Buckets { bounds, counts, sum }) => {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            metric.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
        }
    }
}

/// All families, as the encoder wants to have them.
#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// The text of these families.
pub(super) fn exposition(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string cannot fail");
    text
}

/// The labels that name a slot.
pub(super) fn slot_labels(slot: &Slot) -> Labels {
    let index = if slot.is_standby() {
        "standby".to_owned()
    } else {
        slot.index.to_string()
    };
    labels([("spec", slot.spec.as_str()), ("slot", &index)])
}

pub(super) fn labels<const N: usize>(labels: [(&str, &str); N]) -> Labels {
    let owned = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    owned.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_each_kind() {
        let mut buckets = Buckets::new(&[0.5]);
        buckets.observe(0.25);
        buckets.observe(3.0);
        let text = exposition(vec![
            Family::counter("jobs", "Jobs").row(labels([("to", "a\"b\nc\\d")]), Value::Counter(3)),
            Family::gauge("queue", "Queue").row(Labels::new(), Value::Gauge(1.5)),
            Family::new("took", "Took", SeriesKind::Histogram).row(Labels::new(), Value::Histogram(buckets)),
        ]);
        let wanted = "# HELP jobs Jobs\n# TYPE jobs counter\njobs_total{to=\"a\\\"b\\nc\\\\d\"} 3\n\
                      # HELP queue Queue\n# TYPE queue gauge\nqueue 1.5\n\
                      # HELP took Took\n# TYPE took histogram\ntook_sum 3.25\ntook_count 2\n\
                      took_bucket{le=\"0.5\"} 1\ntook_bucket{le=\"+Inf\"} 2\n# EOF\n";
        assert_eq!(text, wanted);
    }
}
