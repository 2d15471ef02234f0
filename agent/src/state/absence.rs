//! Why another node is no part of the mesh.

use std::fmt;

use topology::Node;

/// What keeps a node out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It lacks these annotations or fields, and nothing on it says that an agent ever ran there.
    Unannounced(Vec<&'static str>),
    /// It has, or had, an agent, and lacks these annotations or fields.
    Incomplete(Vec<&'static str>),
    /// Its agent does not check in.
    Silent,
}

impl Absence {
    /// All of [`Absence::reason`].
    pub const REASONS: [&str; 3] = ["unannounced", "incomplete", "silent"];

    /// What keeps `node` out, if something does.
    pub fn judge(node: &Node, is_alive: bool) -> Option<Self> {
        let missing = node.missing();
        match missing[..] {
            [] => (!is_alive).then_some(Self::Silent),
            _ if node.key.is_none() && node.endpoint.is_none() => Some(Self::Unannounced(missing)),
            _ => Some(Self::Incomplete(missing)),
        }
    }

    /// One word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unannounced(_) => Self::REASONS[0],
            Self::Incomplete(_) => Self::REASONS[1],
            Self::Silent => Self::REASONS[2],
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unannounced(missing) | Self::Incomplete(missing) => write!(f, "has no {}", missing.join(", ")),
            Self::Silent => f.write_str("does not check in"),
        }
    }
}
