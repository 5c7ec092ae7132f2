//! A failing plan made as small as it can be, and told so that it can be read and replayed.
//!
//! Not here: what a plan is ([`super::plan`]), and who finds that one fails ([`super::simulate`]).

use std::any::Any;
use std::cell::Cell;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::deed::deeds;
use super::plan::{Item, Plan, Sort};
use super::script::Birth;
use super::settings::{self, surroundings};

/// How far a history may go: as many processes and generations as one seed ever has, and more.
const BIRTHS: u32 = 1_000;
const GENERATIONS: u32 = 40;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does it, and gives back the text of its panic if it panics, without printing it.
pub(super) fn violation<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(act));
    IS_QUIET.set(false);
    result.map_err(|panic| text_of(&*panic))
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

/// Every item that a seed may use.
pub(super) fn items(seed: u64) -> Vec<Item> {
    let plan = Plan::new(seed);
    let deeds = deeds(&plan, surroundings(&plan).faults);
    let numbered = |sort, numbers: std::ops::Range<u32>| numbers.map(move |number| Item::new(sort, number));
    numbered(Sort::Setting, 0..settings::how_many())
        .chain(deeds.into_iter().map(|(number, ..)| Item::new(Sort::Deed, number)))
        .chain(numbered(Sort::Birth, 1..BIRTHS))
        .chain(numbered(Sort::Generation, 1..GENERATIONS))
        .collect()
}

/// The items of a failing plan without which it would not fail, or would fail otherwise: `fails` gives the text of the
/// violation. An item that is left out gives the processes after it other numbers, so one that could not be left out in
/// one order may be in another: the best of a few orders counts.
pub(super) fn shrink(items: Vec<Item>, mut fails: impl FnMut(&[Item]) -> Option<String>) -> Vec<Item> {
    let Some(wanted) = fails(&items).map(|text| name_of(&text)) else {
        return items;
    };
    let mut still_fails = |items: &[Item]| fails(items).is_some_and(|text| name_of(&text) == wanted);
    let mut best = items.clone();
    for order in 0..4 {
        let mut items = items.clone();
        if order % 2 == 1 {
            items.reverse();
        }
        if order / 2 == 1 {
            let middle = items.len() / 2;
            items.rotate_left(middle);
        }
        leave_out_chunks(&mut items, &mut still_fails);
        while leave_out_two(&mut items, &mut still_fails) {}
        if items.len() < best.len() {
            best = items;
        }
    }
    best.sort_unstable();
    best
}

/// Zeller's delta debugging: leaves out chunks, then smaller ones, until no single item can be left out.
fn leave_out_chunks(items: &mut Vec<Item>, still_fails: &mut impl FnMut(&[Item]) -> bool) {
    let mut chunk = items.len().div_ceil(2);
    loop {
        let before = items.len();
        let mut at = 0;
        while at < items.len() {
            let mut rest = items.clone();
            rest.drain(at..(at + chunk).min(items.len()));
            if still_fails(&rest) {
                *items = rest;
            } else {
                at += chunk;
            }
        }
        match chunk {
            0 | 1 if items.len() == before => return,
            0 | 1 => {}
            _ => chunk /= 2,
        }
    }
}

/// Two that only together can be left out.
fn leave_out_two(items: &mut Vec<Item>, still_fails: &mut impl FnMut(&[Item]) -> bool) -> bool {
    for second in 1..items.len() {
        for first in 0..second {
            let mut rest = items.clone();
            rest.remove(second);
            rest.remove(first);
            if still_fails(&rest) {
                *items = rest;
                return true;
            }
        }
    }
    false
}

/// Which invariant a violation is about, or the beginning of its text: another violation is another bug.
fn name_of(text: &str) -> String {
    let end = text.find([':', ' ', '\n']).unwrap_or(text.len());
    if text.starts_with("I-") || text.starts_with("O-") {
        return text[..end].to_owned();
    }
    text.chars().take(20).collect()
}

/// The whole message about a plan that fails.
pub(super) fn told(plan: &Plan, text: &str) -> String {
    let mut message = format!("the simulated world broke: {text}\n\nthe least that does it:\n");
    write!(message, "{}", readable(plan)).expect("a string takes any text");
    let kept = plan
        .text()
        .map_or(String::new(), |kept| format!("SIMULATE_PLAN={kept} "));
    let seed = plan.seed;
    write!(
        message,
        "\nreplay: SIMULATE_FROM={seed} SIMULATE_SEEDS=1 {kept}cargo test -p actix-cluster --lib simulated_world\n"
    )
    .expect("a string takes any text");
    message
}

/// The plan in words, a line for each item.
fn readable(plan: &Plan) -> String {
    let mut lines = String::new();
    let mut line = |item: Item, text: String| writeln!(lines, "  {:>4}  {text}", item.to_string()).expect("text");
    let config = settings::config(plan);
    for number in 0..settings::how_many() {
        if plan.dice(Sort::Setting, number).is_some() {
            line(Item::new(Sort::Setting, number), settings::name(number));
        }
    }
    for (number, at, deed) in deeds(plan, surroundings(plan).faults) {
        line(Item::new(Sort::Deed, number), format!("at {at:?}: {deed:?}"));
    }
    for number in 1..BIRTHS {
        if let Some(dice) = plan.dice(Sort::Birth, number) {
            let birth = Birth::any(dice);
            line(Item::new(Sort::Birth, number), format!("process {number}: {birth:?}"));
        }
    }
    for number in 1..GENERATIONS {
        if let Some(mut dice) = plan.dice(Sort::Generation, number) {
            let script = Birth::script_of_generation(&mut dice);
            line(
                Item::new(Sort::Generation, number),
                format!("generation {number}: {script:?}"),
            );
        }
    }
    format!("{lines}  with {config:?}\n")
}

#[test]
fn what_is_not_needed_is_left_out_and_another_violation_is_another_bug() {
    let items: Vec<Item> = (0..500).map(|number| Item::new(Sort::Birth, number)).collect();
    let has = |items: &[Item], number| items.contains(&Item::new(Sort::Birth, number));
    let mut asked = 0;
    let least = shrink(items, |items| {
        asked += 1;
        match (has(items, 7), has(items, 333) && has(items, 334)) {
            (true, true) => Some(format!("I-04: with {}", items.len())),
            (true, false) => Some("I-13: too often".to_owned()),
            (false, _) => None,
        }
    });
    let numbers: Vec<u32> = least.iter().map(|item| item.number).collect();
    assert_eq!(numbers, [7, 333, 334]);
    assert!(asked < 1_000, "{asked} tries");
}
