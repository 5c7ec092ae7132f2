//! Specs at run time with real processes: who declines to start, starts that fail, what is in force and how it is changed.
//!
//! The program of a scenario carries out its own script through the handle, once everybody is ready, and says what came
//! out; the test reads that and looks at the processes.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    BeforeStart, ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ReadyWhen, RecycleReason, RestartDelay,
    RestartType, RunError, Signal, Worker, WorkerId, WorkerRef, WorkerSpec,
};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{leftovers, limit, probe};
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_002_a_hook_that_says_ignore_ends_the_program_well_before_anything_was_started",
        app: || hooked(|| Ok(BeforeStart::Ignore)),
        check: |master| {
            assert_eq!(master.expect_said("outcome "), "Err(Ignored)");
            assert_eq!(master.wait().code(), Some(0));
            nothing_happened(master);
        },
    },
    Scenario {
        name: "o_009_a_hook_that_panics_is_an_error_and_leaves_nothing_behind",
        app: || hooked(|| panic!("asked to")),
        check: |master| {
            let outcome = master.expect_said("outcome ");
            assert_eq!(outcome, "Err(BeforeStart(\"`before_start` panicked: asked to\"))");
            assert_eq!(master.wait().code(), Some(1));
            nothing_happened(master);
        },
    },
    Scenario {
        name: "o_009_a_hook_that_fails_is_an_error_with_its_text",
        app: || hooked(|| Err("no configuration".to_owned())),
        check: |master| {
            assert_eq!(master.expect_said("outcome "), "Err(BeforeStart(\"no configuration\"))");
            assert_eq!(master.wait().code(), Some(1));
            nothing_happened(master);
        },
    },
    Scenario {
        name: "a_hook_that_proceeds_is_asked_in_the_master_only",
        app: || {
            let hook = || {
                probe::say("asked");
                Ok::<_, String>(BeforeStart::Proceed)
            };
            cluster().before_start(hook).worker(work).main()
        },
        check: |master| {
            master.expect_ready();
            assert_eq!(master.count_said("asked"), 1);
        },
    },
    Scenario {
        name: "o_003_o_004_o_005_o_006_o_007_who_has_nothing_to_do_is_no_failure",
        app: || {
            let declines = |name: &str| mode(name, "decline");
            let cluster = cluster().spec(declines("kept"));
            let cluster = cluster.spec(declines("gone").restart(RestartType::Temporary));
            let cluster = cluster.spec(mode("last", "idle"));
            scripted(cluster, move |handle| async move {
                say("counts", handle.counts());
                let added = handle.add_spec(declines("added").restart(RestartType::Temporary)).await;
                say("temporary", ids(added));
                say("permanent", ids(handle.add_spec(declines("stays")).await));
                let forked = handle.fork([("MODE", "decline")]).await;
                say("forked", forked.map(|worker| worker.id().get()));
            })
        },
        check: |master| {
            let counts = master.expect_said("counts ");
            for part in ["specs: 3", "active: 2", "workers: 3", "declined: 1", "failed: 0"] {
                assert!(counts.contains(part), "{counts}");
            }
            assert_eq!(master.expect_said("temporary "), "Ok([])");
            assert_eq!(master.expect_said("permanent "), "Ok([])");
            assert_eq!(master.expect_said("forked "), "Ok(7)");
            assert_eq!(master.once(7, "exit").code(), Some(123));
            let snapshot = master.snapshot();
            let slots = snapshot["slots"].as_array().unwrap();
            let slots: Vec<_> = slots
                .iter()
                .map(|slot| (slot["slot"]["spec"].as_str().unwrap(), slot["state"].as_str().unwrap()))
                .collect();
            let kept = [
                ("worker", "filled"),
                ("kept", "declined"),
                ("last", "filled"),
                ("stays", "declined"),
            ];
            assert_eq!(slots, kept);
            assert!(master.seen("restart_scheduled").is_empty());
        },
    },
    Scenario {
        name: "o_010_o_012_o_049_an_addition_that_cannot_start_tells_the_reason_and_leaves_nothing",
        app: || {
            scripted(cluster(), |handle| async move {
                say("broken", shown(handle.add_spec(mode("broken", "fail")).await));
                let missing = mode("missing", "idle").exec("/no/such/program");
                say("missing", shown(handle.add_spec(missing).await));
                let three = WorkerSpec::new("three", 3).env("MODE", "fail_second");
                say("three", shown(handle.add_spec(three).await));
                say("specs", names(&handle).await);
            })
        },
        check: |master| {
            let why = master.expect_said("broken ");
            assert_eq!(
                why,
                "spec broken could not start: worker 2 in broken.0: exit code 1 (crash): no database"
            );
            let why = master.expect_said("missing ");
            assert!(
                why.starts_with("spec missing could not start: worker 3 in missing.0: not started")
                    && why.contains("/no/such/program"),
                "{why}"
            );
            let why = master.expect_said("three ");
            assert!(
                why.starts_with("spec three could not start: worker") && why.contains(" in three.1:"),
                "{why}"
            );
            assert_eq!(master.expect_said("specs "), "[\"worker\"]");
            let snapshot = master.snapshot();
            assert_eq!(
                (
                    &snapshot["workers"].as_array().unwrap().len(),
                    &snapshot["slots"].as_array().unwrap().len()
                ),
                (&1, &1)
            );
        },
    },
    Scenario {
        name: "o_011_o_047_a_start_by_hand_that_fails_tells_the_reason_and_the_spec_stays_stopped",
        app: || {
            scripted(cluster().spec(mode("b", "fail_if_broken")), |handle| async move {
                handle.stop_spec("b").await.unwrap();
                std::fs::write("broken", "").unwrap();
                say("first", shown(handle.restart_spec("b").await));
                say("state", handle.snapshot().slots[1].state);
                say("again", shown(handle.start_spec("b").await));
                std::fs::remove_file("broken").unwrap();
                say("then", ids(handle.start_spec("b").await));
            })
        },
        check: |master| {
            let why = "spec b could not start: worker 3 in b.0: exit code 1 (crash): no database";
            assert_eq!(master.expect_said("first "), why);
            assert_eq!(master.expect_said("state "), "Stopped");
            assert_eq!(master.expect_said("again "), why.replace('3', "4"));
            assert_eq!(master.expect_said("then "), "Ok([5])");
        },
    },
    Scenario {
        name: "o_013_o_014_o_072_the_description_in_force_is_read_back",
        app: || {
            let b = WorkerSpec::new("b", 3).env("MODE", "idle").args(["one"]);
            scripted(cluster().spec(b), |handle| async move {
                let spec = handle.spec("b").await.unwrap();
                say("spec", serde_json::to_string(&spec).unwrap());
                let of_worker = |id| {
                    let (handle, worker) = (handle.clone(), handle.worker(WorkerId::new(id)).unwrap());
                    async move { handle.spec(worker.slot().spec.clone()).await.unwrap() }
                };
                say(
                    "same",
                    [
                        of_worker(2).await == spec,
                        of_worker(3).await == spec,
                        of_worker(4).await == spec,
                    ],
                );
                say("stranger", handle.worker(WorkerId::new(99)).is_none());
                say("unknown", handle.spec("c").await.unwrap_err().to_string());
                say("rules", serde_json::to_string(&handle.rules().await.unwrap()).unwrap());
                say("specs", names(&handle).await);
            })
        },
        check: |master| {
            let text: String = serde_json::from_str(&master.expect_said("spec ")).unwrap();
            let spec: Value = serde_json::from_str(&text).unwrap();
            let grace = format!("{{\"grace_ms\":{:?}}}", limit(probe::GRACE).as_secs_f64() * 1000.0);
            for (key, value) in [
                ("name", "\"b\""),
                ("workers", "3"),
                ("restart", "\"permanent\""),
                ("shutdown", &grace),
                ("restart_limit", "{\"max\":5,\"period_ms\":60000.0}"),
                ("restart_intensity", "null"),
                ("escalation", "\"fail_spec\""),
                ("stable_after_ms", "60000.0"),
                ("significant", "false"),
                ("max_age_ms", "null"),
                ("generation", "0"),
            ] {
                assert_eq!(spec[key].to_string(), value, "{key}");
            }
            assert_eq!(spec["settings"]["args"].to_string(), "[\"one\"]");
            assert_eq!(spec["counts"]["ready"], 3);
            assert_eq!(spec["restart_delay"]["backoff"]["base_ms"], 1000.0);
            assert_eq!(master.expect_said("same "), "[true, true, true]");
            assert_eq!(master.expect_said("stranger "), "true");
            assert_eq!(master.expect_said("unknown "), "\"no spec named c\"");
            let rules = master.expect_said("rules ");
            assert!(
                rules.contains("OneForOne") && rules.contains("never") && rules.contains("stop"),
                "{rules}"
            );
            assert_eq!(master.expect_said("specs "), "[\"worker\", \"b\"]");
        },
    },
    Scenario {
        name: "o_025_o_037_what_a_worker_announces_comes_with_its_start_and_with_each_restart",
        app: || {
            let b = || {
                WorkerSpec::new("b", 2)
                    .env("MODE", "announce")
                    .restart_delay(RestartDelay::AtOnce)
            };
            scripted(cluster(), move |handle| async move {
                say("added", announced(handle.add_spec(b()).await.unwrap()));
                handle.stop_spec("b").await.unwrap();
                say("restarted", announced(handle.restart_spec("b").await.unwrap()));
                let worker = handle.workers().pop().unwrap();
                worker.kill(Signal::KILL).await.unwrap();
            })
        },
        check: |master| {
            let own = |id: u64, slot: u32| format!("{{\\\"id\\\":{id},\\\"slot\\\":{slot}}}");
            let both = |first: u64| format!("[\"{}\", \"{}\"]", own(first, 0), own(first + 1, 1));
            assert_eq!(master.expect_said("added "), both(2));
            assert_eq!(master.expect_said("restarted "), both(4));
            // By itself, with another process.
            master.expect_of(6, "ready");
            let snapshot = master.snapshot();
            let workers = snapshot["workers"].as_array().unwrap();
            let heir = workers.iter().find(|worker| worker["id"] == 6).unwrap();
            assert_eq!(heir["announced"].to_string(), "{\"id\":6,\"slot\":1}");
            assert!(workers[0].get("announced").is_none(), "who says nothing has nothing");
        },
    },
    Scenario {
        name: "an_announcement_that_is_too_long_is_refused_where_it_is_made",
        app: || {
            let shout = |worker: Worker| async move {
                say("refused", worker.announce(&"x".repeat(20_000)).unwrap_err().to_string());
                say("taken", worker.announce(&"x".repeat(16_000)));
                worker.ready();
                probe::idle(&worker).await;
            };
            cluster().worker(shout).main()
        },
        check: |master| {
            assert!(master.expect_said("refused ").contains("16384 bytes"));
            assert_eq!(master.expect_said("taken "), "Ok(())");
            master.expect_ready();
        },
    },
    Scenario {
        name: "o_024_who_is_not_ours_is_not_found_and_lives",
        app: || {
            scripted(cluster().workers(2), |handle| async move {
                let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
                let id = WorkerId::new(u64::from(stranger.id()));
                say("stop", handle.disconnect(id).await.unwrap_err().to_string());
                say("restart", handle.restart(id).await.unwrap_err().to_string());
                // Node: killing who is gone is no error.
                say("kill", handle.kill(id, Signal::KILL).await);
                say("lives", stranger.try_wait().unwrap().is_none());
                stranger.kill().unwrap();
                stranger.wait().unwrap();
                say("slot", handle.delete_spec("worker.0").await.unwrap_err().to_string());
                say("running", handle.delete_spec("worker").await.unwrap_err().to_string());
                let one = handle.workers().remove(0);
                say("once", one.disconnect().await);
                say("twice", one.disconnect().await.is_ok() || one.is_dead());
            })
        },
        check: |master| {
            for what in ["stop", "restart"] {
                assert!(master.expect_said(&format!("{what} ")).contains("no worker"));
            }
            assert_eq!(master.expect_said("kill "), "Ok(())");
            assert_eq!(master.expect_said("lives "), "true");
            assert_eq!(master.expect_said("slot "), "\"no spec named worker.0\"");
            assert_eq!(
                master.expect_said("running "),
                "\"spec worker is running: stop it first\""
            );
            assert_eq!(master.expect_said("once "), "Ok(())");
            assert_eq!(master.expect_said("twice "), "true");
            master.once(1, "exit");
            assert!(master.seen("exit").len() == 1, "the other one lives");
        },
    },
    Scenario {
        name: "o_024_a_worker_is_restarted_and_recycled_by_its_own_reference",
        app: || {
            scripted(cluster().workers(2), |handle| async move {
                let [first, second] = &handle.workers()[..] else {
                    panic!("two are ready");
                };
                let mut events = handle.events();
                say("restarted", first.restart().await);
                events.next_where(|event| is_ready(event, 3)).await.unwrap();
                let why = RecycleReason::Asked("a new key".to_owned());
                say("recycled", second.recycle(why.clone()).await);
                events.next_where(|event| is_gone(event, 2)).await.unwrap();
                say("restart", shown(first.restart().await));
                say("recycle", shown(second.recycle(why).await));
            })
        },
        check: |master| {
            assert_eq!(master.expect_said("restarted "), "Ok(())");
            assert_eq!(master.expect_said("recycled "), "Ok(())");
            // Both are gone by now, and no slot is without a worker.
            assert_eq!(master.expect_said("restart "), "no worker 1 (it may have exited)");
            assert_eq!(master.expect_said("recycle "), "no worker 2 (it may have exited)");
            assert_eq!(master.once(2, "recycling").data()["asked"], "a new key");
            for worker in [1, 2] {
                let exit = master.once(worker, "exit");
                assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
            }
            // In place of its successor the first one went, beside it the second.
            let order = |master: &Master, worker, kind| master.once(worker, kind).0["seq"].as_u64();
            assert!(order(master, 1, "exit") < order(master, 3, "fork"));
            assert!(order(master, 4, "ready") < order(master, 2, "exit"));
            let slots: Vec<_> = [3, 4]
                .map(|id| master.once(id, "fork").0["worker"]["slot"]["index"].as_u64())
                .into();
            assert_eq!(slots, [Some(0), Some(1)]);
            assert!(master.seen("restart_scheduled").is_empty());
        },
    },
    Scenario {
        name: "o_073_a_temporary_spec_that_has_ended_takes_no_memory",
        app: || {
            scripted(cluster(), |handle| async move {
                let large = "x".repeat(100_000);
                let mut before = 0;
                for number in 0..120 {
                    let name = format!("job-{number}");
                    let spec = mode(&name, "job").env("LARGE", &large).restart(RestartType::Temporary);
                    handle.add_spec(spec).await.unwrap();
                    let mut events = handle.events();
                    while handle.spec(&name).await.is_ok() {
                        events.next().await;
                    }
                    if number == 20 {
                        before = leftovers::rss_kib(std::process::id()).unwrap();
                    }
                }
                say("specs", handle.specs().await.unwrap().len());
                say(
                    "grown",
                    leftovers::rss_kib(std::process::id()).unwrap().saturating_sub(before),
                );
            })
        },
        check: |master| {
            assert_eq!(said_within(master, "specs ", Duration::from_secs(60)), "1");
            let grown: u64 = master.expect_said("grown ").parse().unwrap();
            // A hundred descriptions of 100 KB would be 10 MB.
            assert!(grown < 4_000, "{grown} KiB more");
        },
    },
];

pub(crate) fn cluster() -> ClusterBuilder {
    probe::cluster().ready_when(ReadyWhen::Called)
}

pub(crate) fn mode(name: &str, mode: &str) -> WorkerSpec {
    WorkerSpec::new(name, 1).env("MODE", mode)
}

fn is_ready(event: &ClusterEvent, worker: u64) -> bool {
    matches!(event.kind, EventKind::Ready) && about(event) == Some(worker)
}

fn is_gone(event: &ClusterEvent, worker: u64) -> bool {
    matches!(event.kind, EventKind::Exit(_)) && about(event) == Some(worker)
}

fn about(event: &ClusterEvent) -> Option<u64> {
    event.worker.as_ref().map(|worker| worker.id.get())
}

/// What the workers of this file do, by what they are told.
pub(crate) async fn work(worker: Worker) -> Result<(), String> {
    let is_broken = || Path::new("broken").exists();
    match std::env::var("MODE").as_deref() {
        Ok("decline") => worker.decline(),
        Ok("fail") => return Err("no database".to_owned()),
        Ok("fail_if_broken") if is_broken() => return Err("no database".to_owned()),
        Ok("fail_second") if worker.slot().index == 1 => return Err("no database".to_owned()),
        Ok("announce") => {
            let own = serde_json::json!({"id": worker.id(), "slot": worker.slot().index});
            worker.announce(&own).map_err(|error| error.to_string())?;
        }
        Ok("tell") => say("mark", format_args!("{}", std::env::var("MARK").unwrap())),
        Ok("job") => {
            worker.ready();
            return Ok(());
        }
        Ok("stubborn") => {
            worker.ready();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    worker.ready();
    probe::idle(&worker).await;
    Ok(())
}

/// Runs the cluster, and in its master the script once everybody is ready for the first time.
pub(crate) fn scripted<F: Future<Output = ()> + 'static>(
    cluster: ClusterBuilder,
    script: impl FnOnce(ClusterHandle) -> F + Send + 'static,
) -> ExitCode {
    let mut script = Some(script);
    let run = move |event: &ClusterEvent, handle: &ClusterHandle| {
        if event.kind.name() == "all_ready"
            && let Some(script) = script.take()
        {
            actix_rt::spawn(script(handle.clone()));
        }
    };
    cluster.on_event(run).worker(work).main()
}

/// Runs a cluster with this hook and a listener whose path must not come to be.
fn hooked(hook: fn() -> Result<BeforeStart, String>) -> ExitCode {
    let result = cluster()
        .listen("socket", "unix:socket")
        .before_start(hook)
        .worker(work)
        .run();
    probe::say(&format!("outcome {result:?}"));
    result.map_or_else(|error: RunError| error.into(), |_| ExitCode::SUCCESS)
}

fn nothing_happened(master: &Master) {
    assert!(master.seen("fork").is_empty() && master.seen("setup").is_empty());
    assert!(!master.directory().join("socket").exists());
}

/// [`Master::expect_said`] for what takes longer.
fn said_within(master: &Master, text: &str, within: Duration) -> String {
    let rest = |line: &Value| Some(line["said"].as_str()?.strip_prefix(text)?.to_owned());
    let line = master.expect_line(text, within, |line| rest(line).is_some());
    rest(&line).unwrap()
}

pub(crate) fn say(what: &str, value: impl Debug) {
    probe::say(&format!("{what} {value:?}"));
}

pub(crate) fn ids<E>(workers: Result<Vec<WorkerRef>, E>) -> Result<Vec<u64>, E> {
    workers.map(|workers| workers.iter().map(|worker| worker.id().get()).collect())
}

/// The error's text, without quotes.
pub(crate) fn shown<T, E: ToString>(result: Result<T, E>) -> impl Debug {
    struct Text(String);
    impl Debug for Text {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.0)
        }
    }
    Text(result.map_or_else(|error| error.to_string(), |_| "no error".to_owned()))
}

fn announced(workers: Vec<WorkerRef>) -> Vec<String> {
    let text = |worker: WorkerRef| {
        worker
            .announced()
            .map_or_else(String::new, |own| own.as_str().to_owned())
    };
    workers.into_iter().map(text).collect()
}

async fn names(handle: &ClusterHandle) -> Vec<String> {
    let specs = handle.specs().await.unwrap();
    specs.iter().map(|spec| spec.name.to_string()).collect()
}
