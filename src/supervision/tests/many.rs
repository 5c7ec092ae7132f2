//! Ten thousand workers cost ten times as much as a thousand: no operation looks at all of them for each of them.
//!
//! Time is measured, because that is what must not grow: ten times the workers may take twenty times as long, and would
//! take a hundred times as long if it were quadratic. Not here: what the operations do.

use super::driver::{Cluster, spawn_failed};
use super::*;
use crate::policy::RolloutOptions;
use nix::time::{ClockId, clock_gettime};

/// So many workers, all ready: of one spec, or of as many specs with one each.
fn up(count: u32, specs: Specs) -> Cluster {
    let mut config = web(count);
    config.max_booting = 64;
    config.when_empty = WhenEmpty::Wait;
    if specs == Specs::OneEach {
        let spec = config.specs[0].clone();
        let named = |number| SpecConfig {
            name: format!("web-{number}").into(),
            count: 1,
            ..spec.clone()
        };
        config.specs = (0..count).map(named).collect();
    }
    let mut cluster = Cluster::new(config);
    let words = cluster.tell(Input::Started);
    live(&mut cluster, words);
    assert_eq!(cluster.machine.ready(), count as usize);
    cluster
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Specs {
    One,
    OneEach,
}

/// Whoever is started gets ready, whoever is stopped ends, until nothing more is ordered; how many ended.
fn live(cluster: &mut Cluster, words: Vec<String>) -> usize {
    live_but_one(cluster, words, None)
}

/// The same, but this one cannot be started.
fn live_but_one(cluster: &mut Cluster, words: Vec<String>, fails: Option<u64>) -> usize {
    let mut words = VecDeque::from(words);
    let mut ends = 0;
    while let Some(word) = words.pop_front() {
        let id = |rest: &str| rest.split(' ').next().and_then(|id| id.parse().ok());
        if let Some(id) = word.strip_prefix("spawn ").and_then(id) {
            let is_it = fails == Some(id);
            words.extend(if is_it {
                cluster.tell(spawn_failed(id))
            } else {
                cluster.ready(id)
            });
        } else if let Some(id) = word.strip_prefix("stop ").and_then(id) {
            words.extend(cluster.ordered(id));
            ends += 1;
        }
    }
    ends
}

fn start_and_shut_down(count: u32, specs: Specs) {
    let mut cluster = up(count, specs);
    let words = cluster.tell(Input::ShutdownRequested { now: false });
    assert_eq!(live(&mut cluster, words), count as usize);
    assert_eq!(cluster.machine.phase(), Phase::Stopped);
}

fn stop_and_start_the_spec(count: u32) {
    let mut cluster = up(count, Specs::One);
    let spec = || SpecName::from("web");
    let (stop, start) = (RequestId(1), RequestId(2));
    let words = cluster.tell(Input::SpecStopRequested {
        request: stop,
        spec: spec(),
    });
    assert_eq!(live(&mut cluster, words), count as usize);
    let words = cluster.tell(Input::SpecStartRequested {
        request: start,
        spec: spec(),
    });
    live(&mut cluster, words);
    assert_eq!(cluster.machine.ready(), count as usize);
}

fn scale_to_nothing_and_back(count: u32) {
    let mut cluster = up(count, Specs::One);
    let scale = |count: u32, active| Input::ScaleRequested {
        request: RequestId(1),
        spec: "web".into(),
        target: ScaleTarget::To(i64::from(count)),
        active,
    };
    let active = (1..=u64::from(count)).map(|id| (WorkerId::new(id), id % 7)).collect();
    let words = cluster.tell(scale(0, active));
    assert_eq!(live(&mut cluster, words), count as usize);
    let words = cluster.tell(scale(count, Vec::new()));
    live(&mut cluster, words);
    assert_eq!(cluster.machine.ready(), count as usize);
}

fn crash_all(count: u32, specs: Specs) {
    let mut cluster = up(count, specs);
    for id in 1..=u64::from(count) {
        let words = cluster.crash(id);
        live(&mut cluster, words);
    }
    assert_eq!(cluster.machine.ready(), count as usize);
}

/// One after the other; if the last one fails, all the way back.
fn reload_all(count: u32, options: RolloutOptions, fails: bool) {
    let mut cluster = up(count, Specs::One);
    let words = cluster.tell(Input::ReloadRequested {
        request: RequestId(1),
        spec: None,
        options,
        queue: false,
    });
    let last = fails.then_some(2 * u64::from(count));
    let ends = live_but_one(&mut cluster, words, last);
    let all = count as usize;
    assert_eq!(ends, if fails { 2 * (all - 1) } else { all });
    let spec = cluster.machine.spec(&"web".into()).expect("it is there");
    assert_eq!((spec.generation.0, spec.counts.ready), (u32::from(!fails), all));
}

/// How long this thread has run on a core: what others do meanwhile is not counted.
fn on_a_core() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has one");
    Duration::from(time)
}

/// Takes ten times as many at most twenty times as long? Noise only makes a try slower, so the best of three counts.
fn is_linear(few: u32, act: impl Fn(u32)) -> bool {
    let time = |count| {
        let start = on_a_core();
        act(count);
        on_a_core() - start
    };
    let least = (0..3).map(|_| time(few)).min().expect("there are three");
    (0..3).any(|_| {
        let most = time(10 * few);
        eprintln!("{few}: {least:?}, {}: {most:?}", 10 * few);
        most <= least * 20
    })
}

#[test]
fn o_075_o_086_start_and_stop_of_ten_thousand_workers_of_one_spec_is_linear() {
    assert!(is_linear(1_000, |count| start_and_shut_down(count, Specs::One)));
}

#[test]
fn o_075_stop_and_start_of_a_spec_of_ten_thousand_is_linear() {
    assert!(is_linear(1_000, stop_and_start_the_spec));
}

#[test]
fn o_086_start_and_stop_of_many_named_workers_is_linear() {
    // A hundred thousand where the build is optimised.
    let few = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
    assert!(is_linear(few, |count| start_and_shut_down(count, Specs::OneEach)));
}

#[test]
fn scaling_ten_thousand_away_and_back_is_linear() {
    assert!(is_linear(1_000, scale_to_nothing_and_back));
}

#[test]
fn o_075_a_reload_of_ten_thousand_is_linear_on_both_ways() {
    let beside = RolloutOptions::new();
    assert!(is_linear(1_000, |count| reload_all(count, beside, false)));
    assert!(is_linear(1_000, |count| reload_all(count, beside, true)));
}

#[test]
fn ten_thousand_crashes_are_linear() {
    assert!(is_linear(1_000, |count| crash_all(count, Specs::One)));
    assert!(is_linear(1_000, |count| crash_all(count, Specs::OneEach)));
}
