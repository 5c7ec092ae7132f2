//! Tables for several specs: order, groups, significance, scale, administration.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::{Exit, ExitReason, ExitStatus};
use crate::policy::{AutoShutdown, Escalation, OneForAll, OneForOne, RestForOne, RolloutOptions};

fn scale(number: u64, target: ScaleTarget, active: &[(u64, u64)]) -> Input {
    Input::ScaleRequested {
        request: RequestId(number),
        spec: "web".into(),
        target,
        active: active
            .iter()
            .map(|(id, active)| (WorkerId::new(*id), *active))
            .collect(),
    }
}

#[test]
fn o_085_specs_start_in_order_and_stop_in_reverse() {
    let mut cluster = Cluster::new(abc(OneForOne));
    assert_eq!(cluster.tell(Input::Started), ["spawn 1 a.0"]);
    assert_eq!(cluster.ready(1).last().expect("words"), "spawn 2 b.0");
    // A failure is no reason to wait for ever.
    cluster.tell(spawn_failed(2));
    assert_eq!(cluster.machine.slots()[2].worker, Some(WorkerId::new(4)));
    cluster.boot();
    let words = cluster.tell(Input::ShutdownRequested { now: false });
    assert_eq!(words, ["shutdown_started", "stop 4"]);
    assert_eq!(cluster.ordered(4), ["exit 4", "gone c.0", "stop 3"]);
    // Who is not told yet may end by itself; nobody is restarted.
    assert_eq!(cluster.crash(1), ["exit 1", "gone a.0"]);
    assert_eq!(cluster.ordered(3), ["exit 3", "gone b.0", "finished Clean"]);
}

#[test]
fn o_032_one_for_all_replaces_everybody_once_all_are_gone() {
    let mut cluster = Cluster::up(abc(OneForAll));
    assert_eq!(cluster.crash(2), ["exit 2", "restart b.0 in 0ns #1", "stop 3"]);
    assert_eq!(cluster.ordered(3), ["exit 3", "stop 1"]);
    assert_eq!(cluster.slot(1), SlotState::Held);
    assert_eq!(cluster.ordered(1), ["exit 1", "spawn 4 a.0"]);
    assert_eq!(cluster.ready(4).last().expect("words"), "spawn 5 b.0");
    cluster.boot();
    assert_eq!(cluster.machine.ready(), 3);
}

#[test]
fn o_032_o_033_a_group_counts_once_and_escalates() {
    let mut config = abc(OneForAll);
    config.intensity = Some(RestartIntensity::new(1, 10 * SECOND));
    let mut cluster = Cluster::up(config);
    cluster.crash(1);
    cluster.ordered(3);
    // A victim that dies of its own is no second failure.
    cluster.crash(2);
    cluster.boot();
    assert_eq!(cluster.machine.ready(), 3);
    assert!(cluster.crash(4).contains(&"gave_up".to_owned()));
    assert_eq!(cluster.machine.phase(), Phase::ShuttingDown);
}

#[test]
fn o_034_a_group_that_fails_to_start_is_tried_anew() {
    let mut cluster = Cluster::up(abc(OneForAll));
    cluster.crash(1);
    cluster.ordered(3);
    cluster.ordered(2);
    cluster.ready(4);
    let words = cluster.tell(spawn_failed(5));
    assert_eq!(words, ["error 5", "restart b.0 in 0ns #1", "stop 4"]);
    assert_eq!(cluster.ordered(4), ["exit 4", "spawn 6 a.0"]);
}

#[test]
fn o_040_o_042_rest_for_one_spares_the_earlier_ones() {
    let mut cluster = Cluster::up(abc(RestForOne));
    assert_eq!(cluster.crash(2), ["exit 2", "restart b.0 in 0ns #1", "stop 3"]);
    assert_eq!(cluster.ordered(3), ["exit 3", "spawn 4 b.0"]);
    assert_eq!(
        cluster.tell(spawn_failed(4)),
        ["error 4", "restart b.0 in 10ms #2"],
        "the second failure in a row"
    );
    assert_eq!((cluster.slot(1), cluster.slot(2)), (SlotState::Held, SlotState::Held));
    assert_eq!(cluster.wait(), ["spawn 5 b.0"], "and nobody else is touched");
    let words = cluster.boot();
    assert!(words.contains(&"spawn 6 c.0".to_owned()), "{words:?}");
    assert_eq!(cluster.machine.slots()[0].worker, Some(WorkerId::new(1)));
}

#[test]
fn o_076_a_temporary_bystander_does_not_come_back() {
    let mut config = abc(OneForAll);
    config.specs[2].restart = RestartType::Temporary;
    let mut cluster = Cluster::up(config);
    cluster.crash(1);
    assert_eq!(cluster.ordered(3), ["exit 3", "gone c.0", "stop 2", "no spec c"]);
    cluster.ordered(2);
    cluster.boot();
    assert_eq!((cluster.machine.slots().len(), cluster.machine.ready()), (2, 2));
}

#[test]
fn o_079_a_group_waits_for_the_delay_and_a_shutdown_does_not() {
    let mut config = abc(RestForOne);
    config.specs[1].delay = RestartDelay::Backoff(Backoff::default().jitter(0.0).first_at_once(false));
    let mut cluster = Cluster::up(config);
    cluster.crash(2);
    assert_eq!(cluster.ordered(3), ["exit 3"]);
    assert_eq!((cluster.slot(0), cluster.slot(1)), (SlotState::Filled, SlotState::Held));
    assert_eq!(cluster.wait(), ["spawn 4 b.0"]);
    cluster.boot();
    cluster.crash(4);
    cluster.ordered(5);
    cluster.tell(Input::ShutdownRequested { now: false });
    assert_eq!(cluster.ordered(1).last().expect("the end"), "finished Clean");
}

#[test]
fn o_057_o_058_o_060_significant_ends() {
    let config = |mode, restart| {
        let mut config = abc(OneForOne);
        config.auto_shutdown = mode;
        for spec in &mut config.specs[..2] {
            (spec.restart, spec.significant) = (restart, true);
        }
        config
    };
    let normal = |cluster: &mut Cluster, id| cluster.end(id, ExitStatus::Code(0), ExitReason::Voluntary);
    let mut any = Cluster::up(config(AutoShutdown::AnySignificant, RestartType::Transient));
    assert!(any.crash(1).contains(&"spawn 4 a.0".to_owned()), "it is restarted");
    any.boot();
    any.tell(Input::WorkerStopRequested { id: WorkerId::new(2) });
    any.ordered(2);
    assert_eq!(any.machine.phase(), Phase::Running, "a stop by hand does not count");
    normal(&mut any, 4);
    assert_eq!(any.machine.phase(), Phase::ShuttingDown);
    let mut all = Cluster::up(config(AutoShutdown::AllSignificant, RestartType::Temporary));
    all.crash(1);
    assert_eq!(all.machine.phase(), Phase::Running);
    all.crash(2);
    assert_eq!(all.ordered(3).last().expect("the end"), "finished Clean");
    let mut never = Cluster::up(config(AutoShutdown::Never, RestartType::Temporary));
    never.crash(1);
    never.crash(2);
    assert_eq!(never.machine.phase(), Phase::Running);
}

#[test]
fn o_027_what_is_always_restarted_cannot_be_significant() {
    for restart in [RestartType::Permanent, RestartType::Transient, RestartType::Temporary] {
        for mode in [
            AutoShutdown::Never,
            AutoShutdown::AnySignificant,
            AutoShutdown::AllSignificant,
        ] {
            for significant in [false, true] {
                let mut spec = SpecConfig::new("a", 1);
                (spec.restart, spec.significant) = (restart, significant);
                let legal = !significant || (restart != RestartType::Permanent && mode != AutoShutdown::Never);
                assert_eq!(spec.check(mode).is_ok(), legal, "{restart:?} {mode:?}");
            }
        }
    }
}

#[test]
fn a_spec_that_restarts_too_often_fails_alone_or_takes_the_cluster() {
    for (escalation, phase) in [
        (Escalation::FailSpec, Phase::Running),
        (Escalation::StopCluster, Phase::ShuttingDown),
    ] {
        let mut config = abc(OneForOne);
        config.specs[1].count = 2;
        config.specs[1].intensity = Some(RestartIntensity::new(0, SECOND));
        config.specs[1].escalation = escalation;
        let mut cluster = Cluster::up(config);
        assert!(cluster.crash(2).contains(&"gave_up".to_owned()));
        assert_eq!(cluster.machine.phase(), phase);
        if phase == Phase::Running {
            cluster.ordered(3);
            assert_eq!(
                (cluster.slot(1), cluster.slot(2)),
                (SlotState::Failed, SlotState::Failed)
            );
            assert_eq!(cluster.machine.ready(), 2);
        }
    }
}

#[test]
fn i_013_a_restart_that_its_spec_forbids_costs_the_slot_nothing() {
    let mut config = web(1);
    config.specs[0].limit = RestartLimit::new(1, 60 * SECOND);
    config.specs[0].intensity = Some(RestartIntensity::new(0, SECOND));
    config.when_empty = WhenEmpty::Wait;
    let mut cluster = Cluster::up(config);
    let given_up = |cluster: &mut Cluster, id: u64| {
        let input = Input::WorkerExited {
            id: WorkerId::new(id),
            exit: Exit {
                status: ExitStatus::Code(1),
                reason: ExitReason::Crash,
                forced: false,
                requests_cut: 0,
                was_ready: true,
                drain: None,
                last_words: None,
            },
        };
        cluster.machine.handle(input, cluster.now);
        let actions = std::iter::from_fn(|| cluster.machine.poll_action());
        let gave_up = actions.filter_map(|action| match action {
            Action::Publish {
                kind: EventKind::GaveUp(what),
                ..
            } => Some(what),
            _ => None,
        });
        gave_up.collect::<Vec<_>>()
    };
    assert!(matches!(given_up(&mut cluster, 1)[..], [GaveUp::Spec { .. }]));
    // A reload fills the slot again, without a new budget; the old one was not used.
    let options = RolloutOptions::new();
    let (request, spec) = (RequestId(1), None);
    cluster.tell(Input::ReloadRequested {
        request,
        spec,
        options,
        queue: false,
    });
    cluster.ready(2);
    assert!(matches!(given_up(&mut cluster, 2)[..], [GaveUp::Spec { .. }]));
}

#[test]
fn f_172_f_178_i_35_scaling_is_clamped_idempotent_and_drains_the_least_busy() {
    let mut cluster = Cluster::up(web(3));
    assert_eq!(
        cluster.tell(scale(1, ScaleTarget::To(5), &[]))[..2],
        ["scaled", "scaled 3 5"]
    );
    cluster.boot();
    assert_eq!(cluster.tell(scale(2, ScaleTarget::To(5), &[])), ["scaled 5 5"]);
    let busy = [(1, 9), (2, 0), (3, 4), (4, 9), (5, 9)];
    let words = cluster.tell(scale(3, ScaleTarget::By(-2), &busy));
    assert_eq!(words[..2], ["stop 2", "stop 3"]);
    cluster.ordered(2);
    cluster.ordered(3);
    assert_eq!(cluster.machine.slots().len(), 3);
    // The numbers that are free are used again.
    assert!(
        cluster
            .tell(scale(4, ScaleTarget::By(1), &[]))
            .contains(&"spawn 6 web.1".to_owned())
    );
    let words = cluster.tell(scale(5, ScaleTarget::To(-1), &[]));
    assert_eq!(words.last().expect("the answer"), "scaled 4 0");
    for id in [1, 4, 5, 6] {
        cluster.ordered(id);
    }
    assert_eq!(
        (cluster.machine.slots().len(), cluster.machine.phase()),
        (0, Phase::Running)
    );
    let words = cluster.tell(scale(6, ScaleTarget::To(1 << 31), &[]));
    assert!(words.contains(&"scaled 0 100000".to_owned()));
}

#[test]
fn o_023_o_048_child_administration_answers_as_otp_does() {
    let mut cluster = Cluster::up(abc(OneForOne));
    let (b, request) = (|| "b".into(), RequestId(1));
    let stop = || Input::SpecStopRequested { request, spec: b() };
    let start = || Input::SpecStartRequested { request, spec: b() };
    let restart = || Input::SpecRestartRequested { request, spec: b() };
    let delete = || Input::SpecDeleteRequested { request, spec: b() };
    let add = || Input::SpecAddRequested {
        request,
        config: Box::new(SpecConfig::new("b", 1)),
    };
    assert!(cluster.tell(start())[0].contains("runs already, with worker 2"));
    assert!(cluster.tell(add())[0].contains("runs already"));
    assert!(cluster.tell(restart())[0].contains("is running"));
    assert!(cluster.tell(delete())[0].contains("is running"));
    assert_eq!(cluster.tell(stop()), ["stop 2"]);
    assert_eq!(cluster.ordered(2), ["exit 2", "gone b.0", "ok"]);
    assert_eq!(cluster.tell(stop()), ["ok"], "again is fine");
    assert!(cluster.tell(add())[0].contains("there is a stopped worker spec"));
    assert_eq!(cluster.tell(restart()), ["spawn 4 b.0"]);
    assert_eq!(
        cluster.ready(4)[..5],
        ["fork 4", "online 4", "listening 4", "ready 4", "ok"]
    );
    cluster.tell(stop());
    cluster.ordered(4);
    assert_eq!(cluster.tell(delete()), ["no spec b", "ok"]);
    assert!(cluster.tell(delete())[0].contains("there is no worker spec"));
    assert_eq!(cluster.machine.counts().specs, 2);
    assert_eq!(cluster.tell(add()), ["taken", "spawn 5 b.0"]);
    let names: Vec<String> = cluster.machine.spec_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a", "c", "b"], "added at the end");
    assert_eq!(cluster.machine.spec(&b()).expect("it is there").counts.active, 1);
    assert!(cluster.ready(5).contains(&"ok".to_owned()));
}

#[test]
fn i_038_a_stop_of_a_spec_is_answered_though_one_of_its_slots_is_started_again() {
    let mut cluster = Cluster::up(web(2));
    let stop = Input::SpecStopRequested {
        request: RequestId(1),
        spec: "web".into(),
    };
    assert_eq!(cluster.tell(stop), ["stop 2", "stop 1"]);
    assert_eq!(cluster.ordered(2), ["exit 2", "gone web.1"]);
    let slot = Slot::new("web", 1);
    assert_eq!(cluster.tell(Input::SlotStartRequested { slot }), ["spawn 3 web.1"]);
    cluster.ready(3);
    // The spec is not empty, but everybody whom the caller wanted to end has ended.
    assert_eq!(cluster.ordered(1), ["exit 1", "gone web.0", "ok"]);
}

#[test]
fn o_011_a_start_that_fails_is_told_and_the_spec_stays_stopped() {
    let mut cluster = Cluster::up(abc(OneForOne));
    let (request, spec) = (RequestId(1), || "c".into());
    cluster.tell(Input::SpecStopRequested { request, spec: spec() });
    cluster.ordered(3);
    cluster.tell(Input::SpecStartRequested { request, spec: spec() });
    let words = cluster.tell(spawn_failed(4));
    assert_eq!(
        words[1..],
        [
            "gone c.0",
            "refused: the worker spec `c` could not start: worker 4 in c.0: not started (could not be started: exec: no such \
             file)",
            "all_ready"
        ]
    );
    assert_eq!(cluster.slot(2), SlotState::Stopped);
}

#[test]
fn o_078_a_restarting_spec_says_so_and_can_be_stopped() {
    let mut config = abc(OneForOne);
    config.specs[1].delay = RestartDelay::Backoff(Backoff::default().jitter(0.0).first_at_once(false));
    let mut cluster = Cluster::up(config);
    cluster.crash(2);
    let (request, spec) = (RequestId(1), || "b".into());
    let restart = Input::SpecRestartRequested { request, spec: spec() };
    assert!(cluster.tell(restart)[0].contains("is being restarted"));
    assert_eq!(cluster.machine.counts().restarting, 1);
    let words = cluster.tell(Input::SpecStopRequested { request, spec: spec() });
    assert_eq!(words[..2], ["gone b.0", "ok"]);
}

#[test]
fn a_strategy_that_panics_is_told_of_and_only_the_failed_worker_is_restarted() {
    let strategy = crate::policy::StrategyFn::new("broken", |failed, _| panic!("no answer for {failed}"));
    let mut cluster = Cluster::up(abc(strategy));
    let words = cluster.crash(2);
    assert_eq!(words, ["exit 2", "error 2", "restart b.0 in 0ns #1", "spawn 4 b.0"]);
    cluster.ready(4);
    assert_eq!(cluster.machine.ready(), 3);
}

#[test]
fn i_038_a_start_that_failed_is_answered_though_one_of_its_slots_was_started_again() {
    let mut cluster = Cluster::up(web(1));
    let (request, config) = (RequestId(1), Box::new(SpecConfig::new("b", 2)));
    cluster.tell(Input::SpecAddRequested { request, config });
    cluster.ready(2);
    // The third fails, the second is told to stop; meanwhile somebody starts the slot of the third again.
    assert_eq!(
        cluster.tell(spawn_failed(3)),
        ["error 3", "gone b.1", "stop 2", "all_ready"]
    );
    let slot = Slot::new("b", 1);
    assert_eq!(cluster.tell(Input::SlotStartRequested { slot }), ["spawn 4 b.1"]);
    let words = cluster.ordered(2);
    assert!(words.last().expect("an answer").starts_with("refused: "), "{words:?}");
    cluster.ready(4);
    assert_eq!(cluster.machine.ready(), 2, "the spec is still there");
}

#[test]
fn i_014_a_slot_that_waits_keeps_its_delay_in_a_group() {
    let mut config = abc(OneForOne);
    config.specs[1].delay = RestartDelay::Backoff(Backoff::default().jitter(0.0).first_at_once(false));
    let mut cluster = Cluster::up(config);
    cluster.crash(2);
    let due = cluster.machine.next_deadline().expect("b waits");
    // Only now its failures would take others along; the next one takes it along.
    let strategy: Arc<dyn RestartStrategy> = Arc::new(OneForAll);
    let changes = Box::new(Reconfiguration {
        strategy: Some(strategy),
        ..Reconfiguration::default()
    });
    let request = RequestId(1);
    cluster.tell(Input::ReconfigureRequested { request, changes });
    cluster.crash(1);
    assert_eq!(cluster.ordered(3), ["exit 3"]);
    assert_eq!(cluster.machine.next_deadline(), Some(due));
    assert_eq!(cluster.wait(), ["spawn 4 a.0"]);
}
