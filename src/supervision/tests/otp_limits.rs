//! Rows of Erlang's supervisor as tables: too many restarts, whatever they are restarts of, and what is counted.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::model::SlotState;
use crate::policy::{OneForAll, OneForOne};

/// At most so many restarts in ten seconds, over all slots.
fn at_most(max: u32, mut config: SupervisionConfig) -> SupervisionConfig {
    config.intensity = Some(RestartIntensity::new(max, 10 * SECOND));
    for spec in &mut config.specs {
        spec.delay = RestartDelay::AtOnce;
        spec.limit = RestartLimit::unlimited();
    }
    config
}

/// The cluster gave up with these words, and ends when the last of `living` has stopped.
fn ends(cluster: &mut Cluster, words: &[String], living: &[u64]) {
    assert!(words.contains(&"gave_up".to_owned()), "{words:?}");
    assert!(words.contains(&"shutdown_started".to_owned()), "{words:?}");
    assert!(
        !words.iter().any(|word| word.starts_with("spawn")),
        "not carried out: {words:?}"
    );
    let mut last = Vec::new();
    for id in living {
        last = cluster.ordered(*id);
    }
    assert!(
        last.last().expect("the end").starts_with("finished GaveUp(Cluster"),
        "{last:?}"
    );
}

fn counts(cluster: &Cluster) -> [usize; 4] {
    let counts = cluster.machine.counts();
    [counts.specs, counts.active, counts.workers, counts.restarting]
}

#[test]
fn o_030_one_for_one_replaces_one_and_the_third_crash_in_the_window_ends_all() {
    let mut cluster = Cluster::up(at_most(2, abc(OneForOne)));
    for (victim, next) in [(1, 4), (4, 5)] {
        let words = cluster.crash(victim);
        assert_eq!(words[2..], [format!("spawn {next} a.0")]);
        cluster.boot();
        let workers: Vec<_> = cluster
            .machine
            .slots()
            .iter()
            .map(|slot| slot.worker.expect("it runs").get())
            .collect();
        assert_eq!(workers, [next, 2, 3], "the others are those of before");
        cluster.pass(5 * SECOND);
    }
    // The first was exactly ten seconds ago, and the window is closed.
    let words = cluster.crash(5);
    ends(&mut cluster, &words, &[3, 2]);
}

#[test]
fn o_031_failed_starts_alone_use_up_the_intensity_and_everything_is_stopped() {
    let mut cluster = Cluster::up(at_most(3, abc(OneForOne)));
    cluster.crash(2);
    cluster.tell(spawn_failed(4));
    cluster.wait();
    cluster.tell(spawn_failed(5));
    cluster.wait();
    let words = cluster.tell(spawn_failed(6));
    ends(&mut cluster, &words, &[3, 1]);
}

#[test]
fn o_033_a_group_of_which_one_cannot_be_started_again_ends_all() {
    let mut cluster = Cluster::up(at_most(2, abc(OneForAll)));
    cluster.crash(1);
    cluster.ordered(3);
    cluster.ordered(2);
    cluster.ready(4);
    // "a" is up again and goes down again with "b", which cannot be started.
    assert!(cluster.tell(spawn_failed(5)).contains(&"stop 4".to_owned()));
    assert_eq!(cluster.ordered(4), ["exit 4", "spawn 6 a.0"]);
    cluster.ready(6);
    let words = cluster.tell(spawn_failed(7));
    ends(&mut cluster, &words, &[6]);
}

#[test]
fn o_039_a_slot_of_many_that_cannot_be_started_again_ends_the_innocent_too() {
    let mut cluster = Cluster::up(at_most(3, web(3)));
    cluster.crash(2);
    for id in [4, 5] {
        cluster.tell(spawn_failed(id));
        cluster.wait();
    }
    let words = cluster.tell(spawn_failed(6));
    ends(&mut cluster, &words, &[3, 1]);
}

#[test]
fn o_023_the_counts_are_right_after_each_step_of_the_administration() {
    let mut cluster = Cluster::up(abc(OneForOne));
    let (request, b) = (RequestId(1), || "b".into());
    assert_eq!(counts(&cluster), [3, 3, 3, 0]);
    cluster.tell(Input::SpecStopRequested { request, spec: b() });
    assert_eq!(counts(&cluster), [3, 3, 2, 0], "it still runs, and is not wanted");
    cluster.ordered(2);
    assert_eq!(counts(&cluster), [3, 2, 2, 0]);
    cluster.tell(Input::SpecRestartRequested { request, spec: b() });
    cluster.boot();
    assert_eq!(counts(&cluster), [3, 3, 3, 0]);
    cluster.tell(Input::SpecStopRequested { request, spec: b() });
    cluster.ordered(4);
    cluster.tell(Input::SpecDeleteRequested { request, spec: b() });
    assert_eq!(counts(&cluster), [2, 2, 2, 0]);
    for spec in [b(), "nobody".into()] {
        let words = cluster.tell(Input::SpecRestartRequested { request, spec });
        assert!(words[0].contains("there is no worker spec"), "{words:?}");
    }
    assert_eq!(counts(&cluster), [2, 2, 2, 0]);
}

#[test]
fn o_069_list_and_counts_agree_at_each_step() {
    let mut config = web(1_000);
    config.specs[0].restart = RestartType::Temporary;
    (config.max_booting, config.when_empty) = (4_000, WhenEmpty::Wait);
    let mut cluster = Cluster::up(config);
    let lives = |cluster: &Cluster| {
        let slots = cluster.machine.slots();
        slots
            .iter()
            .filter(|slot| slot.state == SlotState::Filled && slot.worker.is_some())
            .count()
    };
    assert_eq!((counts(&cluster), lives(&cluster)), ([1, 1_000, 1_000, 0], 1_000));
    let more = Input::ScaleRequested {
        request: RequestId(1),
        spec: "web".into(),
        target: ScaleTarget::To(2_000),
        active: Vec::new(),
    };
    cluster.tell(more);
    cluster.boot();
    assert_eq!((counts(&cluster), lives(&cluster)), ([1, 2_000, 2_000, 0], 2_000));
    for id in 1..=2_000 {
        cluster.crash(id);
        let left = usize::try_from(2_000 - id).expect("small");
        assert_eq!(counts(&cluster), [1, left, left, 0]);
    }
    assert_eq!(lives(&cluster), 0);
}
