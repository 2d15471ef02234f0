//! The patch formats of the Kubernetes API, as pure functions from object and patch to object.

pub mod json;
pub mod merge;
pub mod strategic;

/// How a request's body changes the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, see [`strategic`].
    Strategic,
    /// Server-side apply. Field ownership is not tracked: what is applied is merged into the object, and
    /// fields left out of a later apply stay.
    Apply,
}

impl Format {
    /// The format named by a media type (without parameters).
    pub fn of_media_type(media_type: &str) -> Option<Format> {
        match media_type {
            "application/json-patch+json" => Some(Format::Json),
            "application/merge-patch+json" => Some(Format::Merge),
            "application/strategic-merge-patch+json" => Some(Format::Strategic),
            "application/apply-patch+yaml" => Some(Format::Apply),
            _ => None,
        }
    }
}
