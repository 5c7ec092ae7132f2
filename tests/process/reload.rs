//! Reloads of clusters that serve: nobody is refused, new code that fails brings the old back, and one at a time.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{ServeError, Worker};
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load, held};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe::{Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_176_i_24_reloads_by_signal_under_load_fail_no_request",
        app: || load::cluster().workers(4).main(),
        check: |master| reloads_under_load(master, Signal::SIGHUP),
    },
    Scenario {
        name: "f_167_new_code_that_ends_at_boot_is_refused_and_the_old_goes_on",
        app: || from_a_copy(|| load::cluster().workers(2).main()),
        check: ends_at_boot,
    },
    Scenario {
        name: "f_168_new_code_that_never_gets_ready_is_given_up_at_the_boot_limit",
        app: || {
            from_a_copy(|| {
                let cluster = load::cluster().workers(2).boot_limit(limit(Duration::from_secs(2)));
                // What `sleep` is to do; a worker of ours does not look at them.
                cluster.args(["3600"]).main()
            })
        },
        check: never_ready,
    },
    Scenario {
        name: "f_169_new_code_that_crashes_on_probation_is_rolled_back_everywhere",
        app: || load::cluster().workers(2).worker(second_of_new_crashes).main(),
        check: crashes_on_probation,
    },
    Scenario {
        name: "f_174_a_worker_that_dies_before_the_new_generation_is_proven_is_replaced_by_the_old",
        app: || load::cluster().workers(2).worker(new_is_held).main(),
        check: old_worker_dies,
    },
    Scenario {
        name: "f_175_the_reload_of_one_worker_has_no_gap_or_needs_leave_for_one",
        app: || load::cluster().workers(1).main(),
        check: one_worker,
    },
    Scenario {
        name: "a_second_reload_is_refused_or_waits_for_the_first",
        app: || load::cluster().workers(2).worker(new_is_held).main(),
        check: two_at_once,
    },
    Scenario {
        name: "a_bad_verdict_on_the_canary_brings_the_old_generation_back",
        app: || load::cluster().workers(3).main(),
        check: bad_canary,
    },
    Scenario {
        name: "a_good_verdict_on_the_canary_lets_the_others_follow",
        app: || load::cluster().workers(3).main(),
        check: good_canary,
    },
    Scenario {
        name: "f_173_a_stop_during_a_reload_ends_it_and_everybody",
        app: || load::cluster().workers(3).worker(new_is_held).main(),
        check: |master| {
            master.expect_ready();
            master.signal(Signal::SIGHUP);
            let newcomer = master.expect_line("a newcomer", SOON, |line| {
                line["event"] == "online" && generation(line) == 1
            });
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(
                finished(master),
                vec![json!({"Err": {"worker": null, "reason": "shutting_down"}})]
            );
            assert_eq!(master.seen("exit").len(), master.seen("fork").len());
            let exit = master.once(newcomer["worker"]["id"].as_u64().unwrap(), "exit");
            assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
        },
    },
    Scenario {
        name: "a_stop_during_a_reload_leaves_no_caller_without_an_answer",
        app: || load::cluster().workers(2).worker(new_is_held).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Reload(Care::default()));
            master.expect("reload_started");
            let queue = true;
            master.order(&Order::Reload(Care {
                queue,
                ..Care::default()
            }));
            master.ask(&Order::Ping, "pong");
            master.order(&Order::Shutdown);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.count_said("not reloaded: the cluster is stopping"), 2);
        },
    },
];

fn reloads_under_load(master: &mut Master, signal: Signal) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 6);
    load.goes_on_for(200);
    let reloads = if std::env::var_os(SOAK_VAR).is_some() { 50 } else { 20 };
    for generation in 1..=reloads {
        master.signal(signal);
        let started = master.expect("reload_started");
        assert_eq!(started.data()["generation"], generation);
        assert_eq!(next_result(master), json!({"Ok": null}));
        runs(master, 4, generation);
        load.goes_on_for(200);
    }
    let outcome = load.stop();
    outcome.is_flawless();
    assert_eq!(outcome.generations.len() as u64, reloads + 1, "{outcome:?}");
    // Nobody was killed, and nobody cut off.
    for exit in master.seen("exit") {
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
        assert_eq!(
            (&exit.data()["forced"], &exit.data()["requests_cut"]),
            (&false.into(), &0.into())
        );
    }
    assert_eq!(master.seen("exit").len() as u64, 4 * reloads);
}

fn ends_at_boot(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 1);
    replace(master, "/bin/false");
    let why = master.ask(&Order::Reload(Care::default()), "not reloaded: ");
    assert!(
        why.starts_with("worker 3: it ended: ") && why.contains("exit code 1"),
        "{why}"
    );
    let result = next_result(master);
    assert_eq!(result["Err"]["worker"], 3);
    assert_eq!(result["Err"]["reason"]["exited"]["status"], json!({"code": 1}));
    assert_eq!(pids(master), old);
    // A program that is not there is no better.
    fs::remove_file(master.directory().join("copy")).unwrap();
    let why = master.ask(&Order::Reload(Care::default()), "not reloaded: ");
    assert!(why.contains("cannot open") && why.contains("copy"), "{why}");
    assert_eq!(pids(master), old);
    load.stop().is_flawless();
    assert!(master.counts_of(1, ["exiting", "exit"]) == [0, 0] && master.counts_of(2, ["exiting", "exit"]) == [0, 0]);
    // Restarts run what ran before.
    replace(master, "/bin/false");
    send(old[0], Signal::SIGKILL);
    let forked = master.expect_line("a successor", SOON, |line| {
        line["event"] == "ready" && generation(line) == 0
    });
    let exe = fs::read_link(format!("/proc/{}/exe", forked["worker"]["pid"])).unwrap();
    assert!(exe.ends_with("copy (deleted)"), "{exe:?}");
    // And good code is taken when it comes.
    replace(master, "/proc/self/exe");
    assert_eq!(master.ask(&Order::Reload(Care::default()), "reloaded "), "3");
    runs(master, 2, 3);
    for pid in pids(master) {
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/exe")).unwrap(),
            master.directory().join("copy")
        );
    }
    // The new generation's restarts run its own code, whatever is on disk then.
    replace(master, "/bin/false");
    let ready = master.seen("ready").len();
    send(pids(master)[0], Signal::SIGKILL);
    master.expect_count("ready", ready + 1);
    runs(master, 2, 3);
}

fn never_ready(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 1);
    replace(master, "/bin/sleep");
    let why = master.ask(&Order::Reload(Care::default()), "not reloaded: ");
    assert!(
        why.starts_with("worker 3: ") && why.contains("not ready within the boot limit"),
        "{why}"
    );
    assert_eq!(master.once(3, "exit").reason(), "boot_timeout");
    // A step's limit that is shorter than the boot limit counts first.
    let step_ms = Some(200);
    let why = master.ask(
        &Order::Reload(Care {
            step_ms,
            ..Care::default()
        }),
        "not reloaded: ",
    );
    assert_eq!(why, "worker 4: it was not ready within the limit of a step");
    assert_eq!(pids(master), old);
    load.stop().is_flawless();
    master.once(4, "exit");
}

fn crashes_on_probation(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 2);
    // With room for one at a time, the first has been replaced when the second fails.
    let probation_ms = limit(Duration::from_secs(2)).as_millis() as u64;
    master.order(&Order::Reload(Care {
        probation_ms,
        ..Care::default()
    }));
    master.once(4, "ready");
    fs::write(master.directory().join("die"), "").unwrap();
    let why = master.expect_said("not reloaded: ");
    assert!(
        why.starts_with("worker 4: it ended: ") && why.contains("exit code 7"),
        "{why}"
    );
    runs(master, 2, 0);
    let now = pids(master);
    assert!(
        now.contains(&old[1]),
        "who was not replaced yet was touched: {old:?} {now:?}"
    );
    assert!(!now.contains(&old[0]));
    load.stop().is_flawless();
}

async fn second_of_new_crashes(worker: Worker) -> Result<(), ServeError> {
    if worker.generation().0 > 0 && worker.slot().index == 1 {
        // Not serving: a request that it had would be lost with it, as with every crash.
        worker.ready();
        held(&worker, "die").await;
        worker.exit_now(7);
    }
    load::serve(worker).await
}

fn old_worker_dies(master: &mut Master) {
    master.expect_ready();
    let old = pids(master);
    master.signal(Signal::SIGHUP);
    master.expect("reload_started");
    send(old[1], Signal::SIGKILL);
    // The successor of slot 0 is held: nothing is proven, so slot 1 runs the old code once more.
    let again = master.expect_line("the old code", SOON, |line| line["event"] == "ready");
    assert_eq!((generation(&again), &again["worker"]["slot"]["index"]), (0, &1.into()));
    open(master, 1);
    assert_eq!(next_result(master), json!({"Ok": null}));
    runs(master, 2, 1);
}

fn one_worker(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    assert_eq!(master.ask(&Order::Reload(Care::default()), "reloaded "), "1");
    let none = Care {
        surge: Some(0),
        ..Care::default()
    };
    let why = master.ask(&Order::Reload(none.clone()), "not reloaded: ");
    assert_eq!(
        why,
        "`surge` and `max_unavailable` are both 0; allow at least one of them"
    );
    // Whoever allows a gap gets one: the master's socket is there all the time, so clients wait and nobody is refused.
    let in_place = Care {
        max_unavailable: Some(1),
        ..none
    };
    let generation = master.ask(&Order::Reload(in_place), "reloaded ");
    runs(master, 1, generation.parse().unwrap());
    load.stop().is_flawless();
    let order: Vec<String> = [master.once(2, "exit"), master.once(3, "fork")]
        .map(|seen| seen.0["seq"].to_string())
        .into();
    assert!(
        order[0].parse::<u64>().unwrap() < order[1].parse().unwrap(),
        "two at a time: {order:?}"
    );
}

fn two_at_once(master: &mut Master) {
    master.expect_ready();
    let queue = true;
    let queued = Order::Reload(Care {
        queue,
        ..Care::default()
    });
    master.order(&Order::Reload(Care::default()));
    master.expect("reload_started");
    let why = master.ask(&Order::Reload(Care::default()), "not reloaded: ");
    assert!(why.contains("another reload is running"), "{why}");
    // By signal too, and that is told.
    master.signal(Signal::SIGHUP);
    master.expect_log("signal has no effect: another reload is running", 1);
    master.order(&queued);
    master.ask(&Order::Ping, "pong");
    // One can wait.
    let why = master.ask(&queued, "not reloaded: ");
    assert!(why.contains("another reload is running"), "{why}");
    assert_eq!(master.seen("reload_started").len(), 1);
    open(master, 1);
    assert_eq!(next_result(master), json!({"Ok": null}));
    assert_eq!(master.expect("reload_started").data()["generation"], 2);
    open(master, 2);
    assert_eq!(next_result(master), json!({"Ok": null}));
    master.hears("reloaded 1");
    master.hears("reloaded 2");
    runs(master, 2, 2);
    assert_eq!(master.seen("reload_started").len(), 2);
}

fn bad_canary(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let old = pids(master);
    let load = Load::start(port, 2);
    let canary = Care {
        canary: Some((1, limit(Duration::from_secs(1)).as_millis() as u64)),
        verdict: Some(Err("too slow".to_owned())),
        ..Care::default()
    };
    let why = master.ask(&Order::Reload(canary), "not reloaded: ");
    assert_eq!(why, "the verdict on the canary was bad: too slow");
    assert_eq!(next_result(master)["Err"]["reason"]["canary"], "too slow");
    master.hears("judged [4]");
    runs(master, 3, 0);
    let now = pids(master);
    assert_eq!(now.iter().filter(|pid| old.contains(pid)).count(), 2);
    let outcome = load.stop();
    outcome.is_flawless();
    assert_eq!(outcome.generations, [0, 1].into());
    // The one that was replaced, twice: there and back.
    assert_eq!(master.seen("fork").len(), 5);
}

fn good_canary(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    let canary = Care {
        canary: Some((2, 100)),
        verdict: Some(Ok(())),
        ..Care::default()
    };
    assert_eq!(master.ask(&Order::Reload(canary), "reloaded "), "1");
    master.hears("judged [4, 5]");
    runs(master, 3, 1);
    load.stop().is_flawless();
    assert_eq!(master.seen("fork").len(), 6);
    // Without a judge a canary that lives is good.
    let canary = Care {
        canary: Some((1, 50)),
        ..Care::default()
    };
    assert_eq!(master.ask(&Order::Reload(canary), "reloaded "), "2");
    runs(master, 3, 2);
}

/// Waits for the file `go<generation>` before it serves, unless it is of the first generation.
pub(crate) async fn new_is_held(worker: Worker) -> Result<(), ServeError> {
    if worker.generation().0 > 0 {
        held(&worker, &format!("go{}", worker.generation())).await;
    }
    load::serve(worker).await
}

/// Lets the workers of this generation go on.
pub(crate) fn open(master: &Master, generation: u32) {
    fs::write(master.directory().join(format!("go{generation}")), "").unwrap();
}

/// Runs from a copy of the program in the private directory.
fn from_a_copy(main: fn() -> ExitCode) -> ExitCode {
    if actix_cluster::is_master() && std::env::current_exe().is_ok_and(|path| !path.ends_with("copy")) {
        fs::copy("/proc/self/exe", "copy").unwrap();
        let error = Command::new("./copy").stdin(Stdio::inherit()).exec();
        panic!("cannot run the copy: {error}");
    }
    main()
}

/// Puts another program where the scenario's was started from.
fn replace(master: &Master, program: &str) {
    let (copy, other) = (master.directory().join("copy"), master.directory().join("other"));
    fs::copy(program, &other).unwrap();
    fs::rename(&other, &copy).unwrap();
}

/// Exactly so many workers live, all ready, all of this generation.
pub(crate) fn runs(master: &mut Master, count: usize, generation: u64) {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    let is_good = |worker: &&Value| worker["ready"] == true && worker["generation"] == generation;
    let good = workers.iter().filter(is_good).count();
    if (good, workers.len()) != (count, count) {
        master.fail(&format!("not {count} workers of generation {generation}: {snapshot}"));
    }
}

/// The process ids of the workers, by worker id.
pub(crate) fn pids(master: &mut Master) -> Vec<u32> {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    let pid = |worker: &Value| u32::try_from(worker["pid"].as_u64().unwrap()).unwrap();
    workers.iter().map(pid).collect()
}

/// The generation of an event's worker.
pub(crate) fn generation(line: &Value) -> u64 {
    line["worker"]["generation"].as_u64().unwrap_or(u64::MAX)
}

/// The result of the next reload that ends.
pub(crate) fn next_result(master: &Master) -> Value {
    let finished = master.expect_line("the end of the reload", LONG, |line| line["event"] == "reload_finished");
    finished["data"]["result"].clone()
}

/// The results of all reloads so far.
fn finished(master: &Master) -> Vec<Value> {
    let finished = master.seen("reload_finished");
    finished.iter().map(|seen| seen.data()["result"].clone()).collect()
}

/// How long one reload may take that runs under load.
const LONG: Duration = Duration::from_secs(30);

const SOON: Duration = actix_cluster_tests::master::SOON;

/// Set for the long form of what else is a sample.
const SOAK_VAR: &str = "ACTIX_CLUSTER_SOAK";
