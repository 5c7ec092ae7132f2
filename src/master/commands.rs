//! The supervisor's handlers: what arrives, translated for its one door.

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::error::CommandError;
use crate::master::messages::{Dispatched, Reports, WorkerOrder};
use crate::master::{ClusterSupervisor, Command, Urgency};
use crate::model::{Announcement, EndCause, EventKind, Signal, WorkerId};
use crate::supervision::Input;

impl Actor for ClusterSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let settings = Box::new(self.settings().clone());
        self.publish(None, EventKind::Setup(settings));
        self.step(Input::Started, ctx);
    }
}

impl Handler<Reports> for ClusterSupervisor {
    type Result = ();

    fn handle(&mut self, Reports { worker, reports }: Reports, ctx: &mut Self::Context) {
        self.begin_turn();
        for report in reports {
            self.learn(worker, report, ctx);
        }
    }
}

impl Handler<Dispatched> for ClusterSupervisor {
    type Result = ();

    fn handle(&mut self, Dispatched { worker, kind }: Dispatched, _: &mut Self::Context) {
        self.publish_of(&worker, kind);
    }
}

impl Handler<Command> for ClusterSupervisor {
    type Result = ();

    fn handle(&mut self, command: Command, ctx: &mut Self::Context) {
        match command {
            Command::Fork { env, reply } => {
                let spec = self.spec();
                let request = self.replies().await_fork(env, reply);
                self.step(Input::SlotForkRequested { request, spec }, ctx);
            }
            Command::Setup { change, reply } => answer(reply, self.set_up(change)),
            Command::Disconnect { worker, reply } => {
                answer(reply, self.check(worker));
                self.step(Input::WorkerStopRequested { id: worker }, ctx);
            }
            Command::Restart { worker, reply } => {
                answer(reply, self.check(worker));
                self.step(Input::RestartRequested { id: worker }, ctx);
            }
            Command::DisconnectAll { reply } => {
                self.replies().await_empty(reply);
                self.step(Input::ClusterDisconnectRequested, ctx);
                self.tell_if_empty();
            }
            Command::CloseChannel { worker, reply } => {
                answer(reply, self.check(worker));
                self.order(worker, WorkerOrder::CloseChannel, ctx);
            }
            Command::Kill {
                worker,
                signal,
                cause,
                reply,
            } => self.kill(worker, signal, cause, reply),
            Command::Publish {
                worker,
                announcement,
                reply,
            } => self.announce(worker, announcement, reply),
            Command::StartSlot { slot, reply } => {
                let allowed = self.may_start(&slot);
                let start = allowed.is_ok();
                answer(reply, allowed);
                if start {
                    self.step(Input::SlotStartRequested { slot }, ctx);
                }
            }
            Command::Scale { spec, target, reply } => self.scale(spec, target, reply, ctx),
            Command::Reload { options, reply } => self.reload(options, reply, ctx),
            Command::Judged { request, verdict } => self.judged(request, verdict, ctx),
            Command::Recycle { worker, why, reply } => {
                answer(reply, self.check(worker));
                self.recycle(worker, why, ctx);
            }
            Command::AddSpec { mut spec, reply } => match self.config().admit(&mut spec) {
                Ok(()) => self.add_spec(*spec, reply, ctx),
                Err(error) => answer(reply, Err(error)),
            },
            Command::Reconfigure { changes, specs, reply } => self.reconfigure(changes, specs, reply, ctx),
            Command::Specs { spec, reply } => answer(reply, self.specs(spec.as_ref())),
            Command::Rules { reply } => answer(reply, self.rules()),
            Command::Spec { spec, order, reply } => self.spec_order(spec, order, reply, ctx),
            Command::Follow { options, reply } => answer(reply, self.publisher().follow(&options)),
            Command::Sockets { reply } => answer(reply, self.keepable_sockets()),
            Command::SubscriberLost { name, why } => self.publish(None, EventKind::SubscriberLost { name, why }),
            Command::Shutdown { urgency, reply } => {
                self.replies().await_end(reply);
                self.note_urgency(urgency);
                self.step(
                    Input::ShutdownRequested {
                        now: urgency != Urgency::Graceful,
                    },
                    ctx,
                );
            }
        }
    }
}

impl ClusterSupervisor {
    /// Publishes what a plug-in has to say, in its place among the events.
    fn announce(
        &mut self,
        worker: Option<WorkerId>,
        announcement: Announcement,
        reply: oneshot::Sender<Result<(), CommandError>>,
    ) {
        let known = worker.map_or(Ok(()), |worker| self.check(worker));
        if known.is_ok() {
            let kind = match announcement {
                Announcement::Unhealthy(unhealthy) => EventKind::Unhealthy(unhealthy),
                Announcement::Recovered => EventKind::Recovered,
                Announcement::Custom(event) => EventKind::Custom(event),
            };
            self.publish(worker, kind);
        }
        answer(reply, known);
    }

    /// Delivers a signal for the user; the answer comes from the worker's actor.
    fn kill(
        &self,
        worker: WorkerId,
        signal: Signal,
        cause: Option<EndCause>,
        reply: oneshot::Sender<Result<(), CommandError>>,
    ) {
        let Some(actor) = self.actor(worker) else {
            // Node: killing a worker that has exited is no error.
            return answer(reply, Ok(()));
        };
        actix_rt::spawn(async move {
            let result = match actor.send(WorkerOrder::Kill(signal, cause)).await {
                Ok(Err(errno)) => Err(CommandError::Signal {
                    worker,
                    signal,
                    errno: errno as i32,
                }),
                // A closed mailbox is a worker that has exited.
                Ok(Ok(())) | Err(_) => Ok(()),
            };
            answer(reply, result);
        });
    }
}

/// Answers a handle. Its caller may have lost interest, which is its own affair.
pub(crate) fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}

/// Reports and commands that may wait. A worker has at most one batch of reports under way for each of its few tasks,
/// so this holds for thousands of workers; a full mailbox makes workers' actors wait, and nothing is lost.
const MAILBOX: usize = 1 << 16;
