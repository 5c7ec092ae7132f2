//! Which descriptor belongs to which frame, however the kernel cuts the stream.

use std::collections::VecDeque;

use super::*;

#[test]
fn f_088_the_nth_declared_descriptor_is_the_nth_received() {
    let mut numbers = Numbers(88);
    for _ in 0..200 {
        let mut stream = Vec::new();
        // Where a set rides, and whose inodes it has.
        let mut sets: VecDeque<(usize, Vec<OwnedFd>)> = VecDeque::new();
        let mut expected = Vec::new();
        for index in 0..30 {
            let count = [0, 0, 0, 1, 3][numbers.below(5)];
            let (fds, inodes): (Vec<_>, Vec<_>) = (0..count).map(|_| pipe()).unzip();
            if count > 0 {
                sets.push_back((stream.len(), fds));
            }
            encode_message(&(index, "x".repeat(numbers.below(40))), count, &mut stream).unwrap();
            expected.push((index, inodes));
        }
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        let mut at = 0;
        while at < stream.len() {
            // Like the kernel: a read may start anywhere, takes at most one set, and does not read on after it into the
            // bytes of the next one.
            let mut end = (at + 1 + numbers.below(200)).min(stream.len());
            let mut fds = Vec::new();
            if sets.front().is_some_and(|(place, _)| *place < end) {
                fds = sets.pop_front().unwrap().1;
                end = sets.front().map_or(end, |(place, _)| end.min(*place));
            }
            feed(&mut decoder, &stream[at..end], fds, false);
            at = end;
            for frame in take::<ToMaster>(&mut decoder).unwrap() {
                let ToMaster::Message(payload) = frame.frame else {
                    panic!("a message")
                };
                let (index, _): (i32, String) = payload.parse().unwrap();
                got.push((index, frame.fds.iter().map(inode).collect::<Vec<_>>()));
            }
        }
        assert_eq!(got, expected);
        assert_eq!(decoder.counters(), Counters::default());
    }
}
