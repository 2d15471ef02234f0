//! Routes, rules and addresses as values, and the smallest change from what is to what should be.
//!
//! Text forms are those of ip-route(8) and ip-rule(8), so that a test's expectation reads like a terminal.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

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

/// Why a text is not a [`Route`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Something is not there without which it is no route.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// Something is not what it should be.
    #[error("{word} {value}: expected {expected}")]
    Invalid {
        /// The word before it.
        word: &'static str,
        /// What is there.
        value: String,
        /// What should be.
        expected: &'static str,
    },
    /// A word that does not belong there.
    #[error("{0}: unexpected")]
    Unexpected(String),
}

/// The value that stands after `word`.
fn value<T: FromStr>(word: &'static str, value: Option<&str>, expected: &'static str) -> Result<T, RouteError> {
    let value = value.ok_or(RouteError::Missing(word))?;
    value.parse().map_err(|_| RouteError::Invalid { word, value: value.to_owned(), expected })
}

/// What [`Display`](fmt::Display) writes, in any order after the destination. Left out may be what says nothing:
/// `table` for the main one, `proto static`, and `onlink`, as every gateway is.
impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let mut words = text.split_whitespace().peekable();
        let is_throw = words.next_if_eq(&"throw").is_some();
        let dst: IpNet = value("destination", words.next(), "a prefix")?;
        let mut route = Self::throw(dst, MAIN_TABLE);
        while let Some(word) = words.next() {
            match word {
                "via" if !is_throw => route.via = Some(value("via", words.next(), "an address")?),
                "dev" if !is_throw => route.dev = words.next().ok_or(RouteError::Missing("dev"))?.into(),
                "src" if !is_throw => route.src = Some(value("src", words.next(), "an address")?),
                "table" => route.table = value("table", words.next(), "a number")?,
                "proto" if words.next_if_eq(&"static").is_some() => {}
                "onlink" if route.onlink() => {}
                _ => return Err(RouteError::Unexpected(word.to_owned())),
            }
        }
        let invalid = |word, value: String, expected| Err(RouteError::Invalid { word, value, expected });
        if dst != dst.trunc() {
            return invalid("destination", dst.to_string(), "no bits behind the prefix");
        }
        if let Some(via) = route.via.filter(|via| via.is_ipv4() != dst.addr().is_ipv4()) {
            return invalid("via", via.to_string(), "the destination's family");
        }
        if !is_throw && route.is_throw() {
            return Err(RouteError::Missing("dev"));
        }
        Ok(route)
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
    use proptest::{option, prelude::*};

    use super::*;

    fn route(dst: &str) -> Route {
        Route { dst: dst.parse().unwrap(), via: None, dev: "kilo0".into(), src: None, table: MAIN_TABLE }
    }

    proptest! {
        #[test]
        fn a_route_is_read_as_it_is_written(
            (v4, address, gateway) in (any::<bool>(), any::<u128>(), option::of(any::<u128>())),
            (len, is_throw, table) in (0..=32u8, any::<bool>(), prop_oneof![Just(MAIN_TABLE), any::<u32>()]),
            (dev, src) in ("[a-z][a-z0-9.-]{0,14}", option::of(any::<IpAddr>())),
        ) {
            let ip = |number: u128| if v4 { IpAddr::from((number as u32).to_be_bytes()) } else { IpAddr::from(number.to_be_bytes()) };
            let dst = IpNet::new(ip(address), len).unwrap().trunc();
            let route = match is_throw {
                true => Route::throw(dst, table),
                false => Route { dst, via: gateway.map(ip), dev: dev.into(), src, table },
            };
            prop_assert_eq!(route.to_string().parse(), Ok(route));
        }
    }

    #[test]
    fn what_goes_without_saying_may_be_left_out_of_a_route() {
        let text = "10.2.0.0/24 via 10.4.0.1 dev kilo0";
        assert_eq!(text.parse::<Route>().unwrap().to_string(), format!("{text} proto static onlink"));
        assert_eq!("fd02::/64 dev kilo0 table 254".parse(), Ok(route("fd02::/64")));
    }

    #[test]
    fn what_is_no_route_says_why() {
        for (text, why) in [
            ("", "destination: missing"),
            ("throw", "destination: missing"),
            ("default dev kilo0", "destination default: expected a prefix"),
            ("10.2.0.1/24 dev kilo0", "destination 10.2.0.1/24: expected no bits behind the prefix"),
            ("10.2.0.0/24", "dev: missing"),
            ("10.2.0.0/24 via 10.4.0.1 dev", "dev: missing"),
            ("10.2.0.0/24 via fd00::1 dev kilo0", "via fd00::1: expected the destination's family"),
            ("10.2.0.0/24 dev kilo0 src kilo0", "src kilo0: expected an address"),
            ("10.2.0.0/24 dev kilo0 table main", "table main: expected a number"),
            ("10.2.0.0/24 dev kilo0 proto kernel", "proto: unexpected"),
            ("10.2.0.0/24 dev kilo0 onlink", "onlink: unexpected"),
            ("throw 10.2.0.0/24 dev kilo0", "dev: unexpected"),
        ] {
            assert_eq!(text.parse::<Route>().map_err(|error| error.to_string()), Err(why.to_owned()), "{text}");
        }
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
