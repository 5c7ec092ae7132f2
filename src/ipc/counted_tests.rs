//! Work of the codec whose instructions are counted (`benches/instructions.rs`): a thousand messages each way.
//!
//! A function named `counted_…` is what is counted; the rest of its test prepares, and looks at what came out.

use serde::Serialize;

use super::codec::Decoder;
use super::encode::encode_message;
use super::frame::ToMaster;
use crate::sys::scm::Received;

/// A message as a service would send it.
#[derive(Serialize)]
struct Datum {
    id: u64,
    data: String,
}

#[inline(never)]
fn counted_encode(datum: &Datum, lines: &mut Vec<u8>) {
    for _ in 0..MESSAGES {
        encode_message(datum, 0, lines).unwrap();
    }
}

#[inline(never)]
fn counted_decode(lines: &[u8]) -> usize {
    let mut decoder = Decoder::new();
    let mut found = 0;
    // As the socket hands them over.
    for piece in lines.chunks(1 << 16) {
        let fill = decoder.fill(|buffer| {
            buffer.extend_from_slice(piece);
            Ok(Received {
                len: piece.len(),
                fds: Vec::new(),
                truncated: false,
            })
        });
        fill.unwrap();
        while decoder.next::<ToMaster>().unwrap().is_some() {
            found += 1;
        }
    }
    found
}

#[test]
fn counted_codec_takes_back_what_it_wrote() {
    let datum = Datum {
        id: 1,
        data: "x".repeat(64),
    };
    let mut lines = Vec::new();
    counted_encode(&datum, &mut lines);
    assert_eq!(counted_decode(&lines), MESSAGES);
}

const MESSAGES: usize = 1_000;
