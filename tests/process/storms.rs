//! Crash storms: many workers die, again and again, and meanwhile somebody asks for more than that.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_cluster::{RestartLimit, ServeError, Worker};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit, load};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::reload::{next_result, runs};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_171_a_reload_in_a_crash_storm_ends_well_or_in_a_clean_retreat",
        app: || {
            load::cluster()
                .workers(4)
                .restart_limit(RestartLimit::unlimited())
                .worker(slow)
                .main()
        },
        check: reload_in_a_storm,
    },
    Scenario {
        name: "f_026_a_storm_of_kills_leaves_most_workers_ready_and_pairs_every_fork_with_an_exit",
        app: || {
            let cluster = probe::cluster().workers(if is_soak() { 200 } else { 20 });
            cluster.restart_limit(RestartLimit::unlimited()).worker(idle).main()
        },
        check: storm,
    },
];

/// Takes its time to start, so that a storm hits those who boot too.
async fn slow(worker: Worker) -> Result<(), ServeError> {
    load::busy(Duration::from_millis(40)).await;
    load::serve(worker).await
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

fn reload_in_a_storm(master: &mut Master) {
    master.expect_ready();
    let (mut chance, mut good, mut kills) = (7, 0, 0);
    let (mut succeeded, mut retreated) = (0, 0);
    let reloads = if is_soak() { 100 } else { 8 };
    for target in 1..=reloads {
        master.order(&Order::Reload(Care::default()));
        // The limit: for each worker, boot and grace.
        let deadline = Deadline::after(limit(4 * (probe::BOOT + probe::GRACE)));
        while master.seen("reload_finished").len() < target {
            assert!(!deadline.is_over(), "the reload hangs");
            kills += usize::from(kill_any(master, &mut chance));
            let_pass(Duration::from_millis(50));
            let live = generations(&master.snapshot());
            assert!(live.len() <= 2, "more than two generations: {live:?}");
        }
        // The storm ends, and everybody is of one generation, which the answer tells.
        let result = next_result(master);
        if result["Ok"].is_null() && result.get("Ok").is_some() {
            (good, succeeded) = (target as u64, succeeded + 1);
        } else {
            assert!(result["Err"]["reason"]["exited"].is_object(), "{result}");
            retreated += 1;
        }
        master.post();
        let gone = |master: &Master| master.seen("fork").len() - master.seen("exit").len() == 4;
        master.until("those who leave to be gone", gone);
        runs(master, 4, good);
    }
    assert!(kills > 2 * reloads, "there was no storm");
    println!("reloads in a storm of {kills} kills: {succeeded} good, {retreated} retreats");
}

fn storm(master: &mut Master) {
    master.expect_ready();
    let (workers, time) = if is_soak() { (200, 60) } else { (20, 2) };
    let (mut chance, mut kills, mut least) = (11, 0, workers);
    // Fifty kills a second; the machine's speed decides how long the rest takes, so the time is not stretched.
    let (deadline, beat) = (Deadline::after(Duration::from_secs(time)), Duration::from_millis(20));
    while !deadline.is_over() {
        kills += usize::from(kill_any(master, &mut chance));
        let snapshot = master.snapshot();
        least = least.min(snapshot["ready"].as_u64().unwrap());
        let_pass(beat);
    }
    master.post();
    let (forks, exits) = (master.seen("fork"), master.seen("exit"));
    let of = |seen: &[actix_cluster_tests::master::Seen]| seen.iter().map(|one| one.worker()).collect::<BTreeSet<_>>();
    assert_eq!(forks.len() as u64, workers + exits.len() as u64);
    // Each exit has its own fork, and there is one of each.
    assert_eq!((of(&forks).len(), of(&exits).len()), (forks.len(), exits.len()));
    assert!(of(&exits).is_subset(&of(&forks)));
    assert!(kills > 0 && exits.len() <= kills);
    println!("{kills} kills of {workers} workers: at least {least} ready at any time");
    assert!(5 * least >= 4 * workers, "only {least} of {workers} ready in the storm");
}

/// Kills one of the workers that are ready; false if there is none.
fn kill_any(master: &mut Master, chance: &mut u64) -> bool {
    let snapshot = master.snapshot();
    let ready: Vec<u64> = snapshot["workers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|worker| worker["pid"].as_u64())
        .collect();
    if ready.is_empty() {
        return false;
    }
    let victim = ready[usize::try_from(any_below(ready.len() as u64, chance)).unwrap()];
    send(u32::try_from(victim).unwrap(), Signal::SIGKILL);
    true
}

/// The generations of all who live.
fn generations(snapshot: &Value) -> BTreeSet<u64> {
    let workers = snapshot["workers"].as_array().unwrap();
    workers
        .iter()
        .filter_map(|worker| worker["generation"].as_u64())
        .collect()
}

fn is_soak() -> bool {
    std::env::var_os("ACTIX_CLUSTER_SOAK").is_some()
}
