//! `kgctl cluster list`.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use topology::join::{Change, Cluster, Course, Found, Owner, Pace, differences, join};

use super::{
    describe,
    join::{Party, reasons},
    which::{Facts, Which},
};
use crate::{
    cli::Global,
    outcome::{self, Outcome},
};

/// Show which clusters are joined, by which Peers, and whether these are still right.
///
/// Whether a Peer is right can be said if the cluster that it stands for is given, too. The exit code is
/// 3 if one is not: join again, with the same flags, to mend it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  kgctl cluster list --context paris --context oslo

States:
  right           the Peer is as its cluster wants it
  unknown         the cluster that it stands for was not given, or none of its nodes is there
  missing         there should be one
  stale           its segment is missing, and it will be removed when that lasts
  differs: …      what of it is not right
  superfluous: …  it should not be there, and why")]
pub struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    facts: Facts,
    /// The form of the output.
    #[arg(long, short, value_name = "FORMAT", default_value = "text", value_enum)]
    output: Format,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table.
    Text,
    /// A JSON array with an object for each Peer.
    Json,
}

/// A Peer that stands for a segment of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    cluster: String,
    stands_for: Owner,
    peer: String,
    endpoint: Option<String>,
    /// Seconds.
    age: Option<i64>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Right,
    Unknown,
    Missing,
    Stale,
    Differs(Vec<&'static str>),
    Superfluous(String),
}

impl State {
    fn is_wrong(&self) -> bool {
        !matches!(self, Self::Right | Self::Unknown)
    }

    fn text(&self) -> String {
        match self {
            Self::Right => "right".to_owned(),
            Self::Unknown => "unknown".to_owned(),
            Self::Missing => "missing".to_owned(),
            Self::Stale => "stale".to_owned(),
            Self::Differs(what) => format!("differs: {}", what.join(", ")),
            Self::Superfluous(why) => format!("superfluous: {why}"),
        }
    }
}

/// Prints the list.
pub async fn run(command: &List, global: &Global) -> anyhow::Result<Outcome> {
    let party = Party::gather(command.facts.connect(&command.which).await?, global, Duration::MAX).await?;
    let clusters = party.look(&mut BTreeSet::new()).await?;
    let pace = Pace { now: describe::now()?, prune_after: i64::MAX };
    let refused = join(&clusters, &pace).err();
    if let Some(refusals) = &refused {
        reasons(refusals).iter().for_each(outcome::warn);
    }
    let rows = rows(&clusters, &pace);
    match command.output {
        Format::Text => outcome::print(&table(&rows))?,
        Format::Json => outcome::print(&(serde_json::to_string_pretty(&json(&rows))? + "\n"))?,
    };
    let is_wrong = refused.is_some() || rows.iter().any(|row| row.state.is_wrong());
    Ok(if is_wrong { Outcome::Negative } else { Outcome::Done })
}

/// All Peers that stand for other clusters, and those that should be there.
fn rows(clusters: &[Cluster], pace: &Pace) -> Vec<Row> {
    let courses = join(clusters, pace).map(|joint| joint.courses).unwrap_or_default();
    let mut rows = Vec::new();
    for cluster in clusters {
        let course = courses.get(&cluster.name);
        let is_judged = |owner: &Owner| {
            let other = clusters.iter().find(|other| other.id == owner.cluster_id);
            course.is_some() && other.is_some_and(|other| !other.topology.segments.is_empty())
        };
        for found in &cluster.peers {
            let Some(owner) = &found.owner else { continue };
            let state = if is_judged(owner) { state(found, course) } else { State::Unknown };
            let endpoint = found.peer.as_ref().and_then(|peer| peer.endpoint.as_ref()).map(ToString::to_string);
            rows.push(Row {
                cluster: cluster.name.to_string(),
                stands_for: owner.clone(),
                peer: found.name.to_string(),
                endpoint,
                age: Some(pace.now.saturating_sub(found.created).max(0)),
                state,
            });
        }
        for change in course.iter().flat_map(|course| &course.changes) {
            let Change::Create(wanted) = change else { continue };
            // Clusters that nobody joined need not know each other.
            let other = clusters.iter().find(|other| other.id == wanted.owner.cluster_id);
            let are_joined = other.is_some_and(|other| {
                cluster.peers_of(&other.id).next().is_some() || other.peers_of(&cluster.id).next().is_some()
            });
            if are_joined {
                rows.push(Row {
                    cluster: cluster.name.to_string(),
                    stands_for: wanted.owner.clone(),
                    peer: wanted.peer.name.to_string(),
                    endpoint: wanted.peer.endpoint.as_ref().map(ToString::to_string),
                    age: None,
                    state: State::Missing,
                });
            }
        }
    }
    rows.sort_by(|a, b| (&a.cluster, &a.peer).cmp(&(&b.cluster, &b.peer)));
    rows
}

/// Whether a Peer is as it should be.
fn state(found: &Found, course: Option<&Course>) -> State {
    let changes = course.map(|course| course.changes.as_slice()).unwrap_or_default();
    let change = changes.iter().find(|change| match change {
        Change::Create(_) => false,
        Change::Update { found: other, .. } | Change::Delete { found: other, .. } => other.name == found.name,
    });
    match change {
        Some(Change::Delete { reason, .. }) => State::Superfluous(reason.to_string()),
        Some(Change::Update { wanted, .. }) if wanted.stale_since.is_none() => {
            State::Differs(differences(found, wanted))
        }
        Some(_) => State::Stale,
        None if found.stale_since.is_some() => State::Stale,
        None => State::Right,
    }
}

/// Seconds in the largest unit of which there are two or more, as kubectl words ages.
fn age(seconds: i64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or(format!("{seconds}s"), |(length, unit)| format!("{}{unit}", seconds / length))
}

fn table(rows: &[Row]) -> String {
    let header = ["CLUSTER", "STANDS FOR", "PEER", "ENDPOINT", "AGE", "STATE"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        [
            row.cluster.clone(),
            format!("{} of {}", row.stands_for.segment, row.stands_for.cluster),
            row.peer.clone(),
            row.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
            row.age.map_or("-".to_owned(), age),
            row.state.text(),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(cells).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |cells: &[String; 6]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let Row { cluster, stands_for, peer, endpoint, age, state } = row;
        json!({
            "cluster": cluster,
            "standsFor": {
                "cluster": stands_for.cluster.as_str(),
                "clusterId": stands_for.cluster_id,
                "segment": stands_for.segment.as_str(),
            },
            "peer": peer,
            "endpoint": endpoint,
            "ageSeconds": age,
            "state": state.text(),
            "isRight": match state { State::Unknown => Value::Null, state => (!state.is_wrong()).into() },
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_worded_as_kubectl_words_them() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (7_200, "2h"), (172_799, "47h"), (172_800, "2d")]
        {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_table_and_json_say_the_same() {
        let row = Row {
            cluster: "a".to_owned(),
            stands_for: Owner {
                cluster: "b".parse().unwrap(),
                cluster_id: "u".to_owned(),
                segment: "location:oslo".into(),
            },
            peer: "b.location.oslo".to_owned(),
            endpoint: None,
            age: Some(200),
            state: State::Differs(vec!["endpoint", "public key"]),
        };
        assert_eq!(
            table(std::slice::from_ref(&row)),
            "CLUSTER  STANDS FOR          PEER             ENDPOINT  AGE  STATE\n\
             a        location:oslo of b  b.location.oslo  -         3m   differs: endpoint, public key\n"
        );
        let unknown = Row { state: State::Unknown, ..row.clone() };
        let json = json(&[row, unknown]);
        assert_eq!((&json[0]["isRight"], &json[1]["isRight"]), (&Value::Bool(false), &Value::Null));
        assert_eq!(json[0]["standsFor"], json!({"cluster": "b", "clusterId": "u", "segment": "location:oslo"}));
    }
}
