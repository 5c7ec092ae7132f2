//! The failure that a cluster's end is told with: of the worker that failed last, in its own words if it had some.
//!
//! Not here: what follows from a failure (that is supervision).

use crate::error::LastFailure;
use crate::model::{EventKind, Exit, ExitReason, WorkerError, WorkerId, WorkerInfo};

/// What was published about failures so far; bounded by one failure and one text.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// What a worker that lives said of its failure.
    said: Option<(WorkerId, String)>,
    last: Option<LastFailure>,
}

impl Failures {
    /// An event about a worker is going to be published.
    pub(super) fn see(&mut self, worker: &WorkerInfo, kind: &EventKind) {
        if let EventKind::Error(WorkerError::Failed(text)) = kind {
            self.said = Some((worker.id, text.clone()));
        } else if let EventKind::Error(WorkerError::Spawn(failure)) = kind {
            self.keep(worker, failure.to_string());
        } else if let EventKind::Exit(exit) = kind
            && is_failure(exit)
        {
            let said = self.said.take().filter(|(id, _)| *id == worker.id);
            let said = said.map(|(_, text)| format!(": {text}")).unwrap_or_default();
            self.keep(worker, format!("{exit}{said}"));
        }
    }

    /// The last one.
    pub(super) fn take(&mut self) -> Option<Box<LastFailure>> {
        self.last.take().map(Box::new)
    }

    fn keep(&mut self, worker: &WorkerInfo, why: String) {
        self.last = Some(LastFailure {
            worker: worker.id,
            slot: worker.slot.clone(),
            why,
        });
    }
}

/// Did it end for another reason than that somebody wanted it to?
fn is_failure(exit: &Exit) -> bool {
    match exit.reason {
        ExitReason::Ordered | ExitReason::Voluntary | ExitReason::Killed => false,
        ExitReason::Crash
        | ExitReason::BootTimeout
        | ExitReason::Protocol(_)
        | ExitReason::ChannelClosed
        | ExitReason::Hang(_)
        | ExitReason::Memory(_)
        | ExitReason::Oom
        | ExitReason::SpawnFailed(_) => true,
    }
}
