//! What a service manager hears, and the sockets that it hands over.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use actix_cluster::{ClusterBuilder, Connection, EventKind, Worker};
use actix_cluster_actors::{SystemdConfig, SystemdNotifier};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::outside::{inherit_through_env, let_pass, wait_for_file};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_206_systemd_hears_ready_reloads_a_failed_one_and_the_stop_in_their_order",
        app: || notified(&own_path(), |config| config.min_ready(2)).workers(2).main(),
        check: ready_reload_stop,
    },
    Scenario {
        name: "systemd_watchdog_is_fed_only_while_supervision_turns",
        app: || {
            let watchdog = Some(limit(WATCHDOG));
            let cluster = notified(&own_path(), |config| config.watchdog(watchdog));
            cluster.on_event(stuck_once_scaled).main()
        },
        check: watchdog,
    },
    Scenario {
        name: "systemd_time_for_a_long_stop_is_extended_over_an_abstract_socket",
        app: || {
            let name = std::env::current_dir().expect("it has one").display().to_string();
            let extension = Some(Duration::from_millis(200));
            let cluster = notified(&format!("@{name}"), |config| config.extend_stop(extension));
            cluster.worker(stubborn).main()
        },
        check: |master| {
            let name = master.directory().display().to_string();
            let address = SocketAddr::from_abstract_name(name).expect("it is short");
            let manager = Manager::new(UnixDatagram::bind_addr(&address).expect("nobody else has it"), master);
            manager.expect("READY=1");
            master.signal(Signal::SIGTERM);
            manager.expect("STOPPING=1");
            for _ in 0..3 {
                assert_eq!(manager.expect("EXTEND_TIMEOUT_USEC="), "EXTEND_TIMEOUT_USEC=200000");
            }
            std::fs::write(master.directory().join("enough"), "").expect("the directory is ours");
            assert!(master.wait().success());
        },
    },
    Scenario {
        name: "systemd_socket_that_is_missing_is_one_warning_and_no_harm",
        app: || {
            inherit_through_env(&["NOTIFY_SOCKET=/nowhere/at/all"]);
            SystemdNotifier::new(SystemdConfig::from_env()).attach(plain()).main()
        },
        check: |master| {
            master.expect_ready();
            master.ask(&Order::Reload(Care::default()), "reloaded");
            master.expect_log("the service manager cannot be notified", 1);
            master.signal(Signal::SIGTERM);
            assert!(master.wait().success());
            assert_eq!(master.log().matches("cannot be notified").count(), 1);
        },
    },
    Scenario {
        name: "systemd_socket_that_comes_late_hears_what_was_said_without_anything_new",
        app: || {
            inherit_through_env(&[&format!("NOTIFY_SOCKET={}", own_path())]);
            // Nothing happens any more that would be told.
            let cluster = SystemdNotifier::new(SystemdConfig::from_env()).attach(plain());
            cluster.workers(1).main()
        },
        check: |master| {
            master.expect_ready();
            master.expect_log("the service manager cannot be notified", 1);
            // The last word of the start, a status, has had its time.
            master.ask(&Order::Ping, "pong");
            let_pass(limit(Duration::from_millis(100)));
            Manager::at_path(master).expect("READY=1");
        },
    },
    Scenario {
        name: "systemd_socket_that_is_full_delays_nobody_and_is_caught_up_with",
        app: || notified(&own_path(), |config| config).main(),
        check: |master| {
            let manager = Manager::at_path(master);
            master.expect_ready();
            for generation in 1..=15 {
                let reloaded = master.ask(&Order::Reload(Care::default()), "reloaded ");
                assert_eq!(reloaded, generation.to_string());
            }
            manager.expect("READY=1");
            for _ in 0..3 {
                manager.expect("RELOADING=1");
                manager.expect("READY=1");
            }
            let is_last = |text: &str| text.starts_with("RELOADING=1") && text.contains("generation 15");
            while !is_last(&manager.next()) {}
            manager.expect("READY=1");
        },
    },
    Scenario {
        name: "systemd_hands_over_a_socket_that_outlives_workers_who_hear_nothing_of_it",
        app: || activated("$$", "web.socket", |cluster| cluster.listen_activated("http")),
        check: |master| {
            let port = master.expect_ready().expect("it was handed over");
            assert_eq!(master.sees(1, "listening").data()["fd"], 3);
            master.hears("variables: []");
            assert_eq!(ask(port), "1");
            send(master.once(1, "ready").pid(), Signal::SIGKILL);
            assert_eq!(ask(port), "2", "nobody is refused meanwhile");
        },
    },
    Scenario {
        name: "systemd_sockets_of_another_process_are_not_taken",
        app: || {
            activated("1", "web.socket", |cluster| {
                cluster.listen_activated_or("http", "127.0.0.1:0")
            })
        },
        check: |master| {
            let port = master.expect_ready().expect("there is an address besides");
            assert!(master.sees(1, "listening").data()["fd"].is_null());
            assert_eq!(ask(port), "1");
        },
    },
    Scenario {
        name: "systemd_socket_that_is_called_by_another_listener_is_not_taken",
        app: || activated("$$", "http", both),
        check: not_taken,
    },
    Scenario {
        name: "systemd_socket_without_a_chosen_name_is_taken_by_one_listener_only",
        app: || {
            activated("$$", "web.socket", |cluster| {
                let cluster = cluster.listen_activated_or("http", "127.0.0.1:0");
                said(cluster.listen_activated_or("admin", "127.0.0.1:0"))
            })
        },
        check: not_taken,
    },
];

fn plain() -> ClusterBuilder {
    probe::cluster().worker(|worker: Worker| async move { probe::idle(&worker).await })
}

/// A cluster that notifies this address, which the check binds before anything starts.
fn notified(address: &str, change: impl FnOnce(SystemdConfig) -> SystemdConfig) -> ClusterBuilder {
    wait_for_file("bound");
    inherit_through_env(&[&format!("NOTIFY_SOCKET={address}")]);
    SystemdNotifier::new(change(SystemdConfig::from_env())).attach(plain())
}

pub(crate) fn own_path() -> String {
    let directory = std::env::current_dir().expect("it has one");
    directory.join("notify").display().to_string()
}

/// The service manager's end.
pub(crate) struct Manager {
    socket: UnixDatagram,
    heard: RefCell<Vec<String>>,
}

impl Manager {
    pub(crate) fn at_path(master: &Master) -> Self {
        let socket = UnixDatagram::bind(master.directory().join("notify")).expect("the directory is ours");
        Self::new(socket, master)
    }

    fn new(socket: UnixDatagram, master: &Master) -> Self {
        socket
            .set_read_timeout(Some(limit(SOON)))
            .expect("a socket has a timeout");
        std::fs::write(master.directory().join("bound"), "").expect("the directory is ours");
        Self {
            socket,
            heard: RefCell::default(),
        }
    }

    fn next(&self) -> String {
        let mut text = [0; 4096];
        let length = self.socket.recv(&mut text).unwrap_or_else(|error| {
            panic!("nothing more is heard: {error}; so far: {:#?}", self.heard.borrow());
        });
        let text = String::from_utf8(text[..length].to_vec()).expect("it is text");
        self.heard.borrow_mut().push(text.clone());
        text
    }

    /// The next message that begins so; only a status, a sign of life or an extension may come before it.
    pub(crate) fn expect(&self, wanted: &str) -> String {
        loop {
            let text = self.next();
            if text.starts_with(wanted) {
                return text;
            }
            let is_aside = ["STATUS=", "WATCHDOG=", "EXTEND_"]
                .iter()
                .any(|aside| text.starts_with(aside));
            assert!(is_aside, "{text:?} before {wanted}: {:#?}", self.heard.borrow());
        }
    }

    /// What waits in the socket.
    fn drain(&self) -> Vec<String> {
        let from = self.heard.borrow().len();
        self.socket.set_nonblocking(true).expect("a socket can");
        let mut text = [0; 4096];
        loop {
            match self.socket.recv(&mut text) {
                Ok(length) => self
                    .heard
                    .borrow_mut()
                    .push(String::from_utf8_lossy(&text[..length]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.socket.set_nonblocking(false).expect("a socket can");
        self.heard.borrow()[from..].to_vec()
    }
}

fn ready_reload_stop(master: &mut Master) {
    let manager = Manager::at_path(master);
    let ready = manager.expect("READY=1");
    let pid = master.pid();
    assert_eq!(ready, format!("READY=1\nMAINPID={pid}\nSTATUS=2 of 2 workers ready"));
    assert_eq!(master.expect_count("ready", 2).len(), 2);
    master.ask(&Order::Reload(Care::default()), "reloaded 1");
    let stamp = |text: &str| -> u64 {
        let stamp = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        stamp.expect("it has one").parse().expect("it is a number")
    };
    let first = stamp(&manager.expect("RELOADING=1"));
    manager.expect("READY=1");
    let bad = Care {
        canary: Some((1, 0)),
        verdict: Some(Err("smells".to_owned())),
        ..Care::default()
    };
    master.ask(&Order::Reload(bad), "not reloaded");
    assert!(stamp(&manager.expect("RELOADING=1")) > first);
    let ready = manager.expect("READY=1");
    assert!(
        ready.contains("the last reload failed") && ready.contains("smells"),
        "{ready}"
    );
    master.signal(Signal::SIGTERM);
    manager.expect("STOPPING=1");
    assert!(master.wait().success());
    let after = manager.drain();
    assert!(
        after
            .iter()
            .all(|text| text.starts_with("STATUS=stopping") || text.starts_with("EXTEND_")),
        "{after:?}"
    );
}

/// Blocks the supervising thread, until the file `enough` is there, when the cluster is scaled.
fn stuck_once_scaled(event: &actix_cluster::ClusterEvent, cluster: &actix_cluster::ClusterHandle) {
    if matches!(event.kind, EventKind::Scaled { .. }) {
        let cluster = cluster.clone();
        actix_rt::spawn(async move {
            let block = |_: &mut actix_cluster::Settings| {
                probe::say("stuck");
                wait_for_file("enough");
            };
            cluster.setup(block).await.expect("the cluster runs");
        });
    }
}

fn watchdog(master: &mut Master) {
    let manager = Manager::at_path(master);
    manager.expect("READY=1");
    for _ in 0..4 {
        manager.expect("WATCHDOG=1");
    }
    master.order(&Order::Scale(2));
    master.expect_said("stuck");
    manager.drain();
    let_pass(limit(WATCHDOG) * 3);
    let signs = manager.drain().iter().filter(|text| *text == "WATCHDOG=1").count();
    assert!(signs <= 1, "one answer may have been on its way, {signs} came");
    std::fs::write(master.directory().join("enough"), "").expect("the directory is ours");
    manager.expect("WATCHDOG=1");
    manager.expect("WATCHDOG=1");
}

/// Hears that it is to stop, and takes until the scenario has seen enough.
async fn stubborn(worker: Worker) {
    worker.shutdown().started().await;
    let gate = actix_rt::task::spawn_blocking(|| wait_for_file("enough"));
    gate.await.expect("the wait is not cancelled");
}

/// A cluster that was handed over a socket of this name, as descriptor 3, for itself or for another process.
fn activated(pid: &str, name: &str, listen: fn(ClusterBuilder) -> ClusterBuilder) -> ExitCode {
    if !actix_cluster::is_worker() && std::env::var_os("LISTEN_FDS").is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
        let script = format!(
            "exec 3<&{}; export LISTEN_PID={pid} LISTEN_FDS=1 LISTEN_FDNAMES={name}; exec \"$0\"",
            listener.as_raw_fd(),
        );
        let program = std::env::current_exe().expect("a running program has a path");
        let error = Command::new("sh").arg("-c").arg(script).arg(program).exec();
        panic!("there is a shell: {error}");
    }
    listen(probe::cluster()).worker(answers).main()
}

/// The one that was not handed over is declared first.
fn both(cluster: ClusterBuilder) -> ClusterBuilder {
    let cluster = cluster.listen_activated_or("admin", "127.0.0.1:0");
    said(cluster.listen_activated_or("http", "127.0.0.1:0"))
}

/// Says where its listeners are.
fn said(cluster: ClusterBuilder) -> ClusterBuilder {
    cluster.on_event(|event, cluster| {
        if matches!(event.kind, EventKind::AllReady { .. }) {
            let port = |name| cluster.address(name).and_then(|address| address.socket_addr());
            probe::say(&format!("at {:?} {:?}", port("http"), port("admin")));
        }
    })
}

fn not_taken(master: &mut Master) {
    let port = master.expect_ready().expect("one was handed over");
    assert_eq!(master.sees(1, "listening").data()["fd"], 3);
    // Said on another thread than the event, so perhaps before it.
    let said = |line: &Value| Some(line["said"].as_str()?.strip_prefix("at ")?.to_owned());
    let found = master.expect_at_least(1, |line| said(line).is_some()).swap_remove(0);
    let at = said(&found.0).expect("it was chosen for this");
    let (http, admin) = at.split_once(' ').expect("there are two");
    assert!(http != admin && http.contains(&port.to_string()), "{at}");
    assert!(admin.contains("127.0.0.1"), "{at}");
    assert_eq!(ask(port), "1");
}

/// Answers each connection with its id.
async fn answers(worker: Worker) {
    let listen: Vec<String> = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("LISTEN_"))
        .collect();
    probe::say(&format!("variables: {listen:?}"));
    let id = worker.id().to_string();
    let answer = move |mut connection: Connection| {
        let id = id.clone();
        async move {
            // The client may have gone.
            tokio::io::AsyncWriteExt::write_all(&mut connection, id.as_bytes())
                .await
                .ok();
        }
    };
    worker
        .incoming("http")
        .expect("it is declared")
        .serve_with(answer)
        .await;
}

fn ask(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream
        .set_read_timeout(Some(limit(SOON)))
        .expect("a socket has a timeout");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("it is answered");
    answer
}

/// A real watchdog has seconds.
const WATCHDOG: Duration = Duration::from_millis(200);
