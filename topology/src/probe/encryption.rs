//! Whether traffic from one node's pods to another's crosses the network under the mesh as WireGuard only.
//!
//! The proof is an experiment: the first node sends marked datagrams, and the leaders of both segments,
//! where the tunnel's ends are, count what they see. Inside a location packets travel plainly by design:
//! what a leader receives from its own location, and sends on into it, is no leak.

use serde::{Deserialize, Serialize};

use super::Sightings;

/// What one experiment showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiment {
    /// How many marked datagrams were sent; why none were, if so.
    pub sent: Result<u32, String>,
    /// Whether the sending node leads its segment.
    pub sender_leads: bool,
    /// What the leader of the sending segment saw; why nothing is known, if so.
    pub source: Result<Sightings, String>,
    /// What the leader of the receiving segment saw; why nothing is known, if so.
    pub target: Result<Sightings, String>,
    /// What the receiving node saw, if it is not the leader.
    pub receiver: Option<Result<Sightings, String>>,
}

/// What an experiment proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "verdict", content = "reason")]
pub enum Encryption {
    /// Everything that was sent went as WireGuard, and both ends saw it.
    Encrypted,
    /// Something could be read on the network under the mesh.
    Clear(String),
    /// Neither was proven.
    Unknown(String),
    /// There is no tunnel between the two, by design.
    SameSegment,
}

impl Experiment {
    /// What it proves. One packet that can be read is proof of the contrary, whoever saw it; encryption is
    /// proven only if both ends saw all of it.
    pub fn verdict(&self) -> Encryption {
        let leaks = [self.leak_at_source(), self.leak_at_target(), self.leak_at_receiver()];
        if let Some(leak) = leaks.into_iter().flatten().next() {
            return Encryption::Clear(leak);
        }
        match self.gap() {
            Some(gap) => Encryption::Unknown(gap),
            None => Encryption::Encrypted,
        }
    }

    fn leak_at_source(&self) -> Option<String> {
        let seen = self.source.as_ref().ok()?;
        // A leader that is not the sender got the datagrams from there, in clear, by design.
        let received = if self.sender_leads { seen.readable.received } else { 0 };
        leak("left the sending location", seen.readable.sent.max(received), seen.pods.sent)
    }

    fn leak_at_target(&self) -> Option<String> {
        let seen = self.target.as_ref().ok()?;
        leak("arrived at the receiving location", seen.readable.received, seen.pods.received)
    }

    fn leak_at_receiver(&self) -> Option<String> {
        let seen = self.receiver.as_ref()?.as_ref().ok()?;
        let through_leader = self.target.as_ref().ok()?.tunnel.received;
        let past = seen.readable.received.saturating_sub(through_leader);
        leak("arrived past the receiving location's leader", past, 0)
    }

    /// What is missing for a proof.
    fn gap(&self) -> Option<String> {
        let unseen = |who: &str, why: &String| Some(format!("the {who} could not be watched: {why}"));
        let (source, target) = match (&self.source, &self.target) {
            (Err(why), _) => return unseen("sending end", why),
            (_, Err(why)) => return unseen("receiving end", why),
            (Ok(source), Ok(target)) => (source, target),
        };
        let sent = match &self.sent {
            Err(why) => return Some(format!("nothing was sent: {why}")),
            Ok(0) => return Some("nothing could be sent: there is no way to the other node's pods".to_owned()),
            Ok(sent) => *sent,
        };
        for (count, what) in [
            (source.tunnel.sent, "went into the tunnel"),
            (target.tunnel.received, "came out of the tunnel"),
            (source.sealed.sent, "were seen leaving as WireGuard data messages"),
            (target.sealed.received, "were seen arriving as WireGuard data messages"),
        ] {
            if count == 0 {
                return Some(format!("of {sent} marked datagrams none {}", what.replace("were", "was")));
            }
        }
        let missed = source.missed + target.missed;
        let all_seen = source.sealed.sent >= sent && target.sealed.received >= target.tunnel.received;
        (missed > 0 && !all_seen).then(|| format!("{missed} packets passed too fast to be looked at: try again"))
    }
}

fn leak(how: &str, marked: u32, pods: u32) -> Option<String> {
    match (marked, pods) {
        (0, 0) => None,
        (0, pods) => Some(format!("{pods} packets between pods {how} in clear")),
        (marked, _) => Some(format!("{marked} packets in which the mark can be read {how} in clear")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::mark::Ways;

    fn sent(n: u32) -> Ways {
        Ways { sent: n, received: 0 }
    }

    fn received(n: u32) -> Ways {
        Ways { sent: 0, received: n }
    }

    fn source() -> Sightings {
        Sightings { tunnel: sent(20), sealed: sent(20), packets: 99, ..Sightings::default() }
    }

    fn target() -> Sightings {
        Sightings { tunnel: received(20), sealed: received(20), packets: 99, ..Sightings::default() }
    }

    fn experiment(source: Sightings, target: Sightings) -> Experiment {
        Experiment { sent: Ok(20), sender_leads: true, source: Ok(source), target: Ok(target), receiver: None }
    }

    #[test]
    fn each_case_has_its_verdict() {
        let none = Sightings::default;
        let healthy = || experiment(source(), target());
        let clear = "clear";
        for (case, experiment, expected) in [
            ("as it should be", healthy(), "encrypted"),
            (
                "half of it lost on the way",
                experiment(source(), Sightings { tunnel: received(9), sealed: received(9), ..none() }),
                "encrypted",
            ),
            ("in clear on the way out", experiment(Sightings { readable: sent(20), ..none() }, none()), clear),
            ("some in clear", experiment(Sightings { readable: sent(1), ..source() }, target()), clear),
            ("in clear on the way in", experiment(source(), Sightings { readable: received(1), ..target() }), clear),
            ("pods' own traffic in clear", experiment(Sightings { pods: sent(3), ..source() }, target()), clear),
            ("pods' own, in", experiment(source(), Sightings { pods: received(3), ..target() }), clear),
            (
                "the target sends it on into its location",
                experiment(source(), Sightings { readable: sent(20), pods: sent(3), ..target() }),
                "encrypted",
            ),
            (
                "the source has it from its location",
                Experiment {
                    sender_leads: false,
                    ..experiment(Sightings { readable: received(20), ..source() }, target())
                },
                "encrypted",
            ),
            (
                "a leader receives what it sent",
                experiment(Sightings { readable: received(1), ..source() }, target()),
                clear,
            ),
            (
                "past the leader",
                Experiment {
                    receiver: Some(Ok(Sightings { readable: received(20), ..none() })),
                    ..experiment(none(), none())
                },
                clear,
            ),
            (
                "through the leader",
                Experiment { receiver: Some(Ok(Sightings { readable: received(20), ..none() })), ..healthy() },
                "encrypted",
            ),
            ("lost before the tunnel", experiment(none(), none()), "none went into the tunnel"),
            ("lost in the tunnel", experiment(source(), none()), "none came out of the tunnel"),
            (
                "carried by something else",
                experiment(Sightings { tunnel: sent(20), ..none() }, Sightings { tunnel: received(20), ..none() }),
                "none was seen leaving as WireGuard",
            ),
            ("nothing sent", Experiment { sent: Ok(0), ..healthy() }, "nothing could be sent"),
            ("no sender", Experiment { sent: Err("no answer".to_owned()), ..healthy() }, "nothing was sent: no answer"),
            ("a blind sender", Experiment { source: Err("no answer".to_owned()), ..healthy() }, "sending end"),
            ("a blind receiver", Experiment { target: Err("no answer".to_owned()), ..healthy() }, "receiving end"),
            (
                "a blind receiver of a leak",
                Experiment {
                    target: Err("no answer".to_owned()),
                    ..experiment(Sightings { readable: sent(20), ..none() }, none())
                },
                clear,
            ),
            (
                "too busy to be sure",
                experiment(Sightings { missed: 5, sealed: sent(19), ..source() }, target()),
                "5 packets passed too fast",
            ),
            ("busy, but all was seen", experiment(Sightings { missed: 5, ..source() }, target()), "encrypted"),
        ] {
            let verdict = experiment.verdict();
            let matches = match (&verdict, expected) {
                (Encryption::Encrypted, "encrypted") | (Encryption::Clear(_), "clear") => true,
                (Encryption::Unknown(why), expected) => why.contains(expected),
                _ => false,
            };
            assert!(matches, "{case}: {verdict:?}");
        }
    }
}
