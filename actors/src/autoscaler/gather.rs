//! From a snapshot of the cluster to the facts of a decision: how many workers there are, what else goes on, and what each
//! signal says. Decides nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use actix_cluster::{BoundAddress, ClusterSnapshot, Mono, Phase, SlotState, SpecName, WorkerSnapshot, WorkerState};

use super::config::AutoscaleConfig;
use super::decide::{Facts, ScaleReason};
use crate::kernel::accept_queue;
use crate::signals::cpu::CpuTimes;
use crate::signals::{LoadSignal, Reading, Spoken, Word};

/// What was heard and seen of workers so far.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) spoken: Spoken,
    cpu: CpuTimes,
}

impl Sources {
    pub(super) fn facts(&mut self, snapshot: &ClusterSnapshot, config: &AutoscaleConfig) -> Facts {
        let is_known = |id| snapshot.workers.iter().any(|worker| worker.id == id);
        self.spoken.keep(is_known);
        self.cpu.keep(is_known);
        let slots = snapshot.slots.iter().filter(|slot| slot.slot.spec == config.spec);
        let states: Vec<SlotState> = slots.map(|slot| slot.state).collect();
        let count = |is_it: fn(&SlotState) -> bool| to_u32(states.iter().filter(|state| is_it(state)).count());
        let able: Vec<&WorkerSnapshot> = of_spec(snapshot, &config.spec).filter(|it| is_able(it)).collect();
        let now = snapshot.now();
        Facts {
            now,
            workers: count(is_wanted),
            ready: to_u32(able.len()),
            failed: count(|state| *state == SlotState::Failed),
            course: course(snapshot, &config.spec),
            readings: self.readings(&able, config, now),
        }
    }

    /// What every wanted signal says, of those that exist here.
    fn readings(&mut self, workers: &[&WorkerSnapshot], config: &AutoscaleConfig, now: Mono) -> Vec<Reading> {
        let signals = config.signals.iter();
        signals
            .filter_map(|signal| match signal {
                LoadSignal::Messages => {
                    let words = workers.iter().map(|it| self.spoken.word(it.id, now, config.fresh()));
                    Some(Reading::of(*signal, words, config.cap()))
                }
                LoadSignal::Cpu => {
                    let shortest = config.every / 2;
                    let words = workers.iter().map(|it| match it.pid {
                        Some(pid) => self.cpu.word(it.id, pid, now, shortest),
                        None => Word::Silent,
                    });
                    Some(Reading::of(*signal, words, config.cap()))
                }
                LoadSignal::LoopLag => {
                    let words = workers.iter().map(|it| lag_word(it, config, now));
                    Some(Reading::of(*signal, words, config.cap()))
                }
                LoadSignal::Queue => fullest_queue(workers, config),
            })
            .collect()
    }
}

/// Is it among those that the spec's number counts? Not those that were stopped, or that want nothing to do.
const fn is_wanted(state: &SlotState) -> bool {
    matches!(
        state,
        SlotState::Queued | SlotState::Filled | SlotState::Waiting { .. } | SlotState::Failed | SlotState::Held
    )
}

/// What forbids a judgement now.
fn course(snapshot: &ClusterSnapshot, spec: &SpecName) -> Option<ScaleReason> {
    if snapshot.phase != Phase::Running {
        return Some(ScaleReason::Stopping);
    }
    if snapshot.reloading.is_some() {
        return Some(ScaleReason::Reloading);
    }
    let mut slots = snapshot.slots.iter().filter(|slot| slot.slot.spec == *spec);
    let is_moving = slots.any(|slot| {
        let is_coming = matches!(
            slot.state,
            SlotState::Queued | SlotState::Waiting { .. } | SlotState::Held
        );
        is_coming || slot.beside.is_some()
    });
    let is_settled = of_spec(snapshot, spec).all(is_able);
    (is_moving || !is_settled).then_some(ScaleReason::Changing)
}

fn of_spec<'a>(snapshot: &'a ClusterSnapshot, spec: &'a SpecName) -> impl Iterator<Item = &'a WorkerSnapshot> {
    // Who stands by serves nobody, and says nothing about the load.
    let serves = move |worker: &&WorkerSnapshot| worker.slot.spec == *spec && !worker.standby;
    snapshot.workers.iter().filter(serves)
}

fn is_able(worker: &WorkerSnapshot) -> bool {
    worker.ready && matches!(worker.state, WorkerState::Online | WorkerState::Listening)
}

/// The first loop is the one that beats.
fn lag_word(worker: &WorkerSnapshot, config: &AutoscaleConfig, now: Mono) -> Word {
    let (Some(beat), Some(main)) = (worker.last_heartbeat, worker.loops.first()) else {
        return Word::Silent;
    };
    if now.since(beat) > config.fresh() {
        return Word::Stale;
    }
    Word::Load(main.late.as_secs_f64() / config.lag_full.as_secs_f64())
}

/// The queue of the fullest address, for each worker; `None` where nobody listens on TCP. An address without sockets was
/// given back since, or made up: it says nothing about the others, and only where no address has any is nothing known.
fn fullest_queue(workers: &[&WorkerSnapshot], config: &AutoscaleConfig) -> Option<Reading> {
    let addresses = workers.iter().flat_map(|worker| &worker.addresses);
    let addresses: BTreeSet<SocketAddr> = addresses.filter_map(tcp_address).collect();
    let of = |address: SocketAddr| queue_reading(&accept_queue::depths(address), workers.len(), config);
    let order = |reading: &Reading| reading.load.unwrap_or(f64::NEG_INFINITY);
    addresses
        .into_iter()
        .map(of)
        .max_by(|a, b| order(a).total_cmp(&order(b)))
}

/// As the kernel's table has it, which knows no scope and no flow. Datagrams have no queue of connections.
fn tcp_address(bound: &BoundAddress) -> Option<SocketAddr> {
    let address = bound.socket_addr().filter(|_| !bound.address_type.is_udp())?;
    Some(SocketAddr::new(address.ip(), address.port()))
}

/// One socket for all, or one for each slot, also of slots that are no more and whose queue somebody else serves: what waits
/// is everybody's work.
fn queue_reading(depths: &[u32], workers: usize, config: &AutoscaleConfig) -> Reading {
    let share = f64::from(to_u32(depths.len())) / f64::from(to_u32(workers.max(1)));
    let words = depths.iter().map(|waiting| {
        let load = f64::from(*waiting) * share / f64::from(config.queue_full);
        Word::Load(load)
    });
    let nobody = depths.is_empty().then_some(Word::Silent);
    Reading::of(LoadSignal::Queue, words.chain(nobody), config.cap())
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
    use std::time::Duration;

    use actix_cluster::{Generation, LoopBeat, Slot};

    use super::*;

    fn worker(index: u32) -> WorkerSnapshot {
        WorkerSnapshot::for_test(u64::from(index) + 1, Slot::new("worker", index), WorkerState::Listening)
    }

    fn facts_of(snapshot: &ClusterSnapshot, signal: LoadSignal) -> Facts {
        Sources::default().facts(snapshot, &AutoscaleConfig::new().signals([signal]))
    }

    #[test]
    fn whatever_changes_workers_forbids_a_judgement() {
        let course_of = |change: fn(&mut ClusterSnapshot)| {
            let mut snapshot = ClusterSnapshot::for_test([worker(0), worker(1)]);
            change(&mut snapshot);
            course(&snapshot, &SpecName::from("worker"))
        };
        assert_eq!(course_of(|_| {}), None);
        assert_eq!(
            course_of(|it| it.phase = Phase::ShuttingDown),
            Some(ScaleReason::Stopping)
        );
        assert_eq!(
            course_of(|it| it.reloading = Some(Generation(1))),
            Some(ScaleReason::Reloading)
        );
        let changing = Some(ScaleReason::Changing);
        assert_eq!(course_of(|it| it.slots[0].state = SlotState::Queued), changing);
        assert_eq!(course_of(|it| it.slots[0].beside = Some(it.workers[0].id)), changing);
        assert_eq!(course_of(|it| it.workers[0].ready = false), changing);
        assert_eq!(course_of(|it| it.workers[1].state = WorkerState::Exiting), changing);
        // Another spec's troubles are its own.
        assert_eq!(
            course_of(|it| {
                it.workers[1].slot = Slot::new("other", 0);
                it.workers[1].ready = false;
            }),
            None
        );
    }

    #[test]
    fn slots_are_counted_by_what_they_are_to_be() {
        let mut snapshot = ClusterSnapshot::for_test([worker(0), worker(1), worker(2)]);
        snapshot.slots[1].state = SlotState::Failed;
        snapshot.slots[2].state = SlotState::Stopped;
        snapshot.workers.truncate(1);
        let facts = facts_of(&snapshot, LoadSignal::Messages);
        assert_eq!((facts.workers, facts.ready, facts.failed), (2, 1, 1));
    }

    #[test]
    fn the_lag_of_a_loop_is_its_load() {
        let mut snapshot = ClusterSnapshot::for_test([worker(0)]);
        assert_eq!(facts_of(&snapshot, LoadSignal::LoopLag).readings[0].silent, 1);
        snapshot.uptime = Duration::from_secs(100);
        snapshot.workers[0].last_heartbeat = Some(Mono::new(Duration::from_secs(90)));
        snapshot.workers[0].loops = vec![LoopBeat::new("main", 1, Duration::from_millis(50), "")];
        assert_eq!(facts_of(&snapshot, LoadSignal::LoopLag).readings[0].load, Some(0.5));
        snapshot.workers[0].last_heartbeat = Some(Mono::new(Duration::from_secs(70)));
        assert_eq!(facts_of(&snapshot, LoadSignal::LoopLag).readings[0].stale, 1);
    }

    #[test]
    fn what_waits_is_shared_by_those_who_serve() {
        let config = AutoscaleConfig::new().queue_full(10);
        let load = |depths: &[u32], workers| queue_reading(depths, workers, &config).load;
        assert_eq!(load(&[10], 2), Some(0.5), "one socket for all");
        assert_eq!(load(&[5, 5], 2), Some(0.5), "one for each");
        assert_eq!(load(&[2, 2, 2, 2], 2), Some(0.4), "two have gone, and left theirs");
        assert_eq!(load(&[0, 500, 0], 3), Some(0.0), "one is stuck");
        assert_eq!(load(&[], 2), None);
    }

    #[test]
    fn who_listens_on_no_tcp_address_has_no_queue_to_read() {
        let mut snapshot = ClusterSnapshot::for_test([worker(0)]);
        snapshot.workers[0].addresses = vec![BoundAddress::unix("/tmp/x")];
        assert!(facts_of(&snapshot, LoadSignal::Queue).readings.is_empty());
        // An address that nobody listens on tells nothing, and is no queue of none.
        snapshot.workers[0].addresses = vec![BoundAddress::tcp(([127, 0, 0, 77], 1).into())];
        assert_eq!(facts_of(&snapshot, LoadSignal::Queue).readings[0].load, None);
        // Datagrams come to no queue of connections.
        snapshot.workers[0].addresses = vec![BoundAddress::udp(([127, 0, 0, 77], 1).into())];
        assert!(facts_of(&snapshot, LoadSignal::Queue).readings.is_empty());
    }

    #[test]
    fn an_address_without_sockets_hides_no_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let waits = TcpStream::connect(address).unwrap();
        let mut snapshot = ClusterSnapshot::for_test([worker(0)]);
        snapshot.workers[0].addresses = vec![
            // Given back since, made up, of another kind.
            BoundAddress::tcp(([127, 0, 0, 77], 1).into()),
            BoundAddress::tcp(address),
            BoundAddress::udp(address),
        ];
        let config = AutoscaleConfig::new().signals([LoadSignal::Queue]).queue_full(4);
        let read = |snapshot: &ClusterSnapshot| Sources::default().facts(snapshot, &config).readings.remove(0);
        assert_eq!((read(&snapshot).load, read(&snapshot).silent), (Some(0.25), 0));
        drop(waits);
        // A scope is part of an address, and of no row of the table.
        let Ok(local) = TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: there is no IPv6");
            return;
        };
        let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, local.local_addr().unwrap().port(), 0, 1);
        snapshot.workers[0].addresses = vec![BoundAddress::tcp(scoped.into())];
        assert_eq!(read(&snapshot).load, Some(0.0));
    }
}
