//! Connections that the master passes to this worker, and those it gives back.
//!
//! A connection that comes is given to whoever accepts on its listener, and acknowledged when that one has taken it. What
//! is not taken is refused, by dropping its [`Receipt`]; the master then finds somebody else. Before the worker stops
//! accepting it says so, and goes on until the master has answered that nothing follows.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::handover::endpoint::SendError;
use crate::handover::wire::{IDS_MAX, Take};
use crate::handover::{Endpoint, Packet, ToDispatcher, ToServer};
use crate::model::ListenKey;
use crate::process::Contract;
use crate::worker::context::Worker;
use crate::worker::proxy;
use crate::worker::serve::survival::Giving;

/// The worker's end of its hand-over socket.
#[derive(Debug)]
pub(crate) struct Handover {
    endpoint: Endpoint,
    answers: Mutex<Answers>,
    /// Connections that have ended since the last report.
    closed: AtomicU32,
    /// There is something to report.
    due: Notify,
    stage: watch::Sender<Stage>,
}

/// What is to be told.
#[derive(Debug, Default)]
struct Answers {
    took: Vec<u64>,
    refused: Vec<u64>,
    /// This worker wants no more connections.
    leaves: bool,
}

/// Only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections may come.
    Open,
    /// None follows; with `others`, somebody else accepts.
    Ended { others: bool },
}

/// A connection that came, until somebody takes it.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) fd: OwnedFd,
    /// How many workers its request may have killed.
    pub(crate) strikes: u8,
    /// Its request is to be answered with this status.
    pub(crate) fail: Option<u16>,
    /// `None` for one that nobody waits to hear of.
    pub(crate) receipt: Option<Receipt>,
}

/// The promise to answer for a connection: dropped, it refuses.
#[derive(Debug)]
pub(crate) struct Receipt {
    id: u64,
    handover: Arc<Handover>,
    is_taken: bool,
}

/// A connection that was handed over and is open: told when this is dropped.
#[derive(Debug)]
pub(crate) struct HandedOver(Arc<Handover>);

impl Receipt {
    /// It is in this process's hands. Said at once if `is_last`, else with the next one.
    pub(crate) fn took(mut self, is_last: bool) -> HandedOver {
        self.is_taken = true;
        let is_full = {
            let mut answers = self.handover.answers();
            answers.took.push(self.id);
            answers.took.len() >= TOGETHER_MAX
        };
        if is_last || is_full {
            self.handover.report();
        }
        HandedOver(Arc::clone(&self.handover))
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_taken {
            self.handover.answers().refused.push(self.id);
            self.handover.due.notify_one();
        }
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        if self.0.closed.fetch_add(1, Ordering::AcqRel) == 0 {
            self.0.due.notify_one();
        }
    }
}

impl Handover {
    /// Takes up the hand-over socket of the contract, if there is one. Without it this worker gets no connections but
    /// those it accepts itself.
    pub(crate) fn take_up(contract: &Contract) -> Option<Arc<Self>> {
        let endpoint = Endpoint::new(contract.take_handover()?)
            .inspect_err(|err| tracing::warn!(%err, "no connections can be handed over to this worker"));
        Some(Arc::new(Self::new(endpoint.ok()?)))
    }

    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            answers: Mutex::default(),
            closed: AtomicU32::new(0),
            due: Notify::new(),
            stage: watch::Sender::new(Stage::Open),
        }
    }

    /// Resolves when no connection follows: true if somebody else accepts, to whom connections can be given back.
    pub(crate) async fn ended(&self) -> bool {
        let mut stage = self.stage.subscribe();
        let ended = stage.wait_for(|stage| *stage != Stage::Open).await;
        // An error would mean that the sender is gone; `self` holds it.
        ended.is_ok_and(|stage| *stage == Stage::Ended { others: true })
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everything that is due. What there is no room for stays due, and is told a moment later.
    fn report(&self) {
        let mut answers = self.answers();
        let has_told = self.tell_all(&mut answers);
        if !has_told {
            self.due.notify_one();
        }
    }

    fn tell_all(&self, answers: &mut Answers) -> bool {
        loop {
            let ids = first_of(&answers.took);
            let count = ids.len();
            let closed = self.closed.swap(0, Ordering::AcqRel);
            let what = match (count, closed) {
                (0, 0) => break,
                (0, n) => ToDispatcher::Closed { n },
                _ => ToDispatcher::Took { ids, closed },
            };
            if !self.tell(&what) {
                self.closed.fetch_add(closed, Ordering::AcqRel);
                return false;
            }
            answers.took.drain(..count);
        }
        while !answers.refused.is_empty() {
            let ids = first_of(&answers.refused);
            let count = ids.len();
            if !self.tell(&ToDispatcher::Refused { ids }) {
                return false;
            }
            answers.refused.drain(..count);
        }
        if answers.leaves && !self.tell(&ToDispatcher::Leaves {}) {
            return false;
        }
        answers.leaves = false;
        true
    }

    /// False if there is no room now: connections that are given back by the hundred fill the socket. If the master is gone,
    /// so is the wish for answers.
    fn tell(&self, what: &ToDispatcher) -> bool {
        match self.endpoint.send(what, None) {
            Ok(()) | Err(SendError::Closed) => true,
            Err(SendError::Full | SendError::Short) => false,
        }
    }

    fn end(&self, others: bool) {
        self.stage.send_if_modified(|stage| {
            let is_first = *stage == Stage::Open;
            if is_first {
                *stage = Stage::Ended { others };
            }
            is_first
        });
    }
}

/// Serves the hand-over socket for as long as there is a master.
pub(crate) async fn serve(worker: Worker, handover: Arc<Handover>) {
    let reports = actix_rt::spawn(report(Arc::clone(&handover)));
    let mut is_leaving = false;
    let patience = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(patience);
    loop {
        // Its own variable: a borrow must not live across the wait.
        let has_ended = *handover.stage.borrow() != Stage::Open;
        tokio::select! {
            packet = handover.endpoint.recv() => match packet {
                Some(packet) => receive(&worker, &handover, packet),
                None => break,
            },
            () = worker.inner.shutdown.started(), if !is_leaving => {
                is_leaving = true;
                patience.as_mut().reset(tokio::time::Instant::now() + END_PATIENCE);
                handover.answers().leaves = true;
                handover.report();
            }
            () = &mut patience, if is_leaving && !has_ended => handover.end(false),
        }
    }
    handover.end(false);
    reports.abort();
}

/// Tells what is due. What ends within a moment is told together.
async fn report(handover: Arc<Handover>) {
    loop {
        handover.due.notified().await;
        tokio::time::sleep(REPORT_DELAY).await;
        handover.report();
    }
}

fn receive(worker: &Worker, handover: &Arc<Handover>, Packet { said, fd }: Packet<ToServer>) {
    match said {
        Some(ToServer::Take(take)) => {
            let Take { id, key, strikes, fail } = take;
            let receipt = Receipt {
                id,
                handover: Arc::clone(handover),
                is_taken: false,
            };
            // Without a descriptor it was lost on its way, and after the end it is too late: the receipt says so.
            let Some(fd) = fd.filter(|_| *handover.stage.borrow() == Stage::Open) else {
                return;
            };
            let receipt = Some(receipt);
            let given = Given {
                fd,
                strikes,
                fail,
                receipt,
            };
            if let Some((given, target)) = worker.inner.listeners.give(&key, given) {
                proxy::serve(worker, given, target);
            }
        }
        Some(ToServer::End { others }) => handover.end(others),
        None => tracing::warn!("the master said something about connections that this program does not understand"),
    }
}

impl Worker {
    /// Gives a connection without a begun request to the master, for somebody else to serve.
    pub(crate) fn hand_back(&self, key: &ListenKey, connection: BorrowedFd<'_>, strikes: u8) -> Giving {
        let Some(handover) = &self.inner.handover else {
            return Giving::Never;
        };
        let key = key.clone();
        let sent = handover
            .endpoint
            .send(&ToDispatcher::Back { key, strikes }, Some(connection));
        match sent {
            Ok(()) => Giving::Taken,
            Err(SendError::Full | SendError::Short) => Giving::Later,
            Err(SendError::Closed) => Giving::Never,
        }
    }

    /// Resolves once this worker is leaving and no connection comes any more: does somebody else accept, so that
    /// [`hand_back`](Self::hand_back) finds a taker?
    pub(crate) async fn may_hand_back(&self) -> bool {
        match &self.inner.handover {
            Some(handover) => handover.ended().await,
            None => false,
        }
    }
}

fn first_of(ids: &[u64]) -> Vec<u64> {
    ids[..ids.len().min(IDS_MAX)].to_vec()
}

/// So many are acknowledged with one datagram, if they came together.
const TOGETHER_MAX: usize = 32;
/// How long the end of a connection may wait for others, to be told with them.
const REPORT_DELAY: Duration = Duration::from_millis(1);
/// How long a leaving worker waits for the master's word that no connection follows.
const END_PATIENCE: Duration = Duration::from_millis(500);
