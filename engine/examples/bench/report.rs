//! The table, as Markdown.

use std::fmt::Write;

use super::Samples;
use super::common::implementation::Implementation;
use super::rows::Row;

/// Medians of all implementations, how far the rounds of the first lay apart, and how it compares with the best other.
pub fn table(rows: &[Row], implementations: &[Implementation], samples: &Samples) -> String {
    let names: Vec<_> = implementations.iter().map(|implementation| implementation.name.as_str()).collect();
    let mut text = format!("| what | {} | rounds | ours / best other |\n|---|", names.join(" | "));
    text.push_str(&"---|".repeat(names.len() + 2));
    text.push('\n');
    for (number, row) in rows.iter().enumerate() {
        let figures = |implementation: usize| samples.get(&(number, implementation)).map(Vec::as_slice).unwrap_or(&[]);
        let medians: Vec<_> = (0..names.len()).map(|implementation| median(figures(implementation))).collect();
        let _ = write!(text, "| {}, {} |", row.name, row.unit);
        for median in &medians {
            let _ = write!(text, " {} |", median.map_or("–".to_owned(), display));
        }
        let _ = write!(text, " {} |", spread(figures(0)));
        let others = medians.iter().skip(1).flatten().copied();
        let best = if row.more_is_better { others.reduce(f64::max) } else { others.reduce(f64::min) };
        let ratio = medians.first().copied().flatten().zip(best).map(|(ours, best)| ours / best);
        let _ = writeln!(text, " {} |", ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")));
    }
    text
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().reduce(f64::min);
    let most = figures.iter().copied().reduce(f64::max);
    least.zip(most).map_or("–".to_owned(), |(least, most)| format!("{} – {}", display(least), display(most)))
}

fn display(figure: f64) -> String {
    if figure < 100.0 { format!("{figure:.2}") } else { format!("{figure:.0}") }
}
