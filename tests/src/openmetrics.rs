//! A strict reader of the OpenMetrics text format: what a scraper would refuse, it refuses. And a scraper.
//!
//! Written from the format's specification (version 1.0), without a line of what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::http::Client;
use crate::limit;

/// One scrape: every sample by its name with its labels, as written.
#[derive(Debug, Clone, Default)]
pub struct Exposition {
    samples: BTreeMap<String, f64>,
    /// Samples that must never fall.
    growing: BTreeSet<String>,
}

impl Exposition {
    /// Asks the metrics' own server.
    ///
    /// # Panics
    /// If there is no answer in time, or it is not in the format.
    #[must_use]
    pub fn scrape(port: u16) -> Self {
        let response = get(port, "/metrics").expect("a scrape is answered");
        assert_eq!(response.status, 200);
        let kind = response.header("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("application/openmetrics-text; version=1.0.0"),
            "{kind}"
        );
        Self::read(&response.text()).unwrap_or_else(|why| panic!("{why}\n{}", response.text()))
    }

    /// Reads a text.
    ///
    /// # Errors
    /// The first thing that is not as it must be.
    pub fn read(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("no `# EOF` at the end")?;
        let (mut all, mut family, mut seen) = (Self::default(), None::<(String, String)>, BTreeSet::new());
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
                if !seen.insert(name.to_owned()) {
                    return Err(format!("family twice: {line}"));
                }
                family = Some((name.to_owned(), kind.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let name = rest.split(' ').next().unwrap_or_default();
                if seen.contains(name) {
                    return Err(format!("family twice: {line}"));
                }
            } else {
                let (name, kind) = family
                    .as_ref()
                    .ok_or_else(|| format!("a sample without a family: {line}"))?;
                all.sample(line, name, kind)?;
            }
        }
        Ok(all)
    }

    fn sample(&mut self, line: &str, family: &str, kind: &str) -> Result<(), String> {
        let wrong = |what: &str| format!("{what}: {line}");
        let end = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
        let (name, rest) = line.split_at(end);
        let suffix = name.strip_prefix(family).ok_or_else(|| wrong("of another family"))?;
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => return Err(wrong("unknown type")),
        };
        if !suffixes.contains(&suffix) {
            return Err(wrong("a suffix that its type does not have"));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong("no name"));
        }
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest).map_err(|what| wrong(&what))?,
            None => (BTreeMap::new(), rest),
        };
        if labels.contains_key("le") != (suffix == "_bucket") {
            return Err(wrong("`le` belongs to buckets"));
        }
        let value = value.strip_prefix(' ').ok_or_else(|| wrong("no space"))?;
        let number: f64 = value.parse().map_err(|_| wrong("no number"))?;
        let grows = kind == "counter" || suffix == "_bucket" || suffix == "_count";
        if !number.is_finite() || (grows && number < 0.0) {
            return Err(wrong("a number that cannot be"));
        }
        let own: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let key = format!("{name}{{{}}}", own.join(","));
        if grows {
            self.growing.insert(key.clone());
        }
        match self.samples.insert(key, number) {
            Some(_) => Err(wrong("a series twice")),
            None => Ok(()),
        }
    }

    /// The sum of all samples of this name that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.samples.iter().filter(|(key, _)| {
            let (own, has) = key.split_once('{').expect("it was put together so");
            let has: Vec<&str> = has.trim_end_matches('}').split(',').collect();
            own == name && labels.iter().all(|label| has.contains(label))
        });
        samples.map(|(_, value)| value).sum()
    }

    /// How many samples of this name there are.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.samples
            .keys()
            .filter(|key| key.split('{').next() == Some(name))
            .count()
    }

    /// Every counter that was there before is still there, and is not smaller.
    ///
    /// # Panics
    /// If not.
    pub fn follows(&self, before: &Self) {
        for key in &before.growing {
            let then = before.samples[key];
            let now = self.samples.get(key);
            assert!(now.is_some_and(|now| *now >= then), "{key}: {then} and then {now:?}");
        }
    }
}

/// One request to the metrics' own server.
///
/// # Errors
/// As [`Client::get`].
pub fn get(port: u16, path: &str) -> std::io::Result<crate::http::Response> {
    Client::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), limit(PATIENCE)).get(path)
}

/// Labels up to the closing brace, and what comes after it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("`{name}` is no label"));
        }
        let (mut value, mut characters) = (String::new(), after.char_indices());
        let end = loop {
            match characters.next().ok_or("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    _ => return Err("an escape that is none".to_owned()),
                },
                (_, c) => value.push(c),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label `{name}` twice"));
        }
        let after = &after[end + 1..];
        if let Some(after) = after.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = after.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

/// How long a scrape may take, whatever hangs.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_format_is_refused() {
        let good = "# HELP a Help\n# TYPE a counter\na_total{x=\"1\\n\\\"\"} 3\na_total 1\n# EOF\n";
        let read = Exposition::read(good).unwrap();
        assert!((read.sum("a_total", &[]) - 4.0).abs() < f64::EPSILON);
        for bad in [
            "# TYPE a counter\na_total 1\n",
            "a_total 1\n# EOF\n",
            "# TYPE a counter\na 1\n# EOF\n",
            "# TYPE a counter\na_total 1\na_total 2\n# EOF\n",
            "# TYPE a counter\n# TYPE a counter\n# EOF\n",
            "# TYPE a counter\na_total{x=\"1} 1\n# EOF\n",
            "# TYPE a counter\na_total{x=\"\\d\"} 1\n# EOF\n",
            "# TYPE a counter\na_total{x=\"1\",x=\"2\"} 1\n# EOF\n",
            "# TYPE a counter\na_total -1\n# EOF\n",
            "# TYPE a gauge\na NaN\n# EOF\n",
            "# TYPE a gauge\nb 1\n# EOF\n",
            "# TYPE a gauge\na{} 1\n# EOF\n",
        ] {
            assert!(Exposition::read(bad).is_err(), "{bad}");
        }
    }
}
