//! Heartbeats on the wire: what comes through, and what is a breach.

use std::time::Duration;

use super::codec::{Decoder, FrameError};
use super::frame::{Incoming, ToMaster, Wire};
use crate::model::{Heartbeat, LoopBeat};
use crate::sys::scm::Received;

fn decode(line: &str) -> Result<ToMaster, FrameError> {
    let mut decoder = Decoder::new();
    let bytes = format!("{line}\n");
    let read = decoder.fill(|buf| {
        buf.extend_from_slice(bytes.as_bytes());
        Ok(Received {
            len: bytes.len(),
            fds: Vec::new(),
            truncated: false,
        })
    });
    read.unwrap();
    let frame: Option<Incoming<ToMaster>> = decoder.next()?;
    Ok(frame.expect("the line is complete").frame)
}

fn encoded(frame: &ToMaster) -> String {
    let mut line = Vec::new();
    frame.encode(0, &mut line).unwrap();
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

#[test]
fn a_heartbeat_comes_back_as_it_was_sent() {
    let beat = Heartbeat::new(
        u64::MAX,
        7,
        vec![
            LoopBeat::new("main", 1, Duration::ZERO, ""),
            LoopBeat::new("q\"\\\n", 2, Duration::from_millis(1500), "GET /ä"),
        ],
    );
    let ToMaster::Heartbeat(came) = decode(&encoded(&ToMaster::Heartbeat(beat.clone()))).unwrap() else {
        panic!("it is a heartbeat");
    };
    assert_eq!(came, beat);
    let bare = decode(r#"{"t":"heartbeat","m":{"n":1}}"#).unwrap();
    assert!(matches!(bare, ToMaster::Heartbeat(beat) if beat == Heartbeat::new(1, 0, Vec::new())));
}

#[test]
fn as_many_loops_as_a_worker_may_watch_fit_and_one_more_is_a_breach() {
    let one = format!(r#"{{"name":"{}","doing":"{}"}}"#, "n".repeat(64), "d".repeat(128));
    let frame = |loops: usize| {
        let loops = vec![one.as_str(); loops].join(",");
        format!(r#"{{"t":"heartbeat","m":{{"n":1,"loops":[{loops}]}}}}"#)
    };
    assert!(decode(&frame(64)).is_ok());
    assert!(matches!(decode(&frame(65)), Err(FrameError::BadBody { .. })));
}

#[test]
fn f_042_numbers_that_are_none_and_texts_without_end_are_breaches_and_never_a_panic() {
    let long = "x".repeat(65);
    let bodies = [
        r#"{"n":18446744073709551616}"#.to_owned(),
        r#"{"n":-1}"#.to_owned(),
        r#"{"n":1.5}"#.to_owned(),
        r#"{"n":null}"#.to_owned(),
        r#"{"n":1,"active":-1}"#.to_owned(),
        r#"{"n":1,"loops":{}}"#.to_owned(),
        r#"{"n":1,"loops":[{"name":"a","late_ms":1e999}]}"#.to_owned(),
        r#"{"n":1,"loops":[{"name":"a","late_ms":-3}]}"#.to_owned(),
        format!(r#"{{"n":1,"loops":[{{"name":"{long}"}}]}}"#),
        format!(r#"{{"n":1,"loops":[{{"name":"a","doing":"{long}{long}"}}]}}"#),
    ];
    for body in bodies {
        let error = decode(&format!(r#"{{"t":"heartbeat","m":{body}}}"#)).unwrap_err();
        assert!(
            matches!(error, FrameError::BadBody { .. } | FrameError::NotJson(_)),
            "{body}: {error}"
        );
    }
    assert!(decode(r#"{"t":"heartbeat","m":{"n":NaN}}"#).is_err());
    assert!(decode(r#"{"t":"more_time","m":{"ms":-1}}"#).is_err());
    for extreme in [
        r#"{"t":"more_time","m":{"ms":18446744073709551615}}"#,
        r#"{"t":"heartbeat","m":{"n":18446744073709551615,"loops":[{"name":"","tid":4294967295,"late_ms":18446744073709551615}]}}"#,
    ] {
        assert!(decode(extreme).is_ok(), "{extreme}");
    }
}
