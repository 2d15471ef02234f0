//! The mesh as a picture, in five formats.
//!
//! [`Graph`] says what there is to see; each other module writes it down in one format:
//! [`dot`] as upstream does, [`svg`] drawn by ourselves over a [`layout`], [`json`] for programs,
//! [`mermaid`] for what renders Markdown, and [`text`] for terminals. Names come from outside and may
//! hold anything; each format escapes them in its own way.

pub mod dot;
pub mod json;
pub mod layout;
pub mod mermaid;
pub mod model;
pub mod svg;
mod table;
pub mod text;

pub use model::{Graph, Link, LinkKind, NodeView, Site};
pub use text::TextOptions;
