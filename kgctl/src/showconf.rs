//! `kgctl showconf`: WireGuard configurations without private keys, and Peer objects for other clusters.

use clap::{Args, Subcommand, ValueEnum};
use topology::{
    NodeName, PeerName,
    conf::ConfError,
    ini::{Conf, PeerSection},
    manifest,
};

use crate::{
    cidrs::Cidrs,
    cli::Global,
    completion,
    mesh::Mesh,
    outcome::{self, Outcome},
};

/// Print the WireGuard configuration of a node or a Peer, without its private key.
///
/// With --as-peer, print instead what another WireGuard needs in order to have the node or Peer as a
/// peer of its own: a section of a configuration file, or a Peer object for another cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kgctl showconf peer laptop > kilo0.conf
  kgctl --context paris showconf node a --as-peer -o yaml | kubectl --context oslo apply -f -")]
pub struct Showconf {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    whose: Whose,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Form")]
struct Options {
    /// Print what another WireGuard needs in order to have this one as a peer.
    #[arg(long, global = true, value_name = "true|false", default_value = "false", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, value_parser = agent::flags::boolean)]
    as_peer: bool,
    /// The form of what --as-peer prints; without --as-peer it is always wireguard.
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "wireguard", value_enum)]
    output: Format,
    /// CIDRs to add to the allowed IPs that --as-peer prints; repeatable, or separated by commas.
    #[arg(long, global = true, value_name = "CIDR,...")]
    allowed_ips: Vec<Cidrs>,
}

/// The form of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Peer object.
    Json,
    /// A section of a configuration file as wg setconf takes it.
    Wireguard,
    /// A Peer object.
    Yaml,
}

/// Whose configuration to print.
#[derive(Debug, Subcommand)]
enum Whose {
    /// Print the configuration that a node runs, or the node as a peer.
    ///
    /// Only the leader of a location, or with full granularity every node, has one; of another node
    /// nothing is printed but a message on stderr. The port that the configuration listens at is --port.
    Node {
        /// The Node's name.
        #[arg(add = completion::node_names())]
        name: String,
    },
    /// Print the configuration that the device behind a Peer needs, or the Peer as a peer of others.
    Peer {
        /// The Peer's name.
        #[arg(add = completion::peer_names())]
        name: String,
    },
}

/// Prints what is asked for.
pub async fn run(command: &Showconf, global: &Global) -> anyhow::Result<Outcome> {
    let options = &command.options;
    if let Some(warning) = options.without_effect() {
        outcome::warn(warning);
    }
    let mesh = Mesh::read(global).await?;
    match &command.whose {
        Whose::Node { name } => show_node(&mesh, &name.as_str().into(), options, global.port),
        Whose::Peer { name } => show_peer(&mesh, &name.as_str().into(), options),
    }
}

/// As upstream, asking for a node that does not lead is answered by a message and no failure.
fn show_node(mesh: &Mesh, name: &NodeName, options: &Options, port: u16) -> anyhow::Result<Outcome> {
    let text = if options.as_peer {
        mesh.topology.node_as_peer(name).map(|section| options.render(&name.as_str().into(), section))
    } else {
        mesh.topology.node_conf(name, port).map(|conf| conf.render())
    };
    match text {
        Ok(text) => outcome::print(&text),
        Err(message @ ConfError::NotALeader(_)) => {
            eprintln!("{message}");
            Ok(Outcome::Done)
        }
        Err(_) => Err(mesh.no_such_node(name)),
    }
}

/// As upstream, a Peer as a peer of others has all that its object says, also what the mesh had to ignore.
fn show_peer(mesh: &Mesh, name: &PeerName, options: &Options) -> anyhow::Result<Outcome> {
    let text = if options.as_peer {
        let peer = mesh.peers.iter().find(|peer| peer.name == *name);
        peer.map(|peer| options.render(name, peer.as_peer()))
    } else {
        mesh.topology.peer_conf(name).ok().map(|conf| conf.render())
    };
    outcome::print(&text.ok_or_else(|| mesh.no_such_peer(name))?)
}

impl Options {
    fn render(&self, name: &PeerName, mut section: PeerSection) -> zeroize::Zeroizing<String> {
        section.allow(self.allowed_ips.iter().flatten());
        match self.output {
            Format::Wireguard => Conf::from(section).render(),
            Format::Json => manifest::json(&manifest::object(name, &(&section).into())),
            Format::Yaml => manifest::yaml(&manifest::object(name, &(&section).into())),
        }
    }

    /// Upstream says nothing of flags that do nothing.
    fn without_effect(&self) -> Option<&'static str> {
        match self {
            Self { as_peer: true, .. } => None,
            Self { output: Format::Json | Format::Yaml, .. } => Some("--output has no effect without --as-peer"),
            Self { allowed_ips, .. } if !allowed_ips.is_empty() => {
                Some("--allowed-ips has no effect without --as-peer")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    /// The flags of a command line and the name it is about.
    fn parse(line: &str) -> (bool, Format, Vec<String>, String) {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        let Command::Showconf(Showconf { options, whose }) = cli.command else { panic!("{line} is no showconf") };
        let (Whose::Node { name } | Whose::Peer { name }) = whose;
        let ips = options.allowed_ips.iter().flatten().map(|net| net.to_string());
        (options.as_peer, options.output, ips.collect(), name)
    }

    #[test]
    fn flags_are_spelt_as_for_upstream() {
        let name = || "a".to_owned();
        let ips = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (line, expected) in [
            ("kgctl showconf node a", (false, Format::Wireguard, ips(""), name())),
            ("kgctl showconf peer a --as-peer -o yaml", (true, Format::Yaml, ips(""), name())),
            ("kgctl showconf --as-peer --output=json node a", (true, Format::Json, ips(""), name())),
            ("kgctl showconf -ojson node a --as-peer=false", (false, Format::Json, ips(""), name())),
            ("kgctl showconf -o=yaml node --as-peer=true a", (true, Format::Yaml, ips(""), name())),
            (
                "kgctl showconf node a --as-peer --allowed-ips 10.0.0.1/8,fd00::/64 --allowed-ips=10.1.0.0/16",
                (true, Format::Wireguard, ips("10.0.0.0/8 fd00::/64 10.1.0.0/16"), name()),
            ),
            ("kgctl showconf node a --allowed-ips=", (false, Format::Wireguard, ips(""), name())),
        ] {
            assert_eq!(parse(line), expected, "{line}");
        }
        for line in [
            "kgctl showconf node",
            "kgctl showconf node a b",
            "kgctl showconf node a -o ini",
            "kgctl showconf node a --as-peer=perhaps",
            "kgctl showconf node a --allowed-ips 10.0.0.1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn flags_that_do_nothing_are_named() {
        let options = |as_peer, output, ips: &str| Options { as_peer, output, allowed_ips: vec![ips.parse().unwrap()] };
        for (given, expected) in [
            (options(true, Format::Yaml, "10.0.0.0/8"), None),
            (options(false, Format::Yaml, ""), Some("--output has no effect without --as-peer")),
            (options(false, Format::Wireguard, "10.0.0.0/8"), Some("--allowed-ips has no effect without --as-peer")),
        ] {
            assert_eq!(given.without_effect(), expected);
        }
    }
}
