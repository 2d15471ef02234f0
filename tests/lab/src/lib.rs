//! A test bed: a small internet with a Kubernetes cluster spread over it, on one machine.
//!
//! Hosts, routers and pods are network namespaces; between them are real links, routes, address
//! translation and packet filters. The API server is real or speaks the real protocol, pods are
//! attached by real CNI plugins, agents are the real `kg`. Needs root, and `ip`, `nft` and
//! `/usr/lib/cni` on the machine. Nothing is done to the machine's own network but listening on a
//! loopback port, and all of a lab vanishes when its process ends, even by SIGKILL.
//!
//! # Writing a test
//!
//! ```no_run
//! use std::time::Duration;
//! use lab::{Access, Api, Lab, NodeSpec, Spec};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::start(
//!     Spec::unique("join") // a name of its own: many labs can be up at once
//!         .api(Api::Embedded) // or Api::Real; lab::available(api) says whether it can run here
//!         .location("paris", Access::Public)
//!         .location("oslo", Access::Elastic) // 1:1 NAT: nodes get force-endpoint
//!         .location("home", Access::Masquerade) // NAT: nodes get persistent-keepalive
//!         .nodes("paris", 2) // paris-1, paris-2
//!         .nodes("oslo", 1)
//!         .node(NodeSpec::new("home-1", "home").dual_stack().annotation("leader", "")),
//! )?;
//! lab.start_agents(&["--check-in-period=2s"])?;
//! lab.add_pods(1)?; // waits for kg to fill the conflist; paris-1-pod1, …
//! lab.wait_mesh(Duration::from_secs(30))?; // everybody reaches everybody, sources unchanged
//!
//! // A flow proves that no packet is lost while something changes.
//! let flow = lab.flow("paris-1-pod1", lab.pod_ip("oslo-1-pod1")?)?;
//! lab.annotate("paris-2", "leader", Some("true"))?; // short keys are in kilo.squat.ai/
//! lab.wait_until(Duration::from_secs(10), "paris-2 leads", || {
//!     Ok(lab.annotation("paris-2", "wireguard-ip")?.is_some_and(|ip| !ip.is_empty()))
//! })?;
//! println!("lost: {:?}", flow.stop()?.lost);
//!
//! println!("{}", lab.exec("paris-2", &["wg", "show"])?); // a command on any host or pod
//! # Ok(())
//! # }
//! ```
//!
//! # What there is
//!
//! * Shape: [`Spec`], [`NodeSpec`], [`Access`]; a second cluster on the same internet with
//!   [`Lab::start_beside`]; at run time [`Lab::create_node`], [`Lab::delete_node`],
//!   [`Lab::move_host`], [`Lab::add_host`], [`Lab::remove_host`], [`Lab::add_location`].
//! * Agents: [`Lab::start_agent`], [`Lab::stop_agent`] (SIGTERM), [`Lab::kill_agent`] (SIGKILL),
//!   [`Lab::agent_log`], [`Lab::kgctl`].
//! * API: [`Lab::annotate`], [`Lab::annotation`], [`Lab::label`], [`Lab::patch_node`], [`Lab::node`],
//!   [`Lab::leaders`], [`Lab::apply_peer`], [`Lab::delete_peer`]; outages with [`Lab::api_stop`] and
//!   [`Lab::api_start`]; anything else with [`Lab::client`] and [`Lab::block_on`].
//! * Pods: [`Lab::add_pod`], [`Lab::remove_pod`], [`Lab::pod_ip`]; more networks and other plugins with
//!   [`Lab::attach`], [`Lab::add_pod_with`], [`Lab::plugin_directory`].
//! * Proofs: [`Lab::wait_mesh`], [`Lab::http`], [`http_with_marker`], [`Lab::ping`], [`Lab::flow`],
//!   [`Lab::capture`], [`Lab::capture_uplink`], [`Lab::wait_until`].
//! * Kubernetes' own rules for its network, services by kube-proxy's rules and network policies among them:
//!   [`Lab::rules`], which every test of a network provider should call once its mesh is up.
//! * Looking and meddling: [`Lab::exec`] ([`Space::command`] and [`spawn`] for what should go on
//!   running), [`Lab::routes`], [`Lab::set_names`], [`Lab::space`].
//! * Outsiders: [`Lab::start_kgctl`] (`kgctl connect` and others that stay), [`Lab::start_peer`] runs WireGuard on a host that is no node; [`Outsider::sync`].
//!
//! All deadlines are multiplied by `$KG_PATIENCE` ([`patience`]), and `$KG_WIREGUARD` is what agents get as
//! `--wireguard` unless the test says otherwise.
//!
//! Methods block and must not be called from inside a tokio runtime: write plain `#[test]` functions.
#![deny(unsafe_code)]

mod agents;
mod api;
mod background;
mod capture;
mod cluster;
mod cni;
mod flow;
mod kube_proxy;
mod lab;
mod mesh;
mod open_vswitch;
mod outsider;
mod pods;
mod preflight;
mod probe;
mod providers;
mod rules;
mod servers;
mod space;
mod spec;
pub mod state;
pub mod sys;
mod underlay;

pub use agents::{RIGHTS, program};
pub use background::Background;
pub use capture::{Capture, Frames};
pub use cluster::REGION;
pub use flow::{Flow, FlowReport};
pub use kube_proxy::ProxyMode;
pub use lab::Lab;
pub use mesh::{Pair, check};
pub use outsider::Outsider;
pub use preflight::{available, has_link_kind, has_program};
pub use probe::{Reached, http_with_marker};
pub use providers::CalicoNetwork;
pub use rules::{BETWEEN_LOCATIONS, Rules};
pub use servers::{Answer, ECHO_PORT, HTTP_PORT};
pub use space::{Space, spawn};
pub use spec::{Api, NodeSpec, Spec};
pub use underlay::{Access, Addresses, CONTROL};

/// What deadlines are multiplied by: `$KG_PATIENCE`, for a machine that is slower than others, else 1.
pub fn patience() -> u32 {
    std::env::var("KG_PATIENCE").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
