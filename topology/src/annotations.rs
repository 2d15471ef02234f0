//! The Node annotations through which agents talk to each other and people talk to agents.
//!
//! Keys and values are Kilo's, so that a cluster can be switched node by node. Some keys are ours:
//! [`INTERNAL_IPS`] and [`WIREGUARD_IPS`] carry the addresses of both families, of which upstream's
//! keys hold the first only, [`ENCAPSULATION_DEVICE`] says how a node encapsulates, and [`POD_CIDRS`] and
//! [`FORCE_POD_CIDRS`] where its pods are if not where `spec.podCIDRs` says; upstream agents ignore them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::{Endpoint, Granularity, Node, PublicKey, Seconds, TunnelKind, Warning, address, warning::excerpt};

/// Endpoint given by a person; wins over [`ENDPOINT`].
pub const FORCE_ENDPOINT: &str = "kilo.squat.ai/force-endpoint";
/// Internal IP given by a person, or empty or `-` for "has none"; wins over [`INTERNAL_IP`].
pub const FORCE_INTERNAL_IP: &str = "kilo.squat.ai/force-internal-ip";
/// Present: the node volunteers to lead.
pub const LEADER: &str = "kilo.squat.ai/leader";
/// The node's location; wins over the topology label.
pub const LOCATION: &str = "kilo.squat.ai/location";
/// Seconds between keepalives: the node is behind NAT.
pub const PERSISTENT_KEEPALIVE: &str = "kilo.squat.ai/persistent-keepalive";
/// Comma-separated CIDRs reachable inside the node's location.
pub const ALLOWED_LOCATION_IPS: &str = "kilo.squat.ai/allowed-location-ips";
/// Endpoint written by the agent.
pub const ENDPOINT: &str = "kilo.squat.ai/endpoint";
/// Internal IP written by the agent: the first one, or empty.
pub const INTERNAL_IP: &str = "kilo.squat.ai/internal-ip";
/// Ours: the internal IPs of both families, comma-separated.
pub const INTERNAL_IPS: &str = "kilo.squat.ai/internal-ips";
/// Public key, base64.
pub const KEY: &str = "kilo.squat.ai/key";
/// Last check-in, Unix seconds.
pub const LAST_SEEN: &str = "kilo.squat.ai/last-seen";
/// WireGuard address on a leader: the first one, or empty.
pub const WIREGUARD_IP: &str = "kilo.squat.ai/wireguard-ip";
/// Ours: the WireGuard addresses of both families, comma-separated.
pub const WIREGUARD_IPS: &str = "kilo.squat.ai/wireguard-ips";
/// JSON object: public key to the endpoint at which the node saw its holder.
pub const DISCOVERED_ENDPOINTS: &str = "kilo.squat.ai/discovered-endpoints";
/// `location` or `full`.
pub const GRANULARITY: &str = "kilo.squat.ai/granularity";
/// Ours: the tunnel inside the location, `ipip` or `vxlan`, or empty for none.
pub const ENCAPSULATION_DEVICE: &str = "kilo.squat.ai/encapsulation-device";

/// Its address in the overlay of another network provider, or empty; of both families comma-separated, where
/// upstream knows no such provider.
pub const CNI_COMPATIBILITY_IP: &str = "kilo.squat.ai/cni-compatibility-ip";
/// Ours: the node's pod CIDRs, comma-separated, `-` if its provider has none yet, or empty if they are those of
/// `spec.podCIDRs`.
pub const POD_CIDRS: &str = "kilo.squat.ai/pod-cidrs";
/// Ours: pod CIDRs given by a person, comma-separated; they win over everything.
pub const FORCE_POD_CIDRS: &str = "kilo.squat.ai/force-pod-cidrs";

/// What [`POD_CIDRS`] says of a node without any.
const NO_POD_CIDRS: &str = "-";

/// The keys that the agent writes, and removes again on a clean stop.
pub const OWNED: [&str; 12] = [
    ENDPOINT,
    INTERNAL_IP,
    INTERNAL_IPS,
    KEY,
    LAST_SEEN,
    WIREGUARD_IP,
    WIREGUARD_IPS,
    DISCOVERED_ENDPOINTS,
    GRANULARITY,
    ENCAPSULATION_DEVICE,
    CNI_COMPATIBILITY_IP,
    POD_CIDRS,
];

/// An annotation as people are told of it, in docs/annotations.md.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// The key.
    pub key: &'static str,
    /// What its value looks like.
    pub value: &'static str,
    /// What it does, or says.
    pub effect: &'static str,
}

const fn description(key: &'static str, value: &'static str, effect: &'static str) -> Description {
    Description { key, value, effect }
}

/// Every annotation; people write those that are not [`OWNED`].
pub const DESCRIPTIONS: [Description; 19] = [
    description(LOCATION, "text", "the node's location; without it, the topology label's value"),
    description(LEADER, "anything", "present: the node volunteers to lead its segment"),
    description(
        FORCE_ENDPOINT,
        "`host:port`",
        "where the node is reached by WireGuard, instead of what the agent finds",
    ),
    description(
        FORCE_INTERNAL_IP,
        "CIDR of each family, or empty or `-`",
        "the node's address inside its location, instead of what the agent finds; empty or `-`: it has none",
    ),
    description(
        PERSISTENT_KEEPALIVE,
        "seconds",
        "the node is behind NAT: it sends keepalives so often, and its endpoint is where others see it",
    ),
    description(
        ALLOWED_LOCATION_IPS,
        "CIDRs, comma-separated",
        "what else is reached inside the node's location, as a printer or a database",
    ),
    description(ENDPOINT, "`address:port`", "where the node's WireGuard is reached"),
    description(INTERNAL_IP, "CIDR or empty", "the node's first address inside its location"),
    description(
        INTERNAL_IPS,
        "CIDRs, comma-separated",
        "its addresses of both families; upstream does not know this key",
    ),
    description(KEY, "base64", "its WireGuard public key"),
    description(LAST_SEEN, "Unix seconds", "its last check-in; a node that is silent for two periods is left out"),
    description(WIREGUARD_IP, "CIDR or empty", "the first address of its WireGuard interface, if it leads"),
    description(WIREGUARD_IPS, "CIDRs, comma-separated", "those of both families; upstream does not know this key"),
    description(DISCOVERED_ENDPOINTS, "JSON object of public keys", "where the node sees others that are behind NAT"),
    description(GRANULARITY, "`location` or `full`", "what the agent's `--mesh-granularity` says"),
    description(
        ENCAPSULATION_DEVICE,
        "`ipip`, `vxlan` or empty",
        "the tunnel that the node uses inside its location; upstream does not know this key",
    ),
    description(
        CNI_COMPATIBILITY_IP,
        "CIDR or empty",
        "the node's address in the overlay of Cilium or Calico; of Calico, one of each family, comma-separated",
    ),
    description(
        FORCE_POD_CIDRS,
        "CIDRs, comma-separated",
        "the node's pod CIDRs, instead of what the Node object or the network provider says; upstream does not know \
         this key",
    ),
    description(
        POD_CIDRS,
        "CIDRs, comma-separated",
        "the node's pod CIDRs, where not the Node object but the network \
         provider says them; upstream does not know this key",
    ),
];

/// The parts of a Node object that the mesh reads.
#[derive(Clone, Debug)]
pub struct NodeObject<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.creationTimestamp`, Unix seconds.
    pub created: i64,
    /// `metadata.labels`.
    pub labels: &'a BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: &'a BTreeMap<String, String>,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone where there is no list.
    pub pod_cidrs: Vec<&'a str>,
}

/// Reads annotations one by one and collects what is wrong with them.
struct Reader<'a> {
    object: &'a NodeObject<'a>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.object.annotations.get(key).map(String::as_str)
    }

    fn warn(&mut self, field: &str, message: String) {
        self.warnings.push(Warning::node(&self.object.name, field, message));
    }

    /// The parsed value of `key`; an absent or empty annotation is no value, a wrong one is reported.
    fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key).filter(|text| !text.is_empty())?;
        self.parse_text(key, text)
    }

    fn parse_text<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => {
                self.warn(field, format!("{} ignored: {why}", excerpt(text)));
                None
            }
        }
    }

    /// A host's address with its prefix length, of a comma-separated list of at most one a family.
    fn host_addresses(&mut self, key: &str) -> Vec<IpNet> {
        let text = self.text(key).unwrap_or_default();
        let mut addresses: Vec<IpNet> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some(address) = self.parse_text::<IpNet>(key, part) else { continue };
            if !address::is_host(address.addr()) || address.prefix_len() == 0 {
                self.warn(key, format!("{address} ignored: no address that a host can have"));
            } else if address::of_family(&addresses, address.addr()).is_some() {
                self.warn(key, format!("{address} ignored: one address of each family counts"));
            } else {
                addresses.push(address);
            }
        }
        addresses
    }

    fn internal_ips(&mut self) -> (Vec<IpNet>, bool) {
        let forced = self.text(FORCE_INTERNAL_IP);
        if forced.is_some_and(|text| text.is_empty() || text == "-") {
            return (Vec::new(), true);
        }
        let announced = self.host_addresses(INTERNAL_IP);
        let both = self.host_addresses(INTERNAL_IPS);
        let mut addresses = if forced.is_some() { self.host_addresses(FORCE_INTERNAL_IP) } else { Vec::new() };
        for address in announced.into_iter().chain(both) {
            // The order is that of trust: forced, then what upstream also reads, then our own list.
            if address::of_family(&addresses, address.addr()).is_none() {
                addresses.push(address);
            }
        }
        (addresses, false)
    }

    fn keepalive(&mut self) -> Seconds {
        let seconds = self.parse::<u64>(PERSISTENT_KEEPALIVE).unwrap_or(0);
        Seconds(u16::try_from(seconds).unwrap_or_else(|_| {
            self.warn(PERSISTENT_KEEPALIVE, format!("{seconds} s is too long: {} s used", u16::MAX));
            u16::MAX
        }))
    }

    /// And whether an annotation says them: as a person says, else as the agent announces, else as the control plane says.
    fn pod_cidrs(&mut self) -> (Vec<IpNet>, bool) {
        for key in [FORCE_POD_CIDRS, POD_CIDRS] {
            if let Some(text) = self.text(key).filter(|text| !text.trim().is_empty()) {
                return (self.listed_pod_cidrs(key, text), true);
            }
        }
        (self.spec_pod_cidrs(), false)
    }

    fn listed_pod_cidrs(&mut self, key: &str, text: &str) -> Vec<IpNet> {
        let mut cidrs: Vec<IpNet> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !matches!(*part, "" | NO_POD_CIDRS)) {
            let Some(cidr) = self.parse_text::<IpNet>(key, part).map(|cidr| cidr.trunc()) else { continue };
            let other = cidrs.iter().find(|other| other.contains(&cidr) || cidr.contains(*other)).copied();
            if cidr.prefix_len() == 0 {
                self.warn(key, format!("{cidr} ignored: a node cannot have all addresses"));
            } else if let Some(other) = other {
                self.warn(key, format!("{cidr} ignored: it overlaps {other}"));
            } else {
                cidrs.push(cidr);
            }
        }
        cidrs
    }

    fn spec_pod_cidrs(&mut self) -> Vec<IpNet> {
        let object = self.object;
        let mut cidrs: Vec<IpNet> = Vec::new();
        for text in &object.pod_cidrs {
            let Some(cidr) = self.parse_text::<IpNet>("spec.podCIDRs", text) else { continue };
            if address::of_family(&cidrs, cidr.addr()).is_some() {
                self.warn("spec.podCIDRs", format!("{cidr} ignored: one CIDR of each family counts"));
            } else if cidr.prefix_len() == 0 {
                self.warn("spec.podCIDRs", format!("{cidr} ignored: a node cannot have all addresses"));
            } else {
                cidrs.push(cidr.trunc());
            }
        }
        cidrs
    }

    fn allowed_location_ips(&mut self) -> Vec<IpNet> {
        let text = self.text(ALLOWED_LOCATION_IPS).unwrap_or_default();
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let nets: BTreeSet<IpNet> = parts
            .filter_map(|part| self.parse_text::<IpNet>(ALLOWED_LOCATION_IPS, part))
            .map(|net| net.trunc())
            .collect();
        nets.into_iter().collect()
    }

    fn discovered_endpoints(&mut self) -> BTreeMap<PublicKey, SocketAddr> {
        // Upstream writes the empty string or null for "none".
        let Some(text) = self.text(DISCOVERED_ENDPOINTS).filter(|text| !matches!(*text, "" | "null")) else {
            return BTreeMap::new();
        };
        let Ok(Value::Object(entries)) = serde_json::from_str(text) else {
            self.warn(DISCOVERED_ENDPOINTS, format!("{} ignored: expected a JSON object", excerpt(text)));
            return BTreeMap::new();
        };
        let parsed = entries.iter().filter_map(|(key, value)| {
            let entry = discovered_endpoint(key, value);
            if entry.is_none() {
                self.warn(
                    DISCOVERED_ENDPOINTS,
                    format!("entry {} ignored: expected a key and IP and Port", excerpt(key)),
                );
            }
            entry
        });
        parsed.collect()
    }
}

/// One entry in the form of Go's `net.UDPAddr` in JSON.
fn discovered_endpoint(key: &str, value: &Value) -> Option<(PublicKey, SocketAddr)> {
    let ip: IpAddr = value.get("IP")?.as_str()?.parse().ok()?;
    let port = u16::try_from(value.get("Port")?.as_u64()?).ok().filter(|port| *port != 0)?;
    Some((key.parse().ok()?, SocketAddr::new(ip.to_canonical(), port)))
}

/// What `object` says, and what of it could not be used.
pub fn decode(object: &NodeObject<'_>, topology_label: &str) -> (Node, Vec<Warning>) {
    let mut reader = Reader { object, warnings: Vec::new() };
    let (internal_ips, no_internal_ip) = reader.internal_ips();
    let (pod_cidrs, pod_cidrs_annotated) = reader.pod_cidrs();
    let location = reader.text(LOCATION).or_else(|| object.labels.get(topology_label).map(String::as_str));
    let node = Node {
        name: object.name.into(),
        created: object.created,
        location: location.unwrap_or_default().into(),
        endpoint: reader.parse::<Endpoint>(FORCE_ENDPOINT).or_else(|| reader.parse::<Endpoint>(ENDPOINT)),
        key: reader.parse(KEY),
        pod_cidrs,
        pod_cidrs_annotated,
        internal_ips,
        no_internal_ip,
        leader: reader.text(LEADER).is_some(),
        persistent_keepalive: reader.keepalive(),
        allowed_location_ips: reader.allowed_location_ips(),
        discovered_endpoints: reader.discovered_endpoints(),
        last_seen: reader.parse(LAST_SEEN).unwrap_or(0),
        wireguard_ips: {
            let first = reader.host_addresses(WIREGUARD_IP);
            let both = reader.host_addresses(WIREGUARD_IPS);
            if both.is_empty() { first } else { both }
        },
        granularity: reader.parse(GRANULARITY),
        cni_ips: reader.host_addresses(CNI_COMPATIBILITY_IP),
        tunnel: reader.parse(ENCAPSULATION_DEVICE),
    };
    (node, reader.warnings)
}

/// What an agent says of its own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where its WireGuard is reached.
    pub endpoint: Option<Endpoint>,
    /// Its addresses inside its location.
    pub internal_ips: Vec<IpNet>,
    /// Its public key.
    pub key: PublicKey,
    /// Time of this check-in, Unix seconds.
    pub last_seen: i64,
    /// The addresses of its WireGuard interface; empty when it does not lead.
    pub wireguard_ips: Vec<IpNet>,
    /// Where it sees others that are behind NAT.
    pub discovered_endpoints: BTreeMap<PublicKey, SocketAddr>,
    /// The granularity that it runs with.
    pub granularity: Granularity,
    /// The tunnel that it uses inside its location.
    pub tunnel: Option<TunnelKind>,
    /// Its addresses in the overlay of another network provider.
    pub cni_ips: Vec<IpNet>,
    /// Its pod CIDRs where they are not those of `spec.podCIDRs`.
    pub pod_cidrs: Option<Vec<IpNet>>,
}

fn first(nets: &[IpNet]) -> String {
    nets.first().map(IpNet::to_string).unwrap_or_default()
}

fn joined(nets: &[IpNet]) -> String {
    nets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
}

/// What [`POD_CIDRS`] says of a node that has these.
pub fn announced_pod_cidrs(cidrs: &[IpNet]) -> String {
    if cidrs.is_empty() { NO_POD_CIDRS.to_owned() } else { joined(cidrs) }
}

impl Announcement {
    /// The annotations that say this.
    pub fn annotations(&self) -> BTreeMap<&'static str, String> {
        let discovered: Map<String, Value> = self
            .discovered_endpoints
            .iter()
            .map(|(key, at)| (key.to_string(), json!({"IP": at.ip().to_string(), "Port": at.port(), "Zone": ""})))
            .collect();
        BTreeMap::from([
            (ENDPOINT, self.endpoint.as_ref().map(Endpoint::to_string).unwrap_or_default()),
            (INTERNAL_IP, first(&self.internal_ips)),
            (INTERNAL_IPS, joined(&self.internal_ips)),
            (KEY, self.key.to_string()),
            (LAST_SEEN, self.last_seen.to_string()),
            (WIREGUARD_IP, first(&self.wireguard_ips)),
            (WIREGUARD_IPS, joined(&self.wireguard_ips)),
            (DISCOVERED_ENDPOINTS, Value::Object(discovered).to_string()),
            (GRANULARITY, self.granularity.to_string()),
            (ENCAPSULATION_DEVICE, self.tunnel.as_ref().map(TunnelKind::to_string).unwrap_or_default()),
            (CNI_COMPATIBILITY_IP, joined(&self.cni_ips)),
            (POD_CIDRS, self.pod_cidrs.as_deref().map(announced_pod_cidrs).unwrap_or_default()),
        ])
    }
}

fn patch(annotations: Map<String, Value>) -> Option<Value> {
    (!annotations.is_empty()).then(|| json!({"metadata": {"annotations": annotations}}))
}

/// The JSON merge patch (RFC 7386) that makes the annotations `wanted` out of those `present`, or
/// `None` when they are already. Other annotations are not touched.
pub fn merge_patch(present: &BTreeMap<String, String>, wanted: &BTreeMap<&'static str, String>) -> Option<Value> {
    let differing = wanted.iter().filter(|(key, value)| present.get(**key) != Some(*value));
    patch(differing.map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect())
}

/// The JSON merge patch that removes what the agent wrote, or `None` when nothing of it is left.
pub fn removal_patch(present: &BTreeMap<String, String>) -> Option<Value> {
    let written = OWNED.iter().filter(|key| present.contains_key(**key));
    patch(written.map(|key| ((*key).to_owned(), Value::Null)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_TEXT: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn read(annotations: &[(&str, &str)]) -> (Node, Vec<String>) {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let labels = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
        let object = NodeObject {
            name: "n1",
            created: 7,
            labels: &labels,
            annotations: &annotations,
            pod_cidrs: vec!["10.42.1.0/24", "fd42:1::/64"],
        };
        let (node, warnings) = decode(&object, "region");
        (node, warnings.iter().map(Warning::to_string).collect())
    }

    #[test]
    fn people_override_what_the_agent_found() {
        let (node, warnings) = read(&[
            (ENDPOINT, "10.1.0.2:51820"),
            (FORCE_ENDPOINT, "gw.example.com:51821"),
            (INTERNAL_IP, "10.1.0.2/24"),
            (INTERNAL_IPS, "10.1.0.2/24,fd01::2/64"),
            (FORCE_INTERNAL_IP, "10.9.0.2/16"),
            (LOCATION, "moon"),
            (LEADER, ""),
        ]);
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(node.endpoint.unwrap().to_string(), "gw.example.com:51821");
        assert_eq!(joined(&node.internal_ips), "10.9.0.2/16,fd01::2/64");
        assert_eq!(node.location.as_str(), "moon");
        assert!(node.leader);
        assert_eq!(joined(&node.pod_cidrs), "10.42.1.0/24,fd42:1::/64");
    }

    #[test]
    fn a_node_can_be_told_to_have_no_internal_ip() {
        for value in ["", "-"] {
            let (node, _) = read(&[(INTERNAL_IP, "10.1.0.2/24"), (FORCE_INTERNAL_IP, value)]);
            assert_eq!((node.internal_ips, node.no_internal_ip), (vec![], true));
        }
    }

    #[test]
    fn the_location_falls_back_to_the_label_and_then_to_the_empty_one() {
        assert_eq!(read(&[]).0.location.as_str(), "eu");
        let object = NodeObject {
            name: "n",
            created: 0,
            labels: &BTreeMap::new(),
            annotations: &BTreeMap::new(),
            pod_cidrs: vec![],
        };
        assert_eq!(decode(&object, "region").0.location.as_str(), "");
    }

    #[test]
    fn each_broken_annotation_costs_only_itself_and_is_named() {
        let long = "x".repeat(10_000);
        let (node, warnings) = read(&[
            (ENDPOINT, "nonsense"),
            (KEY, &long),
            (INTERNAL_IP, "0.0.0.0/0"),
            (INTERNAL_IPS, "fe80::1/64,10.1.0.2/24,10.1.0.3/24"),
            (PERSISTENT_KEEPALIVE, "soon"),
            (LAST_SEEN, "yesterday"),
            (ALLOWED_LOCATION_IPS, "10.8.0.0/16, what, 10.7.0.5/24"),
            (DISCOVERED_ENDPOINTS, &format!(r#"{{"{KEY_TEXT}":{{"IP":"192.0.2.7","Port":9,"Zone":""}},"k":1}}"#)),
            (GRANULARITY, "partial"),
            (ENCAPSULATION_DEVICE, "gre"),
            (WIREGUARD_IP, "garbage"),
        ]);
        assert_eq!(node.missing(), [ENDPOINT, KEY]);
        assert_eq!(joined(&node.internal_ips), "10.1.0.2/24");
        assert_eq!(joined(&node.allowed_location_ips), "10.7.0.0/24,10.8.0.0/16");
        assert_eq!(node.discovered_endpoints.len(), 1);
        assert_eq!(node.persistent_keepalive, Seconds(0));
        assert_eq!(warnings.len(), 12, "{warnings:#?}");
        assert!(warnings.iter().all(|warning| warning.len() < 250), "{warnings:#?}");
    }

    #[test]
    fn what_is_announced_is_what_others_read() {
        let announced = Announcement {
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            internal_ips: vec!["10.1.0.2/24".parse().unwrap(), "fd01::2/64".parse().unwrap()],
            key: KEY_TEXT.parse().unwrap(),
            last_seen: 1_700_000_000,
            wireguard_ips: vec!["10.4.0.1/16".parse().unwrap()],
            discovered_endpoints: BTreeMap::from([(KEY_TEXT.parse().unwrap(), "192.0.2.7:1024".parse().unwrap())]),
            granularity: Granularity::Full,
            tunnel: Some(TunnelKind::Vxlan),
            cni_ips: vec!["10.0.1.7/32".parse().unwrap()],
            pod_cidrs: Some(vec!["10.44.1.0/26".parse().unwrap(), "10.44.2.64/26".parse().unwrap()]),
        };
        let annotations = announced.annotations();
        assert_eq!(annotations.keys().copied().collect::<BTreeSet<_>>(), OWNED.into_iter().collect());
        let pairs: Vec<(&str, &str)> = annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let (node, warnings) = read(&pairs);
        assert_eq!(warnings, Vec::<String>::new());
        let heard = Announcement {
            endpoint: node.endpoint,
            internal_ips: node.internal_ips,
            key: node.key.unwrap(),
            last_seen: node.last_seen,
            wireguard_ips: node.wireguard_ips,
            discovered_endpoints: node.discovered_endpoints,
            granularity: node.granularity.unwrap(),
            tunnel: node.tunnel,
            cni_ips: node.cni_ips,
            pod_cidrs: Some(node.pod_cidrs),
        };
        assert_eq!(heard, announced);
    }

    #[test]
    fn patches_hold_only_what_differs() {
        let present = BTreeMap::from([(KEY.to_owned(), "k".to_owned()), ("other".to_owned(), "x".to_owned())]);
        assert_eq!(merge_patch(&present, &BTreeMap::from([(KEY, "k".to_owned())])), None);
        let wanted = BTreeMap::from([(KEY, "k".to_owned()), (LAST_SEEN, "5".to_owned())]);
        assert_eq!(merge_patch(&present, &wanted), Some(json!({"metadata": {"annotations": {LAST_SEEN: "5"}}})));
        assert_eq!(removal_patch(&present), Some(json!({"metadata": {"annotations": {KEY: null}}})));
        assert_eq!(removal_patch(&BTreeMap::new()), None);
    }
}
