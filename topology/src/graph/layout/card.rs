//! One node or peer: its name, its marks and, where there is room, its addresses.

use super::{
    super::model::{Graph, NodeView},
    geometry::{Point, Rect, Style, Text},
};
use crate::{
    Peer,
    label::{printable, shorten, wrap},
};

const PAD: i32 = 8;
const ICON: i32 = 18;
const NAME_LINE: i32 = 20;
const LINE: i32 = 15;
const PILL_HEIGHT: i32 = 15;
const PILL_PAD: i32 = 5;
const GAP: i32 = 8;
// In cells.
const LONGEST_NAME: usize = 36;
const LONGEST_BRIEF_NAME: usize = 24;
/// In cells: most IPv6 endpoints are shorter.
const LONGEST_DETAIL: usize = 34;
/// In cells: where the values begin.
const KEYS: usize = 10;
/// Lines that a reason or a list may take.
const MOST_LINES: usize = 4;

/// How much is said of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Density {
    /// Name and marks.
    Brief,
    /// Leaders with the addresses of their tunnels, others without any.
    Leaders,
    /// Everybody with addresses.
    Full,
}

impl Density {
    /// What keeps the drawing of `graph` readable without a magnifying glass.
    pub fn of(graph: &Graph<'_>) -> Self {
        const MOST: usize = 30;
        let nodes = graph.nodes().count();
        if nodes + graph.peers.len() <= MOST {
            Self::Full
        } else if graph.segments.len() <= MOST {
            Self::Leaders
        } else {
            Self::Brief
        }
    }
}

/// Whom a card is about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A node.
    Node(&'a NodeView<'a>),
    /// A peer.
    Peer(&'a Peer),
}

/// What a pill says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PillKind {
    /// Behind NAT.
    Nat,
    /// Reachable by nobody in its location.
    NoInternalIp,
}

/// A mark beside a name.
#[derive(Clone, Debug)]
pub struct Pill {
    /// What it means.
    pub kind: PillKind,
    /// Its outline.
    pub rect: Rect,
    /// What is in it.
    pub text: Text,
}

impl Pill {
    /// One that says what it always says, around a centre.
    pub fn around(centre: Point, kind: PillKind) -> Self {
        let mut pill = Self::at(Point::default(), kind, kind.word().to_owned());
        let at = pill.rect.centre();
        pill.shift(Point { x: centre.x - at.x, y: centre.y - at.y });
        pill
    }

    /// One whose text begins at a place.
    fn at(at: Point, kind: PillKind, text: String) -> Self {
        let text = Text::at(at, Style::Pill, text);
        let w = text.bounds().w + 2 * PILL_PAD;
        Self { kind, rect: Rect { x: at.x - PILL_PAD, y: at.y - 11, w, h: PILL_HEIGHT }, text }
    }

    fn shift(&mut self, by: Point) {
        self.rect = self.rect.shifted(by);
        self.text.shift(by);
    }
}

impl PillKind {
    fn word(self) -> &'static str {
        match self {
            Self::Nat => "NAT",
            Self::NoInternalIp => "no IP",
        }
    }
}

/// A node or peer, drawn.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// Whom it is about.
    pub subject: Subject<'a>,
    /// Its outline.
    pub rect: Rect,
    /// Name and details.
    pub texts: Vec<Text>,
    /// Marks.
    pub pills: Vec<Pill>,
    /// Whether addresses are shown.
    pub is_full: bool,
    /// The centre of the symbol before the name.
    pub icon: Point,
}

impl<'a> Card<'a> {
    pub(super) fn node(node: &'a NodeView<'a>, density: Density) -> Self {
        let is_full = density == Density::Full || density == Density::Leaders && node.is_leader;
        let mut card = Self::named(Subject::Node(node), node.name.as_str(), is_full);
        card.keepalive(node.persistent_keepalive.0);
        if node.is_without_internal_ip() {
            card.pill(PillKind::NoInternalIp, PillKind::NoInternalIp.word().to_owned());
        }
        if is_full && node.is_ready() {
            card.detail("wireguard", node.wireguard_ips);
            card.detail("endpoint", node.endpoint.filter(|_| node.is_leader).as_slice());
            if density == Density::Full {
                card.detail("internal", &node.internal_ips.iter().map(ipnet::IpNet::addr).collect::<Vec<_>>());
                card.detail("pods", node.pod_cidrs);
            }
        } else if is_full {
            let reasons = printable(&node.not_ready.join("; "));
            let lines = at_most(wrap(&reasons, LONGEST_DETAIL, '…'), MOST_LINES);
            lines.into_iter().for_each(|line| card.line(PAD, Style::Detail, line));
        }
        card.finish()
    }

    pub(super) fn peer(peer: &'a Peer, density: Density) -> Self {
        let is_full = density == Density::Full;
        let mut card = Self::named(Subject::Peer(peer), peer.name.as_str(), is_full);
        card.keepalive(peer.persistent_keepalive.0);
        if is_full {
            card.detail("endpoint", peer.endpoint.as_slice());
            card.detail("allowed", &peer.allowed_ips);
        }
        card.finish()
    }

    fn named(subject: Subject<'a>, name: &str, is_full: bool) -> Self {
        let longest = if is_full { LONGEST_NAME } else { LONGEST_BRIEF_NAME };
        let pad = if is_full { PAD } else { PAD / 2 };
        let at = Point { x: PAD + ICON, y: pad + 14 };
        let name = Text::at(at, Style::Name, shorten(&printable(name), longest, '…'));
        let icon = Point { x: PAD + 6, y: pad + 10 };
        let rect = Rect { x: 0, y: 0, w: name.bounds().right(), h: pad + NAME_LINE };
        Self { subject, rect, texts: vec![name], pills: Vec::new(), is_full, icon }
    }

    fn keepalive(&mut self, seconds: u16) {
        if seconds > 0 {
            let word = PillKind::Nat.word();
            self.pill(PillKind::Nat, if self.is_full { format!("{word} {seconds} s") } else { word.to_owned() });
        }
    }

    fn pill(&mut self, kind: PillKind, text: String) {
        let at = Point { x: self.rect.right() + GAP + PILL_PAD, y: self.texts[0].at.y - 1 };
        let pill = Pill::at(at, kind, text);
        self.rect.w = pill.rect.right();
        self.pills.push(pill);
    }

    /// Values under each other, with what they are before the first.
    fn detail<T: ToString>(&mut self, key: &str, values: &[T]) {
        let values = values.iter().map(|value| shorten(&value.to_string(), LONGEST_DETAIL, '…'));
        for (index, value) in at_most(values.collect(), MOST_LINES).into_iter().enumerate() {
            self.line(PAD + Style::Key.width(KEYS), Style::Detail, value);
            if index == 0 {
                let at = Point { x: PAD, y: self.rect.h - 4 };
                self.texts.push(Text::at(at, Style::Key, key));
            }
        }
    }

    fn line(&mut self, x: i32, style: Style, content: String) {
        self.rect.h += LINE;
        let text = Text::at(Point { x, y: self.rect.h - 4 }, style, content);
        self.rect.w = self.rect.w.max(text.bounds().right());
        self.texts.push(text);
    }

    fn finish(mut self) -> Self {
        self.rect.w += PAD;
        self.rect.h += if self.is_full { PAD / 2 } else { 2 };
        self
    }

    pub(super) fn shift(&mut self, by: Point) {
        self.rect = self.rect.shifted(by);
        self.icon = Point { x: self.icon.x + by.x, y: self.icon.y + by.y };
        self.texts.iter_mut().for_each(|text| text.shift(by));
        self.pills.iter_mut().for_each(|pill| pill.shift(by));
    }
}

/// The first `most` lines; what is more is counted.
fn at_most(mut lines: Vec<String>, most: usize) -> Vec<String> {
    if lines.len() > most {
        let more = lines.len() - most + 1;
        lines.truncate(most - 1);
        lines.push(format!("… {more} more"));
    }
    lines
}
