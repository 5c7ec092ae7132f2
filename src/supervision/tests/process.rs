//! Tables for the machine of one process.

use super::*;
use crate::model::{BoundAddress, ExitReason, ExitStatus, Signal, WorkerError, WorkerState, WorkerStats};

const TERM: Output = Output::Order(Order::Signal(Signal::TERM));
pub(super) const KILL: Output = Output::Order(Order::Signal(Signal::KILL));
pub(super) const ASK: Output = Output::Order(Order::SendStop);

fn born() -> Lifecycle {
    Lifecycle::new(limits(), ms(0))
}

/// A worker that listens and is ready since 100 ms.
fn ready() -> Lifecycle {
    let mut life = born();
    life.handle(LifeInput::Online, ms(50));
    life.handle(listening(), ms(100));
    assert_eq!(names(&mut life), ["online", "listening", "ready"]);
    life
}

pub(super) fn listening() -> LifeInput {
    LifeInput::Listening(BoundAddress::tcp(([127, 0, 0, 1], 80).into()))
}

pub(super) fn stop(life: &mut Lifecycle, at: Mono) -> Note {
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Grace(5 * SECOND)), at)
}

pub(super) fn drain(life: &mut Lifecycle) -> Vec<Output> {
    std::iter::from_fn(|| life.poll_output()).collect()
}

pub(super) fn orders(life: &mut Lifecycle) -> Vec<Output> {
    drain(life)
        .into_iter()
        .filter(|output| matches!(output, Output::Order(_)))
        .collect()
}

/// The facts, by name.
fn names(life: &mut Lifecycle) -> Vec<&'static str> {
    let facts = drain(life).into_iter().filter_map(|output| match output {
        Output::Fact(report) => Some(report.fact),
        Output::Order(_) => None,
    });
    let name = |fact| match fact {
        Fact::Online => "online",
        Fact::StandsBy => "standby",
        Fact::Listening(_) => "listening",
        Fact::Ready => "ready",
        Fact::Exiting => "exiting",
        Fact::Disconnected => "disconnect",
        Fact::Error(_) => "error",
        Fact::Exited(_) => "exit",
    };
    facts.map(name).collect()
}

pub(super) fn by(signal: Signal) -> ExitStatus {
    ExitStatus::Signal { signal, core: false }
}

/// Ends it and gives back the exit.
pub(super) fn exit(life: &mut Lifecycle, status: ExitStatus, at: Mono) -> crate::model::Exit {
    assert_eq!(life.handle(LifeInput::Exited(status), at), Note::Taken);
    match drain(life).pop() {
        Some(Output::Fact(Report {
            fact: Fact::Exited(exit),
            state: WorkerState::Dead,
            ..
        })) => exit,
        other => panic!("the last output is the exit, not {other:?}"),
    }
}

#[test]
fn n_026_f_165_each_fact_carries_the_state_after_it() {
    let mut life = born();
    assert_eq!(life.state(), WorkerState::Created);
    for input in [LifeInput::Online, listening(), LifeInput::Exited(by(Signal::KILL))] {
        life.handle(input, ms(1));
    }
    let seen: Vec<_> = drain(&mut life)
        .into_iter()
        .filter_map(|output| match output {
            Output::Fact(report) => Some((report.state, report.exited_after_disconnect)),
            Output::Order(_) => None,
        })
        .collect();
    let expected = [
        (WorkerState::Online, None),
        (WorkerState::Listening, None),
        (WorkerState::Listening, None),
        (WorkerState::Disconnected, Some(false)),
        (WorkerState::Dead, Some(false)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn readiness_follows_the_rule_and_the_word_ready_beats_it() {
    let table = [
        (ReadyWhen::Spawned, vec!["ready", "online", "listening"]),
        (ReadyWhen::Online, vec!["online", "ready", "listening"]),
        (ReadyWhen::Listening, vec!["online", "listening", "ready"]),
        (ReadyWhen::Called, vec!["online", "listening"]),
    ];
    for (ready_when, expected) in table {
        let mut life = Lifecycle::new(LifecycleConfig { ready_when, ..limits() }, ms(0));
        life.handle(LifeInput::Online, ms(1));
        life.handle(listening(), ms(2));
        assert_eq!(names(&mut life), expected);
        let mut life = Lifecycle::new(LifecycleConfig { ready_when, ..limits() }, ms(0));
        life.handle(LifeInput::Online, ms(1));
        life.handle(LifeInput::Ready, ms(1));
        assert!(life.is_ready());
        assert_eq!(life.next_deadline(), None);
    }
}

#[test]
fn f_034_ready_in_time_is_not_killed_and_late_is_killed_once() {
    let mut life = born();
    life.handle(LifeInput::Online, ms(1));
    life.handle(listening(), ms(1_800));
    life.handle_deadline(ms(2_200));
    assert_eq!(orders(&mut life), []);

    let mut life = born();
    assert_eq!(life.next_deadline(), Some(ms(2_000)));
    for at in [1_999, 2_000, 2_000, 2_200] {
        life.handle_deadline(ms(at));
    }
    assert_eq!(drain(&mut life), [KILL]);
    let exit = exit(&mut life, by(Signal::KILL), ms(2_201));
    assert_eq!(
        (exit.reason, exit.forced, exit.was_ready),
        (ExitReason::BootTimeout, true, false)
    );
}

#[test]
fn f_036_readiness_and_not_life_ends_the_boot_limit() {
    let mut life = born();
    life.handle(LifeInput::Online, ms(1));
    for at in 1..40 {
        life.handle(LifeInput::Stats(WorkerStats::default()), ms(at * 50));
    }
    life.handle_deadline(ms(2_000));
    assert_eq!(orders(&mut life), [KILL]);
    // What it says after the sentence does not count: it is never ready.
    assert_eq!(life.handle(listening(), ms(2_001)), Note::Ignored);
}

#[test]
fn f_038_the_whole_ladder_against_a_worker_that_ignores_it() {
    let mut life = ready();
    life.handle(
        LifeInput::Stats(WorkerStats {
            active: 7,
            ..WorkerStats::default()
        }),
        ms(150),
    );
    stop(&mut life, ms(1_000));
    assert_eq!(orders(&mut life), [ASK]);
    life.handle_deadline(ms(2_000));
    assert_eq!(drain(&mut life), [TERM]);
    life.handle_deadline(ms(5_999));
    assert_eq!(drain(&mut life), []);
    life.handle_deadline(ms(6_000));
    assert_eq!(drain(&mut life), [KILL]);
    let exit = exit(&mut life, by(Signal::KILL), ms(6_001));
    assert_eq!(
        (exit.reason, exit.forced, exit.requests_cut),
        (ExitReason::Ordered, true, 7)
    );
}

#[test]
fn f_039_f_060_unkillable_is_told_once() {
    let mut life = ready();
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Brutal), ms(0));
    assert_eq!(orders(&mut life), [KILL]);
    life.handle_deadline(ms(4_999));
    assert_eq!(drain(&mut life), []);
    life.handle_deadline(ms(5_000));
    life.handle_deadline(ms(60_000));
    assert_eq!(names(&mut life), ["error"]);
    assert_eq!(life.next_deadline(), None);
    exit(&mut life, by(Signal::KILL), ms(90_000));
}

#[test]
fn f_048_an_end_between_decision_and_signal_is_one_exit() {
    let mut life = ready();
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Brutal), ms(200));
    let exit = exit(&mut life, ExitStatus::Code(0), ms(200));
    assert_eq!((exit.reason, exit.forced), (ExitReason::Ordered, false));
    for input in [
        LifeInput::Exited(by(Signal::KILL)),
        LifeInput::ChannelClosed,
        LifeInput::KillOrdered(Signal::KILL),
    ] {
        assert_eq!(life.handle(input, ms(201)), Note::Ignored);
    }
    life.handle_deadline(ms(90_000));
    assert_eq!(drain(&mut life), []);
}

#[test]
fn f_049_a_stop_while_booting_terminates_at_once_and_is_never_ready() {
    let mut life = born();
    stop(&mut life, ms(10));
    assert_eq!(orders(&mut life), [ASK, TERM]);
    for input in [LifeInput::Online, listening(), LifeInput::Ready] {
        assert_eq!(life.handle(input, ms(11)), Note::Ignored);
    }
    // The boot limit is off.
    assert_eq!(life.next_deadline(), Some(ms(5_010)));
    assert_eq!(exit(&mut life, by(Signal::TERM), ms(12)).reason, ExitReason::Ordered);
}

#[test]
fn f_050_i_35_n_172_a_second_stop_has_one_timer_and_a_shorter_one_shortens() {
    let mut life = ready();
    stop(&mut life, ms(1_000));
    stop(&mut life, ms(1_500));
    assert_eq!(drain(&mut life).len(), 2, "one request, one fact");
    life.handle(LifeInput::Leaving, ms(3_000));
    assert_eq!(drain(&mut life), [], "the answer was read late, but before time passed");
    assert_eq!(life.next_deadline(), Some(ms(6_000)), "the answer took SIGTERM away");
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Grace(SECOND)), ms(3_500));
    assert_eq!(life.next_deadline(), Some(ms(4_500)));
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Brutal), ms(3_600));
    assert_eq!(drain(&mut life), [KILL]);
}

#[test]
fn f_051_o_053_a_worker_that_closes_its_channel_but_lives_is_ended() {
    let mut life = ready();
    life.handle(LifeInput::ChannelClosed, ms(1_000));
    assert_eq!(names(&mut life), ["disconnect"]);
    assert_eq!(
        (life.state(), life.exited_after_disconnect()),
        (WorkerState::Disconnected, Some(false))
    );
    life.handle_deadline(ms(1_100));
    assert_eq!(drain(&mut life), [TERM]);
    life.handle_deadline(ms(6_100));
    assert_eq!(drain(&mut life), [KILL]);
    let exit = exit(&mut life, by(Signal::KILL), ms(6_101));
    assert_eq!((exit.reason, exit.was_ready), (ExitReason::ChannelClosed, true));
}

#[test]
fn o_021_an_order_that_comes_between_the_closed_channel_and_the_death_is_not_the_reason() {
    let mut life = ready();
    life.handle(LifeInput::ChannelClosed, ms(1_000));
    stop(&mut life, ms(1_001));
    let exit = exit(&mut life, ExitStatus::Code(0), ms(1_002));
    assert_eq!((exit.reason, exit.forced), (ExitReason::Crash, false));
    assert_eq!(life.exited_after_disconnect(), Some(false));
}

#[test]
fn n_039_a_crash_whose_channel_closes_first_is_still_a_crash() {
    for status in [
        ExitStatus::Code(101),
        by(Signal::SEGV),
        by(Signal::TERM),
        by(Signal::KILL),
    ] {
        let mut life = ready();
        life.handle(LifeInput::ChannelClosed, ms(1_000));
        assert_eq!(exit(&mut life, status, ms(1_003)).reason, ExitReason::Crash);
    }
}

#[test]
fn n_180_every_exit_has_exactly_one_disconnect_before_it() {
    type Prelude = [LifeInput];
    let preludes: [&Prelude; 4] = [
        &[],
        &[LifeInput::ChannelClosed],
        &[LifeInput::Leaving, LifeInput::ChannelClosed, LifeInput::ChannelClosed],
        &[LifeInput::ProtocolBroken(String::new()), LifeInput::ChannelClosed],
    ];
    for prelude in preludes {
        let mut life = ready();
        for input in prelude {
            life.handle(input.clone(), ms(200));
        }
        life.handle(LifeInput::Exited(ExitStatus::Unknown), ms(210));
        let seen = names(&mut life);
        assert_eq!(seen.iter().filter(|name| **name == "disconnect").count(), 1, "{seen:?}");
        assert_eq!(seen.last(), Some(&"exit"));
    }
}

#[test]
fn n_042_n_176_exited_after_disconnect() {
    let brutal = LifeInput::StopOrdered(ShutdownPolicy::Brutal);
    let table = [
        (LifeInput::Stats(WorkerStats::default()), None),
        (brutal, Some(true)),
        (LifeInput::Leaving, Some(true)),
        (LifeInput::ChannelClosed, Some(false)),
        (LifeInput::KillOrdered(Signal::TERM), None),
        (LifeInput::ProtocolBroken(String::new()), Some(false)),
    ];
    for (input, expected) in table {
        let mut life = ready();
        life.handle(input, ms(200));
        assert_eq!(life.exited_after_disconnect(), expected);
        exit(&mut life, by(Signal::TERM), ms(201));
        assert_eq!(life.exited_after_disconnect(), Some(expected.unwrap_or(false)));
    }
}

#[test]
fn a_worker_that_leaves_and_never_ends_is_killed_at_grace() {
    let mut life = ready();
    life.handle(LifeInput::Leaving, ms(1_000));
    life.handle(LifeInput::ChannelClosed, ms(1_500));
    assert_eq!(
        (names(&mut life), life.state()),
        (vec!["exiting", "disconnect"], WorkerState::Disconnected)
    );
    assert_eq!(life.next_deadline(), Some(ms(6_000)));
    life.handle_deadline(ms(6_000));
    assert_eq!(drain(&mut life), [KILL]);
    assert_eq!(exit(&mut life, by(Signal::KILL), ms(6_001)).reason, ExitReason::Crash);
}

#[test]
fn n_179_a_polite_signal_through_the_handle_escalates() {
    let mut life = ready();
    life.handle(LifeInput::KillOrdered(Signal::TERM), ms(1_000));
    assert_eq!((drain(&mut life), life.state()), (vec![TERM], WorkerState::Listening));
    life.handle_deadline(ms(6_000));
    assert_eq!(drain(&mut life), [KILL]);
    let exit = exit(&mut life, by(Signal::KILL), ms(6_001));
    assert_eq!((exit.reason, exit.forced), (ExitReason::Killed, true));
}

#[test]
fn n_186_a_worker_that_obeys_a_signal_of_the_handle_was_killed() {
    let mut life = ready();
    life.handle(LifeInput::KillOrdered(Signal::TERM), ms(1_000));
    life.handle(LifeInput::Leaving, ms(1_001));
    assert_eq!(
        (life.state(), life.exited_after_disconnect()),
        (WorkerState::Exiting, Some(false))
    );
    let end = exit(&mut life, ExitStatus::Code(0), ms(1_002));
    assert_eq!((end.reason, end.forced), (ExitReason::Killed, false));

    let mut life = ready();
    life.handle(LifeInput::Leaving, ms(1_000));
    life.handle(LifeInput::KillOrdered(Signal::TERM), ms(1_001));
    let end = exit(&mut life, ExitStatus::Code(0), ms(1_002));
    assert_eq!(
        (end.reason, life.exited_after_disconnect()),
        (ExitReason::Voluntary, Some(true))
    );
}

#[test]
fn the_reason_is_the_first_one() {
    type Row<'a> = (&'a [LifeInput], ExitStatus, ExitReason);
    let table: [Row<'_>; 8] = [
        (&[], ExitStatus::Code(0), ExitReason::Crash),
        (&[LifeInput::Leaving], ExitStatus::Code(0), ExitReason::Voluntary),
        (&[LifeInput::Leaving], ExitStatus::Code(1), ExitReason::Crash),
        (
            &[LifeInput::KillOrdered(Signal::KILL)],
            by(Signal::KILL),
            ExitReason::Killed,
        ),
        (
            &[LifeInput::KillOrdered(Signal::USR1)],
            by(Signal::SEGV),
            ExitReason::Crash,
        ),
        (
            &[LifeInput::KillOrdered(Signal::USR1)],
            by(Signal::USR1),
            ExitReason::Killed,
        ),
        (
            &[
                LifeInput::StopOrdered(ShutdownPolicy::Infinity),
                LifeInput::KillOrdered(Signal::KILL),
            ],
            by(Signal::KILL),
            ExitReason::Ordered,
        ),
        (
            &[
                LifeInput::ProtocolBroken("x".to_owned()),
                LifeInput::StopOrdered(ShutdownPolicy::Infinity),
            ],
            ExitStatus::Code(0),
            ExitReason::Protocol("x".to_owned()),
        ),
    ];
    for (inputs, status, expected) in table {
        let mut life = ready();
        for input in inputs {
            life.handle(input.clone(), ms(500));
        }
        assert_eq!(exit(&mut life, status, ms(501)).reason, expected, "after {inputs:?}");
    }
}

#[test]
fn a_broken_protocol_is_told_and_ends_the_worker() {
    let mut life = ready();
    life.handle(LifeInput::ProtocolBroken("a frame of 2 MiB".to_owned()), ms(1_000));
    let seen = drain(&mut life);
    let told = WorkerError::Protocol("a frame of 2 MiB".to_owned());
    assert!(matches!(&seen[0], Output::Fact(Report { fact: Fact::Error(error), .. }) if *error == told));
    assert_eq!((&seen[1], &seen[3]), (&Output::Order(Order::CloseChannel), &TERM));
    assert_eq!(life.next_deadline(), Some(ms(6_000)));
}

#[test]
fn f_095_lies_change_nothing_but_the_count() {
    let mut life = born();
    for lie in [LifeInput::Ready, listening(), LifeInput::Leaving] {
        assert_eq!(life.handle(lie, ms(1)), Note::Ignored, "before online");
    }
    life.handle(LifeInput::Online, ms(2));
    life.handle(LifeInput::Ready, ms(3));
    for lie in [LifeInput::Online, LifeInput::Ready] {
        assert_eq!(life.handle(lie, ms(4)), Note::Ignored, "twice");
    }
    assert_eq!((life.ignored(), names(&mut life)), (5, vec!["online", "ready"]));
}

#[test]
fn o_016_f_157_endless_limits_never_kill() {
    let config = LifecycleConfig {
        boot: Duration::MAX,
        ask: Duration::MAX,
        shutdown: ShutdownPolicy::Infinity,
        ..limits()
    };
    let mut life = Lifecycle::new(config, ms(1));
    life.handle(LifeInput::Online, ms(2));
    life.handle(LifeInput::StopOrdered(ShutdownPolicy::Infinity), ms(3));
    life.handle_deadline(Mono::new(Duration::from_secs(100 * 365 * 86_400)));
    assert_eq!(orders(&mut life), [ASK]);
}

#[test]
fn i_010_i_017_f_145_limits_wait_for_a_master_that_was_held_up() {
    // What was said meanwhile is read after the limit was looked at.
    let mut life = born();
    life.handle_deadline(ms(60_000));
    assert_eq!((drain(&mut life), life.next_deadline()), (vec![], Some(ms(60_100))));
    life.handle(LifeInput::Online, ms(60_050));
    life.handle(listening(), ms(60_050));
    assert!(life.is_ready());
    // Nothing was said: it is killed all the same.
    let mut life = born();
    life.handle_deadline(ms(60_000));
    life.handle_deadline(ms(60_100));
    assert_eq!(orders(&mut life), [KILL]);
    // It obeys SIGTERM only, and has its time for that; nor does another order cut it.
    let mut life = ready();
    stop(&mut life, ms(1_000));
    drain(&mut life);
    assert_eq!(life.next_deadline(), Some(ms(2_000)));
    stop(&mut life, ms(60_000));
    assert_eq!((orders(&mut life), life.next_deadline()), (vec![], Some(ms(60_100))));
    life.handle_deadline(ms(60_100));
    assert_eq!(
        (orders(&mut life), life.next_deadline()),
        (vec![TERM], Some(ms(64_100)))
    );
    // A master that is always late kills in the end.
    let late = (0..20).find(|_| {
        let at = life.next_deadline().expect("a limit") + SECOND;
        life.handle_deadline(at);
        orders(&mut life) == [KILL]
    });
    assert_eq!(late, Some(10));
}
