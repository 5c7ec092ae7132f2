//! The one sequencer: every event gets its number, its line in the log and its way to the subscribers here.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::field::display;
use tracing::{error, info, trace, warn};

use crate::clock;
use crate::events::Events;
use crate::master::{Directory, Subscribers};
use crate::model::{
    ClusterEvent, ClusterSnapshot, EventKind, GaveUp, Message, OneLine, Program, SubscriberLoss, WorkerInfo,
};
use crate::policy::RestartType;
use crate::subscription::SubscribeOptions;

/// Numbers events and fans them out. Owned by the supervisor, so there is one order.
#[derive(Debug)]
pub(crate) struct Publisher {
    directory: Arc<Directory>,
    subscribers: Arc<Subscribers>,
    seq: u64,
}

impl Publisher {
    pub(crate) const fn new(directory: Arc<Directory>, subscribers: Arc<Subscribers>) -> Self {
        Self {
            directory,
            subscribers,
            seq: 0,
        }
    }

    /// Publishes `kind`. The directory must show the state after the event already.
    pub(crate) fn publish(&mut self, worker: Option<WorkerInfo>, origin: Option<&Origin>, kind: EventKind) {
        self.seq += 1;
        log(worker.as_ref(), origin, &kind);
        self.directory.write().seq = self.seq;
        let event = ClusterEvent {
            seq: self.seq,
            at: clock::now(),
            time: clock::wall(),
            worker,
            kind,
        };
        self.subscribers.publish(std::iter::once(event));
    }

    /// Publishes what one worker said in a row. Workers may talk by the million, so locks are taken and clocks are read
    /// once for all of it: the messages came with one read.
    pub(crate) fn publish_messages(&mut self, worker: &WorkerInfo, messages: Vec<Message>) {
        trace!(worker = worker.id.get(), count = messages.len(), "worker spoke");
        let first = self.seq + 1;
        self.seq += messages.len() as u64;
        self.directory.write().seq = self.seq;
        let (at, time) = (clock::now(), clock::wall());
        let events = (first..).zip(messages).map(|(seq, message)| ClusterEvent {
            seq,
            at,
            time,
            worker: Some(worker.clone()),
            kind: EventKind::Message(message),
        });
        self.subscribers.publish(events);
    }

    pub(crate) fn wants_messages(&self) -> bool {
        self.subscribers.wants_messages()
    }

    /// The state after the last event, and every later event. Both belong together only between two turns of the
    /// supervisor: within one, the view runs ahead of the events.
    pub(crate) fn follow(&self, options: &SubscribeOptions) -> (ClusterSnapshot, Events) {
        (self.directory.snapshot(), Events::new(&self.subscribers, options))
    }

    /// No event will follow.
    pub(crate) fn finish(&self) {
        self.subscribers.finish();
    }
}

/// What a worker was made of, for who reads its reports of beginning and end: OTP's start function and restart type.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) program: Program,
    pub(crate) restart: RestartType,
}

impl Origin {
    fn program(&self) -> Cow<'_, str> {
        match &self.program {
            Program::Same => Cow::Borrowed("same"),
            Program::Path(path) => path.to_string_lossy(),
        }
    }

    const fn restart(&self) -> &'static str {
        match self.restart {
            RestartType::Permanent => "permanent",
            RestartType::Transient => "transient",
            RestartType::Temporary => "temporary",
        }
    }
}

/// One line for each fact. Levels by who must act: error = given up, warn = lost and replaced, info = life cycle.
fn log(worker: Option<&WorkerInfo>, origin: Option<&Origin>, kind: &EventKind) {
    // Clusters in clusters share one log.
    let master = std::process::id();
    let id = worker.map(|worker| worker.id.get());
    let slot = worker.map(|worker| display(&worker.slot));
    let pid = worker.and_then(|worker| worker.pid).unwrap_or_default();
    let program = origin.map(|origin| display(OneLine(origin.program())));
    let restart = origin.map(Origin::restart);
    match kind {
        EventKind::Message(_) | EventKind::Output { .. } => trace!(worker = id, kind = kind.name(), "worker spoke"),
        EventKind::Heartbeat(_) => trace!(worker = id, kind = kind.name(), "worker lives"),
        EventKind::Fork => info!(master, worker = id, slot, pid, program, restart, "worker forked"),
        EventKind::OutputDropped { lines, bytes, .. } => {
            warn!(
                worker = id,
                slot, pid, lines, bytes, "output dropped: the worker prints more than it may"
            );
        }
        EventKind::Online => info!(worker = id, pid, "worker online"),
        EventKind::Standby => info!(worker = id, pid, "worker stands by"),
        EventKind::Promoted => info!(worker = id, slot, pid, "worker promoted"),
        EventKind::Listening(address) => info!(worker = id, pid, %address, "worker listening"),
        EventKind::Ready => info!(worker = id, pid, "worker ready"),
        EventKind::AllReady { workers } => info!(workers, "all workers ready"),
        EventKind::Exiting => info!(worker = id, pid, "worker exiting"),
        EventKind::Disconnect => info!(worker = id, pid, "worker disconnected"),
        EventKind::Exit(exit) if exit.is_orderly() => {
            let exit = OneLine(exit);
            info!(master, worker = id, slot, pid, program, restart, %exit, "worker exited");
        }
        EventKind::Exit(exit) => {
            let exit = OneLine(exit);
            warn!(master, worker = id, slot, pid, program, restart, %exit, "worker lost");
        }
        EventKind::Error(err) => {
            let err = OneLine(err);
            warn!(master, worker = id, slot, pid, program, restart, %err, "worker error");
        }
        EventKind::RestartScheduled { slot, delay, attempt } => {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            info!(%slot, delay_ms, attempt, "restart scheduled");
        }
        EventKind::GaveUp(GaveUp::Slot { slot, limit, period }) => {
            error!(master, %slot, limit, ?period, "slot failed: too many restarts");
        }
        EventKind::GaveUp(GaveUp::Spec { spec, limit, period }) => {
            error!(master, %spec, limit, ?period, "spec failed: too many restarts");
        }
        EventKind::GaveUp(GaveUp::Cluster { limit, period }) => {
            error!(master, limit, ?period, "cluster failed: too many restarts");
        }
        EventKind::ReloadStarted { generation, spec } => {
            let spec = spec.as_ref().map_or("all", |spec| spec.as_str());
            info!(%generation, spec, "reload started");
        }
        EventKind::ReloadFinished {
            generation,
            result: Ok(()),
        } => info!(%generation, "reload finished"),
        EventKind::ReloadFinished {
            generation,
            result: Err(err),
        } => {
            let err = OneLine(err);
            error!(%generation, %err, "reload failed: the old generation serves on");
        }
        EventKind::Scaled { spec, from, to } => info!(%spec, from, to, "scaled"),
        EventKind::Rescued { saved, lost } => info!(worker = id, slot, pid, saved, lost, "connections rescued"),
        EventKind::RequestRefused {
            listener,
            line,
            strikes,
            why: err,
        } => {
            let text = OneLine(line);
            warn!(worker = id, slot, pid, what = listener, %text, strikes, %err, "request refused");
        }
        EventKind::Recycling(why) => {
            let why = OneLine(format_args!("{why:?}"));
            info!(worker = id, slot, pid, %why, "worker is being replaced");
        }
        EventKind::Unhealthy(err) => warn!(worker = id, slot, pid, %err, "worker unhealthy"),
        EventKind::Recovered => info!(worker = id, slot, pid, "worker healthy again"),
        EventKind::Custom(event) => info!(worker = id, kind = event.name, what = event.source, "plug-in's event"),
        EventKind::Setup(_) => info!("settings set"),
        EventKind::ShutdownStarted => info!("shutdown started"),
        EventKind::SubscriberLost {
            name,
            why: SubscriberLoss::Stopped,
        } => info!(what = name, "subscriber stopped"),
        EventKind::SubscriberLost { name, why: err } => warn!(what = name, %err, "subscriber lost"),
        EventKind::Lagged { from, to } => warn!(from, to, "events dropped"),
    }
}
