//! Changes to a device as data, and how they are made: the one way for callers and for `wg set`.
//!
//! The rules are those of the kernel's `wg_set_device` and `set_peer` (`netlink.c`): what an
//! update does not mention stays, and peers that it does not mention do not notice it.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use ipnet::IpNet;

use crate::identity::Identity;
use crate::inbox::BindRequest;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::{Error, PeerConfig, PublicKey, Secret};

/// A change of the whole device.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceUpdate {
    /// All zeros takes the key away.
    pub(crate) private_key: Option<Secret>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) fwmark: Option<u32>,
    /// Remove all peers first.
    pub(crate) replace_peers: bool,
    /// Applied in order.
    pub(crate) peers: Vec<PeerUpdate>,
}

/// A change of one peer, which is made if there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PeerUpdate {
    pub(crate) public_key: PublicKey,
    /// Remove it; nothing else counts then.
    pub(crate) remove: bool,
    /// Do nothing if there is no such peer.
    pub(crate) update_only: bool,
    /// All zeros takes the key away.
    pub(crate) preshared_key: Option<Secret>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds; 0 turns it off.
    pub(crate) persistent_keepalive: Option<u16>,
    /// Take all networks from it first.
    pub(crate) replace_allowed_ips: bool,
    /// Applied in order.
    pub(crate) allowed_ips: Vec<AllowedIpChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedIpChange {
    Add(IpNet),
    Remove(IpNet),
}

impl PeerUpdate {
    /// An update that changes nothing but makes the peer exist.
    pub(crate) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

impl From<PeerConfig> for PeerUpdate {
    fn from(config: PeerConfig) -> Self {
        Self {
            preshared_key: Some(config.preshared_key.unwrap_or_else(|| Secret::from([0; 32]))),
            endpoint: config.endpoint,
            persistent_keepalive: Some(config.persistent_keepalive),
            replace_allowed_ips: true,
            allowed_ips: config.allowed_ips.into_iter().map(AllowedIpChange::Add).collect(),
            ..Self::new(config.public_key)
        }
    }
}

impl Shared {
    /// Makes all changes, up to the first that fails.
    pub(crate) fn apply(&self, update: DeviceUpdate) -> Result<(), Error> {
        if let Some(key) = update.private_key {
            self.set_private_key(key);
        }
        if let Some(port) = update.listen_port {
            self.set_listen_port(port)?;
        }
        if let Some(mark) = update.fwmark {
            self.set_fwmark(mark)?;
        }
        if update.replace_peers {
            let _writer = self.writer();
            let mut table = self.table_mut();
            let keys: Vec<_> = table.peers().map(|peer| *peer.public_key()).collect();
            keys.iter().for_each(|key| table.remove(key));
        }
        for peer in update.peers {
            match self.apply_to_peer(peer) {
                // As in Linux, where one list of peers may serve all devices of a mesh.
                Ok(()) | Err(Error::OwnKey) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the key; sessions made with another one end. A peer that has the same key goes.
    pub(crate) fn set_private_key(&self, key: Secret) {
        let _writer = self.writer();
        let before = self.identity();
        if before.as_ref().is_some_and(|identity| *identity.secret() == key) {
            return;
        }
        let identity = Identity::new(key, self.now()).filter(|identity| !identity.secret().is_zero()).map(Arc::new);
        if let Some(identity) = &identity {
            self.table_mut().remove(&identity.public_key());
        }
        self.replace_identity(identity.clone());
        for peer in self.all_peers() {
            peer.rekey(identity.as_ref(), peer.preshared_key());
            self.inbox.hurry(peer);
        }
    }

    /// Binds both sockets to the port, 0 meaning any free one, and returns it.
    pub(crate) fn set_listen_port(&self, port: u16) -> Result<u16, Error> {
        let _writer = self.writer();
        let (reply, answer) = mpsc::sync_channel(1);
        self.inbox.request(BindRequest { port, reply });
        answer.recv().map_err(|_| Error::Closed)?
    }

    /// Sets the mark of what is sent from now on.
    pub(crate) fn set_fwmark(&self, mark: u32) -> Result<(), Error> {
        let _writer = self.writer();
        self.sockets().set_mark(mark)?;
        self.set_mark(mark);
        Ok(())
    }

    /// Removes one peer with all that is known about it.
    pub(crate) fn remove_peer(&self, key: &PublicKey) {
        let _writer = self.writer();
        self.table_mut().remove(key);
    }

    /// Makes one peer, changes it in place, or removes it.
    pub(crate) fn apply_to_peer(&self, update: PeerUpdate) -> Result<(), Error> {
        if update.remove {
            self.remove_peer(&update.public_key);
            return Ok(());
        }
        let _writer = self.writer();
        let identity = self.identity();
        if identity.as_ref().is_some_and(|own| own.public_key() == update.public_key) {
            return Err(Error::OwnKey);
        }
        let existing = self.table().by_key(&update.public_key).cloned();
        if existing.is_none() && update.update_only {
            return Ok(());
        }
        let peer = match &existing {
            Some(peer) => Arc::clone(peer),
            None => {
                let index = self.table().free_index().ok_or(Error::TooManyPeers)?;
                Arc::new(Peer::new(update.public_key, index))
            }
        };
        let is_new = existing.is_none();
        update.change_state(&peer, is_new, identity.as_ref());
        update.change_routes(self, &peer, is_new);
        // It may have to start a handshake, for a keepalive that was just turned on.
        self.inbox.hurry(peer);
        Ok(())
    }
}

impl PeerUpdate {
    fn change_state(&self, peer: &Peer, is_new: bool, identity: Option<&Arc<Identity>>) {
        let before = peer.preshared_key();
        let wanted = match &self.preshared_key {
            Some(key) => Some(key.clone()).filter(|key| !key.is_zero()),
            None => before.clone(),
        };
        // The one change that no running session survives, as it is part of every handshake.
        if is_new || wanted != before {
            peer.rekey(identity, wanted);
        }
        if let Some(endpoint) = self.endpoint {
            peer.set_endpoint(endpoint);
        }
        if let Some(seconds) = self.persistent_keepalive {
            peer.set_persistent_keepalive(seconds);
        }
    }

    /// In one step for the data path, so that no packet finds a network without its peer.
    fn change_routes(&self, shared: &Shared, peer: &Arc<Peer>, is_new: bool) {
        let mut table = shared.table_mut();
        if is_new {
            table.insert(Arc::clone(peer));
        } else if self.replace_allowed_ips {
            let added = |change: &AllowedIpChange| match change {
                AllowedIpChange::Add(network) => Some(network.trunc()),
                AllowedIpChange::Remove(_) => None,
            };
            table.disallow_all_but(&self.allowed_ips.iter().filter_map(added).collect(), peer);
        }
        for change in &self.allowed_ips {
            match change {
                AllowedIpChange::Add(network) => table.allow(network, peer),
                AllowedIpChange::Remove(network) => table.disallow(network, peer),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::fuzz;

    #[test]
    fn no_network_stays_with_a_peer_that_is_replaced_in_the_meantime() {
        let shared = fuzz::device();
        shared.set_private_key(Secret::from([1; 32]));
        let key = Secret::from([2; 32]).public_key();
        // Another preshared key each time, which takes some work between looking for the peer and changing its networks.
        let change = |number: u8| PeerUpdate {
            preshared_key: Some(Secret::from([number; 32])),
            allowed_ips: vec![AllowedIpChange::Add("10.0.0.0/8".parse().expect("a network"))],
            ..PeerUpdate::new(key)
        };
        let has_owner_that_is_no_peer = || {
            let table = shared.table();
            let owner = table.by_address(IpAddr::from([10, 0, 0, 1]));
            owner.is_some_and(|owner| !table.by_key(&key).is_some_and(|peer| Arc::ptr_eq(owner, peer)))
        };
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for number in (1..=250).chain(1..=250) {
                    shared.apply_to_peer(change(number)).expect("nothing in it can fail");
                    thread::yield_now();
                }
            });
            while !changes.is_finished() {
                shared.apply(DeviceUpdate { replace_peers: true, ..DeviceUpdate::default() }).expect("nor in this");
                for _ in 0..10 {
                    thread::sleep(Duration::from_micros(50));
                    assert!(!has_owner_that_is_no_peer());
                }
            }
        });
    }
}
