//! Configuration files and the graph.

use topology::{Topology, firewall::Firewall};

use crate::{
    common::{Cluster, peer},
    example, v4,
};

/// Base64 of 32 bytes of value `n`, as it is in the fixtures.
fn key(n: u8) -> String {
    crate::common::key(n).to_string()
}

#[test]
fn showconf_node() {
    let mut cluster = example();
    cluster.peers[0].preshared_key = Some([1; 32].into());
    let text = cluster.topology().node_conf(&"a".into(), 51820).unwrap().render();
    let expected = format!(
        "[Interface]\nListenPort = 51820\n\n\
         [Peer]\nAllowedIPs = 10.2.2.0/24, 192.168.0.3/32, 10.2.3.0/24, 192.168.0.2/32, 10.4.0.2/32, 192.168.178.3/32\n\
         Endpoint = 10.1.0.2:51820\nPersistentKeepalive = 25\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.2.4.0/24, 10.4.0.3/32\n\
         Endpoint = 10.1.0.4:51820\nPersistentKeepalive = 25\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.5.1.0/24, 10.5.2.0/24\nPersistentKeepalive = 25\nPresharedKey = {}\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.5.3.0/24\nEndpoint = 192.168.0.1:51820\nPersistentKeepalive = 25\nPublicKey = {}\n",
        key(2),
        key(4),
        key(1),
        key(14),
        key(15),
    );
    assert_eq!(*text, expected);
}

#[test]
fn showconf_peer() {
    let mut cluster = example();
    cluster.peers[0].preshared_key = Some([1; 32].into());
    cluster.peers[0].persistent_keepalive = topology::Seconds(7);
    // What `b` shares with the cluster is not shown to `a`.
    cluster.peers[1].preshared_key = Some([2; 32].into());
    let text = cluster.topology().peer_conf(&"a".into()).unwrap().render();
    let psk = key(1);
    let expected = format!(
        "[Peer]\nAllowedIPs = 10.2.1.0/24, 192.168.0.1/32, 10.4.0.1/32\n\
         Endpoint = 10.1.0.1:51820\nPersistentKeepalive = 7\nPresharedKey = {psk}\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.2.2.0/24, 192.168.0.3/32, 10.2.3.0/24, 192.168.0.2/32, 10.4.0.2/32, 192.168.178.3/32\n\
         Endpoint = 10.1.0.2:51820\nPersistentKeepalive = 7\nPresharedKey = {psk}\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.2.4.0/24, 10.4.0.3/32\n\
         Endpoint = 10.1.0.4:51820\nPersistentKeepalive = 7\nPresharedKey = {psk}\nPublicKey = {}\n\n\
         [Peer]\nAllowedIPs = 10.5.3.0/24\nEndpoint = 192.168.0.1:51820\nPersistentKeepalive = 7\nPublicKey = {}\n",
        key(1),
        key(2),
        key(4),
        key(15),
    );
    assert_eq!(*text, expected);
}

#[test]
fn showconf_uses_what_the_node_itself_discovered_first() {
    let mut cluster = example();
    cluster.nodes[0].discovered_endpoints = [(crate::common::key(1), "198.51.100.1:1".parse().unwrap())].into();
    cluster.nodes[1].discovered_endpoints = [(crate::common::key(1), "198.51.100.2:2".parse().unwrap())].into();
    let from = |topology: &Topology, name: &str| {
        let conf = topology.node_conf(&name.into(), 1).unwrap();
        let peer = conf.peers.iter().find(|peer| peer.public_key == crate::common::key(1));
        peer.and_then(|peer| Some(peer.endpoint.as_ref()?.to_string()))
    };
    let topology = cluster.topology();
    assert_eq!(from(&topology, "b").as_deref(), Some("198.51.100.2:2"));
    assert_eq!(from(&topology, "d").as_deref(), Some("198.51.100.1:1"));
    let conf = topology.peer_conf(&"a".into()).unwrap();
    assert_eq!(conf.peers[0].endpoint.as_ref().unwrap().to_string(), "198.51.100.1:1");
}

#[test]
fn showconf_says_what_is_not_there() {
    let topology = example().topology();
    let node = |name: &str| topology.node_conf(&name.into(), 1).unwrap_err().to_string();
    assert_eq!(node("c"), "Node \"c\" is not a leader node");
    assert_eq!(node("z"), "did not find any node named \"z\" in the mesh");
    let error = topology.peer_conf(&"z".into()).unwrap_err();
    assert_eq!(error.to_string(), "did not find any peer named \"z\" in the mesh");
}

#[test]
fn the_graph() {
    let mut cluster = example();
    cluster.nodes.truncate(3);
    cluster.peers[1].name = "phone".into();
    let expected = r#"digraph kilo {
	label="10.4.0.0/16";
	labelloc=t;
	outputorder=nodesfirst;
	overlap=false;
	subgraph "cluster_location_location:1" {
		label="location:1";
		style="dashed,rounded";
		"a" [ label="location:1\na\n10.2.1.0/24\n192.168.0.1\n10.4.0.1\n10.1.0.1:51820", rank=1, shape=ellipse ];
	}
	subgraph "cluster_location_location:2" {
		label="location:2";
		style="dashed,rounded";
		"b" [ label="location:2\nb\n10.2.2.0/24\n192.168.0.3\n10.4.0.2\n10.1.0.2:51820", rank=1, shape=ellipse ];
		"c" [ label="location:2\nc\n10.2.3.0/24\n192.168.0.2", shape=ellipse ];
	}
	"b" -> "c" [ dir=both ];
	"a" -> "b" [ dir=both ];
	subgraph "cluster_peers" {
		label="peers";
		style="dashed,rounded";
		"peer/a" [ label="a", shape=ellipse ];
		"phone" [ label="phone\n192.168.0.1:51820", shape=ellipse ];
	}
	"a" -> "peer/a" [ dir=both, style=dashed ];
	"a" -> "phone" [ dir=both, style=dashed ];
	"b" -> "peer/a" [ dir=both, style=dashed ];
	"b" -> "phone" [ dir=both, style=dashed ];
}
"#;
    assert_eq!(cluster.topology().dot(), expected);
}

#[test]
fn names_cannot_break_out_of_the_graph() {
    let hostile = "\"]; }\n\\\" evil [ label=\"<b>\0\r";
    let cluster = Cluster::new(vec![v4(hostile, hostile, 1)], vec![peer(hostile, 9, "10.5.0.1/32")]);
    let dot = cluster.topology().dot();
    assert!(!dot.contains(['\0', '\r']));
    for line in dot.lines() {
        let unescaped = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(unescaped.matches('"').count() % 2, 0, "a string is left open: {line}");
        // Outside of strings nothing of the name is left.
        let outside: String = unescaped.split('"').step_by(2).collect();
        assert!(!outside.contains("evil") && !outside.contains("<b>"), "{line}");
    }
}

#[test]
fn the_nft_table() {
    let text = example().plan("b").firewall.ruleset();
    let set = |name: &str, elements: &[&str]| {
        let elements = elements.join(",\n\t\t\t     ");
        format!("\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = {{ {elements} }}\n\t}}\n")
    };
    for expected in [
        set("from4", &["10.2.2.0/24", "10.5.1.0/24", "10.5.2.0/24", "10.5.3.0/24"]),
        set("to4", &["192.168.178.3/32"]),
        "\tset known6 {\n\t\ttype ipv6_addr\n\t\tflags interval\n\t}\n".to_owned(),
    ] {
        assert!(text.contains(&expected), "{expected}\nis not in\n{text}");
    }
    assert_eq!(Firewall::removal(), "table inet kilo\ndelete table inet kilo\n");
}
