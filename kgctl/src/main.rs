//! `kgctl` shows the mesh: data on stdout, messages on stderr.
#![forbid(unsafe_code)]

mod cli;
mod mesh;

use std::{
    io::Write,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use agent::{causes, cluster::Client};
use anyhow::Context;
use clap::Parser;
use topology::{NodeName, conf::ConfError};

use crate::{
    cli::{Cli, Command, Global, Showconf},
    mesh::{Mesh, Options},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kgctl: {}", causes::text(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    let mesh = read_mesh(&cli.global).await?;
    for warning in &mesh.warnings {
        eprintln!("kgctl: warning: {warning}");
    }
    match &cli.command {
        Command::Graph => print(&mesh.topology.dot()),
        Command::Showconf(Showconf::Node { name }) => show_node(&mesh, &name.as_str().into(), cli.global.port),
        Command::Showconf(Showconf::Peer { name }) => print(&mesh.topology.peer_conf(&name.as_str().into())?.render()),
    }
}

/// As upstream, asking for a node that does not lead is answered by a message and no failure.
fn show_node(mesh: &Mesh, name: &NodeName, port: u16) -> anyhow::Result<()> {
    match mesh.topology.node_conf(name, port) {
        Ok(conf) => print(&conf.render()),
        Err(message @ ConfError::NotALeader(_)) => {
            eprintln!("{message}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")
}

async fn read_mesh(global: &Global) -> anyhow::Result<Mesh> {
    let client = Client::from_user_config(global.kubeconfig.as_deref()).await?;
    let nodes = client.nodes().await.context("cannot list Nodes")?;
    let peers = client.peers().await.context("cannot list Peers")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let options = Options {
        topology_label: &global.topology_label,
        granularity: global.mesh_granularity.given(),
        now: i64::try_from(now.as_secs())?,
    };
    Mesh::new(&nodes, &peers, &options)
}
