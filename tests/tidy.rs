//! The architecture as a test: reads the workspace's own files and fails with `file:line: rule: why`.
//!
//! A new ban is one row of [`BANS`]; every word of every row is proved to fail in `tidy/proofs.rs`. What needs more
//! than words is a function among the checks. Not here: what the compiler or clippy already refuses.

use std::collections::BTreeSet;
use std::fmt;

use actix_cluster_tests::manifest::Manifest;
use actix_cluster_tests::scan::{self, Source};
use actix_cluster_tests::workspace_root;
use bans::{BANS, Ban, Plane};

const LINES_MAX: usize = 500;

/// Files that may be longer, with the reason; a row that is no longer needed fails.
const LONG_FILES: &[(&str, &str)] = &[];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    rule: String,
    why: String,
}

impl Finding {
    fn new(path: &str, index: usize, rule: &str, why: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: index + 1,
            rule: rule.to_owned(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.why)
    }
}

/// The files that the checks look at, real ones or made up for a proof.
struct Workspace {
    files: Vec<(String, String)>,
    sources: Vec<Source>,
}

impl Workspace {
    fn new(files: Vec<(String, String)>) -> Self {
        let is_rust = |path: &str| path.ends_with(".rs");
        let sources = files
            .iter()
            .filter(|(path, _)| is_rust(path))
            .map(|(path, text)| Source::new(path, text))
            .collect();
        Self { files, sources }
    }

    fn here() -> Self {
        Self::new(scan::workspace_files(&workspace_root()).expect("the workspace's own files can be read"))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|(known, _)| known == path)
            .map(|(_, text)| text.as_str())
    }

    /// The names directly under a folder, sorted: files, and folders without their content.
    fn names_in(&self, folder: &str) -> BTreeSet<&str> {
        self.files
            .iter()
            .filter_map(|(path, _)| path.strip_prefix(folder)?.split('/').next())
            .collect()
    }
}

fn banned_words(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ban in BANS {
        let is_under = |path: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        for source in &workspace.sources {
            if (ban.under.is_empty() || is_under(&source.path, ban.under)) && !is_under(&source.path, ban.except) {
                let lines: BTreeSet<(usize, &str)> = banned_in(ban, source);
                let told = |(line, word)| Finding::new(&source.path, line, ban.rule, format!("`{word}`: {}", ban.why));
                findings.extend(lines.into_iter().map(told));
            }
        }
    }
    findings
}

fn banned_in(ban: &Ban, source: &Source) -> BTreeSet<(usize, &'static str)> {
    let plane = if ban.look_at == Plane::Comments {
        &source.comments
    } else {
        &source.code
    };
    let mut lines: Vec<(usize, &str)> = plane.iter().map(String::as_str).enumerate().collect();
    if ban.look_at != Plane::Comments {
        lines.extend(source.imports.iter().map(|(line, path)| (*line, path.as_str())));
    }
    lines.retain(|(line, _)| ban.look_at != Plane::Shipped || !source.is_test(*line));
    let words_of = |&(line, text): &(usize, &str)| {
        let found = ban.words.split_whitespace().filter(|word| scan::names(text, word));
        found.map(|word| (line, word)).collect::<Vec<_>>()
    };
    lines.iter().flat_map(words_of).collect()
}

fn every_source_says_what_lives_in_it(workspace: &Workspace) -> Vec<Finding> {
    let is_silent = |source: &&Source| !source.text.first().is_some_and(|line| line.starts_with("//!"));
    let told = |source: &Source| {
        Finding::new(
            &source.path,
            0,
            "docs first",
            "begin with `//!`: what lives here, what not",
        )
    };
    workspace.sources.iter().filter(is_silent).map(told).collect()
}

fn no_source_is_too_long(workspace: &Workspace, exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let is_excepted = |path: &str| exceptions.iter().any(|(excepted, _)| *excepted == path);
    let too_long = |source: &&Source| source.text.len() > LINES_MAX;
    let long = workspace
        .sources
        .iter()
        .filter(too_long)
        .filter(|source| !is_excepted(&source.path));
    let why = format!("more than {LINES_MAX} lines; split it by noun");
    let mut findings: Vec<_> = long
        .map(|source| Finding::new(&source.path, LINES_MAX, "short files", why.as_str()))
        .collect();
    for (path, _) in exceptions {
        if !workspace
            .sources
            .iter()
            .filter(too_long)
            .any(|source| source.path == *path)
        {
            findings.push(Finding::new(
                path,
                0,
                "short files",
                "is excepted and need not be; take its row away",
            ));
        }
    }
    findings
}

fn manifests_point_downwards(workspace: &Workspace) -> Vec<Finding> {
    let manifests = workspace.files.iter().filter(|(path, _)| path.ends_with("Cargo.toml"));
    let manifests: Vec<Manifest> = manifests.map(|(path, text)| Manifest::new(path, text)).collect();
    let members: Vec<&str> = manifests.iter().filter_map(Manifest::name).collect();
    let Some(root) = manifests.iter().find(|manifest| manifest.path == "Cargo.toml") else {
        return vec![Finding::new("Cargo.toml", 0, "manifests", "the workspace has none")];
    };
    let mut findings = Vec::new();
    for key in ["autoexamples", "autotests", "autobenches"] {
        if root.get(&format!("package.{key}")) != Some("false") {
            findings.push(Finding::new(
                "Cargo.toml",
                0,
                "manifests",
                format!("say `{key} = false`: members own these"),
            ));
        }
    }
    let needs = |manifest: &Manifest| {
        let ships = manifest
            .internal(&members, root)
            .into_iter()
            .filter(|dependency| !dependency.is_dev);
        ships.map(|dependency| dependency.name).collect::<Vec<_>>()
    };
    for manifest in &manifests {
        let own = manifest.name().unwrap_or_default();
        for dependency in manifest.internal(&members, root) {
            let mut tell = |why: &str| {
                let why = format!("`{}`: {why}", dependency.name);
                findings.push(Finding::new(&manifest.path, dependency.line, "manifests", why));
            };
            let target = manifests.iter().find(|other| other.name() == Some(&dependency.name));
            if !dependency.has_path {
                tell("a member is taken by its path");
            }
            // A published dev-dependency without a version is left out of the package, and the package still builds.
            if manifest.is_published() && !dependency.is_dev && !dependency.has_version {
                tell("a published package needs the version too");
            }
            if !manifest.is_published() && dependency.has_version {
                tell("an unpublished member takes the path alone");
            }
            if manifest.is_published() && target.is_some_and(|target| !target.is_published()) && !dependency.is_dev {
                tell("a published package cannot need an unpublished one");
            }
            if dependency.is_dev && target.is_some_and(|target| needs(target).iter().any(|name| name == own)) {
                tell("points upwards: it needs this package, so tests would link two of it");
            }
        }
    }
    findings
}

fn lists_are_complete(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(readme) = workspace.text("examples/README.md") {
        let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with('|')).collect();
        for name in workspace.names_in("examples/") {
            let example = name.strip_suffix(".rs").unwrap_or(name);
            let is_example = name.ends_with(".rs") || workspace.text(&format!("examples/{name}/main.rs")).is_some();
            if is_example && !rows.iter().any(|row| row.contains(&format!("`{example}`"))) {
                let why = format!("`{example}` has no row");
                findings.push(Finding::new("examples/README.md", 0, "examples are listed", why));
            }
        }
    }
    if let Some(main) = workspace.text("tests/process/main.rs") {
        let main = Source::new("main.rs", main);
        for name in workspace.names_in("tests/process/") {
            let module = name.strip_suffix(".rs").unwrap_or(name);
            if module != "main" && !main.code.iter().any(|line| line.contains(&format!("mod {module};"))) {
                let why = format!("`{module}` is not built; say `mod {module};`");
                findings.push(Finding::new("tests/process/main.rs", 0, "scenarios are listed", why));
            }
        }
    }
    findings
}

fn papers_keep_up(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in ["CHANGELOG.md", "actors/CHANGELOG.md"] {
        let text = workspace.text(path);
        // The second package may not have begun one.
        if text.map_or(path == "CHANGELOG.md", |text| {
            !text.lines().any(|line| line.starts_with("## [Unreleased]"))
        }) {
            findings.push(Finding::new(
                path,
                0,
                "changelog",
                "the first head is `## [Unreleased]`",
            ));
        }
    }
    if let Some(architecture) = workspace.text("ARCHITECTURE.md") {
        for room in workspace
            .names_in("src/")
            .into_iter()
            .filter(|name| !name.ends_with(".rs"))
        {
            let is_named = [format!("src/{room}"), format!("`{room}`")]
                .iter()
                .any(|name| architecture.contains(name));
            if !is_named {
                findings.push(Finding::new(
                    "ARCHITECTURE.md",
                    0,
                    "every room is named",
                    format!("`{room}` is not"),
                ));
            }
        }
    }
    let command = workspace
        .text(".ci/run")
        .and_then(|list| list.lines().find_map(|line| line.strip_prefix("TEST=")));
    match (
        command.map(|command| command.trim_matches('"')),
        workspace.text("README.md"),
    ) {
        (None, _) => findings.push(Finding::new(
            ".ci/run",
            0,
            "one test command",
            "say it once, as `TEST=\"…\"`",
        )),
        (Some(command), Some(readme)) if !readme.contains(command) => {
            findings.push(Finding::new(
                "README.md",
                0,
                "one test command",
                format!("name `{command}`"),
            ));
        }
        _ => {}
    }
    findings
}

/// Fails with one finding a line.
fn expect_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} broken rules:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn the_workspace_is_tidy() {
    let workspace = Workspace::here();
    assert!(
        workspace.sources.iter().any(|source| source.path == "src/lib.rs"),
        "the walk found the library"
    );
    let mut findings = banned_words(&workspace);
    findings.extend(every_source_says_what_lives_in_it(&workspace));
    findings.extend(no_source_is_too_long(&workspace, LONG_FILES));
    findings.extend(manifests_point_downwards(&workspace));
    findings.extend(lists_are_complete(&workspace));
    findings.extend(papers_keep_up(&workspace));
    findings.extend(authors::an_author_needs_the_published_crates_only(&workspace));
    findings.extend(promises::promises_are_tested(&workspace));
    findings.extend(bounds::bounds_are_shown(&workspace));
    findings.extend(diagrams::diagrams_match_the_machines(&workspace));
    expect_none(&findings);
}

#[path = "tidy/authors.rs"]
mod authors;
#[path = "tidy/bans.rs"]
mod bans;
#[path = "tidy/bounds.rs"]
mod bounds;
#[path = "tidy/diagrams.rs"]
mod diagrams;
#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/proofs.rs"]
mod proofs;
