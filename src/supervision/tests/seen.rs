//! What the judge has seen: of one worker, and in one turn of the cluster's machine.
//!
//! Not here: what must follow from it ([`super::trace`] and the files of the judge).

use super::judge_specs::Why;
use super::*;
use crate::model::{GaveUp, Generation, SpecName};

/// What was seen of one worker.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) spawned_at: Mono,
    pub(super) steps: Vec<&'static str>,
    pub(super) ready_at: Option<Mono>,
    pub(super) stops: Vec<ShutdownPolicy>,
    pub(super) is_unkillable: bool,
    /// A reload could not replace it, because its slot holds somebody who cannot be killed.
    pub(super) is_left_over: bool,
    /// It was stopped because the start of its spec failed.
    pub(super) is_undone: bool,
    /// It is to be the successor of a worker that is recycled.
    pub(super) is_for_recycling: bool,
    /// What may be a reason to recycle it.
    pub(super) why: Why,
}

impl Seen {
    pub(super) fn new(slot: Slot, generation: Generation, spawned_at: Mono) -> Self {
        Self {
            slot,
            generation,
            spawned_at,
            steps: Vec::new(),
            ready_at: None,
            stops: Vec::new(),
            is_unkillable: false,
            is_left_over: false,
            is_undone: false,
            is_for_recycling: false,
            why: Why::default(),
        }
    }

    pub(super) fn has(&self, step: &str) -> bool {
        self.steps.contains(&step)
    }

    /// Is it on its way out, as far as it told?
    pub(super) fn is_ending(&self) -> bool {
        self.has("exiting") || self.has("disconnect")
    }

    /// Is it there to stay?
    pub(super) fn is_wanted(&self) -> bool {
        self.stops.is_empty() && !self.is_unkillable
    }
}

/// What happened between two questions to the machine.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) input: Option<Input>,
    /// The event that this fact must become.
    pub(super) expected: Option<(WorkerId, &'static str)>,
    pub(super) spawned: Vec<WorkerId>,
    /// Who was promoted, until that is told.
    pub(super) promoted: Vec<WorkerId>,
    /// Of those who stand by, who was stopped.
    pub(super) dismissed: Vec<WorkerId>,
    pub(super) stopped: Vec<WorkerId>,
    pub(super) recycled: Vec<WorkerId>,
    /// Whose end was told, and must it be judged? `None` if that cannot be seen from outside.
    pub(super) end: Option<(WorkerId, Option<bool>)>,
    pub(super) verdicts: usize,
    pub(super) gave_up: Option<GaveUp>,
    pub(super) scaled: Option<(SpecName, u32)>,
    pub(super) is_refused: bool,
    /// A start by hand that failed: its spec.
    pub(super) failed_start: Option<SpecName>,
    /// Reloads that ended, and what they brought.
    pub(super) reloaded: Vec<(RequestId, Option<Generation>)>,
    /// Did a worker end for good, unasked?
    pub(super) is_final: bool,
    /// And had it begun?
    pub(super) is_significant: bool,
    pub(super) had_reload: bool,
    pub(super) lost_before: usize,
}

impl Turn {
    /// Did somebody want something?
    pub(super) fn is_request(&self) -> bool {
        use Input as In;
        self.input.as_ref().is_some_and(|input| match input {
            In::SlotForkRequested { .. }
            | In::WorkerStopRequested { .. }
            | In::RestartRequested { .. }
            | In::SlotStartRequested { .. }
            | In::ScaleRequested { .. }
            | In::SpecAddRequested { .. }
            | In::SpecStopRequested { .. }
            | In::SpecStartRequested { .. }
            | In::SpecRestartRequested { .. }
            | In::SpecDeleteRequested { .. }
            | In::ClusterDisconnectRequested
            | In::ShutdownRequested { .. } => true,
            In::Started
            | In::WorkerForked { .. }
            | In::WorkerOnline { .. }
            | In::WorkerStandsBy { .. }
            | In::WorkerListening { .. }
            | In::WorkerReady { .. }
            | In::WorkerExiting { .. }
            | In::WorkerDisconnected { .. }
            | In::WorkerExited { .. }
            | In::WorkerFailed { .. }
            | In::WorkerServed { .. }
            | In::ReloadRequested { .. }
            | In::CanaryJudged { .. }
            | In::ReconfigureRequested { .. }
            | In::RecycleRequested { .. } => false,
        })
    }
}
