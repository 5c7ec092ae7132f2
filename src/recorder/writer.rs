//! The worker's side: notes that cost some tens of nanoseconds, no system call, no lock and no allocation.
//!
//! Any number of threads write. Who finds a marker's place still being written (by a thread that was suspended for a whole
//! turn of the ring) takes the next one, so two never write one record. Reading is not here.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use super::format::{BUSY, FREE, Layout, MAGIC, RECORD_WORDS, TEXT_LEN_MAX, checksum, header, record};
use crate::model::FlightPhase;

/// Notes what this process does. Copies write to the same memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorder<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Recorder<'a> {
    /// Begins a record in a memory of zeros; `None` if it is too small.
    pub(crate) fn begin(words: &'a [AtomicU64]) -> Option<Self> {
        Layout::of(words.len())?;
        words[header::MAGIC].store(MAGIC, Ordering::Release);
        Some(Self { words })
    }

    /// Sets a marker, its text cut between characters if it is too long.
    pub(crate) fn mark(&self, at: Duration, text: &str) {
        let Some(Layout { marks, .. }) = Layout::of(self.words.len()) else {
            return;
        };
        for _ in 0..TRIES {
            let n = self.words[header::MARKS].fetch_add(1, Ordering::Relaxed);
            let place = usize::try_from(n % marks.len() as u64).unwrap_or(0);
            let record = self.record(marks.start + place);
            if record[record::STAMP].swap(BUSY, Ordering::Acquire) != BUSY {
                fill(record, n + 1, at, &[text]);
                return;
            }
        }
    }

    /// Notes a request, its line given in parts, until the answer is dropped.
    pub(crate) fn request(&self, at: Duration, line: &[&str]) -> Noted<'a> {
        let place = self.free_request();
        match place {
            Some(place) => {
                let n = self.words[header::REQUESTS].fetch_add(1, Ordering::Relaxed);
                fill(self.record(place), n + 1, at, line);
            }
            None => {
                self.words[header::UNNOTED].fetch_add(1, Ordering::Relaxed);
            }
        }
        Noted { recorder: *self, place }
    }

    /// Notes how far the worker has come; it never goes back.
    pub(crate) fn enter(&self, phase: FlightPhase) {
        self.words[header::PHASE].fetch_max(code(phase), Ordering::Relaxed);
    }

    /// Notes the number of the last heartbeat.
    pub(crate) fn beat(&self, n: u64) {
        self.words[header::HEARTBEATS].store(n, Ordering::Relaxed);
    }

    /// Takes the first place that is free, so that a worker with few requests at a time touches little memory.
    fn free_request(&self) -> Option<usize> {
        let Layout { mut requests, .. } = Layout::of(self.words.len())?;
        requests.find(|place| {
            let stamp = &self.record(*place)[record::STAMP];
            stamp.load(Ordering::Relaxed) == FREE
                && stamp
                    .compare_exchange(FREE, BUSY, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        })
    }

    fn record(&self, place: usize) -> &'a [AtomicU64] {
        &self.words[place * RECORD_WORDS..][..RECORD_WORDS]
    }
}

/// A request in progress; taken out of the record when it is dropped.
#[derive(Debug)]
#[must_use = "the request is taken out of the record when this is dropped"]
pub(crate) struct Noted<'a> {
    recorder: Recorder<'a>,
    /// `None` where there was no room: it is only counted.
    place: Option<usize>,
}

impl Noted<'_> {
    /// Notes which thread is in the middle of it, or 0 for none.
    pub(crate) fn on_thread(&self, tid: u32) {
        if let Some(place) = self.place {
            self.recorder.record(place)[record::THREAD].store(tid.into(), Ordering::Relaxed);
        }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        match self.place {
            Some(place) => {
                let record = self.recorder.record(place);
                record[record::THREAD].store(0, Ordering::Relaxed);
                record[record::STAMP].store(FREE, Ordering::Release);
            }
            None => {
                self.recorder.words[header::UNNOTED].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// The number of a phase in the header. In the order of the phases.
pub(super) const fn code(phase: FlightPhase) -> u64 {
    match phase {
        FlightPhase::Starting => 0,
        FlightPhase::Running => 1,
        FlightPhase::LameDuck => 2,
        FlightPhase::Draining => 3,
        FlightPhase::Ending => 4,
    }
}

/// Writes a record whose stamp is `BUSY` by our doing.
fn fill(record: &[AtomicU64], stamp: u64, at: Duration, parts: &[&str]) {
    let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
    let mut bytes = [0; TEXT_LEN_MAX];
    let (len, whole) = gather(parts, &mut bytes);
    let length = len as u64 | (u64::try_from(whole).unwrap_or(u64::MAX).min(u32::MAX.into()) << 32);
    // No store below may be seen before `BUSY` is; the checksum would tell, but at the price of the record.
    fence(Ordering::Release);
    // What is over in the last word is zeros, as the reader has it.
    let text = bytes.chunks_exact(8).take(len.div_ceil(8));
    let text = text.map(|word| u64::from_ne_bytes(word.try_into().expect("a chunk of eight has eight bytes")));
    for (place, word) in record[record::TEXT..].iter().zip(text.clone()) {
        place.store(word, Ordering::Relaxed);
    }
    record[record::AT].store(at, Ordering::Relaxed);
    record[record::LENGTH].store(length, Ordering::Relaxed);
    record[record::CHECK].store(checksum(stamp, at, length, text), Ordering::Relaxed);
    record[record::STAMP].store(stamp, Ordering::Release);
}

/// Puts the parts together, as far as there is room. How many bytes are there, and how many would have been.
fn gather(parts: &[&str], into: &mut [u8; TEXT_LEN_MAX]) -> (usize, usize) {
    let (mut len, mut whole) = (0, 0_usize);
    for part in parts {
        // Once something was left out, nothing comes after it.
        let room = if len == whole { TEXT_LEN_MAX - len } else { 0 };
        let fits = (0..=part.len().min(room)).rev().find(|at| part.is_char_boundary(*at));
        let fits = &part.as_bytes()[..fits.unwrap_or(0)];
        into[len..len + fits.len()].copy_from_slice(fits);
        len += fits.len();
        whole = whole.saturating_add(part.len());
    }
    (len, whole)
}

/// How many places in a row may be in the middle of being written before a marker is given up.
const TRIES: usize = 8;
