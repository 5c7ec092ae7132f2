//! One table for each measure and variant: which figures, from where in the raw data, in which unit.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::measure::Measure;
use crate::record::Records;
use crate::stats::{Spread, figure};
use crate::targets::TARGETS;

/// A column: its head, where its figure is, and what it is multiplied with.
struct Column(&'static str, &'static str, f64);

/// The text of one measure.
pub(super) fn section(measure: Measure, records: &Records) -> String {
    let (title, text) = prose(measure);
    let mut told = format!("\n## {}. {title}\n\n{text}\n", measure.letter());
    if measure == Measure::Ipc {
        told.push_str(&messages(records));
        return told;
    }
    let mut variants: Vec<&str> = Vec::new();
    for (_, variant) in measure.cells() {
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    for variant in variants {
        if !variant.is_empty() {
            told.push_str(&format!("\n**{}**\n", name(measure, variant)));
        }
        told.push_str(&table(measure, variant, records));
    }
    told
}

fn name(measure: Measure, variant: &str) -> String {
    match (measure, variant) {
        (Measure::Idle, workers) => format!("{workers} workers"),
        (_, "new") => "New connections".to_owned(),
        (_, "keep-alive") => "Keep-alive".to_owned(),
        (_, "open") => "1,000 requests a second whatever becomes of them, keep-alive".to_owned(),
        (_, other) => other.to_owned(),
    }
}

fn table(measure: Measure, variant: &str, records: &Records) -> String {
    let columns = columns(measure);
    let first: &[&str] = match measure {
        Measure::Crash => &["median ms (range)", "p90 ms", "failed probes a kill", "kills"],
        Measure::Storm => &["failed a kill (range of runs)", "classes, all runs", "kills"],
        Measure::Reload => &["failed, each run", "classes, all runs"],
        Measure::Throughput | Measure::Idle | Measure::Ipc => &[],
    };
    let heads: Vec<&str> = first
        .iter()
        .copied()
        .chain(columns.iter().map(|column| column.0))
        .collect();
    let mut told = format!(
        "\n| target | {} |\n|---|{}\n",
        heads.join(" | "),
        "---:|".repeat(heads.len())
    );
    let mut left_out = Vec::new();
    for (id, _) in measure.cells().iter().filter(|(_, of)| *of == variant) {
        let Some(target) = TARGETS.iter().find(|target| target.id == *id) else {
            continue;
        };
        let results = records.results(measure, id, variant);
        if results.is_empty() {
            // Who is left out of everything is told once, at the head.
            let error = records.error(measure, id, variant);
            if let Some(error) = error.filter(|error| !error.starts_with(LEFT_OUT)) {
                left_out.push(format!("- {}: {error}", target.name));
            }
            continue;
        }
        let mut cells = special(measure, &results);
        cells.extend(columns.iter().map(|Column(_, path, scale)| {
            let figures = results.iter().filter_map(|result| result.pointer(path)?.as_f64());
            Spread::of(figures.map(|figure| figure * scale)).map_or_else(|| "–".to_owned(), Spread::cell)
        }));
        told.push_str(&format!("| {} | {} |\n", target.name, cells.join(" | ")));
    }
    if !left_out.is_empty() {
        told.push_str(&format!("\nNot measured:\n\n{}\n", left_out.join("\n")));
    }
    told
}

const fn columns(measure: Measure) -> &'static [Column] {
    const MS: f64 = 1e-3;
    const MIB: f64 = 1.0 / 1024.0;
    match measure {
        Measure::Crash | Measure::Ipc => &[],
        Measure::Storm => &[
            Column("longest time without an answer ms", "/max_gap_ms", 1.0),
            Column("answers/s", "/per_second", 1.0),
            Column("p99 ms", "/p99_us", MS),
            Column("fewest workers at a kill", "/fewest_workers", 1.0),
            Column("workers after it", "/workers_after", 1.0),
        ],
        Measure::Reload => &[
            Column("reload ms", "/reload_ms", 1.0),
            Column("p99 before ms", "/before/p99_us", MS),
            Column("p99 during ms", "/during/p99_us", MS),
            Column("max during ms", "/during/max_us", MS),
            Column("answers/s before", "/before/per_second", 1.0),
            Column("answers/s during", "/during/per_second", 1.0),
        ],
        Measure::Throughput => &[
            Column("answers/s", "/per_second", 1.0),
            Column("p50 ms", "/p50_us", MS),
            Column("p99 ms", "/p99_us", MS),
            Column("p99.9 ms", "/p999_us", MS),
            Column("failed", "/failed", 1.0),
            Column("CPU µs an answer", "/cpu_us_per_answer", 1.0),
            Column("master CPU %", "/master_cpu_percent", 1.0),
            Column("workers CPU %", "/workers_cpu_percent", 1.0),
        ],
        Measure::Idle => &[
            Column("all ready after ms", "/start_ms", 1.0),
            Column("master RSS MiB", "/master_rss_kib", MIB),
            Column("master PSS MiB", "/master_pss_kib", MIB),
            Column("master CPU ms a minute", "/master_cpu_ms_a_minute", 1.0),
            Column("a worker's PSS MiB", "/worker_pss_kib", MIB),
            Column("a worker's CPU ms a minute", "/worker_cpu_ms_a_minute", 1.0),
        ],
    }
}

/// Figures that are not one of each result.
fn special(measure: Measure, results: &[&Value]) -> Vec<String> {
    let failed = || results.iter().filter_map(|result| result["failed"].as_f64());
    match measure {
        Measure::Crash => {
            let mut times = crash_times(results);
            times.sort_unstable_by(f64::total_cmp);
            let p90 = times.get(times.len() * 9 / 10).copied().unwrap_or_default();
            vec![
                Spread::of(times.iter().copied()).map_or_else(|| "–".to_owned(), Spread::cell),
                figure(p90),
                figure(failed().sum::<f64>() / times.len().max(1) as f64),
                times.len().to_string(),
            ]
        }
        Measure::Storm => {
            let kills = results.iter().filter_map(|result| result["kills"].as_f64());
            vec![
                Spread::of(storm_failures(results)).map_or_else(|| "–".to_owned(), Spread::cell),
                classes(results),
                figure(kills.sum()),
            ]
        }
        Measure::Reload => {
            let each: Vec<String> = failed().map(figure).collect();
            vec![each.join(", "), classes(results)]
        }
        Measure::Throughput | Measure::Idle | Measure::Ipc => Vec::new(),
    }
}

/// How the error of a target begins that cannot be measured here at all.
pub(crate) const LEFT_OUT: &str = "left out";

/// Every kill of every run, in milliseconds.
pub(crate) fn crash_times(results: &[&Value]) -> Vec<f64> {
    let times = results
        .iter()
        .flat_map(|result| result["ms"].as_array().into_iter().flatten());
    times.filter_map(Value::as_f64).collect()
}

/// Failed requests for each kill, run by run.
pub(crate) fn storm_failures(results: &[&Value]) -> Vec<f64> {
    let of = |result: &&Value| Some(result["failed"].as_f64()? / result["kills"].as_f64()?);
    results.iter().filter_map(of).collect()
}

fn classes(results: &[&Value]) -> String {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for result in results {
        for (class, count) in result["classes"].as_object().into_iter().flatten() {
            *sums.entry(class).or_default() += count.as_u64().unwrap_or_default();
        }
    }
    let told: Vec<String> = sums.iter().map(|(class, count)| format!("{class} {count}")).collect();
    if told.is_empty() {
        "none".to_owned()
    } else {
        told.join(", ")
    }
}

fn messages(records: &Records) -> String {
    let mut told = "\n| what | messages/s | p50 µs | p99 µs |\n|---|---:|---:|---:|\n".to_owned();
    for target in ["ours", "node-rr"] {
        let results = records.results(Measure::Ipc, target, "");
        let names = results.first().and_then(|result| result.as_object());
        for name in names.into_iter().flat_map(|names| names.keys()) {
            let cell = |figure: &str| {
                let path = format!("/{}/{figure}", name.replace('~', "~0").replace('/', "~1"));
                Spread::at(&results, &path).map_or_else(|| "–".to_owned(), Spread::cell)
            };
            told.push_str(&format!(
                "| {name} | {} | {} | {} |\n",
                cell("per_second"),
                cell("p50_us"),
                cell("p99_us")
            ));
        }
        if let Some(error) = records.error(Measure::Ipc, target, "").filter(|_| results.is_empty()) {
            told.push_str(&format!("\n{target}: not measured, {error}\n"));
        }
    }
    told
}

const fn prose(measure: Measure) -> (&'static str, &'static str) {
    match measure {
        Measure::Crash => (
            "Crash to answer",
            "One worker, killed by `SIGKILL`; how long until another process answers. A probe connects at once, every 2 ms, and \
             1 ms after one failed. With one worker it is the restart that is measured, and not who wins a connection. \
             Probes that are refused mean that nobody kept the listening socket while no worker lived.",
        ),
        Measure::Storm => (
            "Kill storm",
            "Four workers, 16 clients with new connections in a closed loop; every 200 ms one of the workers that serve is killed. What a \
             killed worker was answering is lost whoever supervises it, so the faster a server, the more it has in its hands: compare \
             failures a kill with others of the same speed. A client whose request failed rests for 5 ms.",
        ),
        Measure::Reload => (
            "Rolling reload",
            "Four workers, 16 clients in a closed loop; the reload is over when no old worker is left and as many new ones run. Failures \
             count over the whole run, before and after it too.",
        ),
        Measure::Throughput => (
            "Throughput and latency",
            "Two workers and the load client share the machine's cores, so above some rate it is the client that is measured; processor \
             time for each answer does not have this fault. 64 kept connections, 32 with new ones.",
        ),
        Measure::Idle => (
            "Idle workers",
            "From the start of the program until every worker is ready; then a second of rest, and a look at what it costs. PSS counts \
             shared pages in parts.",
        ),
        Measure::Ipc => (
            "Messages between master and worker",
            "JSON objects with a text of that size; the bare socket carries the same bytes without JSON. Node's is `process.send` of \
             `child_process.fork`, the channel of its cluster.",
        ),
    }
}
