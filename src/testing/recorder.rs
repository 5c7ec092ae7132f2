//! The handle that records, and the test's end of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use tokio::sync::{mpsc, oneshot};

use super::recorded::RecordedCommand;
use crate::administration::ClusterRules;
use crate::clock;
use crate::error::CommandError;
use crate::events::Events;
use crate::handle::{ClusterHandle, Shared};
use crate::master::{Command, Directory, SpecOrder, Subscribers, Urgency};
use crate::model::{
    ClusterEvent, ClusterSnapshot, EventKind, Generation, ReloadError, Settings, ShutdownReport, Slot, SpecName,
    SubscriberLoss, WorkerId, WorkerSnapshot, WorkerState,
};
use crate::supervision::ScaleTarget;

/// Makes handles that record.
#[derive(Debug)]
pub struct RecordingHandle;

impl RecordingHandle {
    /// A handle that shows `snapshot`, and the test's end of it. Needs an actix `System`: `#[actix::test]` or
    /// `#[actix_rt::test]`.
    ///
    /// The snapshot's `master_pid` and `uptime` are those of the test; a worker's `uptime` follows from its
    /// `times.created`.
    #[expect(
        clippy::new_ret_no_self,
        reason = "the handle is the ordinary type, which is the point"
    )]
    #[must_use]
    pub fn new(snapshot: ClusterSnapshot) -> (ClusterHandle, Recorder) {
        let directory = Arc::new(Directory::new(BTreeMap::new()));
        directory.show(&snapshot);
        let subscribers = Arc::new(Subscribers::new(256));
        let (commands, recorded) = mpsc::unbounded_channel();
        let state = Arc::new(Mutex::new(State {
            seq: snapshot.seq,
            shown: snapshot,
            refusals: VecDeque::new(),
            ended: false,
        }));
        let stand_in = StandIn {
            directory: Arc::clone(&directory),
            subscribers: Arc::clone(&subscribers),
            state: Arc::clone(&state),
            commands,
        };
        let handle = ClusterHandle::new(Shared {
            commands: stand_in.start().recipient(),
            directory: Arc::clone(&directory),
            subscribers: Arc::clone(&subscribers),
            pumps: Arbiter::current(),
            // Nobody waits for the end of a test's cluster.
            consumers: mpsc::channel(1).0.downgrade(),
        });
        let recorder = Recorder {
            directory,
            subscribers,
            state,
            recorded,
        };
        (handle, recorder)
    }
}

/// The test's end of a recording handle: what was commanded, what is shown and what happens.
#[derive(Debug)]
pub struct Recorder {
    directory: Arc<Directory>,
    subscribers: Arc<Subscribers>,
    state: Arc<Mutex<State>>,
    recorded: mpsc::UnboundedReceiver<RecordedCommand>,
}

/// What the test has said so far.
#[derive(Debug)]
struct State {
    shown: ClusterSnapshot,
    seq: u64,
    refusals: VecDeque<Refusal>,
    ended: bool,
}

#[derive(Debug)]
enum Refusal {
    Command(CommandError),
    Reload(ReloadError),
}

impl Recorder {
    /// Delivers an event as it is to every subscriber that wants it. Later ones that [`publish`](Self::publish) numbers
    /// come after it.
    pub fn emit(&self, event: ClusterEvent) {
        let mut state = lock(&self.state);
        state.seq = state.seq.max(event.seq);
        self.directory.write().seq = state.seq;
        self.subscribers.publish(std::iter::once(event));
    }

    /// Publishes an event as the master would: with the next number, the time, and the worker as it is shown. Answers
    /// with the number.
    pub fn publish(&self, worker: Option<WorkerId>, kind: EventKind) -> u64 {
        let state = lock(&self.state);
        let shown = state.shown.workers.iter().find(|shown| Some(shown.id) == worker);
        let event = ClusterEvent::for_test(state.seq + 1, clock::now(), shown.map(WorkerSnapshot::info), kind);
        let seq = event.seq;
        drop(state);
        self.emit(event);
        seq
    }

    /// Changes what the handle shows from now on, before the event that tells of it. A worker that is no longer among
    /// them is dead; the number of the last event stays as it is.
    pub fn show(&self, change: impl FnOnce(&mut ClusterSnapshot)) {
        let mut state = lock(&self.state);
        change(&mut state.shown);
        state.shown.seq = state.seq;
        self.directory.show(&state.shown);
    }

    /// The next command nobody has looked at; waits for it, so put a limit around a command that may not come.
    ///
    /// # Panics
    /// If every handle is gone, so that none can come any more.
    pub async fn next_command(&mut self) -> RecordedCommand {
        let command = self.recorded.recv().await;
        command.expect("no handle is left, so no command will come")
    }

    /// The commands that have come and that nobody has looked at.
    pub fn commands(&mut self) -> Vec<RecordedCommand> {
        std::iter::from_fn(|| self.recorded.try_recv().ok()).collect()
    }

    /// Answers a coming command with this error instead of yes: the next one that can be refused so and was not told
    /// before. Say it again for the one after it.
    pub fn refuse_next(&self, why: CommandError) {
        lock(&self.state).refusals.push_back(Refusal::Command(why));
    }

    /// [`refuse_next`](Self::refuse_next) for reloads.
    pub fn refuse_next_reload(&self, why: ReloadError) {
        lock(&self.state).refusals.push_back(Refusal::Reload(why));
    }

    /// What was sent to a worker and not looked at, as JSON; empty if there is no such worker. A call is among it and is
    /// never answered.
    #[must_use]
    pub fn sent_to(&self, worker: WorkerId) -> Vec<serde_json::Value> {
        let Some(link) = self.directory.dead_or_alive(worker) else {
            return Vec::new();
        };
        let lines = link.outbox.take_lines();
        let frames = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let body = |line| -> Option<serde_json::Value> {
            let mut frame: serde_json::Value = serde_json::from_slice(line).ok()?;
            Some(frame["m"].take())
        };
        frames.filter_map(body).collect()
    }

    /// The cluster ends: subscribers get what is queued and then the end, commands are answered `Gone`.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.subscribers.finish();
    }
}

/// Takes the supervisor's place.
struct StandIn {
    directory: Arc<Directory>,
    subscribers: Arc<Subscribers>,
    state: Arc<Mutex<State>>,
    commands: mpsc::UnboundedSender<RecordedCommand>,
}

impl Actor for StandIn {
    type Context = Context<Self>;
}

impl Handler<Command> for StandIn {
    type Result = ();

    fn handle(&mut self, command: Command, _: &mut Self::Context) {
        if lock(&self.state).ended {
            // The question is dropped, which the handle reports as a cluster that has ended.
            return;
        }
        if let Some(recorded) = self.answer(command) {
            // The test may have dropped its end.
            self.commands.send(recorded).ok();
        }
    }
}

impl StandIn {
    /// Answers a command; what is to be written down of it.
    fn answer(&self, command: Command) -> Option<RecordedCommand> {
        Some(match command {
            Command::Fork { env, reply } => {
                let id = self.refusal().map_or_else(|| Ok(self.fork()), Err);
                tell(reply, id);
                RecordedCommand::Fork(env)
            }
            Command::Setup { change, reply } => {
                let mut settings = Settings::default();
                change(&mut settings);
                tell(reply, Ok(settings.clone()));
                RecordedCommand::Setup(Box::new(settings))
            }
            Command::Disconnect { worker, reply } => self.done(reply, RecordedCommand::Disconnect(worker)),
            Command::Restart { worker, reply } => self.done(reply, RecordedCommand::Restart(worker)),
            Command::DisconnectAll { reply } => {
                tell(reply, ());
                RecordedCommand::DisconnectAll
            }
            Command::CloseChannel { worker, reply } => self.done(reply, RecordedCommand::CloseChannel(worker)),
            Command::Kill {
                worker,
                signal,
                cause,
                reply,
            } => self.done(reply, RecordedCommand::Kill(worker, signal, cause)),
            Command::Publish {
                worker,
                announcement,
                reply,
            } => self.done(reply, RecordedCommand::Publish(worker, announcement)),
            Command::StartSlot { slot, reply } => self.done(reply, RecordedCommand::StartSlot(slot)),
            Command::Scale { spec, target, reply } => self.scale(spec, target, reply),
            Command::Reload { options, reply } => {
                let generation = self.reload();
                reply.into_iter().for_each(|reply| tell(reply, generation.clone()));
                let (spec, rollout) = (options.spec, options.rollout);
                RecordedCommand::Reload {
                    spec,
                    rollout: rollout.unwrap_or_default(),
                }
            }
            // Only the supervisor gives this one, to itself.
            Command::Judged { .. } => return None,
            Command::Recycle { worker, why, reply } => self.done(reply, RecordedCommand::Recycle(worker, why)),
            Command::AddSpec { spec, reply } => {
                let name = spec.config.name.clone();
                self.done(reply, RecordedCommand::AddSpec(name))
            }
            Command::Reconfigure { specs, reply, .. } => {
                let names = specs.iter().map(|spec| spec.config.name.clone()).collect();
                self.done(reply, RecordedCommand::Reconfigure(names))
            }
            // Questions are not commands; a cluster in name only has no descriptions.
            Command::Specs { reply, .. } => {
                tell(reply, Vec::new());
                return None;
            }
            Command::Rules { reply } => {
                tell(reply, ClusterRules::default());
                return None;
            }
            Command::Spec { spec, order, reply } => {
                let recorded = match order {
                    SpecOrder::Stop => RecordedCommand::StopSpec(spec),
                    SpecOrder::Start => RecordedCommand::StartSpec(spec),
                    SpecOrder::Restart => RecordedCommand::RestartSpec(spec),
                    SpecOrder::Delete => RecordedCommand::DeleteSpec(spec),
                };
                self.done(reply, recorded)
            }
            Command::Follow { options, reply } => {
                let events = Events::new(&self.subscribers, &options);
                tell(reply, (self.directory.snapshot(), events));
                return None;
            }
            // A test's cluster has no sockets.
            Command::Sockets { reply } => {
                tell(reply, Ok(Vec::new()));
                return None;
            }
            Command::SubscriberLost { name, why } => {
                self.publish_lost(name.clone(), why);
                RecordedCommand::SubscriberLost(name, why)
            }
            Command::Shutdown { urgency, reply } => {
                reply
                    .into_iter()
                    .for_each(|reply| tell(reply, ShutdownReport::default()));
                match urgency {
                    Urgency::Graceful => RecordedCommand::Shutdown,
                    Urgency::Immediate(_) => RecordedCommand::ShutdownNow,
                }
            }
        })
    }

    /// Says yes, or the error that the test has asked for.
    fn done<T: Default>(
        &self,
        reply: oneshot::Sender<Result<T, CommandError>>,
        recorded: RecordedCommand,
    ) -> RecordedCommand {
        tell(reply, self.refusal().map_or_else(|| Ok(T::default()), Err));
        recorded
    }

    fn scale(
        &self,
        spec: Option<SpecName>,
        target: ScaleTarget,
        reply: Option<oneshot::Sender<Result<u32, CommandError>>>,
    ) -> RecordedCommand {
        let now = lock(&self.state).shown.target;
        let workers = match target {
            ScaleTarget::To(workers) => workers,
            ScaleTarget::By(more) => i64::try_from(now).unwrap_or(i64::MAX).saturating_add(more),
        };
        let wanted = u32::try_from(workers.max(0)).unwrap_or(u32::MAX);
        let result = self.refusal().map_or(Ok(wanted), Err);
        reply.into_iter().for_each(|reply| tell(reply, result.clone()));
        RecordedCommand::Scale { spec, workers }
    }

    fn reload(&self) -> Result<Generation, ReloadError> {
        let mut state = lock(&self.state);
        let is_for_reloads = |refusal: &Refusal| matches!(refusal, Refusal::Reload(_));
        if let Some(place) = state.refusals.iter().position(is_for_reloads)
            && let Some(Refusal::Reload(why)) = state.refusals.remove(place)
        {
            return Err(why);
        }
        let newest = state.shown.workers.iter().map(|worker| worker.generation.0).max();
        Ok(Generation(newest.map_or(1, |newest| newest + 1)))
    }

    fn refusal(&self) -> Option<CommandError> {
        let mut state = lock(&self.state);
        let is_for_commands = |refusal: &Refusal| matches!(refusal, Refusal::Command(_));
        let place = state.refusals.iter().position(is_for_commands)?;
        match state.refusals.remove(place)? {
            Refusal::Command(why) => Some(why),
            Refusal::Reload(_) => None,
        }
    }

    /// One more worker, in a slot of its own.
    fn fork(&self) -> WorkerId {
        let mut state = lock(&self.state);
        let last = state.shown.workers.iter().map(|worker| worker.id.get()).max();
        let id = last.unwrap_or_default() + 1;
        let slot = Slot::new("forked", u32::try_from(id).unwrap_or(u32::MAX));
        let worker = WorkerSnapshot::for_test(id, slot, WorkerState::Created);
        state.shown.workers.push(worker);
        self.directory.show(&state.shown);
        WorkerId::new(id)
    }

    fn publish_lost(&self, name: String, why: SubscriberLoss) {
        let mut state = lock(&self.state);
        state.seq += 1;
        self.directory.write().seq = state.seq;
        let kind = EventKind::SubscriberLost { name, why };
        let event = ClusterEvent::for_test(state.seq, clock::now(), None, kind);
        self.subscribers.publish(std::iter::once(event));
    }
}

/// Answers a question; whoever asked may have lost interest.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The only user code under the lock is `show`'s, and a half-changed snapshot is the test's own.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{RecycleReason, ReloadFailure, Signal};
    use crate::policy::RolloutOptions;
    use crate::subscription::SubscribeOptions;

    fn cluster() -> (ClusterHandle, Recorder) {
        let worker = |id| {
            let slot = Slot::new("web", u32::try_from(id).unwrap());
            WorkerSnapshot::for_test(id, slot, WorkerState::Listening)
        };
        RecordingHandle::new(ClusterSnapshot::for_test([worker(1), worker(2)]))
    }

    #[actix_rt::test]
    async fn commands_are_written_down_and_answered() {
        let (handle, mut recorder) = cluster();
        let (one, two) = (WorkerId::new(1), WorkerId::new(2));
        handle.recycle(one, RecycleReason::Memory).await.unwrap();
        assert_eq!(handle.scale(7).await.unwrap(), 7);
        recorder.refuse_next_reload(ReloadError::general(ReloadFailure::Busy));
        recorder.refuse_next(CommandError::UnknownWorker(two));
        assert_eq!(handle.reload().await.unwrap_err().reason, ReloadFailure::Busy);
        let refused = handle.kill(two, Signal::KILL).await;
        assert_eq!(refused, Err(CommandError::UnknownWorker(two)));
        handle.kill(two, Signal::KILL).await.unwrap();
        assert_eq!(handle.reload().await.unwrap(), Generation(1));
        let scaled = RecordedCommand::Scale { spec: None, workers: 7 };
        let kill = || RecordedCommand::Kill(two, Signal::KILL, None);
        let reload = || RecordedCommand::Reload {
            spec: None,
            rollout: RolloutOptions::default(),
        };
        let recycle = RecordedCommand::Recycle(one, RecycleReason::Memory);
        assert_eq!(recorder.next_command().await, recycle);
        assert_eq!(recorder.commands(), [scaled, reload(), kill(), kill(), reload()]);
        assert_eq!(handle.fork([("A", "b")]).await.unwrap().id(), WorkerId::new(3));
        recorder.end();
        assert_eq!(handle.disconnect_all().await, Err(CommandError::Gone));
    }

    #[actix_rt::test]
    async fn what_the_test_shows_and_says_is_what_a_plug_in_sees() {
        let (handle, recorder) = cluster();
        let (snapshot, mut events) = handle.follow(&SubscribeOptions::new()).await.unwrap();
        assert_eq!((snapshot.seq, snapshot.ready, handle.workers().len()), (0, 2, 2));
        let worker = handle.worker(WorkerId::new(2)).unwrap();
        worker.send("hello").unwrap();
        assert_eq!(recorder.sent_to(worker.id()), ["hello"]);
        assert!(recorder.sent_to(worker.id()).is_empty());
        recorder.show(|snapshot| snapshot.workers.retain(|worker| worker.id == WorkerId::new(1)));
        assert!(worker.is_dead() && handle.worker(worker.id()).is_none());
        assert_eq!(recorder.publish(Some(WorkerId::new(1)), EventKind::Ready), 1);
        let at = crate::Mono::new(Duration::from_secs(3));
        recorder.emit(ClusterEvent::for_test(9, at, None, EventKind::ShutdownStarted));
        assert_eq!(recorder.publish(None, EventKind::AllReady { workers: 1 }), 10);
        recorder.end();
        let mut seen = Vec::new();
        while let Some(event) = events.next().await {
            seen.push((event.seq, event.kind.name(), event.worker.map(|worker| worker.id.get())));
        }
        let expected = [
            (1, "ready", Some(1)),
            (9, "shutdown_started", None),
            (10, "all_ready", None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(handle.snapshot().seq, 10);
    }
}
