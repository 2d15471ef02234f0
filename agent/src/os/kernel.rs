//! What the running kernel can do.

use topology::InterfaceName;

use super::{Error, Netlink, links};

/// An MTU that every WireGuard interface takes, in bytes.
const MTU: u16 = 1280;

/// Whether the kernel has WireGuard. The only sound question is to make an interface, which also loads
/// the module; it is deleted at once.
pub async fn has_wireguard(netlink: &Netlink) -> Result<bool, Error> {
    let name = InterfaceName::from(format!("wgtry{}", std::process::id()));
    match links::create_wireguard(netlink, &name, MTU).await {
        Ok(()) => {
            if let Some(link) = links::find(netlink, &name).await? {
                links::delete(netlink, &link).await?;
            }
            Ok(true)
        }
        Err(refusal) if refusal.errno() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(source) => Err(Error::Link { action: "create it", link: name, source }),
    }
}
