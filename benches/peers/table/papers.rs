//! The head of the results, and the README's section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use actix_cluster_benches::Failure;
use serde_json::Value;

use super::columns::{LEFT_OUT, crash_times, storm_failures};
use crate::measure::Measure;
use crate::record::Records;
use crate::stats::{Spread, figure};
use crate::targets::TARGETS;

/// Date, machine, versions, noise and caveats.
pub(super) fn head(machine: &Value, records: &Records, beside: &str) -> String {
    let mut told = format!(
        "# Side by side with the peers\n\nWritten by `cargo run --release -p actix-cluster-benches --bin peers`; the raw data is \
         [`raw.jsonl`]({beside}raw.jsonl). Medians of all runs, with their ranges.\n\n"
    );
    told.push_str(&format!("{}\n\n", circumstances(machine, records)));
    told.push_str("| peer | versions |\n|---|---|\n");
    for (peer, versions) in machine["peers"].as_object().into_iter().flatten() {
        told.push_str(&format!("| {peer} | {} |\n", versions.as_str().unwrap_or_default()));
    }
    told.push_str(
        "\nWhat to know before comparing:\n\n\
         - Client and servers share the cores, and rates say what this machine could do at that minute. Look at the ranges before you \
           believe a difference; orders of magnitude are safe, 20 % is not.\n\
         - Every application is empty and answers with its process id; real ones start more slowly and hold more memory. What a peer's \
           language costs is in its figures: nginx is no place for applications, and an interpreter is slower to start than a program.\n\
         - A closed loop sends nothing while it waits, which flatters stalls. Look at the longest time without an answer too, and at the \
           open loop of D.\n\
         - Every cell starts its target anew; rounds are interleaved, so all targets see the same hours of the machine.\n",
    );
    let notes = TARGETS.iter().filter(|target| !target.note.is_empty());
    for target in notes {
        told.push_str(&format!("- {}: {}\n", target.name, target.note));
    }
    let mut left_out: Vec<(&str, &str)> = records
        .all
        .iter()
        .filter_map(|record| Some((record.target.as_str(), record.error.as_deref()?)))
        .filter(|(_, error)| error.starts_with(LEFT_OUT))
        .collect();
    left_out.sort_unstable();
    left_out.dedup();
    for (target, error) in left_out {
        told.push_str(&format!("- `{target}` is {error}.\n"));
    }
    told
}

/// One paragraph: when, on what, with which options, how quiet it was.
fn circumstances(machine: &Value, records: &Records) -> String {
    let days: Vec<String> = [
        records.all.iter().map(|record| record.at).min(),
        records.all.iter().map(|record| record.at).max(),
    ]
    .into_iter()
    .flatten()
    .map(date)
    .collect();
    let noise = |path: &str, scale: f64| {
        let figures = records
            .all
            .iter()
            .filter_map(|record| record.noise.pointer(path)?.as_f64());
        Spread::of(figures.map(|figure| figure * scale)).map_or_else(|| "?".to_owned(), Spread::cell)
    };
    let text = |path: &str| machine.pointer(path).and_then(Value::as_str).unwrap_or("?");
    let number = |path: &str| {
        machine
            .pointer(path)
            .and_then(Value::as_f64)
            .map_or_else(|| "?".to_owned(), figure)
    };
    format!(
        "{} (UTC). {}, {} cores, {} GiB, Linux {}; {}, {}; {}. Right before each cell, with nothing of ours running, others kept the cores \
         {} % busy, and a fixed piece of arithmetic took {} ms: a range far from its median means that the machine was not quiet.",
        days.join(" to "),
        text("/machine/cpu"),
        number("/machine/cores"),
        number("/machine/memory_gib"),
        text("/machine/kernel"),
        text("/rustc"),
        text("/profile"),
        options(records),
        noise("/others_busy", 100.0),
        noise("/spin_us", 1e-3),
    )
}

/// With which options and of which commits, measure by measure where they differ.
fn options(records: &Records) -> String {
    let mut by_measure: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
    for record in &records.all {
        let effort = record
            .effort
            .map_or_else(|| "unknown options".to_owned(), |effort| format!("`{effort}`"));
        let commit = record.commit.clone().unwrap_or_else(|| "unknown".to_owned());
        by_measure.entry((effort, commit)).or_default().insert(&record.measure);
    }
    let is_one = by_measure.len() == 1;
    let told = by_measure.into_iter().map(|((effort, commit), letters)| {
        let letters: Vec<&str> = letters.into_iter().collect();
        let of = if is_one {
            String::new()
        } else {
            format!("{}: ", letters.join(", "))
        };
        format!("{of}{effort}, commit {commit}")
    });
    told.collect::<Vec<_>>().join("; ")
}

/// The short table: one row for each target, one figure for each measure.
fn summary(records: &Records) -> String {
    let mut told = "| | killed → answered, ms | failed a kill in a storm | reload of 4: failed, new; kept; ms | kept: answers/s | new: answers/s | \
        p99 at 1,000/s, ms | 200 workers: started in ms; master MiB |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for target in TARGETS {
        let results = |measure, variant| records.results(measure, target.id, variant);
        let median = |measure, variant, path: &str, scale: f64| {
            Spread::at(&results(measure, variant), path)
                .map_or_else(|| "–".to_owned(), |spread| figure(spread.median * scale))
        };
        let of = |figures: Vec<f64>| Spread::of(figures).map_or_else(|| "–".to_owned(), |spread| figure(spread.median));
        let failed = |variant| {
            let all = results(Measure::Reload, variant);
            let failed: Vec<f64> = all.iter().filter_map(|result| result["failed"].as_f64()).collect();
            // No run that came to its end is no run without failures.
            if failed.is_empty() {
                return "–".to_owned();
            }
            figure(failed.iter().sum())
        };
        let reload = match Spread::at(&results(Measure::Reload, "new"), "/reload_ms") {
            Some(spread) => format!("{}; {}; {}", failed("new"), failed("keep-alive"), figure(spread.median)),
            None => "–".to_owned(),
        };
        let cells = [
            of(crash_times(&results(Measure::Crash, ""))),
            of(storm_failures(&results(Measure::Storm, ""))),
            reload,
            median(Measure::Throughput, "keep-alive", "/per_second", 1.0),
            median(Measure::Throughput, "new", "/per_second", 1.0),
            median(Measure::Throughput, "open", "/p99_us", 1e-3),
            format!(
                "{}; {}",
                median(Measure::Idle, "200", "/start_ms", 1.0),
                median(Measure::Idle, "200", "/master_rss_kib", 1.0 / 1024.0)
            ),
        ];
        if cells.iter().any(|cell| cell.chars().any(|char| char.is_ascii_digit())) {
            told.push_str(&format!("| {} | {} |\n", target.name, cells.join(" | ")));
        }
    }
    told
}

/// Puts the short table between its two marks in the README.
pub(super) fn put_into_readme(machine: &Value, records: &Records) -> Result<(), Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the README has no place for the table")?;
    let (_, after) = rest.split_once(END).ok_or("the README's table has no end")?;
    let section = format!(
        "{BEGIN}\n{}\n{CAPTION}\n\n{}\n{END}",
        summary(records),
        circumstances(machine, records)
    );
    Ok(fs::write(path, format!("{before}{section}{after}"))?)
}

/// What the table owes to a setting that is off by default.
const CAPTION: &str = "Rows of actix-cluster have `survive_kill` set, a keeper beside each worker that holds its connections, but for \"the library's \
    default\", where it is off; \"static\" is linked statically.";
const BEGIN: &str = "<!-- written by the peers bench: begin -->";
const END: &str = "<!-- written by the peers bench: end -->";

/// A day and minute, of seconds since 1970.
fn date(at: u64) -> String {
    let (days, minutes) = (at / 86_400, at % 86_400 / 60);
    // Days since the first of March of the year 0, in which leap days come last (Howard Hinnant's algorithm).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{}-{month:02}-{of_month:02} {:02}:{:02}",
        era * 400 + year + next,
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn a_date_is_told_as_people_write_it() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00");
        assert_eq!(date(1_795_341_120), "2026-11-22 09:52");
    }
}
