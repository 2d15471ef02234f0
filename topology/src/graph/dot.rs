//! The mesh as a graph in Graphviz' DOT language, in upstream's structure: scripts read it.
//!
//! Subgraphs are segments, not locations, and nodes that are left out of the mesh are not shown.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use crate::{
    Peer,
    topology::{Member, Segment, Topology},
};

/// A quoted DOT identifier. Names come from outside: quotes, backslashes and line ends are escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {}
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A label of several lines. In labels, unlike in identifiers, Graphviz also reads HTML's entities.
fn label(lines: &[String]) -> String {
    let lines = lines.iter().filter(|line| !line.is_empty()).map(|line| line.replace('&', "&amp;"));
    quoted(&lines.collect::<Vec<_>>().join("\n"))
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// The identifiers of peers: their names. A peer may have the name of a node; in a graph they must not
/// become one.
struct PeerIds<'a>(BTreeSet<&'a str>);

impl<'a> PeerIds<'a> {
    fn of(topology: &'a Topology) -> Self {
        let members = topology.segments.iter().flat_map(|segment| &segment.members);
        Self(members.map(|member| member.name.as_str()).collect())
    }

    fn id(&self, peer: &Peer) -> String {
        let name = peer.name.as_str();
        if self.0.contains(name) { format!("peer/{name}") } else { name.to_owned() }
    }
}

impl Topology {
    /// A directed graph: one dashed cluster a segment, its leader linked to its members, the leaders
    /// linked to each other, and the peers in a cluster of their own, linked to every leader.
    pub fn dot(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        _ = self.write_dot(&mut out);
        out
    }

    fn write_dot(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "digraph kilo {{")?;
        writeln!(
            out,
            "\tlabel={};\n\tlabelloc=t;\n\toutputorder=nodesfirst;\n\toverlap=false;",
            quoted(&joined(&self.subnets))
        )?;
        for segment in &self.segments {
            segment.write_dot(out)?;
        }
        for (index, segment) in self.segments.iter().enumerate() {
            for other in &self.segments[index + 1..] {
                write_edge(out, segment.leader().name.as_str(), other.leader().name.as_str(), "dir=both")?;
            }
        }
        self.write_peers(out)?;
        writeln!(out, "}}")
    }

    fn write_peers(&self, out: &mut String) -> fmt::Result {
        let ids = PeerIds::of(self);
        writeln!(out, "\tsubgraph \"cluster_peers\" {{\n\t\tlabel=\"peers\";\n\t\tstyle=\"dashed,rounded\";")?;
        for peer in &self.peers {
            writeln!(out, "\t\t{} [ label={}, shape=ellipse ];", quoted(&ids.id(peer)), peer_label(peer))?;
        }
        writeln!(out, "\t}}")?;
        for segment in &self.segments {
            for peer in &self.peers {
                write_edge(out, segment.leader().name.as_str(), &ids.id(peer), "dir=both, style=dashed")?;
            }
        }
        Ok(())
    }
}

fn write_edge(out: &mut String, from: &str, to: &str, attributes: &str) -> fmt::Result {
    writeln!(out, "\t{} -> {} [ {attributes} ];", quoted(from), quoted(to))
}

fn peer_label(peer: &Peer) -> String {
    let endpoint = peer.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    label(&[peer.name.to_string(), endpoint])
}

impl Segment {
    fn write_dot(&self, out: &mut String) -> fmt::Result {
        let name = self.name.as_str();
        writeln!(out, "\tsubgraph {} {{", quoted(&format!("cluster_location_{name}")))?;
        writeln!(out, "\t\tlabel={};\n\t\tstyle=\"dashed,rounded\";", label(&[name.to_owned()]))?;
        let leader = self.leader();
        for member in &self.members {
            let rank = if member.name == leader.name { "rank=1, " } else { "" };
            let id = quoted(member.name.as_str());
            writeln!(out, "\t\t{id} [ label={}, {rank}shape=ellipse ];", self.member_label(member))?;
        }
        writeln!(out, "\t}}")?;
        for member in self.members.iter().filter(|member| member.name != leader.name) {
            write_edge(out, leader.name.as_str(), member.name.as_str(), "dir=both")?;
        }
        Ok(())
    }

    fn member_label(&self, member: &Member) -> String {
        let internal_ips: Vec<_> = member.internal_ips.iter().map(ipnet::IpNet::addr).collect();
        let mut lines =
            vec![self.name.to_string(), member.name.to_string(), joined(&member.pod_cidrs), joined(&internal_ips)];
        if member.name == self.leader().name {
            lines.extend([joined(&self.wireguard_ips), self.endpoint.to_string()]);
        }
        label(&lines)
    }
}
