//! Panels in a frame: clockwise along the four sides of an empty middle.

use super::{
    geometry::Rect,
    panel::Panel,
    side::{Port, Side},
};

/// Between neighbours.
const GAP: i32 = 24;
/// Between the middle and the panels around it.
const MOAT: i32 = 36;

/// Panels that are placed; the origin is at the left and top.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// All of it.
    pub size: Rect,
    /// The part in which tunnels run.
    pub middle: Rect,
}

/// How many panels stand on each side; the rest is on the left.
#[derive(Clone, Copy, Debug)]
struct Split {
    top: usize,
    right: usize,
    bottom: usize,
}

impl Split {
    /// Every way to put `count` panels on the sides that looks balanced.
    fn candidates(count: usize) -> impl Iterator<Item = Self> {
        let sides = (0..=count).flat_map(|right| [(right, right), (right, right.saturating_sub(1))]);
        sides.filter_map(move |(right, left)| {
            let rest = count.checked_sub(right + left)?;
            Some(Self { top: rest.div_ceil(2), right, bottom: rest / 2 })
        })
    }

    /// The panels of each side, clockwise: top, right, bottom, left.
    fn sides<T: Copy>(self, items: &[T]) -> [&[T]; 4] {
        let (top, rest) = items.split_at(self.top);
        let (right, rest) = rest.split_at(self.right);
        let (bottom, left) = rest.split_at(self.bottom);
        [top, right, bottom, left]
    }
}

/// What is needed along a side, and how far it reaches outwards.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    length: i32,
    depth: i32,
}

impl Extent {
    fn of(side: Side, sizes: &[Rect]) -> Self {
        let gaps = i32::try_from(sizes.len()).unwrap_or_default().saturating_sub(1) * GAP;
        let length = sizes.iter().map(|size| side.length(size)).sum::<i32>() + gaps.max(0);
        Self { length, depth: sizes.iter().map(|size| side.depth(size)).max().unwrap_or_default() }
    }

    /// The depth with the moat that goes with it.
    fn reach(self) -> i32 {
        if self.depth > 0 { self.depth + MOAT } else { 0 }
    }
}

/// Sizes of the frame's parts.
#[derive(Clone, Copy, Debug)]
struct Plan {
    top: Extent,
    right: Extent,
    bottom: Extent,
    left: Extent,
    middle: Rect,
    size: Rect,
}

impl Plan {
    fn new(split: Split, sizes: &[Rect]) -> Self {
        let [top, right, bottom, left] = split.sides(sizes);
        let (top, bottom) = (Extent::of(Side::Top, top), Extent::of(Side::Bottom, bottom));
        let (right, left) = (Extent::of(Side::Right, right), Extent::of(Side::Left, left));
        // Enough for the tunnels to be told apart.
        let count = i32::try_from(sizes.len()).unwrap_or(i32::MAX / 10_000);
        let least = if count > 1 { 90 + 12 * count.min(40) } else { 0 };
        let (rows, columns) = (top.length.max(bottom.length), left.length.max(right.length));
        let w = if columns > 0 { rows.max(least) } else { rows };
        let h = if rows > 0 { columns.max(least) } else { columns };
        let middle = Rect { x: left.reach(), y: top.reach(), w, h };
        let size = Rect { x: 0, y: 0, w: middle.right() + right.reach(), h: middle.bottom() + bottom.reach() };
        Self { top, right, bottom, left, middle, size }
    }

    /// How small a window of sixteen by ten can be.
    fn cost(&self) -> i64 {
        (10 * i64::from(self.size.w)).max(16 * i64::from(self.size.h))
    }
}

/// Moves each panel to its place, clockwise in the order given, and sets where its tunnels end.
pub(super) fn arrange(panels: &mut [Panel<'_>]) -> Frame {
    let sizes: Vec<Rect> = panels.iter().map(|panel| panel.rect).collect();
    let plans = Split::candidates(sizes.len()).map(|split| (split, Plan::new(split, &sizes)));
    let Some((split, plan)) = plans.min_by_key(|(_, plan)| plan.cost()) else {
        return Frame { size: Rect::default(), middle: Rect::default() };
    };
    let middle = plan.middle;
    let (top, rest) = panels.split_at_mut(split.top);
    let (right, rest) = rest.split_at_mut(split.right);
    let (bottom, left) = rest.split_at_mut(split.bottom);
    // Clockwise the lower side begins at its right and the left one below.
    bottom.reverse();
    left.reverse();
    for (side, panels, extent) in [
        (Side::Top, top, plan.top),
        (Side::Right, right, plan.right),
        (Side::Bottom, bottom, plan.bottom),
        (Side::Left, left, plan.left),
    ] {
        line_up(panels, side, extent, &middle);
    }
    Frame { size: plan.size, middle }
}

/// Puts the panels of a side one after the other, with what they do not need between them.
fn line_up(panels: &mut [Panel<'_>], side: Side, extent: Extent, middle: &Rect) {
    let count = i32::try_from(panels.len()).unwrap_or(1).max(1);
    let spare = (side.length(middle) - extent.length) / count;
    let mut along = side.start(middle) + spare / 2;
    for panel in panels {
        let length = side.length(&panel.rect);
        panel.shift(side.corner(&panel.rect, along, MOAT, middle));
        panel.port = Port::of(&panel.rect, side);
        along += length + GAP + spare;
    }
}
