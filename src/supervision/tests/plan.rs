//! What one history does: a list of items, each of which draws what it is from the seed and its own name alone.
//!
//! So an item can be left out and the others stay what they are: that is what makes a failing plan shrink. What is left
//! out is as tame as can be: a setting has its plain value, a deed is not done, a process behaves. Not here: what the
//! items mean ([`super::settings`], [`super::meddle`], [`super::script`]).

use std::collections::BTreeSet;
use std::fmt;

use super::*;
use crate::policy::SplitMix64;

/// Of what sort an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A setting of the cluster or of the world.
    Setting,
    /// Something that a handle, the kernel or the clock does at a certain time.
    Deed,
    /// How the n-th process behaves.
    Birth,
    /// How the processes of the n-th generation behave, and the verdict on it.
    Generation,
}

/// One thing that a plan does otherwise than a quiet day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) sort: Sort,
    pub(super) number: u32,
}

/// A history before it happens.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// `None` for all that the seed says.
    kept: Option<BTreeSet<Item>>,
}

/// Chance for one item.
pub(super) struct Dice(SplitMix64);

impl Item {
    const SORTS: [(Sort, char); 4] = [
        (Sort::Setting, 's'),
        (Sort::Deed, 'd'),
        (Sort::Birth, 'b'),
        (Sort::Generation, 'g'),
    ];

    pub(super) const fn new(sort: Sort, number: u32) -> Self {
        Self { sort, number }
    }

    fn parse(word: &str) -> Option<Self> {
        let letter = word.chars().next()?;
        let (sort, _) = Self::SORTS.into_iter().find(|(_, known)| *known == letter)?;
        let number = word[letter.len_utf8()..].parse().ok()?;
        Some(Self { sort, number })
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = Self::SORTS.into_iter().find(|(sort, _)| *sort == self.sort);
        write!(f, "{}{}", letter.expect("every sort has a letter").1, self.number)
    }
}

impl Plan {
    /// All that the seed says.
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, kept: None }
    }

    /// Only these items of what the seed says.
    pub(super) fn only(seed: u64, items: &[Item]) -> Self {
        Self {
            seed,
            kept: Some(items.iter().copied().collect()),
        }
    }

    /// From the text that [`text`](Self::text) makes; `None` if it is no such text.
    pub(super) fn parse(seed: u64, text: &str) -> Option<Self> {
        let words = text.split(',').filter(|word| !word.is_empty() && *word != "-");
        let items: Option<Vec<Item>> = words.map(Item::parse).collect();
        Some(Self::only(seed, &items?))
    }

    /// The items that are kept, in one word without spaces; `None` if that is all.
    pub(super) fn text(&self) -> Option<String> {
        let kept = self.kept.as_ref()?;
        let words: Vec<String> = kept.iter().map(Item::to_string).collect();
        Some(if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(",")
        })
    }

    /// The chance of an item; `None` if it is left out.
    pub(super) fn dice(&self, sort: Sort, number: u32) -> Option<Dice> {
        let item = Item { sort, number };
        let is_kept = self.kept.as_ref().is_none_or(|kept| kept.contains(&item));
        is_kept.then(|| self.always(sort, number))
    }

    /// The chance of an item that cannot be left out.
    pub(super) fn always(&self, sort: Sort, number: u32) -> Dice {
        let mut seeds = SplitMix64::new(self.seed);
        let name = (sort as u64) << 32 | u64::from(number);
        let mut mixed = SplitMix64::new(seeds.next_u64() ^ name.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Dice(SplitMix64::new(mixed.next_u64()))
    }
}

impl Dice {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    pub(super) fn number(&mut self, below: u32) -> u32 {
        u32::try_from(self.below(u64::from(below))).expect("it is below a u32")
    }

    /// True once in so many times.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn of<T, const N: usize>(&mut self, choices: [T; N]) -> T {
        let index = usize::try_from(self.below(N as u64)).expect("it is an index");
        choices.into_iter().nth(index).expect("it is an index")
    }

    /// From the first to below the second number of milliseconds.
    pub(super) fn millis(&mut self, from: u32, below: u32) -> Duration {
        MS * (from + self.number(below - from))
    }
}

#[test]
fn a_plan_is_the_text_it_makes() {
    let plan = Plan::only(7, &[Item::new(Sort::Birth, 12), Item::new(Sort::Deed, 3)]);
    let text = plan.text().expect("it is not the whole");
    assert_eq!(text, "d3,b12");
    let again = Plan::parse(7, &text).expect("a text");
    assert_eq!(again.text(), plan.text());
    assert!(again.dice(Sort::Deed, 3).is_some() && again.dice(Sort::Deed, 4).is_none());
    assert_eq!(Plan::parse(7, "-").and_then(|plan| plan.text()).as_deref(), Some("-"));
    assert!(Plan::parse(7, "x1").is_none() && Plan::parse(7, "d").is_none() && Plan::parse(7, "ä1").is_none());
    assert_eq!(Plan::new(7).text(), None);
}
