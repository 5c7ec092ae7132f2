//! The mutants: does the judge catch each of them, by the invariant that it is meant for?
//!
//! Not here: what a mutant does ([`super::mutants`]).

use super::history::{Trace, live_broken};
use super::plan::Plan;
use super::shrink::violation;

macro_rules! mutants {
    ($($name:ident: $rule:literal, $what:literal;)+) => {
        /// One way to be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Mutant {
            $(#[doc = $what] $name,)+
        }

        /// Each mutant, the invariant that must catch it, and what it breaks.
        const MUTANTS: &[(Mutant, &str, &str)] = &[$((Mutant::$name, $rule, $what),)+];
    };
}

mutants! {
    LimitPlusOne: "I-13", "a slot may restart once more";
    LimitMinusOne: "I-13", "a slot may restart once less";
    PeriodHalved: "I-13", "a slot's restarts are forgotten too soon";
    SpecIntensityPlusOne: "I-13", "a spec may restart once more";
    IntensityPlusOne: "I-13", "the cluster may restart once more";
    BaseHalved: "I-14", "delays are half as long";
    CapTooLow: "I-14", "delays do not grow";
    JitterTooWide: "I-14", "delays differ by a half";
    StableAtOnce: "I-14", "a short run ends a row of failures";
    NeverStable: "I-14", "no run ends a row of failures";
    DelayTold: "I-14", "another delay is told";
    PermanentIsNot: "I-15", "a permanent worker is not restarted";
    TemporaryIs: "I-15", "a temporary worker is restarted";
    VerdictLost: "I-15", "a restart is not told";
    GivesUpTwice: "I-15", "one end is judged twice";
    AllGoAlong: "I-15", "innocent workers are restarted too";
    OrderedIsCrash: "I-15", "an ordered end is called a crash";
    CrashIsOrdered: "I-15", "a crash is called an ordered end";
    HangIsCrash: "I-15", "who was ended for a hang is said to have crashed";
    ReconfiguresLimit: "I-13", "a new description brings a higher limit than it says";
    NobodyGoesAlong: "O-032", "the others of a group are spared";
    StopsEveryoneAtOnce: "O-085", "all specs are stopped at the same time";
    EndsForAnybody: "I-11", "anybody's end ends the cluster";
    ShutsDownUnasked: "I-11", "a shutdown begins by itself";
    SpawnsInShutdown: "I-11", "a worker is started in a shutdown";
    RestartsInShutdown: "I-11", "a restart is planned in a shutdown";
    OneMoreBoots: "I-30", "one worker too many boots";
    IgnoresShutdown: "I-12", "a shutdown is not heard";
    ForgetsOne: "I-12", "a worker is forgotten in a shutdown";
    FinishesEarly: "I-12", "the end is told while workers live";
    EndsWhenEmpty: "I-12", "an empty cluster ends, and should wait";
    GraceShortened: "I-10", "workers are given less time than they may take";
    StopsBrutally: "I-10", "workers are killed without grace";
    AsksThoughAtOnce: "I-12", "an immediate shutdown asks";
    BootLimitHalved: "I-10", "booting workers are killed too early";
    BootLimitGone: "I-10", "workers that never get ready are left alone";
    FaultGraceHalved: "I-10", "leaving workers are killed too early";
    KillsAtOnce: "I-10", "a worker is asked and killed in one";
    NeverKills: "I-10", "SIGKILL is never sent";
    KillsTwice: "I-10", "SIGKILL is sent twice";
    HidesUnkillable: "I-10", "nobody hears who outlives SIGKILL";
    LameDuckForgotten: "I-10", "the time as a lame duck comes out of the grace";
    MoreTimeRefused: "I-10", "who asks for more time to boot gets none";
    TerminatesTheReady: "I-10", "who gets ready is terminated";
    SignalsTheDead: "I-09", "a reaped process is signalled";
    StopsTheDead: "I-09", "a dead worker is stopped";
    ExitLost: "I-02", "an exit does not reach the cluster's machine";
    ExitUntold: "I-02", "an exit is not published";
    ExitFactLost: "I-02", "a process's machine does not tell its exit";
    ExitFactTwice: "I-02", "a process's machine tells its exit twice";
    ExitToldTwice: "I-03", "an exit is published twice";
    ReadyLost: "I-03", "a worker's ready is lost";
    ReadyOfAnother: "I-03", "a worker's ready is taken for another's";
    IdReused: "I-04", "an id is given twice";
    SpawnsTwo: "I-04", "two workers come to one slot";
    SpawnLost: "I-08", "a worker is kept that was never started";
    SpawnsElsewhere: "I-08", "a worker comes to another slot than is kept";
    SurgePlusOne: "I-01", "a reload starts one more besides";
    OldFirst: "I-20", "a reload stops the old worker first";
    UnavailablePlusOne: "I-20", "a reload stops one more in place";
    ProbationSkipped: "I-20", "a successor is trusted at once";
    CanaryTooMany: "I-20", "one more is replaced before the verdict";
    BadCanaryIsGood: "I-19", "a bad verdict is taken for a good one";
    FailureIsSuccess: "I-19", "a reload that turned back is called good";
    SuccessIsFailure: "I-19", "a reload that came through is called failed";
    OtherGeneration: "I-19", "a worker of no known generation is started";
    GoneTooEarly: "I-19", "a generation in use is released";
    AnswersTwice: "I-21", "one request is answered twice";
    ReloadsTwice: "I-21", "two reloads begin at once";
    AnswerLost: "I-38", "a request is never answered";
    AllReadyTooEarly: "I-27", "all are said to be ready when they are not";
    StartedTooEarly: "O-012", "a start is answered before everybody is ready";
    SpecLost: "O-074", "a spec goes for no reason";
    SpecKept: "O-074", "nobody is told that a spec is gone";
    StateBehind: "I-27", "a fact is told with the state before it";
    StopsTwice: "I-35", "a worker is stopped twice";
    AsksTwice: "I-35", "a worker is asked twice";
    ScalesOneMore: "I-35", "a scaling makes one more than asked";
    RecyclesTooSoon: "I-41", "a worker is recycled before its share of requests is served";
    RecyclesOneMoreInPlace: "I-41", "recycling stops one more in place";
    RecyclesTheDead: "I-41", "a dead worker is recycled";
    RecyclesTwoAtOnce: "I-41", "two are recycled at once";
    RecyclesOldFirst: "I-41", "recycling stops the old worker first";
    PromotesElsewhere: "I-08", "a standby comes to another slot than is kept";
    PromotesTheBooting: "I-40", "a standby is promoted before it has booted";
    StartsThoughOneStandsBy: "I-40", "a process is started though one stands by";
    StandbyUntold: "I-03", "nobody hears that a standby has booted";
    OneMoreStandsBy: "I-01", "one more stands by";
    NobodyStandsBy: "I-37", "nobody is started to stand by";
    ForgetsStandbys: "I-12", "standbys are forgotten in a shutdown";
    KeepsStandbys: "I-19", "standbys of an old generation are kept";
    DeafToTime: "I-45", "no timer ever fires";
    ReadyUntold: "I-37", "a process's machine never tells that it is ready";
}

/// Within how many histories.
const SEEDS: u64 = 1_000;

/// What the judge says of this history.
fn verdict(seed: u64, mutant: Option<Mutant>) -> Result<(), String> {
    violation(|| live_broken(Plan::new(seed), Trace::Off, mutant)).map(drop)
}

#[test]
fn mutants_are_all_caught() {
    let mut escaped = Vec::new();
    println!("| mutant | what is broken | caught by | seed |\n|---|---|---|---|");
    let mut last = 0;
    for (mutant, rule, what) in MUTANTS {
        let caught = (0..SEEDS).find_map(|seed| verdict(seed, Some(*mutant)).err().map(|text| (seed, text)));
        match caught {
            Some((seed, text)) if text.starts_with(&format!("{rule}:")) => {
                println!("| {mutant:?} | {what} | {rule} | {seed} |");
                last = last.max(seed);
            }
            Some((seed, text)) => escaped.push(format!("{mutant:?} is caught at {seed}, not by {rule}: {text}")),
            None => escaped.push(format!("{mutant:?} is not caught by {rule}")),
        }
    }
    // The judge accuses nobody who is whole.
    for seed in 0..=last {
        assert_eq!(verdict(seed, None).err(), None, "seed {seed}");
    }
    assert!(MUTANTS.len() >= 91);
    assert!(escaped.is_empty(), "{escaped:#?}");
}
