//! Routes, rules and addresses as values, and the smallest change from what is to what should be.
//!
//! Text forms are those of ip-route(8) and ip-rule(8), so that a test's expectation reads like a terminal.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::InterfaceName;

/// `RT_TABLE_MAIN` (linux/rtnetlink.h).
pub const MAIN_TABLE: u32 = 254;

/// A unicast route, or the exception from one, with protocol `static` (`RTPROT_STATIC`, linux/rtnetlink.h).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destination, without host bits.
    pub dst: IpNet,
    /// The gateway; always of the destination's family. `None`: the interface itself leads there.
    pub via: Option<IpAddr>,
    /// The outgoing interface; without a name in [`Route::throw`].
    pub dev: InterfaceName,
    /// Preferred source address of packets that this host itself sends.
    pub src: Option<IpAddr>,
    /// The routing table, [`MAIN_TABLE`] unless a rule leads elsewhere.
    pub table: u32,
}

impl Route {
    /// Says that `table` has no route to `dst`, whatever wider one it has (`RTN_THROW`): the next rule decides.
    pub fn throw(dst: IpNet, table: u32) -> Self {
        Self { dst, via: None, dev: InterfaceName::default(), src: None, table }
    }

    /// Whether this is a [`Route::throw`].
    pub fn is_throw(&self) -> bool {
        self.dev.as_str().is_empty()
    }

    /// Whether the gateway is to be taken as directly reachable (`RTNH_F_ONLINK`): every gateway of
    /// ours is, because it need not be inside a prefix that the interface carries.
    pub fn onlink(&self) -> bool {
        self.via.is_some()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_throw() {
            f.write_str("throw ")?;
        }
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if !self.is_throw() {
            write!(f, " dev {}", self.dev)?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        f.write_str(" proto static")?;
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.onlink() {
            f.write_str(" onlink")?;
        }
        Ok(())
    }
}

/// A routing policy rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Source prefix of the packets concerned.
    pub from: Option<IpNet>,
    /// Destination prefix of the packets concerned; that of length 0 stands for all of its family.
    pub to: IpNet,
    /// The interface that they came in by.
    pub iif: Option<InterfaceName>,
    /// The firewall mark of packets that are *not* concerned; of no use beside the other selectors, which
    /// it would turn round, too (`FIB_RULE_INVERT`, linux/fib_rules.h).
    pub unless_mark: Option<u32>,
    /// The table to look them up in.
    pub table: u32,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unless_mark.is_some() {
            f.write_str("not ")?;
        }
        match &self.from {
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        if self.to.prefix_len() > 0 {
            write!(f, " to {}", self.to)?;
        }
        if let Some(mark) = self.unless_mark {
            write!(f, " fwmark {mark:#x}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

/// What to remove and what to add to turn one set into another. Remove first: the kernel
/// identifies a route by destination and table, so the new one may take the place of the old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDiff<T> {
    /// Present but not wanted.
    pub remove: Vec<T>,
    /// Wanted but not present.
    pub add: Vec<T>,
}

impl<T: Ord + Clone> SetDiff<T> {
    /// The change from `present` to `wanted`. What is in both does not appear.
    pub fn between(present: &BTreeSet<T>, wanted: &BTreeSet<T>) -> Self {
        Self {
            remove: present.difference(wanted).cloned().collect(),
            add: wanted.difference(present).cloned().collect(),
        }
    }

    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str) -> Route {
        Route { dst: dst.parse().unwrap(), via: None, dev: "kilo0".into(), src: None, table: MAIN_TABLE }
    }

    #[test]
    fn routes_and_rules_read_like_ip() {
        let route = Route {
            via: Some("10.4.0.1".parse().unwrap()),
            src: Some("10.1.0.2".parse().unwrap()),
            table: 1107,
            ..route("10.2.0.0/24")
        };
        assert_eq!(route.to_string(), "10.2.0.0/24 via 10.4.0.1 dev kilo0 table 1107 proto static src 10.1.0.2 onlink");
        let to = "10.1.0.3/32".parse().unwrap();
        let rule = Rule { from: None, to, iif: Some("kilo0".into()), unless_mark: None, table: 1107 };
        assert_eq!(rule.to_string(), "from all to 10.1.0.3/32 iif kilo0 lookup 1107");
        let to = "0.0.0.0/0".parse().unwrap();
        let rule = Rule { from: None, to, iif: None, unless_mark: Some(1108), table: 1108 };
        assert_eq!(rule.to_string(), "not from all fwmark 0x454 lookup 1108");
        let throw = Route::throw("10.1.0.3/32".parse().unwrap(), 1108);
        assert_eq!(throw.to_string(), "throw 10.1.0.3/32 table 1108 proto static");
    }

    #[test]
    fn what_is_in_both_sets_is_left_alone() {
        let present = BTreeSet::from([route("10.1.0.0/24"), route("10.2.0.0/24")]);
        let wanted = BTreeSet::from([route("10.2.0.0/24"), route("10.3.0.0/24")]);
        let diff = SetDiff::between(&present, &wanted);
        assert_eq!(diff, SetDiff { remove: vec![route("10.1.0.0/24")], add: vec![route("10.3.0.0/24")] });
        assert!(SetDiff::between(&wanted, &wanted).is_empty());
    }
}
