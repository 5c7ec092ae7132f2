//! The events of a worker's life, their order, and what they say.

use std::process::ExitCode;

use actix_cluster::Worker;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
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
}];

fn one_listener() -> ExitCode {
    probe::cluster().listen("tcp", "127.0.0.1:0").worker(listen).main()
}

async fn listen(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}
