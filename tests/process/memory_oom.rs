//! A worker that the kernel kills for want of memory, in a control group of its own. Needs root and the memory controller of
//! version 1; skipped elsewhere.

use std::fs;
use std::path::PathBuf;

use actix_cluster::{ReadyWhen, Worker};
use actix_cluster_actors::{MemoryConfig, MemoryLimit, MemoryWatchdog};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::memory::told;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "f_232_a_worker_that_the_kernel_kills_for_want_of_memory_is_named_so_and_others_are_not",
    app: || {
        let config = MemoryConfig::new(MemoryLimit::mib(4096));
        let cluster = probe::cluster()
            .workers(2)
            .ready_when(ReadyWhen::Called)
            .worker(in_a_group_of_its_own);
        MemoryWatchdog::new(config)
            .expect("4 GiB is a limit")
            .attach(cluster)
            .main()
    },
    check: killed_by_the_kernel,
}];

/// As much as the group may use.
const GROUP: u64 = 96 << 20;

/// Joins a group of its own, all workers the same, as an operator's wrapper would put it there.
async fn in_a_group_of_its_own(worker: Worker) {
    let group = group_of_this_scenario();
    let joined = group
        .ok_or("no memory controller of version 1".to_owned())
        .and_then(|group| {
            let join = || {
                fs::create_dir_all(&group)?;
                fs::write(group.join("memory.limit_in_bytes"), GROUP.to_string())?;
                // Where swap is counted, it would only take longer; where it is not, the file is missing.
                fs::write(group.join("memory.memsw.limit_in_bytes"), GROUP.to_string()).ok();
                fs::write(group.join("cgroup.procs"), std::process::id().to_string())
            };
            join().map_err(|error| error.to_string()).map(|()| group)
        });
    match joined {
        Ok(group) => probe::say(&format!("group {}", group.display())),
        Err(error) => probe::say(&format!("skip {error}")),
    }
    worker.on_message(|_| {
        Box::leak(vec![1_u8; 4 * GROUP as usize].into_boxed_slice());
    });
    worker.ready();
    probe::idle(&worker).await;
}

/// Below the group of the master, so that what limits us limits it.
fn group_of_this_scenario() -> Option<PathBuf> {
    let parent = std::os::unix::process::parent_id();
    let groups = fs::read_to_string(format!("/proc/{parent}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
    let folder = PathBuf::from(format!("/sys/fs/cgroup/memory{path}"));
    folder.is_dir().then(|| folder.join(format!("actix-cluster-{parent}")))
}

fn killed_by_the_kernel(master: &mut Master) {
    let first = master.expect_line("a group or none", SOON, |line| !line["said"].is_null());
    let said = first["said"].as_str().unwrap();
    let Some(group) = said.strip_prefix("group ").map(PathBuf::from) else {
        eprintln!("skipped: {said}");
        return;
    };
    master.sees(1, "ready");
    master.sees(2, "ready");
    master.order(&Order::Send(1, "grow".to_owned()));
    let exit = master.sees(1, "exit");
    assert_eq!((exit.signal(), exit.reason()), (Some(9), &json!("oom")));
    assert_eq!(exit.data()["forced"], false);
    // Counted as a crash, and with advice.
    master.until("a restart", |master| !master.seen("restart_scheduled").is_empty());
    master.until("advice", |master| !told(master, "oom").is_empty());
    let advice = told(master, "oom")[0].data()["data"].clone();
    assert!(
        advice["worker"] == 1 && advice["what"].as_str().unwrap().contains("lower limit"),
        "{advice}"
    );
    // Its sibling shares the group and its counter: killed by somebody else, it is no victim of that rise. Nor is one that we
    // kill.
    master.sees(3, "ready");
    send(master.sees(2, "ready").pid(), Signal::SIGKILL);
    assert_eq!(master.sees(2, "exit").reason(), &json!("crash"));
    master.sees(4, "ready");
    master.ask(&Order::Kill(3, 9), "kill");
    assert_eq!(master.sees(3, "exit").reason(), &json!("killed"));
    // And once more by the kernel.
    master.sees(5, "ready");
    master.order(&Order::Send(4, "grow".to_owned()));
    assert_eq!(master.sees(4, "exit").reason(), &json!("oom"));
    master.sees(6, "ready");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    fs::remove_dir(&group).expect("nobody is left in the group");
}
