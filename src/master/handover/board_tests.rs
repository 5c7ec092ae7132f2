//! The dispatcher's books with numbers for connections: who gets them, and that none is lost or served twice.

use std::collections::BTreeSet;
use std::time::Duration;

use super::board::{Board, Pass, WINDOW, Waiting};
use crate::model::{Client, ListenKey, Mono, Slot, WorkerId};
use crate::policy::{RoundRobin, SplitMix64, for_listener};

const MS: Duration = Duration::from_millis(1);

fn key() -> ListenKey {
    ListenKey::Named("http".to_owned())
}

fn at(ms: u32) -> Mono {
    Mono::default() + ms * MS
}

fn id(worker: u64) -> WorkerId {
    WorkerId::new(worker)
}

fn waiting(connection: u32, since: Mono) -> Waiting<u32> {
    Waiting {
        connection,
        client: Client::default(),
        strikes: 0,
        fail: None,
        since,
    }
}

/// A board with a door, and workers 1 to `count` that accept.
fn board(count: u32) -> Board<u32> {
    let mut board = Board::default();
    board.open(&key(), for_listener(RoundRobin::default()));
    for worker in 1..=count {
        hire(&mut board, worker, Duration::ZERO, at(0));
    }
    board
}

fn hire(board: &mut Board<u32>, worker: u32, probation: Duration, now: Mono) {
    board.born(id(worker.into()), Slot::new("web", worker - 1), probation);
    board.accepts(id(worker.into()), &key(), now);
}

fn arrive(board: &mut Board<u32>, connections: impl IntoIterator<Item = u32>, now: Mono) {
    for connection in connections {
        board.arrive(&key(), waiting(connection, now));
    }
}

/// Passes on all that can be: (connection, worker, number).
fn pass_on(board: &mut Board<u32>, now: Mono) -> Vec<(u32, u64, u64)> {
    let mut passed = Vec::new();
    while let Some(pass) = board.choose(now) {
        let Pass { worker, id, .. } = pass;
        let connection = board.on_its_way(&pass).unwrap().waiting.connection;
        passed.push((connection, worker.get(), id));
    }
    passed
}

fn workers(passed: &[(u32, u64, u64)]) -> Vec<u64> {
    passed.iter().map(|(_, worker, _)| *worker).collect()
}

#[test]
fn n_102_f_126_one_that_acknowledges_nothing_gets_its_window_and_the_others_the_rest() {
    let mut board = board(3);
    let mut got = [0_u32; 4];
    for connection in 0..1000 {
        arrive(&mut board, [connection], at(0));
        for (_, worker, number) in pass_on(&mut board, at(0)) {
            got[usize::try_from(worker).unwrap()] += 1;
            if worker != 2 {
                assert_eq!(board.took(id(worker), &[number], at(0)), [connection]);
            }
        }
    }
    assert_eq!(got[2], 1, "{got:?}");
    assert_eq!(got[1] + got[3], 999);
    assert!(got[1].abs_diff(got[3]) <= 1, "{got:?}");
}

#[test]
fn who_is_prompt_gets_more_at_once_and_who_is_late_begins_anew() {
    let mut board = board(1);
    let mut on_way = Vec::new();
    arrive(&mut board, 0..500, at(0));
    let mut most = 0;
    for _ in 0..10 {
        on_way.extend(pass_on(&mut board, at(0)));
        most = most.max(on_way.len());
        for (_, _, number) in std::mem::take(&mut on_way) {
            board.took(id(1), &[number], at(0));
        }
    }
    assert_eq!(most, WINDOW);
    let late = pass_on(&mut board, at(0));
    assert!(late.len() == WINDOW && board.without_room(at(11)) == [id(1)]);
    for (_, _, number) in late {
        board.took(id(1), &[number], at(11));
    }
    assert_eq!(pass_on(&mut board, at(11)).len(), 1);
}

#[test]
fn n_103_what_nobody_can_take_now_waits_in_its_order_and_the_rest_in_the_kernel() {
    let mut board = board(1);
    let mut accepted = 0;
    let mut passed = Vec::new();
    while board.wants(&key(), at(0)) {
        arrive(&mut board, [accepted], at(0));
        accepted += 1;
        passed.extend(pass_on(&mut board, at(0)));
    }
    assert_eq!(passed.len(), 1);
    assert_eq!(accepted, 1 + 64, "and no more is accepted");
    let number = passed[0].2;
    board.took(id(1), &[number], at(0));
    let next: Vec<u32> = pass_on(&mut board, at(0))
        .iter()
        .map(|(connection, ..)| *connection)
        .collect();
    assert_eq!(next, [1, 2], "the first that wait");
    assert!(board.wants(&key(), at(0)));
}

#[test]
fn f_089_what_is_refused_goes_to_somebody_else_at_once_and_to_the_same_one_only_later() {
    let mut board = board(2);
    arrive(&mut board, [7], at(0));
    let first = pass_on(&mut board, at(0));
    assert_eq!(board.refused(id(first[0].1), &[first[0].2, 999], at(0)), 1);
    let second = pass_on(&mut board, at(0));
    assert_eq!((first[0].1, second[0].1, second[0].0), (1, 2, 7));
    assert_eq!(board.refused(id(2), &[second[0].2], at(0)), 1);
    assert!(pass_on(&mut board, at(99)).is_empty());
    assert_eq!(board.next_deadline(at(99)), Some(at(100)));
    assert!(
        !board.wants(&key(), at(99)),
        "everybody has enough: the rest stays in the kernel"
    );
    let third = pass_on(&mut board, at(100));
    assert_eq!(third[0].0, 7);
    board.refused(id(third[0].1), &[third[0].2], at(100));
    board.closed(id(third[0].1), 1);
    assert_eq!(pass_on(&mut board, at(101)).len(), 1, "one of its own has ended");
}

#[test]
fn the_dead_ones_connections_come_back_in_order_and_nobody_is_asked_on_probation() {
    let mut board = board(1);
    arrive(&mut board, [100, 101], at(0));
    for number in [1, 2] {
        assert_eq!(pass_on(&mut board, at(0)).len(), 1);
        board.took(id(1), &[number], at(0));
    }
    arrive(&mut board, [1, 2, 3], at(0));
    let mut dead_got = Vec::new();
    for (connection, ..) in pass_on(&mut board, at(0)) {
        dead_got.push(connection);
    }
    assert_eq!(dead_got, [1, 2, 3]);
    let back: Vec<u32> = board
        .died(id(1))
        .into_iter()
        .map(|(_, waiting)| waiting.connection)
        .collect();
    assert_eq!(back, dead_got);
    assert!(board.choose(at(1)).is_none() && !board.wants(&key(), at(1)));
    for connection in back.iter().rev() {
        board.again(&key(), waiting(*connection, at(0)));
    }
    hire(&mut board, 2, 50 * MS, at(10));
    assert!(pass_on(&mut board, at(59)).is_empty() && !board.wants(&key(), at(59)));
    let passed = pass_on(&mut board, at(60));
    let order: Vec<u32> = passed.iter().map(|(connection, ..)| *connection).collect();
    assert_eq!(order, [1, 2, 3][..passed.len()]);
    assert!(
        board.took(id(1), &[3, 4, 5], at(60)).is_empty(),
        "the dead have nothing"
    );
}

#[test]
fn one_that_leaves_gets_something_only_where_nobody_else_does_and_is_told_when_nothing_follows() {
    let mut board = board(2);
    board.leaves(id(1));
    arrive(&mut board, [1], at(0));
    assert_eq!(workers(&pass_on(&mut board, at(0))), [2]);
    board.ends(id(1));
    assert_eq!(board.ready_to_end(at(0)), [(id(1), true)]);
    assert_eq!(board.ready_to_end(at(0)), [], "once");
    board.leaves(id(2));
    board.took(id(2), &[1], at(0));
    arrive(&mut board, [2], at(0));
    assert!(board.wants(&key(), at(0)), "a lame duck serves on");
    board.ends(id(2));
    assert!(!board.wants(&key(), at(0)), "its successor will");
    assert_eq!(board.ready_to_end(at(0)), [], "one waits for it");
    let last = pass_on(&mut board, at(0));
    assert_eq!(last[0].1, 2);
    assert_eq!(board.ready_to_end(at(0)), [], "one is on its way");
    board.took(id(2), &[last[0].2], at(0));
    assert_eq!(board.ready_to_end(at(0)), [(id(2), false)]);
    arrive(&mut board, [3], at(0));
    assert!(pass_on(&mut board, at(0)).is_empty());
}

#[test]
fn at_the_end_of_the_cluster_the_last_one_gets_what_the_kernel_has_queued() {
    let mut board = board(2);
    board.stop();
    board.leaves(id(1));
    board.leaves(id(2));
    board.ends(id(1));
    assert_eq!(board.ready_to_end(at(0)), [(id(1), true)]);
    board.ends(id(2));
    assert!(board.is_sweeping(&key(), at(0)) && board.wants(&key(), at(0)));
    assert_eq!(board.ready_to_end(at(0)), []);
    arrive(&mut board, 0..100, at(0));
    assert!(board.is_sweeping(&key(), at(0)), "more than usually waits");
    board.swept(&key());
    assert!(!board.wants(&key(), at(0)));
    let mut served = 0;
    while board.ready_to_end(at(0)).is_empty() {
        for (_, worker, number) in pass_on(&mut board, at(0)) {
            served += board.took(id(worker), &[number], at(0)).len();
        }
    }
    assert_eq!(served, 100);
}

#[test]
fn who_waits_too_long_is_let_go() {
    let mut board = board(0);
    arrive(&mut board, [1], at(0));
    arrive(&mut board, [2], at(10_000));
    assert_eq!(board.next_deadline(at(0)), Some(at(30_000)));
    assert!(board.expire(at(29_999)).is_empty());
    assert_eq!(board.expire(at(30_000))[0].connection, 1);
    assert_eq!(board.waiting(), 1);
    assert_eq!(board.close(&key())[0].connection, 2);
    assert_eq!(board.waiting(), 0);
}

/// Whatever happens in whatever order: each connection is in one place, and nobody gets one who must not.
#[test]
fn i_22_no_connection_is_lost_or_doubled_in_any_history() {
    for seed in 0..300 {
        let mut random = SplitMix64::new(seed);
        let mut draw = move |below: u64| random.next_u64() % below;
        let mut board = board(3);
        let (mut now, mut next, mut hired) = (0_u32, 0_u32, 3_u32);
        let mut on_way: Vec<(u32, u64, u64)> = Vec::new();
        let (mut taken, mut gone): (BTreeSet<u32>, BTreeSet<u64>) = Default::default();
        for _ in 0..400 {
            now += u32::try_from(draw(30)).unwrap();
            match draw(9) {
                0..=2 if board.wants(&key(), at(now)) => {
                    arrive(&mut board, [next], at(now));
                    next += 1;
                }
                3 | 4 if !on_way.is_empty() => {
                    let (connection, worker, number) = on_way.remove(draw(on_way.len() as u64) as usize);
                    assert_eq!(board.took(id(worker), &[number], at(0)), [connection]);
                    assert!(taken.insert(connection), "twice");
                    assert!(board.took(id(worker), &[number], at(0)).is_empty());
                }
                5 if !on_way.is_empty() => {
                    let (_, worker, number) = on_way.remove(draw(on_way.len() as u64) as usize);
                    assert_eq!(board.refused(id(worker), &[number], at(now)), 1);
                }
                6 => {
                    let worker = 1 + draw(hired.into());
                    for (key, waiting) in board.died(id(worker)).into_iter().rev() {
                        board.again(&key, waiting);
                    }
                    on_way.retain(|(_, of, _)| *of != worker);
                    gone.insert(worker);
                    hired += 1;
                    hire(&mut board, hired, 20 * MS, at(now));
                }
                7 => {
                    let worker = 1 + draw(hired.into());
                    board.leaves(id(worker));
                    board.ends(id(worker));
                }
                _ => board.closed(id(1 + draw(hired.into())), 1),
            }
            for (worker, _) in board.ready_to_end(at(now)) {
                gone.insert(worker.get());
            }
            for passed in pass_on(&mut board, at(now)) {
                assert!(!gone.contains(&passed.1), "seed {seed}: {passed:?} to one that is gone");
                on_way.push(passed);
            }
            let total = taken.len() + on_way.len() + board.waiting();
            assert_eq!(total, next as usize, "seed {seed}");
        }
        assert!(next > 20, "seed {seed}: something happens");
    }
}
