//! Network policies, as Antrea's agent keeps them in the switch (its `pkg/agent/openflow/network_policy.go`): those of its
//! own kind, which can answer whom they turn away (action `Reject`), for one address of a pod.
//!
//! Connections that were let in pass unasked (`skipPolicyRuleCheckFlows`). Antrea lets in all that comes from the pod's own
//! node, too, for the kubelet's probes, by a mark that the host's rules set; this data path has no marks, and nobody asks
//! from there.

use std::net::IpAddr;

use anyhow::Result;

use super::pipeline::table::{CONNTRACK_COMMIT, CONNTRACK_ZONE, INGRESS_RULE, L3_FORWARDING};
use super::pipeline::{Family, family};
use super::{BRIDGE, GATEWAY, GATEWAY_PORT, gateway_mac};
use crate::lab::Lab;
use crate::open_vswitch::{add_flows, delete_flows};
use crate::rules::Policy;

/// Of the flows of policies.
const COOKIE: &str = "0x1";

pub(super) fn enforce(lab: &Lab, policy: &Policy<'_>) -> Result<()> {
    let host = lab.space(policy.node)?;
    host.nft(&refusal(policy.server))?;
    add_flows(&host, BRIDGE, &flows(policy, &gateway_mac(&lab.site(policy.node)?)))
}

pub(super) fn relent(lab: &Lab, policy: &Policy<'_>) -> Result<()> {
    let host = lab.space(policy.node)?;
    delete_flows(&host, BRIDGE, COOKIE)?;
    host.nft("delete table inet antrea-agent\n")
}

/// The flows of a policy. Whom it turns away the switch would tell Antrea's agent, which answers in a pod's place
/// (`controller/networkpolicy/reject.go`); here the host gets the packet and answers by [`refusal`]. The
/// answer is not tracked: to the kernel's data path it would be invalid, of no connection.
fn flows(policy: &Policy<'_>, gateway_mac: &str) -> String {
    let Policy { server, client, .. } = policy;
    let Family { ip, tcp, source, destination, .. } = family(*server);
    let flow = |priority: u8, matches: &str, actions: &str| {
        format!("cookie={COOKIE},table={INGRESS_RULE},priority={priority},{matches} actions={actions}\n")
    };
    let answer = format!("{tcp},in_port={GATEWAY_PORT},{source}={server},tcp_flags=+rst");
    let next = format!("goto_table:{CONNTRACK_COMMIT}");
    let denied = format!("{tcp},{destination}={server}");
    let to_host = |output: &str| format!("set_field:{gateway_mac}->eth_dst,{output}");
    flow(220, &format!("{ip},ct_state=-new+est,{destination}={server}"), &next)
        + &flow(220, &format!("{ip},ct_state=-new+rel,{destination}={server}"), &next)
        + &flow(210, &format!("{ip},{source}={client},{destination}={server}"), &next)
        + &flow(200, &format!("{denied},in_port={GATEWAY_PORT}"), &to_host("in_port"))
        + &flow(190, &denied, &to_host(&format!("output:{GATEWAY_PORT}")))
        + &format!("cookie={COOKIE},table={CONNTRACK_ZONE},priority=210,{answer} actions=goto_table:{L3_FORWARDING}\n")
}

fn refusal(server: IpAddr) -> String {
    let ip = if server.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table inet antrea-agent {{\nchain refused {{\ntype filter hook prerouting priority mangle;\n\
         iifname {GATEWAY} {ip} daddr {server} meta l4proto tcp reject with tcp reset\n}}\n}}\n"
    )
}
