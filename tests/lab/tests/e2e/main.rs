//! The end-to-end suite: real agents, real packets, the same tests against both API servers.
//!
//! `KG_E2E_API` chooses the API server: `embedded` (the default) or `real`. Every test brings up a lab of
//! its own, so tests are independent and can run in parallel. A test that cannot run here says
//! `skipped:` and why on standard error, past the test runner's capture.
//!
//! Agents check in every second and compare everything every two, so that what takes Kilo a minute
//! takes seconds; conditions are waited for, with deadlines for a slow machine.

mod bgp;
mod chaining;
mod chart;
mod cni_antrea;
mod cni_calico;
mod cni_cilium;
mod cni_flannel;
mod cni_generic;
mod cni_ovn;
mod connect;
mod doctor;
mod encapsulation;
mod external;
mod flags;
mod forced;
mod guides;
mod helm;
mod hostile;
mod http;
mod image;
mod inline_commands;
mod join;
mod kernel;
mod kgctl;
mod lifecycle;
mod manifests;
mod membership;
mod mesh;
mod monitoring;
mod names;
mod nat;
mod node_policy;
mod outage;
mod peers;
mod plugins;
mod probes;
mod repair;
mod restart;
mod rules;
mod status;
mod support;
mod upstream;
mod verify;
mod webhook;
