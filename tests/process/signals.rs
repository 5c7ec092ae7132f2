//! Signals to the master: what they order, and what they must not do.

use std::time::Duration;

use actix_cluster::Worker;
use actix_cluster_tests::leftovers;
use actix_cluster_tests::master::{Master, ended_by};
use actix_cluster_tests::outside::{any_below, let_pass, wait_at_gate};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_052_an_interrupt_of_the_terminal_is_one_orderly_stop",
        app: || probe::cluster().workers(3).worker(idle).main(),
        check: |master| {
            master.expect_ready();
            let group = Pid::from_raw(i32::try_from(master.pid()).expect("process ids are small"));
            killpg(group, Signal::SIGINT).expect("the master leads its group");
            assert_eq!(master.wait().code(), Some(0));
            let exits = master.seen("exit");
            assert_eq!(exits.len(), 3);
            for exit in exits {
                assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
            }
        },
    },
    Scenario {
        name: "f_053_a_second_interrupt_kills_and_a_third_does_no_harm",
        app: deaf,
        check: |master| {
            master.expect_ready();
            master.signal(Signal::SIGINT);
            master.expect("shutdown_started");
            master.never("an end before its time", Duration::from_millis(200), |line| {
                line["event"] == "exit"
            });
            master.signal(Signal::SIGINT);
            master.signal(Signal::SIGINT);
            assert_eq!(master.ends_within(AT_ONCE).code(), Some(130));
            assert_eq!(
                master
                    .seen("exit")
                    .iter()
                    .filter(|exit| exit.signal() == Some(9))
                    .count(),
                2
            );
        },
    },
    Scenario {
        name: "f_053_a_quit_kills_at_once",
        app: deaf,
        check: |master| {
            master.expect_ready();
            master.signal(Signal::SIGQUIT);
            assert_eq!(master.ends_within(AT_ONCE).code(), Some(131));
            assert_eq!(
                master
                    .seen("exit")
                    .iter()
                    .filter(|exit| exit.signal() == Some(9))
                    .count(),
                2
            );
        },
    },
    Scenario {
        name: "f_054_a_shutdown_that_has_begun_wins_over_every_other_signal",
        app: || {
            let cluster = probe::cluster().grace(Duration::from_secs(60));
            cluster.worker(ends_after_the_gate).main()
        },
        check: |master| {
            master.expect_ready();
            master.signal(Signal::SIGTERM);
            master.expect("shutdown_started");
            for signal in [
                Signal::SIGHUP,
                Signal::SIGUSR2,
                Signal::SIGTTIN,
                Signal::SIGTTOU,
                Signal::SIGTERM,
            ] {
                master.signal(signal);
                master.ask(&Order::Ping, "pong");
            }
            master.ask(&Order::Fork(Vec::new()), "error the cluster is shutting down");
            master.open_gate("gate");
            assert_eq!(master.wait().code(), Some(0));
            let log = master.log();
            let (reload, scale) = ("the cluster is stopping", "the cluster is shutting down");
            for (signal, why) in [
                ("SIGHUP", reload),
                ("SIGUSR2", reload),
                ("SIGTTIN", scale),
                ("SIGTTOU", scale),
            ] {
                let told = format!("signal has no effect: {why} signal={signal}");
                assert!(log.contains(&told), "{signal} was not answered: {log}");
            }
            assert_eq!(master.seen("shutdown_started").len(), 1);
            assert_eq!(master.seen("fork").len(), 1);
        },
    },
    Scenario {
        name: "f_056_a_signal_at_any_instant_of_the_start_is_an_orderly_end_or_comes_before_the_first_worker",
        app: || {
            probe::cluster()
                .workers(3)
                .listen("tcp", "127.0.0.1:0")
                .worker(listen)
                .main()
        },
        check: signals_during_the_start,
    },
    Scenario {
        name: "f_057_the_signals_of_a_lost_terminal_a_broken_pipe_and_a_full_file_do_not_touch_the_master",
        app: || probe::cluster().worker(idle).main(),
        check: |master| {
            let pid = master.expect_of(1, "ready").pid();
            for signal in [
                Signal::SIGPIPE,
                Signal::SIGXFSZ,
                Signal::SIGCHLD,
                Signal::SIGURG,
                Signal::SIGWINCH,
            ] {
                master.signal(signal);
                master.ask(&Order::Ping, "pong");
            }
            let state = leftovers::process(master.pid()).expect("it lives").state;
            assert!(matches!(state, 'S' | 'R'), "it is in state {state}");
            assert!(leftovers::process(pid).is_some());
            assert!(master.seen("exit").is_empty());
            // Whoever hangs up orders a reload, and no more.
            master.signal(Signal::SIGHUP);
            let finished = master.expect("reload_finished");
            assert_eq!(finished.data()["result"], serde_json::json!({"Ok": null}));
            assert!(leftovers::process(master.pid()).is_some());
        },
    },
];

fn signals_during_the_start(master: &mut Master) {
    // How long a start takes here, so that the instants are spread over it.
    master.expect_ready();
    let start = master.snapshot()["uptime_ms"].as_f64().expect("an uptime is a number");
    let span = ((start * 2_000.0) as u64).clamp(10_000, 200_000);
    let (mut chance, mut orderly) = (1, 0);
    for _ in 0..40 {
        let mut other = Master::start(master.name());
        let_pass(Duration::from_micros(any_below(span, &mut chance)));
        other.signal(Signal::SIGTERM);
        let status = other.wait();
        if ended_by(status) == Some(Signal::SIGTERM as i32) {
            // Its handlers are there before the first worker is.
            assert!(other.seen("fork").is_empty());
        } else if status.code() == Some(0) {
            orderly += 1;
            assert!(other.seen("exit").len() == other.seen("fork").len());
        } else {
            other.fail(&format!("ended with {status}"));
        }
        other.finish();
    }
    assert!(orderly > 0, "no signal came late enough to be handled");
}

fn deaf() -> std::process::ExitCode {
    let cluster = probe::cluster().workers(2).grace(Duration::from_secs(60));
    cluster.worker(|_| std::future::pending::<()>()).main()
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn ends_after_the_gate(worker: Worker) {
    worker.shutdown().started().await;
    actix_rt::task::spawn_blocking(|| wait_at_gate("gate"))
        .await
        .expect("the gate opens");
}

async fn listen(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}

/// The row's limit is 250 ms; the rest is the machine's.
const AT_ONCE: Duration = Duration::from_millis(500);
