//! What is known of the cluster: objects decoded, nodes judged alive or not, complaints told once.
//!
//! No I/O and no clock: messages and times come in, and what they change comes out. A message that
//! changes nothing for the mesh, such as another node's check-in, says so, because there is one of
//! those per node and period and each recomputation costs.

mod absence;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use topology::{
    Membership, Node, NodeName, Peer, PeerName, PodCidrSource, Warning, annotations, compatibility, peer,
    report::ApiProblem,
};

pub use absence::Absence;

use crate::cluster::{Change, Event, NodeRecord, PeerRecord, ProviderRecord};

/// When a message arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Monotonic, counted from any fixed moment.
    pub now: Duration,
    /// The local clock, Unix seconds.
    pub wall: i64,
}

/// What the operator should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A part of an object was left out.
    Object(Warning),
    /// Objects of this kind cannot be read now.
    Unreadable {
        /// Their plural.
        resource: &'static str,
        /// Why.
        error: String,
    },
    /// Objects of this kind can be read again.
    Readable {
        /// Their plural.
        resource: &'static str,
    },
}

/// What a message changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The mesh has to be computed again.
    pub mesh: bool,
    /// The own Node's annotations are not what they were.
    pub own: bool,
    /// News for the operator.
    pub notices: Vec<Notice>,
}

/// Warnings by object: only what is new is news.
#[derive(Clone, Debug, Default)]
struct Complaints(BTreeMap<String, Vec<Warning>>);

impl Complaints {
    fn replace(&mut self, object: String, warnings: Vec<Warning>) -> Vec<Notice> {
        let known = self.0.remove(&object).unwrap_or_default();
        let news = warnings.iter().filter(|warning| !known.contains(warning)).cloned().map(Notice::Object).collect();
        if !warnings.is_empty() {
            self.0.insert(object, warnings);
        }
        news
    }
}

/// Why objects cannot be read.
#[derive(Clone, Debug)]
struct Unreadable {
    /// HTTP status, if there was an answer.
    status: Option<u16>,
    error: String,
    /// When this was heard last.
    at: Duration,
}

impl Unreadable {
    /// Whether it stays so until a person does something: the kind or the right to read it is missing. All else may be
    /// an outage, and passes.
    fn is_lasting(&self) -> bool {
        matches!(self.status, Some(403 | 404))
    }
}

/// The own Node.
#[derive(Clone, Debug, Default)]
struct Own {
    /// What people and the control plane say of it; nothing that the agent wrote.
    node: Node,
    /// The annotations it has.
    annotations: BTreeMap<String, String>,
    /// What `node` is made of.
    record: NodeRecord,
}

/// The return of a check-in through the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When, by the local clock, Unix seconds.
    pub at: i64,
    /// How long after it was written.
    pub lag: Duration,
}

/// The cluster as it is known.
#[derive(Clone, Debug)]
pub struct State {
    /// The own Node's name; an observer has none.
    name: Option<NodeName>,
    topology_label: String,
    pod_cidr_source: PodCidrSource,
    /// The own pod CIDRs in each object of a network provider.
    pod_cidrs: BTreeMap<String, Vec<IpNet>>,
    own: Option<Own>,
    /// The last check-in that was written and has not come back, and when it was written.
    checked_in: Option<(i64, Duration)>,
    /// The last one that came back.
    heard: Option<Heard>,
    /// Since when a check-in is known to be written and has not come back.
    unheard_since: Option<Duration>,
    others: BTreeMap<NodeName, Node>,
    membership: Membership,
    /// Whether the present message told of another node's check-in.
    was_check_in: bool,
    alive: BTreeSet<NodeName>,
    peers: BTreeMap<PeerName, Peer>,
    complaints: Complaints,
    /// What cannot be read, by resource.
    unreadable: BTreeMap<&'static str, Unreadable>,
    /// What was never read and will not be until a person does something, by resource. An outage does not change that.
    out_of_reach: BTreeSet<&'static str>,
    listed: BTreeSet<&'static str>,
}

impl State {
    /// Nothing is known yet of the cluster that the node called `name` is in. Others may be silent
    /// for `silence_limit`.
    pub fn new(name: NodeName, topology_label: String, silence_limit: Duration) -> Self {
        Self { name: Some(name), ..Self::observer(topology_label, silence_limit) }
    }

    /// Nothing is known yet of the cluster, by one who is no part of it. That the watch works it learns
    /// from the check-ins of others, so that the last node of a mesh never dies to it. Unlike a node, it
    /// takes note of the WireGuard addresses that leaders announce, as networks: only they tell it what
    /// the agents' flags say.
    pub fn observer(topology_label: String, silence_limit: Duration) -> Self {
        Self {
            name: None,
            topology_label,
            pod_cidr_source: PodCidrSource::Spec,
            pod_cidrs: BTreeMap::new(),
            own: None,
            checked_in: None,
            heard: None,
            unheard_since: None,
            others: BTreeMap::new(),
            membership: Membership::new(silence_limit),
            was_check_in: false,
            alive: BTreeSet::new(),
            peers: BTreeMap::new(),
            complaints: Complaints::default(),
            unreadable: BTreeMap::new(),
            out_of_reach: BTreeSet::new(),
            listed: BTreeSet::new(),
        }
    }

    /// The same, with the own pod CIDRs from `source`.
    pub fn with_pod_cidrs_from(self, source: PodCidrSource) -> Self {
        Self { pod_cidr_source: source, ..self }
    }

    /// Takes in what the watch says.
    pub fn handle(&mut self, event: Event, at: Time) -> Outcome {
        let mut outcome = Outcome::default();
        match event {
            Event::Node(change) => {
                self.readable("nodes", &mut outcome);
                self.change_nodes(change, at, &mut outcome);
            }
            Event::Peer(change) => {
                self.readable("peers", &mut outcome);
                self.change_peers(change, &mut outcome);
            }
            Event::PodCidrs(change) => {
                if let Some(resource) = self.pod_cidr_source.resource() {
                    self.readable(resource.plural, &mut outcome);
                    self.change_pod_cidrs(change, resource.plural, &mut outcome);
                }
            }
            Event::Unreadable { resource, status, error } => {
                self.unreadable(resource, Unreadable { status, error, at: at.now }, &mut outcome);
            }
        }
        outcome
    }

    /// Whether enough was read to compute a mesh: all Nodes, and all Peers, and what says where pods are, or
    /// the news that there are none of these to be read. Before, what an earlier run left on the host stays as it is.
    pub fn is_complete(&self) -> bool {
        let has_or_cannot = |resource| self.listed.contains(resource) || self.out_of_reach.contains(resource);
        let provider = self.pod_cidr_source.resource();
        self.listed.contains("nodes")
            && has_or_cannot("peers")
            && provider.is_none_or(|resource| has_or_cannot(resource.plural))
    }

    /// The own Node without what the agent itself wrote; `None` while the API has none.
    pub fn own(&self) -> Option<&Node> {
        self.own.as_ref().map(|own| &own.node)
    }

    /// The own pod CIDRs that the network provider has; `None` where `spec.podCIDRs` has them.
    pub fn provided_pod_cidrs(&self) -> Option<Vec<IpNet>> {
        let own = self.own.as_ref()?;
        self.provided(&own.record).0
    }

    fn provided(&self, own: &NodeRecord) -> (Option<Vec<IpNet>>, Vec<Warning>) {
        match &self.pod_cidr_source {
            PodCidrSource::Spec => (None, Vec::new()),
            PodCidrSource::Annotation(key) => {
                let text = own.annotations.get(&**key).map(String::as_str).unwrap_or_default();
                let (cidrs, wrong) = compatibility::listed(text);
                let warn = |text: &String| {
                    Warning::node(&own.name, key, format!("{text:?} ignored: expected a CIDR or an address"))
                };
                (Some(cidrs), wrong.iter().map(warn).collect())
            }
            PodCidrSource::CiliumNode if self.has_no_cilium_cidrs(&own.name) => (None, Vec::new()),
            PodCidrSource::CiliumNode | PodCidrSource::CalicoBlocks => {
                (Some(self.pod_cidrs.values().flatten().copied().collect()), Vec::new())
            }
        }
    }

    /// Whether Cilium leaves it to `spec.podCIDRs`, which upstream's agents read: the own CiliumNode has none, as with
    /// the IPAM of cloud providers, or no such objects can be read. One that is not there yet is waited for.
    fn has_no_cilium_cidrs(&self, own: &str) -> bool {
        let resource = self.pod_cidr_source.resource();
        let is_out_of_reach = resource.is_some_and(|resource| self.out_of_reach.contains(resource.plural));
        is_out_of_reach || self.pod_cidrs.get(own).is_some_and(Vec::is_empty)
    }

    /// The own Node's annotations.
    pub fn own_annotations(&self) -> Option<&BTreeMap<String, String>> {
        self.own.as_ref().map(|own| &own.annotations)
    }

    /// The own Node's annotations are these now: the answer to a write.
    pub fn wrote(&mut self, annotations: BTreeMap<String, String>, now: Duration) {
        if self.checked_in.is_some_and(|(time, _)| last_seen(&annotations) == Some(time)) {
            self.unheard_since.get_or_insert(now);
        }
        if let Some(own) = &mut self.own {
            own.annotations = annotations;
        }
    }

    /// Whether the watch tells nothing although it does not fail: for `limit`, what we wrote has not
    /// come back. That happens when a connection dies without a word, and for ever when the API
    /// server's data was replaced by older data. Asking takes note that something is done about it.
    pub fn is_deaf(&mut self, now: Duration, limit: Duration) -> bool {
        let is_deaf = self.unheard_since.is_some_and(|since| now.saturating_sub(since) >= limit);
        if is_deaf {
            self.unheard_since = None;
        }
        is_deaf
    }

    /// A check-in with this time is about to be written; its return through the watch is the proof
    /// that the watch works.
    pub fn checking_in(&mut self, last_seen: i64, now: Duration) {
        self.checked_in = Some((last_seen, now));
    }

    /// The last check-in that came back.
    pub fn heard(&self) -> Option<Heard> {
        self.heard
    }

    /// The other nodes that are part of the mesh.
    pub fn others(&self) -> impl Iterator<Item = &Node> {
        self.others.values().filter(|node| self.alive.contains(&node.name) && node.missing().is_empty())
    }

    /// The other nodes that are not, with the reason.
    pub fn left_out(&self) -> BTreeMap<NodeName, Absence> {
        let absence = |node: &Node| Absence::judge(node, self.alive.contains(&node.name));
        self.others.values().filter_map(|node| Some((node.name.clone(), absence(node)?))).collect()
    }

    /// The valid peers.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// What of the objects makes no sense.
    pub fn complaints(&self) -> impl Iterator<Item = &Warning> {
        self.complaints.0.values().flatten()
    }

    /// What of the cluster cannot be read at `now`. An attempt that fails is told, one that succeeds only
    /// once something changes: what was not heard again within `limit`, in which the next attempt would have
    /// failed, is over.
    pub fn unreadable_at(&self, now: Duration, limit: Duration) -> impl Iterator<Item = ApiProblem> {
        let recent = self.unreadable.iter().filter(move |(_, why)| now.saturating_sub(why.at) < limit);
        recent.map(|(resource, Unreadable { status, error, .. })| ApiProblem {
            request: (*resource).to_owned(),
            status: *status,
            error: error.clone(),
        })
    }

    fn readable(&mut self, resource: &'static str, outcome: &mut Outcome) {
        self.out_of_reach.remove(resource);
        if self.unreadable.remove(resource).is_some() {
            outcome.notices.push(Notice::Readable { resource });
        }
    }

    fn unreadable(&mut self, resource: &'static str, why: Unreadable, outcome: &mut Outcome) {
        let error = why.error.clone();
        if why.is_lasting() && !self.listed.contains(resource) && self.out_of_reach.insert(resource) {
            outcome.mesh = true;
            self.decode_own_again(outcome);
        }
        let known = self.unreadable.insert(resource, why);
        if known.is_none_or(|known| known.error != error) {
            outcome.notices.push(Notice::Unreadable { resource, error });
        }
    }

    fn change_nodes(&mut self, change: Change<NodeRecord>, at: Time, outcome: &mut Outcome) {
        match change {
            Change::Apply(record) => self.apply_node(record, at, outcome),
            Change::Delete(name) => self.delete_node(&name.into(), outcome),
            Change::Reset(records) => {
                outcome.mesh |= self.listed.insert("nodes");
                let present: BTreeSet<NodeName> = records.iter().map(|record| record.name.as_str().into()).collect();
                let own = self.name.clone().filter(|_| self.own.is_some());
                let gone: Vec<NodeName> =
                    self.others.keys().cloned().chain(own).filter(|name| !present.contains(name)).collect();
                gone.iter().for_each(|name| self.delete_node(name, outcome));
                records.into_iter().for_each(|record| self.apply_node(record, at, outcome));
            }
        }
        // After all of a list: those who come last in it were not silent.
        if std::mem::take(&mut self.was_check_in) && self.name.is_none() {
            self.membership.echo(at.now);
            outcome.mesh |= self.judge_all();
        }
    }

    fn apply_node(&mut self, record: NodeRecord, at: Time, outcome: &mut Outcome) {
        if self.name.as_ref().is_some_and(|own| own.as_str() == record.name) {
            return self.apply_own(record, at, outcome);
        }
        let (mut node, warnings) = annotations::decode(&record.as_object(), &self.topology_label);
        outcome.notices.extend(self.complaints.replace(format!("node/{}", node.name), warnings));
        self.was_check_in |= self.membership.observe(&node.name, node.last_seen, at.now, at.wall);
        outcome.mesh |= self.judge(&node.name);
        // What changes at every check-in, or is for display only, makes no other mesh.
        node.last_seen = 0;
        if self.name.is_some() {
            node.wireguard_ips.clear();
        }
        node.wireguard_ips.iter_mut().for_each(|ip| *ip = ip.trunc());
        if self.others.get(&node.name) != Some(&node) {
            outcome.mesh = true;
            self.others.insert(node.name.clone(), node);
        }
    }

    /// The own Node: the agent needs what others say of it, and must not mistake its own words,
    /// perhaps of an earlier run, for theirs.
    fn apply_own(&mut self, mut record: NodeRecord, at: Time, outcome: &mut Outcome) {
        let present = record.annotations.clone();
        record.annotations.retain(|key, _| !annotations::OWNED.contains(&key.as_str()));
        let node = self.decode_own(&record, outcome);
        let known = self.own.as_ref();
        outcome.mesh |= known.is_none_or(|own| own.node != node);
        outcome.own |= known.is_none_or(|own| own.annotations != present);
        let checked_in = last_seen(&present);
        if let Some((_, written)) = self.checked_in.filter(|(time, _)| checked_in == Some(*time)) {
            (self.checked_in, self.unheard_since) = (None, None);
            self.heard = Some(Heard { at: at.wall, lag: at.now.saturating_sub(written) });
            self.membership.echo(at.now);
            outcome.mesh |= self.judge_all();
        }
        self.own = Some(Own { node, annotations: present, record });
    }

    /// The own Node as its `record` and its network provider say.
    fn decode_own(&mut self, record: &NodeRecord, outcome: &mut Outcome) -> Node {
        let (provided, mut warnings) = self.provided(record);
        let mut record = record.clone();
        if let Some(cidrs) = provided {
            let text = annotations::announced_pod_cidrs(&cidrs);
            record.annotations.insert(annotations::POD_CIDRS.to_owned(), text);
        }
        let (node, more) = annotations::decode(&record.as_object(), &self.topology_label);
        warnings.extend(more);
        outcome.notices.extend(self.complaints.replace(format!("node/{}", node.name), warnings));
        node
    }

    fn change_pod_cidrs(&mut self, change: Change<ProviderRecord>, plural: &'static str, outcome: &mut Outcome) {
        match change {
            Change::Apply(record) => self.apply_pod_cidrs(&record, plural, outcome),
            Change::Delete(name) => self.delete_pod_cidrs(&name, plural),
            Change::Reset(records) => {
                outcome.mesh |= self.listed.insert(plural);
                let present: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
                let gone: Vec<String> =
                    self.pod_cidrs.keys().filter(|name| !present.contains(name.as_str())).cloned().collect();
                gone.iter().for_each(|name| self.delete_pod_cidrs(name, plural));
                records.iter().for_each(|record| self.apply_pod_cidrs(record, plural, outcome));
            }
        }
        self.decode_own_again(outcome);
    }

    /// After news of what the provider says.
    fn decode_own_again(&mut self, outcome: &mut Outcome) {
        if let Some(mut own) = self.own.take() {
            let node = self.decode_own(&own.record, outcome);
            outcome.mesh |= own.node != node;
            own.node = node;
            self.own = Some(own);
        }
    }

    fn apply_pod_cidrs(&mut self, record: &ProviderRecord, plural: &'static str, outcome: &mut Outcome) {
        let Some(own) = &self.name else { return };
        let (cidrs, warnings) = self.pod_cidr_source.read(own, &record.name, &record.spec);
        outcome.notices.extend(self.complaints.replace(format!("{plural}/{}", record.name), warnings));
        // The CiliumNode of the own name counts without any, too.
        if cidrs.is_empty() && record.name != own.as_str() {
            self.pod_cidrs.remove(&record.name);
        } else {
            self.pod_cidrs.insert(record.name.clone(), cidrs);
        }
    }

    fn delete_pod_cidrs(&mut self, name: &str, plural: &'static str) {
        self.complaints.replace(format!("{plural}/{name}"), Vec::new());
        self.pod_cidrs.remove(name);
    }

    fn delete_node(&mut self, name: &NodeName, outcome: &mut Outcome) {
        self.complaints.replace(format!("node/{name}"), Vec::new());
        if self.name.as_ref() == Some(name) {
            outcome.own |= self.own.take().is_some();
            outcome.mesh = true;
            return;
        }
        self.membership.forget(name);
        self.alive.remove(name);
        outcome.mesh |= self.others.remove(name).is_some();
    }

    /// Judges again whether `name` is alive; returns whether that changed.
    fn judge(&mut self, name: &NodeName) -> bool {
        if self.membership.is_alive(name) { self.alive.insert(name.clone()) } else { self.alive.remove(name) }
    }

    fn judge_all(&mut self) -> bool {
        let names: Vec<NodeName> = self.others.keys().cloned().collect();
        names.iter().fold(false, |changed, name| self.judge(name) | changed)
    }

    fn change_peers(&mut self, change: Change<PeerRecord>, outcome: &mut Outcome) {
        match change {
            Change::Apply(record) => self.apply_peer(&record, outcome),
            Change::Delete(name) => self.delete_peer(&name.into(), outcome),
            Change::Reset(records) => {
                outcome.mesh |= self.listed.insert("peers");
                let present: BTreeSet<PeerName> = records.iter().map(|record| record.name.as_str().into()).collect();
                let gone: Vec<PeerName> = self.peers.keys().filter(|name| !present.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.delete_peer(name, outcome));
                records.iter().for_each(|record| self.apply_peer(record, outcome));
            }
        }
    }

    fn apply_peer(&mut self, record: &PeerRecord, outcome: &mut Outcome) {
        let object = format!("peer/{}", record.name);
        match peer::decode(&record.name, &record.spec) {
            Ok(peer) => {
                self.complaints.replace(object, Vec::new());
                outcome.mesh |= self.peers.get(&peer.name) != Some(&peer);
                self.peers.insert(peer.name.clone(), peer);
            }
            Err(error) => {
                let warning = Warning::peer(&record.name, "spec", format!("the peer is left out: {error}"));
                outcome.notices.extend(self.complaints.replace(object, vec![warning]));
                outcome.mesh |= self.peers.remove(&record.name.as_str().into()).is_some();
            }
        }
    }

    fn delete_peer(&mut self, name: &PeerName, outcome: &mut Outcome) {
        self.complaints.replace(format!("peer/{name}"), Vec::new());
        outcome.mesh |= self.peers.remove(name).is_some();
    }
}

fn last_seen(annotations: &BTreeMap<String, String>) -> Option<i64> {
    annotations.get(annotations::LAST_SEEN)?.parse().ok()
}

#[cfg(test)]
mod tests;
