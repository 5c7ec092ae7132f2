//! Reading Rust sources roughly: what is code, what is comment, what is a string, what is a test.
//!
//! No parser: a lexer of a hundred lines that knows strings, comments, characters and braces. The tidy suite and the
//! tally look through it, so that a word in a comment is not taken for a use of it.

use std::fs;
use std::io;
use std::path::Path;

/// One source file in its planes, all with the same line numbers (index 0 is line 1).
#[derive(Debug, Clone)]
pub struct Source {
    /// From the workspace's folder, with `/`.
    pub path: String,
    /// The lines as they are.
    pub text: Vec<String>,
    /// The lines without comments and without what is inside quotes.
    pub code: Vec<String>,
    /// The comments alone.
    pub comments: Vec<String>,
    /// Every string literal with the index of the line it starts on.
    pub strings: Vec<(usize, String)>,
    /// Imported paths, written out in full, with the index of the line of their `use`.
    pub imports: Vec<(usize, String)>,
    test_lines: Vec<bool>,
}

impl Source {
    /// Splits `text` into its planes.
    #[must_use]
    pub fn new(path: &str, text: &str) -> Self {
        let planes = Planes::of(text);
        let test_lines = test_lines(path, &planes.code);
        Self {
            path: path.to_owned(),
            text: lines(text),
            code: lines(&planes.code),
            comments: lines(&planes.comments),
            strings: planes.strings,
            imports: imports(&planes.code),
            test_lines,
        }
    }

    /// Whether the line lies in code that only tests are built with.
    #[must_use]
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line).copied().unwrap_or(false)
    }
}

/// Every file under `root` that people write, as (path, text), sorted: sources, manifests, papers, the CI list.
///
/// # Errors
/// When a folder or a file cannot be read.
pub fn workspace_files(root: &Path) -> io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                let is_foreign = name == "target" || (name.starts_with('.') && name != ".ci");
                // A nested checkout is somebody else's workspace.
                if !is_foreign && !path.join(".git").exists() {
                    folders.push(path);
                }
            } else if [".rs", ".toml", ".md"].iter().any(|end| name.ends_with(end)) || folder.ends_with(".ci") {
                let relative = path.strip_prefix(root).expect("the walk starts at the root");
                files.push((relative.to_string_lossy().into_owned(), fs::read_to_string(&path)?));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `line` holds `word` as a word of its own; a `*` at the end takes any rest of an identifier.
#[must_use]
pub fn names(line: &str, word: &str) -> bool {
    let (word, open) = word.strip_suffix('*').map_or((word, false), |stem| (stem, true));
    let starts = word.starts_with(is_word);
    let ends = word.ends_with(is_word) && !open;
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let goes_on = (starts && before.is_some_and(is_word)) || (ends && after.is_some_and(is_word));
        !goes_on
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The text twice, as code and as comments, each blank where the other is not.
#[derive(Default)]
struct Planes {
    code: String,
    comments: String,
    strings: Vec<(usize, String)>,
    line: usize,
}

impl Planes {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut planes = Self::default();
        let mut at = 0;
        while at < chars.len() {
            let rest = &chars[at..];
            let after_word = at > 0 && is_word(chars[at - 1]);
            at += if rest.starts_with(&['/', '/']) {
                planes.comment(&rest[..rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())])
            } else if rest.starts_with(&['/', '*']) {
                planes.comment(&rest[..block_comment(rest)])
            } else if let Some((hashes, open)) = raw_string(rest).filter(|_| !after_word) {
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let inside = (open..rest.len())
                    .find(|&i| rest[i..].starts_with(&end))
                    .unwrap_or(rest.len());
                planes.string(
                    &rest[..open],
                    &rest[open..inside],
                    &rest[inside..(inside + end.len()).min(rest.len())],
                )
            } else if rest[0] == '"' {
                let inside = quoted(rest, '"');
                planes.string(
                    &rest[..1],
                    &rest[1..inside],
                    &rest[inside..(inside + 1).min(rest.len())],
                )
            } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
                planes.blank(quoted(rest, '\'') + 1, rest)
            } else {
                planes.push(rest[0], ' ');
                1
            };
        }
        planes
    }

    fn push(&mut self, code: char, comment: char) {
        if code == '\n' || comment == '\n' {
            self.line += 1;
            self.code.push('\n');
            self.comments.push('\n');
        } else {
            self.code.push(code);
            self.comments.push(comment);
        }
    }

    fn comment(&mut self, chars: &[char]) -> usize {
        for &c in chars {
            self.push(' ', c);
        }
        chars.len()
    }

    fn string(&mut self, open: &[char], inside: &[char], close: &[char]) -> usize {
        self.strings.push((self.line, inside.iter().collect()));
        for &c in open {
            self.push(c, ' ');
        }
        self.blank(inside.len(), inside);
        for &c in close {
            self.push(c, ' ');
        }
        open.len() + inside.len() + close.len()
    }

    fn blank(&mut self, len: usize, chars: &[char]) -> usize {
        let len = len.min(chars.len());
        for &c in &chars[..len] {
            self.push(if c == '\n' { '\n' } else { ' ' }, ' ');
        }
        len
    }
}

/// Where the closing `quote` stands, escapes skipped.
fn quoted(chars: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at.min(chars.len())
}

/// The number of hashes and the length of the opening of a raw string, if one starts here.
fn raw_string(chars: &[char]) -> Option<(usize, usize)> {
    let prefix = match chars {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = chars[prefix..].iter().take_while(|&&c| c == '#').count();
    (chars.get(prefix + hashes) == Some(&'"')).then_some((hashes, prefix + hashes + 1))
}

fn block_comment(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < chars.len() {
        let rest = &chars[at..];
        if rest.starts_with(&['/', '*']) {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(&['*', '/']) {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Marks the item after each `#[cfg(test)]`, and the whole of a file that is named as tests.
fn test_lines(path: &str, code: &str) -> Vec<bool> {
    let whole = path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
        || (path.contains("src/") && path.contains("/tests/"));
    let mut marks = vec![whole; code.lines().count()];
    for gate in ["#[cfg(test)]", "#[cfg(all(test"] {
        for (start, _) in code.match_indices(gate) {
            let item = start + code[start..].find(']').unwrap_or(0) + 1;
            let end = item + item_len(&code[item..]);
            let (first, last) = (line_of(code, start), line_of(code, end));
            for mark in marks.iter_mut().take(last + 1).skip(first) {
                *mark = true;
            }
        }
    }
    marks
}

/// An item ends with its `;` or with the brace that closes its body.
fn item_len(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth < 0 || (depth == 0 && (c == ';' || c == '}')) {
            return at;
        }
    }
    code.len()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count()
}

fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let tree = &code[at + 4..];
        let tree = &tree[..tree.find(';').unwrap_or(tree.len())];
        let mut paths = Vec::new();
        write_out("", tree, &mut paths);
        found.extend(paths.into_iter().map(|path| (line_of(code, at), path)));
    }
    found
}

/// `a::{b, c::{d}}` becomes `a::b` and `a::c::d`.
fn write_out(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        if !path.is_empty() {
            out.push(format!("{prefix}{path}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inside = tree[open + 1..].strip_suffix('}').unwrap_or(&tree[open + 1..]);
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                write_out(&prefix, &inside[start..at], out);
                start = at + 1;
            }
            _ => {}
        }
    }
    write_out(&prefix, &inside[start..], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_not_code() {
        let source = Source::new(
            "a.rs",
            "let a = \"tokio \\\" {\"; // nix\nlet b = r#\"actix \" \"#; /* x /* y */ tracing */ let c = '{';\nfn f<'a>(x: &'a str) {}\n",
        );
        assert_eq!(source.code[0].trim_end(), "let a = \"          \";");
        assert_eq!(source.comments[0].trim(), "// nix");
        assert!(source.code[1].contains("let c =") && !source.code[1].contains(['{', 'y']));
        assert_eq!(source.code[2], "fn f<'a>(x: &'a str) {}");
        assert_eq!(source.strings[1], (1, "actix \" ".to_owned()));
    }

    #[test]
    fn planes_keep_the_line_numbers() {
        let source = Source::new("a.rs", "/*\n\n*/ let a = \"x\ny\";\nlet b;\n");
        assert_eq!(source.code.len(), 5);
        assert_eq!(source.code[4], "let b;");
        assert_eq!(source.strings, [(2, "x\ny".to_owned())]);
    }

    #[test]
    fn the_item_after_the_test_gate_is_test_code() {
        let source = Source::new(
            "src/a.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n",
        );
        let marks: Vec<bool> = (0..6).map(|line| source.is_test(line)).collect();
        assert_eq!(marks, [false, true, true, true, true, false]);
        let beside = Source::new("src/a.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert!(beside.is_test(1) && !beside.is_test(2));
        assert!(Source::new("src/policy/tests.rs", "fn a() {}\n").is_test(0));
        assert!(Source::new("src/ipc/codec_tests.rs", "fn a() {}\n").is_test(0));
        assert!(!Source::new("tests/tidy.rs", "fn a() {}\n").is_test(0));
    }

    #[test]
    fn imports_are_written_out() {
        let source = Source::new(
            "a.rs",
            "\npub use std::{fs, net::{self, TcpListener as L}};\nuse a::b;\n",
        );
        let expected = ["std::fs", "std::net::self", "std::net::TcpListener", "a::b"];
        assert_eq!(
            source.imports.iter().map(|(_, path)| path.as_str()).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(source.imports[2].0, 1);
    }

    #[test]
    fn words_end_where_identifiers_end() {
        assert!(names("use nix::fcntl;", "nix"));
        assert!(!names("let unix = 1;", "nix"));
        assert!(!names("let nixed = 1;", "nix"));
        assert!(names("actix_rt::spawn(x)", "actix*"));
        assert!(names("a.do_send(b)", ".do_send("));
    }
}
