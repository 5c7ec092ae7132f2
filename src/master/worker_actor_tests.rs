//! That a worker's end is told, whoever is busy.

use std::os::unix::net::UnixStream;
use std::process::Command;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::ipc::{Calls, Limits};
use crate::model::{Exit, Generation, Slot, WorkerId};
use crate::policy::ReadyWhen;
use crate::supervision::LifecycleConfig;

/// In the supervisor's place.
struct Ear(mpsc::UnboundedSender<Exit>);

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<Reports> for Ear {
    type Result = ();

    fn handle(&mut self, Reports { reports, .. }: Reports, _: &mut Self::Context) {
        for report in reports {
            if let Report::Fact(News {
                fact: Fact::Exited(exit),
                ..
            }) = report
            {
                self.0.send(exit).unwrap();
            }
        }
    }
}

/// The worker of this process.
fn newborn(process: &std::process::Child, channel: UnixStream) -> Newborn {
    let process = ProcessHandle::watch(i32::try_from(process.id()).unwrap()).unwrap();
    channel.set_nonblocking(true).unwrap();
    let (id, slot) = (WorkerId::new(1), Slot::new("web", 0));
    let outbox = Outbox::new(Limits::default());
    let link = Link::new(id, slot, Generation(0), process.pid(), 0, outbox, Calls::new());
    let lifecycle = LifecycleConfig {
        ready_when: ReadyWhen::Called,
        boot: Duration::MAX,
        more_time: Duration::ZERO,
        ask: Duration::MAX,
        shutdown: ShutdownPolicy::Brutal,
        is_standby: false,
        lame_duck: Duration::ZERO,
    };
    Newborn {
        link: Arc::new(link),
        lifecycle: Lifecycle::new(lifecycle, clock::now()),
        channel: Arc::new(Channel::new(channel.into()).unwrap()),
        process,
        handover: None,
        outputs: Vec::new(),
        kill_tree: false,
        heartbeat: None,
        grace_ms: 0,
    }
}

#[actix_rt::test]
#[expect(clippy::zombie_processes, reason = "the worker's own watch reaps it")]
async fn an_end_is_told_though_the_supervisor_has_no_room_at_that_moment() {
    let ear = Context::<Ear>::new();
    let address = ear.address();
    let nothing = || Reports {
        worker: WorkerId::new(9),
        reports: Vec::new(),
    };
    while address.try_send(nothing()).is_ok() {}
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = Command::new("true").spawn().unwrap();
    let newborn = newborn(&process, ours);
    let subscribers = Arc::new(Subscribers::new(0));
    let worker = WorkerActor::new(newborn, address.recipient(), subscribers).run();
    // It closes the channel when it hears of the death, and reports in the same turn.
    theirs.set_nonblocking(true).unwrap();
    let mut theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
    let end = timeout(LIMIT, tokio::io::AsyncReadExt::read(&mut theirs, &mut [0])).await;
    assert_eq!(end.unwrap().unwrap(), 0);
    let (told, mut exits) = mpsc::unbounded_channel();
    actix_rt::spawn(ear.into_future(Ear(told)));
    let exit = timeout(LIMIT, exits.recv()).await.expect("the exit is told").unwrap();
    assert_eq!(exit.status.code(), Some(0));
    // And then it is gone itself.
    let gone = async {
        while worker.connected() {
            actix_rt::task::yield_now().await;
        }
    };
    timeout(LIMIT, gone).await.expect("its actor stops");
}

const LIMIT: Duration = Duration::from_secs(10);
