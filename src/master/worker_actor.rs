//! `WorkerActor`: one process of the cluster, from its start to its exit. Thin: it owns the channel and the state
//! machine of its process, translates frames and deaths into inputs, and orders into signals and frames.
//!
//! A restarted worker is a new actor with a new address, so a late message of a dead process cannot reach its successor.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::SendError;
use actix::prelude::*;
use nix::errno::Errno;

use crate::clock;
use crate::ipc::{ANNOUNCEMENT_MAX, CallReply, Channel, Incoming, Outbox, PROTOCOL, ToMaster, ToWorker};
use crate::master::handover::Attachment;
use crate::master::life::Life;
use crate::master::liveness::{Liveness, Verdict};
use crate::master::messages::{Frames, Happening, News, Report, Reports, Wish, WorkerOrder};
use crate::master::printed::Printed;
use crate::master::vital::{self, vital};
use crate::master::{Link, Subscribers};
use crate::model::{Message, Mono, Reply, bounded};
use crate::policy::ShutdownPolicy;
use crate::process::ProcessHandle;
use crate::supervision::{Fact, LifeInput, Lifecycle, Order, Output};

/// Everything that belongs to a process that was just started.
pub(crate) struct Newborn {
    pub(crate) link: Arc<Link>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) channel: Arc<Channel>,
    pub(crate) process: ProcessHandle,
    /// The master's end of its hand-over socket; not the actor's affair.
    pub(crate) handover: Option<Attachment>,
    pub(crate) outputs: Vec<Printed>,
    pub(crate) kill_tree: bool,
    /// How often it was told to give a sign of life.
    pub(crate) heartbeat: Option<Duration>,
    /// How long the worker may drain, as it is told.
    pub(crate) grace_ms: u64,
}

/// One worker process in the master.
pub(crate) struct WorkerActor {
    link: Arc<Link>,
    lifecycle: Lifecycle,
    channel: Arc<Channel>,
    process: ProcessHandle,
    supervisor: Recipient<Reports>,
    subscribers: Arc<Subscribers>,
    outputs: Vec<Printed>,
    kill_tree: bool,
    liveness: Liveness,
    grace_ms: u64,
    deadline: Option<(Mono, SpawnHandle)>,
    /// So much of the time in which it was not read is taken off its limits already.
    excused: Duration,
    /// The errno of the last signal that the kernel refused to deliver.
    refused: Option<Errno>,
    /// The tasks that read and write the channel; they hold it open.
    tasks: Vec<tokio::task::AbortHandle>,
}

impl WorkerActor {
    pub(crate) fn new(newborn: Newborn, supervisor: Recipient<Reports>, subscribers: Arc<Subscribers>) -> Self {
        let Newborn {
            link,
            lifecycle,
            channel,
            process,
            handover: _,
            outputs,
            kill_tree,
            heartbeat,
            grace_ms,
        } = newborn;
        Self {
            link,
            lifecycle,
            channel,
            process,
            supervisor,
            subscribers,
            outputs,
            kill_tree,
            liveness: Liveness::new(heartbeat),
            grace_ms,
            deadline: None,
            excused: Duration::ZERO,
            refused: None,
            tasks: Vec::new(),
        }
    }

    /// Starts the actor on this thread.
    pub(crate) fn run(self) -> Addr<Self> {
        let context = Context::new();
        let address = context.address();
        vital::run("the actor of a worker", context, self);
        address
    }

    /// The one door of the process's machine: passes the input, carries out the orders, reports the facts.
    fn step(&mut self, input: LifeInput, ctx: &mut Context<Self>) -> Vec<Report> {
        // A worker that lies about its state is ignored, and its lies are counted by the machine.
        let _note = self.lifecycle.handle(input, clock::now());
        self.settle(ctx)
    }

    /// Carries out what the machine has decided; what it tells is returned, in order.
    fn settle(&mut self, ctx: &mut Context<Self>) -> Vec<Report> {
        let mut reports = Vec::new();
        while let Some(output) = self.lifecycle.poll_output() {
            match output {
                Output::Order(order) => self.carry_out(order),
                Output::Fact(news) => reports.push(Report::Fact(news)),
            }
        }
        self.arm(ctx);
        reports
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let next = self.lifecycle.next_deadline();
        if self.deadline.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, handle)) = self.deadline.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = next {
            let handle = ctx.run_later(clock::now().until(at), Self::time_passed);
            self.deadline = Some((at, handle));
        }
    }

    fn time_passed(&mut self, ctx: &mut Context<Self>) {
        self.deadline = None;
        let now = clock::now();
        let unread = self.unread_for(now);
        if !unread.is_zero() {
            self.lifecycle.handle(LifeInput::Unread(unread), now);
        }
        self.lifecycle.handle_deadline(now);
        let reports = self.settle(ctx);
        self.report(reports, ctx);
    }

    /// How long its word has lain unread since this was asked last.
    fn unread_for(&mut self, now: Mono) -> Duration {
        let total = self.link.view().unread.total(now);
        total.saturating_sub(std::mem::replace(&mut self.excused, total))
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::SendStop => {
                // A channel that takes no more is no way to reach it: the ladder goes on to SIGTERM.
                if let Err(error) = self.link.outbox.push(
                    &ToWorker::Stop {
                        grace_ms: self.grace_ms,
                        lame_duck_ms: whole_millis(self.lifecycle.lame_duck()),
                    },
                    Vec::new(),
                ) {
                    tracing::debug!(worker = self.link.id.get(), err = %error, "stop order not sent");
                }
            }
            Order::Signal(signal) => {
                // ESRCH means that it died meanwhile: its exit is on the way. EPERM is a worker that changed its user;
                // the ladder goes on to SIGKILL, which fails the same way and ends in `Unkillable`.
                if let Err(err) = self.process.signal(signal) {
                    self.refused = err.raw_os_error().map(Errno::from_raw);
                    tracing::warn!(worker = self.link.id.get(), %signal, %err, "signal refused");
                }
            }
            Order::CloseChannel => self.close_channel(),
        }
    }

    /// Nobody writes the flight recorder any more, so what it held belongs to the exit.
    fn add_last_words(&self, reports: &mut [Report]) {
        for report in reports {
            if let Report::Fact(News {
                fact: Fact::Exited(exit),
                ..
            }) = report
            {
                exit.last_words = self.link.flight_record();
            }
        }
    }

    fn close_channel(&mut self) {
        // What waits cannot be sent any more. The link outlives the worker, so its descriptors are closed here and now: the
        // task that writes may be gone before it notices.
        self.link.outbox.abandon();
        self.channel.shut_down();
    }

    /// Reports to the supervisor, in order. The supervisor waits for nobody, so waiting for it cannot deadlock.
    fn report(&self, reports: Vec<Report>, ctx: &mut Context<Self>) {
        self.report_and(reports, ctx, |_| {});
    }

    /// Reports, and goes on with `then` when the supervisor has taken it. A context that stops polls nothing more: who is to
    /// stop after a report does so in here.
    fn report_and(
        &self,
        reports: Vec<Report>,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Context<Self>) + 'static,
    ) {
        if reports.is_empty() {
            return then(ctx);
        }
        let reports = Reports {
            worker: self.link.id,
            reports,
        };
        match self.supervisor.try_send(reports) {
            Ok(()) => then(ctx),
            Err(SendError::Full(reports)) => {
                let sent = self.supervisor.send(reports).into_actor(self);
                ctx.wait(sent.map(|_, _, ctx| then(ctx)));
            }
            // The supervisor is gone: the cluster is being torn down and the channel's end will end the worker.
            Err(SendError::Closed(_)) => ctx.stop(),
        }
    }

    /// What a frame means to the machine, or to the supervisor.
    fn receive(&mut self, incoming: Incoming<ToMaster>, reports: &mut Vec<Report>, ctx: &mut Context<Self>) {
        let Incoming { frame, fds, fds_lost } = incoming;
        match frame {
            ToMaster::Online { protocol: PROTOCOL, .. } => reports.extend(self.step(LifeInput::Online, ctx)),
            ToMaster::Online { protocol, .. } => {
                let what = format!("it speaks version {protocol} of the protocol, this master version {PROTOCOL}");
                reports.extend(self.step(LifeInput::ProtocolBroken(what), ctx));
            }
            ToMaster::Standby => reports.extend(self.step(LifeInput::StandsBy, ctx)),
            ToMaster::Ready => reports.extend(self.step(LifeInput::Ready, ctx)),
            ToMaster::Leaving => reports.extend(self.step(LifeInput::Leaving, ctx)),
            ToMaster::Listening { key, address, adopts } => {
                // First: who sees it listening must see on what, or it looks like one that gave everything back. Of one that
                // leaves it is too late: it accepts no more, and a sibling serves its queue.
                if !self.lifecycle.is_leaving() {
                    reports.push(Report::Accepts { key, adopts });
                }
                reports.extend(self.step(LifeInput::Listening(address), ctx));
            }
            ToMaster::Stats(stats) => {
                reports.extend(self.step(LifeInput::Stats(stats), ctx));
                reports.push(Report::Stats(stats));
            }
            ToMaster::Announce(payload) if payload.as_str().len() <= ANNOUNCEMENT_MAX => {
                reports.push(Report::Announced(payload));
            }
            ToMaster::Announce(_) => {
                let what = format!("it announced more than {ANNOUNCEMENT_MAX} bytes");
                reports.extend(self.step(LifeInput::ProtocolBroken(what), ctx));
            }
            // A worker in another language may send as much as fits into a frame.
            ToMaster::Failed(text) => reports.push(Report::Failed(bounded(text))),
            ToMaster::Bind { id, key, cwd, options } => {
                let wish = Wish {
                    request: id,
                    key,
                    cwd,
                    options,
                };
                reports.push(Report::WantsListener(wish));
            }
            ToMaster::Secret { id, key, offered } => reports.push(Report::OffersSecret {
                request: id,
                key,
                offered,
            }),
            ToMaster::Release { key } => reports.push(Report::GaveBack(key)),
            ToMaster::Heartbeat(heartbeat) => match self.liveness.hear(heartbeat.n, clock::now()) {
                Verdict::Nothing => {}
                Verdict::Life { tell } => reports.push(Report::Beat { heartbeat, tell }),
            },
            ToMaster::MoreTime(time) => {
                reports.extend(self.step(LifeInput::MoreTime(time), ctx));
                reports.push(Report::MoreTime(time));
            }
            ToMaster::Message(payload) => say(reports, Message::new(payload, None, fds).with_lost_fds(fds_lost)),
            ToMaster::Call { id, payload } => {
                let reply = Reply::new(Box::new(CallReply::<ToWorker>::new(self.link.outbox.clone(), id)));
                say(reports, Message::new(payload, Some(reply), fds).with_lost_fds(fds_lost));
            }
            ToMaster::Reply { id, answer } => {
                let answer = answer.map(|payload| Message::new(payload, None, fds).with_lost_fds(fds_lost));
                self.link.calls.complete(id, answer);
            }
        }
    }
}

impl Actor for WorkerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let life = Life {
            worker: ctx.address(),
            link: Arc::clone(&self.link),
            channel: Arc::clone(&self.channel),
            process: self.process.clone(),
            subscribers: Arc::clone(&self.subscribers),
            outputs: std::mem::take(&mut self.outputs),
            kill_tree: self.kill_tree,
        };
        let life = vital("the watch over a worker", life.run());
        self.tasks.push(actix_rt::spawn(life).abort_handle());
        let (channel, outbox) = (Arc::clone(&self.channel), self.link.outbox.clone());
        self.tasks.push(actix_rt::spawn(write(channel, outbox)).abort_handle());
        let reports = self.settle(ctx);
        self.report(reports, ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        // The writer may have been waiting for the kernel: what it did not send is not kept for as long as the record is.
        self.link.outbox.abandon();
    }
}

impl Handler<Frames> for WorkerActor {
    type Result = ();

    fn handle(&mut self, Frames(frames): Frames, ctx: &mut Self::Context) {
        let mut reports = Vec::with_capacity(frames.len());
        for incoming in frames {
            self.receive(incoming, &mut reports, ctx);
        }
        self.report(reports, ctx);
    }
}

impl Handler<Happening> for WorkerActor {
    type Result = ();

    fn handle(&mut self, happening: Happening, ctx: &mut Self::Context) {
        let mut dead = false;
        let reports = match happening {
            Happening::ChannelClosed => {
                self.close_channel();
                self.link.calls.fail_all();
                self.step(LifeInput::ChannelClosed, ctx)
            }
            Happening::ProtocolBroken(what) => self.step(LifeInput::ProtocolBroken(what), ctx),
            Happening::Line(stream, line) => vec![Report::Line(stream, line)],
            Happening::LinesDropped(stream, lines, bytes) => vec![Report::LinesDropped(stream, lines, bytes)],
            Happening::Died(reaped, starved) => {
                dead = true;
                if reaped.leftovers {
                    tracing::warn!(
                        worker = self.link.id.get(),
                        "the worker left processes of its own behind"
                    );
                }
                self.close_channel();
                self.link.calls.fail_all();
                let mut reports = Vec::new();
                if starved {
                    reports = self.step(LifeInput::OutOfMemory, ctx);
                }
                reports.extend(self.step(LifeInput::Exited(reaped.status), ctx));
                self.add_last_words(&mut reports);
                reports
            }
        };
        self.report_and(reports, ctx, move |ctx| {
            if dead {
                ctx.stop();
            }
        });
    }
}

impl Handler<WorkerOrder> for WorkerActor {
    type Result = Result<(), Errno>;

    fn handle(&mut self, order: WorkerOrder, ctx: &mut Self::Context) -> Self::Result {
        let mut reports = Vec::new();
        let input = match order {
            WorkerOrder::Activate(activation, fds) => {
                // A channel that is closed belongs to a worker whose end is on its way here.
                if let Err(error) = self.link.outbox.push(&ToWorker::Activate(activation), fds) {
                    tracing::debug!(worker = self.link.id.get(), err = %error, "not activated");
                }
                // Its time to be ready begins now.
                self.unread_for(clock::now());
                LifeInput::Activated
            }
            WorkerOrder::Stop(policy) => {
                // The policy may have changed since the worker was started; it is told how long it has.
                if policy != ShutdownPolicy::Brutal {
                    self.grace_ms = whole_millis(policy.longest());
                }
                LifeInput::StopOrdered(policy)
            }
            WorkerOrder::Kill(signal, cause) => {
                self.refused = None;
                if let Some(cause) = cause {
                    reports = self.step(LifeInput::Blamed(cause), ctx);
                }
                LifeInput::KillOrdered(signal)
            }
            WorkerOrder::CloseChannel => {
                self.close_channel();
                LifeInput::ChannelClosed
            }
        };
        reports.extend(self.step(input, ctx));
        self.report(reports, ctx);
        self.refused.take().map_or(Ok(()), Err)
    }
}

/// Adds a message to the run it belongs to: anything else that the worker told in between ends a run.
fn say(reports: &mut Vec<Report>, message: Message) {
    if let Some(Report::Said(messages)) = reports.last_mut() {
        messages.push(message);
    } else {
        reports.push(Report::Said(vec![message]));
    }
}

/// A duration as the wire has it.
pub(crate) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn write(channel: Arc<Channel>, outbox: Outbox) {
    // A dead peer is told by the reading side; here it only means that nothing more can be written.
    if let Err(err) = channel.write_loop(&outbox).await {
        tracing::debug!(%err, "channel no longer writable");
    }
}

/// Orders and news that may wait for one worker's actor: one batch of frames, a few lines, a few orders.
const MAILBOX: usize = 256;

#[cfg(test)]
#[path = "worker_actor_tests.rs"]
mod tests;
