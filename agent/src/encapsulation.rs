//! Which tunnel to use inside the location: IPIP is what upstream's agents know, VXLAN works where the kernel
//! has no IPIP or the network drops it.

use topology::{
    TunnelKind,
    compatibility::{Path, TunnelChoice},
    plan::Strategy,
};
use tracing::info;

use crate::{
    flags::{Encapsulate, EncapsulationDevice},
    os::{Error, Netlink, tunnel},
};

/// The kernel cannot do what the flags want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTunnel {
    /// Not what was asked for.
    #[error(
        "--encapsulation-device={0}: the kernel has none; load its module, or give all nodes of the location the other \
         kind, or --encapsulate=never if they share a network"
    )]
    Kind(TunnelKind),
    /// Nothing at all.
    #[error(
        "--encapsulate: the kernel has neither IPIP nor VXLAN; load one of the modules, or pass --encapsulate=never if \
         the nodes of each location share a network"
    )]
    Any,
}

impl From<Encapsulate> for Strategy {
    fn from(flag: Encapsulate) -> Self {
        match flag {
            Encapsulate::Never => Self::Never,
            Encapsulate::Crosssubnet => Self::CrossSubnet,
            Encapsulate::Always => Self::Always,
        }
    }
}

/// Does what the flags say, on top of a network provider with this `path`; `None` means that packets travel
/// without a tunnel of ours.
pub async fn choose(
    encapsulate: Encapsulate,
    device: EncapsulationDevice,
    path: Option<Path>,
    netlink: &Netlink,
) -> Result<Option<TunnelKind>, NoTunnel> {
    if encapsulate == Encapsulate::Never {
        return Ok(None);
    }
    let device = match path.map(|path| path.tunnel(device.kind())) {
        Some(TunnelChoice::None) => return Ok(None),
        Some(TunnelChoice::Only(TunnelKind::Ipip)) => EncapsulationDevice::Ipip,
        Some(TunnelChoice::Only(TunnelKind::Vxlan)) => EncapsulationDevice::Vxlan,
        Some(TunnelChoice::Any) | None => device,
    };
    let ipip = tunnel::is_available(netlink, TunnelKind::Ipip).await;
    let vxlan = tunnel::is_available(netlink, TunnelKind::Vxlan).await;
    let (kind, reason) = decide(device, ipip, vxlan)?;
    info!(device = %kind, reason, "encapsulation chosen");
    Ok(Some(kind))
}

/// The kind, and why.
fn decide(
    device: EncapsulationDevice,
    ipip: Result<bool, Error>,
    vxlan: Result<bool, Error>,
) -> Result<(TunnelKind, String), NoTunnel> {
    // Where it cannot be told, making the interface will say why not.
    let may_have = |answer: &Result<bool, Error>| *answer.as_ref().unwrap_or(&true);
    let flag = |kind| format!("--encapsulation-device={kind}");
    match device {
        EncapsulationDevice::Ipip if may_have(&ipip) => Ok((TunnelKind::Ipip, flag(TunnelKind::Ipip))),
        EncapsulationDevice::Vxlan if may_have(&vxlan) => Ok((TunnelKind::Vxlan, flag(TunnelKind::Vxlan))),
        EncapsulationDevice::Ipip => Err(NoTunnel::Kind(TunnelKind::Ipip)),
        EncapsulationDevice::Vxlan => Err(NoTunnel::Kind(TunnelKind::Vxlan)),
        EncapsulationDevice::Auto => match (ipip, vxlan) {
            (Ok(true), _) => Ok((TunnelKind::Ipip, "the kernel has IPIP".to_owned())),
            (Err(error), _) => Ok((TunnelKind::Ipip, format!("whether the kernel has IPIP cannot be told: {error}"))),
            (Ok(false), vxlan) if may_have(&vxlan) => Ok((TunnelKind::Vxlan, "the kernel has no IPIP".to_owned())),
            (Ok(false), _) => Err(NoTunnel::Any),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipip_is_preferred_and_what_the_kernel_lacks_is_told() {
        use EncapsulationDevice::{Auto, Ipip, Vxlan};
        for (device, ipip, vxlan, expected) in [
            (Auto, true, true, Ok(TunnelKind::Ipip)),
            (Auto, false, true, Ok(TunnelKind::Vxlan)),
            (Auto, false, false, Err(NoTunnel::Any)),
            (Ipip, true, false, Ok(TunnelKind::Ipip)),
            (Ipip, false, true, Err(NoTunnel::Kind(TunnelKind::Ipip))),
            (Vxlan, true, true, Ok(TunnelKind::Vxlan)),
            (Vxlan, true, false, Err(NoTunnel::Kind(TunnelKind::Vxlan))),
        ] {
            assert_eq!(decide(device, Ok(ipip), Ok(vxlan)).map(|(kind, _)| kind), expected, "{device:?}");
        }
        let unknown = Err(Error::Socket(std::io::ErrorKind::PermissionDenied.into()));
        let (kind, reason) = decide(Auto, unknown, Ok(true)).unwrap();
        assert_eq!(kind, TunnelKind::Ipip);
        assert!(reason.contains("cannot be told"), "{reason}");
    }
}
