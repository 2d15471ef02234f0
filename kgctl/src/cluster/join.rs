//! `kgctl cluster join`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use topology::join::{ClusterName, Course, JoinedPeer, Joint, Pace, Refusal, join};

use super::{
    apply::{self, Applied},
    describe::{self, Identity, Reading},
    follow, manifest,
    which::{Connected, Facts, Which, wrong_usage},
};
use crate::{
    cli::Global,
    outcome::{self, Outcome},
};

/// How often it is decided anew when somebody else changes the same objects at the same time.
const ATTEMPTS: usize = 5;

/// How many reasons to refuse are told.
const MOST_REFUSALS: usize = 20;

/// Join clusters: make each segment of each cluster a Peer in every other one.
///
/// Afterwards pods, nodes and services of each cluster are reached from all others, with unchanged
/// source addresses. Run it again, or with --watch, when nodes come, go or lead: what is right already
/// is not touched. Nothing is done if addresses overlap; each overlapping pair is named.
///
/// The agents of the clusters need different Kilo subnets (--subnet), and the clusters' pod CIDRs,
/// service CIDRs and node addresses must differ.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kgctl cluster join --kubeconfig paris.yaml --kubeconfig oslo.yaml
  kgctl cluster join --context paris --context oslo --context home --watch
  kgctl cluster join --context paris --context oslo --dry-run=oslo | kubectl --context oslo apply -f -

Rights:
  In each cluster: list and watch nodes; list, watch, create, patch and delete peers.kilo.squat.ai; get
  the namespace kube-system; and, unless --service-cidr is given, list servicecidrs.networking.k8s.io
  or, before Kubernetes 1.33, create services in the namespace default (none is made).")]
pub struct Join {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    facts: Facts,
    /// Print the Peers that the clusters, or the one of that name, should have, and change nothing.
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with = "watch")]
    dry_run: Option<String>,
    /// Stay, and follow what changes in any of the clusters.
    #[arg(long)]
    watch: bool,
    /// How long the Peer of a segment that is missing is kept; with --watch, as long as its cluster is seen.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = agent::duration::parse)]
    prune_after: Duration,
}

/// Clusters that are to be joined.
pub struct Party {
    /// How to reach them.
    pub clusters: Vec<(Connected, Identity)>,
    /// How their nodes are read.
    pub reading: Reading,
    /// How long missing segments are kept, in seconds.
    pub prune_after: i64,
}

impl Party {
    /// Those of `connected`, once each has said who it is.
    pub async fn gather(connected: Vec<Connected>, global: &Global, prune_after: Duration) -> anyhow::Result<Self> {
        let mut clusters = Vec::new();
        // What a cluster offers does not matter where there is nobody to offer it to.
        let has_others = connected.len() > 1;
        for connected in connected {
            let identity = describe::identify(&connected, has_others).await?;
            clusters.push((connected, identity));
        }
        let prune_after = i64::try_from(prune_after.as_secs()).unwrap_or(i64::MAX);
        Ok(Self { clusters, reading: Reading::new(global), prune_after })
    }

    /// When it is now, and how patient we are.
    pub fn pace(&self) -> anyhow::Result<Pace> {
        Ok(Pace { now: describe::now()?, prune_after: self.prune_after })
    }

    /// What all clusters say now. Warnings that were not told yet are told.
    pub async fn look(&self, told: &mut BTreeSet<String>) -> anyhow::Result<Vec<topology::join::Cluster>> {
        let mut clusters = Vec::new();
        for (connected, identity) in &self.clusters {
            let (cluster, warnings) = describe::describe(connected, identity, &self.reading).await?;
            for warning in warnings {
                tell_once(told, format!("cluster {}: {warning}", connected.name));
            }
            clusters.push(cluster);
        }
        Ok(clusters)
    }

    /// Makes all changes of `joint`.
    pub async fn apply(&self, joint: &Joint) -> Applied {
        let mut applied = Applied::default();
        for (connected, _) in &self.clusters {
            if let Some(Course { changes, .. }) = joint.courses.get(&connected.name) {
                applied.extend(apply::apply(connected, changes).await);
            }
        }
        applied
    }
}

/// Says a warning that was not said yet.
pub fn tell_once(told: &mut BTreeSet<String>, warning: String) {
    if !told.contains(&warning) {
        outcome::warn(&warning);
        told.insert(warning);
    }
}

/// Why clusters are not joined: a line for each reason, but not for hundreds of nodes with the same CIDRs.
pub fn reasons(refusals: &[Refusal]) -> Vec<String> {
    let mut lines: Vec<String> = refusals.iter().take(MOST_REFUSALS).map(ToString::to_string).collect();
    if refusals.len() > MOST_REFUSALS {
        lines.push(format!("and {} more reasons", refusals.len() - MOST_REFUSALS));
    }
    lines
}

/// Joins, once or for as long as it runs.
pub async fn run(command: &Join, global: &Global) -> anyhow::Result<Outcome> {
    let clusters = command.facts.connect(&command.which).await?;
    if clusters.len() < 2 {
        wrong_usage("one cluster cannot be joined: give --kubeconfig or --context for each of several".to_owned());
    }
    if let Some(only) = command.dry_run.as_ref().filter(|only| !only.is_empty())
        && !clusters.iter().any(|cluster| cluster.name.as_str() == *only)
    {
        let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        wrong_usage(format!("--dry-run={only}: no cluster is called so, only {}", names.join(" and ")));
    }
    let party = Party::gather(clusters, global, command.prune_after).await?;
    match &command.dry_run {
        Some(only) => dry_run(&party, only).await,
        None if command.watch => follow::run(party).await,
        None => once(&party).await,
    }
}

async fn once(party: &Party) -> anyhow::Result<Outcome> {
    let mut told = BTreeSet::new();
    for attempt in 1.. {
        let joint = decide(party, &mut told).await?;
        let applied = party.apply(&joint).await;
        print_lines(&applied.done)?;
        if applied.failed.is_empty() {
            return conclude(&joint);
        }
        if applied.conflicts < applied.failed.len() || attempt == ATTEMPTS {
            applied.failed.iter().for_each(|line| eprintln!("kgctl: {line}"));
            bail!("{} changes were not made; what was made stays, run it again", applied.failed.len());
        }
    }
    Ok(Outcome::Done)
}

async fn decide(party: &Party, told: &mut BTreeSet<String>) -> anyhow::Result<Joint> {
    let clusters = party.look(told).await?;
    let joint = join(&clusters, &party.pace()?).map_err(|refusals| {
        reasons(&refusals).iter().for_each(|reason| eprintln!("kgctl: {reason}"));
        anyhow!("the clusters cannot be joined, and nothing was changed")
    })?;
    joint.notices.iter().for_each(|notice| tell_once(told, notice.to_string()));
    Ok(joint)
}

/// Says what there is in the end; a cluster about which nothing could be done is a failure.
fn conclude(joint: &Joint) -> anyhow::Result<Outcome> {
    for (name, course) in &joint.courses {
        let mut by_cluster: BTreeMap<&ClusterName, Vec<&JoinedPeer>> = BTreeMap::new();
        course.peers.iter().for_each(|peer| by_cluster.entry(&peer.owner.cluster).or_default().push(peer));
        for (other, peers) in by_cluster {
            let plural = if peers.len() == 1 { "" } else { "s" };
            let stale = peers.iter().filter(|peer| peer.stale_since.is_some()).count();
            let stale = if stale > 0 { format!(", {stale} of them stale") } else { String::new() };
            outcome::print(&format!("cluster {name}: joined to {other} by {} Peer{plural}{stale}\n", peers.len()))?;
        }
    }
    if joint.is_partial() {
        bail!("not all clusters could be joined; run it again when their nodes have checked in");
    }
    Ok(Outcome::Done)
}

/// Prints one line each.
pub fn print_lines(lines: &[String]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}")).context("cannot write to stdout")
}

async fn dry_run(party: &Party, only: &str) -> anyhow::Result<Outcome> {
    let joint = decide(party, &mut BTreeSet::new()).await?;
    for (name, course) in joint.courses.iter().filter(|(name, _)| only.is_empty() || name.as_str() == only) {
        outcome::print(&manifest::yaml(name, course)?)?;
    }
    Ok(Outcome::Done)
}
