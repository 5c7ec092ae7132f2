//! The worker of the tests of keepers: accepts, reads, writes and notes as the lines on its channel say, one after the
//! other.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice};
use std::net::{TcpListener, TcpStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal as Raised, raise};

use super::*;
use crate::handover::ToDispatcher;
use crate::model::ListenKey;
use crate::sys::journal::{Entry, journal};
use crate::sys::{boot, peek, scm, tcp};

pub(super) fn obey(contract: &Contract, channel: OwnedFd) {
    let listeners: Vec<TcpListener> = contract.listeners.iter().map(|it| it.take().unwrap().into()).collect();
    let mut handover = contract.take_handover();
    let channel = UnixStream::from(channel);
    let mut held: Vec<TcpStream> = Vec::new();
    let mut entries: BTreeMap<usize, Entry> = BTreeMap::new();
    let mut copies = Vec::new();
    for line in BufReader::new(channel.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        let answer = match words[0] {
            "hello" => "hello",
            "accept" => {
                held.push(listeners[number(1)].accept().unwrap().0);
                "accepted"
            }
            "read" => {
                held[number(1)].read_exact(&mut vec![0; number(2)]).unwrap();
                "read"
            }
            "read-end" => {
                assert_eq!(held[number(1)].read(&mut [0; 8]).unwrap(), 0);
                "read"
            }
            "peek-end" => {
                // Until the end has come, which is when a poll for it wakes.
                let mut fds = [PollFd::new(
                    held[number(1)].as_fd(),
                    PollFlags::from_bits_retain(nix::libc::POLLRDHUP),
                )];
                poll(&mut fds, PollTimeout::NONE).unwrap();
                "peeked"
            }
            "write" => {
                held[number(1)].write_all(&vec![b'w'; number(2)]).unwrap();
                "wrote"
            }
            "note" => {
                let stream = &held[number(1)];
                let fd = stream.as_raw_fd();
                let strikes = u8::try_from(number(2)).unwrap();
                let counted = tcp::counted(stream.as_fd()).unwrap();
                let entry = journal()
                    .unwrap()
                    .open(fd, 0, strikes, counted.written, counted.consumed);
                entries.insert(number(1), entry.unwrap());
                "noted"
            }
            "begin" => {
                peek::set_offset(held[number(1)].as_fd(), Some(0)).ok();
                held[number(1)].peek(&mut [0; 12]).unwrap();
                entries[&number(1)].begin(words[2] == "again");
                "begun"
            }
            "complete" => {
                entries[&number(1)].completing(9, number(2) as u64, words[3] == "last");
                held[number(1)].write_all(b"an answer").unwrap();
                "completed"
            }
            "part" => {
                entries[&number(1)].writing_part();
                held[number(1)].write_all(b"an").unwrap();
                "wrote"
            }
            "copy" => {
                copies.push(held[number(1)].try_clone().unwrap());
                "copied"
            }
            "lend" => {
                // As the master holds one, until it hears that the connection arrived.
                let back = ToDispatcher::Back {
                    key: ListenKey::Named("lent".to_owned()),
                    strikes: 0,
                };
                let text = serde_json::to_vec(&back).unwrap();
                let socket = handover.as_ref().unwrap().as_fd();
                scm::send(socket, &[IoSlice::new(&text)], &[held[number(1)].as_fd()]).unwrap();
                "lent"
            }
            "exhaust" => {
                while let Ok(copy) = held[0].try_clone() {
                    copies.push(copy);
                }
                "exhausted"
            }
            "close-strange" => {
                drop(handover.take());
                "closed"
            }
            "exit" => boot::exit_now(0),
            "abort" => std::process::abort(),
            "segfault" => {
                // Twice: the first is swallowed by the runtime's guard of the stack.
                raise(Raised::SIGSEGV).unwrap();
                raise(Raised::SIGSEGV).unwrap();
                unreachable!("two of them kill")
            }
            other => panic!("no order {other:?}"),
        };
        writeln!(&channel, "{answer}").unwrap();
    }
}
