//! Was a child killed by the kernel for want of memory? Told by the counter of its control group.
//!
//! The kernel raises `oom_kill` before it sends `SIGKILL`, so whoever died of that signal in a group whose counter has risen
//! since it was looked at last is one of those it counted. Several children may share a group: each rise is given away once.
//! The kernel may also take somebody else of the group (a worker's own child, a keeper, a zygote): a rise that found no victim for a
//! while is nobody's. Unknown stays unknown: without a counter nobody is called a victim. Not here: whose `SIGKILL` it was otherwise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::model::{ExitStatus, Mono, Signal};

/// The watch over the group of one child.
#[derive(Debug)]
pub(crate) struct OomWatch {
    pid: u32,
    /// The file with the counter; `None` where there is none, or where it cannot be read.
    counter: Option<PathBuf>,
}

/// What is known of one counter: kept as long as a child is watched by it.
#[derive(Debug, Default)]
struct Account {
    watches: usize,
    /// How far it has been given away.
    settled: u64,
    /// How far it had come when it was looked at, and since when that is known.
    seen: u64,
    seen_at: Mono,
    looked_at: Mono,
}

impl Account {
    /// The counter has come so far. What was seen a while ago belongs to nobody who dies now.
    fn note(&mut self, count: u64, now: Mono) {
        self.looked_at = now;
        if now.since(self.seen_at) >= FRESH {
            self.settled = self.settled.max(self.seen);
        }
        if count > self.seen {
            (self.seen, self.seen_at) = (count, now);
        }
    }

    fn take_one(&mut self, count: u64, now: Mono) -> bool {
        self.note(count, now);
        let is_one = count > self.settled;
        self.settled += u64::from(is_one);
        is_one
    }
}

thread_local! {
    /// One for each group, because its children share the counter. Children live on one thread of the master.
    static ACCOUNTS: RefCell<BTreeMap<PathBuf, Account>> = const { RefCell::new(BTreeMap::new()) };
}

impl OomWatch {
    /// Begins with the group that the child is in now.
    pub(crate) fn begin(pid: u32, now: Mono) -> Self {
        let mut this = Self { pid, counter: None };
        this.look_again(now);
        this
    }

    /// It may have been put into another group meanwhile. Must be called while it lives: of a zombie the older version of
    /// control groups tells the root.
    pub(crate) fn look_again(&mut self, now: Mono) {
        let found = counter_of(self.pid);
        if found.is_none() || found == self.counter {
            return;
        }
        self.leave();
        self.counter = found.and_then(|path| join(path, now, read_counter));
    }

    /// A sign of life came: the occasion to look how far the counter is, once in a while for each group.
    pub(crate) fn note(&self, now: Mono) {
        let Some(path) = &self.counter else { return };
        ACCOUNTS.with_borrow_mut(|accounts| {
            if let Some(account) = accounts.get_mut(path)
                && now.since(account.looked_at) >= FRESH / 2
                && let Some(count) = read_counter(path)
            {
                account.note(count, now);
            }
        });
    }

    /// Was the child, which ended like this, killed by the kernel for want of memory? Ask once, before others are asked about.
    pub(crate) fn has_killed(&self, status: ExitStatus, now: Mono) -> bool {
        status.signal() == Some(Signal::KILL)
            && self
                .counter
                .as_deref()
                .is_some_and(|path| read_counter(path).is_some_and(|count| take_one(path, count, now)))
    }

    fn leave(&mut self) {
        let Some(path) = self.counter.take() else { return };
        ACCOUNTS.with_borrow_mut(|accounts| {
            if let Some(account) = accounts.get_mut(&path) {
                account.watches -= 1;
                if account.watches == 0 {
                    accounts.remove(&path);
                }
            }
        });
    }
}

impl Drop for OomWatch {
    fn drop(&mut self) {
        self.leave();
    }
}

fn join(path: PathBuf, now: Mono, read: impl Fn(&Path) -> Option<u64>) -> Option<PathBuf> {
    let count = read(&path)?;
    ACCOUNTS.with_borrow_mut(|accounts| {
        let account = accounts.entry(path.clone()).or_insert(Account {
            watches: 0,
            settled: count,
            seen: count,
            seen_at: now,
            looked_at: now,
        });
        account.note(count, now);
        account.watches += 1;
    });
    Some(path)
}

fn take_one(path: &Path, count: u64, now: Mono) -> bool {
    ACCOUNTS.with_borrow_mut(|accounts| {
        let account = accounts.get_mut(path);
        account.is_some_and(|account| account.take_one(count, now))
    })
}

/// The file that counts for the memory group of this process.
fn counter_of(pid: u32) -> Option<PathBuf> {
    static MOUNTS: OnceLock<String> = OnceLock::new();
    let mounts = MOUNTS.get_or_init(|| read(Path::new("/proc/self/mountinfo")).unwrap_or_default());
    let groups = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let (group, name) = locate(mounts, &groups)?;
    // In a group of the newer version whose memory is not counted apart, that of the group above is, and includes it.
    let mut folder = Some(group.as_path());
    while let Some(path) = folder {
        let file = path.join(name);
        if file.exists() {
            return Some(file);
        }
        folder = path.parent().filter(|_| name == "memory.events");
    }
    None
}

/// The folder of the memory group and the name of the file with the counter.
fn locate(mounts: &str, groups: &str) -> Option<(PathBuf, &'static str)> {
    let mut lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let of_version_1 = lines
        .clone()
        .find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (path, is_mount, name): (_, fn(&str, &str) -> bool, _) = match of_version_1 {
        Some((_, path)) => (path, is_memory_mount, "memory.oom_control"),
        None => {
            let (_, path) = lines.find(|(controllers, _)| controllers.is_empty())?;
            (path, |kind, _| kind == "cgroup2", "memory.events")
        }
    };
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (kind, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        // In a container only a part of the tree is mounted, and the path begins with that part.
        let below = Path::new(path).strip_prefix(root).ok()?;
        is_mount(kind, options).then(|| (Path::new(point).join(below), name))
    })
}

fn is_memory_mount(kind: &str, options: &str) -> bool {
    kind == "cgroup" && options.split(',').any(|name| name == "memory")
}

fn read_counter(path: &Path) -> Option<u64> {
    let text = read(path)?;
    let counted = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(counted)
}

/// Counters are short; a table of mounts may be long.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

const LENGTH_MAX: u64 = 1024 * 1024;

/// How long after a rise was seen a death is put down to it: a process that the kernel kills is gone as soon as its memory is.
const FRESH: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const KILLED: ExitStatus = ExitStatus::Signal {
        signal: Signal::KILL,
        core: false,
    };

    fn at(seconds: u64) -> Mono {
        Mono::new(Duration::from_secs(seconds))
    }

    fn found(mounts: &str, groups: &str) -> Option<String> {
        let (folder, name) = locate(mounts, groups)?;
        Some(folder.join(name).display().to_string())
    }

    #[test]
    fn f_235_the_counter_is_found_in_both_versions_and_in_a_mix_of_them() {
        let old = found(MOUNTS, "8:pids:/\n4:cpu,memory:/a/b\n0::/\n");
        assert_eq!(old.as_deref(), Some("/sys/fs/cgroup/memory/a/b/memory.oom_control"));
        let new = found(MOUNTS, "0::/web.slice/x:y\n");
        assert_eq!(
            new.as_deref(),
            Some("/sys/fs/cgroup/unified/web.slice/x:y/memory.events")
        );
        let part = "9 1 0:1 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(
            found(part, "0::/docker/abc/leaf").as_deref(),
            Some("/sys/fs/cgroup/leaf/memory.events")
        );
        for (mounts, groups) in [
            ("", "0::/"),
            (MOUNTS, ""),
            (MOUNTS, "junk"),
            (part, "0::/../other"),
            ("1 2 - x", "0::/"),
        ] {
            assert_eq!(found(mounts, groups), None, "{mounts:?} {groups:?}");
        }
    }

    #[test]
    fn each_rise_is_given_away_once_and_old_ones_never() {
        let path = PathBuf::from("/a counter of this test");
        let watch = || OomWatch {
            pid: 0,
            counter: join(path.clone(), at(0), |_| Some(7)),
        };
        let (first, second) = (watch(), watch());
        assert!(!take_one(&path, 7, at(1)), "that was before their time");
        assert!(take_one(&path, 8, at(1)));
        assert!(!take_one(&path, 8, at(1)), "the other one died of something else");
        drop(first);
        assert!(take_one(&path, 9, at(1)));
        drop(second);
        assert!(!take_one(&path, 10, at(1)), "nobody is watched, so nothing is kept");
    }

    #[test]
    fn a_rise_that_took_somebody_else_is_not_blamed_on_a_later_kill() {
        let folder = std::env::temp_dir().join(format!("actix-cluster-oom-{}", std::process::id()));
        let counts = |count: u64| std::fs::write(&folder, format!("low 0\noom_kill {count}\n")).unwrap();
        counts(3);
        let watch = || OomWatch {
            pid: 0,
            counter: join(folder.clone(), at(0), read_counter),
        };
        let first = watch();
        // A grandchild is taken, and nobody of ours dies.
        counts(4);
        first.note(at(6));
        first.note(at(17));
        assert!(!first.has_killed(KILLED, at(3_600)), "an operator's kill");
        // A real one, soon after it was seen; another group member joined in between.
        counts(5);
        first.note(at(3_700));
        let second = watch();
        assert!(second.has_killed(KILLED, at(3_701)));
        // And one that was not seen before the death.
        counts(6);
        assert!(first.has_killed(KILLED, at(9_000)));
        // Who joins looks, too.
        counts(7);
        let third = OomWatch {
            pid: 0,
            counter: join(folder.clone(), at(9_100), read_counter),
        };
        let fourth = OomWatch {
            pid: 0,
            counter: join(folder.clone(), at(9_200), read_counter),
        };
        assert!(!third.has_killed(KILLED, at(9_201)) && !fourth.has_killed(KILLED, at(9_202)));
        std::fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn an_end_of_another_kind_and_a_counter_that_is_not_there_say_nothing() {
        let pid = std::process::id();
        let watch = OomWatch::begin(pid, at(0));
        assert!(!watch.has_killed(ExitStatus::Code(137), at(0)) && !watch.has_killed(KILLED, at(0)));
        let counter = Some(PathBuf::from("/nowhere/memory.events"));
        assert!(!OomWatch { pid, counter }.has_killed(KILLED, at(0)));
        assert_eq!(OomWatch::begin(u32::MAX, at(0)).counter, None);
    }
}
