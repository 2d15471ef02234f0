//! Peer objects as people apply them: a file for `kubectl apply`, in YAML or JSON, with the fields and
//! the layout that upstream prints.

use std::collections::BTreeMap;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    Endpoint, PeerName,
    ini::PeerSection,
    peer::{DnsOrIp, GROUP, KIND, PeerEndpoint, PeerSpec, VERSION},
};

/// A Peer object. It may hold a preshared key, which its texts show.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    api_version: String,
    kind: &'static str,
    metadata: Metadata,
    spec: PeerSpec,
}

#[derive(Clone, PartialEq, Eq, Serialize)]
struct Metadata {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    name: String,
}

impl Manifest {
    /// The Peer called `name`.
    pub fn new(name: &PeerName, spec: PeerSpec) -> Self {
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: KIND,
            metadata: Metadata { labels: BTreeMap::new(), name: name.to_string() },
            spec,
        }
    }

    /// The same with `labels`.
    pub fn labelled(mut self, labels: BTreeMap<String, String>) -> Self {
        self.metadata.labels = labels;
        self
    }

    /// The object as JSON.
    pub fn json(&self) -> Zeroizing<String> {
        let text = serde_json::to_string_pretty(self).expect("every field has a JSON form");
        Zeroizing::new(text + "\n")
    }

    /// The object as YAML. Text that YAML 1.1, which kubectl reads, would take for something else is quoted.
    pub fn yaml(&self) -> Zeroizing<String> {
        Zeroizing::new(serde_saphyr::to_string(self).expect("every field has a YAML form"))
    }
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
