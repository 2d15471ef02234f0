use std::collections::BTreeSet;

use agent::os::{ownership::Ownership, rules};
use topology::Rule;

use crate::namespace::{inside, ip, lines, no_errors};

fn rule(from: Option<&str>, to: &str, iif: Option<&str>) -> Rule {
    let (from, iif) = (from.map(|net| net.parse().unwrap()), iif.map(Into::into));
    Rule { from, to: to.parse().unwrap(), iif, unless_mark: None, table: 1107 }
}

#[test]
fn our_rules_follow_what_is_wanted_and_others_stay() {
    inside(|netlink| async move {
        ip("rule add to 10.1.0.9 lookup 1107");
        ip("rule add to 10.1.0.8 lookup 1107 pref 32765 proto static");
        ip("-6 rule add to fd01::9 lookup 7");
        let strangers = rules::present(&netlink).await.unwrap();
        assert_eq!(strangers, BTreeSet::from([rule(None, "10.1.0.8/32", None)]));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kilo0.json");
        let mut wanted = BTreeSet::from([
            rule(Some("10.42.0.0/24"), "10.1.0.3/32", None),
            rule(None, "10.1.0.3/32", Some("kilo0")),
            rule(Some("fd42::/64"), "fd01::3/128", None),
            Rule { unless_mark: Some(0x454), ..rule(None, "0.0.0.0/0", None) },
            Rule { unless_mark: Some(0x454), ..rule(None, "::/0", None) },
        ]);
        no_errors(Ownership::load(&path).unwrap().set_rules(&netlink, &wanted).await);
        assert_eq!(rules::present(&netlink).await.unwrap(), &strangers | &wanted);
        assert_eq!(
            lines("rule show from 10.42.0.0/24"),
            ["32765:	from 10.42.0.0/24 to 10.1.0.3 lookup 1107 proto static"]
        );
        assert_eq!(lines("-6 rule show from fd42::/64").len(), 1);
        for family in ["-4", "-6"] {
            assert_eq!(
                lines(&format!("{family} rule show pref 5200")),
                ["5200:	not from all fwmark 0x454 lookup 1107 proto static"]
            );
        }
        // Someone removes one, and one is no longer wanted; the agent was restarted in between.
        ip("rule del from 10.42.0.0/24 to 10.1.0.3");
        wanted.remove(&rule(None, "10.1.0.3/32", Some("kilo0")));
        no_errors(Ownership::load(&path).unwrap().set_rules(&netlink, &wanted).await);
        assert_eq!(rules::present(&netlink).await.unwrap(), &strangers | &wanted);
        ip("route add 10.7.0.0/16 dev lo table 1110");
        let tables = rules::tables_in_use(&netlink).await.unwrap();
        assert!([7, 254, 255, 1107, 1110].iter().all(|table| tables.contains(table)), "{tables:?}");
        assert!(!tables.contains(&1108), "{tables:?}");
        no_errors(Ownership::load(&path).unwrap().set_rules(&netlink, &BTreeSet::new()).await);
        assert_eq!(rules::present(&netlink).await.unwrap(), strangers);
        assert_eq!(lines("rule show to 10.1.0.9").len(), 1);
    });
}
