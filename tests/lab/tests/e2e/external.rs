//! A machine outside the cluster that takes part as a Peer, with a WireGuard that is not ours:
//! `wireguard-go` and `wg`, as a person would set up a laptop.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Lab, Spec};
use serde_json::{Value, json};

use crate::support::{in_lab, skipped, wait};

/// Where its WireGuard listens.
pub const PORT: u16 = 51820;
const INTERFACE: &str = "wg0";

/// A host of the lab with a WireGuard interface `wg0`; dropping it ends that.
pub struct External<'a> {
    lab: &'a Lab,
    host: &'a str,
    addresses: Vec<&'a str>,
    private_key: String,
    /// Its public key, base64.
    pub key: String,
    process: Child,
}

/// As [`in_lab`], for a test that needs [`External`].
pub fn in_lab_with_external(
    label: &str,
    shape: impl FnOnce(Spec) -> Spec,
    steps: impl FnOnce(&Lab) -> Result<()>,
) -> Result<()> {
    match Command::new("wireguard-go").arg("--version").output() {
        Ok(_) => in_lab(label, shape, steps),
        Err(error) => skipped(&anyhow!("wireguard-go (Debian: wireguard-go): {error}")),
    }
}

impl<'a> External<'a> {
    /// Makes the interface on `host`, with `addresses` (CIDRs) on it and no peers yet.
    pub fn start(lab: &'a Lab, host: &'a str, addresses: &[&'a str]) -> Result<External<'a>> {
        let private_key = lab.exec(host, &["wg", "genkey"])?.trim().to_owned();
        let space = lab.space(host)?;
        let key = space.exec_with_input(["wg", "pubkey"], &private_key)?.trim().to_owned();
        let mut command = space.command(["wireguard-go", "--foreground", INTERFACE]);
        let log = lab.directory().join("hosts").join(host).join("wireguard-go.log");
        let file = File::create(&log)?;
        command.env("LOG_LEVEL", "verbose").stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let process = command.spawn().context("start wireguard-go")?;
        let mut external = External { lab, host, addresses: addresses.to_vec(), private_key, key, process };
        // Not by asking wg: it deletes a socket that is not listened at yet.
        wait(lab, "wireguard-go listens", || {
            let said = fs::read_to_string(&log)?;
            ensure!(external.process.try_wait()?.is_none(), "wireguard-go ended: {said}");
            Ok(said.contains("UAPI listener started"))
        })?;
        let lines = addresses.iter().map(|address| format!("addr add {address} dev {INTERFACE} nodad\n"));
        space.ip(&format!("link set {INTERFACE} mtu 1420 up\n{}", lines.collect::<String>()))?;
        Ok(external)
    }

    /// The spec of the Peer object that stands for it, without an endpoint.
    pub fn spec(&self) -> Value {
        json!({ "publicKey": self.key, "allowedIPs": self.addresses })
    }

    /// Takes `peers`, sections of the form that `kgctl showconf peer` prints, for its whole
    /// configuration, and routes what they allow.
    pub fn configure(&self, peers: &str) -> Result<()> {
        let space = self.lab.space(self.host)?;
        let own = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", self.private_key);
        space.exec_with_input(["wg", "setconf", INTERFACE, "/dev/stdin"], &format!("{own}\n{peers}"))?;
        for family in ["-4", "-6"] {
            space.exec(["ip", family, "route", "flush", "dev", INTERFACE, "proto", "boot"])?;
        }
        for (_, networks) in crate::support::wg(self.lab, self.host, INTERFACE, "allowed-ips")? {
            let lines = networks.split_whitespace().filter_map(|network| {
                let source = self.addresses.iter().find(|own| own.contains(':') == network.contains(':'))?;
                let source = source.split('/').next()?;
                Some(format!("route replace {network} dev {INTERFACE} src {source}\n"))
            });
            space.ip(&lines.collect::<String>())?;
        }
        Ok(())
    }
}

impl Drop for External<'_> {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
