//! Pauses that are nobody's fault: the master stopped, a worker stopped for a moment, a machine without time. Nobody is
//! killed for them, and who hangs really is found all the same.
//!
//! `ACTIX_CLUSTER_SOAK=1` does each of them many more times.

use std::time::Duration;

use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, HANG, STALE, killed_in_time};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_145_a_master_that_was_stopped_for_ten_times_the_limit_blames_nobody",
        app: || stuck::cluster(4).main(),
        check: |master| {
            master.expect_ready();
            master.stop_process(master.pid());
            let_pass(limit(HANG) * 10);
            master.signal(Signal::SIGCONT);
            master.never("a word against a worker", Duration::from_secs(2), |line| {
                line["event"] == "unhealthy" || line["event"] == "exit"
            });
            assert_eq!(master.snapshot()["ready"], 4);
            assert_eq!(master.snapshot()["lag"]["pauses"], 1);
        },
    },
    Scenario {
        name: "f_145_stops_of_the_master_at_any_moment_for_any_time_kill_nobody",
        app: || stuck::monitored(stuck::config(), load::cluster().workers(4)).main(),
        check: the_master_is_stopped,
    },
    Scenario {
        name: "stops_of_single_workers_shorter_than_the_limit_kill_nobody_under_load",
        app: || stuck::monitored(stuck::config(), load::cluster().workers(4)).main(),
        check: workers_are_stopped,
    },
    Scenario {
        name: "real_hangs_are_all_found_within_the_limit",
        app: || stuck::cluster(2).main(),
        check: hangs_are_found,
    },
];

fn the_master_is_stopped(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let load = Load::start(port, 1);
    let times = if is_soak() { 1_000 } else { 10 };
    let mut chance = 11;
    for _ in 0..times {
        // Shorter than a beat, around the limit, and far beyond it.
        let longest = [limit(stuck::INTERVAL), limit(STALE), limit(HANG) * 2];
        let most = longest[usize::try_from(any_below(3, &mut chance)).expect("it is small")];
        master.stop_process(master.pid());
        let_pass(any_time(most, &mut chance));
        master.signal(Signal::SIGCONT);
        let_pass(any_time(limit(STALE), &mut chance));
    }
    load.stop().is_flawless();
    nobody_was_killed(master, &format!("{times} stops of the master"));
}

fn workers_are_stopped(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let load = Load::start(port, 2);
    let times = if is_soak() { 200 } else { 10 };
    let mut chance = 13;
    for _ in 0..times {
        let worker = 1 + any_below(4, &mut chance);
        let pid = master.once(worker, "ready").pid();
        master.stop_process(pid);
        // Up to what is stale; the third miss is what kills.
        let_pass(any_time(limit(STALE), &mut chance));
        send(pid, Signal::SIGCONT);
        let_pass(any_time(limit(stuck::INTERVAL), &mut chance));
    }
    load.stop().is_flawless();
    nobody_was_killed(master, &format!("{times} stops of single workers"));
}

fn hangs_are_found(master: &mut Master) {
    master.expect_ready();
    let times = if is_soak() { 100 } else { 4 };
    let mut took = Vec::new();
    for worker in 1..=times {
        // Whoever is the oldest; at any moment between two beats and two checks.
        let pid = master.once(worker, "ready").pid();
        send(pid, Signal::SIGSTOP);
        took.push(killed_in_time(master, worker));
        master.expect_of(worker + 2, "ready");
    }
    took.sort();
    let (middle, last) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{times} hangs, all found: median {middle:?}, longest {last:?}, limit {:?}",
        limit(HANG)
    );
    assert_eq!(master.seen("exit").len() as u64, times, "and nobody else");
}

fn nobody_was_killed(master: &mut Master, what: &str) {
    master.never("an end", limit(HANG), |line| line["event"] == "exit");
    let killed = master.seen("exit").len();
    let told = master.seen("unhealthy").len();
    let lag = master.snapshot()["lag"].clone();
    eprintln!(
        "{what}: false kills {killed}, notices {told}, pauses seen {}",
        lag["pauses"]
    );
    assert_eq!(killed, 0);
    assert_eq!(master.snapshot()["ready"], 4);
}

fn any_time(most: Duration, chance: &mut u64) -> Duration {
    Duration::from_micros(any_below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX), chance))
}

fn is_soak() -> bool {
    std::env::var_os("ACTIX_CLUSTER_SOAK").is_some()
}
