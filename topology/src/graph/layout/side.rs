//! The four sides of a frame: which way is inwards, and where along a side something stands.

use super::geometry::{Point, Rect};

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
    fn is_row(self) -> bool {
        matches!(self, Self::Top | Self::Bottom)
    }

    /// What a box takes along the side.
    pub fn length(self, size: &Rect) -> i32 {
        if self.is_row() { size.w } else { size.h }
    }

    /// What a box takes across.
    pub fn depth(self, size: &Rect) -> i32 {
        if self.is_row() { size.h } else { size.w }
    }

    /// Where the side begins.
    pub fn start(self, middle: &Rect) -> i32 {
        if self.is_row() { middle.x } else { middle.y }
    }

    /// The direction into the middle.
    pub fn inward(self) -> Point {
        let (x, y) = match self {
            Self::Top => (0, 1),
            Self::Right => (-1, 0),
            Self::Bottom => (0, -1),
            Self::Left => (1, 0),
        };
        Point { x, y }
    }

    /// The corner of a box of `size` that stands `gap` away from the middle, `along` the side.
    pub fn corner(self, size: &Rect, along: i32, gap: i32, middle: &Rect) -> Point {
        match self {
            Self::Top => Point { x: along, y: middle.y - gap - size.h },
            Self::Right => Point { x: middle.right() + gap, y: along },
            Self::Bottom => Point { x: along, y: middle.bottom() + gap },
            Self::Left => Point { x: middle.x - gap - size.w, y: along },
        }
    }
}

/// Where the tunnels of a panel end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port {
    /// The place, half way along a side of the panel.
    pub at: Point,
    pub(super) side: Side,
}

impl Port {
    /// That of a panel at a side of the frame.
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
