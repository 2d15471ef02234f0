//! What of a mesh a person should see where he looks: at the Node or the Peer itself, as a Kubernetes Event.
//!
//! Every agent knows the same, so that it is settled who tells: of a Node its own agent, of a Peer the agent of the
//! first segment's leader. What is told is what is new since the last time.

use std::collections::BTreeSet;

use crate::{NodeName, Topology, Warning};

/// Why something is told, one word as Events have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The node leads a segment now.
    Leading,
    /// It does not any more.
    NotLeading,
    /// A part of the object makes no sense, or is somebody else's already.
    Ignored,
    /// The DNS name of its endpoint has no address.
    EndpointUnresolved,
}

impl Reason {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Leading => "Leading",
            Self::NotLeading => "NotLeading",
            Self::Ignored => "Ignored",
            Self::EndpointUnresolved => "EndpointUnresolved",
        }
    }

    /// Whether it is something to be mended.
    pub fn is_warning(self) -> bool {
        matches!(self, Self::Ignored | Self::EndpointUnresolved)
    }
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct News {
    /// The object, as `node/<name>` or `peer/<name>`.
    pub object: String,
    /// Why.
    pub reason: Reason,
    /// What a person reads.
    pub message: String,
}

impl From<&Warning> for News {
    fn from(Warning { object, field, message }: &Warning) -> Self {
        Self { object: object.clone(), reason: Reason::Ignored, message: format!("{field}: {message}") }
    }
}

/// What was told last.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    told: BTreeSet<News>,
    /// The segment that the node leads.
    leads: Option<String>,
}

impl Teller {
    /// What the agent of `node` should tell, when `all` there is to be told of anything is this, and `topology` is
    /// the mesh.
    pub fn news(&mut self, node: &NodeName, topology: &Topology, all: impl Iterator<Item = News>) -> Vec<News> {
        let is_first = topology.segments.first().is_some_and(|segment| segment.leader().name == *node);
        let own = format!("node/{node}");
        let ours: BTreeSet<News> =
            all.filter(|news| news.object == own || is_first && news.object.starts_with("peer/")).collect();
        let mut news: Vec<News> = ours.difference(&self.told).cloned().collect();
        self.told = ours;
        let leads = topology.segment_of(node).filter(|segment| segment.leader().name == *node);
        let leads = leads.map(|segment| segment.name.to_string());
        if leads != self.leads {
            let (reason, message) = match (&leads, &self.leads) {
                (Some(segment), _) => (Reason::Leading, format!("leads {segment}")),
                (None, last) => {
                    (Reason::NotLeading, format!("no longer leads {}", last.as_deref().unwrap_or_default()))
                }
            };
            news.push(News { object: own, reason, message });
            self.leads = leads;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Granularity, Input, Node, PublicKey};

    fn mesh(names: &[&str]) -> Topology {
        let nodes: Vec<Node> = names.iter().zip(1..).map(|(name, n)| node(name, n)).collect();
        let subnets = ["10.4.0.0/16".parse().unwrap()];
        let granularity = Granularity::Location;
        Topology::build(&Input { nodes: nodes.iter().collect(), peers: vec![], granularity, subnets: &subnets })
            .unwrap()
    }

    /// A node of the location that its name begins with.
    fn node(name: &str, n: u8) -> Node {
        Node {
            name: name.into(),
            location: name[..1].into(),
            endpoint: format!("203.0.113.{n}:51820").parse().ok(),
            key: PublicKey::new([n; 32]).ok(),
            pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap()],
            internal_ips: vec![format!("10.1.0.{n}/24").parse().unwrap()],
            ..Node::default()
        }
    }

    fn ignored(object: &str) -> News {
        News { object: object.to_owned(), reason: Reason::Ignored, message: "spec: garbage".to_owned() }
    }

    fn told(teller: &mut Teller, node: &str, mesh: &Topology, all: &[News]) -> Vec<String> {
        let news = teller.news(&node.into(), mesh, all.iter().cloned());
        news.into_iter().map(|news| format!("{} {} {}", news.object, news.reason.word(), news.message)).collect()
    }

    #[test]
    fn each_thing_is_told_by_one_agent_and_once() {
        let mesh = mesh(&["a1", "a2", "b1"]);
        let all = [ignored("node/a1"), ignored("node/b1"), ignored("peer/laptop")];
        let mut tellers = [Teller::default(), Teller::default(), Teller::default()];
        let mut round = |all: &[News]| -> Vec<Vec<String>> {
            ["a1", "a2", "b1"].iter().zip(&mut tellers).map(|(name, teller)| told(teller, name, &mesh, all)).collect()
        };
        let first = round(&all);
        assert_eq!(
            first,
            [
                vec![
                    "node/a1 Ignored spec: garbage",
                    "peer/laptop Ignored spec: garbage",
                    "node/a1 Leading leads location:a"
                ],
                vec![],
                vec!["node/b1 Ignored spec: garbage", "node/b1 Leading leads location:b"],
            ]
        );
        let nothing: [Vec<String>; 3] = Default::default();
        assert_eq!(round(&all), nothing, "nothing is new");
        assert_eq!(round(&[]), nothing);
        assert_eq!(
            round(&all[2..]),
            [vec!["peer/laptop Ignored spec: garbage".to_owned()], vec![], vec![]],
            "it is new again"
        );
    }

    #[test]
    fn who_leads_no_longer_says_so() {
        let mut teller = Teller::default();
        assert_eq!(told(&mut teller, "a2", &mesh(&["a2"]), &[]), ["node/a2 Leading leads location:a"]);
        assert_eq!(
            told(&mut teller, "a2", &mesh(&["a1", "a2"]), &[]),
            ["node/a2 NotLeading no longer leads location:a"]
        );
        assert_eq!(told(&mut teller, "a2", &mesh(&["a1", "a2"]), &[]), Vec::<String>::new());
    }
}
