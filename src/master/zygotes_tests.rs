//! What becomes of a zygote that ends, or has said that no other one would do better.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::model::Signal;
use crate::sys::scm;
use crate::sys::zygote::wire::{Reply, Unfit};

/// A zygote in whose place any process sleeps, in a group of its own.
#[expect(clippy::zombie_processes, reason = "its handle reaps it")]
fn sleeping() -> (Zygotes, ProcessHandle, OwnedFd) {
    let sleep = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    let process = ProcessHandle::watch(i32::try_from(sleep.id()).unwrap()).unwrap();
    let (zygote, socket) = Zygote::of(process.clone());
    let mut zygotes = Zygotes::default();
    let mut kind = Kind::new(Generation(0), &Settings::default());
    kind.begin(&mut zygotes.started, Ok(zygote));
    zygotes.kinds.push(kind);
    (zygotes, process, socket)
}

/// A worker that a zygote has just made, and that is in its group yet.
fn copy_of(zygote: &ProcessHandle) -> Child {
    let mut copy = Command::new("cat");
    copy.process_group(i32::try_from(zygote.pid()).unwrap());
    copy.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// It still does what it is there for; then it ends.
fn lives(mut copy: Child) {
    copy.stdin.take().unwrap().write_all(b"still there\n").unwrap();
    let mut said = String::new();
    BufReader::new(copy.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "still there\n");
    assert!(copy.wait().unwrap().success());
}

fn says_unfit(socket: &OwnedFd) {
    let packet = Reply::Unfit(Unfit::Threads).encode();
    scm::send::<OwnedFd>(socket.as_fd(), &[IoSlice::new(&packet)], &[]).unwrap();
}

/// It ends, and is buried.
async fn ends(process: ProcessHandle) {
    process.exited().await;
    process.reap(false).unwrap();
}

fn state(zygotes: &Zygotes) -> &State {
    &zygotes.kinds[0].state
}

#[actix_rt::test]
async fn a_zygote_that_is_buried_takes_no_worker_along_that_it_has_just_made() {
    let (mut zygotes, process, _socket) = sleeping();
    let copy = copy_of(&process);
    zygotes.end();
    lives(copy);

    let (zygotes, process, _socket) = sleeping();
    let copy = copy_of(&process);
    drop(zygotes);
    let nobody = Context::<ClusterSupervisor>::new().address();
    bury(process, 1, nobody).await;
    lives(copy);
}

#[actix_rt::test]
async fn a_zygote_that_has_said_it_is_unfit_is_not_started_again() {
    // It says so, and its time to load is over before anybody has listened.
    let (mut zygotes, process, socket) = sleeping();
    says_unfit(&socket);
    zygotes.look_whether_it_is_ready(1);
    zygotes.tend(None);
    assert!(matches!(state(&zygotes), State::Never), "{:?}", state(&zygotes));
    ends(process).await;

    // It says so and ends, and the end is heard of first.
    let (mut zygotes, process, socket) = sleeping();
    says_unfit(&socket);
    process.signal(Signal::KILL).unwrap();
    ends(process).await;
    let cares = zygotes.tend(Some(1));
    assert!(matches!(cares[..], [Care::Watch(1, _)]), "{cares:?}");
    assert!(matches!(state(&zygotes), State::Never), "{:?}", state(&zygotes));

    // One that says nothing is lost, and the next one is to come.
    let (mut zygotes, process, _socket) = sleeping();
    zygotes.look_whether_it_is_ready(1);
    let cares = zygotes.tend(None);
    assert!(matches!(cares[..], [Care::Again(1, _)]), "{cares:?}");
    ends(process).await;
}
