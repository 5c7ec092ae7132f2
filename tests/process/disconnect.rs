//! Ending in order: one worker, all workers, from either side. What happens to connections meanwhile is in `draining`.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ListenError, ListenOptions, RestartType, Scheduling,
    Signal, WhenEmpty, Worker, WorkerId, WorkerRef,
};
use actix_cluster_tests::probe::{self, Order, text_of, worker_of};
use actix_cluster_tests::scenario::Scenario;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_148_workers_that_are_not_online_yet_are_disconnected",
        app: disconnect_all_at_the_second_fork,
        check: |master| {
            assert_eq!(master.expect_said("left "), "0");
            for worker in [1, 2] {
                master.sees(worker, "exit");
                assert_eq!(master.counts_of(worker, ["disconnect", "exit"]), [1, 1]);
            }
        },
    },
    Scenario {
        name: "n_149_a_disconnected_worker_that_has_not_exited_does_not_disturb_the_disconnect_of_all",
        app: disconnect_all_at_the_first_disconnect,
        check: |master| {
            assert_eq!(master.expect_said("all: "), "Ok(()), left 0");
            for worker in [1, 2] {
                master.sees(worker, "exit");
                assert_eq!(master.counts_of(worker, ["disconnect", "exit"]), [1, 1]);
            }
        },
    },
    Scenario {
        name: "n_151_a_disconnect_that_races_with_a_bind_request_comes_to_its_end",
        app: disconnect_all_at_the_fork,
        check: |master| {
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.counts_of(1, ["disconnect", "exit"]), [1, 1]);
            assert_eq!(master.seen("exit").len(), 1);
        },
    },
    Scenario {
        name: "n_152_one_worker_leaves_while_the_next_one_binds",
        app: replace_the_first_and_stop_the_second,
        check: |master| {
            master.order(&Order::Fork(Vec::new()));
            assert_eq!(master.wait().code(), Some(0));
            let exits = master.seen("exit");
            let ends: Vec<_> = exits.iter().map(|exit| (exit.worker(), exit.code())).collect();
            assert_eq!(ends.len(), 2, "{ends:?}");
            assert!(ends.contains(&(1, Some(0))) && ends.contains(&(2, Some(0))), "{ends:?}");
        },
    },
    Scenario {
        name: "n_153_a_worker_without_listeners_is_disconnected_beside_one_with",
        app: one_of_two_listens,
        check: |master| {
            master.ask(&Order::Fork(Vec::new()), "forked 1");
            let bound = ("BOUND".to_owned(), "y".to_owned());
            master.order(&Order::Fork(vec![bound]));
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.counts_of(1, ["listening", "disconnect", "exit"]), [0, 1, 1]);
            assert_eq!(master.counts_of(2, ["listening", "disconnect", "exit"]), [1, 1, 1]);
        },
    },
    Scenario {
        name: "n_155_a_worker_that_disconnected_itself_can_be_killed_without_harm",
        app: kill_at_the_disconnect,
        check: |master| {
            assert_eq!(master.expect_said("starts connected: "), "true");
            assert_eq!(master.expect_said("still connected: "), "false");
            assert_eq!(master.expect_said("killed: "), "Ok(())");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
        },
    },
    Scenario {
        name: "n_156_n_158_workers_disconnect_and_exit_all_at_once",
        app: tell_all_to_end,
        check: |master| {
            for worker in 1..=CROWD {
                master.sees(worker, "exit");
                assert_eq!(master.counts_of(worker, ["disconnect", "exit"]), [1, 1]);
            }
            master.until("every process to be looked for", |master| {
                master.count_said("after the exit: ESRCH") == usize::try_from(CROWD).expect("a handful")
            });
            for disconnect in master.seen("disconnect") {
                assert_eq!(disconnect.state(), "disconnected");
                assert_eq!(disconnect.exited_after_disconnect(), Some(true));
            }
            for exit in master.seen("exit") {
                assert_eq!((exit.code(), exit.signal()), (Some(0), None));
            }
            assert_eq!(master.count_said("a send failed for another reason than the end"), 0);
        },
    },
    Scenario {
        name: "n_159_a_worker_that_is_disconnected_in_order_finishes_its_own_way",
        app: end_on_a_word,
        check: |master| {
            master.expect_ready();
            master.order(&Order::Disconnect(1));
            master.hears("cleaning up");
            master.order(&Order::Send(1, "now".to_owned()));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(42), Some(true)));
        },
    },
    Scenario {
        name: "n_160_a_worker_that_loses_its_channel_is_forced_out",
        app: end_on_a_word,
        check: |master| {
            master.expect_ready();
            master.order(&Order::CloseChannel(1));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
            assert_eq!(master.count_said("the word came"), 0);
        },
    },
    Scenario {
        name: "n_169_the_master_ends_when_all_are_disconnected",
        app: || crowd(3).worker(told).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::DisconnectAll);
            assert_eq!(master.wait().code(), Some(0));
            for worker in 1..=3 {
                assert_eq!(master.counts_of(worker, ["disconnect", "exit"]), [1, 1]);
            }
            assert!(master.seen("exit").iter().all(|exit| exit.code() == Some(0)));
        },
    },
    Scenario {
        name: "n_169_n_170_everyone_who_waits_for_the_disconnect_of_all_waits_for_the_last",
        app: || {
            let cluster = crowd(3).when_empty(WhenEmpty::Wait);
            cluster.grace(Duration::from_secs(60)).worker(third_lingers).main()
        },
        check: |master| {
            master.expect_ready();
            master.order(&Order::DisconnectAll);
            master.expect_all(&[(1, "exit"), (2, "exit")]);
            // A second call, with two workers gone already.
            master.order(&Order::DisconnectAll);
            master.ask(&Order::Ping, "pong");
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.count_said("all disconnected"), 0);
            master.order(&Order::Send(3, "now".to_owned()));
            master.expect_said("all disconnected");
            master.expect_said("all disconnected");
            assert!(master.snapshot()["workers"].as_array().is_some_and(Vec::is_empty));
            master.sees(3, "exit");
            assert_eq!(master.counts_of(3, ["disconnect", "exit"]), [1, 1]);
        },
    },
    Scenario {
        name: "n_171_closing_the_channel_is_not_disconnecting",
        app: || crowd(2).worker(told).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Send(1, "close_channel".to_owned()));
            let disconnect = master.sees(1, "disconnect");
            assert_eq!(disconnect.exited_after_disconnect(), Some(false));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
            assert_eq!(master.counts_of(1, ["exiting"]), [0]);
            master.order(&Order::Send(2, "disconnect".to_owned()));
            assert_eq!(master.wait().code(), Some(0));
            let exit = master.seen("exit").pop().expect("there were two");
            assert_eq!((exit.worker(), exit.code()), (2, Some(0)));
            assert_eq!(exit.exited_after_disconnect(), Some(true));
            assert_eq!(master.counts_of(2, ["exiting"]), [1]);
        },
    },
];

/// Workers in [`tell_all_to_end`].
const CROWD: u64 = 6;

/// Workers that are not replaced.
fn crowd(count: u32) -> ClusterBuilder {
    probe::cluster().workers(count).restart(RestartType::Temporary)
}

async fn told(worker: Worker) {
    probe::do_as_told(&worker);
    probe::idle(&worker).await;
}

fn disconnect_all_at_the_second_fork() -> ExitCode {
    let second_fork = |event: &ClusterEvent, handle: &ClusterHandle| {
        if matches!(event.kind, EventKind::Fork) && worker_of(event, handle).id() == WorkerId::new(2) {
            let handle = handle.clone();
            actix_rt::spawn(async move {
                handle.disconnect_all().await.expect("the cluster runs");
                probe::say(&format!("left {}", handle.workers().len()));
            });
        }
    };
    let cluster = crowd(2).when_empty(WhenEmpty::Wait).on_event(second_fork);
    cluster.worker(told).main()
}

fn disconnect_all_at_the_first_disconnect() -> ExitCode {
    let chain = |event: &ClusterEvent, handle: &ClusterHandle| {
        let Some(worker) = event.worker.as_ref().filter(|worker| worker.id == WorkerId::new(1)) else {
            return;
        };
        let (handle, id) = (handle.clone(), worker.id);
        match event.kind {
            EventKind::Online => {
                actix_rt::spawn(async move { handle.disconnect(id).await.expect("it lives") });
            }
            EventKind::Disconnect => {
                actix_rt::spawn(async move {
                    let all = handle.disconnect_all().await;
                    probe::say(&format!("all: {all:?}, left {}", handle.workers().len()));
                });
            }
            _ => {}
        }
    };
    let cluster = crowd(2).when_empty(WhenEmpty::Wait).on_event(chain);
    cluster.worker(first_disconnects_before_it_exits).main()
}

/// The first one closes its channel and lives on until it is forced out, so that there is a time between the two.
async fn first_disconnects_before_it_exits(worker: Worker) {
    probe::idle(&worker).await;
    if worker.id() == WorkerId::new(1) {
        worker.close_channel();
        std::future::pending::<()>().await;
    }
}

fn disconnect_all_at_the_fork() -> ExitCode {
    let at_once = |event: &ClusterEvent, handle: &ClusterHandle| {
        if matches!(event.kind, EventKind::Fork) {
            let handle = handle.clone();
            // The end of the cluster may come before the answer; then there is nobody left to be told.
            actix_rt::spawn(async move { handle.disconnect_all().await.ok() });
        }
    };
    crowd(1).on_event(at_once).worker(listen).main()
}

fn replace_the_first_and_stop_the_second() -> ExitCode {
    let chain = |event: &ClusterEvent, handle: &ClusterHandle| {
        let Some(id) = event.worker.as_ref().map(|worker| worker.id.get()) else {
            return;
        };
        let handle = handle.clone();
        match (id, &event.kind) {
            (1, EventKind::Listening(_)) => {
                actix_rt::spawn(async move {
                    let fork = handle.fork([("", ""); 0]);
                    let (forked, disconnected) = tokio::join!(fork, handle.disconnect(WorkerId::new(1)));
                    forked.expect("it can be started");
                    disconnected.expect("it lives");
                });
            }
            (2, EventKind::Online) => {
                actix_rt::spawn(async move { handle.disconnect(WorkerId::new(2)).await.expect("it lives") });
            }
            _ => {}
        }
    };
    crowd(0).on_event(chain).worker(listen).main()
}

fn one_of_two_listens() -> ExitCode {
    let chain = |event: &ClusterEvent, handle: &ClusterHandle| {
        let id = event.worker.as_ref().map(|worker| worker.id.get());
        let handle = handle.clone();
        match (id, &event.kind) {
            (Some(2), EventKind::Listening(_)) => {
                actix_rt::spawn(async move { handle.disconnect(WorkerId::new(1)).await.expect("it lives") });
            }
            (Some(1), EventKind::Disconnect) => {
                // The end of the cluster may come before the answer.
                actix_rt::spawn(async move { handle.disconnect_all().await.ok() });
            }
            _ => {}
        }
    };
    crowd(0).on_event(chain).worker(listen_if_bound).main()
}

async fn listen_if_bound(worker: Worker) -> Result<(), ListenError> {
    if std::env::var_os("BOUND").is_some() {
        return listen(worker).await;
    }
    probe::idle(&worker).await;
    Ok(())
}

/// Node's policy `none`: one socket, accepted on by all.
async fn listen(worker: Worker) -> Result<(), ListenError> {
    let options = ListenOptions::new().scheduling(Scheduling::Shared);
    let listener = worker.bind_with("127.0.0.1:0", options).await?;
    listener.incoming()?.serve_with(|_| async {}).await;
    Ok(())
}

fn kill_at_the_disconnect() -> ExitCode {
    let mut kept: Option<WorkerRef> = None;
    let chain = move |event: &ClusterEvent, handle: &ClusterHandle| match event.kind {
        EventKind::Fork => {
            // It waits for this, or it might be dead before we have seen it alive.
            worker_of(event, handle).send("go").expect("it is connected");
            kept = Some(worker_of(event, handle));
        }
        EventKind::Disconnect => {
            let worker = kept.take().expect("the fork came before");
            probe::say(&format!("still connected: {}", worker.is_connected()));
            actix_rt::spawn(async move {
                let killed = worker.kill(Signal::TERM).await;
                probe::say(&format!("killed: {killed:?}"));
            });
        }
        _ => {}
    };
    let cluster = crowd(1).when_empty(WhenEmpty::Wait).on_event(chain);
    cluster.worker(disconnect_itself).main()
}

async fn disconnect_itself(worker: Worker) {
    probe::say(&format!("starts connected: {}", worker.is_connected()));
    let mut messages = worker.messages().expect("the messages have no owner yet");
    messages.next().await.expect("the master sends a word");
    worker.disconnect();
}

fn tell_all_to_end() -> ExitCode {
    let mut online = 0;
    let chain = move |event: &ClusterEvent, handle: &ClusterHandle| match &event.kind {
        EventKind::Online => {
            online += 1;
            if online == CROWD {
                for (worker, word) in handle.workers().iter().zip(["disconnect", "exit_now"].iter().cycle()) {
                    worker.send(word).expect("it is connected");
                }
            }
        }
        EventKind::Disconnect => {
            let sent = handle.broadcast("disconnect").expect("a text has a JSON form");
            if sent.failed.iter().any(|(_, error)| !error.is_closed()) {
                probe::say("a send failed for another reason than the end");
            }
        }
        EventKind::Exit(_) => {
            let pid = event
                .worker
                .as_ref()
                .and_then(|worker| worker.pid)
                .expect("it had a process");
            let asked = kill(Pid::from_raw(pid.cast_signed()), None);
            probe::say(&format!(
                "after the exit: {:?}",
                asked.err().unwrap_or(Errno::UnknownErrno)
            ));
        }
        _ => {}
    };
    let cluster = crowd(u32::try_from(CROWD).expect("a handful")).when_empty(WhenEmpty::Wait);
    cluster.on_event(chain).worker(told).main()
}

fn end_on_a_word() -> ExitCode {
    let worker = |worker: Worker| async move {
        linger(&worker);
        probe::idle(&worker).await;
    };
    crowd(1)
        .grace(Duration::from_secs(10))
        .when_empty(WhenEmpty::Wait)
        .worker(worker)
        .main()
}

/// At its end the worker waits for a word, and then chooses how to end.
fn linger(worker: &Worker) {
    let (own, mut messages) = (
        worker.clone(),
        worker.messages().expect("the messages have no owner yet"),
    );
    worker.on_shutdown(|| async move {
        probe::say("cleaning up");
        if let Some(word) = messages.next().await {
            probe::say("the word came");
            assert_eq!(text_of(&word), "now");
            own.exit_now(42);
        }
        std::future::pending::<()>().await;
    });
}

async fn third_lingers(worker: Worker) {
    if worker.id() == WorkerId::new(3) {
        linger(&worker);
    }
    probe::idle(&worker).await;
}
