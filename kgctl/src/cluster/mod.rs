//! `kgctl cluster`: joins the meshes of several clusters, and keeps them joined.
//!
//! What to write is decided by [`topology::join`]; here is who is asked, and what is done about it.

mod apply;
mod describe;
mod follow;
mod followed;
mod join;
mod leave;
mod list;
mod manifest;
mod which;

use clap::Subcommand;

use crate::{cli::Global, outcome::Outcome};

/// Join the meshes of several clusters, part them, or show which are joined.
///
/// Each segment of a joined cluster is a Peer object in every other one, through which its pods, nodes and
/// services are reached. Only Peers that kgctl made for this are ever changed or removed; they have the
/// label app.kubernetes.io/managed-by=kgctl and one with the cluster's name, kilo.squat.ai/cluster.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    Join(join::Join),
    Leave(leave::Leave),
    List(list::List),
}

/// Does what is asked for.
pub async fn run(command: &Cluster, global: &Global) -> anyhow::Result<Outcome> {
    match command {
        Cluster::Join(command) => join::run(command, global).await,
        Cluster::Leave(command) => leave::run(command).await,
        Cluster::List(command) => list::run(command, global).await,
    }
}
