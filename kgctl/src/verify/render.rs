//! Findings as text: the verdict first, the evidence below it.

use std::fmt::Write as _;

use topology::{
    NodeName,
    probe::{Sightings, encryption::Encryption, mark::MARKED_PACKET},
};

use super::experiment::Finding;

/// All findings, and how many there are of each kind.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        describe(finding, &mut text);
    }
    let count = |is: fn(&Encryption) -> bool| findings.iter().filter(|finding| is(&finding.verdict)).count();
    let encrypted = count(|verdict| *verdict == Encryption::Encrypted);
    let unknown = count(|verdict| matches!(verdict, Encryption::Unknown(_)));
    let clear = findings.len() - encrypted - unknown;
    _ = writeln!(text, "{encrypted} encrypted, {clear} not encrypted, {unknown} unknown");
    text
}

fn describe(finding: &Finding, text: &mut String) {
    let Finding { from, to, .. } = finding;
    let family = finding.family.map(|family| format!(" {family}")).unwrap_or_default();
    let verdict = match &finding.verdict {
        Encryption::Encrypted => "encrypted".to_owned(),
        Encryption::Clear(how) => format!("NOT ENCRYPTED: {how}"),
        Encryption::Unknown(why) => format!("unknown: {why}"),
        Encryption::SameSegment => {
            "not encrypted: same location, where packets travel plainly by design (--mesh-granularity=full \
             encrypts between all nodes)"
                .to_owned()
        }
    };
    _ = writeln!(text, "{from} -> {to}{family}: {verdict}");
    if let Some(sent) = &finding.sent {
        let (datagrams, source, destination) = (sent.datagrams, sent.from, sent.to);
        _ = writeln!(text, "    {datagrams} marked datagrams of {MARKED_PACKET} bytes from {source} to {destination}");
    }
    for (node, seen) in &finding.seen {
        _ = writeln!(text, "    on {node}{}: {}", role(finding, node), counts(finding, node, seen));
    }
}

fn role(finding: &Finding, node: &NodeName) -> &'static str {
    let plays = |own: &NodeName, leader: &NodeName| node == leader && node != own;
    if plays(&finding.from, &finding.from_leader) || plays(&finding.to, &finding.to_leader) { " (leader)" } else { "" }
}

fn counts(finding: &Finding, node: &NodeName, seen: &Sightings) -> String {
    let Sightings { tunnel, sealed, readable, pods, .. } = seen;
    let mut counts = if *node == finding.from_leader {
        format!(
            "{} went into the tunnel, {} WireGuard messages of that size left; in clear {} left",
            tunnel.sent, sealed.sent, readable.sent
        )
    } else if *node == finding.to_leader {
        format!(
            "{} WireGuard messages of that size arrived, {} came out of the tunnel; in clear {} arrived",
            sealed.received, tunnel.received, readable.received
        )
    } else {
        format!("{} arrived in clear from the leader, inside the location", readable.received)
    };
    if pods.sent + pods.received > 0 {
        _ = write!(counts, "; {} other packets between pods in clear", pods.sent + pods.received);
    }
    if seen.missed > 0 {
        _ = write!(counts, "; {} packets passed unseen", seen.missed);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::probe::{Family, Sent, mark::Ways};

    #[test]
    fn the_verdict_comes_first_and_the_evidence_below_it() {
        let ways = |sent, received| Ways { sent, received };
        let leader =
            Sightings { tunnel: ways(20, 0), readable: ways(0, 20), sealed: ways(20, 0), ..Sightings::default() };
        let target = Sightings { tunnel: ways(0, 19), sealed: ways(0, 20), pods: ways(0, 2), ..Sightings::default() };
        let finding = Finding {
            from_leader: "a1".into(),
            verdict: Encryption::Clear("2 packets".to_owned()),
            sent: Some(Sent { from: [10, 42, 2, 1].into(), to: [10, 42, 3, 1].into(), datagrams: 20 }),
            seen: [("a1".into(), leader), ("b1".into(), target)].into(),
            ..Finding::new(&"a2".into(), &"b1".into(), Some(Family::Ipv4))
        };
        let unknown = Finding::new(&"a1".into(), &"c1".into(), None);
        let expected = "\
a2 -> b1 IPv4: NOT ENCRYPTED: 2 packets
    20 marked datagrams of 640 bytes from 10.42.2.1 to 10.42.3.1
    on a1 (leader): 20 went into the tunnel, 20 WireGuard messages of that size left; in clear 0 left
    on b1: 20 WireGuard messages of that size arrived, 19 came out of the tunnel; in clear 0 arrived; 2 other packets between pods in clear
a1 -> c1: unknown: nothing was tried
0 encrypted, 1 not encrypted, 1 unknown
";
        assert_eq!(text(&[finding, unknown]), expected);
    }
}
