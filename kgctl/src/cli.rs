//! The command line, with upstream's names and defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use topology::Granularity;

use crate::showconf;

/// Shows the mesh of a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "kgctl", version)]
pub struct Cli {
    /// Which cluster, and how it is read.
    #[command(flatten)]
    pub global: Global,
    /// What to show.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Debug)]
pub struct Global {
    /// Where the mesh is described.
    #[arg(long, global = true, default_value = "kubernetes", value_enum)]
    pub backend: Backend,
    /// Path to kubeconfig [default: $KUBECONFIG, else ~/.kube/config].
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The granularity of the mesh; auto reads it from the nodes' annotations.
    #[arg(long, global = true, default_value = "auto", value_enum)]
    pub mesh_granularity: GranularityChoice,
    /// The UDP port at which nodes listen.
    #[arg(long, global = true, default_value_t = 51820, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Kubernetes node label that names a node's location.
    #[arg(long, global = true, default_value = "topology.kubernetes.io/region")]
    pub topology_label: String,
    /// Say the whole chain of causes of a failure.
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// Where the mesh is described.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Backend {
    /// Node annotations and Peer objects.
    Kubernetes,
}

/// `--mesh-granularity`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GranularityChoice {
    /// One WireGuard peer for each location.
    Location,
    /// One WireGuard peer for each node.
    Full,
    /// What the nodes say.
    Auto,
}

impl GranularityChoice {
    /// The granularity that was asked for, unless the nodes are to be asked.
    pub fn given(self) -> Option<Granularity> {
        match self {
            Self::Location => Some(Granularity::Location),
            Self::Full => Some(Granularity::Full),
            Self::Auto => None,
        }
    }
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the mesh as a graph in Graphviz' DOT language.
    Graph,
    /// Print a WireGuard configuration.
    #[command(subcommand)]
    Showconf(showconf::Showconf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        for line in ["kgctl --mesh-granularity=full showconf node a", "kgctl showconf node a --mesh-granularity full"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.mesh_granularity.given(), Some(Granularity::Full));
            assert!(matches!(cli.command, Command::Showconf(showconf::Showconf::Node { name }) if name == "a"));
        }
        assert!(Cli::try_parse_from(["kgctl", "graph", "--port=0"]).is_err());
    }
}
