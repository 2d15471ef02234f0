//! Pictures of Kilo's own example.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use topology::{
    LeftOut, Node, Topology,
    graph::{Graph, TextOptions},
};

use crate::{common::Cluster, example};

/// The example, and a node that was never there.
struct Picture {
    topology: Topology,
    left_out: Vec<LeftOut>,
}

impl Picture {
    fn of(cluster: &Cluster) -> Self {
        let absent = Node { name: "e".into(), location: "2".into(), ..Node::default() };
        let reasons = vec!["has no kilo.squat.ai/key".to_owned(), "has never checked in".to_owned()];
        Self { topology: cluster.topology(), left_out: vec![LeftOut { node: absent, reasons, remedy: String::new() }] }
    }

    fn graph(&self) -> Graph<'_> {
        Graph::new(&self.topology, &self.left_out)
    }

    fn text(&self, width: usize, unicode: bool, colour: bool) -> String {
        self.graph().text(&TextOptions { width, unicode, colour })
    }
}

#[test]
fn text() {
    let picture = Picture::of(&example());
    let expected = "\
Kilo mesh 10.4.0.0/16, granularity location
2 locations, 4 nodes (1 more not ready), 3 leaders, 2 peers, 9 tunnels

    NODE  WIREGUARD IP  ENDPOINT        NAT   INTERNAL IP  PODS
┌─ 1: 2 nodes
│ ★ a     10.4.0.1      10.1.0.1:51820  25 s  192.168.0.1  10.2.1.0/24
│ ★ d     10.4.0.3      10.1.0.4:51820        none         10.2.4.0/24
└─
┌─ 2: 3 nodes
│ ★ b     10.4.0.2      10.1.0.2:51820        192.168.0.3  10.2.2.0/24
│   c                                         192.168.0.2  10.2.3.0/24
│ ✗ e
│     has no kilo.squat.ai/key; has never checked in
└─

    PEER  ALLOWED IPS  ENDPOINT
┌─ 2 peers
│   a     10.5.1.0/24
│         10.5.2.0/24
│   b     10.5.3.0/24  192.168.0.1:51820
└─

★ leader. ✗ not ready. 3 tunnels between leaders, each with each. 6 tunnels
between leaders and peers.
";
    assert_eq!(picture.text(80, true, false), expected);
}

#[test]
fn text_gives_way_on_a_narrow_terminal_without_unicode() {
    let mut cluster = example();
    cluster.peers.clear();
    cluster.nodes[0].name = "a-node-with-a-rather-long-name".into();
    cluster.nodes[1].location = "Zürich".into();
    let expected = "\
Kilo mesh 10.4.0.0/16, granularity
location
3 locations, 4 nodes (1 more not ready),
4 leaders, 0 peers, 6 tunnels

    NODE                    WIREGUARD IP
+- 1: 2 nodes
| * a-node-with~-long-name  10.4.0.1
| * d                       10.4.0.4
+-
+- 2: 2 nodes
| * c                       10.4.0.2
| x e
|     has no kilo.squat.ai/key; has
|     never checked in
+-
+- Z?rich: 1 node
| * b                       10.4.0.3
+-

* leader. x not ready. 6 tunnels between
leaders, each with each.
";
    assert_eq!(Picture::of(&cluster).text(40, false, false), expected);
}

#[test]
fn colour_is_for_whole_lines() {
    let shown = Picture::of(&example()).text(80, true, true);
    assert!(shown.contains("\u{1b}[1m│ ★ a     10.4.0.1 "), "{shown}");
    assert!(shown.contains("\u{1b}[2m│ ✗ e\u{1b}[0m\n"), "{shown}");
    assert!(shown.contains("\n│   c     "), "{shown}");
}

#[test]
fn mermaid() {
    let mut cluster = example();
    cluster.peers.truncate(1);
    let expected = r#"---
title: Kilo mesh 10.4.0.0/16, granularity location
---
flowchart LR
  subgraph l0["1"]
    n0["a<br/>leader 10.4.0.1<br/>10.1.0.1:51820<br/>NAT, keepalive 25 s"]
    n1["d<br/>leader 10.4.0.3<br/>10.1.0.4:51820<br/>no internal IP"]
  end
  subgraph l1["2"]
    n2["b<br/>leader 10.4.0.2<br/>10.1.0.2:51820"]
    n3["c"]
    n4["e<br/>has no kilo.squat.ai/key<br/>has never checked in"]
  end
  subgraph peers["peers"]
    p0(["a<br/>10.5.1.0/24<br/>10.5.2.0/24"])
  end
  n2 --- n3
  n0 === n2
  n0 === n1
  n2 === n1
  n0 -.- p0
  n2 -.- p0
  n1 -.- p0
"#;
    let shown = Picture::of(&cluster).graph().mermaid();
    assert!(shown.starts_with(expected), "got\n{shown}\nexpected\n{expected}");
    assert!(
        shown.ends_with("  class n0,n1,n2 leader\n  class n0 nat\n  class n4 absent\n  class p0 peer\n"),
        "{shown}"
    );
}

#[test]
fn mermaid_never_has_more_links_than_it_draws() {
    let nodes = (1..=200).map(|n| crate::v4(&format!("n{n}"), &format!("l{n}"), n)).collect();
    let shown = Picture::of(&Cluster::new(nodes, vec![])).graph().mermaid();
    let links: Vec<&str> = shown.lines().filter(|line| line.contains("===")).collect();
    assert_eq!(links.len(), 200);
    assert!(shown.contains("  mesh((\"200 leaders, each linked to each\"))\n"), "{shown}");
}

#[test]
fn json() {
    let mut cluster = example();
    cluster.nodes.truncate(3);
    cluster.peers.truncate(1);
    cluster.peers[0].preshared_key = Some([9; 32].into());
    let picture = Picture::of(&cluster);
    let document: Value = serde_json::from_str(&picture.graph().json()).unwrap();
    assert_eq!(
        document["nodes"][0],
        json!({
            "name": "a", "location": "1", "segment": "location:1", "leader": true, "ready": true, "notReady": [],
            "endpoint": "10.1.0.1:51820", "internalIPs": ["192.168.0.1/32"], "podCIDRs": ["10.2.1.0/24"],
            "wireGuardIPs": ["10.4.0.1"], "persistentKeepalive": 25, "publicKey": crate::common::key(1).to_string(),
        })
    );
    assert_eq!(
        document["nodes"][3],
        json!({
            "name": "e", "location": "2", "segment": null, "leader": false, "ready": false,
            "notReady": ["has no kilo.squat.ai/key", "has never checked in"], "endpoint": null, "internalIPs": [],
            "podCIDRs": [], "wireGuardIPs": [], "persistentKeepalive": 0, "publicKey": null,
        })
    );
    assert_eq!(document["locations"][1], json!({"name": "2", "leaders": ["b"], "nodes": ["b", "c", "e"]}));
    assert_eq!(
        document["peers"],
        json!([{
            "name": "a", "endpoint": null, "allowedIPs": ["10.5.1.0/24", "10.5.2.0/24"], "persistentKeepalive": 0,
            "publicKey": crate::common::key(14).to_string(),
        }])
    );
    assert_eq!(
        document["links"],
        json!([
            {"kind": "member", "from": "b", "to": "c"},
            {"kind": "mesh", "from": "a", "to": "b"},
            {"kind": "peer", "from": "a", "to": "a"},
            {"kind": "peer", "from": "b", "to": "a"},
        ])
    );
    let top = json!({"version": 1, "granularity": "location", "subnets": ["10.4.0.0/16"]});
    assert!(top.as_object().unwrap().iter().all(|(key, value)| document[key] == *value), "{document}");
}

/// The paths of all fields, as docs/graph.md writes them.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            found.insert(path.clone());
            fields(value, &path, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_document_is_documented() {
    let document = serde_json::from_str(&Picture::of(&example()).graph().json()).unwrap();
    let mut shown = BTreeSet::new();
    fields(&document, "", &mut shown);
    let text = include_str!("../../../docs/graph.md");
    let documented = text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    assert_eq!(documented.collect::<BTreeSet<_>>(), shown);
}

#[test]
fn the_drawing_marks_what_matters() {
    let picture = Picture::of(&example());
    let svg = picture.graph().svg();
    for expected in [
        r#"<g class="node leader" data-node="a">"#,
        r#"<g class="node" data-node="c">"#,
        r#"<g class="node absent" data-node="e">"#,
        r#"<g class="peer" data-peer="b">"#,
        r#"<g class="location" data-location="2">"#,
        r#"<path class="tunnel many" data-from="1" data-to="2""#,
        "<title>1 – 2: 2 tunnels</title>",
        ">NAT 25 s</text>",
        ">no IP</text>",
        "not ready: has never checked in",
        "Kilo mesh 10.4.0.0/16, granularity location",
    ] {
        assert!(svg.contains(expected), "{expected} is not in\n{svg}");
    }
    assert!(!svg.contains("WireGuard between all leaders"));
}

#[test]
fn very_many_locations_are_drawn_without_their_tunnels() {
    let nodes = (1..=60).map(|n| crate::v4(&format!("n{n}"), &format!("l{n}"), n)).collect();
    let svg = Picture::of(&Cluster::new(nodes, vec![])).graph().svg();
    assert!(!svg.contains("data-from") && svg.contains("WireGuard between all leaders is too much to draw"));
}
