//! What is written is read again, and nothing that is read from outside makes the reader panic.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use topology::{
    Endpoint, Granularity, PublicKey, Seconds, SecretKey, TunnelKind,
    address::is_host,
    annotations::{self, Announcement, NodeObject},
    ini::{Conf, InterfaceSection, PeerSection},
    peer,
};

use crate::cases;

fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_filter_map("not zero", |bytes| PublicKey::new(bytes).ok())
}

fn secret() -> impl Strategy<Value = SecretKey> {
    key().prop_map(|key| SecretKey::from(*key.as_bytes()))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_map(|ip| ip.to_canonical())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (ip(), 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let name = "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,8}){0,3}";
    prop_oneof![
        address().prop_map(Endpoint::Address),
        (name, 1..=u16::MAX).prop_map(|(name, port)| Endpoint::new(&name, port).expect("a DNS name")),
    ]
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0u8..=128).prop_map(|(ip, len)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, len.min(longest)).expect("a valid length").trunc()
    })
}

/// At most one address of each family that a host can have.
fn host_nets() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = any::<[u8; 4]>().prop_map(IpAddr::from).prop_filter("a host's", |ip| is_host(*ip));
    let v6 = any::<[u8; 16]>().prop_map(|bytes| IpAddr::from(bytes).to_canonical());
    let v6 = v6.prop_filter("a host's", |ip| ip.is_ipv6() && is_host(*ip));
    let net = |(ip, len): (IpAddr, u8)| IpNet::new(ip, len).expect("a valid length");
    (option::of((v4, 1u8..=32)), option::of((v6, 1u8..=128)))
        .prop_map(move |(v4, v6)| v4.into_iter().chain(v6).map(net).collect())
}

fn peer_section() -> impl Strategy<Value = PeerSection> {
    (vec(net(), 0..4), option::of(endpoint()), any::<u16>(), option::of(secret()), key()).prop_map(
        |(allowed_ips, endpoint, keepalive, preshared_key, public_key)| PeerSection {
            allowed_ips,
            endpoint,
            persistent_keepalive: Seconds(keepalive),
            preshared_key,
            public_key,
        },
    )
}

fn conf() -> impl Strategy<Value = Conf> {
    let interface = (option::of(secret()), option::of(any::<u16>()), option::of(any::<u32>()))
        .prop_map(|(private_key, listen_port, fwmark)| InterfaceSection { private_key, listen_port, fwmark });
    (option::of(interface), vec(peer_section(), 0..4)).prop_map(|(interface, peers)| Conf { interface, peers })
}

/// None of them inside another.
fn pod_cidrs() -> impl Strategy<Value = Vec<IpNet>> {
    let nets = prop::collection::btree_set(any::<[u8; 2]>(), 0..5);
    nets.prop_map(|nets| {
        let net = |[a, b]: [u8; 2]| format!("10.{a}.{b}.0/26").parse().expect("a CIDR");
        nets.into_iter().map(net).collect()
    })
}

fn announcement() -> impl Strategy<Value = Announcement> {
    let discovered = btree_map(key(), address(), 0..4);
    let granularity = prop_oneof![Just(Granularity::Location), Just(Granularity::Full)];
    let tunnel = option::of(prop_oneof![Just(TunnelKind::Ipip), Just(TunnelKind::Vxlan)]);
    let beneath = (tunnel, host_nets(), option::of(pod_cidrs()));
    (option::of(endpoint()), host_nets(), key(), any::<i64>(), host_nets(), discovered, granularity, beneath).prop_map(
        |(endpoint, internal_ips, key, last_seen, wireguard_ips, discovered_endpoints, granularity, beneath)| {
            let (tunnel, cni_ips, pod_cidrs) = beneath;
            Announcement {
                endpoint,
                internal_ips,
                key,
                last_seen,
                wireguard_ips,
                discovered_endpoints,
                granularity,
                tunnel,
                cni_ips,
                pod_cidrs,
            }
        },
    )
}

fn decode(annotations: &BTreeMap<String, String>) -> (topology::Node, Vec<topology::Warning>) {
    let labels = BTreeMap::new();
    let object = NodeObject { name: "n", created: 0, labels: &labels, annotations, pod_cidrs: vec!["10.42.0.0/24"] };
    annotations::decode(&object, "")
}

const EVERY_KEY: [&str; 19] = [
    annotations::CNI_COMPATIBILITY_IP,
    annotations::POD_CIDRS,
    annotations::FORCE_POD_CIDRS,
    annotations::ENCAPSULATION_DEVICE,
    annotations::FORCE_ENDPOINT,
    annotations::FORCE_INTERNAL_IP,
    annotations::LEADER,
    annotations::LOCATION,
    annotations::PERSISTENT_KEEPALIVE,
    annotations::ALLOWED_LOCATION_IPS,
    annotations::ENDPOINT,
    annotations::INTERNAL_IP,
    annotations::INTERNAL_IPS,
    annotations::KEY,
    annotations::LAST_SEEN,
    annotations::WIREGUARD_IP,
    annotations::WIREGUARD_IPS,
    annotations::DISCOVERED_ENDPOINTS,
    annotations::GRANULARITY,
];

/// Text that looks a bit like what is expected.
fn almost() -> impl Strategy<Value = String> {
    prop_oneof!["[0-9a-f.:,/ \\[\\]-]{0,40}", "[\\[\\]{}\":,a-zIPort0-9]{0,40}", any::<String>()]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_configuration_file_survives_its_text(conf in conf()) {
        prop_assert_eq!(Conf::parse(&conf.render()), Ok(conf));
    }

    #[test]
    fn any_text_is_a_configuration_file_or_an_error(
        lines in vec(prop_oneof!["\\[(Peer|Interface)\\]", "(AllowedIPs|Endpoint|PublicKey|FwMark) ?= ?.{0,20}", any::<String>()], 0..8)
    ) {
        let text = lines.join("\n");
        match Conf::parse(&text) {
            // What is read can be written and read again.
            Ok(conf) => prop_assert_eq!(Conf::parse(&conf.render()), Ok(conf)),
            Err(error) => prop_assert!(error.line <= text.lines().count().max(1)),
        }
    }

    #[test]
    fn no_error_shows_a_secret(secret in key(), form in 0usize..6) {
        let secret = secret.to_string();
        let line = match form {
            0 => secret.clone(),
            1 => format!("PrivateKey {secret}"),
            2 => format!("PrivateKey: {secret}"),
            3 => format!("PrivateKey = {secret}{secret}"),
            4 => format!("PresharedKey = {secret}"),
            _ => format!("[{secret}"),
        };
        let error = Conf::parse(&format!("[Interface]\n{line}")).unwrap_err().to_string();
        let shown = secret.trim_end_matches('=');
        prop_assert!(!error.contains(&shown[..20]), "{}", error);
    }

    #[test]
    fn others_read_what_an_agent_announces(said in announcement()) {
        let annotations = said.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let (node, warnings) = decode(&annotations);
        prop_assert_eq!(warnings, []);
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
            pod_cidrs: said.pod_cidrs.as_ref().map(|_| node.pod_cidrs),
        };
        prop_assert_eq!(&heard, &said);
        prop_assert_eq!(annotations::merge_patch(&annotations, &said.annotations()), None);
        prop_assert!(annotations::removal_patch(&annotations).is_some());
    }

    #[test]
    fn a_patch_makes_the_annotations_what_they_should_be(before in announcement(), after in announcement(), other in ".{0,9}") {
        let mut present: BTreeMap<String, String> =
            before.annotations().into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        present.insert("other".to_owned(), other.clone());
        let merge = |present: &mut BTreeMap<String, String>, patch: Option<serde_json::Value>| {
            for (key, value) in patch.iter().flat_map(|patch| patch["metadata"]["annotations"].as_object().unwrap()) {
                match value.as_str() {
                    Some(value) => present.insert(key.clone(), value.to_owned()),
                    None => present.remove(key),
                };
            }
        };
        let patch = annotations::merge_patch(&present, &after.annotations());
        merge(&mut present, patch);
        prop_assert_eq!(annotations::merge_patch(&present, &after.annotations()), None);
        let patch = annotations::removal_patch(&present);
        merge(&mut present, patch);
        prop_assert_eq!(present, BTreeMap::from([("other".to_owned(), other)]));
    }

    #[test]
    fn any_annotations_make_a_node(values in vec(almost(), EVERY_KEY.len())) {
        let annotations = EVERY_KEY.iter().map(|key| (*key).to_owned()).zip(values).collect();
        let (node, warnings) = decode(&annotations);
        prop_assert!(node.internal_ips.len() <= 2);
        prop_assert!(node.internal_ips.iter().all(|ip| is_host(ip.addr())));
        prop_assert!(warnings.iter().all(|warning| warning.object == "node/n" && warning.message.len() < 2000));
    }

    #[test]
    fn any_spec_is_a_peer_or_an_error_that_names_the_field(
        ips in vec(almost(), 0..3), host in almost(), port in any::<i64>(), keepalive in any::<i64>(), keys in (almost(), almost())
    ) {
        let spec = serde_json::json!({
            "allowedIPs": ips, "endpoint": {"dnsOrIP": {"dns": host, "ip": host}, "port": port},
            "persistentKeepalive": keepalive, "presharedKey": keys.0, "publicKey": keys.1,
        });
        let error = peer::decode("p", &spec).unwrap_err().to_string();
        prop_assert!(error.starts_with("spec."), "{}", error);
    }
}
