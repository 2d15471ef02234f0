//! The largest packet that comes back through the tunnel.

use std::io;

use topology::{
    InterfaceName,
    probe::{
        Way,
        mtu::{Measured, Search},
    },
};

use super::ProbeError;
use crate::{
    os::{Netlink, links},
    ping,
};

/// Measures up to the MTU of `interface`. A path that loses packets by size takes about five seconds.
pub async fn largest(interface: &InterfaceName, way: &Way) -> Result<Measured, ProbeError> {
    let link = links::expect(&Netlink::open()?, interface).await?;
    let Some(address) = way.wireguard_ips.first() else {
        let nothing = io::Error::other("the segment has no WireGuard address");
        return Err(ProbeError::System { doing: "send echoes", source: nothing });
    };
    let mut search = Search::new(u16::try_from(link.mtu).unwrap_or(u16::MAX));
    loop {
        let sizes = search.next();
        if sizes.is_empty() {
            return Ok(search.measured());
        }
        let came_back = ping::passing(*address, &sizes).await.map_err(ProbeError::system("send echoes"))?;
        search.learn(&sizes, &came_back);
    }
}
