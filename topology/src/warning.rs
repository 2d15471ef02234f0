//! What was wrong with one object, in a form that a log line, an event and a diagnosis can all use.

use std::fmt;

/// Input that was left out, and why. The rest of its object, and everything else, was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The object, as `node/<name>` or `peer/<name>`.
    pub object: String,
    /// The annotation, field or other part of the object that is concerned.
    pub field: String,
    /// What was expected and what was done.
    pub message: String,
}

impl Warning {
    /// A warning about `field` of Node `name`.
    pub fn node(name: &impl fmt::Display, field: &str, message: impl Into<String>) -> Self {
        Self { object: format!("node/{name}"), field: field.to_owned(), message: message.into() }
    }

    /// A warning about `field` of Peer `name`.
    pub fn peer(name: &impl fmt::Display, field: &str, message: impl Into<String>) -> Self {
        Self { object: format!("peer/{name}"), field: field.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.message)
    }
}

/// `text` cut to what fits a log line; hostile annotations can be 256 KiB long.
pub(crate) fn excerpt(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}
