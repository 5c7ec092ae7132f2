//! Rows of Erlang's supervisor as tables: ends that are wanted, groups that fail, bystanders, loops of restarts.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::{ExitReason, ExitStatus, SlotState};
use crate::policy::{AutoShutdown, OneForAll, OneForOne, RestForOne};

/// The two ends of a worker that is done: it said so, or it just returned 0.
const DONE: [ExitReason; 2] = [ExitReason::Voluntary, ExitReason::Crash];

fn done(cluster: &mut Cluster, id: u64, how: &ExitReason) -> Vec<String> {
    cluster.end(id, ExitStatus::Code(0), how.clone())
}

/// Two slots, the second of which keeps the cluster up.
fn two(restart: RestartType) -> Cluster {
    let mut config = web(2);
    config.specs[0].restart = restart;
    config.specs[0].delay = RestartDelay::AtOnce;
    Cluster::up(config)
}

/// "a" is permanent and fails; "b" and "c" are `restart` and significant.
fn bystanders(strategy: usize, mode: AutoShutdown, restart: RestartType) -> SupervisionConfig {
    let mut config = match strategy {
        0 => abc(OneForOne),
        1 => abc(OneForAll),
        _ => abc(RestForOne),
    };
    config.auto_shutdown = mode;
    for spec in &mut config.specs[1..] {
        (spec.restart, spec.significant) = (restart, true);
    }
    config
}

/// Carries the orders to stop out until there are none.
fn obey(cluster: &mut Cluster, mut words: Vec<String>) {
    while let Some(id) = words.iter().find_map(|word| word.strip_prefix("stop ")) {
        words = cluster.ordered(id.parse().expect("an id"));
    }
}

fn request(spec: &str) -> (RequestId, SpecName) {
    (RequestId(1), spec.into())
}

fn restart_of(spec: &str) -> Input {
    let (request, spec) = request(spec);
    Input::SpecRestartRequested { request, spec }
}

fn delete_of(spec: &str) -> Input {
    let (request, spec) = request(spec);
    Input::SpecDeleteRequested { request, spec }
}

#[test]
fn o_046_a_permanent_worker_that_is_done_is_restarted() {
    for how in &DONE {
        let mut cluster = two(RestartType::Permanent);
        let words = done(&mut cluster, 1, how);
        assert_eq!(words, ["exit 1", "restart web.0 in 0ns #1", "spawn 3 web.0"], "{how}");
        cluster.boot();
        assert_eq!(cluster.machine.ready(), 2);
    }
}

#[test]
fn o_047_a_transient_worker_that_is_done_is_not_restarted_but_can_be_started_again_and_again() {
    for how in &DONE {
        let mut cluster = two(RestartType::Transient);
        let slot = Slot::new("web", 0);
        for (id, next) in [(1, 3), (3, 4), (4, 5)] {
            assert_eq!(
                done(&mut cluster, id, how),
                ["exit ".to_owned() + &id.to_string(), "gone web.0".into()]
            );
            // Listed, without a process.
            let stopped = &cluster.machine.slots()[0];
            assert_eq!((stopped.state, stopped.worker), (SlotState::Stopped, None));
            let start = Input::SlotStartRequested { slot: slot.clone() };
            assert_eq!(cluster.tell(start), [format!("spawn {next} web.0")]);
            cluster.boot();
            assert_eq!(cluster.machine.ready(), 2);
        }
    }
}

#[test]
fn o_048_a_temporary_worker_that_is_done_is_gone_and_its_name_is_free() {
    for how in &DONE {
        let mut config = abc(OneForOne);
        config.specs[1].restart = RestartType::Temporary;
        let spec = Box::new(config.specs[1].clone());
        let mut cluster = Cluster::up(config);
        for (id, next) in [(2, 4), (4, 5)] {
            let words = done(&mut cluster, id, how);
            assert_eq!(words, [format!("exit {id}"), "gone b.0".into(), "no spec b".into()]);
            assert_eq!(cluster.machine.counts().workers, 2);
            let add = Input::SpecAddRequested {
                request: RequestId(1),
                config: spec.clone(),
            };
            assert_eq!(
                cluster.tell(add.clone()),
                ["taken".to_owned(), format!("spawn {next} b.0")]
            );
            cluster.boot();
            assert!(cluster.tell(add)[0].contains("runs already"), "only when it is gone");
            assert_eq!(cluster.machine.counts().specs, 3, "it is not there twice");
        }
    }
}

#[test]
fn o_041_a_later_spec_that_cannot_be_started_again_uses_up_the_intensity() {
    let mut config = abc(RestForOne);
    config.intensity = Some(RestartIntensity::new(3, 10 * SECOND));
    let mut cluster = Cluster::up(config);
    cluster.crash(1);
    cluster.ordered(3);
    assert_eq!(cluster.ordered(2), ["exit 2", "spawn 4 a.0"]);
    assert_eq!(cluster.ready(4).last().expect("words"), "spawn 5 b.0");
    // The crash was the first restart; two more starts are tried, and not a third.
    cluster.tell(spawn_failed(5));
    cluster.tell(spawn_failed(6));
    cluster.wait();
    let words = cluster.tell(spawn_failed(7));
    assert_eq!(
        words,
        [
            "error 7",
            "gave_up",
            "gone b.0",
            "shutdown_started",
            "gone c.0",
            "stop 4"
        ]
    );
    let words = cluster.ordered(4);
    assert!(
        words.last().expect("the end").starts_with("finished GaveUp(Cluster"),
        "{words:?}"
    );
}

#[test]
fn o_060_a_significant_bystander_of_a_group_does_not_end_the_cluster() {
    for strategy in 0..3 {
        for mode in [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant] {
            for restart in [RestartType::Transient, RestartType::Temporary] {
                let mut cluster = Cluster::up(bystanders(strategy, mode, restart));
                let words = cluster.crash(1);
                let is_group = strategy != 0;
                assert_eq!(words.contains(&"stop 3".to_owned()), is_group);
                obey(&mut cluster, words);
                cluster.boot();
                assert_eq!(
                    cluster.machine.phase(),
                    Phase::Running,
                    "{strategy} {mode:?} {restart:?}"
                );
                let comes_back = !is_group || restart == RestartType::Transient;
                assert_eq!(cluster.machine.ready(), if comes_back { 3 } else { 1 });
                if !comes_back {
                    continue;
                }
                // The rule is alive all the same.
                let slots = cluster.machine.slots();
                let [b, c] = [1, 2].map(|index: usize| slots[index].worker.expect("it runs").get());
                let words = done(&mut cluster, b, &ExitReason::Voluntary);
                let any = mode == AutoShutdown::AnySignificant;
                assert_eq!(words.contains(&"shutdown_started".to_owned()), any, "{words:?}");
                let words = done(&mut cluster, c, &ExitReason::Voluntary);
                assert_eq!(words.contains(&"shutdown_started".to_owned()), !any, "{words:?}");
            }
        }
    }
}

#[test]
fn o_076_a_temporary_bystander_is_not_restarted_and_uses_up_no_intensity() {
    // It obeys, or dies of its own while its group goes down.
    for dies in [false, true] {
        for strategy in [1, 2] {
            let mut config = bystanders(strategy, AutoShutdown::Never, RestartType::Permanent);
            for spec in &mut config.specs {
                spec.significant = false;
            }
            config.specs[2].restart = RestartType::Temporary;
            config.intensity = Some(RestartIntensity::new(2, 10 * SECOND));
            let mut cluster = Cluster::up(config);
            assert!(cluster.crash(1).contains(&"stop 3".to_owned()));
            let words = if dies { cluster.crash(3) } else { cluster.ordered(3) };
            assert_eq!(words, ["exit 3", "gone c.0", "stop 2", "no spec c"]);
            cluster.ordered(2);
            cluster.boot();
            assert_eq!((cluster.machine.slots().len(), cluster.machine.ready()), (2, 2));
            // One of two restarts is used: the second is carried out, the third is not.
            let words = cluster.crash(4);
            assert!(!words.contains(&"gave_up".to_owned()), "{words:?}");
            obey(&mut cluster, words);
            cluster.boot();
            assert!(cluster.crash(6).contains(&"gave_up".to_owned()));
        }
    }
}

#[test]
fn o_078_o_079_in_a_loop_of_a_group_everybody_is_answered_at_once() {
    let mut config = abc(RestForOne);
    config.specs[1].limit = RestartLimit::unlimited();
    let mut cluster = Cluster::up(config);
    cluster.crash(2);
    assert_eq!(cluster.ordered(3), ["exit 3", "spawn 4 b.0"]);
    // The start of "b" fails again and again; each failure leaves a time in which others are heard.
    for id in 4..20 {
        assert_eq!(cluster.tell(spawn_failed(id))[0], format!("error {id}"));
        assert_eq!((cluster.slot(1), cluster.slot(2)), (SlotState::Held, SlotState::Held));
        for order in [restart_of("b"), delete_of("b"), restart_of("c"), delete_of("c")] {
            let words = cluster.tell(order);
            assert!(words.len() == 1 && words[0].contains("is being restarted"), "{words:?}");
        }
        let first = &cluster.machine.slots()[0];
        assert_eq!(first.worker, Some(WorkerId::new(1)), "the earlier one lives");
        assert_eq!(cluster.wait(), [format!("spawn {} b.0", id + 1)]);
    }
    cluster.tell(spawn_failed(20));
    let words = cluster.tell(Input::ShutdownRequested { now: false });
    assert!(words.contains(&"stop 1".to_owned()), "{words:?}");
    assert_eq!(cluster.ordered(1).last().expect("the end"), "finished Clean");
}

#[test]
fn o_080_in_a_loop_of_one_slot_of_many_the_others_and_all_orders_go_on() {
    let mut config = web(3);
    config.specs[0].delay = RestartDelay::AtOnce;
    config.specs[0].limit = RestartLimit::unlimited();
    let mut cluster = Cluster::up(config);
    assert_eq!(cluster.crash(2)[2], "spawn 4 web.1");
    for id in 4..20 {
        let words = cluster.tell(spawn_failed(id));
        assert_eq!(
            words,
            [format!("error {id}"), format!("restart web.1 in 10ms #{}", id - 2)]
        );
        assert!(matches!(cluster.slot(1), SlotState::Waiting { .. }));
        let counts = cluster.machine.counts();
        assert_eq!((counts.active, counts.workers, counts.restarting), (2, 3, 1));
        assert!(cluster.tell(delete_of("web"))[0].contains("is running"));
        cluster.wait();
    }
    cluster.tell(spawn_failed(20));
    // It is the first to go: nobody is in it.
    let less = Input::ScaleRequested {
        request: RequestId(1),
        spec: "web".into(),
        target: ScaleTarget::By(-1),
        active: Vec::new(),
    };
    let words = cluster.tell(less);
    assert!(words.contains(&"gone web.1".to_owned()), "{words:?}");
    assert_eq!((cluster.machine.ready(), cluster.machine.next_deadline()), (2, None));
}

#[test]
fn o_038_nothing_is_kept_of_a_temporary_worker_that_was_added_and_crashed() {
    let mut config = web(1);
    config.specs[0].restart = RestartType::Temporary;
    let mut cluster = Cluster::up(config);
    for id in 2..1_000 {
        let fork = Input::SlotForkRequested {
            request: RequestId(id),
            spec: "web".into(),
        };
        // The number is free again as well.
        let slot = "web.1";
        assert_eq!(
            cluster.tell(fork),
            [format!("added {slot}"), format!("spawn {id} {slot}")]
        );
        cluster.ready(id);
        // The master drops the start data of a slot that is gone.
        assert_eq!(cluster.crash(id)[..2], [format!("exit {id}"), format!("gone {slot}")]);
        assert_eq!(cluster.machine.slots().len(), 1);
    }
}
