//! What the running kernel can do.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use topology::InterfaceName;

use super::{Error, Netlink, links};

/// Whether the kernel has WireGuard. The only sound question is to make an interface, which also loads
/// the module; it is deleted at once.
pub async fn has_wireguard(netlink: &Netlink) -> Result<bool, Error> {
    let name = InterfaceName::from(format!("wgtry{}", std::process::id()));
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    match links::create(netlink, message).await {
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
