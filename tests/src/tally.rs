//! Counting: which rows of the acceptance lists have a test that carries their name.
//!
//! A row is proved by a function `n_025_…` or by a scenario whose name is a string `"f_005_…"`; one name may carry
//! several ids, `n_025_n_026_…`. Whether the test is any good is not decided here. An ignored test counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::fs;
use std::io;
use std::path::Path;

use crate::scan::{self, Source};

/// One acceptance list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Behaviours of Node's cluster.
    Node,
    /// Faults.
    Fault,
    /// Supervisor behaviours.
    Otp,
}

impl List {
    /// In the order they are reported.
    pub const ALL: [Self; 3] = [Self::Node, Self::Fault, Self::Otp];

    /// The list with this letter.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|list| name.eq_ignore_ascii_case(list.letter()))
    }

    fn letter(self) -> &'static str {
        match self {
            Self::Node => "N",
            Self::Fault => "F",
            Self::Otp => "O",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Node => "tests/lists/n.txt",
            Self::Fault => "tests/lists/f.txt",
            Self::Otp => "tests/lists/o.txt",
        }
    }

    /// Where the area stands: a fault has tiers and a priority where the others have an applicability.
    fn area_column(self) -> usize {
        match self {
            Self::Node | Self::Otp => 2,
            Self::Fault => 3,
        }
    }
}

/// What a row asks of us today.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Due {
    Now,
    Later(String),
    NotApplicable,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    area: String,
    due: Due,
}

/// The lists beside the names found in the sources.
#[derive(Debug, Default)]
pub struct Tally {
    rows: BTreeMap<List, Vec<Row>>,
    named: BTreeSet<String>,
}

impl Tally {
    /// Reads the committed lists and every source of the workspace.
    ///
    /// # Errors
    /// When a file cannot be read, or a line of a list is not a row.
    pub fn of_workspace(root: &Path) -> io::Result<Self> {
        let mut tally = Self::default();
        for list in List::ALL {
            let text = fs::read_to_string(root.join(list.file()))?;
            tally.rows.insert(list, rows(list, &text).map_err(io::Error::other)?);
        }
        for (path, text) in scan::workspace_files(root)? {
            // This file's own samples prove nothing.
            if path.ends_with(".rs") && path != "tests/src/tally.rs" {
                tally.named.extend(ids_of(&Source::new(&path, &text)));
            }
        }
        Ok(tally)
    }

    /// Ids that tests name and no list holds, sorted.
    #[must_use]
    pub fn unknown(&self) -> Vec<&str> {
        let known: BTreeSet<&str> = self.rows.values().flatten().map(|row| row.id.as_str()).collect();
        self.named
            .iter()
            .map(String::as_str)
            .filter(|id| !known.contains(id))
            .collect()
    }

    /// The table of one list; with `missing` also the ids that no test names.
    #[must_use]
    pub fn report(&self, list: List, missing: bool) -> String {
        let mut areas: BTreeMap<&str, Count> = BTreeMap::new();
        let mut all = Count::default();
        for row in self.rows.get(&list).into_iter().flatten() {
            let is_named = self.named.contains(&row.id);
            areas.entry(&row.area).or_default().add(row, is_named);
            all.add(row, is_named);
        }
        let mut text = line(list.letter(), &HEADS);
        for (area, count) in areas.iter().chain([(&"total", &all)]) {
            count.write(area, missing && *area != "total", &mut text);
        }
        text.push('\n');
        text
    }
}

/// One line of the report.
#[derive(Debug, Default)]
struct Count {
    rows: usize,
    not_applicable: usize,
    now_named: usize,
    now_missing: Vec<String>,
    later_named: usize,
    later_missing: BTreeMap<String, Vec<String>>,
}

impl Count {
    fn add(&mut self, row: &Row, is_named: bool) {
        self.rows += 1;
        match (&row.due, is_named) {
            (Due::NotApplicable, _) => self.not_applicable += 1,
            (Due::Now, true) => self.now_named += 1,
            (Due::Now, false) => self.now_missing.push(row.id.clone()),
            (Due::Later(_), true) => self.later_named += 1,
            (Due::Later(step), false) => self.later_missing.entry(step.clone()).or_default().push(row.id.clone()),
        }
    }

    fn write(&self, area: &str, missing: bool, text: &mut String) {
        let later_missing: usize = self.later_missing.values().map(Vec::len).sum();
        let (now, named) = (self.now_missing.len(), self.now_named);
        let columns = [
            self.rows,
            self.not_applicable,
            named + now,
            named,
            now,
            self.later_named + later_missing,
            self.later_named,
        ];
        text.push_str(&line(area, &columns));
        if missing && now > 0 {
            writeln!(text, "    missing now: {}", self.now_missing.join(" ")).expect("a String takes everything");
        }
        for (step, ids) in self.later_missing.iter().filter(|_| missing) {
            writeln!(text, "    {step}: {}", ids.join(" ")).expect("a String takes everything");
        }
    }
}

fn line(name: &str, columns: &[impl Display]) -> String {
    let columns: String = columns.iter().map(|column| format!("{column:>9}")).collect();
    format!("{name:<14}{columns}\n")
}

const HEADS: [&str; 7] = ["rows", "n/a", "due", "named", "missing", "later", "named"];

/// Reads a list: `id class area [later:step]`, for faults `id tiers priority area [later:step]`; `#` starts a remark.
fn rows(list: List, text: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let wrong = || format!("{}: not a row: `{line}`", list.file());
        let (&id, &class) = (columns.first().ok_or_else(wrong)?, columns.get(1).ok_or_else(wrong)?);
        let &area = columns.get(list.area_column()).ok_or_else(wrong)?;
        let due = match columns.get(list.area_column() + 1) {
            Some(note) if note.starts_with("later:") => Due::Later((*note).to_owned()),
            Some(_) => return Err(wrong()),
            None if class == "n/a" => Due::NotApplicable,
            None => Due::Now,
        };
        if ids_in_name(&id.replace('-', "_").to_lowercase()) != [id] {
            return Err(wrong());
        }
        rows.push(Row {
            id: id.to_owned(),
            area: area.to_owned(),
            due,
        });
    }
    Ok(rows)
}

/// The ids that functions and scenario names of one source carry.
#[must_use]
pub fn ids_of(source: &Source) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (at, line) in source.code.iter().enumerate() {
        for (start, _) in line.match_indices("fn ") {
            let name: String = line[start + 3..]
                .chars()
                .take_while(|&c| c.is_alphanumeric() || c == '_')
                .collect();
            if !is_ignored(source, at) {
                ids.extend(ids_in_name(&name));
            }
        }
    }
    for (_, text) in &source.strings {
        if text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            ids.extend(ids_in_name(text));
        }
    }
    ids
}

/// `n_025_f_005_dies_once` carries N-025 and F-005: ids stand in front, each a letter and three digits.
fn ids_in_name(name: &str) -> Vec<String> {
    let parts: Vec<&str> = name.split('_').collect();
    parts
        .chunks(2)
        .map_while(|pair| match pair {
            [letter @ ("n" | "f" | "o"), number] if number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()) => {
                Some(format!("{}-{number}", letter.to_uppercase()))
            }
            _ => None,
        })
        .collect()
}

fn is_ignored(source: &Source, function: usize) -> bool {
    source.code[..function]
        .iter()
        .rev()
        .map(|line| line.trim())
        .take_while(|line| line.starts_with("#["))
        .any(|line| line.starts_with("#[ignore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<String> {
        ids_of(&Source::new("a.rs", text)).into_iter().collect()
    }

    #[test]
    fn functions_and_scenario_names_carry_ids() {
        assert_eq!(
            ids("#[test]\nfn n_025_n_026_events_come_once() {}\n"),
            ["N-025", "N-026"]
        );
        assert_eq!(ids("Scenario { name: \"f_005_ready_and_idle\", .. }\n"), ["F-005"]);
        assert_eq!(ids("async fn o_043_f_016_restarts() {}\n"), ["F-016", "O-043"]);
    }

    #[test]
    fn prose_short_numbers_and_ignored_tests_carry_none() {
        assert!(ids("// fn f_005_x\nfn f_05_x() {}\nfn of_005_x() {}\n").is_empty());
        assert!(ids("let a = \"f_005_x happened\";\n").is_empty());
        assert!(ids("#[test]\n#[ignore]\nfn f_005_x() {}\n").is_empty());
    }

    #[test]
    fn rows_say_when_they_are_due() {
        let text = "# remark\nN-001 direct setup\nN-002 n/a setup\nN-003 adapted udp later:udp\n";
        let due: Vec<Due> = rows(List::Node, text).unwrap().into_iter().map(|row| row.due).collect();
        assert_eq!(due, [Due::Now, Due::NotApplicable, Due::Later("later:udp".to_owned())]);
        assert_eq!(rows(List::Fault, "F-005 S+I 1 A\n").unwrap()[0].area, "A");
        for bad in [
            "N-1 direct setup",
            "N-001 direct",
            "N-001 direct setup soon",
            "X-001 direct setup",
        ] {
            assert!(rows(List::Node, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_report_counts_each_row_once_and_names_what_is_missing() {
        let list = "N-001 direct setup\nN-002 n/a setup\nN-003 direct udp later:udp\nN-004 direct setup\n";
        let mut tally = Tally::default();
        tally.rows.insert(List::Node, rows(List::Node, list).unwrap());
        tally.named = ["N-001", "N-999"].map(str::to_owned).into();
        let report = tally.report(List::Node, true);
        let figures = |area: &str| -> Vec<usize> {
            let line = report.lines().find(|line| line.starts_with(area)).unwrap();
            line.split_whitespace()
                .skip(1)
                .map(|figure| figure.parse().unwrap())
                .collect()
        };
        assert_eq!(figures("setup"), [3, 1, 2, 1, 1, 0, 0]);
        assert_eq!(figures("total"), [4, 1, 2, 1, 1, 1, 0]);
        assert!(report.contains("missing now: N-004\n") && report.contains("later:udp: N-003\n"));
        assert_eq!(tally.unknown(), ["N-999"]);
    }

    #[test]
    fn the_committed_lists_are_rows_and_no_id_stands_twice() {
        let tally = Tally::of_workspace(&crate::workspace_root()).unwrap();
        for (list, rows) in &tally.rows {
            let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            assert_eq!(ids.len(), rows.len(), "{}", list.file());
            assert!(ids.iter().all(|id| id.starts_with(list.letter())), "{}", list.file());
        }
    }
}
