//! `kgctl status`: what can be said without any agent, and how it ends.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cluster::{Cluster, text};

/// What is on stdout, which must be JSON, and the exit code.
#[track_caller]
fn document(cluster: &Cluster, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = cluster.kgctl(&[&["status", "-o", "json"], arguments].concat());
    let document = serde_json::from_slice(&output.stdout);
    (document.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}")), output.status.code())
}

#[test]
fn what_the_api_server_knows_is_shown_without_agents() {
    let cluster = Cluster::example();
    let output = cluster.kgctl(&["status", "--no-agents"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = text(&output.stdout);
    for word in ["paris-1", "paris-2", "oslo-1", "leader", "(NAT)", "laptop", "All is as it should be."] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    // The nodes have no addresses that a proxy could lead to.
    let (document, code) = document(&cluster, &["--via", "node"]);
    assert_eq!(code, Some(3));
    let troubles = document["troubles"].as_array().expect("troubles");
    assert_eq!(troubles.len(), 3, "{document:#}");
    assert!(troubles.iter().all(|trouble| trouble["kind"] == "unreachable"), "{document:#}");
    assert_eq!(document["nodes"][0]["endpoint"], "203.0.113.3:51820");
}

#[test]
fn clusters_without_a_mesh_are_shown_too() {
    let cluster = Cluster::empty();
    let (found, code) = document(&cluster, &["--no-agents"]);
    let objects: Vec<_> = found["troubles"].as_array().into_iter().flatten().map(|it| &it["object"]).collect();
    assert_eq!(objects, ["mesh", "customresourcedefinition/peers.kilo.squat.ai"]);
    assert_eq!((found["nodes"].as_array().map(Vec::len), code), (Some(0), Some(3)));

    let seen = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let none = json!({"kilo.squat.ai/key": "", "kilo.squat.ai/last-seen": seen.to_string()});
    cluster.node("new-1", "paris", 1, &none);
    let (found, code) = document(&cluster, &["--no-agents"]);
    assert_eq!((&found["nodes"][0]["part"], code), (&json!("leftOut"), Some(3)));
    assert_eq!(found["nodes"][0]["reasons"], json!(["has no kilo.squat.ai/key"]));
}

#[test]
fn nodes_can_be_chosen_and_wrong_names_are_named() {
    let cluster = Cluster::example();
    let (found, _) = document(&cluster, &["--no-agents", "--location", "paris"]);
    assert_eq!(found["nodes"].as_array().map(Vec::len), Some(2));
    let (found, _) = document(&cluster, &["--no-agents", "paris-2", "oslo-1"]);
    assert_eq!(found["nodes"].as_array().map(Vec::len), Some(2));
    for (arguments, code, message) in [
        (["status", "paris1"], 1, "did not find any node named \"paris1\" in the cluster; did you mean \"paris-1\""),
        (["status", "--location=pari"], 1, "no node is in location \"pari\"; did you mean \"paris\""),
        (["status", "--via=pigeon"], 2, "invalid value 'pigeon' for '--via <WAY>'"),
        (["status", "--agent-port=0"], 2, "0 is not in 1..=65535"),
    ] {
        let output = cluster.kgctl(&arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stderr).contains(message), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    let output = cluster.kgctl(&["status", "--no-agents", "--via=node"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_watch_shows_changes_and_ends_with_its_reader() {
    use std::io::{BufRead, BufReader};
    let cluster = Cluster::example();
    let mut kgctl = cluster.command("kgctl");
    kgctl.args(["status", "--watch", "--no-agents", "-o", "json"]).stdout(std::process::Stdio::piped());
    let mut kgctl = kgctl.spawn().expect("kgctl runs");
    let mut lines = BufReader::new(kgctl.stdout.take().expect("its output")).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["nodes"].as_array().map(Vec::len), Some(3));
    cluster.node("rome-1", "rome", 4, &json!({}));
    while next()["nodes"].as_array().map(Vec::len) != Some(4) {}
    drop(lines);
    assert!(kgctl.wait().expect("its end").success());
}
