//! The tables of the demo, as text of at most 100 columns.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use lab::Pair;

/// Which of the two probes a matrix shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// ICMP echo round trip.
    Icmp,
    /// HTTP request and answer, connection included.
    Http,
}

/// One letter for the `index`th column.
fn letter(index: usize) -> char {
    ('a'..='z').chain('A'..='Z').nth(index).unwrap_or('?')
}

/// A square of latencies in milliseconds over IPv4: each row probes each column. `names` gives the order.
pub fn matrix(names: &[String], pairs: &[Pair], probe: Probe) -> String {
    let cells: BTreeMap<(&str, &str), String> = pairs
        .iter()
        .filter(|pair| pair.address.is_ipv4())
        .map(|pair| ((pair.from.as_str(), pair.to.as_str()), cell(result(pair, probe))))
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or_default();
    let mut text = format!("{:width$}  ", "");
    for index in 0..names.len() {
        let _ = write!(text, " {:>3}", letter(index));
    }
    for (index, from) in names.iter().enumerate() {
        let _ = write!(text, "\n{from:width$} {}", letter(index));
        for to in names {
            let shown = cells.get(&(from.as_str(), to.as_str())).map_or("·", String::as_str);
            let _ = write!(text, " {shown:>3}");
        }
    }
    text + "\n"
}

fn result(pair: &Pair, probe: Probe) -> &Result<Duration, String> {
    match probe {
        Probe::Icmp => &pair.ping,
        Probe::Http => &pair.http,
    }
}

/// A latency in three characters.
fn cell(result: &Result<Duration, String>) -> String {
    match result.as_ref().map(|time| time.as_secs_f64() * 1e3) {
        Err(_) => "XXX".to_owned(),
        Ok(ms) if ms < 9.95 => format!("{ms:.1}"),
        Ok(ms) if ms < 999.5 => format!("{ms:.0}"),
        Ok(_) => ">1s".to_owned(),
    }
}

/// Milliseconds with one decimal.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// The middle one.
pub fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(from: &str, to: &str, http: Result<Duration, String>) -> Pair {
        let address = [10, 0, 0, 1].into();
        Pair { from: from.into(), to: to.into(), address, ping: Ok(Duration::from_micros(1234)), http }
    }

    #[test]
    fn a_matrix_has_a_row_and_a_column_for_each_name() {
        let names = ["n1".to_owned(), "node2".to_owned()];
        let pairs = [pair("n1", "node2", Err("no".into())), pair("node2", "n1", Ok(Duration::from_millis(42)))];
        assert_eq!(matrix(&names, &pairs, Probe::Icmp), "          a   b\nn1    a   · 1.2\nnode2 b 1.2   ·\n");
        assert_eq!(matrix(&names, &pairs, Probe::Http), "          a   b\nn1    a   · XXX\nnode2 b  42   ·\n");
    }

    #[test]
    fn twenty_one_names_fit_into_a_hundred_columns() {
        let names: Vec<_> = (0..21).map(|number| format!("paris-1-pod{number:02}")).collect();
        assert!(matrix(&names, &[], Probe::Icmp).lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn every_latency_has_at_most_three_characters() {
        for micros in [0, 900, 9_949, 9_950, 99_949, 999_499, 999_500, 10_000_000] {
            assert!(cell(&Ok(Duration::from_micros(micros))).len() <= 3, "{micros}");
        }
    }
}
