//! Panels in rows, as words in a paragraph.

use super::{
    frame::Frame,
    geometry::{Point, Rect},
    panel::Panel,
};

const GAP: i32 = 20;
/// Enough for many thousand locations.
const MOST_ROWS: i32 = 150;

/// Moves each panel to its place, in the order given.
pub(super) fn arrange(panels: &mut [Panel<'_>]) -> Frame {
    let sizes: Vec<Rect> = panels.iter().map(|panel| panel.rect).collect();
    let widest = sizes.iter().map(|size| size.w).max().unwrap_or_default();
    let in_one_row: i32 = sizes.iter().map(|size| size.w + GAP).sum();
    // The best number of rows is the one whose paragraph fits the smallest window.
    let widths = (1..=MOST_ROWS).map(|rows| widest.max(in_one_row / rows));
    let plans = widths.map(|width| flow(&sizes, width));
    let Some((places, size)) = plans.min_by_key(|(_, size)| (10 * size.w).max(16 * size.h)) else {
        return Frame { size: Rect::default(), middle: Rect::default() };
    };
    panels.iter_mut().zip(places).for_each(|(panel, place)| panel.shift(place));
    Frame { size, middle: Rect::default() }
}

/// Where boxes of these sizes stand in rows of at most `width`, and what all take.
fn flow(sizes: &[Rect], width: i32) -> (Vec<Point>, Rect) {
    let (mut at, mut row_height) = (Point::default(), 0);
    let mut all = Rect::default();
    let mut places = Vec::new();
    for size in sizes {
        if at.x > 0 && at.x + size.w > width {
            at = Point { x: 0, y: at.y + row_height + GAP };
            row_height = 0;
        }
        places.push(at);
        row_height = row_height.max(size.h);
        all = Rect { w: all.w.max(at.x + size.w), h: all.h.max(at.y + size.h), ..all };
        at.x += size.w + GAP;
    }
    (places, all)
}
