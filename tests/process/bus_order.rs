//! What every subscriber can rely on: one order, the state after the event, a snapshot that fits; and that supervision is
//! the same whoever listens. Subscribers that misbehave are in `bus`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::ExitCode;

use actix::prelude::*;
use actix_cluster::{
    ClusterBuilder, ClusterEvent, ClusterHandle, ClusterSnapshot, EventFilter, EventKind, Events, Kind, PlugInThread,
    RecycleReason, RestartLimit, SubscribeOptions, WhenFull, Worker, WorkerId, WorkerState,
};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::outside::wait_at_gate;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_162_i_25_a_snapshot_in_the_middle_of_a_storm_and_what_follows_fit_together",
        app: || four().on_event_with(quiet("storm"), storm_and_followers()).main(),
        check: |master| {
            // After a hundred deaths.
            master.until("the followers", |master| !master.said("followers agree: ").is_empty());
            let times: u32 = master.said("followers agree: ")[0].0.parse().expect("a number");
            assert!(times > 10, "{times}");
        },
    },
    Scenario {
        name: "f_164_f_165_i_27_one_order_for_all_and_the_state_is_the_one_after_the_event",
        app: || {
            let cluster = four().on_event(check_each("first")).on_event(check_each("second"));
            cluster.on_event_with(quiet("storm"), storm()).main()
        },
        check: |master| {
            master.until("the storm to be over", |master| master.seen("exit").len() >= DEATHS);
            master.signal(Signal::SIGTERM);
            assert_eq!(master.wait().code(), Some(0));
            let sums = [master.said("first: "), master.said("second: ")];
            assert_eq!((sums[0].len(), sums[1].len()), (1, 1), "{}", master.log());
            assert_eq!(sums[0][0].0, sums[1][0].0, "both saw the same in the same order");
            for worker in 1..=DEATHS as u64 {
                let life = master.life_of(worker);
                let of_life = |kind: &&String| ORDER.contains(&kind.as_str());
                let places = life
                    .iter()
                    .filter(of_life)
                    .map(|kind| ORDER.iter().position(|known| known == kind));
                assert!(places.is_sorted_by(|a, b| a < b), "worker {worker}: {life:?}");
            }
        },
    },
    Scenario {
        name: PLAIN,
        app: || four().main(),
        check: |master| assert_eq!(supervised(master).len(), 10),
    },
    Scenario {
        name: "i_26_hostile_subscribers_change_nothing_in_the_life_of_any_worker",
        app: hostile,
        check: |master| {
            master.expect_count("subscriber_lost", 2);
            let with = supervised(master);
            let mut plain = Master::start(PLAIN);
            let without = supervised(&mut plain);
            plain.finish();
            assert_eq!(with, without);
        },
    },
    Scenario {
        name: "f_162_late_comers_get_the_last_events_first",
        app: || {
            four()
                .event_history(HISTORY as usize)
                .on_event_with(quiet("late"), late_comer())
                .main()
        },
        check: |master| {
            master.hears("replayed in order, then the new ones");
        },
    },
];

const PLAIN: &str = "i_26_a_trace_without_subscribers";
/// Steps of a worker's life, in their order.
const ORDER: [&str; 6] = ["fork", "online", "listening", "ready", "disconnect", "exit"];
/// How many workers a storm kills.
const DEATHS: usize = 100;
const HISTORY: u64 = 5;

fn four() -> ClusterBuilder {
    let cluster = probe::cluster().workers(4).restart_limit(RestartLimit::unlimited());
    cluster.worker(|worker: Worker| async move { probe::idle(&worker).await })
}

fn quiet(name: &str) -> SubscribeOptions {
    SubscribeOptions::lifecycle().name(name)
}

/// Kills each worker that comes online, until enough have died.
fn storm() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send {
    let mut killed = 0;
    move |event, cluster| {
        if let (EventKind::Online, Some(worker)) = (&event.kind, &event.worker)
            && killed < DEATHS
        {
            killed += 1;
            let (cluster, id) = (cluster.clone(), worker.id);
            let kill = async move { drop(cluster.kill(id, actix_cluster::Signal::KILL).await) };
            actix_rt::spawn(kill);
        }
    }
}

/// A storm, and beside it a follower that comes again and again, and carries each snapshot on for some events; it must
/// see the end of the storm as the handle shows it.
fn storm_and_followers() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send {
    let (mut storm, mut begun) = (storm(), false);
    move |event, cluster| {
        storm(event, cluster);
        if std::mem::replace(&mut begun, true) {
            return;
        }
        let cluster = cluster.clone();
        let follow = async move {
            for count in 1.. {
                let (snapshot, events) = cluster.follow(&SubscribeOptions::new()).await.expect("it runs");
                if carry_on(snapshot, events, &cluster).await {
                    return probe::say(&format!("followers agree: {count}"));
                }
            }
        };
        // On a thread of its own, to come at any moment of a turn of the supervisor.
        Arbiter::new().spawn(follow);
    }
}

/// Folds events over a snapshot, some or until the storm is over: what an event says is never in the snapshot already,
/// and what it is about is always known. Is it over?
async fn carry_on(snapshot: ClusterSnapshot, mut events: Events, cluster: &ClusterHandle) -> bool {
    assert_eq!(snapshot.seq, events.since());
    let mut last = snapshot.seq;
    let workers = snapshot.workers.iter();
    let mut alive: BTreeMap<WorkerId, (WorkerState, bool)> = workers
        .map(|worker| (worker.id, (worker.state, worker.ready)))
        .collect();
    for _ in 0..5 {
        let newest = alive.keys().next_back().map_or(0, |id| id.get());
        if newest == (DEATHS + 4) as u64 && alive.len() == 4 && alive.values().all(|(_, is_ready)| *is_ready) {
            let now: Vec<WorkerId> = cluster.snapshot().workers.iter().map(|worker| worker.id).collect();
            assert_eq!(alive.into_keys().collect::<Vec<_>>(), now);
            return true;
        }
        let event = events.next().await.expect("the storm is not over");
        assert_eq!(event.seq, last + 1, "no gap, no double");
        last = event.seq;
        let Some(worker) = event.worker else { continue };
        let known = alive.get_mut(&worker.id);
        match (&event.kind, known) {
            (EventKind::Fork, None) => drop(alive.insert(worker.id, (WorkerState::Created, false))),
            (EventKind::Fork, Some(known)) => panic!("{}: forked twice, {known:?}", worker.id),
            (EventKind::Exit(_), Some(_)) => drop(alive.remove(&worker.id)),
            (EventKind::Ready, Some((_, is_ready))) => assert!(!std::mem::replace(is_ready, true), "ready twice"),
            (_, Some((state, _))) => {
                assert!(*state < worker.state, "{}: {:?} in {state:?}", worker.id, event.kind);
                *state = worker.state;
            }
            (kind, None) => panic!("{kind:?} of {}, whom nobody knows", worker.id),
        }
    }
    false
}

/// Looks at the state in each event, and says at the end what came in which order, as one number.
fn check_each(name: &'static str) -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send {
    let (mut last, mut hash) = (0, DefaultHasher::new());
    move |event, cluster| {
        if event.seq != last + 1 {
            probe::say(&format!("{name} misses what is after {last}"));
        }
        last = event.seq;
        (event.seq, event.kind.name()).hash(&mut hash);
        let is_new = cluster.snapshot().seq >= event.seq;
        let is_after = event.worker.as_ref().is_none_or(|told| {
            let shown = cluster.worker(told.id).map(|worker| worker.state());
            match event.kind {
                EventKind::Exit(_) => shown.is_none(),
                _ => shown.is_none_or(|shown| shown >= told.state),
            }
        });
        if !is_new || !is_after {
            probe::say(&format!("{name}: an old state at {}", event.seq));
            return;
        }
        if matches!(event.kind, EventKind::ShutdownStarted) {
            probe::say(&format!("{name}: {:x} of {last}", hash.finish()));
        }
    }
}

/// Gives the same orders each time, each when the one before has had its effect; what every worker lived through.
fn supervised(master: &mut Master) -> BTreeMap<u64, Vec<String>> {
    master.until("four workers", |master| master.seen("ready").len() >= 4);
    master.order(&Order::Kill(1, Signal::SIGKILL as i32));
    master.sees(5, "ready");
    master.order(&Order::Recycle(2, "for a change".to_owned()));
    master.sees(2, "exit");
    master.order(&Order::Restart(3));
    master.sees(7, "ready");
    master.order(&Order::Disconnect(4));
    master.sees(4, "exit");
    master.order(&Order::Scale(6));
    master.sees(10, "ready");
    master.sees(9, "ready");
    master.sees(8, "ready");
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
    let mut lives: BTreeMap<u64, Vec<String>> = (1..=10).map(|worker| (worker, master.life_of(worker))).collect();
    for exit in master.seen("exit") {
        let how = format!("{} {:?} {:?}", exit.reason(), exit.signal(), exit.code());
        lives.entry(exit.worker()).or_default().push(how);
    }
    lives
}

/// Every bad subscriber at once.
fn hostile() -> ExitCode {
    let mut cluster = four();
    for number in 0..100 {
        let when_full = match number % 3 {
            0 => WhenFull::DropOldest,
            1 => WhenFull::Latest,
            _ => WhenFull::HoldBack,
        };
        let options = SubscribeOptions::new()
            .capacity(1)
            .when_full(when_full)
            .thread(PlugInThread::Own);
        let stuck = move |_: &ClusterEvent, _: &ClusterHandle| wait_at_gate("never");
        // Some of them never get a thread, so to say: their queues fill and nobody takes.
        if number < 10 {
            cluster = cluster.on_event_with(options.clone(), stuck);
        } else {
            cluster = cluster.subscribe_with(options.thread(PlugInThread::Shared), |cluster| {
                Grabber { cluster }.start()
            });
        }
    }
    cluster
        .on_event(|_, _| panic!("asked to"))
        .subscribe(|_| Hopeless.start())
        .subscribe_with(SubscribeOptions::messages(), |_| -> Addr<Hopeless> {
            panic!("asked to")
        })
        .main()
}

/// Panics at once.
struct Hopeless;

impl Actor for Hopeless {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Hopeless {
    type Result = ();

    fn handle(&mut self, _: ClusterEvent, _: &mut Self::Context) {
        panic!("asked to");
    }
}

/// Subscribes itself once more now and then, and asks for more than there is.
struct Grabber {
    cluster: ClusterHandle,
}

impl Actor for Grabber {
    type Context = Context<Self>;
}

impl Handler<ClusterEvent> for Grabber {
    type Result = ();

    fn handle(&mut self, event: ClusterEvent, ctx: &mut Self::Context) {
        if matches!(event.kind, EventKind::Online) {
            let only = EventFilter::kinds([Kind::Exit, Kind::Lagged]);
            let more = self
                .cluster
                .subscribe_with(ctx.address().recipient(), &SubscribeOptions::new().filter(only));
            if event.seq.is_multiple_of(2) {
                more.end();
            }
            let cluster = self.cluster.clone();
            actix_rt::spawn(async move {
                let nobody = cluster.recycle(WorkerId::new(u64::MAX), RecycleReason::Age).await;
                assert!(nobody.is_err());
            });
        }
    }
}

/// Comes when all are ready, and looks at what was before and what is after.
fn late_comer() -> impl FnMut(&ClusterEvent, &ClusterHandle) + Send {
    let mut came = false;
    move |event, cluster| {
        if came || !matches!(event.kind, EventKind::AllReady { .. }) {
            return;
        }
        came = true;
        let cluster = cluster.clone();
        actix_rt::spawn(async move {
            let options = SubscribeOptions::new().replay(100);
            let (snapshot, mut events) = cluster.follow(&options).await.expect("it runs");
            cluster.scale(5).await.expect("it runs");
            let first = snapshot.seq - (HISTORY - 1);
            for seq in first..=snapshot.seq + 3 {
                assert_eq!(events.next().await.expect("it runs").seq, seq);
            }
            probe::say("replayed in order, then the new ones");
        });
    }
}
