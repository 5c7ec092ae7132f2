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
    let (title, text) = super::prose::of(measure);
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
    let columns = columns(measure, variant);
    let first: &[&str] = match measure {
        Measure::Crash => &["median ms (range)", "p90 ms", "failed probes a kill", "kills"],
        Measure::Storm => &["failed a kill (range of runs)", "classes, all runs", "kills"],
        Measure::Reload => &["failed, each run", "classes, all runs"],
        Measure::Throughput if variant != "open" => &["of nginx, same round"],
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
    let mut failed = Vec::new();
    for (id, _) in measure.cells().iter().filter(|(_, of)| *of == variant) {
        let Some(target) = TARGETS.iter().find(|target| target.id == *id) else {
            continue;
        };
        let results = records.results(measure, id, variant);
        // Who is left out of everything is told once, at the head.
        let mut errors = records.errors(measure, id, variant);
        errors.retain(|(_, error)| !error.starts_with(LEFT_OUT));
        failed.extend(
            errors
                .iter()
                .map(|(round, error)| format!("- round {} of {}: {error}", round + 1, target.name)),
        );
        if results.is_empty() {
            continue;
        }
        let name = match errors.len() {
            0 => target.name.to_owned(),
            some => format!(
                "{} (**{} of {} runs**)",
                target.name,
                results.len(),
                results.len() + some
            ),
        };
        let mut cells = special(measure, &results);
        if measure == Measure::Throughput && variant != "open" {
            cells.push(beside_nginx(records, id, variant).map_or_else(|| "–".to_owned(), Spread::cell));
        }
        cells.extend(columns.iter().map(|Column(_, path, scale)| {
            let figures = results.iter().filter_map(|result| result.pointer(path)?.as_f64());
            Spread::of(figures.map(|figure| figure * scale)).map_or_else(|| "–".to_owned(), Spread::cell)
        }));
        told.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    if !failed.is_empty() {
        told.push_str(&format!(
            "\nRuns that failed, and are in no figure above:\n\n{}\n",
            failed.join("\n")
        ));
    }
    told
}

/// Answers a second as a part of nginx's in the same round, over all rounds that both have.
fn beside_nginx(records: &Records, target: &str, variant: &str) -> Option<Spread> {
    let rate = |result: &Value| result["per_second"].as_f64();
    let theirs = records.rounds(Measure::Throughput, "nginx", variant);
    let ours = records.rounds(Measure::Throughput, target, variant);
    Spread::of(ours.iter().filter_map(|(round, result)| {
        let (_, other) = theirs.iter().find(|(other, _)| other == round)?;
        Some(rate(result)? / rate(other)?)
    }))
}

fn columns(measure: Measure, variant: &str) -> &'static [Column] {
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
        Measure::Throughput if variant == "open" => &[
            Column("answers/s", "/per_second", 1.0),
            Column("p50 ms", "/p50_us", MS),
            Column("p99 ms", "/p99_us", MS),
            Column("p99.9 ms", "/p999_us", MS),
            Column("of that, sent late: p99 ms", "/late_p99_us", MS),
            Column("failed", "/failed", 1.0),
            Column("CPU µs an answer", "/cpu_us_per_answer", 1.0),
            Column("master CPU %", "/master_cpu_percent", 1.0),
            Column("workers CPU %", "/workers_cpu_percent", 1.0),
            Column("client CPU %", "/client_cpu_percent", 1.0),
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
            Column("client CPU %", "/client_cpu_percent", 1.0),
        ],
        Measure::Idle => &[
            Column("all ready after ms", "/start_ms", 1.0),
            Column("master RSS MiB", "/master_rss_kib", MIB),
            Column("master PSS MiB", "/master_pss_kib", MIB),
            Column("master CPU ms a minute", "/master_cpu_ms_a_minute", 1.0),
            Column("a worker's PSS MiB", "/worker_pss_kib", MIB),
            Column("a worker's CPU ms a minute", "/worker_cpu_ms_a_minute", 1.0),
            Column("processes", "/processes", 1.0),
            Column("all in, PSS MiB a worker", "/all_in_pss_kib", MIB),
            Column("all in, CPU ms a minute and worker", "/all_in_cpu_ms_a_minute", 1.0),
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
    let mut failed = String::new();
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
        for (round, error) in records.errors(Measure::Ipc, target, "") {
            failed.push_str(&format!("\nRound {} of {target} failed: {error}\n", round + 1));
        }
    }
    told + &failed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn records() -> Records {
        let cell = |target: &str, round: usize, result: Value| json!({ "measure": "D", "target": target, "variant": "new", "round": round, "at": 0, "noise": {}, "result": result });
        let rate = |rate: u32| json!({ "per_second": rate });
        let mut failed = cell("puma", 1, Value::Null);
        failed["error"] = json!("no end within 40s");
        let lines = [
            cell("nginx", 0, rate(100)),
            cell("nginx", 1, rate(400)),
            cell("ours", 0, rate(90)),
            cell("ours", 1, rate(440)),
            cell("ours", 2, rate(1)),
            cell("puma", 0, rate(50)),
            failed,
        ];
        let all = lines.map(|line| serde_json::from_value(line).expect("a record"));
        Records::of(all.into())
    }

    #[test]
    fn rates_are_compared_within_a_round_and_where_nginx_has_none_not_at_all() {
        let beside = beside_nginx(&records(), "ours", "new").expect("two rounds");
        assert_eq!((beside.min, beside.max), (0.9, 1.1));
    }

    #[test]
    fn a_run_that_failed_is_told_in_its_row_and_below() {
        let told = table(Measure::Throughput, "new", &records());
        assert!(
            told.contains("| Puma, cluster mode (5 threads) (**1 of 2 runs**) |"),
            "{told}"
        );
        assert!(
            told.contains("- round 2 of Puma, cluster mode (5 threads): no end within 40s"),
            "{told}"
        );
    }
}
