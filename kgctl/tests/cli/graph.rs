//! `kgctl graph` in its formats.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::cluster::{Cluster, text};

/// The example with a node that is not ready and a location whose name means something to everybody.
fn cluster() -> Cluster {
    let cluster = Cluster::example();
    cluster.node("paris-3", "paris", 4, &json!({"kilo.squat.ai/key": "nonsense"}));
    cluster.node("odd-1", "\"]; <b>\u{1b}[31m\n&amp;\\", 5, &json!({}));
    cluster
}

/// `kgctl graph` with a locale and a width of its own.
fn graph(cluster: &Cluster, format: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = cluster.command("kgctl");
    for name in ["LC_ALL", "LC_CTYPE", "LANG", "COLUMNS", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).args(["graph", "-o", format]).output().expect("kgctl runs")
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn dot_is_the_default_and_has_no_node_that_is_not_ready() {
    let cluster = cluster();
    let shown = cluster.ok(&["graph"]);
    assert!(shown.starts_with("digraph kilo {\n\tlabel=\"10.4.0.0/16\";\n"), "{shown}");
    assert!(shown.contains("\t\"paris-1\" -> \"paris-2\" [ dir=both ];\n"), "{shown}");
    assert!(shown.contains("\t\"paris-1\" -> \"laptop\" [ dir=both, style=dashed ];\n"), "{shown}");
    assert!(!shown.contains("paris-3"), "{shown}");
    assert_eq!(cluster.ok(&["graph", "--output=dot"]), shown);
    let unknown = cluster.kgctl(&["graph", "-o", "png"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("[possible values: dot, json, mermaid, svg, text]"), "{unknown:?}");
}

#[test]
fn graphviz_reads_the_source() {
    let source = cluster().ok(&["graph"]);
    let mut dot = Command::new("dot");
    dot.arg("-Tcanon").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut dot) = dot.spawn() else {
        println!("skipped: Graphviz' dot is not on PATH");
        return;
    };
    dot.stdin.take().expect("piped").write_all(source.as_bytes()).expect("dot reads");
    let output = dot.wait_with_output().expect("dot ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{source}");
    let nodes = text(&output.stdout).lines().filter(|line| line.contains("rank=1")).count();
    assert_eq!(nodes, 3, "three leaders: {}", text(&output.stdout));
}

#[test]
fn json_says_who_is_not_ready_and_why() {
    let shown = printed(&graph(&cluster(), "json", &[]));
    let document: Value = serde_json::from_str(&shown).expect("JSON");
    let nodes = document["nodes"].as_array().expect("nodes");
    let absent: Vec<_> = nodes.iter().filter(|node| node["ready"] == false).collect();
    assert_eq!(absent.len(), 1, "{shown}");
    assert_eq!(absent[0]["notReady"], json!(["has no kilo.squat.ai/key"]));
    let odd = nodes.iter().find(|node| node["name"] == "odd-1").expect("the odd one");
    assert_eq!(odd["location"], "\"]; <b>\u{1b}[31m\n&amp;\\");
}

#[test]
fn text_is_as_wide_as_the_terminal_and_speaks_its_encoding() {
    let cluster = cluster();
    let wide = printed(&graph(&cluster, "text", &[("LANG", "en_US.UTF-8")]));
    assert!(wide.contains("│ ★ paris-1  10.4.0.3 ") && wide.contains("has no kilo.squat.ai/key\n"), "{wide}");
    assert!(wide.lines().all(|line| line.chars().count() <= 80) && !wide.contains('\u{1b}'), "{wide}");
    let narrow = printed(&graph(&cluster, "text", &[("LC_ALL", "C"), ("LANG", "en_US.UTF-8"), ("COLUMNS", "30")]));
    assert!(narrow.is_ascii() && narrow.contains("| * paris-1"), "{narrow}");
    assert!(narrow.lines().all(|line| line.len() <= 30), "{narrow}");
}

#[test]
fn svg_and_mermaid_show_everybody() {
    let cluster = cluster();
    let svg = printed(&graph(&cluster, "svg", &[]));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("<g class=\"node absent\" data-node=\"paris-3\">"), "{svg}");
    let chart = printed(&graph(&cluster, "mermaid", &[]));
    assert!(chart.contains("\nflowchart LR\n") && chart.contains("[\"paris-3<br/>"), "{chart}");
    assert!(!svg.contains('\u{1b}') && !chart.contains('\u{1b}'));
}
