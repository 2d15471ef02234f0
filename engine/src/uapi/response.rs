//! Answers of the cross-platform configuration protocol (<https://www.wireguard.com/xplatform/>).

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::secret::SecretBytes;
use crate::{DeviceStats, PeerStats, Secret};

/// One peer's state and the secret that statistics leave out.
pub(crate) struct PeerState {
    pub(crate) stats: PeerStats,
    pub(crate) preshared_key: Option<Secret>,
}

/// The answer to a get request.
pub(crate) fn state(private_key: Option<&Secret>, device: &DeviceStats, peers: &[PeerState]) -> SecretBytes {
    let mut text = SecretBytes::default();
    if let Some(key) = private_key {
        line_with_key(&mut text, "private_key", key.as_bytes());
    }
    line(&mut text, "listen_port", device.listen_port);
    if device.fwmark != 0 {
        line(&mut text, "fwmark", device.fwmark);
    }
    for peer in peers {
        peer_state(&mut text, peer);
    }
    end(&mut text, 0);
    text
}

/// The answer to any other request. Errors are negative, as `wg` expects them.
pub(crate) fn result(errno: i32) -> SecretBytes {
    let mut text = SecretBytes::default();
    end(&mut text, -errno);
    text
}

fn peer_state(text: &mut SecretBytes, peer: &PeerState) {
    let PeerState { stats, preshared_key } = peer;
    line_with_key(text, "public_key", &stats.public_key);
    if let Some(key) = preshared_key {
        line_with_key(text, "preshared_key", key.as_bytes());
    }
    line(text, "protocol_version", 1);
    if let Some(endpoint) = stats.endpoint {
        line(text, "endpoint", endpoint);
    }
    let handshake = stats.last_handshake.unwrap_or(UNIX_EPOCH);
    let since_epoch = SystemTime::duration_since(&handshake, UNIX_EPOCH).unwrap_or_default();
    line(text, "last_handshake_time_sec", since_epoch.as_secs());
    line(text, "last_handshake_time_nsec", since_epoch.subsec_nanos());
    line(text, "tx_bytes", stats.tx_bytes);
    line(text, "rx_bytes", stats.rx_bytes);
    line(text, "persistent_keepalive_interval", stats.persistent_keepalive);
    for network in &stats.allowed_ips {
        line(text, "allowed_ip", network);
    }
}

fn line(text: &mut SecretBytes, key: &str, value: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

fn line_with_key(text: &mut SecretBytes, name: &str, key: &[u8; 32]) {
    let _ = write!(text, "{name}=");
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    text.extend(b"\n");
}

fn end(text: &mut SecretBytes, errno: i32) {
    let _ = write!(text, "errno={errno}\n\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Drops;

    #[test]
    fn the_whole_state_in_the_protocols_order() {
        let peer = PeerState {
            stats: PeerStats {
                public_key: [0xab; 32],
                endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
                last_handshake: Some(UNIX_EPOCH + Duration::new(5, 7)),
                rx_bytes: 1,
                tx_bytes: 2,
                persistent_keepalive: 25,
                allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            },
            preshared_key: Some(Secret::from([2; 32])),
        };
        let device =
            DeviceStats { public_key: None, peers: Vec::new(), listen_port: 51820, fwmark: 9, drops: Drops::default() };
        let (ab, one, two) = ("ab".repeat(32), "01".repeat(32), "02".repeat(32));
        let text = state(Some(&Secret::from([1; 32])), &device, &[peer]);
        let expected = format!(
            "private_key={one}\nlisten_port=51820\nfwmark=9\npublic_key={ab}\n\
             preshared_key={two}\nprotocol_version=1\nendpoint=[2001:db8::1]:51820\n\
             last_handshake_time_sec=5\nlast_handshake_time_nsec=7\ntx_bytes=2\nrx_bytes=1\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\n\
             errno=0\n\n"
        );
        assert_eq!(std::str::from_utf8(&text), Ok(expected.as_str()));
    }

    #[test]
    fn errors_are_negative() {
        assert_eq!(*result(libc::EINVAL), *b"errno=-22\n\n");
    }
}
