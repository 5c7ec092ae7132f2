//! Exits and signals, and what the events say of them.

use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, ListenError, RestartType, RunError, WhenEmpty, Worker,
    WorkerId, WorkerRef,
};
use actix_cluster_tests::master::{Master, Seen, send};
use actix_cluster_tests::probe::{self, Order, worker_of};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::Tcp;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_173_n_175_n_176_n_177_an_exit_without_a_word_is_told_once_with_its_code",
        app: || watched().worker(exit_at_a_word).main(),
        check: |master| {
            let exit = ended_unasked(master);
            assert_eq!((exit.code(), exit.signal()), (Some(42), None));
        },
    },
    Scenario {
        name: "n_178_a_disconnect_and_an_exit_of_ones_own_are_voluntary",
        app: || lasting(2).worker(told).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Send(1, "disconnect".to_owned()));
            master.order(&Order::Send(2, "exit_now".to_owned()));
            for worker in [1, 2] {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
                assert_eq!(master.sees(worker, "exit").exited_after_disconnect(), Some(true));
                assert_eq!(master.sees(worker, "disconnect").exited_after_disconnect(), Some(true));
            }
        },
    },
    Scenario {
        name: "n_179_a_worker_that_spins_is_killed_when_it_does_not_mind_the_signal",
        app: || lasting(1).grace(Duration::from_millis(300)).worker(|_| spin()).main(),
        check: |master| {
            master.hears("spinning");
            master.order(&Order::Kill(1, Signal::SIGTERM as i32));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (None, Some(9)));
            assert_eq!(
                (&exit.data()["forced"], exit.reason()),
                (&true.into(), &"killed".into())
            );
        },
    },
    Scenario {
        name: "n_180_n_181_n_188_a_worker_killed_through_the_handle",
        app: || watched().worker(listen).main(),
        check: |master| {
            master.sees(1, "listening");
            master.hears("kept");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            let exit = ended_unasked(master);
            assert_eq!((exit.code(), exit.signal()), (None, Some(9)));
            assert_eq!(exit.reason(), "killed");
            // A worker that has exited is no error.
            master.ask(&Order::Kill(1, Signal::SIGKILL as i32), "kill");
        },
    },
    Scenario {
        name: "n_189_a_worker_killed_behind_the_masters_back",
        app: || watched().worker(listen).main(),
        check: |master| {
            master.hears("kept");
            send(master.sees(1, "listening").pid(), Signal::SIGKILL);
            let exit = ended_unasked(master);
            assert_eq!((exit.code(), exit.signal()), (None, Some(9)));
            assert_eq!(exit.reason(), "crash");
        },
    },
    Scenario {
        name: "n_182_a_worker_ends_itself_connected_or_not",
        app: || lasting(2).worker(end_itself).main(),
        check: |master| {
            for worker in [1, 2] {
                assert_eq!(master.sees(worker, "exit").code(), Some(0));
                assert_eq!(master.counts_of(worker, ["disconnect", "exit"]), [1, 1]);
            }
            master.hears("1 is connected: false");
            master.hears("2 is connected: true");
        },
    },
    Scenario {
        name: "n_184_a_master_that_panics_takes_its_workers_with_it",
        app: panic_when_both_listen,
        check: |master| {
            // Nobody waits for the probe once the panic is there.
            master.expect_count("listening", 2);
            std::fs::write(master.directory().join("panic"), "").expect("the directory is ours");
            // The pipe ends when the last process of the scenario has ended.
            assert_eq!(master.wait().code(), Some(101));
            assert_eq!(master.seen("fork").len(), 2);
        },
    },
    Scenario {
        name: "n_186_a_polite_signal_is_sent_at_once_and_the_end_counts_as_unasked",
        app: || lasting(1).worker(told).main(),
        check: |master| {
            master.expect_ready();
            master.order(&Order::Kill(1, Signal::SIGTERM as i32));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
            assert_eq!(
                (&exit.data()["forced"], exit.reason()),
                (&false.into(), &"killed".into())
            );
            assert_eq!(master.sees(1, "disconnect").exited_after_disconnect(), Some(false));
        },
    },
    Scenario {
        name: "n_187_to_exit_now_is_not_to_drain",
        app: || lasting(2).worker(end_when_a_client_says_so).main(),
        check: |master| {
            for (worker, word, answer) in [(1, "exit_now", ""), (2, "disconnect", "the answer")] {
                let port = master.sees(worker, "listening").data()["port"].as_u64().expect("TCP");
                let mut client = Tcp::connect(u16::try_from(port).expect("ports are small")).expect("it listens");
                client.hear(".");
                client.say(word);
                assert_eq!(client.rest().0, answer, "{word}");
                let exit = master.sees(worker, "exit");
                assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            }
        },
    },
    Scenario {
        name: "n_190_a_worker_that_loses_its_channel_exits_and_cuts_what_it_does",
        app: || lasting(1).worker(end_when_a_client_says_so).main(),
        check: |master| {
            let mut client = begun(master);
            master.order(&Order::CloseChannel(1));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
            assert_eq!(exit.data()["forced"], false);
            assert_eq!(client.rest().0, "");
        },
    },
    Scenario {
        name: "n_190_a_worker_that_loses_its_channel_finishes_what_it_does_if_it_may",
        app: || {
            let patient = lasting(1)
                .orphan_grace(Duration::from_secs(10))
                .grace(Duration::from_secs(10));
            patient.worker(end_when_a_client_says_so).main()
        },
        check: |master| {
            let mut client = begun(master);
            master.order(&Order::CloseChannel(1));
            master.sees(1, "disconnect");
            client.say("go on");
            assert_eq!(client.rest().0, "the answer");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
        },
    },
    Scenario {
        name: "n_192_the_exit_handler_forks_again_unless_the_end_was_voluntary",
        app: fork_again_by_hand,
        check: |master| {
            master.sees(1, "online");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            master.sees(1, "exit");
            master.sees(2, "online");
            master.order(&Order::Disconnect(2));
            assert_eq!(master.sees(2, "exit").exited_after_disconnect(), Some(true));
            master.hears("skipped 2");
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.seen("fork").len(), 2);
        },
    },
];

/// A cluster that does not replace its workers, and stays when none is left.
fn lasting(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster().workers(workers).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

/// One worker, and a subscriber that compares what it holds of it with what the events say.
fn watched() -> ClusterBuilder {
    let mut kept: Option<WorkerRef> = None;
    let look = move |event: &ClusterEvent, handle: &ClusterHandle| match &event.kind {
        EventKind::Fork => {
            // It waits for this, or it might be dead before we have seen it alive.
            let worker = worker_of(event, handle);
            worker.send("go").expect("it is connected");
            kept = Some(worker);
            probe::say("kept");
        }
        EventKind::Exit(exit) => {
            let worker = kept.take().expect("the fork came before");
            assert_eq!(worker.exit().as_ref(), Some(exit));
            assert!(worker.is_dead() && !worker.is_connected());
            let asked = kill(Pid::from_raw(worker.pid().cast_signed()), None);
            assert_eq!(asked, Err(Errno::ESRCH));
            assert!(handle.workers().is_empty() && handle.worker(worker.id()).is_none());
            probe::say("the exit is as told");
        }
        _ => {}
    };
    lasting(1).on_event(look)
}

/// The end of the worker of [`watched`], which nobody had asked to disconnect.
fn ended_unasked(master: &Master) -> Seen {
    let exit = master.sees(1, "exit");
    master.hears("the exit is as told");
    let disconnect = master.sees(1, "disconnect");
    assert_eq!(disconnect.state(), "disconnected");
    assert_eq!(disconnect.exited_after_disconnect(), Some(false));
    assert_eq!((exit.state(), exit.exited_after_disconnect()), ("dead", Some(false)));
    assert_eq!(master.counts_of(1, ["disconnect", "exit"]), [1, 1]);
    assert_eq!(master.seen("exit").len(), 1);
    exit
}

/// A client whose request the worker has begun.
fn begun(master: &Master) -> Tcp {
    let port = master.sees(1, "listening").data()["port"].as_u64().expect("TCP");
    let mut client = Tcp::connect(u16::try_from(port).expect("ports are small")).expect("it listens");
    client.hear(".");
    client
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "user code that ends a worker behind the library's back"
)]
async fn exit_at_a_word(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    messages.next().await.expect("the master sends a word");
    std::process::exit(42)
}

async fn told(worker: Worker) {
    probe::do_as_told(&worker);
    probe::idle(&worker).await;
}

async fn spin() {
    probe::say("spinning");
    loop {
        std::hint::spin_loop();
    }
}

async fn listen(worker: Worker) -> Result<(), ListenError> {
    worker
        .bind("127.0.0.1:0")
        .await?
        .incoming()?
        .serve_with(|_| async {})
        .await;
    Ok(())
}

/// The first one exits when it has lost its channel, the second one while it has it.
async fn end_itself(worker: Worker) {
    if worker.id() == WorkerId::new(1) {
        let mut messages = worker.messages().expect("the messages have no owner yet");
        worker.disconnect();
        worker.close_channel();
        while messages.next().await.is_some() {}
    }
    probe::say(&format!("{} is connected: {}", worker.id(), worker.is_connected()));
    worker.exit_now(0);
}

/// Each worker has a port of its own, so that the client knows whom it talks to.
async fn end_when_a_client_says_so(worker: Worker) -> Result<(), ListenError> {
    let own = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = own.local_addr().expect("it is bound");
    own.set_nonblocking(true).expect("a socket can be made so");
    let own = tokio::net::TcpListener::from_std(own).expect("the runtime runs");
    worker.listening(actix_cluster::BoundAddress::tcp(address));
    let (mut stream, _) = own.accept().await.expect("a client comes");
    stream.write_all(b".").await.expect("the client listens");
    let mut word = [0; 16];
    let count = stream.read(&mut word).await.expect("the client speaks");
    match &word[..count] {
        b"exit_now" => worker.exit_now(0),
        b"disconnect" => worker.disconnect(),
        _ => {}
    }
    stream.write_all(b"the answer").await.expect("the client listens");
    Ok(())
}

fn panic_when_both_listen() -> ExitCode {
    let result: Result<(), RunError> = actix_rt::System::new().block_on(async {
        let (listening, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let tell = move |event: &ClusterEvent, _: &ClusterHandle| {
            if matches!(event.kind, EventKind::Listening(_)) {
                listening.send(()).expect("the master waits");
            }
        };
        let cluster = lasting(2).on_event(tell).worker(listen).build()?;
        let _running = cluster.start().await?;
        for _ in 0..2 {
            heard.recv().await;
        }
        panic!("asked to");
    });
    result.map_or_else(Into::into, |()| ExitCode::SUCCESS)
}

fn fork_again_by_hand() -> ExitCode {
    let replace = |event: &ClusterEvent, handle: &ClusterHandle| {
        let (EventKind::Exit(_), Some(worker)) = (&event.kind, &event.worker) else {
            return;
        };
        if worker.exited_after_disconnect == Some(true) {
            probe::say(&format!("skipped {}", worker.id));
            return;
        }
        // Reading from inside the handler waits for nobody either.
        assert!(handle.snapshot().workers.is_empty());
        let handle = handle.clone();
        actix_rt::spawn(async move { handle.fork([("", ""); 0]).await.expect("it can be started") });
    };
    lasting(1).on_event(replace).worker(told).main()
}
