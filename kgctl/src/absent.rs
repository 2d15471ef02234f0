//! What to say when somebody asks for a node or a peer that the mesh does not have: why it is left out if
//! the cluster has it, and otherwise which name may have been meant.

use anyhow::{Error, anyhow};
use topology::{NodeName, PeerName};

use crate::mesh::Mesh;

/// Names of at least this similarity (Jaro-Winkler, 1 for equal ones) are near.
const NEAR: f64 = 0.7;

impl Mesh {
    /// The failure to find a node in the mesh.
    pub fn no_such_node(&self, name: &NodeName) -> Error {
        if let Some(known) = self.left_out.iter().find(|known| known.node.name == *name) {
            return anyhow!("node/{name} is not part of the mesh: it {}", known.reasons.join(", "));
        }
        let members = self.topology.segments.iter().flat_map(|segment| &segment.members);
        let names = members.map(|member| member.name.as_str());
        let names = names.chain(self.left_out.iter().map(|known| known.node.name.as_str()));
        anyhow!("did not find any node named {:?} in the cluster{}", name.as_str(), suggestion(name.as_str(), names))
    }

    /// The failure to find a peer in the mesh.
    pub fn no_such_peer(&self, name: &PeerName) -> Error {
        let object = format!("peer/{name}");
        if let Some(warning) = self.warnings.iter().find(|warning| warning.object == object) {
            return Error::msg(warning.to_string());
        }
        let names = self.peers.iter().map(|peer| peer.name.as_str());
        anyhow!("did not find any peer named {:?} in the cluster{}", name.as_str(), suggestion(name.as_str(), names))
    }
}

/// The end of a message about a wrong name: the nearest ones, or how many there are.
pub fn suggestion<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut near: Vec<_> = names.map(|name| (strsim::jaro_winkler(wrong, name), name)).collect();
    if near.is_empty() {
        return ", which has none".to_owned();
    }
    near.retain(|(similarity, _)| *similarity >= NEAR);
    near.sort_by(|(a, a_name), (b, b_name)| b.total_cmp(a).then(a_name.cmp(b_name)));
    let quoted: Vec<_> = near.iter().take(3).map(|(_, name)| format!("{name:?}")).collect();
    if quoted.is_empty() { String::new() } else { format!("; did you mean {}?", quoted.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_nearest_first() {
        for (wrong, names, expected) in [
            ("paris1", vec!["oslo-1", "paris-2", "paris-1"], "; did you mean \"paris-1\" or \"paris-2\"?"),
            ("Laptop", vec!["laptop", "phone"], "; did you mean \"laptop\"?"),
            ("x", vec!["laptop", "phone"], ""),
            ("x", vec![], ", which has none"),
        ] {
            assert_eq!(suggestion(wrong, names.into_iter()), expected, "{wrong}");
        }
    }
}
