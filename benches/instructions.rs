//! Instructions that the pure parts execute, counted by valgrind's callgrind and held against a recorded baseline.
//!
//! Time tells little on a machine that others share; instructions of one and the same build differ by a percent or so. Counted are
//! the works of `src/work.rs`, and unit tests of the core, because codec and machine are private: a thousand messages through the
//! codec, and a thousand lives of workers in the cluster's machine. All of it is fixed: a count rises only when more is done for the
//! same.
//!
//! `cargo bench -p actix-cluster-benches --bench instructions` fails when a count has risen by more than the tolerance, or has no
//! record; `ACTIX_CLUSTER_BENCH_RECORD=1` writes the baseline anew. Without valgrind, or with another compiler, LTO, number of
//! codegen units or flags than the baseline's, it ends with a line "NOT JUDGED" and fails nothing. `.ci/run` counts without LTO, as
//! the baseline was recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use actix_cluster_benches::baseline::{Baseline, TOLERANCE, Verdict};
use actix_cluster_benches::work::WORKS;
use actix_cluster_benches::{Failure, number};

/// Which work this process does, when it is the one that is counted.
const WORK: &str = "ACTIX_CLUSTER_BENCH_WORK";

/// A program to be counted.
struct Counted {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Option<(&'static str, String)>,
    /// The function that is counted, with all it calls; `*` stands for anything.
    function: &'static str,
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(WORK) {
        return code(do_work(&name));
    }
    code(compare())
}

fn code(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn do_work(name: &str) -> Result<(), Failure> {
    let work = WORKS.iter().find(|work| work.name == name).ok_or("no such work")?;
    let mut once = (work.prepare)()?;
    // What is done for the first time only is not counted.
    once();
    counted_work(&mut *once);
    Ok(())
}

#[inline(never)]
fn counted_work(once: &mut dyn FnMut()) {
    once();
}

fn compare() -> Result<(), Failure> {
    let has_valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !has_valgrind.is_ok_and(|status| status.success()) {
        println!("instructions: NOT JUDGED, because valgrind is not installed");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let before = std::fs::read_to_string(&path).ok();
    let before: Option<Baseline> = before.as_deref().map(serde_json::from_str).transpose()?;
    let mut counts = BTreeMap::new();
    println!("| what | instructions | of the baseline |\n|---|---:|---:|");
    for counted in works()? {
        let count = counted.count()?;
        let ratio = before.as_ref().and_then(|before| before.ratio(&counted.name, count));
        let told = ratio.map_or_else(|| "not recorded".to_owned(), |ratio| format!("{ratio:.3}"));
        println!("| {} | {count} | {told} |", counted.name);
        counts.insert(counted.name, count);
    }
    let counted = Baseline {
        built: built()?,
        counts,
    };
    if number("ACTIX_CLUSTER_BENCH_RECORD", 0) == 1 {
        let text = serde_json::to_string_pretty(&counted)? + "\n";
        return Ok(std::fs::write(path, text)?);
    }
    let verdict = before.map_or_else(
        || Verdict::NotJudged("there is no baseline".to_owned()),
        |before| before.judge(&counted),
    );
    match verdict {
        Verdict::Fine => println!("instructions: none more than {TOLERANCE} above the baseline"),
        Verdict::NotJudged(why) => {
            println!("instructions: NOT JUDGED, because {why}; ACTIX_CLUSTER_BENCH_RECORD=1 records a new one");
        }
        Verdict::Wrong(wrong) => {
            let wrong = wrong.join(", ");
            return Err(format!("{wrong}; make it cheaper, or record a new baseline and say why").into());
        }
    }
    Ok(())
}

/// All that decides how many instructions the same source becomes.
fn built() -> Result<String, Failure> {
    let rustc = Command::new("rustc").arg("--version").output()?;
    let says = |variable| std::env::var(variable).ok().filter(|value: &String| !value.is_empty());
    let profile = |variable| says(variable).unwrap_or_else(|| "as the workspace says".to_owned());
    // As cargo does it, of which the first wins.
    let flags = says("CARGO_ENCODED_RUSTFLAGS").map(|flags| flags.replace('\u{1f}', " "));
    Ok(format!(
        "{}, LTO {}, codegen units {}, flags {}",
        String::from_utf8_lossy(&rustc.stdout).trim(),
        profile("CARGO_PROFILE_RELEASE_LTO"),
        profile("CARGO_PROFILE_RELEASE_CODEGEN_UNITS"),
        flags.or_else(|| says("RUSTFLAGS")).unwrap_or_else(|| "none".to_owned()),
    ))
}

fn works() -> Result<Vec<Counted>, Failure> {
    let own = std::env::current_exe()?;
    let tests = unit_tests()?;
    let mut works: Vec<Counted> = WORKS
        .iter()
        .map(|work| Counted {
            name: work.name.to_owned(),
            program: own.clone(),
            arguments: Vec::new(),
            environment: Some((WORK, work.name.to_owned())),
            function: "*instructions::counted_work*",
        })
        .collect();
    let test = |name: &str, test: &str, function| Counted {
        name: name.to_owned(),
        program: tests.clone(),
        arguments: [test, "--exact", "--test-threads=1"].map(str::to_owned).to_vec(),
        environment: None,
        function,
    };
    let codec = "ipc::counted_tests::counted_codec_takes_back_what_it_wrote";
    works.push(test(
        "codec: 1,000 messages written",
        codec,
        "*counted_tests::counted_encode*",
    ));
    works.push(test(
        "codec: 1,000 messages read",
        codec,
        "*counted_tests::counted_decode*",
    ));
    for (name, of) in [
        ("machine: 1,000 lives", "a_thousand_lives_end_once_each"),
        (
            "machine: 1,000 lives, one stands by",
            "with_a_standby_they_end_once_each_too",
        ),
    ] {
        works.push(test(
            name,
            &format!("supervision::tests::counted::{of}"),
            "*counted::counted_lives*",
        ));
    }
    Ok(works)
}

/// The core's unit tests, built as this program is.
fn unit_tests() -> Result<PathBuf, Failure> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--release", "-p", "actix-cluster", "--lib", "--all-features"]);
    command.args(["--no-run", "--message-format", "json"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = command.current_dir(root).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let artifacts = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found = artifacts
        .filter(|artifact| artifact["target"]["name"] == "actix_cluster" && artifact["profile"]["test"] == true)
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    Ok(found.ok_or("cargo did not build the unit tests")?)
}

impl Counted {
    fn count(&self) -> Result<u64, Failure> {
        let mut command = Command::new("valgrind");
        command.args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
        ]);
        command.arg(format!("--toggle-collect={}", self.function));
        command.arg(&self.program).args(&self.arguments);
        command.envs(self.environment.clone());
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{}: ended with {}: {said}", self.name, output.status).into());
        }
        let line = said.lines().find_map(|line| line.split_once("Collected : "));
        let count = line.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0);
        if count == 0 {
            return Err(format!("{}: nothing was counted; was `{}` inlined?", self.name, self.function).into());
        }
        Ok(count)
    }
}
