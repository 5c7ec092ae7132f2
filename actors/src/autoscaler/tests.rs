//! The actor with a handle that records: what it hears, tells and orders.

use std::time::Duration;

use actix_cluster::testing::{RecordedCommand, Recorder, RecordingHandle};
use actix_cluster::{ClusterSnapshot, Message, Slot, SpecName, WorkerId, WorkerSnapshot, WorkerState};
use serde_json::json;

use super::*;
use crate::LoadReport;

const SOON: Duration = Duration::from_secs(20);

fn config() -> AutoscaleConfig {
    // The words of a slow machine do not get stale.
    AutoscaleConfig::new()
        .max(4)
        .every(Duration::from_millis(5))
        .signals([LoadSignal::Messages])
}

/// Two workers, and an autoscaler that listens to them.
fn start(config: AutoscaleConfig) -> (Recorder, Addr<Autoscaler>) {
    let worker = |id| WorkerSnapshot::for_test(id, Slot::new("worker", 0), WorkerState::Listening);
    let (cluster, recorder) = RecordingHandle::new(ClusterSnapshot::for_test([worker(1), worker(2)]));
    let scaler = Autoscaler::new(config).unwrap();
    let options = scaler.options();
    let scaler = scaler.watch(cluster.clone());
    cluster.subscribe_with(scaler.clone().recipient(), &options);
    (recorder, scaler)
}

fn say(recorder: &Recorder, load: f64) {
    for id in [1, 2] {
        let message = Message::for_test(&LoadReport::new(load)).unwrap();
        recorder.publish(Some(WorkerId::new(id)), EventKind::Message(message));
    }
}

async fn next(recorder: &mut Recorder) -> RecordedCommand {
    actix::clock::timeout(SOON, recorder.next_command())
        .await
        .expect("a command comes")
}

/// The next decision of this reason; those before it are passed over. Both workers say `load` all the time.
async fn decision(recorder: &mut Recorder, load: f64, why: ScaleReason) -> ScaleDecision {
    for _ in 0..4000 {
        say(recorder, load);
        let command = actix::clock::timeout(Duration::from_millis(5), recorder.next_command()).await;
        let Ok(RecordedCommand::Publish(None, Announcement::Custom(event))) = command else {
            continue;
        };
        assert_eq!((event.source.as_str(), event.name.as_str()), ("autoscaler", "decision"));
        let decision: ScaleDecision = event.data.parse().unwrap();
        if decision.why == why {
            return decision;
        }
    }
    panic!("no decision because of {why:?}");
}

#[actix_rt::test]
async fn a_decision_is_told_with_its_inputs_and_then_carried_out() {
    let (mut recorder, _scaler) = start(config());
    let told = decision(&mut recorder, 0.9, ScaleReason::LoadHigh).await;
    assert_eq!((told.from, told.to, told.load), (2, 3, Some(0.9)));
    assert_eq!((told.min, told.max, told.ready, told.readings[0].told), (2, 4, 2, 2));
    let order = RecordedCommand::Scale {
        spec: Some(SpecName::from("worker")),
        workers: 3,
    };
    assert_eq!(next(&mut recorder).await, order);
}

#[actix_rt::test]
async fn an_order_that_was_refused_is_given_again_after_the_cool_down() {
    let (mut recorder, _scaler) = start(config().cool_down_up(Duration::from_millis(50)));
    recorder.refuse_next(CommandError::Gone);
    decision(&mut recorder, 0.9, ScaleReason::LoadHigh).await;
    let again = decision(&mut recorder, 0.9, ScaleReason::LoadHigh).await;
    assert_eq!((again.from, again.to), (2, 3));
}

#[actix_rt::test]
async fn a_dry_run_tells_once_and_orders_nothing() {
    let (mut recorder, _scaler) = start(config().dry_run(true));
    let told = decision(&mut recorder, 0.9, ScaleReason::LoadHigh).await;
    assert!(told.dry_run);
    // All that comes until the load changes is nothing but decisions.
    assert!(!matches!(
        recorder.commands().as_slice(),
        [.., RecordedCommand::Scale { .. }]
    ));
    decision(&mut recorder, 0.5, ScaleReason::InRange).await;
    let rest = recorder.commands();
    assert!(
        !rest.iter().any(|it| matches!(it, RecordedCommand::Scale { .. })),
        "{rest:?}"
    );
}

#[actix_rt::test]
async fn f_180_words_of_strangers_and_words_that_are_no_load_change_nothing() {
    let (mut recorder, _scaler) = start(config());
    let stranger = WorkerSnapshot::for_test(9, Slot::new("other", 0), WorkerState::Listening);
    recorder.show(|snapshot| snapshot.workers.push(stranger));
    for value in [
        json!({"type": "load", "load": 0.9}),
        json!({"type": "load", "load": null}),
    ] {
        for id in [1, 9] {
            let message = Message::for_test(&value).unwrap();
            recorder.publish(Some(WorkerId::new(id)), EventKind::Message(message));
        }
    }
    let why = loop {
        let RecordedCommand::Publish(_, Announcement::Custom(event)) = next(&mut recorder).await else {
            panic!("an order was given");
        };
        let why = event.data.parse::<ScaleDecision>().unwrap().why;
        if why != ScaleReason::Missing {
            break why;
        }
    };
    assert!(matches!(why, ScaleReason::Nonsense | ScaleReason::Stale), "{why:?}");
}

#[actix_rt::test]
async fn a_period_without_end_is_waited_for_and_breaks_nothing() {
    let endless = config()
        .every(Duration::MAX)
        .cool_down_up(Duration::MAX)
        .cool_down_down(Duration::MAX);
    let (_recorder, scaler) = start(endless);
    let event = ClusterEvent::for_test(1, actix_cluster::Mono::default(), None, EventKind::ShutdownStarted);
    // It lives and hears.
    scaler.send(event).await.unwrap();
}
