//! Who owns which prefix.
//!
//! A WireGuard device sends a prefix to exactly one peer, and the last one configured takes it from
//! the others without a word. So prefixes are claimed here first, the most trustworthy source first,
//! and what conflicts is left out with a warning that names both sides.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Claims of owners `O` to prefixes. Prefixes may lie inside each other, and several owners may
/// claim the same; what is a conflict is for the caller to say.
#[derive(Clone, Debug)]
pub(crate) struct Claims<O> {
    /// Ordered by address and then by length, so that what lies inside a prefix follows it.
    by_prefix: BTreeMap<IpNet, BTreeSet<O>>,
    /// Prefix lengths in use, to look up covering prefixes by trying each.
    lengths: BTreeMap<(bool, u8), usize>,
}

impl<O> Default for Claims<O> {
    fn default() -> Self {
        Self { by_prefix: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<O: Ord + Clone> Claims<O> {
    pub(crate) fn insert(&mut self, prefix: IpNet, owner: O) {
        let owners = self.by_prefix.entry(prefix).or_default();
        if owners.is_empty() {
            *self.lengths.entry((prefix.addr().is_ipv4(), prefix.prefix_len())).or_default() += 1;
        }
        owners.insert(owner);
    }

    pub(crate) fn remove(&mut self, prefix: IpNet, owner: &O) {
        let Some(owners) = self.by_prefix.get_mut(&prefix) else { return };
        owners.remove(owner);
        if owners.is_empty() {
            self.by_prefix.remove(&prefix);
            let length = (prefix.addr().is_ipv4(), prefix.prefix_len());
            if let Some(count) = self.lengths.get_mut(&length) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
        }
    }

    /// Those who claim exactly `prefix`.
    pub(crate) fn owners(&self, prefix: IpNet) -> impl Iterator<Item = &O> {
        self.by_prefix.get(&prefix).into_iter().flatten()
    }

    /// Claims to prefixes that contain `prefix` or equal it, the shortest first.
    pub(crate) fn covering(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &O)> {
        let family = prefix.addr().is_ipv4();
        let shorter = self.lengths.range((family, 0)..=(family, prefix.prefix_len()));
        shorter.flat_map(move |((_, length), _)| {
            // A length that is in use in this family is valid for it.
            let cover = IpNet::new(prefix.addr(), *length).map(|net| net.trunc()).unwrap_or(prefix);
            self.owners(cover).map(move |owner| (cover, owner))
        })
    }

    /// Claims to prefixes that lie strictly inside `prefix`.
    pub(crate) fn inside(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &O)> {
        let following = self.by_prefix.range((std::ops::Bound::Excluded(prefix), std::ops::Bound::Unbounded));
        following
            .take_while(move |(net, _)| prefix.contains(*net))
            .flat_map(|(net, owners)| owners.iter().map(move |owner| (*net, owner)))
    }

    /// Claims that share an address with `prefix`.
    pub(crate) fn overlapping(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &O)> {
        self.covering(prefix).chain(self.inside(prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes often contain each other.
        let v4 = (0u32..16, 26u8..=32)
            .prop_map(|(low, len)| IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + low).into(), len));
        let v6 = (0u128..16, 122u8..=128).prop_map(|(low, len)| IpNet::new(std::net::Ipv6Addr::from(low).into(), len));
        prop_oneof![v4, v6].prop_map(|net| net.expect("lengths are valid").trunc())
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_every_claim(
            claims in proptest::collection::vec((prefix(), 0u8..4), 0..20),
            removed in proptest::collection::vec((prefix(), 0u8..4), 0..8),
            asked in prefix(),
        ) {
            let mut ours = Claims::default();
            let mut naive = BTreeSet::new();
            for (net, owner) in claims {
                ours.insert(net, owner);
                naive.insert((net, owner));
            }
            for (net, owner) in removed {
                ours.remove(net, &owner);
                naive.remove(&(net, owner));
            }
            let collect = |found: &mut dyn Iterator<Item = (IpNet, &u8)>| found.map(|(net, owner)| (net, *owner)).collect::<BTreeSet<_>>();
            let naive_where = |keep: &dyn Fn(&IpNet) -> bool| naive.iter().filter(|(net, _)| keep(net)).copied().collect::<BTreeSet<_>>();
            prop_assert_eq!(collect(&mut ours.covering(asked)), naive_where(&|net| net.contains(&asked)));
            prop_assert_eq!(collect(&mut ours.overlapping(asked)), naive_where(&|net| net.contains(&asked) || asked.contains(net)));
        }
    }
}
