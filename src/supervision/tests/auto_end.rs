//! Tables for `auto_shutdown`: whose end ends the cluster, and what a change of that rule does to those who run.

use super::driver::Cluster;
use super::*;
use crate::model::{ExitReason, ExitStatus, Signal};
use crate::policy::AutoShutdown::{AllSignificant, AnySignificant, Never};
use crate::policy::{AutoShutdown, OneForOne};

const RULES: [AutoShutdown; 3] = [Never, AnySignificant, AllSignificant];

/// How a worker may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stop,
    Kill,
    Crash,
    Normal,
}

const ENDS: [End; 4] = [End::Stop, End::Kill, End::Crash, End::Normal];

/// Specs "a", "b", "c" of one worker each; the first two are as said, "c" is an ordinary one.
fn config(rule: AutoShutdown, restart: RestartType, significant: bool) -> SupervisionConfig {
    let mut config = abc(OneForOne);
    config.auto_shutdown = rule;
    for spec in &mut config.specs[..2] {
        (spec.restart, spec.significant) = (restart, significant);
    }
    config
}

fn end(cluster: &mut Cluster, id: u64, end: End) {
    let kill = ExitStatus::Signal {
        signal: Signal::KILL,
        core: false,
    };
    match end {
        End::Stop => {
            cluster.tell(Input::WorkerStopRequested { id: WorkerId::new(id) });
            cluster.ordered(id);
        }
        End::Kill => drop(cluster.end(id, kill, ExitReason::Killed)),
        End::Crash => drop(cluster.crash(id)),
        End::Normal => drop(cluster.end(id, ExitStatus::Code(0), ExitReason::Voluntary)),
    }
}

fn ends(cluster: &Cluster) -> bool {
    cluster.machine.phase() != Phase::Running
}

fn with_rule(cluster: &mut Cluster, rule: AutoShutdown) {
    let changes = Reconfiguration {
        auto_shutdown: Some(rule),
        ..Reconfiguration::default()
    };
    let (request, changes) = (RequestId(9), Box::new(changes));
    assert_eq!(
        cluster.tell(Input::ReconfigureRequested { request, changes }),
        ["taken", "ok"]
    );
}

fn add_significant(cluster: &mut Cluster, name: &str) -> Vec<String> {
    let config = Box::new(SpecConfig {
        restart: RestartType::Temporary,
        significant: true,
        ..SpecConfig::new(name, 1)
    });
    let request = RequestId(8);
    cluster.tell(Input::SpecAddRequested { request, config })
}

#[test]
fn o_055_no_end_of_an_insignificant_temporary_worker_ends_the_cluster() {
    for rule in RULES {
        for how in ENDS {
            let mut cluster = Cluster::up(config(rule, RestartType::Temporary, false));
            end(&mut cluster, 1, how);
            end(&mut cluster, 2, how);
            assert!(!ends(&cluster), "{rule:?} {how:?}");
            assert_eq!(cluster.machine.counts().active, 1);
        }
    }
}

#[test]
fn o_056_nor_of_an_insignificant_transient_one_which_is_restarted_after_a_failure() {
    for rule in RULES {
        for how in ENDS {
            let mut cluster = Cluster::up(config(rule, RestartType::Transient, false));
            end(&mut cluster, 1, how);
            assert!(!ends(&cluster), "{rule:?} {how:?}");
            let back = matches!(how, End::Kill | End::Crash);
            assert_eq!(
                cluster.machine.counts().active,
                if back { 3 } else { 2 },
                "{rule:?} {how:?}"
            );
        }
    }
}

#[test]
fn o_057_any_end_of_a_significant_temporary_worker_but_an_ordered_one() {
    for how in ENDS {
        let mut any = Cluster::up(config(AnySignificant, RestartType::Temporary, true));
        end(&mut any, 1, how);
        assert_eq!(ends(&any), how != End::Stop, "{how:?}");
        if how != End::Stop {
            any.ordered(3);
            assert_eq!(
                any.ordered(2).last().expect("the end"),
                "finished Clean",
                "the others are stopped"
            );
        }
        let mut all = Cluster::up(config(AllSignificant, RestartType::Temporary, true));
        end(&mut all, 1, how);
        assert!(!ends(&all), "not the last one");
        end(&mut all, 2, how);
        assert_eq!(ends(&all), how != End::Stop, "{how:?}");
    }
}

#[test]
fn o_058_only_the_normal_end_of_a_significant_transient_worker() {
    for how in ENDS {
        let mut any = Cluster::up(config(AnySignificant, RestartType::Transient, true));
        end(&mut any, 1, how);
        assert_eq!(ends(&any), how == End::Normal, "{how:?}");
        let mut all = Cluster::up(config(AllSignificant, RestartType::Transient, true));
        end(&mut all, 1, End::Normal);
        assert!(!ends(&all), "not the last one");
        end(&mut all, 2, how);
        assert_eq!(ends(&all), how == End::Normal, "{how:?}");
    }
}

#[test]
fn o_059_the_same_in_a_counted_spec() {
    let counted = |rule, restart| {
        let mut config = web(2);
        config.auto_shutdown = rule;
        config.specs[0].delay = RestartDelay::AtOnce;
        (config.specs[0].restart, config.specs[0].significant) = (restart, true);
        Cluster::up(config)
    };
    for how in ENDS {
        for (restart, counts) in [
            (RestartType::Temporary, how != End::Stop),
            (RestartType::Transient, how == End::Normal),
        ] {
            let mut any = counted(AnySignificant, restart);
            end(&mut any, 1, how);
            assert_eq!(ends(&any), counts, "{restart:?} {how:?}");
            let mut all = counted(AllSignificant, restart);
            end(&mut all, 1, End::Normal);
            assert!(!ends(&all), "not the last one");
            if counts {
                end(&mut all, 2, how);
                assert!(ends(&all), "{restart:?} {how:?}");
            }
        }
    }
}

#[test]
fn o_062_o_064_a_rule_that_comes_lets_significant_workers_in_and_acts() {
    for rule in [AnySignificant, AllSignificant] {
        let mut cluster = Cluster::up(config(Never, RestartType::Temporary, false));
        assert!(add_significant(&mut cluster, "d")[0].contains("nothing follows"));
        with_rule(&mut cluster, rule);
        assert_eq!(add_significant(&mut cluster, "d")[0], "taken");
        cluster.ready(4);
        assert_eq!(add_significant(&mut cluster, "e")[0], "taken");
        cluster.ready(5);
        end(&mut cluster, 4, End::Crash);
        assert_eq!(ends(&cluster), rule == AnySignificant);
        end(&mut cluster, 5, End::Normal);
        assert!(ends(&cluster));
    }
}

#[test]
fn o_063_o_065_a_rule_that_goes_leaves_who_runs_and_lets_nobody_new_in() {
    for rule in [AnySignificant, AllSignificant] {
        let mut cluster = Cluster::up(config(rule, RestartType::Temporary, true));
        with_rule(&mut cluster, Never);
        assert_eq!(cluster.machine.counts().active, 3, "they stay");
        assert!(cluster.machine.spec(&"b".into()).expect("it runs").config.significant);
        assert!(add_significant(&mut cluster, "d")[0].contains("nothing follows"));
        end(&mut cluster, 1, End::Crash);
        end(&mut cluster, 2, End::Normal);
        assert!(!ends(&cluster), "the rule has stopped acting");
    }
}

#[test]
fn o_066_o_067_from_any_to_all_the_second_end_counts_and_back_the_first() {
    let mut all = Cluster::up(config(AnySignificant, RestartType::Temporary, true));
    with_rule(&mut all, AllSignificant);
    end(&mut all, 1, End::Crash);
    assert!(!ends(&all));
    end(&mut all, 2, End::Crash);
    assert!(ends(&all));
    let mut any = Cluster::up(config(AllSignificant, RestartType::Temporary, true));
    with_rule(&mut any, AnySignificant);
    end(&mut any, 1, End::Crash);
    assert!(ends(&any));
}

#[test]
fn o_068_the_flag_of_a_running_worker_is_changed_and_a_forbidden_change_changes_nothing() {
    let mut cluster = Cluster::up(config(AnySignificant, RestartType::Temporary, false));
    let replace = |cluster: &mut Cluster, restart, significant| {
        let changes = Box::new(Reconfiguration {
            specs: vec![SpecConfig {
                restart,
                significant,
                ..SpecConfig::new("b", 1)
            }],
            ..Reconfiguration::default()
        });
        let request = RequestId(7);
        cluster.tell(Input::ReconfigureRequested { request, changes })
    };
    let words = replace(&mut cluster, RestartType::Permanent, true);
    assert!(words[0].contains("cannot be significant"));
    let now = cluster.machine.spec(&"b".into()).expect("it runs").config;
    assert_eq!((now.restart, now.significant), (RestartType::Temporary, false));
    assert_eq!(replace(&mut cluster, RestartType::Temporary, true), ["taken", "ok"]);
    assert_eq!(cluster.machine.counts().active, 3);
    end(&mut cluster, 2, End::Normal);
    assert!(ends(&cluster));
}
