//! `EventLog`: every event as one line of JSON, on whatever can be written to.
//!
//! What an event says is the core's affair; a file that rotates is a sink ([`crate::RotatingFile`]). Compressing and shipping
//! files is not done here.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Addr, Arbiter, Context, Handler};
use actix_cluster::{ClusterBuilder, ClusterEvent, EventFilter, EventKind, Settings, SubscribeOptions};
use serde::Serialize;

/// What is logged, and how much may wait for a slow sink.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    filter: EventFilter,
    capacity: usize,
    environment: bool,
}

impl EventLogConfig {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which events are written. Default: [`EventFilter::lifecycle`], that is, all but messages and printed lines.
    #[must_use]
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.filter = filter;
        self
    }

    /// How many events may wait for the sink before the oldest is dropped and a `lagged` line tells which are missing.
    /// Default 4096, at least 1.
    #[must_use]
    pub const fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// Writes the values of the workers' environment variables in `setup` lines, which may be secrets. Default: no, only
    /// their names.
    #[must_use]
    pub const fn environment(mut self, yes: bool) -> Self {
        self.environment = yes;
        self
    }
}

impl Default for EventLogConfig {
    fn default() -> Self {
        Self {
            filter: EventFilter::lifecycle(),
            capacity: 4096,
            environment: false,
        }
    }
}

/// Writes every event as one line of JSON.
///
/// A line is written whole or not at all: if the sink takes only a part, the rest goes first next time. A sink that is
/// full, broken or closed costs the lines it did not take; they are counted in [`EventLogCounts::dropped`] and seen as a
/// gap in the lines' `seq`, and the next event tries again.
///
/// A sink that *blocks* (a pipe nobody reads) holds up the thread the actor runs on: by [`attach`](Self::attach) one of its
/// own, so neither supervision nor other plug-ins wait for it.
///
/// ```no_run
/// use actix_cluster::{Cluster, Worker};
/// use actix_cluster_actors::{EventLog, EventLogConfig};
///
/// fn main() -> std::process::ExitCode {
///     let log = EventLog::new(EventLogConfig::new(), std::io::stdout());
///     let cluster = Cluster::builder().worker(|worker: Worker| async move { worker.shutdown().started().await });
///     log.attach(cluster).main()
/// }
/// ```
pub struct EventLog<W> {
    config: EventLogConfig,
    outlet: Outlet<W>,
    counts: EventLogCounts,
}

impl<W: Write + Send + Unpin + 'static> EventLog<W> {
    /// A log that writes to `sink`. Every line is flushed, so a buffered writer loses nothing.
    pub fn new(config: EventLogConfig, sink: W) -> Self {
        Self {
            config,
            outlet: Outlet { sink, rest: Vec::new() },
            counts: EventLogCounts::default(),
        }
    }

    /// Adds it to a cluster, on a thread of its own.
    pub fn attach(self, cluster: ClusterBuilder) -> ClusterBuilder {
        cluster.subscribe_with(self.options(), |_| self.start())
    }

    /// How to subscribe it, beside the actor: [`attach`](Self::attach) does both.
    pub fn options(&self) -> SubscribeOptions {
        let filter = self.config.filter.clone();
        SubscribeOptions::new()
            .name("event log")
            .filter(filter)
            .capacity(self.config.capacity)
    }

    /// Its numbers, which stay readable while it runs.
    #[must_use]
    pub fn counts(&self) -> EventLogCounts {
        self.counts.clone()
    }

    /// Starts it on a thread of its own, which lives as long as the program: for one that is subscribed to a cluster that
    /// runs ([`ClusterHandle::subscribe_with`](actix_cluster::ClusterHandle::subscribe_with)). [`attach`](Self::attach) needs
    /// no second one.
    pub fn start_on_own_thread(self) -> Addr<Self> {
        Self::start_in_arbiter(&Arbiter::new().handle(), |_| self)
    }
}

impl<W> fmt::Debug for EventLog<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("config", &self.config)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send + Unpin + 'static> Actor for EventLog<W> {
    type Context = Context<Self>;
}

impl<W: Write + Send + Unpin + 'static> Handler<ClusterEvent> for EventLog<W> {
    type Result = ();

    fn handle(&mut self, mut event: ClusterEvent, _: &mut Self::Context) {
        if let EventKind::Setup(settings) = &mut event.kind
            && !self.config.environment
        {
            redact(settings);
        }
        let outcome = line(&event).map_or(Outcome::Dropped, |line| self.outlet.put(line));
        self.counts.count(outcome);
    }
}

/// What became of the lines of an [`EventLog`]; clones tell the same numbers.
#[derive(Clone, Debug, Default)]
pub struct EventLogCounts {
    numbers: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl EventLogCounts {
    /// Lines that the sink has taken, at least in part; the rest of a part goes first next time.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.numbers.written.load(Ordering::Relaxed)
    }

    /// Lines that it refused. Events that never got here, because too many waited, are not among them: the `lagged`
    /// line names those.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.numbers.dropped.load(Ordering::Relaxed)
    }

    fn count(&self, outcome: Outcome) {
        let number = match outcome {
            Outcome::Written => &self.numbers.written,
            Outcome::Dropped => &self.numbers.dropped,
        };
        number.fetch_add(1, Ordering::Relaxed);
    }
}

/// What became of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    Dropped,
}

/// Leaves the names of variables only.
fn redact(settings: &mut Settings) {
    for (_, value) in &mut settings.env {
        *value = "(not shown)".into();
    }
}

/// The line of an event; `None` if it has no JSON form (a wall clock before 1970).
fn line(event: &impl Serialize) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(event).ok()?;
    line.push(b'\n');
    Some(line)
}

/// The sink, and what it did not take of the last line: at most one line is kept, whatever the sink does.
struct Outlet<W> {
    sink: W,
    rest: Vec<u8>,
}

impl<W: Write> Outlet<W> {
    fn put(&mut self, line: Vec<u8>) -> Outcome {
        if self.push_rest().is_err() && !self.rest.is_empty() {
            // The line before is cut in the middle; this one would be glued to it.
            return Outcome::Dropped;
        }
        let length = line.len();
        self.rest = line;
        if self.push_rest().is_ok() {
            return Outcome::Written;
        }
        if self.rest.len() == length {
            self.rest.clear();
            return Outcome::Dropped;
        }
        Outcome::Written
    }

    /// Writes the rest as far as the sink takes it.
    fn push_rest(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.sink.write(&self.rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => drop(self.rest.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use actix_cluster::{Cluster, ReadyWhen, RestartType, ShutdownReport, WhenEmpty};

    use super::*;

    /// A sink whose taking is scripted: so many bytes, then "would block".
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Pipe {
        fn with_room(room: usize) -> Self {
            Self(Arc::new(Mutex::new((Vec::new(), room))))
        }

        fn make_room(&self, room: usize) {
            self.0.lock().unwrap().1 = room;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            *room -= taken;
            text.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outlet(pipe: &Pipe) -> Outlet<Pipe> {
        Outlet {
            sink: pipe.clone(),
            rest: Vec::new(),
        }
    }

    #[test]
    fn a_full_sink_drops_whole_lines_and_never_cuts_one() {
        let pipe = Pipe::with_room(6);
        let mut outlet = outlet(&pipe);
        assert_eq!(outlet.put(line(&"a").unwrap()), Outcome::Written);
        assert_eq!(
            outlet.put(line(&"b").unwrap()),
            Outcome::Written,
            "two of four bytes fit"
        );
        assert_eq!(outlet.put(line(&"c").unwrap()), Outcome::Dropped);
        pipe.make_room(100);
        assert_eq!(outlet.put(line(&"d").unwrap()), Outcome::Written);
        assert_eq!(pipe.text(), "\"a\"\n\"b\"\n\"d\"\n");
    }

    #[test]
    fn a_closed_sink_drops_every_line_and_keeps_none() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(ErrorKind::BrokenPipe.into())
            }
        }
        let mut outlet = Outlet {
            sink: Closed,
            rest: Vec::new(),
        };
        for _ in 0..3 {
            assert_eq!(outlet.put(line(&1).unwrap()), Outcome::Dropped);
            assert!(outlet.rest.is_empty());
        }
    }

    /// Runs a cluster of one `/bin/true` and returns the log's lines.
    async fn log_of_a_short_life(pipe: Pipe, own_thread: bool) -> (EventLogCounts, ShutdownReport) {
        let log = EventLog::new(EventLogConfig::new(), pipe);
        let counts = log.counts();
        let cluster = Cluster::builder()
            .workers(1)
            .exec("/bin/true")
            .env("API_TOKEN", "hunter2")
            .restart(RestartType::Temporary)
            .ready_when(ReadyWhen::Spawned)
            .when_empty(WhenEmpty::Stop)
            .disable_signals();
        let cluster = if own_thread {
            cluster.subscribe_with(log.options(), move |_| log.start_on_own_thread())
        } else {
            log.attach(cluster)
        };
        let running = cluster.build().unwrap().start().await.unwrap();
        let ended = actix_rt::time::timeout(Duration::from_secs(60), running.wait()).await;
        (counts, ended.unwrap().unwrap())
    }

    #[actix_rt::test]
    async fn every_event_of_a_real_cluster_is_one_line_in_order() {
        for own_thread in [false, true] {
            let pipe = Pipe::with_room(usize::MAX);
            let (counts, _) = log_of_a_short_life(pipe.clone(), own_thread).await;
            let text = pipe.text();
            let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
            assert_eq!(names[0], "setup");
            assert!(text.contains("API_TOKEN") && !text.contains("hunter2"), "{text}");
            assert!(names.contains(&"fork") && names.contains(&"exit"), "{names:?}");
            let order: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
            assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
            assert_eq!(counts.written(), events.len() as u64);
            assert_eq!(counts.dropped(), 0);
        }
    }

    #[actix_rt::test]
    async fn a_full_sink_does_not_hold_up_the_cluster() {
        let pipe = Pipe::with_room(0);
        let (counts, _) = log_of_a_short_life(pipe.clone(), false).await;
        assert!(counts.dropped() > 0);
        assert_eq!((counts.written(), pipe.text().as_str()), (0, ""));
    }
}
