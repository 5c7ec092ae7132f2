//! How a flight recorder's memory is laid out. Not here: who writes (`writer`) and who reads (`reader`).
//!
//! The memory is an array of 64-bit words in records of 32: one header, the table of requests, the ring of markers. A record
//! is valid if its stamp is set and its checksum, which covers the stamp, is right; so one that is half written is never
//! taken for one that is whole, whatever the moment at which the writer dies or the reader looks.

use std::ops::Range;

/// Words of a record, the header's too.
pub(super) const RECORD_WORDS: usize = 32;

/// What the first word holds once a worker writes here. The last byte is the version of this layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"ACFLYER\x01");

/// Words of the header. Each is one number by itself, so none can be torn.
pub(super) mod header {
    pub(in super::super) const MAGIC: usize = 0;
    pub(in super::super) const PHASE: usize = 1;
    pub(in super::super) const HEARTBEATS: usize = 2;
    /// Markers begun so far.
    pub(in super::super) const MARKS: usize = 3;
    /// Requests begun so far.
    pub(in super::super) const REQUESTS: usize = 4;
    /// Requests in progress that found no room in the table.
    pub(in super::super) const UNNOTED: usize = 5;
}

/// Words of any other record.
pub(super) mod record {
    /// Which marker or request this is, from 1; `FREE`, or `BUSY` while it is written. Written last.
    pub(in super::super) const STAMP: usize = 0;
    /// Over stamp, time, length and text.
    pub(in super::super) const CHECK: usize = 1;
    /// Microseconds since the worker's start.
    pub(in super::super) const AT: usize = 2;
    /// Bytes of text that are here; above 32 bits, how many there were.
    pub(in super::super) const LENGTH: usize = 3;
    pub(in super::super) const TEXT: usize = 4;
    /// The thread that is in the middle of this request, or 0. A number by itself, not under the checksum.
    pub(in super::super) const THREAD: usize = 31;
}

/// A record that holds nothing.
pub(super) const FREE: u64 = 0;
/// A record that somebody writes, or died writing.
pub(super) const BUSY: u64 = u64::MAX;
/// The longest text of a record, in bytes.
pub(super) const TEXT_LEN_MAX: usize = 8 * (record::THREAD - record::TEXT);

/// Where what is, in numbers of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) requests: Range<usize>,
    pub(super) marks: Range<usize>,
}

impl Layout {
    /// The layout of a memory of so many words; `None` if it is too small to hold a request and two markers.
    pub(super) const fn of(words: usize) -> Option<Self> {
        let records = words / RECORD_WORDS;
        if records < 4 {
            return None;
        }
        // Half of what is left for each, the odd one for the markers.
        let first_mark = 1 + (records - 1) / 2;
        Some(Self {
            requests: 1..first_mark,
            marks: first_mark..records,
        })
    }
}

/// A sum that differs for any two records that differ in one word, and for others with all the luck that 64 bits give.
pub(super) fn checksum(stamp: u64, at: u64, length: u64, text: impl Iterator<Item = u64>) -> u64 {
    // Each step is a bijection of the sum so far (the factor is odd), so a single changed word cannot be undone.
    let step = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    [stamp, at, length].into_iter().chain(text).fold(MAGIC, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_is_divided_without_gap_or_overlap_and_one_that_is_too_small_is_refused() {
        for words in 0..4 * RECORD_WORDS {
            assert_eq!(Layout::of(words), None);
        }
        for records in 4..1100 {
            let layout = Layout::of(records * RECORD_WORDS).unwrap();
            assert_eq!((layout.requests.start, layout.marks.end), (1, records));
            assert_eq!(layout.requests.end, layout.marks.start);
            assert!(!layout.requests.is_empty() && layout.marks.len() >= 2);
        }
    }

    #[test]
    fn every_single_bit_counts_in_the_checksum() {
        let words = [7_u64, 1_000, 24, 1, 2, 3];
        let sum = |words: &[u64; 6]| checksum(words[0], words[1], words[2], words[3..].iter().copied());
        for place in 0..words.len() {
            for bit in 0..64 {
                let mut other = words;
                other[place] ^= 1 << bit;
                assert_ne!(sum(&words), sum(&other));
            }
        }
    }
}
