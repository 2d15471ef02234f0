//! The Peer objects of a cluster as a file for `kubectl apply`.

use std::fmt::Write as _;

use topology::{
    join::{Change, ClusterName, Course},
    manifest,
};

/// YAML documents of all Peers that `cluster` should have, after a line that says so; what would be
/// deleted is a comment, for `kubectl apply` does not delete.
pub fn yaml(cluster: &ClusterName, course: &Course) -> anyhow::Result<String> {
    let mut text = format!("# cluster {cluster}\n");
    for change in &course.changes {
        if let Change::Delete { found, reason } = change {
            writeln!(text, "# kubectl delete peer {}  # {reason}", found.name)?;
        }
    }
    for peer in &course.peers {
        write!(text, "---\n{}\n", manifest::yaml(&peer.object()).trim_end())?;
    }
    Ok(text)
}
