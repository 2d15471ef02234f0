//! Tables that give way: when there is no room, names are cut first, then columns go, the last one first.

use super::text::Symbols;
use crate::label::{cells, shorten, wrap};

/// How a line speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// As all others.
    #[default]
    Plain,
    /// Louder.
    Strong,
    /// Quieter.
    Weak,
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub tone: Tone,
    pub text: String,
}

impl Line {
    pub fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }
}

/// A row; a cell may take several lines.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// One cell before the first column.
    pub mark: &'static str,
    pub tone: Tone,
    pub cells: Vec<Vec<String>>,
    /// Stands below, over the whole width; empty for none.
    pub note: String,
}

/// Rows in groups with headings; all groups share their columns.
#[derive(Clone, Debug)]
pub(super) struct Table {
    titles: &'static [&'static str],
    groups: Vec<(String, Vec<Row>)>,
}

/// Between columns.
const GAP: usize = 2;
/// What is before the first column: the bracket, the mark, a space.
const INDENT: usize = 4;
/// Names are not cut below this to save a column.
const SHORTEST_NAME: usize = 20;

impl Table {
    pub fn new(titles: &'static [&'static str]) -> Self {
        Self { titles, groups: Vec::new() }
    }

    pub fn group(&mut self, heading: String, rows: Vec<Row>) {
        self.groups.push((heading, rows));
    }

    /// The table in lines that fit `width`, but for marks and brackets on a very narrow terminal.
    pub fn lines(&self, width: usize, symbols: &Symbols) -> Vec<Line> {
        let room = width.saturating_sub(INDENT);
        let columns = fit(&self.widths(), room);
        let titles: Vec<Vec<String>> = self.titles.iter().map(|title| vec![(*title).to_owned()]).collect();
        let mut lines = vec![Line::new(Tone::Weak, " ".repeat(INDENT) + &row_line(&titles, 0, &columns, symbols))];
        for (heading, rows) in &self.groups {
            let heading = shorten(heading, width.saturating_sub(cells(symbols.top)), symbols.ellipsis);
            lines.push(Line::new(Tone::Strong, format!("{}{heading}", symbols.top)));
            lines.extend(rows.iter().flat_map(|row| row.lines(room, &columns, symbols)));
            lines.push(Line::new(Tone::Plain, symbols.bottom));
        }
        lines
    }

    /// The natural width of each column; one that nobody has something in has none.
    fn widths(&self) -> Vec<usize> {
        let rows = || self.groups.iter().flat_map(|(_, rows)| rows);
        let widest = |index: usize| rows().flat_map(|row| &row.cells[index]).map(|text| cells(text)).max().unwrap_or(0);
        let natural = |(index, title): (usize, &&str)| match widest(index) {
            0 => 0,
            widest => widest.max(cells(title)),
        };
        self.titles.iter().enumerate().map(natural).collect()
    }
}

/// The widths that columns of these natural widths get in `room`; 0: the column is left out.
fn fit(natural: &[usize], room: usize) -> Vec<usize> {
    let mut columns = natural.to_vec();
    loop {
        let rest: usize = columns[1..].iter().filter(|width| **width > 0).map(|width| width + GAP).sum();
        let name = room.saturating_sub(rest).min(natural[0]);
        let last = columns.iter().rposition(|width| *width > 0).filter(|index| *index > 0);
        match last {
            Some(last) if name < natural[0].min(SHORTEST_NAME) => columns[last] = 0,
            _ => {
                columns[0] = name;
                return columns;
            }
        }
    }
}

impl Row {
    fn lines(&self, room: usize, columns: &[usize], symbols: &Symbols) -> Vec<Line> {
        let height = self.cells.iter().zip(columns).filter(|(_, width)| **width > 0).map(|(cell, _)| cell.len()).max();
        let mut texts: Vec<String> =
            (0..height.unwrap_or(0)).map(|line| row_line(&self.cells, line, columns, symbols)).collect();
        let notes = wrap(&self.note, room.saturating_sub(GAP), symbols.ellipsis);
        texts.extend(notes.into_iter().map(|note| " ".repeat(GAP) + &note));
        let marks = std::iter::once(self.mark).chain(std::iter::repeat(" "));
        let line = |(text, mark)| Line::new(self.tone, format!("{}{mark} {text}", symbols.side));
        texts.into_iter().zip(marks).map(line).collect()
    }
}

/// Line `index` of a row.
fn row_line(row: &[Vec<String>], index: usize, columns: &[usize], symbols: &Symbols) -> String {
    let shown = row.iter().zip(columns).filter(|(_, width)| **width > 0);
    let texts: Vec<String> = shown
        .map(|(cell, width)| {
            let text = cell.get(index).map(|text| shorten(text, *width, symbols.ellipsis)).unwrap_or_default();
            let padding = width - cells(&text);
            text + &" ".repeat(padding)
        })
        .collect();
    texts.join(&" ".repeat(GAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_way_first_then_the_last_column() {
        let natural = [30, 10, 0, 8];
        for (room, expected) in [
            (100, [30, 10, 0, 8]),
            (52, [30, 10, 0, 8]),
            (45, [23, 10, 0, 8]),
            (42, [20, 10, 0, 8]),
            (41, [29, 10, 0, 0]),
            (31, [30, 0, 0, 0]),
            (5, [5, 0, 0, 0]),
        ] {
            assert_eq!(fit(&natural, room), expected, "{room}");
        }
    }
}
