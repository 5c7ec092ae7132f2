//! Pauses that are nobody's fault: the master stopped, a worker stopped for a moment, a machine without time. Nobody is
//! killed for them, and who hangs really is found all the same.
//!
//! `ACTIX_CLUSTER_SOAK=1` does each of them many more times.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{any_below, let_pass};
use actix_cluster_tests::punctuality::Punctuality;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::stuck::{self, HANG, SLACK, STALE, killed};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_145_a_master_that_was_stopped_for_ten_times_the_limit_blames_nobody",
        app: || stuck::cluster(4).main(),
        check: |master| {
            master.expect_ready();
            let before = master.snapshot()["lag"]["pauses"].as_u64().expect("a number");
            let machine = Punctuality::of_this_machine();
            master.stop_process(master.pid());
            let_pass(limit(HANG) * 10);
            master.signal(Signal::SIGCONT);
            master.never("a word against a worker", Duration::from_secs(2), |line| {
                line["event"] == "unhealthy" || line["event"] == "exit"
            });
            assert_eq!(master.snapshot()["ready"], 4);
            // One for the stop. A machine that lets nobody run for long makes pauses of its own.
            let pauses = master.snapshot()["lag"]["pauses"].as_u64().expect("a number") - before;
            let most = if machine.worst() < Duration::from_millis(100) {
                1
            } else {
                3
            };
            assert!((1..=most).contains(&pauses), "{pauses} pauses");
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
        name: "f_041_a_cluster_that_gets_a_twentieth_of_a_cpu_loses_nobody",
        app: || stuck::monitored(stuck::config(), load::cluster().workers(4)).main(),
        check: starved,
    },
    Scenario {
        name: "workers_that_beat_less_often_than_the_monitor_asked_for_are_left_alone_and_it_says_so",
        app: || stuck::cluster(2).heartbeat(limit(RARE)).main(),
        check: |master| {
            master.expect_ready();
            master.expect_log("workers beat less often", 1);
            master.never("a word against a worker", RARE * 3, |line| {
                line["event"] == "unhealthy" || line["event"] == "exit"
            });
            assert_eq!(master.log().matches("workers beat less often").count(), 1);
            send(master.once(1, "ready").pid(), Signal::SIGSTOP);
            // Its third miss comes after twice its beat, and some.
            let is_it = |line: &Value| line["event"] == "exit" && line["worker"]["id"] == 1;
            let exit = master.expect_line("exit of worker 1", RARE * 5, is_it);
            assert_eq!(exit["data"]["reason"], serde_json::json!({"hang": "main"}));
        },
    },
    Scenario {
        name: "a_monitor_of_workers_that_never_beat_says_that_it_watches_nobody",
        app: || stuck::cluster(1).heartbeat(Duration::ZERO).main(),
        check: |master| {
            master.expect_ready();
            master.expect_log("watches nobody", 1);
            master.never("it to be said again", stuck::CHECK * 3, |line| line["event"] == "exit");
            assert_eq!(master.log().matches("watches nobody").count(), 1);
        },
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
    let served = load.stop();
    nobody_was_killed(master, &format!("{times} stops of the master"));
    served.is_flawless();
}

fn workers_are_stopped(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let load = Load::start(port, 2);
    let times = if is_soak() { 200 } else { 10 };
    let (mut chance, mut worker) = (13, 0);
    for _ in 0..times {
        // Another one than before: two stops in a row with no beat between them are one long silence.
        worker = 1 + (worker + any_below(3, &mut chance)) % 4;
        let pid = master.once(worker, "ready").pid();
        master.stop_process(pid);
        // Up to what is stale; the third miss is what kills.
        let_pass(any_time(limit(STALE), &mut chance));
        send(pid, Signal::SIGCONT);
        let_pass(any_time(limit(stuck::INTERVAL), &mut chance));
    }
    let served = load.stop();
    nobody_was_killed(master, &format!("{times} stops of single workers"));
    served.is_flawless();
}

fn starved(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let Some(group) = Starved::new(&master.directory().file_name().unwrap_or_default().to_string_lossy()) else {
        eprintln!("no group whose share of the CPU could be set: nothing is shown");
        return;
    };
    group.take_in(master.pid());
    for seen in master.seen("fork") {
        group.take_in(seen.pid());
    }
    let load = Load::start(port, 4);
    let_pass(limit(HANG) * 4);
    let throttled = group.throttled();
    drop(group);
    load.stop().is_flawless();
    assert!(throttled > 10, "they got all they wanted: {throttled}");
    nobody_was_killed(master, &format!("{throttled} periods without time"));
}

/// A group of processes that get 5 ms of a CPU in every 100 ms.
struct Starved(PathBuf);

impl Starved {
    /// `None` where it takes privilege, or the kernel's other kind of groups is used.
    fn new(name: &str) -> Option<Self> {
        let group = Path::new(CPU_GROUPS).join(name);
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(group.0.join("cpu.cfs_quota_us"), "5000").ok()?;
        Some(group)
    }

    fn take_in(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("the process is there");
    }

    /// In how many periods they wanted more than they got.
    fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap_or_default();
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.and_then(|count| count.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines() {
            // One that has ended needs no other group.
            fs::write(Path::new(CPU_GROUPS).join("cgroup.procs"), pid).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

fn hangs_are_found(master: &mut Master) {
    master.expect_ready();
    let times = if is_soak() { 100 } else { 4 };
    let mut took = Vec::new();
    for worker in 1..=times {
        // Whoever is the oldest; at any moment between two beats and two checks.
        let pid = master.once(worker, "ready").pid();
        // A pause of the master's own gives everybody the whole time again.
        let pauses = |master: &mut Master| master.snapshot()["lag"]["pauses"].clone();
        let before = pauses(master);
        send(pid, Signal::SIGSTOP);
        let lasted = killed(master, worker);
        if pauses(master) == before {
            assert!(lasted <= limit(HANG + SLACK), "killed after {lasted:?}");
            took.push(lasted);
        }
        master.expect_of(worker + 2, "ready");
    }
    took.sort();
    assert!(
        took.len() as u64 * 2 >= times,
        "a master that pauses all the time shows nothing"
    );
    let (middle, last) = (took[took.len() / 2], took[took.len() - 1]);
    eprintln!(
        "{times} hangs, all found, {} of them timed: median {middle:?}, longest {last:?}, limit {:?}",
        took.len(),
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

const CPU_GROUPS: &str = "/sys/fs/cgroup/cpu";

/// Far longer than the monitor's `stale_after`.
const RARE: Duration = Duration::from_secs(2);
