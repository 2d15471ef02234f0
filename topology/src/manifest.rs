//! Peer objects as people apply them: a file for `kubectl apply`, in YAML or JSON, with the fields and
//! the layout that upstream prints.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    Endpoint, PeerName,
    ini::PeerSection,
    peer::{DnsOrIp, GROUP, KIND, PeerEndpoint, PeerSpec, VERSION},
};

/// The Peer object called `name`. It holds the preshared key if there is one, and so do its texts.
pub fn object(name: &PeerName, spec: &PeerSpec) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": { "name": name.as_str() },
        "spec": spec,
    })
}

/// An object as JSON.
pub fn json(object: &Value) -> Zeroizing<String> {
    Zeroizing::new(format!("{object:#}\n"))
}

/// An object as YAML. Text that YAML 1.1, which kubectl reads, would take for something else is quoted.
pub fn yaml(object: &Value) -> Zeroizing<String> {
    Zeroizing::new(serde_saphyr::to_string(object).expect("every JSON value has a YAML form"))
}

impl From<&PeerSection> for PeerSpec {
    fn from(section: &PeerSection) -> Self {
        Self {
            allowed_ips: section.allowed_ips.iter().map(ToString::to_string).collect(),
            endpoint: section.endpoint.as_ref().map(PeerEndpoint::from),
            persistent_keepalive: section.persistent_keepalive.0.into(),
            preshared_key: section.preshared_key.as_ref().map(|key| key.reveal().to_string()).unwrap_or_default(),
            public_key: section.public_key.to_string(),
        }
    }
}

impl From<&Endpoint> for PeerEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let dns_or_ip = match endpoint {
            Endpoint::Address(address) => DnsOrIp { ip: address.ip().to_string(), ..DnsOrIp::default() },
            Endpoint::Name(name, _) => DnsOrIp { dns: name.clone(), ..DnsOrIp::default() },
        };
        Self { dns_or_ip, port: endpoint.port().into() }
    }
}
