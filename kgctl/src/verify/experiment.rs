//! One experiment: watchers are posted, one node sends, and the watchers tell what they have seen.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde::Serialize;
use topology::{
    NodeName, Topology,
    probe::{
        Family, NoWay, Request, Sent, Sightings, Token, Watching, Way,
        encryption::{Encryption, Experiment},
    },
};

use crate::probe::Probers;

/// What experiments are made with.
pub struct Bench<'a> {
    /// The mesh.
    pub topology: &'a Topology,
    /// The agents.
    pub probers: Probers<'a>,
}

/// What came of one experiment.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The sending node.
    pub from: NodeName,
    /// The receiving node.
    pub to: NodeName,
    /// Who leads the sending node's segment.
    pub from_leader: NodeName,
    /// Who leads the receiving node's segment.
    pub to_leader: NodeName,
    /// IPv4 or IPv6; `None` where nothing was tried.
    pub family: Option<Family>,
    /// What it proves.
    #[serde(flatten)]
    pub verdict: Encryption,
    /// What was sent.
    pub sent: Option<Sent>,
    /// What was seen, by the nodes that watched.
    pub seen: BTreeMap<NodeName, Sightings>,
}

impl Finding {
    /// One that proves nothing yet.
    pub fn new(from: &NodeName, to: &NodeName, family: Option<Family>) -> Self {
        Self {
            from: from.clone(),
            to: to.clone(),
            from_leader: from.clone(),
            to_leader: to.clone(),
            family,
            verdict: Encryption::Unknown("nothing was tried".to_owned()),
            sent: None,
            seen: BTreeMap::new(),
        }
    }
}

impl Bench<'_> {
    /// Tries the way from `a` to `b` and back, of each family that both have pods of.
    pub async fn both_ways(&self, a: &NodeName, b: &NodeName) -> Vec<Finding> {
        let way = match Way::between(self.topology, a, b) {
            Ok(way) => way,
            Err(NoWay::SameSegment(_)) => {
                return vec![Finding { verdict: Encryption::SameSegment, ..Finding::new(a, b, None) }];
            }
            Err(error) => {
                return vec![Finding { verdict: Encryption::Unknown(error.to_string()), ..Finding::new(a, b, None) }];
            }
        };
        let mut findings = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            if way.ends(family).is_some() {
                // An agent watches for one mark at a time.
                findings.push(self.one_way(a, b, family).await);
                findings.push(self.one_way(b, a, family).await);
            }
        }
        if findings.is_empty() {
            let reason = "the two nodes have no pod CIDRs of the same family".to_owned();
            findings.push(Finding { verdict: Encryption::Unknown(reason), ..Finding::new(a, b, None) });
        }
        findings
    }

    async fn one_way(&self, from: &NodeName, to: &NodeName, family: Family) -> Finding {
        let leader = |node: &NodeName| self.topology.segment_of(node).map(|segment| segment.leader().name.clone());
        let mut finding = Finding::new(from, to, Some(family));
        finding.from_leader = leader(from).unwrap_or_else(|| from.clone());
        finding.to_leader = leader(to).unwrap_or_else(|| to.clone());
        match self.try_one_way(&mut finding, family).await {
            Ok(experiment) => finding.verdict = experiment.verdict(),
            Err(error) => finding.verdict = Encryption::Unknown(error),
        }
        finding
    }

    async fn try_one_way(&self, finding: &mut Finding, family: Family) -> Result<Experiment, String> {
        let (from, to) = (finding.from.clone(), finding.to.clone());
        let (source, target) = (finding.from_leader.clone(), finding.to_leader.clone());
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| format!("no random numbers: {error}"))?;
        let token = Token::from(token);
        let watchers = BTreeMap::from([(source.clone(), &to), (target.clone(), &from), (to.clone(), &from)]);
        let posted = join_all(watchers.iter().map(|(watcher, other)| async {
            let request = Request::Watch { node: (*other).clone(), token };
            (watcher.clone(), self.probers.ask::<Watching>(watcher, &request).await)
        }));
        let posted: BTreeMap<NodeName, Result<Watching, String>> = posted.await.into_iter().collect();
        let sent = self.probers.ask::<Sent>(&from, &Request::Send { node: to.clone(), token, family }).await;
        let seen = join_all(posted.into_iter().map(|(watcher, posted)| async {
            let counted = match posted {
                Ok(_) => self.probers.ask::<Sightings>(&watcher, &Request::Count { token }).await,
                Err(why) => Err(why),
            };
            (watcher, counted)
        }));
        let seen: BTreeMap<NodeName, Result<Sightings, String>> = seen.await.into_iter().collect();
        let of = |node: &NodeName| seen.get(node).cloned().unwrap_or_else(|| Err("nobody watched there".to_owned()));
        let experiment = Experiment {
            sent: sent.as_ref().map(|sent| sent.datagrams).map_err(Clone::clone),
            sender_leads: from == source,
            source: of(&source),
            target: of(&target),
            receiver: (to != target).then(|| of(&to)),
        };
        finding.sent = sent.ok();
        finding.seen = seen.into_iter().filter_map(|(node, seen)| Some((node, seen.ok()?))).collect();
        Ok(experiment)
    }
}
