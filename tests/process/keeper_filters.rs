//! Systems that forbid what keepers need: real filters of system calls, as containers and service managers install them.
//!
//! The master installs the filter before anything else, so it holds for the whole cluster and cannot be taken back.

use std::collections::BTreeMap;
use std::process::ExitCode;

use actix_cluster::{ClusterBuilder, Scheduling, SpawnMethod, is_master};
use actix_cluster_tests::load;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::scenario::Scenario;
use nix::libc;
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::keeper::expect_keepers;
use crate::survival::{self, Client};
use crate::survival_standby::cluster;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keeper_where_a_filter_forbids_sharing_descriptors_it_is_told_once_and_the_workers_serve",
        app: || filtered(libc::SYS_clone, &[sharing()], SpawnMethod::Exec),
        check: |master| serves_without(master, "clone(CLONE_FILES | CLONE_PARENT | CLONE_PIDFD): "),
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_sharing_descriptors_zygotes_workers_serve_without",
        app: || filtered(libc::SYS_clone, &[sharing()], SpawnMethod::Zygote),
        check: |master| serves_without(master, "clone(CLONE_FILES | CLONE_PARENT | CLONE_PIDFD): "),
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_pidfds_it_is_told_once_and_the_workers_serve",
        app: || filtered(libc::SYS_pidfd_open, &[], SpawnMethod::Exec),
        check: |master| serves_without(master, "pidfd_open: "),
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_the_counts_of_tcp_it_is_told_once_and_the_workers_serve",
        app: || {
            filtered(
                libc::SYS_getsockopt,
                &option(libc::IPPROTO_TCP, libc::TCP_INFO),
                SpawnMethod::Exec,
            )
        },
        check: |master| serves_without(master, "does not count the bytes"),
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_cookies_it_is_told_once_and_the_workers_serve",
        app: || {
            filtered(
                libc::SYS_getsockopt,
                &option(libc::SOL_SOCKET, libc::SO_COOKIE),
                SpawnMethod::Exec,
            )
        },
        check: |master| serves_without(master, "the hand-over socket: "),
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_peeking_saves_what_nobody_read",
        app: || {
            filtered(
                libc::SYS_setsockopt,
                &option(libc::SOL_SOCKET, libc::SO_PEEK_OFF),
                SpawnMethod::Exec,
            )
        },
        check: |master| {
            if !is_possible() {
                return;
            }
            let mut unread = Client::of(master);
            let mut used = Client::of(master);
            let first = used.pid();
            assert!(master.log().contains("requests cannot be kept in this kernel"));
            expect_keepers(master, 1);
            used.say("GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
            master.hears("begun");
            send(first, Signal::SIGKILL);
            assert_eq!(used.rest().0, "", "an end, at once");
            let second = master.sees(2, "ready").pid();
            assert_eq!(unread.pid(), second);
            assert_eq!(Client::of(master).pid(), second);
            assert!(master.seen("error").is_empty());
        },
    },
    Scenario {
        name: "keeper_where_a_filter_forbids_closing_ranges_everything_survives",
        app: || filtered(libc::SYS_close_range, &[], SpawnMethod::Exec),
        check: |master| {
            let mut idle = Client::of(master);
            for next in 2..=4 {
                send(idle.pid(), Signal::SIGKILL);
                let successor = master.sees(next, "ready").pid();
                assert_eq!(idle.pid(), successor);
            }
            expect_keepers(master, 1);
            assert!(master.seen("error").is_empty());
        },
    },
];

/// Are there filters for this machine? Without one the scenarios say so, and prove nothing.
fn is_possible() -> bool {
    let is_known = seccompiler::TargetArch::try_from(std::env::consts::ARCH).is_ok();
    if !is_known {
        eprintln!("skipped: no filters for {}", std::env::consts::ARCH);
    }
    is_known
}

/// A cluster in which this call, with these arguments, is answered `EPERM`.
fn filtered(call: libc::c_long, arguments: &[SeccompCondition], spawn: SpawnMethod) -> ExitCode {
    if is_master() && is_possible() {
        let rules = if arguments.is_empty() {
            Vec::new()
        } else {
            vec![SeccompRule::new(arguments.to_vec()).expect("there are some")]
        };
        let errno = u32::try_from(libc::EPERM).expect("it is positive");
        let machine = std::env::consts::ARCH.try_into().expect("it was asked");
        let filter = SeccompFilter::new(
            BTreeMap::from([(call, rules)]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno),
            machine,
        );
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter of one rule");
        seccompiler::apply_filter(&program).expect("everybody may filter itself");
    }
    kept(spawn).main()
}

fn kept(spawn: SpawnMethod) -> ClusterBuilder {
    cluster(1, Scheduling::Shared, spawn).worker(survival::serve)
}

/// `clone` with the same descriptors and a memory of its own: threads share both.
fn sharing() -> SeccompCondition {
    let both = u64::from((libc::CLONE_FILES | libc::CLONE_VM).cast_unsigned());
    let files = u64::from(libc::CLONE_FILES.cast_unsigned());
    SeccompCondition::new(0, Len::Qword, Op::MaskedEq(both), files).expect("calls have a first argument")
}

/// An option of a socket.
fn option(level: i32, name: i32) -> Vec<SeccompCondition> {
    let is = |at, value: i32| SeccompCondition::new(at, Len::Dword, Op::Eq, u64::from(value.cast_unsigned()));
    vec![
        is(1, level).expect("there are five"),
        is(2, name).expect("there are five"),
    ]
}

fn serves_without(master: &mut Master, why: &str) {
    if !is_possible() {
        return;
    }
    let mut client = Client::of(master);
    let first = client.pid();
    let text = |master: &Master| {
        let error = master.expect_count("error", 1).swap_remove(0);
        error.data()["no_keeper"].as_str().expect("a reason").to_owned()
    };
    assert!(text(master).contains(why), "{}", text(master));
    expect_keepers(master, 0);
    client.say("GET /held HTTP/1.1\r\nhost: x\r\n\r\n");
    master.hears("begun");
    let mut pid = first;
    for next in 2..=4 {
        send(pid, Signal::SIGKILL);
        master.sees(next - 1, "exit");
        pid = master.sees(next, "ready").pid();
        assert_eq!(Client::of(master).pid(), pid);
    }
    assert_eq!(client.rest().0, "", "an end, at once");
    assert_eq!(master.seen("error").len(), 1, "once");
    let load = load::Load::start(master.port(), 1);
    load.goes_on_for(20);
    load.stop().is_flawless();
}
