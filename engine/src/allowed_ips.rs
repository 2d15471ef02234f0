//! Cryptokey routing (WireGuard paper, section 2): which value owns an address, by longest prefix.
//!
//! A binary trie with one node for each prefix and each fork, for both families. Every prefix
//! has at most one owner.

use std::net::IpAddr;

use ipnet::IpNet;

/// A map from networks to owners.
pub(crate) struct AllowedIps<T> {
    v4: Link<T>,
    v6: Link<T>,
}

type Link<T> = Option<Box<Node<T>>>;

struct Node<T> {
    prefix: Prefix,
    /// `None` in a node that is only a fork.
    owner: Option<T>,
    /// By the first bit after the prefix.
    children: [Link<T>; 2],
}

/// The first `len` bits of an address; IPv4 addresses fill the upper 32 bits, the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Prefix {
    bits: u128,
    len: u8,
}

impl Prefix {
    fn new(bits: u128, len: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Self { bits: bits & mask, len }
    }

    fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::new(u128::from(u32::from(v4)) << 96, 32),
            IpAddr::V6(v6) => Self::new(u128::from(v6), 128),
        }
    }

    fn of_network(network: &IpNet) -> Self {
        Self::new(Self::of_address(network.addr()).bits, network.prefix_len())
    }

    fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.common_with(other) == self.len
    }

    /// How many leading bits both share.
    fn common_with(self, other: Self) -> u8 {
        let same = (self.bits ^ other.bits).leading_zeros().min(128) as u8;
        same.min(self.len).min(other.len)
    }

    /// The bit at `position`, which is below 128.
    fn bit(self, position: u8) -> usize {
        (self.bits >> (127 - u32::from(position)) & 1) as usize
    }
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> AllowedIps<T> {
    /// Gives a network to an owner and returns the one that had exactly this network before.
    /// Host bits of the network are ignored.
    pub(crate) fn insert(&mut self, network: &IpNet, owner: T) -> Option<T> {
        insert_below(self.root_mut(network.addr()), Prefix::of_network(network), owner)
    }

    /// The owner of the longest network that covers the address.
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<&T> {
        let wanted = Prefix::of_address(address);
        let mut link = if address.is_ipv6() { &self.v6 } else { &self.v4 };
        let mut found = None;
        while let Some(node) = link {
            if !node.prefix.covers(wanted) {
                break;
            }
            found = node.owner.as_ref().or(found);
            if node.prefix.len == wanted.len {
                break;
            }
            link = &node.children[wanted.bit(node.prefix.len)];
        }
        found
    }

    /// Takes exactly this network from its owner, which is returned. Host bits are ignored.
    pub(crate) fn remove(&mut self, network: &IpNet) -> Option<T> {
        remove_below(self.root_mut(network.addr()), Prefix::of_network(network))
    }

    fn root_mut(&mut self, address: IpAddr) -> &mut Link<T> {
        if address.is_ipv6() { &mut self.v6 } else { &mut self.v4 }
    }
}

impl<T> Node<T> {
    fn leaf(prefix: Prefix, owner: Option<T>) -> Box<Self> {
        Box::new(Self { prefix, owner, children: [None, None] })
    }

    /// The node that takes the place of `old`, whose prefix does not cover the new one.
    fn above(old: Link<T>, prefix: Prefix, owner: T) -> Box<Self> {
        let Some(old) = old else { return Self::leaf(prefix, Some(owner)) };
        let common = old.prefix.common_with(prefix);
        let old_side = old.prefix.bit(common);
        if common == prefix.len {
            let mut node = Self::leaf(prefix, Some(owner));
            node.children[old_side] = Some(old);
            return node;
        }
        let mut fork = Self::leaf(Prefix::new(prefix.bits, common), None);
        fork.children[old_side] = Some(old);
        fork.children[1 - old_side] = Some(Self::leaf(prefix, Some(owner)));
        fork
    }
}

fn insert_below<T>(link: &mut Link<T>, prefix: Prefix, owner: T) -> Option<T> {
    match link {
        Some(node) if node.prefix == prefix => node.owner.replace(owner),
        Some(node) if node.prefix.covers(prefix) => {
            insert_below(&mut node.children[prefix.bit(node.prefix.len)], prefix, owner)
        }
        _ => {
            *link = Some(Node::above(link.take(), prefix, owner));
            None
        }
    }
}

fn remove_below<T>(link: &mut Link<T>, prefix: Prefix) -> Option<T> {
    let node = link.as_mut().filter(|node| node.prefix.covers(prefix))?;
    let removed = if node.prefix == prefix {
        node.owner.take()
    } else {
        remove_below(&mut node.children[prefix.bit(node.prefix.len)], prefix)
    };
    // A node without owner is needed only as a fork.
    if node.owner.is_none() && node.children.iter().any(Option::is_none) {
        let [left, right] = &mut node.children;
        *link = left.take().or_else(|| right.take());
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_wins_and_families_are_apart() {
        let mut table = AllowedIps::default();
        for (network, owner) in
            [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("10.1.2.3/32", 4), ("::/0", 5)]
        {
            assert_eq!(table.insert(&net(network), owner), None);
        }
        for (address, owner) in
            [("192.0.2.1", 1), ("10.200.0.1", 2), ("10.1.9.9", 3), ("10.1.2.3", 4), ("2001:db8::1", 5)]
        {
            assert_eq!(table.lookup(address.parse().unwrap()), Some(&owner), "{address}");
        }
    }

    #[test]
    fn a_network_moves_to_its_new_owner() {
        let mut table = AllowedIps::default();
        assert_eq!(table.insert(&net("10.0.0.0/24"), 1), None);
        assert_eq!(table.insert(&net("10.0.0.77/24"), 2), Some(1));
        assert_eq!(table.remove(&net("10.0.0.0/25")), None);
        assert_eq!(table.remove(&net("10.0.0.1/24")), Some(2));
        assert_eq!(table.lookup("10.0.0.1".parse().unwrap()), None);
    }

    #[test]
    fn removing_leaves_no_empty_nodes_behind() {
        let mut table = AllowedIps::default();
        let networks = ["10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/8", "fd00::/64", "fd00:0:0:1::/64"].map(net);
        for network in &networks {
            table.insert(network, network.prefix_len());
        }
        for network in &networks {
            assert_eq!(table.remove(network), Some(network.prefix_len()));
        }
        assert!(table.v4.is_none() && table.v6.is_none());
    }

    fn any_network() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that networks often nest, fork and coincide.
        let v4 = (0u32..16, 0u8..=32)
            .prop_map(|(bits, len)| IpNet::V4(Ipv4Net::new(Ipv4Addr::from(bits << 28 | bits), len).unwrap()));
        let v6 = (0u128..16, 0u8..=128)
            .prop_map(|(bits, len)| IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bits << 124 | bits), len).unwrap()));
        prop_oneof![v4, v6]
    }

    proptest! {
        /// The table behaves as a plain list of networks does.
        #[test]
        fn equals_a_list(
            inserted in proptest::collection::vec((any_network(), 0u8..4), 0..40),
            removed in proptest::collection::vec(any_network(), 0..20),
            owner_removed in 0u8..4,
            addresses in proptest::collection::vec(any_network(), 1..20),
        ) {
            let mut table = AllowedIps::default();
            let mut list = std::collections::BTreeMap::new();
            for (network, owner) in inserted {
                prop_assert_eq!(table.insert(&network, owner), list.insert(network.trunc(), owner));
            }
            let of_owner = list.iter().filter(|(_, owner)| **owner == owner_removed).map(|(network, _)| *network);
            for network in of_owner.chain(removed).collect::<Vec<_>>() {
                prop_assert_eq!(table.remove(&network), list.remove(&network.trunc()));
            }
            for address in addresses.iter().map(IpNet::addr) {
                let expected = list
                    .iter()
                    .filter(|(network, _)| network.contains(&address))
                    .max_by_key(|(network, _)| network.prefix_len())
                    .map(|(_, owner)| owner);
                prop_assert_eq!(table.lookup(address), expected);
            }
        }
    }
}
