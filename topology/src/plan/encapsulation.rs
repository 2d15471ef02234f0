//! What of a node's plan is about the tunnel inside its location (upstream's `encapsulateRoute` and
//! `Encapsulator`), for IPIP and VXLAN alike.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{ENCAPSULATION_TABLE, Encapsulation, Local, Plan, Strategy, View};
use crate::{
    InterfaceName, Provider, Route, Rule, Warning,
    address::{nth, of_family, same_family, single},
    annotations::ENCAPSULATION_DEVICE,
    firewall::Guard,
    topology::Member,
    tunnel::{Forwarding, Mac, Neighbour, Tunnel, TunnelKind},
};

/// The tunnel as all nodes of the location see it.
#[derive(Clone)]
pub(super) struct Means<'a> {
    strategy: Strategy,
    kind: TunnelKind,
    /// The family of the outer addresses, on which all nodes must agree without asking: IPv4, unless only
    /// IPv6 is had by all.
    outer_v4: bool,
    /// Whose overlay the tunnel may go through.
    provider: Option<&'a Provider>,
}

impl<'a> Means<'a> {
    /// `None` where packets between `members` travel plainly.
    pub(super) fn new(local: &'a Local<'_>, members: &[Member]) -> Option<Self> {
        let Encapsulation { strategy, kind } = local.encapsulation.filter(|it| it.strategy != Strategy::Never)?;
        let provider = local.provider.as_ref();
        if provider.is_some_and(|provider| !provider.needs_tunnel()) {
            return None;
        }
        let all_have =
            |v4: bool| members.iter().all(|member| member.internal_ips.iter().any(|ip| ip.addr().is_ipv4() == v4));
        let outer_v4 = kind == TunnelKind::Ipip || all_have(true) || !all_have(false);
        Some(Self { strategy, kind, outer_v4, provider })
    }

    /// The tunnel interface.
    pub(super) fn interface(&self) -> InterfaceName {
        self.borrowed().unwrap_or_else(|| self.kind.interface())
    }

    /// The tunnel interface, if it is the provider's.
    fn borrowed(&self) -> Option<InterfaceName> {
        self.provider?.tunnel(self.kind)
    }

    /// Whether packets of the family of `like` travel inside between `a` and `b`. Those of IPv6 only where both
    /// have any of it: the kernel of another host may have none, and refuses all that belongs to it.
    fn carries(&self, like: IpAddr, a: &Member, b: &Member) -> bool {
        self.kind.carries(like) && (like.is_ipv4() || has_ipv6(a) && has_ipv6(b))
    }

    /// The address of `member` that encapsulated packets are sent to and come from.
    fn outer_ip(&self, member: &Member) -> Option<IpAddr> {
        self.overlay_ip(member).or_else(|| self.internal_ip(member))
    }

    /// The address of `member` in the overlay that the tunnel goes through, if it does.
    fn overlay_ip(&self, member: &Member) -> Option<IpAddr> {
        self.provider?.outer_ip(self.kind, member)
    }

    fn internal_ip(&self, member: &Member) -> Option<IpAddr> {
        member.internal_ips.iter().map(IpNet::addr).find(|ip| ip.is_ipv4() == self.outer_v4)
    }
}

fn has_ipv6(member: &Member) -> bool {
    member.pod_cidrs.iter().chain(&member.internal_ips).any(|net| net.addr().is_ipv6())
}

impl View<'_> {
    /// The outer addresses of `member` and of this node, if the tunnel leads from one to the other.
    fn outer_ips(&self, means: &Means<'_>, member: &Member) -> Option<(IpAddr, IpAddr)> {
        let ips = (means.outer_ip(member)?, means.outer_ip(self.member)?);
        (ips.0 != ips.1).then_some(ips)
    }

    /// The neighbours at the other ends of the tunnel, with their outer addresses.
    fn tunnel_ends<'a>(&'a self, means: &'a Means<'_>) -> impl Iterator<Item = (&'a Member, IpAddr)> {
        self.neighbours().filter_map(move |member| Some((member, self.outer_ips(means, member)?.0)))
    }

    /// The way to `member` through the tunnel, as gateway and interface, for packets of the family of
    /// `like`; `None` if they go plainly.
    pub(super) fn through_tunnel(&self, member: &Member, like: IpAddr) -> Option<(IpAddr, InterfaceName)> {
        let means = self.means.as_ref().filter(|means| means.carries(like, self.member, member))?;
        self.outer_ips(means, member)?;
        // IPIP takes the gateway for the outer destination.
        let gateway = means.overlay_ip(member).or_else(|| of_family(&member.internal_ips, like));
        let own_subnet = self.own_ip(like);
        let is_near = gateway.zip(own_subnet).is_some_and(|(ip, own)| own.contains(&ip));
        if means.strategy == Strategy::CrossSubnet && is_near {
            return None;
        }
        // Linux takes no IPv6 gateway that it knows to be on another link (`ip6_route_check_nh_onlink`,
        // net/ipv6/route.c), and a member need not have an IPv6 internal IP.
        let gateway = if like.is_ipv4() { gateway? } else { Mac::of(&member.key).link_local().into() };
        Some((gateway, means.interface()))
    }

    /// The tunnel interface; `None` where there is nobody to send to.
    pub(super) fn tunnel(&self) -> Option<Tunnel> {
        let means = self.means.as_ref()?;
        let kind = means.kind;
        let ends: Vec<(&Member, IpAddr)> = self.tunnel_ends(means).collect();
        let local = means.outer_ip(self.member).filter(|_| !ends.is_empty())?;
        let addresses = self.tunnel_addresses(means).into_iter().filter(|ip| kind.carries(*ip)).map(single).collect();
        let mac = Mac::of(&self.member.key);
        let (mut neighbours, mut forwarding) = (BTreeSet::new(), BTreeSet::new());
        if kind == TunnelKind::Vxlan {
            for (member, dst) in ends {
                let mac = Mac::of(&member.key);
                let v4 = member.internal_ips.iter().map(IpNet::addr).filter(IpAddr::is_ipv4);
                let gateways = v4.chain([mac.link_local().into()]).filter(|ip| means.carries(*ip, self.member, member));
                neighbours.extend(gateways.map(|ip| Neighbour { ip, mac }));
                forwarding.insert(Forwarding { mac, dst });
            }
        }
        let (interface, borrowed) = (means.interface(), means.borrowed().is_some() || self.shares(means));
        Some(Tunnel { kind, interface, borrowed, local, mac, addresses, neighbours, forwarding })
    }

    /// Whether others may use the tunnel, too: a host has one interface for IPIP from anybody, and the provider that
    /// joins the nodes in our place (`--local=false`) may have its own addresses there.
    fn shares(&self, means: &Means<'_>) -> bool {
        means.kind == TunnelKind::Ipip && !self.local.local_routes
    }

    /// The own addresses on the tunnel: the first of each pod CIDR. Where somebody else hands out pods' addresses
    /// that may be any pod's, and it is the internal IP: Linux takes nothing whose answer would leave elsewhere
    /// by an interface that has no IPv4 address at all, however loose `rp_filter` is
    /// (`__fib_validate_source`, net/ipv4/fib_frontend.c). And what is masqueraded on an interface that has no IPv6
    /// address gets one of any other, which may be the provider's (`ipv6_dev_get_saddr`, net/ipv6/addrconf.c): the
    /// answer would go by the provider's way, where nobody knows of the question.
    fn tunnel_addresses(&self, means: &Means<'_>) -> Vec<IpAddr> {
        match means.provider {
            None => self.member.pod_cidrs.iter().filter_map(|cidr| nth(*cidr, 1)).collect(),
            Some(_) => self.member.internal_ips.iter().map(IpNet::addr).collect(),
        }
    }

    /// Who may send encapsulated packets to this node: the nodes of its location. As with upstream, IPIP is not ours
    /// alone where another network provider joins the nodes: its own, or its load balancers', is not to be dropped.
    pub(super) fn guard(&self) -> Option<Guard> {
        let means = self.means.as_ref().filter(|means| !self.shares(means))?;
        let overlay = self.tunnel_ends(means).map(|(_, ip)| ip);
        let internal = self.neighbours().filter_map(|member| means.internal_ip(member));
        let own = means.internal_ip(self.member);
        let from = overlay.chain(internal.filter(|ip| Some(*ip) != own)).map(single).collect();
        Some(Guard { kind: means.kind, from })
    }

    /// Routes to the neighbours themselves for what local pods, and on a leader the mesh, send to their own
    /// addresses: it is encapsulated, because the network between may not carry pods' addresses. What the
    /// nodes themselves send is not.
    pub(super) fn plan_encapsulated(&self, neighbour: &Member, plan: &mut Plan) {
        let table = ENCAPSULATION_TABLE;
        for ip in neighbour.internal_ips.iter().map(IpNet::addr) {
            let Some((via, dev)) = self.through_tunnel(neighbour, ip) else { continue };
            let to = single(ip);
            let src = self.own_ip(ip).map(|own| own.addr());
            plan.routes.insert(Route { dst: to, via: Some(via), dev, src, table });
            for cidr in self.member.pod_cidrs.iter().filter(|cidr| same_family(cidr.addr(), ip)) {
                plan.rules.insert(Rule { from: Some(*cidr), to, iif: None, unless_mark: None, table });
            }
            if plan.leader {
                let iif = Some(self.local.interface.clone());
                plan.rules.insert(Rule { from: None, to, iif, unless_mark: None, table });
            }
        }
    }

    /// Neighbours that do not encapsulate as this node does: packets between them and it are lost. Upstream's
    /// agents announce nothing and know IPIP only.
    pub(super) fn warn_of_other_tunnels(&self, plan: &mut Plan) {
        // Over a provider's own interfaces there is nothing to agree on.
        if self.means.is_none() && self.local.provider.is_some() {
            return;
        }
        let own = self.means.as_ref().map(|means| means.kind);
        let differs = |member: &&Member| member.tunnel != own && (own, member.tunnel) != (Some(TunnelKind::Ipip), None);
        let name = |kind: Option<TunnelKind>| kind.map_or("no encapsulation".to_owned(), |kind| kind.to_string());
        plan.warnings.extend(self.neighbours().filter(differs).map(|member| {
            let message = format!(
                "{} announced, but node/{} of the same location uses {}: packets between them are lost; give all \
                 agents of a location the same --encapsulate and --encapsulation-device",
                name(member.tunnel),
                self.member.name,
                name(own)
            );
            Warning::node(&member.name, ENCAPSULATION_DEVICE, message)
        }));
    }

    /// What is forwarded for the mesh: the own pods' packets, on a leader those of its whole location
    /// (upstream's `--iptables-forward-rules`).
    pub(super) fn forwarded(&self, leader: bool) -> BTreeSet<IpNet> {
        if !leader {
            return self.member.pod_cidrs.iter().copied().collect();
        }
        let members = self.segment.members.iter();
        let nodes = members.flat_map(|member| {
            member.pod_cidrs.iter().copied().chain(member.internal_ips.iter().map(|ip| single(ip.addr())))
        });
        nodes.chain(self.segment.allowed_location_ips.iter().copied()).collect()
    }
}
