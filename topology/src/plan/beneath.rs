//! What of a node's plan is about another network provider beneath the mesh (`--compatibility`).
//!
//! The provider takes the mesh's other locations for its own and has routes to their nodes' pods. Ours must
//! win, but not by taking their place: the provider would put its own back, and a clean stop could not. So
//! they stand in a table of their own, which is asked before the main one.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{ENCAPSULATION_TABLE, Plan, View};
use crate::{
    InterfaceName, MAIN_TABLE, Route, Rule, Warning,
    address::{is_single, same_family, single},
    compatibility::Way,
    topology::Member,
};

/// The table of routes that win over another network provider's.
pub const PRECEDENCE_TABLE: u32 = 1109;

impl View<'_> {
    /// The way to `member` by the provider's own interfaces, as gateway and interface; `None` where it has
    /// none of its own, or there is no provider.
    pub(super) fn overlay(
        &self,
        member: &Member,
        dst: IpNet,
    ) -> Option<Result<(std::net::IpAddr, InterfaceName), Warning>> {
        let family = if dst.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        match self.local.provider.as_ref()?.way(member, dst.addr()) {
            Way::Overlay { via, dev } => Some(Ok((via, dev))),
            Way::Own => None,
            Way::Missing(dev) => {
                let message =
                    format!("there is none that is up: {family} does not reach the location's others until there is");
                Some(Err(Warning::node(&self.member.name, &format!("interface {dev}"), message)))
            }
            Way::NoGateway(dev) => {
                let message = format!("no {family} address on {dev} is known of it: {family} is not sent there");
                Some(Err(Warning::node(&member.name, &format!("interface {dev}"), message)))
            }
        }
    }

    /// What the mesh brings for a node of the leader's location goes back by the way that it would have come,
    /// although the provider routes inside the location (upstream's return routes without `--local`).
    pub(super) fn plan_returns(&self, plan: &mut Plan) {
        let Some(provider) = &self.local.provider else { return };
        for neighbour in self.neighbours() {
            let internal = neighbour.internal_ips.iter().map(|ip| single(ip.addr()));
            let pods = neighbour.pod_cidrs.iter().copied().filter(|_| provider.returns_by_tunnel());
            for dst in internal.chain(pods) {
                let way = match self.overlay(neighbour, dst) {
                    Some(Ok(way)) => Some(way),
                    // It is told of where the way is needed first, or the provider's own routes will do.
                    Some(Err(_)) => None,
                    None => self.through_tunnel(neighbour, dst.addr()),
                };
                let Some((via, dev)) = way else { continue };
                let src = self.own_ip(dst.addr()).map(|own| own.addr());
                plan.routes.insert(Route { dst, via: Some(via), dev, src, table: ENCAPSULATION_TABLE });
                let iif = Some(self.local.interface.clone());
                plan.rules.insert(Rule { from: None, to: dst, iif, unless_mark: None, table: ENCAPSULATION_TABLE });
            }
        }
    }

    /// Moves the routes that the provider may also have, those to nodes and their pods, to where they win.
    /// Not those to anything wider: in front of the main table they would cover the host's own networks.
    pub(super) fn give_precedence(&self, plan: &mut Plan) {
        if self.local.provider.is_none() {
            return;
        }
        let members = self.topology.segments.iter().flat_map(|segment| &segment.members);
        let pods: BTreeSet<IpNet> = members.flat_map(|member| member.pod_cidrs.iter().copied()).collect();
        let wins = |route: &Route| route.table == MAIN_TABLE && (is_single(route.dst) || pods.contains(&route.dst));
        let routes = std::mem::take(&mut plan.routes).into_iter();
        plan.routes =
            routes.map(|route| if wins(&route) { Route { table: PRECEDENCE_TABLE, ..route } } else { route }).collect();
        for everything in ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse::<IpNet>().ok()) {
            let is_used =
                |route: &Route| route.table == PRECEDENCE_TABLE && same_family(route.dst.addr(), everything.addr());
            if plan.routes.iter().any(is_used) {
                let (from, iif, unless_mark, table) = (None, None, None, PRECEDENCE_TABLE);
                plan.rules.insert(Rule { from, to: everything, iif, unless_mark, table });
            }
        }
    }
}
