//! Tables for a worker that asks for more time, and for the reasons that an exit has: a hang, want of memory.

use super::*;
use crate::model::{EndCause, ExitReason, ExitStatus, Signal};

const KILL: Output = Output::Order(Order::Signal(Signal::KILL));

fn life(inputs: impl IntoIterator<Item = LifeInput>) -> Lifecycle {
    let mut life = Lifecycle::new(limits(), ms(0));
    for input in inputs {
        life.handle(input, ms(10));
    }
    life
}

fn drain(life: &mut Lifecycle) -> Vec<Output> {
    std::iter::from_fn(|| life.poll_output()).collect()
}

fn reason(life: &mut Lifecycle, at: Mono) -> (ExitReason, bool) {
    let signal = Signal::KILL;
    life.handle(LifeInput::Exited(ExitStatus::Signal { signal, core: false }), at);
    match drain(life).pop() {
        Some(Output::Fact(Report {
            fact: Fact::Exited(exit),
            ..
        })) => (exit.reason, exit.forced),
        other => panic!("the last output is the exit, not {other:?}"),
    }
}

fn hang() -> LifeInput {
    LifeInput::Blamed(EndCause::Hang("main".to_owned()))
}

#[test]
fn f_035_more_time_on_the_way_to_ready_is_granted_up_to_the_cap_and_not_beyond() {
    // Boot 2 s, and at most 3 s more.
    for (asked_at, time, due) in [
        (100, SECOND, 2_000),
        (1_900, SECOND, 2_900),
        (1_900, 60 * SECOND, 5_000),
        (1_900, Duration::MAX, 5_000),
    ] {
        let mut life = life([LifeInput::Online]);
        assert_eq!(life.handle(LifeInput::MoreTime(time), ms(asked_at)), Note::Taken);
        assert_eq!(life.next_deadline(), Some(ms(due)), "{time:?} at {asked_at}");
    }
    // Again and again, and killed at the cap, once.
    let mut life = life([LifeInput::Online]);
    for at in (0..5_000).step_by(900) {
        life.handle_deadline(ms(at));
        life.handle(LifeInput::MoreTime(SECOND), ms(at));
    }
    assert!(!drain(&mut life).contains(&KILL));
    life.handle_deadline(ms(5_000));
    assert_eq!(drain(&mut life), [KILL]);
    assert_eq!(life.handle(LifeInput::MoreTime(SECOND), ms(5_001)), Note::Ignored);
    life.handle_deadline(ms(5_002));
    assert!(drain(&mut life).is_empty());
    assert_eq!(reason(&mut life, ms(5_003)), (ExitReason::BootTimeout, true));
}

#[test]
fn i_26_time_in_which_it_was_not_read_is_no_time_to_boot_and_moves_the_cap_too() {
    let mut life = life([]);
    assert_eq!(life.handle(LifeInput::Unread(10 * SECOND), ms(2_000)), Note::Taken);
    // And it gets the time to be read.
    assert_eq!(life.next_deadline(), Some(ms(12_100)));
    life.handle(LifeInput::Online, ms(12_000));
    life.handle(LifeInput::MoreTime(60 * SECOND), ms(12_000));
    assert_eq!(life.next_deadline(), Some(ms(15_100)));
    life.handle_deadline(ms(15_100));
    assert!(drain(&mut life).contains(&KILL));
    let due = life.next_deadline();
    assert_eq!(life.handle(LifeInput::Unread(SECOND), ms(15_101)), Note::Ignored);
    assert_eq!(life.next_deadline(), due);
}

#[test]
fn more_time_moves_no_limit_of_a_worker_that_is_ready_or_leaves_or_said_nothing_yet() {
    let silent: &[LifeInput] = &[];
    for inputs in [
        silent,
        &[LifeInput::Online, LifeInput::Ready],
        &[LifeInput::Online, LifeInput::Leaving],
    ] {
        let mut life = life(inputs.iter().cloned());
        let due = life.next_deadline();
        assert_eq!(life.handle(LifeInput::MoreTime(SECOND), ms(20)), Note::Ignored);
        assert_eq!(life.next_deadline(), due);
    }
}

#[test]
fn f_045_a_hang_is_the_reason_of_the_one_exit_also_if_it_comes_back_while_it_is_killed() {
    let mut life = life([LifeInput::Online, LifeInput::Ready]);
    drain(&mut life);
    life.handle(hang(), ms(100));
    life.handle(LifeInput::KillOrdered(Signal::KILL), ms(100));
    assert_eq!(drain(&mut life), [KILL]);
    // It comes back and has a lot to say, and the monitor asks once more.
    life.handle(LifeInput::Leaving, ms(101));
    assert_eq!(
        life.handle(LifeInput::KillOrdered(Signal::KILL), ms(102)),
        Note::Ignored
    );
    assert_eq!(reason(&mut life, ms(103)), (ExitReason::Hang("main".to_owned()), true));
    assert_eq!(life.handle(hang(), ms(104)), Note::Ignored);
    assert!(drain(&mut life).is_empty());
}

#[test]
fn an_order_to_stop_and_somebody_elses_kill_stay_the_reason() {
    let mut ordered = life([
        LifeInput::Online,
        LifeInput::StopOrdered(ShutdownPolicy::Grace(SECOND)),
        hang(),
    ]);
    assert_eq!(reason(&mut ordered, ms(100)).0, ExitReason::Ordered);
    let mut killed = life([LifeInput::Online, LifeInput::KillOrdered(Signal::KILL), hang()]);
    assert_eq!(reason(&mut killed, ms(100)).0, ExitReason::Killed);
}

#[test]
fn f_232_the_kernels_kill_for_want_of_memory_is_named_and_ours_is_not_taken_for_it() {
    let mut starved = life([LifeInput::Online, LifeInput::Ready, LifeInput::OutOfMemory]);
    assert_eq!(reason(&mut starved, ms(100)), (ExitReason::Oom, false));
    let mut crashed = life([LifeInput::Online, LifeInput::Ready]);
    assert_eq!(reason(&mut crashed, ms(100)).0, ExitReason::Crash);
    // The counter rose for somebody else of the group: this one was killed by us, or told to stop, or ended otherwise.
    let mut killed = life([
        LifeInput::Online,
        LifeInput::KillOrdered(Signal::KILL),
        LifeInput::OutOfMemory,
    ]);
    assert_eq!(reason(&mut killed, ms(100)).0, ExitReason::Killed);
    let mut hung = life([LifeInput::Online, hang(), LifeInput::OutOfMemory]);
    assert_eq!(reason(&mut hung, ms(100)).0, ExitReason::Hang("main".to_owned()));
    let stop = LifeInput::StopOrdered(ShutdownPolicy::Grace(SECOND));
    let mut stopped = life([LifeInput::Online, stop, LifeInput::OutOfMemory]);
    assert_eq!(reason(&mut stopped, ms(100)).0, ExitReason::Ordered);
}

#[test]
fn f_186_a_kill_for_memory_and_whatever_else_ends_it_make_one_exit() {
    let blame = || LifeInput::Blamed(EndCause::Memory("2 of 1 MiB".to_owned()));
    let memory = ExitReason::Memory("2 of 1 MiB".to_owned());
    let mut life_of = life([LifeInput::Online, LifeInput::Ready, blame()]);
    drain(&mut life_of);
    life_of.handle(LifeInput::KillOrdered(Signal::KILL), ms(100));
    life_of.handle(LifeInput::ChannelClosed, ms(100));
    assert_eq!(reason(&mut life_of, ms(101)), (memory, true));
    assert_eq!(life_of.handle(blame(), ms(102)), Note::Ignored);
    assert!(drain(&mut life_of).is_empty());
}
