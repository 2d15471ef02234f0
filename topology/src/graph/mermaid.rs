//! The mesh as a Mermaid flowchart, which GitHub and others draw where it stands in Markdown.
//!
//! Mermaid refuses charts with more than 500 links (its `maxEdges`); from there on leaders and peers are
//! linked to one symbol of the mesh instead of to each other.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::model::{Graph, LinkKind, NodeView};
use crate::{Peer, label::printable};

/// The most links that Mermaid draws unless configured otherwise.
const MOST_LINKS: usize = 500;

/// Marks that follow GitHub's light and dark theme: lines only, no fill.
const CLASSES: &str = "  classDef leader stroke:#3b7ddd,stroke-width:3px
  classDef nat stroke-dasharray:6 3
  classDef absent stroke:#999999,color:#999999,stroke-dasharray:2 3
  classDef peer stroke:#8f6fd1
";

impl Graph<'_> {
    /// The chart, ending with a line feed.
    pub fn mermaid(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        _ = Chart::of(self).write(&mut out);
        out
    }
}

/// Identifiers are numbered: names could be words of the language.
struct Chart<'a> {
    graph: &'a Graph<'a>,
    nodes: BTreeMap<&'a str, String>,
    peers: BTreeMap<&'a str, String>,
}

impl<'a> Chart<'a> {
    fn of(graph: &'a Graph<'a>) -> Self {
        let nodes = graph.nodes().enumerate().map(|(n, node)| (node.name.as_str(), format!("n{n}")));
        let peers = graph.peers.iter().enumerate().map(|(n, peer)| (peer.name.as_str(), format!("p{n}")));
        Self { graph, nodes: nodes.collect(), peers: peers.collect() }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "---\ntitle: {}\n---\nflowchart LR", self.graph.title())?;
        for (index, site) in self.graph.sites.iter().enumerate() {
            writeln!(out, "  subgraph l{index}[{}]", quoted(site.heading()))?;
            for node in &site.nodes {
                writeln!(out, "    {}[{}]", self.nodes[node.name.as_str()], node_label(node))?;
            }
            writeln!(out, "  end")?;
        }
        if !self.graph.peers.is_empty() {
            writeln!(out, "  subgraph peers[{}]", quoted("peers"))?;
            for peer in self.graph.peers {
                writeln!(out, "    {}([{}])", self.peers[peer.name.as_str()], peer_label(peer))?;
            }
            writeln!(out, "  end")?;
        }
        self.write_links(out)?;
        self.write_classes(out)
    }

    fn write_links(&self, out: &mut String) -> fmt::Result {
        let kinds = [LinkKind::Member, LinkKind::Mesh, LinkKind::Peer];
        if kinds.iter().map(|kind| self.graph.link_count(*kind)).sum::<usize>() > MOST_LINKS {
            return self.write_spokes(out);
        }
        for link in self.graph.links() {
            let (arrow, to) = match link.kind {
                LinkKind::Member => ("---", &self.nodes[link.to]),
                LinkKind::Mesh => ("===", &self.nodes[link.to]),
                LinkKind::Peer => ("-.-", &self.peers[link.to]),
            };
            writeln!(out, "  {} {arrow} {to}", self.nodes[link.from])?;
        }
        Ok(())
    }

    fn write_spokes(&self, out: &mut String) -> fmt::Result {
        let leaders = format!("{} leaders, each linked to each", self.graph.segments.len());
        writeln!(out, "  mesh(({}))", quoted(&leaders))?;
        for leader in self.graph.leaders() {
            writeln!(out, "  {} === mesh", self.nodes[leader.name.as_str()])?;
        }
        self.peers.values().try_for_each(|peer| writeln!(out, "  mesh -.- {peer}"))
    }

    fn write_classes(&self, out: &mut String) -> fmt::Result {
        out.push_str(CLASSES);
        let of = |is: fn(&NodeView<'_>) -> bool| -> Vec<&str> {
            let nodes = self.graph.nodes().filter(|node| is(node));
            nodes.map(|node| self.nodes[node.name.as_str()].as_str()).collect()
        };
        for (class, ids) in [
            ("leader", of(|node| node.is_leader)),
            ("nat", of(|node| node.is_ready() && !node.persistent_keepalive.is_zero())),
            ("absent", of(|node| !node.is_ready())),
            ("peer", self.peers.values().map(String::as_str).collect()),
        ] {
            if !ids.is_empty() {
                writeln!(out, "  class {} {class}", ids.join(","))?;
            }
        }
        Ok(())
    }
}

fn node_label(node: &NodeView<'_>) -> String {
    let mut lines = vec![node.name.to_string()];
    if node.is_leader {
        lines.push(["leader".to_owned()].into_iter().chain(texts(node.wireguard_ips)).collect::<Vec<_>>().join(" "));
        lines.extend(node.endpoint.map(ToString::to_string));
    }
    if !node.persistent_keepalive.is_zero() {
        lines.push(format!("NAT, keepalive {} s", node.persistent_keepalive.0));
    }
    if node.is_without_internal_ip() {
        lines.push("no internal IP".to_owned());
    }
    lines.extend(node.not_ready.iter().cloned());
    label(&lines)
}

fn peer_label(peer: &Peer) -> String {
    let mut lines = vec![peer.name.to_string()];
    lines.extend(peer.endpoint.as_ref().map(ToString::to_string));
    lines.extend(texts(&peer.allowed_ips));
    label(&lines)
}

fn texts<T: ToString>(items: &[T]) -> impl Iterator<Item = String> {
    items.iter().map(T::to_string)
}

fn label(lines: &[String]) -> String {
    format!("\"{}\"", lines.iter().map(|line| escaped(line)).collect::<Vec<_>>().join("<br/>"))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Mermaid reads Markdown and HTML in labels and has character references of its own, `#35;` by decimal
/// number: everything that could mean something is written as one. A space can: `1. a` would be a list, and
/// `direction TB` is a command wherever in a line it stands.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        let means_something = c == ' ' && [".", "-", "direction"].iter().any(|word| out.ends_with(word));
        let is_plain = c.is_alphanumeric() || " -.:/,()\u{fffd}".contains(c);
        if is_plain && !means_something {
            out.push(c);
        } else {
            _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}
