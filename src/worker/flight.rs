//! What a worker notes in its flight recorder: markers, requests, how far it has come. The recorder itself is in
//! [`crate::recorder`]; a worker without one notes nothing, at the price of a look.

use nix::unistd::gettid;

use crate::clock;
use crate::model::FlightPhase;
use crate::process::Contract;
use crate::recorder::{self, Noted, Recorder};
use crate::worker::context::Worker;

impl Worker {
    /// Sets a marker in this worker's flight recorder: what the master shows of it however it ends
    /// ([`Exit::last_words`](crate::Exit::last_words)). From any thread; no system call, no lock, some tens of nanoseconds. The
    /// last ones are kept (64 in 32 KiB), each up to 216 bytes, cut between characters. Without
    /// [`ClusterBuilder::flight_recorder`](crate::ClusterBuilder::flight_recorder) nothing happens.
    pub fn mark(&self, what: &str) {
        if let Some(recorder) = &self.inner.recorder {
            recorder.mark(clock::now().since_start(), what);
        }
    }

    /// Notes a request, or any other work, as in progress until the answer is dropped: for servers of your own. Applications
    /// served by the worker note theirs by themselves; an unmodified `HttpServer` can do so in a middleware. What is longer
    /// than 216 bytes is cut.
    pub fn note_request(&self, line: &str) -> RequestNote {
        RequestNote::new(self.inner.recorder, &[line])
    }

    pub(crate) fn enter(&self, phase: FlightPhase) {
        if let Some(recorder) = &self.inner.recorder {
            recorder.enter(phase);
        }
    }

    pub(crate) fn note_beat(&self, n: u64) {
        if let Some(recorder) = &self.inner.recorder {
            recorder.beat(n);
        }
    }
}

/// A request in the flight recorder; taken out again when this is dropped.
#[derive(Debug)]
#[must_use = "the request is taken out of the record when this is dropped"]
pub struct RequestNote {
    noted: Option<Noted<'static>>,
}

impl RequestNote {
    pub(crate) fn new(recorder: Option<Recorder<'static>>, line: &[&str]) -> Self {
        let noted = recorder.map(|recorder| recorder.request(clock::now().since_start(), line));
        Self { noted }
    }

    /// Runs a part of the request's work, for example one poll of its future: while it lasts, the record says that this thread
    /// is in the middle of it. That is what tells the request a loop hangs in from those that only wait.
    pub fn running<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(noted) = &self.noted else {
            return work();
        };
        noted.on_thread(THREAD.with(|tid| *tid));
        let done = work();
        noted.on_thread(0);
        done
    }
}

/// Takes up the recorder that this process was born with.
pub(crate) fn take_up(contract: &Contract) -> Option<Recorder<'static>> {
    let taken = recorder::take_up(contract.take_recorder()?);
    taken
        .inspect_err(|err| tracing::warn!(%err, "this worker notes nothing: its flight recorder cannot be used"))
        .ok()
}

thread_local! {
    /// Asked once: it is a system call.
    static THREAD: u32 = u32::try_from(gettid().as_raw()).unwrap_or(0);
}
