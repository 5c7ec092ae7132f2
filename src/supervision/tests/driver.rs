//! Drives the machine of the cluster as the master drives it, and puts what it orders into words.

use super::*;
use crate::model::{BoundAddress, Exit, ExitReason, ExitStatus, Signal, SpawnFailure, SpawnStep};

/// A cluster and what it ordered, oldest first, in words.
pub(super) struct Cluster {
    pub(super) machine: Supervision,
    pub(super) now: Mono,
}

impl Cluster {
    pub(super) fn new(config: SupervisionConfig) -> Self {
        Self {
            machine: Supervision::new(config),
            now: ms(0),
        }
    }

    /// Started, and everybody ready.
    pub(super) fn up(config: SupervisionConfig) -> Self {
        let mut cluster = Self::new(config);
        cluster.tell(Input::Started);
        cluster.boot();
        cluster
    }

    pub(super) fn tell(&mut self, input: Input) -> Vec<String> {
        self.machine.handle(input, self.now);
        self.words()
    }

    /// Time passes to the next deadline.
    pub(super) fn wait(&mut self) -> Vec<String> {
        self.now = self.machine.next_deadline().expect("something is waited for");
        self.machine.handle_deadline(self.now);
        self.words()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Everybody who boots gets ready.
    pub(super) fn boot(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        loop {
            let slots = self.machine.slots();
            let before = self.machine.ready();
            for id in slots.into_iter().filter_map(|slot| slot.worker) {
                let booting = self
                    .machine
                    .roster
                    .find(id)
                    .is_some_and(|(_, _, worker)| !worker.forked);
                if booting {
                    words.extend(self.ready(id.get()));
                }
            }
            if self.machine.ready() == before {
                return words;
            }
        }
    }

    pub(super) fn ready(&mut self, id: u64) -> Vec<String> {
        let id = WorkerId::new(id);
        let address = BoundAddress::tcp(([127, 0, 0, 1], 80).into());
        let mut words = self.tell(Input::WorkerForked { id });
        words.extend(self.tell(Input::WorkerOnline { id }));
        words.extend(self.tell(Input::WorkerListening { id, address }));
        words.extend(self.tell(Input::WorkerReady { id }));
        words
    }

    pub(super) fn end(&mut self, id: u64, status: ExitStatus, reason: ExitReason) -> Vec<String> {
        self.end_with(id, status, reason, true)
    }

    pub(super) fn end_with(&mut self, id: u64, status: ExitStatus, reason: ExitReason, was_ready: bool) -> Vec<String> {
        let exit = Exit {
            status,
            reason,
            forced: false,
            requests_cut: 0,
            was_ready,
            drain: None,
            last_words: None,
        };
        let id = WorkerId::new(id);
        self.tell(Input::WorkerExited { id, exit })
    }

    pub(super) fn crash(&mut self, id: u64) -> Vec<String> {
        self.end(
            id,
            ExitStatus::Signal {
                signal: Signal::SEGV,
                core: false,
            },
            ExitReason::Crash,
        )
    }

    pub(super) fn ordered(&mut self, id: u64) -> Vec<String> {
        self.end(id, ExitStatus::Code(0), ExitReason::Ordered)
    }

    fn words(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(action) = self.machine.poll_action() {
            words.push(match action {
                Action::SlotAdded { slot, .. } => format!("added {slot}"),
                Action::Spawn { id, slot, .. } => format!("spawn {id} {slot}"),
                Action::SpawnStandby { id, spec, .. } => format!("spawn {id} {spec}.standby"),
                Action::Promote { id, slot, .. } => format!("promote {id} {slot}"),
                Action::Stop {
                    id,
                    policy: ShutdownPolicy::Brutal,
                } => format!("kill {id}"),
                Action::Stop { id, .. } => format!("stop {id}"),
                Action::Publish {
                    kind: EventKind::RestartScheduled { slot, delay, attempt },
                    ..
                } => {
                    format!("restart {slot} in {delay:?} #{attempt}")
                }
                Action::Publish { worker: Some(id), kind } => format!("{} {id}", kind.name()),
                Action::Publish { worker: None, kind } => kind.name().to_owned(),
                Action::Forked {
                    result: Ok((slot, id)), ..
                } => format!("forked {id} {slot}"),
                Action::Forked {
                    result: Err(refused), ..
                } => format!("refused: {refused}"),
                Action::Scaled {
                    result: Ok(Scaled { from, to, .. }),
                    ..
                } => format!("scaled {from} {to}"),
                Action::Scaled {
                    result: Err(refused), ..
                } => format!("refused: {refused}"),
                Action::GenerationAdded { generation, .. } => format!("generation {generation}"),
                Action::GenerationGone { generation } => format!("no generation {generation}"),
                Action::CanaryVerdict { workers, .. } => format!("verdict on {workers:?}"),
                Action::ReloadFinished {
                    result: Ok(generation), ..
                } => format!("reloaded {generation}"),
                Action::ReloadFinished { result: Err(error), .. } => format!("not reloaded: {error}"),
                Action::SpecAnswered { result: Ok(()), .. } => "ok".to_owned(),
                Action::SpecAnswered {
                    result: Err(refused), ..
                } => format!("refused: {refused}"),
                Action::SpecsTaken { .. } => "taken".to_owned(),
                Action::SpecGone { spec } => format!("no spec {spec}"),
                Action::SlotGone { slot } => format!("gone {slot}"),
                Action::Finished(outcome) => format!("finished {outcome:?}"),
            });
        }
        words
    }

    pub(super) fn slot(&self, index: usize) -> SlotState {
        self.machine.slots()[index].state
    }
}

pub(super) fn spawn_failed(id: u64) -> Input {
    let failure = SpawnFailure {
        step: SpawnStep::Exec,
        errno: Some(2),
        detail: "no such file".to_owned(),
    };
    Input::WorkerExited {
        id: WorkerId::new(id),
        exit: Exit::not_started(failure),
    }
}
