//! Requests at the configuration socket (`wg set`, `wg syncconf`): reading never panics, and what was read says
//! the same when it is written as a request again.
//!
//! The engine keeps its parser to itself, so it is compiled in here by path.
#![no_main]
#![allow(dead_code, reason = "the engine's modules have more than is fuzzed")]

#[path = "../../engine/src/uapi/request.rs"]
mod request;
#[path = "../../engine/src/secret.rs"]
mod secret;

use std::fmt::{Display, Write};

use libfuzzer_sys::fuzz_target;
use request::Request;
use secret::{PublicKey, Secret};
use update::{AllowedIpChange, DeviceUpdate};

fuzz_target!(|text: &str| {
    let index_of = |name: &str| (name == "eth0").then_some(7);
    let Ok(request) = request::parse(text, index_of) else { return };
    let written = write(&request);
    let again = request::parse(&written, |_| None).expect("what was read can be written and read");
    assert_eq!(request, again, "{written}");
});

fn write(request: &Request) -> String {
    let mut text = String::new();
    match request {
        Request::Get => text.push_str("get=1\n"),
        Request::Set(update) => write_update(&mut text, update),
    }
    text + "\n"
}

fn write_update(text: &mut String, update: &DeviceUpdate) {
    line(text, "set", Some(1));
    line(text, "private_key", update.private_key.as_ref().map(|key| hex(key.as_bytes())));
    line(text, "listen_port", update.listen_port);
    line(text, "fwmark", update.fwmark);
    line(text, "replace_peers", update.replace_peers.then_some(true));
    for peer in &update.peers {
        line(text, "public_key", Some(hex(&peer.public_key)));
        line(text, "remove", peer.remove.then_some(true));
        line(text, "update_only", peer.update_only.then_some(true));
        line(text, "preshared_key", peer.preshared_key.as_ref().map(|key| hex(key.as_bytes())));
        line(text, "endpoint", peer.endpoint);
        line(text, "persistent_keepalive_interval", peer.persistent_keepalive);
        line(text, "replace_allowed_ips", peer.replace_allowed_ips.then_some(true));
        for change in &peer.allowed_ips {
            match change {
                AllowedIpChange::Add(network) => line(text, "allowed_ip", Some(network)),
                AllowedIpChange::Remove(network) => line(text, "allowed_ip", Some(format!("-{network}"))),
            }
        }
    }
}

fn line(text: &mut String, key: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        writeln!(text, "{key}={value}").expect("writing to a string cannot fail");
    }
}

fn hex(key: &PublicKey) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The values that the parser makes. The engine's own are declared beside the code that applies them, which would
/// bring the whole engine in; the parser does not compile if these are not the same.
mod update {
    use std::net::SocketAddr;

    use ipnet::IpNet;

    use crate::{PublicKey, Secret};

    #[derive(Debug, Default, PartialEq, Eq)]
    pub(crate) struct DeviceUpdate {
        pub(crate) private_key: Option<Secret>,
        pub(crate) listen_port: Option<u16>,
        pub(crate) fwmark: Option<u32>,
        pub(crate) replace_peers: bool,
        pub(crate) peers: Vec<PeerUpdate>,
    }

    #[derive(Debug, Default, PartialEq, Eq)]
    pub(crate) struct PeerUpdate {
        pub(crate) public_key: PublicKey,
        pub(crate) remove: bool,
        pub(crate) update_only: bool,
        pub(crate) preshared_key: Option<Secret>,
        pub(crate) endpoint: Option<SocketAddr>,
        pub(crate) persistent_keepalive: Option<u16>,
        pub(crate) replace_allowed_ips: bool,
        pub(crate) allowed_ips: Vec<AllowedIpChange>,
    }

    impl PeerUpdate {
        pub(crate) fn new(public_key: PublicKey) -> Self {
            Self { public_key, ..Self::default() }
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum AllowedIpChange {
        Add(IpNet),
        Remove(IpNet),
    }
}
