//! `kgctl showconf`: WireGuard configurations without private keys.

use clap::Subcommand;
use topology::{NodeName, conf::ConfError};

use crate::{
    cli::Global,
    completion,
    mesh::Mesh,
    outcome::{self, Outcome},
};

/// Print a WireGuard configuration.
#[derive(Debug, Subcommand)]
pub enum Showconf {
    /// The configuration that a node runs, without its private key.
    Node {
        /// The Node's name.
        #[arg(add = completion::node_names())]
        name: String,
    },
    /// The configuration that the device behind a Peer needs, without its private key.
    Peer {
        /// The Peer's name.
        #[arg(add = completion::peer_names())]
        name: String,
    },
}

/// Prints what is asked for.
pub async fn run(command: &Showconf, global: &Global) -> anyhow::Result<Outcome> {
    let mesh = Mesh::read(global).await?;
    match command {
        Showconf::Node { name } => show_node(&mesh, &name.as_str().into(), global.port),
        Showconf::Peer { name } => outcome::print(&mesh.topology.peer_conf(&name.as_str().into())?.render()),
    }
}

/// As upstream, asking for a node that does not lead is answered by a message and no failure.
fn show_node(mesh: &Mesh, name: &NodeName, port: u16) -> anyhow::Result<Outcome> {
    match mesh.topology.node_conf(name, port) {
        Ok(conf) => outcome::print(&conf.render()),
        Err(message @ ConfError::NotALeader(_)) => {
            eprintln!("{message}");
            Ok(Outcome::Done)
        }
        Err(error) => Err(error.into()),
    }
}
