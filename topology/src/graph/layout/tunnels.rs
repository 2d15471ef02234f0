//! Tunnels between panels: curves through the middle, one for each pair of panels, however many tunnels
//! it stands for.

use super::{
    geometry::{Point, Rect},
    panel::{Panel, PanelKind},
    side::Port,
};

/// A cubic Bézier curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The panel where it begins, by its place in the layout.
    pub from: usize,
    /// The panel where it ends.
    pub to: usize,
    /// Whether one of them is that of the peers.
    pub is_to_peers: bool,
    /// How many tunnels it stands for.
    pub tunnels: usize,
    /// Beginning, two control points, end.
    pub points: [Point; 4],
}

/// The curves between `panels` around `middle`.
pub(super) fn between(panels: &[Panel<'_>], middle: Rect) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (from, panel) in panels.iter().enumerate() {
        for (to, other) in panels.iter().enumerate().skip(from + 1) {
            let tunnels = panel.ends() * other.ends();
            if tunnels > 0 {
                let is_to_peers = panel.is_of_peers() || other.is_of_peers();
                let points = bow(panel.port, other.port, middle);
                curves.push(Curve { from, to, is_to_peers, tunnels, points });
            }
        }
    }
    curves
}

/// A curve that leaves and arrives at right angles, the deeper into the middle the longer it is.
fn bow(from: Port, to: Port, middle: Rect) -> [Point; 4] {
    let (dx, dy) = (to.at.x - from.at.x, to.at.y - from.at.y);
    let length = dx.abs().max(dy.abs());
    let control = |port: Port, (dx, dy): (i32, i32)| {
        let depth = (length / 2).min(port.side.depth(&middle) * 11 / 20);
        let inward = port.side.inward();
        Point { x: port.at.x + inward.x * depth + dx / 8, y: port.at.y + inward.y * depth + dy / 8 }
    };
    [from.at, control(from, (dx, dy)), control(to, (-dx, -dy)), to.at]
}

impl Panel<'_> {
    fn is_of_peers(&self) -> bool {
        matches!(self.kind, PanelKind::Peers(_))
    }

    /// How many of its nodes or peers have tunnels.
    fn ends(&self) -> usize {
        match self.kind {
            PanelKind::Location(site) => site.leaders(),
            PanelKind::Peers(peers) => peers.len(),
        }
    }
}
