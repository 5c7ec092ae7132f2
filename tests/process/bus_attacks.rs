//! Many subscribers at once, made where a bus could stumble over them: inside of handlers, while it delivers. Single ones
//! that misbehave are in `bus`.

use std::process::ExitCode;

use actix::prelude::*;
use actix_cluster::{
    ClusterEvent, ClusterHandle, EventKind, RestartDelay, RestartLimit, SubscribeOptions, Subscription, Worker,
};
use actix_cluster_tests::leftovers::rss_kib;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "i_26_a_hundred_subscriptions_made_inside_handlers_hear_everything_although_every_tenth_panics",
    app: hundred,
    check: |master| {
        master.hears("a hundred subscribe");
        let kill = |master: &mut Master, worker: u64| {
            master.once(worker, "ready");
            master.order(&Order::Kill(worker, Signal::SIGKILL as i32));
            master.once(worker, "exit");
        };
        kill(master, 1);
        let lost = master.expect_count("subscriber_lost", 10);
        // Only now: who prints the backtraces of ten panics loads what the compiler tells of the program.
        let before = rss_kib(master.pid()).expect("it lives");
        for worker in 3..=11 {
            kill(master, worker);
        }
        master.once(12, "ready");
        let after = rss_kib(master.pid()).expect("it lives");
        assert!(after < before + 10_000, "{before} KiB, then {after} KiB");
        assert!(
            lost.iter().all(|seen| seen.data()["why"]["broken"]["seq"].is_u64()),
            "{lost:?}"
        );
        master.signal(Signal::SIGTERM);
        assert_eq!(master.wait().code(), Some(0));
        let heard = master.said("heard without a gap ");
        assert_eq!(heard.len(), 90);
        assert!(heard.iter().all(|(exits, _)| exits == "10"), "{heard:?}");
        assert_eq!(master.seen("subscriber_lost").len(), 10);
    },
}];

/// The first events bring a hundred more subscribers, all on one thread.
fn hundred() -> ExitCode {
    let cluster = probe::cluster().workers(2).restart_delay(RestartDelay::AtOnce);
    let cluster = cluster.restart_limit(RestartLimit::unlimited());
    let cluster = cluster.worker(|worker: Worker| async move { probe::idle(&worker).await });
    let breeder = |cluster| Breeder { cluster, bred: 0 }.start();
    cluster.subscribe(breeder).main()
}

struct Breeder {
    cluster: ClusterHandle,
    bred: u32,
}

impl Actor for Breeder {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Breeder {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, _: &mut Self::Context) {
        if self.bred == 100 {
            return;
        }
        for _ in 0..25 {
            self.bred += 1;
            let (cluster, number) = (self.cluster.clone(), self.bred);
            Child::create(|ctx| {
                let options = SubscribeOptions::new().name(format!("child {number}"));
                let subscription = cluster.subscribe_with(ctx.address().recipient(), &options);
                Child {
                    panics: number.is_multiple_of(10),
                    last: subscription.since(),
                    exits: 0,
                    _subscription: subscription,
                }
            });
        }
        if self.bred == 100 {
            probe::say("a hundred subscribe");
        }
    }
}

/// Hears everything after the number at which it subscribed, unless it panics at the first event.
struct Child {
    panics: bool,
    last: u64,
    exits: u32,
    /// Ends with its owner.
    _subscription: Subscription,
}

impl Actor for Child {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Child {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        assert!(!self.panics, "asked to");
        assert_eq!(event.seq, self.last + 1);
        self.last = event.seq;
        match event.kind {
            EventKind::Exit(_) => self.exits += 1,
            EventKind::ShutdownStarted => probe::say(&format!("heard without a gap {}", self.exits)),
            _ => {}
        }
    }
}
