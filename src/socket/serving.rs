//! Who serves the queue of each `PerWorker` socket: a pure decision, no I/O.
//!
//! The kernel puts a connection into the queue of one socket of the group, at its first packet, and never moves it. A
//! socket whose slot has no accepting worker must therefore be served by a sibling, or its clients wait for nothing.
//!
//! ```text
//!            occupant listens                 occupant listens: Unadopt
//!  orphaned ------------------> own worker <------------------------ adopted
//!     |  ^                        |   |                              ^ |  |
//!     |  '---- leaves, nobody ----'   '--- leaves: Adopt by sibling -' '--' adopter leaves: Adopt by another
//!     '------ first able worker listens: Adopt -------------------------^
//! ```
//!
//! Who accepts for itself adopts nothing. The socket of a slot that is gone for good is therefore closed when others of its
//! group are served and nobody is able to adopt it: the kernel would go on giving it its part of all new connections.
//!
//! The caller tells facts in the order they happen, and nothing about a worker after it has left.

use crate::model::{ListenKey, Slot, WorkerId};

/// What the master has to tell a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Accept on the socket of `slot` too.
    Adopt {
        /// The listener.
        key: ListenKey,
        /// Whose socket.
        slot: Slot,
        /// The worker that is to accept on it.
        by: WorkerId,
    },
    /// Stop accepting on the socket of `slot`; its own worker does so again.
    Unadopt {
        /// The listener.
        key: ListenKey,
        /// Whose socket.
        slot: Slot,
        /// The worker that has adopted it.
        from: WorkerId,
    },
    /// Nobody will ever accept on the socket of `slot`: pass on what is in its queue, and close it.
    Close {
        /// The listener.
        key: ListenKey,
        /// Whose socket.
        slot: Slot,
    },
}

/// Who accepts on which socket now.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    /// In the order of their opening, so that equal histories give equal orders.
    sockets: Vec<Socket>,
}

impl Serving {
    /// The socket of `slot` exists; connections may be in its queue from now on.
    #[must_use]
    pub(crate) fn socket_opened(&mut self, key: &ListenKey, slot: &Slot) -> Vec<Order> {
        self.socket(key, slot);
        self.settle(|it| it == key)
    }

    /// `worker`, which fills `slot`, accepts on its slot's socket; with `adopts` it is able to accept on others too.
    #[must_use]
    pub(crate) fn worker_listening(
        &mut self,
        key: &ListenKey,
        slot: &Slot,
        worker: WorkerId,
        adopts: bool,
    ) -> Vec<Order> {
        let socket = self.socket(key, slot);
        // Two at a time while the slot is reloaded: the newer one counts, the older one steps in if it dies.
        socket.occupants.retain(|it| it.worker != worker);
        socket.occupants.push(Occupant { worker, adopts });
        self.settle(|it| it == key)
    }

    /// `worker` no longer accepts on `key`, but lives on.
    #[must_use]
    pub(crate) fn worker_unlistened(&mut self, key: &ListenKey, worker: WorkerId) -> Vec<Order> {
        let mut orders = Vec::new();
        for socket in self.sockets.iter_mut().filter(|it| it.key == *key) {
            if socket.forget(worker) {
                orders.push(socket.unadopt(worker));
            }
        }
        orders.extend(self.settle(|it| it == key));
        orders
    }

    /// `worker` drains or is dead: it accepts on nothing any more.
    #[must_use]
    pub(crate) fn worker_leaving(&mut self, worker: WorkerId) -> Vec<Order> {
        for socket in &mut self.sockets {
            // It knows that it leaves: no order is due to it.
            socket.forget(worker);
        }
        self.settle(|_| true)
    }

    /// `slot` is gone for good, and no worker of it is left.
    #[must_use]
    pub(crate) fn slot_gone(&mut self, slot: &Slot) -> Vec<Order> {
        for socket in self.sockets.iter_mut().filter(|it| it.slot == *slot) {
            socket.is_gone = true;
        }
        self.settle(|_| true)
    }

    /// The listener is closed for good, all its sockets with it.
    #[must_use]
    pub(crate) fn listener_closed(&mut self, key: &ListenKey) -> Vec<Order> {
        let sockets = std::mem::take(&mut self.sockets);
        let (closed, kept): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|it| it.key == *key);
        self.sockets = kept;
        let order = |socket: &Socket| socket.adopter.map(|adopter| socket.unadopt(adopter));
        closed.iter().filter_map(order).collect()
    }

    /// The worker that accepts on the socket of `slot` now.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn server(&self, key: &ListenKey, slot: &Slot) -> Option<WorkerId> {
        let socket = self.sockets.iter().find(|it| it.key == *key && it.slot == *slot)?;
        socket.occupants.last().map(|it| it.worker).or(socket.adopter)
    }

    fn socket(&mut self, key: &ListenKey, slot: &Slot) -> &mut Socket {
        let known = self.sockets.iter().position(|it| it.key == *key && it.slot == *slot);
        let index = known.unwrap_or_else(|| {
            self.sockets.push(Socket {
                key: key.clone(),
                slot: slot.clone(),
                occupants: Vec::new(),
                adopter: None,
                is_gone: false,
            });
            self.sockets.len() - 1
        });
        let socket = &mut self.sockets[index];
        // It is named because there is a worker for it.
        socket.is_gone = false;
        socket
    }

    /// Gives every socket of these keys its one server, if there is anybody.
    fn settle(&mut self, concerns: impl Fn(&ListenKey) -> bool) -> Vec<Order> {
        let mut orders = Vec::new();
        // First all that are given back, so that those who lose one are the first to be chosen.
        for socket in self.sockets.iter_mut().filter(|it| concerns(&it.key) && it.is_own()) {
            if let Some(adopter) = socket.adopter.take() {
                orders.push(socket.unadopt(adopter));
            }
        }
        for index in 0..self.sockets.len() {
            let socket = &self.sockets[index];
            if !concerns(&socket.key) || socket.is_own() || socket.adopter.is_some() {
                continue;
            }
            if let Some(by) = self.least_loaded(&socket.key) {
                let socket = &mut self.sockets[index];
                socket.adopter = Some(by);
                orders.push(Order::Adopt {
                    key: socket.key.clone(),
                    slot: socket.slot.clone(),
                    by,
                });
            }
        }
        orders.extend(self.close_hopeless(concerns));
        orders
    }

    /// Closes sockets that nobody serves nor will, of listeners that are served. Where nobody serves at all they are kept:
    /// who comes next may be able to adopt.
    fn close_hopeless(&mut self, concerns: impl Fn(&ListenKey) -> bool) -> Vec<Order> {
        let is_left = |socket: &Socket| socket.is_gone && !socket.is_own() && socket.adopter.is_none();
        let mut left: Vec<ListenKey> = Vec::new();
        for socket in self.sockets.iter().filter(|it| concerns(&it.key) && is_left(it)) {
            if self.sockets.iter().any(|it| it.key == socket.key && it.is_own()) {
                left.push(socket.key.clone());
            }
        }
        let closed = self.sockets.extract_if(.., |it| is_left(it) && left.contains(&it.key));
        closed
            .map(|Socket { key, slot, .. }| Order::Close { key, slot })
            .collect()
    }

    /// Of the workers that listen on `key` and adopt, the one that serves the fewest of its sockets; then the fewest at
    /// all; then the oldest.
    fn least_loaded(&self, key: &ListenKey) -> Option<WorkerId> {
        let of_key = || self.sockets.iter().filter(|it| it.key == *key);
        let able = of_key().flat_map(|it| &it.occupants).filter(|it| it.adopts);
        able.map(|it| it.worker).min_by_key(|worker| {
            let here = of_key().filter(|it| it.is_served_by(*worker)).count();
            let everywhere = self.sockets.iter().filter(|it| it.is_served_by(*worker)).count();
            (here, everywhere, *worker)
        })
    }
}

#[derive(Debug)]
struct Socket {
    key: ListenKey,
    slot: Slot,
    /// The slot's own workers that listen, the newest last.
    occupants: Vec<Occupant>,
    adopter: Option<WorkerId>,
    /// Its slot is gone for good.
    is_gone: bool,
}

impl Socket {
    /// Removes `worker` from it; true if it was the adopter.
    fn forget(&mut self, worker: WorkerId) -> bool {
        self.occupants.retain(|it| it.worker != worker);
        self.adopter.take_if(|it| *it == worker).is_some()
    }

    fn is_own(&self) -> bool {
        !self.occupants.is_empty()
    }

    fn is_served_by(&self, worker: WorkerId) -> bool {
        self.adopter == Some(worker) || self.occupants.iter().any(|it| it.worker == worker)
    }

    fn unadopt(&self, from: WorkerId) -> Order {
        Order::Unadopt {
            key: self.key.clone(),
            slot: self.slot.clone(),
            from,
        }
    }
}

#[derive(Debug)]
struct Occupant {
    worker: WorkerId,
    adopts: bool,
}
