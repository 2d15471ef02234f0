//! The service range of API servers that have no ServiceCIDR objects (before Kubernetes 1.33): it is
//! in what they say when they refuse an address.

use ipnet::IpNet;

/// What stands before the range in kube-apiserver's refusal (pkg/registry/core/service/ipallocator).
const BEFORE: &str = "The range of valid IPs is ";

/// The range that the refusal `message` names, if it names one.
pub fn service_range(message: &str) -> Option<IpNet> {
    let (_, after) = message.split_once(BEFORE)?;
    let end = after.find(|c: char| !(c.is_ascii_hexdigit() || ".:/".contains(c))).unwrap_or(after.len());
    after[..end].trim_end_matches(['.', ':']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_found_in_what_api_servers_say() {
        let v1_20 = "Service \"x\" is invalid: spec.clusterIPs: Invalid value: []string{\"192.0.2.1\"}: failed to \
                     allocated ip:192.0.2.1 with error:provided IP is not in the valid range. The range of valid IPs \
                     is 10.96.0.0/16";
        for (message, expected) in [
            (v1_20, Some("10.96.0.0/16")),
            (
                "provided IP is not in the valid range. The range of valid IPs is fd00:43::/112 (HTTP status 422)",
                Some("fd00:43::/112"),
            ),
            ("The range of valid IPs is 10.43.0.0/16.", Some("10.43.0.0/16")),
            ("The range of valid IPs is unknown", None),
            ("services is forbidden", None),
        ] {
            assert_eq!(service_range(message), expected.map(|range| range.parse().unwrap()), "{message}");
        }
    }
}
