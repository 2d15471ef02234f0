//! `kgctl showconf`, from one cluster into another.

use std::{io::Write as _, process::Stdio};

use crate::cluster::{Cluster, KEY, text};

#[test]
fn a_node_that_does_not_lead_is_a_message_and_no_failure() {
    let cluster = Cluster::example();
    for arguments in [["showconf", "node", "paris-2"].as_slice(), &["showconf", "node", "paris-2", "--as-peer"]] {
        let output = cluster.kgctl(arguments);
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert_eq!(text(&output.stderr), "Node \"paris-2\" is not a leader node\n");
    }
}

#[test]
fn flags_that_do_nothing_are_told_and_change_nothing() {
    let cluster = Cluster::example();
    let plain = cluster.ok(&["showconf", "node", "paris-1"]);
    assert!(plain.starts_with("[Interface]\nListenPort = 51820\n\n[Peer]\nAllowedIPs = 10.42.3.0/24, "), "{plain}");
    let output = cluster.kgctl(&["showconf", "node", "paris-1", "-o", "yaml", "--allowed-ips=10.43.0.0/16"]);
    assert_eq!(text(&output.stdout), plain);
    assert_eq!(text(&output.stderr), "kgctl: warning: --output has no effect without --as-peer\n");
    assert!(cluster.ok(&["showconf", "node", "paris-1", "--port=4500"]).contains("\nListenPort = 4500\n"));
}

/// A Peer's own addresses, even those that the mesh does not give it because another has them.
#[test]
fn a_peer_as_a_peer_has_what_its_object_says() {
    let cluster = Cluster::example();
    let key = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    cluster.peer("phone", &serde_json::json!({"allowedIPs": ["10.5.0.1/32", "10.5.0.2/32"], "publicKey": key}));
    let shown = cluster.ok(&["showconf", "peer", "phone", "--as-peer"]);
    let expected =
        format!("[Peer]\nAllowedIPs = 10.5.0.1/32, 10.5.0.2/32\nPersistentKeepalive = 0\nPublicKey = {key}\n");
    assert_eq!(shown, expected);
    let others = cluster.ok(&["showconf", "peer", "laptop"]);
    assert!(others.contains("AllowedIPs = 10.5.0.2/32\n"), "{others}");
}

#[test]
fn what_is_shown_as_a_peer_can_be_applied_to_another_cluster_and_is_the_same_there() {
    let cluster = Cluster::example();
    if cluster.command("kubectl").args(["version", "--client"]).output().is_err() {
        println!("skipped: kubectl is not on PATH");
        return;
    }
    cluster.peer(
        "full",
        &serde_json::json!({
            "allowedIPs": ["10.5.0.9/32", "fd05::9/128"], "publicKey": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
            "presharedKey": KEY, "persistentKeepalive": 25,
            "endpoint": {"dnsOrIP": {"dns": "vpn.example.com"}, "port": 4500},
        }),
    );
    let other = Cluster::empty();
    let definition = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds.yaml");
    let defined = other.command("kubectl").args(["create", "-f", definition]).output().expect("kubectl runs");
    assert!(defined.status.success(), "{defined:?}");
    other.node("rome-1", "rome", 9, &serde_json::json!({}));

    for (kind, name) in [("node", "oslo-1"), ("peer", "full"), ("peer", "laptop")] {
        for format in ["yaml", "json"] {
            let arguments = [kind, name, "--as-peer", "--allowed-ips=10.43.0.0/16,10.44.0.0/16", "--output", format];
            let shown = cluster.ok(&[["showconf"].as_slice(), &arguments].concat());
            let mut apply = other.command("kubectl");
            let apply = apply.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut apply = apply.expect("kubectl runs");
            apply.stdin.take().expect("piped").write_all(shown.as_bytes()).expect("kubectl reads");
            let applied = apply.wait_with_output().expect("kubectl ends");
            assert!(applied.status.success(), "{shown}\n{}", text(&applied.stderr));
            assert_eq!(other.ok(&["showconf", "peer", name, "--as-peer", "--output", format]), shown);
        }
    }
}
