//! What the kernel tells of a device (`WG_CMD_GET_DEVICE`, linux/wireguard.h), put together.
//!
//! A dump comes in as many messages as it takes. A peer whose allowed IPs do not fit into one goes on
//! in the next, where it has its key and more allowed IPs and nothing else.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardMessage, WireguardPeer,
    WireguardPeerAttribute, WireguardTimeSpec,
};
use topology::{DevicePeer, DevicePlan, PeerStatistics, PublicKey, Seconds, SecretKey};

/// A device at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dump {
    /// The device's own key; `None` while it has no private key.
    pub(super) public_key: Option<PublicKey>,
    /// The UDP port that it listens at, or will when it is up; 0 means any.
    pub(super) listen_port: u16,
    /// The firewall mark of what it sends; 0 means none.
    pub(super) mark: u32,
    /// Its peers, with empty labels.
    pub(super) peers: BTreeMap<PublicKey, DevicePeer>,
    /// What is known of each peer.
    pub(super) statistics: BTreeMap<PublicKey, PeerStatistics>,
}

impl Dump {
    /// Puts the messages of one dump together. What makes no sense is left out.
    pub(super) fn merge(messages: impl IntoIterator<Item = WireguardMessage>) -> Self {
        let mut dump = Self::default();
        for attribute in messages.into_iter().flat_map(|message| message.attributes) {
            match attribute {
                WireguardAttribute::PublicKey(key) => dump.public_key = PublicKey::new(key).ok(),
                WireguardAttribute::ListenPort(port) => dump.listen_port = port,
                WireguardAttribute::Fwmark(mark) => dump.mark = mark,
                WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|peer| dump.add(peer)),
                _ => {}
            }
        }
        dump
    }

    fn add(&mut self, WireguardPeer(attributes): WireguardPeer) {
        let key = attributes.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => PublicKey::new(*key).ok(),
            _ => None,
        });
        let Some(key) = key else { return };
        let peer = self.peers.entry(key).or_insert_with(|| DevicePeer {
            label: String::new(),
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: Seconds(0),
            allowed_ips: [].into(),
        });
        let blank = PeerStatistics { key, endpoint: None, last_handshake: None, rx_bytes: 0, tx_bytes: 0 };
        let statistics = self.statistics.entry(key).or_insert(blank);
        for attribute in attributes {
            match attribute {
                WireguardPeerAttribute::PresharedKey(secret) => {
                    peer.preshared_key = (secret != [0; 32]).then(|| SecretKey::from(secret));
                }
                WireguardPeerAttribute::Endpoint(endpoint) => {
                    (peer.endpoint, statistics.endpoint) = (Some(endpoint), Some(endpoint));
                }
                WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.persistent_keepalive = Seconds(seconds),
                WireguardPeerAttribute::LastHandshake(time) => statistics.last_handshake = wall_clock(time),
                WireguardPeerAttribute::RxBytes(bytes) => statistics.rx_bytes = bytes,
                WireguardPeerAttribute::TxBytes(bytes) => statistics.tx_bytes = bytes,
                WireguardPeerAttribute::AllowedIps(networks) => {
                    peer.allowed_ips.extend(networks.iter().filter_map(network));
                }
                _ => {}
            }
        }
    }

    /// As if all of it had been told by us.
    pub(super) fn plan(&self) -> DevicePlan {
        DevicePlan { up: false, listen_port: self.listen_port, peers: self.peers.clone() }
    }
}

/// `None` for the epoch, which stands for "never".
fn wall_clock(time: WireguardTimeSpec) -> Option<SystemTime> {
    let since = Duration::new(time.seconds.try_into().ok()?, time.nano_seconds.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since).filter(|_| !since.is_zero())
}

fn network(WireguardAllowedIp(attributes): &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut length): (Option<IpAddr>, _) = (None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => length = Some(*bits),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::{WireguardAddressFamily, WireguardCmd};

    use super::*;

    fn allowed_ip(ip: &str, bits: u8) -> WireguardAllowedIp {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
            WireguardAllowedIpAttr::IpAddr(ip.parse().unwrap()),
            WireguardAllowedIpAttr::Cidr(bits),
        ])
    }

    fn message(attributes: Vec<WireguardAttribute>) -> WireguardMessage {
        WireguardMessage { cmd: WireguardCmd::GetDevice, attributes }
    }

    fn time(seconds: i64, nano_seconds: i64) -> WireguardPeerAttribute {
        WireguardPeerAttribute::LastHandshake(WireguardTimeSpec { seconds, nano_seconds })
    }

    #[test]
    fn a_peer_that_goes_on_in_the_next_message_is_one() {
        let networks =
            |ips: &[&str]| WireguardPeerAttribute::AllowedIps(ips.iter().map(|ip| allowed_ip(ip, 24)).collect());
        let key = || WireguardPeerAttribute::PublicKey([1; 32]);
        let endpoint: std::net::SocketAddr = "192.0.2.1:51820".parse().unwrap();
        let whole = WireguardPeer(vec![
            key(),
            WireguardPeerAttribute::PresharedKey([0; 32]),
            time(5, 7),
            WireguardPeerAttribute::PersistentKeepalive(25),
            WireguardPeerAttribute::RxBytes(1),
            WireguardPeerAttribute::TxBytes(2),
            WireguardPeerAttribute::Endpoint(endpoint),
            networks(&["10.0.1.0", "10.0.2.0"]),
        ]);
        let rest = WireguardPeer(vec![key(), networks(&["10.0.3.0"])]);
        let other = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([2; 32]),
            WireguardPeerAttribute::PresharedKey([3; 32]),
            time(0, 0),
        ]);
        let dump = Dump::merge([
            message(vec![
                WireguardAttribute::ListenPort(51820),
                WireguardAttribute::PublicKey([9; 32]),
                WireguardAttribute::Peers(vec![whole]),
            ]),
            message(vec![WireguardAttribute::Peers(vec![rest, other])]),
        ]);
        let (first, second) = (PublicKey::new([1; 32]).unwrap(), PublicKey::new([2; 32]).unwrap());
        assert_eq!((dump.public_key, dump.listen_port), (PublicKey::new([9; 32]).ok(), 51820));
        assert_eq!(dump.peers.keys().collect::<Vec<_>>(), [&first, &second]);
        let peer = &dump.peers[&first];
        assert_eq!(
            (peer.allowed_ips.len(), peer.endpoint, peer.persistent_keepalive),
            (3, Some(endpoint), Seconds(25))
        );
        assert_eq!(peer.preshared_key, None, "zeroes are none");
        assert_eq!(dump.peers[&second].preshared_key, Some(SecretKey::from([3; 32])));
        let known = &dump.statistics[&first];
        assert_eq!(known.last_handshake, Some(SystemTime::UNIX_EPOCH + Duration::new(5, 7)));
        assert_eq!((known.endpoint, known.rx_bytes, known.tx_bytes), (Some(endpoint), 1, 2));
        assert_eq!(dump.statistics[&second].last_handshake, None, "never");
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let peer = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([1; 32]),
            time(-1, 0),
            WireguardPeerAttribute::AllowedIps(vec![allowed_ip("10.0.0.0", 33), WireguardAllowedIp(vec![])]),
        ]);
        let nobody = WireguardPeer(vec![WireguardPeerAttribute::PersistentKeepalive(1)]);
        let dump = Dump::merge([message(vec![
            WireguardAttribute::PublicKey([0; 32]),
            WireguardAttribute::Peers(vec![nobody, peer]),
        ])]);
        assert_eq!((dump.public_key, dump.peers.len()), (None, 1));
        assert!(dump.peers.values().all(|peer| peer.allowed_ips.is_empty()));
        assert!(dump.statistics.values().all(|known| known.last_handshake.is_none()));
    }
}
