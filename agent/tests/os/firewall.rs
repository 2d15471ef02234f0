use std::{collections::BTreeSet, fmt::Write, process::Command};

use agent::os::firewall::Table;
use topology::{Firewall, TunnelKind, firewall::Guard};

use crate::namespace::{inside, run, set};

fn has_nft() -> bool {
    let found = Command::new("nft").arg("--version").output().is_ok();
    if !found {
        println!("skipped: needs nft");
    }
    found
}

fn firewall() -> Firewall {
    let nets = |texts: &[&str]| set(texts, |text| text.parse().unwrap());
    Firewall {
        masquerade_from: nets(&["10.42.0.0/24", "fd42::/64"]),
        masquerade_to: nets(&["10.1.0.9/32"]),
        known: nets(&["10.42.0.0/16", "10.4.0.1/32", "fd42::/48"]),
        guard: Some(Guard { kind: TunnelKind::Vxlan, from: nets(&["10.1.0.3/32", "fd01::3/128"]) }),
        clamp: ["kilo0".into(), "kilo-vxlan".into()].into(),
    }
}

#[test]
fn the_table_is_applied_guarded_and_removed() {
    if !has_nft() {
        return;
    }
    inside(|_| async {
        let mut table = Table::default();
        let wanted = firewall();
        assert!(!table.in_place().await.unwrap());
        assert!(table.set(&wanted).await.unwrap(), "applied");
        assert!(!table.set(&wanted).await.unwrap(), "nothing to do");
        for vandalism in [
            "nft flush ruleset",
            "nft delete table inet kilo",
            "nft flush chain inet kilo postrouting",
            "nft delete element inet kilo known4 { 10.4.0.1 }",
            "nft add element inet kilo from4 { 10.43.0.0/24 }",
            "nft add rule inet kilo postrouting accept",
        ] {
            run(vandalism);
            assert!(!table.in_place().await.unwrap(), "{vandalism}");
            assert!(table.set(&wanted).await.unwrap(), "{vandalism}");
            assert!(table.in_place().await.unwrap(), "{vandalism}");
        }
        let listing = run("nft list table inet kilo");
        assert!(listing.contains("10.42.0.0/24") && listing.contains("masquerade"), "{listing}");
        // A new agent does not know what the old one applied, and takes its table over.
        let mut next = Table::default();
        let mut changed = wanted.clone();
        changed.known.insert("10.77.0.0/24".parse().unwrap());
        assert!(next.set(&changed).await.unwrap());
        assert!(!table.in_place().await.unwrap());
        run("nft add table inet other");
        next.remove().await.unwrap();
        next.remove().await.unwrap();
        assert_eq!(run("nft list tables"), "table inet other\n");
    });
}

#[test]
fn a_table_for_a_large_mesh_goes_through() {
    if !has_nft() {
        return;
    }
    inside(|_| async {
        let known: BTreeSet<_> = (0..10_000_u32)
            .map(|n| {
                let mut text = String::new();
                write!(text, "10.{}.{}.{}/32", n >> 14, (n >> 7) & 127, (n & 127) * 2).unwrap();
                text.parse().unwrap()
            })
            .collect();
        let wanted = Firewall { known, ..firewall() };
        let mut table = Table::default();
        assert!(table.set(&wanted).await.unwrap());
        assert!(table.in_place().await.unwrap());
    });
}
