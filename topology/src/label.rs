//! Text from outside as it may be shown: nothing invisible in it, its width known, cut where it must.

use unicode_width::UnicodeWidthChar;

/// What stands for a character that must not be shown.
const REPLACEMENT: char = '\u{fffd}';

/// `text` without characters that command a terminal or change how the text around them is read:
/// control characters, line ends, and Unicode's invisible and bidirectional ones.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_invisible(c) { REPLACEMENT } else { c }).collect()
}

/// Control characters, `Default_Ignorable_Code_Point` and `Bidi_Control` of the Unicode character
/// database, separators of lines, and what XML 1.0 (section 2.2) excludes.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// How many columns of a terminal, or times the width of a digit, `text` takes (UAX #11).
pub fn cells(text: &str) -> usize {
    text.chars().map(char_cells).sum()
}

fn char_cells(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// `text` in at most `width` cells. What is cut is in the middle, with `ellipsis` in its place: the names
/// of machines often differ in their ends only.
pub fn shorten(text: &str, width: usize, ellipsis: char) -> String {
    if cells(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(char_cells(ellipsis)) else { return String::new() };
    let end = take(text.chars().rev(), room / 2);
    let start = take(text.chars(), room - room / 2);
    start.into_iter().chain([ellipsis]).chain(end.into_iter().rev()).collect()
}

fn take(chars: impl Iterator<Item = char>, width: usize) -> Vec<char> {
    let mut left = width;
    let fits = |c: &char| match left.checked_sub(char_cells(*c)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    chars.take_while(fits).collect()
}

/// The words of `text` in lines of at most `width` cells; a word that is longer is cut.
pub fn wrap(text: &str, width: usize, ellipsis: char) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().map(|word| shorten(word, width, ellipsis)) {
        match lines.last_mut() {
            Some(line) if cells(line) + 1 + cells(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown_as_a_replacement() {
        assert_eq!(
            printable("a\x1b[31mb\n\u{9b}c\u{202e}d\u{200d}"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}"
        );
        assert_eq!(printable("Zürich 東京 ☁"), "Zürich 東京 ☁");
    }

    #[test]
    fn names_are_cut_in_the_middle() {
        let name = "ip-10-0-12-34.eu-west-1.compute.internal";
        assert_eq!(shorten(name, 15, '…'), "ip-10-0…nternal");
        assert_eq!(shorten(name, 40, '…'), name);
        assert_eq!(shorten("東京都新宿区", 7, '…'), "東…区");
        for (width, expected) in [(0, ""), (1, "…"), (2, "a…"), (3, "a…g")] {
            assert_eq!(shorten("abcdefg", width, '…'), expected);
        }
    }

    #[test]
    fn words_are_wrapped_and_too_long_ones_cut() {
        assert_eq!(wrap("one two three abcdefghijk", 7, '~'), ["one two", "three", "abc~ijk"]);
        assert_eq!(wrap("", 7, '~'), Vec::<String>::new());
    }
}
