//! Tests of the outbox: bounds, what comes back, and descriptors that are sent exactly once.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use nix::sys::socket::{setsockopt, sockopt};

use super::super::codec::Decoder;
use super::super::frame::{Incoming, ToMaster};
use super::*;
use crate::model::Heartbeat;
use crate::sys::scm::ControlBuffer;

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn flood(outbox: &Outbox, fds: bool) -> usize {
    for count in 0.. {
        let fds = if fds { vec![file()] } else { Vec::new() };
        match outbox.push_message(&"0123456789", fds) {
            Ok(()) => {}
            Err(PushError::Full(_)) => return count,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!("the bound comes before the end of the numbers")
}

/// Everything that is in the socket now.
fn receive(socket: BorrowedFd<'_>, decoder: &mut Decoder) -> Vec<Incoming<ToMaster>> {
    let mut control = ControlBuffer::new();
    let mut frames = Vec::new();
    loop {
        let len = decoder.fill(|buf: &mut BytesMut| scm::recv(socket, buf, 5000, &mut control));
        while let Some(frame) = decoder.next().unwrap() {
            frames.push(frame);
        }
        if len.is_err() {
            return frames;
        }
    }
}

#[test]
fn f_069_nobody_reads_so_it_is_full_and_memory_is_bounded() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let outbox = Outbox::default();
    flood(&outbox, false);
    assert!(!outbox.flush_now(ours.as_fd(), Duration::ZERO));
    flood(&outbox, false);
    assert!(!outbox.flush_now(ours.as_fd(), Duration::from_millis(5)));
    assert!(outbox.queued_bytes() <= Limits::default().bytes);
    // Control frames have room left, and an end too.
    let mut beyond = 0;
    let full = loop {
        match outbox.push(&ToMaster::Heartbeat(Heartbeat::new(1, 0, Vec::new())), Vec::new()) {
            Ok(()) => beyond += 1,
            Err(error) => break error,
        }
    };
    assert!(beyond > 1000 && matches!(full, PushError::Full(_)));
    assert!(outbox.queued_bytes() <= Limits::default().bytes + Limits::default().control_bytes);
}

#[test]
fn frames_are_bounded_too_and_one_frame_always_fits() {
    let outbox = Outbox::new(Limits {
        bytes: 10,
        frames: 5,
        control_bytes: 0,
    });
    assert_eq!(flood(&outbox, false), 1);
    let outbox = Outbox::new(Limits {
        frames: 5,
        ..Limits::default()
    });
    assert_eq!(flood(&outbox, true), 5);
}

#[test]
fn f_080_n_132_after_the_close_it_says_closed_and_gives_the_descriptors_back() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let outbox = Outbox::default();
    outbox.push_message("before", Vec::new()).unwrap();
    outbox.close();
    for _ in 0..2 {
        let error = outbox.push_message("after", vec![file()]).unwrap_err();
        assert!(matches!(error, PushError::Closed(_)));
        assert_eq!(error.into_fds().len(), 1);
    }
    assert!(outbox.flush_now(ours.as_fd(), Duration::ZERO));
    assert_eq!(receive(theirs.as_fd(), &mut Decoder::new()).len(), 1);
}

#[test]
fn n_135_a_refused_message_comes_back_and_leaves_nothing_behind() {
    let outbox = Outbox::default();
    let keys: std::collections::BTreeMap<_, _> = [((1, 2), 3)].into();
    let error = outbox.push_message(&keys, vec![file()]).unwrap_err();
    assert!(matches!(error, PushError::Payload(..)) && error.into_fds().len() == 1);
    let error = outbox.push_message(&"x".repeat(1 << 20), vec![file()]).unwrap_err();
    assert!(matches!(error, PushError::TooLarge(..)) && error.into_fds().len() == 1);
    assert_eq!(outbox.queued_bytes(), 0);
}

#[test]
fn a_message_may_send_messages_while_it_is_written() {
    struct Chatty(Outbox);
    impl Serialize for Chatty {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.push_message("inner", Vec::new()).unwrap();
            serializer.serialize_str("outer")
        }
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let outbox = Outbox::default();
    outbox.push_message(&Chatty(outbox.clone()), Vec::new()).unwrap();
    assert!(outbox.flush_now(ours.as_fd(), Duration::ZERO));
    assert_eq!(receive(theirs.as_fd(), &mut Decoder::new()).len(), 2);
}

#[test]
fn f_077_a_frame_sent_in_parts_delivers_its_descriptor_exactly_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    setsockopt(&ours, sockopt::SndBuf, &4096).unwrap();
    let outbox = Outbox::default();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    outbox.push_message("before", Vec::new()).unwrap();
    outbox.push_message(&"x".repeat(1 << 19), vec![writer]).unwrap();
    outbox.push_message("after", vec![file()]).unwrap();
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    let mut parts = 0;
    while !outbox.flush_now(ours.as_fd(), Duration::ZERO) {
        frames.extend(receive(theirs.as_fd(), &mut decoder));
        parts += 1;
    }
    frames.extend(receive(theirs.as_fd(), &mut decoder));
    assert!(parts > 10, "{parts}");
    let counts: Vec<_> = frames.iter().map(|frame| frame.fds.len()).collect();
    assert_eq!(counts, [0, 1, 1]);
    assert_eq!(decoder.counters().surplus_fds, 0);
    // The received copy is the only writing end left.
    drop(frames);
    assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
}

#[test]
fn abandoning_closes_what_waited() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let outbox = Outbox::default();
    flood(&outbox, false);
    assert!(!outbox.flush_now(ours.as_fd(), Duration::ZERO));
    let (reader, writer) = nix::unistd::pipe().unwrap();
    outbox.push(&ToMaster::Ready, Vec::new()).unwrap();
    let reply = ToMaster::Reply {
        id: 1,
        answer: Err("x".into()),
    };
    outbox.push(&reply, vec![writer]).unwrap();
    outbox.abandon();
    assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    assert_eq!(outbox.queued_bytes(), 0);
    assert!(outbox.is_closed());
    assert!(outbox.flush_now(ours.as_fd(), Duration::ZERO));
}
