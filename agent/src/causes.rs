//! One line from an error and its causes.

use std::error::Error;

use crate::cluster::ApiError;

/// What happened and why: the error's text and those of its causes, without what was said already,
/// because many errors have their cause's text in their own. An [`ApiError`] has said all that matters.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = error;
    while let Some(cause) = last.source().filter(|_| !last.is::<ApiError>()) {
        let part = cause.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        last = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_twice_and_nothing_is_left_out() {
        let cause = std::io::Error::other("no such file");
        let repeating = anyhow::Error::new(cause).context("cannot read x: no such file").context("no configuration");
        assert_eq!(text(repeating.as_ref()), "no configuration: cannot read x: no such file");
        let silent = anyhow::Error::new(std::io::Error::other("no such file")).context("cannot read x");
        assert_eq!(text(silent.as_ref()), "cannot read x: no such file");
    }
}
