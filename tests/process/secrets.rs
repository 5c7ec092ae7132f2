//! What the workers of a listener share and nobody else sees.

use std::process::ExitCode;

use actix_cluster::{CallError, ListenError, Worker, WorkerSpec};
use actix_cluster_tests::limit;
use actix_cluster_tests::master::{Master, SOON, send};
use actix_cluster_tests::probe::{self, Care, Order};
use actix_cluster_tests::scenario::Scenario;
use nix::sys::signal::Signal;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "n_099_the_first_worker_that_offers_a_secret_gives_it_to_all_later_ones",
        app: four,
        check: |master| {
            master.expect_ready();
            let secret = shared_by(master, 1);
            for worker in 2..=4 {
                assert_eq!(shared_by(master, worker), secret);
            }
            let offered = [1, 2, 3, 4].map(|worker| master.expect_ever_of(worker, "ready").pid());
            assert!(offered.contains(&secret), "it is one of theirs: {offered:?}, {secret}");
            // All the same for the successor of one that was killed, and for another generation.
            send(offered[0], Signal::SIGKILL);
            master.expect_ever_of(5, "ready");
            assert_eq!(shared_by(master, 5), secret);
            master.ask(&Order::Reload(Care::default()), "reloaded 1");
            for worker in 6..=9 {
                assert_eq!(shared_by(master, worker), secret);
            }
            let text = MARK.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let seen =
                ["fork", "online", "listening", "ready", "message", "error", "exit"].map(|kind| master.seen(kind));
            let shown = format!("{}{}{seen:?}", master.log(), master.snapshot());
            assert!(!shown.contains(&text) && !shown.contains(std::str::from_utf8(MARK).expect("ASCII")));
        },
    },
    Scenario {
        name: "n_099_a_secret_is_for_those_that_get_the_listener",
        app: || {
            let stranger = WorkerSpec::new("stranger", 1).listeners(["other"]).worker(is_refused);
            let cluster = probe::cluster()
                .listen("tls", "127.0.0.1:0")
                .listen("other", "127.0.0.1:0");
            cluster.worker(share).spec(stranger).main()
        },
        check: |master| {
            master.expect_ready();
            master.hears("tls: refused: the workers of spec stranger do not get this listener");
            master.hears("none: refused: there is no listener none");
            master.hears("empty: the message cannot be sent: a secret has 1 to 4096 bytes");
            master.hears("other: kept");
            master.hears("at run time: kept");
        },
    },
];

fn four() -> ExitCode {
    probe::cluster()
        .workers(4)
        .listen("tls", "127.0.0.1:0")
        .worker(share)
        .main()
}

/// Offers a secret in which its process id is, and tells whose it got.
async fn share(worker: Worker) -> Result<(), ListenError> {
    let mut offered = MARK.to_vec();
    offered.extend(worker.pid().to_le_bytes());
    let got = worker.shared_secret("tls", &offered, limit(SOON)).await;
    let got = got.expect("the master answers");
    let (mark, pid) = got.split_at(MARK.len());
    assert_eq!(mark, MARK);
    let pid = u32::from_le_bytes(pid.try_into().expect("four bytes follow"));
    probe::say(&format!("{} shares {pid}", worker.id()));
    let _listener = worker.listener("tls")?;
    probe::idle(&worker).await;
    Ok(())
}

async fn is_refused(worker: Worker) -> Result<(), ListenError> {
    let told = |what: &str, got: Result<Vec<u8>, CallError>| {
        let told = got.map_or_else(|error| error.to_string(), |_| "kept".to_owned());
        probe::say(&format!("{what}: {told}"));
    };
    told("tls", worker.shared_secret("tls", b"x", limit(SOON)).await);
    told("none", worker.shared_secret("none", b"x", limit(SOON)).await);
    told("empty", worker.shared_secret("other", b"", limit(SOON)).await);
    let longest = [7; 4096];
    let first = worker.shared_secret("other", &longest, limit(SOON)).await;
    assert!(first.as_ref().is_ok_and(|secret| *secret == longest));
    let listener = worker.socket("other")?;
    let same = listener.shared_secret(b"something else", limit(SOON)).await;
    told(
        "other",
        same.map(|got| if got == longest { got } else { panic!("another one") }),
    );
    let asked = worker.bind("127.0.0.1:0").await?;
    told("at run time", asked.shared_secret(b"x", limit(SOON)).await);
    worker.ready();
    listener.incoming()?.serve_with(|_| async {}).await;
    Ok(())
}

/// The process id of the worker whose secret this one got.
fn shared_by(master: &Master, worker: u64) -> u32 {
    let text = format!("{worker} shares ");
    master.until(&text, |master| !master.said(&text).is_empty());
    let (pid, _) = &master.said(&text)[0];
    pid.parse().expect("a process id")
}

/// The beginning of every secret: it must turn up nowhere.
const MARK: &[u8] = b"ticket-keys-are-nobodys-business";
