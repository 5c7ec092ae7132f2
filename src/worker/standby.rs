//! A worker that stands by: it boots as any other does, and what it would tell of its slot waits until it has one.
//!
//! Not here: the sockets that come with the slot ([`super::listeners`]) and how they are accepted on ([`super::serve`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::ipc::{Activation, ToMaster};
use crate::model::{BoundAddress, FlightPhase, ListenKey, Slot, exit_code};
use crate::process::{Contract, Readiness};
use crate::worker::context::Worker;
use crate::worker::runtime;

/// What holds a standby back. In an ordinary worker it is open from the start.
#[derive(Debug)]
pub(crate) struct Gate {
    stage: watch::Sender<Stage>,
    /// It has told the master that it stands by.
    has_said: AtomicBool,
    /// The slot that it came to.
    activation: OnceLock<Activation>,
    /// What it has to tell as soon as it has a slot.
    held: Mutex<Vec<Held>>,
}

/// Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Closed,
    /// The stop came first, and somebody waits for what will never come.
    Abandoned,
    Open,
}

/// Something that only a worker with a slot says.
#[derive(Debug)]
enum Held {
    Listening(ListenKey, BoundAddress, bool),
    Ready,
}

impl Gate {
    pub(crate) fn new(contract: &Contract) -> Self {
        let stage = if contract.standby.is_some() {
            Stage::Closed
        } else {
            Stage::Open
        };
        Self {
            stage: watch::Sender::new(stage),
            has_said: AtomicBool::new(false),
            activation: OnceLock::new(),
            held: Mutex::default(),
        }
    }

    /// Has it no slot yet?
    pub(crate) fn is_closed(&self) -> bool {
        *self.stage.borrow() != Stage::Open
    }

    /// The slot that it came to, if it stood by.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        self.activation.get().map(|activation| &activation.slot)
    }

    pub(crate) fn restarts(&self) -> Option<u32> {
        self.activation.get().map(|activation| activation.restarts)
    }

    pub(crate) fn probation(&self) -> Option<Duration> {
        let activation = self.activation.get();
        activation.map(|activation| Duration::from_millis(activation.probation_ms))
    }

    /// Resolves when the worker's future waits for a slot that will not come, because the worker has to stop.
    pub(crate) async fn abandoned(&self) {
        // An error would mean that the sender is gone; `self` holds it.
        drop(
            self.stage
                .subscribe()
                .wait_for(|stage| *stage == Stage::Abandoned)
                .await,
        );
    }

    fn abandon(&self) {
        self.stage.send_if_modified(|stage| {
            let is_closed = *stage == Stage::Closed;
            if is_closed {
                *stage = Stage::Abandoned;
            }
            is_closed
        });
    }

    /// Keeps what is to be told later; gives it back if that is now.
    fn hold(&self, what: Held) -> Result<(), Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked with the lock: whoever opens the gate empties the list after that.
        if self.is_closed() {
            held.push(what);
            return Ok(());
        }
        Err(what)
    }
}

impl Worker {
    /// Does this worker stand by? Then it has booted, or boots, without a slot: [`slot`](Self::slot) is none, nothing is
    /// accepted, and [`ready`](Self::ready) is kept for later. False in every other worker, and from its promotion on.
    ///
    /// A server that accepts through the worker ([`serve`](Self::serve), [`incoming`](Self::incoming)) need not ask: it begins to
    /// accept by itself.
    #[must_use]
    pub fn is_standby(&self) -> bool {
        self.inner.gate.is_closed()
    }

    /// Waits until this worker has a slot, and tells the master that it stands by from now on; at once in a worker that was
    /// not started to stand by. For servers that accept for themselves: prepare everything, await this, then take the
    /// [`listener`](Self::listener).
    ///
    /// If the worker has to stop first, this never returns: the worker's future is dropped where it waits, and what was given to
    /// [`on_shutdown`](Self::on_shutdown) runs. Safe to drop and call again.
    pub async fn activated(&self) {
        if !self.is_standby() {
            return;
        }
        self.stands_by();
        let mut stage = self.inner.gate.stage.subscribe();
        let opened = stage.wait_for(|stage| *stage == Stage::Open);
        tokio::select! {
            // An error would mean that the sender is gone; `self` holds it.
            _ = opened => {}
            () = self.shutdown().started() => {
                self.inner.gate.abandon();
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells the master, once, that it could take a slot.
    pub(crate) fn stands_by(&self) {
        let gate = &self.inner.gate;
        if gate.is_closed() && !gate.has_said.swap(true, Ordering::AcqRel) {
            self.tell(&ToMaster::Standby);
        }
    }

    /// It waits for connections. That is all there is to do, unless it is ready by its own word only.
    pub(crate) fn waits_for_connections(&self) {
        match self.inner.contract.ready {
            Readiness::Online | Readiness::Listening => self.stands_by(),
            Readiness::Called => {}
        }
    }

    /// Keeps for later that it listens; false if that is now.
    pub(crate) fn holds_listening(&self, key: &ListenKey, address: &BoundAddress, adopts: bool) -> bool {
        let held = Held::Listening(key.clone(), address.clone(), adopts);
        self.inner.gate.hold(held).is_ok()
    }

    /// Keeps for later that it is ready, which is what a standby is then; false if that is now.
    pub(crate) fn holds_ready(&self) -> bool {
        let is_held = self.inner.gate.hold(Held::Ready).is_ok();
        if is_held {
            self.stands_by();
        }
        is_held
    }

    /// How long it leaves its queues to its predecessor.
    pub(crate) fn probation(&self) -> Duration {
        self.inner.gate.probation().unwrap_or(self.inner.contract.probation)
    }

    /// It has a slot. What comes along is given to whoever waits for it, and what was kept is told.
    pub(crate) async fn activate(&self, activation: Activation, fds: Vec<OwnedFd>) {
        let gate = &self.inner.gate;
        if !gate.is_closed() {
            return;
        }
        if fds.len() < activation.listeners.len() {
            let lost = "no descriptor was free for the sockets of its slot; raise RLIMIT_NOFILE";
            self.tell(&ToMaster::Failed(lost.to_owned()));
            runtime::end(exit_code::FAILED);
        }
        let names = activation.listeners.clone();
        // The gate was closed, so there was no other.
        gate.activation.set(activation).ok();
        gate.stage.send_replace(Stage::Open);
        for (name, fd) in names.iter().zip(fds) {
            self.inner.listeners.arrived(name, fd);
        }
        if self.inner.contract.ready == Readiness::Online {
            self.becomes_ready();
        }
        // Who listens says so before anybody says that it is ready.
        tokio::task::yield_now().await;
        let held = std::mem::take(&mut *gate.held.lock().unwrap_or_else(PoisonError::into_inner));
        for held in held {
            match held {
                Held::Listening(key, address, adopts) => self.tell_listening(key, address, adopts),
                Held::Ready => self.ready(),
            }
        }
    }

    /// By the master's rule it can serve.
    pub(crate) fn becomes_ready(&self) {
        self.inner.ready.store(true, Ordering::Release);
        self.enter(FlightPhase::Running);
    }
}
