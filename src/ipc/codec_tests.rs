//! Tests of the codec: every split, every limit, hostile input.

use std::fs::File;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::stat::fstat;
use serde::Serialize;
use serde_json::json;

use super::super::encode::{EncodeError, encode_message};
use super::super::frame::{BoundListener, FRAME_FDS_MAX, ToMaster, ToWorker};
use super::*;
use crate::model::{BoundAddress, Heartbeat, ListenAddr, ListenError, ListenKey, ListenOptions, Slot, WorkerStats};

type Decoded<T> = Result<Vec<Incoming<T>>, FrameError>;

fn feed(decoder: &mut Decoder, bytes: &[u8], fds: Vec<OwnedFd>, truncated: bool) {
    let len = bytes.len();
    decoder
        .fill(|buf| {
            buf.extend_from_slice(bytes);
            Ok(Received { len, fds, truncated })
        })
        .unwrap();
}

fn take<T: Wire>(decoder: &mut Decoder) -> Decoded<T> {
    std::iter::from_fn(|| decoder.next().transpose()).collect()
}

fn decode<T: Wire>(bytes: &[u8], fds: Vec<OwnedFd>) -> Decoded<T> {
    let mut decoder = Decoder::new();
    feed(&mut decoder, bytes, fds, false);
    take(&mut decoder)
}

fn texts(frames: &[Incoming<ToMaster>]) -> Vec<String> {
    frames.iter().map(|frame| format!("{:?}", frame.frame)).collect()
}

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| OwnedFd::from(File::open("/dev/null").unwrap()))
        .collect()
}

/// A pipe has an inode of its own, so that a descriptor can be recognised after its journey.
fn pipe() -> (OwnedFd, u64) {
    let (end, _) = nix::unistd::pipe().unwrap();
    let inode = inode(&end);
    (end, inode)
}

fn inode(fd: &impl AsFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

/// A generator that needs no seed from outside: the same numbers in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

fn every_frame_to_the_master() -> Vec<ToMaster> {
    let key = ListenKey::Named("http".into());
    let asked = ListenKey::Asked {
        address: ListenAddr::Tcp(([127, 0, 0, 1], 0).into()),
        index: 1,
    };
    let payload = Payload::from_value(&json!({"text": "zwölf\n{\"", "list": [1, null]})).unwrap();
    vec![
        ToMaster::Online { protocol: 1, pid: 7 },
        ToMaster::Bind {
            id: 3,
            key: asked.clone(),
            cwd: Some("/tmp".into()),
            options: ListenOptions::default(),
        },
        ToMaster::Listening {
            key: key.clone(),
            address: BoundAddress::tcp(([127, 0, 0, 1], 80).into()),
            adopts: true,
        },
        ToMaster::Ready,
        ToMaster::Message(payload.clone()),
        ToMaster::Call { id: 1, payload },
        ToMaster::Reply {
            id: 2,
            answer: Ok(Payload::from_value(&()).unwrap()),
        },
        ToMaster::Reply {
            id: u64::MAX,
            answer: Err("no".into()),
        },
        ToMaster::Stats(WorkerStats::default()),
        ToMaster::Failed("out of luck".into()),
        ToMaster::Release { key: asked },
        ToMaster::Heartbeat(Heartbeat::default()),
        ToMaster::MoreTime(Default::default()),
        ToMaster::Leaving,
    ]
}

#[test]
fn f_061_n_140_every_split_of_a_stream_gives_the_same_frames() {
    let frames = every_frame_to_the_master();
    let mut stream = Vec::new();
    for frame in &frames {
        frame.encode(0, &mut stream).unwrap();
        stream.extend_from_slice(b"\n \r\n");
    }
    let expected: Vec<_> = frames.iter().map(|frame| format!("{frame:?}")).collect();
    for split in 0..=stream.len() {
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        for part in [&stream[..split], &stream[split..]] {
            if !part.is_empty() {
                feed(&mut decoder, part, Vec::new(), false);
            }
            got.extend(texts(&take(&mut decoder).unwrap()));
        }
        assert_eq!(got, expected, "split at {split}");
    }
    let mut decoder = Decoder::new();
    let mut got = Vec::new();
    for byte in &stream {
        feed(&mut decoder, &[*byte], Vec::new(), false);
        got.extend(texts(&take(&mut decoder).unwrap()));
    }
    assert_eq!(got, expected, "byte by byte");
}

#[test]
fn every_frame_to_a_worker_comes_back_as_it_was() {
    let key = ListenKey::Named("http".into());
    let bound = BoundListener {
        key: key.clone(),
        address: BoundAddress::unix("/tmp/x"),
        handed: false,
    };
    let error = ListenError {
        address: "*:80".into(),
        errno: Some(13),
        detail: "bind: EACCES".into(),
    };
    let payload = Payload::from_value("x").unwrap();
    let frames = [
        ToWorker::Stop {
            grace_ms: 30_000,
            lame_duck_ms: 5_000,
        },
        ToWorker::Bound {
            id: 1,
            answer: Ok(bound),
        },
        ToWorker::Bound {
            id: 2,
            answer: Err(error),
        },
        ToWorker::Adopt {
            key: key.clone(),
            slot: Slot::new("a", 2),
        },
        ToWorker::Unadopt {
            key,
            slot: Slot::new("a", 2),
        },
        ToWorker::Message(payload.clone()),
        ToWorker::Call {
            id: 4,
            payload: payload.clone(),
        },
        ToWorker::Reply {
            id: 5,
            answer: Ok(payload),
        },
    ];
    for frame in frames {
        let count = *frame.fds_allowed().start();
        let mut line = Vec::new();
        frame.encode(count, &mut line).unwrap();
        let got = decode::<ToWorker>(&line, files(count)).unwrap();
        assert_eq!(format!("{:?}", got[0].frame), format!("{frame:?}"));
        assert_eq!(got[0].fds.len(), count);
    }
}

#[test]
fn f_062_malformed_lines_are_errors_and_not_panics() {
    let not_json = [
        "{",
        "}",
        "null",
        "[]",
        "7",
        "{\"t\":7}",
        "{}",
        "{\"t\":\"ready\"} x",
        "\u{1}",
    ];
    for line in not_json {
        let error = decode::<ToMaster>(format!("{line}\n").as_bytes(), Vec::new()).unwrap_err();
        assert!(matches!(error, FrameError::NotJson(_)), "{line}: {error}");
    }
    let bad_body = [
        r#"{"t":"online"}"#,
        r#"{"t":"online","m":{"protocol":-1,"pid":1}}"#,
        r#"{"t":"heartbeat","m":{"n":"x"}}"#,
        r#"{"t":"call","m":1}"#,
        r#"{"t":"reply","id":1,"m":{}}"#,
        r#"{"t":"reply","id":1,"m":{"ok":1,"err":"x"}}"#,
        r#"{"t":"bind","id":1,"m":{"key":{"asked":{}}}}"#,
    ];
    for line in bad_body {
        let error = decode::<ToMaster>(format!("{line}\n").as_bytes(), Vec::new()).unwrap_err();
        assert!(matches!(error, FrameError::BadBody { .. }), "{line}: {error}");
    }
    for utf8 in [&b"{\"t\":\"msg\",\"m\":\"\xff\"}\n"[..], b"{\"t\":\"\xff\"}\n"] {
        let error = decode::<ToMaster>(utf8, Vec::new()).unwrap_err();
        assert!(matches!(error, FrameError::NotJson(_)), "{error}");
    }
    let long = format!("{{\"t\":\"{}\"}}\n", "x".repeat(100_000));
    let error = decode::<ToMaster>(long.as_bytes(), Vec::new()).unwrap_err();
    assert!(error.to_string().len() < 500, "a message for people is short");
    // A kind of the other direction is none of this one.
    let error = decode::<ToMaster>(b"{\"t\":\"stop\",\"m\":{\"grace_ms\":1}}\n", Vec::new()).unwrap_err();
    assert_eq!(error, FrameError::UnknownKind("stop".into()));
}

#[test]
fn f_063_what_came_before_garbage_is_delivered_and_nothing_after() {
    let mut decoder = Decoder::new();
    let stream = b"{\"t\":\"ready\"}\nGET / HTTP/1.1\r\n{\"t\":\"leaving\"}\n";
    feed(&mut decoder, stream, Vec::new(), false);
    assert!(matches!(
        decoder.next::<ToMaster>().unwrap().unwrap().frame,
        ToMaster::Ready
    ));
    assert!(matches!(decoder.next::<ToMaster>(), Err(FrameError::NotJson(_))));
    assert!(decoder.next::<ToMaster>().unwrap().is_none());
    assert!(decoder.is_ended());
}

#[test]
fn f_065_nesting_is_limited_on_both_sides() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let line = |payload: &str| format!("{{\"t\":\"msg\",\"m\":{payload}}}\n").into_bytes();
    let error = decode::<ToMaster>(&line(&nested(100_000)), Vec::new()).unwrap_err();
    assert_eq!(error, FrameError::TooDeep);
    assert_eq!(
        decode::<ToMaster>(&line(&"[".repeat(100_000)), Vec::new()).unwrap_err(),
        error
    );

    // What is accepted can be parsed.
    let deepest = &decode::<ToMaster>(&line(&nested(FRAME_DEPTH_MAX - 1)), Vec::new()).unwrap()[0];
    let ToMaster::Message(payload) = &deepest.frame else {
        panic!("a message")
    };
    payload.parse::<serde_json::Value>().unwrap();
    assert!(decode::<ToMaster>(&line(&nested(FRAME_DEPTH_MAX)), Vec::new()).is_err());
    // Brackets in texts and side by side are no nesting.
    let flat = format!("[\"{}\\\"[\",{}]", "[".repeat(1000), vec!["[]"; 1000].join(","));
    assert_eq!(decode::<ToMaster>(&line(&flat), Vec::new()).unwrap().len(), 1);

    let raw = RawValue::from_string(nested(FRAME_DEPTH_MAX)).unwrap();
    let mut out = b"kept".to_vec();
    let error = encode_message(&raw, 0, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::TooDeep) && out == b"kept");
}

#[test]
fn n_140_an_endless_line_is_cut_at_the_limit() {
    let part = vec![b'x'; 1 << 15];
    let mut decoder = Decoder::new();
    let mut fed = 0;
    // A GiB, if it would take it.
    let error = (0..1 << 15).find_map(|_| {
        feed(&mut decoder, &part, Vec::new(), false);
        fed += part.len();
        decoder.next::<ToMaster>().err()
    });
    assert_eq!(error, Some(FrameError::TooLong));
    assert_eq!(fed, FRAME_LEN_MAX + part.len());
    assert_eq!(decoder.buf.capacity(), 0);
}

#[test]
fn a_long_line_does_not_keep_its_memory() {
    let mut decoder = Decoder::new();
    let mut line = Vec::new();
    encode_message(&"x".repeat(1 << 19), 0, &mut line).unwrap();
    line.extend_from_slice(b"{\"t\":");
    feed(&mut decoder, &line, Vec::new(), false);
    assert_eq!(take::<ToMaster>(&mut decoder).unwrap().len(), 1);
    assert!(decoder.buf.capacity() < 100);
    feed(&mut decoder, b"\"ready\"}\n", Vec::new(), false);
    assert_eq!(take::<ToMaster>(&mut decoder).unwrap().len(), 1);
}

#[test]
fn the_longest_frame_passes_and_one_byte_more_is_refused_at_the_sender() {
    let room = FRAME_LEN_MAX - MESSAGE_HEAD.len() - "\"\"}".len();
    let mut out = Vec::new();
    encode_message(&"x".repeat(room), 0, &mut out).unwrap();
    assert_eq!(out.len(), FRAME_LEN_MAX + 1);
    assert_eq!(decode::<ToMaster>(&out, Vec::new()).unwrap().len(), 1);
    let error = encode_message(&"x".repeat(room + 1), 0, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::TooLarge));
    assert_eq!(out.len(), FRAME_LEN_MAX + 1, "the buffer is as it was");
}

#[test]
fn n_129_a_user_cannot_speak_for_the_library() {
    let hostile = [
        json!({"t": "stop", "m": {"grace_ms": 0}}),
        json!("\"}\n{\"t\":\"stop\"}"),
        json!(null),
    ];
    for value in hostile {
        let mut line = Vec::new();
        encode_message(&value, 0, &mut line).unwrap();
        let got = decode::<ToWorker>(&line, Vec::new()).unwrap();
        assert_eq!(got.len(), 1);
        let ToWorker::Message(payload) = &got[0].frame else {
            panic!("a message")
        };
        assert_eq!(payload.parse::<serde_json::Value>().unwrap(), value);
    }
}

#[test]
fn other_writers_may_order_space_and_add_as_they_like() {
    for line in [
        "{ \"m\" : [1] , \"new\":{\"deep\":[2]}, \"t\" : \"msg\" }\r\n",
        "{\"t\":\"msg\",\"m\":[1],\"n\":2}\n",
        "{\"t\":\"msg\",\"m\": [1] }\n",
    ] {
        let got = decode::<ToMaster>(line.as_bytes(), Vec::new()).unwrap();
        assert_eq!(texts(&got), ["Message([1])"], "{line}");
    }
    let got = decode::<ToMaster>(b"{\"t\":\"msg\"}\n", Vec::new()).unwrap();
    assert_eq!(texts(&got), ["Message(null)"]);
    let raw = RawValue::from_string("{\n \"a\": 1\n}".into()).unwrap();
    let mut line = Vec::new();
    encode_message(&raw, 0, &mut line).unwrap();
    assert_eq!(decode::<ToMaster>(&line, Vec::new()).unwrap().len(), 1);
}

#[test]
fn n_135_what_has_no_json_form_is_an_error_at_the_sender() {
    struct Panics;
    impl Serialize for Panics {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("on purpose")
        }
    }
    let mut out = b"kept".to_vec();
    let keys: std::collections::BTreeMap<_, _> = [((1, 2), 3)].into();
    let error = encode_message(&keys, 0, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::Payload(_)), "{error}");
    assert_eq!(out, b"kept");
    catch_unwind(AssertUnwindSafe(|| encode_message(&Panics, 0, &mut out))).unwrap_err();
    assert_eq!(out, b"kept");
}

#[test]
fn f_082_descriptors_nobody_declared_are_closed_and_counted() {
    let mut decoder = Decoder::new();
    let heartbeat = b"{\"t\":\"heartbeat\",\"m\":{\"n\":1}}\n";
    for round in 1..=SURPLUS_FDS_MAX {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        feed(&mut decoder, heartbeat, vec![writer], false);
        let frames = take::<ToMaster>(&mut decoder).unwrap();
        assert!(frames[0].fds.is_empty());
        // End of file: the only writing end is closed.
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
        assert_eq!(decoder.counters().surplus_fds, round);
    }
    feed(&mut decoder, heartbeat, files(1), false);
    assert_eq!(
        take::<ToMaster>(&mut decoder).unwrap_err(),
        FrameError::SurplusDescriptors
    );
}

#[test]
fn descriptors_that_ride_on_the_middle_of_a_line_are_not_collected() {
    let mut decoder = Decoder::new();
    feed(&mut decoder, b"{\"t\":\"msg\",\"fds\":1,", files(1), false);
    assert!(decoder.next::<ToMaster>().unwrap().is_none());
    feed(&mut decoder, b"\"m\":1", files(2), false);
    assert!(decoder.next::<ToMaster>().unwrap().is_none());
    assert_eq!((decoder.sets.len(), decoder.counters().surplus_fds), (1, 2));
    feed(&mut decoder, b"}\n", Vec::new(), false);
    assert_eq!(decoder.next::<ToMaster>().unwrap().unwrap().fds.len(), 1);
}

#[test]
fn f_083_another_number_than_declared_closes_all_and_is_an_error() {
    let declared = |count: u64| format!("{{\"t\":\"msg\",\"fds\":{count},\"m\":1}}\n");
    for (count, sent) in [(1, 2), (2, 1), (1, 0), (3, 253)] {
        let error = decode::<ToMaster>(declared(count).as_bytes(), files(sent)).unwrap_err();
        let expected = FrameError::Descriptors {
            declared: count,
            received: sent,
        };
        assert_eq!(error, expected);
    }
    let not_allowed = |line: &str, sent| decode::<ToWorker>(line.as_bytes(), files(sent)).unwrap_err();
    for error in [
        not_allowed(&declared(65), 65),
        not_allowed(&declared(u64::MAX), 1),
        not_allowed("{\"t\":\"stop\",\"fds\":1,\"m\":{\"grace_ms\":1}}\n", 1),
        not_allowed(
            "{\"t\":\"adopt\",\"m\":{\"key\":{\"named\":\"a\"},\"slot\":{\"spec\":\"a\",\"index\":1}}}\n",
            0,
        ),
    ] {
        assert!(matches!(error, FrameError::DescriptorsNotAllowed { .. }), "{error}");
    }
    let mut out = Vec::new();
    let error = encode_message(&1, FRAME_FDS_MAX + 1, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::TooManyFds));
}

#[test]
fn f_074_descriptors_lost_on_the_way_are_told_and_are_not_the_peers_fault() {
    let mut decoder = Decoder::new();
    let line = b"{\"t\":\"msg\",\"fds\":3,\"m\":1}\n";
    for arrived in [0, 2] {
        feed(&mut decoder, line, files(arrived), true);
        let frame = decoder.next::<ToMaster>().unwrap().unwrap();
        assert!(frame.fds.is_empty() && frame.fds_lost);
    }
    feed(&mut decoder, line, files(3), false);
    let frame = decoder.next::<ToMaster>().unwrap().unwrap();
    assert!(frame.fds.len() == 3 && !frame.fds_lost);
}

#[test]
fn half_a_frame_at_the_end_is_dropped_and_counted_once() {
    let mut decoder = Decoder::new();
    let fd = files(1);
    feed(&mut decoder, b"{\"t\":\"ready\"}\n{\"t\":\"msg\",\"fds\":1", fd, false);
    feed(&mut decoder, b"", Vec::new(), false);
    assert_eq!(take::<ToMaster>(&mut decoder).unwrap().len(), 1);
    assert!(decoder.next::<ToMaster>().unwrap().is_none());
    assert_eq!(decoder.counters().half_frames, 1);
    assert!(decoder.is_ended());
}

#[test]
fn who_waits_for_a_line_keeps_no_room_and_shares_none_of_its_bytes() {
    let (mut idle, mut half) = (Decoder::new(), Decoder::new());
    feed(&mut half, b"{\"t\":\"re", Vec::new(), false);
    assert!(half.next::<ToMaster>().unwrap().is_none());
    for _ in 0..3 {
        feed(
            &mut idle,
            b"{\"t\":\"msg\",\"m\":1}\n{\"t\":\"msg\",\"m\":2}\n",
            Vec::new(),
            false,
        );
        let frames = take::<ToMaster>(&mut idle).unwrap();
        assert_eq!(idle.buf.capacity(), 0, "its room is lent to others");
        let nothing = idle.fill(|buffer| {
            buffer.reserve(1 << 14);
            Err(io::ErrorKind::WouldBlock.into())
        });
        assert!(nothing.is_err());
        assert_eq!(idle.buf.capacity(), 0, "also when nothing came");
        // The payloads live in the room that is lent: who reads next must not write over them.
        feed(&mut Decoder::new(), &[b' '; 64], Vec::new(), false);
        assert_eq!(texts(&frames), ["Message(1)", "Message(2)"]);
    }
    feed(&mut half, b"ady\"}\n", Vec::new(), false);
    assert_eq!(take::<ToMaster>(&mut half).unwrap().len(), 1);
    assert_eq!(half.buf.capacity(), 0);
}

#[path = "codec_order_tests.rs"]
mod order;
