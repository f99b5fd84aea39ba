//! Fitting names into columns. Responsible for shortening in the middle and for making hostile names harmless.

use std::borrow::Cow;

/// Text without control characters: a recorded process chooses its own name and must not steer the terminal.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Shortens in the middle: a C++ or Rust name tells most at both ends.
pub fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= columns {
        return Cow::Borrowed(text);
    }
    if columns <= 1 {
        return Cow::Borrowed(if columns == 0 { "" } else { "…" });
    }
    let kept = columns - 1;
    let (head, tail) = (kept / 2, kept - kept / 2);
    let mut short: String = text.chars().take(head).collect();
    short.push('…');
    short.extend(text.chars().skip(length - tail));
    Cow::Owned(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_in_the_middle() {
        assert_eq!(shorten("abcdefgh", 8), "abcdefgh");
        assert_eq!(shorten("abcdefgh", 5), "ab…gh");
        assert_eq!(shorten("äöüß", 3), "ä…ß");
        assert_eq!((shorten("abc", 1), shorten("abc", 0)), ("…".into(), "".into()));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
