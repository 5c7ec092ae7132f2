//! Errors of listening, as the asking worker sees them, and of connections whose worker is gone.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use actix_cluster::{
    ClusterBuilder, EventKind, ListenError, ListenOptions, RestartType, Scheduling, WhenEmpty, Worker, is_master,
};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::tcp::{self, Tcp};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use tokio::io::AsyncWriteExt;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: PRIVILEGED,
        app: || ask_for_a_privileged_port(Scheduling::PerWorker),
        check: |master| by_an_ordinary_user(master, PRIVILEGED, refused_for_privilege),
    },
    Scenario {
        name: PRIVILEGED_SHARED,
        app: || ask_for_a_privileged_port(Scheduling::Shared),
        check: |master| by_an_ordinary_user(master, PRIVILEGED_SHARED, refused_for_privilege),
    },
    Scenario {
        name: "n_196_a_port_that_the_master_serves_itself_is_in_use",
        app: || beside_a_server(|worker| close_on_error(worker, Scheduling::Shared, held())),
        check: |master| {
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
            assert_refused(master, Errno::EADDRINUSE);
        },
    },
    Scenario {
        name: "n_197_a_worker_that_panics_over_its_bind_error_while_leaving_ends",
        app: || beside_a_server(disconnect_and_panic),
        check: |master| {
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(101), Some(true)));
            assert_eq!(master.count_said("the bind failed"), 1);
            let errors = master.seen("error");
            assert_eq!(errors.len(), 2, "{errors:?}");
            assert_eq!(errors[0].data()["listen"]["errno"], Errno::EADDRINUSE as i32);
            let report = errors[1].data()["failed"].as_str().expect("its own report");
            assert!(report.contains("panicked"), "{report}");
        },
    },
    Scenario {
        name: "n_198_a_worker_disconnects_itself_over_a_bind_error_and_the_master_goes_on",
        app: || beside_a_server(disconnect_on_error),
        check: |master| {
            let port = master.expect_said("the master closed its server on ");
            assert!(tcp::is_refused(port.parse().expect("a port")));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            assert_refused(master, Errno::EADDRINUSE);
        },
    },
    Scenario {
        name: "n_199_a_bind_that_was_given_up_fails_without_harm",
        app: || beside_a_server(give_up_a_bind),
        check: |master| {
            master.hears("the next bind is answered");
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(true)));
            let errors = master.seen("error");
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].data()["listen"]["errno"], Errno::EADDRINUSE as i32);
        },
    },
    Scenario {
        name: "n_200_the_clients_of_a_killed_worker_see_the_end_or_a_reset",
        app: || one().worker(hold_one).main(),
        check: |master| {
            let port = master.sees(1, "listening").data()["port"].as_u64().expect("TCP");
            let mut client = Tcp::connect(u16::try_from(port).expect("ports are small")).expect("it listens");
            client.hear(".");
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            let exit = master.sees(1, "exit");
            assert_eq!((exit.code(), exit.signal()), (None, Some(9)));
            assert_eq!(client.rest().0, "");
        },
    },
];

const PRIVILEGED: &str = "n_194_a_privileged_port_is_refused_to_an_ordinary_user";
const PRIVILEGED_SHARED: &str = "n_195_a_privileged_port_is_refused_to_an_ordinary_user_who_shares";

/// Below 1024, and nobody's in particular.
const PRIVILEGED_PORT: u16 = 42;

/// The user and group called `nobody`.
const NOBODY: u32 = 65534;

/// One worker that is not replaced; the cluster stays without it.
fn one() -> ClusterBuilder {
    let cluster = probe::cluster().workers(1).restart(RestartType::Temporary);
    cluster.when_empty(WhenEmpty::Wait)
}

/// As root this only waits: the check starts it once more, as somebody else.
fn ask_for_a_privileged_port(scheduling: Scheduling) -> ExitCode {
    let workers = u32::from(!Uid::effective().is_root());
    let ask = move |worker| close_on_error(worker, scheduling, PRIVILEGED_PORT);
    one().workers(workers).worker(ask).main()
}

/// Looks at the scenario's program run by an ordinary user, or says why it cannot.
fn by_an_ordinary_user(master: &mut Master, name: &str, look: fn(&Master)) {
    let unprivileged = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let unprivileged: u16 = unprivileged.ok().and_then(|port| port.trim().parse().ok()).unwrap_or(0);
    if unprivileged <= PRIVILEGED_PORT {
        eprintln!("{name}: skipped, since port {PRIVILEGED_PORT} is anybody's here");
        return;
    }
    if !Uid::effective().is_root() {
        return look(master);
    }
    let mut attempt = Command::new(std::env::current_exe().expect("a running program has a path"));
    attempt.arg("--list").stdout(Stdio::null()).uid(NOBODY).gid(NOBODY);
    if !attempt.status().is_ok_and(|status| status.success()) {
        eprintln!("{name}: skipped, since an ordinary user cannot run this program");
        return;
    }
    let mut ordinary = Master::start_with(name, |command| {
        command.uid(NOBODY).gid(NOBODY);
    });
    look(&ordinary);
    ordinary.finish();
}

fn refused_for_privilege(master: &Master) {
    let exit = master.sees(1, "exit");
    assert_eq!((exit.code(), exit.exited_after_disconnect()), (Some(0), Some(false)));
    assert_refused(master, Errno::EACCES);
}

/// The worker and the master's subscribers heard of the error, once each, and nobody listens.
fn assert_refused(master: &Master, errno: Errno) {
    assert_eq!(master.count_said(&format!("refused: {:?}", Some(errno as i32))), 1);
    let errors = master.seen("error");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].data()["listen"]["errno"], errno as i32);
    assert_eq!(master.counts_of(1, ["listening", "disconnect", "exit"]), [0, 1, 1]);
}

/// The master has a server of its own, which it closes when its worker has ended.
fn beside_a_server<F, Fut>(worker: F) -> ExitCode
where
    F: FnOnce(Worker) -> Fut + 'static,
    Fut: Future<Output = Result<(), ListenError>> + 'static,
{
    if !is_master() {
        return one().worker(worker).main();
    }
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let port = server.local_addr().expect("it is bound").port();
    let mut server = Some(server);
    let close = move |event: &actix_cluster::ClusterEvent, _: &actix_cluster::ClusterHandle| {
        if matches!(event.kind, EventKind::Exit(_)) {
            drop(server.take());
            probe::say(&format!("the master closed its server on {port}"));
        }
    };
    one()
        .env("HELD", port.to_string())
        .on_event(close)
        .worker(worker)
        .main()
}

/// The port of the master's server.
fn held() -> u16 {
    let port = std::env::var("HELD").ok().and_then(|port| port.parse().ok());
    port.expect("the master tells its port")
}

async fn bind(worker: &Worker, scheduling: Scheduling, port: u16) -> Result<(), ListenError> {
    let options = ListenOptions::new().scheduling(scheduling);
    let listener = worker.bind_with(("127.0.0.1", port), options).await?;
    probe::say("bound");
    listener.incoming()?.serve_with(|_| async {}).await;
    Ok(())
}

async fn close_on_error(worker: Worker, scheduling: Scheduling, port: u16) -> Result<(), ListenError> {
    let error = bind(&worker, scheduling, port).await.expect_err("it cannot be had");
    probe::say(&format!("refused: {:?}", error.errno));
    worker.close_channel();
    Ok(())
}

async fn disconnect_and_panic(worker: Worker) -> Result<(), ListenError> {
    bind(&worker, Scheduling::PerWorker, held())
        .await
        .expect_err("it cannot be had");
    probe::say("the bind failed");
    worker.disconnect();
    panic!("asked to");
}

async fn disconnect_on_error(worker: Worker) -> Result<(), ListenError> {
    let error = bind(&worker, Scheduling::Shared, held())
        .await
        .expect_err("it cannot be had");
    probe::say(&format!("refused: {:?}", error.errno));
    worker.disconnect();
    Ok(())
}

async fn give_up_a_bind(worker: Worker) -> Result<(), ListenError> {
    tokio::select! {
        biased;
        answer = bind(&worker, Scheduling::Shared, held()) => panic!("answered at once: {answer:?}"),
        () = std::future::ready(()) => {}
    }
    // The channel keeps the order: when this one is answered, so was the other one.
    drop(worker.bind("127.0.0.1:0").await?);
    probe::say("the next bind is answered");
    Ok(())
}

async fn hold_one(worker: Worker) -> Result<(), ListenError> {
    let mut incoming = worker.bind("127.0.0.1:0").await?.incoming()?;
    let Some(mut connection) = incoming.accept().await else {
        return Ok(());
    };
    connection.write_all(b".").await.ok();
    std::future::pending().await
}
