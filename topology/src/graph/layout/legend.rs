//! What the symbols mean: those that occur in the drawing, in lines as long as the drawing is wide.

use super::{
    super::model::{Graph, LinkKind},
    geometry::{Point, Style, Text},
    panel::Panel,
    tunnels::Curve,
};

use super::card::PillKind;
use crate::Granularity;

const LINE: i32 = 22;
const GAP: i32 = 28;
/// The room for a symbol.
const SYMBOL: i32 = 46;

/// Something that is drawn for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A node that leads.
    Leader,
    /// A node that does not.
    Member,
    /// A node that is left out.
    Absent,
    /// The pill of nodes and peers behind NAT.
    Nat,
    /// The pill of nodes without internal IP.
    NoInternalIp,
    /// A curve between leaders.
    Tunnel,
    /// A curve between leaders and peers.
    PeerTunnel,
    /// A peer.
    Device,
    /// Something that is not drawn.
    Nothing,
}

/// A symbol with its explanation.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The symbol.
    pub symbol: Symbol,
    /// Its centre.
    pub at: Point,
    /// What it means.
    pub text: Text,
}

/// The legend from `at` on in lines of `width`, and its height.
pub(super) fn place(
    graph: &Graph<'_>,
    panels: &[Panel<'_>],
    curves: &[Curve],
    at: Point,
    width: i32,
) -> (Vec<Entry>, i32) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = Point { x: at.x, y: at.y + LINE / 2 };
    for (symbol, text) in meanings(graph, panels, curves) {
        let mut text = Text::at(Point::default(), Style::Legend, text);
        let needed = SYMBOL + text.bounds().w;
        if next.x > at.x && next.x + needed > at.x + width {
            next = Point { x: at.x, y: next.y + LINE };
        }
        text.shift(Point { x: next.x + SYMBOL, y: next.y + 4 });
        entries.push(Entry { symbol, at: Point { x: next.x + SYMBOL / 2 - 3, y: next.y }, text });
        next.x += needed + GAP;
    }
    (entries, next.y + LINE / 2 - at.y)
}

fn meanings(graph: &Graph<'_>, panels: &[Panel<'_>], curves: &[Curve]) -> Vec<(Symbol, &'static str)> {
    let leads = match graph.granularity {
        Granularity::Location => "leader: runs WireGuard for its location",
        Granularity::Full => "leader: runs WireGuard",
    };
    let has_pill = |kind| {
        let mut pills = panels.iter().flat_map(|panel| &panel.cards).flat_map(|card| &card.pills);
        pills.any(|pill| pill.kind == kind)
    };
    let is_drawn = |to_peers| curves.iter().any(|curve| curve.is_to_peers == to_peers);
    let undrawn = curves.is_empty() && graph.link_count(LinkKind::Mesh) > 0 && panels.len() > 1;
    let meanings = [
        (graph.nodes().any(|node| node.is_leader), Symbol::Leader, leads),
        (graph.link_count(LinkKind::Member) > 0, Symbol::Member, "reaches its leader without WireGuard"),
        (graph.nodes().any(|node| !node.is_ready()), Symbol::Absent, "not ready: not part of the mesh"),
        (has_pill(PillKind::Nat), Symbol::Nat, "behind NAT: sends keepalives"),
        (has_pill(PillKind::NoInternalIp), Symbol::NoInternalIp, "no internal IP: leads itself only"),
        (is_drawn(false), Symbol::Tunnel, "WireGuard between leaders"),
        (is_drawn(true), Symbol::PeerTunnel, "WireGuard to peers"),
        (undrawn, Symbol::Nothing, "WireGuard between all leaders is too much to draw"),
    ];
    meanings.into_iter().filter(|(occurs, ..)| *occurs).map(|(_, symbol, text)| (symbol, text)).collect()
}
