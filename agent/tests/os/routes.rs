use std::{collections::BTreeSet, fs, path::Path};

use agent::os::{Netlink, links, ownership::Ownership, routes};
use futures::StreamExt;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteProtocol};
use rtnetlink::{MulticastGroup, packet_core::NetlinkPayload};
use topology::{Route, SetDiff};

use crate::namespace::{inside, ip, lines, no_errors, route, set, wire};

fn wanted(texts: &[&str]) -> BTreeSet<Route> {
    set(texts, route)
}

fn load(directory: &Path) -> Ownership {
    Ownership::load(&directory.join("kilo0.json")).unwrap()
}

const EVERY_KIND: [&str; 6] = [
    "10.2.0.0/24 via 10.4.0.1 dev eth0 src 10.1.0.2",
    "10.3.0.3/32 dev eth0",
    "10.5.0.0/24 via 10.4.0.1 dev eth0 table 1107",
    "fd02::/64 via fd04::1 dev eth0 src fd01::2",
    "fd03::3/128 dev eth0",
    "fd05::/64 via fd04::1 dev eth0 table 1107",
];

#[test]
fn routes_of_every_kind_are_added_recognised_and_removed() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut ownership = load(directory.path());
        let wanted = wanted(&EVERY_KIND);
        no_errors(ownership.set_routes(&netlink, &wanted).await);
        assert_eq!(
            lines("route show proto static"),
            ["10.2.0.0/24 via 10.4.0.1 dev eth0 src 10.1.0.2 onlink", "10.3.0.3 dev eth0 scope link"]
        );
        assert_eq!(lines("route show table 1107"), ["10.5.0.0/24 via 10.4.0.1 dev eth0 proto static onlink"]);
        assert_eq!(
            lines("-6 route show proto static"),
            [
                "fd02::/64 via fd04::1 dev eth0 src fd01::2 metric 1024 onlink pref medium",
                "fd03::3 dev eth0 metric 1024 pref medium"
            ]
        );
        assert_eq!(lines("-6 route show table 1107").len(), 1);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted);
        no_errors(ownership.set_routes(&netlink, &BTreeSet::new()).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), BTreeSet::new());
        assert_eq!(lines("route show proto static"), [""; 0]);
    });
}

#[test]
fn the_way_out_is_the_kernels() {
    inside(|netlink| async move {
        wire();
        let links = links::all(&netlink).await.unwrap();
        let name = |index| links.iter().find(|link| Some(link.index) == index).map(|link| link.name.as_str());
        ip("route add 192.0.2.0/24 via 10.4.0.9 dev eth0 onlink");
        for (to, way) in [("192.0.2.7", Some("eth0")), ("127.0.0.1", Some("lo")), ("203.0.113.1", None)] {
            let found = routes::way_out(&netlink, to.parse().unwrap()).await;
            assert_eq!(name(found), way, "{to}");
        }
    });
}

/// What `change` does to static routes, as the kernel tells it.
async fn observed(change: impl Future<Output = ()>) -> Vec<&'static str> {
    let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups).unwrap();
    tokio::spawn(connection);
    change.await;
    // Messages come in order: after this one, all have come.
    ip("route add 10.99.0.0/24 dev eth0 proto bird");
    let mut seen = Vec::new();
    loop {
        match messages.next().await.unwrap().0.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => match route.header.protocol {
                RouteProtocol::Bird => return seen,
                RouteProtocol::Static => seen.push("new"),
                _ => {}
            },
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(_)) => seen.push("deleted"),
            _ => {}
        }
    }
}

#[test]
fn an_exception_from_a_route_is_made_recognised_and_removed() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut ownership = load(directory.path());
        let exceptions = [
            "10.0.0.0/8 dev eth0 table 1108",
            "throw 10.1.0.9/32 table 1108",
            "fd00::/8 dev eth0 table 1108",
            "throw fd01::9/128 table 1108",
        ];
        no_errors(ownership.set_routes(&netlink, &wanted(&exceptions)).await);
        assert_eq!(
            lines("route show table 1108"),
            ["10.0.0.0/8 dev eth0 proto static scope link", "throw 10.1.0.9 proto static"]
        );
        assert_eq!(lines("-6 route show table 1108 type throw").len(), 1);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted(&exceptions));
        // In the place of an exception a route, and the other way round.
        let exchanged =
            ["throw 10.0.0.0/8 table 1108", "10.1.0.9/32 dev eth0 table 1108", "fd01::9/128 dev eth0 table 1108"];
        no_errors(ownership.set_routes(&netlink, &wanted(&exchanged)).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted(&exchanged));
        no_errors(ownership.set_routes(&netlink, &BTreeSet::new()).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), BTreeSet::new());
    });
}

#[test]
fn the_main_table_is_read_whoever_made_it() {
    inside(|netlink| async move {
        wire();
        ip("route add 10.9.0.0/16 via 10.1.0.1 metric 50");
        ip("route add default via 10.1.0.1");
        ip("route add 10.8.0.0/16 dev eth0 table 7");
        ip("route add unreachable 10.7.0.0/16");
        ip("-6 route add fd09::/64 via fd01::1");
        let all: Vec<String> = routes::main_table(&netlink).await.unwrap().iter().map(ToString::to_string).collect();
        for wanted in [
            "0.0.0.0/0 via 10.1.0.1 dev eth0",
            "10.1.0.0/24 dev eth0",
            "10.7.0.0/16",
            "10.9.0.0/16 via 10.1.0.1 dev eth0",
            "fd09::/64 via fd01::1 dev eth0",
        ] {
            assert!(all.iter().any(|route| route == wanted), "{wanted} is not in {all:#?}");
        }
        assert!(!all.iter().any(|route| route.starts_with("10.8.")), "{all:#?}");
    });
}

#[test]
fn a_changed_route_is_replaced_without_a_moment_between() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut ownership = load(directory.path());
        no_errors(ownership.set_routes(&netlink, &wanted(&EVERY_KIND)).await);
        let changed = wanted(&[
            "10.2.0.0/24 via 10.4.0.9 dev eth0 src 10.1.0.2",
            // The gateway goes, comes, the interface and the source change.
            "10.3.0.3/32 via 10.4.0.9 dev eth0",
            "10.5.0.0/24 dev eth0 table 1107",
            "fd02::/64 via fd04::9 dev peer0",
            "fd03::3/128 via fd04::9 dev eth0",
            "fd05::/64 dev eth0 table 1107",
        ]);
        let events = observed(async {
            no_errors(ownership.set_routes(&netlink, &changed).await);
        })
        .await;
        assert_eq!(events, ["new"; 6]);
        assert_eq!(routes::present(&netlink).await.unwrap(), changed);
    });
}

#[test]
fn what_someone_removed_or_replaced_comes_back() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut ownership = load(directory.path());
        let wanted = wanted(&EVERY_KIND);
        no_errors(ownership.set_routes(&netlink, &wanted).await);
        ip("route flush proto static");
        ip("-6 route del fd02::/64 dev eth0");
        ip("route replace 10.5.0.0/24 via 10.4.0.77 dev eth0 table 1107 onlink proto static");
        no_errors(ownership.set_routes(&netlink, &wanted).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted);
        let nothing = observed(async {
            no_errors(ownership.set_routes(&netlink, &wanted).await);
        })
        .await;
        assert_eq!(nothing, [""; 0]);
    });
}

#[test]
fn after_a_crash_our_routes_are_known_and_the_administrators_are_not_touched() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        for admins in ["10.9.0.0/24 dev eth0", "10.9.1.0/24 via 10.1.0.77 dev eth0", "fd09::/64 dev eth0"] {
            ip(&format!("route add {admins} proto static"));
        }
        no_errors(load(directory.path()).set_routes(&netlink, &wanted(&EVERY_KIND)).await);
        // What was owned is forgotten with the value: only the file is left, as after kill -9.
        let mut ownership = load(directory.path());
        let fewer = wanted(&EVERY_KIND[..1]);
        no_errors(ownership.set_routes(&netlink, &fewer).await);
        let admins = wanted(&["10.9.0.0/24 dev eth0", "fd09::/64 dev eth0"]);
        let left = routes::present(&netlink).await.unwrap();
        assert_eq!(left, &fewer | &admins);
        assert_eq!(lines("route show 10.9.1.0/24").len(), 1);
        no_errors(load(directory.path()).set_routes(&netlink, &BTreeSet::new()).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), admins);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is owned, nothing is remembered");
    });
}

#[test]
fn what_upstream_left_behind_is_taken_over() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        // Upstream makes the same routes, but those without gateway with another scope.
        ip("route add 10.2.0.0/24 via 10.4.0.9 dev eth0 onlink proto static");
        ip("route add 10.3.0.3 dev eth0 scope global proto static");
        ip("-6 route add fd03::3 dev eth0 src fd01::2 proto static");
        let wanted = wanted(&EVERY_KIND);
        no_errors(load(directory.path()).set_routes(&netlink, &wanted).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted);
        no_errors(load(directory.path()).set_routes(&netlink, &BTreeSet::new()).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), BTreeSet::new());
    });
}

#[test]
fn a_place_that_is_taken_costs_only_its_route() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        ip("route add 10.2.0.0/24 via 10.1.0.77 dev eth0 proto static");
        ip("-6 route add fd02::/64 via fd01::77 dev eth0 proto static");
        let mut ownership = load(directory.path());
        let connected = "10.1.0.0/24 via 10.4.0.1 dev eth0";
        let mut wanted = wanted(&EVERY_KIND);
        wanted.insert(route(connected));
        let errors = ownership.set_routes(&netlink, &wanted).await;
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let occupied =
            |text, dst| format!("cannot add route {text}: there is another route to {dst} that was not made by Kilo");
        assert_eq!(
            texts,
            [
                occupied("10.1.0.0/24 via 10.4.0.1 dev eth0 proto static onlink", "10.1.0.0/24"),
                occupied("10.2.0.0/24 via 10.4.0.1 dev eth0 proto static src 10.1.0.2 onlink", "10.2.0.0/24"),
                occupied("fd02::/64 via fd04::1 dev eth0 proto static src fd01::2 onlink", "fd02::/64"),
            ]
        );
        assert_eq!(routes::present(&netlink).await.unwrap().len(), 4);
        assert_eq!(lines("route show 10.2.0.0/24"), ["10.2.0.0/24 via 10.1.0.77 dev eth0 proto static"]);
        // The administrator gives way, and goes on to own what is his.
        ip("route del 10.2.0.0/24");
        assert_eq!(ownership.set_routes(&netlink, &wanted).await.len(), 2);
        assert_eq!(routes::present(&netlink).await.unwrap().len(), 5);
    });
}

#[test]
fn each_failure_names_its_route_and_says_why() {
    inside(|netlink| async move {
        wire();
        let add = [
            "10.2.0.0/24 via 10.1.0.2 dev eth0",
            "10.3.0.0/24 dev eth7",
            "10.5.0.0/24 via 10.4.0.1 dev eth0 src 192.0.2.1",
            "10.6.0.0/24 via 10.4.0.1 dev eth0",
        ];
        let diff = SetDiff { remove: vec![], add: add.map(route).to_vec() };
        let errors = routes::apply(&netlink, &diff).await;
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:#?}");
        assert!(texts[0].starts_with("cannot add route 10.2.0.0/24 via 10.1.0.2 dev eth0 proto static onlink: "));
        assert!(texts[0].contains("Nexthop has invalid gateway"), "{}", texts[0]);
        assert!(texts[1].contains("10.3.0.0/24 dev eth7") && texts[1].contains("No such device"), "{}", texts[1]);
        assert!(texts[2].contains("10.5.0.0/24"), "{}", texts[2]);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted(&add[3..]));
        // What is gone already is no failure, not even if its interface went too.
        let diff = SetDiff { remove: add.map(route).to_vec(), add: vec![] };
        no_errors(routes::apply(&netlink, &diff).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), BTreeSet::new());
    });
}

async fn count(netlink: &Netlink) -> usize {
    routes::present(netlink).await.unwrap().len()
}

#[test]
fn thousands_of_routes_are_set_and_removed() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut ownership = load(directory.path());
        let many: BTreeSet<Route> = (0..2000_u32)
            .flat_map(|n| {
                let (high, low) = (n / 256, n % 256);
                [
                    format!("10.{}.{low}.0/24 via 10.4.0.1 dev eth0", 100 + high),
                    format!("fd02:{n:x}::/64 via fd04::1 dev eth0"),
                ]
            })
            .map(|text| route(&text))
            .collect();
        no_errors(ownership.set_routes(&netlink, &many).await);
        assert_eq!(count(&netlink).await, many.len());
        no_errors(ownership.set_routes(&netlink, &BTreeSet::new()).await);
        assert_eq!(count(&netlink).await, 0);
    });
}
