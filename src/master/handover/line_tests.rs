//! What a dead worker's line still says, in the one order in which it was said: with sockets, without processes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::{Actor, Context, Handler};
use tokio::sync::Notify;

use super::board::Waiting;
use super::desk::Desk;
use super::orphans::Connection;
use super::{Born, Listed, Order, Tally};
use crate::clock;
use crate::handover::{Endpoint, ToDispatcher, ToServer, pair};
use crate::ipc::{Calls, Limits, Outbox};
use crate::master::Link;
use crate::master::messages::Dispatched;
use crate::model::{Client, Generation, ListenKey, Slot, WorkerId};
use crate::policy::{RoundRobin, for_listener};
use crate::sys::socket::cookie;

/// Hears the news, and says nothing.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<Dispatched> for Deaf {
    type Result = ();

    fn handle(&mut self, _: Dispatched, _: &mut Self::Context) {}
}

fn id() -> WorkerId {
    WorkerId::new(1)
}

fn key() -> ListenKey {
    ListenKey::Named("http".to_owned())
}

/// A desk, the supervisor's way to it, and the worker's end of the line of worker 1.
fn desk() -> (Rc<Desk>, mpsc::Sender<Order>, Endpoint) {
    let (orders, inbox) = mpsc::channel();
    let news = Deaf.start().recipient();
    let desk = Rc::new(Desk::new(
        inbox,
        Arc::new(Notify::new()),
        news,
        Arc::new(Tally::default()),
        Arc::default(),
    ));
    let (ours, theirs) = pair().unwrap();
    let (outbox, calls) = (Outbox::new(Limits::default()), Calls::new());
    let link = Link::new(id(), Slot::new("web", 0), Generation(0), 1, 0, outbox, calls);
    let born = Born {
        link: Arc::new(link),
        socket: ours,
        listeners: vec![Listed {
            key: key(),
            max_runs: None,
        }],
        unkept: None,
        probation: Duration::ZERO,
    };
    orders.send(Order::Born(born)).unwrap();
    desk.obey();
    (desk, orders, Endpoint::new(theirs).unwrap())
}

/// A client whose request waits, and the server's end of its connection.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    (client, listener.accept().unwrap().0)
}

fn rescued() -> ToDispatcher {
    ToDispatcher::Rescued {
        listener: 0,
        strikes: 0,
        begun: true,
        repeatable: true,
    }
}

fn done(saved: u32, lost: u32, unnoted: &[u64]) -> ToDispatcher {
    ToDispatcher::Done {
        saved,
        lost,
        unnoted: unnoted.to_vec(),
    }
}

/// It accepts on the listener, and a connection is passed to it: the worker's copy.
async fn pass(desk: &Rc<Desk>, orders: &mpsc::Sender<Order>, line: &Endpoint, connection: Connection) -> OwnedFd {
    desk.books
        .borrow_mut()
        .open(&key(), for_listener(RoundRobin::default()));
    let accepts = Order::Accepts {
        worker: id(),
        key: key(),
    };
    orders.send(accepts).unwrap();
    desk.obey();
    let waiting = Waiting {
        connection,
        client: Client::default(),
        strikes: 0,
        fail: None,
        since: clock::now(),
    };
    desk.books.borrow_mut().arrive(&key(), waiting);
    desk.settle();
    line.recv::<ToServer>().await.unwrap().fd.unwrap()
}

fn died(orders: &mpsc::Sender<Order>) {
    let died = Order::Died {
        worker: id(),
        is_suspect: false,
    };
    orders.send(died).unwrap();
}

/// Until the line has heard everything: its other end is closed, so its task ends, the only other holder of the desk.
async fn heard(desk: &Rc<Desk>, line: Endpoint) {
    drop(line);
    let all = async {
        while Rc::strong_count(desk) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("the line ends");
}

#[actix_rt::test]
async fn what_a_keeper_sends_while_its_workers_death_is_told_is_kept_to_the_last_connection() {
    let (desk, orders, line) = desk();
    let pairs: Vec<_> = (0..3).map(|_| connection()).collect();
    for (_, server) in &pairs {
        line.send(&rescued(), Some(server.as_fd())).unwrap();
    }
    line.send(&done(3, 0, &[]), None).unwrap();
    // Told before the line was looked at, heard when it is.
    died(&orders);
    heard(&desk, line).await;
    assert_eq!(desk.books.borrow().waiting(), 3);
}

#[actix_rt::test]
async fn one_that_was_on_its_way_and_is_sent_by_the_keeper_waits_once() {
    let (desk, orders, line) = desk();
    let (_client, server) = connection();
    let taken = pass(&desk, &orders, &line, Connection::fresh(server.into())).await;
    line.send(&rescued(), Some(taken.as_fd())).unwrap();
    line.send(&done(1, 0, &[]), None).unwrap();
    died(&orders);
    heard(&desk, line).await;
    assert_eq!(desk.books.borrow().waiting(), 1);
}

/// Killed after it had given the connection to the master, and before it had closed its own descriptor.
#[actix_rt::test]
async fn one_that_was_given_back_and_is_sent_by_the_keeper_waits_once() {
    let (desk, orders, line) = desk();
    let (_client, server) = connection();
    let back = ToDispatcher::Back { key: key(), strikes: 0 };
    line.send(&back, Some(server.as_fd())).unwrap();
    line.send(&rescued(), Some(server.as_fd())).unwrap();
    line.send(&done(1, 0, &[]), None).unwrap();
    died(&orders);
    heard(&desk, line).await;
    assert_eq!(desk.books.borrow().waiting(), 1);
}

/// The worker was killed between taking it over and noting it: to its keeper it is one in the middle of something.
#[actix_rt::test]
async fn one_that_its_keeper_gave_up_and_the_master_still_has_is_not_lost() {
    let (desk, orders, line) = desk();
    let (_client, mut server) = connection();
    server.read_exact(&mut [0; 4]).unwrap();
    let cookie = cookie(server.as_fd()).unwrap();
    let taken = pass(&desk, &orders, &line, Connection::used(server.into())).await;
    drop(taken);
    line.send(&done(0, 2, &[cookie]), None).unwrap();
    died(&orders);
    let tally = Arc::clone(&desk.tally);
    heard(&desk, line).await;
    assert_eq!(desk.books.borrow().waiting(), 1);
    assert_eq!(tally.lost.get(), 1, "the other one");
}

#[actix_rt::test]
async fn absurd_numbers_of_a_worker_are_no_harm() {
    let (desk, orders, line) = desk();
    for _ in 0..2 {
        line.send(&done(u32::MAX, u32::MAX, &[]), None).unwrap();
    }
    died(&orders);
    heard(&desk, line).await;
    assert_eq!(desk.books.borrow().waiting(), 0);
}
