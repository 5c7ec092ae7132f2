//! A keeper and its worker, alone: these tests play the master's end of the hand-over socket, and the clients.

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use nix::unistd::{Pid, getpgid};

use super::*;
use crate::handover::{self, Endpoint, ToDispatcher};
use crate::model::Signal;
use crate::process::KeeperHandle;
use crate::sys::process as sys;

/// A worker with one surviving listener, one that is not, and its keeper; and the client's side of it.
struct Kept {
    child: Child,
    orders: BufReader<UnixStream>,
    post: Endpoint,
    keeper: KeeperHandle,
    keeper_pid: u32,
    surviving: SocketAddr,
    plain: SocketAddr,
}

/// What a keeper said last.
#[derive(Debug, Default)]
struct Said {
    rescued: Vec<Rescued>,
    saved: u32,
    lost: u32,
}

#[derive(Debug)]
struct Rescued {
    stream: TcpStream,
    listener: u32,
    strikes: u8,
    begun: bool,
    repeatable: bool,
}

impl Kept {
    async fn start() -> Self {
        let (mut starting, post) = start_with(&[]);
        let first = timeout(LIMIT, post.recv::<ToDispatcher>())
            .await
            .expect("a keeper in time");
        let first = first.expect("the worker lives");
        let (Some(ToDispatcher::Keeper { pid }), Some(pidfd)) = (first.said, first.fd) else {
            panic!("the first word is another");
        };
        assert_eq!(starting.order("hello"), "hello");
        let keeper = KeeperHandle::watch(pid, pidfd).unwrap();
        let Starting {
            child,
            orders,
            surviving,
            plain,
        } = starting;
        Self {
            child,
            orders,
            post,
            keeper,
            keeper_pid: pid,
            surviving,
            plain,
        }
    }

    fn order(&mut self, text: &str) -> String {
        order(&mut self.orders, text)
    }

    /// A client, accepted by the worker as its n-th connection.
    fn client(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.surviving).unwrap();
        assert_eq!(self.order("accept 0"), "accepted");
        client
    }

    /// What the keeper says from here on, until it has ended and is reaped.
    async fn rest(&mut self) -> Said {
        let mut said = Said::default();
        let all = async {
            while let Some(packet) = self.post.recv::<ToDispatcher>().await {
                match (packet.said.expect("a known word"), packet.fd) {
                    // Once more, in case its worker had not come to it.
                    (ToDispatcher::Keeper { pid }, Some(_)) => assert_eq!(pid, self.keeper_pid),
                    (
                        ToDispatcher::Rescued {
                            listener,
                            strikes,
                            begun,
                            repeatable,
                        },
                        Some(fd),
                    ) => {
                        let stream = TcpStream::from(fd);
                        stream.set_nonblocking(false).unwrap();
                        said.rescued.push(Rescued {
                            stream,
                            listener,
                            strikes,
                            begun,
                            repeatable,
                        });
                    }
                    (ToDispatcher::Done { saved, lost, .. }, None) => (said.saved, said.lost) = (saved, lost),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            self.keeper.ended().await;
        };
        timeout(LIMIT, all).await.expect("the keeper ends");
        said
    }

    async fn kill(&mut self) -> Said {
        assert!(self.child.handle.signal(Signal::KILL).unwrap());
        let said = self.rest().await;
        assert_eq!(self.child.handle.exited().await.signal(), Some(Signal::KILL));
        assert_eq!(self.child.handle.reap(false).map(|it| it.leftovers), Some(false));
        said
    }
}

struct Starting {
    child: Child,
    orders: BufReader<UnixStream>,
    surviving: SocketAddr,
    plain: SocketAddr,
}

impl Starting {
    fn order(&mut self, text: &str) -> String {
        order(&mut self.orders, text)
    }
}

fn order(orders: &mut BufReader<UnixStream>, text: &str) -> String {
    writeln!(orders.get_ref(), "{text}").unwrap();
    let mut line = String::new();
    orders.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Starts a worker whose contract asks for a keeper.
fn start_with(extra_env: &[(OsString, OsString)]) -> (Starting, Endpoint) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [surviving, plain] = [&listeners[0], &listeners[1]].map(|listener| listener.local_addr().unwrap());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (master, worker) = handover::pair().unwrap();
    let mut contract = contract();
    contract.keeper = true;
    contract.listeners = [surviving, plain]
        .iter()
        .map(|address| InheritedListener {
            name: address.to_string(),
            fd: -1,
            address: BoundAddress::tcp(*address),
            scheduling: Scheduling::Shared,
            survives: *address == surviving,
        })
        .collect();
    let child = spawn(SpawnPlan {
        zygote: None,
        image: None,
        settings: &same("keeping"),
        extra_env,
        contract,
        channel: theirs.as_fd(),
        handover: Some(worker.as_fd()),
        listeners: listeners.iter().map(AsFd::as_fd).collect(),
        recorder: None,
        default_args: &[],
    })
    .unwrap();
    let starting = Starting {
        child,
        orders: BufReader::new(ours),
        surviving,
        plain,
    };
    (starting, Endpoint::new(master).unwrap())
}

fn read_all(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_to_string(&mut text).map(|_| text)
}

fn waiting(stream: &TcpStream) -> usize {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.peek(&mut [0; 256]).unwrap()
}

#[tokio::test]
async fn connections_that_a_killed_worker_had_not_read_are_saved_and_the_others_end() {
    let mut kept = Kept::start().await;
    let mut untouched = kept.client();
    let mut silent = kept.client();
    let mut read = kept.client();
    let mut answered = kept.client();
    let mut plain = TcpStream::connect(kept.plain).unwrap();
    assert_eq!(kept.order("accept 1"), "accepted");
    untouched.write_all(b"question").unwrap();
    read.write_all(b"question").unwrap();
    assert_eq!(kept.order("read 2 3"), "read");
    assert_eq!(kept.order("write 3 5"), "wrote");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.lost), (2, 1), "{said:?}");
    for rescued in &said.rescued {
        let Rescued {
            listener,
            strikes,
            begun,
            repeatable,
            ..
        } = rescued;
        assert_eq!((*listener, *strikes, *begun, *repeatable), (0, 0, false, true));
    }
    let of = |client: &TcpStream| {
        let peer = client.local_addr().unwrap();
        let found = said.rescued.iter().find(|it| it.stream.peer_addr().unwrap() == peer);
        found.map(|it| it.stream.try_clone().unwrap())
    };
    let mut server = of(&untouched).expect("nothing was read");
    assert_eq!(waiting(&server), 8);
    server.write_all(b"answer").unwrap();
    of(&silent).expect("nothing was said").write_all(b"hello").unwrap();
    drop((server, said));
    // The end is an error where bytes lay unread, as if there were no keeper.
    read_all(&mut read).unwrap_err();
    assert_eq!(read_all(&mut answered).unwrap(), "wwwww");
    assert_eq!(read_all(&mut plain).unwrap(), "");
    read_all(&mut untouched).unwrap_err();
    assert_eq!(read_all(&mut silent).unwrap(), "hello");
}

#[tokio::test]
async fn what_the_worker_noted_decides_and_answered_requests_are_thrown_away() {
    let mut kept = Kept::start().await;
    let mut clients: Vec<TcpStream> = (0..6).map(|_| kept.client()).collect();
    for client in &mut clients {
        client.write_all(b"first second").unwrap();
    }
    for index in 0..6 {
        assert_eq!(kept.order(&format!("note {index} {}", index + 1)), "noted");
    }
    // The first is idle; all but it are in the middle of a request.
    for (index, kind) in [(1, "again"), (2, "once"), (3, "again"), (4, "again"), (5, "again")] {
        assert_eq!(kept.order(&format!("begin {index} {kind}")), "begun");
    }
    // Answered, but not consumed; the same, as the last answer; half an answer.
    assert_eq!(kept.order("complete 3 6 more"), "completed");
    assert_eq!(kept.order("complete 4 6 last"), "completed");
    assert_eq!(kept.order("part 5"), "wrote");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.lost), (4, 1), "{said:?}");
    let of = |client: &TcpStream| {
        let peer = client.local_addr().unwrap();
        said.rescued.iter().find(|it| it.stream.peer_addr().unwrap() == peer)
    };
    let told = |index: usize| of(&clients[index]).map(|it| (it.strikes, it.begun, it.repeatable, waiting(&it.stream)));
    assert_eq!(told(0), Some((1, false, true, 12)));
    assert_eq!(told(1), Some((2, true, true, 12)));
    assert_eq!(told(2), Some((3, true, false, 12)));
    assert_eq!(
        told(3),
        Some((0, false, true, 6)),
        "struck for a request that is answered"
    );
    assert_eq!(told(4), None);
    assert_eq!(told(5), None);
    drop(said);
    let mut ends = clients.split_off(4).into_iter().map(|mut client| read_all(&mut client));
    assert_eq!(ends.next().unwrap().unwrap(), "an answer", "whole, and then the end");
    ends.next().unwrap().unwrap_err();
}

#[tokio::test]
async fn a_connection_that_ends_after_its_last_answer_ends_although_somebody_holds_a_copy() {
    let mut kept = Kept::start().await;
    let mut client = kept.client();
    client.write_all(b"first").unwrap();
    assert_eq!(kept.order("note 0 0"), "noted");
    assert_eq!(kept.order("begin 0 again"), "begun");
    assert_eq!(kept.order("complete 0 5 last"), "completed");
    assert_eq!(kept.order("lend 0"), "lent");
    let lent = kept.post.recv::<ToDispatcher>().await.unwrap();
    let _copy = lent.fd.expect("a copy");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.lost), (0, 0), "{said:?}");
    assert_eq!(read_all(&mut client).unwrap(), "an answer");
}

#[tokio::test]
async fn a_worker_that_ends_by_itself_leaves_its_idle_connections_too() {
    for end in ["exit", "abort", "segfault"] {
        let mut kept = Kept::start().await;
        let _client = kept.client();
        writeln!(kept.orders.get_ref(), "{end}").unwrap();
        let said = kept.rest().await;
        assert_eq!((said.saved, said.lost), (1, 0), "{end}: {said:?}");
        kept.child.handle.exited().await;
        kept.child.handle.reap(false).unwrap();
    }
}

#[tokio::test]
async fn two_numbers_of_one_connection_are_one_connection() {
    let mut kept = Kept::start().await;
    let _client = kept.client();
    let _other = kept.client();
    assert_eq!(kept.order("copy 0"), "copied");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.rescued.len()), (2, 2), "{said:?}");
}

#[tokio::test]
async fn a_client_that_is_gone_is_given_to_nobody() {
    let mut kept = Kept::start().await;
    let client = kept.client();
    client.shutdown(Shutdown::Write).unwrap();
    let mut asking = kept.client();
    asking.write_all(b"question").unwrap();
    asking.shutdown(Shutdown::Write).unwrap();
    assert_eq!(kept.order("read-end 0"), "read");
    assert_eq!(kept.order("peek-end 1"), "peeked");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.lost), (1, 0), "{said:?}");
    assert_eq!(waiting(&said.rescued[0].stream), 8);
}

#[tokio::test]
async fn a_keeper_shows_what_it_is_and_hears_no_signal_of_a_group() {
    let mut kept = Kept::start().await;
    let (keeper, worker) = (kept.keeper_pid, kept.child.pid);
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{keeper}/{file}")).unwrap();
    assert_eq!(read("comm"), "keeper\n");
    assert_eq!(
        read("cmdline").trim_end_matches('\0'),
        format!("keeper of worker {worker}")
    );
    let pid = Pid::from_raw(keeper.cast_signed());
    assert_eq!(getpgid(Some(pid)), Ok(pid), "a group of its own");
    for signal in [1, 2, 3, 10, 13, 14, 15, 20, 34] {
        assert!(sys::kill(keeper.cast_signed(), signal).unwrap());
    }
    let _client = kept.client();
    // The worker's whole group goes.
    assert!(sys::kill(-worker.cast_signed(), 9).unwrap());
    let said = kept.rest().await;
    assert_eq!((said.saved, said.lost), (1, 0), "{said:?}");
    kept.child.handle.exited().await;
    kept.child.handle.reap(false).unwrap();
}

#[tokio::test]
async fn a_worker_whose_keeper_is_killed_serves_on_and_dies_as_without() {
    let mut kept = Kept::start().await;
    let mut client = kept.client();
    assert!(sys::kill(kept.keeper_pid.cast_signed(), 9).unwrap());
    timeout(LIMIT, kept.keeper.ended()).await.unwrap();
    assert_eq!(kept.order("write 0 5"), "wrote");
    kept.child.handle.signal(Signal::KILL).unwrap();
    assert_eq!(read_all(&mut client).unwrap(), "wwwww");
    kept.child.handle.exited().await;
    kept.child.handle.reap(false).unwrap();
}

#[tokio::test]
async fn both_killed_at_once_leave_nothing() {
    let mut kept = Kept::start().await;
    let mut client = kept.client();
    for pid in [kept.keeper_pid, kept.child.pid] {
        assert!(sys::kill(pid.cast_signed(), 9).unwrap());
    }
    let said = kept.rest().await;
    assert!(said.rescued.is_empty());
    assert_eq!(read_all(&mut client).unwrap(), "");
    kept.child.handle.exited().await;
    kept.child.handle.reap(false).unwrap();
}

#[tokio::test]
async fn a_worker_at_its_limit_of_descriptors_is_saved_from_all_the_same() {
    let mut kept = Kept::start().await;
    let _client = kept.client();
    assert_eq!(kept.order("exhaust"), "exhausted");
    let said = kept.kill().await;
    assert_eq!((said.saved, said.lost), (1, 0), "{said:?}");
}

#[tokio::test]
async fn user_code_that_closes_what_it_does_not_know_costs_the_guarantee_only() {
    let mut kept = Kept::start().await;
    let mut client = kept.client();
    assert_eq!(kept.order("close-strange"), "closed");
    assert_eq!(kept.order("write 0 5"), "wrote");
    kept.child.handle.signal(Signal::KILL).unwrap();
    assert_eq!(read_all(&mut client).unwrap(), "wwwww");
    timeout(LIMIT, kept.keeper.ended()).await.unwrap();
    kept.child.handle.exited().await;
    kept.child.handle.reap(false).unwrap();
}

#[tokio::test]
async fn a_keeper_ends_with_the_masters_end_of_the_socket() {
    let kept = Kept::start().await;
    let Kept {
        child,
        post,
        keeper,
        mut orders,
        ..
    } = kept;
    drop(post);
    timeout(LIMIT, keeper.ended()).await.unwrap();
    assert_eq!(order(&mut orders, "hello"), "hello", "the worker lives");
    child.handle.signal(Signal::KILL).unwrap();
    child.handle.exited().await;
    child.handle.reap(false).unwrap();
}

#[tokio::test]
async fn a_system_that_allows_no_keeper_is_told_of() {
    for name in ["ACTIX_CLUSTER_NO_KEEPER", "ACTIX_CLUSTER_NO_PIDFD"] {
        let (mut starting, post) = start_with(&[(name.into(), "1".into())]);
        let first = timeout(LIMIT, post.recv::<ToDispatcher>()).await.unwrap().unwrap();
        let Some(ToDispatcher::Unkept { why }) = first.said else {
            panic!("another word");
        };
        assert!(why.contains(name), "{why}");
        assert_eq!(starting.order("hello"), "hello");
        starting.child.handle.signal(Signal::KILL).unwrap();
        starting.child.handle.exited().await;
        starting.child.handle.reap(false).unwrap();
    }
}

#[tokio::test]
async fn thousands_of_connections_are_saved_in_one_go() {
    let mut kept = Kept::start().await;
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let count = (usize::try_from(soft).unwrap_or(usize::MAX) / 2)
        .saturating_sub(100)
        .min(9_000);
    let clients: Vec<TcpStream> = (0..count).map(|_| kept.client()).collect();
    let before = crate::clock::now();
    let said = kept.kill().await;
    println!("{count} connections saved in {:?}", crate::clock::now().since(before));
    assert_eq!((said.saved as usize, said.rescued.len(), said.lost), (count, count, 0));
    drop(clients);
}
