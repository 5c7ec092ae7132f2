//! A file that is put aside when it is too large or too old: a sink for [`EventLog`](crate::EventLog).
//!
//! The renaming is `rolling-file`'s. Here: when, lines that stay whole, and what happens while the disk does not take any.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Local};
use rolling_file::{RollingCondition, RollingFileAppender};

/// When a [`RotatingFile`] begins anew, and how many old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "rules do nothing until a file has them"]
pub struct Rotation {
    max_bytes: Option<u64>,
    max_age: Option<Duration>,
    keep: usize,
}

impl Rotation {
    /// The defaults: 16 MiB, any age, 5 old files.
    pub const fn new() -> Self {
        Self {
            max_bytes: Some(16 << 20),
            max_age: None,
            keep: 5,
        }
    }

    /// A new file is begun once this one has so many bytes; the line that exceeds it is still written whole. Default
    /// 16 MiB; `None` for any size.
    pub const fn max_bytes(mut self, bytes: Option<u64>) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// A new file is begun with the first line that comes so long after this process began to write into this one. Default
    /// `None`: any age. By the wall clock; a step backwards only delays it.
    pub const fn max_age(mut self, age: Option<Duration>) -> Self {
        self.max_age = age;
        self
    }

    /// How many old files are kept, as `<path>.1`, the newest, to `<path>.<n>`. Default 5, at least 1.
    pub const fn keep(mut self, files: usize) -> Self {
        self.keep = if files == 0 { 1 } else { files };
        self
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::new()
    }
}

/// A file that rotates: give it to [`EventLog::new`](crate::EventLog::new).
///
/// It is opened, for appending, with the first line, and again with the next one if that fails: a directory that is missing or
/// a disk that is full costs the lines of that time, and no more. At most 64 KiB of lines wait for space in memory; they
/// come first afterwards, whole and in order.
///
/// ```no_run
/// use actix_cluster_actors::{EventLog, EventLogConfig, RotatingFile, Rotation};
///
/// let file = RotatingFile::new("/var/log/my-service/events.json", Rotation::new().keep(3));
/// let log = EventLog::new(EventLogConfig::new(), file);
/// # let _ = log;
/// ```
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    file: Option<RollingFileAppender<Never>>,
    age: Age,
}

impl RotatingFile {
    /// A file at `path`. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>, rotation: Rotation) -> Self {
        Self {
            path: path.into(),
            rotation,
            file: None,
            age: Age::default(),
        }
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is larger than the buffer would go to the disk past it, and a part of it could be written untold.
        let part = &bytes[..bytes.len().min(BUFFER_BYTES - 1)];
        let now = Local::now();
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let (keep, path) = (self.rotation.keep, &self.path);
                let file = RollingFileAppender::new_with_buffer_capacity(path, Never, keep, BUFFER_BYTES)?;
                self.age = Age::of(path);
                none.insert(file)
            }
        };
        // Ordered here and not by its own rule: that one complains on standard error, and panics where this is full too.
        if self.age.is_over(&now, self.rotation) {
            let is_renewed = file.rollover().is_ok();
            self.age.tried(&self.path, is_renewed, now);
        }
        let taken = file.write(part)?;
        self.age.took(&part[..taken], now);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// How old and how large the file is.
#[derive(Debug, Default)]
struct Age {
    bytes: u64,
    /// When the first line was written since the file was begun or opened.
    since: Option<DateTime<Local>>,
    /// What comes next belongs to the line before it.
    is_within_line: bool,
    /// When it was last to be put aside and could not be.
    refused: Option<DateTime<Local>>,
}

impl Age {
    fn of(path: &Path) -> Self {
        Self {
            bytes: std::fs::metadata(path).map_or(0, |file| file.len()),
            ..Self::default()
        }
    }

    /// What is there after an attempt to put the file aside. If it is gone and no new one could be opened, it was put aside: to
    /// do so again with each line would push all old files out. If it is there yet it is as old as before, and is let be for
    /// a while, because each attempt moves the old files on.
    fn tried(&mut self, path: &Path, is_renewed: bool, now: DateTime<Local>) {
        let is_gone = || std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if is_renewed || is_gone() {
            *self = Self::of(path);
        } else {
            self.refused = Some(now);
        }
    }

    fn is_over(&self, now: &DateTime<Local>, rotation: Rotation) -> bool {
        let passed = |since: DateTime<Local>| (*now - since).to_std().unwrap_or_default();
        let age = self.since.map_or(Duration::ZERO, passed);
        if self.refused.is_some_and(|refused| passed(refused) < RETRY) {
            return false;
        }
        let is_large = rotation.max_bytes.is_some_and(|max| self.bytes >= max.max(1));
        let is_old = rotation.max_age.is_some_and(|max| age >= max) && self.since.is_some();
        (is_large || is_old) && !self.is_within_line
    }

    fn took(&mut self, part: &[u8], now: DateTime<Local>) {
        self.bytes += part.len() as u64;
        self.since.get_or_insert(now);
        self.is_within_line = part.last().is_some_and(|last| *last != b'\n');
    }
}

/// Nothing is put aside unless it is ordered.
#[derive(Debug)]
struct Never;

impl RollingCondition for Never {
    fn should_rollover(&mut self, _: &DateTime<Local>, _: u64) -> bool {
        false
    }
}

/// When a file that could not be put aside is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// What may wait in memory for a disk that is full.
const BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("actix-cluster-rotating-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn put(file: &mut RotatingFile, line: &str) {
        file.write_all(line.as_bytes()).unwrap();
        file.flush().unwrap();
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_is_dropped() {
        let directory = directory("size");
        let path = directory.join("events");
        let mut file = RotatingFile::new(&path, Rotation::new().max_bytes(Some(5)).keep(2));
        for line in ["aaaa\n", "bbbb\n", "cc\n", "dddd\n", "e\n"] {
            put(&mut file, line);
        }
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        assert_eq!(
            (read("events"), read("events.1"), read("events.2")),
            ("e\n".into(), "cc\ndddd\n".into(), "bbbb\n".into())
        );
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
        // The next process goes on where this one was.
        put(&mut RotatingFile::new(&path, Rotation::new()), "f\n");
        assert_eq!(read("events"), "e\nf\n");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_line_larger_than_the_buffer_stays_in_one_file() {
        let directory = directory("long");
        let path = directory.join("events");
        let mut file = RotatingFile::new(&path, Rotation::new().max_bytes(Some(10)).keep(3));
        let long = format!("{}\n", "x".repeat(3 * BUFFER_BYTES));
        put(&mut file, &long);
        put(&mut file, "next\n");
        assert_eq!(fs::read_to_string(directory.join("events.1")).unwrap(), long);
        assert_eq!(fs::read_to_string(&path).unwrap(), "next\n");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_is_let_be_and_keeps_its_age() {
        let directory = directory("stays");
        // No room in the name for a number behind it.
        let path = directory.join("e".repeat(255));
        let mut file = RotatingFile::new(&path, Rotation::new().max_bytes(Some(5)));
        for line in ["aaaa\n", "bbbb\n", "cccc\n"] {
            put(&mut file, line);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "aaaa\nbbbb\ncccc\n");
        let (rotation, Some(refused)) = (file.rotation, file.age.refused) else {
            panic!("it was tried");
        };
        assert!(!file.age.is_over(&(refused + RETRY / 2), rotation));
        assert!(file.age.is_over(&(refused + RETRY), rotation));
        assert!(
            file.age.since.is_some_and(|since| since < refused),
            "it is as old as before"
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_old_file_is_put_aside_and_an_empty_or_unfinished_one_is_not() {
        let minute = Duration::from_secs(60);
        let rotation = Rotation::new().max_age(Some(minute));
        let (mut age, start) = (Age::default(), Local::now());
        assert!(!age.is_over(&(start + minute), rotation), "it is empty");
        age.took(b"a line\n", start);
        assert!(!age.is_over(&(start + minute / 2), rotation));
        assert!(!age.is_over(&(start - minute), rotation), "the clock went back");
        assert!(age.is_over(&(start + minute), rotation));
        age.took(b"half a ", start + minute / 2);
        assert!(!age.is_over(&(start + minute), rotation));
        age.took(b"line\n", start + minute / 2);
        assert!(age.is_over(&(start + minute), rotation));
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_tried_again_with_each_line() {
        let directory = directory("later");
        let path = directory.join("missing").join("events");
        let mut file = RotatingFile::new(&path, Rotation::new());
        assert!(file.write(b"lost\n").is_err());
        fs::create_dir(directory.join("missing")).unwrap();
        put(&mut file, "kept\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
        fs::remove_dir_all(&directory).unwrap();
    }
}
