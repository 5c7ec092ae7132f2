//! Panics in workers: a worker ends, or goes on whole; it is never half dead.

use std::process::ExitCode;

use actix_cluster::{RestartType, WhenEmpty, Worker};
use actix_cluster_tests::master::Master;
use actix_cluster_tests::probe::{self, Order};
use actix_cluster_tests::scenario::Scenario;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "f_013_with_exit_on_panic_every_panic_ends_the_worker_with_code_101",
        app: || app(true),
        check: |master| {
            for place in ["future", "task", "thread", "listener"] {
                let worker = fork(master, place);
                assert_eq!(ends(master, worker), (Some(101), None), "{place}");
                assert!(failure(master, worker).contains("boom"), "the master is told why");
            }
        },
    },
    Scenario {
        name: "f_013_without_it_a_task_or_thread_ends_alone_and_the_worker_is_whole",
        app: || app(false),
        check: |master| {
            let worker = fork(master, "future");
            assert_eq!(ends(master, worker), (Some(101), None));
            assert!(failure(master, worker).contains("boom"));
            for place in ["task", "thread", "listener"] {
                let worker = fork(master, place);
                master.expect_said("panicked");
                // Whole: it answers its calls and stops when it is asked.
                assert_eq!(
                    master.ask(&Order::Call(worker, "alive?".to_owned()), "answer "),
                    "\"yes\""
                );
                master.order(&Order::Disconnect(worker));
                assert_eq!(ends(master, worker), (Some(0), None), "{place}");
            }
        },
    },
    Scenario {
        name: "f_013_a_panic_while_panicking_aborts",
        app: || app(false),
        check: |master| {
            let worker = fork(master, "drop");
            assert_eq!(ends(master, worker), (None, Some(6)));
        },
    },
];

fn fork(master: &mut Master, place: &str) -> u64 {
    let env = vec![(PLACE_VAR.to_owned(), place.to_owned())];
    let id = master.ask(&Order::Fork(env), "forked ");
    id.parse().expect("an id is a number")
}

fn ends(master: &Master, worker: u64) -> (Option<i64>, Option<i64>) {
    let exit = master.expect_of(worker, "exit");
    (exit.code(), exit.signal())
}

fn failure(master: &Master, worker: u64) -> String {
    let errors = master.seen("error");
    let own = errors.iter().find(|error| error.worker() == worker);
    own.map(|error| error.data().to_string()).unwrap_or_default()
}

fn app(exit_on_panic: bool) -> ExitCode {
    let cluster = probe::cluster().workers(0).when_empty(WhenEmpty::Wait);
    let cluster = cluster.restart(RestartType::Temporary).exit_on_panic(exit_on_panic);
    cluster.worker(panic_somewhere).main()
}

async fn panic_somewhere(worker: Worker) {
    // No core file in the tests' folder.
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    nix::sys::resource::setrlimit(core, 0, 0).expect("a limit can be lowered");
    match std::env::var(PLACE_VAR).unwrap_or_default().as_str() {
        "future" => boom(),
        "task" => told(actix_rt::spawn(async { boom() }).await.is_err()),
        "thread" => told(std::thread::spawn(boom).join().is_err()),
        "listener" => {
            let bind = worker.bind("127.0.0.1:0").await.expect("a free port");
            let address = bind.address().socket_addr().expect("a TCP address");
            actix_rt::spawn(
                bind.incoming()
                    .expect("a TCP listener")
                    .serve_with(|_| async { boom() }),
            );
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
            // The connection ends with its task.
            told(
                tokio::io::AsyncReadExt::read(&mut stream, &mut [0])
                    .await
                    .is_ok_and(|read| read == 0),
            );
        }
        "drop" => {
            let _late = PanicsWhenDropped;
            boom();
        }
        other => panic!("no such place: {other}"),
    }
    let mut messages = worker.messages().expect("nobody took them before");
    let shutdown = worker.shutdown().clone();
    while let Some(message) = tokio::select! {
        message = messages.next() => message,
        () = shutdown.started() => None,
    } {
        let reply = message.reply().expect("a call waits for its answer");
        reply.ok(&"yes").expect("the channel takes a word");
    }
}

fn boom() {
    panic!("boom");
}

fn told(panicked: bool) {
    assert!(panicked);
    probe::say("panicked");
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("boom while dropping");
    }
}

const PLACE_VAR: &str = "TEST_PANIC_PLACE";
