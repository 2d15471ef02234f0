//! All of it behind the agent's trait, as the agent uses it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use agent::{
    host::Host,
    os::{Linux, Settings, routes},
};

use crate::namespace::{inside, ip, lines, no_errors, route, set, wire};

fn settings(state: PathBuf) -> Settings {
    Settings {
        interface: "kilo0".into(),
        hostname: "localhost".into(),
        state,
        firewall: true,
        forward_rules: true,
        conflist: None,
    }
}

#[test]
fn a_leaders_state_is_reached_kept_over_a_crash_and_undone() {
    inside(|netlink| async move {
        wire();
        // Stands for the WireGuard interface: like it, it needs no neighbours.
        ip("link add kilo0 type veth peer name kilo0peer");
        ip("link set kilo0peer up");
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state/kilo0.json");
        fs::create_dir(state.parent().unwrap()).unwrap();
        let addresses = set(&["10.4.0.1/16", "fd04::1/64"], |text| text.parse().unwrap());
        let wanted = set(
            &[
                "10.2.0.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.2",
                "fd02::/64 via fd04::2 dev kilo0 src fd01::2",
                "10.5.0.5/32 dev kilo0",
            ],
            route,
        );
        // The order is the agent's for a leader.
        let mut host = Linux::open(settings(state.clone())).unwrap();
        no_errors(host.set_addresses(&addresses).await);
        no_errors(host.set_link(true, 1420).await);
        no_errors(host.set_routes(&wanted).await);
        let facts = host.facts().await.unwrap();
        assert_eq!(facts.interfaces[&"kilo0".into()].mtu, 1420);
        assert!(!facts.hostname.is_empty());

        // Down and up again, as when someone resets the interface: the kernel forgets the routes.
        ip("link set kilo0 down");
        no_errors(host.set_addresses(&addresses).await);
        no_errors(host.set_link(true, 1420).await);
        no_errors(host.set_routes(&wanted).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted);
        drop(host);

        let mut host = Linux::open(settings(state.clone())).unwrap();
        no_errors(host.set_routes(&BTreeSet::new()).await);
        no_errors(host.set_link(false, 1420).await);
        assert_eq!(routes::present(&netlink).await.unwrap(), BTreeSet::new());
        assert!(!state.exists());

        // Nothing that the agent cannot know of was changed.
        assert_eq!(lines("-o -4 addr show dev eth0").len(), 1);
        ip("link del kilo0");
        let failures = host.set_link(true, 1420).await;
        assert_eq!(failures.len(), 1);
        assert_eq!((failures[0].doing, failures[0].error.as_str()), ("link", "interface kilo0: does not exist"));
    });
}

#[test]
fn a_memory_that_cannot_be_written_is_told_and_does_not_stop_the_mesh() {
    inside(|netlink| async move {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let mut host = Linux::open(settings(directory.path().join("missing/kilo0.json"))).unwrap();
        let wanted = set(&["10.2.0.0/24 via 10.4.0.2 dev eth0"], route);
        let failures = host.set_routes(&wanted).await;
        assert!(failures.iter().all(|failure| failure.error.contains("missing/kilo0.json")), "{failures:?}");
        assert!(!failures.is_empty());
        assert_eq!(routes::present(&netlink).await.unwrap(), wanted);
    });
}
