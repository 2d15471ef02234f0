//! Who is tried with whom at the same time: an agent takes part in one experiment at a time, so all pairs
//! are spread over rounds in which nobody plays twice, as in a tournament (the circle method).

/// All pairs of `players`, in as few rounds as there can be.
pub fn rounds<T: Clone>(players: &[T]) -> Vec<Vec<(T, T)>> {
    // One place stays fixed and the others turn round it; whoever meets the empty place rests.
    let places = players.len() + players.len() % 2;
    let round = |number: usize| {
        let at = |place: usize| match place {
            0 => 0,
            place => (place - 1 + number) % (places - 1) + 1,
        };
        let pairs = (0..places / 2).map(|place| (at(place), at(places - 1 - place)));
        let pairs = pairs.filter_map(|(a, b)| Some((players.get(a.min(b))?.clone(), players.get(a.max(b))?.clone())));
        pairs.collect()
    };
    (0..places.saturating_sub(1)).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_pair_plays_once_and_nobody_twice_in_a_round() {
        for count in 0..20_usize {
            let players: Vec<usize> = (0..count).collect();
            let rounds = rounds(&players);
            let mut pairs = BTreeSet::new();
            for round in &rounds {
                let busy: BTreeSet<usize> = round.iter().flat_map(|(a, b)| [*a, *b]).collect();
                assert_eq!(busy.len(), round.len() * 2, "{count}: {round:?}");
                assert!(round.iter().all(|pair| pair.0 < pair.1 && pairs.insert(*pair)), "{count}: {round:?}");
            }
            assert_eq!(pairs.len(), count * count.saturating_sub(1) / 2);
            assert!(rounds.len() <= count);
        }
    }
}
