//! The master's side: makes sense of a copy of the memory, byte by byte distrusted. Writing is not here.
//!
//! The copy may be of a worker that lies, or that wrote while the copy was made. So numbers are bounded, no number is
//! followed out of the copy, texts are made fit for one line, and what is not whole is left out.

use std::time::Duration;

use super::format::{BUSY, FREE, Layout, MAGIC, RECORD_WORDS, TEXT_LEN_MAX, checksum, header, record};
use super::writer::code;
use crate::model::{FlightMark, FlightPhase, FlightRecord, FlightRequest, OneLine};

/// What the copy tells; `None` if nobody began a record in it.
pub(crate) fn read(copy: &[u8]) -> Option<FlightRecord> {
    let words = copy.chunks_exact(8);
    let words = words.map(|word| u64::from_ne_bytes(word.try_into().expect("a chunk of eight has eight bytes")));
    let words: Vec<u64> = words.collect();
    let Layout { requests, marks } = Layout::of(words.len())?;
    if words[header::MAGIC] != MAGIC {
        return None;
    }
    let record = |place: usize| &words[place * RECORD_WORDS..][..RECORD_WORDS];
    let (requests, left_out) = tell_requests(requests.map(record));
    Some(FlightRecord {
        phase: phase(words[header::PHASE]),
        heartbeats: words[header::HEARTBEATS],
        requests,
        more_requests: words[header::UNNOTED].saturating_add(left_out),
        marks: tell_marks(marks.map(record)),
    })
}

/// A record that is whole.
struct Whole<'a> {
    stamp: u64,
    words: &'a [u64],
}

impl<'a> Whole<'a> {
    fn new(words: &'a [u64]) -> Option<Self> {
        let stamp = words[record::STAMP];
        let length = words[record::LENGTH];
        let len = length & u64::from(u32::MAX);
        if stamp == FREE || stamp == BUSY || len > TEXT_LEN_MAX as u64 {
            return None;
        }
        let text = &words[record::TEXT..][..usize::try_from(len).ok()?.div_ceil(8)];
        let sum = checksum(stamp, words[record::AT], length, text.iter().copied());
        (sum == words[record::CHECK]).then_some(Self { stamp, words })
    }

    fn at(&self) -> Duration {
        Duration::from_micros(self.words[record::AT])
    }

    fn tid(&self) -> Option<u32> {
        u32::try_from(self.words[record::THREAD]).ok().filter(|tid| *tid > 0)
    }

    fn text(&self) -> String {
        let length = self.words[record::LENGTH];
        let (len, whole) = (length & u64::from(u32::MAX), length >> 32);
        let text = self.words[record::TEXT..record::THREAD].iter();
        let mut bytes: Vec<u8> = text.flat_map(|word| word.to_ne_bytes()).collect();
        bytes.truncate(usize::try_from(len).unwrap_or(0));
        let mut text = OneLine(String::from_utf8_lossy(&bytes)).to_string();
        if whole > len {
            text.push('…');
        }
        text
    }
}

/// Those that a thread is in first, then by age; and how many are left out.
fn tell_requests<'a>(records: impl Iterator<Item = &'a [u64]>) -> (Vec<FlightRequest>, u64) {
    let mut found: Vec<Whole<'_>> = records.filter_map(Whole::new).collect();
    found.sort_by_key(|request| (request.tid().is_none(), request.stamp));
    let total = found.len();
    let mut left = TEXTS_LEN_MAX;
    let requests = found.iter().map(|request| FlightRequest {
        line: request.text(),
        began: request.at(),
        tid: request.tid(),
    });
    let requests: Vec<FlightRequest> = requests.take_while(|request| takes(&mut left, &request.line)).collect();
    let left_out = total - requests.len();
    (requests, left_out as u64)
}

/// The last ones, oldest first.
fn tell_marks<'a>(records: impl Iterator<Item = &'a [u64]>) -> Vec<FlightMark> {
    let mut found: Vec<Whole<'_>> = records.filter_map(Whole::new).collect();
    found.sort_by_key(|mark| std::cmp::Reverse(mark.stamp));
    let mut left = TEXTS_LEN_MAX;
    let marks = found.iter().map(|mark| FlightMark {
        n: mark.stamp,
        at: mark.at(),
        text: mark.text(),
    });
    let mut marks: Vec<FlightMark> = marks.take_while(|mark| takes(&mut left, &mark.text)).collect();
    marks.reverse();
    marks
}

/// Is there room for one more? A record counts for more than its text, so that empty ones are bounded too.
fn takes(left: &mut usize, text: &str) -> bool {
    let len = text.len() + ITEM_LEN;
    let fits = *left >= len;
    *left = left.saturating_sub(len);
    fits
}

/// A number that is none of ours counts as the first phase.
fn phase(number: u64) -> FlightPhase {
    let phases = [
        FlightPhase::Ending,
        FlightPhase::Draining,
        FlightPhase::LameDuck,
        FlightPhase::Running,
    ];
    phases
        .into_iter()
        .find(|phase| code(*phase) == number)
        .unwrap_or_default()
}

/// Texts of requests in one record, and texts of markers. Records of the dead are kept, so they must be short.
const TEXTS_LEN_MAX: usize = 4 << 10;
/// What a request or marker takes besides its text.
const ITEM_LEN: usize = 32;
