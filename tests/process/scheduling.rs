//! Who accepts, and what becomes of a service whose workers go.

use std::process::ExitCode;

use actix_cluster::{ListenError, ListenOptions, RestartType, Scheduling, WhenEmpty, Worker};
use actix_cluster_tests::fault::served_by;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_104_workers_accept_by_themselves_on_one_socket_of_the_master",
        app: one_each,
        check: |master| {
            let mut pids = [1, 2].map(|worker| master.expect_ever_of(worker, "ready").pid());
            let port = master.port();
            // Each takes one connection and no more, so the second one cannot be the first one's.
            let mut served = [(); 2].map(|()| served_by(port).expect("it is accepted"));
            pids.sort_unstable();
            served.sort_unstable();
            assert_eq!(served, pids);
        },
    },
    Scenario {
        name: "n_105_n_106_nobody_is_forked_again_unasked_and_the_last_ones_clients_wait_for_a_successor",
        app: never_again,
        check: |master| {
            let first = master.expect_ever_of(1, "ready").pid();
            let second = master.expect_ever_of(2, "ready").pid();
            let port = master.port();
            master.order(&Order::Kill(1, Signal::SIGKILL as i32));
            master.expect_of(1, "exit");
            assert_eq!([(); 4].map(|()| served_by(port)), [(); 4].map(|()| Ok(second)));
            master.order(&Order::Kill(2, Signal::SIGKILL as i32));
            master.expect_of(2, "exit");
            let waiting = std::thread::spawn(move || served_by(port));
            master.ask(&Order::Ping, "pong");
            assert_eq!(master.seen("fork").len(), 2, "nobody asked for another worker");
            master.ask(&Order::Fork(Vec::new()), "forked 3");
            let third = master.expect_ever_of(3, "ready").pid();
            assert_eq!(waiting.join().expect("the client does not panic"), Ok(third));
            assert!(![first, second].contains(&third));
        },
    },
];

fn one_each() -> ExitCode {
    let options = ListenOptions::new().scheduling(Scheduling::Shared);
    let cluster = probe::cluster().workers(2).listen_with("tcp", "127.0.0.1:0", options);
    cluster.worker(|worker| serve(worker, 1)).main()
}

fn never_again() -> ExitCode {
    let cluster = probe::cluster().workers(2).listen("tcp", "127.0.0.1:0");
    let cluster = cluster.restart(RestartType::Temporary).when_empty(WhenEmpty::Wait);
    cluster.worker(|worker| serve(worker, usize::MAX)).main()
}

/// Tells its process id to so many clients.
async fn serve(worker: Worker, clients: usize) -> Result<(), ListenError> {
    let mut incoming = worker.incoming("tcp")?;
    for _ in 0..clients {
        let Some(mut connection) = incoming.accept().await else {
            return Ok(());
        };
        // A client that has gone needs no answer.
        connection
            .write_all(std::process::id().to_string().as_bytes())
            .await
            .ok();
    }
    worker.shutdown().started().await;
    Ok(())
}
