//! The tunnel inside a location, as a real interface. IPIP only where the kernel has it.

use std::{collections::BTreeSet, path::Path};

use agent::{
    host::Host,
    os::{Linux, Netlink, Settings, tunnel},
};
use topology::{
    Tunnel, TunnelKind,
    tunnel::{Forwarding, Mac, Neighbour},
};

use crate::namespace::{inside, ip, lines, no_errors, run, set, wire};

fn vxlan(local: &str, others: &[(u8, &str, &str)]) -> Tunnel {
    let mac = |n| Mac([2, 0, 0, 0, 0, n]);
    let ip = |text: &str| text.parse().unwrap();
    Tunnel {
        kind: TunnelKind::Vxlan,
        interface: TunnelKind::Vxlan.interface(),
        borrowed: false,
        local: ip(local),
        mac: mac(1),
        addresses: set(&["10.42.1.1/32", "fd42:1::1/128"], |text| text.parse().unwrap()),
        neighbours: others.iter().map(|(n, gateway, _)| Neighbour { ip: ip(gateway), mac: mac(*n) }).collect(),
        forwarding: others.iter().map(|(n, _, dst)| Forwarding { mac: mac(*n), dst: ip(dst) }).collect(),
    }
}

fn ipip(address: &str) -> Tunnel {
    Tunnel {
        kind: TunnelKind::Ipip,
        interface: TunnelKind::Ipip.interface(),
        addresses: set(&[address], |text| text.parse().unwrap()),
        ..vxlan("10.1.0.2", &[])
    }
}

/// Whether the kernel has `kind`; if not, says that the test does not run.
async fn has(netlink: &Netlink, kind: TunnelKind) -> bool {
    let available = tunnel::is_available(netlink, kind).await.unwrap();
    if !available {
        println!("skipped: the kernel has no {kind}");
    }
    available
}

/// Of a host that has nothing but a tunnel of ours.
fn settings(directory: &Path) -> Settings {
    let (interface, hostname, state) = ("kilo0".into(), "localhost".into(), directory.join("kilo0.json"));
    Settings { interface, hostname, state, firewall: false, forward_rules: false, conflist: None }
}

/// All that `set` is about, a line each.
fn state() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for command in ["bridge fdb show dev kilo-vxlan", "ip neigh show dev kilo-vxlan nud permanent"] {
        all.extend(run(command).lines().map(|line| line.trim().to_owned()));
    }
    let addresses = lines("-o addr show dev kilo-vxlan");
    all.extend(addresses.iter().filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned())));
    all.retain(|line| !line.starts_with("fe80:"));
    all
}

#[test]
fn vxlan_is_made_kept_and_removed() {
    inside(|netlink| async move {
        if !has(&netlink, TunnelKind::Vxlan).await {
            return;
        }
        wire();
        let wanted = vxlan("10.1.0.2", &[(3, "10.1.0.3", "10.1.0.3"), (4, "fd01::4", "10.1.0.4")]);
        no_errors(tunnel::set(&netlink, &wanted, 1450).await);
        let link = ip("-d link show dev kilo-vxlan");
        for part in ["mtu 1450", "02:00:00:00:00:01", "id 1107", "local 10.1.0.2", "dstport 1107", "nolearning", "UP"] {
            assert!(link.contains(part), "{part}: {link}");
        }
        let right = state();
        let expected = [
            "02:00:00:00:00:03 dst 10.1.0.3 self permanent",
            "02:00:00:00:00:04 dst 10.1.0.4 self permanent",
            "10.1.0.3 lladdr 02:00:00:00:00:03 PERMANENT",
            "10.42.1.1/32",
            "fd01::4 lladdr 02:00:00:00:00:04 PERMANENT",
            "fd42:1::1/128",
        ];
        assert_eq!(right.iter().map(String::as_str).collect::<Vec<_>>(), expected);

        // Nothing to do leaves the interface as it is, and so does repair of what others damaged.
        for damage in [
            "true",
            "ip link set kilo-vxlan mtu 1280",
            "ip link set kilo-vxlan down",
            "ip addr del 10.42.1.1/32 dev kilo-vxlan",
            "ip neigh flush dev kilo-vxlan nud permanent",
            "ip neigh replace 10.1.0.3 lladdr 02:00:00:00:00:09 dev kilo-vxlan nud permanent",
            "bridge fdb del 02:00:00:00:00:03 dev kilo-vxlan dst 10.1.0.3",
            "bridge fdb add 02:00:00:00:00:09 dev kilo-vxlan dst 10.1.0.9",
            "bridge fdb append 00:00:00:00:00:00 dev kilo-vxlan dst 10.1.0.9",
        ] {
            let number = lines("-o link show dev kilo-vxlan")[0].split(':').next().unwrap().to_owned();
            run(damage);
            no_errors(tunnel::set(&netlink, &wanted, 1450).await);
            assert_eq!(state(), right, "{damage}");
            let link = ip("-o link show dev kilo-vxlan");
            assert!(link.starts_with(&format!("{number}:")) && link.contains("mtu 1450") && link.contains("UP"));
        }

        // What cannot be changed is made anew: another address under it, or a stranger's parameters.
        let moved = vxlan("fd01::2", &[(3, "10.1.0.3", "fd01::3")]);
        no_errors(tunnel::set(&netlink, &moved, 1430).await);
        assert!(ip("-d link show dev kilo-vxlan").contains("local fd01::2"));
        assert!(state().contains("02:00:00:00:00:03 dst fd01::3 self permanent"), "{:?}", state());
        ip("link del kilo-vxlan");
        ip("link add kilo-vxlan type vxlan id 7 dstport 4789");
        no_errors(tunnel::set(&netlink, &wanted, 1450).await);
        assert_eq!(state(), right);

        no_errors(tunnel::remove(&netlink, &wanted.interface).await);
        no_errors(tunnel::remove(&netlink, &wanted.interface).await);
        assert!(!ip("-o link").contains("kilo-vxlan"));

        // Not even removed: it is no tunnel.
        ip("link add kilo-vxlan type veth peer name other");
        let errors = tunnel::set(&netlink, &wanted, 1450).await;
        assert_eq!(
            errors[0].to_string(),
            "interface kilo-vxlan: is a veth and not the vxlan that --encapsulate needs: remove or rename it"
        );
        no_errors(tunnel::remove(&netlink, &wanted.interface).await);
        assert!(ip("-o link").contains("kilo-vxlan"));
    });
}

#[test]
fn the_tunnel_of_an_agent_that_was_killed_is_known_as_ours() {
    inside(|netlink| async move {
        if !has(&netlink, TunnelKind::Vxlan).await {
            return;
        }
        wire();
        let directory = tempfile::tempdir().unwrap();
        let open = || Linux::open(settings(directory.path())).unwrap();
        // A stranger's is not ours because it has the name.
        ip("link add kilo-vxlan type vxlan id 7 dstport 4789");
        no_errors(open().set_tunnel(None).await);
        assert!(ip("-o link").contains("kilo-vxlan"));
        let wanted = vxlan("10.1.0.2", &[(3, "10.1.0.3", "10.1.0.3")]);
        no_errors(open().set_tunnel(Some((&wanted, 1450))).await);
        no_errors(open().set_tunnel(None).await);
        assert!(!ip("-o link").contains("kilo-vxlan"));
        assert!(!directory.path().join("kilo0.json").exists());
    });
}

#[test]
fn tunl0_gets_its_address_and_loses_it() {
    inside(|netlink| async move {
        if !has(&netlink, TunnelKind::Ipip).await {
            return;
        }
        wire();
        let wanted = ipip("10.42.1.1/32");
        for _ in 0..2 {
            no_errors(tunnel::set(&netlink, &wanted, 1480).await);
            let link = ip("-d link show dev tunl0");
            assert!(link.contains("mtu 1480") && link.contains("UP") && link.contains("remote any"), "{link}");
            assert!(ip("-o addr show dev tunl0").contains("10.42.1.1/32"));
        }
        ip("route add 10.42.2.0/24 via 10.1.0.3 dev tunl0 onlink");
        no_errors(tunnel::remove(&netlink, &wanted.interface).await);
        assert!(!ip("-o addr").contains("tunl0") && !ip("-o link show up").contains("tunl0"));
    });
}

/// Another network provider's addresses on `tunl0` stay as they are, and so does its MTU; without one it is as if ours.
#[test]
fn tunl0_is_shared_where_it_is_not_ours_alone() {
    inside(|netlink| async move {
        if !has(&netlink, TunnelKind::Ipip).await {
            return;
        }
        wire();
        let directory = tempfile::tempdir().unwrap();
        let open = || Linux::open(settings(directory.path())).unwrap();
        let wanted = Tunnel { borrowed: true, ..ipip("10.1.0.2/32") };
        no_errors(open().set_tunnel(Some((&wanted, 1430))).await);
        let link = ip("-o addr show up dev tunl0") + &ip("-o link show dev tunl0");
        assert!(link.contains("10.1.0.2/32") && link.contains("mtu 1430"), "{link}");
        no_errors(open().set_tunnel(None).await);
        assert!(!ip("-o addr").contains("tunl0") && !ip("-o link show up").contains("tunl0"));

        ip("addr add 10.44.1.0/32 dev tunl0");
        ip("link set tunl0 up mtu 1440");
        no_errors(open().set_tunnel(Some((&wanted, 1430))).await);
        no_errors(open().set_tunnel(Some((&wanted, 1430))).await);
        let link = ip("-o addr show up dev tunl0") + &ip("-o link show dev tunl0");
        assert!(link.contains("10.1.0.2/32") && link.contains("10.44.1.0/32") && link.contains("mtu 1440"), "{link}");
        no_errors(open().set_tunnel(None).await);
        let link = ip("-o addr show up dev tunl0");
        assert!(link.contains("10.44.1.0/32") && !link.contains("10.1.0.2"), "{link}");
    });
}

#[test]
fn a_borrowed_tunnel_is_used_and_given_back_as_it_was() {
    inside(|netlink| async move {
        if !has(&netlink, TunnelKind::Ipip).await {
            return;
        }
        wire();
        let directory = tempfile::tempdir().unwrap();
        let open = || Linux::open(settings(directory.path())).unwrap();
        let with = |address| Tunnel { interface: "cilium_tunl".into(), borrowed: true, ..ipip(address) };
        let own = ipip("10.1.0.2/32");
        // Whoever lends it renames it while it is ours.
        ip("link add fallback type ipip external");
        no_errors(open().set_tunnel(Some((&own, 1430))).await);
        ip("link set tunl0 down");
        ip("link set tunl0 name cilium_tunl");
        ip("link set cilium_tunl mtu 1480");
        ip("addr add 10.9.9.9/32 dev cilium_tunl");
        for address in ["10.1.0.2/32", "10.1.0.2/32", "10.1.0.7/32"] {
            no_errors(open().set_tunnel(Some((&with(address), 1430))).await);
            let addresses: BTreeSet<String> = lines("-o -4 addr show dev cilium_tunl")
                .iter()
                .filter_map(|line| Some(line.split_whitespace().nth(3)?.to_owned()))
                .collect();
            assert_eq!(addresses, set(&[address, "10.9.9.9/32"], |text| text.to_owned()));
            let link = ip("-o link show up dev cilium_tunl");
            assert!(link.contains("mtu 1480"), "{link}");
        }
        no_errors(open().set_tunnel(None).await);
        let addresses = ip("-o addr show up dev cilium_tunl");
        assert!(addresses.contains("10.9.9.9/32") && !addresses.contains("10.1.0."), "{addresses}");
        assert!(!directory.path().join("kilo0.json").exists());
    });
}
