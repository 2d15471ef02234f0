//! A machine outside the cluster that takes part as a Peer, with a WireGuard that is not ours:
//! `wireguard-go` and `wg`, as a person would set up a laptop.

use std::fs::{self, File};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use lab::Lab;
use serde_json::{Value, json};

use crate::support::wait;

/// Where its WireGuard listens.
pub const PORT: u16 = 51820;
const INTERFACE: &str = "wg0";

/// A host of the lab with a WireGuard interface `wg0`; dropping it ends that.
pub struct External<'a> {
    lab: &'a Lab,
    host: &'a str,
    address: &'a str,
    private_key: String,
    /// Its public key, base64.
    pub key: String,
    process: Child,
}

impl<'a> External<'a> {
    /// Makes the interface on `host`, with `address` (no prefix length) on it and no peers yet.
    pub fn start(lab: &'a Lab, host: &'a str, address: &'a str) -> Result<External<'a>> {
        let private_key = lab.exec(host, &["wg", "genkey"])?.trim().to_owned();
        let space = lab.space(host)?;
        let key = space.exec_with_input(["wg", "pubkey"], &private_key)?.trim().to_owned();
        let mut command = space.command(["wireguard-go", "--foreground", INTERFACE]);
        let log = lab.directory().join("hosts").join(host).join("wireguard-go.log");
        let file = File::create(&log)?;
        command.env("LOG_LEVEL", "verbose").stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().context("start wireguard-go (scripts/setup test installs it)")?;
        let mut external = External { lab, host, address, private_key, key, process };
        wait(lab, "wireguard-go answers", || {
            let ended = external.process.try_wait()?;
            lab.exec(host, &["wg", "show", INTERFACE])
                .map(|_| true)
                .with_context(|| format!("wireguard-go, {ended:?}: {}", fs::read_to_string(&log).unwrap_or_default()))
        })?;
        space.ip(&format!("addr add {address} dev {INTERFACE}\nlink set {INTERFACE} mtu 1420 up\n"))?;
        Ok(external)
    }

    /// The spec of the Peer object that stands for it, without an endpoint.
    pub fn spec(&self) -> Value {
        json!({ "publicKey": self.key, "allowedIPs": [self.address] })
    }

    /// Takes `peers`, sections of the form that `kgctl showconf peer` prints, for its whole
    /// configuration, and routes what they allow.
    pub fn configure(&self, peers: &str) -> Result<()> {
        let space = self.lab.space(self.host)?;
        let own = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", self.private_key);
        space.exec_with_input(["wg", "setconf", INTERFACE, "/dev/stdin"], &format!("{own}\n{peers}"))?;
        space.exec(["ip", "route", "flush", "dev", INTERFACE])?;
        for (_, networks) in crate::support::wg(self.lab, self.host, INTERFACE, "allowed-ips")? {
            let routes = networks.split_whitespace().filter(|network| network.contains('.'));
            let lines = routes.map(|network| format!("route replace {network} dev {INTERFACE} src {}\n", self.ip()));
            space.ip(&lines.collect::<String>())?;
        }
        Ok(())
    }

    fn ip(&self) -> &str {
        self.address.split('/').next().unwrap_or_default()
    }
}

impl Drop for External<'_> {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
