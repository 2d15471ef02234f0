//! Where a node's pod CIDRs are written (`--pod-cidr-source`).
//!
//! Each agent reads those of its own node there, and announces them to the others
//! ([`annotations::POD_CIDRS`](crate::annotations::POD_CIDRS)), so that neither they nor kgctl need know the
//! provider.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde_json::Value;

use super::{calico, cilium};
use crate::{NodeName, Warning};

/// Where a node's pod CIDRs are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodCidrSource {
    /// `spec.podCIDRs` of the Node.
    #[default]
    Spec,
    /// An annotation of the Node, in one of the forms of [`listed`].
    Annotation(Cow<'static, str>),
    /// `spec.ipam.podCIDRs` of the CiliumNode of its name (`cilium.io/v2`).
    CiliumNode,
    /// `spec.cidr` of the BlockAffinities of the node (`crd.projectcalico.org/v1`).
    CalicoBlocks,
}

/// The text names no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected spec, annotation:KEY, cilium or calico")]
pub struct SourceError;

const ANNOTATION: &str = "annotation:";

impl fmt::Display for PodCidrSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec => f.write_str("spec"),
            Self::Annotation(key) => write!(f, "{ANNOTATION}{key}"),
            Self::CiliumNode => f.write_str("cilium"),
            Self::CalicoBlocks => f.write_str("calico"),
        }
    }
}

impl FromStr for PodCidrSource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "spec" => Ok(Self::Spec),
            "cilium" => Ok(Self::CiliumNode),
            "calico" => Ok(Self::CalicoBlocks),
            _ => match text.strip_prefix(ANNOTATION) {
                Some(key) if !key.is_empty() && !key.contains(char::is_whitespace) => {
                    Ok(Self::Annotation(key.to_owned().into()))
                }
                _ => Err(SourceError),
            },
        }
    }
}

/// A kind of objects, as the API server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CustomResource {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in URLs and rights.
    pub plural: &'static str,
}

impl PodCidrSource {
    /// The objects to read; `None`: the Node itself will do.
    pub fn resource(&self) -> Option<CustomResource> {
        match self {
            Self::Spec | Self::Annotation(_) => None,
            Self::CiliumNode => Some(cilium::RESOURCE),
            Self::CalicoBlocks => Some(calico::RESOURCE),
        }
    }

    /// What the object called `object` with this `spec` gives to `node`, and what of it cannot be used.
    pub fn read(&self, node: &NodeName, object: &str, spec: &Value) -> (Vec<IpNet>, Vec<Warning>) {
        match self {
            Self::Spec | Self::Annotation(_) => (Vec::new(), Vec::new()),
            Self::CiliumNode if object == node.as_str() => cilium::pod_cidrs(object, spec),
            Self::CiliumNode => (Vec::new(), Vec::new()),
            Self::CalicoBlocks => calico::pod_cidrs(node, object, spec),
        }
    }

    /// Where somebody looks for the pod CIDRs of `node`.
    pub fn place(&self, node: &NodeName) -> String {
        match self {
            Self::Spec => format!("spec.podCIDRs of node/{node}"),
            Self::Annotation(key) => format!("annotation {key} of node/{node}"),
            Self::CiliumNode => format!("spec.ipam.podCIDRs of ciliumnode/{node}"),
            Self::CalicoBlocks => format!("confirmed blockaffinities with spec.node {node}"),
        }
    }
}

/// The CIDRs in `text`: separated by commas or white space, or JSON, in which those of OVN-Kubernetes'
/// network `default` count, e.g. `{"default":["10.244.0.0/24","fd00::/64"]}`. An address is the CIDR of itself alone; what
/// is neither is given back as it is.
pub fn listed(text: &str) -> (Vec<IpNet>, Vec<String>) {
    as_cidrs(match serde_json::from_str(text) {
        Ok(Value::Object(networks)) => strings(networks.get("default").unwrap_or(&Value::Null)),
        Ok(list @ (Value::Array(_) | Value::String(_))) => strings(&list),
        _ => text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// The CIDRs in a JSON string or array of strings.
pub(super) fn strings_as_cidrs(value: &Value) -> (Vec<IpNet>, Vec<String>) {
    as_cidrs(strings(value))
}

fn as_cidrs(texts: Vec<String>) -> (Vec<IpNet>, Vec<String>) {
    let (mut cidrs, mut wrong) = (Vec::new(), Vec::new());
    for text in texts {
        match text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into())) {
            Ok(cidr) => cidrs.push(cidr),
            Err(_) => wrong.push(text),
        }
    }
    (cidrs, wrong)
}

/// A string, or strings in an array; of other things their JSON, which is no CIDR.
fn strings(value: &Value) -> Vec<String> {
    let one = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().map(one).collect(),
        value => vec![one(value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        for text in ["spec", "cilium", "calico", "annotation:example.com/pods"] {
            assert_eq!(text.parse::<PodCidrSource>().unwrap().to_string(), text);
        }
        for text in ["", "Spec", "annotation", "annotation:", "annotation:a b", "10.0.0.0/8"] {
            assert_eq!(text.parse::<PodCidrSource>(), Err(SourceError), "{text:?}");
        }
    }

    #[test]
    fn cidrs_are_listed_in_any_of_the_forms_that_providers_write() {
        for (text, expected, wrong) in [
            ("10.1.0.0/24", "10.1.0.0/24", ""),
            ("10.1.0.0/24, fd01::/64 10.2.0.0/24", "10.1.0.0/24 fd01::/64 10.2.0.0/24", ""),
            (r#"{"default":"10.1.0.0/24"}"#, "10.1.0.0/24", ""),
            (r#"{"default":["10.1.0.0/24","fd01::/64"],"blue":["10.9.0.0/24"]}"#, "10.1.0.0/24 fd01::/64", ""),
            (r#"["10.1.0.0/24", 5]"#, "10.1.0.0/24", "5"),
            (r#"{"default":{"a":1}}"#, "", r#"{"a":1}"#),
            (r#"{"blue":["10.9.0.0/24"]}"#, "", ""),
            ("100.64.0.2,fd00:100:64::2", "100.64.0.2/32 fd00:100:64::2/128", ""),
            ("10.1.0.0/24,10.1.0", "10.1.0.0/24", "10.1.0"),
            ("", "", ""),
        ] {
            let (cidrs, said) = listed(text);
            let cidrs: Vec<String> = cidrs.iter().map(IpNet::to_string).collect();
            assert_eq!((cidrs.join(" ").as_str(), said.join(" ").as_str()), (expected, wrong), "{text}");
        }
    }

    #[test]
    fn objects_give_what_is_theirs_and_cost_only_themselves() {
        let blocks = |node: &str, state: &str, cidr: Value| serde_json::json!({"node": node, "state": state, "cidr": cidr, "deleted": "false"});
        let ipam = |cidrs: Value| serde_json::json!({"ipam": {"podCIDRs": cidrs}});
        let (calico, cilium) = (PodCidrSource::CalicoBlocks, PodCidrSource::CiliumNode);
        for (source, object, spec, expected, warned) in [
            (&calico, "n-1", blocks("n", "confirmed", "10.44.1.64/26".into()), "10.44.1.64/26", ""),
            (&calico, "n-1", blocks("n", "pending", "10.44.1.64/26".into()), "", ""),
            (&calico, "m-1", blocks("m", "confirmed", "10.44.1.64/26".into()), "", ""),
            (&calico, "m-1", blocks("m", "confirmed", "nonsense".into()), "", ""),
            (&calico, "n-1", blocks("n", "confirmed", 5.into()), "", "blockaffinity/n-1: spec.cidr"),
            (&calico, "n-1", "text".into(), "", "blockaffinity/n-1: spec.node"),
            (&cilium, "n", ipam(serde_json::json!(["10.0.1.0/24", "fd00::/104"])), "10.0.1.0/24 fd00::/104", ""),
            (
                &cilium,
                "n",
                ipam(serde_json::json!(["10.0.1.0/24", "x"])),
                "10.0.1.0/24",
                "ciliumnode/n: spec.ipam.podCIDRs",
            ),
            (&cilium, "n", ipam(serde_json::json!({"a": 1})), "", "ciliumnode/n: spec.ipam.podCIDRs"),
            (&cilium, "m", ipam(serde_json::json!(["10.0.1.0/24"])), "", ""),
            (&cilium, "n", Value::Null, "", ""),
            (&PodCidrSource::Spec, "n", ipam(serde_json::json!(["10.0.1.0/24"])), "", ""),
        ] {
            let (cidrs, warnings) = source.read(&"n".into(), object, &spec);
            let cidrs: Vec<String> = cidrs.iter().map(IpNet::to_string).collect();
            let warnings: Vec<String> = warnings.iter().map(Warning::to_string).collect();
            assert_eq!(cidrs.join(" "), expected, "{spec}");
            assert_eq!(warnings.is_empty(), warned.is_empty(), "{warnings:?}");
            assert!(warnings.iter().all(|warning| warning.starts_with(warned)), "{warnings:?}");
        }
    }
}
