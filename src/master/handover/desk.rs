//! The dispatcher's one place: what was told comes in, what the books decide is carried out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::Recipient;
use tokio::sync::Notify;

use super::board::{Board, OnItsWay, Waiting};
use super::door::Door;
use super::line::Line;
use super::orphans::Connection;
use super::{Order, Tally};
use crate::clock;
use crate::handover::endpoint::{AGAIN, SendError};
use crate::handover::wire::Take;
use crate::handover::{Reserve, ToServer};
use crate::master::Link;
use crate::master::messages::Dispatched;
use crate::model::{Client, EventKind, ListenKey, Mono, WorkerError, WorkerId};
use crate::process::KeeperHandle;

/// Everything of the dispatcher's thread.
#[derive(Debug)]
pub(super) struct Desk {
    orders: mpsc::Receiver<Order>,
    bell: Arc<Notify>,
    news: Recipient<Dispatched>,
    pub(super) tally: Arc<Tally>,
    pub(super) books: RefCell<Board<Connection>>,
    lines: RefCell<HashMap<WorkerId, Rc<Line>>>,
    doors: RefCell<Vec<Door>>,
    /// When to look again although nothing happens.
    armed: Cell<Option<Mono>>,
    timer: Notify,
    /// There is room for connections of the dead.
    room: Notify,
    /// Keepers that live.
    keepers: RefCell<Vec<Rc<KeeperHandle>>>,
    /// Why workers have none, as far as it was told.
    unkept: RefCell<BTreeSet<String>>,
    keeper_gone: Notify,
    /// For connections that come back when there is no other descriptor.
    pub(super) reserve: Arc<Reserve>,
    is_over: Cell<bool>,
}

impl Desk {
    pub(super) fn new(
        orders: mpsc::Receiver<Order>,
        bell: Arc<Notify>,
        news: Recipient<Dispatched>,
        tally: Arc<Tally>,
        reserve: Arc<Reserve>,
    ) -> Self {
        Self {
            orders,
            bell,
            news,
            tally,
            books: RefCell::default(),
            lines: RefCell::default(),
            doors: RefCell::default(),
            armed: Cell::default(),
            timer: Notify::new(),
            room: Notify::new(),
            keepers: RefCell::default(),
            unkept: RefCell::default(),
            keeper_gone: Notify::new(),
            reserve,
            is_over: Cell::new(false),
        }
    }

    /// Works until the supervisor says that it is over, and every keeper is buried.
    pub(super) async fn run(self: Rc<Self>) {
        let timer = tokio::task::spawn_local(Rc::clone(&self).keep_time());
        while !self.is_over.get() {
            self.bell.notified().await;
            self.obey();
            self.settle();
        }
        timer.abort();
        self.doors.take();
        if tokio::time::timeout(KEEPERS_PATIENCE, self.keepers_gone())
            .await
            .is_err()
        {
            self.keepers.borrow().iter().for_each(|keeper| keeper.kill());
            self.keepers_gone().await;
        }
    }

    /// Takes the supervisor's orders, without settling what follows from them.
    pub(super) fn obey(self: &Rc<Self>) {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.carry_out(order),
                Err(mpsc::TryRecvError::Empty) => return,
                Err(mpsc::TryRecvError::Disconnected) => {
                    self.is_over.set(true);
                    return;
                }
            }
        }
    }

    fn carry_out(self: &Rc<Self>, order: Order) {
        let now = clock::now();
        match order {
            Order::Open { key, socket, policy } => match Door::open(self, key.clone(), socket) {
                Ok(door) => {
                    self.books.borrow_mut().open(&key, policy);
                    self.doors.borrow_mut().push(door);
                }
                Err(err) => tracing::error!(what = %key, %err, "the master cannot accept on this listener"),
            },
            Order::Close { key } => {
                self.doors.borrow_mut().retain(|door| door.key != key);
                let dropped = self.books.borrow_mut().close(&key);
                self.tally.lost.add(dropped.len());
            }
            Order::Empty { key, socket } => {
                let books = &self.books;
                super::door::empty(&key, socket, |connection, client| {
                    let waiting = Waiting {
                        connection,
                        client,
                        strikes: 0,
                        fail: None,
                        since: now,
                    };
                    books.borrow_mut().arrive(&key, waiting);
                });
            }
            Order::Born(mut born) => {
                if let Some(why) = born.unkept.take() {
                    self.tell_unkept(&born.link, why);
                }
                let (worker, slot, probation) = (born.link.id, born.link.slot().clone(), born.probation);
                match Line::open(self, born) {
                    Ok(line) => {
                        self.lines.borrow_mut().insert(worker, line);
                        self.books.borrow_mut().born(worker, slot, probation);
                    }
                    Err(err) => {
                        tracing::error!(worker = worker.get(), %err, "no connections can be handed over to this worker");
                    }
                }
            }
            Order::Promoted {
                worker,
                slot,
                probation,
            } => self.books.borrow_mut().promoted(worker, slot, probation),
            Order::Accepts { worker, key } => self.books.borrow_mut().accepts(worker, &key, now),
            Order::GaveBack { worker, key } => self.books.borrow_mut().gave_back(worker, &key),
            Order::Leaves { worker } => self.books.borrow_mut().leaves(worker),
            Order::Died { worker, is_suspect } => {
                if let Some(line) = self.line(worker) {
                    line.died(self, is_suspect);
                }
            }
            Order::Stopping => self.books.borrow_mut().stop(),
            Order::End => self.is_over.set(true),
        }
    }

    /// Carries out everything that the books have ready.
    pub(super) fn settle(self: &Rc<Self>) {
        let now = clock::now();
        self.pass_on(now);
        let expired = self.books.borrow_mut().expire(now);
        if !expired.is_empty() {
            let lost = expired.len();
            tracing::warn!(lost, "connections closed: nobody could serve them in time");
            self.tally.lost.add(lost);
        }
        let ready = self.books.borrow_mut().ready_to_end(now);
        for (worker, others) in ready {
            if let Some(line) = self.line(worker) {
                // One that cannot be reached knows already.
                line.endpoint.send(&ToServer::End { others }, None).ok();
            }
        }
        let books = self.books.borrow();
        let is_short = !self.reserve.is_whole() && !self.reserve.fill();
        for door in self.doors.borrow().iter() {
            let is_urgent = books.is_sweeping(&door.key, now);
            if is_urgent || (!is_short && books.wants(&door.key, now)) {
                door.ring(is_urgent);
            }
        }
        let waiting = books.waiting();
        self.tally.wait(waiting);
        if waiting < ORPHANS_MAX {
            self.room.notify_waiters();
        }
        let refill = is_short.then(|| now + AGAIN);
        let next = books.next_deadline(now).into_iter().chain(refill).min();
        if self.armed.replace(next) != next {
            self.timer.notify_one();
        }
    }

    fn pass_on(self: &Rc<Self>, now: Mono) {
        loop {
            let pass = self.books.borrow_mut().choose(now);
            let Some(pass) = pass else { return };
            if let Some(fault) = pass.fault {
                tracing::warn!(
                    worker = pass.worker.get(),
                    err = fault,
                    "the scheduling policy is at fault, somebody else was chosen"
                );
            }
            let line = self.line(pass.worker);
            let sent = {
                let books = self.books.borrow();
                match (line, books.on_its_way(&pass)) {
                    (Some(line), Some(OnItsWay { key, waiting, .. })) => {
                        let take = Take {
                            id: pass.id,
                            key: key.clone(),
                            strikes: waiting.strikes,
                            fail: waiting.fail,
                        };
                        let fd = waiting.connection.fd.as_fd();
                        line.endpoint.send(&ToServer::Take(take), Some(fd))
                    }
                    _ => Err(SendError::Closed),
                }
            };
            let mut books = self.books.borrow_mut();
            match sent {
                Ok(()) => {}
                Err(SendError::Full) => {
                    books.take_back(pass.worker, pass.id, now + AGAIN);
                }
                Err(SendError::Short) => {
                    books.take_back(pass.worker, pass.id, now);
                    books.rest(now + AGAIN);
                }
                Err(SendError::Closed) => {
                    books.take_back(pass.worker, pass.id, now);
                    books.unreachable(pass.worker);
                }
            }
        }
    }

    /// A connection was accepted.
    pub(super) fn arrived(self: &Rc<Self>, key: &ListenKey, connection: Connection, client: Client) {
        // Whoever seems to have no room may have said otherwise already: turns are kept exactly.
        let full = self.books.borrow().without_room(clock::now());
        for line in full.into_iter().filter_map(|worker| self.line(worker)) {
            line.drain(self);
        }
        let waiting = Waiting {
            connection,
            client,
            strikes: 0,
            fail: None,
            since: clock::now(),
        };
        self.books.borrow_mut().arrive(key, waiting);
        self.settle();
    }

    pub(super) fn wants(&self, key: &ListenKey) -> bool {
        // While the reserve is used every free number belongs to others.
        self.reserve.is_whole() && self.books.borrow().wants(key, clock::now())
    }

    pub(super) fn is_sweeping(&self, key: &ListenKey) -> bool {
        self.books.borrow().is_sweeping(key, clock::now())
    }

    pub(super) fn swept(self: &Rc<Self>, key: &ListenKey) {
        self.books.borrow_mut().swept(key);
        self.settle();
    }

    /// Resolves while few connections wait.
    pub(super) async fn room_for_orphans(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Registered before the look: it may become true between the two.
            room.as_mut().enable();
            if self.books.borrow().waiting() < ORPHANS_MAX {
                return;
            }
            room.await;
        }
    }

    /// Nothing comes from this worker any more.
    pub(super) fn forget(&self, worker: WorkerId) {
        self.lines.borrow_mut().remove(&worker);
    }

    pub(super) fn publish(&self, link: &Arc<Link>, kind: EventKind) {
        let worker = Arc::clone(link);
        if let Err(err) = self.news.try_send(Dispatched { worker, kind }) {
            tracing::debug!(worker = link.id.get(), %err, "news of a worker's connections not told");
        }
    }

    /// Buries a keeper when it has ended. False if this is none.
    pub(super) fn watch_keeper(self: &Rc<Self>, worker: WorkerId, pid: u32, pidfd: OwnedFd) -> bool {
        // It is looked up in a file. Who is not known to have a keeper is judged without one.
        let keeper = match self.reserve.step_aside(|| KeeperHandle::watch(pid, pidfd)) {
            Ok(keeper) => Rc::new(keeper),
            Err(err) => {
                tracing::warn!(worker = worker.get(), pid, %err, "what a worker calls its keeper is none");
                return false;
            }
        };
        self.keepers.borrow_mut().push(Rc::clone(&keeper));
        tokio::task::spawn_local(Rc::clone(self).bury(worker, keeper));
        true
    }

    async fn bury(self: Rc<Self>, worker: WorkerId, keeper: Rc<KeeperHandle>) {
        keeper.ended().await;
        self.keepers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &keeper));
        self.keeper_gone.notify_waiters();
        if let Some(line) = self.line(worker) {
            line.keeper_ended(&self);
            self.settle();
        }
    }

    /// Connections of this worker do not survive it. Told once for each reason: it is the same for all, mostly.
    pub(super) fn tell_unkept(&self, link: &Arc<Link>, why: String) {
        let mut told = self.unkept.borrow_mut();
        if told.len() < UNKEPT_MAX && told.insert(why.clone()) {
            self.publish(link, EventKind::Error(WorkerError::NoKeeper(why)));
        }
    }

    async fn keepers_gone(&self) {
        loop {
            let mut gone = std::pin::pin!(self.keeper_gone.notified());
            // Registered before the look: the last one may go between the two.
            gone.as_mut().enable();
            if self.keepers.borrow().is_empty() {
                return;
            }
            gone.await;
        }
    }

    fn line(&self, worker: WorkerId) -> Option<Rc<Line>> {
        self.lines.borrow().get(&worker).cloned()
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            match self.armed.get() {
                None => self.timer.notified().await,
                Some(at) => tokio::select! {
                    () = self.timer.notified() => {}
                    () = tokio::time::sleep(clock::now().until(at)) => {
                        self.armed.set(None);
                        self.settle();
                    }
                },
            }
        }
    }
}

/// Connections of the dead that wait; further ones are left to their keepers.
const ORPHANS_MAX: usize = 256;
/// Reasons for which workers have no keeper that are told.
const UNKEPT_MAX: usize = 16;
/// How long keepers may take at the end of the cluster, when there is nobody to whom they could give anything.
const KEEPERS_PATIENCE: Duration = Duration::from_secs(1);
