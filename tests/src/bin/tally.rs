//! `cargo run -p actix-cluster-tests --bin tally [-- --list N|F|O] [--missing]`: which rows have a test that names them.
//!
//! Reads and prints only; what counts as a name is in the library's `tally`.

use std::process::ExitCode;

use actix_cluster_tests::tally::{List, Tally};
use actix_cluster_tests::workspace_root;

fn main() -> ExitCode {
    let (lists, missing) = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(complaint) => {
            eprintln!("tally: {complaint}\nusage: tally [--list N|F|O] [--missing]");
            return ExitCode::from(2);
        }
    };
    let tally = match Tally::of_workspace(&workspace_root()) {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("tally: {error}");
            return ExitCode::FAILURE;
        }
    };
    for list in lists {
        print!("{}", tally.report(list, missing));
    }
    let unknown = tally.unknown();
    if !unknown.is_empty() {
        println!("named by tests but in no list: {}", unknown.join(" "));
    }
    ExitCode::SUCCESS
}

fn wanted(mut arguments: impl Iterator<Item = String>) -> Result<(Vec<List>, bool), String> {
    let (mut lists, mut missing) = (Vec::new(), false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--missing" => missing = true,
            "--list" => {
                let name = arguments.next().unwrap_or_default();
                lists.push(List::from_name(&name).ok_or_else(|| format!("no list is called `{name}`"))?);
            }
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    if lists.is_empty() {
        lists = List::ALL.to_vec();
    }
    Ok((lists, missing))
}
