//! The task that watches one worker's channel and process, and keeps their order: last words come before the exit.
//!
//! It decides nothing: it reads, and tells the `WorkerActor`.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use actix::Addr;

use crate::clock;
use crate::ipc::{Channel, ChannelError, Counters, Decoder, Incoming, ReadOutcome, ToMaster};
use crate::master::messages::{Frames, Happening};
use crate::master::printed::Printed;
use crate::master::unread::Unreading;
use crate::master::worker_actor::WorkerActor;
use crate::master::{Link, Subscribers};
use crate::model::ExitStatus;
use crate::process::{OomWatch, ProcessHandle};

/// What the life task of one worker works with.
pub(crate) struct Life {
    pub(crate) worker: Addr<WorkerActor>,
    pub(crate) link: Arc<Link>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) process: ProcessHandle,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) outputs: Vec<Printed>,
    pub(crate) kill_tree: bool,
}

/// Why reading is over.
enum ReadEnd {
    /// The process has ended; what is in the channel is still to be read.
    ProcessEnded,
    /// The channel was closed, or broke.
    ChannelEnded,
}

impl Life {
    /// Reads the channel until the process dies, then what is left in the channel, and only then tells of the death.
    ///
    /// A send to the `WorkerActor` fails only when the cluster is being torn down; then nobody is left to be told.
    pub(crate) async fn run(mut self) {
        let copiers = std::mem::take(&mut self.outputs)
            .into_iter()
            .map(|printed| actix_rt::spawn(printed.copy(self.worker.clone(), self.process.clone())));
        let copiers: Vec<_> = copiers.collect();
        let mut decoder = Decoder::new();
        let mut exited = pin!(self.process.exited());
        let mut oom = OomWatch::begin(self.process.pid(), clock::now());
        match self.read(&mut decoder, &mut oom, exited.as_mut()).await {
            ReadEnd::ProcessEnded => self.last_words(&mut decoder).await,
            // What follows, if anything does, makes no sense any more.
            ReadEnd::ChannelEnded => drop(exited.await),
        }
        for copier in copiers {
            // A copier ends by itself when the process has ended; a panic in it costs lines, not the exit.
            copier.await.ok();
        }
        self.tell_oddities(&decoder);
        // The process has ended, so there is something to bury; `None` cannot be.
        let Some(reaped) = self.process.reap(self.kill_tree) else {
            return;
        };
        self.tell(Happening::Died(reaped, oom.has_killed(reaped.status, clock::now())))
            .await;
    }

    /// Reads until the channel or the process ends.
    ///
    /// The process's end interrupts the waits, never a `hand_over`: actix drops a message whose sender does not wait for
    /// its answer any more, and these frames would be lost.
    async fn read(
        &self,
        decoder: &mut Decoder,
        oom: &mut OomWatch,
        mut exited: Pin<&mut impl Future<Output = ExitStatus>>,
    ) -> ReadEnd {
        let mut free = FREE;
        loop {
            let mut frames = Vec::new();
            let outcome = tokio::select! {
                outcome = self.channel.read_batch(decoder, &mut frames) => Some(outcome),
                _ = exited.as_mut() => None,
            };
            let holds_back = frames
                .iter()
                .filter(|incoming| makes_event(&incoming.frame, &mut free))
                .count()
                > 0;
            // Who puts workers into groups of their own has done it by then, or the worker itself has.
            if frames.iter().any(|incoming| tells_a_step(&incoming.frame)) {
                oom.look_again(clock::now());
            }
            if frames.iter().any(|incoming| is_regular(&incoming.frame)) {
                oom.note(clock::now());
            }
            self.hand_over(frames).await;
            match outcome {
                None => return ReadEnd::ProcessEnded,
                Some(Ok(ReadOutcome::Frames)) => {}
                Some(Err(ChannelError::Frame(error))) => {
                    self.tell(Happening::ProtocolBroken(error.to_string())).await;
                    return ReadEnd::ChannelEnded;
                }
                // ECONNRESET: the other end was closed with our bytes unread.
                Some(Ok(ReadOutcome::Closed) | Err(ChannelError::Io(_))) => {
                    self.tell(Happening::ChannelClosed).await;
                    return ReadEnd::ChannelEnded;
                }
            }
            if holds_back {
                tokio::select! {
                    () = self.room(decoder) => {}
                    _ = exited.as_mut() => return ReadEnd::ProcessEnded,
                }
            }
        }
    }

    /// Waits until every subscriber that loses nothing has room. What the worker says meanwhile lies unread, its signs of life
    /// among it, and must not be missed: that is noted, but not of one that says nothing.
    async fn room(&self, decoder: &Decoder) {
        let mut room = pin!(self.subscribers.room_for_messages());
        tokio::select! {
            biased;
            () = room.as_mut() => return,
            () = self.channel.unread(decoder) => {}
        }
        let _unread = Unreading::begin(&self.link);
        room.await;
    }

    /// A grandchild may hold the other end, so this takes what is there and does not wait for end-of-file.
    async fn last_words(&self, decoder: &mut Decoder) {
        let mut frames = Vec::new();
        let outcome = self.channel.drain_now(decoder, &mut frames);
        self.hand_over(frames).await;
        if let Err(ChannelError::Frame(error)) = outcome {
            self.tell(Happening::ProtocolBroken(error.to_string())).await;
        }
    }

    async fn hand_over(&self, frames: Vec<Incoming<ToMaster>>) {
        if !frames.is_empty() && self.worker.send(Frames(frames)).await.is_err() {
            tracing::debug!("frames of a worker came after its actor's end");
        }
    }

    /// What was met on the channel besides frames, told once.
    fn tell_oddities(&self, decoder: &Decoder) {
        let counters = decoder.counters();
        if counters.surplus_fds > 0 || counters.half_frames > 0 {
            let pid = self.process.pid();
            let Counters {
                surplus_fds,
                half_frames,
            } = counters;
            tracing::warn!(
                pid,
                surplus_fds,
                half_frames,
                "the worker's channel held more, or less, than frames"
            );
        }
    }

    async fn tell(&self, happening: Happening) {
        if self.worker.send(happening).await.is_err() {
            tracing::debug!("news of a worker came after its actor's end");
        }
    }
}

/// Is it something of which a worker can say as much as it likes, each time making an event? A subscriber that loses
/// nothing is protected from all of these, or an endless row of wishes for listeners would fill its queue. The first wishes and
/// listeners of a worker are `free`: a full subscriber must not keep a worker from serving that has nothing to say.
const fn makes_event(frame: &ToMaster, free: &mut u32) -> bool {
    match frame {
        ToMaster::Listening { .. } | ToMaster::Bind { .. } => {
            let is_free = *free > 0;
            *free = free.saturating_sub(1);
            !is_free
        }
        ToMaster::Message(_) | ToMaster::Call { .. } | ToMaster::Failed(_) => true,
        ToMaster::Online { .. }
        | ToMaster::Standby
        | ToMaster::Ready
        | ToMaster::Leaving
        | ToMaster::Announce(_)
        | ToMaster::Stats(_)
        | ToMaster::Release { .. }
        | ToMaster::Secret { .. }
        // Of these only a few for each period become events.
        | ToMaster::Heartbeat(_)
        | ToMaster::MoreTime(_)
        | ToMaster::Reply { .. } => false,
    }
}

/// Does it come again and again from whoever lives, and not too often?
const fn is_regular(frame: &ToMaster) -> bool {
    matches!(frame, ToMaster::Heartbeat(_) | ToMaster::Stats(_))
}

/// Is it a step towards serving?
const fn tells_a_step(frame: &ToMaster) -> bool {
    matches!(
        frame,
        ToMaster::Online { .. } | ToMaster::Listening { .. } | ToMaster::Standby | ToMaster::Ready
    )
}

/// Listeners and wishes for them that a worker may tell of whoever is full: more than a program usually has.
const FREE: u32 = 32;
