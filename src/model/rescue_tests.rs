//! Every worker of a connection is killed after every single thing it does, twice in a row, and the verdicts must lose
//! nothing that could be kept, and run nothing twice that may not.

use super::*;

#[derive(Clone, Copy, Debug)]
struct Request {
    len: u64,
    is_repeatable: bool,
    /// The lengths of the writes that make the answer.
    writes: &'static [u64],
    /// The kernel takes the completing write in two parts.
    is_short: bool,
    is_last: bool,
    /// The length of what is written before the answer and is no part of it.
    interim: u64,
    /// The answer is whole before the request is.
    is_early: bool,
}

const UNTOUCHED: Verdict = Verdict::Serve { drain: 0, strikes: 0 };

/// How many of the requests are in the socket from the start.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    All,
    AfterAnswer,
}

/// Everything that a writer does, one instruction or call each.
#[derive(Clone, Copy, Debug)]
enum Step {
    StoreStart(u64),
    StoreEnd(u64),
    StoreBoundary(u64),
    StoreMarks(Marks),
    /// The server gets the request's bytes.
    Deliver(usize),
    Write(u64),
    WriteInterim(u64),
    Consume(u64),
}

#[derive(Clone, Debug, Default)]
struct World {
    counted: Counted,
    start: u64,
    end: u64,
    boundary: u64,
    marks: Marks,
    /// So much of what was written is no part of an answer.
    interim: u64,
    runs: [u32; 2],
    told: [bool; 2],
}

struct Case {
    requests: [Request; 2],
    arrival: Arrival,
    /// How often a request may begin; every death counts.
    max_runs: Option<u8>,
}

impl Case {
    fn requests_end(&self, count: usize) -> u64 {
        self.requests[..count].iter().map(|request| request.len).sum()
    }

    fn answers_end(&self, count: usize) -> u64 {
        let answers = self.requests[..count].iter().flat_map(|request| request.writes);
        answers.sum()
    }

    /// How many requests were answered, if the connection stands between two of them.
    fn answered(&self, world: &World) -> Option<usize> {
        (0..=2).find(|count| {
            world.answered() == self.answers_end(*count) && world.counted.consumed == self.requests_end(*count)
        })
    }

    /// What a worker does that takes the connection over after `first` answers.
    fn script(&self, first: usize, world: &World, strikes: u8) -> Vec<Step> {
        let Counted { written, consumed, .. } = world.counted;
        let mut marks = Marks::opened(7, strikes);
        let mut steps = vec![
            Step::StoreStart(written),
            Step::StoreEnd(written),
            Step::StoreBoundary(consumed),
            Step::StoreMarks(marks),
        ];
        let mut end = written;
        for (index, request) in self.requests.iter().enumerate().skip(first) {
            marks = marks.begun(request.is_repeatable);
            steps.extend([Step::StoreMarks(marks), Step::Deliver(index)]);
            if request.interim > 0 {
                end += request.interim;
                let writes = [Step::StoreEnd(end), Step::WriteInterim(request.interim)];
                steps.push(Step::StoreMarks(marks.interim(true)));
                steps.extend(writes);
                steps.extend([Step::StoreStart(end), Step::StoreEnd(end), Step::StoreMarks(marks)]);
            }
            end += request.writes.iter().sum::<u64>();
            let (completing, parts) = request.writes.split_last().expect("an answer has a write");
            for part in parts {
                steps.extend([Step::StoreEnd(UNKNOWN_END), Step::Write(*part)]);
            }
            let rest = if request.is_early { 3 } else { 0 };
            let boundary = self.requests_end(index + 1) - rest;
            steps.extend([Step::StoreEnd(end), Step::StoreBoundary(boundary)]);
            if request.is_last || request.is_early {
                marks = marks.last();
                steps.push(Step::StoreMarks(marks));
            }
            if request.is_short {
                steps.extend([Step::Write(1), Step::Write(completing - 1)]);
            } else {
                steps.push(Step::Write(*completing));
            }
            steps.push(Step::Consume(request.len - rest));
            if rest > 0 {
                steps.push(Step::Consume(rest));
            }
            if request.is_last {
                break;
            }
            marks = marks.answered();
            let boundary = self.requests_end(index + 1);
            steps.extend([
                Step::StoreBoundary(boundary),
                Step::StoreMarks(marks),
                Step::StoreStart(end),
            ]);
        }
        steps
    }

    /// Runs the script up to every place, kills there, judges, and goes on with who takes over.
    fn explore(&self, world: &World, first: usize, strikes: u8, kills: u32) -> u32 {
        let script = self.script(first, world, strikes);
        let mut world = world.clone();
        let mut judged = 0;
        for (place, step) in std::iter::once(None).chain(script.iter().map(Some)).enumerate() {
            step.into_iter().for_each(|step| world.make(*step));
            self.receive(&mut world);
            let ran_twice = |(request, runs): (&Request, &u32)| !request.is_repeatable && *runs > 1;
            assert!(!self.requests.iter().zip(&world.runs).any(ran_twice), "{world:?}");
            let bound = self.max_runs.map_or(u32::MAX, u32::from);
            assert!(world.runs.iter().all(|runs| *runs <= bound), "{world:?}");
            if kills > 0 {
                let seen = format!(
                    "{:?} {:?} killed after {place} of {script:?}",
                    self.requests, self.arrival
                );
                judged += 1;
                judged += if world.marks.is_used() {
                    self.judge(&world, kills - 1, &seen)
                } else {
                    self.judge_unnoted(&world, first, strikes, kills - 1, &seen)
                };
            }
        }
        judged
    }

    fn receive(&self, world: &mut World) {
        let whole = (0..=2).rfind(|count| self.answers_end(*count) <= world.answered());
        let sent = match self.arrival {
            Arrival::All => 2,
            Arrival::AfterAnswer => (whole.unwrap_or(0) + 1).min(2),
        };
        world.counted.waiting = self.requests_end(sent) - world.counted.consumed;
    }

    /// Until a worker has noted a connection the master has its own copy, and knows how often it was struck.
    fn judge_unnoted(&self, world: &World, first: usize, strikes: u8, kills: u32, seen: &str) -> u32 {
        let expected = if world.counted.written == 0 && world.counted.consumed == 0 {
            UNTOUCHED
        } else {
            Verdict::Break
        };
        assert_eq!(verdict(world.counted, None), expected, "{seen}");
        self.explore(world, first, strikes, kills)
    }

    fn judge(&self, world: &World, kills: u32, seen: &str) -> u32 {
        let mut world = world.clone();
        let noted = Some(Noted {
            start: world.start,
            end: world.end,
            boundary: world.boundary,
            marks: world.marks,
        });
        let strikes = world.marks.strikes();
        let verdict = verdict(world.counted, noted);
        let seen = format!("{seen}: {verdict:?} of {world:?}");
        // The dead worker's memory is gone; another's entry is another number's.
        world.marks = Marks::default();
        let at = || self.answered(&world);
        match verdict {
            Verdict::Serve { drain, strikes: left } => {
                world.counted.consumed += drain;
                let next = self.answered(&world).expect(&seen);
                assert!(next == 2 || world.runs[next] == 0 || strikes > 0, "{seen}");
                assert!(next == 0 || !self.requests[next - 1].is_last, "{seen}");
                self.receive(&mut world);
                assert!(left == 0 || left == strikes && next < 2, "{seen}");
                self.explore(&world, next, left, kills)
            }
            Verdict::Again => {
                let next = at().expect(&seen);
                assert!(self.requests[next].is_repeatable, "{seen}");
                assert!(
                    u32::from(strikes) + 1 >= world.runs[next],
                    "a run is not counted: {seen}"
                );
                // What the dispatcher decides: it answers 502, and what it is told stands in no journal.
                if self.max_runs.is_some_and(|max| strikes + 1 >= max) {
                    assert!(!std::mem::replace(&mut world.told[next], true), "{seen}");
                    return 0;
                }
                self.explore(&world, next, strikes + 1, kills)
            }
            Verdict::Unanswered => {
                let next = at().expect(&seen);
                assert!(!self.requests[next].is_repeatable, "{seen}");
                assert!(!std::mem::replace(&mut world.told[next], true), "{seen}");
                0
            }
            Verdict::End { drain } => {
                let is_early = |count: &usize| *count > 0 && self.requests[count - 1].is_early;
                if (0..=2)
                    .filter(is_early)
                    .any(|count| world.answered() == self.answers_end(count))
                {
                    // Whether the rest of its request comes nobody knows.
                    return 0;
                }
                world.counted.consumed += drain;
                let done = self.answered(&world).expect(&seen);
                assert!(done > 0 && self.requests[done - 1].is_last, "{seen}");
                0
            }
            Verdict::Break => {
                let whole = (0..=2).any(|count| world.answered() == self.answers_end(count));
                assert!(!whole, "a request is lost: {seen}");
                0
            }
            Verdict::Leave => panic!("nobody else has it: {seen}"),
        }
    }
}

impl World {
    /// Written bytes of answers.
    fn answered(&self) -> u64 {
        self.counted.written - self.interim
    }

    fn make(&mut self, step: Step) {
        match step {
            Step::StoreStart(start) => self.start = start,
            Step::StoreEnd(end) => self.end = end,
            Step::StoreBoundary(boundary) => self.boundary = boundary,
            Step::StoreMarks(marks) => self.marks = marks,
            Step::Deliver(index) => self.runs[index] += 1,
            Step::Write(len) => self.counted.written += len,
            Step::WriteInterim(len) => {
                self.counted.written += len;
                self.interim += len;
            }
            Step::Consume(len) => self.counted.consumed += len,
        }
    }
}

#[test]
fn wherever_a_worker_is_killed_no_request_is_lost_or_run_twice_that_may_not() {
    let mut judged = 0;
    for bits in 0..1 << 11 {
        let bit = |at: u32| bits & (1 << at) != 0;
        let request = |at: u32, len| Request {
            len,
            is_repeatable: bit(at),
            writes: if bit(at + 1) { &[5, 9] } else { &[30] },
            is_short: bit(at + 2),
            is_last: bit(at + 3),
            interim: if at == 0 && bit(9) { 7 } else { 0 },
            is_early: at == 0 && bit(10) && !bit(at + 3),
        };
        let case = Case {
            requests: [request(0, 11), request(4, 17)],
            arrival: if bit(8) { Arrival::All } else { Arrival::AfterAnswer },
            max_runs: None,
        };
        let world = World::default();
        judged += case.explore(&world, 0, 0, 2);
    }
    assert!(judged > 500_000, "{judged} verdicts are too few to say anything");
}

/// Kills before the taker has noted what it was told, and kills that hit a request that has not begun again, are among
/// them: no chain of four deaths makes a request begin more often than it may.
#[test]
fn wherever_workers_are_killed_one_after_the_other_no_request_begins_more_often_than_it_may() {
    for max_runs in 1..=3 {
        let mut judged = 0;
        for bits in 0..1 << 3 {
            let bit = |at: u32| bits & (1 << at) != 0;
            let request = |is_last, len| Request {
                len,
                is_repeatable: true,
                writes: if bit(0) { &[5, 9] } else { &[30] },
                is_short: false,
                is_last,
                interim: 0,
                is_early: false,
            };
            let case = Case {
                requests: [request(false, 11), request(bit(1), 17)],
                arrival: if bit(2) { Arrival::All } else { Arrival::AfterAnswer },
                max_runs: Some(max_runs),
            };
            judged += case.explore(&World::default(), 0, 0, 4);
        }
        assert!(judged > 50_000, "{judged} verdicts are too few to say anything");
    }
}

#[test]
fn without_a_note_only_what_nobody_touched_is_saved() {
    let counted = |written, consumed| Counted {
        written,
        consumed,
        waiting: 5,
        is_ended: false,
    };
    assert_eq!(verdict(counted(0, 0), None), UNTOUCHED);
    assert_eq!(verdict(counted(1, 0), None), Verdict::Break);
    assert_eq!(verdict(counted(0, 1), None), Verdict::Break);
}

#[test]
fn a_client_that_is_gone_needs_nobody_and_one_that_waits_for_its_answer_does() {
    let mut counted = Counted {
        is_ended: true,
        ..Counted::default()
    };
    assert_eq!(verdict(counted, None), Verdict::End { drain: 0 });
    counted.waiting = 40;
    assert_eq!(verdict(counted, None), UNTOUCHED);
}

#[test]
fn bytes_that_cannot_be_judged_are_not() {
    let noted = |marks| {
        Some(Noted {
            start: 0,
            end: 0,
            boundary: 0,
            marks,
        })
    };
    let opened = Marks::opened(0, 0);
    let fresh = Counted::default();
    assert_eq!(verdict(fresh, noted(opened.opaque())), UNTOUCHED);
    assert_eq!(verdict(fresh, noted(opened.begun(true).opaque())), Verdict::Break);
    let taken = Counted { consumed: 3, ..fresh };
    assert_eq!(verdict(taken, noted(opened.opaque())), Verdict::Break);
    assert_eq!(verdict(taken, noted(opened.begun(true))), Verdict::Break);
}

#[test]
fn marks_keep_apart_what_they_hold() {
    let marks = Marks::opened(u32::MAX, 255).begun(false).last();
    assert_eq!((marks.listener(), marks.strikes()), (u32::MAX, 255));
    assert!(marks.is_used() && marks.is_last());
    let answered = marks.answered();
    assert_eq!((answered.listener(), answered.strikes()), (u32::MAX, 0));
    assert!(answered.is_used() && !answered.has(Marks::BEGUN | Marks::UNREPEATABLE | Marks::LAST));
    let both = marks.interim(true).moving(true);
    assert!(both.is_interim() && both.is_moving());
    assert_eq!(both.interim(false).moving(false), marks);
    assert_eq!(Marks::from_word(marks.word()), marks);
    assert!(!Marks::default().is_used());
}
