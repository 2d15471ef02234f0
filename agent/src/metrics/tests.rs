//! Names, labels and values as they are scraped, and their list in the documentation.

use std::{fmt::Write as _, fs, path::Path};

use topology::{
    PublicKey,
    report::{Batch, PeerReport, Watch},
};

use super::*;

/// Set to anything, it lets the test write what it otherwise compares (`make docs`).
const WRITE: &str = "KG_WRITE_DOCS";

fn peer(label: &str) -> PeerReport {
    PeerReport {
        label: label.to_owned(),
        public_key: PublicKey::new([7; 32]).unwrap(),
        endpoint: None,
        last_handshake: Some(1_700_000_000),
        rx_bytes: 5,
        tx_bytes: 6,
        endpoint_changes: 2,
        allowed_ips: 1,
        address: None,
        rtt_microseconds: Some(1500),
    }
}

/// What an agent with a series of every metric is scraped for.
fn scrape(peers: Vec<PeerReport>) -> String {
    let metrics = Metrics::default();
    metrics.failed("apply");
    metrics.refused("nodes", Some(403));
    metrics.refused("nodes", None);
    metrics.reconciling(&["host", "resync"].into());
    metrics.reconciled(
        Duration::from_millis(20),
        &Changes { made: [("routes", 3)].into(), repaired: [("routes", 1)].into() },
    );
    metrics.mesh(3, 2);
    metrics.left_out([Absence::Silent].iter());
    metrics.leads(true);
    let report = Report {
        watch: Watch { heard: Some(1_700_000_001), lag_milliseconds: Some(250) },
        applied: Some(1_700_000_002),
        drops: [("no_peer".to_owned(), 4)].into(),
        batches: [("tun_read".to_owned(), Batch { calls: 2, packets: 80 })].into(),
        peers,
        ..Report::new("me".into(), "1.2.3", "kilo0".into())
    };
    metrics.encode(&report, &[Check { name: "watch", problem: None }]).unwrap()
}

#[test]
fn names_labels_and_values() {
    let text = scrape(vec![peer("location:b")]);
    for line in [
        // Kilo's.
        "kilo_errors_total{event=\"apply\"} 1",
        "kilo_leader 1",
        "kilo_nodes 3",
        "kilo_peers 2",
        "kilo_reconciles_total 1",
        // Ours.
        "kilo_build_info{version=\"0.1.0\"} 1",
        "kilo_api_errors_total{request=\"nodes\",status=\"403\"} 1",
        "kilo_api_errors_total{request=\"nodes\",status=\"none\"} 1",
        "kilo_reconcile_reasons_total{reason=\"resync\"} 1",
        "kilo_reconcile_duration_seconds_bucket{le=\"0.025\"} 1",
        "kilo_changes_total{what=\"routes\"} 3",
        "kilo_repairs_total{what=\"routes\"} 1",
        "kilo_device_info{interface=\"kilo0\",backend=\"none\"} 1",
        "kilo_applied_timestamp_seconds 1700000002",
        "kilo_left_out_nodes{reason=\"silent\"} 1",
        "kilo_left_out_nodes{reason=\"unannounced\"} 0",
        "kilo_watch_heard_timestamp_seconds 1700000001",
        "kilo_watch_lag_seconds 0.25",
        "kilo_ready{check=\"watch\"} 1",
        "kilo_dropped_packets_total{cause=\"no_peer\"} 4",
        "kilo_data_path_calls_total{call=\"tun_read\"} 2",
        "kilo_data_path_packets_total{call=\"tun_read\"} 80",
        "kilo_peer_last_handshake_timestamp_seconds{peer=\"location:b\"} 1700000000",
        "kilo_peer_received_bytes_total{peer=\"location:b\"} 5",
        "kilo_peer_sent_bytes_total{peer=\"location:b\"} 6",
        "kilo_peer_endpoint_changes_total{peer=\"location:b\"} 2",
        "kilo_peer_rtt_seconds{peer=\"location:b\"} 0.0015",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_peer_that_is_gone_leaves_no_series() {
    assert!(!scrape(Vec::new()).contains("peer="));
}

#[test]
fn a_hostile_location_makes_one_line_of_bounded_length() {
    let text = scrape(vec![peer(&format!("location:\"}} 1\nkilo_leader 7\n{}", "x".repeat(300_000)))]);
    assert!(!text.lines().any(|line| line == "kilo_leader 7"));
    assert!(text.lines().all(|line| line.len() < 1000));
}

/// Name and type of each metric and what it says, as a table for people.
fn table(scraped: &str) -> String {
    let mut table = "| metric | type | |\n|---|---|---|\n".to_owned();
    let after = |line: &str, key: &str| line.strip_prefix(key).map(str::to_owned);
    let lines: Vec<&str> = scraped.lines().collect();
    for (index, help) in lines.iter().enumerate().filter_map(|(index, line)| Some((index, after(line, "# HELP ")?))) {
        let (name, help) = help.split_once(' ').unwrap();
        let kind = lines[index + 1].rsplit(' ').next().unwrap();
        let sample = lines[index + 1..].iter().find(|line| !line.starts_with('#')).unwrap();
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let labels: Vec<_> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
        let labels: Vec<_> = labels.into_iter().filter(|label| *label != "le").collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        _ = writeln!(table, "| `{name}{suffix}{labels}` | {kind} | {help} |");
    }
    table
}

#[test]
fn the_documentation_lists_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- metrics: made by `make docs` -->\n", "<!-- end of metrics -->\n");
    let (before, rest) = text.split_once(begin).expect("the list's beginning is marked");
    let (listed, after) = rest.split_once(end).expect("the list's end is marked");
    let table = table(&scrape(vec![peer("location:b")]));
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(listed, table, "docs/monitoring.md is not what the agent exports: run `make docs`");
}
