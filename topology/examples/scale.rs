//! How long one leader takes to build the mesh and its own plan: the numbers in the documentation.
//!
//! `cargo run --release -p topology --example scale`; the fastest of several runs, on one core.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use topology::{Granularity, Input, Local, Node, NodeName, Plan, PublicKey, Topology};

/// `base` plus `offset` as a network.
fn net(base: [u8; 4], offset: u32, length: u8) -> IpNet {
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + offset);
    IpNet::new(ip.into(), length).expect("a valid length")
}

/// Node number `n`, with a /24 of pods and, if asked, one address of its location that is no node's.
fn node(n: u32, locations: u32, extra: bool) -> Node {
    let mut key = [1; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    let location = n % locations;
    // One for each location, as in the figures known for Kilo.
    let extras = (extra && n < locations).then(|| net([172, 20, 0, 0], location, 32));
    Node {
        name: format!("node-{n:05}").into(),
        location: format!("location-{location:03}").into(),
        endpoint: Some(topology::Endpoint::Address((net([203, 0, 0, 0], n, 32).addr(), 51820).into())),
        key: PublicKey::new(key).ok(),
        pod_cidrs: vec![net([10, 64, 0, 0], n * 256, 24)],
        internal_ips: vec![net([10, 1, 0, 0], n, 16)],
        allowed_location_ips: extras.into_iter().collect(),
        ..Node::default()
    }
}

fn build_and_plan(input: &Input<'_>, local: &Local<'_>) -> usize {
    let topology = Topology::build(input).expect("enough addresses");
    let plan = Plan::new(&topology, local).expect("part of the mesh");
    assert!(plan.leader && topology.warnings.is_empty() && plan.warnings.is_empty());
    plan.routes.len()
}

fn measure(nodes: u32, locations: u32, granularity: Granularity, extra: bool) -> (Duration, usize) {
    let nodes: Vec<Node> = (0..nodes).map(|n| node(n, locations, extra)).collect();
    let subnets = [net([10, 4, 0, 0], 0, 16)];
    let input = Input { nodes: nodes.iter().collect(), peers: Vec::new(), granularity, subnets: &subnets };
    let name = NodeName::from("node-00000");
    let (discovered, resolved) = (BTreeMap::new(), BTreeMap::new());
    let local = Local {
        name: &name,
        interface: "kilo0".into(),
        private_interfaces: BTreeMap::from([(IpAddr::from([10, 1, 0, 0]), "eth0".into())]),
        provider: None,
        local_routes: true,
        encapsulation: None,
        cni: true,
        service_cidrs: &[],
        discovered: &discovered,
        resolved: &resolved,
    };
    let runs = (0..20).map(|_| {
        let start = Instant::now();
        let routes = black_box(build_and_plan(black_box(&input), black_box(&local)));
        (start.elapsed(), routes)
    });
    // Nothing here waits, so the fastest run is the one that nobody else took the core from.
    runs.min().expect("some runs")
}

fn main() {
    println!("{:>6} {:>10} {:>8} {:>10} {:>8}", "nodes", "segments", "extras", "time/ms", "routes");
    for (nodes, locations, extra) in [
        (100, 10, false),
        (1000, 50, false),
        (5000, 250, false),
        (5000, 250, true),
        (5000, 5000, false),
        (5000, 5000, true),
    ] {
        let granularity = if nodes == locations { Granularity::Full } else { Granularity::Location };
        let (time, routes) = measure(nodes, locations, granularity, extra);
        let extras = if extra { locations } else { 0 };
        println!("{nodes:>6} {locations:>10} {extras:>8} {:>10.2} {routes:>8}", time.as_secs_f64() * 1e3);
    }
}
