//! Who a process is and how its end is learnt, where others meddle with either.

use std::process::{Command, Stdio};
use std::time::Duration;

use actix_cluster::{RestartLimit, Worker, is_master};
use actix_cluster_tests::leftovers;
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_130_a_thread_of_the_program_that_waits_for_every_child_steals_a_status_and_no_death",
        app: || {
            if is_master() {
                std::thread::spawn(|| {
                    loop {
                        // No child yet, or one was taken: on to the next.
                        waitpid(None, None).ok();
                    }
                });
            }
            let cluster = probe::cluster().restart_limit(RestartLimit::unlimited());
            cluster.worker(idle).main()
        },
        check: |master| {
            for worker in 1..=20 {
                let pid = master.expect_of(worker, "ready").pid();
                send(pid, Signal::SIGKILL);
                let exit = master.expect_of(worker, "exit");
                assert!(
                    exit.signal() == Some(9) || exit.data()["status"] == "unknown",
                    "{:?}",
                    exit.0
                );
            }
            assert_eq!(master.seen("exit").len(), 20);
        },
    },
    Scenario {
        name: "f_133_with_kill_tree_nothing_that_a_worker_started_outlives_it",
        app: || probe::cluster().kill_tree(true).worker(start_helpers).main(),
        check: |master| {
            let helpers = helpers(master, 1);
            send(master.once(1, "fork").pid(), Signal::SIGKILL);
            master.expect_of(1, "exit");
            for helper in helpers {
                master.expect_dead(helper, SOON);
            }
            // An orderly end takes them along too.
            let helpers = self::helpers(master, 2);
            while master.snapshot()["ready"] != 1 {}
            master.order(&Order::Restart(2));
            assert_eq!(master.expect_of(2, "exit").code(), Some(0));
            for helper in helpers {
                master.expect_dead(helper, SOON);
            }
            assert!(!master.log().contains("left processes of its own behind"));
        },
    },
    Scenario {
        name: "f_133_without_it_they_live_on_and_the_log_says_so_once",
        app: || probe::cluster().worker(start_helpers).main(),
        check: |master| {
            let helpers = helpers(master, 1);
            send(master.once(1, "fork").pid(), Signal::SIGKILL);
            master.expect_of(1, "exit");
            let successors = self::helpers(master, 2);
            assert_eq!(master.log().matches("left processes of its own behind").count(), 1);
            for helper in &helpers {
                assert!(leftovers::process(*helper).is_some_and(|process| process.state != 'Z'));
            }
            for helper in helpers.into_iter().chain(successors) {
                send(helper, Signal::SIGKILL);
                master.expect_dead(helper, SOON);
            }
        },
    },
    Scenario {
        name: "f_137_without_pidfds_a_whole_life_is_the_same",
        app: || {
            let cluster = probe::cluster().workers(2).boot_limit(limit(Duration::from_secs(2)));
            cluster.listen("tcp", "127.0.0.1:0").worker(listen).main()
        },
        check: |master| {
            master.expect_ready();
            assert!(!master.log().contains(NO_PIDFD) || std::env::var_os("ACTIX_CLUSTER_NO_PIDFD").is_some());
            let mut other = Master::start_with(master.name(), |command| {
                command.env("ACTIX_CLUSTER_NO_PIDFD", "1");
            });
            whole_life(&mut other);
        },
    },
];

/// Killed, stopped, replaced, stopped for good, shut down.
fn whole_life(master: &mut Master) {
    let port = master.expect_ready().expect("a listener is declared");
    let pid = master.once(1, "fork").pid();
    send(pid, Signal::SIGSTOP);
    send(pid, Signal::SIGCONT);
    master.never(
        "a stopped worker taken for a dead one",
        Duration::from_millis(200),
        |line| line["event"] == "exit",
    );
    send(pid, Signal::SIGKILL);
    assert_eq!(master.expect_of(1, "exit").signal(), Some(9));
    master.expect_of(3, "ready");
    master.order(&Order::Restart(3));
    assert_eq!(master.expect_of(3, "exit").code(), Some(0));
    master.expect_of(4, "ready");
    master.order(&Order::Kill(2, Signal::SIGKILL as i32));
    let exit = master.expect_of(2, "exit");
    assert_eq!((exit.signal(), exit.reason()), (Some(9), &"killed".into()));
    master.expect_of(5, "ready");
    assert_eq!(master.port(), port);
    assert_eq!(
        master.log().matches(NO_PIDFD).count(),
        5,
        "every worker is watched without a pidfd"
    );
    master.finish();
}

/// What this worker says of its helpers; it may do so before the master has told of its predecessor's end.
fn helpers(master: &Master, worker: u64) -> Vec<u32> {
    let own = u64::from(master.once(worker, "fork").pid());
    let said = ["child ", "grandchild "].map(|what| {
        let by_it = |master: &Master| master.said(what).into_iter().find(|(_, pid)| *pid == own);
        master.until("its helpers", |master| by_it(master).is_some());
        by_it(master).expect("it was waited for").0
    });
    said.iter().map(|pid| pid.parse().expect("a process id")).collect()
}

async fn idle(worker: Worker) {
    probe::idle(&worker).await;
}

async fn listen(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    worker.incoming("tcp")?.serve_with(|_| async {}).await;
    Ok(())
}

/// A child, and a grandchild whose parent is gone.
async fn start_helpers(worker: Worker) {
    let start = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-c", script])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::piped());
        sh.spawn().expect("sh can be started")
    };
    let mut child = start("exec sleep 600");
    probe::say(&format!("child {}", child.id()));
    let parent = start("sleep 600 >&- & echo $!");
    let said = parent.wait_with_output().expect("it ends").stdout;
    probe::say(&format!("grandchild {}", String::from_utf8_lossy(&said).trim()));
    probe::idle(&worker).await;
    child.try_wait().expect("it is our child");
}

const NO_PIDFD: &str = "no pidfd to be had";
