//! Tests of the channel over real socket pairs: both directions at once, fairness, last words, a dead peer.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::stat::fstat;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::super::frame::{ToMaster, ToWorker};
use super::super::outbox::{Limits, PushError};
use super::*;

const LONG: Duration = Duration::from_secs(10);

fn pair() -> (Rc<Channel>, Rc<Channel>) {
    let (left, right) = UnixStream::pair().unwrap();
    let channel = |end: UnixStream| Rc::new(Channel::new(end.into()).unwrap());
    (channel(left), channel(right))
}

/// Our channel and the plain other end.
fn half() -> (Channel, UnixStream) {
    let (left, right) = UnixStream::pair().unwrap();
    (Channel::new(left.into()).unwrap(), right)
}

async fn read_all<T: Wire>(channel: &Channel, wanted: usize) -> (Vec<Incoming<T>>, ReadOutcome) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    while frames.len() < wanted {
        let outcome = timeout(LONG, channel.read_batch(&mut decoder, &mut frames)).await;
        if outcome.unwrap().unwrap() == ReadOutcome::Closed {
            return (frames, ReadOutcome::Closed);
        }
        tokio::task::yield_now().await;
    }
    (frames, ReadOutcome::Frames)
}

#[tokio::test(flavor = "current_thread")]
async fn f_070_both_sides_write_before_they_read() {
    let (master, worker) = pair();
    let limits = Limits {
        bytes: 4 << 20,
        ..Limits::default()
    };
    let (to_worker, to_master) = (Outbox::new(limits), Outbox::new(limits));
    let text = "x".repeat(1 << 12);
    for _ in 0..512 {
        to_worker.push_message(&text, Vec::new()).unwrap();
        to_master.push_message(&text, Vec::new()).unwrap();
    }
    LocalSet::new()
        .run_until(async {
            for (channel, outbox) in [(&master, &to_worker), (&worker, &to_master)] {
                let (channel, outbox) = (Rc::clone(channel), outbox.clone());
                spawn_local(async move { channel.write_loop(&outbox).await });
            }
            let (at_master, at_worker) =
                tokio::join!(read_all::<ToMaster>(&master, 512), read_all::<ToWorker>(&worker, 512));
            assert_eq!((at_master.0.len(), at_worker.0.len()), (512, 512));
            timeout(LONG, to_worker.flushed()).await.unwrap();
            assert_eq!(to_worker.queued_bytes(), 0);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn f_068_a_turn_returns_at_most_64_frames_and_the_rest_comes_without_reading() {
    let (ours, mut theirs) = half();
    theirs.write_all(&b"{\"t\":\"ready\"}\n".repeat(100)).unwrap();
    let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
    ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert_eq!(frames.len(), 64);
    theirs.write_all(b"{\"t\":\"leaving\"}\n").unwrap();
    ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert_eq!(frames.len(), 100);
    ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert!(matches!(frames[100].frame, ToMaster::Leaving));
}

#[tokio::test(flavor = "current_thread")]
async fn n_115_f_088_a_descriptor_comes_with_its_own_message_even_if_they_pile_up() {
    let (ours, theirs) = half();
    let outbox = Outbox::default();
    let mut expected = Vec::new();
    for index in 0..200_usize {
        let fds: Vec<OwnedFd> = (0..[0, 1, 0, 0, 2][index % 5])
            .map(|_| nix::unistd::pipe().unwrap().0)
            .collect();
        expected.push(fds.iter().map(|fd| fstat(fd).unwrap().st_ino).collect::<Vec<_>>());
        outbox.push_message(&index, fds).unwrap();
    }
    assert!(outbox.flush_now(theirs.as_fd(), LONG));
    let (frames, _) = read_all::<ToMaster>(&ours, 200).await;
    for (index, frame) in frames.iter().enumerate() {
        let ToMaster::Message(payload) = &frame.frame else {
            panic!("a message")
        };
        assert_eq!(payload.parse::<usize>().unwrap(), index);
        let inodes: Vec<_> = frame.fds.iter().map(|fd| fstat(fd).unwrap().st_ino).collect();
        assert_eq!(inodes, expected[index]);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn n_139_what_came_before_the_end_is_delivered_and_the_end_stays() {
    let (ours, mut theirs) = half();
    theirs
        .write_all(b"{\"t\":\"ready\"}\n{\"t\":\"leaving\"}\n{\"t\":\"half")
        .unwrap();
    drop(theirs);
    let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
    let first = ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert_eq!((first, frames.len()), (ReadOutcome::Frames, 2));
    for _ in 0..3 {
        let outcome = timeout(LONG, ours.read_batch(&mut decoder, &mut frames)).await.unwrap();
        assert_eq!(outcome.unwrap(), ReadOutcome::Closed);
    }
    assert_eq!((frames.len(), decoder.counters().half_frames), (2, 1));
}

#[tokio::test(flavor = "current_thread")]
async fn f_072_last_words_are_read_even_if_the_peer_left_ours_unread() {
    let (ours, mut theirs) = half();
    let outbox = Outbox::default();
    outbox.push_message("never read", Vec::new()).unwrap();
    assert!(outbox.flush_now(ours.as_fd(), LONG));
    theirs.write_all(&b"{\"t\":\"ready\"}\n".repeat(1000)).unwrap();
    // The kernel answers with ECONNRESET after the data.
    drop(theirs);
    let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
    let outcome = ours.drain_now(&mut decoder, &mut frames).unwrap();
    assert_eq!((outcome, frames.len()), (ReadOutcome::Closed, 1000));
}

#[tokio::test(flavor = "current_thread")]
async fn f_073_draining_does_not_wait_for_a_grandchild_that_holds_the_other_end() {
    let (ours, mut theirs) = half();
    theirs.write_all(&b"{\"t\":\"ready\"}\n".repeat(1000)).unwrap();
    let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
    let outcome = ours.drain_now(&mut decoder, &mut frames).unwrap();
    assert_eq!((outcome, frames.len()), (ReadOutcome::Frames, 1000));
}

#[tokio::test(flavor = "current_thread")]
async fn a_dead_peer_ends_the_writer_without_an_error_and_closes_what_waited() {
    let (ours, theirs) = half();
    let outbox = Outbox::default();
    while outbox.push_message(&"x".repeat(1000), Vec::new()).is_ok() {}
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let reply = ToWorker::Reply {
        id: 1,
        answer: Err("x".into()),
    };
    outbox.push(&reply, vec![writer]).unwrap();
    let (wrote, flushed) = tokio::join!(timeout(LONG, ours.write_loop(&outbox)), async {
        // The writer is blocked by now: it runs first, and one megabyte does not fit.
        drop(theirs);
        timeout(LONG, outbox.flushed()).await
    });
    wrote.unwrap().unwrap();
    flushed.unwrap();
    assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    assert!(matches!(
        outbox.push_message("x", Vec::new()),
        Err(PushError::Closed(_))
    ));
}

#[tokio::test(flavor = "current_thread")]
async fn the_writer_ends_when_closed_and_flushed_or_abandoned() {
    let (ours, mut theirs) = half();
    let outbox = Outbox::default();
    outbox
        .push_message("x", vec![File::open("/dev/null").unwrap().into()])
        .unwrap();
    let (wrote, ()) = tokio::join!(timeout(LONG, ours.write_loop(&outbox)), async {
        outbox.flushed().await;
        outbox.push_message("y", Vec::new()).unwrap();
        outbox.close();
    });
    wrote.unwrap().unwrap();
    drop(ours);
    let mut got = String::new();
    theirs.read_to_string(&mut got).unwrap();
    assert_eq!(got.lines().count(), 2);

    let (ours, _theirs) = half();
    let outbox = Outbox::default();
    while outbox.push_message(&"x".repeat(1000), Vec::new()).is_ok() {}
    let (wrote, ()) = tokio::join!(timeout(LONG, ours.write_loop(&outbox)), async {
        tokio::task::yield_now().await;
        outbox.abandon();
    });
    wrote.unwrap().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_breach_of_the_protocol_ends_the_reading() {
    let (ours, mut theirs) = half();
    theirs
        .write_all(b"{\"t\":\"ready\"}\n{\"t\":\"nonsense\"}\n{\"t\":\"ready\"}\n")
        .unwrap();
    let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
    let error = ours.read_batch(&mut decoder, &mut frames).await.unwrap_err();
    assert!(matches!(error, ChannelError::Frame(FrameError::UnknownKind(_))));
    assert_eq!(frames.len(), 1);
    let outcome = ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert_eq!((outcome, frames.len()), (ReadOutcome::Closed, 1));
}

/// Both ways to read, the loop's and the one after a death, own what was declared and close the rest: nothing is lost.
#[tokio::test(flavor = "current_thread")]
async fn f_085_i_32_every_descriptor_sent_is_owned_or_closed_wherever_it_is_read() {
    for after_death in [false, true] {
        let (ours, theirs) = half();
        let mut kept_open = Vec::new();
        let mut sent = 0;
        for (declared, attached) in [(0, 0), (1, 1), (0, 1), (2, 2), (0, 2)].repeat(10) {
            let line = format!("{{\"t\":\"msg\",\"fds\":{declared},\"m\":{sent}}}\n");
            let (reads, writes): (Vec<_>, Vec<_>) = (0..attached).map(|_| nix::unistd::pipe().unwrap()).unzip();
            scm::send(theirs.as_fd(), &[IoSlice::new(line.as_bytes())], &writes).unwrap();
            kept_open.extend(reads.into_iter().map(|read| (read, declared > 0)));
            sent += writes.len();
        }
        let (mut decoder, mut frames) = (Decoder::new(), Vec::<Incoming<ToMaster>>::new());
        while frames.len() < 50 {
            if after_death {
                ours.drain_now(&mut decoder, &mut frames).unwrap();
            } else {
                ours.read_batch(&mut decoder, &mut frames).await.unwrap();
            }
        }
        let owned: usize = frames.iter().map(|frame| frame.fds.len()).sum();
        let closed = usize::try_from(decoder.counters().surplus_fds).unwrap();
        assert_eq!((owned, closed, owned + closed), (30, 30, sent));
        // The kernel agrees: a pipe has a writer exactly as long as somebody owns what was sent.
        let has_writer = |read: &OwnedFd| {
            let mut fds = [PollFd::new(read.as_fd(), PollFlags::empty())];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
        };
        assert!(kept_open.iter().all(|(read, owned)| has_writer(read) == *owned));
        drop(frames);
        assert!(kept_open.iter().all(|(read, _)| !has_writer(read)));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn i_26_what_lies_unread_is_seen_and_nothing_is_taken() {
    let (ours, mut theirs) = half();
    let mut decoder = Decoder::new();
    let is_unread = async |decoder: &Decoder| timeout(Duration::ZERO, ours.unread(decoder)).await.is_ok();
    assert!(!is_unread(&decoder).await, "there is nothing");
    for round in 0..2 {
        theirs.write_all(b"{\"t\":\"ready\"}\n").unwrap();
        timeout(LONG, ours.unread(&decoder)).await.expect("there is something");
        let mut frames = Vec::<Incoming<ToMaster>>::new();
        ours.read_batch(&mut decoder, &mut frames).await.unwrap();
        assert_eq!(frames.len(), 1, "round {round}");
        assert!(!is_unread(&decoder).await, "it was read");
    }
    // More than one turn gives: the rest is in the decoder.
    theirs
        .write_all("{\"t\":\"ready\"}\n".repeat(TURN_FRAMES + 1).as_bytes())
        .unwrap();
    let mut frames = Vec::<Incoming<ToMaster>>::new();
    ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert!(is_unread(&decoder).await);
    ours.read_batch(&mut decoder, &mut frames).await.unwrap();
    assert!(!is_unread(&decoder).await);
    drop(theirs);
    timeout(LONG, ours.unread(&decoder))
        .await
        .expect("the end is something");
}
