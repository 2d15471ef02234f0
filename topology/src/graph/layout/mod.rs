//! Where everything in the drawing stands.
//!
//! Locations stand in a frame around an empty middle, in which the tunnels run, so that no line crosses a
//! box and none is hidden. Very many stand in rows instead, and the tunnels, which all leaders have with
//! all, are not drawn. Sizes come from the width of the text: a fixed-pitch font is asked for and
//! every character counts 0.62 of its size, which is as much as the widest of the usual ones takes. So
//! texts cannot touch, and nothing has to be tried out. All numbers are whole CSS pixels.

mod card;
mod frame;
mod geometry;
mod legend;
mod panel;
mod rows;
mod side;
mod tunnels;

pub use card::{Card, Pill, PillKind, Subject};
pub use geometry::{Point, Rect, Style, Text};
pub use legend::{Entry, Symbol};
pub use panel::{Panel, PanelKind};
pub use side::Port;
pub use tunnels::Curve;

use super::model::Graph;
use card::Density;

/// The margin around everything.
const MARGIN: i32 = 24;
/// More panels than these would make a frame around little but lines.
const MOST_IN_FRAME: usize = 32;
/// What title and summary take.
const HEAD: i32 = 68;

/// The drawing.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    /// Its size; the origin is at the left and top.
    pub canvas: Rect,
    /// What network this is.
    pub title: Text,
    /// How much there is.
    pub summary: Text,
    /// One for each location, and one for the peers if there are any.
    pub panels: Vec<Panel<'a>>,
    /// What runs between them.
    pub curves: Vec<Curve>,
    /// What the symbols mean; those that occur.
    pub legend: Vec<Entry>,
}

impl<'a> Layout<'a> {
    /// Places everything that `graph` shows.
    pub fn new(graph: &'a Graph<'a>) -> Self {
        let density = Density::of(graph);
        let mut panels: Vec<Panel<'_>> = graph.sites.iter().map(|site| Panel::location(site, density)).collect();
        panels.extend(Panel::peers(graph.peers, density));
        let title = Text::at(Point { x: MARGIN, y: 42 }, Style::Title, graph.title());
        let summary = Text::at(Point { x: MARGIN, y: 64 }, Style::Summary, graph.summary());
        let is_framed = panels.len() <= MOST_IN_FRAME;
        let frame = if is_framed { frame::arrange(&mut panels) } else { rows::arrange(&mut panels) };
        let width = [frame.size.w, title.bounds().w, summary.bounds().w].into_iter().max().unwrap_or_default();
        let origin = Point { x: MARGIN + (width - frame.size.w) / 2, y: HEAD + MARGIN };
        panels.iter_mut().for_each(|panel| panel.shift(origin));
        let middle = frame.middle.shifted(origin);
        let curves = if is_framed { tunnels::between(&panels, middle) } else { Vec::new() };
        let foot = origin.y + frame.size.h + MARGIN;
        let (legend, legend_height) = legend::place(graph, &panels, &curves, Point { x: MARGIN, y: foot }, width);
        let canvas = Rect { x: 0, y: 0, w: width + 2 * MARGIN, h: foot + legend_height + MARGIN };
        Self { canvas, title, summary, panels, curves, legend }
    }

    /// Every text with the box that it has to stay in.
    pub fn texts(&self) -> Vec<(&Text, Rect)> {
        let mut texts = vec![(&self.title, self.canvas), (&self.summary, self.canvas)];
        texts.extend(self.legend.iter().map(|entry| (&entry.text, self.canvas)));
        for panel in &self.panels {
            texts.extend([(&panel.heading, panel.rect), (&panel.note, panel.rect)]);
            for card in &panel.cards {
                texts.extend(card.texts.iter().map(|text| (text, card.rect)));
                texts.extend(card.pills.iter().map(|pill| (&pill.text, pill.rect)));
            }
        }
        texts
    }
}
