//! `struct sockaddr_in` and `sockaddr_in6` as bytes (Linux `uapi/linux/in.h`, `in6.h`), so that
//! writing and reading them needs no `unsafe`.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_in)`.
const LEN_V4: usize = 16;
/// `sizeof(struct sockaddr_in6)`.
const LEN_V6: usize = 28;

/// A socket address in the kernel's layout.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    pub(super) bytes: [u8; LEN_V6],
}

impl RawAddress {
    pub(crate) const EMPTY: Self = Self { bytes: [0; LEN_V6] };

    /// The address and the number of bytes the kernel is to read.
    pub(crate) fn encode(address: SocketAddr) -> (Self, usize) {
        let mut bytes = [0; LEN_V6];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                LEN_V4
            }
            SocketAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                LEN_V6
            }
        };
        (Self { bytes }, len)
    }

    /// What the kernel filled in; `None` for a family that is not IP.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        let b = &self.bytes;
        let port = u16::from_be_bytes([b[2], b[3]]);
        match i32::from(u16::from_ne_bytes([b[0], b[1]])) {
            libc::AF_INET => {
                let ip = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
                Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = b[8..24].try_into().ok()?;
                let scope = u32::from_ne_bytes(b[24..28].try_into().ok()?);
                Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope)))
            }
            _ => None,
        }
    }

    /// The wildcard address of a family.
    pub(crate) fn any(v6: bool, port: u16) -> (Self, usize) {
        let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Self::encode(SocketAddr::new(ip, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "[fe80::1%7]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let (raw, len) = RawAddress::encode(address);
            assert_eq!(raw.decode(), Some(address));
            assert_eq!(len, if address.is_ipv4() { LEN_V4 } else { LEN_V6 });
        }
        assert_eq!(RawAddress::EMPTY.decode(), None);
    }
}
