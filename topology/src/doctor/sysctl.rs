//! Kernel settings without which packets stop here.

use std::net::IpAddr;

use super::{Check, Diagnosis, Evidence, NodeEvidence, Verdict};

pub(super) const FORWARDING: Check =
    Check::passive("forwarding", "the kernel of every node forwards packets", judge_forwarding);

pub(super) const RP_FILTER: Check = Check::passive(
    "rp-filter",
    "no node drops tunnel packets because they arrive by another interface than the way back",
    judge_rp_filter,
);

/// `rp_filter`: drop what arrives by another interface than the way back (ip-sysctl, RFC 3704 section 2.2).
const STRICT: i64 = 1;

fn judge_forwarding(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        for (v4, sysctl) in [(true, "net.ipv4.ip_forward"), (false, "net.ipv6.conf.all.forwarding")] {
            if !node.node.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4) {
                continue;
            }
            match diagnosis.sysctls.get(sysctl) {
                None => verdict.unjudged(node, format!("its agent cannot read {sysctl}")),
                Some(0) => verdict.error(
                    node,
                    format!("{sysctl} is 0: packets of pods end here"),
                    format!("sysctl -w {sysctl}=1, and keep it: echo '{sysctl} = 1' >> /etc/sysctl.d/90-kilo.conf"),
                ),
                Some(_) => {}
            }
        }
    }
}

/// Strict filtering is harmless wherever the way back is the way in. The mesh's own routes and rules see to
/// that on `kilo0` and inside a location; what is left is a leader with a second uplink.
fn judge_rp_filter(evidence: &Evidence, verdict: &mut Verdict) {
    for (node, diagnosis) in evidence.diagnosed(verdict) {
        if diagnosis.interfaces.is_none() {
            verdict.unjudged(node, "its agent does not know its interfaces");
            continue;
        }
        let Some((name, why)) = crossing(node, diagnosis).filter(|_| evidence.leads(node)) else { continue };
        match rp_filter(diagnosis, name) {
            None => verdict.unjudged(node, format!("its agent cannot read the rp_filter of {name}")),
            Some(STRICT) => verdict.error(
                node,
                format!("rp_filter of {name} is 1 (strict), and drops good packets: {why}"),
                format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2, and keep it in /etc/sysctl.d"),
            ),
            Some(_) => {}
        }
    }
}

/// The interface by which other segments' packets come in, if some of the answers leave by another, and why
/// that is so.
fn crossing<'a>(node: &NodeEvidence, diagnosis: &'a Diagnosis) -> Option<(&'a str, String)> {
    let way_in = endpoint_interface(node, diagnosis).or(diagnosis.default_interface.as_ref())?;
    let mut others = diagnosis.ways_out.iter().filter(|(ip, way_out)| ip.is_ipv4() && *way_out != way_in);
    let (ip, way_out) = others.next()?;
    let more = match others.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some((way_in, format!("those of {ip}{more} come in by it, and the way back leaves by {way_out}")))
}

/// The greater of the interface's and of that for all interfaces counts.
fn rp_filter(diagnosis: &Diagnosis, interface: &str) -> Option<i64> {
    let value = |name: &str| diagnosis.sysctls.get(&format!("net.ipv4.conf.{name}.rp_filter")).copied();
    Some(value("all")?.max(value(interface)?))
}

/// The interface that has the address at which other segments reach `node`, if the node has it itself.
fn endpoint_interface<'a>(node: &NodeEvidence, diagnosis: &'a Diagnosis) -> Option<&'a String> {
    let endpoint = node.node.endpoint.as_ref()?.ip().filter(IpAddr::is_ipv4)?;
    let mut interfaces = diagnosis.interfaces.iter().flatten();
    interfaces.find(|(_, interface)| interface.addresses.iter().any(|net| net.addr() == endpoint)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity::Error,
        diagnosis::Interface,
        testing::{expect_only, findings, said},
    };

    fn set(evidence: &mut Evidence, sysctl: &str, value: i64) {
        said(&mut evidence.nodes[0]).sysctls.insert(sysctl.to_owned(), value);
    }

    #[test]
    fn forwarding_is_needed_for_the_families_that_pods_have() {
        expect_only("forwarding", Error, "node/n1", &["sysctl -w net.ipv4.ip_forward=1"], |evidence| {
            set(evidence, "net.ipv4.ip_forward", 0);
        });
        assert_eq!(findings(|evidence| set(evidence, "net.ipv6.conf.all.forwarding", 0)), []);
        expect_only("forwarding", Error, "node/n1", &["net.ipv6.conf.all.forwarding is 0"], |evidence| {
            set(evidence, "net.ipv6.conf.all.forwarding", 0);
            evidence.nodes[0].node.pod_cidrs.push("fd42::/64".parse().unwrap());
        });
    }

    #[test]
    fn strict_filtering_hurts_only_where_the_ways_differ() {
        assert_eq!(findings(|evidence| set(evidence, "net.ipv4.conf.all.rp_filter", 1)), []);
        let second_uplink = |evidence: &mut Evidence| {
            let interface = Interface { addresses: vec!["203.0.113.1/24".parse().unwrap()], mtu: 1500 };
            said(&mut evidence.nodes[0]).interfaces.as_mut().unwrap().insert("eth1".to_owned(), interface);
            said(&mut evidence.nodes[0]).ways_out = [2, 3].map(|n| ([203, 0, 113, n].into(), "eth0".to_owned())).into();
            set(evidence, "net.ipv4.conf.eth1.rp_filter", 0);
        };
        assert_eq!(findings(second_uplink), []);
        let words = ["rp_filter of eth1", "203.0.113.2 and 1 more", "leaves by eth0", "eth1.rp_filter=2"];
        expect_only("rp-filter", Error, "node/n1", &words, |evidence| {
            second_uplink(evidence);
            set(evidence, "net.ipv4.conf.all.rp_filter", 1);
        });
        let loose = findings(|evidence| {
            second_uplink(evidence);
            set(evidence, "net.ipv4.conf.all.rp_filter", 1);
            set(evidence, "net.ipv4.conf.eth1.rp_filter", 2);
        });
        assert_eq!(loose, []);
    }
}
