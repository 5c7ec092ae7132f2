//! What a worker prints on a piped stream, on its way to the `WorkerActor`.
//!
//! The stream is always read, whoever is stuck elsewhere: a worker must not hang in `write` because nobody wants its lines
//! (F-226). What it prints above its rate is read, counted and dropped (F-230).

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use actix::Addr;

use crate::clock;
use crate::master::messages::Happening;
use crate::master::worker_actor::WorkerActor;
use crate::model::{Mono, OutputStream};
use crate::policy::OutputRate;
use crate::process::{Lines, ProcessHandle};

/// One piped stream of a worker.
pub(crate) struct Printed {
    stream: OutputStream,
    lines: Lines,
    /// Of the worker: both streams draw on it.
    rate: Rc<RefCell<OutputRate>>,
    dropped: Dropped,
}

/// What was dropped and not told yet.
#[derive(Clone, Copy, Debug)]
struct Dropped {
    lines: u64,
    bytes: u64,
    /// When it was told last.
    told: Mono,
}

impl Printed {
    pub(crate) fn new(stream: OutputStream, lines: Lines, rate: &Rc<RefCell<OutputRate>>) -> Self {
        let dropped = Dropped {
            lines: 0,
            bytes: 0,
            told: Mono::default(),
        };
        Self {
            stream,
            lines,
            rate: Rc::clone(rate),
            dropped,
        }
    }

    /// Passes the lines on until the stream ends. After the process's death only what is in the pipe counts: a grandchild
    /// may hold the other end for ever.
    ///
    /// The `WorkerActor` is gone only when the cluster is being torn down; then nobody is left to be told.
    pub(crate) async fn copy(mut self, worker: Addr<WorkerActor>, process: ProcessHandle) {
        let mut exited = pin!(process.exited());
        let ended = loop {
            // Lines that are dropped wait for nothing: others of this thread must have their turn all the same.
            tokio::task::coop::consume_budget().await;
            let line = tokio::select! {
                biased;
                // First: who holds the other end may have a line at any time.
                _ = exited.as_mut() => break false,
                line = self.lines.next() => line,
                () = actix_rt::time::sleep(self.dropped.until_told()), if self.dropped.lines > 0 => {
                    self.tell(&worker).await;
                    continue;
                }
            };
            let Some(line) = line else { break true };
            self.pass(line, &worker).await;
            if !worker.connected() {
                return;
            }
        };
        if !ended {
            for line in self.lines.drain_now() {
                self.pass(line, &worker).await;
            }
        }
        self.tell(&worker).await;
    }

    async fn pass(&mut self, line: String, worker: &Addr<WorkerActor>) {
        let (now, bytes) = (clock::now(), line.len() as u64);
        // With its end.
        if self.rate.borrow_mut().allows(bytes + 1, now) {
            worker.send(Happening::Line(self.stream, line)).await.ok();
            return;
        }
        self.dropped.lines += 1;
        self.dropped.bytes += bytes;
        if now.since(self.dropped.told) >= TOLD_EVERY {
            self.tell(worker).await;
        }
    }

    async fn tell(&mut self, worker: &Addr<WorkerActor>) {
        let Dropped { lines, bytes, .. } = self.dropped;
        if lines > 0 {
            self.dropped = Dropped {
                lines: 0,
                bytes: 0,
                told: clock::now(),
            };
            worker
                .send(Happening::LinesDropped(self.stream, lines, bytes))
                .await
                .ok();
        }
    }
}

impl Dropped {
    fn until_told(self) -> Duration {
        clock::now().until(self.told + TOLD_EVERY)
    }
}

/// How often the loss of lines is told, at most.
const TOLD_EVERY: Duration = Duration::from_secs(1);
