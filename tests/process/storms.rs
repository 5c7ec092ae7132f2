//! Crash storms: many workers die, again and again, and meanwhile somebody asks for more than that.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_cluster::{RestartLimit, ServeError, Worker};
use actix_cluster_tests::master::{Master, Seen, send};
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
    let (mut chance, mut good, mut killed) = (7, 0, BTreeSet::new());
    let (mut succeeded, mut retreated) = (0, 0);
    let reloads = if is_soak() { 100 } else { 8 };
    for target in 1..=reloads {
        master.order(&Order::Reload(Care::default()));
        // The limit: for each worker, boot and grace.
        let deadline = Deadline::after(limit(4 * (probe::BOOT + probe::GRACE)));
        while master.seen("reload_finished").len() < target {
            assert!(!deadline.is_over(), "the reload hangs");
            kill_any(master, &mut chance, &mut killed, 1);
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
        all_have_ended(master, &killed);
        master.post();
        let gone = |master: &Master| master.seen("fork").len() - master.seen("exit").len() == 4;
        master.until("those who leave to be gone", gone);
        runs(master, 4, good);
    }
    let kills = killed.len();
    assert!(kills > 2 * reloads, "there was no storm");
    println!("reloads in a storm of {kills} kills: {succeeded} good, {retreated} retreats");
}

fn storm(master: &mut Master) {
    master.expect_ready();
    let (workers, kills) = if is_soak() { (200, 3_000) } else { (20, 60) };
    let (mut chance, mut killed, mut least) = (11, BTreeSet::new(), workers);
    // Fifty a second in a soak, whatever is ready. Otherwise as fast as the machine has others ready: one kill is to cost one
    // worker, for as long as a boot takes.
    let room = if is_soak() { 1 } else { workers - workers / 10 };
    let deadline = Deadline::after(limit(Duration::from_secs(if is_soak() { 600 } else { 30 })));
    while killed.len() < kills {
        assert!(!deadline.is_over(), "the storm is stuck after {}", killed.len());
        let ready = kill_any(master, &mut chance, &mut killed, room);
        least = least.min(ready);
        let_pass(Duration::from_millis(20));
    }
    all_have_ended(master, &killed);
    master.post();
    let (forks, exits) = (master.seen("fork"), master.seen("exit"));
    let of = |seen: &[Seen]| seen.iter().map(Seen::worker).collect::<BTreeSet<_>>();
    assert_eq!(forks.len(), workers + exits.len());
    // Each exit has its own fork, there is one of each, and nobody ended who was not killed.
    assert_eq!((of(&forks).len(), of(&exits)), (forks.len(), killed));
    println!("{kills} kills of {workers} workers: at least {least} ready at any time");
    assert!(5 * least >= 4 * workers, "only {least} of {workers} ready in the storm");
}

/// Kills one of the workers, if so many of those that are not killed yet are ready, and says how many are ready.
fn kill_any(master: &mut Master, chance: &mut u64, killed: &mut BTreeSet<u64>, at_least: usize) -> usize {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    let is_ready = |worker: &&Value| worker["ready"] == true;
    let alive = |worker: &&Value| !killed.contains(&worker["id"].as_u64().unwrap());
    let unharmed = workers.iter().filter(is_ready).filter(alive).count();
    // Those that boot are hit, too.
    let victims: Vec<&Value> = workers
        .iter()
        .filter(alive)
        .filter(|worker| worker["pid"].is_u64())
        .collect();
    if unharmed >= at_least {
        let victim = victims[usize::try_from(any_below(victims.len() as u64, chance)).unwrap()];
        send(u32::try_from(victim["pid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
        killed.insert(victim["id"].as_u64().unwrap());
    }
    workers.iter().filter(is_ready).count()
}

/// Waits until the end of each of them was told: a death is not there with the signal.
fn all_have_ended(master: &Master, killed: &BTreeSet<u64>) {
    master.until("the last of those killed to be told", |master| {
        let ended: BTreeSet<u64> = master.seen("exit").iter().map(Seen::worker).collect();
        killed.is_subset(&ended)
    });
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
