//! The terminal that stdout may be.

use std::io::{IsTerminal, stdout};

/// How many columns it has; `None` if stdout is none.
pub fn width() -> Option<usize> {
    size().map(|(columns, _)| columns)
}

/// How many columns and lines it has; `None` if stdout is none.
pub fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stdout()).ok()?;
    // One that does not know its size says 0.
    let known = stdout().is_terminal() && size.ws_col > 0 && size.ws_row > 0;
    known.then_some((size.ws_col.into(), size.ws_row.into()))
}
