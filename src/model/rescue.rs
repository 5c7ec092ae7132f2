//! What becomes of a connection whose worker is dead: what the worker had noted and what the kernel has counted in, a
//! verdict out.
//!
//! The worker notes *before* it acts (`sys/journal.rs`), and the kernel counts exactly, so the two together tell how far an
//! answer came, wherever between two instructions the worker was killed. A note made after the act would lie for one
//! moment, and with many connections some kill falls into it.

/// What the kernel has counted of a connection since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Bytes that the server has written, whether or not they are acknowledged.
    pub(crate) written: u64,
    /// Bytes that the server has taken out of the socket; peeking takes nothing.
    pub(crate) consumed: u64,
    /// Bytes that lie in the socket.
    pub(crate) waiting: u64,
    /// The client will send nothing more.
    pub(crate) is_ended: bool,
}

/// What the worker has noted about a connection. All places are counted in bytes since the connection began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    /// `written` before the present answer.
    pub(crate) start: u64,
    /// `written` after it; equal to `start` while there is none, [`UNKNOWN_END`] while more writes will follow.
    pub(crate) end: u64,
    /// The end of the request that was answered last, or is being answered by the write that ends at `end`.
    pub(crate) boundary: u64,
    /// The rest.
    pub(crate) marks: Marks,
}

/// The `end` of an answer that will take more writes than the one that begins it.
pub(crate) const UNKNOWN_END: u64 = u64::MAX;

/// What a worker has noted in one word, so that it changes at one moment. Zero is "nothing noted".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u64);

impl Marks {
    const USED: u64 = 1;
    const OPAQUE: u64 = 1 << 1;
    const BEGUN: u64 = 1 << 2;
    const UNREPEATABLE: u64 = 1 << 3;
    const LAST: u64 = 1 << 4;
    const INTERIM: u64 = 1 << 5;
    const MOVING: u64 = 1 << 6;
    const STRIKES_AT: u32 = 8;
    const STRIKES: u64 = 0xff << Self::STRIKES_AT;
    const LISTENER_AT: u32 = 32;

    /// A connection of this listener (its place in the contract), whose request has been struck so often.
    pub(crate) fn opened(listener: u32, strikes: u8) -> Self {
        Self(Self::USED | u64::from(strikes) << Self::STRIKES_AT | u64::from(listener) << Self::LISTENER_AT)
    }

    /// As the journal keeps it.
    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// As the journal keeps it.
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// A request begins.
    pub(crate) const fn begun(self, is_repeatable: bool) -> Self {
        let cleared = self.0 & !(Self::BEGUN | Self::UNREPEATABLE);
        let kind = if is_repeatable { 0 } else { Self::UNREPEATABLE };
        Self(cleared | Self::BEGUN | kind)
    }

    /// The connection ends after the present answer.
    pub(crate) const fn last(self) -> Self {
        Self(self.0 | Self::LAST)
    }

    /// The bytes are none that could be judged: encrypted, upgraded, or consumed before the answer.
    pub(crate) const fn opaque(self) -> Self {
        Self(self.0 | Self::OPAQUE)
    }

    /// The request is answered, and the connection goes on: what it was struck for is forgotten, and so is that its answer
    /// was to be the last.
    pub(crate) const fn answered(self) -> Self {
        Self(self.0 & !(Self::BEGUN | Self::UNREPEATABLE | Self::LAST | Self::STRIKES))
    }

    /// What is written up to `end` is no part of an answer.
    pub(crate) const fn interim(self, is_written: bool) -> Self {
        Self(if is_written {
            self.0 | Self::INTERIM
        } else {
            self.0 & !Self::INTERIM
        })
    }

    /// Somebody else is about to get the connection, or has it.
    pub(crate) const fn moving(self, is_given: bool) -> Self {
        Self(if is_given {
            self.0 | Self::MOVING
        } else {
            self.0 & !Self::MOVING
        })
    }

    /// Is anything noted?
    pub(crate) const fn is_used(self) -> bool {
        self.0 & Self::USED != 0
    }

    /// How often a request of this connection began in a worker that died of it.
    pub(crate) const fn strikes(self) -> u8 {
        // Eight bits, by the mask.
        ((self.0 & Self::STRIKES) >> Self::STRIKES_AT) as u8
    }

    /// The listener's place in the contract.
    pub(crate) const fn listener(self) -> u32 {
        (self.0 >> Self::LISTENER_AT) as u32
    }

    /// Does the connection end after the present answer?
    pub(crate) const fn is_last(self) -> bool {
        self.has(Self::LAST)
    }

    /// Is what ends at `end` no part of an answer?
    pub(crate) const fn is_interim(self) -> bool {
        self.has(Self::INTERIM)
    }

    /// May somebody else have the connection?
    pub(crate) const fn is_moving(self) -> bool {
        self.has(Self::MOVING)
    }

    /// Was a request given to the server that is not answered?
    pub(crate) const fn is_begun(self) -> bool {
        self.has(Self::BEGUN)
    }

    const fn has(self, mark: u64) -> bool {
        self.0 & mark != 0
    }
}

/// What becomes of a connection whose worker is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No request is in the middle: another worker serves on, after so many bytes were thrown away that belong to a
    /// request that is answered. `strikes` are those of the request that comes next, if it has any.
    Serve { drain: u64, strikes: u8 },
    /// A request had begun and nothing of its answer was written: another worker runs it again.
    Again,
    /// The same, but it may not run twice: another worker tells the client so.
    Unanswered,
    /// The connection ends, in order, after so many bytes were thrown away: with bytes left unread the client would be
    /// told of an error, and could lose the end of the answer.
    End { drain: u64 },
    /// Half an answer was written, or nobody knows what: the connection ends, and not as if the answer were whole.
    Break,
    /// Another worker has it and has begun with it: nothing is done to it from here.
    Leave,
}

/// Judges one connection.
///
/// `noted` is `None` where the worker has noted nothing: it serves by a server that keeps no journal, or it was killed
/// between accepting and noting. Such a connection can be saved as long as no byte was taken or written.
pub(crate) fn verdict(counted: Counted, noted: Option<Noted>) -> Verdict {
    let untouched = counted.consumed == 0 && counted.written == 0;
    let Some(noted) = noted else {
        return if untouched {
            serve(counted, 0, 0)
        } else {
            Verdict::Break
        };
    };
    let (has_begun, strikes) = (noted.marks.is_begun(), noted.marks.strikes());
    if noted.marks.has(Marks::OPAQUE) {
        return if untouched && !has_begun {
            serve(counted, 0, strikes)
        } else {
            Verdict::Break
        };
    }
    let is_interim = noted.marks.is_interim() && counted.written == noted.end;
    let is_whole = !is_interim && counted.written == noted.end && noted.end != noted.start;
    if is_whole && noted.marks.is_last() {
        // The rest of a request that was answered before its end may have been taken, too.
        let drain = noted.boundary.saturating_sub(counted.consumed);
        return Verdict::End { drain };
    }
    let is_beyond = counted.consumed > noted.boundary;
    if noted.marks.is_moving() && (is_beyond || counted.written != noted.start) {
        return Verdict::Leave;
    }
    // Bytes that the journal knows nothing of were taken.
    if is_beyond {
        return Verdict::Break;
    }
    if is_whole {
        return serve(counted, noted.boundary - counted.consumed, 0);
    }
    if counted.written != noted.start && !is_interim {
        return Verdict::Break;
    }
    match (has_begun, noted.marks.has(Marks::UNREPEATABLE)) {
        (false, _) => serve(counted, 0, strikes),
        (true, false) => Verdict::Again,
        (true, true) => Verdict::Unanswered,
    }
}

/// A client that has gone and left nothing to answer needs no other worker.
fn serve(counted: Counted, drain: u64, strikes: u8) -> Verdict {
    if counted.is_ended && counted.waiting <= drain {
        Verdict::End { drain }
    } else {
        Verdict::Serve { drain, strikes }
    }
}

#[cfg(test)]
#[path = "rescue_tests.rs"]
mod tests;
