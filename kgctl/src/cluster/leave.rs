//! `kgctl cluster leave`.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use clap::Args;
use topology::join::{ClusterName, Found, Owner, leave};

use super::{
    apply::{self, Applied},
    join::print_lines,
    which::{Connected, Which, wrong_usage},
};
use crate::outcome::Outcome;

/// Part clusters: remove the Peers that stand for them in each other.
///
/// With several clusters, those of each in all others are removed. With --name, those of the clusters of
/// these names are removed from the clusters that are given; so one can be left that is gone for good.
/// Peers that kgctl did not make for this stay. End a running join --watch before.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kgctl cluster leave --kubeconfig paris.yaml --kubeconfig oslo.yaml
  kgctl cluster leave --context paris --name oslo")]
pub struct Leave {
    #[command(flatten)]
    which: Which,
    /// Name of a cluster to leave, as `kgctl cluster list` shows it; repeatable.
    #[arg(long, value_name = "NAME")]
    name: Vec<ClusterName>,
    /// Say what would be removed, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A cluster that is parted from others.
struct Parting {
    connected: Connected,
    id: String,
    peers: Vec<Found>,
}

/// Removes the Peers.
pub async fn run(command: &Leave) -> anyhow::Result<Outcome> {
    let partings = look(&command.which).await?;
    if command.name.is_empty() && partings.len() < 2 {
        let known = known(&partings);
        let known = if known.is_empty() { "it is joined to none".to_owned() } else { known.join(", ") };
        wrong_usage(format!("which cluster is to be left? Give a second one, or --name with one of: {known}"));
    }
    let known = known(&partings);
    if let Some(name) = command.name.iter().find(|name| !known.contains(&name.to_string())) {
        let known = if known.is_empty() { "no cluster".to_owned() } else { known.join(", ") };
        bail!("no cluster called {name} is joined here, but {known}");
    }
    let mut applied = Applied::default();
    for (index, parting) in partings.iter().enumerate() {
        let is_left = |owner: &Owner| {
            let is_other = |(other, _): (usize, &Parting)| other != index;
            if command.name.is_empty() {
                partings
                    .iter()
                    .enumerate()
                    .filter(|pair| is_other(*pair))
                    .any(|(_, other)| other.id == owner.cluster_id)
            } else {
                command.name.contains(&owner.cluster)
            }
        };
        let changes = leave(&parting.peers, is_left);
        if command.dry_run {
            let name = &parting.connected.name;
            let line = |change| format!("dry run: cluster {name}: {}", apply::describe(change));
            applied.done.extend(changes.iter().map(line));
        } else {
            applied.extend(apply::apply(&parting.connected, &changes).await);
        }
    }
    print_lines(&applied.done)?;
    if !applied.failed.is_empty() {
        applied.failed.iter().for_each(|line| eprintln!("kgctl: {line}"));
        bail!("{} Peers were not removed; run it again", applied.failed.len());
    }
    if applied.done.is_empty() {
        eprintln!("kgctl: there is nothing to remove");
    }
    Ok(Outcome::Done)
}

async fn look(which: &Which) -> anyhow::Result<Vec<Parting>> {
    let mut partings: Vec<Parting> = Vec::new();
    for (called, client) in which.connect().await? {
        let name = ClusterName::closest(&called).with_context(|| format!("{called:?} can be no cluster's name"))?;
        let context = || format!("cluster {name} at {}", client.server());
        let id = client.cluster_id().await.with_context(context)?;
        let peers = client.found_peers().await.with_context(context)?;
        if let Some(other) = partings.iter().find(|other| other.id == id) {
            bail!("{} and {} are the same cluster", other.connected.client.server(), client.server());
        }
        let connected = Connected { name, client, service_cidrs: None, pod_cidrs: Vec::new() };
        partings.push(Parting { connected, id, peers });
    }
    // By the names that they have in each other, where they have one: two contexts may be called the same.
    let owners: Vec<Owner> =
        partings.iter().flat_map(|parting| parting.peers.iter().filter_map(|found| found.owner.clone())).collect();
    for parting in &mut partings {
        if let Some(owner) = owners.iter().find(|owner| owner.cluster_id == parting.id) {
            parting.connected.name = owner.cluster.clone();
        }
    }
    Ok(partings)
}

/// Names of all clusters that these are joined to.
fn known(partings: &[Parting]) -> Vec<String> {
    let owners = partings.iter().flat_map(|parting| parting.peers.iter().filter_map(|found| found.owner.as_ref()));
    let names: BTreeSet<String> = owners.map(|owner| owner.cluster.to_string()).collect();
    names.into_iter().collect()
}
