//! The actor without a cluster: a recording handle, and this test's own children as workers.

use std::process::{Child, Command};
use std::time::Duration;

use actix_cluster::testing::{RecordedCommand, Recorder, RecordingHandle};
use actix_cluster::{ClusterSnapshot, Mono};

use super::*;

const PERIOD: Duration = Duration::from_millis(20);

fn sleeper() -> Child {
    Command::new("sleep").arg("600").spawn().unwrap()
}

fn snapshot(pid: u32) -> ClusterSnapshot {
    let mut worker = WorkerSnapshot::for_test(1, Slot::new("worker", 0), WorkerState::Listening);
    worker.pid = Some(pid);
    worker.times.ready = Some(Mono::new(Duration::ZERO));
    ClusterSnapshot::for_test([worker])
}

fn name_of(command: &RecordedCommand) -> String {
    match command {
        RecordedCommand::Publish(_, Announcement::Custom(event)) => format!("{} {}", event.source, event.name),
        RecordedCommand::Recycle(_, RecycleReason::Memory) => "recycle".to_owned(),
        RecordedCommand::Kill(_, Signal::KILL, Some(EndCause::Memory(_))) => "kill".to_owned(),
        other => format!("{other:?}"),
    }
}

async fn names(recorder: &mut Recorder, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < count {
        names.push(name_of(&recorder.next_command().await));
    }
    names
}

#[actix_rt::test]
async fn one_byte_too_many_is_told_and_then_acted_upon() {
    for (hard, action) in [(None, "recycle"), (Some(1.0), "kill")] {
        let mut child = sleeper();
        let (cluster, mut recorder) = RecordingHandle::new(snapshot(child.id()));
        let config = MemoryConfig::new(MemoryLimit::Bytes(1)).period(PERIOD).hard(hard);
        // At the first reading it has served for a period: nobody can tell any more what it began with.
        let watchdog = MemoryWatchdog::new(config.report(false)).unwrap();
        let _running = watchdog.watch(cluster);
        assert_eq!(names(&mut recorder, 2).await, ["memory over", action]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[actix_rt::test]
async fn f_187_an_unreadable_worker_is_told_of_once_and_left_alone() {
    // Not a child of this process.
    let (cluster, mut recorder) = RecordingHandle::new(snapshot(1));
    let watchdog = MemoryWatchdog::new(MemoryConfig::new(MemoryLimit::Bytes(1)).period(PERIOD)).unwrap();
    let view = watchdog.view();
    let _running = watchdog.watch(cluster);
    let told = names(&mut recorder, 6).await;
    let reports = told.iter().filter(|name| *name == "memory report").count();
    let unreadable = told.iter().filter(|name| *name == "memory unreadable").count();
    assert_eq!((reports, unreadable), (5, 1), "{told:?}");
    let report = view.report();
    assert_eq!((report.workers[0].rss_bytes, report.used_bytes), (None, 0));
    assert!(report.machine_bytes.is_some());
}
