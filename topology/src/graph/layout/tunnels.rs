//! Tunnels between panels: curves through the middle, one for each pair of panels, however many tunnels
//! it stands for.

use super::{
    geometry::{Point, Rect},
    panel::{Panel, PanelKind},
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
        let depth = (length / 2).min(port.side.depth(middle) * 11 / 20);
        let inward = port.side.inward();
        Point { x: port.at.x + inward.x * depth + dx / 8, y: port.at.y + inward.y * depth + dy / 8 }
    };
    [from.at, control(from, (dx, dy)), control(to, (-dx, -dy)), to.at]
}

/// A side of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    /// Above the middle.
    #[default]
    Top,
    /// At its right.
    Right,
    /// Below.
    Bottom,
    /// At its left.
    Left,
}

impl Side {
    /// The direction into the middle.
    fn inward(self) -> Point {
        let (x, y) = match self {
            Self::Top => (0, 1),
            Self::Right => (-1, 0),
            Self::Bottom => (0, -1),
            Self::Left => (1, 0),
        };
        Point { x, y }
    }

    /// How far the middle reaches in that direction.
    fn depth(self, middle: Rect) -> i32 {
        match self {
            Self::Top | Self::Bottom => middle.h,
            Self::Right | Self::Left => middle.w,
        }
    }
}

/// Where the tunnels of a panel end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port {
    /// The place, in the middle of a side of the panel.
    pub at: Point,
    pub(super) side: Side,
}

impl Port {
    /// That of a panel that stands at a side of the frame.
    pub(super) fn of(panel: &Rect, side: Side) -> Self {
        let Point { x, y } = panel.centre();
        let at = match side {
            Side::Top => Point { x, y: panel.bottom() },
            Side::Right => Point { x: panel.x, y },
            Side::Bottom => Point { x, y: panel.y },
            Side::Left => Point { x: panel.right(), y },
        };
        Self { at, side }
    }
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
