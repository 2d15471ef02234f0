//! `kgctl status`: how the mesh is, at a glance.
//!
//! What the API server has is shown in any case; what only agents know is added for those that answer.

mod model;
mod table;
mod text;
mod watch;

use std::time::Duration;

use agent::cluster::{Client, NodeRecord, PeerRecord};
use anyhow::bail;
use clap::{Args, ValueEnum};
use topology::report::{FORMAT, PATH, Report};

use crate::{
    absent::suggestion,
    cli::Global,
    completion,
    mesh::{self, Census, Options},
    outcome::{self, Outcome},
    reach::{Agents, Reach, Unreachable},
    terminal,
};
use model::{Answers, Choice, Status, Trouble};
use text::Extent;

/// How long all agents together may take.
const AGENTS_LIMIT: Duration = Duration::from_secs(5);

/// Show how the mesh is: nodes, leaders, tunnels, peers, and what is not as it should be.
///
/// Nodes and Peers come from the API server. Handshakes, the endpoints in use, bytes, round trips, MTU
/// and version come from the agents' HTTP endpoints, which are reached through the API server's proxies
/// or directly (see --via); a node whose agent does not answer within 5 seconds is shown with what the
/// API server knows. Upstream's agents have nothing to tell beyond that.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit codes:
  0  all that was looked at is as it should be
  1  it could not be shown
  2  the command line is wrong
  3  something is not as it should be: the last part of the output says what. A node is left out of the
     mesh, a part of an object is ignored, an agent fails at something or does not answer (with
     --no-agents, none is asked), or a tunnel between two locations is dead: no echo comes back, and
     the last handshake is more than 180 seconds old. With --watch there is no such judgement.

Rights:
  list nodes and peers; and for the agents one of: get nodes/proxy; list pods and get pods/proxy; or a
  way from here to the nodes' TCP port 1107. A ClusterRole for the last but one:
    rules:
    - {apiGroups: [\"\"], resources: [nodes, pods], verbs: [get, list, watch]}
    - {apiGroups: [\"\"], resources: [pods/proxy], verbs: [get]}
    - {apiGroups: [kilo.squat.ai], resources: [peers], verbs: [list, watch]}

Columns:
  STATE      leader, ready, or LEFT OUT of the mesh
  SEEN       age of the node's last check-in, which agents write every 30 seconds
  AGENT      version and who moves the packets; \"upstream or old\": it answers, but not this question
  HANDSHAKE  age of the tunnel's last handshake; WireGuard renews it every 2 minutes while there is traffic
  RECEIVED   bytes since the agent made its interface, as SENT
  RTT        time of an echo through the tunnel to the other end's address, measured for this answer

Examples:
  kgctl status
  kgctl status --watch
  kgctl status paris-1 --via direct
  kgctl status -o json | jq '.troubles[] | .object + \": \" + .message'
  until kgctl status >/dev/null; do sleep 5; done")]
pub struct Command {
    /// Nodes to show and to ask; all if none is named.
    #[arg(value_name = "NODE", add = completion::node_names())]
    nodes: Vec<String>,
    /// Show and ask only the nodes of this location; repeatable.
    #[arg(long, value_name = "LOCATION")]
    location: Vec<String>,
    /// In what form.
    #[arg(long, short, value_name = "FORM", default_value = "text", value_enum)]
    output: Form,
    /// Go on, and show it anew when something changes and every 3 seconds. On a terminal in place, else
    /// one after the other, separated by an empty line; as JSON, one document a line.
    #[arg(long, short)]
    watch: bool,
    /// Ask no agents: show only what the API server knows.
    #[arg(long, conflicts_with_all = ["via", "agent_port"])]
    no_agents: bool,
    /// How agents are reached.
    #[command(flatten)]
    reach: Reach,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Tables that fit the terminal, and not more lines than a person can take in.
    Text,
    /// The tables with all columns and all lines.
    Wide,
    /// A JSON document, whose members keep their meaning.
    Json,
}

/// What the API server knows.
#[derive(Default)]
struct Objects {
    nodes: Vec<NodeRecord>,
    peers: Vec<PeerRecord>,
    /// What it does not, and why.
    troubles: Vec<Trouble>,
}

/// Shows the status, or goes on showing it.
pub async fn run(command: &Command, global: &Global) -> anyhow::Result<Outcome> {
    let client = global.client().await?;
    if command.watch {
        return watch::run(command, global, client).await;
    }
    let objects = Objects::list(&client).await?;
    command.check_names(&objects, &Options::now(global)?)?;
    let answers = command.ask(&client, &objects, global).await?;
    let status = command.status(&objects, &answers, &Options::now(global)?);
    outcome::print(&command.render(&status, true)?)?;
    Ok(if status.troubles.is_empty() { Outcome::Done } else { Outcome::Negative })
}

impl Objects {
    async fn list(client: &Client) -> anyhow::Result<Self> {
        let (nodes, peers) = tokio::join!(client.nodes(), client.peers());
        let nodes = nodes?;
        let (peers, trouble) = match peers {
            Ok(peers) => (peers, None),
            Err(error) if error.status() == Some(404) => (Vec::new(), Some(Trouble::from(&mesh::no_definition()))),
            // The nodes are worth showing all the same.
            Err(error) => (Vec::new(), Some(Trouble::of_mesh(error.to_string()))),
        };
        Ok(Self { nodes, peers, troubles: trouble.into_iter().collect() })
    }

    fn census(&self, options: &Options<'_>) -> Census {
        Census::new(&self.nodes, &self.peers, options)
    }
}

impl Command {
    fn choice(&self) -> Choice {
        Choice { nodes: self.nodes.iter().cloned().collect(), locations: self.location.iter().cloned().collect() }
    }

    /// Refuses names that stand for nothing.
    fn check_names(&self, objects: &Objects, options: &Options<'_>) -> anyhow::Result<()> {
        let census = objects.census(options);
        let names = || census.nodes.iter().map(|node| node.name.as_str());
        if let Some(name) = self.nodes.iter().find(|name| !names().any(|known| known == *name)) {
            bail!("did not find any node named {name:?} in the cluster{}", suggestion(name, names()));
        }
        let locations: std::collections::BTreeSet<_> = census.nodes.iter().map(|node| node.location.as_str()).collect();
        if let Some(name) = self.location.iter().find(|name| !locations.contains(name.as_str())) {
            bail!("no node is in location {name:?}{}", suggestion(name, locations.into_iter()));
        }
        Ok(())
    }

    /// What the agents of the chosen nodes say.
    async fn ask(&self, client: &Client, objects: &Objects, global: &Global) -> anyhow::Result<Answers> {
        if self.no_agents {
            return Ok(Answers::new());
        }
        let agents = Agents::new(client.clone(), &self.reach);
        let (census, choice) = (objects.census(&Options::now(global)?), self.choice());
        let chosen = |record: &&NodeRecord| {
            let mut nodes = census.nodes.iter();
            nodes.any(|node| node.name.as_str() == record.name && choice.has(node))
        };
        let asked: Vec<NodeRecord> = objects.nodes.iter().filter(chosen).cloned().collect();
        let answers = agents.get_all::<Report>(&asked, PATH, AGENTS_LIMIT).await;
        Ok(answers.into_iter().map(|(node, answer)| (node, answer.and_then(of_known_format))).collect())
    }

    fn status(&self, objects: &Objects, answers: &Answers, options: &Options<'_>) -> Status {
        Status::new(&objects.census(options), answers, &self.choice(), options, objects.troubles.clone())
    }

    /// `status` in the form that was asked for; `is_last`: nothing follows.
    fn render(&self, status: &Status, is_last: bool) -> anyhow::Result<String> {
        Ok(match self.output {
            Form::Text => text::render(status, Extent::Glance, terminal::width()),
            Form::Wide => text::render(status, Extent::Wide, None),
            Form::Json if is_last => serde_json::to_string_pretty(status)? + "\n",
            Form::Json => serde_json::to_string(status)? + "\n",
        })
    }
}

fn of_known_format(report: Report) -> Result<Report, Unreachable> {
    if report.format == FORMAT {
        return Ok(report);
    }
    let Report { format, version, .. } = report;
    Err(Unreachable::Strange(format!("its agent ({version}) tells of itself in format {format}: use a newer kgctl")))
}
