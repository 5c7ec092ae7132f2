//! One system call of the master fails, whichever it is: by `strace`, which makes the k-th call of a kind fail in a running,
//! unchanged program. Without `strace`, or where tracing is forbidden, nothing is proved and the test says so.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use actix_cluster::{Backoff, ClusterBuilder, RestartDelay, RestartLimit, SpawnMethod};
use actix_cluster_tests::fault;
use actix_cluster_tests::leftovers::{children_of, open_fds};
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::scenario::Scenario;
use actix_cluster_tests::{Deadline, limit};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_102_f_114_no_failing_call_of_a_death_or_a_start_leaves_anything_behind",
        app,
        check: |master| sweep(master, DEATH_AND_START),
    },
    Scenario {
        name: "f_102_f_114_no_failing_call_towards_a_zygote_leaves_anything_behind_or_starts_anybody_twice",
        app: || described(fault::cluster().spawn(SpawnMethod::Zygote)).main(),
        check: |master| {
            sweep(master, ZYGOTE);
            // The next zygote comes a while after the last, and is not called so at once.
            let deadline = Deadline::after(limit(SOON));
            loop {
                let children = children_of(master.pid()).unwrap();
                let zygotes = children.iter().filter(|child| child.comm == "zygote").count();
                if zygotes <= 1 && children.len() == 2 + zygotes {
                    break;
                }
                assert!(!deadline.is_over(), "{children:?}");
            }
        },
    },
    Scenario {
        name: "f_081_f_114_no_failing_call_on_a_channel_harms_another_worker",
        app,
        check: |master| sweep(master, TALK),
    },
];

/// Calls, and the errors that the kernel's manual gives for them.
type Calls = &'static [(&'static str, &'static [&'static str])];

const DEATH_AND_START: Calls = &[
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("fcntl", &["EMFILE", "EINVAL"]),
    ("clone3,clone,vfork", &["EAGAIN", "ENOMEM", "EPERM"]),
    ("pidfd_open", &["EMFILE", "ENOSYS", "EPERM"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    // Not ECHILD: the kernel does not say that of a child that is there, and a thief has a test of its own.
    ("waitid", &["EINTR"]),
    ("rt_sigprocmask", &["EINVAL"]),
    ("mmap", &["ENOMEM"]),
];

const TALK: Calls = &[
    ("recvmsg", &["ECONNRESET", "ENOMEM", "EINTR"]),
    ("sendmsg", &["EPIPE", "ENOBUFS", "ETOOMANYREFS", "EINTR"]),
    ("shutdown", &["ENOTCONN"]),
    ("epoll_wait,epoll_pwait", &["EINTR"]),
    ("write", &["EAGAIN"]),
];

/// Asking a zygote for a worker: what fails is asked of the kernel.
const ZYGOTE: Calls = &[
    ("openat", &["EMFILE", "EACCES"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("pidfd_open", &["EMFILE", "ENOSYS", "EPERM"]),
    // From here on it is lost now and then, and the next one comes later and later.
    ("poll", &["EINTR", "ENOMEM"]),
    ("sendmsg", &["ENOBUFS", "ETOOMANYREFS", "EMSGSIZE", "EPIPE"]),
    ("recvmsg", &["EINTR", "ECONNRESET", "ENOMEM"]),
    ("fcntl", &["EMFILE", "EINVAL"]),
];

fn app() -> ExitCode {
    described(fault::cluster().spawn(SpawnMethod::Exec)).main()
}

fn described(cluster: ClusterBuilder) -> ClusterBuilder {
    let delay = Backoff::new()
        .base(Duration::from_millis(20))
        .cap(Duration::from_millis(40));
    cluster
        .workers(2)
        .restart_delay(RestartDelay::Backoff(delay))
        .restart_limit(RestartLimit::unlimited())
}

fn sweep(master: &mut Master, calls: Calls) {
    master.expect_ready();
    // One round without a fault: what the master does the first time only.
    round(master, None);
    let before = open_fds(master.pid()).unwrap();
    for (call, errors) in calls {
        // F-137: in this mode it is never made.
        if *call == "pidfd_open" && std::env::var_os("ACTIX_CLUSTER_NO_PIDFD").is_some() {
            continue;
        }
        let mut failed = 0;
        for error in *errors {
            for nth in 1..=3 {
                let inject = format!("inject={call}:error={error}:when={nth}");
                let Some(strace) = Strace::attach(master, &inject) else {
                    return;
                };
                round(master, Some(strace));
                let trace = fs::read_to_string(master.directory().join(TRACE)).unwrap();
                failed += trace.matches("(INJECTED)").count();
                let deadline = Deadline::after(limit(Duration::from_secs(5)));
                while open_fds(master.pid()).unwrap() > before {
                    let now = open_fds(master.pid()).unwrap();
                    assert!(!deadline.is_over(), "{inject}: {now} descriptors, {before} before");
                }
            }
        }
        assert!(failed > 0, "no {call} was made to fail");
    }
}

/// A worker dies and is replaced, whatever fails meanwhile; then everything is as it should be.
fn round(master: &mut Master, strace: Option<Strace>) {
    let workers = master.snapshot();
    let workers = workers["workers"].as_array().expect("a snapshot lists workers");
    let ids: Vec<_> = workers.iter().filter_map(|worker| worker["id"].as_u64()).collect();
    let pid = workers[0]["pid"].as_u64().expect("a worker has a process");
    send(u32::try_from(pid).expect("process ids are small"), Signal::SIGKILL);
    master.once(ids[0], "exit");
    let deadline = Deadline::after(limit(Duration::from_secs(5)));
    while !is_whole(&master.snapshot(), ids[0]) {
        if deadline.is_over() {
            master.fail("the dead worker was not replaced");
        }
    }
    drop(strace);
    master.post();
    fault::served_by(master.port()).expect("connections are served");
}

fn is_whole(snapshot: &Value, gone: u64) -> bool {
    let workers = snapshot["workers"].as_array().map_or(&[][..], Vec::as_slice);
    let ready = workers
        .iter()
        .filter(|worker| worker["ready"] == true && worker["id"] != gone);
    ready.count() == 2 && workers.len() == 2
}

/// A tracer of the master's main thread, which lets go when it is dropped.
struct Strace(Child);

impl Strace {
    fn attach(master: &Master, inject: &str) -> Option<Self> {
        let mut strace = Command::new("strace");
        strace.arg("-o").arg(master.directory().join(TRACE));
        strace.args(["-e", inject, "-p", &master.pid().to_string()]);
        strace.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = match strace.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: no strace: {error}");
                return None;
            }
        };
        let mut said = String::new();
        let stderr = child.stderr.take().expect("standard error is piped");
        BufReader::new(stderr).read_line(&mut said).expect("strace speaks");
        let this = Self(child);
        if said.contains("attached") {
            return Some(this);
        }
        assert!(said.contains("ermitted"), "strace does not understand {inject}: {said}");
        eprintln!("skipped: {said}");
        None
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        send(self.0.id(), Signal::SIGINT);
        self.0.wait().ok();
    }
}

/// What `strace` saw last.
const TRACE: &str = "strace";
