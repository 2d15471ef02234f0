//! The Peer custom resource, `kilo.squat.ai/v1alpha1`: its wire form and what makes it valid.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Endpoint, EndpointError, KeyError, Peer, Seconds, warning::excerpt};

/// API group of the custom resource.
pub const GROUP: &str = "kilo.squat.ai";
/// API version of the custom resource.
pub const VERSION: &str = "v1alpha1";
/// Kind of the custom resource.
pub const KIND: &str = "Peer";
/// Plural name of the custom resource.
pub const PLURAL: &str = "peers";

/// `spec` of a Peer object. Its preshared key is a secret and cannot be formatted.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// CIDRs that are reached through the peer.
    #[serde(default, rename = "allowedIPs", deserialize_with = "null_as_default")]
    pub allowed_ips: Vec<String>,
    /// Where the peer is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between keepalives, 0 for none.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "null_as_default")]
    pub persistent_keepalive: i64,
    /// Base64 of 32 bytes, or empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub preshared_key: String,
    /// Base64 of 32 bytes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub public_key: String,
}

impl fmt::Debug for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed_ips, endpoint, persistent_keepalive, preshared_key: _, public_key } = self;
        f.debug_struct("PeerSpec")
            .field("allowed_ips", allowed_ips)
            .field("endpoint", endpoint)
            .field("persistent_keepalive", persistent_keepalive)
            .field("public_key", public_key)
            .finish_non_exhaustive()
    }
}

/// `spec.endpoint` of a Peer object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerEndpoint {
    /// The host.
    #[serde(rename = "dnsOrIP", default)]
    pub dns_or_ip: DnsOrIp,
    /// UDP port, 1 to 65535.
    #[serde(default)]
    pub port: i64,
}

/// A host by name or by address; the name wins when both are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOrIp {
    /// DNS name, an RFC 1123 subdomain.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub dns: String,
    /// IPv4 or IPv6 address.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub ip: String,
}

/// Kubernetes API convention: a null field is an absent field.
fn null_as_default<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(seconds: &i64) -> bool {
    *seconds == 0
}

/// Why a Peer object is not valid; each names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The object has not the form of the custom resource.
    #[error("spec: {0}")]
    Form(String),
    /// An allowed IP is no CIDR.
    #[error("spec.allowedIPs: {0} is no CIDR")]
    AllowedIp(String),
    /// There is no allowed IP, so the peer is not ready.
    #[error("spec.allowedIPs: there must be at least one CIDR")]
    NoAllowedIps,
    /// The endpoint's host or port.
    #[error("spec.endpoint: {0}")]
    Endpoint(EndpointError),
    /// The keepalive is out of range.
    #[error("spec.persistentKeepalive: {0} is not within 0 to 65535 seconds")]
    Keepalive(i64),
    /// The preshared key.
    #[error("spec.presharedKey: {0}")]
    PresharedKey(KeyError),
    /// The public key.
    #[error("spec.publicKey: {0}")]
    PublicKey(KeyError),
}

impl PeerEndpoint {
    fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        let port = u16::try_from(self.port).map_err(|_| EndpointError::Port)?;
        let DnsOrIp { dns, ip } = &self.dns_or_ip;
        let host = if dns.is_empty() { ip } else { dns };
        match Endpoint::new(host, port)? {
            // An address in `dns` or a name in `ip` would pass otherwise.
            Endpoint::Address(_) if !dns.is_empty() => Err(EndpointError::Host),
            Endpoint::Name(..) if dns.is_empty() => Err(EndpointError::Host),
            endpoint => Ok(endpoint),
        }
    }
}

/// The Peer called `name`, from the JSON of its `spec`.
pub fn decode(name: &str, spec: &serde_json::Value) -> Result<Peer, PeerError> {
    let spec = PeerSpec::deserialize(spec).map_err(|why| PeerError::Form(excerpt(&why.to_string())))?;
    Peer::from_spec(name, &spec)
}

impl Peer {
    /// The Peer called `name`, if `spec` is valid.
    pub fn from_spec(name: &str, spec: &PeerSpec) -> Result<Peer, PeerError> {
        let mut seen = BTreeSet::new();
        let mut allowed_ips = Vec::new();
        for text in &spec.allowed_ips {
            let net: IpNet = text.parse().map_err(|_| PeerError::AllowedIp(excerpt(text)))?;
            if seen.insert(net.trunc()) {
                allowed_ips.push(net.trunc());
            }
        }
        if allowed_ips.is_empty() {
            return Err(PeerError::NoAllowedIps);
        }
        let keepalive = u16::try_from(spec.persistent_keepalive);
        let preshared_key = match spec.preshared_key.as_str() {
            "" => None,
            text => Some(text.parse().map_err(PeerError::PresharedKey)?),
        };
        Ok(Peer {
            name: name.into(),
            key: spec.public_key.parse().map_err(PeerError::PublicKey)?,
            preshared_key,
            endpoint: spec.endpoint.as_ref().map(PeerEndpoint::endpoint).transpose().map_err(PeerError::Endpoint)?,
            persistent_keepalive: Seconds(keepalive.map_err(|_| PeerError::Keepalive(spec.persistent_keepalive))?),
            allowed_ips,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    #[test]
    fn a_full_object_is_read() {
        let peer = decode(
            "laptop",
            &json!({"allowedIPs": ["10.5.0.1/32", "10.5.0.1/32", "fd05::1/128"], "publicKey": KEY, "presharedKey": KEY, "persistentKeepalive": 10,
                    "endpoint": {"dnsOrIP": {"dns": "vpn.example.com", "ip": "192.0.2.1"}, "port": 51820}}),
        )
        .unwrap();
        assert_eq!(peer.endpoint, Some("vpn.example.com:51820".parse().unwrap()));
        assert_eq!(peer.allowed_ips.len(), 2);
        assert_eq!(peer.persistent_keepalive, Seconds(10));
        assert!(peer.preshared_key.is_some());
    }

    #[test]
    fn each_error_names_its_field() {
        let base = json!({"allowedIPs": ["10.5.0.1/32"], "publicKey": KEY});
        for (field, value, expected) in [
            ("allowedIPs", json!(["10.5.0.1"]), "spec.allowedIPs"),
            ("allowedIPs", json!([]), "spec.allowedIPs"),
            ("allowedIPs", json!("10.5.0.1/32"), "spec: "),
            ("publicKey", json!(5), "spec: "),
            ("publicKey", json!("x"), "spec.publicKey"),
            ("publicKey", json!(null), "spec.publicKey"),
            ("presharedKey", json!("x"), "spec.presharedKey"),
            ("persistentKeepalive", json!(-1), "spec.persistentKeepalive"),
            ("persistentKeepalive", json!(70_000), "spec.persistentKeepalive"),
            ("endpoint", json!({"dnsOrIP": {"ip": "192.0.2.1"}, "port": 0}), "spec.endpoint"),
            ("endpoint", json!({"dnsOrIP": {"ip": "192.0.2.1"}, "port": 70_000}), "spec.endpoint"),
            ("endpoint", json!({"dnsOrIP": {"ip": "gw.example.com"}, "port": 1}), "spec.endpoint"),
            ("endpoint", json!({"dnsOrIP": {"dns": "Not A Name"}, "port": 1}), "spec.endpoint"),
            ("endpoint", json!({"port": 1}), "spec.endpoint"),
        ] {
            let mut spec = base.clone();
            spec[field] = value;
            let error = decode("p", &spec).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn a_preshared_key_does_not_show_in_debug_output_nor_in_errors() {
        let secret = "not-quite-a-key";
        let spec = PeerSpec { preshared_key: secret.to_owned(), ..PeerSpec::default() };
        assert!(!format!("{spec:?}").contains(secret));
        let error = decode("p", &json!({"allowedIPs": ["10.5.0.1/32"], "publicKey": KEY, "presharedKey": secret}));
        assert!(!format!("{error:?}").contains(secret));
    }

    #[test]
    fn the_wire_form_is_kept() {
        let text = json!({"allowedIPs": ["10.5.0.1/32"], "endpoint": {"dnsOrIP": {"ip": "192.0.2.1"}, "port": 51820}, "persistentKeepalive": 10, "publicKey": KEY});
        let spec: PeerSpec = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), text);
    }
}
