//! Each rule of the tidy suite broken once, on made-up files: a guard nobody has seen bark may be stuffed.

use super::*;

fn made_up(files: &[(&str, &str)]) -> Workspace {
    Workspace::new(
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect(),
    )
}

fn broken(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.rule))
        .collect()
}

#[test]
fn every_word_of_every_ban_is_found_where_it_counts_and_nowhere_else() {
    for ban in BANS {
        for word in ban.words.split_whitespace() {
            let path = format!("{}x.rs", ban.under.first().unwrap_or(&"src/"));
            let word = word.trim_end_matches('*');
            let (code, comment, quoted) = (
                format!("\n{word} x;\n"),
                format!("\n// {word} x\n"),
                format!("\n\"{word} x\";\n"),
            );
            let (bad, fine) = if ban.look_at == Plane::Comments {
                (&comment, &code)
            } else {
                (&code, &comment)
            };
            let told = format!("{path}:2: {}", ban.rule);
            assert!(
                broken(&banned_words(&made_up(&[(&path, bad)]))).contains(&told),
                "{told}: {word}"
            );
            for text in [fine, &quoted] {
                assert!(
                    !broken(&banned_words(&made_up(&[(&path, text)]))).contains(&told),
                    "{told}: {text}"
                );
            }
            let gated = format!("\n#[cfg(test)]\nmod tests {{ {word} }}\n");
            let found = banned_words(&made_up(&[(&path, &gated)]));
            assert_eq!(
                found.iter().any(|f| f.rule == ban.rule),
                ban.look_at == Plane::Code,
                "{told}: in a test"
            );
            for elsewhere in ban.except {
                let found = banned_words(&made_up(&[(&format!("{elsewhere}x.rs"), bad)]));
                assert!(!found.iter().any(|f| f.rule == ban.rule), "{elsewhere}: {word}");
            }
        }
    }
}

#[test]
fn braces_of_an_import_hide_nothing() {
    let found = banned_words(&made_up(&[("src/model/x.rs", "use std::{\n    fmt,\n    fs,\n};\n")]));
    assert_eq!(
        found[0].to_string().split(": a noun").next(),
        Some("src/model/x.rs:1: model is values: `std::fs`")
    );
    let found = banned_words(&made_up(&[(
        "src/ipc/x.rs",
        "use crate::{model::Slot, process::Spawn};\n",
    )]));
    assert_eq!(broken(&found), ["src/ipc/x.rs:1: ipc knows no other room"]);
    assert!(banned_words(&made_up(&[("src/ipc/x.rs", "use std::process::id;\n")])).is_empty());
}

#[test]
fn a_source_without_docs_is_found() {
    let found = every_source_says_what_lives_in_it(&made_up(&[("src/a.rs", "//! A.\n"), ("src/b.rs", "mod a;\n")]));
    assert_eq!(broken(&found), ["src/b.rs:1: docs first"]);
}

#[test]
fn a_long_source_is_found_and_so_is_a_stale_exception() {
    let (long, short) = ("//!\n".repeat(LINES_MAX + 1), "//!\n".repeat(LINES_MAX));
    let workspace = made_up(&[("src/a.rs", &long), ("src/b.rs", &short)]);
    assert_eq!(
        broken(&no_source_is_too_long(&workspace, &[])),
        ["src/a.rs:501: short files"]
    );
    let stale = [
        ("src/a.rs", "a table"),
        ("src/b.rs", "was long"),
        ("src/c.rs", "was there"),
    ];
    let found = broken(&no_source_is_too_long(&workspace, &stale));
    assert_eq!(found, ["src/b.rs:1: short files", "src/c.rs:1: short files"]);
}

#[test]
fn every_manifest_rule_is_seen_to_fail() {
    let root = |rest: &str| {
        format!("[package]\nname = \"core\"\nautoexamples = false\nautotests = false\nautobenches = false\n{rest}")
    };
    let found = |core: &str, other: &str| {
        let (core, other) = (root(core), format!("[package]\nname = \"other\"\n{other}"));
        let found = manifests_point_downwards(&made_up(&[("Cargo.toml", &core), ("other/Cargo.toml", &other)]));
        found
            .into_iter()
            .map(|finding| finding.why)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (both, path) = (
        "core = { version = \"1\", path = \"..\" }\n",
        "core = { path = \"..\" }\n",
    );
    assert_eq!(found("", &format!("[dependencies]\n{both}")), "");
    assert_eq!(found("", &format!("publish = false\n[dependencies]\n{path}")), "");
    assert!(found("", &format!("[dependencies]\n{path}")).contains("needs the version too"));
    assert!(found("", "[dependencies]\ncore = \"1\"\n").contains("by its path"));
    assert!(found("", &format!("publish = false\n[dependencies]\n{both}")).contains("the path alone"));
    let up = "[dev-dependencies]\nother = { path = \"other\" }\n";
    assert!(found(up, &format!("[dependencies]\n{both}")).contains("points upwards"));
    let down = "[dependencies]\nother = { path = \"other\", version = \"1\" }\n";
    assert!(found(down, "publish = false\n").contains("cannot need an unpublished one"));
    let bare = made_up(&[("Cargo.toml", "[package]\nname = \"core\"\n")]);
    assert_eq!(manifests_point_downwards(&bare).len(), 3);
    assert_eq!(manifests_point_downwards(&made_up(&[])).len(), 1);
}

#[test]
fn an_unlisted_example_or_scenario_is_found() {
    let workspace = made_up(&[
        ("examples/README.md", "`b` is not in a row\n| `a` | shows |\n"),
        ("examples/a.rs", ""),
        ("examples/b.rs", ""),
        ("examples/c/main.rs", ""),
        ("examples/src/lib.rs", ""),
        ("tests/process/main.rs", "mod a;\n// mod b;\n"),
        ("tests/process/a.rs", ""),
        ("tests/process/b.rs", ""),
    ]);
    let found: Vec<String> = lists_are_complete(&workspace)
        .into_iter()
        .map(|finding| finding.why)
        .collect();
    assert_eq!(
        found,
        ["`b` has no row", "`c` has no row", "`b` is not built; say `mod b;`"]
    );
}

#[test]
fn papers_that_lag_behind_are_found() {
    let fine = made_up(&[
        ("CHANGELOG.md", "# Changes\n\n## [Unreleased]\n"),
        ("ARCHITECTURE.md", "| `model` | src/ipc |"),
        ("src/model/mod.rs", ""),
        ("src/ipc/mod.rs", ""),
        (".ci/run", "TEST=\"cargo test\"\n"),
        ("README.md", "run `cargo test`"),
    ]);
    expect_none(&papers_keep_up(&fine));
    let lagging = made_up(&[
        ("actors/CHANGELOG.md", "## 0.1\n"),
        ("ARCHITECTURE.md", "the model of things"),
        ("src/model/mod.rs", ""),
        (".ci/run", "TEST=\"cargo test\"\n"),
        ("README.md", "run the tests"),
    ]);
    let found = broken(&papers_keep_up(&lagging));
    assert_eq!(
        found,
        [
            "CHANGELOG.md:1: changelog",
            "actors/CHANGELOG.md:1: changelog",
            "ARCHITECTURE.md:1: every room is named",
            "README.md:1: one test command",
        ]
    );
    assert_eq!(
        broken(&papers_keep_up(&made_up(&[("CHANGELOG.md", "## [Unreleased]")]))),
        [".ci/run:1: one test command"]
    );
}
