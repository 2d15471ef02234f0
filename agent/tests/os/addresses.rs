use std::collections::BTreeSet;

use agent::os::{Netlink, addresses, links};
use ipnet::IpNet;

use crate::namespace::{inside, ip, lines, no_errors, set, wire};

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    set(texts, |text| text.parse().unwrap())
}

/// What `eth0` carries, in ip-address(8)'s own notation, without link-local addresses.
fn carried() -> Vec<String> {
    let lines = lines("-o addr show dev eth0");
    let addresses = lines.iter().filter_map(|line| line.split_whitespace().nth(3));
    addresses.filter(|address| !address.starts_with("fe80:")).map(str::to_owned).collect()
}

async fn give(netlink: &Netlink, wanted: &[&str]) {
    let link = links::expect(netlink, &"eth0".into()).await.unwrap();
    no_errors(addresses::set(netlink, &link, &nets(wanted)).await);
    assert_eq!(carried().iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpNet>>(), nets(wanted));
}

#[test]
fn an_address_that_stays_is_not_touched() {
    inside(|netlink| async move {
        wire();
        // These routes would go with their source address.
        ip("route add 10.7.0.0/16 dev eth0 src 10.1.0.2");
        ip("route add fd07::/64 dev eth0 src fd01::2");
        give(&netlink, &["10.1.0.2/24", "10.4.0.1/16", "fd01::2/64", "fd04::1/64"]).await;
        give(&netlink, &["10.1.0.2/24", "fd01::2/64"]).await;
        assert_eq!(lines("route show 10.7.0.0/16").len(), 1);
        assert_eq!(lines("-6 route show fd07::/64").len(), 1);
        give(&netlink, &[]).await;
    });
}

#[test]
fn an_address_does_not_go_with_the_one_it_is_secondary_to() {
    inside(|netlink| async move {
        wire();
        give(&netlink, &["10.4.0.1/16"]).await;
        give(&netlink, &["10.4.0.1/16", "10.4.0.2/16"]).await;
        give(&netlink, &["10.4.0.2/16"]).await;
        give(&netlink, &["10.4.0.3/16"]).await;
    });
}

#[test]
fn routes_do_not_go_when_all_addresses_are_exchanged() {
    inside(|netlink| async move {
        ip("link add eth0 type veth peer name peer0");
        ip("link set eth0 up");
        for (old, new) in [("10.4.0.1/16", "10.4.0.2/16"), ("10.4.0.2/16", "10.5.0.1/16")] {
            give(&netlink, &[old]).await;
            ip("route replace 10.7.0.0/16 dev eth0 proto static");
            give(&netlink, &[new]).await;
            assert_eq!(lines("route show 10.7.0.0/16").len(), 1, "{old} to {new}");
        }
    });
}

#[test]
fn an_ipv6_address_can_be_used_at_once_and_link_local_ones_are_left_alone() {
    inside(|netlink| async move {
        ip("link add eth0 type veth peer name peer0");
        give(&netlink, &["fd04::1/64"]).await;
        ip("link set peer0 up");
        ip("link set eth0 up");
        let line = lines("-o -6 addr show dev eth0 to fd04::1");
        assert!(!line[0].contains("tentative"), "{line:?}");
        ip("addr add fe80::7/64 dev eth0 nodad");
        give(&netlink, &["fd04::2/64"]).await;
        assert_eq!(lines("-o -6 addr show dev eth0 to fe80::7").len(), 1);
    });
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_object() {
    inside(|netlink| async move {
        wire();
        let link = links::expect(&netlink, &"eth0".into()).await.unwrap();
        let errors = addresses::set(&netlink, &link, &nets(&["10.1.0.2/24", "fd01::2/64", "ff02::1/64"])).await;
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().starts_with("cannot add address ff02::1/64 dev eth0: "), "{}", errors[0]);
        assert_eq!(carried(), ["10.1.0.2/24", "fd01::2/64"]);
    });
}

#[test]
fn an_interface_is_found_raised_resized_and_deleted() {
    inside(|netlink| async move {
        ip("link add eth0 type veth peer name peer0");
        let name = "eth0".into();
        let look = || async { links::expect(&netlink, &name).await.unwrap() };
        let link = look().await;
        assert_eq!((link.mtu, link.up), (1500, false));
        links::set_mtu(&netlink, &link, 1420).await.unwrap();
        links::set_up(&netlink, &link, true).await.unwrap();
        let link = look().await;
        assert_eq!((link.mtu, link.up), (1420, true));
        assert_eq!(links::all(&netlink).await.unwrap().iter().filter(|other| **other == link).count(), 1);
        links::set_up(&netlink, &link, false).await.unwrap();
        assert!(!look().await.up);
        links::delete(&netlink, &link).await.unwrap();
        links::delete(&netlink, &link).await.unwrap();
        assert_eq!(links::find(&netlink, &name).await.unwrap(), None);
        let error = links::expect(&netlink, &name).await.unwrap_err();
        assert_eq!(error.to_string(), "interface eth0: does not exist");
        let error = links::find(&netlink, &"a-name-that-no-interface-can-have".into()).await.unwrap_err();
        assert!(error.to_string().contains("a-name-that-no-interface-can-have"), "{error}");
    });
}

/// So many routes that the kernel tells of them in several pieces.
fn crowd() {
    let directory = tempfile::tempdir().unwrap();
    let batch = directory.path().join("batch");
    let route = |n: u32| format!("route add 10.{}.{}.0/24 dev eth0 proto static metric 9\n", 2 + n / 256, n % 256);
    std::fs::write(&batch, (0..2000).map(route).collect::<String>()).unwrap();
    ip(&format!("-batch {}", batch.display()));
}

#[test]
fn lists_can_be_asked_for_at_the_same_time() {
    inside(|netlink| async move {
        wire();
        crowd();
        let lists = (0..100).map(|_| agent::os::routes::present(&netlink));
        for list in futures::future::join_all(lists).await {
            list.unwrap();
        }
    });
}

#[test]
fn a_list_that_nobody_waits_for_any_more_does_not_spoil_the_next() {
    inside(|netlink| async move {
        wire();
        crowd();
        let all = links::all(&netlink).await.unwrap().len();
        // Given up at every point where it waits.
        for patience in 1..50 {
            let mut abandoned = Box::pin(agent::os::routes::present(&netlink));
            for _ in 0..patience {
                if futures::poll!(&mut abandoned).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(abandoned);
            assert_eq!(links::all(&netlink).await.unwrap().len(), all);
        }
    });
}
