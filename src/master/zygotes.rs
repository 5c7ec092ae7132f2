//! The zygotes of this master: one for each generation, arguments and environment of workers that are to be made by one.
//!
//! Not here: how one is asked (`process/zygote.rs`), and when a worker is started. A zygote is never waited for twice: the first
//! of its kind may load while its first worker waits, a later one is used when it is ready, and until then workers are executed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use actix::prelude::*;

use crate::master::ClusterSupervisor;
use crate::model::{Generation, Phase, Program, Settings, SpawnFailure, SpawnMethod};
use crate::policy::{Backoff, SplitMix64};
use crate::process::{self, ProcessHandle, Trouble, Zygote};

/// All of them, the most recently used last.
#[derive(Debug, Default)]
pub(crate) struct Zygotes {
    kinds: Vec<Kind>,
    /// How many were started.
    started: u64,
}

/// The zygotes of one kind of worker, one after the other.
#[derive(Debug)]
struct Kind {
    generation: Generation,
    /// Of these only arguments and environment count.
    settings: Settings,
    /// The number of the last one started.
    number: u64,
    state: State,
    is_watched: bool,
    /// How many in a row made no worker.
    failures: u32,
}

#[derive(Debug)]
enum State {
    /// There is one; the first of its kind may be waited for.
    Lives(Zygote),
    /// It could not be started, or is gone.
    Lost,
    /// The next one is started after a while.
    Awaits,
    /// No zygote can be made of this program.
    Never,
}

/// Tells the supervisor that the zygote of this number has ended.
pub(crate) struct ZygoteEnded(u64);

impl Message for ZygoteEnded {
    type Result = ();
}

/// What is to be done about the zygote of this number.
#[derive(Debug)]
enum Care {
    /// Wait for its end, and bury it.
    Watch(u64, ProcessHandle),
    /// Start the next one after this time.
    Again(u64, Duration),
}

impl Zygotes {
    /// The zygote that is to make a worker of these settings, if one is.
    pub(crate) fn offer(
        &mut self,
        generation: Generation,
        settings: &Settings,
        slot_env: &[(OsString, OsString)],
        start: impl FnOnce() -> Result<Zygote, SpawnFailure>,
    ) -> Option<&mut Zygote> {
        match settings.spawn {
            SpawnMethod::Exec => return None,
            SpawnMethod::Zygote => {}
        }
        if settings.exec != Program::Same || slot_env.iter().any(|(name, _)| is_for_the_loader(name)) {
            return None;
        }
        let known = self.kinds.iter().position(|kind| kind.is(generation, settings));
        let mut kind = known.map_or_else(|| Kind::new(generation, settings), |at| self.kinds.remove(at));
        let is_first = known.is_none();
        if is_first {
            kind.begin(&mut self.started, start());
        }
        if self.kinds.len() >= KINDS_MAX {
            self.kinds.remove(0);
        }
        self.kinds.push(kind);
        match &mut self.kinds.last_mut()?.state {
            State::Lives(zygote) => (is_first || zygote.is_ready()).then_some(zygote),
            State::Lost | State::Awaits | State::Never => None,
        }
    }

    /// Looks at each of them, after one was asked or has `ended`.
    fn tend(&mut self, ended: Option<u64>) -> Vec<Care> {
        let mut cares = Vec::new();
        for kind in &mut self.kinds {
            if let State::Lives(zygote) = &kind.state
                && !std::mem::replace(&mut kind.is_watched, true)
            {
                cares.push(Care::Watch(kind.number, zygote.process().clone()));
            }
            kind.judge(ended == Some(kind.number));
            if matches!(kind.state, State::Lost) {
                cares.push(Care::Again(kind.number, kind.await_next()));
            }
        }
        cares
    }

    /// It has had its time to load. What it says of itself is judged when it is tended next.
    fn look_whether_it_is_ready(&mut self, number: u64) {
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.number == number)
            && let State::Lives(zygote) = &mut kind.state
            && !zygote.is_ready()
            && zygote.trouble().is_none()
        {
            tracing::warn!("a zygote is not ready in time, and is ended");
            kind.state = State::Lost;
        }
    }

    /// Nobody will be started in this generation any more.
    pub(crate) fn remove(&mut self, generation: Generation) {
        self.kinds.retain(|kind| kind.generation != generation);
    }

    /// Ends all of them and buries them, at the end of the cluster: whoever runs on after that has no child of ours left.
    pub(crate) fn end(&mut self) {
        let kinds = std::mem::take(&mut self.kinds);
        let processes: Vec<_> = kinds.iter().filter_map(Kind::process).cloned().collect();
        // Each is killed when it is dropped.
        drop(kinds);
        for process in processes {
            if process.ended_within(END) {
                process.reap(false);
            }
        }
    }
}

impl Kind {
    fn new(generation: Generation, settings: &Settings) -> Self {
        Self {
            generation,
            settings: settings.clone(),
            number: 0,
            state: State::Awaits,
            is_watched: false,
            failures: 0,
        }
    }

    fn is(&self, generation: Generation, settings: &Settings) -> bool {
        self.generation == generation && self.settings.args == settings.args && self.settings.env == settings.env
    }

    fn begin(&mut self, started: &mut u64, zygote: Result<Zygote, SpawnFailure>) {
        *started += 1;
        self.number = *started;
        self.is_watched = false;
        self.state = match zygote {
            Ok(zygote) => State::Lives(zygote),
            Err(err) => {
                tracing::warn!(%err, "no zygote could be started: workers are executed");
                State::Lost
            }
        };
    }

    fn judge(&mut self, has_ended: bool) {
        let State::Lives(zygote) = &mut self.state else { return };
        if has_ended {
            // It may have said why.
            zygote.is_ready();
        }
        if zygote.has_worked() {
            self.failures = 0;
        }
        let ended = || Trouble::Lost("it has ended".to_owned());
        match zygote.trouble().cloned().or_else(|| has_ended.then(ended)) {
            None => {}
            Some(Trouble::Lost(err)) => {
                tracing::warn!(%err, "a zygote is lost: workers are executed until there is another one");
                self.state = State::Lost;
            }
            Some(Trouble::Unfit(err)) => {
                tracing::warn!(%err, "this program cannot be a zygote: its workers are executed");
                self.state = State::Never;
            }
        }
    }

    /// How long until the next one.
    fn await_next(&mut self) -> Duration {
        self.state = State::Awaits;
        self.failures = self.failures.saturating_add(1);
        Backoff::default().delay(self.failures, &mut SplitMix64::new(self.number))
    }

    const fn process(&self) -> Option<&ProcessHandle> {
        match &self.state {
            State::Lives(zygote) => Some(zygote.process()),
            State::Lost | State::Awaits | State::Never => None,
        }
    }
}

impl ClusterSupervisor {
    /// Does what is to be done about the zygotes, after one was asked or has ended.
    pub(super) fn tend_zygotes(&mut self, ended: Option<u64>, ctx: &mut Context<Self>) {
        for care in self.zygotes.tend(ended) {
            match care {
                Care::Watch(number, process) => {
                    actix_rt::spawn(bury(process, number, ctx.address()));
                    ctx.run_later(process::zygote_start_limit(), move |supervisor, ctx| {
                        supervisor.zygotes.look_whether_it_is_ready(number);
                        supervisor.tend_zygotes(None, ctx);
                    });
                }
                Care::Again(number, delay) => {
                    ctx.run_later(delay, move |supervisor, ctx| supervisor.start_zygote_again(number, ctx));
                }
            }
        }
    }

    fn start_zygote_again(&mut self, number: u64, ctx: &mut Context<Self>) {
        let is_over = matches!(self.machine().phase(), Phase::ShuttingDown | Phase::Stopped);
        let Zygotes { kinds, started } = &mut self.zygotes;
        // Nobody needs it any more if it is not found: its generation is gone.
        if let Some(kind) = kinds.iter_mut().find(|kind| kind.number == number).filter(|_| !is_over) {
            let image = self.images.own(kind.generation);
            let zygote = image.and_then(|image| Zygote::start(&kind.settings, image, &self.config.args));
            kind.begin(started, zygote);
        }
        self.tend_zygotes(None, ctx);
    }
}

impl Handler<ZygoteEnded> for ClusterSupervisor {
    type Result = ();

    fn handle(&mut self, ZygoteEnded(number): ZygoteEnded, ctx: &mut Self::Context) {
        self.tend_zygotes(Some(number), ctx);
    }
}

/// It alone: a worker that it has just made is in its group until it leads one itself.
async fn bury(process: ProcessHandle, number: u64, supervisor: Addr<ClusterSupervisor>) {
    process.exited().await;
    process.reap(false);
    // A supervisor that is gone needs none.
    supervisor.send(ZygoteEnded(number)).await.ok();
}

/// Does it act on a program while that is loaded? A zygote is loaded already.
fn is_for_the_loader(name: &OsString) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"LD_") || name.starts_with(b"MALLOC_") || name == b"GLIBC_TUNABLES"
}

/// Different arguments and environments at the same time; beyond that, the one used longest ago ends.
const KINDS_MAX: usize = 16;
/// How long the kernel may take to end one at the end of the cluster.
const END: Duration = Duration::from_millis(100);

#[cfg(test)]
#[path = "zygotes_tests.rs"]
mod tests;
