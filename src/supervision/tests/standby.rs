//! Tables for those who stand by, and for the machine of one such process.

use super::driver::{Cluster, spawn_failed};
use super::process::{by, drain, exit, listening, orders, stop};
use super::*;
use crate::model::{ExitReason, ExitStatus, Generation, RecycleReason, Signal};
use crate::policy::{OneForAll, RolloutOptions};

/// So many workers in one spec, and so many that stand by.
fn web_and(workers: u32, standby: u32) -> SupervisionConfig {
    let mut config = web(workers);
    config.specs[0].standby = standby;
    config.specs[0].delay = RestartDelay::AtOnce;
    config
}

fn stand_by(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let id = WorkerId::new(id);
    let mut words = cluster.tell(Input::WorkerForked { id });
    words.extend(cluster.tell(Input::WorkerOnline { id }));
    words.extend(cluster.tell(Input::WorkerStandsBy { id }));
    words
}

/// Who was promoted gets ready.
fn serve(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let id = WorkerId::new(id);
    cluster.tell(Input::WorkerReady { id })
}

fn last(words: &[String]) -> &str {
    words.last().map_or("", String::as_str)
}

#[test]
fn a_standby_is_started_after_the_slots_and_takes_the_place_of_whoever_ends() {
    let mut cluster = Cluster::new(web_and(2, 1));
    assert_eq!(cluster.tell(Input::Started), ["spawn 1 web.0", "spawn 2 web.1"]);
    cluster.ready(1);
    let words = cluster.ready(2);
    assert_eq!(words[words.len() - 2..], ["spawn 3 web.standby", "all_ready"]);
    assert_eq!(stand_by(&mut cluster, 3), ["fork 3", "online 3", "standby 3"]);
    let counts = cluster.machine.counts();
    assert_eq!((counts.active, counts.workers, counts.standbys), (3, 2, 1));
    let words = cluster.crash(2);
    assert_eq!(
        words,
        ["exit 2", "restart web.1 in 0ns #1", "promote 3 web.1", "promoted 3"]
    );
    assert_eq!(cluster.machine.counts().standbys, 0);
    // Its successor gives it time to serve first.
    assert_eq!(serve(&mut cluster, 3), ["ready 3", "all_ready"]);
    assert_eq!(cluster.machine.next_deadline(), Some(ms(20)));
    assert_eq!(cluster.wait(), ["spawn 4 web.standby"]);
    // One that is not there yet is nobody's successor.
    assert_eq!(last(&cluster.crash(1)), "spawn 5 web.0");
}

#[test]
fn f_010_a_standby_that_dies_at_its_promotion_is_followed_by_the_next_one() {
    let mut cluster = Cluster::up(web_and(1, 2));
    stand_by(&mut cluster, 2);
    assert_eq!(stand_by(&mut cluster, 3), ["fork 3", "online 3", "standby 3"]);
    assert_eq!(cluster.crash(1)[2..], ["promote 2 web.0", "promoted 2"]);
    let words = cluster.crash(2);
    assert_eq!(
        words,
        ["exit 2", "restart web.0 in 0ns #2", "promote 3 web.0", "promoted 3"]
    );
    assert_eq!(last(&cluster.crash(3)), "spawn 4 web.0");
}

#[test]
fn a_standby_that_ends_costs_nothing_but_its_own_time() {
    let mut config = web_and(1, 1);
    config.specs[0].limit = RestartLimit::new(0, 60 * SECOND);
    config.intensity = Some(RestartIntensity::new(0, 60 * SECOND));
    let mut cluster = Cluster::up(config);
    for (id, seconds) in [(2, 1), (3, 2), (4, 4)] {
        let begun = cluster.now;
        assert_eq!(cluster.tell(spawn_failed(id)), [format!("error {id}")]);
        assert_eq!(cluster.wait(), [format!("spawn {} web.standby", id + 1)]);
        let delay = cluster.now.since(begun);
        assert!(
            delay >= SECOND * seconds / 10 * 9 && delay <= SECOND * seconds / 10 * 11,
            "{delay:?}"
        );
    }
    assert_eq!(cluster.machine.ready(), 1);
}

#[test]
fn standbys_go_with_the_last_slot_and_a_stop_waits_for_them() {
    let mut cluster = Cluster::up(web_and(1, 1));
    stand_by(&mut cluster, 2);
    let (request, spec) = (RequestId(7), cluster.machine.spec_names()[0].clone());
    assert_eq!(
        cluster.tell(Input::SpecStopRequested { request, spec }),
        ["stop 1", "stop 2"]
    );
    assert_eq!(cluster.ordered(1), ["exit 1", "gone web.0"]);
    assert_eq!(cluster.ordered(2), ["exit 2", "ok"]);

    let mut cluster = Cluster::up(web_and(1, 1));
    stand_by(&mut cluster, 2);
    let words = cluster.tell(Input::ShutdownRequested { now: false });
    assert_eq!(words, ["shutdown_started", "stop 2", "stop 1"]);
    assert_eq!(
        cluster.tell(Input::ShutdownRequested { now: true }),
        ["kill 2", "kill 1"]
    );
    cluster.ordered(1);
    assert_eq!(cluster.ordered(2), ["exit 2", "finished Killed"]);

    // A temporary worker that has done its work takes its standby along.
    let mut config = web_and(1, 1);
    config.specs[0].restart = RestartType::Temporary;
    let mut cluster = Cluster::up(config);
    stand_by(&mut cluster, 2);
    let words = cluster.end(1, ExitStatus::Code(0), ExitReason::Voluntary);
    assert_eq!(words, ["exit 1", "gone web.0", "stop 2"]);
    assert_eq!(cluster.ordered(2), ["exit 2", "finished Clean"]);
}

#[test]
fn a_standby_that_is_too_old_or_too_fat_goes_when_another_stands_by() {
    let mut config = web_and(1, 1);
    config.specs[0].standby_age = Some(100 * SECOND);
    let mut cluster = Cluster::up(config);
    stand_by(&mut cluster, 2);
    assert_eq!(cluster.wait(), ["spawn 3 web.standby"]);
    assert!(cluster.now >= ms(90_000) && cluster.now <= ms(110_000));
    let words = stand_by(&mut cluster, 3);
    assert_eq!(words, ["fork 3", "online 3", "standby 3", "stop 2"]);
    let (id, why) = (WorkerId::new(3), RecycleReason::Memory);
    let words = cluster.tell(Input::RecycleRequested { id, why });
    assert_eq!(words, ["recycling 3", "spawn 4 web.standby"]);
    // Better an old one than none.
    assert_eq!(cluster.crash(1)[2..], ["promote 3 web.0", "promoted 3"]);
}

#[test]
fn f_183_a_reload_brings_standbys_of_its_own_and_a_rollback_the_old_ones() {
    let reload = |cluster: &mut Cluster| {
        cluster.tell(Input::ReloadRequested {
            request: RequestId(1),
            spec: None,
            options: RolloutOptions::new(),
            queue: false,
        })
    };
    let generation = |cluster: &Cluster, id: u64| {
        let mut standbys = cluster.machine.standbys.iter();
        standbys
            .find(|it| it.worker.id.get() == id)
            .map(|it| it.worker.generation)
    };
    let mut cluster = Cluster::up(web_and(2, 1));
    stand_by(&mut cluster, 3);
    // The first of a generation is always new: who stands by is of the old one, and stays in case it is needed.
    assert_eq!(last(&reload(&mut cluster)), "spawn 4 web.0");
    assert_eq!(cluster.ready(4).last().unwrap(), "stop 1");
    // While that one drains there is time for a standby of the new generation.
    let words = cluster.ordered(1);
    assert_eq!(words, ["exit 1", "spawn 5 web.1"]);
    let words = cluster.ready(5);
    assert_eq!(words[words.len() - 2..], ["stop 2", "spawn 6 web.standby"]);
    assert_eq!(generation(&cluster, 6), Some(Generation(1)));
    stand_by(&mut cluster, 6);
    let words = cluster.ordered(2);
    assert_eq!(
        words[..4],
        ["exit 2", "reload_finished", "reloaded 1", "no generation 0"]
    );
    assert_eq!(words[4..], ["stop 3"]);
    assert_eq!(cluster.crash(4)[2..], ["promote 6 web.0", "promoted 6"]);

    let mut cluster = Cluster::up(web_and(2, 1));
    stand_by(&mut cluster, 3);
    reload(&mut cluster);
    cluster.ready(4);
    let words = cluster.ordered(1);
    assert_eq!(words, ["exit 1", "spawn 5 web.1"]);
    // The second fails: the one that was replaced is replaced again, by the standby that was kept for it.
    let words = cluster.end_with(5, ExitStatus::Code(1), ExitReason::Crash, false);
    assert_eq!(words[words.len() - 2..], ["promote 3 web.0", "promoted 3"]);
    assert_eq!(last(&serve(&mut cluster, 3)), "stop 4");
}

#[test]
fn who_goes_down_with_a_group_includes_standbys_and_forks_get_none() {
    let mut config = abc(OneForAll);
    config.specs[1].standby = 1;
    let mut cluster = Cluster::up(config);
    stand_by(&mut cluster, 4);
    let words = cluster.crash(1);
    assert_eq!(words, ["exit 1", "restart a.0 in 0ns #1", "stop 4", "stop 3"]);

    let mut cluster = Cluster::up(web_and(1, 1));
    stand_by(&mut cluster, 2);
    let (request, spec) = (RequestId(1), cluster.machine.spec_names()[0].clone());
    let words = cluster.tell(Input::SlotForkRequested {
        request,
        spec: spec.clone(),
    });
    assert_eq!(words, ["added web.1", "spawn 3 web.1"]);
    cluster.ready(3);
    let target = ScaleTarget::By(1);
    let words = cluster.tell(Input::ScaleRequested {
        request,
        spec,
        target,
        active: Vec::new(),
    });
    assert!(words.contains(&"promote 2 web.2".to_owned()), "{words:?}");
}

#[test]
fn the_machine_of_a_standby_holds_it_back_until_it_has_a_slot() {
    let born = |ready_when| {
        Lifecycle::new(
            LifecycleConfig {
                ready_when,
                is_standby: true,
                ..limits()
            },
            ms(0),
        )
    };
    let facts = |life: &mut Lifecycle| {
        let facts = drain(life).into_iter().filter_map(|output| match output {
            Output::Fact(report) => Some(report.fact),
            Output::Order(_) => None,
        });
        facts.collect::<Vec<_>>()
    };
    for ready_when in [
        ReadyWhen::Spawned,
        ReadyWhen::Online,
        ReadyWhen::Listening,
        ReadyWhen::Called,
    ] {
        let mut life = born(ready_when);
        assert_eq!(
            life.handle(LifeInput::StandsBy, ms(1)),
            Note::Ignored,
            "it is not online"
        );
        life.handle(LifeInput::Online, ms(1));
        for lie in [listening(), LifeInput::Ready, LifeInput::Activated] {
            assert_eq!(life.handle(lie, ms(2)), Note::Ignored);
        }
        assert_eq!(life.next_deadline(), Some(ms(2_000)), "to boot it has as long as any");
        life.handle(LifeInput::StandsBy, ms(3));
        assert_eq!(life.handle(LifeInput::StandsBy, ms(3)), Note::Ignored);
        assert_eq!(facts(&mut life), [Fact::Online, Fact::StandsBy]);
        assert_eq!(life.next_deadline(), None, "and to wait, for ever");
        life.handle(LifeInput::Activated, ms(9_000));
        let is_ready = matches!(ready_when, ReadyWhen::Spawned | ReadyWhen::Online);
        assert_eq!(life.is_ready(), is_ready);
        assert_eq!(life.next_deadline(), (!is_ready).then(|| ms(11_000)));
        life.handle(LifeInput::Ready, ms(9_001));
        assert_eq!(facts(&mut life), [Fact::Ready]);
    }
    // One that does nothing with its slot is killed like one that does not boot.
    let mut life = born(ReadyWhen::Listening);
    life.handle(LifeInput::Online, ms(1));
    life.handle(LifeInput::StandsBy, ms(2));
    life.handle(LifeInput::Activated, ms(5_000));
    life.handle_deadline(ms(7_000));
    assert_eq!(orders(&mut life), [Output::Order(Order::Signal(Signal::KILL))]);
    assert_eq!(
        exit(&mut life, by(Signal::KILL), ms(7_001)).reason,
        ExitReason::BootTimeout
    );
    // Told to stop it is asked first, and is no lame duck.
    let mut life = born(ReadyWhen::Listening);
    life.handle(LifeInput::Online, ms(1));
    life.handle(LifeInput::StandsBy, ms(2));
    stop(&mut life, ms(10));
    assert_eq!(orders(&mut life), [Output::Order(Order::SendStop)]);
    assert_eq!(life.handle(LifeInput::Activated, ms(11)), Note::Ignored);
}
