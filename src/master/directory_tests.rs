//! What a worker may fill the master's view with, and what it shows.

use super::*;
use crate::ipc::Limits;

#[test]
fn guide_heartbeat_is_healthy_means_listening_and_heard_of_within_ten_seconds() {
    let (outbox, calls) = (Outbox::new(Limits::default()), Calls::new());
    let (id, slot) = (WorkerId::new(1), Slot::new("web", 0));
    let link = Link::new(id, slot, Generation(0), 1, 0, outbox, calls);
    let within = |seconds| {
        let worker = link.snapshot();
        let heard = worker.last_heartbeat.unwrap_or_default();
        worker.is_healthy(heard + Duration::from_secs(seconds), Duration::from_secs(10))
    };
    link.change().state = WorkerState::Listening;
    assert!(!within(0), "it was never heard of");
    link.alive(&Heartbeat::new(1, 0, Vec::new()));
    assert!(within(9) && !within(10));
    link.change().state = WorkerState::Exiting;
    assert!(!within(0), "it listens no more");
}

#[test]
fn the_last_dead_keep_what_their_flight_recorder_held_and_older_ones_do_not() {
    let directory = Directory::new(BTreeMap::new());
    let id = |n| WorkerId::new(u64::try_from(n).unwrap());
    for n in 0..2 * RECORDS_KEPT {
        let (outbox, calls) = (Outbox::new(Limits::default()), Calls::new());
        let link = Link::new(id(n), Slot::new("web", 0), Generation(0), 1, 0, outbox, calls);
        let recording = Recording::create(4096).unwrap();
        let memory = std::os::fd::AsFd::as_fd(&recording).try_clone_to_owned().unwrap();
        crate::recorder::take_up(memory).unwrap().beat(n as u64);
        let link = link.with_recording(Some(recording));
        let mut exit = Exit::not_started(crate::model::SpawnFailure {
            step: crate::model::SpawnStep::Exec,
            errno: None,
            detail: String::new(),
        });
        exit.last_words = link.flight_record();
        assert_eq!(exit.last_words.as_ref().unwrap().heartbeats, n as u64);
        link.learn(&News {
            fact: Fact::Exited(exit),
            state: WorkerState::Dead,
            exited_after_disconnect: None,
        });
        assert!(link.recording().is_none(), "its descriptor is closed");
        directory.write().workers.insert(link.id, Arc::new(link));
        directory.depart(id(n));
    }
    let kept = |n: &usize| directory.dead_or_alive(id(*n)).unwrap().flight_record().is_some();
    let kept: Vec<usize> = (0..2 * RECORDS_KEPT).filter(kept).collect();
    assert_eq!(kept, (RECORDS_KEPT..2 * RECORDS_KEPT).collect::<Vec<_>>());
}

#[test]
fn f_095_addresses_are_kept_once_and_not_without_end() {
    let (outbox, calls) = (Outbox::new(Limits::default()), Calls::new());
    let (id, slot) = (WorkerId::new(1), Slot::new("web", 0));
    let link = Link::new(id, slot, Generation(0), 1, 0, outbox, calls);
    for n in 0..2 * ADDRESSES_MAX {
        for _ in 0..2 {
            link.learn(&News {
                fact: Fact::Listening(BoundAddress::unix(format!("/{n}"))),
                state: WorkerState::Listening,
                exited_after_disconnect: None,
            });
        }
    }
    let key = |n: usize| ListenKey::Named(n.to_string());
    let news = (0..2 * ADDRESSES_MAX).filter(|n| link.accepts(&key(*n))).count();
    assert_eq!(news, ADDRESSES_MAX, "and the dispatcher hears of no more");
    assert!(!link.accepts(&key(0)), "told already");
    link.gave_back(&key(0));
    assert!(link.accepts(&key(0)));
    let shown = link.view().addresses.clone();
    assert_eq!(shown.len(), ADDRESSES_MAX);
    assert_eq!(shown[1], BoundAddress::unix("/1"));
}
