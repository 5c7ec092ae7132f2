//! Tables for the stop of one process in two steps, and for the report of it.

use super::process::{ASK, KILL, by, drain, exit, listening, orders, stop};
use super::*;
use crate::model::{ExitStatus, Signal, WorkerState, WorkerStats};

/// Ready, and a lame duck for 3 s before its grace of 5 s.
fn duck() -> Lifecycle {
    let lame_duck = 3 * SECOND;
    let mut life = Lifecycle::new(LifecycleConfig { lame_duck, ..limits() }, ms(0));
    life.handle(LifeInput::Online, ms(50));
    life.handle(listening(), ms(100));
    drain(&mut life);
    life
}

fn draining(active: u64) -> LifeInput {
    LifeInput::Stats(WorkerStats {
        active,
        draining: true,
        ..WorkerStats::default()
    })
}

#[test]
fn i_10_the_grace_counts_from_the_end_of_the_lame_duck_time() {
    let mut life = duck();
    stop(&mut life, ms(1_000));
    assert_eq!((life.lame_duck(), life.state()), (3 * SECOND, WorkerState::Exiting));
    assert_eq!(orders(&mut life), [ASK]);
    life.handle(LifeInput::Leaving, ms(1_001));
    // Asked again: the time to drain has not begun.
    stop(&mut life, ms(2_000));
    assert_eq!(life.next_deadline(), Some(ms(9_000)));
    life.handle_deadline(ms(8_999));
    assert!(orders(&mut life).is_empty());
    life.handle_deadline(ms(9_000));
    assert_eq!(orders(&mut life), [KILL]);
    // The same for one that leaves by itself, or is asked to by a handle's signal.
    for input in [LifeInput::Leaving, LifeInput::KillOrdered(Signal::TERM)] {
        let mut life = duck();
        life.handle(input, ms(1_000));
        assert_eq!(life.next_deadline(), Some(ms(9_000)));
        stop(&mut life, ms(1_500));
        let (mut asked, at) = (orders(&mut life), life.next_deadline().unwrap());
        asked.retain(|order| *order == KILL);
        assert!(asked.is_empty() && at <= ms(9_000));
    }
}

#[test]
fn who_was_not_ready_or_is_stopped_at_once_is_no_lame_duck() {
    let lame_duck = 3 * SECOND;
    let mut life = Lifecycle::new(LifecycleConfig { lame_duck, ..limits() }, ms(0));
    life.handle(LifeInput::Online, ms(50));
    stop(&mut life, ms(1_000));
    life.handle(LifeInput::Leaving, ms(1_001));
    assert_eq!(
        (life.lame_duck(), life.next_deadline()),
        (Duration::ZERO, Some(ms(6_000)))
    );
    let mut life = duck();
    stop(&mut life, ms(1_000));
    drain(&mut life);
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Brutal), ms(1_500));
    assert_eq!(orders(&mut life), [KILL], "in the middle of it");
    let mut life = duck();
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Brutal), ms(1_000));
    assert_eq!(orders(&mut life), [KILL]);
}

#[test]
fn f_038_the_exit_tells_how_the_stop_went() {
    let report = |lame_duck: u64, drained_in: u64, in_progress_at_start, lost| {
        let millis = Duration::from_millis;
        Some((millis(lame_duck), millis(drained_in), in_progress_at_start, lost))
    };
    let of = |exit: crate::model::Exit| {
        let drain = exit.drain?;
        Some((
            drain.lame_duck,
            drain.drained_in,
            drain.in_progress_at_start,
            drain.lost,
        ))
    };
    // In order: it tells when it stops accepting, and with what.
    let mut life = duck();
    stop(&mut life, ms(1_000));
    life.handle(LifeInput::Leaving, ms(1_001));
    life.handle(draining(4), ms(4_010));
    life.handle(draining(0), ms(4_500));
    assert_eq!(
        of(exit(&mut life, ExitStatus::Code(0), ms(4_600))),
        report(3_010, 590, 4, 0)
    );
    // It hangs and is killed: what is known is what it said last.
    let mut life = duck();
    life.handle(
        LifeInput::Stats(WorkerStats {
            active: 7,
            ..WorkerStats::default()
        }),
        ms(900),
    );
    stop(&mut life, ms(1_000));
    life.handle_deadline(ms(9_000));
    drain(&mut life);
    assert_eq!(
        of(exit(&mut life, by(Signal::KILL), ms(9_001))),
        report(3_000, 5_001, 7, 7)
    );
    // It dies as a lame duck.
    let mut life = duck();
    stop(&mut life, ms(1_000));
    drain(&mut life);
    assert_eq!(of(exit(&mut life, by(Signal::SEGV), ms(1_700))), report(700, 0, 0, 0));
    // A crash is no stop.
    assert_eq!(of(exit(&mut duck(), by(Signal::SEGV), ms(1_700))), None);
}

#[test]
fn i_010_a_worker_without_a_channel_has_its_whole_grace_after_the_sigterm() {
    let mut life = duck();
    life.handle(LifeInput::ChannelClosed, ms(1_000));
    orders(&mut life);
    life.handle_deadline(ms(1_100));
    assert_eq!(orders(&mut life), [Output::Order(Order::Signal(Signal::TERM))]);
    life.handle_deadline(ms(6_099));
    assert_eq!(orders(&mut life), []);
    life.handle_deadline(ms(6_100));
    assert_eq!(orders(&mut life), [Output::Order(Order::Signal(Signal::KILL))]);
}
