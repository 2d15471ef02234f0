//! `kgctl cluster join --watch`: stays, and keeps joined what was joined.
//!
//! Nodes are followed by watches, and who of them is alive is judged as agents do, by check-ins that
//! arrive: while an API server is away, its cluster is taken to be as it was. Peers are read afresh
//! before each change. A Peer is removed for a missing segment only when a fresh list of the nodes of its
//! cluster, which was seen without a gap for as long as segments may be missing, does not have it either.

use std::{collections::BTreeSet, time::Duration};

use agent::{
    backoff::Backoff,
    cluster::{Change as Seen, Event, watch_nodes, watch_peers},
    debounce::Debounce,
    signals,
};
use anyhow::{Context as _, anyhow, bail};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use topology::join::{Change, Cluster, Joint, Reason, join};

use super::{
    describe,
    followed::Followed,
    join::{Party, print_lines, reasons, tell_once},
};
use crate::outcome::Outcome;

/// How often it is looked whether time has made a difference.
const TICK: Duration = Duration::from_secs(2);

/// The first and the longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The clusters, and what was said of them.
struct Follower {
    party: Party,
    clusters: Vec<Followed>,
    start: Instant,
    told: BTreeSet<String>,
    /// The trouble that was told: the same is not told again until there is none.
    trouble: BTreeSet<String>,
    backoff: Backoff,
    not_before: Instant,
}

/// Follows the clusters until it is asked to end. What is being written then is written or not; whoever
/// joins next finds out.
pub async fn run(party: Party) -> anyhow::Result<Outcome> {
    tokio::select! {
        failure = follow(party) => failure,
        asked = signals::first() => {
            asked.context("cannot wait for signals")?;
            Ok(Outcome::Done)
        }
    }
}

async fn follow(party: Party) -> anyhow::Result<Outcome> {
    let mut events = watch_all(&party);
    let mut follower = Follower::new(party)?;
    let mut tick = tokio::time::interval(TICK);
    let mut debounce = Debounce::default();
    loop {
        let due = debounce.due();
        tokio::select! {
            event = events.recv() => {
                let (index, event) = event.context("the watches have ended")?;
                if follower.take(index, event)? {
                    debounce.note(Instant::now());
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                debounce.clear();
                follower.reconcile().await;
            }
            _ = tick.tick() => follower.reconcile().await,
        }
    }
}

/// What happens in each cluster, with the cluster's place.
fn watch_all(party: &Party) -> mpsc::Receiver<(usize, Event)> {
    let (sender, events) = mpsc::channel(1024);
    for (index, (connected, _)) in party.clusters.iter().enumerate() {
        let (own, mut received) = mpsc::channel(64);
        let (renew, renewal) = watch::channel(());
        tokio::spawn(watch_nodes(connected.client.clone(), own.clone(), renewal.clone()));
        tokio::spawn(watch_peers(connected.client.clone(), own, renewal));
        let sender = sender.clone();
        tokio::spawn(async move {
            // The watches last as long as somebody could tell them to begin anew.
            let _renew = renew;
            while let Some(event) = received.recv().await {
                if sender.send((index, event)).await.is_err() {
                    return;
                }
            }
        });
    }
    events
}

impl Follower {
    fn new(party: Party) -> anyhow::Result<Self> {
        let now = describe::now()?;
        let start = Instant::now();
        let clusters = party.clusters.iter().map(|_| Followed::new(now)).collect();
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Ok(Self { party, clusters, start, told: BTreeSet::new(), trouble: BTreeSet::new(), backoff, not_before: start })
    }

    /// Takes in an event of a cluster; tells whether there may be something to do.
    fn take(&mut self, index: usize, event: Event) -> anyhow::Result<bool> {
        let now = describe::now()?;
        let name = &self.party.clusters[index].0.name;
        let cluster = &mut self.clusters[index];
        match event {
            Event::Node(seen) => Ok(cluster.take(seen, &self.party.reading, self.start.elapsed(), now)),
            // What they are is read when it matters.
            Event::Peer(_) => {
                cluster.peers = None;
                Ok(true)
            }
            // Agents announce what they find there.
            Event::PodCidrs(_) => Ok(false),
            Event::Unreadable { resource, error, .. } => {
                cluster.is_lost |= resource == "nodes";
                self.trouble(format!("cluster {name}: {error}; it is taken to be as it was"));
                Ok(false)
            }
        }
    }

    fn trouble(&mut self, what: String) {
        if !self.trouble.contains(&what) {
            eprintln!("kgctl: {what}");
            self.trouble.insert(what);
        }
    }

    /// Does what there is to do, if anything; failures are told and tried again later.
    async fn reconcile(&mut self) {
        if Instant::now() < self.not_before || self.clusters.iter().any(|cluster| !cluster.is_listed) {
            return;
        }
        match self.attempt().await {
            Ok(true) => {
                self.backoff.succeeded();
                if self.clusters.iter().all(|cluster| !cluster.is_lost) && !std::mem::take(&mut self.trouble).is_empty()
                {
                    eprintln!("kgctl: all clusters are seen again, and as they should be");
                }
            }
            Ok(false) => self.not_before = Instant::now() + self.backoff.delay(),
            Err(error) => {
                self.trouble(format!("{error:#}"));
                self.not_before = Instant::now() + self.backoff.delay();
            }
        }
    }

    /// Does what there is to do; tells whether all clusters could be looked at.
    async fn attempt(&mut self) -> anyhow::Result<bool> {
        let mut away = BTreeSet::new();
        for index in 0..self.clusters.len() {
            if self.clusters[index].peers.is_none() {
                self.read_peers(index, &mut away).await?;
            }
        }
        let joint = self.decide()?;
        if joint.courses.values().all(|course| course.changes.is_empty()) {
            return Ok(away.is_empty());
        }
        // Something is to be changed: not by what was known, but by what is.
        for index in 0..self.clusters.len() {
            self.read_peers(index, &mut away).await?;
        }
        self.confirm_missing(&joint).await?;
        let mut joint = self.decide()?;
        joint.courses.retain(|name, _| !away.contains(name.as_str()));
        let applied = self.party.apply(&joint).await;
        print_lines(&applied.done)?;
        self.clusters.iter_mut().for_each(|cluster| cluster.peers = None);
        if applied.failed.len() > applied.conflicts {
            bail!("{}", applied.failed.join("; "));
        }
        Ok(away.is_empty())
    }

    /// Reads a cluster's Peers; if they cannot be read, those known stay, and nothing is written there. It is
    /// an error if another cluster answers: what is known would be made true of the wrong one.
    async fn read_peers(&mut self, index: usize, away: &mut BTreeSet<String>) -> anyhow::Result<()> {
        let (connected, identity) = &self.party.clusters[index];
        let (id, peers) = tokio::join!(connected.client.cluster_id(), connected.client.found_peers());
        match id.and_then(|id| Ok((id, peers?))) {
            Ok((id, peers)) if id == identity.id => self.clusters[index].peers = Some(peers),
            Ok(_) => bail!(
                "cluster {}: another cluster answers at {} now, nothing is changed; if that is right, start again",
                connected.name,
                connected.client.server()
            ),
            Err(error) => {
                let name = connected.name.to_string();
                self.trouble(format!("cluster {name}: {error}"));
                away.insert(name);
            }
        }
        Ok(())
    }

    /// Reads the nodes of clusters of which a Peer is to go because its segment is missing.
    async fn confirm_missing(&mut self, joint: &Joint) -> anyhow::Result<()> {
        let missing = |change: &Change| match change {
            Change::Delete { found, reason: Reason::Missing(_) } => Some(found.owner.clone()?.cluster_id),
            _ => None,
        };
        let ids: BTreeSet<String> =
            joint.courses.values().flat_map(|course| &course.changes).filter_map(missing).collect();
        for (index, (connected, identity)) in self.party.clusters.iter().enumerate() {
            if ids.contains(&identity.id) {
                let records = connected.client.nodes().await.with_context(|| format!("cluster {}", connected.name))?;
                let (reading, at, now) = (&self.party.reading, self.start.elapsed(), describe::now()?);
                self.clusters[index].take(Seen::Reset(records), reading, at, now);
            }
        }
        Ok(())
    }

    /// What is to be done by what is known.
    fn decide(&mut self) -> anyhow::Result<Joint> {
        let pace = self.party.pace()?;
        let mut clusters: Vec<Cluster> = Vec::new();
        for (followed, (connected, identity)) in self.clusters.iter_mut().zip(&self.party.clusters) {
            if followed.is_lost {
                followed.since = pace.now;
            }
            let nodes = followed.nodes.values().cloned().collect();
            let peers = followed.peers.clone().unwrap_or_default();
            let reading = &self.party.reading;
            let cluster = describe::assemble(connected, identity, reading, nodes, &followed.membership, peers)?;
            clusters.push(Cluster { followed_since: Some(followed.since), ..cluster });
        }
        let joint = join(&clusters, &pace).map_err(|refusals| {
            let reasons = reasons(&refusals).join("; ");
            anyhow!("the clusters can no longer be joined, and nothing is changed: {reasons}")
        })?;
        joint.notices.iter().for_each(|notice| tell_once(&mut self.told, notice.to_string()));
        Ok(joint)
    }
}
