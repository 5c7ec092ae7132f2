//! Proofs about queues and fan-out, without processes.

use std::iter::once;
use std::task::Poll;

use super::*;
use crate::clock;
use crate::model::{
    EventFilter, EventKind, Generation, Message, OutputStream, Payload, Slot, WorkerId, WorkerInfo, WorkerState,
};
use crate::subscription::WhenFull;

fn subscribers() -> Subscribers {
    Subscribers::new(8)
}

fn event(seq: u64) -> ClusterEvent {
    ClusterEvent {
        seq,
        at: clock::now(),
        time: clock::wall(),
        worker: None,
        kind: EventKind::ShutdownStarted,
    }
}

fn message(seq: u64) -> ClusterEvent {
    let payload = Payload::from_value(&seq).unwrap();
    let kind = EventKind::Message(Message::new(payload, None, Vec::new()));
    ClusterEvent { kind, ..event(seq) }
}

fn of_worker(seq: u64, worker: u64, kind: EventKind) -> ClusterEvent {
    let worker = Some(WorkerInfo {
        id: WorkerId::new(worker),
        slot: Slot::new("web", 0),
        generation: Generation(0),
        pid: Some(1),
        state: WorkerState::Online,
        exited_after_disconnect: None,
    });
    ClusterEvent {
        worker,
        kind,
        ..event(seq)
    }
}

fn take(queue: &Queue, subscribers: &Subscribers) -> Vec<ClusterEvent> {
    let (mut all, mut taken) = (Vec::new(), VecDeque::new());
    while let Poll::Ready(true) = queue.poll_take(&mut taken, subscribers) {
        all.extend(taken.drain(..).map(Arc::unwrap_or_clone));
    }
    all
}

fn numbers(events: &[ClusterEvent]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

fn capacity(events: usize) -> SubscribeOptions {
    SubscribeOptions::new().capacity(events)
}

#[test]
fn f_160_i_25_a_slow_subscriber_loses_the_oldest_and_is_told_which() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&capacity(2));
    for seq in 1..=5 {
        subscribers.publish(once(event(seq)));
    }
    let taken = take(&queue, &subscribers);
    assert!(matches!(taken[0].kind, EventKind::Lagged { from: 1, to: 3 }));
    assert_eq!(numbers(&taken), [3, 4, 5]);
    assert!(take(&queue, &subscribers).is_empty());
}

#[test]
fn i_25_every_number_is_an_event_or_lies_in_exactly_one_notice() {
    let subscribers = subscribers();
    for room in [1, 2, 7, 64] {
        let (queue, since) = subscribers.subscribe(&capacity(room));
        let (mut next, mut taken) = (since + 1, VecDeque::new());
        for seq in since + 1..since + 1000 {
            subscribers.publish(once(event(seq)));
            // Takes in an order that has nothing to do with the room.
            if seq % 11 != 0 && seq % 13 != 0 {
                continue;
            }
            while let Poll::Ready(true) = queue.poll_take(&mut taken, &subscribers) {
                for event in taken.drain(..) {
                    let first = match event.kind {
                        EventKind::Lagged { from, to } => {
                            assert_eq!(to, event.seq);
                            from
                        }
                        _ => event.seq,
                    };
                    assert_eq!(first, next, "room {room}");
                    next = event.seq + 1;
                }
            }
        }
    }
}

#[test]
fn f_160_a_flood_of_large_messages_costs_bounded_memory() {
    let subscribers = subscribers();
    let options = SubscribeOptions::new().capacity_bytes(1000);
    let (queue, _) = subscribers.subscribe(&options);
    let line = |seq, length| {
        let (stream, line) = (OutputStream::Stdout, "x".repeat(length));
        of_worker(seq, 1, EventKind::Output { stream, line })
    };
    for seq in 1..=100 {
        subscribers.publish(once(line(seq, 300)));
    }
    assert_eq!(numbers(&take(&queue, &subscribers)), [97, 98, 99, 100]);
    // One that is larger than all the room is taken alone.
    subscribers.publish([line(101, 10), line(102, 5000)].into_iter());
    let taken = take(&queue, &subscribers);
    assert!(matches!(taken[0].kind, EventKind::Lagged { from: 101, to: 101 }));
    assert_eq!(numbers(&taken), [101, 102]);
}

#[test]
fn f_161_a_subscriber_that_is_gone_is_forgotten_at_the_next_event() {
    let subscribers = subscribers();
    drop(subscribers.subscribe(&SubscribeOptions::messages()));
    assert!(subscribers.wants_messages());
    subscribers.publish(once(event(1)));
    assert!(subscribers.list().queues.is_empty());
    assert!(!subscribers.wants_messages(), "messages cost something again");
}

#[test]
fn a_filter_is_asked_before_an_event_takes_room() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&capacity(1).filter(EventFilter::kinds(Kind::Message)));
    let (other, _) = subscribers.subscribe(&capacity(10).filter(EventFilter::all().worker(WorkerId::new(2))));
    subscribers.publish(once(message(1)));
    subscribers.publish((2..=9).map(event));
    subscribers.publish(once(of_worker(10, 2, EventKind::Online)));
    assert_eq!(numbers(&take(&queue, &subscribers)), [1]);
    assert_eq!(numbers(&take(&other, &subscribers)), [10]);
}

#[actix_rt::test]
async fn messages_wait_for_a_reliable_subscriber_and_are_not_dropped() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&SubscribeOptions::messages().capacity(4));
    for seq in 1..=6 {
        subscribers.publish(once(message(seq)));
    }
    let mut room = std::pin::pin!(subscribers.room_for_messages());
    assert!(
        tokio::time::timeout(std::time::Duration::ZERO, room.as_mut())
            .await
            .is_err()
    );
    for seq in 1..=4 {
        let mut taken = VecDeque::new();
        assert!(queue.take(&mut taken, &subscribers).await);
        assert_eq!(taken[0].seq, seq);
    }
    room.await;
    let mut taken = VecDeque::new();
    assert!(queue.take(&mut taken, &subscribers).await);
    assert_eq!(taken[0].seq, 5);
}

#[actix_rt::test]
async fn a_reliable_subscriber_that_leaves_lets_the_workers_talk_on() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&SubscribeOptions::messages().capacity(1));
    subscribers.publish((1..=6).map(message));
    queue.abandon();
    subscribers.room_for_messages().await;
    assert!(take(&queue, &subscribers).is_empty());
}

#[actix_rt::test]
async fn i_26_the_end_of_a_subscription_is_told_to_those_who_wait_for_it() {
    let subscribers = Arc::new(subscribers());
    let events = crate::events::Events::new(&subscribers, &SubscribeOptions::messages().capacity(1));
    subscribers.publish((1..=6).map(message));
    let mut room = std::pin::pin!(subscribers.room_for_messages());
    let is_waiting = tokio::time::timeout(std::time::Duration::ZERO, room.as_mut());
    assert!(is_waiting.await.is_err());
    // Its handler is stuck: it neither takes anything nor goes.
    events.subscription().end();
    let woken = tokio::time::timeout(std::time::Duration::from_secs(10), room);
    assert!(woken.await.is_ok());
    drop(events);
}

#[test]
fn f_160_a_reliable_subscriber_that_is_stuck_costs_bounded_memory_and_no_message() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&capacity(2).when_full(WhenFull::HoldBack));
    subscribers.publish((1..=1000).map(event));
    subscribers.publish(once(message(1001)));
    subscribers.publish(once(event(1002)));
    let taken = take(&queue, &subscribers);
    assert_eq!((taken[0].seq, taken[1].seq), (1, 2));
    let notice = &taken[2];
    assert!(
        matches!(notice.kind, EventKind::Lagged { from: 3, to: 1000 }),
        "{notice:?}"
    );
    assert!(matches!(taken[3].kind, EventKind::Message(_)));
    let notice = &taken[4];
    assert!(
        matches!(notice.kind, EventKind::Lagged { from: 1002, to: 1002 }),
        "{notice:?}"
    );
    assert_eq!(numbers(&taken), [1, 2, 1000, 1001, 1002]);
}

/// Metrics, so to say, of three workers, with a step of life now and then: the newest of each is there, every step of life
/// is there or announced, and what is missing without notice was replaced.
#[test]
fn i_25_coalescing_keeps_the_newest_of_each_worker_and_announces_the_rest() {
    let subscribers = subscribers();
    let options = |room| capacity(room).when_full(WhenFull::Coalesce(Kind::Message.into()));
    let (roomy, _) = subscribers.subscribe(&options(100));
    let (narrow, _) = subscribers.subscribe(&options(4));
    let mut published = Vec::new();
    for seq in 1..=1000 {
        let kind = if seq % 100 == 0 {
            EventKind::Online
        } else {
            message(seq).kind
        };
        let event = of_worker(seq, seq % 3, kind);
        published.push((event.kind.kind(), event.worker.clone()));
        subscribers.publish(once(event));
    }
    let taken = take(&roomy, &subscribers);
    let expected: Vec<u64> = (1..=9).map(|hundred| hundred * 100).chain(997..=1000).collect();
    assert_eq!(numbers(&taken), expected);
    let taken = take(&narrow, &subscribers);
    let EventKind::Lagged { from, to } = taken[0].kind else {
        panic!("{taken:?}")
    };
    assert_eq!(numbers(&taken), [900, 997, 998, 999, 1000]);
    for (seq, what) in (1..).zip(&published) {
        let is_replaced = what.0 == Kind::Message && published[seq as usize..].contains(what);
        let is_announced = (from..=to).contains(&seq);
        let is_there = taken[1..].iter().any(|event| event.seq == seq);
        assert!(is_there || is_announced || is_replaced, "{seq} vanished");
        assert!(!(is_there && is_announced), "{seq} is there and said to be missing");
    }
}

#[test]
fn f_160_a_coalescing_queue_stays_small_whatever_comes() {
    let subscribers = subscribers();
    let all = WhenFull::Coalesce(Kinds::ALL);
    let (queue, _) = subscribers.subscribe(&capacity(10).when_full(all));
    for seq in 1..=10_000 {
        subscribers.publish(once(of_worker(seq, seq % 5, message(seq).kind)));
    }
    assert_eq!(numbers(&take(&queue, &subscribers)), [9996, 9997, 9998, 9999, 10_000]);
}

#[test]
fn only_the_newest_waits_where_only_the_newest_is_wanted() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&SubscribeOptions::new().when_full(WhenFull::Latest));
    subscribers.publish((1..=5).map(event));
    assert_eq!(numbers(&take(&queue, &subscribers)), [5]);
    subscribers.publish((6..=7).map(event));
    assert_eq!(numbers(&take(&queue, &subscribers)), [7]);
}

#[test]
fn f_162_what_is_replayed_comes_before_what_is_new_without_gap_or_double() {
    let subscribers = Subscribers::new(4);
    subscribers.publish((1..=6).map(event));
    subscribers.publish(once(message(7)));
    let (all, since) = subscribers.subscribe(&SubscribeOptions::new().replay(100));
    let (two, _) = subscribers.subscribe(&SubscribeOptions::new().replay(2));
    let (none, _) = subscribers.subscribe(&SubscribeOptions::new());
    let other = EventFilter::kinds(Kind::Exit);
    let (filtered, _) = subscribers.subscribe(&SubscribeOptions::new().replay(4).filter(other));
    subscribers.publish((8..=9).map(event));
    assert_eq!(since, 7);
    assert_eq!(numbers(&take(&all, &subscribers)), [3, 4, 5, 6, 8, 9]);
    assert_eq!(numbers(&take(&two, &subscribers)), [5, 6, 8, 9]);
    assert_eq!(numbers(&take(&none, &subscribers)), [8, 9]);
    assert!(take(&filtered, &subscribers).is_empty());
}

#[test]
fn i_30_the_history_is_bounded_in_events_and_in_bytes() {
    let mut history = History::new(100);
    let failed = |seq, length| {
        let error = crate::model::WorkerError::Failed("x".repeat(length));
        of_worker(seq, 1, EventKind::Error(error))
    };
    for seq in 1..=1000 {
        history.note(&Arc::new(event(seq)));
    }
    assert_eq!((history.events.len(), history.bytes), (100, 0));
    for seq in 1001..=1100 {
        history.note(&Arc::new(failed(seq, HISTORY_BYTES / 10)));
    }
    assert_eq!(history.events.len(), 10);
    history.note(&Arc::new(failed(1101, 2 * HISTORY_BYTES)));
    assert_eq!((history.events.len(), history.bytes), (0, 0));
}

#[actix_rt::test]
async fn the_end_comes_after_what_is_queued() {
    let subscribers = subscribers();
    let (queue, _) = subscribers.subscribe(&SubscribeOptions::default());
    subscribers.publish(once(event(1)));
    subscribers.finish();
    let mut taken = VecDeque::new();
    assert!(queue.take(&mut taken, &subscribers).await);
    assert_eq!(taken.pop_front().unwrap().seq, 1);
    assert!(!queue.take(&mut taken, &subscribers).await);
    let (late, _) = subscribers.subscribe(&SubscribeOptions::new().replay(1));
    assert!(late.take(&mut taken, &subscribers).await);
    taken.clear();
    assert!(!late.take(&mut taken, &subscribers).await);
}

/// 100 subscribers, a third of which never take anything: what an event costs, and that nothing grows. With
/// `ACTIX_CLUSTER_SOAK=1` a million events.
#[test]
fn f_166_i_30_a_hundred_subscribers_cost_little_and_hold_a_bounded_number_of_events() {
    let subscribers = subscribers();
    let queues: Vec<_> = (0..100)
        .map(|number| {
            let when_full = match number % 4 {
                0 => WhenFull::DropOldest,
                1 => WhenFull::Coalesce(Kinds::ALL),
                2 => WhenFull::Latest,
                _ => WhenFull::HoldBack,
            };
            subscribers.subscribe(&capacity(100).when_full(when_full)).0
        })
        .collect();
    let soak = std::env::var("ACTIX_CLUSTER_SOAK").is_ok_and(|value| value == "1");
    let events: u64 = if soak { 1_000_000 } else { 5_000 };
    let mut spent = std::time::Duration::ZERO;
    for seq in 1..=events {
        let event = of_worker(seq, seq % 7, EventKind::Online);
        let begun = cpu_time();
        subscribers.publish(once(event));
        spent += cpu_time() - begun;
        if seq.is_multiple_of(50) {
            queues
                .iter()
                .step_by(3)
                .for_each(|queue| drop(take(queue, &subscribers)));
        }
    }
    assert!(queues.iter().all(|queue| queue.waiting() <= 101));
    let each = spent / u32::try_from(events * 100).unwrap();
    let most = std::time::Duration::from_micros(2);
    assert!(each < most, "{each:?} for each event and subscriber");
}

fn cpu_time() -> std::time::Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
