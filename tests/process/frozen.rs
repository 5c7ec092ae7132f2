//! A worker that `SIGKILL` does not end, because the kernel holds it: frozen with its control group.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_cluster_tests::leftovers;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_039_a_worker_that_the_kernel_holds_is_told_once_and_replaced_when_it_is_gone",
        app,
        check: |master| {
            let Some(frozen) = Frozen::worker(master, 1) else {
                return;
            };
            master.ask(&Order::Restart(1), "restart");
            let told = master.expect_line("a word of it", limit(KILL_TAKES * 3), |line| line["event"] == "error");
            assert_eq!(
                (&told["worker"]["id"], &told["data"]),
                (&1.into(), &"unkillable".into())
            );
            // Nobody waits for it: the master answers, and its neighbour serves.
            assert_eq!(master.snapshot()["ready"], 1);
            assert!(master.seen("exit").is_empty() && master.seen("fork").len() == 2);
            drop(frozen);
            let exit = master.expect_of(1, "exit");
            assert_eq!((exit.signal(), &exit.data()["forced"]), (Some(9), &true.into()));
            master.expect_of(3, "ready");
            assert_eq!(master.seen("error").len(), 1, "told once");
        },
    },
    Scenario {
        name: "f_060_a_stop_does_not_wait_for_a_worker_that_the_kernel_holds_and_names_it",
        app,
        check: |master| {
            let Some(frozen) = Frozen::worker(master, 1) else {
                return;
            };
            let pid = frozen.pid;
            master.signal(Signal::SIGTERM);
            is_told(master);
            until_ended(master.pid());
            drop(frozen);
            until_ended(pid);
            assert_eq!(master.wait().code(), Some(1));
            assert!(master.log().contains("did not die of SIGKILL"), "{}", master.log());
            assert_eq!(master.seen("exit").len(), 1, "its neighbour's");
        },
    },
];

fn app() -> std::process::ExitCode {
    let cluster = probe::cluster().workers(2).grace(Duration::from_millis(100));
    cluster.worker(async |worker| probe::idle(&worker).await).main()
}

fn is_told(master: &mut Master) {
    let told = master.expect_line("a word of it", limit(KILL_TAKES * 3), |line| line["event"] == "error");
    assert_eq!(
        (&told["worker"]["id"], &told["data"]),
        (&1.into(), &"unkillable".into())
    );
}

/// The frozen worker holds the pipes of its master's words, so their end does not tell.
fn until_ended(pid: u32) {
    let deadline = Deadline::after(limit(KILL_TAKES));
    while leftovers::process(pid).is_some_and(|process| process.state != 'Z') {
        assert!(!deadline.is_over(), "{pid} goes on");
    }
}

/// As long as a killed process may take before it is called unkillable.
const KILL_TAKES: Duration = Duration::from_secs(5);
const GROUPS: &str = "/sys/fs/cgroup/freezer";

/// A group that stands still until this is dropped.
struct Frozen {
    group: PathBuf,
    pid: u32,
}

impl Frozen {
    /// Freezes a worker. `None`, with a word, where that takes privilege or the kernel's other kind of groups is used.
    fn worker(master: &mut Master, id: u64) -> Option<Self> {
        master.expect_ready();
        let pid = master.once(id, "fork").pid();
        let group = Path::new(GROUPS).join(format!("actix-cluster-test-{pid}"));
        if fs::create_dir(&group).is_err() {
            eprintln!("no group that could be frozen: nothing is shown");
            return None;
        }
        let this = Self { group, pid };
        fs::write(this.group.join("cgroup.procs"), pid.to_string()).ok()?;
        fs::write(this.group.join("freezer.state"), "FROZEN").ok()?;
        let deadline = Deadline::after(limit(KILL_TAKES));
        let state = || fs::read_to_string(this.group.join("freezer.state")).unwrap_or_default();
        while state().trim() != "FROZEN" {
            assert!(!deadline.is_over(), "it does not freeze");
        }
        Some(this)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fs::write(self.group.join("freezer.state"), "THAWED").ok();
        // It may end before it is moved, and stays in the group until it is reaped.
        fs::write(Path::new(GROUPS).join("cgroup.procs"), self.pid.to_string()).ok();
        let deadline = Deadline::after(limit(KILL_TAKES));
        while fs::remove_dir(&self.group).is_err() && self.group.exists() && !deadline.is_over() {}
    }
}
