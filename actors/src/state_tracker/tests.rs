//! Records, health and limits without a process.

use actix_cluster::testing::RecordingHandle;
use actix_cluster::{
    ClusterSnapshot, Exit, ExitReason, ExitStatus, Mono, Signal, Slot, SpawnFailure, SpawnStep, WorkerSnapshot,
    WorkerState,
};
use serde_json::json;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn worker(id: u64, state: WorkerState) -> WorkerSnapshot {
    let mut worker = WorkerSnapshot::for_test(id, Slot::new("web", 0), state);
    worker.times.created = Some(Mono::default());
    worker
}

fn exit(status: ExitStatus) -> Exit {
    let mut exit = Exit::not_started(SpawnFailure {
        step: SpawnStep::Exec,
        errno: None,
        detail: String::new(),
    });
    exit.status = status;
    exit.reason = ExitReason::Crash;
    exit
}

fn tracker(config: StateTrackerConfig, snapshot: ClusterSnapshot) -> (StateReader, StateTracker) {
    let tracker = StateTracker::new(config);
    let (cluster, _) = RecordingHandle::new(snapshot);
    tracker.reader.shared.cluster.get_or_init(|| cluster);
    tracker.meet_all();
    (tracker.reader(), tracker)
}

fn learn(tracker: &StateTracker, worker: &WorkerSnapshot, kind: &EventKind, at: u64) {
    let shared = &tracker.reader.shared;
    let at = Mono::new(Duration::from_millis(at));
    shared.book().learn(&worker.info(), kind, at, None, shared.rule());
}

#[test]
fn guide_state_the_defaults_are_ten_seconds_and_a_slow_start_is_five() {
    let config = StateTrackerConfig::new();
    assert_eq!((config.stale_after, config.slow_start), (10 * SECOND, Some(5 * SECOND)));
}

#[test]
fn guide_state_of_one_that_was_dead_before_anybody_looked_comes_from_the_events() {
    let tracker = StateTracker::new(StateTrackerConfig::new());
    let mut seen = worker(1, WorkerState::Created);
    learn(&tracker, &seen, &EventKind::Fork, 100);
    seen.state = WorkerState::Online;
    learn(&tracker, &seen, &EventKind::Online, 130);
    learn(&tracker, &seen, &EventKind::Ready, 180);
    seen.state = WorkerState::Disconnected;
    learn(&tracker, &seen, &EventKind::Disconnect, 1180);
    seen.state = WorkerState::Dead;
    let status = ExitStatus::Signal {
        signal: Signal::KILL,
        core: false,
    };
    learn(&tracker, &seen, &EventKind::Exit(exit(status)), 1180);
    let record = tracker.reader().get(seen.id).unwrap();
    assert_eq!((record.state, record.healthy), (WorkerState::Dead, false));
    assert_eq!((record.exit_code(), record.exit_signal()), (None, Some(Signal::KILL)));
    let start = record.start_up();
    let ms = |ms| Some(Duration::from_millis(ms));
    assert_eq!(
        (start.online, start.listening, start.ready, start.total),
        (ms(30), None, ms(50), ms(80))
    );
    assert_eq!(record.uptime, SECOND);
}

#[test]
fn the_dead_are_bounded_and_the_oldest_death_is_forgotten_first() {
    let tracker = StateTracker::new(StateTrackerConfig::new().history(2));
    for id in 1..=5 {
        let mut seen = worker(id, WorkerState::Created);
        learn(&tracker, &seen, &EventKind::Fork, id);
        seen.state = WorkerState::Dead;
        learn(&tracker, &seen, &EventKind::Exit(exit(ExitStatus::Code(3))), id);
    }
    let reader = tracker.reader();
    let ids: Vec<u64> = reader.all().iter().map(|record| record.id.get()).collect();
    assert_eq!(ids, [4, 5]);
    assert_eq!(reader.get(WorkerId::new(5)).unwrap().exit_code(), Some(3));
    assert!(reader.forget(WorkerId::new(5)) && !reader.forget(WorkerId::new(5)));
    let none = StateTracker::new(StateTrackerConfig::new().history(0));
    learn(
        &none,
        &worker(1, WorkerState::Dead),
        &EventKind::Exit(exit(ExitStatus::Code(0))),
        1,
    );
    assert!(none.reader().all().is_empty());
}

#[actix_rt::test]
async fn guide_state_metadata_is_free_and_bounded() {
    let snapshot = ClusterSnapshot::for_test([worker(1, WorkerState::Listening)]);
    let (reader, _tracker) = tracker(StateTrackerConfig::new(), snapshot);
    let id = WorkerId::new(1);
    reader.set_metadata(id, "role", json!({"shard": 3})).unwrap();
    assert_eq!(reader.get(id).unwrap().metadata["role"], json!({"shard": 3}));
    reader.set_metadata(id, "role", json!(null)).unwrap();
    assert!(reader.get(id).unwrap().metadata.is_empty());
    assert_eq!(
        reader.set_metadata(WorkerId::new(9), "k", json!(1)),
        Err(MetadataError::UnknownWorker(WorkerId::new(9)))
    );
    assert!(matches!(
        reader.set_metadata(id, "k", json!("x".repeat(5000))),
        Err(MetadataError::TooMuch { bytes: 5003 })
    ));
    for n in 0..64 {
        reader.set_metadata(id, &n.to_string(), json!(n)).unwrap();
    }
    assert!(reader.set_metadata(id, "64", json!(64)).is_err());
    reader.set_metadata(id, "63", json!("changed")).unwrap();
}

#[actix_rt::test]
async fn without_heartbeats_a_worker_that_serves_is_healthy() {
    let mut idle = worker(2, WorkerState::Online);
    idle.slot = Slot::new("web", 1);
    let snapshot = ClusterSnapshot::for_test([worker(1, WorkerState::Listening), idle]);
    let (reader, _tracker) = tracker(StateTrackerConfig::new().stale_after(Duration::ZERO), snapshot);
    assert!(reader.is_healthy(WorkerId::new(1)));
    assert!(!reader.is_healthy(WorkerId::new(2)), "it is not ready");
    assert!(!reader.is_healthy(WorkerId::new(3)), "nobody knows it");
    let table = reader.table();
    assert!(
        table.contains("web.0") && table.contains("listening") && table.lines().count() == 3,
        "{table}"
    );
}

#[actix_rt::test]
async fn a_slow_start_is_told_once_also_while_it_lasts() {
    let snapshot = ClusterSnapshot::for_test([worker(1, WorkerState::Online)]);
    let (_, tracker) = tracker(StateTrackerConfig::new(), snapshot);
    let (id, rule) = (WorkerId::new(1), tracker.reader.shared.rule());
    let slow = |limit| tracker.reader.shared.book().slow(id, limit, rule).is_some();
    assert!(!slow(3600 * SECOND));
    assert!(slow(Duration::ZERO));
    assert!(!slow(Duration::ZERO), "it was told");
}
