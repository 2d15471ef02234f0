//! Node objects with any annotations: decoding never panics, what the agent would write of the result is read
//! back the same, and a mesh that the node is part of still has its other nodes.
//!
//! The input is text, one `field=value` a line; `podCIDR`, `label` and `created` are the object's other fields,
//! everything else is an annotation below `kilo.squat.ai/`.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use topology::annotations::{Announcement, NodeObject, decode};
use topology::topology::{Input, Topology};
use topology::{Granularity, Node};

const LABEL: &str = "topology.kubernetes.io/region";

fuzz_target!(|text: &str| {
    let node = decode_text("hostile", text);
    survives_writing(&node);
    costs_only_itself(&node);
});

fn decode_text(name: &str, text: &str) -> Node {
    let mut labels = BTreeMap::new();
    let mut annotations = BTreeMap::new();
    let mut pod_cidrs = Vec::new();
    let mut created = 0;
    for (field, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match field {
            "podCIDR" => pod_cidrs.push(value),
            "label" => _ = labels.insert(LABEL.to_owned(), value.to_owned()),
            "created" => created = value.parse().unwrap_or_default(),
            _ => _ = annotations.insert(format!("kilo.squat.ai/{field}"), value.to_owned()),
        }
    }
    let object = NodeObject { name, created, labels: &labels, annotations: &annotations, pod_cidrs };
    let (node, warnings) = decode(&object, LABEL);
    for warning in warnings {
        assert!(warning.to_string().len() < 1000, "a warning repeats a long value");
    }
    node
}

fn survives_writing(node: &Node) {
    let Some(key) = node.key else { return };
    let announcement = Announcement {
        endpoint: node.endpoint.clone(),
        internal_ips: node.internal_ips.clone(),
        key,
        last_seen: node.last_seen,
        wireguard_ips: node.wireguard_ips.clone(),
        discovered_endpoints: node.discovered_endpoints.clone(),
        granularity: node.granularity.unwrap_or(Granularity::Location),
        tunnel: node.tunnel,
        cni_ips: node.cni_ips.clone(),
        pod_cidrs: Some(node.pod_cidrs.clone()),
    };
    let annotations = announcement.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let labels = BTreeMap::new();
    let object =
        NodeObject { name: "again", created: 0, labels: &labels, annotations: &annotations, pod_cidrs: Vec::new() };
    let (again, warnings) = decode(&object, LABEL);
    assert!(warnings.is_empty(), "{warnings:?}");
    let read = Announcement {
        endpoint: again.endpoint,
        internal_ips: again.internal_ips,
        key: again.key.expect("a key was written"),
        last_seen: again.last_seen,
        wireguard_ips: again.wireguard_ips,
        discovered_endpoints: again.discovered_endpoints,
        granularity: again.granularity.expect("a granularity was written"),
        tunnel: again.tunnel,
        cni_ips: again.cni_ips,
        pod_cidrs: Some(again.pod_cidrs),
    };
    assert_eq!(announcement, read);
}

/// Older nodes win disputes, so two honest nodes, older than anything that was read, keep what is theirs.
fn costs_only_itself(hostile: &Node) {
    let hostile = Node { created: hostile.created.max(1), ..hostile.clone() };
    let honest = [
        honest("a", "key=4JtFNmVlkzpYLUdAkYUcwXw4CKOoJuZAtMYo/qQRuEo=\nendpoint=192.0.2.1:51820\npodCIDR=10.42.1.0/24"),
        honest("b", "key=oMxFlmJ3jiAqbHgFpfIrrUsd4/5qOEx5mB7eNwhLSzM=\nendpoint=192.0.2.2:51820\npodCIDR=10.42.2.0/24"),
    ];
    let complete = hostile.missing().is_empty();
    let subnets = ["10.4.0.0/16".parse().expect("a CIDR")];
    for granularity in [Granularity::Location, Granularity::Full] {
        let nodes = honest.iter().chain(complete.then_some(&hostile)).collect();
        let input = Input { nodes, peers: Vec::new(), granularity, subnets: &subnets };
        let mesh = Topology::build(&input).expect("three nodes fit");
        for node in &honest {
            let segment = mesh.segment_of(&node.name).expect("an honest node stays in the mesh");
            for cidr in &node.pod_cidrs {
                assert!(segment.allowed_ips.contains(cidr), "{} lost {cidr}", node.name);
                let claims = mesh.segments.iter().filter(|other| other.all_allowed_ips().any(|ip| ip == *cidr));
                assert_eq!(claims.count(), 1, "{cidr} is claimed twice");
            }
        }
    }
}

fn honest(location: &str, text: &str) -> Node {
    let node = decode_text(location, &format!("location={location}\ninternal-ip=172.16.0.1/24\n{text}"));
    assert!(node.missing().is_empty());
    node
}
