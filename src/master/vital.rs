//! What supervision cannot do without: a panic in it ends the process.
//!
//! A runtime catches the panic of a task and carries on without it. Without one of these tasks the master would look
//! alive and supervise nothing, or wait for ever for the exit of one worker. An abort is honest: every channel closes, so
//! the workers drain and end by themselves, and whoever supervises the master starts it anew.
//!
//! Not here: plug-ins and user code, whose panics are their own affair.

use std::future::{Future, poll_fn};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

use actix::{Actor, Context};

/// Runs an actor whose panic ends the process.
pub(crate) fn run<A: Actor<Context = Context<A>>>(what: &'static str, context: Context<A>, actor: A) {
    actix_rt::spawn(vital(what, context.into_future(actor)));
}

/// `part`, whose panic ends the process.
pub(crate) async fn vital(what: &'static str, part: impl Future<Output = ()>) {
    let mut part = pin!(part);
    // Unwind safety is of no concern: nobody looks at what the panic left behind.
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| part.as_mut().poll(context))).unwrap_or_else(|_| abort_without(what))
    })
    .await;
}

/// The panic itself was told by the panic hook. Not through `tracing`: that may be what panicked.
fn abort_without(what: &str) -> ! {
    writeln!(
        std::io::stderr(),
        "actix-cluster: {what} panicked, and a cluster cannot be supervised without it: aborting; the workers end"
    )
    .ok();
    std::process::abort()
}
