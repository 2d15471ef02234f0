//! Why a node is no part of the mesh, in words for whoever asks.

use crate::{
    Node, Topology,
    annotations::{ENDPOINT, FORCE_ENDPOINT, LAST_SEEN},
};

/// A node that is left out of the mesh, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The node, as far as it is known.
    pub node: Node,
    /// Each annotation or field that keeps it out, by name; never empty.
    pub reasons: Vec<String>,
    /// What to do about it.
    pub remedy: String,
}

impl LeftOut {
    /// Judges `node`, which `topology` should have if it is complete and `is_alive`. `None`: it is part
    /// of the mesh. `now` is the clock of whoever asks, in Unix seconds.
    pub fn judge(node: &Node, is_alive: bool, topology: &Topology, now: i64) -> Option<Self> {
        if topology.segment_of(&node.name).is_some() {
            return None;
        }
        let mut reasons: Vec<String> = node.missing().iter().map(|field| format!("has no {field}")).collect();
        if !is_alive {
            reasons.push(silence(node.last_seen, now));
        }
        if reasons.is_empty() {
            reasons = disputes(node, topology);
        }
        Some(Self { node: node.clone(), reasons, remedy: remedy(node, is_alive) })
    }
}

fn silence(last_seen: i64, now: i64) -> String {
    match last_seen {
        0 => "has never checked in".to_owned(),
        _ => format!("has not checked in for {} s ({LAST_SEEN})", now.saturating_sub(last_seen).max(0)),
    }
}

/// What brings `node` into the mesh. What is missing on a Node without a living agent is missing because
/// there is none.
fn remedy(node: &Node, is_alive: bool) -> String {
    let (name, missing) = (&node.name, node.missing());
    if missing.contains(&"spec.podCIDR") && is_alive {
        "run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr".to_owned()
    } else if missing.contains(&ENDPOINT) && is_alive {
        format!("kubectl annotate node {name} --overwrite {FORCE_ENDPOINT}=HOST:PORT")
    } else if missing.is_empty() && is_alive {
        format!("change what node/{name} and another object both claim")
    } else {
        format!("see that the agent (kg) runs on {name}, and read its log")
    }
}

/// What the node lost to others.
fn disputes(node: &Node, topology: &Topology) -> Vec<String> {
    let object = format!("node/{}", node.name);
    let found = topology.warnings.iter().filter(|warning| warning.object == object);
    let mut reasons: Vec<String> = found.map(|warning| format!("{}: {}", warning.field, warning.message)).collect();
    if reasons.is_empty() {
        reasons.push("is not ready".to_owned());
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Input, PublicKey};

    fn node(name: &str, n: u8) -> Node {
        Node {
            name: name.into(),
            endpoint: "203.0.113.1:51820".parse().ok(),
            key: PublicKey::new([n; 32]).ok(),
            pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap()],
            last_seen: 100,
            ..Node::default()
        }
    }

    fn reasons(node: &Node, is_alive: bool, others: &[Node]) -> Vec<String> {
        let input = Input {
            nodes: others.iter().collect(),
            peers: vec![],
            granularity: Granularity::Location,
            subnets: &["10.4.0.0/16".parse().unwrap()],
        };
        let topology = Topology::build(&input).unwrap();
        LeftOut::judge(node, is_alive, &topology, 700).map(|left_out| left_out.reasons).unwrap_or_default()
    }

    #[test]
    fn each_reason_is_named() {
        let (a, twin) = (node("a", 1), node("b", 1));
        let blank = Node { name: "c".into(), ..Node::default() };
        assert_eq!(reasons(&a, true, std::slice::from_ref(&a)), Vec::<String>::new());
        assert_eq!(
            reasons(&blank, false, &[]),
            [
                "has no kilo.squat.ai/endpoint",
                "has no kilo.squat.ai/key",
                "has no spec.podCIDR",
                "has never checked in"
            ]
        );
        let with = |change: fn(&mut Node)| {
            let mut node = node("a", 1);
            change(&mut node);
            node
        };
        assert!(remedy(&a, false).contains("runs on a"));
        assert!(remedy(&with(|node| node.key = None), true).contains("runs on a"));
        assert!(remedy(&with(|node| node.endpoint = None), true).contains("force-endpoint=HOST:PORT"));
        assert!(remedy(&with(|node| node.pod_cidrs.clear()), true).contains("--allocate-node-cidrs"));
        assert!(remedy(&a, true).contains("both claim"));
        assert_eq!(reasons(&a, false, &[]), ["has not checked in for 600 s (kilo.squat.ai/last-seen)"]);
        assert_eq!(
            reasons(&twin, true, &[a, twin.clone()]),
            ["kilo.squat.ai/key: the node is left out: node/a has the same public key"]
        );
    }
}
