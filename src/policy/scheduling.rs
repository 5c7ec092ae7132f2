//! Which worker gets the next connection, where the master accepts and passes them on?
//!
//! Not here: who may get one, how many may be on their way, and the passing itself (that is the master's dispatcher).

use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::SplitMix64;
use crate::model::{Candidate, Client, Scheduling, Slot, WorkerId};

/// Chooses the worker for a connection. One value for each listener, asked on a thread of its own, in the order in which
/// connections came.
///
/// The candidates are sorted by slot and never none. The answer is the position of one of them; if that one has no room
/// the connection waits for it, and those behind it are asked for meanwhile. `None` lets it wait until something changes.
/// A policy that panics, or names nobody, gets the first candidate with room. It must not block: it is asked between
/// two connections.
pub trait SchedulingPolicy: Debug + Send {
    /// The position of the worker that is to serve `client`.
    fn choose(&mut self, client: &Client, candidates: &[Candidate]) -> Option<usize>;
}

/// One after the other, in the order of their slots. Whoever has no room is passed over; a worker that is replaced leaves
/// the others' turns as they are.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin {
    last: Option<(Slot, WorkerId)>,
}

impl RoundRobin {
    /// Of those that `may`, the one whose turn it is.
    fn next(&mut self, candidates: &[Candidate], may: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let after = self.last.as_ref().map_or(0, |(slot, worker)| {
            candidates.partition_point(|candidate| (&candidate.slot, candidate.worker) <= (slot, *worker))
        });
        let turn = (after..candidates.len()).chain(0..after);
        let chosen = turn.into_iter().find(|at| may(&candidates[*at]))?;
        self.last = Some((candidates[chosen].slot.clone(), candidates[chosen].worker));
        Some(chosen)
    }
}

impl SchedulingPolicy for RoundRobin {
    fn choose(&mut self, _: &Client, candidates: &[Candidate]) -> Option<usize> {
        self.next(candidates, |candidate| candidate.has_room)
    }
}

/// Whoever holds the fewest connections; of several, the one whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct LeastConnections {
    equals: RoundRobin,
}

impl SchedulingPolicy for LeastConnections {
    fn choose(&mut self, _: &Client, candidates: &[Candidate]) -> Option<usize> {
        let with_room = candidates.iter().filter(|candidate| candidate.has_room);
        let fewest = with_room.map(|candidate| candidate.open).min()?;
        self.equals
            .next(candidates, |candidate| candidate.has_room && candidate.open == fewest)
    }
}

/// Of two that are drawn by lot, the one that holds fewer connections. Nearly as even as looking at all, and several
/// masters that know nothing of each other do not run to the same worker.
#[derive(Clone, Debug)]
pub struct TwoChoices {
    random: SplitMix64,
}

impl TwoChoices {
    /// With this seed: the same seed draws the same lots.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            random: SplitMix64::new(seed),
        }
    }

    fn draw(&mut self, below: usize) -> usize {
        let at = (self.random.next_unit() * below as f64) as usize;
        at.min(below.saturating_sub(1))
    }
}

impl SchedulingPolicy for TwoChoices {
    fn choose(&mut self, _: &Client, candidates: &[Candidate]) -> Option<usize> {
        let count = candidates.iter().filter(|candidate| candidate.has_room).count();
        let nth = |n: usize| {
            let mut with_room = candidates
                .iter()
                .enumerate()
                .filter(|(_, candidate)| candidate.has_room);
            with_room.nth(n).map(|(at, _)| at)
        };
        if count < 2 {
            return nth(0);
        }
        let first = self.draw(count);
        // The second is another one: drawn among the rest.
        let second = (first + 1 + self.draw(count - 1)) % count;
        let (first, second) = (nth(first)?, nth(second)?);
        let is_less = candidates[second].open < candidates[first].open;
        Some(if is_less { second } else { first })
    }
}

/// A client's address always comes to the same slot (rendezvous hashing). When slots are added or removed only those
/// clients move that must: with n slots, about one of n. While its slot has no worker a client is served by the next one in
/// its own order of preference, and comes back afterwards; while its worker has no room it waits. Clients on a Unix path
/// have no address: they are served in turn.
#[derive(Clone, Debug, Default)]
pub struct Sticky {
    nameless: RoundRobin,
}

impl SchedulingPolicy for Sticky {
    fn choose(&mut self, client: &Client, candidates: &[Candidate]) -> Option<usize> {
        let Some(octets) = client.octets() else {
            return self.nameless.choose(client, candidates);
        };
        // While a slot is reloaded two workers fill it: the newer one counts.
        let preference = |at: &usize| (weight(&octets, &candidates[*at].slot), candidates[*at].worker);
        (0..candidates.len()).max_by_key(preference)
    }
}

/// How much this client prefers this slot: FNV-1a over both, and a last stirring, because FNV alone stirs its last bytes
/// badly. Fixed for ever: a client must come to the same slot after the master was upgraded.
fn weight(client: &[u8; 16], slot: &Slot) -> u64 {
    let bytes = client.iter().chain(slot.spec.as_str().as_bytes());
    let hash = bytes
        .chain(&slot.index.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A policy that is a function of your own: [`SchedulingPolicy::choose`] as a closure.
///
/// ```
/// # use actix_cluster::{Cluster, SchedulingFn};
/// // The first worker that has room, so that the others can be left idle.
/// let fill_up = SchedulingFn::new("fill up", |_client, workers| workers.iter().position(|worker| worker.has_room));
/// let builder = Cluster::builder().listen("http", "127.0.0.1:0").schedule("http", fill_up);
/// ```
pub struct SchedulingFn<F> {
    name: &'static str,
    choose: F,
}

impl<F> SchedulingFn<F>
where
    F: FnMut(&Client, &[Candidate]) -> Option<usize> + Send,
{
    /// The policy that answers as `choose` does; the name is for logs.
    pub const fn new(name: &'static str, choose: F) -> Self {
        Self { name, choose }
    }
}

impl<F> SchedulingPolicy for SchedulingFn<F>
where
    F: FnMut(&Client, &[Candidate]) -> Option<usize> + Send,
{
    fn choose(&mut self, client: &Client, candidates: &[Candidate]) -> Option<usize> {
        (self.choose)(client, candidates)
    }
}

impl<F> Debug for SchedulingFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SchedulingFn").field(&self.name).finish()
    }
}

/// A policy as a listener has it: described with the builder, asked by the dispatcher alone.
pub(crate) type ListenerPolicy = Arc<Mutex<Box<dyn SchedulingPolicy>>>;

/// As a listener has it.
pub(crate) fn for_listener(policy: impl SchedulingPolicy + 'static) -> ListenerPolicy {
    Arc::new(Mutex::new(Box::new(policy)))
}

/// The policy of a kind of scheduling; `None` where the master passes nothing on, or the user has one of his own.
pub(crate) fn policy_of(scheduling: Scheduling, seed: u64) -> Option<ListenerPolicy> {
    match scheduling {
        Scheduling::Shared | Scheduling::PerWorker | Scheduling::Custom => None,
        Scheduling::RoundRobin => Some(for_listener(RoundRobin::default())),
        Scheduling::LeastConnections => Some(for_listener(LeastConnections::default())),
        Scheduling::TwoChoices => Some(for_listener(TwoChoices::new(seed))),
        Scheduling::Sticky => Some(for_listener(Sticky::default())),
    }
}

/// Asks a policy, which may be anybody's code, and makes sense of any answer. `Err` is what it did wrong, beside the first
/// candidate with room.
pub(crate) fn choose(
    policy: &mut dyn SchedulingPolicy,
    client: &Client,
    candidates: &[Candidate],
) -> (Option<usize>, Option<&'static str>) {
    let first = || candidates.iter().position(|candidate| candidate.has_room);
    match catch_unwind(AssertUnwindSafe(|| policy.choose(client, candidates))) {
        Ok(Some(at)) if at >= candidates.len() => (first(), Some("named nobody")),
        Ok(chosen) => (chosen, None),
        Err(_) => (first(), Some("panicked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(count: u32) -> Vec<Candidate> {
        (0..count)
            .map(|index| Candidate::new(Slot::new("web", index), WorkerId::new(u64::from(index) + 1)))
            .collect()
    }

    fn client(n: u32) -> Client {
        let [a, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
        Client::new(Some(([a, b, c, d], 4000).into()))
    }

    fn times(policy: &mut dyn SchedulingPolicy, candidates: &[Candidate], times: u32) -> Vec<usize> {
        (0..times)
            .map(|n| choose(policy, &client(n), candidates).0.unwrap())
            .collect()
    }

    #[test]
    fn n_101_one_after_the_other() {
        let mut policy = RoundRobin::default();
        assert_eq!(times(&mut policy, &workers(3), 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_replaced_worker_leaves_the_turns_of_the_others_as_they_are() {
        let mut policy = RoundRobin::default();
        let mut three = workers(3);
        assert_eq!(times(&mut policy, &three, 2), [0, 1]);
        // The one that was served last dies: the next one's turn is the next one's.
        let dead = three.remove(1);
        assert_eq!(times(&mut policy, &three, 2), [1, 0]);
        three.insert(
            1,
            Candidate {
                worker: WorkerId::new(9),
                ..dead
            },
        );
        assert_eq!(times(&mut policy, &three, 3), [1, 2, 0]);
        three[1].has_room = false;
        assert_eq!(times(&mut policy, &three, 3), [2, 0, 2]);
        for worker in &mut three {
            worker.has_room = false;
        }
        assert_eq!(policy.choose(&client(1), &three), None);
    }

    #[test]
    fn the_fewest_connections_count_and_equals_take_turns() {
        let mut policy = LeastConnections::default();
        let mut three = workers(3);
        assert_eq!(times(&mut policy, &three, 4), [0, 1, 2, 0]);
        three[0].open = 5;
        three[1].open = 4;
        three[2].open = 4;
        assert_eq!(times(&mut policy, &three, 3), [1, 2, 1]);
        three[1].has_room = false;
        three[2].has_room = false;
        assert_eq!(times(&mut policy, &three, 1), [0]);
    }

    #[test]
    fn two_choices_spread_nearly_evenly_and_never_take_the_worst_of_all() {
        let mut policy = TwoChoices::new(7);
        let mut four = workers(4);
        for n in 0..4000 {
            let chosen = choose(&mut policy, &client(n), &four).0.unwrap();
            four[chosen].open += 1;
        }
        for worker in &four {
            assert!((990..=1010).contains(&worker.open), "{four:?}");
        }
        four[2].open = 5000;
        assert!(
            !times(&mut policy, &four, 1000).contains(&2),
            "it always meets one that has less"
        );
        for worker in &mut four[1..] {
            worker.has_room = false;
        }
        assert_eq!(times(&mut policy, &four, 3), [0, 0, 0]);
    }

    /// The law of rendezvous hashing, for every size from 1 to 16 workers.
    #[test]
    fn sticky_clients_move_only_if_they_must() {
        let mut policy = Sticky::default();
        let clients = 2000;
        let mut before: Option<Vec<usize>> = None;
        for count in 1..=16_u32 {
            let all = workers(count);
            let homes = times(&mut policy, &all, clients);
            assert_eq!(homes, times(&mut policy, &all, clients), "always the same");
            for at in 0..count as usize {
                let share = homes.iter().filter(|home| **home == at).count();
                let fair = (clients / count) as usize;
                assert!(
                    (fair * 3 / 4..=fair * 5 / 4).contains(&share),
                    "{share} of {fair}, {count} workers"
                );
            }
            if let Some(before) = before {
                let moved = homes.iter().zip(&before).filter(|(now, then)| now != then);
                let moved: Vec<_> = moved.collect();
                assert!(
                    moved.iter().all(|(now, _)| **now == count as usize - 1),
                    "only to the new one"
                );
                assert!(
                    moved.len() <= (clients / count) as usize * 5 / 4,
                    "{} of {clients}",
                    moved.len()
                );
            }
            before = Some(homes);
        }
    }

    #[test]
    fn while_a_slot_is_vacant_its_clients_are_spread_and_come_back() {
        let mut policy = Sticky::default();
        let four = workers(4);
        let homes = times(&mut policy, &four, 1000);
        let mut three = four.clone();
        three.remove(1);
        let meanwhile = times(&mut policy, &three, 1000);
        let mut guests = [0; 3];
        for (home, now) in homes.iter().zip(&meanwhile) {
            match home {
                1 => guests[*now] += 1,
                home => assert_eq!(three[*now].slot, four[*home].slot, "nobody else moves"),
            }
        }
        assert!(guests.iter().all(|count| *count > 40), "spread over all: {guests:?}");
        assert_eq!(times(&mut policy, &four, 1000), homes);
        // Full is not vacant: they wait. And of two workers in one slot the newer one counts.
        let mut full = four.clone();
        full[1].has_room = false;
        assert_eq!(times(&mut policy, &full, 1000), homes);
        let mut doubled = four;
        let newer = Candidate {
            worker: WorkerId::new(99),
            ..doubled[3].clone()
        };
        doubled.push(newer);
        assert!(!times(&mut policy, &doubled, 1000).contains(&3));
        let nameless = Client::default();
        assert_ne!(policy.choose(&nameless, &doubled), policy.choose(&nameless, &doubled));
    }

    #[test]
    fn a_policy_that_is_wrong_or_panics_harms_nobody_else() {
        let mut two = workers(2);
        two[0].has_room = false;
        let mut out = SchedulingFn::new("out", |_: &Client, _: &[Candidate]| Some(7));
        assert_eq!(choose(&mut out, &client(1), &two), (Some(1), Some("named nobody")));
        let mut broken = SchedulingFn::new("broken", |_: &Client, _: &[Candidate]| panic!("on purpose"));
        assert_eq!(choose(&mut broken, &client(1), &two), (Some(1), Some("panicked")));
        let mut patient = SchedulingFn::new("patient", |_: &Client, _: &[Candidate]| None);
        assert_eq!(choose(&mut patient, &client(1), &two), (None, None));
        assert_eq!(format!("{patient:?}"), "SchedulingFn(\"patient\")");
    }
}
