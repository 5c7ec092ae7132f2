//! Workers that are replaced because they have served enough, while clients ask.

use std::collections::BTreeMap;

use actix_cluster::{ClusterEvent, ClusterHandle, EventKind, RecycleReason, ServeError, Worker};
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "f_188_i_41_workers_are_replaced_after_their_share_of_requests_and_none_fails",
    app: || {
        let cluster = load::cluster().workers(3).worker(count);
        cluster.max_requests(SHARE).on_event(tell_at_how_many).main()
    },
    check: served_out,
}];

/// How many requests each may serve.
const SHARE: u64 = 200;

async fn count(worker: Worker) -> Result<(), ServeError> {
    let (id, counters) = (worker.id(), worker.counters().clone());
    worker.on_shutdown(move || async move { probe::say(&format!("served {id} {}", counters.snapshot().requests)) });
    load::serve(worker).await
}

/// What the master knew when it decided.
fn tell_at_how_many(event: &ClusterEvent, handle: &ClusterHandle) {
    if let EventKind::Recycling(RecycleReason::Requests) = event.kind {
        let worker = probe::worker_of(event, handle);
        probe::say(&format!(
            "recycled {} {}",
            worker.id(),
            worker.snapshot().stats.requests
        ));
    }
}

fn numbers(master: &Master, what: &str) -> BTreeMap<u64, u64> {
    let said = master.said(what).into_iter();
    let numbers = said.map(|(text, _)| {
        let (id, number) = text.split_once(' ').expect("a worker and its number");
        (id.parse().unwrap(), number.parse().unwrap())
    });
    numbers.collect()
}

fn served_out(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 3);
    // Each of the first ones, and some of their successors.
    for worker in [1, 2, 3] {
        assert_eq!(master.sees(worker, "recycling").data(), "requests");
        let exit = master.sees(worker, "exit");
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
    }
    master.expect_count("recycling", 6);
    load.stop().is_flawless();
    // Nobody before its share, less a tenth; everybody served on until its successor was ready.
    let (decided, served) = (numbers(master, "recycled "), numbers(master, "served "));
    assert!(decided.len() >= 5, "{decided:?}");
    for (worker, requests) in &decided {
        assert!(*requests >= SHARE - SHARE / 10, "worker {worker} went after {requests}");
        assert!(
            served.get(worker).is_none_or(|served| served >= requests),
            "{decided:?} {served:?}"
        );
    }
    assert!(master.seen("restart_scheduled").is_empty(), "it was no failure");
    // One at a time: between the begin of a replacement and the exit of who was replaced no other begins.
    let at = |line: &serde_json::Value| line["seq"].as_u64().unwrap();
    let recycling = master.seen("recycling");
    for pair in recycling.windows(2) {
        let gone = master.once(pair[0].worker(), "exit");
        assert!(
            at(&gone.0) < at(&pair[1].0),
            "two at a time: {:?} {:?}",
            gone.0,
            pair[1].0
        );
        let successor = master.seen("ready").into_iter().find(|ready| {
            ready.0["worker"]["slot"] == pair[0].0["worker"]["slot"] && ready.worker() > pair[0].worker()
        });
        assert!(
            at(&successor.unwrap().0) < at(&master.once(pair[0].worker(), "exiting").0),
            "a gap"
        );
    }
}
