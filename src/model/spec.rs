//! What can be wrong with a spec: its description, or its start.

use super::{Exit, Slot, SpecName, WorkerId};

/// A description of workers that cannot be. Nothing has happened yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SpecFault {
    /// It has no name.
    #[error("its name is empty; give it one")]
    NoName,
    /// Its name is too long for logs and lists.
    #[error("its name is longer than 64 bytes; choose a shorter one")]
    LongName,
    /// Its name would break lines.
    #[error("its name has control characters; choose a printable one")]
    UnprintableName,
    /// Another spec of the same change has its name.
    #[error("it is named twice in one change; name it once")]
    NamedTwice,
    /// It wants more workers than a spec may have.
    #[error("it wants more than 10000 workers; ask for fewer")]
    TooManyWorkers,
    /// OTP's rule: what is always restarted never ends, so its end cannot mean anything.
    #[error("a permanent worker is always restarted, so its end cannot be significant; make it transient or temporary")]
    SignificantPermanent,
    /// OTP's rule: significance needs a cluster that cares.
    #[error("nothing follows from a significant worker's end; set `auto_shutdown` to any or all")]
    SignificantForNothing,
    /// In no time at all nothing can be too often.
    #[error("the period of its restart intensity is zero; give it a length")]
    NoPeriod,
    /// A worker that is too old at once is replaced for ever.
    #[error("its `max_age` is zero; give it a length, or none")]
    NoAge,
    /// More standbys than ever end at one time.
    #[error("it wants more than 64 standby workers; ask for fewer")]
    TooManyStandbys,
    /// A standby that is too old at once is replaced for ever.
    #[error("its `standby_age` is zero; give it a length, or none")]
    NoStandbyAge,
    /// Nobody could tell when such a standby has booted, nor give it a slot.
    #[error(
        "its program does not speak to the master (`ReadyWhen::Spawned`), or is a cluster itself, so it cannot stand by;              leave `standby` out"
    )]
    StandbyUnheard,
    /// What belongs to a slot goes to a standby in one message.
    #[error(
        "its workers get more than 64 listeners, which is more than a standby can take over; choose some with `listeners`, or \
             leave `standby` out"
    )]
    StandbyListeners,
    /// A worker that has no time never gets ready.
    #[error("its boot limit is 0, so no worker ever gets ready; give it more, or leave it out")]
    NoBootTime,
    /// Longer than anybody would wait for a stop.
    #[error("its lame-duck time is more than one hour; give it less")]
    LongLameDuck,
    /// Too small to hold anything, or too large to be read at once.
    #[error("its flight recorder has another size than 4 KiB to 256 KiB, or 0 for none")]
    FlightRecorder,
    /// A worker's process looks for its function in the builder's description, where there is none of this spec.
    #[error("its worker function is not known to the builder, which is where its workers would look for it")]
    UnknownFunction,
    /// Neither the builder nor the spec has a worker function or a program.
    #[error("it has nothing to run; give it a program with `exec`")]
    NothingToRun,
    /// Its program has no name.
    #[error("its program is an empty path; name one, or none for this program")]
    NoProgram,
    /// The kernel takes no argument with a zero byte.
    #[error("one of its arguments holds a zero byte")]
    BadArgument,
    /// The kernel takes no such variable.
    #[error("one of its environment variables has an empty name, or one with `=` or a zero byte")]
    BadVariable,
}

/// Why a spec could not be started: the first of its workers that failed before it was ready. Nothing of it runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {worker} in {slot}: {exit}{}", said.as_ref().map(|said| format!(": {said}")).unwrap_or_default())]
#[non_exhaustive]
pub struct StartError {
    /// The spec.
    pub spec: SpecName,
    /// The place that was to be filled.
    pub slot: Slot,
    /// The worker that failed.
    pub worker: WorkerId,
    /// How it ended; [`ExitReason::SpawnFailed`](crate::ExitReason::SpawnFailed) if it never began.
    pub exit: Exit,
    /// What it said itself about its failure, if it did.
    pub said: Option<String>,
}
