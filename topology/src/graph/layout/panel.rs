//! A location, or all peers: a heading over cards in columns.

use super::{
    super::model::{Site, count},
    card::{Card, Density},
    geometry::{Point, Rect, Style, Text},
    side::Port,
};
use crate::{
    Peer,
    label::{printable, shorten},
};

const PAD: i32 = 12;
const HEAD: i32 = 40;
const GAP: i32 = 6;
const LONGEST_HEADING: usize = 40;
/// In a row of a panel.
const MOST_COLUMNS: usize = 60;

/// What a panel holds.
#[derive(Clone, Copy, Debug)]
pub enum PanelKind<'a> {
    /// A location's nodes.
    Location(&'a Site<'a>),
    /// The peers.
    Peers(&'a [Peer]),
}

/// A location or the peers, drawn.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    /// What it holds.
    pub kind: PanelKind<'a>,
    /// Its outline.
    pub rect: Rect,
    /// Its name.
    pub heading: Text,
    /// How much is in it.
    pub note: Text,
    /// What is in it.
    pub cards: Vec<Card<'a>>,
    /// Where tunnels end.
    pub port: Port,
}

impl<'a> Panel<'a> {
    pub(super) fn location(site: &'a Site<'a>, density: Density) -> Self {
        let cards = site.nodes.iter().map(|node| Card::node(node, density)).collect();
        let mut note = count(site.nodes.len(), "node");
        let leaders = site.leaders();
        // That one leads, or everybody, goes without saying.
        if leaders > 1 && leaders < site.nodes.len() {
            note += &format!(", {leaders} leaders");
        }
        Self::new(PanelKind::Location(site), site.heading(), note, cards)
    }

    /// `None` when there are no peers.
    pub(super) fn peers(peers: &'a [Peer], density: Density) -> Option<Self> {
        let cards: Vec<_> = peers.iter().map(|peer| Card::peer(peer, density)).collect();
        let note = "outside of the cluster".to_owned();
        (!cards.is_empty()).then(|| Self::new(PanelKind::Peers(peers), &count(peers.len(), "peer"), note, cards))
    }

    fn new(kind: PanelKind<'a>, heading: &str, note: String, cards: Vec<Card<'a>>) -> Self {
        let heading = shorten(&printable(heading), LONGEST_HEADING, '…');
        let heading = Text::at(Point { x: PAD, y: 26 }, Style::Heading, heading);
        let note = Text::at(Point { x: heading.bounds().right() + 10, y: 26 }, Style::Note, note);
        // The more is said of a node, the further up; otherwise the order is the one given.
        let (full, brief): (Vec<_>, Vec<_>) = cards.into_iter().partition(|card| card.is_full);
        let groups = [Group::new(full), Group::new(brief)];
        let width = best_width(&groups);
        let taken = groups.iter().filter(|group| !group.cards.is_empty()).map(|group| group.size(width).w);
        let inside = taken.max().unwrap_or_default().max(note.bounds().right() - PAD);
        let mut rect = Rect { x: 0, y: 0, w: inside + 2 * PAD, h: HEAD };
        let mut cards = Vec::new();
        for group in groups.into_iter().filter(|group| !group.cards.is_empty()) {
            let height = group.size(width).h;
            cards.extend(group.place(width, inside, Point { x: PAD, y: rect.h }));
            rect.h += height + GAP;
        }
        rect.h += PAD - GAP;
        Self { kind, rect, heading, note, cards, port: Port::default() }
    }

    /// Its name without how much is in it.
    pub fn title(&self) -> &str {
        match self.kind {
            PanelKind::Location(_) => &self.heading.content,
            PanelKind::Peers(_) => "peers",
        }
    }

    pub(super) fn shift(&mut self, by: Point) {
        self.rect = self.rect.shifted(by);
        self.port.at = Point { x: self.port.at.x + by.x, y: self.port.at.y + by.y };
        self.heading.shift(by);
        self.note.shift(by);
        self.cards.iter_mut().for_each(|card| card.shift(by));
    }
}

/// Cards in columns of the same width.
struct Group<'a> {
    cards: Vec<Card<'a>>,
    column: i32,
}

impl<'a> Group<'a> {
    fn new(cards: Vec<Card<'a>>) -> Self {
        let column = cards.iter().map(|card| card.rect.w).max().unwrap_or_default();
        Self { cards, column }
    }

    /// How many columns fit.
    fn columns(&self, width: i32) -> usize {
        usize::try_from((width + GAP) / (self.column + GAP)).unwrap_or(1).max(1)
    }

    /// The width of that many columns.
    fn width(&self, columns: usize) -> i32 {
        i32::try_from(columns).unwrap_or(i32::MAX / 10_000) * (self.column + GAP) - GAP
    }

    /// The column of each card and where in it the card begins, and the height of all: each goes where
    /// the least is.
    fn stack(&self, width: i32) -> (Vec<(usize, i32)>, i32) {
        let mut heights = vec![0; self.columns(width).min(self.cards.len()).max(1)];
        let mut places = Vec::new();
        for card in &self.cards {
            let shortest = (0..heights.len()).min_by_key(|column| heights[*column]).unwrap_or_default();
            places.push((shortest, heights[shortest]));
            heights[shortest] += card.rect.h + GAP;
        }
        (places, heights.into_iter().max().unwrap_or_default() - GAP)
    }

    fn size(&self, width: i32) -> Rect {
        let columns = self.columns(width).min(self.cards.len());
        Rect { x: 0, y: 0, w: self.width(columns), h: self.stack(width).1 }
    }

    /// The cards in as many columns as fit `width`, stretched to `inside`, the first at `at`.
    fn place(mut self, width: i32, inside: i32, at: Point) -> Vec<Card<'a>> {
        let (places, _) = self.stack(width);
        let columns = i32::try_from(self.columns(width).min(self.cards.len())).unwrap_or(1);
        let column = (inside + GAP) / columns - GAP;
        for (card, (index, y)) in self.cards.iter_mut().zip(places) {
            card.rect.w = column;
            let x = i32::try_from(index).unwrap_or_default() * (column + GAP);
            card.shift(Point { x: at.x + x, y: at.y + y });
        }
        self.cards
    }
}

/// The width at which the groups, one above the other, come closest to a box of three by two.
fn best_width(groups: &[Group<'_>]) -> i32 {
    let widths = groups.iter().flat_map(|group| (1..=group.cards.len().min(MOST_COLUMNS)).map(|n| group.width(n)));
    let cost = |width: &i32| {
        let sizes = groups.iter().filter(|group| !group.cards.is_empty()).map(|group| group.size(*width));
        let (w, h) = sizes.fold((0, HEAD), |(w, h), size| (w.max(size.w), h + size.h + GAP));
        (2 * w).max(3 * h)
    };
    widths.min_by_key(cost).unwrap_or_default()
}
