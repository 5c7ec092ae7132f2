//! Workers that use too much memory: replaced one after the other, or killed, and told of.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, EventKind, RestartLimit, ServeError, Worker};
use actix_cluster_actors::{MemoryConfig, MemoryLimit, MemoryWatchdog};
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::seen::Seen;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "guide_memory_is_reported_each_period_and_above_ninety_percent_the_worker_is_replaced",
        app: || watched(2, config().hard(None)).main(),
        check: replaced,
    },
    Scenario {
        name: "guide_memory_at_the_hard_limit_the_worker_is_killed_and_its_exit_says_memory",
        app: || watched(2, config().soft(1.0)).main(),
        check: killed,
    },
    Scenario {
        name: "f_184_i_41_all_over_at_once_are_replaced_one_at_a_time_and_no_request_fails",
        app: || {
            let cluster = load::cluster().workers(4).worker(serve);
            attach(cluster, config().hard(None)).main()
        },
        check: all_at_once,
    },
    Scenario {
        name: "f_185_a_limit_below_the_footprint_is_told_once_and_ends_in_no_loop",
        app: || {
            let config = MemoryConfig::new(MemoryLimit::mib(1)).period(limit(PERIOD));
            attach(probe::cluster().workers(3).worker(hold), config).main()
        },
        check: below_the_footprint,
    },
    Scenario {
        name: "f_186_killed_for_memory_and_crashing_at_the_same_time_is_one_exit_and_one_successor",
        app: || {
            let cluster = watched(1, config().soft(1.0));
            cluster.restart_limit(RestartLimit::unlimited()).main()
        },
        check: killed_and_crashed,
    },
    Scenario {
        name: "f_186_recycled_for_memory_and_reloaded_at_the_same_time_is_one_replacement",
        app: || watched(2, config().hard(None)).main(),
        check: recycled_and_reloaded,
    },
    Scenario {
        name: "f_235_without_control_groups_a_percentage_is_of_the_machine_and_one_warning_says_so",
        app: without_groups,
        check: of_the_machine,
    },
    Scenario {
        name: "f_187_memory_that_cannot_be_read_is_told_once_and_nothing_is_done",
        app: without_proc,
        check: unreadable,
    },
];

/// How often the memory is read.
const PERIOD: Duration = Duration::from_millis(100);
/// The limit of a worker, well above what one needs.
const LIMIT: u64 = 256;
/// Above the soft limit (230.4) and below the hard one.
const SOFT: u64 = 242;
const HARD: u64 = 280;
const MIB: u64 = 1 << 20;

fn config() -> MemoryConfig {
    MemoryConfig::new(MemoryLimit::mib(LIMIT))
        .period(limit(PERIOD))
        .spread(0.0)
}

fn attach(cluster: ClusterBuilder, config: MemoryConfig) -> ClusterBuilder {
    MemoryWatchdog::new(config)
        .expect("the limits are valid")
        .attach(cluster)
}

fn watched(workers: u32, config: MemoryConfig) -> ClusterBuilder {
    attach(probe::cluster().workers(workers).worker(hold), config)
}

async fn hold(worker: Worker) {
    grow_as_told(&worker);
    worker.ready();
    probe::idle(&worker).await;
}

async fn serve(worker: Worker) -> Result<(), ServeError> {
    grow_as_told(&worker);
    load::serve(worker).await
}

/// `to N`: until it uses N MiB; `crash N M`: the same, and it aborts M ms later; `leak N`: N MiB more.
fn grow_as_told(worker: &Worker) {
    worker.on_message(|message| {
        let text = probe::text_of(&message);
        let words: Vec<&str> = text.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        match words[0] {
            "to" => grow_to(number(1)),
            "leak" => grow_by(number(1)),
            _ => {
                let later = Duration::from_millis(number(2));
                // Its clock runs before the reading that finds it too big.
                std::thread::spawn(move || {
                    actix_cluster_tests::outside::let_pass(later);
                    std::process::abort()
                });
                grow_to(number(1));
            }
        }
    });
}

fn grow_by(mib: u64) {
    Box::leak(vec![1_u8; (mib * MIB) as usize].into_boxed_slice());
}

/// In one step, so that no reading finds it half grown.
pub(crate) fn grow_to(mib: u64) {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    grow_by(mib - pages * 4096 / MIB);
}

/// The watchdog's events of this name.
pub(crate) fn told(master: &Master, name: &str) -> Vec<Seen> {
    let mut seen = master.seen("custom");
    seen.retain(|seen| seen.data()["source"] == "memory" && seen.data()["name"] == name);
    seen
}

fn seq(seen: &Seen) -> u64 {
    seen.0["seq"].as_u64().unwrap()
}

fn replaced(master: &mut Master) {
    master.expect_ready();
    // Read and reported again and again, whatever happens: and of these two, once both are there.
    let before = told(master, "report").len();
    master.until("four reports", |master| told(master, "report").len() >= before + 4);
    for report in told(master, "report").iter().skip(before + 1) {
        let data = &report.data()["data"];
        let workers = data["workers"].as_array().unwrap();
        let is_known = |worker: &Value| {
            worker["rss_bytes"]
                .as_u64()
                .is_some_and(|rss| (MIB..LIMIT * MIB).contains(&rss))
        };
        assert!(workers.len() == 2 && workers.iter().all(is_known), "{data}");
        assert_eq!(workers[0]["limit_bytes"], LIMIT * MIB);
    }
    assert!(master.seen("recycling").is_empty(), "nobody is over");
    master.order(&Order::Send(1, format!("to {SOFT}")));
    assert_eq!(master.sees(1, "recycling").data(), "memory");
    let exit = master.sees(1, "exit");
    assert_eq!((exit.code(), exit.reason()), (Some(0), &json!("ordered")));
    let over = &told(master, "over")[0];
    let used = over.data()["data"]["used_bytes"].as_u64().unwrap();
    assert!(over.worker() == 1 && used > LIMIT * MIB / 10 * 9, "{over:?}");
    assert_eq!(over.data()["data"]["action"], "replace");
    // Its successor was ready before it was told to stop, its sibling was left alone, and it was no failure.
    assert!(seq(&master.once(3, "ready")) < seq(&master.once(1, "exiting")));
    assert!(master.seen("exit").len() == 1 && master.seen("restart_scheduled").is_empty());
}

fn killed(master: &mut Master) {
    master.expect_ready();
    master.order(&Order::Send(2, format!("to {HARD}")));
    let exit = master.sees(2, "exit");
    assert_eq!(exit.signal(), Some(9));
    let reason = exit.reason()["memory"].as_str().unwrap();
    assert!(reason.ends_with("of 256.0 MiB"), "{reason}");
    assert_eq!(told(master, "over")[0].data()["data"]["action"], "kill");
    master.sees(3, "ready");
    // A failure as any other: it counts.
    master.until("a restart", |master| !master.seen("restart_scheduled").is_empty());
    assert_eq!(master.seen("exit").len(), 1);
}

fn all_at_once(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 3);
    load.goes_on_for(50);
    master.order(&Order::Broadcast(format!("to {SOFT}")));
    for worker in 1..=4 {
        assert_eq!(master.sees(worker, "recycling").data(), "memory");
        let exit = master.sees(worker, "exit");
        assert_eq!((exit.code(), exit.reason()), (Some(0), &json!("ordered")));
    }
    load.stop().is_flawless();
    assert_eq!(master.seen("recycling").len(), 4, "their successors are well");
    // One at a time: between the begin of a replacement and the exit of who was replaced no other begins.
    let recycling = master.seen("recycling");
    for pair in recycling.windows(2) {
        let gone = master.once(pair[0].worker(), "exit");
        assert!(seq(&gone) < seq(&pair[1]), "two at a time: {gone:?} {pair:?}");
    }
    // From the first "all ready" on, never fewer than wanted.
    let all_ready = seq(&master.seen("all_ready")[0]);
    let mut ready: BTreeSet<u64> = BTreeSet::new();
    let mut course = [master.seen("ready"), master.seen("exiting"), master.seen("exit")].concat();
    course.sort_by_key(seq);
    for event in course {
        if event.0["event"] == "ready" {
            ready.insert(event.worker());
        } else {
            ready.remove(&event.worker());
        }
        assert!(seq(&event) < all_ready || ready.len() >= 4, "{ready:?} after {event:?}");
    }
}

fn below_the_footprint(master: &mut Master) {
    master.expect_ready();
    master.until("the word", |master| !told(master, "limit_too_low").is_empty());
    let reports = told(master, "report").len();
    // Twice the time after which a watchdog tries again, with everybody over both limits.
    master.until("many more readings", |master| {
        told(master, "report").len() >= reports + 24
    });
    let words = told(master, "limit_too_low");
    let what = words[0].data()["data"]["what"].as_str().unwrap();
    assert!(words.len() == 1 && what.contains("raise the limit"), "{words:?}");
    assert_eq!(master.seen("recycling").len(), 1, "one was tried");
    assert_eq!((master.seen("fork").len(), master.seen("exit").len()), (4, 1));
    assert!(master.log().contains("raise the limit"));
}

/// Of each worker one exit, and for each exit one successor.
fn one_exit_each(master: &mut Master, workers: usize) {
    master.ask(&Order::Ping, "pong");
    let (forks, exits) = (master.seen("fork"), master.seen("exit"));
    let gone: BTreeSet<u64> = exits.iter().map(Seen::worker).collect();
    assert_eq!(gone.len(), exits.len(), "an exit told twice: {exits:?}");
    assert_eq!(forks.len(), exits.len() + workers, "as many successors as exits");
}

fn killed_and_crashed(master: &mut Master) {
    master.expect_ready();
    let mut reasons = BTreeSet::new();
    for worker in 1..=12_u64 {
        master.sees(worker, "ready");
        // Before it was read, about then, and long after.
        let halves = [0, 1, 2, 4, 8, 600][worker as usize % 6];
        let later = limit(PERIOD).as_millis() as u64 * halves / 2;
        master.order(&Order::Send(worker, format!("crash {HARD} {later}")));
        let exit = master.sees(worker, "exit");
        reasons.insert(exit.reason().to_string());
        master.sees(worker + 1, "ready");
        one_exit_each(master, 1);
    }
    // Both were faster at times.
    let was_killed = reasons.iter().any(|reason| reason.contains("memory"));
    assert!(was_killed && reasons.contains("\"crash\""), "{reasons:?}");
}

fn recycled_and_reloaded(master: &mut Master) {
    master.expect_ready();
    let mut newest = 2;
    for round in 0..4 {
        for worker in [newest - 1, newest] {
            master.order(&Order::Send(worker, format!("to {SOFT}")));
        }
        // At once, or when the watchdog has begun.
        if round % 2 == 1 {
            let before = told(master, "over").len();
            master.until("the watchdog", |master| {
                told(master, "over").len() > before.max(round / 2)
            });
        }
        master.order(&Order::Reload(Care::default()));
        master.expect_said_within("reloaded ", Duration::from_secs(30));
        for worker in [newest - 1, newest] {
            assert_eq!(master.sees(worker, "exit").reason(), &json!("ordered"));
        }
        // Whom the watchdog had replaced before the reload began was replaced again, by the reload.
        let snapshot = master.snapshot();
        let alive: Vec<u64> = snapshot["workers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|worker| worker["id"].as_u64())
            .collect();
        assert_eq!((alive.len(), &snapshot["ready"]), (2, &json!(2)), "{snapshot}");
        one_exit_each(master, 2);
        newest = *alive.iter().max().unwrap();
        assert_eq!(alive.iter().min(), Some(&(newest - 1)), "{alive:?}");
    }
}

/// The master does not see what `/proc` tells of its workers, as in a container that hides it. Needs root; says so where it
/// is not.
fn without_proc() -> ExitCode {
    let nothing = None::<&str>;
    let config = MemoryConfig::new(MemoryLimit::mib(LIMIT)).period(limit(PERIOD));
    let mut cluster = attach(probe::cluster().workers(2).worker(hold), config);
    if std::env::var_os("ACTIX_CLUSTER_WORKER").is_none() {
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        // Before there is another thread, so that all have the same view.
        let own_view = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| mount(nothing, "/", nothing, flags, nothing));
        match own_view {
            Ok(()) => {
                cluster = cluster.on_event(move |event, _| {
                    if let (EventKind::Online, Some(pid)) = (&event.kind, event.worker.as_ref().and_then(|it| it.pid)) {
                        let folder = format!("/proc/{pid}");
                        mount(Some("none"), folder.as_str(), Some("tmpfs"), MsFlags::empty(), nothing).unwrap();
                        probe::say("hidden");
                    }
                });
            }
            Err(error) => probe::say(&format!("skip {error}")),
        }
    }
    cluster.main()
}

/// A view of the files of its own. Before there is another thread, so that all share it.
fn own_view() -> nix::Result<()> {
    let (nothing, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(nothing, "/", nothing, flags, nothing)
}

fn without_groups() -> ExitCode {
    let hidden = || {
        own_view()?;
        let nothing = None::<&str>;
        mount(Some("none"), "/sys/fs/cgroup", Some("tmpfs"), MsFlags::empty(), nothing)
    };
    if std::env::var_os("ACTIX_CLUSTER_WORKER").is_none() {
        match hidden() {
            Ok(()) => probe::say("hidden"),
            Err(error) => probe::say(&format!("skip {error}")),
        }
    }
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let percent = (LIMIT * MIB) as f64 / (kib * 1024) as f64 * 100.0;
    let config = MemoryConfig::new(MemoryLimit::Percent(percent)).period(limit(PERIOD));
    watched(2, config.spread(0.0).hard(None)).main()
}

fn of_the_machine(master: &mut Master) {
    let first = master.expect_line("hidden or not", actix_cluster_tests::master::SOON, |line| {
        !line["said"].is_null()
    });
    if first["said"] != "hidden" {
        eprintln!("skipped, needs root: {}", first["said"]);
        return;
    }
    master.expect_ready();
    master.order(&Order::Send(1, format!("to {SOFT}")));
    assert_eq!(master.sees(1, "recycling").data(), "memory");
    master.sees(1, "exit");
    // Of an end by `SIGKILL` nobody can tell whether it was for want of memory, so it is a crash.
    actix_cluster_tests::master::send(master.once(2, "ready").pid(), nix::sys::signal::Signal::SIGKILL);
    assert_eq!(master.sees(2, "exit").reason(), &json!("crash"));
    let report = told(master, "report").pop().unwrap();
    assert_eq!(report.data()["data"]["group"]["limit_bytes"], Value::Null);
    assert_eq!(master.log().matches("only /proc is read").count(), 1);
}

fn unreadable(master: &mut Master) {
    let first = master.expect_line("hidden or not", actix_cluster_tests::master::SOON, |line| {
        !line["said"].is_null()
    });
    if first["said"] != "hidden" {
        eprintln!("skipped, needs root: {}", first["said"]);
        return;
    }
    master.until("both hidden", |master| master.count_said("hidden") == 2);
    for worker in [1, 2] {
        master.sees(worker, "ready");
    }
    master.order(&Order::Send(1, format!("leak {HARD}")));
    master.until("the word", |master| !told(master, "unreadable").is_empty());
    let reports = told(master, "report").len();
    assert!(reports > 0);
    master.until("more readings", |master| told(master, "report").len() >= reports + 10);
    for report in &told(master, "report")[reports..] {
        for worker in report.data()["data"]["workers"].as_array().unwrap() {
            assert_eq!(worker["rss_bytes"], Value::Null, "unknown is not zero");
        }
    }
    assert_eq!(told(master, "unreadable").len(), 1);
    assert!(master.seen("recycling").is_empty() && master.seen("exit").is_empty());
    assert!(told(master, "limit_too_low").is_empty() && told(master, "over").is_empty());
}
