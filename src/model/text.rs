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

/// Shows a value in one line of limited length: whoever writes a reason must not be able to write lines of its own into
/// the log, and escapes are longer than what they stand for.
pub(crate) struct OneLine<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Line { f, left: LINE_LEN_MAX };
        write!(line, "{}", self.0)
    }
}

struct Line<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    /// Bytes that may still be written.
    left: usize,
}

impl Write for Line<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let is_harmless = !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
            let len = if is_harmless {
                c.len_utf8()
            } else {
                c.escape_default().len()
            };
            if self.left == 0 {
                return Ok(());
            }
            if len > self.left {
                self.left = 0;
                return self.f.write_char('…');
            }
            self.left -= len;
            if is_harmless {
                self.f.write_char(c)?;
            } else {
                write!(self.f, "{}", c.escape_default())?;
            }
        }
        Ok(())
    }
}

/// The longest text of others in an event, without the words that say how much was cut.
const TEXT_LEN_MAX: usize = 4 << 10;
/// The longest reason in a line of the log: such a text, with what stands before and after it.
const LINE_LEN_MAX: usize = TEXT_LEN_MAX + 512;

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
        // Escapes are five times as long as what they stand for.
        let line = OneLine("\u{1}".repeat(TEXT_LEN_MAX)).to_string();
        assert!(
            line.ends_with("\\u{1}…") && line.len() <= LINE_LEN_MAX + 3,
            "{}",
            line.len()
        );
    }
}
