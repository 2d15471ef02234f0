//! Where a WireGuard listens: `192.0.2.1:51820`, `[2001:db8::1]:51820` or `gw.example.com:51820`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A UDP endpoint, by address or by DNS name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// An address and a port that is not 0.
    Address(SocketAddr),
    /// A DNS name (RFC 1123 subdomain) and a port that is not 0.
    Name(String, u16),
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No `host:port`.
    #[error("expected host:port")]
    Form,
    /// The port is no number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// The host is neither an IP address nor a DNS name.
    #[error("the host must be an IP address (IPv6 in brackets) or a DNS name")]
    Host,
}

impl Endpoint {
    /// The endpoint of `host`, an IP address without brackets or a DNS name, and `port`.
    pub fn new(host: &str, port: u16) -> Result<Self, EndpointError> {
        if port == 0 {
            return Err(EndpointError::Port);
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip.to_canonical(), port)));
        }
        if is_dns_name(host) {
            return Ok(Self::Name(host.to_owned(), port));
        }
        Err(EndpointError::Host)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }

    /// The address, when no DNS is needed to know it.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Name(..) => None,
        }
    }
}

/// RFC 1123 subdomain as Kubernetes checks it: lower-case labels of at most 63, 253 bytes in all.
pub fn is_dns_name(name: &str) -> bool {
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(label_is_valid)
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::Form)?;
        let port = port.parse().map_err(|_| EndpointError::Port)?;
        match host.strip_prefix('[') {
            Some(rest) => {
                let ip = rest.strip_suffix(']').ok_or(EndpointError::Form)?;
                let ip = ip.parse::<std::net::Ipv6Addr>().map_err(|_| EndpointError::Host)?;
                Self::new(&ip.to_string(), port)
            }
            None if host.contains(':') => Err(EndpointError::Form),
            None => Self::new(host, port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_survive_their_text() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:1", "gw-1.example.com:65535"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, why) in [
            ("", EndpointError::Form),
            ("192.0.2.1", EndpointError::Form),
            ("2001:db8::1:51820", EndpointError::Form),
            ("[2001:db8::1:51820", EndpointError::Form),
            ("192.0.2.1:0", EndpointError::Port),
            ("192.0.2.1:65536", EndpointError::Port),
            ("192.0.2.1:port", EndpointError::Port),
            ("Gw.Example:1", EndpointError::Host),
            ("-a:1", EndpointError::Host),
            (":1", EndpointError::Host),
            ("[fe80::1%eth0]:1", EndpointError::Host),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text}");
        }
    }
}
