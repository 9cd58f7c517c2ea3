//! Text of others, such that a terminal shows it and obeys nothing in it.

/// Letters that a terminal obeys instead of showing them, and those that turn text around or show nothing.
pub(super) fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The text with such letters spelled out, as in `\u{1b}`.
///
/// Names of files, of processes and of volumes are chosen by others, and may be made to look like lines of Ferry's own.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut seen = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_invisible(letter) {
            true => seen.extend(letter.escape_default()),
            false => seen.push(letter),
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_a_terminal_obeys_are_spelled_out() {
        assert_eq!(
            visible("a\u{1b}[2Jb\nc\u{202e}d"),
            r"a\u{1b}[2Jb\nc\u{202e}d"
        );
        assert_eq!(visible("Größe – 8\u{a0}GiB"), "Größe – 8\u{a0}GiB");
    }
}
