//! Names of joined clusters, and of the Peer objects that stand for their segments.

use std::fmt;

use crate::{PeerName, SegmentName, endpoint::is_dns_name};

/// The longest name of a cluster: enough for people, and leaves most of an object's name to the segment.
const LONGEST: usize = 40;

/// The longest name of an object (Kubernetes API conventions: an RFC 1123 subdomain).
const LONGEST_OBJECT: usize = 253;

/// A joined cluster's name: an RFC 1123 label of at most 40 characters, so that it can be a label's
/// value and the first part of an object's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(String);

/// The text is no name for a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cluster name: expected at most {LONGEST} of a-z, 0-9 and '-', not first or last a '-'")]
pub struct ClusterNameError(String);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that comes closest to `text`, such as a kubeconfig context `admin@prod.example.com`;
    /// `None` if nothing of it can be used.
    pub fn closest(text: &str) -> Option<Self> {
        let name = sanitized(text, false);
        let name = name.get(..LONGEST).unwrap_or(&name).trim_matches('-');
        (!name.is_empty()).then(|| Self(name.to_owned()))
    }
}

impl std::str::FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(text: &str) -> Result<Self, ClusterNameError> {
        let is_name = text.len() <= LONGEST && !text.contains('.') && is_dns_name(text);
        if is_name { Ok(Self(text.to_owned())) } else { Err(ClusterNameError(text.to_owned())) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` in ASCII letters, digits, dashes and perhaps dots, each run of anything else one dash. It
/// may begin or end with a dash.
fn sanitized(text: &str, with_dots: bool) -> String {
    let mut name = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || (with_dots && c == '.') {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    name
}

/// The name of the object that stands for `segment` of `cluster`: `<cluster>.location.<location>` or
/// `<cluster>.node.<node>`, without the last part for the location that has no name.
///
/// What is no valid name, or too long, is mended, and a hash then stands beside the kind of segment,
/// where none is otherwise: so different segments have different names.
pub(super) fn object_name(cluster: &ClusterName, segment: &SegmentName) -> PeerName {
    let (kind, rest) = segment.as_str().split_once(':').unwrap_or(("segment", segment.as_str()));
    let plain = if rest.is_empty() { format!("{cluster}.{kind}") } else { format!("{cluster}.{kind}.{rest}") };
    if is_dns_name(&plain) {
        return plain.into();
    }
    let head = format!("{cluster}.{kind}-{:016x}", fnv1a(rest.as_bytes()));
    let labels = sanitized(rest, true);
    let labels = labels.split('.').filter_map(|label| {
        let label = label.get(..63).unwrap_or(label).trim_matches('-');
        (!label.is_empty()).then_some(label)
    });
    let mut name = head;
    for label in labels {
        if name.len() + 1 + label.len() > LONGEST_OBJECT {
            break;
        }
        name = format!("{name}.{label}");
    }
    name.into()
}

/// FNV-1a with 64 bits (RFC 9923): the same on every machine and in every version, unlike the standard
/// library's hashes.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_kubeconfigs_become_names_of_clusters() {
        for (text, expected) in [
            ("paris", Some("paris")),
            ("admin@prod.example.com", Some("admin-prod-example-com")),
            ("arn:aws:eks:eu-west-1:1234:cluster/Blue", Some("arn-aws-eks-eu-west-1-1234-cluster-blue")),
            ("--", None),
            ("", None),
            ("é", None),
        ] {
            let name = ClusterName::closest(text);
            assert_eq!(name.as_ref().map(ClusterName::as_str), expected, "{text}");
        }
        let long = ClusterName::closest(&"a-".repeat(100)).unwrap();
        assert_eq!(long.as_str().parse(), Ok(long));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "Paris", "a.b", "-a", "a-", &"a".repeat(41)] {
            assert_eq!(text.parse::<ClusterName>(), Err(ClusterNameError(text.to_owned())));
        }
    }

    #[test]
    fn objects_are_named_for_people() {
        for (segment, expected) in [
            ("location:paris", "b.location.paris"),
            ("node:worker-1.example.com", "b.node.worker-1.example.com"),
            ("location:", "b.location"),
            ("location:Rack 7/é", "b.location-c2c252c4564499d4.rack-7"),
        ] {
            assert_eq!(object_name(&"b".parse().unwrap(), &segment.into()).as_str(), expected);
        }
    }

    #[test]
    fn the_hash_is_that_of_the_rfc() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.as_bytes()), hash);
        }
    }

    proptest! {
        #[test]
        fn every_segment_has_a_valid_name_of_its_own(
            (a, b) in ("[a-cA-C./ é-]{0,6}|[a-z]{60,70}|[a-z.]{240,260}", "[a-cA-C./ é-]{0,6}|[a-z.]{240,260}"),
            kinds in (prop::sample::select(vec!["location", "node"]), prop::sample::select(vec!["location", "node"])),
            clusters in (prop::sample::select(vec!["a", "node"]), prop::sample::select(vec!["a", "node"])),
        ) {
            let first = (clusters.0, SegmentName::from(format!("{}:{a}", kinds.0)));
            let second = (clusters.1, SegmentName::from(format!("{}:{b}", kinds.1)));
            let name = |(cluster, segment): &(&str, SegmentName)| object_name(&cluster.parse().unwrap(), segment);
            prop_assert!(is_dns_name(name(&first).as_str()), "{}", name(&first));
            prop_assert_eq!(name(&first) == name(&second), first == second);
        }
    }
}
