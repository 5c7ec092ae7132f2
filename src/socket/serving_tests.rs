//! Who serves which queue, after histories that were thought up and after any.

use std::collections::{BTreeMap, BTreeSet};

use super::serving::{Order, Serving};
use crate::model::{ListenKey, Slot, WorkerId};

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
fn the_socket_of_a_gone_slot_that_nobody_is_able_to_adopt_is_closed() {
    let mut serving = Serving::default();
    let listens = |serving: &mut Serving, index: u32, worker: u64| {
        serving.worker_listening(&key("http"), &slot(index), WorkerId::new(worker), false)
    };
    let close = |index| Order::Close {
        key: key("http"),
        slot: slot(index),
    };
    for index in 0..3 {
        assert_eq!(listens(&mut serving, index, u64::from(index) + 1), []);
    }
    assert_eq!(
        serving.worker_leaving(WorkerId::new(3)),
        [],
        "its slot may get another one"
    );
    assert_eq!(serving.slot_gone(&slot(2)), [close(2)]);
    assert_eq!(serving.slot_gone(&slot(2)), []);
    // Where nobody serves it waits for who comes next.
    assert_eq!(serving.worker_leaving(WorkerId::new(1)), []);
    assert_eq!(serving.worker_leaving(WorkerId::new(2)), []);
    assert_eq!(serving.slot_gone(&slot(0)), []);
    assert_eq!(serving.slot_gone(&slot(1)), []);
    assert_eq!(serving.socket_opened(&key("http"), &slot(1)), []);
    assert_eq!(listens(&mut serving, 1, 4), [close(0)]);
    assert_eq!(serving.socket_opened(&key("http"), &slot(0)), [], "it comes back");
    // Who is able adopts it instead.
    assert_eq!(listen(&mut serving, 3, 5), [adopt(0, 5)]);
    assert_eq!(serving.slot_gone(&slot(0)), []);
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
    /// Those of slots that are gone.
    gone: BTreeSet<(String, Slot)>,
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
                Order::Close { key, slot } => {
                    let name = key.to_string();
                    let mut here = self.listening.values().flatten().filter(|it| it.0 == name);
                    assert!(
                        here.clone().all(|it| it.1 != slot && !it.2),
                        "{name} {slot} is or can be served"
                    );
                    assert!(here.next().is_some(), "nobody serves {name}");
                    let socket = (name, slot);
                    assert!(self.gone.contains(&socket), "{socket:?} may come back");
                    assert!(!self.adopted.contains_key(&socket), "{socket:?} is served");
                    assert!(self.sockets.remove(&socket), "{socket:?} closed twice");
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
            let served = self.listening.values().flatten().any(|it| it.0 == *name);
            let is_gone = self.gone.contains(&(name.clone(), slot.clone()));
            assert!(
                own || adopter.is_some() || !is_gone || !served,
                "nobody ever serves {name} {slot}"
            );
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
        let orders = match dice.roll(9) {
            8 if self.listening.values().flatten().all(|it| it.1 != slot) => {
                let its = self.sockets.iter().filter(|it| it.1 == slot);
                self.gone.extend(its.cloned());
                serving.slot_gone(&slot)
            }
            0 | 1 => {
                self.gone.remove(&(name.clone(), slot.clone()));
                self.sockets.insert((name.clone(), slot.clone()));
                serving.socket_opened(&key(&name), &slot)
            }
            2..=4 => {
                let (worker, adopts) = (*next, dice.roll(4) > 0);
                *next = next.next();
                self.gone.remove(&(name.clone(), slot.clone()));
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
