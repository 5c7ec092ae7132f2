//! Getting the targets: peers by their own `install.sh`, ours by cargo. What cannot be had is left out, and the table says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use actix_cluster_benches::Failure;

use crate::place;
use crate::targets::Target;

/// What is there to be measured.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    /// The versions of each peer, by its folder; an error if it is not to be had.
    pub(crate) peers: BTreeMap<String, Result<String, String>>,
    /// The example `http_server`.
    pub(crate) ours: PathBuf,
    /// The same, linked statically; `None` if nobody wants it.
    ours_static: Option<Result<PathBuf, String>>,
    /// The bench `ipc`.
    pub(crate) ipc: PathBuf,
    /// This program, as it is on disk now: building the others may have replaced the file that runs.
    pub(crate) driver: PathBuf,
    help: String,
}

impl Installed {
    /// Installs what is missing; the example once more, linked statically, only if `with_static`.
    ///
    /// # Errors
    /// Our own programs cannot be built.
    pub(crate) fn new(folders: &[&str], with_static: bool) -> Result<Self, Failure> {
        let [ours, ipc, driver] = build()?;
        let ours_static = with_static.then(|| build_statically().map_err(|error| error.to_string()));
        let help = Command::new(&ours).arg("--help").output()?;
        Ok(Self {
            peers: folders
                .iter()
                .map(|folder| ((*folder).to_owned(), install(folder)))
                .collect(),
            ours,
            ours_static,
            ipc,
            driver,
            help: String::from_utf8_lossy(&help.stdout).into_owned(),
        })
    }

    /// The example that is linked statically, if it was wanted and could be built.
    pub(crate) fn ours_static(&self) -> Option<&Path> {
        self.ours_static.as_ref()?.as_deref().ok()
    }

    /// Why this target cannot be measured here, if so.
    pub(crate) fn missing(&self, target: &Target) -> Option<String> {
        if let Some(Err(error)) = self.peers.get(target.folder) {
            return Some(error.clone());
        }
        if target.is_static()
            && let Some(Err(error)) = &self.ours_static
        {
            return Some(error.clone());
        }
        let is_ours = target.is_ours();
        let word = target.start.iter().skip(1).filter(|_| is_ours).find(|word| {
            let is_told = word.starts_with("--") || word.chars().all(|char| char.is_ascii_lowercase() || char == '-');
            is_told && !knows(&self.help, word)
        })?;
        Some(format!("the example `http_server` does not know `{word}` yet"))
    }
}

/// Is this flag or value one that the help names?
fn knows(help: &str, word: &str) -> bool {
    help.split(|char: char| !(char.is_ascii_alphanumeric() || char == '-'))
        .any(|told| told == word)
}

/// Runs the installer of a peer, unless it was run before and has not changed since. Its last lines are the versions.
fn install(folder: &str) -> Result<String, String> {
    let (here, prefix) = (place::here().join(folder), place::prefix(folder));
    let stamp = prefix.join("installed-by");
    let wanted = contents(&here).map_err(|error| error.to_string())?;
    let versions = prefix.join("versions");
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return std::fs::read_to_string(versions).map_err(|error| error.to_string());
    }
    eprintln!("installing {folder}");
    let attempt = || -> Result<String, Failure> {
        if prefix.exists() {
            std::fs::remove_dir_all(&prefix)?;
        }
        std::fs::create_dir_all(&prefix)?;
        let mut command = Command::new("timeout");
        command.args(["600", "sh", "install.sh"]).current_dir(&here);
        let output = command.env("PEERS_PREFIX", &prefix).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let last = said.lines().last().unwrap_or_default().to_owned();
            return Err(format!("its installer ended with {}: {last}", output.status).into());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let told = lines[lines.len().saturating_sub(2)..].join(", ");
        std::fs::write(&versions, &told)?;
        std::fs::write(&stamp, &wanted)?;
        Ok(told)
    };
    attempt().map_err(|error| error.to_string())
}

/// What decides how a peer is installed: its installer with what that reads, and the files that pin versions.
fn contents(folder: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let files = [
        "install.sh",
        "env.sh",
        "package.json",
        "requirements.txt",
        "ports.erl",
        "../debian.sh",
    ];
    for name in files {
        let path = folder.join(name);
        // For those only who source it.
        if name == "../debian.sh" && !text.contains(name) {
            continue;
        }
        if path.exists() {
            text.push_str(&std::fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

/// Builds the example and the bench that are measured, with the release profile as the environment sets it.
fn build() -> Result<[PathBuf; 3], Failure> {
    eprintln!("building our own programs");
    let mut command = cargo();
    command.args(["-p", "actix-cluster-examples", "-p", "actix-cluster-benches"]);
    command.args(["--example", "http_server", "--bench", "ipc", "--bin", "peers"]);
    let said = output(&mut command)?;
    Ok([
        built(&said, "http_server")?,
        built(&said, "ipc")?,
        built(&said, "peers")?,
    ])
}

/// The example as a service should ship it; the target is named, or build scripts and macros would be linked statically too.
fn build_statically() -> Result<PathBuf, Failure> {
    eprintln!("building the example once more, linked statically");
    let told = Command::new("rustc").arg("-vV").output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    let mut command = cargo();
    command.args(["-p", "actix-cluster-examples", "--example", "http_server"]);
    command.args(["--target", host.ok_or("rustc does not name its host")?]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // It would win over the other variable.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(built(&output(&mut command)?, "http_server")?)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--all-features", "--message-format", "json"]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What cargo tells of what it built.
fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("cargo ended with {}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn built(said: &str, name: &str) -> Result<PathBuf, String> {
    let artifacts = said
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = artifacts
        .filter(|artifact| artifact["target"]["name"] == name)
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    executable.ok_or_else(|| format!("cargo did not build `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installer_is_run_again_when_what_it_sources_changes() {
        let contents = |peer: &str| contents(&place::here().join(peer)).expect("its folder");
        assert!(contents("erlang").contains("erlexec") && contents("erlang").contains("dpkg -x"));
        assert!(
            !contents("granian").contains("dpkg -x"),
            "it needs no package of Debian's"
        );
    }

    #[test]
    fn a_flag_that_the_example_does_not_know_is_found_missing() {
        let help = "      --scheduling <SPREAD>  How [possible values: shared, per-worker]\n";
        assert!(knows(help, "--scheduling") && knows(help, "per-worker"));
        assert!(!knows(help, "--standby") && !knows(help, "round-robin"));
    }
}
