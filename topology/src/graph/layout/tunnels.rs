//! Tunnels between panels: curves through the middle, one for each pair, however many tunnels it stands
//! for; or, when there are too many pairs to tell apart, a spoke from each panel to a hub.

use super::{
    super::{label::cells, model::count},
    geometry::{Point, Rect, Style, Text},
    panel::{Panel, PanelKind},
};

/// Up to here each pair has a curve of its own.
const MOST_PAIRS: usize = 1000;

/// What a curve leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A panel, by its place in the layout.
    Panel(usize),
    /// The hub.
    Hub,
}

/// A cubic Bézier curve.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The panel where it begins.
    pub from: usize,
    /// Where it ends.
    pub to: End,
    /// Whether one of the ends is that of peers.
    pub is_to_peers: bool,
    /// How many tunnels it stands for.
    pub tunnels: usize,
    /// Beginning, two control points, end.
    pub points: [Point; 4],
}

/// Where spokes meet.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Its outline.
    pub rect: Rect,
    /// What it stands for.
    pub texts: Vec<Text>,
}

/// The curves between `panels` around `middle`.
pub(super) fn between(panels: &[Panel<'_>], middle: Rect) -> (Vec<Curve>, Option<Hub>) {
    let connected: Vec<usize> = (0..panels.len()).filter(|index| panels[*index].is_connected()).collect();
    let pairs = connected.len() * connected.len().saturating_sub(1) / 2;
    if pairs > MOST_PAIRS { spokes(panels, &connected, middle) } else { (chords(panels, &connected, middle), None) }
}

fn chords(panels: &[Panel<'_>], connected: &[usize], middle: Rect) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (n, from) in connected.iter().copied().enumerate() {
        for to in connected[n + 1..].iter().copied() {
            curves.push(Curve {
                from,
                to: End::Panel(to),
                is_to_peers: panels[to].is_of_peers(),
                tunnels: panels[from].ends() * panels[to].ends(),
                points: chord(panels[from].port, panels[to].port, middle.centre()),
            });
        }
    }
    curves
}

/// A curve that leaves and arrives in the direction of the centre: far apart it runs nearly straight,
/// between neighbours it is a bow.
fn chord(from: Point, to: Point, centre: Point) -> [Point; 4] {
    [from, towards(from, centre), towards(to, centre), to]
}

/// 60 % of the way.
fn towards(from: Point, to: Point) -> Point {
    let part = |from: i32, to: i32| from + (to - from) * 3 / 5;
    Point { x: part(from.x, to.x), y: part(from.y, to.y) }
}

fn spokes(panels: &[Panel<'_>], connected: &[usize], middle: Rect) -> (Vec<Curve>, Option<Hub>) {
    let leaders: usize = panels.iter().filter(|panel| !panel.is_of_peers()).map(Panel::ends).sum();
    let hub = hub(leaders, middle.centre());
    let spoke = |from: usize| {
        let (port, centre) = (panels[from].port, middle.centre());
        let points = [port, towards(port, centre), centre, centre];
        let is_to_peers = panels[from].is_of_peers();
        Curve { from, to: End::Hub, is_to_peers, tunnels: panels[from].ends() * leaders, points }
    };
    (connected.iter().copied().map(spoke).collect(), Some(hub))
}

fn hub(leaders: usize, centre: Point) -> Hub {
    let lines = [count(leaders, "leader"), "each has a tunnel to each".to_owned()];
    let style = Style::Summary;
    let longest = lines.iter().map(|line| cells(line)).max().unwrap_or_default();
    let (w, h) = (style.width(longest) + 48, 64);
    let rect = Rect { x: centre.x - w / 2, y: centre.y - h / 2, w, h };
    let texts = lines.into_iter().zip([-6, 14]).map(|(line, dy)| {
        let at = Point { x: centre.x - style.width(cells(&line)) / 2, y: centre.y + dy };
        Text::at(at, style, line)
    });
    Hub { rect, texts: texts.collect() }
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

    fn is_connected(&self) -> bool {
        self.ends() > 0
    }
}
