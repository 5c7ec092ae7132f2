//! What an author outside of this workspace needs: the two published crates and what those are built on, no more. The
//! example of a plug-in shows it, so it keeps to it; that the plug-ins have no private doors is said in `bans`.

use std::collections::BTreeSet;

use super::{Finding, Workspace};

/// The example that an author begins with.
const EXAMPLE: &str = "examples/custom_subscriber.rs";
/// The crates that it may name. `actix_rt` has the attribute of an asynchronous test.
const CRATES: [&str; 5] = ["std", "actix", "actix_rt", "actix_cluster", "actix_cluster_actors"];
/// So that it is read to its end.
const LINES_MAX: usize = 80;
const ACTORS: &str = "actors/src/lib.rs";

pub(super) fn an_author_needs_the_published_crates_only(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in workspace.sources.iter().filter(|source| source.path == EXAMPLE) {
        if source.text.len() > LINES_MAX {
            let why = format!("more than {LINES_MAX} lines");
            findings.push(Finding::new(EXAMPLE, LINES_MAX, "authors", why));
        }
        let imports = source.imports.iter().map(|(line, path)| (*line, path.as_str()));
        let code = source.code.iter().map(String::as_str).enumerate();
        let named: BTreeSet<(usize, &str)> = imports
            .chain(code)
            .flat_map(|(line, text)| roots(text).map(move |root| (line, root)))
            .filter(|(_, root)| !CRATES.contains(root))
            .collect();
        let told = |(line, root)| Finding::new(EXAMPLE, line, "authors", format!("`{root}` is of no published crate"));
        findings.extend(named.into_iter().map(told));
    }
    let forbids = |text: &str| text.lines().any(|line| line == "#![forbid(unsafe_code)]");
    if workspace.text(ACTORS).is_some_and(|text| !forbids(text)) {
        findings.push(Finding::new(ACTORS, 0, "authors", "say `#![forbid(unsafe_code)]`"));
    }
    findings
}

/// What the paths of this line begin with, as far as it is a crate or a module and not a type.
fn roots(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("::").filter_map(move |(at, _)| {
        let before = &line[..at];
        let begin = before.rfind(|c| !is_word(c)).map_or(0, |last| last + 1);
        let (rest, word) = before.split_at(begin);
        let is_root = !rest.ends_with([':', '.']) && word.starts_with(|c: char| c.is_lowercase());
        (is_root && !matches!(word, "super" | "self" | "crate")).then_some(word)
    })
}

#[test]
fn an_author_who_needs_more_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let found = |example: &str, actors: &str| {
        let workspace = Workspace::new(vec![file(EXAMPLE, example), file(ACTORS, actors)]);
        let found = an_author_needs_the_published_crates_only(&workspace);
        found
            .into_iter()
            .map(|it| format!("{}:{}: {}", it.path, it.line, it.why))
            .collect::<Vec<_>>()
    };
    let fine = "use std::fmt;\nuse actix_cluster::{Cluster, Events};\nactix::clock::sleep(Type::new()); super::x();\n";
    assert!(found(fine, "#![forbid(unsafe_code)]\n").is_empty());
    let bad = "use serde::Serialize;\nlet x = tokio::spawn(y);\n// nix::z\n\"libc::z\";\n";
    let told = found(bad, "// #![forbid(unsafe_code)]\n");
    assert_eq!(
        told,
        [
            "examples/custom_subscriber.rs:1: `serde` is of no published crate",
            "examples/custom_subscriber.rs:2: `tokio` is of no published crate",
            "actors/src/lib.rs:1: say `#![forbid(unsafe_code)]`",
        ]
    );
    assert_eq!(found(&"//!\n".repeat(81), "#![forbid(unsafe_code)]").len(), 1);
}
