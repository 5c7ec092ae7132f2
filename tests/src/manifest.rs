//! Reading manifests roughly: enough of TOML to check the arrows between the members of the workspace.
//!
//! Not here: the rules; they are in the tidy suite.

use std::collections::BTreeMap;

/// What one manifest says about its package and its internal dependencies.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// From the workspace's folder.
    pub path: String,
    entries: BTreeMap<String, Entry>,
}

/// One dependency on another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Internal {
    /// The member's package name.
    pub name: String,
    /// Whether it is a dev-dependency.
    pub is_dev: bool,
    /// Whether the requirement names a version.
    pub has_version: bool,
    /// Whether the requirement names a path.
    pub has_path: bool,
    /// The index of its line.
    pub line: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    value: String,
    line: usize,
}

impl Manifest {
    /// Reads `section.key = value` lines; a value may span lines inside brackets.
    #[must_use]
    pub fn new(path: &str, text: &str) -> Self {
        let mut manifest = Self {
            path: path.to_owned(),
            entries: BTreeMap::new(),
        };
        let (mut section, mut open): (String, Option<String>) = (String::new(), None);
        for (line, full) in text.lines().enumerate() {
            let content = full.split(" #").next().unwrap_or_default().trim();
            if content.starts_with('#') {
                continue;
            }
            if let Some(key) = open.take() {
                let entry = manifest
                    .entries
                    .get_mut(&key)
                    .expect("an open value was entered before");
                entry.value.push_str(content);
                open = (!is_whole(&entry.value)).then_some(key);
            } else if let Some(name) = content.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).replace('"', "");
            } else if let Some((key, value)) = content.split_once('=') {
                let key = format!("{section}.{}", key.trim());
                manifest.entries.insert(
                    key.clone(),
                    Entry {
                        value: value.trim().to_owned(),
                        line,
                    },
                );
                open = (!is_whole(value)).then_some(key);
            }
        }
        manifest
    }

    /// The value of `section.key` as it is written.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(|entry| entry.value.as_str())
    }

    /// The package's name, if this is the manifest of one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.get("package.name").map(|name| name.trim_matches('"'))
    }

    /// Whether a registry gets this package.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.get("package.publish") != Some("false")
    }

    /// The dependencies on `members`; what is inherited is looked up in `root`, the workspace's own manifest.
    #[must_use]
    pub fn internal(&self, members: &[&str], root: &Self) -> Vec<Internal> {
        let mut found = Vec::new();
        for (key, entry) in &self.entries {
            let Some((section, rest)) = key
                .split_once("dependencies.")
                .filter(|(section, _)| !section.contains("workspace"))
            else {
                continue;
            };
            let name = rest.split('.').next().unwrap_or(rest);
            if !members.contains(&name) {
                continue;
            }
            let inherited = rest == format!("{name}.workspace") || has_key(&entry.value, "workspace");
            let requirement = if inherited {
                root.get(&format!("workspace.dependencies.{name}")).unwrap_or_default()
            } else {
                &entry.value
            };
            // `[dependencies.name]` spreads the requirement over several entries of one name.
            let says = |what: &str| {
                has_key(requirement, what)
                    || requirement.starts_with('"') && what == "version" && rest == name
                    || rest == format!("{name}.{what}")
            };
            let (has_version, has_path, is_dev) = (says("version"), says("path"), section.contains("dev-"));
            match found
                .iter_mut()
                .find(|known: &&mut Internal| known.name == name && known.is_dev == is_dev)
            {
                Some(known) => {
                    known.has_version |= has_version;
                    known.has_path |= has_path;
                }
                None => {
                    found.push(Internal {
                        name: name.to_owned(),
                        is_dev,
                        has_version,
                        has_path,
                        line: entry.line,
                    });
                }
            }
        }
        found
    }
}

fn is_whole(value: &str) -> bool {
    let count = |c| value.matches(c).count();
    count('[') <= count(']') && count('{') <= count('}')
}

/// Whether an inline table has the key.
fn has_key(table: &str, key: &str) -> bool {
    let inside = table.trim_start_matches('{');
    table.starts_with('{')
        && inside
            .split(',')
            .any(|part| part.split('=').next().is_some_and(|name| name.trim() == key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internal(text: &str) -> Internal {
        let root = Manifest::new(
            "Cargo.toml",
            "[workspace.dependencies]\ncore = { path = \".\", version = \"1\" }\n",
        );
        let mut found = Manifest::new("a/Cargo.toml", text).internal(&["core"], &root);
        assert_eq!(found.len(), 1, "{text}");
        found.remove(0)
    }

    #[test]
    fn every_notation_of_a_dependency_is_read() {
        for text in [
            "[dependencies]\nx = \"1\"\ncore = { version = \"1\", path = \"..\" } # why\n",
            "[dependencies]\ncore.workspace = true\n",
            "[dependencies]\ncore = { workspace = true, features = [\"a\"] }\n",
            "[dependencies.core]\nversion = \"1\"\npath = \"..\"\n",
            "[target.'cfg(unix)'.dependencies]\ncore = { version = \"1\", features = [\n  \"a\",\n], path = \"..\" }\n",
        ] {
            let found = internal(text);
            assert!(
                found.has_version && found.has_path && !found.is_dev,
                "{text}: {found:?}"
            );
        }
        let found = internal("[dev-dependencies]\ncore = { path = \"..\" }\n");
        assert!(!found.has_version && found.has_path && found.is_dev && found.line == 1);
        let found = internal("[dependencies]\ncore = \"1\"\n");
        assert!(found.has_version && !found.has_path);
    }

    #[test]
    fn a_package_is_published_unless_it_says_no() {
        let manifest = Manifest::new(
            "Cargo.toml",
            "[package]\nname = \"a\"\npublish = false\nautotests = false\n",
        );
        assert_eq!((manifest.name(), manifest.is_published()), (Some("a"), false));
        assert_eq!(manifest.get("package.autotests"), Some("false"));
        assert!(Manifest::new("Cargo.toml", "[package]\nname = \"b\"\n").is_published());
    }
}
