//! Many histories: on every core, counted, and the lowest seed that fails is shrunk and told.
//!
//! `SIMULATE_SEEDS` says how many, `SIMULATE_FROM` from which on, `SIMULATE_PLAN` what of one seed:
//!
//! ```text
//! SIMULATE_SEEDS=5000000 cargo test --release -p actix-cluster --lib simulated_world -- --nocapture
//! ```
//!
//! Not here: one history ([`super::world`]).

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::deed::Deed;
use super::history::{History, Trace, live_through};
use super::plan::{Item, Plan};
use super::script::Script;
use super::shrink::{items, shrink, told, violation};
use super::*;
use crate::clock;

/// How many seeds a run has that is told nothing else.
const SEEDS: u64 = 20_000;
/// How many of them a thread takes at once.
const BATCH: u64 = 64;
/// How many kinds of faults there are: the first so many bits of what a history has met.
const KINDS: usize = Script::ALL.len() + Deed::NAMES.len();
/// How often a long run says how far it is.
const TELLS_EVERY: Duration = Duration::from_secs(10);

/// Sums over histories.
#[derive(Clone, Debug)]
struct Tally {
    histories: u64,
    steps: u64,
    births: u64,
    reloads: u64,
    kills: u64,
    /// In how many histories each kind of fault was met.
    kinds: [u64; KINDS],
    /// With which others, a bit each.
    pairs: [u64; KINDS],
}

impl Tally {
    const fn new() -> Self {
        Self {
            histories: 0,
            steps: 0,
            births: 0,
            reloads: 0,
            kills: 0,
            kinds: [0; KINDS],
            pairs: [0; KINDS],
        }
    }

    fn count(&mut self, history: &History) {
        self.histories += 1;
        self.steps += history.steps;
        self.births += u64::from(history.births);
        self.reloads += u64::from(history.generations);
        self.kills += u64::from(history.kills);
        for kind in (0..KINDS).filter(|kind| history.met & (1 << kind) != 0) {
            self.kinds[kind] += 1;
            self.pairs[kind] |= history.met;
        }
    }

    fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.steps += other.steps;
        self.births += other.births;
        self.reloads += other.reloads;
        self.kills += other.kills;
        for kind in 0..KINDS {
            self.kinds[kind] += other.kinds[kind];
            self.pairs[kind] |= other.pairs[kind];
        }
    }

    /// Met in one history: how many pairs of kinds, and of how many.
    fn pairs(&self) -> (u32, usize) {
        let met = (0..KINDS).map(|kind| (self.pairs[kind] >> (kind + 1)).count_ones());
        (met.sum(), KINDS * (KINDS - 1) / 2)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} histories: {} steps, {} processes, {} reloads, {} SIGKILLs",
            self.histories, self.steps, self.births, self.reloads, self.kills
        )?;
        let scripts = Script::ALL.iter().map(|script| format!("{script:?}"));
        let deeds = Deed::NAMES.iter().map(|name| (*name).to_owned());
        for (kind, name) in scripts.chain(deeds).enumerate() {
            writeln!(f, "  {name}: in {}", self.kinds[kind])?;
        }
        let (met, all) = self.pairs();
        write!(f, "  pairs of these in one history: {met} of {all}")
    }
}

/// Lives through a range of seeds.
struct Run<'a> {
    next: AtomicU64,
    end: u64,
    /// The lowest seed that failed; those above need not be looked at.
    lowest: AtomicU64,
    tally: Mutex<Tally>,
    live: &'a (dyn Fn(Plan) -> History + Sync),
    start: Mono,
    /// When progress was last told.
    told: Mutex<Mono>,
}

impl Run<'_> {
    fn work(&self) {
        loop {
            let first = self.next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= self.end.min(self.lowest.load(Ordering::Relaxed)) {
                return;
            }
            let mut tally = Tally::new();
            for seed in first..(first + BATCH).min(self.end) {
                match violation(|| (self.live)(Plan::new(seed))) {
                    Ok(history) => tally.count(&history),
                    Err(_) => {
                        self.lowest.fetch_min(seed, Ordering::Relaxed);
                        break;
                    }
                }
            }
            let mut sum = self.tally.lock().expect("nobody panics with it");
            sum.add(&tally);
            let (now, mut told) = (clock::now(), self.told.lock().expect("nobody panics with it"));
            if now.since(*told) >= TELLS_EVERY {
                *told = now;
                eprintln!("{} histories, {:.0} a second", sum.histories, self.speed(&sum));
            }
        }
    }

    fn speed(&self, tally: &Tally) -> f64 {
        let seconds = clock::now().since(self.start).as_secs_f64();
        f64::from(u32::try_from(tally.histories).unwrap_or(u32::MAX)) / seconds.max(0.001)
    }
}

/// Lives through these seeds on every core. The outcome does not depend on the number of cores: the lowest seed that
/// fails, shrunk.
fn simulate(
    seeds: std::ops::Range<u64>,
    live: &(dyn Fn(Plan) -> History + Sync),
) -> Result<(Tally, f64), (Plan, String)> {
    let start = clock::now();
    let run = Run {
        next: AtomicU64::new(seeds.start),
        end: seeds.end,
        lowest: AtomicU64::new(u64::MAX),
        tally: Mutex::new(Tally::new()),
        live,
        start,
        told: Mutex::new(start),
    };
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.work());
        }
    });
    let lowest = run.lowest.load(Ordering::Relaxed);
    if lowest < u64::MAX {
        return Err(smallest(lowest, live));
    }
    let tally = run.tally.lock().expect("nobody panics with it").clone();
    let speed = run.speed(&tally);
    Ok((tally, speed))
}

/// The least of a failing seed that fails in the same way, and how.
fn smallest(seed: u64, live: &dyn Fn(Plan) -> History) -> (Plan, String) {
    let fails = |plan: Plan| violation(|| live(plan)).err();
    let kept = shrink(items(seed), |items: &[Item]| fails(Plan::only(seed, items)));
    // A history that is longer than any expected one needs more than the items that are known.
    [Plan::only(seed, &kept), Plan::new(seed)]
        .into_iter()
        .find_map(|plan| fails(plan.clone()).map(|text| (plan, text)))
        .expect("the same seed fails again")
}

fn from_environment<T: FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}

fn live(plan: Plan) -> History {
    live_through(plan, Trace::Off)
}

#[test]
fn simulated_world_keeps_every_invariant() {
    let first = from_environment("SIMULATE_FROM").unwrap_or(0);
    if let Some(text) = from_environment::<String>("SIMULATE_PLAN") {
        let plan = Plan::parse(first, &text).unwrap_or_else(|| panic!("SIMULATE_PLAN: {text}"));
        if let Err(text) = violation(|| live_through(plan.clone(), Trace::Told)) {
            panic!("{}", told(&plan, &text));
        }
        return;
    }
    let seeds = from_environment("SIMULATE_SEEDS").unwrap_or(SEEDS);
    match simulate(first..first.saturating_add(seeds), &live) {
        Ok((tally, speed)) => eprintln!("{speed:.0} histories a second\n{tally}"),
        Err((plan, text)) => panic!("{}", told(&plan, &text)),
    }
}

#[test]
fn a_violation_is_found_shrunk_and_replayed() {
    // A rule that is too strict on purpose.
    let strict = |plan: Plan| {
        let history = live(plan);
        assert!(history.kills < 2, "I-99: two SIGKILLs are one too many");
        history
    };
    let (plan, text) = simulate(0..2_000, &strict).expect_err("some seed kills twice");
    assert_eq!(text, "I-99: two SIGKILLs are one too many");
    let kept = plan.text().expect("a part of the seed");
    assert!(kept.split(',').count() <= 6, "{kept}");
    let replayed = Plan::parse(plan.seed, &kept).expect("its own text");
    assert_eq!(violation(|| strict(replayed)).err(), Some(text.clone()));
    // Whatever the cores do, it is the lowest seed.
    let lower = (0..plan.seed).find(|seed| violation(|| strict(Plan::new(*seed))).is_err());
    assert_eq!(lower, None);
    let message = told(&plan, &text);
    let replay = format!(
        "SIMULATE_FROM={} SIMULATE_SEEDS=1 SIMULATE_PLAN={kept} cargo test",
        plan.seed
    );
    assert!(message.contains(&text) && message.contains(&replay), "{message}");
    eprintln!("{message}");
}
