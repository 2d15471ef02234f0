//! The terminal that stdout may be, and what it can show.

use std::{
    env,
    io::{IsTerminal, stdout},
};

use topology::graph::TextOptions;

/// How wide a terminal is taken to be that does not say.
const USUAL_WIDTH: usize = 80;

/// How many columns it has; `None` if stdout is none or does not know.
pub fn width() -> Option<usize> {
    window().map(|(columns, _)| columns).filter(|columns| *columns > 0)
}

/// How many columns and lines it has; `None` if stdout is none or does not know.
pub fn size() -> Option<(usize, usize)> {
    window().filter(|(columns, lines)| *columns > 0 && *lines > 0)
}

fn window() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stdout()).ok().filter(|_| stdout().is_terminal())?;
    Some((size.ws_col.into(), size.ws_row.into()))
}

/// What text made for stdout may contain.
pub fn options() -> TextOptions {
    let variable = |name: &str| env::var(name).ok();
    TextOptions {
        width: columns(variable("COLUMNS").as_deref(), width()),
        unicode: is_unicode(variable),
        colour: stdout().is_terminal() && wants_colour(variable("NO_COLOR").as_deref(), variable("TERM").as_deref()),
    }
}

/// Who sets COLUMNS means it.
fn columns(asked: Option<&str>, window: Option<usize>) -> usize {
    let asked = asked.and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    asked.or(window).unwrap_or(USUAL_WIDTH)
}

/// The encoding of the locale: the first of these that is set and not empty counts (POSIX, XBD 8.2).
fn is_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8") || locale.contains("utf-8@") || locale.contains("utf8@")
}

/// The convention of no-color.org.
fn wants_colour(no_colour: Option<&str>, terminal: Option<&str>) -> bool {
    no_colour.is_none_or(str::is_empty) && terminal.is_some_and(|terminal| terminal != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_what_was_asked_for_or_what_the_terminal_has() {
        for (asked, window, expected) in [
            (Some("100"), Some(50), 100),
            (Some("0"), Some(50), 50),
            (Some("wide"), None, 80),
            (None, None, 80),
            (None, Some(132), 132),
            (Some("-1"), None, 80),
        ] {
            assert_eq!(columns(asked, window), expected, "{asked:?} {window:?}");
        }
    }

    #[test]
    fn the_first_locale_variable_that_says_something_counts() {
        for (variables, expected) in [
            (vec![("LANG", "en_US.UTF-8")], true),
            (vec![("LANG", "C.utf8")], true),
            (vec![("LANG", "de_DE.UTF-8@euro")], true),
            (vec![("LC_ALL", "C"), ("LANG", "en_US.UTF-8")], false),
            (vec![("LC_ALL", ""), ("LC_CTYPE", "en_US.UTF-8"), ("LANG", "C")], true),
            (vec![], false),
        ] {
            let value =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.to_string());
            assert_eq!(is_unicode(value), expected, "{variables:?}");
        }
    }

    #[test]
    fn colour_can_be_declined() {
        assert!(wants_colour(None, Some("xterm")) && wants_colour(Some(""), Some("xterm")));
        assert!(!wants_colour(Some("1"), Some("xterm")));
        assert!(!wants_colour(None, Some("dumb")) && !wants_colour(None, None));
    }
}
