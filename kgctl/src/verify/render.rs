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
    let mut counts = if *node == finding.from_leader {
        let (tunnel, sealed) = (seen.tunnel.sent, seen.sealed.sent);
        format!("{tunnel} went into the tunnel, {sealed} WireGuard messages of that size left")
    } else if *node == finding.to_leader {
        let (tunnel, sealed) = (seen.tunnel.received, seen.sealed.received);
        format!("{sealed} WireGuard messages of that size arrived, {tunnel} came out of the tunnel")
    } else {
        format!("{} arrived from its leader", seen.readable.received)
    };
    let (readable, pods) = (seen.readable.sent + seen.readable.received, seen.pods.sent + seen.pods.received);
    _ = write!(counts, "; in clear: {readable} marked, {pods} others between pods");
    if seen.missed > 0 {
        _ = write!(counts, "; {} packets passed unseen", seen.missed);
    }
    counts
}
