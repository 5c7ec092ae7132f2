//! Tables for the machine of the cluster, driven as the master drives it.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::{ExitReason, ExitStatus, GaveUp, SlotState, WorkerError};

fn with(change: impl FnOnce(&mut SpecConfig)) -> SupervisionConfig {
    let mut config = web(2);
    change(&mut config.specs[0]);
    config
}

#[test]
fn n_022_n_025_f_164_a_worker_is_told_step_by_step_and_ids_are_never_reused() {
    let mut cluster = Cluster::new(web(1));
    assert_eq!(cluster.tell(Input::Started), ["spawn 1 web.0"]);
    assert_eq!(
        cluster.ready(1),
        ["fork 1", "online 1", "listening 1", "ready 1", "all_ready"]
    );
    cluster.tell(Input::WorkerDisconnected { id: WorkerId::new(1) });
    assert_eq!(cluster.crash(1), ["exit 1", "restart web.0 in 0ns #1", "spawn 2 web.0"]);
    // Late news of the dead one reaches nobody.
    assert!(cluster.ready(1).is_empty());
    assert_eq!(cluster.machine.ignored(), 4);
    assert_eq!(cluster.ready(2).last().expect("events"), "all_ready");
}

#[test]
fn f_014_all_die_at_once_and_boot_in_bounded_numbers() {
    let mut cluster = Cluster::up(web(6));
    let words: Vec<String> = (1..=6).flat_map(|id| cluster.crash(id)).collect();
    let count = |what: &str| words.iter().filter(|word| word.starts_with(what)).count();
    assert_eq!((count("exit"), count("restart"), count("spawn")), (6, 6, 4));
    assert_eq!(cluster.ready(7).last().expect("events"), "spawn 11 web.4");
    cluster.boot();
    assert_eq!((cluster.machine.ready(), cluster.machine.target()), (6, 6));
}

#[test]
fn f_016_i_13_o_030_a_crash_loop_follows_the_backoff_and_is_given_up_once() {
    let mut cluster = Cluster::new(web(1));
    cluster.tell(Input::Started);
    let mut delays = Vec::new();
    for id in 1..=5 {
        cluster.tell(Input::WorkerForked { id: WorkerId::new(id) });
        delays.push(cluster.crash(id)[1].clone());
        if id > 1 {
            cluster.wait();
        }
    }
    let expected = [
        "restart web.0 in 0ns #1",
        "restart web.0 in 1s #2",
        "restart web.0 in 2s #3",
        "restart web.0 in 4s #4",
        "restart web.0 in 8s #5",
    ];
    assert_eq!(delays, expected);
    cluster.tell(Input::WorkerForked { id: WorkerId::new(6) });
    assert_eq!(
        cluster.crash(6),
        ["exit 6", "gave_up", "gone web.0", "finished AllFailed"]
    );
    assert_eq!(
        (cluster.slot(0), cluster.machine.phase()),
        (SlotState::Failed, Phase::Stopped)
    );
}

#[test]
fn f_018_a_worker_that_is_always_stable_first_is_caught_by_the_window() {
    let mut cluster = Cluster::up(with(|spec| spec.limit = RestartLimit::new(3, Duration::from_secs(600))));
    for id in [1, 3, 4] {
        cluster.pass(Duration::from_secs(61));
        let words = cluster.crash(id);
        assert!(words[1].starts_with("restart web.0 in 0ns"), "no streak: {words:?}");
        cluster.boot();
    }
    cluster.pass(Duration::from_secs(61));
    assert_eq!(cluster.crash(5), ["exit 5", "gave_up", "gone web.0"]);
}

#[test]
fn f_019_o_030_one_slot_loops_and_the_others_are_untouched() {
    let mut cluster = Cluster::up(with(|spec| spec.limit = RestartLimit::new(0, SECOND)));
    assert_eq!(cluster.crash(2), ["exit 2", "gave_up", "gone web.1"]);
    assert_eq!(
        (cluster.slot(0), cluster.slot(1)),
        (SlotState::Filled, SlotState::Failed)
    );
    // What was given up is missing, not forgotten.
    assert_eq!((cluster.machine.ready(), cluster.machine.target()), (1, 2));
    assert_eq!(cluster.machine.phase(), Phase::Running);
}

#[test]
fn f_021_i_14_a_stable_run_resets_the_delay_and_keeps_the_total() {
    let mut cluster = Cluster::up(web(1));
    for id in 1..=3 {
        cluster.crash(id);
        if id > 1 {
            cluster.wait();
        }
        cluster.boot();
    }
    cluster.pass(60 * SECOND);
    assert_eq!(cluster.crash(4)[1], "restart web.0 in 0ns #1");
    assert_eq!(cluster.machine.slots()[0].restarts, 4);
}

#[test]
fn f_022_code_125_takes_only_that_slot_down() {
    let mut cluster = Cluster::up(web(2));
    assert_eq!(
        cluster.end(1, ExitStatus::Code(125), ExitReason::Crash),
        ["exit 1", "gone web.0"]
    );
    assert_eq!(
        (cluster.slot(0), cluster.slot(1)),
        (SlotState::Failed, SlotState::Filled)
    );
}

#[test]
fn f_024_a_failed_slot_is_started_by_hand_with_a_new_budget() {
    let mut cluster = Cluster::up(with(|spec| spec.limit = RestartLimit::new(1, Duration::MAX)));
    cluster.crash(1);
    cluster.boot();
    assert_eq!(cluster.crash(3), ["exit 3", "gave_up", "gone web.0"]);
    let slot = Slot::new("web", 0);
    assert_eq!(
        cluster.tell(Input::SlotStartRequested { slot: slot.clone() }),
        ["spawn 4 web.0"]
    );
    assert!(cluster.tell(Input::SlotStartRequested { slot }).is_empty(), "it runs");
    assert_eq!(
        cluster.crash(4),
        ["restart web.0 in 0ns #1", "spawn 5 web.0"],
        "never forked: no exit event"
    );
}

#[test]
fn n_043_f_001_o_031_a_failed_spawn_is_an_error_and_counts_as_a_failure() {
    let mut cluster = Cluster::new(with(|spec| spec.limit = RestartLimit::new(1, SECOND)));
    cluster.tell(Input::Started);
    assert_eq!(
        cluster.tell(spawn_failed(1)),
        ["error 1", "restart web.0 in 0ns #1", "spawn 3 web.0"]
    );
    assert_eq!(cluster.tell(spawn_failed(3)), ["error 3", "gave_up", "gone web.0"]);
}

#[test]
fn o_010_o_012_a_fork_that_cannot_be_spawned_is_answered_and_leaves_no_slot() {
    let mut cluster = Cluster::up(web(2));
    let fork = |number, spec: &str| Input::SlotForkRequested {
        request: RequestId(number),
        spec: spec.into(),
    };
    assert_eq!(cluster.tell(fork(1, "web")), ["added web.2", "spawn 3 web.2"]);
    let words = cluster.tell(spawn_failed(3));
    assert_eq!(
        words,
        [
            "error 3",
            "refused: could not start: exec: no such file",
            "gone web.2",
            "all_ready"
        ]
    );
    assert_eq!(cluster.machine.slots().len(), 2);
    assert!(cluster.tell(fork(2, "nobody"))[0].starts_with("refused: there is no worker spec named `nobody`"));
    // The next one gets the place that is free again, and an answer when it exists.
    assert_eq!(cluster.tell(fork(3, "web")), ["added web.2", "spawn 4 web.2"]);
    assert_eq!(cluster.ready(4)[..2], ["fork 4", "forked 4 web.2"]);
    cluster.tell(Input::ShutdownRequested { now: false });
    assert!(cluster.tell(fork(4, "web"))[0].starts_with("refused: the cluster is stopping"));
}

#[test]
fn o_044_o_045_who_need_not_come_back_ends_the_cluster() {
    for restart in [RestartType::Transient, RestartType::Temporary] {
        let mut cluster = Cluster::up(with(|spec| spec.restart = restart));
        assert_eq!(
            cluster.end(1, ExitStatus::Code(0), ExitReason::Voluntary),
            ["exit 1", "gone web.0"]
        );
        assert_eq!(cluster.slot(0), SlotState::Stopped);
        let last = cluster.end(2, ExitStatus::Code(0), ExitReason::Voluntary);
        assert_eq!(last, ["exit 2", "gone web.1", "finished Clean"]);
    }
}

#[test]
fn o_035_o_039_the_intensity_counts_over_all_slots_and_stops_the_innocent() {
    let mut config = web(3);
    config.intensity = Some(RestartIntensity::new(2, 10 * SECOND));
    let mut cluster = Cluster::up(config);
    cluster.crash(1);
    cluster.crash(2);
    let words = cluster.crash(3);
    assert_eq!(
        words,
        [
            "exit 3",
            "gave_up",
            "gone web.2",
            "shutdown_started",
            "stop 5",
            "stop 4"
        ]
    );
    cluster.ordered(4);
    let words = cluster.ordered(5);
    let gave_up = GaveUp::Cluster {
        limit: 2,
        period: 10 * SECOND,
    };
    assert_eq!(words.last(), Some(&format!("finished {:?}", Outcome::GaveUp(gave_up))));
}

#[test]
fn n_172_a_stopped_worker_is_stopped_once_and_its_slot_for_good() {
    let mut cluster = Cluster::up(web(2));
    let stop = Input::WorkerStopRequested { id: WorkerId::new(1) };
    assert_eq!(
        cluster.tell(Input::RestartRequested { id: WorkerId::new(1) }),
        ["stop 1"]
    );
    // No second order; but of the workers that are wanted now, all are ready.
    assert_eq!(cluster.tell(stop.clone()), ["all_ready"]);
    assert!(cluster.tell(stop).is_empty());
    assert!(
        cluster
            .tell(Input::RestartRequested { id: WorkerId::new(1) })
            .is_empty()
    );
    assert_eq!(cluster.ordered(1), ["exit 1", "gone web.0"]);
    assert_eq!((cluster.slot(0), cluster.machine.target()), (SlotState::Stopped, 1));
}

#[test]
fn i_15_an_ordered_replacement_costs_no_budget() {
    let mut cluster = Cluster::up(with(|spec| spec.limit = RestartLimit::new(0, SECOND)));
    for id in [1, 3, 4, 5] {
        assert_eq!(
            cluster.tell(Input::RestartRequested { id: WorkerId::new(id) }),
            [format!("stop {id}")]
        );
        assert_eq!(cluster.ordered(id)[0], format!("exit {id}"));
        assert_eq!(cluster.boot().last().expect("events"), "all_ready");
    }
}

#[test]
fn o_085_cluster_disconnect_stops_everybody_last_started_first() {
    let mut cluster = Cluster::up(web(3));
    assert_eq!(
        cluster.tell(Input::ClusterDisconnectRequested),
        ["stop 3", "stop 2", "stop 1"]
    );
    assert!(cluster.tell(Input::ClusterDisconnectRequested).is_empty());
    cluster.ordered(2);
    cluster.crash(1);
    assert_eq!(cluster.ordered(3), ["exit 3", "gone web.2", "finished Clean"]);
}

#[test]
fn f_182_o_078_i_11_i_35_a_shutdown_waits_for_no_timer_and_is_one() {
    let mut cluster = Cluster::up(web(2));
    cluster.crash(1);
    cluster.boot();
    cluster.crash(3);
    assert!(matches!(cluster.slot(0), SlotState::Waiting { .. }));
    assert_eq!(
        cluster.tell(Input::ShutdownRequested { now: false }),
        ["shutdown_started", "stop 2", "gone web.0"]
    );
    assert!(cluster.tell(Input::ShutdownRequested { now: false }).is_empty());
    assert_eq!(cluster.machine.next_deadline(), None);
    assert!(
        cluster
            .tell(Input::SlotStartRequested {
                slot: Slot::new("web", 0)
            })
            .is_empty()
    );
    assert_eq!(cluster.crash(2), ["exit 2", "gone web.1", "finished Clean"]);
    assert!(cluster.tell(Input::ShutdownRequested { now: true }).is_empty());
}

#[test]
fn f_053_a_second_order_makes_the_shutdown_immediate() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(Input::ShutdownRequested { now: false });
    assert_eq!(
        cluster.tell(Input::ShutdownRequested { now: true }),
        ["kill 2", "kill 1"]
    );
    assert!(cluster.tell(Input::ShutdownRequested { now: true }).is_empty());
    cluster.ordered(1);
    assert_eq!(cluster.ordered(2).last().expect("the end"), "finished Killed");
}

#[test]
fn f_060_a_shutdown_does_not_wait_for_whom_sigkill_does_not_end() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(Input::ShutdownRequested { now: true });
    let failed = Input::WorkerFailed {
        id: WorkerId::new(1),
        error: WorkerError::Unkillable,
    };
    assert_eq!(cluster.tell(failed), ["error 1"]);
    let words = cluster.ordered(2);
    assert_eq!(words, ["exit 2", "gone web.1", "finished Unkillable([WorkerId(1)])"]);
}

#[test]
fn o_071_waiting_slots_count_as_wanted_and_come_back() {
    let mut cluster = Cluster::up(web(2));
    cluster.crash(1);
    cluster.boot();
    cluster.crash(3);
    assert_eq!((cluster.machine.ready(), cluster.machine.target()), (1, 2));
    assert_eq!(cluster.wait(), ["spawn 4 web.0"]);
    assert_eq!(cluster.boot().last().expect("events"), "all_ready");
}

#[test]
fn o_069_o_086_a_thousand_workers_cost_no_more_each_than_ten() {
    let mut config = web(2_000);
    config.max_booting = 64;
    let mut cluster = Cluster::new(config);
    let mut booting: VecDeque<String> = cluster.tell(Input::Started).into();
    while let Some(word) = booting.pop_front() {
        if let Some(id) = word.strip_prefix("spawn ").and_then(|rest| rest.split(' ').next()) {
            let words = cluster.ready(id.parse().expect("an id"));
            booting.extend(words);
        }
    }
    assert_eq!(cluster.machine.ready(), 2_000);
    cluster.tell(Input::ShutdownRequested { now: false });
    let ends: Vec<String> = (1..=2_000).flat_map(|id| cluster.ordered(id)).collect();
    assert_eq!(ends.last().expect("the end"), "finished Clean");
}
