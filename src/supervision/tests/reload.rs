//! Tables for reload, canary and recycling.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::{ExitReason, ExitStatus, Generation, RecycleReason};
use crate::policy::{Canary, RolloutOptions};

fn reload(number: u64, options: RolloutOptions) -> Input {
    Input::ReloadRequested {
        request: RequestId(number),
        spec: None,
        options,
        queue: false,
    }
}

fn generations(cluster: &Cluster) -> Vec<u32> {
    let workers = cluster.machine.roster.workers();
    workers.map(|worker| worker.generation.0).collect()
}

fn last(words: &[String]) -> &str {
    words.last().expect("words")
}

#[test]
fn f_175_i_20_one_worker_is_reloaded_without_a_gap() {
    let mut cluster = Cluster::up(web(1));
    let words = cluster.tell(reload(1, RolloutOptions::new()));
    assert_eq!(words, ["generation 1", "reload_started", "spawn 2 web.0"]);
    // The old one is stopped when the new one is ready, and not before.
    let words = cluster.ready(2);
    assert_eq!(words[..4], ["fork 2", "online 2", "listening 2", "ready 2"]);
    assert_eq!(words[4..], ["stop 1"]);
    assert_eq!(cluster.machine.ready(), 1);
    let words = cluster.ordered(1);
    assert_eq!(words, ["exit 1", "reload_finished", "reloaded 1", "no generation 0"]);
    assert_eq!(cluster.crash(2)[2], "spawn 3 web.0");
    assert_eq!(generations(&cluster), [1], "what comes later is new too");
    let none = RolloutOptions::new().surge(0);
    assert!(last(&cluster.tell(reload(2, none))).contains("both 0"));
}

#[test]
fn f_167_f_025_new_code_that_exits_at_boot_touches_nobody_and_costs_nothing() {
    let mut cluster = Cluster::up(web(3));
    cluster.tell(reload(1, RolloutOptions::new().surge(2)));
    assert_eq!(cluster.tell(spawn_failed(4)), ["error 4", "stop 5"]);
    cluster.tell(Input::WorkerForked { id: WorkerId::new(5) });
    let words = cluster.ordered(5);
    assert!(words[2].starts_with("not reloaded: worker 4: it ended"), "{words:?}");
    assert_eq!(words[3], "no generation 1");
    assert_eq!((generations(&cluster), cluster.machine.ready()), (vec![0, 0, 0], 3));
    assert_eq!(cluster.crash(1)[1], "restart web.0 in 0ns #1", "the budget is full");
    // The number is not given twice.
    assert_eq!(cluster.tell(reload(2, RolloutOptions::new()))[0], "generation 2");
}

#[test]
fn f_168_new_code_that_never_gets_ready_is_given_up_at_the_step_deadline() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(reload(1, RolloutOptions::new().step_deadline(3 * SECOND)));
    cluster.tell(Input::WorkerForked { id: WorkerId::new(3) });
    assert_eq!(cluster.wait(), ["stop 3"]);
    assert_eq!(cluster.now, ms(3000));
    assert!(last(&cluster.ordered(3)[..3]).contains("worker 3: it was not ready"));
    assert_eq!(cluster.machine.ready(), 2);
}

#[test]
fn f_169_a_crash_in_probation_or_later_rolls_everybody_back() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(reload(1, RolloutOptions::new().probation(SECOND)));
    assert_eq!(
        last(&cluster.ready(3)),
        "ready 3",
        "on probation, the old one is not stopped"
    );
    assert_eq!(cluster.wait(), ["stop 1"]);
    assert_eq!(last(&cluster.ordered(1)), "spawn 4 web.1");
    cluster.ready(4);
    cluster.pass(SECOND / 2);
    let words = cluster.crash(4);
    assert_eq!(
        words,
        ["exit 4", "spawn 5 web.0"],
        "the first slot goes back, old code first"
    );
    assert_eq!(last(&cluster.ready(5)), "stop 3");
    let words = cluster.ordered(3);
    assert!(words[2].starts_with("not reloaded: worker 4: it ended"), "{words:?}");
    assert_eq!((generations(&cluster), cluster.machine.ready()), (vec![0, 0], 2));
}

#[test]
fn i_019_new_code_that_fails_costs_a_slot_neither_its_budget_nor_its_place() {
    for restart in [RestartType::Permanent, RestartType::Temporary] {
        let mut config = web(3);
        config.specs[0].restart = restart;
        config.specs[0].limit = RestartLimit::new(0, SECOND);
        let mut cluster = Cluster::up(config);
        cluster.tell(reload(1, RolloutOptions::new()));
        for id in [1, 2] {
            cluster.ready(id + 3);
            cluster.ordered(id);
        }
        // Two slots run new code; the first failure takes the old one back, whatever the restart type.
        assert_eq!(cluster.crash(5), ["exit 5", "stop 6", "spawn 7 web.1"]);
        assert_eq!(cluster.ordered(6), ["spawn 8 web.0"], "never forked: no exit event");
        let words = cluster.crash(4);
        assert_eq!(
            words[..2],
            ["exit 4", "reload_finished"],
            "who comes in its place is the slot's worker now"
        );
        assert!(words[2].starts_with("not reloaded: worker 5"), "{words:?}");
        cluster.ready(7);
        cluster.ready(8);
        assert_eq!((generations(&cluster), cluster.machine.ready()), (vec![0, 0, 0], 3));
    }
}

#[test]
fn f_174_an_old_worker_that_dies_is_replaced_by_what_is_proven() {
    let mut cluster = Cluster::up(web(3));
    cluster.tell(reload(1, RolloutOptions::new().pause(SECOND)));
    cluster.crash(3);
    assert_eq!(generations(&cluster), [0, 1, 0, 0], "nothing new is ready yet");
    cluster.ready(5);
    cluster.ready(4);
    cluster.ordered(1);
    cluster.crash(2);
    assert_eq!(generations(&cluster), [1, 1, 0]);
}

#[test]
fn i_010_an_immediate_shutdown_asks_no_successor_either() {
    let mut cluster = Cluster::up(web(1));
    cluster.tell(reload(1, RolloutOptions::new()));
    let words = cluster.tell(Input::ShutdownRequested { now: true });
    assert!(!words.iter().any(|word| word.starts_with("stop")), "{words:?}");
    assert!(
        words.contains(&"kill 1".to_owned()) && words.contains(&"kill 2".to_owned()),
        "{words:?}"
    );
}

#[test]
fn f_173_a_shutdown_wins_and_a_second_request_is_refused_or_waits() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(reload(1, RolloutOptions::new()));
    assert!(last(&cluster.tell(reload(2, RolloutOptions::new()))).contains("another reload is running"));
    let queued = Input::ReloadRequested {
        request: RequestId(3),
        spec: Some("web".into()),
        options: RolloutOptions::new(),
        queue: true,
    };
    assert!(cluster.tell(queued).is_empty());
    let words = cluster.tell(Input::ShutdownRequested { now: false });
    let refused = words
        .iter()
        .filter(|word| word.contains("not reloaded: the cluster is stopping"));
    assert_eq!(refused.count(), 2);
    for id in [3, 2, 1] {
        cluster.ordered(id);
    }
    assert_eq!(cluster.machine.phase(), Phase::Stopped);
}

#[test]
fn f_172_scaling_during_a_reload_ends_at_the_last_target() {
    let mut cluster = Cluster::up(web(2));
    cluster.tell(reload(1, RolloutOptions::new()));
    for target in [4, 1, 3] {
        cluster.tell(Input::ScaleRequested {
            request: RequestId(target),
            spec: "web".into(),
            target: ScaleTarget::To(i64::try_from(target).expect("small")),
            active: Vec::new(),
        });
    }
    for _ in 0..60 {
        let all: Vec<_> = cluster.machine.roster.workers().collect();
        for worker in all {
            if worker.purpose().is_some() {
                cluster.ordered(worker.id.get());
            } else if !worker.forked {
                cluster.ready(worker.id.get());
            }
        }
    }
    assert_eq!(cluster.machine.reloading(), None);
    assert_eq!((cluster.machine.ready(), generations(&cluster)), (3, vec![1, 1, 1]));
}

#[test]
fn a_canary_is_judged_and_a_bad_one_goes_back() {
    for good in [true, false] {
        let mut cluster = Cluster::up(web(3));
        let canary = Canary {
            count: 1,
            bake: 10 * SECOND,
        };
        cluster.tell(reload(1, RolloutOptions::new().canary(canary)));
        cluster.ready(4);
        assert_eq!(cluster.ordered(1), ["exit 1"], "it bakes");
        assert_eq!(cluster.wait(), ["verdict on [WorkerId(4)]"]);
        let words = cluster.tell(Input::CanaryJudged {
            request: RequestId(1),
            good,
            why: "errors".to_owned(),
        });
        assert_eq!(words, [if good { "spawn 5 web.1" } else { "spawn 5 web.0" }]);
        assert_eq!(
            generations(&cluster)
                .iter()
                .filter(|generation| **generation == 1)
                .count(),
            if good { 2 } else { 1 }
        );
        if !good {
            cluster.ready(5);
            assert!(cluster.ordered(4)[2].contains("the verdict on the canary was bad: errors"));
        }
    }
}

#[test]
fn in_place_stops_first_and_keeps_to_max_unavailable() {
    let mut cluster = Cluster::up(web(3));
    let words = cluster.tell(reload(1, RolloutOptions::new().surge(0).max_unavailable(1)));
    assert_eq!(last(&words), "stop 1");
    assert_eq!(last(&cluster.ordered(1)), "spawn 4 web.0");
    assert_eq!(last(&cluster.ready(4)), "stop 2");
    let spec = cluster.machine.spec(&"web".into()).expect("it is there");
    assert_eq!(spec.generation, Generation(0), "until all are done");
}

#[test]
fn i_020_what_is_missing_when_a_reload_turns_back_counts_on_the_way_back() {
    let mut cluster = Cluster::up(web(4));
    let words = cluster.tell(reload(1, RolloutOptions::new().surge(0).max_unavailable(2)));
    assert_eq!(words[2..], ["stop 1", "stop 2"]);
    for id in [1, 2] {
        cluster.ordered(id);
    }
    cluster.ready(5);
    assert_eq!(last(&cluster.ready(6)), "stop 4");
    assert_eq!(last(&cluster.ordered(3)), "spawn 7 web.2");
    // It fails, and two are missing: its own slot, and that of the fourth worker, which still stops.
    assert_eq!(cluster.crash(7), ["spawn 8 web.2"]);
    assert_eq!(last(&cluster.ready(8)), "stop 5", "one is there again, so one may go");
    assert_eq!(cluster.ordered(4), ["exit 4", "spawn 9 web.3"]);
    assert_eq!(cluster.ordered(5), ["exit 5", "spawn 10 web.0"]);
    cluster.ready(9);
    assert_eq!(last(&cluster.ready(10)), "stop 6");
    cluster.ordered(6);
    let words = cluster.ready(11);
    assert!(words.iter().any(|word| word.starts_with("not reloaded")), "{words:?}");
    assert_eq!(cluster.machine.ready(), 4);
}

#[test]
fn f_184_f_186_i_41_recycling_is_one_at_a_time_and_successor_first() {
    let mut cluster = Cluster::up(web(3));
    let recycle = |id| Input::RecycleRequested {
        id: WorkerId::new(id),
        why: RecycleReason::Memory,
    };
    assert_eq!(cluster.tell(recycle(1)), ["recycling 1", "spawn 4 web.0"]);
    assert!(cluster.tell(recycle(1)).is_empty());
    assert!(cluster.tell(recycle(2)).is_empty());
    // The watchdog kills what is being replaced already: one exit, and the slot has one worker in the end.
    assert_eq!(cluster.crash(1), ["exit 1", "restart web.0 in 0ns #1", "spawn 5 web.0"]);
    cluster.ready(5);
    assert_eq!(last(&cluster.ready(4)), "stop 5");
    assert_eq!(cluster.ordered(5), ["exit 5", "recycling 2", "spawn 6 web.1"]);
    assert_eq!(last(&cluster.ready(6)), "stop 2");
    cluster.ordered(2);
    assert_eq!(cluster.machine.ready(), 3);
}

#[test]
fn i_041_who_is_not_ready_yet_has_no_age() {
    let mut config = web(1);
    config.specs[0].max_age = Some(100 * SECOND);
    let mut cluster = Cluster::up(config);
    let (id, why) = (WorkerId::new(1), RecycleReason::Memory);
    cluster.tell(Input::RecycleRequested { id, why });
    assert_eq!(last(&cluster.crash(1)), "spawn 3 web.0");
    // The successor of the one that crashed fails, while its slot is being filled again.
    assert_eq!(cluster.tell(spawn_failed(2)), ["error 2"]);
    assert_eq!(cluster.machine.next_deadline(), None);
    cluster.ready(3);
    assert!(cluster.machine.next_deadline().is_some());
}

#[test]
fn f_188_workers_of_one_age_are_recycled_apart_and_a_failed_successor_harms_nobody() {
    let mut config = web(3);
    config.specs[0].max_age = Some(100 * SECOND);
    let mut cluster = Cluster::up(config);
    let first = cluster.wait();
    assert!(first[0].starts_with("recycling"), "{first:?}");
    assert!(cluster.now >= ms(90_000) && cluster.now <= ms(110_000));
    assert_eq!(cluster.tell(spawn_failed(4)), ["error 4"]);
    assert_eq!((cluster.machine.ready(), cluster.machine.counts().active), (3, 3));
    let before = cluster.now;
    assert!(cluster.wait()[0].starts_with("recycling"));
    assert!(cluster.now > before, "not at the same time");
}

#[test]
fn f_188_a_worker_whose_successor_was_late_is_recycled_by_age_again() {
    let mut config = web(1);
    config.specs[0].max_age = Some(100 * SECOND);
    config.recycle = RolloutOptions::new().step_deadline(5 * SECOND);
    let mut cluster = Cluster::up(config);
    assert_eq!(cluster.wait(), ["recycling 1", "spawn 2 web.0"]);
    cluster.tell(Input::WorkerForked { id: WorkerId::new(2) });
    let before = cluster.now;
    assert_eq!(cluster.wait(), ["stop 2"]);
    assert_eq!(cluster.now, before + 5 * SECOND);
    // While the late one drains, another reason is not forgotten either.
    let (id, why) = (WorkerId::new(1), RecycleReason::Memory);
    assert!(cluster.tell(Input::RecycleRequested { id, why }).is_empty());
    assert_eq!(cluster.ordered(2), ["exit 2", "recycling 1", "spawn 3 web.0"]);
    cluster.tell(Input::WorkerForked { id: WorkerId::new(3) });
    assert_eq!(cluster.wait(), ["stop 3"]);
    assert_eq!(cluster.ordered(3), ["exit 3"]);
    // Every failure leaves a time for the next try.
    let before = cluster.now;
    assert_eq!(cluster.wait(), ["recycling 1", "spawn 4 web.0"]);
    assert!(cluster.now >= before + 85 * SECOND);
}

fn served(id: u64, requests: u64) -> Input {
    let id = WorkerId::new(id);
    Input::WorkerServed { id, requests }
}

#[test]
fn f_188_i_41_workers_with_one_share_of_requests_are_recycled_apart_and_one_at_a_time() {
    let mut config = web(4);
    config.specs[0].max_requests = 1_000;
    let mut cluster = Cluster::up(config);
    let limits: Vec<u64> = (cluster.machine.roster.workers())
        .filter_map(|worker| worker.served_out_at)
        .collect();
    assert_eq!(limits.len(), 4);
    assert!(limits.iter().all(|limit| (900..=1_100).contains(limit)), "{limits:?}");
    let different: BTreeSet<_> = limits.iter().collect();
    assert!(different.len() > 1, "all at the same number: {limits:?}");
    // Below its own limit nobody goes, at the limit it does, and it goes once.
    assert!(cluster.tell(served(1, limits[0] - 1)).is_empty());
    assert_eq!(cluster.tell(served(1, limits[0])), ["recycling 1", "spawn 5 web.0"]);
    assert!(cluster.tell(served(1, limits[0] + 1)).is_empty());
    // All the others come to their limits while one is being replaced: they wait for their turn.
    for id in 2..=4 {
        assert!(cluster.tell(served(id, 1_100)).is_empty());
    }
    assert_eq!(last(&cluster.ready(5)), "stop 1");
    assert_eq!(cluster.ordered(1), ["exit 1", "recycling 2", "spawn 6 web.1"]);
    // A successor that cannot be started costs nothing, and there is no second try before another share is served.
    assert_eq!(
        cluster.tell(spawn_failed(6)),
        ["error 6", "recycling 3", "spawn 7 web.2"]
    );
    cluster.ready(7);
    assert_eq!(cluster.ordered(3), ["exit 3", "recycling 4", "spawn 8 web.3"]);
    cluster.ready(8);
    cluster.ordered(4);
    assert!(cluster.tell(served(2, 1_100 + 800)).is_empty());
    assert_eq!(cluster.tell(served(2, 1_100 + 1_100)), ["recycling 2", "spawn 9 web.1"]);
    assert_eq!(cluster.machine.ready(), 4);
    assert!(cluster.tell(served(99, u64::MAX)).is_empty());
}

#[test]
fn a_share_of_requests_is_never_zero_and_never_overflows() {
    for (share, limits) in [(1, 1..=1), (9, 9..=10), (u64::MAX, u64::MAX / 10 * 9..=u64::MAX)] {
        let mut config = web(1);
        config.specs[0].max_requests = share;
        let cluster = Cluster::up(config);
        let limit = (cluster.machine.roster.workers())
            .find_map(|worker| worker.served_out_at)
            .unwrap();
        assert!(limits.contains(&limit), "{share}: {limit}");
    }
    let cluster = Cluster::up(web(1));
    assert!(
        !cluster.machine.has_served_out(WorkerId::FIRST, u64::MAX),
        "there is no limit"
    );
}

#[test]
fn i_38_who_waits_for_a_reload_that_ends_with_its_spec_goes_on_at_once() {
    let mut config = web(1);
    let restart = RestartType::Temporary;
    config.specs.push(SpecConfig {
        restart,
        ..SpecConfig::new("jobs", 1)
    });
    let jobs = config.specs[1].name.clone();
    let mut cluster = Cluster::up(config);
    let words = cluster.tell(Input::ReloadRequested {
        request: RequestId(1),
        spec: Some(jobs),
        options: RolloutOptions::new().pause(100 * SECOND),
        queue: false,
    });
    assert_eq!(words, ["generation 1", "reload_started", "spawn 3 jobs.0"]);
    assert_eq!(last(&cluster.ready(3)), "stop 2");
    assert_eq!(cluster.ordered(2), ["exit 2"]);
    let words = cluster.tell(Input::ReloadRequested {
        request: RequestId(2),
        spec: None,
        options: RolloutOptions::new(),
        queue: true,
    });
    assert!(words.is_empty(), "{words:?}");
    // In the pause the last worker of the spec has done its work: nothing is left of the spec, nor of its reload.
    let words = cluster.end_with(3, ExitStatus::Code(0), ExitReason::Voluntary, true);
    let gone = words
        .iter()
        .position(|word| word == "no spec jobs")
        .expect("it is forgotten");
    assert_eq!(words[gone + 1..], ["generation 2", "reload_started", "spawn 4 web.0"]);
}
