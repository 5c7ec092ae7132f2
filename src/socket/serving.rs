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
            });
            self.sockets.len() - 1
        });
        &mut self.sockets[index]
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
        orders
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn key(name: &str) -> ListenKey {
        ListenKey::Named(name.to_owned())
    }

    fn slot(index: u32) -> Slot {
        Slot::new("web", index)
    }

    fn adopt(index: u32, by: u64) -> Order {
        Order::Adopt {
            key: key("http"),
            slot: slot(index),
            by: WorkerId::new(by),
        }
    }

    fn unadopt(index: u32, from: u64) -> Order {
        Order::Unadopt {
            key: key("http"),
            slot: slot(index),
            from: WorkerId::new(from),
        }
    }

    /// Workers 1 to `count` listen in slots 0 to `count` - 1.
    fn serving(count: u32) -> Serving {
        let mut serving = Serving::default();
        for index in 0..count {
            let worker = WorkerId::new(u64::from(index) + 1);
            assert_eq!(serving.worker_listening(&key("http"), &slot(index), worker, true), []);
        }
        serving
    }

    fn listen(serving: &mut Serving, index: u32, worker: u64) -> Vec<Order> {
        serving.worker_listening(&key("http"), &slot(index), WorkerId::new(worker), true)
    }

    #[test]
    fn a_dead_workers_socket_goes_to_a_sibling_and_back_to_the_successor() {
        let mut serving = serving(3);
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [adopt(0, 2)]);
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [], "told twice, done once");
        assert_eq!(listen(&mut serving, 0, 4), [unadopt(0, 2)]);
        assert_eq!(serving.server(&key("http"), &slot(0)), Some(WorkerId::new(4)));
    }

    #[test]
    fn adopters_share_the_load_and_pass_it_on_when_they_leave() {
        let mut serving = serving(4);
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [adopt(0, 2)]);
        assert_eq!(serving.worker_leaving(WorkerId::new(4)), [adopt(3, 3)]);
        assert_eq!(serving.worker_leaving(WorkerId::new(2)), [adopt(0, 3), adopt(1, 3)]);
    }

    #[test]
    fn orphans_wait_for_the_first_worker_that_is_able() {
        let mut serving = serving(2);
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [adopt(0, 2)]);
        assert_eq!(serving.worker_leaving(WorkerId::new(2)), []);
        assert_eq!(serving.server(&key("http"), &slot(0)), None);
        let unable = serving.worker_listening(&key("http"), &slot(2), WorkerId::new(3), false);
        assert_eq!(unable, []);
        assert_eq!(listen(&mut serving, 1, 4), [adopt(0, 4)]);
    }

    #[test]
    fn a_socket_whose_worker_does_not_listen_yet_is_served_meanwhile() {
        let mut serving = serving(1);
        assert_eq!(serving.socket_opened(&key("http"), &slot(1)), [adopt(1, 1)]);
        assert_eq!(serving.socket_opened(&key("http"), &slot(1)), []);
        assert_eq!(listen(&mut serving, 1, 2), [unadopt(1, 1)]);
    }

    #[test]
    fn while_a_slot_is_reloaded_the_old_worker_covers_for_the_new_one() {
        let mut serving = serving(2);
        assert_eq!(listen(&mut serving, 0, 3), []);
        assert_eq!(serving.server(&key("http"), &slot(0)), Some(WorkerId::new(3)));
        assert_eq!(serving.worker_leaving(WorkerId::new(3)), []);
        assert_eq!(serving.server(&key("http"), &slot(0)), Some(WorkerId::new(1)));
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [adopt(0, 2)]);
    }

    #[test]
    fn a_worker_that_stops_listening_gives_back_what_it_adopted() {
        let mut serving = serving(3);
        assert_eq!(serving.worker_leaving(WorkerId::new(1)), [adopt(0, 2)]);
        let orders = serving.worker_unlistened(&key("http"), WorkerId::new(2));
        assert_eq!(orders, [unadopt(0, 2), adopt(0, 3), adopt(1, 3)]);
        assert_eq!(serving.listener_closed(&key("http")), [unadopt(0, 3), unadopt(1, 3)]);
        assert_eq!(serving.server(&key("http"), &slot(2)), None);
    }

    /// A small generator, so that every failing round can be run again by its number.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// The world as the orders leave it: who accepts on what.
    #[derive(Default)]
    struct World {
        adopted: BTreeMap<(String, Slot), WorkerId>,
        /// Listening workers: (key, slot, adopts).
        listening: BTreeMap<WorkerId, Vec<(String, Slot, bool)>>,
        sockets: BTreeSet<(String, Slot)>,
    }

    impl World {
        fn obey(&mut self, orders: Vec<Order>) {
            for order in orders {
                match order {
                    Order::Adopt { key, slot, by } => {
                        let before = self.adopted.insert((key.to_string(), slot), by);
                        assert_eq!(before, None, "adopted twice");
                    }
                    Order::Unadopt { key, slot, from } => {
                        assert_eq!(self.adopted.remove(&(key.to_string(), slot)), Some(from));
                    }
                }
            }
        }

        fn check(&self, serving: &Serving) {
            for (name, slot) in &self.sockets {
                let is_here = |it: &&(String, Slot, bool)| it.0 == *name && it.1 == *slot;
                let own = self.listening.values().flatten().any(|it| is_here(&it));
                let adopter = self.adopted.get(&(name.clone(), slot.clone()));
                let anybody = self.listening.values().flatten().any(|it| it.0 == *name && it.2);
                assert!(!(own && adopter.is_some()), "two servers of {name} {slot}");
                assert!(own || adopter.is_some() || !anybody, "nobody serves {name} {slot}");
                let server = serving.server(&key(name), slot);
                assert_eq!(server.is_some(), own || adopter.is_some());
                assert!(
                    server.is_none_or(|it| self.listening.contains_key(&it)),
                    "a dead server"
                );
                let able = |it: &WorkerId| self.listening[it].iter().any(|it| it.0 == *name && it.2);
                assert!(adopter.is_none_or(able), "an adopter that cannot");
            }
        }

        fn step(&mut self, serving: &mut Serving, dice: &mut Dice, next: &mut WorkerId) {
            let name = ["http", "admin"][usize::try_from(dice.roll(2)).unwrap()].to_owned();
            let slot = slot(u32::try_from(dice.roll(5)).unwrap());
            let pick = |dice: &mut Dice, world: &Self| {
                let workers: Vec<_> = world.listening.keys().copied().collect();
                (!workers.is_empty()).then(|| workers[usize::try_from(dice.roll(workers.len() as u64)).unwrap()])
            };
            let orders = match dice.roll(8) {
                0 | 1 => {
                    self.sockets.insert((name.clone(), slot.clone()));
                    serving.socket_opened(&key(&name), &slot)
                }
                2..=4 => {
                    let (worker, adopts) = (*next, dice.roll(4) > 0);
                    *next = next.next();
                    self.sockets.insert((name.clone(), slot.clone()));
                    self.listening
                        .entry(worker)
                        .or_default()
                        .push((name.clone(), slot.clone(), adopts));
                    serving.worker_listening(&key(&name), &slot, worker, adopts)
                }
                5 | 6 => {
                    let Some(worker) = pick(dice, self) else { return };
                    self.listening.remove(&worker);
                    self.adopted.retain(|_, adopter| *adopter != worker);
                    serving.worker_leaving(worker)
                }
                _ => {
                    let Some(worker) = pick(dice, self) else { return };
                    let listeners = self.listening.get_mut(&worker).unwrap();
                    listeners.retain(|it| it.0 != name);
                    if listeners.is_empty() {
                        self.listening.remove(&worker);
                    }
                    serving.worker_unlistened(&key(&name), worker)
                }
            };
            self.obey(orders);
            self.check(serving);
        }
    }

    #[test]
    fn after_any_history_every_socket_has_one_living_server_if_there_is_one() {
        for seed in 0..2_000 {
            let (mut serving, mut world, mut dice) = (Serving::default(), World::default(), Dice(seed));
            let mut next = WorkerId::FIRST;
            for _ in 0..60 {
                world.step(&mut serving, &mut dice, &mut next);
            }
        }
    }
}
