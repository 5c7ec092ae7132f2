//! What each spec has of its own: function, listeners, limits, place. And what is done to specs while they boot.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use actix_cluster::{
    ClusterEvent, ClusterHandle, ListenError, ReadyWhen, RestartDelay, RestartType, StrategyFn, Worker, WorkerSpec,
    is_worker,
};
use actix_cluster_tests::fault::SHELL_READY;
use actix_cluster_tests::leftovers;
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::outside::{wait_at_gate, wait_for_file};
use actix_cluster_tests::probe::{self, Order, idle};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::master_death::{listening_sockets, sockets_of};

#[path = "../../examples/custom_strategy.rs"]
mod custom_strategy;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "each_spec_runs_its_own_function_and_the_rest_the_builders",
        app: || {
            let own = |name: &'static str| spec(name).worker(move |worker: Worker| named(worker, name));
            let builders = |worker| named(worker, "builder");
            let cluster = probe::cluster().worker(builders).spec(own("a")).spec(own("b"));
            cluster.spec(spec("plain")).main()
        },
        check: |master| {
            master.expect_ready();
            for who in ["worker.0 builder", "a.0 a", "b.0 b", "plain.0 builder"] {
                master.hears(who);
            }
            // A successor runs the same.
            send(master.once(3, "ready").pid(), Signal::SIGKILL);
            master.expect("all_ready");
            master.until("the successor says so", |master| master.count_said("b.0 b") == 2);
        },
    },
    Scenario {
        name: "a_cluster_of_specs_alone_has_no_worker_of_the_builders",
        app: || {
            let own = spec("only").worker(|worker: Worker| named(worker, "only"));
            probe::cluster().workers(0).spec(own).main()
        },
        check: |master| {
            master.expect_ready();
            assert_eq!(master.ask(&Order::Fork(Vec::new()), "error "), "no spec named worker");
            assert_eq!(master.ask(&Order::Scale(2), "error "), "no spec named worker");
            assert_eq!(master.seen("fork").len(), 1);
        },
    },
    Scenario {
        name: "f_109_a_spec_inherits_the_listeners_it_names_and_can_have_no_other",
        app: listeners,
        check: some_listeners,
    },
    Scenario {
        name: "a_spec_has_a_boot_limit_a_grace_and_a_place_of_its_own",
        app: limits,
        check: own_limits,
    },
    Scenario {
        name: "f_049_a_term_between_fork_and_hello_ends_everything",
        app: || {
            if is_worker() {
                wait_at_gate("never");
            }
            probe::cluster().workers(3).worker(simple).main()
        },
        check: |master| {
            master.expect_count("fork", 3);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            let exits = master.seen("exit");
            assert_eq!(exits.len(), 3);
            for exit in exits {
                assert_eq!((exit.signal(), exit.reason()), (Some(15), &"ordered".into()));
            }
            assert!(master.seen("online").is_empty());
        },
    },
    Scenario {
        name: "a_spec_that_boots_is_not_deleted_before_it_is_stopped_and_leaves_nothing",
        app: || {
            let cluster = probe::cluster()
                .worker(simple)
                .spec(spec("b").worker(never_ready).ready_when(ReadyWhen::Called));
            cluster.on_event(delete_at_online).main()
        },
        check: |master| {
            master.hears("first spec b is running: stop it first");
            master.hears("last deleted");
            let exit = master.sees(2, "exit");
            assert_eq!(exit.reason(), "ordered");
            assert_eq!(master.snapshot()["slots"].as_array().unwrap().len(), 1);
            assert_eq!(master.seen("fork").len(), 2, "it came back");
        },
    },
    Scenario {
        name: "f_178_scaling_while_booting_ends_at_the_last_target_and_more_than_can_be_is_the_most_there_can_be",
        app: || {
            if is_worker() {
                wait_for_file("boot");
            }
            let few = std::num::NonZeroUsize::new(2).expect("two");
            probe::cluster().max_booting(few).worker(simple).main()
        },
        check: scaled_while_booting,
    },
    Scenario {
        name: "a_strategy_that_panics_is_told_of_and_the_master_lives",
        app: || {
            let broken = StrategyFn::new("broken", |failed, _| panic!("asked about {failed}"));
            probe::cluster().worker(simple).spec(spec("b")).strategy(broken).main()
        },
        check: |master| {
            master.expect_ready();
            send(master.once(2, "ready").pid(), Signal::SIGKILL);
            let error = master.sees(2, "error");
            assert_eq!(error.data()["strategy"], "asked about 1");
            master.expect("all_ready");
            assert_eq!(master.seen("fork").len(), 3);
        },
    },
    Scenario {
        name: "the_example_of_a_custom_strategy_runs_to_its_end",
        app: custom_strategy::main,
        check: |master| assert_eq!(master.wait().code(), Some(0)),
    },
    Scenario {
        name: "the_example_of_a_custom_strategy_does_what_it_says",
        app: || probe::watched(custom_strategy::cluster()).main(),
        check: |master| {
            assert_eq!(master.wait().code(), Some(0));
            let exits = master.seen("exit");
            let life = exits.iter().take(4).map(|exit| (slot(&exit.0), exit.signal()));
            // The store fails and takes both others along; then one of those fails alone.
            let expected = [("store.0", Some(9)), ("web.0", Some(9))];
            let killed: Vec<_> = life.filter(|(_, signal)| signal.is_some()).collect();
            assert_eq!(killed, expected.map(|(slot, signal)| (slot.to_owned(), signal)));
            assert_eq!(master.seen("fork").len(), 3 + 3 + 1);
        },
    },
];

fn spec(name: &str) -> WorkerSpec {
    WorkerSpec::new(name, 1).restart_delay(RestartDelay::AtOnce)
}

fn slot(line: &Value) -> String {
    let slot = &line["worker"]["slot"];
    format!("{}.{}", slot["spec"].as_str().unwrap(), slot["index"])
}

async fn named(worker: Worker, function: &str) {
    probe::say(&format!("{} {function}", worker.slot()));
    idle(&worker).await;
}

async fn simple(worker: Worker) {
    idle(&worker).await;
}

async fn never_ready(worker: Worker) {
    idle(&worker).await;
}

fn listeners() -> ExitCode {
    let none: [&str; 0] = [];
    // Another program, which speaks the protocol, asks for what it did not get, claims to accept on it, and repeats
    // everything that it is told.
    let lies = r#"
        printf '{"t":"bind","id":1,"m":{"key":{"named":"http"}}}\n' >&3
        printf '{"t":"listening","m":{"key":{"named":"http"},"address":%s,"adopts":true}}\n' "$ADDRESS" >&3
        while :; do
            # The channel does not block: without a line there is nothing to read for now.
            if read -r line <&3; then echo "$line"; else sleep 0.02; fi
            case "$line" in *stop*) exit 0;; esac
        done"#;
    let address = r#"{"address":"127.0.0.1","port":1,"address_type":"4","fd":null}"#;
    let liar = spec("liar")
        .exec("/bin/sh")
        .args(["-c", &format!("{SHELL_READY}{lies}")]);
    let liar = liar
        .env("ADDRESS", address)
        .listeners(none)
        .ready_when(ReadyWhen::Called);
    let cluster = probe::cluster().workers(2);
    cluster
        .listen("http", "127.0.0.1:0")
        .listen("admin", "127.0.0.1:0")
        .spec(spec("api").listeners(["admin"]))
        .spec(spec("job").listeners(none))
        .spec(liar)
        .own_listeners(["http"])
        .worker(take_all)
        .main()
}

/// Takes whatever it can have, and says what.
async fn take_all(worker: Worker) -> Result<(), ListenError> {
    let mut taken = Vec::new();
    for name in ["http", "admin"] {
        if let Ok(incoming) = worker.incoming(name) {
            taken.push((name, incoming));
        }
    }
    let names: Vec<&str> = taken.iter().map(|(name, _)| *name).collect();
    probe::say(&format!("{} has {}", worker.slot(), names.join("+")));
    idle(&worker).await;
    Ok(())
}

fn some_listeners(master: &mut Master) {
    master.expect_ready();
    for who in [
        "worker.0 has http",
        "worker.1 has http",
        "api.0 has admin",
        "job.0 has ",
    ] {
        master.hears(who);
    }
    let snapshot = master.snapshot();
    let address = |name: &str| {
        let port = snapshot["listeners"][name]["port"].as_u64().unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port).unwrap()))
    };
    // A socket for each slot that has the listener, and none for the others.
    assert_eq!(leftovers::listening_sockets(address("http")), 2);
    assert_eq!(leftovers::listening_sockets(address("admin")), 1);
    let listen = listening_sockets();
    let held: Vec<usize> = [1, 2, 3, 4, 5]
        .into_iter()
        .map(|worker| {
            sockets_of(master.once(worker, "fork").pid())
                .intersection(&listen)
                .count()
        })
        .collect();
    assert_eq!(
        held,
        [1, 1, 1, 0, 0],
        "a listening socket was inherited that is not its own"
    );
    // Neither asking for it nor claiming to accept on it brings the liar another's socket.
    let bound = master.expect_at_least(1, |line| line["t"] == "bound").swap_remove(0);
    assert!(
        bound.0["m"]["err"]["detail"]
            .as_str()
            .unwrap()
            .contains("spec liar do not get"),
        "{:?}",
        bound.0
    );
    for worker in [1, 2] {
        send(master.once(worker, "fork").pid(), Signal::SIGKILL);
    }
    master.until("the successors to accept", |master| master.said("worker.").len() == 4);
    master.order(&Order::Send(5, "done".to_owned()));
    master.expect_at_least(1, |line| line["t"] == "msg");
    let told = master.expect_at_least(2, |line| line["t"].is_string());
    let kinds: BTreeSet<_> = told.iter().map(|line| line.0["t"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["bound", "msg"]));
}

fn limits() -> ExitCode {
    let slow = spec("slow")
        .ready_when(ReadyWhen::Called)
        .boot_limit(Duration::from_millis(300));
    let stubborn = spec("stubborn").grace(Duration::from_millis(300)).worker(deaf);
    let placed = spec("placed")
        .cwd("/")
        .env("WHERE", "root")
        .worker(|worker: Worker| async move {
            let directory = std::env::current_dir().expect("there is one");
            probe::say(&format!(
                "in {} {}",
                directory.display(),
                std::env::var("WHERE").unwrap_or_default()
            ));
            idle(&worker).await;
        });
    let cluster = probe::cluster().grace(Duration::from_secs(600)).worker(simple);
    let cluster = cluster.spec(slow.restart(RestartType::Temporary).worker(never_ready));
    cluster.spec(stubborn).spec(placed).main()
}

/// Hears of the stop, and lives on.
async fn deaf(worker: Worker) {
    idle(&worker).await;
    std::future::pending::<()>().await;
}

fn own_limits(master: &mut Master) {
    let exit = master.sees(2, "exit");
    assert_eq!((exit.signal(), exit.reason()), (Some(9), &"boot_timeout".into()));
    master.hears("in / root");
    master.sees(3, "ready");
    master.order(&Order::Disconnect(3));
    let exit = master.sees(3, "exit");
    assert_eq!((exit.signal(), &exit.data()["forced"]), (Some(9), &true.into()));
    // Who has no limits of its own has the builder's.
    master.sees(1, "ready");
    assert_eq!(master.counts_of(1, ["ready", "exit"]), [1, 0]);
}

/// At first it runs; stopped, it may go.
fn delete_at_online(event: &ClusterEvent, handle: &ClusterHandle) {
    let is_second = event
        .worker
        .as_ref()
        .is_some_and(|worker| worker.slot.spec.as_str() == "b");
    if is_second && event.kind.name() == "online" {
        let handle = handle.clone();
        actix_rt::spawn(async move {
            let said = |when: &str, result: Result<(), actix_cluster::CommandError>| {
                let text = result.map_or_else(|error| error.to_string(), |()| "deleted".to_owned());
                probe::say(&format!("{when} {text}"));
            };
            said("first", handle.delete_spec("b").await);
            handle.stop_spec("b").await.expect("it is there");
            said("last", handle.delete_spec("b").await);
        });
    }
}

fn scaled_while_booting(master: &mut Master) {
    master.sees(1, "fork");
    assert_eq!(master.ask(&Order::Scale(3), "scaled "), "3");
    let most: u32 = master.ask(&Order::Scale(1 << 31), "scaled ").parse().unwrap();
    assert!((10_000..1 << 31).contains(&most), "{most}");
    master.expect_log("than there can be workers=", 1);
    assert_eq!(master.ask(&Order::Scale(0), "scaled "), "0");
    assert_eq!(master.ask(&Order::Scale(2), "scaled "), "2");
    // No more than may boot at once was ever started.
    let living = |master: &Master| master.seen("fork").len() - master.seen("exit").len();
    assert!(living(master) <= 4, "{}", living(master));
    std::fs::write(master.directory().join("boot"), "").unwrap();
    master.expect_count("ready", 2);
    master.until("two to be left", |master| living(master) == 2);
    assert_eq!(master.snapshot()["target"], 2);
}
