//! The master's side of worker-defined metrics: reports of many processes, added up so that nothing that counts ever
//! goes backwards. No clock, no cluster.
//!
//! Every process tells values since its own start. What a process told last is kept while it lives and for a while after
//! its end, because reports and exits come through two queues; then it goes into its slot's base for good.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use actix_cluster::{Slot, WorkerId};

use super::series::{Labels, Series, SeriesKind, Value};
use super::text::{Family, slot_labels};

/// Everything that workers told.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    slots: BTreeMap<Slot, BTreeMap<Key, Account>>,
    workers: BTreeMap<WorkerId, Told>,
    /// Those of `workers` that have ended, in the order of their ends.
    ended: VecDeque<WorkerId>,
    /// Those whose values are in a base: a report that comes later yet is counted already, up to its last changes.
    closed: BTreeSet<WorkerId>,
    refused: BTreeMap<Slot, u64>,
}

/// What tells series apart: name, labels, and whether it is shown for each slot.
type Key = (String, Labels, bool);

#[derive(Debug)]
struct Account {
    help: String,
    /// What all closed processes of the slot counted. Its form is the form of the series in this slot for ever.
    base: Value,
}

#[derive(Debug)]
struct Told {
    slot: Slot,
    has_ended: bool,
    /// Since it has this slot.
    values: BTreeMap<Key, Value>,
    /// Since its start, of one that stood by: what it had told before it had this slot, which is in that account's base.
    before: BTreeMap<Key, Value>,
}

impl Told {
    fn by(slot: &Slot) -> Self {
        Self {
            slot: slot.clone(),
            has_ended: false,
            values: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }
}

/// What must be the same everywhere for values to be added up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    kind: u8,
    bounds: Vec<u64>,
}

impl Forwarded {
    /// A worker told all of its series.
    pub(super) fn told(&mut self, id: WorkerId, slot: &Slot, report: Vec<Series>) {
        if self.closed.contains(&id) {
            return;
        }
        self.promote(id, slot);
        // What one told while it stood by may come after its end in a slot: then it is the slot's.
        let slot = self
            .workers
            .get(&id)
            .map_or_else(|| slot.clone(), |told| told.slot.clone());
        if !self.slots.contains_key(&slot) && self.slots.len() >= SLOTS_MAX {
            self.refuse(&slot);
            return;
        }
        for series in report {
            if !self.take(id, &slot, series) {
                self.refuse(&slot);
            }
        }
    }

    /// A report that could not be read.
    pub(super) fn refuse(&mut self, slot: &Slot) {
        if self.refused.contains_key(slot) || self.refused.len() < SLOTS_MAX {
            let count = self.refused.entry(slot.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn take(&mut self, id: WorkerId, slot: &Slot, series: Series) -> bool {
        let Ok(series) = series.checked() else {
            return false;
        };
        let accounts = self.slots.entry(slot.clone()).or_default();
        let key = (series.name, series.labels, series.per_slot);
        let told = self.workers.entry(id).or_insert_with(|| Told::by(slot));
        let Some(value) = since(told.before.get(&key), series.value) else {
            return false;
        };
        if let Some(account) = accounts.get(&key) {
            if form(&account.base) != form(&value) {
                return false;
            }
        } else if accounts.len() >= Series::MAX {
            return false;
        }
        if told.values.get(&key).is_some_and(|last| !last.may_become(&value)) {
            return false;
        }
        accounts.entry(key.clone()).or_insert_with(|| Account {
            help: series.help,
            base: zero(&value),
        });
        told.values.insert(key, value);
        true
    }

    /// Who stood by and has a slot now leaves behind what it told before, so that nothing that counts ever falls; its gauges
    /// go with it.
    fn promote(&mut self, id: WorkerId, slot: &Slot) {
        let Some(told) = self.workers.get_mut(&id) else {
            return;
        };
        if !told.slot.is_standby() || slot.is_standby() {
            return;
        }
        let left = std::mem::replace(&mut told.slot, slot.clone());
        told.before = std::mem::take(&mut told.values);
        told.before.retain(|_, value| value.kind() != SeriesKind::Gauge);
        if let Some(accounts) = self.slots.get_mut(&left) {
            add_up(accounts, &told.before);
        }
    }

    /// A worker's process is gone. Its last words may still be on their way.
    pub(super) fn ended(&mut self, id: WorkerId, slot: &Slot) {
        if self.closed.contains(&id) {
            return;
        }
        self.promote(id, slot);
        let told = self.workers.entry(id).or_insert_with(|| Told::by(slot));
        if std::mem::replace(&mut told.has_ended, true) {
            return;
        }
        self.ended.push_back(id);
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.close(oldest);
        }
    }

    fn close(&mut self, id: WorkerId) {
        let Some(told) = self.workers.remove(&id) else {
            return;
        };
        // Who told nothing that was taken has no account, and needs none.
        if let Some(accounts) = self.slots.get_mut(&told.slot) {
            add_up(accounts, &told.values);
        }
        self.closed.insert(id);
        if self.closed.len() > CLOSED_MAX {
            self.closed.pop_first();
        }
    }

    /// Series that were not taken, by slot: not well-formed, too many, of another form than before, or going backwards.
    pub(super) const fn refused(&self) -> &BTreeMap<Slot, u64> {
        &self.refused
    }

    /// Everything, added up. Where slots disagree on what a name is, the form that most slots have is shown.
    pub(super) fn families(&self) -> Vec<Family> {
        let forms = self.prevailing();
        let mut families: BTreeMap<String, (Family, BTreeMap<Labels, Value>)> = BTreeMap::new();
        let mut sum = |slot: &Slot, key: &Key, help: &str, value: &Value| {
            let (name, labels, per_slot) = key;
            if forms.get(name.as_str()) != Some(&form(value)) {
                return;
            }
            let mut labels = labels.clone();
            if *per_slot {
                labels.extend(slot_labels(slot));
            }
            let (_, rows) = families
                .entry(name.clone())
                .or_insert_with(|| (Family::new(name, help, value.kind()), BTreeMap::new()));
            rows.entry(labels).or_insert_with(|| zero(value)).add(value);
        };
        for (slot, accounts) in &self.slots {
            for (key, account) in accounts {
                if account.base.kind() != SeriesKind::Gauge {
                    sum(slot, key, &account.help, &account.base);
                }
            }
        }
        for told in self.workers.values() {
            let accounts = self.slots.get(&told.slot);
            for (key, value) in &told.values {
                if let Some(account) = accounts.and_then(|accounts| accounts.get(key))
                    && !(told.has_ended && value.kind() == SeriesKind::Gauge)
                {
                    sum(&told.slot, key, &account.help, value);
                }
            }
        }
        let families = families.into_values();
        families
            .map(|(family, rows)| {
                rows.into_iter()
                    .fold(family, |family, (labels, value)| family.row(labels, value))
            })
            .collect()
    }

    /// The form of each name: one slot that lies does not decide it for the others.
    fn prevailing(&self) -> BTreeMap<&str, Form> {
        let mut votes: BTreeMap<&str, BTreeMap<Form, BTreeSet<&Slot>>> = BTreeMap::new();
        for (slot, accounts) in &self.slots {
            for ((name, ..), account) in accounts {
                votes
                    .entry(name)
                    .or_default()
                    .entry(form(&account.base))
                    .or_default()
                    .insert(slot);
            }
        }
        let prevailing = votes.into_iter().filter_map(|(name, forms)| {
            let (form, _) = forms.into_iter().max_by_key(|(_, slots)| slots.len())?;
            Some((name, form))
        });
        prevailing.collect()
    }
}

/// What counts, into the bases of a slot.
fn add_up(accounts: &mut BTreeMap<Key, Account>, values: &BTreeMap<Key, Value>) {
    for (key, value) in values {
        if value.kind() != SeriesKind::Gauge
            && let Some(account) = accounts.get_mut(key)
        {
            account.base.add(value);
        }
    }
}

/// What came since then; `None` if it cannot be told by the same process.
fn since(before: Option<&Value>, now: Value) -> Option<Value> {
    match before {
        None => Some(now),
        Some(before) => before.may_become(&now).then(|| now.less(before)),
    }
}

fn form(value: &Value) -> Form {
    match value {
        Value::Counter(_) => Form {
            kind: 0,
            bounds: Vec::new(),
        },
        Value::Gauge(_) => Form {
            kind: 1,
            bounds: Vec::new(),
        },
        Value::Histogram(buckets) => Form {
            kind: 2,
            bounds: buckets.bounds.iter().map(|bound| bound.to_bits()).collect(),
        },
    }
}

fn zero(like: &Value) -> Value {
    match like {
        Value::Counter(_) => Value::Counter(0),
        Value::Gauge(_) => Value::Gauge(0.0),
        Value::Histogram(buckets) => Value::Histogram(super::series::Buckets::new(&buckets.bounds)),
    }
}

/// Slots that are kept; a cluster has at most so many, unless specs of ever other names are added and deleted.
const SLOTS_MAX: usize = 4096;
/// Ended processes whose last words are waited for.
const ENDED_MAX: usize = 64;
/// Closed processes that are remembered.
const CLOSED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::series::Buckets;

    fn series(name: &str, value: Value) -> Series {
        Series {
            name: name.to_owned(),
            help: "Help".to_owned(),
            labels: Labels::new(),
            per_slot: false,
            value,
        }
    }

    fn told(book: &mut Forwarded, id: u64, slot: u32, name: &str, value: Value) {
        book.told(WorkerId::new(id), &Slot::new("web", slot), vec![series(name, value)]);
    }

    fn total(book: &Forwarded, name: &str) -> Option<Value> {
        let families = book.families();
        let family = families.iter().find(|family| family.name() == name)?;
        family.rows().first().map(|(_, value)| value.clone())
    }

    #[test]
    fn counters_are_folded_over_processes_and_summed_over_slots() {
        let mut book = Forwarded::default();
        told(&mut book, 1, 0, "jobs", Value::Counter(5));
        told(&mut book, 2, 1, "jobs", Value::Counter(7));
        book.ended(WorkerId::new(1), &Slot::new("web", 0));
        told(&mut book, 3, 0, "jobs", Value::Counter(1));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(13)));
        // Last words that come after the exit replace what was told, and are not added to it.
        told(&mut book, 1, 0, "jobs", Value::Counter(6));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(14)));
    }

    #[test]
    fn many_ends_later_the_sum_is_the_same_and_late_words_do_not_count_twice() {
        let mut book = Forwarded::default();
        for id in 1..=200 {
            told(&mut book, id, 0, "jobs", Value::Counter(id));
            book.ended(WorkerId::new(id), &Slot::new("web", 0));
        }
        told(&mut book, 1, 0, "jobs", Value::Counter(1));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(200 * 201 / 2)));
        assert_eq!(book.workers.len(), ENDED_MAX);
    }

    #[test]
    fn gauges_are_summed_over_those_that_live() {
        let mut book = Forwarded::default();
        told(&mut book, 1, 0, "queue", Value::Gauge(3.0));
        told(&mut book, 2, 1, "queue", Value::Gauge(4.0));
        assert_eq!(total(&book, "queue"), Some(Value::Gauge(7.0)));
        book.ended(WorkerId::new(1), &Slot::new("web", 0));
        told(&mut book, 1, 0, "queue", Value::Gauge(9.0));
        assert_eq!(total(&book, "queue"), Some(Value::Gauge(4.0)));
    }

    #[test]
    fn histograms_are_folded_bucket_by_bucket() {
        let mut book = Forwarded::default();
        let seen = |values: &[f64]| {
            let mut buckets = Buckets::new(&[1.0, 2.0]);
            values.iter().for_each(|value| buckets.observe(*value));
            Value::Histogram(buckets)
        };
        told(&mut book, 1, 0, "took", seen(&[0.5, 1.5]));
        book.ended(WorkerId::new(1), &Slot::new("web", 0));
        told(&mut book, 2, 0, "took", seen(&[9.0]));
        let Some(Value::Histogram(sum)) = total(&book, "took") else {
            panic!("it is a histogram");
        };
        assert_eq!((sum.counts, sum.sum), (vec![1, 1, 1], 11.0));
    }

    #[test]
    fn a_liar_harms_its_own_series_only() {
        let mut book = Forwarded::default();
        // It claims a name as another kind, before the others come.
        told(&mut book, 1, 0, "jobs", Value::Gauge(1e300));
        told(&mut book, 2, 1, "jobs", Value::Counter(7));
        told(&mut book, 3, 2, "jobs", Value::Counter(7));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(14)));
        // Backwards, another kind, a name that is none: refused and counted.
        told(&mut book, 2, 1, "jobs", Value::Counter(3));
        told(&mut book, 2, 1, "jobs", Value::Gauge(3.0));
        told(&mut book, 2, 1, "a\"b", Value::Gauge(3.0));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(14)));
        assert_eq!(book.refused().get(&Slot::new("web", 1)), Some(&3));
        // A flood of names ends at the limit of its slot, over all of its processes.
        for n in 0..1_000 {
            told(&mut book, 100 + n, 3, &format!("n{n}"), Value::Counter(1));
        }
        assert_eq!(book.slots[&Slot::new("web", 3)].len(), Series::MAX);
        // The largest number is one and does not wrap.
        told(&mut book, 3, 2, "jobs", Value::Counter(u64::MAX));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(u64::MAX)));
    }

    #[test]
    fn a_promoted_worker_is_counted_where_it_is_and_takes_nothing_away() {
        let (mut book, id) = (Forwarded::default(), WorkerId::new(1));
        let (standby, slot) = (Slot::standby("web"), Slot::new("web", 0));
        let took = |values: &[f64]| {
            let mut buckets = Buckets::new(&[1.0]);
            values.iter().for_each(|value| buckets.observe(*value));
            series("took", Value::Histogram(buckets))
        };
        let report = |jobs, queue, values: &[f64]| {
            let mut per_slot = vec![
                series("jobs", Value::Counter(jobs)),
                series("queue", Value::Gauge(queue)),
                took(values),
            ];
            per_slot.iter_mut().for_each(|it| it.per_slot = true);
            per_slot
        };
        let rows = |book: &Forwarded, name: &str| -> BTreeMap<String, Value> {
            let family = book.families().into_iter().find(|family| family.name() == name);
            let rows = family.map(|family| family.rows().to_vec()).unwrap_or_default();
            let by_slot = rows.into_iter().map(|(labels, value)| {
                let (_, slot) = labels.into_iter().find(|(label, _)| label == "slot").unwrap();
                (slot, value)
            });
            by_slot.collect()
        };
        book.told(id, &standby, report(2, 5.0, &[0.5]));
        // With its slot it defines one more series, as an application that starts does.
        let mut promoted = report(9, 3.0, &[0.5, 2.0]);
        promoted.push(series("late", Value::Counter(4)));
        book.told(id, &slot, promoted.clone());
        let jobs = |standby, own| {
            BTreeMap::from([
                ("standby".to_owned(), Value::Counter(standby)),
                ("0".to_owned(), Value::Counter(own)),
            ])
        };
        assert_eq!(rows(&book, "jobs"), jobs(2, 7));
        assert_eq!(
            rows(&book, "queue"),
            BTreeMap::from([("0".to_owned(), Value::Gauge(3.0))])
        );
        let Some(Value::Histogram(own)) = rows(&book, "took").remove("0") else {
            panic!("it is a histogram");
        };
        assert_eq!((own.counts, own.sum), (vec![0, 1], 2.0));
        assert_eq!(total(&book, "late"), Some(Value::Counter(4)));
        // It cannot take back what it told while it stood by.
        book.told(id, &slot, vec![report(1, 0.0, &[]).remove(0)]);
        assert_eq!((rows(&book, "jobs"), book.refused().get(&slot)), (jobs(2, 7), Some(&1)));
        // Its end, and ever more ends: everything stays.
        for id in 1..200 {
            book.ended(WorkerId::new(id), &slot);
        }
        assert_eq!(rows(&book, "jobs"), jobs(2, 7));
        assert_eq!(total(&book, "late"), Some(Value::Counter(4)));
        assert_eq!(total(&book, "took").map(|it| it.kind()), Some(SeriesKind::Histogram));
    }

    #[test]
    fn what_a_standby_told_may_come_after_its_end_in_a_slot() {
        let (mut book, slot) = (Forwarded::default(), Slot::new("web", 0));
        book.ended(WorkerId::new(1), &slot);
        let late = vec![series("jobs", Value::Counter(2))];
        book.told(WorkerId::new(1), &Slot::standby("web"), late);
        for id in 1..200 {
            book.ended(WorkerId::new(id), &slot);
        }
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(2)));
    }

    #[test]
    fn who_told_nothing_takes_no_room() {
        let mut book = Forwarded::default();
        for id in 1..=2 * SLOTS_MAX as u64 {
            book.ended(
                WorkerId::new(id),
                &Slot::new(format!("s{id}"), u32::try_from(id).unwrap()),
            );
        }
        assert_eq!(book.slots.len(), 0);
        told(&mut book, 1_000_000, 0, "jobs", Value::Counter(1));
        assert_eq!(total(&book, "jobs"), Some(Value::Counter(1)));
    }

    /// Whatever processes tell, lie, and in which order they end: no counter goes backwards.
    #[test]
    fn no_counter_ever_goes_backwards() {
        for seed in 1..=30_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut any = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut book = Forwarded::default();
            let mut before = 0;
            for _ in 0..1_200 {
                let id = 1 + any(300);
                let slot = u32::try_from(id % 4).unwrap();
                match any(4) {
                    0 => book.ended(WorkerId::new(id), &Slot::new("web", slot)),
                    _ => told(&mut book, id, slot, "jobs", Value::Counter(any(1_000))),
                }
                if let Some(Value::Counter(now)) = total(&book, "jobs") {
                    assert!(now >= before, "seed {seed}: {before} and then {now}");
                    before = now;
                }
            }
        }
    }
}
