//! The kernel's WireGuard, over generic netlink (linux/wireguard.h).
//!
//! `defguard_wireguard_rs` does not do here: it drops all peers and addresses where only one differs,
//! cannot clear a preshared key or a keepalive, blocks, and tells "never" as 1970. The messages are coded by
//! `netlink-packet-wireguard`, whose version shares its netlink stack with `rtnetlink`, and go over the
//! channel that routes go over, so that there is no second stack and no thread that blocks.
//!
//! The interface outlives the agent. The next one takes it as it is and changes what differs: packets
//! do not notice.

mod change;
mod dump;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
};

use futures::{FutureExt, future::BoxFuture};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use topology::{DeviceDiff, InterfaceName, PeerStatistics, PublicKey, report::Backend};
use tracing::{info, warn};

use self::{change::Piece, dump::Dump};
use super::{
    Cause, Device, DeviceError, DeviceFactory, Made, Settings,
    present::{self, Present},
};
use crate::os::{Netlink, Refusal, generic::Family, key, links};

/// Makes the kernel's WireGuard interface, or takes the one that is there.
pub(super) struct Kernel {
    /// For the interface itself.
    pub(super) netlink: Netlink,
    /// How it shall be.
    pub(super) settings: Settings,
}

impl DeviceFactory for Kernel {
    fn create(&self, mtu: u16) -> BoxFuture<'_, Result<Made, DeviceError>> {
        async move {
            let public_key = key::public(&self.settings.key).map_err(|error| self.refused(error))?;
            let (index, found) = self.link(mtu).await?;
            let family = Family::open().await.map_err(|error| self.refused(error))?;
            let mut device = Interface {
                netlink: self.netlink.clone(),
                family,
                name: self.settings.interface.clone(),
                index,
                public_key,
                dump: Dump::default(),
            };
            device.read().await.map_err(|refusal| self.refused(refusal))?;
            device.set(self.missing(&device)).await.map_err(|refusal| self.refused(refusal))?;
            let present = device.dump.plan();
            Ok(Made { device: Box::new(device), index, found, present })
        }
        .boxed()
    }
}

impl Kernel {
    /// The number of the interface, and whether it was there.
    async fn link(&self, mtu: u16) -> Result<(u32, bool), DeviceError> {
        let interface = self.settings.interface.clone();
        match present::find(&self.netlink, &interface).await? {
            Some(Present::Kernel(link)) => {
                info!(%interface, "the kernel has the interface already: it is taken as it is");
                return Ok((link.index, true));
            }
            _ if !self.settings.make => return Err(DeviceError::Missing { interface }),
            Some(Present::LeftBehind(link)) => {
                info!(%interface, "the interface of WireGuard in userspace gives way to the kernel's");
                links::delete(&self.netlink, &link).await.map_err(|error| self.refused(error))?;
            }
            None => {}
        }
        links::create_wireguard(&self.netlink, &interface, mtu).await.map_err(|refusal| match refusal.errno() {
            Some(libc::EOPNOTSUPP) => self.refused(NoWireGuard),
            _ => self.refused(refusal),
        })?;
        let link = links::find(&self.netlink, &interface).await.map_err(|error| self.refused(error))?;
        link.map(|link| (link.index, false)).ok_or(DeviceError::Gone { interface })
    }

    /// What `device` lacks before it has peers. With another private key, all its sessions end.
    fn missing(&self, device: &Interface) -> Vec<WireguardAttribute> {
        let mut missing = Vec::new();
        if device.dump.mark != self.settings.mark {
            missing.push(WireguardAttribute::Fwmark(self.settings.mark));
        }
        if device.dump.public_key != Some(device.public_key) {
            if let Some(key) = device.dump.public_key {
                warn!(interface = %device.name, %key, "the interface has another private key: it is replaced");
            }
            missing.push(WireguardAttribute::PrivateKey(*self.settings.key.as_bytes()));
        }
        missing
    }

    fn refused(&self, source: impl std::error::Error + Send + Sync + 'static) -> DeviceError {
        DeviceError::Create { interface: self.settings.interface.clone(), source: source.into() }
    }
}

/// The kernel was built without, or its module is not installed.
#[derive(Debug, thiserror::Error)]
#[error("the kernel has no WireGuard: install its module, or pass --wireguard=userspace")]
struct NoWireGuard;

/// A peer that would be the device itself. The kernel ignores it without a word.
#[derive(Debug, thiserror::Error)]
#[error("peer has the public key of this device")]
struct OwnKey;

/// One interface, by its number: another one of the same name is never touched.
struct Interface {
    netlink: Netlink,
    family: Family<WireguardMessage>,
    name: InterfaceName,
    index: u32,
    public_key: PublicKey,
    /// What it has: what was read last, and what was told since.
    dump: Dump,
}

impl Interface {
    async fn read(&mut self) -> Result<(), Refusal> {
        let attributes = vec![WireguardAttribute::IfIndex(self.index)];
        let request = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        self.dump = Dump::merge(self.family.dump(request).await?);
        Ok(())
    }

    async fn set(&self, mut attributes: Vec<WireguardAttribute>) -> Result<(), Refusal> {
        attributes.insert(0, WireguardAttribute::IfIndex(self.index));
        self.family.change(WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }).await
    }

    async fn listen(&self, port: u16) -> Result<(), Cause> {
        let link = links::find(&self.netlink, &self.name).await?;
        // While it is down the kernel takes any port, and it would not come up with one that is taken.
        if link.is_some_and(|link| link.index == self.index && !link.up) {
            is_free(port)?;
        }
        Ok(self.set(vec![WireguardAttribute::ListenPort(port)]).await?)
    }

    /// Sends a message; if the kernel refuses it, each piece by itself, because it stops at the first one
    /// that it does not like. Returns those that were refused.
    async fn send(&self, message: &[Piece]) -> Result<Vec<(PublicKey, Refusal)>, Gone> {
        let peers =
            |pieces: &[Piece]| vec![WireguardAttribute::Peers(pieces.iter().map(|piece| piece.peer.clone()).collect())];
        match self.set(peers(message)).await {
            Ok(()) => return Ok(Vec::new()),
            Err(refusal) if refusal.errno() == Some(libc::ENODEV) => return Err(Gone),
            Err(_) => {}
        }
        let mut refused = Vec::new();
        for piece in message {
            if let Err(refusal) = self.set(peers(std::slice::from_ref(piece))).await {
                refused.push((piece.key, refusal));
            }
        }
        Ok(refused)
    }

    /// Removes and sets the peers of `diff`, but for the device itself.
    async fn change_peers(&mut self, diff: &DeviceDiff) -> Result<BTreeMap<PublicKey, Refusal>, Gone> {
        let removed = diff.remove.iter().map(change::remove);
        let others = diff.set.iter().filter(|(key, _)| *key != self.public_key);
        let set = others.clone().flat_map(|(key, peer)| change::set(key, self.dump.peers.get(key), peer));
        let mut refused = BTreeMap::new();
        for message in change::messages(removed.chain(set)) {
            refused.extend(self.send(&message).await?);
        }
        diff.remove.iter().for_each(|key| _ = self.dump.peers.remove(key));
        self.dump.peers.extend(others.map(|(key, peer)| (*key, peer.clone())));
        // Nobody knows how much of these was done.
        refused.keys().for_each(|key| _ = self.dump.peers.remove(key));
        Ok(refused)
    }

    async fn change(&mut self, diff: &DeviceDiff) -> Vec<DeviceError> {
        let mut errors = Vec::new();
        if let Some(port) = diff.listen_port
            && let Err(source) = self.listen(port).await
        {
            errors.push(DeviceError::ListenPort { port, source });
        }
        let mut refused = match self.change_peers(diff).await {
            Ok(refused) => refused,
            Err(Gone) => return vec![DeviceError::Gone { interface: self.name.clone() }],
        };
        for (key, peer) in &diff.set {
            let source = match refused.remove(key) {
                Some(refusal) => refusal.into(),
                None if *key == self.public_key => OwnKey.into(),
                None => continue,
            };
            errors.push(DeviceError::Peer { key: *key, label: peer.label.clone(), source });
        }
        let failed = |(key, refusal): (PublicKey, Refusal)| DeviceError::Peer {
            key,
            label: key.to_string(),
            source: refusal.into(),
        };
        errors.extend(refused.into_iter().map(failed));
        errors
    }
}

/// The interface does not exist any more.
struct Gone;

/// Whether a UDP port could be bound for both families, or for IPv4 where there is no IPv6.
fn is_free(port: u16) -> io::Result<()> {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)),
        bound => bound,
    }
    .map(drop)
}

impl Device for Interface {
    fn apply<'a>(&'a mut self, diff: &'a DeviceDiff) -> BoxFuture<'a, Vec<DeviceError>> {
        self.change(diff).boxed()
    }

    fn statistics(&mut self) -> BoxFuture<'_, Result<Vec<PeerStatistics>, DeviceError>> {
        async move {
            match self.read().await {
                Ok(()) => Ok(self.dump.statistics.values().cloned().collect()),
                Err(refusal) => Err(DeviceError::Read { interface: self.name.clone(), source: refusal.into() }),
            }
        }
        .boxed()
    }

    fn backend(&self) -> Backend {
        Backend::Kernel
    }

    fn delete(self: Box<Self>) -> BoxFuture<'static, Result<(), DeviceError>> {
        async move {
            let deleted = links::delete_same(&self.netlink, &self.name, self.index).await;
            deleted.map_err(|error| DeviceError::Delete { interface: self.name.clone(), source: error.into() })
        }
        .boxed()
    }
}
