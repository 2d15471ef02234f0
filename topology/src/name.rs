//! Names as types, so that a location cannot be passed where a node is meant.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<String>> From<T> for $type {
            fn from(name: T) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// `metadata.name` of a Node object.
    NodeName
);
name!(
    /// `metadata.name` of a Peer object.
    PeerName
);
name!(
    /// A group of nodes that reach each other privately; empty when nobody named one.
    Location
);
name!(
    /// A segment's name: `location:<location>` or `node:<node>`. Segments are ordered by it.
    SegmentName
);
name!(
    /// A network interface's name, at most 15 bytes (`IFNAMSIZ`, linux/if.h).
    InterfaceName
);
