//! What others need in order to have a node or a peer of this mesh as a peer of theirs, as a section of a
//! configuration file and as an object for `kubectl apply`.

use serde_json::Value;
use topology::{
    Peer, PeerName,
    ini::{Conf, PeerSection},
    manifest, peer,
};

use crate::{common::key, common::nets, example};

fn object(name: &str, section: &PeerSection) -> Value {
    manifest::object(&name.into(), &section.into())
}

/// A peer with everything that a peer can have.
fn full_peer() -> Peer {
    Peer {
        preshared_key: Some([1; 32].into()),
        endpoint: "vpn.example.com:4500".parse().ok(),
        persistent_keepalive: topology::Seconds(25),
        ..crate::common::peer("laptop", 14, "10.5.1.0/24 fd05::1/128")
    }
}

#[test]
fn a_node_as_a_peer_has_what_its_segment_has_but_no_location_ips() {
    let topology = example().topology();
    let mut section = topology.node_as_peer(&"b".into()).unwrap();
    section.allow(nets("10.43.0.0/16 10.2.2.0/24 10.43.0.0/16"));
    let expected = format!(
        "[Peer]\nAllowedIPs = 10.2.2.0/24, 192.168.0.3/32, 10.2.3.0/24, 192.168.0.2/32, 10.4.0.2/32, 10.43.0.0/16\n\
         Endpoint = 10.1.0.2:51820\nPersistentKeepalive = 0\nPublicKey = {}\n",
        key(2)
    );
    assert_eq!(*Conf::from(section.clone()).render(), expected);
    let expected = format!(
        "\
apiVersion: kilo.squat.ai/v1alpha1
kind: Peer
metadata:
  name: b
spec:
  allowedIPs:
  - 10.2.2.0/24
  - 192.168.0.3/32
  - 10.2.3.0/24
  - 192.168.0.2/32
  - 10.4.0.2/32
  - 10.43.0.0/16
  endpoint:
    dnsOrIP:
      ip: \"10.1.0.2\"
    port: 51820
  publicKey: {}
",
        key(2)
    );
    assert_eq!(*manifest::yaml(&object("b", &section)), expected);
    // Behind NAT or not: the keepalive is the business of whoever sends it.
    assert_eq!(topology.node_as_peer(&"a".into()).unwrap().persistent_keepalive.0, 0);
}

#[test]
fn only_a_leader_can_be_a_peer() {
    let topology = example().topology();
    let error = |name: &str| topology.node_as_peer(&name.into()).unwrap_err().to_string();
    assert_eq!(error("c"), "Node \"c\" is not a leader node");
    assert_eq!(error("z"), "did not find any node named \"z\" in the mesh");
}

/// Upstream writes the keepalive in nanoseconds here, and the port in place of the DNS name.
#[test]
fn a_peer_as_a_peer() {
    let section = full_peer().as_peer();
    let (psk, key) = (key(1), key(14));
    let expected = format!(
        "[Peer]\nAllowedIPs = 10.5.1.0/24, fd05::1/128\nEndpoint = vpn.example.com:4500\n\
         PersistentKeepalive = 25\nPresharedKey = {psk}\nPublicKey = {key}\n"
    );
    assert_eq!(*Conf::from(section.clone()).render(), expected);
    let expected = format!(
        "\
apiVersion: kilo.squat.ai/v1alpha1
kind: Peer
metadata:
  name: laptop
spec:
  allowedIPs:
  - 10.5.1.0/24
  - fd05::1/128
  endpoint:
    dnsOrIP:
      dns: vpn.example.com
    port: 4500
  persistentKeepalive: 25
  presharedKey: {psk}
  publicKey: {key}
"
    );
    assert_eq!(*manifest::yaml(&object("laptop", &section)), expected);
    let expected = format!(
        r#"{{
  "apiVersion": "kilo.squat.ai/v1alpha1",
  "kind": "Peer",
  "metadata": {{
    "name": "laptop"
  }},
  "spec": {{
    "allowedIPs": [
      "10.5.1.0/24",
      "fd05::1/128"
    ],
    "endpoint": {{
      "dnsOrIP": {{
        "dns": "vpn.example.com"
      }},
      "port": 4500
    }},
    "persistentKeepalive": 25,
    "presharedKey": "{psk}",
    "publicKey": "{key}"
  }}
}}
"#
    );
    assert_eq!(*manifest::json(&object("laptop", &section)), expected);
}

/// Upstream gives a peer without endpoint the address `<nil>`, which no API server takes.
#[test]
fn what_is_written_is_read_as_the_same_peer() {
    let plain = Peer { endpoint: None, preshared_key: None, ..full_peer() };
    let v6 = Peer { endpoint: "[2001:db8::1]:51820".parse().ok(), ..plain.clone() };
    for original in [full_peer(), plain, v6] {
        for name in ["laptop", "on", "1e3", "10.20", "2001-01-01", "0x1f"] {
            let original = Peer { name: name.into(), ..original.clone() };
            let object = object(name, &original.as_peer());
            let from_yaml: Value = serde_saphyr::from_str(&manifest::yaml(&object)).unwrap();
            let from_json: Value = serde_json::from_str(&manifest::json(&object)).unwrap();
            assert_eq!(from_yaml, from_json);
            let name: PeerName = from_yaml["metadata"]["name"].as_str().expect("a name is text").into();
            assert_eq!(peer::decode(name.as_str(), &from_yaml["spec"]), Ok(original));
        }
    }
}
