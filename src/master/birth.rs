//! From an order to a running process: channel, listeners, spawn, registration. Every step can fail, and a failure
//! leaves nothing behind.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::clock;
use crate::config::{Config, Terms};
use crate::handover;
use crate::ipc::{Calls, Channel, Limits, Outbox, PROTOCOL};
use crate::master::Link;
use crate::master::handover::{Attachment, Listed};
use crate::master::printed::Printed;
use crate::master::worker_actor::{Newborn, whole_millis};
use crate::model::{Generation, ListenKey, OutputStream, Settings, Signal, Slot, SpawnFailure, SpawnStep, WorkerId};
use crate::policy::{OutputRate, ReadyWhen};
use crate::process::{
    self, AwaitedListener, Contract, Image, InheritedListener, Lines, ProcessHandle, Readiness, SpawnPlan, WatchMode,
    Zygote, failure,
};
use crate::recorder::Recording;
use crate::socket::table::{Handout, Place};
use crate::supervision::{Lifecycle, LifecycleConfig};

/// Which worker to start, where, and with what.
pub(crate) struct Birth<'a> {
    pub(crate) config: &'a Config,
    pub(crate) terms: Terms<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) image: Option<&'a Image>,
    pub(crate) env: &'a [(OsString, OsString)],
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) restarts: u32,
    /// How long it lives beside its predecessor before it is trusted.
    pub(crate) probation: Duration,
    /// Is the program a cluster itself?
    pub(crate) cluster: bool,
    pub(crate) listeners: Vec<(String, Handout)>,
    /// Why a keeper would do no good, if so.
    pub(crate) uncounted: Option<&'a str>,
    /// Who makes the process, if it is not executed.
    pub(crate) zygote: Option<&'a mut Zygote>,
    /// Of a standby: the listeners that it gets with its slot, and where they are.
    pub(crate) awaits: Option<Vec<(String, Place)>>,
}

impl Birth<'_> {
    /// Starts the process.
    pub(crate) fn deliver(mut self) -> Result<Newborn, SpawnFailure> {
        let (ours, theirs) = channel_pair()?;
        let recording = self.recording();
        let handover = self.handover()?;
        let child = process::spawn(SpawnPlan {
            settings: self.settings,
            image: self.image,
            extra_env: self.env,
            contract: self.contract(),
            channel: theirs.as_fd(),
            handover: handover.as_ref().map(|(_, theirs)| theirs.as_fd()),
            listeners: self.listeners.iter().map(|(_, handout)| handout.fd.as_fd()).collect(),
            recorder: recording.as_ref().map(AsFd::as_fd),
            default_args: &self.config.args,
            zygote: self.zygote.take(),
        })?;
        drop(theirs);
        let handover = handover.map(|(ours, _)| self.attachment(ours));
        if child.handle.mode() == WatchMode::Thread {
            tracing::warn!(
                pid = child.pid,
                "no pidfd to be had: a thread waits for this worker's end"
            );
        }
        let registered = Channel::new(ours).and_then(|channel| {
            let rate = OutputRate::new(self.config.output_limit, clock::now());
            let (rate, mut outputs) = (Rc::new(RefCell::new(rate)), Vec::new());
            for (stream, fd) in [
                (OutputStream::Stdout, child.stdout),
                (OutputStream::Stderr, child.stderr),
            ] {
                if let Some(fd) = fd {
                    outputs.push(Printed::new(stream, Lines::new(fd)?, &rate));
                }
            }
            Ok((channel, outputs))
        });
        let (channel, outputs) = match registered {
            Ok(registered) => registered,
            Err(error) => {
                // The process runs, but nobody could hear it: it must not live, nor stay a zombie.
                actix_rt::spawn(bury(child.handle));
                return Err(failure(
                    SpawnStep::Register,
                    error.raw_os_error(),
                    "cannot watch the new worker, killed it",
                ));
            }
        };
        let outbox = Outbox::new(Limits::default());
        let link = Link::new(
            self.id,
            self.slot,
            self.generation,
            child.pid,
            self.restarts,
            outbox,
            Calls::new(),
        )
        .with_recording(recording);
        let lifecycle = LifecycleConfig {
            ready_when: self.terms.ready_when,
            boot: self.terms.boot,
            is_standby: self.awaits.is_some(),
            more_time: self.config.boot_extension,
            ask: self.config.ask,
            shutdown: self.terms.shutdown,
            lame_duck: self.terms.lame_duck,
        };
        Ok(Newborn {
            link: Arc::new(link),
            lifecycle: Lifecycle::new(lifecycle, clock::now()),
            channel: Arc::new(channel),
            process: child.handle,
            handover,
            outputs,
            kill_tree: self.settings.kill_tree,
            heartbeat: self.config.heartbeat,
            grace_ms: whole_millis(self.terms.shutdown.longest()),
        })
    }

    fn attachment(&self, socket: OwnedFd) -> Attachment {
        let here = self.listeners.iter().map(|(name, handout)| (name, handout.max_runs));
        let awaited = self.awaits.iter().flatten().map(|(name, place)| (name, place.max_runs));
        let listed = here.chain(awaited).map(|(name, max_runs)| Listed {
            key: ListenKey::Named(name.clone()),
            max_runs,
        });
        Attachment {
            socket,
            listeners: listed.collect(),
            probation: self.probation,
            has_keeper: self.has_keeper(),
            unkept: self.uncounted.filter(|_| self.wants_keeper()).map(str::to_owned),
        }
    }

    /// A nested master serves nobody itself: its workers have keepers of their own.
    fn has_keeper(&self) -> bool {
        self.uncounted.is_none() && self.wants_keeper()
    }

    fn wants_keeper(&self) -> bool {
        let here = self.listeners.iter().any(|(_, handout)| handout.survives);
        !self.cluster && (here || self.awaits.iter().flatten().any(|(_, place)| place.survives))
    }

    /// The pair on which connections travel. A cluster within accepts for itself.
    fn handover(&self) -> Result<Option<(OwnedFd, OwnedFd)>, SpawnFailure> {
        if self.cluster {
            return Ok(None);
        }
        handover::pair().map(Some).map_err(|errno| {
            failure(
                SpawnStep::Channel,
                Some(errno as i32),
                "cannot make the worker's hand-over socket",
            )
        })
    }

    /// The memory of the flight recorder, if there is to be one. A worker without it is better than none.
    fn recording(&self) -> Option<Recording> {
        if self.terms.flight_recorder == 0 {
            return None;
        }
        let created = Recording::create(self.terms.flight_recorder);
        created
            .inspect_err(|err| tracing::warn!(worker = self.id.get(), %err, "no flight recorder for this worker"))
            .ok()
    }

    fn contract(&self) -> Contract {
        let listeners = self.listeners.iter().map(|(name, handout)| InheritedListener {
            name: name.clone(),
            fd: UNSET,
            address: handout.address.clone(),
            scheduling: handout.scheduling,
            survives: handout.survives && !self.cluster,
        });
        Contract {
            protocol: PROTOCOL,
            id: self.id,
            slot: self.slot.clone(),
            generation: self.generation,
            channel: UNSET,
            handover: None,
            listeners: listeners.collect(),
            recorder: None,
            keeper: self.has_keeper(),
            standby: self.awaits.as_ref().map(|awaits| {
                let awaited = |(name, place): &(String, Place)| AwaitedListener {
                    name: name.clone(),
                    address: place.address.clone(),
                    scheduling: place.scheduling,
                    survives: place.survives && !self.cluster,
                };
                awaits.iter().map(awaited).collect()
            }),
            restarts: self.restarts,
            grace: self.terms.shutdown.longest(),
            lame_duck: self.terms.lame_duck,
            ready: match self.terms.ready_when {
                ReadyWhen::Spawned | ReadyWhen::Online => Readiness::Online,
                ReadyWhen::Listening => Readiness::Listening,
                ReadyWhen::Called => Readiness::Called,
            },
            heartbeat: self.config.heartbeat,
            orphan_grace: self.config.orphan_grace,
            probation: self.probation,
            cluster: self.cluster,
            uid: None,
            gid: None,
            shim: false,
            name: None,
        }
    }
}

async fn bury(process: ProcessHandle) {
    // Failing to signal means that it has ended already.
    process.signal(Signal::KILL).ok();
    process.exited().await;
    process.reap(true);
}

fn channel_pair() -> Result<(OwnedFd, OwnedFd), SpawnFailure> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags).map_err(|errno| {
        failure(
            SpawnStep::Channel,
            Some(errno as i32),
            "cannot make the worker's channel",
        )
    })
}

/// A descriptor number that `process::spawn` fills in.
const UNSET: std::os::fd::RawFd = -1;
