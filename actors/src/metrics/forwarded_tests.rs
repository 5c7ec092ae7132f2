//! Sums over processes that report, lie and end in any order.

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
