//! Tables for the administration of specs: who declines to start, starts that fail, and changes of what is in force.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::{ExitReason, ExitStatus, Signal, SpecFault, WorkerError, exit_code};
use crate::policy::{AutoShutdown, Escalation, OneForAll, OneForOne, RestForOne};

const REQUEST: RequestId = RequestId(1);

fn add(config: SpecConfig) -> Input {
    Input::SpecAddRequested {
        request: REQUEST,
        config: Box::new(config),
    }
}

fn start(spec: &str) -> Input {
    Input::SpecStartRequested {
        request: REQUEST,
        spec: spec.into(),
    }
}

fn stop(spec: &str) -> Input {
    Input::SpecStopRequested {
        request: REQUEST,
        spec: spec.into(),
    }
}

fn delete(spec: &str) -> Input {
    Input::SpecDeleteRequested {
        request: REQUEST,
        spec: spec.into(),
    }
}

fn fork(spec: &str) -> Input {
    Input::SlotForkRequested {
        request: REQUEST,
        spec: spec.into(),
    }
}

fn change(changes: Reconfiguration) -> Input {
    Input::ReconfigureRequested {
        request: REQUEST,
        changes: Box::new(changes),
    }
}

fn specs(specs: &[SpecConfig]) -> Reconfiguration {
    Reconfiguration {
        specs: specs.to_vec(),
        ..Reconfiguration::default()
    }
}

fn temporary(name: &str, count: u32) -> SpecConfig {
    SpecConfig {
        restart: RestartType::Temporary,
        ..SpecConfig::new(name, count)
    }
}

fn decline(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let id_of = WorkerId::new(id);
    cluster.tell(Input::WorkerForked { id: id_of });
    cluster.tell(Input::WorkerOnline { id: id_of });
    let nothing_to_do = ExitStatus::Code(exit_code::NOTHING_TO_DO);
    cluster.end_with(id, nothing_to_do, ExitReason::Voluntary, false)
}

fn two(second: RestartType) -> SupervisionConfig {
    let mut config = abc(OneForOne);
    config.specs.truncate(2);
    config.specs[1].restart = second;
    config
}

#[test]
fn o_003_who_has_nothing_to_do_is_kept_without_a_process_and_the_next_one_starts() {
    for restart in [RestartType::Permanent, RestartType::Transient] {
        let mut config = two(restart);
        config.specs.swap(0, 1);
        let mut cluster = Cluster::new(config);
        cluster.tell(Input::Started);
        let words = decline(&mut cluster, 1);
        assert_eq!(words, ["exit 1", "gone b.0", "spawn 2 a.0"]);
        assert!(cluster.ready(2).contains(&"all_ready".to_owned()), "nobody is missing");
        assert_eq!(cluster.slot(0), SlotState::Declined);
        let counts = cluster.machine.counts();
        assert_eq!(
            (
                counts.specs,
                counts.active,
                counts.workers,
                counts.declined,
                counts.failed
            ),
            (2, 1, 2, 1, 0)
        );
        // It can be started by hand.
        assert_eq!(cluster.tell(start("b")), ["spawn 3 b.0"]);
        cluster.ready(3);
        assert_eq!(
            (cluster.machine.counts().active, cluster.machine.counts().declined),
            (2, 0)
        );
    }
}

#[test]
fn o_004_a_temporary_one_that_declines_is_not_kept() {
    let mut cluster = Cluster::new(two(RestartType::Temporary));
    cluster.tell(Input::Started);
    cluster.ready(1);
    assert!(decline(&mut cluster, 2).contains(&"no spec b".to_owned()));
    let counts = cluster.machine.counts();
    assert_eq!((counts.specs, counts.active, counts.workers), (1, 1, 1));
    assert!(cluster.machine.spec(&"b".into()).is_none());
}

#[test]
fn o_005_nor_is_one_that_was_added_and_the_addition_is_no_error() {
    let mut cluster = Cluster::up(two(RestartType::Permanent));
    cluster.tell(add(temporary("c", 1)));
    let words = decline(&mut cluster, 3);
    assert_eq!(words, ["exit 3", "ok", "gone c.0", "no spec c", "all_ready"]);
    assert_eq!(cluster.machine.counts().specs, 2);
    // A permanent one is kept.
    cluster.tell(add(SpecConfig::new("c", 1)));
    assert!(decline(&mut cluster, 4).contains(&"ok".to_owned()));
    let counts = cluster.machine.counts();
    assert_eq!((counts.specs, counts.active, counts.workers), (3, 2, 3));
}

#[test]
fn o_006_o_007_a_fork_that_declines_is_not_kept_whatever_the_restart_type() {
    for restart in [RestartType::Permanent, RestartType::Transient, RestartType::Temporary] {
        let mut config = web(1);
        config.specs[0].restart = restart;
        let mut cluster = Cluster::up(config);
        cluster.tell(fork("web"));
        assert!(decline(&mut cluster, 2).contains(&"gone web.1".to_owned()));
        assert_eq!(cluster.machine.slots().len(), 1, "only the one that lives is listed");
        assert_eq!(cluster.machine.counts().workers, 1);
        cluster.tell(Input::ShutdownRequested { now: false });
        assert_eq!(cluster.ordered(1).last().expect("the end"), "finished Clean");
    }
}

#[test]
fn a_cluster_in_which_nobody_has_anything_to_do_ends_well() {
    let mut cluster = Cluster::new(web(1));
    cluster.tell(Input::Started);
    assert_eq!(decline(&mut cluster, 1).last().expect("the end"), "finished Clean");
}

#[test]
fn o_010_o_012_o_049_an_addition_that_cannot_start_tells_the_reason_and_leaves_nothing() {
    let mut cluster = Cluster::up(abc(OneForOne));
    cluster.tell(add(SpecConfig::new("d", 3)));
    let said = WorkerError::Failed("no database".to_owned());
    cluster.ready(4);
    cluster.tell(Input::WorkerForked { id: WorkerId::new(5) });
    cluster.tell(Input::WorkerForked { id: WorkerId::new(6) });
    cluster.tell(Input::WorkerFailed {
        id: WorkerId::new(5),
        error: said,
    });
    // The others of it are stopped, and the answer waits for them.
    let words = cluster.end(5, ExitStatus::Code(1), ExitReason::Crash);
    assert_eq!(words, ["exit 5", "gone d.1", "stop 6", "stop 4", "all_ready"]);
    cluster.ordered(4);
    let words = cluster.ordered(6);
    let why = "refused: the worker spec `d` could not start: worker 5 in d.1: exit code 1 (crash): no database";
    assert_eq!(words, ["exit 6", "gone d.2", "no spec d", why]);
    assert_eq!((cluster.machine.counts().specs, cluster.machine.slots().len()), (3, 3));
    // The name is free.
    assert_eq!(cluster.tell(add(SpecConfig::new("d", 1)))[0], "taken");
    let words = cluster.tell(spawn_failed(7));
    assert!(words.contains(&"no spec d".to_owned()) && words.iter().any(|word| word.contains("no such file")));
}

#[test]
fn an_addition_that_fails_in_an_empty_cluster_does_not_end_it() {
    let mut cluster = Cluster::new(web(0));
    cluster.tell(Input::Started);
    cluster.tell(add(SpecConfig::new("d", 1)));
    cluster.tell(Input::WorkerForked { id: WorkerId::new(1) });
    cluster.crash(1);
    assert_eq!(
        (cluster.machine.phase(), cluster.machine.counts().specs),
        (Phase::Running, 1)
    );
}

#[test]
fn o_011_o_047_a_stopped_spec_whose_start_fails_stays_stopped_and_can_be_started_again() {
    let mut cluster = Cluster::up(abc(OneForOne));
    cluster.tell(stop("b"));
    cluster.ordered(2);
    cluster.tell(start("b"));
    cluster.tell(Input::WorkerForked { id: WorkerId::new(4) });
    assert!(
        cluster
            .crash(4)
            .iter()
            .any(|word| word.starts_with("refused: the worker spec `b` could not"))
    );
    assert_eq!(
        (cluster.slot(1), cluster.machine.counts().specs),
        (SlotState::Stopped, 3)
    );
    assert_eq!(cluster.tell(start("b")), ["spawn 5 b.0"]);
    assert!(cluster.ready(5).contains(&"ok".to_owned()));
}

#[test]
fn o_074_a_temporary_name_is_free_after_any_end_and_the_others_keep_theirs() {
    for restart in [RestartType::Permanent, RestartType::Transient, RestartType::Temporary] {
        for end in ["kill", "exit 0", "crash", "stop"] {
            let mut cluster = Cluster::up(two(restart));
            match end {
                "kill" => cluster.end(
                    2,
                    ExitStatus::Signal {
                        signal: Signal::KILL,
                        core: false,
                    },
                    ExitReason::Killed,
                ),
                "exit 0" => cluster.end(2, ExitStatus::Code(0), ExitReason::Voluntary),
                "crash" => cluster.crash(2),
                _ => {
                    cluster.tell(stop("b"));
                    cluster.ordered(2)
                }
            };
            let is_kept = cluster.machine.spec(&"b".into()).is_some();
            assert_eq!(is_kept, restart != RestartType::Temporary, "{restart:?} {end}");
            let words = cluster.tell(add(SpecConfig::new("b", 1)));
            assert_eq!(words[0] == "taken", !is_kept, "{restart:?} {end}: {words:?}");
            assert_eq!(cluster.machine.phase(), Phase::Running);
        }
    }
}

#[test]
fn o_071_a_restart_that_keeps_failing_counts_no_process_and_can_be_stopped() {
    let mut cluster = Cluster::up(web(2));
    cluster.crash(1);
    cluster.tell(spawn_failed(3));
    let counts = cluster.machine.counts();
    assert_eq!((counts.active, counts.workers, counts.restarting), (1, 2, 1));
    cluster.wait();
    cluster.tell(spawn_failed(4));
    assert_eq!(cluster.machine.counts().active, 1);
    // The cause goes away.
    cluster.wait();
    cluster.ready(5);
    let counts = cluster.machine.counts();
    assert_eq!((counts.active, counts.ready, counts.restarting), (2, 2, 0));
    cluster.crash(5);
    let words = cluster.tell(stop("web"));
    assert!(words.contains(&"gone web.0".to_owned()));
    assert_eq!(cluster.ordered(2), ["exit 2", "gone web.1", "ok"]);
}

#[test]
fn o_081_o_082_a_change_is_done_whole_or_not_at_all_and_starts_and_stops_nobody() {
    let mut cluster = Cluster::up(abc(OneForOne));
    let shutdown = ShutdownPolicy::Grace(9 * SECOND);
    let b = SpecConfig {
        shutdown,
        ..SpecConfig::new("b", 1)
    };
    let good = Reconfiguration {
        strategy: Some(Arc::new(OneForAll)),
        intensity: Some(Some(RestartIntensity::new(7, SECOND))),
        ..specs(&[b.clone(), SpecConfig::new("d", 2)])
    };
    // A bad one: nothing of it is done.
    for (bad, why) in [
        (
            SpecConfig {
                significant: true,
                ..SpecConfig::new("c", 1)
            },
            "significant",
        ),
        (SpecConfig::new("", 1), "name is empty"),
        (b.clone(), "named twice"),
    ] {
        let mut changes = good.clone();
        changes.specs.push(bad);
        let words = cluster.tell(change(changes));
        assert!(words.len() == 1 && words[0].contains(why), "{words:?}");
    }
    let zero = Reconfiguration {
        intensity: Some(Some(RestartIntensity::new(1, Duration::ZERO))),
        ..good.clone()
    };
    assert!(cluster.tell(change(zero))[0].contains("period"));
    let rules = cluster.machine.rules();
    assert_eq!(
        (format!("{:?}", rules.strategy), rules.intensity),
        ("OneForOne".to_owned(), None)
    );
    assert_eq!(cluster.machine.counts().specs, 3);
    // No change is no change.
    assert_eq!(cluster.tell(change(Reconfiguration::default())), ["taken", "ok"]);
    assert_eq!(
        cluster.tell(change(good)),
        ["taken", "ok"],
        "nobody is started or stopped"
    );
    let rules = cluster.machine.rules();
    assert_eq!(format!("{:?}", rules.strategy), "OneForAll");
    assert_eq!(rules.intensity, Some(RestartIntensity::new(7, SECOND)));
    let status = |cluster: &Cluster, name: &str| cluster.machine.spec(&name.into()).expect("it is there");
    assert_eq!(status(&cluster, "b").config.shutdown, shutdown);
    assert_eq!(status(&cluster, "d").counts.active, 0, "taken in, not started");
    assert_eq!(status(&cluster, "a").counts.active, 1, "not named, not killed");
    // In force for who runs.
    cluster.machine.handle(stop("b"), cluster.now);
    let order = std::iter::from_fn(|| cluster.machine.poll_action());
    let policies = order.filter_map(|action| match action {
        Action::Stop { policy, .. } => Some(policy),
        _ => None,
    });
    assert_eq!(policies.collect::<Vec<_>>(), [shutdown]);
    assert_eq!(cluster.tell(start("d"))[0], "spawn 4 d.0");
}

#[test]
fn o_083_o_084_a_counted_spec_is_replaced_and_no_other_comes_or_goes_with_it() {
    let mut cluster = Cluster::up(web(2));
    let only_known = |specs: &[SpecConfig]| Reconfiguration {
        specs: specs.to_vec(),
        only_known: true,
        ..Reconfiguration::default()
    };
    let brutal = SpecConfig {
        shutdown: ShutdownPolicy::Brutal,
        ..SpecConfig::new("web", 1)
    };
    for wrong in [
        vec![brutal.clone(), SpecConfig::new("second", 1)],
        vec![SpecConfig::new("other", 1)],
    ] {
        assert!(cluster.tell(change(only_known(&wrong)))[0].contains("there is no worker spec"));
        assert_ne!(
            cluster
                .machine
                .spec(&"web".into())
                .expect("it is there")
                .config
                .shutdown,
            ShutdownPolicy::Brutal
        );
    }
    assert_eq!(cluster.tell(change(only_known(&[brutal]))), ["taken", "ok"]);
    assert_eq!(
        cluster.machine.counts().active,
        2,
        "how many run is a matter of scaling"
    );
    assert_eq!(cluster.tell(stop("web")), ["kill 2", "kill 1"]);
    cluster.ordered(1);
    cluster.ordered(2);
    assert_eq!(cluster.tell(start("web")), ["spawn 3 web.0"]);
    assert_eq!(cluster.machine.slots().len(), 1);
}

#[test]
fn restarts_that_were_counted_count_for_the_new_limit() {
    let mut cluster = Cluster::up(web(1));
    cluster.crash(1);
    cluster.boot();
    let strict = SpecConfig {
        limit: RestartLimit::new(1, 60 * SECOND),
        ..SpecConfig::new("web", 1)
    };
    cluster.tell(change(specs(&[strict])));
    assert!(cluster.crash(2).contains(&"gave_up".to_owned()));
}

#[test]
fn o_024_a_stranger_is_not_found_and_a_slot_is_no_spec() {
    let mut cluster = Cluster::up(web(2));
    assert_eq!(
        cluster.tell(Input::WorkerStopRequested { id: WorkerId::new(1) }),
        ["stop 1"]
    );
    assert!(
        cluster
            .tell(Input::WorkerStopRequested { id: WorkerId::new(1) })
            .is_empty()
    );
    assert!(
        cluster
            .tell(Input::WorkerStopRequested { id: WorkerId::new(77) })
            .is_empty()
    );
    assert!(cluster.tell(delete("web.0"))[0].contains("there is no worker spec named `web.0`"));
    assert!(cluster.tell(start("web.0"))[0].contains("there is no worker spec named `web.0`"));
    assert_eq!(cluster.machine.counts().active, 2);
}

/// One fault for each bad value, and none for any mixture of good ones.
#[test]
fn o_015_o_026_o_027_o_028_every_mixture_of_values_is_judged_by_its_first_bad_one() {
    let long = "x".repeat(65);
    let names: [(&str, Option<SpecFault>); 5] = [
        ("web", None),
        ("Zürich 1", None),
        ("", Some(SpecFault::NoName)),
        (&long, Some(SpecFault::LongName)),
        ("a\nb", Some(SpecFault::UnprintableName)),
    ];
    let counts = [(0, None), (10_000, None), (10_001, Some(SpecFault::TooManyWorkers))];
    let intensities = [
        (None, None),
        (Some(RestartIntensity::new(0, Duration::MAX)), None),
        (
            Some(RestartIntensity::new(1, Duration::ZERO)),
            Some(SpecFault::NoPeriod),
        ),
    ];
    let ages = [
        (None, None),
        (Some(SECOND), None),
        (Some(Duration::ZERO), Some(SpecFault::NoAge)),
    ];
    let restarts = [RestartType::Permanent, RestartType::Transient, RestartType::Temporary];
    let rules = [
        AutoShutdown::Never,
        AutoShutdown::AnySignificant,
        AutoShutdown::AllSignificant,
    ];
    let shutdowns = [
        ShutdownPolicy::Brutal,
        ShutdownPolicy::Infinity,
        ShutdownPolicy::Grace(SECOND),
    ];
    let mut seen = 0;
    for (name, bad_name) in names {
        for (count, bad_count) in counts {
            for (intensity, bad_intensity) in intensities {
                for (max_age, bad_age) in ages {
                    for restart in restarts {
                        for rule in rules {
                            for (shutdown, escalation, significant) in [
                                (shutdowns[0], Escalation::FailSpec, false),
                                (shutdowns[1], Escalation::StopCluster, true),
                                (shutdowns[2], Escalation::FailSpec, true),
                            ] {
                                let spec = SpecConfig {
                                    restart,
                                    intensity,
                                    max_age,
                                    shutdown,
                                    escalation,
                                    significant,
                                    ..SpecConfig::new(name, count)
                                };
                                let bad_pair = match (significant, restart, rule) {
                                    (true, RestartType::Permanent, _) => Some(SpecFault::SignificantPermanent),
                                    (true, _, AutoShutdown::Never) => Some(SpecFault::SignificantForNothing),
                                    _ => None,
                                };
                                let bad = bad_name.or(bad_count).or(bad_intensity).or(bad_age).or(bad_pair);
                                assert_eq!(spec.check(rule).err(), bad, "{spec:?} {rule:?}");
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen, 5 * 3 * 3 * 3 * 3 * 3 * 3);
}

#[test]
fn o_026_a_name_is_given_once() {
    let mut cluster = Cluster::up(abc(RestForOne));
    assert!(cluster.tell(add(SpecConfig::new("a", 1)))[0].contains("runs already"));
    let twice = specs(&[SpecConfig::new("x", 1), SpecConfig::new("x", 1)]);
    assert!(cluster.tell(change(twice))[0].contains("named twice"));
}
