//! What a child prints on a piped stream, as lines.
//!
//! Memory is bounded: at most one line of 64 KiB is held, whatever the child writes (F-229). Control characters are
//! passed on as they are; whoever shows a line to a person escapes it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::peek::waiting;
use crate::sys::reactor::register;

/// The longest line; a longer one comes in parts.
pub(crate) const LINE_LEN_MAX: usize = 64 * 1024;
/// The most that `drain_now` reads where the kernel does not say how much there is: more than any pipe holds.
const DRAIN_LEN_MAX: usize = 2 * 1024 * 1024;

/// The reader of one stream.
#[derive(Debug)]
pub(crate) struct Lines {
    /// `None` after end-of-file or an error.
    pipe: Option<AsyncFd<OwnedFd>>,
    lines: Splitter,
}

impl Lines {
    /// Reads from `pipe`, which must be non-blocking. Needs a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the descriptor.
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(register(pipe, Interest::READABLE)?),
            lines: Splitter::default(),
        })
    }

    /// The next line without its end; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(line);
            }
            let Some(pipe) = &self.pipe else {
                return self.lines.rest();
            };
            let Ok(mut guard) = pipe.readable().await else {
                self.pipe = None;
                continue;
            };
            match self.lines.read_from(pipe.get_ref()) {
                Ok(0) => self.pipe = None,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(_) => self.pipe = None,
            }
        }
    }

    /// Everything that is in the pipe now, without waiting, for when the child has ended: a grandchild may hold the
    /// other end for ever, so there may never be an end-of-file, and may write as fast as this reads. Afterwards the stream
    /// is closed.
    pub(crate) fn drain_now(&mut self) -> Vec<String> {
        let mut drained = Vec::new();
        let held = self.pipe.as_ref().map(|pipe| waiting(pipe.get_ref().as_fd()));
        let mut budget = held.and_then(Result::ok).unwrap_or(DRAIN_LEN_MAX);
        loop {
            drained.extend(std::iter::from_fn(|| self.lines.next()));
            let Some(pipe) = self.pipe.as_ref().filter(|_| budget > 0) else {
                break;
            };
            match self.lines.read_from(pipe.get_ref()) {
                Ok(0) => self.pipe = None,
                Ok(read) => budget = budget.saturating_sub(read),
                Err(Errno::EINTR) => {}
                Err(_) => self.pipe = None,
            }
        }
        self.pipe = None;
        drained.extend(self.lines.rest());
        drained
    }
}

/// Bytes in, lines out.
#[derive(Debug, Default)]
struct Splitter {
    buffer: Vec<u8>,
    /// Bytes at the front that were returned already.
    taken: usize,
    /// Bytes at the front that hold no newline.
    searched: usize,
}

impl Splitter {
    /// A complete line, or the first part of one that is too long.
    fn next(&mut self) -> Option<String> {
        let from = self.searched.max(self.taken);
        if let Some(at) = memchr::memchr(b'\n', &self.buffer[from..]).map(|at| from + at) {
            let line = &self.buffer[self.taken..at];
            let line = text(line.strip_suffix(b"\r").unwrap_or(line));
            self.taken = at + 1;
            return Some(line);
        }
        self.searched = self.buffer.len();
        if self.buffer.len() - self.taken < LINE_LEN_MAX {
            return None;
        }
        let end = self.taken + whole_characters(&self.buffer[self.taken..][..LINE_LEN_MAX]);
        let part = text(&self.buffer[self.taken..end]);
        self.taken = end;
        Some(part)
    }

    /// What is left when nothing more will come.
    fn rest(&mut self) -> Option<String> {
        let Self { buffer, taken, .. } = std::mem::take(self);
        let rest = &buffer[taken..];
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        if rest.is_empty() { None } else { Some(text(rest)) }
    }

    /// Reads once, into what is free of one line's length.
    fn read_from(&mut self, pipe: &OwnedFd) -> Result<usize, Errno> {
        self.buffer.drain(..self.taken);
        self.searched = self.searched.saturating_sub(self.taken);
        self.taken = 0;
        let held = self.buffer.len();
        self.buffer.resize(LINE_LEN_MAX, 0);
        let read = nix::unistd::read(pipe, &mut self.buffer[held..]);
        self.buffer.truncate(held + read.unwrap_or(0));
        read
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The length without a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let width = match bytes[at] {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x00..=0x7f => 1,
        };
        return if width > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.buffer.extend_from_slice(chunk);
            lines.extend(std::iter::from_fn(|| splitter.next()));
        }
        lines.extend(splitter.rest());
        lines
    }

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let bytes = b"one\ntwo\r\n\nthr\xc3\xa9e\xff\nrest\r";
        let expected = ["one", "two", "", "thr\u{e9}e\u{fffd}", "rest"];
        for at in 0..bytes.len() {
            let (before, after) = bytes.split_at(at);
            assert_eq!(lines(&[before, after]), expected, "split at {at}");
        }
        assert!(lines(&[b""]).is_empty());
    }

    #[test]
    fn f_229_a_long_line_comes_in_parts_of_whole_characters() {
        let long = "\u{20ac}".repeat(LINE_LEN_MAX);
        let parts = lines(&[long.as_bytes(), b"\nnext\n"]);
        assert_eq!(parts.last().map(String::as_str), Some("next"));
        assert!(
            parts
                .iter()
                .all(|part| part.len() <= LINE_LEN_MAX && !part.contains('\u{fffd}'))
        );
        assert_eq!(parts[..parts.len() - 1].concat(), long);
    }

    #[tokio::test]
    async fn f_229_endless_output_without_a_newline_is_bounded() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let mut lines = Lines::new(read).unwrap();
        let mut parts = 0;
        while parts < 20 {
            while nix::unistd::write(write.as_fd(), &[0x1b; 4096]).is_ok() {}
            assert_eq!(lines.next().await.map(|part| part.len()), Some(LINE_LEN_MAX));
            assert!(lines.lines.buffer.capacity() <= 2 * LINE_LEN_MAX);
            parts += 1;
        }
        // The writer lives on, and still the drain ends.
        nix::unistd::write(write.as_fd(), b"\nlast").ok();
        let drained = lines.drain_now();
        assert_eq!(drained.last().map(String::as_str), Some("last"));
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn f_226_the_drain_ends_though_somebody_writes_as_fast_as_it_reads() {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let mut lines = Lines::new(read).unwrap();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let flood = std::thread::spawn(move || {
            while nix::unistd::write(write.as_fd(), &[b'\n'; 4096]).is_ok() {
                begun.send(()).ok();
            }
        });
        has_begun.recv().unwrap();
        let drained = lines.drain_now().len();
        // What was there, which was no more than a pipe holds, and with the last read as much again.
        assert!((4096..=2 * LINE_LEN_MAX).contains(&drained), "{drained}");
        flood.join().unwrap();
    }
}
