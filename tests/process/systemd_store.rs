//! The service manager's store of descriptors: a listening socket that outlives the master, and is taken back by name.

use std::io::{IoSlice, IoSliceMut, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use actix_cluster::{Connection, ListenOptions, Scheduling, Worker};
use actix_cluster_actors::{SystemdConfig, SystemdNotifier};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON};
use actix_cluster_tests::outside::wait_for_file;
use actix_cluster_tests::probe;
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, getsockname, recvmsg, sendmsg, setsockopt, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::systemd::own_path;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "systemd_keeps_a_listener_over_the_masters_death_and_nobody_is_refused",
    app,
    check: kept,
}];

/// Where the second start gets its descriptors from, as a service manager would have put them there.
const HAND_VAR: &str = "ACTIX_CLUSTER_TEST_HAND";

/// A notified cluster whose listener is the one that was handed over, or a new one.
fn app() -> ExitCode {
    if !actix_cluster::is_worker() {
        if let Ok(path) = std::env::var(HAND_VAR) {
            take_over(&path);
        }
        wait_for_file("bound");
    }
    let options = ListenOptions::new().scheduling(Scheduling::Shared);
    let cluster = probe::cluster()
        .workers(2)
        .listen_activated_or_with("http", "127.0.0.1:0", options)
        // Each worker has a socket of its own there, which nobody can keep for it.
        .listen("own", "127.0.0.1:0")
        .worker(answers);
    let config = SystemdConfig::from_env().socket(own_path()).store_listeners(true);
    SystemdNotifier::new(config).attach(cluster).main()
}

/// Replaces itself by the same program with `gone` and `http` as descriptors 3 and 4.
fn take_over(path: &str) {
    let hand = UnixStream::connect(path).expect("somebody hands over");
    let (_, fds) = receive(hand.as_raw_fd(), MsgFlags::empty());
    let [gone, http] = fds[..] else {
        panic!("two are handed over: {fds:?}")
    };
    let script = format!(
        "exec 3<&{gone} 4<&{http}; unset {HAND_VAR}; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=gone:http; exec \"$0\""
    );
    let program = std::env::current_exe().expect("a running program has a path");
    panic!(
        "there is a shell: {}",
        Command::new("bash").arg("-c").arg(script).arg(program).exec()
    );
}

/// Answers each connection with its process id.
async fn answers(worker: Worker) {
    let answer = async |mut connection: Connection| {
        let id = std::process::id().to_string();
        // The client may have gone.
        tokio::io::AsyncWriteExt::write_all(&mut connection, id.as_bytes())
            .await
            .ok();
    };
    let http = worker.incoming("http").expect("it is declared");
    http.serve_with(answer).await;
}

/// One message, with the descriptors that came along.
fn receive(socket: RawFd, flags: MsgFlags) -> (String, Vec<RawFd>) {
    let (mut text, mut space) = ([0; 4096], nix::cmsg_space!([RawFd; 4]));
    let mut parts = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags).expect("there is a message");
    let fds = message
        .cmsgs()
        .expect("there is room for it")
        .filter_map(|along| match along {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
    let (fds, length) = (fds.flatten().collect(), message.bytes);
    (String::from_utf8_lossy(&text[..length]).into_owned(), fds)
}

/// The service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn of(master: &Master) -> Self {
        let socket = UnixDatagram::bind(master.directory().join("notify")).expect("the directory is ours");
        let patience = i64::try_from(limit(SOON).as_millis()).expect("it is short");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(patience)).expect("a socket has a timeout");
        std::fs::write(master.directory().join("bound"), "").expect("the directory is ours");
        Self(socket)
    }

    /// What is said until this comes, all of it, with the descriptors.
    fn until(&self, wanted: &str) -> Vec<(String, Vec<RawFd>)> {
        let mut heard = Vec::new();
        loop {
            heard.push(receive(self.0.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC));
            if heard.last().is_some_and(|(text, _)| text.starts_with(wanted)) {
                return heard;
            }
        }
    }

    /// The one descriptor that is to be stored.
    fn stored(&self) -> RawFd {
        let heard = self.until("FDSTORE=1");
        let (text, fds) = heard.last().expect("it came");
        assert_eq!(text, "FDSTORE=1\nFDNAME=http");
        assert_eq!(fds.len(), 1, "{heard:?}");
        fds[0]
    }
}

fn port_of(socket: RawFd) -> u16 {
    getsockname::<SockaddrIn>(socket).expect("it is bound").port()
}

fn kept(first: &mut Master) {
    let manager = Manager::of(first);
    let socket = manager.stored();
    first.expect_ready();
    let port = port_of(socket);
    let own = manager.until("READY=1");
    assert!(own.iter().all(|(text, _)| !text.contains("FDSTORE")), "{own:?}");
    first.signal(Signal::SIGKILL);
    first.wait();
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the queue is open");
    let early = connect();
    // The next start, by a manager that has something else in its store, too.
    let gone = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let mut second = Master::start_with(first.name(), |command| {
        let path = command.get_current_dir().expect("it has one").join("hand");
        let hand = UnixListener::bind(&path).expect("the directory is ours");
        command.env(HAND_VAR, path);
        let fds = [gone.as_raw_fd(), socket];
        std::thread::spawn(move || {
            let (stream, _) = hand.accept().expect("the program comes");
            let (text, along) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&fds)]);
            sendmsg::<()>(stream.as_raw_fd(), &text, &along, MsgFlags::empty(), None).expect("the program reads");
        });
    });
    let manager = Manager::of(&second);
    let removed = manager.until("FDSTOREREMOVE=1");
    assert_eq!(
        removed.last().map(|(text, _)| text.as_str()),
        Some("FDSTOREREMOVE=1\nFDNAME=gone")
    );
    let again = manager.stored();
    assert_eq!(port_of(again), port);
    second.expect_ready();
    for mut client in [early, connect()] {
        client
            .set_read_timeout(Some(limit(SOON)))
            .expect("a socket has a timeout");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it is answered");
        assert!(answer.parse::<u32>().is_ok(), "{answer:?}");
    }
    for fd in [socket, again] {
        nix::unistd::close(fd).expect("it is ours");
    }
    second.finish();
}
