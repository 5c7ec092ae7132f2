//! The same seed twice, with one difference that must make none, or only the one that is named.
//!
//! Not here: what must hold in each history ([`super::trace`]).

use super::deed::{Alteration, Deed, deeds};
use super::history::{Sum, Trace, live_from, live_through};
use super::plan::{Item, Plan, Sort};
use super::script::{Birth, S};
use super::settings::surroundings;
use super::shrink::{items, shrink, told};
use super::*;
use crate::model::Signal;

fn summed() -> Trace {
    Trace::Summed(Sum::default())
}

#[test]
fn i_42_the_same_seed_gives_the_same_history() {
    for seed in 0..150 {
        let history = || live_through(Plan::new(seed), summed());
        assert_eq!(history(), history(), "seed {seed}");
    }
}

#[test]
fn i_16_the_time_on_the_clock_at_the_start_changes_nothing_but_stamps() {
    let starts = [
        ms(1),
        Mono::new(Duration::from_nanos(98_765_432_109_876_543)),
        ms(u64::MAX / 2),
    ];
    for seed in 0..60 {
        let history = |start| live_from(start, Plan::new(seed), summed());
        for start in starts {
            assert_eq!(history(start), history(Mono::default()), "seed {seed} from {start}");
        }
    }
}

/// Who never needs `SIGKILL`: boots, answers and ends in time.
const IN_TIME: [S; 12] = [
    S::Good,
    S::Deaf,
    S::CrashesAtBoot,
    S::CrashesLater,
    S::EndsWithZero,
    S::Leaves,
    S::Declines,
    S::ClosesChannel,
    S::BreaksProtocol,
    S::EndsWhenReady,
    S::EndsWhenAsked,
    S::HasNothingToDo,
];

/// What of a seed gives no reason for a `SIGKILL`.
fn peaceful(seed: u64) -> Vec<Item> {
    let plan = Plan::new(seed);
    let brutal = |deed: &Deed| {
        let kills = [Deed::ShutDown { now: true }.kind(), Deed::KillEverybody.kind()];
        let is_brutal = matches!(
            deed,
            Deed::SignalWorker(_, Signal::KILL)
                | Deed::Blame(_)
                | Deed::Reconfigure(_, Some((_, Alteration::Shutdown(_))))
        );
        is_brutal || kills.contains(&deed.kind())
    };
    let brutal: Vec<u32> = deeds(&plan, surroundings(&plan).faults)
        .into_iter()
        .filter(|(_, _, deed)| brutal(deed))
        .map(|(number, ..)| number)
        .collect();
    let is_peaceful = |item: &Item| {
        let mut dice = plan.always(item.sort, item.number);
        match item.sort {
            Sort::Setting => !settings::name(item.number).starts_with("shutdown"),
            Sort::Deed => !brutal.contains(&item.number),
            Sort::Birth => IN_TIME.contains(&Birth::any(dice).script),
            Sort::Generation => Birth::script_of_generation(&mut dice) != Some(S::NeverReady),
        }
    };
    items(seed).into_iter().filter(is_peaceful).collect()
}

fn without_hold_ups(seed: u64, items: &[Item]) -> Vec<Item> {
    let plan = Plan::new(seed);
    let deeds = deeds(&plan, surroundings(&plan).faults);
    let hold_ups = deeds
        .into_iter()
        .filter(|(_, _, deed)| matches!(deed, Deed::HoldUpMaster(..)));
    let hold_ups: Vec<Item> = hold_ups.map(|(number, ..)| Item::new(Sort::Deed, number)).collect();
    items.iter().copied().filter(|item| !hold_ups.contains(item)).collect()
}

#[test]
fn i_17_f_145_a_master_that_is_held_up_kills_nobody_who_is_in_time() {
    let broken = |seed, items: &[Item]| {
        let history = live_through(Plan::only(seed, items), Trace::Off);
        (history.kills > 0).then(|| "I-17: somebody was killed".to_owned())
    };
    let mut held_up = 0;
    for seed in 0..300 {
        let items = peaceful(seed);
        let calm = without_hold_ups(seed, &items);
        assert_eq!(broken(seed, &calm), None, "seed {seed}: nobody gives a reason");
        held_up += usize::from(calm.len() < items.len());
        if let Some(text) = broken(seed, &items) {
            let least = shrink(items, |items| broken(seed, items));
            panic!("{}", told(&Plan::only(seed, &least), &text));
        }
    }
    assert!(held_up > 100, "only {held_up} histories");
}
