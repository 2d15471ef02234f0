//! Panels in a frame: clockwise along the four sides of an empty middle.

use super::{
    geometry::{Point, Rect},
    panel::Panel,
    tunnels::{Port, Side},
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
    /// A side along which boxes take (`length`, `depth`) each.
    fn of(boxes: impl Iterator<Item = (i32, i32)>) -> Self {
        let sum = |side: Self, (length, depth): (i32, i32)| {
            let gap = if side.length > 0 { GAP } else { 0 };
            Self { length: side.length + gap + length, depth: side.depth.max(depth) }
        };
        boxes.fold(Self::default(), sum)
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
        let row = |panels: &[Rect]| Extent::of(panels.iter().map(|size| (size.w, size.h)));
        let column = |panels: &[Rect]| Extent::of(panels.iter().map(|size| (size.h, size.w)));
        let (top, right, bottom, left) = (row(top), column(right), row(bottom), column(left));
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
    spread(
        top,
        |rect| rect.w,
        plan.top.length,
        middle.x,
        middle.w,
        |panel, x| {
            panel.shift(Point { x, y: middle.y - MOAT - panel.rect.h });
            panel.port = Port::of(&panel.rect, Side::Top);
        },
    );
    spread(
        bottom,
        |rect| rect.w,
        plan.bottom.length,
        middle.x,
        middle.w,
        |panel, x| {
            panel.shift(Point { x, y: middle.bottom() + MOAT });
            panel.port = Port::of(&panel.rect, Side::Bottom);
        },
    );
    spread(
        right,
        |rect| rect.h,
        plan.right.length,
        middle.y,
        middle.h,
        |panel, y| {
            panel.shift(Point { x: middle.right() + MOAT, y });
            panel.port = Port::of(&panel.rect, Side::Right);
        },
    );
    spread(
        left,
        |rect| rect.h,
        plan.left.length,
        middle.y,
        middle.h,
        |panel, y| {
            panel.shift(Point { x: middle.x - MOAT - panel.rect.w, y });
            panel.port = Port::of(&panel.rect, Side::Left);
        },
    );
    Frame { size: plan.size, middle }
}

/// Puts the panels of a side, which need `needed` of the `room` there is, one after the other from
/// `start` on with the same gaps between.
fn spread(
    panels: &mut [Panel<'_>],
    length: impl Fn(&Rect) -> i32,
    needed: i32,
    start: i32,
    room: i32,
    mut place: impl FnMut(&mut Panel<'_>, i32),
) {
    let count = i32::try_from(panels.len()).unwrap_or(1).max(1);
    let spare = (room - needed) / count;
    let mut at = start + spare / 2;
    for panel in panels {
        let length = length(&panel.rect);
        place(panel, at);
        at += length + GAP + spare;
    }
}
