//! A Peer: a host outside the cluster that takes part in the mesh.
//!
//! It does what a person would do by hand: `wg genkey`, a Peer object, `kgctl showconf peer`, `wg
//! syncconf`, addresses and routes. WireGuard itself is crate `engine`, in this process, controlled
//! through its UAPI socket.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use engine::{Device, Options};
use ipnet::IpNet;
use serde_json::json;

use crate::lab::Lab;
use crate::space::Space;

const INTERFACE: &str = "wg0";
const PORT: u16 = 51820;
/// As the nodes' links: Ethernet's 1500 less WireGuard's worst overhead.
const MTU: u16 = 1420;

/// WireGuard running on a host that is no node. Ends when dropped; drop it before the lab.
pub struct Outsider {
    name: String,
    space: Arc<Space>,
    private_key: String,
    /// What WireGuard was last configured from.
    applied: Mutex<String>,
    _device: Device,
}

impl Lab {
    /// Starts WireGuard on `host` with address `address`, and creates Peer `name` for it. If the host
    /// has a public address the Peer has an endpoint, else a keepalive.
    ///
    /// The Peer is not configured yet: call [`Outsider::sync`] when the cluster knows it, and again
    /// whenever the mesh has changed.
    pub fn start_peer(&self, name: &str, host: &str, address: IpNet) -> Result<Outsider> {
        let space = self.space(host)?;
        let uapi = self.directory().join("hosts").join(host).join("wireguard");
        let device = create_device(&space, &uapi).with_context(|| format!("start WireGuard on {host}"))?;
        let private_key = space.exec(["wg", "genkey"])?.trim().to_owned();
        let public_key = space.exec_with_input(["wg", "pubkey"], &private_key)?.trim().to_owned();
        space.ip(&format!("addr add {address} dev {INTERFACE}\nlink set {INTERFACE} up\n"))?;
        let mut spec = json!({ "allowedIPs": [address.trunc()], "publicKey": public_key });
        match self.addresses(host)?.public {
            Some(public) => spec["endpoint"] = json!({ "dnsOrIP": { "ip": public }, "port": PORT }),
            None => spec["persistentKeepalive"] = json!(5),
        }
        self.apply_peer(name, &spec)?;
        Ok(Outsider { name: name.to_owned(), space, private_key, applied: Mutex::default(), _device: device })
    }
}

fn create_device(space: &Space, uapi: &Path) -> Result<Device> {
    let mut options = Options::new(INTERFACE);
    options.mtu = MTU;
    options.uapi_dir = Some(uapi.to_owned());
    Ok(space.run(|| Device::create(options))??)
}

impl Outsider {
    /// Brings WireGuard and routes to what `kgctl showconf peer` says now; unchanged peers are not
    /// disturbed, and nothing is done if nothing has changed: applying the same again would undo
    /// roaming. Gives the configuration, without the private key.
    pub fn sync(&self, lab: &Lab) -> Result<String> {
        let shown = lab.kgctl(&["showconf", "peer", &self.name])?;
        let peers = shown.find("[Peer]").and_then(|start| shown.get(start..));
        let peers = peers.ok_or_else(|| anyhow!("kgctl showconf peer {}: no [Peer] in:\n{shown}", self.name))?;
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if *applied == peers {
            return Ok(applied.clone());
        }
        let configuration = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\n{peers}", self.private_key);
        self.space.exec_with_input(["wg", "syncconf", INTERFACE, "/dev/stdin"], &configuration)?;
        self.space.ip(&routes(peers))?;
        *applied = peers.to_owned();
        Ok(applied.clone())
    }

    /// `wg show` as a person would see it.
    pub fn show(&self) -> Result<String> {
        self.space.exec(["wg", "show"])
    }
}

/// One route for each allowed IP, but not to a peer's endpoint: what carries the tunnel cannot go through
/// it (a node behind NAT has its internal address as its endpoint until a better one is discovered).
fn routes(configuration: &str) -> String {
    let entries = configuration.lines().filter_map(|line| line.split_once('='));
    let values = |wanted: &'static str| {
        entries.clone().filter(move |(key, _)| key.trim() == wanted).map(|(_, value)| value.trim())
    };
    let endpoints: Vec<IpAddr> =
        values("Endpoint").filter_map(|endpoint| Some(endpoint.parse::<SocketAddr>().ok()?.ip())).collect();
    let networks = values("AllowedIPs").flat_map(|list| list.split(',')).filter_map(|text| text.trim().parse().ok());
    networks
        .filter(|network: &IpNet| !endpoints.iter().any(|endpoint| *network == IpNet::from(*endpoint)))
        .map(|network| format!("route replace {network} dev {INTERFACE}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_ip_but_the_endpoints_becomes_a_route() {
        let configuration = "[Peer]\nAllowedIPs = 10.42.1.0/24, fd00:42::/64\nEndpoint = 192.0.2.1:51820\n\
                             [Peer]\nAllowedIPs = 10.4.0.1/32, 10.0.0.9/32\nEndpoint = 10.0.0.9:51820\n\
                             [Peer]\nAllowedIPs =\n";
        let expected = "route replace 10.42.1.0/24 dev wg0\nroute replace fd00:42::/64 dev wg0\n\
                        route replace 10.4.0.1/32 dev wg0\n";
        assert_eq!(routes(configuration), expected);
    }
}
