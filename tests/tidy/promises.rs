//! Every promise in `README.md` names the tests that show it, and every one of them exists.

use super::{Finding, Workspace};

/// The section that promises.
const HEAD: &str = "## What it promises";

pub(super) fn promises_are_tested(workspace: &Workspace) -> Vec<Finding> {
    let Some(readme) = workspace.text("README.md") else {
        return Vec::new();
    };
    let lines = readme
        .lines()
        .enumerate()
        .skip_while(|(_, line)| !line.starts_with(HEAD));
    let section = lines.skip(1).take_while(|(_, line)| !line.starts_with("## "));
    // After the table's head and its rule.
    let rows = section.filter(|(_, line)| line.starts_with('|')).skip(2);
    let mut findings = Vec::new();
    for (index, row) in rows {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        let mut tell = |why: String| findings.push(Finding::new("README.md", index, "promises are tested", why));
        if names.is_empty() {
            tell("name the test or bench that shows it".to_owned());
        }
        for name in names.iter().filter(|name| !exists(workspace, name)) {
            tell(format!("`{name}` is no test"));
        }
    }
    findings
}

/// A test is a function, a scenario a value with a name.
fn exists(workspace: &Workspace, name: &str) -> bool {
    let (function, scenario) = (format!("fn {name}("), format!("name: \"{name}\""));
    let mut lines = workspace.sources.iter().flat_map(|source| &source.text);
    lines.any(|line| line.contains(&function) || line.contains(&scenario))
}

#[test]
fn a_promise_without_its_test_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let readme = "# x\n## What it promises\n| promise | shown by |\n|---|---|\n| a | `kept` |\n| b | `gone`, `told` |\n| c | |\n## Next\n| x | `y` |\n";
    let workspace = Workspace::new(vec![
        file("README.md", readme),
        file("src/a.rs", "//! A.\nfn kept() {}\n"),
        file("tests/process/b.rs", "//! B.\nname: \"told\",\n"),
    ]);
    let found: Vec<_> = promises_are_tested(&workspace)
        .into_iter()
        .map(|finding| (finding.line, finding.why))
        .collect();
    assert_eq!(
        found,
        [
            (6, "`gone` is no test".to_owned()),
            (7, "name the test or bench that shows it".to_owned()),
        ]
    );
}
