//! The pictures of docs/concepts.md are what `kgctl graph -o svg` draws of such clusters.

use std::{fs, path::Path};

use topology::{Granularity, graph::Graph};

use crate::common::{Cluster, node, peer};

/// Set to anything: the pictures are written instead of compared (`make docs`).
const WRITE: &str = "KG_WRITE_DOCS";

/// Three locations of two nodes.
fn cluster() -> Cluster {
    let places = [("paris", 1), ("paris", 2), ("rome", 1), ("rome", 2), ("oslo", 1), ("oslo", 2)];
    let nodes = (1..).zip(places).map(|(n, (place, number))| node(&format!("{place}-{number}"), place, n));
    Cluster::new(nodes.collect(), Vec::new())
}

#[test]
fn the_pictures_in_docs_are_what_is_drawn() {
    let mut full = cluster();
    full.granularity = Granularity::Full;
    let mut with_peer = cluster();
    with_peer.peers = vec![peer("laptop", 99, "10.5.0.1/32")];
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    for (name, cluster) in [("location.svg", cluster()), ("full.svg", full), ("peer.svg", with_peer)] {
        let (topology, file) = (cluster.topology(), directory.join(name));
        let drawn = Graph::new(&topology, &[]).svg();
        if std::env::var_os(WRITE).is_some() {
            fs::write(file, drawn).expect("docs/pictures can be written");
        } else {
            let present = fs::read_to_string(file).unwrap_or_default();
            assert!(present == drawn, "docs/pictures/{name} is not what is drawn: run `make docs` and commit it");
        }
    }
}
