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
#[path = "forwarded_tests.rs"]
mod tests;
