//! The memory of a control group, in both versions.

use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, Process};

use super::text;

/// The control group that counts a process's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    folder: PathBuf,
    /// Where the tree is mounted: what is above is not ours to see.
    top: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What a control group says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupMemory {
    /// Bytes in use, the file cache included.
    pub(crate) usage: Option<u64>,
    /// The narrowest limit of this group and those above it; `None` also if there is none.
    pub(crate) limit: Option<u64>,
    /// How often the kernel killed a process of it for want of memory.
    pub(crate) oom_kills: Option<u64>,
}

impl Group {
    /// The group that this process is in.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let groups = Process::new(i32::try_from(pid).ok()?).ok()?.cgroups().ok()?;
        let counts_memory = |names: &[String]| names.iter().any(|name| name == "memory");
        let is_unified = |names: &[String]| names.iter().all(String::is_empty);
        let (path, version) = match groups.0.iter().find(|group| counts_memory(&group.controllers)) {
            Some(group) => (&group.pathname, Version::One),
            None => {
                let unified = groups
                    .0
                    .iter()
                    .find(|group| group.hierarchy == 0 && is_unified(&group.controllers))?;
                (&unified.pathname, Version::Two)
            }
        };
        let mounts = Process::myself().ok()?.mountinfo().ok()?;
        mounts.0.iter().find_map(|mount| Self::below(mount, path, version))
    }

    /// The group at `path`, if this is the mount of its tree. In a container only a part of the tree may be mounted.
    fn below(mount: &MountInfo, path: &str, version: Version) -> Option<Self> {
        let is_tree = match version {
            Version::One => mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"),
            Version::Two => mount.fs_type == "cgroup2",
        };
        let below = Path::new(path).strip_prefix(&mount.root).ok()?;
        is_tree.then(|| Self {
            folder: mount.mount_point.join(below),
            top: mount.mount_point.clone(),
            version,
        })
    }

    /// What it says now.
    pub(crate) fn read(&self) -> GroupMemory {
        let (usage, limit, kills) = match self.version {
            Version::One => ("memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"),
            Version::Two => ("memory.current", "memory.max", "memory.events"),
        };
        let levels = self.folder.ancestors().take_while(|level| level.starts_with(&self.top));
        let limits = levels.filter_map(|level| number(&text(level.join(limit))?));
        let counted = |text: String| text.lines().find_map(|line| number(line.strip_prefix("oom_kill ")?));
        GroupMemory {
            usage: text(self.folder.join(usage)).and_then(|text| number(&text)),
            limit: limits.filter(|limit| (1..UNLIMITED).contains(limit)).min(),
            oom_kills: text(self.folder.join(kills)).and_then(counted),
        }
    }
}

/// `max` is no number.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Version 1 writes "no limit" as the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(line: &str) -> MountInfo {
        MountInfo::from_line(line).unwrap()
    }

    #[test]
    fn f_235_a_group_is_found_below_the_mount_of_its_tree() {
        let old = mount("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory");
        let new = mount("41 31 0:38 /docker/a /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw");
        let found = Group::below(&old, "/web", Version::One).unwrap();
        assert_eq!(found.folder, Path::new("/sys/fs/cgroup/memory/web"));
        let found = Group::below(&new, "/docker/a/leaf", Version::Two).unwrap();
        assert_eq!(found.folder, Path::new("/sys/fs/cgroup/leaf"));
        assert_eq!(Group::below(&old, "/web", Version::Two), None);
        assert_eq!(Group::below(&new, "/elsewhere", Version::Two), None);
        assert_eq!(Group::of(u32::MAX), None);
    }

    #[test]
    fn the_narrowest_limit_counts_and_what_is_missing_is_unknown() {
        let top = std::env::temp_dir().join(format!("group-{}", std::process::id()));
        let folder = top.join("a/b");
        std::fs::create_dir_all(&folder).unwrap();
        let group = |version| Group {
            folder: folder.clone(),
            top: top.clone(),
            version,
        };
        assert_eq!(group(Version::Two).read(), GroupMemory::default());
        let write = |name: &str, text: &str| std::fs::write(top.join(name), text).unwrap();
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "4096\n");
        write("a/b/memory.current", "17\n");
        write("a/b/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n");
        let told = group(Version::Two).read();
        assert_eq!(
            (told.usage, told.limit, told.oom_kills),
            (Some(17), Some(4096), Some(2))
        );
        write("a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("a/b/memory.usage_in_bytes", "junk");
        let told = group(Version::One).read();
        assert_eq!(told, GroupMemory::default());
        std::fs::remove_dir_all(&top).unwrap();
    }
}
