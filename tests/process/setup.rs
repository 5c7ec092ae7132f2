//! The settings for the next workers.

use std::path::PathBuf;

use actix_cluster::{EventKind, RestartType, Settings, StdioMode, WhenEmpty};
use actix_cluster_tests::leftovers::listening_sockets;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Change, Order};
use actix_cluster_tests::puppet::{self, tell};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_046_a_listener_added_after_the_call_still_hears_of_the_setup",
        app: || {
            let mut asked = false;
            let late = move |event: &actix_cluster::ClusterEvent, handle: &actix_cluster::ClusterHandle| {
                if let EventKind::Setup(settings) = &event.kind {
                    probe::say(&format!("builder's {}", in_short(settings)));
                }
                if std::mem::replace(&mut asked, true) {
                    return;
                }
                let handle = handle.clone();
                actix_rt::spawn(async move {
                    let call = handle.setup(|settings| settings.args = Some(vec!["another".into()]));
                    let mut events = handle.events();
                    let answer = call.await.unwrap();
                    // The event came before the answer, and waits for whoever reads it late.
                    let setup = |event: &actix_cluster::ClusterEvent| matches!(event.kind, EventKind::Setup(_));
                    while let Some(event) = events.next_where(setup).await {
                        let EventKind::Setup(settings) = event.kind else { return };
                        probe::say(&format!("call's {} {}", in_short(&settings), *settings == answer));
                    }
                });
            };
            let silent = probe::cluster()
                .workers(0)
                .when_empty(WhenEmpty::Wait)
                .args(["custom argument"])
                .silent();
            silent.on_event(late).worker(puppet::run).main()
        },
        check: |master| {
            assert_eq!(
                master.expect_said("builder's "),
                "Same [\"custom argument\"] Piped Piped"
            );
            assert_eq!(master.expect_said("call's "), "Same [\"another\"] Piped Piped true");
        },
    },
    Scenario {
        name: "n_047_workers_forked_after_a_setup_get_its_arguments",
        app: || {
            let empty = probe::cluster().workers(0).when_empty(WhenEmpty::Wait);
            empty.restart(RestartType::Temporary).worker(puppet::run).main()
        },
        check: |master| {
            set_up(master, args(&["custom argument"]));
            for worker in [1, 2] {
                master.order(&Order::Fork(Vec::new()));
                master.expect_of(worker, "ready");
                assert_eq!(tell(master, worker, "args"), "custom argument");
                master.order(&Order::Kill(worker, Signal::SIGKILL as i32));
                assert_eq!(master.expect_of(worker, "exit").signal(), Some(9));
            }
            assert_eq!(master.seen("online").len(), 2);
        },
    },
    Scenario {
        name: "n_048_n_049_without_a_word_the_settings_are_the_masters_own",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            own_settings(master, &[]);
            let mut other = Master::start_with(
                "n_048_n_049_without_a_word_the_settings_are_the_masters_own",
                |command| {
                    command.args(["first", "last"]);
                },
            );
            own_settings(&mut other, &["first", "last"]);
            other.finish();
        },
    },
    Scenario {
        name: "n_050_setups_add_up",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let exec = Change {
                exec: Some("/bin/true".into()),
                ..Change::default()
            };
            set_up(master, exec);
            set_up(master, args(&["a", "b"]));
            let cwd = Change {
                cwd: Some("/".into()),
                ..Change::default()
            };
            set_up(master, cwd);
            let settings = set_up(master, Change::default());
            assert_eq!(
                in_short(&settings),
                "Path(\"/bin/true\") [\"a\", \"b\"] Inherit Inherit"
            );
            assert_eq!(settings.cwd, Some(PathBuf::from("/")));
            assert_eq!((settings.uid, settings.gid, settings.env.len()), (None, None, 0));
        },
    },
    Scenario {
        name: "n_052_n_053_each_setup_is_one_event_with_a_copy_and_a_fork_is_none",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let programs = ["/bin/one", "/bin/two", "/bin/three"];
            for (count, program) in (2..).zip(programs) {
                let change = Change {
                    exec: Some(program.into()),
                    ..Change::default()
                };
                let answer = set_up(master, change);
                let event = settings_of(master.expect_count("setup", count).last().unwrap().data());
                assert_eq!(answer, event);
            }
            let back = Change {
                exec: Some(std::env::current_exe().unwrap()),
                ..Change::default()
            };
            set_up(master, back);
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "forked "), "2");
            master.expect_ever_of(2, "ready");
            let told: Vec<_> = master
                .seen("setup")
                .iter()
                .map(|seen| seen.data()["exec"].clone())
                .collect();
            assert_eq!(told.len(), 5, "{told:?}");
            let paths: Vec<_> = told[1..4].iter().map(|exec| exec["path"].as_str().unwrap()).collect();
            assert_eq!(
                (told[0].as_str(), paths.as_slice()),
                (Some("same"), programs.as_slice())
            );
        },
    },
    Scenario {
        name: "n_054_a_setup_changes_nothing_for_those_who_run",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let pid = master.snapshot()["workers"][0]["pid"].clone();
            set_up(master, args(&["new"]));
            let env = vec![("ONLY_MINE".to_owned(), "yes".to_owned())];
            assert_eq!(master.ask(&Order::Fork(env), "forked "), "2");
            assert_eq!(tell(master, 2, "args"), "new");
            assert_eq!(tell(master, 2, "env ONLY_MINE"), "yes");
            assert_eq!(
                (
                    tell(master, 1, "args").as_str(),
                    tell(master, 1, "env ONLY_MINE").as_str()
                ),
                ("", "unset")
            );
            assert_eq!(master.snapshot()["workers"][0]["pid"], pid);
            // The successor is a later worker, and the environment of a fork is its slot's.
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            master.expect_of(3, "ready");
            assert_eq!(
                (
                    tell(master, 3, "args").as_str(),
                    tell(master, 3, "env ONLY_MINE").as_str()
                ),
                ("new", "unset")
            );
            master.order(&Order::Kill(2, Signal::SIGKILL as i32));
            master.expect_of(4, "ready");
            assert_eq!(tell(master, 4, "env ONLY_MINE"), "yes");
        },
    },
    Scenario {
        name: "n_055_the_scheduling_of_a_listener_cannot_be_changed_later",
        app: || probe::cluster().workers(2).worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let address = puppet::bound(&tell(master, 1, "bind-per-worker 127.0.0.1:0"));
            let other = tell(master, 2, "bind-shared 127.0.0.1:0");
            assert!(
                other.starts_with("refused 0 ") && other.contains("other options"),
                "{other}"
            );
            assert_eq!(puppet::bound(&tell(master, 2, "bind-per-worker 127.0.0.1:0")), address);
            assert_eq!(listening_sockets(address), 2);
        },
    },
    Scenario {
        name: "n_056_a_variable_of_the_master_chooses_the_scheduling",
        app: || {
            // In the workers it has no meaning.
            let cluster = probe::cluster().workers(2).env(POLICY, "shared").worker(puppet::run);
            cluster
                .listen("tcp", "127.0.0.1:0")
                .ready_when(actix_cluster::ReadyWhen::Online)
                .main()
        },
        check: |master| {
            assert_eq!(sockets_of_two_workers(master), 2);
            // Node's own words too, and exactly these.
            let shared = [
                "shared",
                "none",
                "rr",
                "round-robin",
                "least-connections",
                "two-choices",
                "sticky",
            ];
            let own = ["per-worker", "Shared", "None", "RR", ""];
            let all = shared.map(|policy| (policy, 1)).into_iter();
            for (policy, sockets) in all.chain(own.map(|policy| (policy, 2))) {
                let mut other =
                    Master::start_with("n_056_a_variable_of_the_master_chooses_the_scheduling", |command| {
                        command.env(POLICY, policy);
                    });
                assert_eq!(sockets_of_two_workers(&mut other), sockets, "{policy}");
                other.finish();
            }
        },
    },
];

const POLICY: &str = "ACTIX_CLUSTER_SCHED_POLICY";

fn args(args: &[&str]) -> Change {
    Change {
        args: Some(args.iter().map(|&arg| arg.to_owned()).collect()),
        ..Change::default()
    }
}

/// Changes the settings; what is in force then.
fn set_up(master: &mut Master, change: Change) -> Settings {
    let settings = master.ask(&Order::Setup(change), "settings ");
    serde_json::from_str(&settings).unwrap()
}

fn settings_of(value: &serde_json::Value) -> Settings {
    serde_json::from_value(value.clone()).unwrap()
}

fn in_short(settings: &Settings) -> String {
    let args = settings.args.clone().unwrap_or_default();
    format!(
        "{:?} {args:?} {:?} {:?}",
        settings.exec, settings.stdout, settings.stderr
    )
}

/// Exactly the master's own program and arguments, nothing else, told once; and so it comes to the worker.
fn own_settings(master: &mut Master, own: &[&str]) {
    let settings = settings_of(master.expect("setup").data());
    let mut expected = Settings::default();
    expected.args = Some(own.iter().map(Into::into).collect());
    assert_eq!(settings, expected);
    assert_eq!(settings.stdout, StdioMode::Inherit);
    master.expect_of(1, "ready");
    assert_eq!(tell(master, 1, "args"), own.join(" "));
    assert_eq!(master.seen("setup").len(), 1);
}

/// Sockets that listen on the declared port, and on one asked for, when two workers hold both.
fn sockets_of_two_workers(master: &mut Master) -> usize {
    master.expect_ready();
    let port = master.snapshot()["listeners"]["tcp"]["port"].as_u64().unwrap();
    let declared = listening_sockets(([127, 0, 0, 1], u16::try_from(port).unwrap()).into());
    let address = puppet::bound(&tell(master, 1, "bind 127.0.0.1:0"));
    assert_eq!(puppet::bound(&tell(master, 2, "bind 127.0.0.1:0")), address);
    assert_eq!(listening_sockets(address), declared);
    declared
}
