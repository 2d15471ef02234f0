//! The file that keeps the last plan for the next start ([`topology::resume`]).
//!
//! Beside the private key, and as readable: it holds preshared keys. It outlasts a reboot, because that is when it
//! is needed most: a whole site that lost its power comes up with its API server last.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use topology::{
    DevicePeer, DevicePlan, Firewall, Plan, PublicKey, Seconds, SecretKey, Tunnel,
    resume::{Identity, LastPlan},
};
use zeroize::Zeroizing;

use super::{
    Error,
    file::{self, Survives},
    ownership::{StoredRoute, StoredRule},
};
use crate::host::Recalled;

/// Another number is another format.
const VERSION: u32 = 2;

/// No plan is longer, in bytes: it would have more than 100,000 peers.
const LONGEST: u64 = 64 << 20;

/// What the file contains.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The boot in which it was written (`boot_id`, random(4)).
    boot: String,
    node: String,
    key: PublicKey,
    subnets: Vec<IpNet>,
    mtu: u16,
    tunnel_mtu: u32,
    leader: bool,
    up: bool,
    listen_port: u16,
    peers: Vec<StoredPeer>,
    addresses: BTreeSet<IpNet>,
    routes: Vec<StoredRoute>,
    rules: Vec<StoredRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<Tunnel>,
    firewall: Firewall,
    forwarded: BTreeSet<IpNet>,
}

#[derive(Serialize, Deserialize)]
struct StoredPeer {
    key: PublicKey,
    label: String,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "secret")]
    preshared_key: Option<SecretKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<SocketAddr>,
    /// Seconds.
    persistent_keepalive: u16,
    allowed_ips: BTreeSet<IpNet>,
}

/// A preshared key as base64.
mod secret {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use topology::SecretKey;
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(key: &Option<SecretKey>, to: S) -> Result<S::Ok, S::Error> {
        match key {
            Some(key) => to.serialize_str(&key.reveal()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<SecretKey>, D::Error> {
        let text = Option::<String>::deserialize(from)?.map(Zeroizing::new);
        text.map(|text| text.parse().map_err(|_| D::Error::custom("preshared_key: no key"))).transpose()
    }
}

/// The file, and what it says.
#[derive(Debug)]
pub struct LastPlanFile {
    path: PathBuf,
    boot: String,
    /// What was written last; `None` if that is not known.
    written: Option<LastPlan>,
    /// A write that has begun, which goes on although nobody waits for it any more.
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl LastPlanFile {
    /// The file at `path`, during the boot of this number.
    pub fn new(path: PathBuf, boot: String) -> Self {
        Self { path, boot, written: None, writing: None }
    }

    /// What the file says; `None` if there is none. One that makes no sense costs only what it says.
    pub fn read(&self) -> Option<Recalled> {
        let result = read(&self.path).and_then(|text| text.map(|text| parse(&text, &self.boot)).transpose());
        result.unwrap_or_else(|error| {
            let path = self.path.display();
            tracing::warn!(%path, %error, "the plan of the last run cannot be read: it begins when the cluster is read");
            None
        })
    }

    /// Writes the file if it does not say this already.
    pub async fn write(&mut self, plan: &LastPlan) -> Result<(), Error> {
        if self.written.as_ref() == Some(plan) {
            return Ok(());
        }
        self.settle().await.ok();
        self.written = None;
        let (path, text) = (self.path.clone(), format(plan, &self.boot));
        // It waits for the disk, which may take its time.
        self.writing = Some(tokio::task::spawn_blocking(move || replace(&path, &text?)));
        self.settle().await.map_err(|source| Error::file("write", &self.path, source))?;
        self.written = Some(plan.clone());
        Ok(())
    }

    /// Removes the file, if there is one, and what a write that has begun would still put there.
    pub async fn remove(&mut self) -> Result<(), Error> {
        self.settle().await.ok();
        self.written = None;
        file::remove(&self.path).map_err(|source| Error::file("remove", &self.path, source))
    }

    /// Waits for the end of a write that has begun. Until then it is remembered, also if nobody waits so long.
    async fn settle(&mut self) -> io::Result<()> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let result = writing.await.unwrap_or_else(|error| Err(error.into()));
        self.writing = None;
        result
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    file::replace(path, text, 0o600, Survives::PowerLoss)
}

fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn format(plan: &LastPlan, boot: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let LastPlan { identity, mtu, tunnel_mtu, plan, seen } = plan.clone();
    let Plan { leader, device, addresses, routes, rules, tunnel, firewall, forwarded, warnings: _ } =
        Arc::unwrap_or_clone(plan);
    let peer = |(key, peer): (PublicKey, DevicePeer)| StoredPeer {
        key,
        seen: seen.get(&key).copied(),
        label: peer.label,
        preshared_key: peer.preshared_key,
        endpoint: peer.endpoint,
        persistent_keepalive: peer.persistent_keepalive.0,
        allowed_ips: peer.allowed_ips,
    };
    let stored = Stored {
        version: VERSION,
        boot: boot.to_owned(),
        node: identity.node.to_string(),
        key: identity.key,
        subnets: identity.subnets,
        mtu,
        tunnel_mtu,
        leader,
        up: device.up,
        listen_port: device.listen_port,
        peers: device.peers.into_iter().map(peer).collect(),
        addresses,
        routes: routes.into_iter().map(StoredRoute::from).collect(),
        rules: rules.into_iter().map(StoredRule::from).collect(),
        tunnel,
        firewall,
        forwarded,
    };
    Ok(Zeroizing::new(serde_json::to_vec(&stored)?))
}

fn parse(text: &[u8], boot: &str) -> io::Result<Recalled> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // First, so that of another version nothing else has to be understood.
    let Version { version } = serde_json::from_slice(text)?;
    if version != VERSION {
        return Err(io::Error::other(format!("version {version}: expected {VERSION}")));
    }
    let stored: Stored = serde_json::from_slice(text)?;
    let seen: BTreeMap<_, _> = stored.peers.iter().filter_map(|peer| Some((peer.key, peer.seen?))).collect();
    let peer = |peer: StoredPeer| {
        let StoredPeer { key, label, preshared_key, endpoint, persistent_keepalive, allowed_ips, .. } = peer;
        let persistent_keepalive = Seconds(persistent_keepalive);
        (key, DevicePeer { label, preshared_key, endpoint, persistent_keepalive, allowed_ips })
    };
    let plan = Plan {
        leader: stored.leader,
        device: DevicePlan {
            up: stored.up,
            listen_port: stored.listen_port,
            peers: stored.peers.into_iter().map(peer).collect(),
        },
        addresses: stored.addresses,
        routes: stored.routes.into_iter().map(Into::into).collect(),
        rules: stored.rules.into_iter().map(Into::into).collect(),
        tunnel: stored.tunnel,
        firewall: stored.firewall,
        forwarded: stored.forwarded,
        warnings: Vec::new(),
    };
    let plan = LastPlan {
        identity: Identity { node: stored.node.into(), key: stored.key, subnets: stored.subnets },
        mtu: stored.mtu,
        tunnel_mtu: stored.tunnel_mtu,
        plan: Arc::new(plan),
        seen,
    };
    Ok(Recalled { plan, same_boot: stored.boot == boot })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use topology::{
        Route, Rule, TunnelKind,
        firewall::Guard,
        tunnel::{Forwarding, Mac, Neighbour},
    };

    use super::*;

    fn plan() -> LastPlan {
        let key = |n| PublicKey::new([n; 32]).unwrap();
        let peer = |n: u8| DevicePeer {
            label: format!("node-{n}"),
            preshared_key: (n == 2).then(|| SecretKey::from([5; 32])),
            endpoint: "[2001:db8::1]:51820".parse().ok().filter(|_| n == 2),
            persistent_keepalive: Seconds(25),
            allowed_ips: [format!("10.42.{n}.0/24").parse().unwrap()].into(),
        };
        let identity = Identity { node: "a".into(), key: key(1), subnets: vec!["10.4.0.0/16".parse().unwrap()] };
        let (ip, mac) = ("10.1.0.3".parse().unwrap(), Mac([2; 6]));
        let tunnel = Tunnel {
            kind: TunnelKind::Vxlan,
            interface: "kilo-vxlan".into(),
            borrowed: false,
            local: "10.1.0.2".parse().unwrap(),
            mac,
            addresses: ["10.1.0.2/32".parse().unwrap()].into(),
            neighbours: [Neighbour { ip, mac }].into(),
            forwarding: [Forwarding { mac, dst: ip }].into(),
        };
        let plan = Plan {
            leader: true,
            device: DevicePlan { up: true, listen_port: 51820, peers: [2, 3].map(|n| (key(n), peer(n))).into() },
            addresses: ["10.4.0.1/16".parse().unwrap()].into(),
            routes: [Route::throw("10.42.1.0/24".parse().unwrap(), 1109)].into(),
            rules: [Rule {
                from: None,
                to: "10.42.0.0/16".parse().unwrap(),
                iif: Some("kilo0".into()),
                unless_mark: None,
                table: 1107,
            }]
            .into(),
            tunnel: Some(tunnel),
            firewall: Firewall {
                guard: Some(Guard { kind: TunnelKind::Vxlan, from: ["10.1.0.3/32".parse().unwrap()].into() }),
                clamp: ["kilo0".into()].into(),
                ..Firewall::default()
            },
            forwarded: ["10.42.1.0/24".parse().unwrap()].into(),
            warnings: Vec::new(),
        };
        let seen = [(key(3), "192.0.2.3:9".parse().unwrap())].into();
        LastPlan { identity, mtu: 1420, tunnel_mtu: 1450, plan: Arc::new(plan), seen }
    }

    #[tokio::test]
    async fn a_plan_is_read_as_it_was_written_by_nobody_else_and_told_from_one_before_a_reboot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kilo0.plan.json");
        let mut file = LastPlanFile::new(path.clone(), "boot-1".to_owned());
        assert_eq!(file.read(), None);
        file.write(&plan()).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.read(), Some(Recalled { plan: plan(), same_boot: true }));
        let rebooted = LastPlanFile::new(path.clone(), "boot-2".to_owned());
        assert_eq!(rebooted.read(), Some(Recalled { plan: plan(), same_boot: false }));

        // What is there already is not written again.
        std::fs::remove_file(&path).unwrap();
        file.write(&plan()).await.unwrap();
        assert!(!path.exists());
        file.write(&LastPlan { mtu: 1400, ..plan() }).await.unwrap();
        assert_eq!(file.read().unwrap().plan.mtu, 1400);
        file.remove().await.unwrap();
        assert_eq!(file.read(), None);
    }

    /// As at a clean stop, which does not wait for the reconciliation that is going on.
    #[test]
    fn a_write_that_nobody_waits_for_comes_before_the_removal() {
        // One thread for what blocks, so that the write begins when the test says so.
        let runtime =
            tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("kilo0.plan.json");
            let mut file = LastPlanFile::new(path.clone(), "boot-1".to_owned());
            let (begin, may_begin) = std::sync::mpsc::channel();
            tokio::task::spawn_blocking(move || may_begin.recv());
            let given_up = tokio::time::timeout(Duration::ZERO, file.write(&plan())).await;
            assert!(given_up.is_err());
            let (removed, begun) = tokio::join!(file.remove(), async { begin.send(()) });
            assert!(removed.is_ok() && begun.is_ok());
            // Whatever was to be done before this is done.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(!path.exists());
        });
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_says_so() {
        let text = String::from_utf8(format(&plan(), "boot").unwrap().to_vec()).unwrap();
        assert!(parse(text.as_bytes(), "boot").is_ok());
        for (from, to, said) in [
            (r#""version":2"#, r#""version":1"#, "version 1: expected 2"),
            (r#""mtu":1420"#, r#""mtu":99999"#, "invalid value"),
            ("10.42.3.0/24", "10.42.3.0/99", "invalid IP"),
            ("BQUFBQUFBQUF", "no base64 ! ", "preshared_key"),
            ("AgICAgICAgIC", "AgIC", "base64"),
            (r#""kind":"vxlan""#, r#""kind":"gre""#, "unknown variant"),
            (r#""routes":["#, r#""routes":[7,"#, "invalid type"),
            ("{", "", "invalid type"),
        ] {
            assert!(text.contains(from), "{from}: {text}");
            let error = parse(text.replacen(from, to, 1).as_bytes(), "boot").unwrap_err().to_string();
            assert!(error.contains(said), "{from} -> {to}: {error}");
        }
        for len in 0..text.len() {
            assert!(parse(&text.as_bytes()[..len], "boot").is_err(), "cut after {len} bytes");
        }
    }
}
