//! The results as Markdown: the whole of them beside the raw data, and a short table in the README.

mod columns;
mod papers;
mod prose;

use std::fs;
use std::path::Path;
use std::process::Command;

use actix_cluster_benches::Failure;
use serde_json::{Value, json};

use crate::install::Installed;
use crate::kernel;
use crate::measure::{MEASURES, Measure};
use crate::record::Records;
use crate::stats::{Spread, figure};

pub(crate) use columns::{LEFT_OUT, crash_times, storm_failures};

/// Writes `RESULTS.md`, and the README's section if these are the results that are kept in the repository.
///
/// # Errors
/// A file cannot be written, or the README has no place for the table.
pub(crate) fn write(folder: &Path, records: &Records) -> Result<(), Failure> {
    let machine = fs::read_to_string(folder.join(MACHINE)).unwrap_or_else(|_| "{}".to_owned());
    let machine: Value = serde_json::from_str(&machine)?;
    let is_kept = folder == crate::place::here().join("results");
    // Those that are kept in the repository are beside the peers, where they are looked for.
    let (path, beside) = if is_kept {
        (crate::place::here().join("RESULTS.md"), "results/")
    } else {
        (folder.join("RESULTS.md"), "")
    };
    let mut text = papers::head(&machine, records, beside);
    for measure in MEASURES {
        text.push_str(&columns::section(measure, records));
        text.push_str(&pictures(folder, beside, measure));
    }
    fs::write(path, text)?;
    if is_kept {
        papers::put_into_readme(&machine, records)?;
    }
    Ok(())
}

/// The pictures of a measure, by the letter that their names begin with.
fn pictures(folder: &Path, beside: &str, measure: Measure) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with(&format!("{}-", measure.letter())) && name.ends_with(".svg"))
        .collect();
    names.sort_unstable();
    let shown = names
        .iter()
        .map(|name| format!("\n![{}]({beside}{name})\n", name.trim_end_matches(".svg")));
    shown.collect()
}

/// Keeps what the results are of: machine, versions, how we were built. What was known of peers that are not measured now stays.
///
/// # Errors
/// It cannot be written.
pub(crate) fn keep_machine(folder: &Path, installed: &Installed) -> Result<(), Failure> {
    let path = folder.join(MACHINE);
    let before = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let before: Value = serde_json::from_str(&before)?;
    let mut peers = before["peers"].as_object().cloned().unwrap_or_default();
    for (peer, versions) in &installed.peers {
        let told = versions.clone().unwrap_or_else(|error| format!("left out: {error}"));
        peers.insert(peer.clone(), json!(told));
    }
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let profile = ["LTO", "CODEGEN_UNITS"].map(|name| {
        let set = std::env::var(format!("CARGO_PROFILE_RELEASE_{name}")).ok()?;
        Some(format!("{}={set}", name.to_lowercase()))
    });
    let profile: Vec<String> = profile.into_iter().flatten().collect();
    let machine = json!({
        "machine": kernel::machine(),
        "rustc": said("rustc", "--version"),
        "profile": if profile.is_empty() { "the workspace's release profile".to_owned() } else { profile.join(", ") },
        "peers": peers,
    });
    Ok(fs::write(path, serde_json::to_string_pretty(&machine)? + "\n")?)
}

/// A cell in a few words, for whoever watches.
pub(crate) fn headline(measure: Measure, result: &Value) -> String {
    let number = |path: &str| {
        result
            .pointer(path)
            .and_then(Value::as_f64)
            .map_or_else(String::new, figure)
    };
    match measure {
        Measure::Crash => {
            let times = result["ms"].as_array().into_iter().flatten().filter_map(Value::as_f64);
            let median = Spread::of(times).map_or_else(String::new, Spread::cell);
            format!("{median} ms, {} failed probes", number("/failed"))
        }
        Measure::Storm => format!(
            "{} failed of {} at {} kills",
            number("/failed"),
            number("/answers"),
            number("/kills")
        ),
        Measure::Reload => format!("{} ms, {} failed", number("/reload_ms"), number("/failed")),
        Measure::Throughput => format!(
            "{}/s, p99 {} µs, {} failed",
            number("/per_second"),
            number("/p99_us"),
            number("/failed")
        ),
        Measure::Idle => format!(
            "{} ms to start, master {} KiB",
            number("/start_ms"),
            number("/master_rss_kib")
        ),
        Measure::Ipc => format!("{} rows", result.as_object().map_or(0, serde_json::Map::len)),
    }
}

const MACHINE: &str = "machine.json";
