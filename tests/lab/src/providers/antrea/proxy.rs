//! AntreaProxy without `proxyAll`, Antrea's default: services' addresses are translated by the switch where a pod's first
//! packet comes in. What nodes ask, and node ports, stay kube-proxy's.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::BRIDGE;
use super::pipeline::table::{ENDPOINT_DNAT, L3_FORWARDING, SERVICE_LB};
use super::pipeline::{Family, family};
use crate::kube_proxy::Service;
use crate::lab::Lab;
use crate::open_vswitch::{add_flows, add_groups, delete_flows};
use crate::servers::HTTP_PORT;

/// Of the flows of services.
const COOKIE: &str = "0x2";
/// `EpSelectedRegMark`, in the register that has the endpoint's port in its lower half.
const SELECTED: u32 = 0x20000;

pub(super) fn serve(lab: &Lab, services: &[Service]) -> Result<()> {
    let (mut groups, mut flows) = (String::new(), String::new());
    for (service, group) in services.iter().zip(1..) {
        groups += &endpoints(service, group);
        flows += &translation(service, group);
    }
    for node in lab.nodes() {
        let host = lab.space(&node)?;
        add_groups(&host, BRIDGE, &groups)?;
        add_flows(&host, BRIDGE, &flows)?;
    }
    Ok(())
}

pub(super) fn unserve(lab: &Lab, _: &[Service]) -> Result<()> {
    for node in lab.nodes() {
        let host = lab.space(&node)?;
        delete_flows(&host, BRIDGE, COOKIE)?;
        host.exec(["ovs-ofctl", "--protocols=OpenFlow15", "del-groups", BRIDGE])?;
    }
    Ok(())
}

/// The group that chooses one of the service's endpoints.
fn endpoints(service: &Service, group: u32) -> String {
    let mut text = format!("group_id={group},type=select");
    for (bucket, ip) in service.endpoints.iter().enumerate() {
        let _ = write!(
            text,
            ",bucket=bucket_id:{bucket},weight:100,actions=set_field:{}->{},set_field:{HTTP_PORT:#x}/0xffff->reg4,\
             resubmit(,{ENDPOINT_DNAT})",
            number(*ip),
            family(*ip).endpoint
        );
    }
    text + "\n"
}

fn translation(service: &Service, group: u32) -> String {
    let Family { tcp, destination, endpoint, zone, .. } = family(service.address);
    let mut flows = format!(
        "cookie={COOKIE},table={SERVICE_LB},priority=200,{tcp},{destination}={},tp_dst={HTTP_PORT} actions=\
         set_field:0x200/0x200->reg0,set_field:{SELECTED:#x}/0x70000->reg4,group:{group}\n",
        service.address
    );
    for ip in &service.endpoints {
        let _ = writeln!(
            flows,
            "cookie={COOKIE},table={ENDPOINT_DNAT},priority=200,{tcp},{endpoint}={},reg4={:#x}/0x7ffff actions=\
             ct(commit,table={L3_FORWARDING},zone={zone},nat(dst={}),\
             exec(set_field:0x10/0x10->ct_mark,move:NXM_NX_REG0[0..3]->NXM_NX_CT_MARK[0..3]))",
            number(*ip),
            SELECTED | u32::from(HTTP_PORT),
            SocketAddr::new(*ip, HTTP_PORT)
        );
    }
    flows
}

/// An address as a register's value.
fn number(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:#x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:#x}", u128::from(ip)),
    }
}
