//! A cluster under a `HealthMonitor` with short limits, and a worker whose loops get stuck in every way when it is told to.
//!
//! Not here: the assertions.

use std::path::Path;
use std::time::Duration;

use actix_cluster::{ClusterBuilder, EventKind, RestartLimit, Worker};
use actix_cluster_actors::{HealthConfig, HealthMonitor};
use nix::sys::socket::{MsgFlags, send};

use crate::master::Master;
use crate::probe::{self, Order};
use crate::{Deadline, limit};

/// How often workers beat.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// How often the monitor looks.
pub const CHECK: Duration = Duration::from_millis(200);
/// How long a worker may be silent.
pub const STALE: Duration = Duration::from_millis(800);
/// From the last sign of life to `SIGKILL`, at most.
pub const HANG: Duration = Duration::from_millis(800 + 3 * 200 + 100);

/// The guide's limits, shortened, and stretched like every limit.
pub fn config() -> HealthConfig {
    HealthConfig::new()
        .interval(limit(INTERVAL))
        .check(limit(CHECK))
        .stale_after(limit(STALE))
}

/// Adds a monitor to the cluster. Whenever somebody is unwell or well again, and when all are ready, `health …` is said
/// with what a probe would be told.
///
/// # Panics
/// If the limits contradict each other.
pub fn monitored(config: HealthConfig, cluster: ClusterBuilder) -> ClusterBuilder {
    let monitor = HealthMonitor::new(config).expect("the limits are valid");
    let view = monitor.view();
    let tell = move |event: &actix_cluster::ClusterEvent, _: &actix_cluster::ClusterHandle| {
        if matches!(
            event.kind,
            EventKind::Unhealthy(_) | EventKind::Recovered | EventKind::AllReady { .. }
        ) {
            let health = serde_json::to_string(&view.cluster()).expect("it has a JSON form");
            probe::say(&format!("health {health}"));
        }
    };
    monitor.attach(cluster).on_event(tell)
}

/// [`config`] over workers that do as they are told, restarted as often as it takes.
pub fn cluster(workers: u32) -> ClusterBuilder {
    let cluster = probe::cluster()
        .workers(workers)
        .restart_limit(RestartLimit::unlimited());
    monitored(config(), cluster.worker(obedient))
}

/// Does what messages say, on the main loop: `spin`, `block` (both for ever), `block-until <file>`, `helper`
/// (blocks, while another thread goes on), `sync <ms>` (work on a thread for such), `more-time <ms>` (blocks, and asks for so
/// much again and again), `replay` (blocks, while another thread repeats heartbeats), `close` (its listener), `ping`.
/// It listens on `tcp` if that is declared.
pub async fn obedient(worker: Worker) {
    let mut listener = worker.incoming("tcp").ok();
    let mut messages = worker.messages().expect("nobody else reads them");
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = worker.shutdown().started() => None,
        };
        let Some(message) = message else { return };
        let text = probe::text_of(&message);
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        probe::say(&format!("{} does {verb}", worker.id()));
        match verb {
            "spin" => loop {
                std::hint::spin_loop();
            },
            "block" => park(),
            "block-until" => crate::outside::wait_for_file(rest),
            "helper" => {
                std::thread::spawn(|| {
                    while !Path::new("enough").exists() {
                        probe::say("helper lives");
                        std::thread::park_timeout(Duration::from_millis(50));
                    }
                });
                park();
            }
            "sync" => {
                let time = Duration::from_millis(rest.parse().expect("a number"));
                let work = move || crate::outside::let_pass(time);
                actix_rt::task::spawn_blocking(work).await.expect("it ends");
                probe::say("sync done");
            }
            "more-time" => {
                let time = Duration::from_millis(rest.parse().expect("a number"));
                loop {
                    worker.more_time(time);
                    std::thread::park_timeout(time / 4);
                }
            }
            "replay" => {
                std::thread::spawn(replay);
                park();
            }
            "close" => drop(listener.take()),
            "ping" => {}
            other => panic!("cannot {other}"),
        }
    }
}

/// In a worker: lets its loop turn for so long.
pub async fn live_for(time: Duration) {
    actix_rt::time::sleep(time).await;
}

/// Repeats a number that was heard, and tells others from the future. The library says nothing meanwhile: its loop is stuck.
fn replay() {
    loop {
        for n in [1_u64, 2, 1 << 40, u64::MAX] {
            let line = format!("{{\"t\":\"heartbeat\",\"m\":{{\"n\":{n}}}}}\n");
            // A channel that is full or closed is the end of the lie.
            send(CHANNEL, line.as_bytes(), MsgFlags::MSG_NOSIGNAL).ok();
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Tells a worker to do something, and waits until it begins.
pub fn tell(master: &mut Master, worker: u64, text: &str) {
    master.order(&Order::Send(worker, text.to_owned()));
    let verb = text.split(' ').next().unwrap_or_default();
    master.expect_said(&format!("{worker} does {verb}"));
}

/// Waits for the exit of a worker that hangs; says how long it took.
///
/// # Panics
/// If it is not the monitor's kill, or comes after the limit.
pub fn killed_in_time(master: &mut Master, worker: u64) -> Duration {
    let took = killed(master, worker);
    assert!(took <= limit(HANG + SLACK), "killed after {took:?}");
    took
}

/// [`killed_in_time`] without a judgement of the time.
///
/// # Panics
/// If it is not the monitor's kill.
pub fn killed(master: &mut Master, worker: u64) -> Duration {
    let whole = Duration::from_secs(3600);
    let begun = Deadline::after(whole);
    let exit = master.expect_of(worker, "exit");
    let took = whole - begun.remaining().unwrap_or_default();
    assert_eq!(exit.signal(), Some(9), "{:?}", exit.0);
    assert_eq!(exit.reason(), &serde_json::json!({"hang": "main"}));
    assert_eq!(exit.data()["forced"], true);
    took
}

/// What the machine may add.
pub const SLACK: Duration = Duration::from_millis(300);

/// The channel's number in every worker.
const CHANNEL: i32 = 3;
