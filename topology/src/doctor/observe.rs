//! Leaders that look at each other: who is looked at by whom, what both are asked to try, and what they
//! answered. Each leader is looked at by one of another location; asking everybody about everybody would
//! tell little more and cost the square.

use std::{cmp::Reverse, net::IpAddr};

use serde::de::DeserializeOwned;

use super::{AgentAnswer, Diagnosis, Evidence, NodeEvidence, Probe};
use crate::{
    NodeName,
    probe::{
        Knocked, Request, Sightings, Token,
        mtu::Measured,
        port::{self, Host},
    },
};

/// So many leaders are looked at by one, if others can share the work.
const FAIR_SHARE: usize = 3;

/// A leader, and the one that looks at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) target: &'a NodeEvidence,
    pub(super) observer: &'a NodeEvidence,
}

/// Every leader with its observer: the next one whose agent answers; rather in another location than in
/// the same, rather one with little to do, rather one that others reach, too.
pub(super) fn pairs(evidence: &Evidence) -> Vec<Pair<'_>> {
    let leaders: Vec<&NodeEvidence> = evidence.ready().filter(|node| evidence.leads(node)).collect();
    let count = leaders.len();
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for (place, target) in leaders.iter().copied().enumerate() {
        let others = (1..count).map(|step| leaders[(place + step) % count]);
        let load = |node: &NodeEvidence| pairs.iter().filter(|pair| pair.observer.node.name == node.node.name).count();
        let observer = others.filter(|node| diagnosis(node).is_some()).min_by_key(|node| {
            (node.node.location == target.node.location, load(node) >= FAIR_SHARE, is_behind_nat(node))
        });
        pairs.extend(observer.map(|observer| Pair { target, observer }));
    }
    pairs
}

pub(super) fn is_behind_nat(node: &NodeEvidence) -> bool {
    !node.node.persistent_keepalive.is_zero()
}

fn diagnosis(node: &NodeEvidence) -> Option<&Diagnosis> {
    match &node.agent {
        AgentAnswer::Diagnosis { diagnosis, .. } => Some(diagnosis),
        AgentAnswer::Foreign(_) | AgentAnswer::Unreachable(_) => None,
    }
}

/// The mark of one run: like no other's, as long as time passes.
fn token(evidence: &Evidence) -> Token {
    let [a, b] = [evidence.now_ms, !evidence.now_ms].map(i64::to_be_bytes);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a);
    bytes[8..].copy_from_slice(&b);
    bytes.into()
}

fn probe(round: u8, from: &NodeEvidence, request: &Request) -> Probe {
    // A request is text and numbers only, which every JSON document can hold.
    let request = serde_json::to_value(request).unwrap_or_default();
    Probe { from: from.node.name.clone(), round, request }
}

fn watch(evidence: &Evidence, from: &NodeEvidence, other: &NodeEvidence) -> Probe {
    probe(0, from, &Request::Watch { node: other.node.name.clone(), token: token(evidence) })
}

fn knock(evidence: &Evidence, from: &NodeEvidence, to: &NodeEvidence) -> Probe {
    probe(1, from, &Request::Knock { node: to.node.name.clone(), token: token(evidence) })
}

fn count(evidence: &Evidence, from: &NodeEvidence) -> Probe {
    probe(2, from, &Request::Count { token: token(evidence) })
}

fn mtu(pair: &Pair<'_>) -> Probe {
    probe(2, pair.observer, &Request::Mtu { node: pair.target.node.name.clone() })
}

/// What has to be tried to know how leaders are reached: all watch, both of a pair knock at each other, all
/// tell what they have seen.
pub(super) fn reach_probes(evidence: &Evidence) -> Vec<Probe> {
    let pairs = pairs(evidence);
    let mut probes: Vec<Probe> = Vec::new();
    let mut add = |probe: Probe| {
        // One watch a node: it looks for all knocks.
        let is_same = |known: &Probe| known.from == probe.from && known.round == 0 && probe.round == 0;
        if !probes.iter().any(|known| is_same(known) || *known == probe) {
            probes.push(probe);
        }
    };
    for Pair { target, observer } in &pairs {
        for (from, to) in [(observer, target), (target, observer)] {
            if diagnosis(from).is_some() {
                add(watch(evidence, from, to));
                add(knock(evidence, from, to));
                add(count(evidence, from));
            }
        }
    }
    probes
}

/// What has to be tried to know what passes the tunnels.
pub(super) fn mtu_probes(evidence: &Evidence) -> Vec<Probe> {
    pairs(evidence).iter().map(mtu).collect()
}

/// What came of a probe; `None` if it was not asked for.
fn answer<T: DeserializeOwned>(evidence: &Evidence, probe: &Probe) -> Option<Result<T, String>> {
    let answer = evidence.answer(probe)?;
    Some(answer.map_err(str::to_owned).and_then(|value| {
        T::deserialize(value).map_err(|error| format!("the answer of its agent is not understood: {error}"))
    }))
}

fn sightings(evidence: &Evidence, of: &NodeEvidence) -> Option<Sightings> {
    answer(evidence, &count(evidence, of))?.ok()
}

fn seen_by(evidence: &Evidence, who: &NodeEvidence, knocker: &NodeName) -> Option<IpAddr> {
    sightings(evidence, who)?.knocks.get(knocker).copied()
}

impl Pair<'_> {
    /// What is known of the way from the observer to the target's endpoint; `None` if nobody was asked.
    pub(super) fn reach(&self, evidence: &Evidence) -> Option<Result<port::Evidence, String>> {
        let knocked: Result<Knocked, String> = answer(evidence, &knock(evidence, self.observer, self.target))?;
        Some(knocked.map(|knocked| port::Evidence {
            knocked,
            host: self.host(evidence),
            seen_at: seen_by(evidence, self.observer, &self.target.node.name),
        }))
    }

    fn host(&self, evidence: &Evidence) -> Option<Host> {
        let diagnosis = diagnosis(self.target)?;
        let seen = sightings(evidence, self.target)?;
        let interfaces = diagnosis.interfaces.iter().flat_map(|interfaces| interfaces.values());
        Some(Host {
            addresses: interfaces.flat_map(|interface| interface.addresses.iter().copied()).collect(),
            bound: diagnosis.port.as_ref().map(|port| port.own),
            arrived: seen.knocks.contains_key(&self.observer.node.name),
            // An answer to its own question tells, too: had it got that, the tunnel would be alive.
            asked: seen.initiations.received > 0 || seen.responses.received > 0,
            answered: seen.responses.sent > 0,
        })
    }

    /// What passes the tunnel between the two; `None` if nobody was asked.
    pub(super) fn measured(&self, evidence: &Evidence) -> Option<Result<Measured, String>> {
        answer(evidence, &mtu(self))
    }
}

/// Who is in the most of `pairs`, of several the first by name: the one to look at first.
pub(super) fn common<'a>(pairs: &[(Pair<'a>, u16)]) -> Option<&'a NodeEvidence> {
    let ends = || pairs.iter().flat_map(|(pair, _)| [pair.target, pair.observer]);
    let appears = |node: &NodeEvidence| ends().filter(|end| end.node.name == node.node.name).count();
    ends().min_by_key(|node| (Reverse(appears(node)), node.node.name.clone()))
}
