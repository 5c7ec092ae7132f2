//! What the master makes of a zygote's answers, its silence and its end: here a thread answers as the test wants. The real one
//! is tested with whole clusters.

use std::ffi::CString;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::{Trouble, Zygote};
use super::*;
use crate::process::ProcessHandle;
use crate::sys::process::SpawnRequest;
use crate::sys::scm::{self, ControlBuffer};
use crate::sys::zygote::wire::{REQUEST_LEN_MAX, Reply, Unfit, VERSION, Wanted};

/// The zygote's end, and the memory for its notes.
struct Other {
    socket: OwnedFd,
    note: File,
    /// Descriptors that came with the last request.
    came: usize,
}

impl Other {
    /// The number of the next request, `None` at the end.
    fn next(&mut self) -> Option<u32> {
        let mut poll_it = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut poll_it, PollTimeout::NONE).unwrap();
        let mut packet = BytesMut::new();
        let got = scm::recv(
            self.socket.as_fd(),
            &mut packet,
            REQUEST_LEN_MAX,
            &mut ControlBuffer::new(),
        );
        self.came = got.map_or(0, |got| got.fds.len());
        Wanted::decode(&packet).map(|wanted| wanted.number)
    }

    fn say(&self, reply: Reply) {
        scm::send::<OwnedFd>(self.socket.as_fd(), &[IoSlice::new(&reply.encode())], &[]).unwrap();
    }

    fn note(&self, number: u32, pid: i32) {
        self.note.write_all_at(&number.to_ne_bytes(), 0).unwrap();
        self.note.write_all_at(&pid.to_ne_bytes(), 4).unwrap();
    }
}

/// A zygote whose process only sleeps, and that says what `other` does.
fn with(other: impl FnOnce(Other) + Send + 'static) -> (Zygote, ProcessHandle) {
    let (child, _channel) = start(&shell("exec sleep 600"), &[], &[]).unwrap();
    let (zygote, socket) = Zygote::of(child.handle.clone());
    let other_end = Other {
        socket,
        note: zygote.note().try_clone().unwrap(),
        came: 0,
    };
    std::thread::spawn(move || other(other_end));
    (zygote, child.handle)
}

/// A worker with a descriptor and a directory, and so much environment.
fn ask(zygote: &mut Zygote, environment_len: usize) -> Option<i32> {
    let file = File::open("/dev/null").unwrap();
    zygote.make(&SpawnRequest {
        program: c"unused",
        arguments: &[],
        environment: &[CString::new(vec![b'x'; environment_len]).unwrap()],
        directory: Some(c"/"),
        descriptors: &[(file.as_fd(), 3)],
        null: &[0],
    })
}

async fn end((zygote, process): (Zygote, ProcessHandle)) {
    drop(zygote);
    let status = timeout(LIMIT, process.exited()).await.unwrap();
    assert!(
        matches!(status, ExitStatus::Signal { .. }),
        "a dropped zygote is killed: {status:?}"
    );
    process.reap(true).unwrap();
}

#[tokio::test]
async fn an_answer_is_that_of_its_request_and_descriptors_come_along() {
    let mut pair = with(|mut other| {
        other.say(Reply::Ready { version: VERSION });
        while let Some(number) = other.next() {
            // The descriptor, the two streams that are not null, the directory.
            assert_eq!(other.came, 4);
            other.say(Reply::Made {
                number: number.wrapping_sub(1),
                pid: 1,
            });
            other.say(Reply::Made {
                number,
                pid: 100 + number.cast_signed(),
            });
        }
    });
    assert!(!pair.0.has_worked());
    assert_eq!((ask(&mut pair.0, 10), ask(&mut pair.0, 10)), (Some(101), Some(102)));
    assert!(pair.0.has_worked() && pair.0.is_ready() && pair.0.trouble().is_none());
    // Too large for a packet: executed, and nothing else.
    assert_eq!(ask(&mut pair.0, REQUEST_LEN_MAX), None);
    assert!(pair.0.trouble().is_none());
    assert_eq!(ask(&mut pair.0, 10), Some(103));
    end(pair).await;
}

#[tokio::test]
async fn a_refusal_is_for_this_worker_or_for_all() {
    for (errno, for_all) in [
        (Errno::EAGAIN, false),
        (Errno::EMFILE, false),
        (Errno::ENOENT, false),
        (Errno::ENOSYS, true),
        (Errno::EPERM, true),
    ] {
        let mut pair = with(move |mut other| {
            other.say(Reply::Ready { version: VERSION });
            while let Some(number) = other.next() {
                let errno = errno as i32;
                other.say(Reply::Failed { number, errno });
            }
        });
        assert_eq!(ask(&mut pair.0, 10), None);
        assert_eq!(matches!(pair.0.trouble(), Some(Trouble::Unfit(_))), for_all, "{errno}");
        assert_eq!(pair.0.is_ready(), !for_all);
        end(pair).await;
    }
}

#[tokio::test]
async fn who_cannot_be_a_zygote_is_not_asked_again() {
    for first in [
        Reply::Ready { version: VERSION + 1 },
        Reply::Unfit(Unfit::Threads),
        Reply::Unfit(Unfit::ThreadNumber),
        Reply::Unfit(Unfit::Memory),
    ] {
        let mut pair = with(move |mut other| {
            other.say(first);
            while other.next().is_some() {}
        });
        assert_eq!(ask(&mut pair.0, 10), None);
        assert!(matches!(pair.0.trouble(), Some(Trouble::Unfit(_))), "{first:?}");
        assert_eq!((ask(&mut pair.0, 10), pair.0.is_ready()), (None, false));
        end(pair).await;
    }
}

/// What a silent zygote noted decides: number, process.
async fn silent(noted: Option<(u32, i32)>) -> Option<i32> {
    let mut pair = with(move |mut other| {
        other.say(Reply::Ready { version: VERSION });
        let number = other.next().unwrap();
        other.say(Reply::Made { number, pid: 7 });
        other.next();
        if let Some((number, pid)) = noted {
            other.note(number, pid);
        }
        while other.next().is_some() {}
    });
    assert_eq!(ask(&mut pair.0, 10), Some(7));
    let made = ask(&mut pair.0, 10);
    assert!(matches!(pair.0.trouble(), Some(Trouble::Lost(_))));
    assert!(pair.1.is_gone(), "it was ended before its note was read");
    assert_eq!(ask(&mut pair.0, 10), None);
    end(pair).await;
    made
}

#[tokio::test]
async fn a_worker_that_a_silent_zygote_has_made_is_taken_and_no_other() {
    assert_eq!(silent(Some((2, 4711))).await, Some(4711));
    assert_eq!(silent(Some((2, 0))).await, None, "begun, and not made");
    assert_eq!(silent(Some((1, 4711))).await, None, "that was the one before");
    assert_eq!(silent(None).await, None);
}

#[tokio::test]
async fn a_zygote_that_ends_is_noticed_at_once_in_an_answers_place_and_before() {
    let mut pair = with(|mut other| {
        other.next();
    });
    assert_eq!(ask(&mut pair.0, 10), None);
    assert!(matches!(pair.0.trouble(), Some(Trouble::Lost(_))));
    end(pair).await;
    let (done, gone) = std::sync::mpsc::channel();
    let mut pair = with(move |other| {
        drop(other);
        done.send(()).unwrap();
    });
    gone.recv().unwrap();
    assert_eq!((ask(&mut pair.0, 10), pair.0.is_ready()), (None, false));
    assert!(matches!(pair.0.trouble(), Some(Trouble::Lost(_))));
    end(pair).await;
}
