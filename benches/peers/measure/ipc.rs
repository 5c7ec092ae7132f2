//! F: messages between master and worker: the bench `ipc` beside this folder for ours and the bare socket, `node/ipc.js` for Node.

use std::process::{Command, Stdio};

use actix_cluster_benches::Failure;
use serde_json::{Map, Value, json};

use crate::install::Installed;
use crate::place;
use crate::targets::Target;

/// Rows of the bench's table that are kept, and what they are called here.
const ROWS: [(&str, &str); 6] = [
    ("worker → master, `on_message`", "ours, worker to master, one way"),
    ("master → worker", "ours, master to worker, one way"),
    ("raw socket, one write each", "raw socket, one way, one write each"),
    ("raw socket, round trip", "raw socket, round trip"),
    (
        "call master → worker, from a thread of its own",
        "ours, round trip from the master",
    ),
    (
        "call worker → master, answered by `on_message`",
        "ours, round trip from the worker",
    ),
];

pub(super) fn take(target: &Target, installed: &Installed) -> Result<Value, Failure> {
    if target.folder == "node" {
        let mut command = Command::new("node");
        command.arg(place::here().join("node/ipc.js")).arg("3");
        return node(&output(&mut command)?);
    }
    ours(&output(
        Command::new(&installed.ipc).env("ACTIX_CLUSTER_BENCH_ROUNDS", "3"),
    )?)
}

fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bench's Markdown: what, size, messages a second, the master's time for each, p50 and p99 in microseconds.
fn ours(table: &str) -> Result<Value, Failure> {
    let mut found = Map::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [what, size, rate, _, p50, p99] = cells[..] else {
            continue;
        };
        if let Some((_, name)) = ROWS.iter().find(|(row, _)| *row == what) {
            let number = |text: &str| text.parse::<f64>().ok();
            let row = json!({ "per_second": number(rate), "p50_us": number(p50), "p99_us": number(p99) });
            found.insert(format!("{name}, {size}"), row);
        }
    }
    if found.len() != ROWS.len() * 3 {
        return Err(format!(
            "{} rows of the bench `ipc` were found, not {}",
            found.len(),
            ROWS.len() * 3
        )
        .into());
    }
    Ok(Value::Object(found))
}

fn node(lines: &str) -> Result<Value, Failure> {
    let mut found = Map::new();
    for line in lines.lines() {
        let told: Value = serde_json::from_str(line)?;
        let size = match told["size"].as_u64() {
            Some(64) => "64 B",
            Some(1024) => "1 KiB",
            Some(65_536) => "64 KiB",
            other => return Err(format!("Node told of the size {other:?}").into()),
        };
        for (way, name) in [("to_master", "worker to master"), ("to_worker", "master to worker")] {
            let rates = told[way].as_array().into_iter().flatten().filter_map(Value::as_f64);
            let mut rates: Vec<f64> = rates.collect();
            if rates.is_empty() {
                return Err(format!("Node told of no rate {way}").into());
            }
            let rate = actix_cluster_benches::median(&mut rates);
            found.insert(format!("Node, {name}, one way, {size}"), json!({ "per_second": rate }));
        }
        let trip = json!({ "p50_us": told["p50_us"], "p99_us": told["p99_us"] });
        found.insert(format!("Node, round trip, {size}"), trip);
    }
    Ok(Value::Object(found))
}
