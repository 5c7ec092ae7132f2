//! Workers that stand by: promoted when a slot needs one, refilled, of the right generation, and in nobody's way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, ListenOptions, RestartDelay, RestartLimit, Scheduling, ServeError, Worker};
use actix_cluster_tests::http::Client;
use actix_cluster_tests::limit;
use actix_cluster_tests::load::{self, Load};
use actix_cluster_tests::master::{Master, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use actix_web::{App, HttpServer, web};
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "i_40_a_killed_worker_is_followed_by_the_standby_in_its_slot_and_that_by_another",
        app: || serving(1).main(),
        check: follows,
    },
    Scenario {
        name: "i_40_a_standby_takes_over_a_shared_socket",
        app: || {
            let options = ListenOptions::new().scheduling(Scheduling::Shared);
            let cluster = probe::cluster().listen_with("http", "127.0.0.1:0", options);
            unlimited(cluster.worker(load::serve)).workers(1).standby(1).main()
        },
        check: follows,
    },
    Scenario {
        name: "i_40_an_unmodified_server_waits_until_it_is_activated",
        app: || {
            unlimited(load::cluster().worker(own_server))
                .workers(1)
                .standby(1)
                .main()
        },
        check: |master| {
            follows(master);
            assert_eq!(
                master.count_said("no listener in a standby"),
                master.seen("standby").len()
            );
        },
    },
    Scenario {
        name: "i_40_a_standby_takes_over_a_unix_path",
        app: || {
            let cluster = probe::cluster().listen("http", "unix:server.sock").worker(load::serve);
            unlimited(cluster).workers(1).standby(1).main()
        },
        check: unix_path,
    },
    Scenario {
        name: "i_40_a_standby_that_asks_for_a_listener_gets_it_with_its_slot",
        app: || {
            let cluster = probe::cluster()
                .worker(asks)
                .ready_when(actix_cluster::ReadyWhen::Listening);
            unlimited(cluster).workers(1).standby(1).main()
        },
        check: |master| {
            stands_by(master, 2);
            kill(master, 1);
            assert_eq!(
                master.sees(2, "listening").data()["port"],
                master.sees(1, "listening").data()["port"]
            );
        },
    },
    Scenario {
        name: "f_010_i_40_a_kill_under_load_costs_only_what_was_accepted_and_scale_up_takes_the_standby",
        app: || serving(2).main(),
        check: scales_up,
    },
    Scenario {
        name: "f_183_after_a_reload_no_standby_of_the_old_generation_is_promoted",
        app: || serving(2).standby(2).main(),
        check: reloads,
    },
    Scenario {
        name: "f_183_after_a_rollback_the_standbys_are_of_the_old_generation",
        app: || serving(2).worker(new_crashes).main(),
        check: rolls_back,
    },
    Scenario {
        name: "a_standby_that_is_killed_costs_no_restart_and_comes_back_later",
        app: || {
            serving(1)
                .restart_limit(RestartLimit::new(0, Duration::from_secs(60)))
                .main()
        },
        check: standby_killed,
    },
    Scenario {
        name: "a_standby_that_never_boots_is_in_nobodys_way",
        app: || serving(2).worker(only_slots_boot).main(),
        check: never_boots,
    },
    Scenario {
        name: "i_12_a_stop_ends_standbys_too_wherever_they_wait",
        app: || serving(1).standby(2).worker(own_server_or_not).main(),
        check: stops,
    },
    Scenario {
        name: "a_standby_that_grows_old_is_followed_by_another_and_goes",
        app: || serving(1).standby_age(Duration::from_millis(700)).main(),
        check: grows_old,
    },
];

fn unlimited(cluster: ClusterBuilder) -> ClusterBuilder {
    let cluster = cluster.restart_delay(RestartDelay::AtOnce);
    cluster.restart_limit(RestartLimit::unlimited())
}

/// So many workers that serve, and one that stands by.
fn serving(workers: u32) -> ClusterBuilder {
    unlimited(load::cluster()).workers(workers).standby(1)
}

/// The unmodified server of actix-web, which accepts for itself.
async fn own_server(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    if worker.is_standby() {
        let error = worker.listener("http").expect_err("there is no socket yet");
        assert!(error.detail.contains("activated"), "{error}");
        assert!(worker.slot().is_standby() && !worker.is_ready());
        probe::say("no listener in a standby");
    }
    let answer = format!("{} {}", worker.generation(), worker.pid());
    let app = move || {
        let answer = answer.clone();
        App::new().route("/", web::get().to(move || std::future::ready(answer.clone())))
    };
    worker.activated().await;
    assert!(!worker.slot().is_standby());
    let server = HttpServer::new(app).workers(1).disable_signals();
    let server = server.listen(worker.listener("http")?)?;
    worker.run_server(server.run()).await?;
    Ok(())
}

/// One that waits in its own way, and one that waits for connections.
async fn own_server_or_not(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    worker.on_shutdown(async || probe::say("cleaned up"));
    if worker.id().get() == 2 {
        return own_server(worker).await;
    }
    Ok(load::serve(worker).await?)
}

async fn asks(worker: Worker) -> Result<(), actix_cluster::ListenError> {
    let listener = worker.bind(("127.0.0.1", 0)).await?;
    let mut incoming = listener.incoming()?;
    while incoming.accept().await.is_some() {}
    Ok(())
}

async fn new_crashes(worker: Worker) -> Result<(), ServeError> {
    // The first of the new generation is good, so that standbys of it are started.
    if worker.generation().0 > 0 {
        worker.activated().await;
        if worker.slot().index == 1 {
            return Err(ServeError::App);
        }
    }
    load::serve(worker).await
}

async fn only_slots_boot(worker: Worker) -> Result<(), ServeError> {
    if worker.is_standby() {
        return Err(ServeError::App);
    }
    load::serve(worker).await
}

/// The pid of a worker that stands by.
fn stands_by(master: &Master, worker: u64) -> u32 {
    let seen = master.sees(worker, "standby");
    assert_eq!(seen.0["worker"]["slot"]["index"], u32::MAX);
    assert_eq!(seen.state(), "online");
    seen.pid()
}

fn kill(master: &Master, worker: u64) {
    send(master.sees(worker, "fork").pid(), Signal::SIGKILL);
}

/// It stood by, and has this slot now.
fn takes(master: &Master, worker: u64, slot: u64) {
    let promoted = master.sees(worker, "promoted");
    assert_eq!(promoted.0["worker"]["slot"]["index"], slot);
    master.sees(worker, "ready");
    assert_eq!(
        master.life_of(worker)[..6],
        ["fork", "online", "standby", "promoted", "listening", "ready"]
    );
}

fn ask(port: u16) -> String {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answer = Client::new(address, limit(Duration::from_secs(10))).get("/");
    answer.unwrap().text()
}

fn follows(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let pid = stands_by(master, 2);
    let snapshot = master.snapshot();
    assert_eq!(snapshot["counts"]["standbys"], 1);
    assert_eq!(
        (&snapshot["counts"]["active"], &snapshot["target"]),
        (&2.into(), &1.into())
    );
    let shown: Vec<_> = snapshot["workers"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&shown[0]["standby"], &shown[1]["standby"]),
        (&false.into(), &true.into())
    );
    assert_eq!((&shown[1]["ready"], &shown[1]["accepting"]), (&false.into(), &0.into()));
    kill(master, 1);
    assert_eq!(ask(port), format!("0 {pid}"));
    takes(master, 2, 0);
    // Its own successor stands by soon, and follows in its turn.
    let pid = stands_by(master, 3);
    kill(master, 2);
    assert_eq!(ask(port), format!("0 {pid}"));
    takes(master, 3, 0);
    stands_by(master, 4);
    let snapshot = master.snapshot();
    assert_eq!(snapshot["slots"][0]["restarts"], 2);
    let worker = &snapshot["workers"][0];
    assert_eq!((&worker["id"], &worker["restarts"]), (&3.into(), &2.into()));
}

fn unix_path(master: &mut Master) {
    master.expect_ready();
    let pid = stands_by(master, 2);
    kill(master, 1);
    let mut stream = UnixStream::connect(master.directory().join("server.sock")).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&format!("0 {pid}")), "{answer}");
    takes(master, 2, 0);
}

fn scales_up(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    stands_by(master, 3);
    let load = Load::start(port, 2);
    load.goes_on_for(100);
    master.ask(&Order::Scale(3), "scaled ");
    takes(master, 3, 2);
    stands_by(master, 4);
    load.goes_on_for(100);
    load.stop().is_flawless();
    // A slot with an environment of its own is not for a standby.
    assert_eq!(master.ask(&Order::Fork(vec![("A".into(), "b".into())]), "forked "), "5");
    master.sees(5, "ready");
    assert_eq!(master.counts_of(4, ["promoted"]), [0]);
}

fn reloads(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    stands_by(master, 3);
    stands_by(master, 4);
    let load = Load::start(port, 2);
    let pause_ms = limit(Duration::from_secs(2)).as_millis() as u64;
    let care = Care {
        pause_ms,
        ..Care::default()
    };
    assert_eq!(master.ask(&Order::Reload(care), "reloaded "), "1");
    for old in [3, 4] {
        let exit = master.sees(old, "exit");
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
        assert_eq!(master.counts_of(old, ["promoted", "ready"]), [0, 0]);
    }
    // In the pause after the first batch one of the new generation had the time to boot.
    let promoted = master.seen("promoted");
    assert_eq!(promoted.len(), 1);
    assert_eq!(promoted[0].0["worker"]["generation"], 1);
    load.stop().is_flawless();
    master.until("two new ones to stand by", |master| {
        let of_new = |seen: &&actix_cluster_tests::seen::Seen| seen.0["worker"]["generation"] == 1;
        master.seen("standby").iter().filter(of_new).count() >= 3
    });
    let snapshot = master.snapshot();
    assert_eq!(snapshot["counts"]["standbys"], 2);
    assert!(
        snapshot["workers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|worker| worker["generation"] == 1)
    );
}

fn rolls_back(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    stands_by(master, 3);
    let care = Care {
        pause_ms: limit(Duration::from_secs(2)).as_millis() as u64,
        ..Care::default()
    };
    master.ask(&Order::Reload(care), "not reloaded: ");
    master.until("everybody to be of the old generation", |master| {
        let gone = master.seen("exit");
        let new = master
            .seen("fork")
            .into_iter()
            .filter(|seen| seen.0["worker"]["generation"] == 1);
        let mut new = new.map(|seen| seen.worker());
        new.all(|worker| gone.iter().any(|seen| seen.worker() == worker))
    });
    let before = master.seen("promoted").len();
    master.until("one to stand by", |master| {
        let standby = |seen: &actix_cluster_tests::seen::Seen| {
            seen.0["worker"]["generation"] == 0
                && master.counts_of(seen.worker(), ["standby", "promoted", "exit"]) == [1, 0, 0]
        };
        master.seen("standby").iter().any(standby)
    });
    let living = |master: &Master| {
        let dead = master.seen("exit");
        let ready = master.seen("ready").into_iter().map(|seen| seen.worker());
        ready
            .filter(|worker| dead.iter().all(|seen| seen.worker() != *worker))
            .collect::<Vec<_>>()
    };
    kill(master, living(master)[0]);
    let promoted = master.expect_count("promoted", before + 1);
    assert_eq!(promoted.last().unwrap().0["worker"]["generation"], 0);
    assert!(ask(port).starts_with("0 "));
}

fn standby_killed(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let answer = ask(port);
    send(stands_by(master, 2), Signal::SIGKILL);
    assert_eq!(master.sees(2, "exit").reason(), "crash");
    stands_by(master, 3);
    assert_eq!(ask(port), answer);
    assert_eq!(
        (master.seen("restart_scheduled").len(), master.seen("gave_up").len()),
        (0, 0)
    );
}

fn never_boots(master: &mut Master) {
    let port = master.expect_ready().unwrap();
    let load = Load::start(port, 2);
    // It is tried again, after a while.
    for standby in [3, 4] {
        assert_eq!(master.sees(standby, "exit").code(), Some(1));
    }
    load.stop().is_flawless();
    assert_eq!(master.seen("restart_scheduled").len(), 0);
    kill(master, 1);
    master.expect_count("ready", 3);
    assert_eq!((master.seen("promoted").len(), master.seen("gave_up").len()), (0, 0));
}

fn stops(master: &mut Master) {
    master.expect_ready();
    stands_by(master, 2);
    stands_by(master, 3);
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    for worker in [1, 2, 3] {
        let exit = master.once(worker, "exit");
        assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
        assert_eq!(exit.data()["forced"], false);
    }
    assert_eq!(master.count_said("cleaned up"), 3);
}

fn grows_old(master: &mut Master) {
    master.expect_ready();
    stands_by(master, 2);
    stands_by(master, 3);
    let exit = master.sees(2, "exit");
    assert_eq!((exit.code(), exit.reason()), (Some(0), &"ordered".into()));
    assert_eq!(master.counts_of(2, ["promoted"]), [0]);
    let place = |worker: u64, kind: &str| master.once(worker, kind).0["seq"].as_u64().unwrap();
    assert!(place(3, "standby") < place(2, "exiting"), "the other one first");
}
