//! A worker on strings: it does what the test's messages say, one after the other, and says what came of each.
//!
//! An answer begins with the worker's id, so that the test can tell one puppet's answers from another's. Not here: the
//! assertions, and behaviour that only one scenario needs.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::task::Poll;

use actix_cluster::{BoundAddress, ListenError, ListenOptions, Listener, Messages, Scheduling, Worker};
use actix_rt::task::JoinHandle;
use tokio::io::AsyncWriteExt;

use crate::master::Master;
use crate::probe::{self, Order};

/// Sends `text` to the puppet `worker`, and waits for its answer.
pub fn tell(master: &mut Master, worker: u64, text: &str) -> String {
    master.order(&Order::Send(worker, text.to_owned()));
    master.expect_said(&format!("{worker} "))
}

/// The address in an answer to `bind` or `own`.
///
/// # Panics
/// If it was refused, or is no TCP address.
#[must_use]
pub fn bound(answer: &str) -> SocketAddr {
    let parts: Vec<&str> = answer.split(' ').collect();
    match parts[..] {
        ["bound", _, address] => address.parse().expect("a TCP address is bound"),
        _ => panic!("not bound: {answer}"),
    }
}

/// The worker's function. Its texts are read from `Puppet::obey` below.
///
/// # Errors
/// The text of the order `fail`.
pub async fn run(worker: Worker) -> Result<(), String> {
    let messages = worker.messages().expect("a puppet alone reads its messages");
    let mut puppet = Puppet {
        worker,
        messages,
        heard: 0,
        held: BTreeMap::new(),
        last: 0,
    };
    loop {
        tokio::select! {
            message = puppet.messages.next() => match message {
                Some(message) => {
                    puppet.heard += 1;
                    let text: String = message.parse().expect("a puppet is told texts");
                    puppet.obey(&text).await?;
                }
                None => puppet.worker.shutdown().started().await,
            },
            () = puppet.worker.shutdown().started() => {}
        }
        if puppet.worker.shutdown().is_started() {
            puppet.say(&format!("stops, connected {}", puppet.worker.is_connected()));
            return Ok(());
        }
    }
}

struct Puppet {
    worker: Worker,
    messages: Messages,
    heard: usize,
    held: BTreeMap<usize, Held>,
    last: usize,
}

/// A listener in the puppet's hand.
enum Held {
    Idle(Listener),
    Serving(JoinHandle<()>),
    Own(TcpListener),
}

impl Puppet {
    async fn obey(&mut self, text: &str) -> Result<(), String> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let answer = match verb {
            "echo" => rest.to_owned(),
            "heard" => format!("heard {}, others {}", self.heard, self.worker.messages().is_some()),
            "connected" => self.worker.is_connected().to_string(),
            "args" => std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            "cwd" => std::env::current_dir().map_or_else(|error| error.to_string(), |path| path.display().to_string()),
            "env" => std::env::var(rest).unwrap_or_else(|_| "unset".to_owned()),
            // A long value itself would be a line that another process's can tear.
            "env-bytes" => std::env::var(rest).map_or(0, |value| value.len()).to_string(),
            "send" => format!("{:?}", self.worker.send(rest)),
            "grandchild" => grandchild(rest),
            "fail" => return Err(rest.to_owned()),
            "panic" => panic!("{rest}"),
            "close-channel" => {
                self.worker.close_channel();
                "closed the channel".to_owned()
            }
            "linger" => {
                self.say("lingers");
                // Whoever is told to stop meanwhile stops later.
                match self.messages.next().await {
                    Some(_) => "goes on".to_owned(),
                    None => std::future::pending().await,
                }
            }
            "abandon" => {
                let mut bind = Box::pin(self.worker.bind(rest));
                // Polled once, so that the request is under way.
                std::future::poll_fn(|cx| Poll::Ready(bind.as_mut().poll(cx).is_ready())).await;
                "abandoned".to_owned()
            }
            "bind" | "bind-shared" | "bind-per-worker" | "bind-round-robin" | "bind-v6only" | "bind-0777"
            | "bind-rr" | "bind-rr-v6only" => self.bind(verb, rest).await,
            "own" => self.own(rest),
            "serve" => self.serve(rest),
            "close" => self.close(rest).await,
            _ => format!("does not know how to {verb}"),
        };
        self.say(&answer);
        Ok(())
    }

    fn say(&self, what: &str) {
        probe::say(&format!("{} {what}", self.worker.id()));
    }

    fn hold(&mut self, held: Held) -> usize {
        self.last += 1;
        self.held.insert(self.last, held);
        self.last
    }

    fn take(&mut self, number: &str) -> Held {
        let number = number.parse().expect("listeners have numbers");
        self.held.remove(&number).expect("the test knows what the puppet holds")
    }

    async fn bind(&mut self, verb: &str, address: &str) -> String {
        let mut options = ListenOptions::default();
        match verb {
            "bind-shared" => options.scheduling = Some(Scheduling::Shared),
            "bind-per-worker" => options.scheduling = Some(Scheduling::PerWorker),
            "bind-round-robin" => options.scheduling = Some(Scheduling::RoundRobin),
            "bind-v6only" => options.ipv6_only = true,
            "bind-rr" => options.scheduling = Some(Scheduling::RoundRobin),
            "bind-rr-v6only" => {
                options.scheduling = Some(Scheduling::RoundRobin);
                options.ipv6_only = true;
            }
            "bind-0777" => options.mode = Some(0o777),
            _ => {}
        }
        match self.worker.bind_with(address, options).await {
            Ok(listener) => {
                let address = listener.address().to_string();
                format!("bound {} {address}", self.hold(Held::Idle(listener)))
            }
            Err(ListenError { errno, detail, .. }) => format!("refused {} {detail}", errno.unwrap_or(0)),
        }
    }

    /// An exclusive listener: this process's own, of which the master is only told.
    fn own(&mut self, address: &str) -> String {
        match TcpListener::bind(address) {
            Ok(listener) => {
                let address = listener.local_addr().expect("a bound socket has an address");
                self.worker.listening(BoundAddress::tcp(address));
                format!("bound {} {address}", self.hold(Held::Own(listener)))
            }
            Err(error) => format!("refused {} {error}", error.raw_os_error().unwrap_or(0)),
        }
    }

    /// Every client is told the worker's id and let go.
    fn serve(&mut self, number: &str) -> String {
        let Held::Idle(listener) = self.take(number) else {
            return "serves already".to_owned();
        };
        let id = self.worker.id();
        let incoming = listener.incoming().expect("a listener can be accepted on");
        let served = incoming.serve_with(move |mut client| async move {
            // A client may have gone away.
            client.write_all(format!("{id}\n").as_bytes()).await.ok();
        });
        format!("serves {}", self.hold(Held::Serving(actix_rt::spawn(served))))
    }

    async fn close(&mut self, number: &str) -> String {
        match self.take(number) {
            Held::Idle(listener) => drop(listener),
            Held::Own(listener) => drop(listener),
            Held::Serving(task) => {
                task.abort();
                // Cancelled, and thus dropped.
                task.await.ok();
            }
        }
        format!("closed {number}")
    }
}

/// Does another program, started by this worker in the ordinary way, find the variable `name`?
fn grandchild(name: &str) -> String {
    let output = std::process::Command::new("/usr/bin/env").output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let has = |name: &str| text.lines().any(|line| line.starts_with(&format!("{name}=")));
    format!("grandchild sees {name}: {}, PATH: {}", has(name), has("PATH"))
}
