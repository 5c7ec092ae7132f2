//! The life of a worker process: take over the channel, run the user's future, drain, end.

use std::sync::OnceLock;
use std::time::Duration;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use actix_rt::System;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cluster::WorkerMain;
use crate::config::Config;
use crate::error::RunError;
use crate::ipc::{CallReply, Channel, Decoder, Incoming, PROTOCOL, ReadOutcome, ToMaster, ToWorker};
use crate::model::{FlightPhase, Message, Reply, bounded, exit_code};
use crate::process::{Contract, Readiness};
use crate::sys::boot;
use crate::worker::context::Worker;
use crate::worker::handover;
use crate::worker::heartbeat;
use crate::worker::listeners::{Change, Listeners};
use crate::worker::parting::Main;

/// Runs the worker on a `System` of its own, and ends the process.
pub(crate) fn run<T>(contract: &'static Contract, config: &Config, main: Option<WorkerMain>) -> Result<T, RunError> {
    System::new().block_on(run_here(contract, config, main))
}

/// Runs the worker on the `System` of this thread, and ends the process.
pub(crate) async fn run_here<T>(
    contract: &'static Contract,
    config: &Config,
    main: Option<WorkerMain>,
) -> Result<T, RunError> {
    let main = main.ok_or_else(|| RunError::Contract("this program has no worker function".to_owned()))?;
    let worker = attach(contract, contract.orphan_grace)?;
    if config.exit_on_panic {
        exit_on_panic();
    }
    actix_rt::spawn(listen_to_signals(worker.clone()));
    let mut running = actix_rt::spawn(Main::new(worker.clone(), main(worker.clone())));
    let result = tokio::select! {
        result = &mut running => Some(result),
        () = worker.inner.gate.abandoned() => None,
    };
    worker.inner.parting.end();
    let code = match result {
        None => {
            running.abort();
            worker.leave();
            exit_code::SUCCESS
        }
        Some(Ok(Ok(()))) => {
            worker.leave();
            exit_code::SUCCESS
        }
        Some(Ok(Err(text))) => {
            worker.tell(&ToMaster::Failed(bounded(text)));
            exit_code::FAILED
        }
        Some(Err(error)) if error.is_panic() => {
            worker.tell(&ToMaster::Failed(bounded(format!("panicked: {error}"))));
            exit_code::PANICKED
        }
        // The task was cancelled: the runtime is being torn down around us.
        Some(Err(_)) => exit_code::FAILED,
    };
    worker.enter(FlightPhase::Ending);
    worker.inner.shutdown.start();
    worker.inner.connections.idle().await;
    for cleanup in worker.take_cleanup() {
        cleanup().await;
    }
    worker.inner.counters.drain();
    worker.tell(&ToMaster::Stats(worker.inner.counters.snapshot()));
    end(code)
}

/// Takes over the channel and says hello. From here on this process obeys its master, and does not outlive it by more
/// than `orphan_grace`.
pub(crate) fn attach(contract: &'static Contract, orphan_grace: Duration) -> Result<Worker, RunError> {
    let broken = |what: &str| RunError::Contract(what.to_owned());
    if contract.protocol != PROTOCOL {
        let theirs = contract.protocol;
        return Err(broken(&format!(
            "the master speaks version {theirs} of the protocol, this program version {PROTOCOL}"
        )));
    }
    let socket = contract
        .take_channel()
        .ok_or_else(|| broken("the channel's descriptor is not open"))?;
    let channel = Arc::new(Channel::new(socket).map_err(|source| RunError::Io {
        what: "register the channel with the runtime",
        source,
    })?);
    let (inbox, messages) = mpsc::channel(INBOX);
    let worker = Worker::new(contract, channel, Listeners::declared(contract), messages);
    lifeline(&worker, orphan_grace);
    LAST_WORDS.set(worker.clone()).ok();
    boot::at_exit(say_last_words);
    actix_rt::spawn(read(worker.clone(), inbox));
    actix_rt::spawn(write(worker.clone()));
    if let Some(socket) = &worker.inner.handover {
        actix_rt::spawn(handover::serve(worker.clone(), Arc::clone(socket)));
    }
    actix_rt::spawn(report(worker.clone()));
    actix_rt::spawn(stop_in_time(worker.clone()));
    worker.tell(&ToMaster::Online {
        protocol: PROTOCOL,
        pid: std::process::id(),
    });
    if contract.ready == Readiness::Online {
        // Nothing that its future does makes it any readier.
        worker.stands_by();
    }
    heartbeat::begin(&worker);
    Ok(worker)
}

/// Ends the process; what was sent is delivered by the exit handler.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a worker's process ends here and nowhere else"
)]
pub(crate) fn end(code: i32) -> ! {
    std::process::exit(code)
}

/// The worker of this process, for the exit handler.
static LAST_WORDS: OnceLock<Worker> = OnceLock::new();

/// Runs at `exit`, also when user code calls it: hands what was sent to the kernel, which keeps it for the master.
extern "C" fn say_last_words() {
    if let Some(worker) = LAST_WORDS.get() {
        worker.flush(LAST_WORDS_LIMIT);
    }
}

/// Reads the channel until the master is gone.
async fn read(worker: Worker, inbox: mpsc::Sender<Message>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    loop {
        let outcome = worker.inner.channel.read_batch(&mut decoder, &mut frames).await;
        for incoming in frames.drain(..) {
            receive(&worker, &inbox, incoming).await;
        }
        match outcome {
            Ok(ReadOutcome::Frames) => tokio::task::yield_now().await,
            Ok(ReadOutcome::Closed) => break,
            Err(err) => {
                tracing::error!(%err, "the channel to the master broke");
                break;
            }
        }
    }
    // End-of-file means that the master is gone, or that it wants no more of us: drain briefly, then end. The lifeline
    // thread enforces the limit, also when this thread is stuck.
    worker.disconnected();
    worker.inner.shutdown.start();
}

async fn receive(worker: &Worker, inbox: &mpsc::Sender<Message>, incoming: Incoming<ToWorker>) {
    let Incoming {
        frame,
        mut fds,
        fds_lost,
    } = incoming;
    match frame {
        ToWorker::Stop { lame_duck_ms, .. } => worker.wind_down(Duration::from_millis(lame_duck_ms)),
        ToWorker::Activate(activation) => worker.activate(activation, fds).await,
        ToWorker::Bound { id, answer } => {
            if let Some(key) = worker.inner.listeners.bound(id, answer, fds.pop()) {
                worker.tell(&ToMaster::Release { key });
            }
        }
        ToWorker::Adopt { key, slot } => {
            // A lost descriptor leaves the queue to its slot's next worker.
            if let Some(fd) = fds.pop() {
                worker.inner.listeners.change(&key, Change::Adopt(slot, fd)).await;
            }
        }
        ToWorker::Unadopt { key, slot } => worker.inner.listeners.change(&key, Change::Unadopt(slot)).await,
        ToWorker::Message(payload) => {
            keep(worker, inbox, Message::new(payload, None, fds).with_lost_fds(fds_lost)).await
        }
        ToWorker::Call { id, payload } => {
            let reply = Reply::new(Box::new(CallReply::<ToMaster>::new(worker.inner.outbox.clone(), id)));
            keep(
                worker,
                inbox,
                Message::new(payload, Some(reply), fds).with_lost_fds(fds_lost),
            )
            .await;
        }
        ToWorker::Reply { id, answer } => {
            let answer = answer.map(|payload| Message::new(payload, None, fds).with_lost_fds(fds_lost));
            worker.inner.calls.complete(id, answer);
        }
    }
}

/// Keeps a message for its reader. If there is a slow one, the channel waits for it; if nobody ever asked for messages,
/// what no longer fits is dropped, so that the master's orders behind it are still read.
async fn keep(worker: &Worker, inbox: &mpsc::Sender<Message>, message: Message) {
    let Err(mpsc::error::TrySendError::Full(message)) = inbox.try_send(message) else {
        return;
    };
    if worker.has_reader() {
        // An error means that the reader is gone, and with it the wish for messages.
        inbox.send(message).await.ok();
    } else {
        tracing::warn!(
            limit = INBOX,
            "message of the master dropped: nobody reads messages in this worker"
        );
    }
}

async fn write(worker: Worker) {
    if let Err(err) = worker.inner.channel.write_loop(&worker.inner.outbox).await {
        tracing::debug!(%err, "channel no longer writable");
    }
}

/// Tells the master the counters when they have changed, at most once in a while.
async fn report(worker: Worker) {
    loop {
        worker.inner.counters.changed().await;
        worker.tell(&ToMaster::Stats(worker.inner.counters.snapshot()));
        let period = if worker.inner.shutdown.is_started() {
            STATS_PERIOD_DRAINING
        } else {
            STATS_PERIOD
        };
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = worker.inner.shutdown.started(), if !worker.inner.shutdown.is_started() => {}
        }
    }
}

/// Ends the lame-duck time, and tells the master when the drain begins and with how many requests.
async fn stop_in_time(worker: Worker) {
    let shutdown = &worker.inner.shutdown;
    tokio::select! {
        () = shutdown.start_in_time() => {}
        () = shutdown.started() => {}
    }
    worker.inner.counters.drain();
    worker.enter(FlightPhase::Draining);
    worker.tell(&ToMaster::Stats(worker.inner.counters.snapshot()));
}

/// `TERM` and `INT` ask this worker to end in order; the second one ends its lame-duck time.
async fn listen_to_signals(worker: Worker) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("no signal handler could be installed: SIGTERM ends this worker at once");
        return;
    };
    let mut is_first = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        worker.disconnect();
        if !std::mem::replace(&mut is_first, false) {
            worker.inner.shutdown.start();
        }
    }
}

/// Starts the thread that ends this process when the master is gone, even if the main thread is stuck.
///
/// A parent-death signal would not do: it leaves no time to drain. Until here there was one.
fn lifeline(worker: &Worker, grace: Duration) {
    let channel = Arc::clone(&worker.inner.channel);
    let thread = std::thread::Builder::new()
        .name("lifeline".to_owned())
        .stack_size(LIFELINE_STACK);
    let started = thread.spawn(move || {
        wait_for_hang_up(channel.as_fd());
        // Nothing wakes this: it is the time the main thread gets to drain.
        std::thread::park_timeout(grace);
        boot::exit_now(exit_code::SUCCESS)
    });
    match started {
        Ok(_) => boot::outlive_the_master(),
        Err(err) => tracing::error!(%err, "no lifeline thread: this worker dies with its master, without draining"),
    }
}

fn wait_for_hang_up(channel: BorrowedFd<'_>) {
    loop {
        // Hang-up is told without being asked for: it comes when the other end is closed or shut down.
        let mut fds = [PollFd::new(channel, PollFlags::empty())];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[0].any().unwrap_or(true) => return,
            // Interrupted, or nothing to see: again.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Ends the process when any thread or task panics.
fn exit_on_panic() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        previous(panic);
        if let Some(worker) = LAST_WORDS.get() {
            worker.tell(&ToMaster::Failed(bounded(panic.to_string())));
        }
        end(exit_code::PANICKED)
    }));
}

/// What a worker's future may end with.
pub trait WorkerOutput {
    /// The error, if any, as text.
    ///
    /// # Errors
    /// The worker failed; the text goes to the master and the worker ends with code 1.
    fn into_result(self) -> Result<(), String>;
}

impl WorkerOutput for () {
    fn into_result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: std::fmt::Display> WorkerOutput for Result<(), E> {
    fn into_result(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// Messages of the master that wait for user code.
const INBOX: usize = 1024;
/// How long the end of the process waits for a master that does not read.
const LAST_WORDS_LIMIT: Duration = Duration::from_millis(250);
/// Counters are told at most this often, and only when they have changed.
const STATS_PERIOD: Duration = Duration::from_secs(1);
/// While draining, the master wants to know how many requests a kill would cut.
const STATS_PERIOD_DRAINING: Duration = Duration::from_millis(100);
/// The lifeline only polls and sleeps.
const LIFELINE_STACK: usize = 64 * 1024;
