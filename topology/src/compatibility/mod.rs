//! Life on top of another network provider (`--compatibility`): the provider attaches pods and joins the
//! nodes of one location, the mesh joins the locations.
//!
//! Two questions tell providers apart: where a node's pod CIDRs are written ([`PodCidrSource`]), and how
//! another node of the own location is reached ([`Path`]). A row of [`MODES`] answers both. `flannel` and
//! `cilium` are upstream's modes (its `pkg/encapsulation`); where upstream has none, the design is ours.

mod calico;
mod cilium;
mod flannel;
mod pod_cidrs;

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{InterfaceName, TunnelKind, address::same_family, topology::Member};

pub use self::pod_cidrs::{CustomResource, PodCidrSource, SourceError, listed};

/// A value of `--compatibility`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// The value.
    pub name: &'static str,
    /// How a node of the own location is reached.
    pub path: Path,
    /// Where pod CIDRs are, unless `--pod-cidr-source` says otherwise.
    pub pod_cidr_source: PodCidrSource,
}

const fn mode(name: &'static str, path: Path, pod_cidr_source: PodCidrSource) -> Mode {
    Mode { name, path, pod_cidr_source }
}

/// What OVN-Kubernetes writes a node's subnets to.
const OVN_SUBNETS: PodCidrSource = PodCidrSource::Annotation(Cow::Borrowed("k8s.ovn.org/node-subnets"));

/// What Kube-OVN writes a node's addresses in its join subnet to. Its pods' subnets are the cluster's, so these are all
/// that a node has of its own there.
const KUBE_OVN_ADDRESSES: PodCidrSource = PodCidrSource::Annotation(Cow::Borrowed("ovn.kubernetes.io/ip_address"));

/// All modes. `generic` stands for every provider that has no row.
pub const MODES: [Mode; 14] = [
    mode("flannel", Path::Flannel, PodCidrSource::Spec),
    mode("canal", Path::Flannel, PodCidrSource::Spec),
    mode("cilium", Path::Cilium, PodCidrSource::CiliumNode),
    mode("calico", Path::Calico, PodCidrSource::CalicoBlocks),
    mode("kube-router", Path::Own, PodCidrSource::Spec),
    mode("bird", Path::Own, PodCidrSource::Spec),
    mode("ovn-kubernetes", Path::Own, OVN_SUBNETS),
    mode("kube-ovn", Path::Own, KUBE_OVN_ADDRESSES),
    mode("antrea", Path::Own, PodCidrSource::Spec),
    mode("weave", Path::Own, PodCidrSource::Spec),
    mode("romana", Path::Own, PodCidrSource::Spec),
    mode("contiv", Path::Own, PodCidrSource::Spec),
    mode("contrail", Path::Own, PodCidrSource::Spec),
    mode("generic", Path::Own, PodCidrSource::Spec),
];

impl Mode {
    /// The mode of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        const { &MODES }.iter().find(|mode| mode.name == name)
    }
}

/// How a node of the own location is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    /// Through Flannel's VXLAN.
    Flannel,
    /// Through a tunnel of ours, which may itself go through Cilium's overlay.
    Cilium,
    /// Through Calico's VXLAN or IPIP if it has one, else as [`Path::Own`].
    Calico,
    /// By the nodes' own network, encapsulated by us as `--encapsulate` says.
    Own,
}

impl Path {
    /// The provider's interfaces that matter: a route of ours may lead there, or their addresses be announced.
    /// None of their addresses is one of the node inside its location.
    pub fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Flannel => &flannel::INTERFACES,
            Self::Cilium => &cilium::INTERFACES,
            Self::Calico => &calico::INTERFACES,
            Self::Own => &[],
        }
    }

    /// The tunnel that is ours to choose: `None`, there is none at all. `wanted` is what the flags say, if
    /// they do.
    pub fn tunnel(self, wanted: Option<TunnelKind>) -> TunnelChoice {
        match self {
            Self::Flannel => TunnelChoice::None,
            Self::Cilium => wanted.map_or(TunnelChoice::Any, TunnelChoice::Only),
            // tunl0 is the provider's, and VXLAN carries both families.
            Self::Calico => TunnelChoice::Only(TunnelKind::Vxlan),
            Self::Own => TunnelChoice::Only(wanted.unwrap_or(TunnelKind::Vxlan)),
        }
    }
}

/// Which tunnel an agent may use inside the location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelChoice {
    /// None.
    None,
    /// This kind.
    Only(TunnelKind),
    /// The first that the kernel has.
    Any,
}

/// The provider as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// How others are reached.
    pub path: Path,
    /// Those of [`Path::interfaces`] that are there, with their addresses; one that is down has none.
    pub interfaces: BTreeMap<InterfaceName, Vec<IpNet>>,
}

/// The way to another node of the location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// On an interface of the provider's, to this gateway.
    Overlay {
        /// The gateway.
        via: IpAddr,
        /// The interface.
        dev: InterfaceName,
    },
    /// On an interface of the provider's that is not there, or down.
    Missing(InterfaceName),
    /// The other node has no address of this family on the provider's interface.
    NoGateway(InterfaceName),
    /// As if there were no provider.
    Own,
}

impl Provider {
    /// The way to `member` for packets of the family of `like`.
    pub fn way(&self, member: &Member, like: IpAddr) -> Way {
        match self.path {
            Path::Flannel => self.overlay(flannel::interface(like), flannel::gateway(member, like)),
            Path::Calico => calico::way(self, member, like),
            Path::Cilium | Path::Own => Way::Own,
        }
    }

    fn overlay(&self, dev: &str, via: Option<IpAddr>) -> Way {
        let name = InterfaceName::from(dev);
        match via {
            _ if !self.has(dev) => Way::Missing(name),
            Some(via) => Way::Overlay { via, dev: name },
            None => Way::NoGateway(name),
        }
    }

    /// Whether the provider's interface `name` is up and has an address.
    fn has(&self, name: &str) -> bool {
        !self.addresses(name).is_empty()
    }

    fn addresses(&self, name: &str) -> &[IpNet] {
        self.interfaces.get(&InterfaceName::from(name)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether packets between nodes may need a tunnel of ours.
    pub fn needs_tunnel(&self) -> bool {
        match self.path {
            Path::Flannel => false,
            Path::Calico => !calico::encapsulates(self),
            Path::Cilium | Path::Own => true,
        }
    }

    /// Whether a leader sends what the mesh brings for pods of its location through our tunnel, too: a
    /// way that is not the same in both directions is dropped by hosts that check (`rp_filter`, RFC 3704).
    /// Cilium's do not, and its programs want to see what goes to pods.
    pub fn returns_by_tunnel(&self) -> bool {
        self.path != Path::Cilium && self.needs_tunnel()
    }

    /// What the node announces of itself (`cni-compatibility-ip`): at most one address of each family, by
    /// which others reach it inside the provider's overlay.
    pub fn own_ips(&self) -> Vec<IpNet> {
        match self.path {
            Path::Cilium => cilium::own_ip(self).into_iter().collect(),
            Path::Calico => calico::own_ips(self),
            Path::Flannel | Path::Own => Vec::new(),
        }
    }

    /// The provider's own interface of this kind, where it leaves the host no other.
    pub fn tunnel(&self, kind: TunnelKind) -> Option<InterfaceName> {
        let name =
            (self.path == Path::Cilium && kind == TunnelKind::Ipip).then(|| InterfaceName::from(cilium::IPIP))?;
        self.interfaces.contains_key(&name).then_some(name)
    }

    /// The address that encapsulated packets for `member` are sent to, where that is not one of its internal
    /// IPs.
    pub fn outer_ip(&self, kind: TunnelKind, member: &Member) -> Option<IpAddr> {
        (self.path == Path::Cilium && kind == TunnelKind::Ipip).then(|| cilium::outer_ip(member)).flatten()
    }
}

/// The first address of the family of `like`.
fn first(nets: &[IpNet], like: IpAddr) -> Option<IpNet> {
    nets.iter().find(|net| same_family(net.addr(), like)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_found_by_its_name_and_no_other() {
        for mode in &MODES {
            assert_eq!(Mode::named(mode.name), Some(mode));
        }
        assert_eq!(Mode::named("Flannel"), None);
        assert_eq!(Mode::named(""), None);
    }

    #[test]
    fn the_tunnel_is_the_flags_where_it_is_ours_to_choose() {
        use TunnelKind::{Ipip, Vxlan};
        for (path, wanted, expected) in [
            (Path::Flannel, Some(Vxlan), TunnelChoice::None),
            (Path::Cilium, None, TunnelChoice::Any),
            (Path::Cilium, Some(Vxlan), TunnelChoice::Only(Vxlan)),
            (Path::Calico, None, TunnelChoice::Only(Vxlan)),
            (Path::Own, None, TunnelChoice::Only(Vxlan)),
            (Path::Own, Some(Ipip), TunnelChoice::Only(Ipip)),
        ] {
            assert_eq!(path.tunnel(wanted), expected, "{path:?} {wanted:?}");
        }
    }
}
