//! `kgctl verify --encrypted`: the proof that what nodes send to each other's pods is encrypted on its way.
//!
//! What is tried is in `experiment`, who with whom in `schedule`, what it means in
//! [`topology::probe::encryption`].

mod experiment;
mod render;
mod schedule;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use futures::future::join_all;
use topology::{NodeName, probe::encryption::Encryption};

use crate::{
    cli::Global,
    completion,
    mesh::Mesh,
    outcome::{self, Outcome},
    probe::Probers,
    reach::{Agents, Reach},
};
use experiment::{Bench, Finding};

/// Prove that packets between the pods of two nodes cross the network under the mesh as WireGuard only.
///
/// The agent of each node sends 20 marked datagrams of 640 bytes from the first address of its own pod
/// CIDR to the first address of the other's, while the agents of the leaders at both ends count what
/// passes: into and out of the tunnel; as WireGuard messages of just that size; and in clear. One packet
/// that can be read, marked or between the pods of the two locations, is proof that it is not so.
///
/// Inside a location packets travel plainly, by design: what is proven is the way between locations.
#[derive(Args, Debug)]
#[command(after_help = "\
Verdicts:
  encrypted      all was seen going into the tunnel and coming out of it, and nothing in clear
  not encrypted  something was seen in clear, or both nodes are in the same segment
  unknown        neither: an agent did not answer, or nothing arrived; the reason is told

Exit codes:
  0  encrypted, every way that was tried
  1  not everything could be judged, and what was is encrypted
  3  something is not encrypted

Rights:
  list nodes and peers; and, unless kgctl reaches the agents' port directly, create nodes/proxy, or
  list pods and create pods/proxy.

Examples:
  kgctl verify --encrypted
  kgctl verify --encrypted paris-1 oslo-1 -o json")]
pub struct Verify {
    /// Prove encryption.
    #[arg(long, required = true)]
    encrypted: bool,
    /// One node; by default all leaders are tried with each other.
    #[arg(value_name = "NODE-A", requires = "other", add = completion::node_names())]
    node: Option<String>,
    /// The other node.
    #[arg(value_name = "NODE-B", add = completion::node_names())]
    other: Option<String>,
    /// The form of what is printed.
    #[arg(long, short, value_name = "FORMAT", default_value = "text", value_enum)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Tries, and prints what came of it.
pub async fn run(command: &Verify, global: &Global) -> anyhow::Result<Outcome> {
    let client = global.client().await?;
    let nodes = client.nodes().await?;
    let mesh = Mesh::of(&client, global).await?;
    let agents = Agents::new(client, &command.reach);
    let bench = Bench { topology: &mesh.topology, probers: Probers::new(&agents, &nodes) };
    let mut findings = Vec::new();
    for round in rounds(command, &mesh)? {
        let tried = round.iter().map(|(a, b)| bench.both_ways(a, b));
        findings.extend(join_all(tried).await.into_iter().flatten());
    }
    findings.sort_by(|a, b| (&a.from, &a.to, a.family).cmp(&(&b.from, &b.to, b.family)));
    let text = match command.output {
        Format::Text => render::text(&findings),
        Format::Json => serde_json::to_string_pretty(&findings).context("cannot write JSON")? + "\n",
    };
    outcome::print(&text)?;
    conclude(&findings)
}

/// Who is tried with whom, and who at the same time.
fn rounds(command: &Verify, mesh: &Mesh) -> anyhow::Result<Vec<Vec<(NodeName, NodeName)>>> {
    let (Some(node), Some(other)) = (&command.node, &command.other) else {
        let leaders: Vec<NodeName> =
            mesh.topology.segments.iter().map(|segment| segment.leader().name.clone()).collect();
        if leaders.len() < 2 {
            bail!("the mesh has one segment only, and so no tunnel: nothing is to be encrypted");
        }
        return Ok(schedule::rounds(&leaders));
    };
    let (node, other) = (NodeName::from(node.as_str()), NodeName::from(other.as_str()));
    if node == other {
        bail!("node/{node} is named twice: name two nodes");
    }
    for name in [&node, &other] {
        mesh.topology.segment_of(name).ok_or_else(|| mesh.no_such_node(name))?;
    }
    Ok(vec![vec![(node, other)]])
}

/// How the command ends: what is not encrypted weighs most, then what is not known.
fn conclude(findings: &[Finding]) -> anyhow::Result<Outcome> {
    let count = |is: fn(&Encryption) -> bool| findings.iter().filter(|finding| is(&finding.verdict)).count();
    if count(|verdict| matches!(verdict, Encryption::Clear(_) | Encryption::SameSegment)) > 0 {
        return Ok(Outcome::Negative);
    }
    match count(|verdict| matches!(verdict, Encryption::Unknown(_))) {
        0 => Ok(Outcome::Done),
        unknown => Err(anyhow!("{unknown} of {} ways could not be judged: the reasons are told above", findings.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topology::probe::Family;

    #[test]
    fn what_is_not_encrypted_weighs_most_and_what_is_not_known_is_no_success() {
        let end = |verdicts: &[Encryption]| {
            let finding = |verdict: &Encryption| Finding {
                verdict: verdict.clone(),
                ..Finding::new(&"a".into(), &"b".into(), Some(Family::Ipv4))
            };
            conclude(&verdicts.iter().map(finding).collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        let (clear, unknown) = (Encryption::Clear(String::new()), Encryption::Unknown(String::new()));
        assert_eq!(end(&[Encryption::Encrypted]), Ok(Outcome::Done));
        assert_eq!(end(&[Encryption::Encrypted, unknown.clone(), clear]), Ok(Outcome::Negative));
        assert_eq!(end(&[Encryption::SameSegment, unknown.clone()]), Ok(Outcome::Negative));
        assert!(end(&[Encryption::Encrypted, unknown]).unwrap_err().starts_with("1 of 2 ways"));
    }
}
