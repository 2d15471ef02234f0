//! Boxes and texts.

use crate::label::cells;

/// A place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// From the left.
    pub x: i32,
    /// From the top.
    pub y: i32,
}

/// A box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rect {
    /// Its left side.
    pub x: i32,
    /// Its upper side.
    pub y: i32,
    /// Its width.
    pub w: i32,
    /// Its height.
    pub h: i32,
}

impl Rect {
    /// Its right side.
    pub fn right(&self) -> i32 {
        self.x + self.w
    }

    /// Its lower side.
    pub fn bottom(&self) -> i32 {
        self.y + self.h
    }

    /// Its centre.
    pub fn centre(&self) -> Point {
        Point { x: self.x + self.w / 2, y: self.y + self.h / 2 }
    }

    /// The same, elsewhere.
    pub fn shifted(self, by: Point) -> Self {
        Self { x: self.x + by.x, y: self.y + by.y, ..self }
    }

    /// Whether `other` is inside.
    pub fn contains(&self, other: &Rect) -> bool {
        self.x <= other.x && other.right() <= self.right() && self.y <= other.y && other.bottom() <= self.bottom()
    }

    /// Whether they have some area in common.
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.x < other.right() && other.x < self.right() && self.y < other.bottom() && other.y < self.bottom()
    }
}

/// What a text is for; its font follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// The drawing's title.
    Title,
    /// The line below it.
    Summary,
    /// The heading of a panel.
    Heading,
    /// What is said beside it.
    Note,
    /// The name of a node or peer.
    Name,
    /// What a detail is.
    Key,
    /// A detail.
    Detail,
    /// A mark.
    Pill,
    /// A line of the legend.
    Legend,
}

impl Style {
    /// The font size.
    pub fn size(self) -> i32 {
        match self {
            Self::Title => 20,
            Self::Heading => 15,
            Self::Name => 13,
            Self::Summary | Self::Note | Self::Legend => 12,
            Self::Key | Self::Detail => 11,
            Self::Pill => 10,
        }
    }

    /// The width of `count` cells.
    pub fn width(self, count: usize) -> i32 {
        let count = i32::try_from(count).unwrap_or(i32::MAX / 10_000);
        divided(count * self.size() * 62, 100)
    }
}

/// `number` divided by `by`, rounded up; neither is negative.
fn divided(number: i32, by: i32) -> i32 {
    (number + by - 1) / by
}

/// A text that begins at a place on its base line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The beginning of its base line.
    pub at: Point,
    /// Its font.
    pub style: Style,
    /// What it says; nothing invisible.
    pub content: String,
}

impl Text {
    /// `content` at a place.
    pub fn at(at: Point, style: Style, content: impl Into<String>) -> Self {
        Self { at, style, content: content.into() }
    }

    /// The box that it fills at most.
    pub fn bounds(&self) -> Rect {
        let size = self.style.size();
        let w = self.style.width(cells(&self.content));
        Rect { x: self.at.x, y: self.at.y - size, w, h: size + divided(size, 4) }
    }

    /// Moves it.
    pub fn shift(&mut self, by: Point) {
        self.at.x += by.x;
        self.at.y += by.y;
    }
}
