//! What is in force is changed while real processes run: rules, descriptions, and whose end ends the cluster.

use std::time::Duration;

use actix_cluster::{
    AutoShutdown, ClusterChanges, OneForAll, ReloadOptions, RestartDelay, RestartIntensity, RestartType,
    RolloutOptions, ShutdownPolicy, Signal, WorkerId, WorkerSpec,
};
use actix_cluster_tests::master::{Master, Seen, send};
use actix_cluster_tests::probe::Order;
use actix_cluster_tests::scenario::Scenario;

use crate::administration::{cluster, ids, mode, say, scripted, shown, work};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "o_081_o_082_other_rules_and_descriptions_are_in_force_for_who_runs",
        app: || {
            let stubborn = mode("b", "stubborn").shutdown_policy(ShutdownPolicy::Infinity);
            scripted(cluster().spec(stubborn), |handle| async move {
                let grace = ShutdownPolicy::Grace(Duration::from_millis(300));
                let b = || mode("b", "stubborn").shutdown_policy(grace);
                let bad = ClusterChanges::new()
                    .strategy(OneForAll)
                    .spec(b())
                    .spec(mode("", "idle"));
                say("bad", handle.reconfigure(bad).await.unwrap_err().to_string());
                let strategy = handle.rules().await.unwrap().strategy;
                say("still", (strategy, handle.spec("b").await.unwrap().shutdown));
                let good = ClusterChanges::new()
                    .strategy(OneForAll)
                    .spec(b())
                    .spec(mode("c", "idle"));
                let good = good.restart_intensity(Some(RestartIntensity::new(9, Duration::from_secs(1))));
                handle.reconfigure(good).await.unwrap();
                let rules = handle.rules().await.unwrap();
                say(
                    "now",
                    (
                        rules.strategy,
                        handle.spec("b").await.unwrap().shutdown,
                        rules.restart_intensity.unwrap().max,
                    ),
                );
                say("taken", handle.spec("c").await.unwrap().counts.active);
                handle.stop_spec("b").await.unwrap();
                say("started", ids(handle.start_spec("c").await));
                say(
                    "unknown",
                    handle.replace_spec(mode("d", "idle")).await.unwrap_err().to_string(),
                );
            })
        },
        check: |master| {
            assert_eq!(
                master.expect_said("bad "),
                "\"spec  cannot be: its name is empty; give it one\""
            );
            assert_eq!(master.expect_said("still "), "(\"OneForOne\", Infinity)");
            assert_eq!(master.expect_said("now "), "(\"OneForAll\", Grace(300ms), 9)");
            assert_eq!(master.expect_said("taken "), "0");
            // Told to stop by the new time-out, which the old one would not have done.
            assert_eq!(master.expect_said("started "), "Ok([3])");
            assert_eq!(master.expect_said("unknown "), "\"no spec named d\"");
            let exit = master.once(2, "exit");
            assert_eq!(exit.signal(), Some(9));
            let seq = |seen: &Seen| seen.0["seq"].as_u64();
            assert!(
                seq(&master.once(3, "fork")) > seq(&exit),
                "nobody is started by a change"
            );
        },
    },
    Scenario {
        name: "a_replaced_description_counts_for_who_is_started_next",
        app: || {
            scripted(
                cluster().spec(mode("b", "tell").env("MARK", "old")),
                |handle| async move {
                    handle
                        .replace_spec(mode("b", "tell").env("MARK", "new").restart_delay(RestartDelay::AtOnce))
                        .await
                        .unwrap();
                    say("replaced", handle.counts().active);
                    handle.kill(WorkerId::new(2), Signal::KILL).await.unwrap();
                    let mut events = handle.events();
                    while !handle.worker(WorkerId::new(3)).is_some_and(|heir| heir.is_ready()) {
                        events.next().await;
                    }
                    // Who runs is replaced by a reload.
                    let newer = mode("b", "tell").env("MARK", "newer");
                    handle.replace_spec(newer).await.unwrap();
                    let reload = ReloadOptions::new(RolloutOptions::default()).spec("b");
                    say("reloaded", handle.reload_with(reload).await.is_ok());
                },
            )
        },
        check: |master| {
            master.hears("mark old");
            master.hears("replaced 2");
            master.hears("mark new");
            master.hears("mark newer");
            master.hears("reloaded true");
            let life = master.life_of(1);
            assert!(
                life.iter().all(|kind| kind != "exit"),
                "another spec was touched: {life:?}"
            );
        },
    },
    Scenario {
        name: "o_062_o_063_a_rule_that_comes_and_goes_decides_who_may_come_and_what_an_end_means",
        app: || {
            scripted(cluster(), |handle| async move {
                let job = |name: &str| mode(name, "idle").restart(RestartType::Temporary).significant(true);
                let rule = |rule| handle.reconfigure(ClusterChanges::new().auto_shutdown(rule));
                say("before", shown(handle.add_spec(job("a")).await));
                rule(AutoShutdown::AnySignificant).await.unwrap();
                say("any", ids(handle.add_spec(job("a")).await));
                say("too", ids(handle.add_spec(job("b")).await));
                rule(AutoShutdown::Never).await.unwrap();
                say("never", shown(handle.add_spec(job("c")).await));
                handle.kill(WorkerId::new(2), Signal::KILL).await.unwrap();
                let mut events = handle.events();
                while handle.spec("a").await.is_ok() {
                    events.next().await;
                }
                rule(AutoShutdown::AnySignificant).await.unwrap();
                say("last", handle.counts().active);
                handle.kill(WorkerId::new(3), Signal::KILL).await.unwrap();
            })
        },
        check: |master| {
            assert!(master.expect_said("before ").contains("nothing follows"));
            assert_eq!(master.expect_said("any "), "Ok([2])");
            assert_eq!(master.expect_said("too "), "Ok([3])");
            assert!(master.expect_said("never ").contains("nothing follows"));
            assert_eq!(master.expect_said("last "), "2");
            master.expect("shutdown_started");
            assert_eq!(master.wait().code(), Some(0));
        },
    },
    Scenario {
        name: "o_055_o_057_o_059_the_end_of_a_counted_significant_spec_ends_the_cluster",
        app: || {
            let jobs = WorkerSpec::new("job", 2).env("MODE", "idle");
            let jobs = jobs.restart(RestartType::Temporary).significant(true);
            let other = mode("other", "idle").restart(RestartType::Temporary);
            let cluster = cluster().spec(jobs).spec(other);
            cluster.auto_shutdown(AutoShutdown::AllSignificant).worker(work).main()
        },
        check: |master| {
            master.expect_ready();
            let kill = |master: &Master, id: u64| {
                send(master.once(id, "fork").pid(), nix::sys::signal::Signal::SIGKILL);
                master.once(id, "exit");
            };
            // An insignificant one, then the first of two, then the last.
            kill(master, 4);
            kill(master, 2);
            master.ask(&Order::Ping, "pong");
            assert!(master.seen("shutdown_started").is_empty());
            kill(master, 3);
            master.expect("shutdown_started");
            assert_eq!(master.wait().code(), Some(0));
        },
    },
];
