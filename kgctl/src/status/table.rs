//! Columns of text that fit a terminal: where there is no room, the least important columns are left out.

use topology::label::cells;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Of the columns that do not all fit, those with the smallest numbers stay.
    pub rank: u8,
    /// Whether its cells are numbers.
    pub is_number: bool,
}

impl Column {
    /// A column of text.
    pub const fn text(title: &'static str, rank: u8) -> Self {
        Self { title, rank, is_number: false }
    }

    /// A column of numbers.
    pub const fn number(title: &'static str, rank: u8) -> Self {
        Self { title, rank, is_number: true }
    }
}

/// Between two columns.
const GAP: &str = "  ";

/// The table of `rows`, each with a cell for each of `columns`, in lines no longer than `width`, if that
/// can be. A column in which nobody has anything is left out.
pub fn table<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let widest = |index: usize| rows.iter().map(|row| cells(&row[index])).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(|index| widest(index).max(cells(columns[index].title))).collect();
    let mut shown: Vec<usize> = (0..N).filter(|index| widest(*index) > 0).collect();
    let total = |shown: &[usize]| shown.iter().map(|index| widths[*index] + GAP.len()).sum::<usize>() - GAP.len();
    while shown.len() > 1 && width.is_some_and(|width| total(&shown) > width) {
        let last = shown.iter().copied().max_by_key(|index| columns[*index].rank);
        shown.retain(|index| Some(*index) != last);
    }
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = shown.iter().map(|index| {
            let text = cell(*index);
            let pad = " ".repeat(widths[*index].saturating_sub(cells(&text)));
            if columns[*index].is_number { pad + &text } else { text + &pad }
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned() + "\n"
    };
    let heading = line(&|index| columns[index].title.to_owned());
    heading + &rows.iter().map(|row| line(&|index| row[index].clone())).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_column_goes_first_and_an_empty_one_always() {
        const COLUMNS: [Column; 4] =
            [Column::text("A", 0), Column::text("B", 2), Column::number("C", 1), Column::text("D", 0)];
        let row = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned(), String::new()];
        let rows = [row("aaaa", "bb", "1"), row("a", "bbbb", "100")];
        assert_eq!(table(&COLUMNS, &rows, None), "A     B       C\naaaa  bb      1\na     bbbb  100\n");
        assert_eq!(table(&COLUMNS, &rows, Some(15)), table(&COLUMNS, &rows, None));
        assert_eq!(table(&COLUMNS, &rows, Some(14)), "A       C\naaaa    1\na     100\n");
        assert_eq!(table(&COLUMNS, &rows, Some(1)), "A\naaaa\na\n");
    }
}
