//! Subscribers that misbehave: whatever they do, they do to themselves. Order and snapshots are in `bus_order`.

use std::process::ExitCode;
use std::time::Duration;

use actix::prelude::*;
use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, EventKind, RestartDelay, SubscribeOptions, Subscription, Worker,
};
use actix_cluster_tests::leftovers::rss_kib;
use actix_cluster_tests::master::Master;
use actix_cluster_tests::outside::{let_pass, wait_at_gate};
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_158_a_subscriber_that_panics_is_removed_and_named_and_nobody_else_notices",
        app: || {
            let first = SubscribeOptions::new().name("panics at once");
            let third = SubscribeOptions::new().name("panics at the third");
            two()
                .subscribe_with(first, |_| Panics { at: 1, seen: 0 }.start())
                .subscribe_with(third, |_| Panics { at: 3, seen: 0 }.start())
                .subscribe_with(SubscribeOptions::new().name("never starts"), start_that_panics)
                .subscribe(|_| Tail::default().start())
                .main()
        },
        check: |master| {
            master.expect_ready();
            let lost = master.expect_count("subscriber_lost", 3);
            let why = |name: &str| {
                let of_this = lost.iter().find(|seen| seen.data()["name"] == name);
                of_this.expect("each is named").data()["why"].clone()
            };
            assert_eq!(why("panics at once")["broken"]["seq"], 1);
            assert_eq!(why("panics at the third")["broken"]["seq"], 3);
            assert_eq!(why("never starts"), "not_started");
            still_supervised(master);
            // The others got every single event.
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            let told: u64 = master.said("no gap up to ")[0].0.parse().expect("a number");
            assert!(told > 10, "{told}");
        },
    },
    Scenario {
        name: "f_159_subscribers_that_block_their_threads_delay_nothing_and_nobody",
        app: || {
            let stuck = |_: &ClusterEvent, _: &ClusterHandle| wait_at_gate("never");
            let cluster = two().on_event(stuck).subscribe(|_| Stuck.start());
            cluster.on_event(|event, _| say_end(event)).main()
        },
        check: |master| {
            master.expect_ready();
            still_supervised(master);
            master.hears("end of 1");
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            assert_eq!(master.said("end of ").len(), 3);
        },
    },
    Scenario {
        name: "f_160_a_subscriber_that_is_slow_for_ever_is_told_what_it_missed_and_memory_is_flat",
        app: slow_for_ever,
        check: |master| {
            master.expect_said("the worker has said 20000");
            let before = rss_kib(master.pid()).expect("it lives");
            master.order(&Order::Send(1, "again".to_owned()));
            for said in [40_000, 60_000, 80_000] {
                master.expect_said(&format!("the worker has said {said}"));
                master.order(&Order::Send(1, "again".to_owned()));
            }
            let after = rss_kib(master.pid()).expect("it lives");
            // 60,000 messages of a KiB went by; a queue without a bound would have kept 60 MiB.
            assert!(after < before + 20_000, "{before} KiB, then {after} KiB");
            master.hears("lagged, and every number is accounted for");
        },
    },
    Scenario {
        name: "f_161_a_subscriber_that_stops_is_pruned_and_told",
        app: || {
            let brief = SubscribeOptions::new().name("brief");
            let cluster = two().subscribe_with(brief, |_| Brief.start());
            cluster.main()
        },
        check: |master| {
            let lost = master.expect("subscriber_lost");
            assert_eq!(
                (&lost.data()["name"], &lost.data()["why"]),
                (&"brief".into(), &"stopped".into())
            );
            still_supervised(master);
            assert_eq!(master.seen("subscriber_lost").len(), 1, "once and for all");
        },
    },
    Scenario {
        name: "f_163_a_handler_may_subscribe_unsubscribe_and_command",
        app: || two().subscribe(|cluster| Busy { cluster }.start()).main(),
        check: |master| {
            master.hears("scaled to 3");
            master.hears("reloaded");
            assert!(master.seen("subscriber_lost").is_empty());
            // The last command of it is the shutdown.
            assert_eq!(master.wait().code(), Some(0));
            // It ended its subscription in its first event, and there was no second.
            assert_eq!(master.count_said("heard one"), 1);
        },
    },
];

fn two() -> ClusterBuilder {
    let cluster = probe::cluster().workers(2).restart_delay(RestartDelay::AtOnce);
    cluster.worker(|worker: Worker| async move { probe::idle(&worker).await })
}

/// A killed worker is replaced.
fn still_supervised(master: &mut Master) {
    master.order(&Order::Kill(1, Signal::SIGKILL as i32));
    master.sees(1, "exit");
    master.sees(3, "ready");
}

fn say_end(event: &ClusterEvent) {
    if let (EventKind::Exit(_), Some(worker)) = (&event.kind, &event.worker) {
        probe::say(&format!("end of {}", worker.id));
    }
}

fn start_that_panics(_: ClusterHandle) -> Addr<Stuck> {
    panic!("asked to")
}

/// Panics at its event number `at`.
struct Panics {
    at: u32,
    seen: u32,
}

impl Actor for Panics {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Panics {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, _: &mut Self::Context) {
        self.seen += 1;
        assert_ne!(self.seen, self.at, "asked to");
    }
}

/// Says at the end up to which number it has heard everything.
#[derive(Default)]
struct Tail {
    last: u64,
}

impl Actor for Tail {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Tail {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        assert_eq!(event.seq, self.last + 1);
        self.last = event.seq;
        if matches!(event.kind, EventKind::ShutdownStarted) {
            probe::say(&format!("no gap up to {}", self.last));
        }
    }
}

/// Blocks its thread at the first event, for ever.
struct Stuck;

impl Actor for Stuck {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Stuck {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, _: &mut Self::Context) {
        wait_at_gate("never");
    }
}

/// Has enough at the first event.
struct Brief;

impl Actor for Brief {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Brief {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// One worker that talks, one subscriber that needs a while for each word, and one that counts.
fn slow_for_ever() -> ExitCode {
    let mut heard = 0;
    let count = move |_, _| {
        heard += 1;
        if heard % 20_000 == 0 {
            probe::say(&format!("the worker has said {heard}"));
        }
    };
    let (mut next, mut lagged) = (1, 0);
    let slow = move |event: &ClusterEvent, _: &ClusterHandle| {
        let first = match event.kind {
            EventKind::Lagged { from, .. } => {
                lagged += 1;
                from
            }
            _ => event.seq,
        };
        assert_eq!(first, next, "every number is an event or lies in a notice");
        next = event.seq + 1;
        if lagged == 3 {
            probe::say("lagged, and every number is accounted for");
        }
        let_pass(Duration::from_millis(1));
    };
    probe::cluster_showing(|event| !matches!(event.kind, EventKind::Message(_)))
        .on_message(count)
        .on_event_with(SubscribeOptions::new().name("slow").capacity(100), slow)
        .worker(talk)
        .main()
}

/// Says 20,000 words of a KiB, and again when asked.
async fn talk(worker: Worker) {
    let mut messages = worker.messages().expect("the messages have no owner yet");
    let word = "x".repeat(1_000);
    loop {
        let mut said = 0;
        while said < 20_000 {
            match worker.send(&word) {
                Ok(()) => said += 1,
                Err(error) if error.is_full() => actix_rt::task::yield_now().await,
                Err(_) => return,
            }
        }
        if messages.next().await.is_none() {
            return;
        }
    }
}

/// Does in its handlers whatever the handle allows.
struct Busy {
    cluster: ClusterHandle,
}

impl Actor for Busy {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Busy {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        let cluster = self.cluster.clone();
        match event.kind {
            EventKind::Setup(_) => {
                let once = Once {
                    cluster: cluster.clone(),
                    subscription: None,
                };
                once.start();
                actix_rt::spawn(async move {
                    let workers = cluster.scale(3).await.expect("it runs");
                    probe::say(&format!("scaled to {workers}"));
                    cluster.all_ready().await.expect("it runs");
                    cluster.reload().await.expect("the program is a good one");
                    probe::say("reloaded");
                });
            }
            EventKind::ReloadFinished { .. } => {
                actix_rt::spawn(async move { drop(cluster.shutdown().await) });
            }
            _ => {}
        }
    }
}

/// Wants one event and no more.
struct Once {
    cluster: ClusterHandle,
    subscription: Option<Subscription>,
}

impl Actor for Once {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.subscription = Some(self.cluster.subscribe(ctx.address().recipient()));
    }
}

impl Handler<ClusterEvent> for Once {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, _: &mut Self::Context) {
        let subscription = self.subscription.as_ref().expect("it has subscribed");
        assert!(event.seq > subscription.since() && subscription.is_running());
        subscription.end();
        assert!(!subscription.is_running());
        probe::say("heard one");
    }
}
