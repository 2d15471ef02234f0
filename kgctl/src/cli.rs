//! The command line, with upstream's names, short forms and defaults. Its texts are the documentation:
//! `--help`, the man pages and docs/kgctl.md are all made of them (see `docs`).

use std::path::PathBuf;

use agent::cluster::Client;
use clap::{
    Args, Parser, Subcommand, ValueEnum, ValueHint,
    builder::{OsStringValueParser, TypedValueParser},
};
use topology::Granularity;

use crate::{cluster, completion, connect, doctor, graph, showconf, status, verify};

/// What `kgctl --version` says after the name, as upstream words it.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"));

/// The end of `kgctl --help`; the codes are those of [`crate::outcome`].
const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed; one line on stderr says which object, what was expected and what to do
  2  the command line is wrong; nothing was done
  3  done, and what was judged is not as it should be

Which cluster:
  That of --kubeconfig, else of the files that $KUBECONFIG lists, else of ~/.kube/config, else,
  in a pod, that of its service account. kgctl needs the rights to list nodes and peers.

Output:
  Data goes to stdout, messages go to stderr.";

/// Shows, explains and extends the WireGuard mesh of a Kubernetes cluster.
///
/// The mesh is read from the cluster's Node annotations and Peer objects, as the agents on the nodes
/// read it. Commands that only show something change nothing anywhere.
#[derive(Debug, Parser)]
#[command(name = "kgctl", version = VERSION, after_help = AFTER_HELP, args_override_self = true)]
pub struct Cli {
    /// Which cluster, and how it is read.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where the mesh is described.
    #[arg(long, global = true, default_value = "kubernetes", value_enum)]
    pub backend: Backend,
    /// Kubeconfig file; by default the files of $KUBECONFIG, else ~/.kube/config.
    ///
    /// An empty value stands for the service account of the pod that kgctl runs in.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; by default its current context.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// What one WireGuard peer of the mesh stands for.
    #[arg(long, global = true, value_name = "GRANULARITY", default_value = "auto", value_enum)]
    pub mesh_granularity: GranularityChoice,
    /// UDP port at which the nodes' WireGuard listens.
    #[arg(long, global = true, default_value_t = 51820, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Node label that names the location of a node that has no location annotation.
    #[arg(long, global = true, value_name = "LABEL", default_value = "topology.kubernetes.io/region")]
    pub topology_label: String,
    /// Tell the whole chain of causes of a failure, one a line.
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

impl Global {
    /// A client of the cluster that the flags name; no API server has been asked anything yet.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::from_user_config(self.kubeconfig.as_deref(), self.context.as_deref()).await?)
    }
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
    /// A location.
    Location,
    /// A node.
    Full,
    /// What the agents announce on their nodes.
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

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Completion(completion::Completion),
    Connect(connect::Connect),
    Doctor(doctor::Doctor),
    Graph(graph::Graph),
    Showconf(showconf::Showconf),
    Status(status::Command),
    Verify(verify::Verify),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command_and_the_last_one_wins() {
        for line in [
            "kgctl --mesh-granularity=full showconf node a",
            "kgctl showconf node a --mesh-granularity full",
            "kgctl --mesh-granularity location showconf --mesh-granularity=full node a",
            "kgctl showconf node a --mesh-granularity=location --mesh-granularity=full",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(cli.global.mesh_granularity.given(), Some(Granularity::Full), "{line}");
            assert!(matches!(cli.command, Command::Showconf(_)), "{line}");
        }
        assert!(Cli::try_parse_from(["kgctl", "graph", "--port=0"]).is_err());
    }

    #[test]
    fn an_empty_kubeconfig_is_one() {
        let cli = Cli::try_parse_from(["kgctl", "graph", "--kubeconfig="]).unwrap();
        assert_eq!(cli.global.kubeconfig, Some(PathBuf::new()));
    }

    #[test]
    fn the_version_is_worded_as_upstream_words_it() {
        let text = Cli::try_parse_from(["kgctl", "--version"]).unwrap_err().to_string();
        assert_eq!(text, format!("kgctl version {}\n", env!("CARGO_PKG_VERSION")));
    }
}
