//! The mesh for a terminal: one table, a bracket around each location, no line wider than asked for.

use super::{
    model::{Graph, LinkKind, NodeView, count},
    table::{Line, Row, Table, Tone},
};
use crate::{
    Peer,
    label::{cells, printable, shorten, wrap},
};

/// What the terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Columns.
    pub width: usize,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
    /// Whether lines may be emphasised by colour (ECMA-48 SGR).
    pub colour: bool,
}

/// The symbols.
pub(super) struct Symbols {
    pub top: &'static str,
    pub side: &'static str,
    pub bottom: &'static str,
    pub leader: &'static str,
    pub absent: &'static str,
    pub ellipsis: char,
}

const UNICODE: Symbols =
    Symbols { top: "┌─ ", side: "│ ", bottom: "└─", leader: "★", absent: "✗", ellipsis: '…' };
const ASCII: Symbols = Symbols { top: "+- ", side: "| ", bottom: "+-", leader: "*", absent: "x", ellipsis: '~' };

impl Graph<'_> {
    /// The tables, each line ending with a line feed.
    pub fn text(&self, options: &TextOptions) -> String {
        let symbols = if options.unicode { &UNICODE } else { &ASCII };
        let paragraph = |tone: Tone, text: &str| {
            let lines = wrap(text, options.width, symbols.ellipsis);
            lines.into_iter().map(move |line| Line::new(tone, line))
        };
        let mut lines: Vec<Line> = paragraph(Tone::Strong, &self.title()).collect();
        lines.extend(paragraph(Tone::Plain, &self.summary()));
        lines.push(Line::default());
        lines.extend(node_table(self, symbols).lines(options.width, symbols));
        if !self.peers.is_empty() {
            lines.push(Line::default());
            lines.extend(peer_table(self.peers).lines(options.width, symbols));
        }
        lines.push(Line::default());
        lines.extend(paragraph(Tone::Weak, &notes(self, symbols)));
        lines.iter().map(|line| line.render(options, symbols) + "\n").collect()
    }
}

fn notes(graph: &Graph<'_>, symbols: &Symbols) -> String {
    let mut notes = format!("{} leader.", symbols.leader);
    if graph.nodes().any(|node| !node.is_ready()) {
        notes += &format!(" {} not ready.", symbols.absent);
    }
    let mesh = graph.link_count(LinkKind::Mesh);
    if mesh > 0 {
        notes += &format!(" {} between leaders, each with each.", count(mesh, "tunnel"));
    }
    let peers = graph.link_count(LinkKind::Peer);
    if peers > 0 {
        notes += &format!(" {} between leaders and peers.", count(peers, "tunnel"));
    }
    notes
}

fn node_table(graph: &Graph<'_>, symbols: &Symbols) -> Table {
    let mut table = Table::new(&["NODE", "WIREGUARD IP", "ENDPOINT", "NAT", "INTERNAL IP", "PODS"]);
    for site in &graph.sites {
        let heading = format!("{}: {}", printable(site.heading()), count(site.nodes.len(), "node"));
        table.group(heading, site.nodes.iter().map(|node| node_row(node, symbols)).collect());
    }
    table
}

fn node_row(node: &NodeView<'_>, symbols: &Symbols) -> Row {
    let internal_ips = match node.internal_ips {
        [] if node.is_ready() => vec!["none".to_owned()],
        ips => ips.iter().map(|ip| ip.addr().to_string()).collect(),
    };
    // Only a leader is spoken to from outside.
    let endpoint = node.endpoint.filter(|_| node.is_leader);
    let (mark, tone) = match (node.is_leader, node.is_ready()) {
        (true, _) => (symbols.leader, Tone::Strong),
        (_, true) => (" ", Tone::Plain),
        (_, false) => (symbols.absent, Tone::Weak),
    };
    Row {
        mark,
        tone,
        cells: vec![
            vec![printable(node.name.as_str())],
            texts(node.wireguard_ips),
            endpoint.map(ToString::to_string).into_iter().collect(),
            keepalive(node.persistent_keepalive.0),
            internal_ips,
            texts(node.pod_cidrs),
        ],
        note: printable(&node.not_ready.join("; ")),
    }
}

fn peer_table(peers: &[Peer]) -> Table {
    let mut table = Table::new(&["PEER", "ALLOWED IPS", "ENDPOINT", "NAT"]);
    let row = |peer: &Peer| Row {
        mark: " ",
        tone: Tone::Plain,
        cells: vec![
            vec![printable(peer.name.as_str())],
            texts(&peer.allowed_ips),
            peer.endpoint.iter().map(ToString::to_string).collect(),
            keepalive(peer.persistent_keepalive.0),
        ],
        note: String::new(),
    };
    table.group(count(peers.len(), "peer"), peers.iter().map(row).collect());
    table
}

fn keepalive(seconds: u16) -> Vec<String> {
    if seconds == 0 { Vec::new() } else { vec![format!("{seconds} s")] }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

impl Line {
    /// The line as the terminal gets it, without its end.
    fn render(&self, options: &TextOptions, symbols: &Symbols) -> String {
        let plain = if options.unicode { self.text.clone() } else { ascii(&self.text) };
        let plain = shorten(plain.trim_end(), options.width, symbols.ellipsis);
        match self.tone {
            _ if !options.colour || cells(&plain) == 0 => plain,
            Tone::Plain => plain,
            Tone::Strong => format!("\u{1b}[1m{plain}\u{1b}[0m"),
            Tone::Weak => format!("\u{1b}[2m{plain}\u{1b}[0m"),
        }
    }
}

fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}
