use agent::{
    os::{facts, kernel},
    resolver::system,
};
use topology::discovery::{Candidates, choose};

use crate::namespace::{inside, ip, wire};

#[test]
fn a_host_with_many_addresses_is_told_as_it_is() {
    inside(|netlink| async move {
        wire();
        ip("addr add 203.0.113.2/28 dev eth0");
        ip("addr add 10.9.9.9 peer 10.9.9.1/32 dev eth0");
        ip("addr add 10.8.0.1/24 dev peer0");
        ip("link set eth0 mtu 1400");
        ip("link add idle0 type bridge");
        ip("addr add 10.7.0.1/24 dev idle0");
        ip("addr add fd01::66/64 dev eth0 nodad preferred_lft 0");
        ip("route add default via 10.8.0.254 dev peer0 metric 100");
        ip("route add default via 10.1.0.1 dev eth0 metric 50");
        let facts = facts::gather(&netlink, &[]).await.unwrap();
        assert_eq!(facts.default_interface, Some("eth0".into()));
        let eth0 = &facts.interfaces[&"eth0".into()];
        assert_eq!(eth0.mtu, 1400);
        let mut addresses: Vec<String> = eth0.addresses.iter().map(ToString::to_string).collect();
        addresses.retain(|address| !address.starts_with("fe80:"));
        addresses.sort();
        assert_eq!(addresses, ["10.1.0.2/24", "10.9.9.9/32", "203.0.113.2/28", "fd01::2/64"]);
        assert_eq!(facts.interfaces[&"idle0".into()].addresses, [], "nobody can reach an interface that is down");
        let interfaces = facts.interfaces.into_iter().map(|(name, interface)| (name, interface.addresses));
        let candidates = Candidates {
            default_interface: facts.default_interface,
            interfaces: interfaces.collect(),
            ..Candidates::default()
        };
        let chosen = choose(&candidates);
        assert_eq!(chosen.internal_ips, ["10.1.0.2/24".parse().unwrap(), "fd01::2/64".parse().unwrap()]);
        assert_eq!(chosen.external_ip, Some("203.0.113.2".parse().unwrap()));
    });
}

#[test]
fn the_default_route_may_be_of_ipv6_only_or_missing() {
    inside(|netlink| async move {
        wire();
        let default = async || facts::gather(&netlink, &[]).await.unwrap().default_interface;
        assert_eq!(default().await, None);
        ip("route add default via 10.1.0.1 dev eth0 table 7");
        ip("route add blackhole default metric 5");
        assert_eq!(default().await, None);
        ip("-6 route add default via fd01::1 dev eth0");
        assert_eq!(default().await, Some("eth0".into()));
        ip("route add default nexthop dev peer0 nexthop dev eth0");
        assert_eq!(default().await, Some("peer0".into()));
    });
}

#[test]
fn the_hosts_name_resolves_as_for_other_programs() {
    inside(|_| async {
        let mut hostname = facts::Hostname::new("localhost".into(), system());
        let found = hostname.resolve().await;
        assert!(found.contains(&"127.0.0.1".parse().unwrap()), "{found:?}");
        let mut unknown = facts::Hostname::new("no-such-host.invalid".into(), system());
        assert_eq!(unknown.resolve().await, [] as [std::net::IpAddr; 0]);
    });
}

#[test]
fn the_question_for_wireguard_is_answered_and_leaves_nothing_behind() {
    inside(|netlink| async move {
        // `ip` asks the same kernel, so that the answer is known whatever kernel runs this.
        let known = std::process::Command::new("ip").args(["link", "add", "wgknown", "type", "wireguard"]).output();
        let known = known.unwrap().status.success();
        if known {
            ip("link del wgknown");
        }
        let before = ip("-o link show");
        assert_eq!(kernel::has_wireguard(&netlink).await.unwrap(), known);
        assert_eq!(ip("-o link show"), before);
    });
}
