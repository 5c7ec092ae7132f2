//! The diagrams in `ARCHITECTURE.md` show exactly the states that the machines have.

use super::{Finding, Workspace};

/// The section with the diagrams.
const HEAD: &str = "## The two machines";

/// Where each state of the machines is written down.
const ENUMS: [(&str, &str); 8] = [
    ("src/supervision/lifecycle.rs", "State"),
    ("src/supervision/lifecycle.rs", "Heard"),
    ("src/supervision/lifecycle.rs", "Boot"),
    ("src/supervision/mod.rs", "Course"),
    ("src/supervision/seat.rs", "SeatState"),
    ("src/supervision/seat.rs", "Beside"),
    ("src/supervision/changes.rs", "Progress"),
    ("src/supervision/rollout.rs", "RollCourse"),
];

pub(super) fn diagrams_match_the_machines(workspace: &Workspace) -> Vec<Finding> {
    let tell = |why: String| Finding::new("ARCHITECTURE.md", 0, "diagrams match the machines", why);
    let Some(architecture) = workspace.text("ARCHITECTURE.md") else {
        return Vec::new();
    };
    let drawn = drawn_states(architecture);
    let mut findings = Vec::new();
    let mut known = Vec::new();
    for (path, name) in ENUMS {
        let variants = workspace
            .text(path)
            .map_or_else(Vec::new, |text| variants_of(text, name));
        if variants.is_empty() {
            findings.push(tell(format!("`{path}` has no enum `{name}`")));
        }
        for variant in variants {
            if !drawn.contains(&variant) {
                findings.push(tell(format!("`{name}::{variant}` is not drawn")));
            }
            known.push(variant);
        }
    }
    let gone = drawn.iter().filter(|state| !known.contains(state));
    findings.extend(gone.map(|state| tell(format!("`{state}` is drawn and is no state"))));
    findings
}

/// Both ends of every arrow in the section's diagrams.
fn drawn_states(architecture: &str) -> Vec<String> {
    let section = architecture.lines().skip_while(|line| *line != HEAD).skip(1);
    let arrows = section
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.split_once(" --> "));
    let ends = arrows.flat_map(|(from, to)| [from, to.split(':').next().unwrap_or_default()]);
    let names = ends.map(str::trim).filter(|name| *name != "[*]");
    names.map(str::to_owned).collect()
}

/// The variants of an enum as rustfmt writes them: four spaces deep, the rest deeper.
fn variants_of(text: &str, name: &str) -> Vec<String> {
    let is_head =
        |line: &&str| line.trim_end_matches(" {").split(' ').next_back() == Some(name) && line.contains("enum ");
    let body = text.lines().skip_while(|line| !is_head(line)).skip(1);
    let variants = body.take_while(|line| *line != "}").filter_map(|line| {
        let line = line.strip_prefix("    ")?;
        line.starts_with(|c: char| c.is_ascii_uppercase())
            .then(|| line.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
    });
    variants.map(str::to_owned).collect()
}

#[test]
fn a_state_that_is_not_drawn_and_one_that_is_gone_are_found() {
    let code = "//! X.\nenum Heard {\n    /// Not yet.\n    Silent,\n    Deep {\n        Inner: u8,\n    },\n    Loud(u8),\n}\n";
    assert_eq!(variants_of(code, "Heard"), ["Silent", "Deep", "Loud"]);
    let paper = format!("{HEAD}\n    [*] --> Silent: born\n    Silent --> Gone: a --> b\n## Next\n    A --> B\n");
    assert_eq!(drawn_states(&paper), ["Silent", "Silent", "Gone"]);
    let workspace = Workspace::new(vec![
        ("ARCHITECTURE.md".to_owned(), paper),
        ("src/supervision/lifecycle.rs".to_owned(), code.to_owned()),
    ]);
    let found = diagrams_match_the_machines(&workspace);
    for expected in ["`Heard::Loud` is not drawn", "`Gone` is drawn and is no state"] {
        assert!(found.iter().any(|finding| finding.why == expected), "{expected}");
    }
}
