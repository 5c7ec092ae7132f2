//! The recorder against itself: what is written is read, what is torn is not, and no memory makes the reader stumble.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::format::{BUSY, Layout, RECORD_WORDS, TEXT_LEN_MAX, record};
use super::reader::read;
use super::{Recorder, Recording, take_up};
use crate::model::{FlightPhase, FlightRecord};

fn memory(bytes: usize) -> Vec<AtomicU64> {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
}

/// A copy as the master makes it.
fn copy(words: &[AtomicU64]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
        .collect()
}

fn told(words: &[AtomicU64]) -> FlightRecord {
    read(&copy(words)).expect("a record was begun")
}

/// Every marker of the tests says its own number twice, with as much between as makes it long.
fn text_of(n: u64) -> String {
    format!("{n} {} {n}", "x".repeat(usize::try_from(n % 180).unwrap()))
}

fn assert_whole(record: &FlightRecord) {
    for mark in &record.marks {
        let n: u64 = mark.text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(mark.text, text_of(n));
    }
    assert!(record.marks.is_sorted_by(|one, other| one.n < other.n));
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn what_is_noted_is_told_the_last_markers_and_the_requests_in_progress() {
    let words = memory(4096);
    assert_eq!(read(&copy(&words)), None, "nobody began");
    let recorder = Recorder::begin(&words).unwrap();
    let at = Duration::from_micros(1500);
    for n in 1..=20 {
        recorder.mark(at, &format!("mark {n}"));
    }
    recorder.beat(7);
    recorder.enter(FlightPhase::Draining);
    recorder.enter(FlightPhase::Running);
    let over = recorder.request(at, &["GET", " ", "/over"]);
    let _waits = recorder.request(at, &["GET", " ", "/waits"]);
    let stuck = recorder.request(at, &["PUT", " ", "/stuck"]);
    stuck.on_thread(42);
    drop(over);
    let record = told(&words);
    assert_eq!((record.phase, record.heartbeats), (FlightPhase::Draining, 7));
    let marks: Vec<_> = record.marks.iter().map(|mark| (mark.n, mark.text.as_str())).collect();
    assert_eq!(marks.len(), 8);
    assert_eq!((marks[0], marks[7]), ((13, "mark 13"), (20, "mark 20")));
    assert_eq!(record.marks[7].at, at);
    let requests: Vec<_> = record.requests.iter().map(|it| (it.line.as_str(), it.tid)).collect();
    assert_eq!(requests, [("PUT /stuck", Some(42)), ("GET /waits", None)]);
    stuck.on_thread(0);
    assert_eq!(told(&words).requests[0].line, "GET /waits");
}

#[test]
fn requests_without_room_are_counted_and_their_places_are_used_again() {
    let words = memory(4096);
    let recorder = Recorder::begin(&words).unwrap();
    let noted: Vec<_> = (0..10).map(|_| recorder.request(Duration::ZERO, &["GET /"])).collect();
    let record = told(&words);
    assert_eq!((record.requests.len(), record.more_requests), (7, 3));
    drop(noted);
    let record = told(&words);
    assert_eq!((record.requests.len(), record.more_requests), (0, 0));
    let _again = recorder.request(Duration::ZERO, &["GET /again"]);
    assert_eq!(told(&words).requests[0].line, "GET /again");
}

#[test]
fn a_text_is_cut_between_characters_and_made_fit_for_one_line() {
    let words = memory(4096);
    let recorder = Recorder::begin(&words).unwrap();
    for text in [
        "é".repeat(200),
        "x".repeat(TEXT_LEN_MAX),
        "a\nb\u{1b}[31m".to_owned(),
        String::new(),
    ] {
        recorder.mark(Duration::ZERO, &text);
    }
    let record = told(&words);
    let texts: Vec<_> = record.marks.iter().map(|mark| mark.text.clone()).collect();
    assert_eq!(texts[0], format!("{}…", "é".repeat(TEXT_LEN_MAX / 2)));
    assert_eq!(texts[1], "x".repeat(TEXT_LEN_MAX));
    assert_eq!((texts[2].as_str(), texts[3].as_str()), (r"a\nb\u{1b}[31m", ""));
    let _parts = recorder.request(Duration::ZERO, &["GET", " ", &"é".repeat(200), "never"]);
    let line = &told(&words).requests[0].line;
    assert!(line.starts_with("GET é") && line.ends_with("é…"), "{line}");
}

/// Death at every single store of a marker: the words before it are the new ones, the words after it the old ones.
#[test]
fn a_writer_that_dies_at_any_store_leaves_only_whole_markers_and_the_last_complete_one() {
    for before in 0..30_u64 {
        let words = memory(4096);
        let recorder = Recorder::begin(&words).unwrap();
        for n in 1..=before {
            recorder.mark(Duration::from_micros(n), &text_of(n));
        }
        let old = copy(&words);
        recorder.mark(Duration::from_micros(before + 1), &text_of(before + 1));
        let new = copy(&words);
        let marks = Layout::of(words.len()).unwrap().marks;
        let place = marks.start + usize::try_from(before).unwrap() % marks.len();
        let range = |word: usize| (place * RECORD_WORDS + word) * 8..(place * RECORD_WORDS + word + 1) * 8;
        // In the order of the stores: busy, text, time, length, checksum; the stamp is the last one, and was not reached.
        let order = (record::TEXT..record::THREAD).chain([record::AT, record::LENGTH, record::CHECK]);
        let mut torn = old.clone();
        torn[range(record::STAMP)].copy_from_slice(&BUSY.to_ne_bytes());
        for word in order {
            torn[range(word)].copy_from_slice(&new[range(word)]);
            let record = read(&torn).unwrap();
            assert_whole(&record);
            assert_eq!(record.marks.last().map_or(0, |mark| mark.n), before);
        }
        let record = read(&new).unwrap();
        assert_eq!(record.marks.last().unwrap().n, before + 1);
    }
}

/// A copy that is made while the worker writes may hold any mixture of old and new words.
#[test]
fn no_mixture_of_two_records_is_taken_for_a_marker() {
    let mut chance = Chance(3);
    for round in 0..2_000_u64 {
        let words = memory(4096);
        let recorder = Recorder::begin(&words).unwrap();
        for n in 0..round % 20 {
            recorder.mark(Duration::from_micros(n), &text_of(chance.below(500)));
        }
        let old = copy(&words);
        for n in 0..1 + chance.below(12) {
            recorder.mark(Duration::from_micros(n), &text_of(chance.below(500)));
        }
        let new = copy(&words);
        let mut mixed = old.clone();
        for at in (0..old.len()).step_by(8).filter(|_| chance.below(2) == 0) {
            mixed[at..at + 8].copy_from_slice(&new[at..at + 8]);
        }
        if let Some(record) = read(&mixed) {
            assert_whole(&record);
        }
    }
}

#[test]
fn no_memory_whatever_makes_the_reader_stumble() {
    let mut chance = Chance(11);
    let whole = memory(8192);
    let recorder = Recorder::begin(&whole).unwrap();
    let mut noted = Vec::new();
    for n in 0..50 {
        recorder.mark(Duration::MAX, &text_of(n));
        noted.push(recorder.request(Duration::MAX, &[&text_of(n)]));
    }
    let whole = copy(&whole);
    for len in (0..whole.len()).step_by(97) {
        drop(read(&whole[..len]));
    }
    for _ in 0..3_000 {
        let mut bytes = whole.clone();
        for _ in 0..chance.below(40) {
            let at = usize::try_from(chance.below(bytes.len() as u64 / 8)).unwrap() * 8;
            let word = [0, u64::MAX, 1 << 32, chance.below(u64::MAX)][usize::try_from(chance.below(4)).unwrap()];
            bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
        if let Some(record) = read(&bytes) {
            assert_whole(&record);
            assert!(record.text_len() <= 2 * 4096, "{}", record.text_len());
            assert!(record.requests.len() + record.marks.len() <= 256);
        }
    }
}

/// The writers are threads of one process, as they are in a worker; the reader copies while they write.
#[test]
fn several_threads_write_while_a_copy_is_made_and_every_marker_is_whole() {
    let words = memory(4096);
    let recorder = Recorder::begin(&words).unwrap();
    let (written, each) = (AtomicU64::new(0), 20_000);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let written = &written;
            scope.spawn(move || {
                for n in 0..each {
                    recorder.mark(Duration::from_micros(n), &text_of(thread * each + n));
                    let noted = recorder.request(Duration::ZERO, &[&text_of(n)]);
                    noted.on_thread(1);
                    drop(noted);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while written.load(Ordering::Relaxed) < 3 * each {
            let record = told(&words);
            assert_whole(&record);
            for request in &record.requests {
                let n: u64 = request.line.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(request.line, text_of(n));
            }
        }
    });
    let record = told(&words);
    assert_eq!((record.marks.len(), record.requests.len()), (8, 0));
}

#[test]
fn a_memory_of_the_kernel_is_written_on_one_side_and_read_on_the_other() {
    use std::os::fd::AsFd;
    let recording = Recording::create(5000).unwrap();
    assert_eq!(recording.look(), None);
    let worker = take_up(recording.as_fd().try_clone_to_owned().unwrap()).unwrap();
    worker.mark(Duration::ZERO, "hello");
    assert_eq!(recording.look().unwrap().marks[0].text, "hello");
    // Its size is fixed for both sides.
    let file = std::fs::File::from(recording.as_fd().try_clone_to_owned().unwrap());
    assert!(file.set_len(0).is_err() && file.set_len(1 << 20).is_err());
    assert_eq!(file.metadata().unwrap().len(), 8192);
}
