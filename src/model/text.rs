//! Texts that others have written, made fit for an event and for a line of the log.
//!
//! Not here: what they say.

use std::fmt::{self, Write};

/// Cuts a text that is longer than an event should carry, and says so at its end: a worker may fail with a megabyte of
/// words, and every subscriber keeps some thousand events.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > TEXT_LEN_MAX {
        let end = (0..=TEXT_LEN_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        let cut = text.len() - end;
        text.truncate(end);
        // Not only its length but its room too.
        text = format!("{text}… ({cut} bytes more)");
    }
    text
}

/// Shows a value in one line: whoever writes a reason must not be able to write lines of its own into the log.
pub(crate) struct OneLine<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(f), "{}", self.0)
    }
}

struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_harmless = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
        for part in text.split_inclusive(|c| !is_harmless(c)) {
            let whole = part.trim_end_matches(|c| !is_harmless(c));
            self.0.write_str(whole)?;
            for c in part[whole.len()..].chars() {
                write!(self.0, "{}", c.escape_default())?;
            }
        }
        Ok(())
    }
}

/// The longest text of others in an event, without the words that say how much was cut.
const TEXT_LEN_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_088_a_long_text_is_cut_between_characters_and_says_so() {
        for (text, fits) in [("", true), ("é", true), ("x", false), ("é", false), ("🦀", false)] {
            let times = if fits { 1 } else { 900 << 10 };
            let text = text.repeat(times);
            let short = bounded(text.clone());
            assert_eq!(short == text, fits);
            assert!(short.len() < TEXT_LEN_MAX + 40, "{}", short.len());
            if let Some((kept, said)) = short.split_once('…') {
                assert!(text.starts_with(kept) && kept.len() > TEXT_LEN_MAX - 4);
                assert_eq!(said, format!(" ({} bytes more)", text.len() - kept.len()));
            }
        }
        let just = "x".repeat(TEXT_LEN_MAX);
        assert_eq!(bounded(just.clone()), just);
    }

    #[test]
    fn o_088_a_reason_of_many_lines_is_one_line_of_the_log() {
        let text = "a\nb\r\n\tc \u{1b}[31m é\u{2028}\0";
        assert_eq!(OneLine(text).to_string(), r"a\nb\r\n\tc \u{1b}[31m é\u{2028}\u{0}");
        assert_eq!(OneLine(format_args!("x{}", 1)).to_string(), "x1");
    }
}
