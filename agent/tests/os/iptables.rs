//! Accepts in iptables' FORWARD chains, with the real programs of both kinds.

use std::{collections::BTreeSet, process::Command};

use agent::os::iptables;
use ipnet::IpNet;

use crate::namespace::{inside, no_errors, run, set};

const KINDS: [&str; 2] = ["legacy", "nft"];

fn has_iptables() -> bool {
    let runs = |kind| Command::new(format!("iptables-{kind}")).arg("-V").output().is_ok_and(|it| it.status.success());
    let found = KINDS.iter().all(runs);
    if !found {
        println!("skipped: needs iptables-legacy and iptables-nft");
    }
    found
}

fn networks(texts: &[&str]) -> BTreeSet<IpNet> {
    set(texts, |text| text.parse().unwrap())
}

fn forward(program: &str) -> Vec<String> {
    run(&format!("{program} -w 5 -S")).lines().filter(|line| line.contains("FORWARD")).map(str::to_owned).collect()
}

/// What `iptables -S` says of the chain with policy DROP and a stranger's rule, and ours before it.
fn accepted(nets: &[&str]) -> Vec<String> {
    let head = ["-P FORWARD DROP", "-N KILO-FORWARD"];
    let jump = r#"-A FORWARD -m comment --comment "Kilo: forward packets of the mesh" -j KILO-FORWARD"#;
    let rules = nets.iter().flat_map(|net| ["-s", "-d"].map(|side| format!("-A KILO-FORWARD {side} {net} -j ACCEPT")));
    let stranger = "-A FORWARD -p tcp -j DROP".to_owned();
    head.map(str::to_owned).into_iter().chain([jump.to_owned(), stranger]).chain(rules).collect()
}

#[test]
fn what_is_in_use_is_told_kept_and_undone() {
    if !has_iptables() {
        return;
    }
    for (in_use, other) in [("legacy", "nft"), ("nft", "legacy")] {
        inside(move |_| async move {
            let (v4, v6) = (format!("iptables-{in_use}"), format!("ip6tables-{in_use}"));
            for program in [&v4, &v6] {
                run(&format!("{program} -w 5 -P FORWARD DROP"));
                run(&format!("{program} -w -A FORWARD -p tcp -j DROP"));
            }
            let (before4, before6) = (forward(&v4), forward(&v6));
            let wanted = networks(&["10.42.1.0/24", "10.1.0.2/32", "fd42:1::/64"]);
            no_errors(iptables::set(Some(&wanted)).await);
            assert_eq!(forward(&v4), accepted(&["10.1.0.2/32", "10.42.1.0/24"]));
            assert_eq!(forward(&v6), accepted(&["fd42:1::/64"]));
            no_errors(iptables::set(Some(&wanted)).await);
            assert_eq!(forward(&v4).len(), 8, "once is enough");

            for damage in ["-F FORWARD", "-F KILO-FORWARD", "-D KILO-FORWARD 1", "-A KILO-FORWARD -j DROP"] {
                run(&format!("{v4} -w 5 {damage}"));
                no_errors(iptables::set(Some(&wanted)).await);
                let now = forward(&v4);
                let ours = accepted(&["10.1.0.2/32", "10.42.1.0/24"]);
                assert!(ours.iter().filter(|line| !line.contains("tcp")).all(|line| now.contains(line)), "{now:#?}");
                assert!(!now.contains(&"-A KILO-FORWARD -j DROP".to_owned()), "{now:#?}");
            }
            // It went with -F FORWARD.
            run(&format!("{v4} -w -A FORWARD -p tcp -j DROP"));

            // A copy of the jump goes, too.
            let mut copy = Command::new(&v4);
            copy.args(["-w", "-A", "FORWARD", "-m", "comment", "--comment", "Kilo: forward packets of the mesh"]);
            assert!(copy.args(["-j", "KILO-FORWARD"]).status().unwrap().success());
            no_errors(iptables::set(Some(&networks(&["10.42.9.0/24"]))).await);
            assert_eq!(forward(&v6).len(), 4, "none is left for IPv6");
            no_errors(iptables::set(None).await);
            no_errors(iptables::set(None).await);
            assert_eq!((forward(&v4), forward(&v6)), (before4, before6));

            // The other kind was never brought into use.
            let tables = if other == "nft" {
                run("nft list tables")
            } else {
                std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default()
            };
            assert_eq!(tables, "");
        });
    }
}

#[test]
fn both_are_told_where_both_are_in_use_and_none_where_none_is() {
    if !has_iptables() {
        return;
    }
    inside(|_| async {
        let wanted = networks(&["10.42.1.0/24"]);
        no_errors(iptables::set(Some(&wanted)).await);
        assert_eq!(run("nft list tables"), "");
        for kind in KINDS {
            run(&format!("iptables-{kind} -w 5 -P FORWARD DROP"));
        }
        no_errors(iptables::set(Some(&wanted)).await);
        for kind in KINDS {
            assert_eq!(forward(&format!("iptables-{kind}")).len(), 5, "{kind}");
        }
    });
}
