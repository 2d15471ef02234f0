//! Configuration files for the mesh's members and peers (`kgctl showconf`).

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    Endpoint, NodeName, Peer, PeerName, PublicKey, Seconds,
    ini::{Conf, InterfaceSection, PeerSection},
    topology::{Segment, Topology},
};

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The node is not in the mesh.
    #[error("did not find any node named \"{0}\" in the mesh")]
    NoSuchNode(NodeName),
    /// The node is in the mesh but has no WireGuard configuration.
    #[error("Node \"{0}\" is not a leader node")]
    NotALeader(NodeName),
    /// The peer is not in the mesh.
    #[error("did not find any peer named \"{0}\" in the mesh")]
    NoSuchPeer(PeerName),
}

fn endpoint(
    discovered: &BTreeMap<PublicKey, SocketAddr>,
    key: &PublicKey,
    announced: Option<&Endpoint>,
    keepalive: Seconds,
) -> Option<Endpoint> {
    let discovered = discovered.get(key).filter(|_| !keepalive.is_zero());
    discovered.map(|address| Endpoint::Address(*address)).or_else(|| announced.cloned())
}

fn of_segment(segment: &Segment, discovered: &BTreeMap<PublicKey, SocketAddr>, keepalive: Seconds) -> PeerSection {
    PeerSection {
        allowed_ips: segment.all_allowed_ips().collect(),
        endpoint: endpoint(discovered, &segment.key, Some(&segment.endpoint), segment.persistent_keepalive),
        persistent_keepalive: keepalive,
        preshared_key: None,
        public_key: segment.key,
    }
}

fn of_peer(peer: &Peer, discovered: &BTreeMap<PublicKey, SocketAddr>, keepalive: Seconds) -> PeerSection {
    PeerSection {
        allowed_ips: peer.allowed_ips.clone(),
        endpoint: endpoint(discovered, &peer.key, peer.endpoint.as_ref(), peer.persistent_keepalive),
        persistent_keepalive: keepalive,
        preshared_key: peer.preshared_key.clone(),
        public_key: peer.key,
    }
}

impl Peer {
    /// What another WireGuard needs in order to have this one as a peer.
    pub fn as_peer(&self) -> PeerSection {
        of_peer(self, &BTreeMap::new(), self.persistent_keepalive)
    }
}

impl Topology {
    /// What a WireGuard outside of the mesh needs in order to have the segment that `node` leads as a peer.
    /// Without allowed location IPs, because another mesh may have a printer at the same address.
    pub fn node_as_peer(&self, node: &NodeName) -> Result<PeerSection, ConfError> {
        let segment = self.led_by(node)?;
        Ok(PeerSection {
            allowed_ips: segment.allowed_ips.clone(),
            endpoint: Some(segment.endpoint.clone()),
            persistent_keepalive: Seconds(0),
            preshared_key: None,
            public_key: segment.key,
        })
    }

    fn led_by(&self, node: &NodeName) -> Result<&Segment, ConfError> {
        let segment = self.segment_of(node).ok_or_else(|| ConfError::NoSuchNode(node.clone()))?;
        if segment.leader().name != *node {
            return Err(ConfError::NotALeader(node.clone()));
        }
        Ok(segment)
    }

    /// The configuration that the leader `node` runs, without its private key.
    pub fn node_conf(&self, node: &NodeName, listen_port: u16) -> Result<Conf, ConfError> {
        let own = self.led_by(node)?;
        let discovered = self.discovered_endpoints(&own.leader().discovered_endpoints);
        let keepalive = own.persistent_keepalive;
        let others = self.segments.iter().filter(|segment| segment.name != own.name);
        let segments = others.map(|segment| of_segment(segment, &discovered, keepalive));
        let peers = self.peers.iter().map(|peer| of_peer(peer, &discovered, keepalive));
        let interface = InterfaceSection { listen_port: Some(listen_port), ..InterfaceSection::default() };
        Ok(Conf { interface: Some(interface), peers: segments.chain(peers).collect() })
    }

    /// The configuration that the device behind `peer` needs: one section for each segment, which
    /// share its preshared key, and one for each other peer.
    pub fn peer_conf(&self, peer: &PeerName) -> Result<Conf, ConfError> {
        let own = self.peers.iter().find(|other| other.name == *peer);
        let own = own.ok_or_else(|| ConfError::NoSuchPeer(peer.clone()))?;
        let discovered = self.discovered_endpoints(&BTreeMap::new());
        let keepalive = own.persistent_keepalive;
        let segments = self.segments.iter().map(|segment| PeerSection {
            preshared_key: own.preshared_key.clone(),
            ..of_segment(segment, &discovered, keepalive)
        });
        // What two other peers share between them and the cluster is no business of this one.
        let others = self.peers.iter().filter(|other| other.name != *peer);
        let others = others.map(|other| PeerSection { preshared_key: None, ..of_peer(other, &discovered, keepalive) });
        Ok(Conf { interface: None, peers: segments.chain(others).collect() })
    }
}
