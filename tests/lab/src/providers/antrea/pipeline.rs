//! The tables of Antrea's pipeline that packets between pods, nodes and services pass (its `docs/design/ovs-pipeline.md`,
//! whose names the constants have), with the flows that are there for as long as a node and its pods are.

use std::net::IpAddr;

use anyhow::Result;

use super::{GATEWAY_PORT, Site, TUNNEL_PORT, gateway_mac, nth};

/// What the gateways of all other nodes answer to.
pub(super) const GLOBAL_VIRTUAL_MAC: &str = "aa:bb:cc:dd:ee:ff";

/// The tables, in the pipeline's order.
pub(super) mod table {
    pub const ARP_SPOOF_GUARD: u8 = 1;
    pub const ARP_RESPONDER: u8 = 2;
    pub const IPV6: u8 = 3;
    pub const CLASSIFIER: u8 = 4;
    pub const SPOOF_GUARD: u8 = 5;
    pub const UN_SNAT: u8 = 6;
    pub const CONNTRACK_ZONE: u8 = 7;
    pub const CONNTRACK_STATE: u8 = 8;
    pub const SERVICE_LB: u8 = 9;
    pub const ENDPOINT_DNAT: u8 = 10;
    pub const L3_FORWARDING: u8 = 11;
    pub const L3_DEC_TTL: u8 = 12;
    pub const SNAT_MARK: u8 = 13;
    pub const SNAT: u8 = 14;
    pub const L2_FORWARDING_CALC: u8 = 15;
    pub const INGRESS_RULE: u8 = 16;
    pub const CONNTRACK_COMMIT: u8 = 17;
    pub const OUTPUT: u8 = 18;
}
use table::*;

/// How flows speak of packets of one family.
pub(super) struct Family {
    pub ip: &'static str,
    pub tcp: &'static str,
    pub source: &'static str,
    pub destination: &'static str,
    /// Where the endpoint of a service is kept until its packet is translated.
    pub endpoint: &'static str,
    /// Of connections.
    pub zone: u16,
    /// Of connections whose source is translated.
    pub snat_zone: u16,
}

const V4: Family = Family {
    ip: "ip",
    tcp: "tcp",
    source: "nw_src",
    destination: "nw_dst",
    endpoint: "reg3",
    zone: 65520,
    snat_zone: 65521,
};
const V6: Family = Family {
    ip: "ipv6",
    tcp: "tcp6",
    source: "ipv6_src",
    destination: "ipv6_dst",
    endpoint: "xxreg3",
    zone: 65510,
    snat_zone: 65511,
};

/// The family of `like`.
pub(super) fn family(like: IpAddr) -> &'static Family {
    if like.is_ipv4() { &V4 } else { &V6 }
}

/// The flows that are the same on all nodes.
pub(super) fn pipeline() -> String {
    format!(
        "table=0,priority=200,arp actions=goto_table:{ARP_SPOOF_GUARD}\n\
         table=0,priority=200,ip actions=goto_table:{CLASSIFIER}\n\
         table=0,priority=200,ipv6 actions=goto_table:{IPV6}\n\
         table={ARP_RESPONDER},priority=190,arp actions=normal\n\
         table={IPV6},priority=200,icmp6,icmp_type=135 actions=normal\n\
         table={IPV6},priority=200,icmp6,icmp_type=136 actions=normal\n\
         table={IPV6},priority=0 actions=goto_table:{CLASSIFIER}\n\
         table={CLASSIFIER},priority=200,in_port={GATEWAY_PORT} actions=set_field:0x2/0xf->reg0,goto_table:{SPOOF_GUARD}\n\
         table={CLASSIFIER},priority=200,in_port={TUNNEL_PORT} \
         actions=set_field:0x1/0xf->reg0,set_field:0x200/0x200->reg0,goto_table:{UN_SNAT}\n\
         table={SPOOF_GUARD},priority=200,in_port={GATEWAY_PORT} actions=goto_table:{UN_SNAT}\n\
         table={UN_SNAT},priority=0 actions=goto_table:{CONNTRACK_ZONE}\n\
         table={CONNTRACK_STATE},priority=200,ct_state=+inv+trk actions=drop\n\
         table={CONNTRACK_STATE},priority=190,ct_state=-new+trk,ct_mark=0x10/0x10 \
         actions=set_field:0x200/0x200->reg0,goto_table:{L3_FORWARDING}\n\
         table={CONNTRACK_STATE},priority=190,ct_state=-new+trk,ct_mark=0/0x10 actions=goto_table:{L3_FORWARDING}\n\
         table={CONNTRACK_STATE},priority=0 actions=goto_table:{SERVICE_LB}\n\
         table={SERVICE_LB},priority=0 actions=goto_table:{ENDPOINT_DNAT}\n\
         table={ENDPOINT_DNAT},priority=0 actions=goto_table:{L3_FORWARDING}\n\
         table={L3_FORWARDING},priority=0 actions=goto_table:{L2_FORWARDING_CALC}\n\
         table={L3_DEC_TTL},priority=210,reg0=0x2/0xf actions=goto_table:{SNAT_MARK}\n\
         table={L3_DEC_TTL},priority=200,ip actions=dec_ttl,goto_table:{SNAT_MARK}\n\
         table={L3_DEC_TTL},priority=200,ipv6 actions=dec_ttl,goto_table:{SNAT_MARK}\n\
         table={SNAT_MARK},priority=0 actions=goto_table:{SNAT}\n\
         table={SNAT},priority=0 actions=goto_table:{L2_FORWARDING_CALC}\n\
         table={L2_FORWARDING_CALC},priority=0 actions=goto_table:{INGRESS_RULE}\n\
         table={INGRESS_RULE},priority=0 actions=goto_table:{CONNTRACK_COMMIT}\n\
         {}{}\
         table={CONNTRACK_COMMIT},priority=0 actions=goto_table:{OUTPUT}\n\
         table={OUTPUT},priority=210,ct_mark=0x40/0x40 actions=in_port\n\
         table={OUTPUT},priority=200,reg0=0x200000/0x600000 actions=output:NXM_NX_REG1[]\n{}",
        connections(&V4),
        connections(&V6),
        to_port(GLOBAL_VIRTUAL_MAC, TUNNEL_PORT.into())
    )
}

/// A connection keeps where its first packet came from, unless a service's address was translated for it: then that was
/// noted already.
fn connections(Family { ip, zone, snat_zone, .. }: &Family) -> String {
    format!(
        "table={CONNTRACK_ZONE},priority=200,{ip} actions=ct(table={CONNTRACK_STATE},zone={zone},nat)\n\
         table={SNAT},priority=200,ct_state=-new-rpl+trk,ct_mark=0x20/0x20,{ip} \
         actions=ct(table={L2_FORWARDING_CALC},zone={snat_zone},nat)\n\
         table={CONNTRACK_COMMIT},priority=200,ct_state=+new+trk,ct_mark=0/0x10,{ip} actions=\
         ct(commit,table={OUTPUT},zone={zone},exec(move:NXM_NX_REG0[0..3]->NXM_NX_CT_MARK[0..3]))\n"
    )
}

fn to_port(mac: &str, port: usize) -> String {
    format!(
        "table={L2_FORWARDING_CALC},priority=200,dl_dst={mac} \
         actions=set_field:{port}->reg1,set_field:0x200000/0x600000->reg0,goto_table:{INGRESS_RULE}\n"
    )
}

pub(super) fn gateway_flows(own: &Site) -> Result<String> {
    let mac = gateway_mac(own);
    let to_gateway = format!("actions=set_field:{mac}->eth_dst,goto_table:{L3_DEC_TTL}");
    let mut flows = to_port(&mac, GATEWAY_PORT.into());
    for cidr in &own.cidrs {
        let (gateway, Family { ip, destination, snat_zone, .. }) = (nth(*cidr, 1)?, family(cidr.addr()));
        if gateway.is_ipv4() {
            flows += &format!(
                "table={ARP_SPOOF_GUARD},priority=200,arp,in_port={GATEWAY_PORT},arp_spa={gateway},arp_sha={mac} \
                 actions=goto_table:{ARP_RESPONDER}\n"
            );
        }
        flows += &format!(
            "table={L3_FORWARDING},priority=210,{ip},{destination}={gateway} {to_gateway}\n\
             table={L3_FORWARDING},priority=210,ct_state=+rpl+trk,ct_mark=0x2/0xf,{ip} {to_gateway}\n\
             table={L3_FORWARDING},priority=200,{ip},reg0=0/0x200,{destination}={cidr} \
             actions=goto_table:{L2_FORWARDING_CALC}\n\
             table={L3_FORWARDING},priority=190,{ip},reg0=0x1/0xf {to_gateway}\n\
             table={UN_SNAT},priority=200,{ip},{destination}={gateway} \
             actions=ct(table={CONNTRACK_ZONE},zone={snat_zone},nat)\n\
             table={SNAT},priority=200,ct_state=+new+trk,ct_mark=0x40/0x40,{ip},reg0=0x3/0xf actions=\
             ct(commit,table={L2_FORWARDING_CALC},zone={snat_zone},nat(src={gateway}),\
             exec(set_field:0x10/0x10->ct_mark,set_field:0x40/0x40->ct_mark))\n"
        );
    }
    Ok(flows)
}

pub(super) fn remote_flows(own: &Site, others: &[&Site]) -> Result<String> {
    let mut flows = String::new();
    for other in others {
        for cidr in &other.cidrs {
            let Family { ip, destination, .. } = family(cidr.addr());
            let tunnel = if cidr.addr().is_ipv4() { "tun_dst" } else { "tun_ipv6_dst" };
            flows += &format!(
                "table={L3_FORWARDING},priority=200,{ip},{destination}={cidr} actions=set_field:{}->eth_src,\
                 set_field:{GLOBAL_VIRTUAL_MAC}->eth_dst,set_field:{}->{tunnel},goto_table:{L3_DEC_TTL}\n",
                gateway_mac(own),
                other.private(cidr.addr())
            );
            if cidr.addr().is_ipv4() {
                flows += &arp_responder(nth(*cidr, 1)?);
            }
        }
    }
    Ok(flows)
}

/// Answers for the gateway of another node.
fn arp_responder(gateway: IpAddr) -> String {
    format!(
        "table={ARP_RESPONDER},priority=200,arp,arp_tpa={gateway},arp_op=1 actions=\
         move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{GLOBAL_VIRTUAL_MAC}->eth_src,set_field:2->arp_op,\
         move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{GLOBAL_VIRTUAL_MAC}->arp_sha,\
         move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:{gateway}->arp_spa,in_port\n"
    )
}

pub(super) fn pod_port_flows(port: usize, mac: &str) -> String {
    format!(
        "table={CLASSIFIER},priority=190,in_port={port} actions=set_field:0x3/0xf->reg0,goto_table:{SPOOF_GUARD}\n{}",
        to_port(mac, port)
    )
}

pub(super) fn pod_flows(own: &Site, port: usize, mac: &str, address: IpAddr) -> String {
    let Family { ip, source, destination, zone, .. } = family(address);
    let mut flows = format!(
        "table={SPOOF_GUARD},priority=200,{ip},in_port={port},dl_src={mac},{source}={address} \
         actions=goto_table:{UN_SNAT}\n\
         table={L3_FORWARDING},priority=200,{ip},reg0=0x200/0x200,{destination}={address} \
         actions=set_field:{}->eth_src,set_field:{mac}->eth_dst,goto_table:{L3_DEC_TTL}\n\
         table={SNAT_MARK},priority=190,ct_state=+new+trk,{ip},{source}={address},{destination}={address} actions=\
         ct(commit,table={SNAT},zone={zone},exec(set_field:0x20/0x20->ct_mark,set_field:0x40/0x40->ct_mark))\n",
        gateway_mac(own)
    );
    if address.is_ipv4() {
        flows += &format!(
            "table={ARP_SPOOF_GUARD},priority=200,arp,in_port={port},arp_spa={address},arp_sha={mac} \
             actions=goto_table:{ARP_RESPONDER}\n"
        );
    }
    flows
}
