//! Who has the interface's name already: it may be ours, of this kind or of the other, or somebody else's.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use topology::InterfaceName;

use super::DeviceError;
use crate::os::{
    Netlink,
    links::{self, Link},
    tun::Tun,
};

/// How long a TUN that is in use is waited for: a program that its agent was just starting has a copy of its
/// descriptor until it runs.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// An interface that may be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// The kernel's WireGuard.
    Kernel(Link),
    /// The TUN of a device that ran in a process which has ended.
    LeftBehind(Link),
}

/// The interface of this name, if there is one; an error if it is somebody else's.
pub(super) async fn find(netlink: &Netlink, interface: &InterfaceName) -> Result<Option<Present>, DeviceError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let link = links::find(netlink, interface)
            .await
            .map_err(|error| DeviceError::Create { interface: interface.clone(), source: error.into() })?;
        let Some(link) = link else { return Ok(None) };
        match link.tun {
            _ if link.is_wireguard() => return Ok(Some(Present::Kernel(link))),
            Some(Tun { is_left_behind: true, in_use: false }) => return Ok(Some(Present::LeftBehind(link))),
            Some(Tun { is_left_behind: true, in_use: true }) if Instant::now() < deadline => sleep(PAUSE).await,
            tun => return Err(taken(link, tun)),
        }
    }
}

fn taken(link: Link, tun: Option<Tun>) -> DeviceError {
    let kind = match tun {
        Some(Tun { in_use: true, .. }) => format!("{}, in use by a program", link.kind),
        _ => link.kind,
    };
    DeviceError::Taken { interface: link.name, kind }
}
