//! The events of a worker's life, their order, and what they say.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    ClusterEvent, ClusterHandle, EventKind, ReadyWhen, RestartType, WhenEmpty, Worker, WorkerId, WorkerRef,
};
use actix_cluster_tests::probe::{self, Change, Order};
use actix_cluster_tests::puppet::{self, tell};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_003_n_025_n_026_n_027_a_listening_worker_that_is_killed_passes_every_step_once",
        app: one_listener,
        check: |master| {
            let fork = master.expect("fork");
            assert_eq!((fork.worker(), fork.state()), (1, "created"));
            assert_eq!(master.expect_of(1, "online").state(), "online");
            let listening = master.expect_of(1, "listening");
            assert_eq!(listening.state(), "listening");
            assert_eq!(listening.data()["address"], "127.0.0.1");
            assert_eq!(listening.data()["address_type"], "4");
            assert!(listening.data()["fd"].is_null());
            master.expect_of(1, "ready");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.state(), exit.code(), exit.signal()), ("dead", None, Some(9)));
            assert_eq!(
                master.life_of(1),
                ["fork", "online", "listening", "ready", "disconnect", "exit"]
            );
            master.expect_of(2, "ready");
        },
    },
    Scenario {
        name: "n_030_n_032_n_040_connection_death_and_table_follow_the_events",
        app: || {
            // A worker that has lost its channel lives on for a while, so that the two events are well apart.
            let patient = probe::cluster().orphan_grace(probe::GRACE);
            patient.on_event(witness()).worker(puppet::run).main()
        },
        check: |master| {
            assert_eq!(
                master.expect_said("saw fork of 1: "),
                "listed true, connected true, dead false, asked None"
            );
            master.expect_count_of(1, "ready", 1);
            tell(master, 1, "linger");
            master.order(&Order::CloseChannel(1));
            let disconnected = master.expect_said("saw disconnect of 1: ");
            assert_eq!(
                disconnected,
                "listed true, connected false, dead false, asked Some(false)"
            );
            assert_eq!(
                master.expect_said("saw exit of 1: "),
                "listed false, connected false, dead true, asked Some(false)"
            );
            master.expect_count_of(2, "ready", 1);
            // A kill, where both come at once.
            master.order(&Order::Kill(2, Signal::SIGKILL as i32));
            assert!(master.expect_said("saw disconnect of 2: ").contains("connected false"));
            assert_eq!(
                master.expect_said("saw exit of 2: "),
                "listed false, connected false, dead true, asked Some(false)"
            );
        },
    },
    Scenario {
        name: "n_031_a_worker_knows_whether_it_is_connected",
        app: || probe::cluster().workers(2).worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            assert_eq!(tell(master, 1, "connected"), "true");
            master.order(&Order::CloseChannel(1));
            assert_eq!(master.expect_said("1 "), "stops, connected false");
            // The graceful way keeps the channel until the worker has drained.
            master.order(&Order::Disconnect(2));
            assert_eq!(master.expect_said("2 "), "stops, connected true");
        },
    },
    Scenario {
        name: "n_033_a_message_reaches_the_workers_one_stream_once",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            assert_eq!(tell(master, 1, "echo deep"), "deep");
            assert_eq!(tell(master, 1, "heard"), "heard 2, others false");
            assert_eq!(master.said("1 deep").len(), 1);
            // And both were taken for sent.
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.said("sent").len(), 2);
        },
    },
    Scenario {
        name: "n_034_the_error_of_a_worker_is_an_event_of_this_worker",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Send(1, "fail HI".to_owned()));
            let error = master.expect("error");
            assert_eq!((error.worker(), error.data()["failed"].as_str()), (1, Some("HI")));
            let exit = master.expect_of(1, "exit");
            assert_eq!(
                (exit.code(), exit.signal(), exit.exited_after_disconnect()),
                (Some(1), None, Some(false))
            );
            assert_eq!(master.seen("error").len(), 1);
        },
    },
    Scenario {
        name: "n_035_what_is_said_at_online_reaches_user_code",
        app: || {
            let greet = |event: &ClusterEvent, handle: &ClusterHandle| {
                let Some(worker) = event.worker.as_ref().and_then(|info| handle.worker(info.id)) else {
                    return;
                };
                match &event.kind {
                    EventKind::Online => worker.send("foo").unwrap(),
                    EventKind::Message(answer) => {
                        assert!(answer.parse::<bool>().unwrap());
                        drop(actix_rt::spawn(async move { worker.disconnect().await.unwrap() }));
                    }
                    _ => {}
                }
            };
            let body = |worker: Worker| async move {
                // Late on purpose: the message is in the channel before anybody asks for it.
                probe::say("in no hurry");
                let mut messages = worker.messages().unwrap();
                let message = messages.next().await.unwrap();
                worker.send(&(message.parse::<String>().unwrap() == "foo")).unwrap();
                probe::idle(&worker).await;
            };
            probe::cluster().on_event(greet).worker(body).main()
        },
        check: |master| {
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            assert_eq!(
                master
                    .seen("message")
                    .iter()
                    .map(|seen| seen.data().clone())
                    .collect::<Vec<_>>(),
                [true]
            );
            assert!(master.wait().success());
        },
    },
    Scenario {
        name: "n_036_setup_fork_online_listening_in_this_order_for_whoever_subscribes_before_the_answer",
        app: || {
            let mut asked = false;
            let ask = move |_: &ClusterEvent, handle: &ClusterHandle| {
                if std::mem::replace(&mut asked, true) {
                    return;
                }
                let handle = handle.clone();
                actix_rt::spawn(async move {
                    let fork = handle.fork([("A", "b")]);
                    let mut events = handle.events();
                    let worker = fork.await.unwrap();
                    while let Some(event) = events.next().await {
                        if event.worker.is_some_and(|info| info.id == worker.id()) {
                            probe::say(&format!("late {}", event.kind.name()));
                        }
                    }
                });
            };
            let empty = probe::cluster().workers(0).when_empty(WhenEmpty::Wait).on_event(ask);
            empty.listen("tcp", "127.0.0.1:0").worker(listen).main()
        },
        check: |master| {
            for kind in ["fork", "online", "listening"] {
                assert_eq!(master.expect_said("late "), kind);
            }
            master.expect_count_of(1, "listening", 1);
            let seq = |kind| master.seen(kind)[0].0["seq"].as_u64().unwrap();
            let order = ["setup", "fork", "online", "listening"].map(seq);
            assert!(order.is_sorted(), "{order:?}");
        },
    },
    Scenario {
        name: "n_037_the_events_of_the_cluster_are_the_masters_alone",
        app: || {
            let told = |event: &ClusterEvent, _: &ClusterHandle| probe::say(&format!("heard {}", event.kind.name()));
            let cluster = probe::cluster()
                .on_event(told)
                .on_message(|_, _| probe::say("heard a message"));
            cluster.listen("tcp", "127.0.0.1:0").worker(listen).main()
        },
        check: |master| {
            let online = master.expect_of(1, "online");
            master.expect_of(1, "listening");
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            let heard = master.said("heard ");
            for kind in ["online", "listening"] {
                assert_eq!(heard.iter().filter(|(heard, _)| heard == kind).count(), 1);
            }
            assert!(
                heard
                    .iter()
                    .all(|(_, pid)| *pid == u64::from(master.pid()) && *pid != u64::from(online.pid()))
            );
        },
    },
    Scenario {
        name: "n_038_every_subscriber_sees_one_order",
        app: || {
            let told = |who: &'static str| {
                move |event: &ClusterEvent, _: &ClusterHandle| {
                    let id = event.worker.as_ref().map(|info| info.id.get());
                    probe::say(&format!("{who} {} {} {id:?}", event.seq, event.kind.name()));
                }
            };
            let cluster = probe::cluster().workers(3).on_event(told("first")).worker(puppet::run);
            cluster.on_event(told("second")).main()
        },
        check: |master| {
            master.expect_ready();
            for worker in 1..=3 {
                master.order(&Order::Send(worker, "send x".to_owned()));
            }
            master.order(&Order::Kill(2, Signal::SIGKILL as i32));
            master.expect_of(4, "ready");
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            let heard = |who| master.said(who).into_iter().map(|(event, _)| event).collect::<Vec<_>>();
            let (first, second) = (heard("first "), heard("second "));
            assert_eq!(first, second);
            let numbers = first
                .iter()
                .map(|event| event.split(' ').next().unwrap().parse::<usize>().unwrap());
            assert!(numbers.eq(1..=first.len()), "{first:?}");
            assert!(first.iter().any(|event| event.ends_with("exit Some(4)")), "{first:?}");
        },
    },
    Scenario {
        name: "n_041_n_042_a_worker_told_to_stop_stays_in_the_table_until_it_is_gone",
        app: || {
            probe::cluster()
                .workers(2)
                .grace(Duration::from_secs(600))
                .on_event(witness())
                .worker(puppet::run)
                .main()
        },
        check: |master| {
            master.expect_ready();
            tell(master, 1, "linger");
            assert_eq!(exited_after_disconnect(master), [Some((1, None)), Some((2, None))]);
            master.order(&Order::Disconnect(1));
            let exiting = master.expect_said("saw exiting of 1: ");
            assert_eq!(exiting, "listed true, connected true, dead false, asked Some(true)");
            assert_eq!(
                exited_after_disconnect(master),
                [Some((1, Some(true))), Some((2, None))]
            );
            master.order(&Order::Send(1, "go on".to_owned()));
            assert_eq!(
                master.expect_said("saw exit of 1: "),
                "listed false, connected false, dead true, asked Some(true)"
            );
            let exit = master.expect_count_of(1, "exit", 1).pop().unwrap();
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            assert_eq!(exited_after_disconnect(master), [Some((2, None)), None]);
        },
    },
    Scenario {
        name: "n_043_a_worker_that_cannot_be_started_is_an_error_and_nothing_else",
        app: || probe::cluster().worker(puppet::run).main(),
        check: |master| {
            master.expect_ready();
            let nowhere = Change {
                cwd: Some("/no/such/directory".into()),
                ..Change::default()
            };
            master.ask(&Order::Setup(nowhere), "settings ");
            let answer = master.ask(&Order::Fork(Vec::new()), "error ");
            assert!(
                answer.contains("ENOENT") && answer.contains("/no/such/directory"),
                "{answer}"
            );
            let error = master.expect_count("error", 1).pop().unwrap();
            assert_eq!((error.worker(), error.state()), (2, "dead"));
            assert_eq!(error.data()["spawn"]["errno"], 2);
            assert!(error.0["worker"]["pid"].is_null());
            assert_eq!(exited_after_disconnect(master), [Some((1, None)), None]);
            assert_eq!(master.snapshot()["slots"].as_array().unwrap().len(), 1);
            assert_eq!(master.life_of(2), ["error"]);
        },
    },
    Scenario {
        name: "n_044_online_says_that_the_library_runs_and_no_more",
        app: || {
            let temporary = probe::cluster()
                .workers(0)
                .when_empty(WhenEmpty::Wait)
                .restart(RestartType::Temporary);
            let fails = |_: Worker| async { Err::<(), _>("at the first line") };
            temporary.ready_when(ReadyWhen::Spawned).worker(fails).main()
        },
        check: |master| {
            // User code that fails at once was online before.
            master.ask(&Order::Fork(Vec::new()), "forked ");
            assert_eq!(master.expect_count_of(1, "exit", 1)[0].code(), Some(1));
            assert_eq!(
                master.life_of(1),
                ["fork", "ready", "online", "error", "disconnect", "exit"]
            );
            // A program without the library never is.
            let foreign = Change {
                exec: Some("/bin/false".into()),
                ..Change::default()
            };
            master.ask(&Order::Setup(foreign), "settings ");
            master.ask(&Order::Fork(Vec::new()), "forked ");
            assert_eq!(master.expect_count_of(2, "exit", 1)[0].code(), Some(1));
            assert_eq!(master.life_of(2), ["fork", "ready", "disconnect", "exit"]);
        },
    },
    Scenario {
        name: "f_164_the_last_words_of_workers_that_end_at_once_are_never_lost",
        app: || {
            let temporary = probe::cluster()
                .workers(0)
                .when_empty(WhenEmpty::Wait)
                .restart(RestartType::Temporary);
            let body = |worker: Worker| async move { worker.send("first and last").map_err(|error| error.to_string()) };
            temporary.worker(body).main()
        },
        check: |master| {
            let workers = 1..=100;
            for _ in workers.clone() {
                master.order(&Order::Fork(Vec::new()));
            }
            master.expect_count("exit", 100);
            for worker in workers {
                let life = master.life_of(worker);
                assert_eq!(
                    life,
                    ["fork", "online", "ready", "message", "exiting", "disconnect", "exit"],
                    "{worker}"
                );
            }
        },
    },
];

fn one_listener() -> ExitCode {
    probe::cluster().listen("tcp", "127.0.0.1:0").worker(listen).main()
}

async fn listen(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}

/// Says at each event what the handle tells of the worker at this moment, also of one that has left the table.
fn witness() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send + 'static {
    let mut known: HashMap<WorkerId, WorkerRef> = HashMap::new();
    move |event, handle| {
        let Some(info) = &event.worker else { return };
        let listed = handle.worker(info.id);
        let worker = known
            .entry(info.id)
            .or_insert_with(|| listed.clone().expect("a forked worker is listed"));
        probe::say(&format!(
            "saw {} of {}: listed {}, connected {}, dead {}, asked {:?}",
            event.kind.name(),
            info.id,
            listed.is_some(),
            worker.is_connected(),
            worker.is_dead(),
            worker.exited_after_disconnect()
        ));
    }
}

/// Each listed worker's id and `exitedAfterDisconnect`: of two at most.
fn exited_after_disconnect(master: &mut actix_cluster_tests::master::Master) -> [Option<(u64, Option<bool>)>; 2] {
    let snapshot = master.snapshot();
    let workers = snapshot["workers"].as_array().unwrap();
    [0, 1].map(|index| {
        let worker = workers.get(index)?;
        Some((
            worker["id"].as_u64().unwrap(),
            worker["exited_after_disconnect"].as_bool(),
        ))
    })
}
