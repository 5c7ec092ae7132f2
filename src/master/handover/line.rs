//! The hand-over socket of one worker: what it says, and what is left when it is dead.
//!
//! A worker with a keeper dies twice: its process, of which the supervisor tells, and its table of descriptors, which ends
//! with the keeper's last word. What was on its way to the worker is judged after both.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::desk::Desk;
use super::orphans::Connection;
use super::{Born, Listed, board::Waiting};
use crate::clock;
use crate::handover::endpoint::is_short;
use crate::handover::{Endpoint, Packet, ToDispatcher};
use crate::master::Link;
use crate::model::{EventKind, ListenKey, WorkerId, bounded};
use crate::policy::{Fate, Orphan, fate};

/// One worker's line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) worker: WorkerId,
    pub(super) link: Arc<Link>,
    pub(super) endpoint: Endpoint,
    /// The listeners of its contract, in their order.
    listeners: Vec<Listed>,
    keeper: Cell<Keeper>,
    after: RefCell<After>,
    /// The connections of its table that are somebody else's by now, or wait for somebody: whoever sends one of them once
    /// more has a copy that is worth nothing.
    elsewhere: RefCell<HashSet<u64>>,
    /// What was told of it while something was in the socket that there was no descriptor for: it counts when that is read.
    overdue: Cell<Overdue>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Overdue {
    /// It is dead, and this is whether it may have died of a request.
    death: Option<bool>,
    /// Its keeper has ended.
    is_keeper_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// There is none, as far as was heard.
    None,
    Watching,
    /// It has said its last word.
    Done,
    /// It ended without one.
    Lost,
}

/// What is known of its death.
#[derive(Debug, Default)]
struct After {
    /// It is dead; may it have died of a request?
    is_suspect: Option<bool>,
    /// What came from its keeper before the supervisor told of the death.
    early: Vec<Rescued>,
    /// The connections that its keeper has sent: none of them is judged a second time.
    cookies: HashSet<u64>,
    /// What was on its way to it.
    unjudged: Vec<(ListenKey, Waiting<Connection>)>,
    /// What we know of those, by cookie. Their keeper knows less of one that the worker had not noted yet.
    passed: HashMap<u64, (u8, Option<u16>)>,
    saved: u32,
    lost: u32,
    /// Those of the lost that may not be: our copy decides.
    unnoted: Vec<u64>,
}

#[derive(Debug)]
struct Rescued {
    connection: Connection,
    from: Listed,
    strikes: u8,
    has_begun: bool,
    is_repeatable: bool,
}

impl Line {
    /// Takes up the line of a new worker, on the thread of the dispatcher.
    pub(super) fn open(desk: &Rc<Desk>, born: Born) -> std::io::Result<Rc<Self>> {
        let line = Rc::new(Self {
            worker: born.link.id,
            link: born.link,
            endpoint: Endpoint::lossless(born.socket, Arc::clone(&desk.reserve))?,
            listeners: born.listeners,
            keeper: Cell::new(Keeper::None),
            after: RefCell::default(),
            elsewhere: RefCell::default(),
            overdue: Cell::default(),
        });
        tokio::task::spawn_local(listen(Rc::clone(desk), Rc::clone(&line)));
        Ok(line)
    }

    /// Takes what is in the socket now, without waiting. False if something had to stay there for want of a descriptor.
    pub(super) fn drain(&self, desk: &Rc<Desk>) -> bool {
        for _ in 0..DRAIN_MAX {
            match self.endpoint.try_recv() {
                Ok(packet) => self.hear(desk, packet),
                Err(error) => return !is_short(&error),
            }
        }
        true
    }

    /// The process is dead.
    pub(super) fn died(&self, desk: &Rc<Desk>, is_suspect: bool) {
        // When its keeper has begun to send connections nothing of its own is left to be heard, and those wait for this.
        let is_heard =
            self.drain(desk) || (self.keeper.get() == Keeper::Watching && !self.after.borrow().early.is_empty());
        if !is_heard {
            let mut overdue = self.overdue.get();
            overdue.death = Some(is_suspect);
            self.overdue.set(overdue);
            desk.books.borrow_mut().unreachable(self.worker);
            return;
        }
        let early = {
            let mut after = self.after.borrow_mut();
            after.is_suspect = Some(is_suspect);
            after.unjudged = desk.books.borrow_mut().died(self.worker);
            let passed = after.unjudged.iter().filter_map(|(_, waiting)| {
                let cookie = waiting.connection.cookie()?;
                Some((cookie, (waiting.strikes, waiting.fail)))
            });
            after.passed = passed.collect();
            std::mem::take(&mut after.early)
        };
        for rescued in early {
            self.rescue(desk, rescued, is_suspect);
        }
        if self.keeper.get() != Keeper::Watching {
            self.conclude(desk);
        }
    }

    fn hear(&self, desk: &Rc<Desk>, Packet { said, fd }: Packet<ToDispatcher>) {
        let now = clock::now();
        let Some(said) = said else {
            tracing::warn!(
                worker = self.worker.get(),
                "a worker said something about connections that makes no sense"
            );
            return;
        };
        match said {
            ToDispatcher::Took { ids, closed } => {
                let taken = desk.books.borrow_mut().took(self.worker, &ids, now);
                desk.tally.passed.add(taken.len());
                desk.books.borrow_mut().closed(self.worker, closed);
            }
            ToDispatcher::Closed { n } => desk.books.borrow_mut().closed(self.worker, n),
            ToDispatcher::Refused { ids } => {
                let count = desk.books.borrow_mut().refused(self.worker, &ids, now);
                desk.tally.repeated.add(count);
            }
            ToDispatcher::Leaves {} => desk.books.borrow_mut().ends(self.worker),
            ToDispatcher::Back { key, strikes } => self.take_back(desk, &key, strikes, fd),
            ToDispatcher::Keeper { pid } => {
                if let Some(pidfd) = fd
                    && self.keeper.get() == Keeper::None
                    && desk.watch_keeper(self.worker, pid, pidfd)
                {
                    self.keeper.set(Keeper::Watching);
                }
            }
            ToDispatcher::Unkept { why } => desk.tell_unkept(&self.link, bounded(why)),
            ToDispatcher::Rescued {
                listener,
                strikes,
                begun,
                repeatable,
            } => {
                let from = usize::try_from(listener).ok().and_then(|at| self.listeners.get(at));
                let (Some(fd), Some(from)) = (fd, from) else {
                    let mut after = self.after.borrow_mut();
                    after.lost = after.lost.saturating_add(1);
                    return;
                };
                let rescued = Rescued {
                    connection: Connection::used(fd),
                    from: from.clone(),
                    strikes,
                    has_begun: begun,
                    is_repeatable: repeatable,
                };
                let is_suspect = self.after.borrow().is_suspect;
                match is_suspect {
                    Some(is_suspect) => self.rescue(desk, rescued, is_suspect),
                    None => self.after.borrow_mut().early.push(rescued),
                }
            }
            ToDispatcher::Done { lost, unnoted, .. } => {
                {
                    let mut after = self.after.borrow_mut();
                    after.lost = after.lost.saturating_add(lost);
                    after.unnoted = unnoted;
                }
                self.keeper.set(Keeper::Done);
                self.conclude(desk);
            }
        }
    }

    /// A connection that a worker gives back, which it may do for listeners of its contract, though it has ceased to accept
    /// there, and for those that it accepts on.
    fn take_back(&self, desk: &Rc<Desk>, key: &ListenKey, strikes: u8, fd: Option<OwnedFd>) {
        let is_its =
            self.listeners.iter().any(|listed| listed.key == *key) || desk.books.borrow().knows(self.worker, key);
        let Some(fd) = fd.filter(|_| is_its) else {
            desk.tally.lost.add(1);
            return;
        };
        let connection = Connection::used(fd);
        // If it is killed before it has closed its own descriptor, that one is in its table.
        self.elsewhere.borrow_mut().extend(connection.cookie());
        let waiting = Waiting {
            client: connection.client(),
            connection,
            strikes,
            fail: None,
            since: clock::now(),
        };
        // One that it had from us counts as ended for it; one that it accepted itself makes no difference below zero.
        desk.books.borrow_mut().closed(self.worker, 1);
        desk.books.borrow_mut().arrive(key, waiting);
        desk.tally.repeated.add(1);
    }

    /// A connection from the table of a dead worker.
    fn rescue(&self, desk: &Rc<Desk>, rescued: Rescued, is_suspect: bool) {
        let Rescued {
            connection,
            from: Listed { key, max_runs },
            strikes,
            has_begun,
            is_repeatable,
        } = rescued;
        let cookie = connection.cookie();
        if cookie.is_some_and(|cookie| self.elsewhere.borrow().contains(&cookie)) {
            return;
        }
        let (struck, to_fail) = {
            let mut after = self.after.borrow_mut();
            after.saved = after.saved.saturating_add(1);
            after.cookies.extend(cookie);
            let passed = cookie.and_then(|cookie| after.passed.remove(&cookie));
            passed.unwrap_or_default()
        };
        let strikes = strikes.max(struck);
        let fate = fate(Orphan {
            has_begun,
            is_repeatable,
            strikes,
            is_suspect,
            max_runs,
        });
        let (strikes, fail) = match fate {
            // It was told so already, and the worker died before it told the client.
            _ if to_fail.is_some() => (strikes, to_fail),
            Fate::Serve { strikes } => {
                desk.tally.rescued.add(1);
                (strikes, None)
            }
            Fate::Refuse { strikes, why } => {
                desk.tally.refused.add(1);
                let kind = EventKind::RequestRefused {
                    listener: key.to_string(),
                    line: connection.request_line(),
                    strikes,
                    why,
                };
                desk.publish(&self.link, kind);
                (strikes, Some(BAD_GATEWAY))
            }
        };
        let waiting = Waiting {
            client: connection.client(),
            connection,
            strikes,
            fail,
            since: clock::now(),
        };
        desk.books.borrow_mut().arrive(&key, waiting);
    }

    /// Nothing more comes from it: what was on its way to it is judged, and the line is given up.
    fn conclude(&self, desk: &Rc<Desk>) {
        if self.after.borrow().is_suspect.is_none() {
            // A keeper's last word before the supervisor told of the death.
            return;
        }
        let After {
            is_suspect,
            cookies,
            unjudged,
            saved,
            mut lost,
            unnoted,
            ..
        } = self.after.take();
        // It stays dead: whatever should still come is dealt with as it comes, and not kept for a death to be told.
        self.after.borrow_mut().is_suspect = is_suspect;
        // Before all others again, in the old order.
        for (key, waiting) in unjudged.into_iter().rev() {
            let cookie = waiting.connection.cookie();
            if cookie.is_some_and(|cookie| cookies.contains(&cookie)) {
                continue;
            }
            // Without its last word nobody knows what the keeper did not send, and a request might run twice.
            if self.keeper.get() != Keeper::Lost && waiting.connection.is_untouched() {
                // A keeper that could not be watched may send it, too.
                self.elsewhere.borrow_mut().extend(cookie);
                if cookie.is_some_and(|cookie| unnoted.contains(&cookie)) {
                    lost = lost.saturating_sub(1);
                }
                desk.books.borrow_mut().again(&key, waiting);
                desk.tally.repeated.add(1);
            } else {
                desk.tally.lost.add(1);
            }
        }
        desk.tally.lost.add(usize::try_from(lost).unwrap_or(usize::MAX));
        if saved > 0 || lost > 0 {
            desk.publish(&self.link, EventKind::Rescued { saved, lost });
        }
        desk.forget(self.worker);
    }

    /// Its keeper has ended: after its work, which is in the socket then, or because it was killed.
    pub(super) fn keeper_ended(&self, desk: &Rc<Desk>) {
        if !self.drain(desk) {
            let mut overdue = self.overdue.get();
            overdue.is_keeper_gone = true;
            self.overdue.set(overdue);
            return;
        }
        if self.keeper.get() == Keeper::Watching {
            self.keeper.set(Keeper::Lost);
            let why = "its keeper was killed; its next restart brings another".to_owned();
            desk.tell_unkept(&self.link, why);
            if self.after.borrow().is_suspect.is_some() {
                self.conclude(desk);
            }
        }
    }

    /// What was told and could not be acted on counts now, unless there is still something to be heard before.
    fn catch_up(&self, desk: &Rc<Desk>) {
        let Overdue { death, is_keeper_gone } = self.overdue.take();
        if let Some(is_suspect) = death {
            self.died(desk, is_suspect);
        }
        if is_keeper_gone {
            self.keeper_ended(desk);
        }
    }

    /// Its other end is closed, by every process that had it.
    fn hung_up(&self, desk: &Rc<Desk>) {
        desk.books.borrow_mut().unreachable(self.worker);
        if self.keeper.get() == Keeper::Watching {
            tracing::warn!(
                worker = self.worker.get(),
                "the keeper of a worker ended before its work was done"
            );
            self.keeper.set(Keeper::Lost);
        }
        if self.after.borrow().is_suspect.is_some() {
            self.conclude(desk);
        }
    }
}

async fn listen(desk: Rc<Desk>, line: Rc<Line>) {
    loop {
        // The connections of the dead keep until there is room for them: their keeper waits meanwhile.
        if line.after.borrow().is_suspect.is_some() {
            desk.room_for_orphans().await;
        }
        // What the supervisor told before this was said comes first, and before this is taken: a death that is told has all
        // that is in the socket heard and judged, and what were in our hands then would come too late.
        let Some(packet) = line.endpoint.recv_after(|| desk.obey()).await else {
            break;
        };
        line.hear(&desk, packet);
        for _ in 0..TURN_MAX {
            let Ok(packet) = line.endpoint.try_recv() else { break };
            line.hear(&desk, packet);
        }
        line.catch_up(&desk);
        desk.settle();
        tokio::task::yield_now().await;
    }
    desk.obey();
    line.catch_up(&desk);
    line.hung_up(&desk);
    desk.settle();
}

/// What a refused request is answered with.
const BAD_GATEWAY: u16 = 502;
/// Datagrams of one worker before others get their turn.
const TURN_MAX: usize = 64;
/// The same where somebody waits for it: more than the socket holds.
const DRAIN_MAX: usize = 4096;
