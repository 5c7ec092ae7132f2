//! A program that reads log lines on its standard input: a sink for [`EventLog`](crate::EventLog).
//!
//! Here: starting it, starting it again when it has died, and what becomes of lines meanwhile. Not here: what it does with them.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::clock::Instant;

/// A program that is fed log lines: give it to [`EventLog::new`](crate::EventLog::new).
///
/// It is started with the first line. When it has died, or closed its standard input, it is ended and reaped, and started
/// again with the next line that comes late enough ([`retry`](Self::retry)). Lines that come meanwhile go to standard error if that is
/// wanted ([`or_stderr`](Self::or_stderr)), or are refused, which [`EventLogCounts::dropped`](crate::EventLogCounts::dropped)
/// counts. A line of which it has read a part is lost with it: its successor begins with a whole one. What it had not read
/// yet from the pipe, at most 64 KiB, is lost too, and nobody can know how much that was.
///
/// One that does not read blocks the thread of the log, which is its own ([`EventLog::attach`](crate::EventLog::attach)).
///
/// ```no_run
/// use std::process::Command;
/// use actix_cluster_actors::{EventLog, EventLogConfig, LogPipe};
///
/// let logger = LogPipe::new(|| {
///     let mut command = Command::new("logger");
///     command.args(["--tag", "my-service"]);
///     command
/// });
/// let log = EventLog::new(EventLogConfig::new(), logger.or_stderr(true));
/// # let _ = log;
/// ```
pub struct LogPipe {
    command: Box<dyn FnMut() -> Command + Send>,
    retry: Duration,
    or_stderr: bool,
    child: Option<Child>,
    started: Option<Instant>,
    /// The program that died had taken a part of the line that is being written.
    is_mid_line: bool,
    counts: LogPipeCounts,
}

impl LogPipe {
    /// `command` says how to start the program; its standard input becomes the pipe, all else is as it says.
    pub fn new(command: impl FnMut() -> Command + Send + 'static) -> Self {
        Self {
            command: Box::new(command),
            retry: Duration::from_secs(1),
            or_stderr: false,
            child: None,
            started: None,
            is_mid_line: false,
            counts: LogPipeCounts::default(),
        }
    }

    /// How long after one start the next is tried. Default 1 s.
    #[must_use]
    pub const fn retry(mut self, after: Duration) -> Self {
        self.retry = after;
        self
    }

    /// Writes lines that the program cannot take to standard error. Default: no, they are refused.
    #[must_use]
    pub const fn or_stderr(mut self, yes: bool) -> Self {
        self.or_stderr = yes;
        self
    }

    /// Its numbers, which stay readable while it is used.
    #[must_use]
    pub fn counts(&self) -> LogPipeCounts {
        self.counts.clone()
    }

    /// The program, if it runs or may be started now.
    fn child(&mut self) -> io::Result<&mut Child> {
        if self.child.is_none() {
            let now = Instant::now();
            if self
                .started
                .is_some_and(|started| now.duration_since(started) < self.retry)
            {
                return Err(ErrorKind::NotConnected.into());
            }
            self.started = Some(now);
            self.child = Some((self.command)().stdin(Stdio::piped()).spawn()?);
            self.counts.numbers.starts.fetch_add(1, Ordering::Relaxed);
        }
        self.child.as_mut().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdin = self.child()?.stdin.as_mut();
        let fed = stdin.map_or(Err(ErrorKind::BrokenPipe.into()), |stdin| stdin.write(bytes));
        match fed {
            Ok(taken) => {
                self.is_mid_line = bytes[..taken].last().is_some_and(|byte| *byte != b'\n');
                Ok(taken)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.bury();
                Err(error)
            }
        }
    }

    /// It reads no more; whatever it still does, it is not ours to wait for.
    fn bury(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be dead already; then there is nothing to kill, and something to reap.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Write for LogPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.child.is_none() && self.is_mid_line {
            // The rest of a line whose beginning is gone makes no sense to anybody.
            let end = bytes.iter().position(|byte| *byte == b'\n');
            self.is_mid_line = end.is_none();
            return Ok(end.map_or(bytes.len(), |end| end + 1));
        }
        match self.feed(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(_) if self.or_stderr && !self.is_mid_line => {
                let taken = io::stderr().write(bytes)?;
                self.counts.numbers.diverted.fetch_add(1, Ordering::Relaxed);
                Ok(taken)
            }
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogPipe {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It reads the rest and then the end; a program that ends at once needs no longer than this to be reaped.
            drop(child.stdin.take());
            child.try_wait().ok();
        }
    }
}

impl fmt::Debug for LogPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogPipe")
            .field("retry", &self.retry)
            .field("or_stderr", &self.or_stderr)
            .field("child", &self.child)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// What became of a [`LogPipe`]; clones tell the same numbers.
#[derive(Clone, Debug, Default)]
pub struct LogPipeCounts {
    numbers: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    starts: AtomicU64,
    diverted: AtomicU64,
}

impl LogPipeCounts {
    /// How often the program was started.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.numbers.starts.load(Ordering::Relaxed)
    }

    /// Writes, a line each as a rule, that went to standard error instead.
    #[must_use]
    pub fn diverted(&self) -> u64 {
        self.numbers.diverted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(script: &'static str) -> LogPipe {
        LogPipe::new(move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::null());
            command
        })
    }

    /// Writes until the program is found dead.
    fn until_refused(pipe: &mut LogPipe) {
        let error = std::iter::repeat_with(|| pipe.write(b"line\n")).find_map(Result::err);
        assert_eq!(error.expect("an error ends it").kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn f_231_a_dead_program_is_replaced_after_the_pause_and_not_before() {
        let mut pipe = pipe("read line");
        until_refused(&mut pipe);
        assert_eq!(pipe.write(b"line\n").unwrap_err().kind(), ErrorKind::NotConnected);
        pipe = pipe.retry(Duration::ZERO);
        assert_eq!(pipe.write(b"line\n").unwrap(), 5);
        assert_eq!(pipe.counts().starts(), 2);
    }

    #[test]
    fn f_231_the_rest_of_a_line_that_died_with_its_reader_is_not_given_to_the_next() {
        let mut pipe = pipe("cat").retry(Duration::ZERO);
        assert_eq!(pipe.write(b"half a").unwrap(), 6);
        pipe.bury();
        assert_eq!(pipe.write(b" line\nwhole\n").unwrap(), 6);
        assert!(pipe.child.is_none(), "nothing was started for it");
        assert_eq!(pipe.write(b"whole\n").unwrap(), 6);
        assert_eq!(pipe.counts().starts(), 2);
    }

    #[test]
    fn f_231_a_program_that_is_not_there_is_an_error_of_each_line() {
        let mut pipe = LogPipe::new(|| Command::new("/no/such/program")).retry(Duration::ZERO);
        for _ in 0..3 {
            assert_eq!(pipe.write(b"line\n").unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(pipe.counts().starts(), 0);
    }
}
