//! Starting workers: identity, environment, arguments, working directory, user, standard streams.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use actix_cluster::{Cluster, RestartLimit, RestartType, StdioMode, Worker, is_master, is_worker, worker_id};
use actix_cluster_tests::launch::by_way_of;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Change, Order};
use actix_cluster_tests::puppet::{self, tell};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_001_neither_user_code_nor_a_grandchild_sees_the_contract",
        app: || {
            probe::say(&format!("main sees {}", std::env::var_os(CONTRACT).is_some()));
            probe::cluster().worker(puppet::run).main()
        },
        check: |master| {
            master.expect_ready();
            assert_eq!(tell(master, 1, &format!("env {CONTRACT}")), "unset");
            let seen = tell(master, 1, &format!("grandchild {CONTRACT}"));
            assert_eq!(seen, format!("grandchild sees {CONTRACT}: false, PATH: true"));
            let mains = master.said("main sees ");
            assert_eq!(
                mains.iter().map(|(saw, _)| saw.as_str()).collect::<Vec<_>>(),
                ["false", "false"]
            );
        },
    },
    Scenario {
        name: "n_004_the_environment_of_a_fork_is_laid_over_the_masters",
        app: || {
            probe::cluster()
                .workers(0)
                .when_empty(actix_cluster::WhenEmpty::Wait)
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            let env = [("cluster_test_prop", "custom"), ("PATH", "new")];
            let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            assert_eq!(master.ask(&Order::Fork(env), "forked "), "1");
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "2");
            assert_eq!(tell(master, 1, "env cluster_test_prop"), "custom");
            assert_eq!(tell(master, 1, "env PATH"), "new");
            assert_eq!(tell(master, 1, "send hello"), "Ok(())");
            assert_eq!(master.expect_ever_of(1, "message").data(), "hello");
            assert_eq!(tell(master, 2, "env cluster_test_prop"), "unset");
            assert_eq!(tell(master, 2, "env PATH"), std::env::var("PATH").unwrap());
        },
    },
    Scenario {
        name: "n_004_a_forked_slot_keeps_its_environment_when_it_was_given_up_and_is_started_by_hand",
        app: || {
            probe::cluster()
                .restart_limit(RestartLimit::new(1, Duration::from_secs(60)))
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            master.expect_ready();
            let env = vec![("ROLE".to_owned(), "x".to_owned())];
            assert_eq!(master.ask(&Order::Fork(env), "forked "), "2");
            for worker in [2, 3] {
                master.once(worker, "ready");
                assert_eq!(tell(master, worker, "env ROLE"), "x");
                master.order(&Order::Send(worker, "fail on purpose".to_owned()));
            }
            master.expect("gave_up");
            master.ask(&Order::StartSlot(1), "start");
            master.once(4, "ready");
            assert_eq!(tell(master, 4, "env ROLE"), "x");
        },
    },
    Scenario {
        name: "n_005_the_working_directory_is_the_masters_until_set_up_otherwise",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            let own = std::fs::canonicalize(master.directory()).unwrap();
            let other = own.join("other");
            std::fs::create_dir(&other).unwrap();
            assert!(master.expect("setup").data()["cwd"].is_null());
            master.expect_ready();
            assert_eq!(tell(master, 1, "cwd"), own.to_str().unwrap());
            let change = Change {
                cwd: Some(other.clone()),
                ..Change::default()
            };
            let settings = master.ask(&Order::Setup(change), "settings ");
            let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
            assert_eq!(settings["cwd"], other.to_str().unwrap());
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "2");
            assert_eq!(tell(master, 2, "cwd"), other.to_str().unwrap());
            for worker in [1, 2] {
                tell(master, worker, "close-channel");
            }
            for exit in [1, 2].map(|worker| master.expect_ever_of(worker, "exit")) {
                assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            }
        },
    },
    Scenario {
        name: "n_015_n_019_a_master_with_two_capabilities_and_no_root_gives_its_workers_another_user",
        app: || {
            let cluster = probe::cluster();
            let cluster = match std::env::var(USER_VAR) {
                Ok(user) => cluster.uid(user.parse().unwrap()).gid(user.parse().unwrap()),
                Err(_) => cluster,
            };
            cluster.worker(says_who_it_is).main()
        },
        check: |idle| {
            let can_drop = Command::new("setpriv").arg("--version").output().is_ok();
            if !nix::unistd::geteuid().is_root() || !can_drop {
                return;
            }
            let weak = "exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +setuid,+setgid \
                --ambient-caps +setuid,+setgid \"$0\"";
            for script in ["exec \"$0\"", weak] {
                let mut master = Master::start_with(idle.name(), |command| {
                    command.env(USER_VAR, "4321");
                    by_way_of(script, command);
                });
                assert_eq!(
                    master.expect_said("I am "),
                    "Uid 4321 4321 4321 4321, Gid 4321 4321 4321 4321, Groups , CapInh 0, CapPrm 0, CapEff 0, CapAmb 0"
                );
                // It may say so before it is seen as ready, or after.
                master.expect_count("all_ready", 1);
                master.finish();
            }
        },
    },
    Scenario {
        name: "n_008_the_first_line_of_main_knows_role_and_id",
        app: || {
            if let Some(id) = worker_id() {
                assert!(is_worker() && !is_master());
                return ExitCode::from(u8::try_from(42 + id.get()).unwrap());
            }
            assert!(is_master() && !is_worker());
            probe::cluster()
                .restart(RestartType::Temporary)
                .worker(async |_| ())
                .main()
        },
        check: |master| {
            ends_with_43(master);
            let mut relative = Master::start_with("n_008_the_first_line_of_main_knows_role_and_id", |command| {
                command.arg0("./some/relative-name");
            });
            ends_with_43(&mut relative);
        },
    },
    Scenario {
        name: "n_013_n_014_n_021_the_channel_is_no_standard_stream_and_may_have_any_number",
        app: || {
            let all = StdioMode::Piped;
            probe::cluster().stdio(all, all, all).worker(puppet::run).main()
        },
        check: |master| {
            master.expect_ready();
            // The worker's streams are lines for the master, whatever is on them, and the channel works beside them.
            master.order(&Order::Send(1, "send as a message".to_owned()));
            assert_eq!(master.expect_of(1, "message").data(), "as a message");
            said_on_its_output(master, "1 Ok(())");
            // The same worker behind a program that moves the channel from its descriptor to another one.
            let program = std::env::current_exe().unwrap();
            let change = Change {
                exec: Some("/bin/sh".into()),
                args: Some(
                    ["-c", MOVE_CHANNEL, program.to_str().unwrap()]
                        .map(str::to_owned)
                        .to_vec(),
                ),
                ..Change::default()
            };
            master.ask(&Order::Setup(change), "settings ");
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "2");
            said_on_its_output(master, "moved the channel");
            master.expect_ever_of(2, "ready");
            master.order(&Order::Send(2, "send on nine".to_owned()));
            assert_eq!(master.expect_of(2, "message").data(), "on nine");
        },
    },
    Scenario {
        name: "n_016_n_020_what_a_silent_worker_prints_is_an_event_and_nothing_else",
        app: || {
            let body = |worker: Worker| async move {
                println!("printed {}", worker.id());
                eprintln!("complained {}", worker.id());
                worker.send("told").unwrap();
                let mut messages = worker.messages().unwrap();
                let told: String = messages.next().await.unwrap().parse().unwrap();
                worker.send(&told).unwrap();
                probe::idle(&worker).await;
            };
            probe::cluster().silent().worker(body).main()
        },
        check: |master| {
            assert_eq!(master.expect_of(1, "message").data(), "told");
            master.order(&Order::Send(1, "and back".to_owned()));
            assert_eq!(master.expect_of(1, "message").data(), "and back");
            master.order(&Order::Shutdown);
            assert!(master.wait().success());
            let output = master.seen("output");
            for (stream, line) in [("stdout", "printed 1"), ("stderr", "complained 1")] {
                let lines = output.iter().filter(|seen| seen.data()["line"] == line);
                let streams: Vec<_> = lines.map(|seen| seen.data()["stream"].clone()).collect();
                assert_eq!(streams, [stream]);
            }
            // The master's own streams: nothing but the events on one, nothing of the worker's on the other.
            assert!(!master.log().contains("complained 1"), "{}", master.log());
        },
    },
    Scenario {
        name: "n_017_a_worker_that_does_nothing_lets_the_cluster_end",
        app: || {
            probe::cluster()
                .restart(RestartType::Transient)
                .worker(async |_| ())
                .main()
        },
        check: |master| {
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            assert!(master.wait().success());
        },
    },
    Scenario {
        name: "n_022_ids_count_up_and_are_the_keys_of_the_living",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_of(1, "ready");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            assert_eq!(master.expect("exit").worker(), 1);
            master.expect_of(2, "ready");
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "3");
            assert_eq!(living(master), [2, 3]);
            assert_eq!(master.ask(&Order::Send(1, "x".to_owned()), "error "), "no such worker");
        },
    },
    Scenario {
        name: "n_024_each_role_has_its_own_handle",
        app: || {
            let body = async |worker: Worker| {
                probe::say(&format!("worker handle, id {:?}", worker_id().map(|id| id.get())));
                puppet::run(worker).await
            };
            let ended = probe::cluster()
                .on_event(|event, handle| {
                    let id = worker_id();
                    probe::say(&format!("cluster handle in {id:?} at {}", event.kind.name()));
                    assert!(handle.workers().len() <= 1);
                })
                .worker(body)
                .run();
            // Only the master comes back from `run`.
            probe::say(&format!("after run, worker: {}", is_worker()));
            Cluster::builder()
                .build()
                .expect_err("a cluster without a worker's function is refused");
            if ended.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        },
        check: |master| {
            let online = master.expect_of(1, "online");
            master.expect_of(1, "ready");
            assert_eq!(tell(master, 1, "echo x"), "x");
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            let (in_master, in_worker) = (u64::from(master.pid()), u64::from(online.pid()));
            assert_eq!(master.said("worker handle, id "), [("Some(1)".to_owned(), in_worker)]);
            let cluster = master.said("cluster handle in None at ");
            assert!(cluster.iter().any(|(kind, _)| kind == "online"));
            assert!(cluster.iter().all(|(_, pid)| *pid == in_master));
            assert!(master.said("cluster handle in Some").is_empty());
            assert_eq!(master.said("after run, worker: "), [("false".to_owned(), in_master)]);
        },
    },
];

/// The variable with everything a worker knows at birth.
const CONTRACT: &str = "ACTIX_CLUSTER_WORKER";

/// Moves the channel from the descriptor that the contract names to 9, says so, and goes on as the program `$0`.
const MOVE_CHANNEL: &str = r#"
    fd=$(printf '%s' "$ACTIX_CLUSTER_WORKER" | sed 's/.*"channel":\([0-9]*\).*/\1/')
    ACTIX_CLUSTER_WORKER=$(printf '%s' "$ACTIX_CLUSTER_WORKER" | sed 's/"channel":[0-9]*/"channel":9/')
    eval "exec 9<&$fd $fd<&-"
    echo moved the channel
    exec "$0""#;

/// Set to the number that the workers run as.
const USER_VAR: &str = "ACTIX_CLUSTER_TEST_USER";

/// The kernel's word for it.
async fn says_who_it_is(worker: Worker) {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let rows = status.lines().filter_map(|row| row.split_once(':'));
    let field = |(name, text): (&str, &str)| {
        let numbers: Vec<&str> = text.split_whitespace().collect();
        let text = numbers.join(" ");
        match name {
            "Uid" | "Gid" | "Groups" => Some(format!("{name} {text}")),
            "CapInh" | "CapPrm" | "CapEff" | "CapAmb" => {
                Some(format!("{name} {}", u64::from_str_radix(&text, 16).unwrap()))
            }
            _ => None,
        }
    };
    probe::say(&format!(
        "I am {}",
        rows.filter_map(field).collect::<Vec<_>>().join(", ")
    ));
    probe::idle(&worker).await;
}

fn ends_with_43(master: &mut Master) {
    let exit = master.expect_of(1, "exit");
    assert_eq!((exit.code(), exit.signal()), (Some(43), None));
    master.wait();
    assert_eq!(master.seen("exit").len(), 1);
}

fn said_on_its_output(master: &Master, what: &str) {
    master.expect_at_least(1, |line| {
        line["event"] == "output" && line["data"]["line"].as_str().is_some_and(|line| line.contains(what))
    });
}

fn living(master: &mut Master) -> Vec<u64> {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker["id"].as_u64().unwrap()).collect()
}
