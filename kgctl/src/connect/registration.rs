//! The Peer object that stands for this machine: who made it, what it has to say, and its end.
//!
//! What is made here is remembered in a file before it exists, by its public key, which nobody else has.
//! So a run that was killed leaves nothing that the next one would take for somebody else's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agent::cluster::{Client, PeerObject, PeerRecord};
use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use topology::{Peer, PeerName, PublicKey, address::is_single, manifest, peer::PeerSpec};
use tracing::info;

/// A Peer that a run made, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    name: String,
    public_key: String,
}

impl Memory {
    /// What the file at `path` remembers; one that cannot be understood remembers nothing.
    pub fn load(path: &Path) -> anyhow::Result<Option<Self>> {
        match fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn store(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn is(&self, record: &PeerRecord) -> bool {
        self.name == record.name && record.spec.get("publicKey").and_then(|key| key.as_str()) == Some(&self.public_key)
    }
}

/// What is asked of the Peer object.
pub struct Wanted<'a> {
    /// Its name.
    pub name: &'a PeerName,
    /// The public key of this machine.
    pub key: PublicKey,
    /// Addresses that were asked for; empty: whatever it has.
    pub allowed_ips: &'a [IpNet],
    /// The address if there is nothing else.
    pub default_allowed_ip: IpNet,
    /// Seconds between keepalives.
    pub persistent_keepalive: u16,
}

/// How the cluster stands to what is wanted.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    /// The addresses of this machine, with the prefix lengths of its allowed IPs.
    pub addresses: Vec<IpNet>,
    /// The object to create; `None` if there is one already.
    pub create: Option<PeerSpec>,
    /// Whether the object goes at the end: one that was there before stays.
    pub is_ours: bool,
    /// What an earlier run has left and is to be removed.
    pub leftover: Option<String>,
}

impl Wanted<'_> {
    /// Judges what `peers` and the memory of an earlier run say of what is wanted; refuses what belongs
    /// to somebody else.
    pub fn judge(&self, peers: &[PeerRecord], memory: Option<&Memory>) -> anyhow::Result<Standing> {
        let key = self.key.to_string();
        let remembered = memory.and_then(|memory| peers.iter().find(|record| memory.is(record)));
        // One that has both the name and the key is just what is wanted.
        let wanted = Memory { name: self.name.to_string(), public_key: key.clone() };
        let leftover = remembered.filter(|record| !wanted.is(record)).map(|record| record.name.clone());
        let is_left = |record: &PeerRecord| leftover.as_ref() == Some(&record.name);
        let present = peers.iter().find(|record| record.name == self.name.as_str() && !is_left(record));
        match present {
            Some(record) => Ok(Standing {
                addresses: self.addresses_of(&self.decode(record)?)?,
                create: None,
                is_ours: remembered.is_some_and(|remembered| remembered.name == record.name),
                leftover,
            }),
            None => {
                let default = [self.default_allowed_ip];
                let addresses = if self.allowed_ips.is_empty() { &default } else { self.allowed_ips };
                let spec = PeerSpec {
                    allowed_ips: addresses.iter().map(|net| net.trunc().to_string()).collect(),
                    public_key: key,
                    persistent_keepalive: self.persistent_keepalive.into(),
                    ..PeerSpec::default()
                };
                Ok(Standing { addresses: addresses.to_vec(), create: Some(spec), is_ours: true, leftover })
            }
        }
    }

    fn decode(&self, record: &PeerRecord) -> anyhow::Result<Peer> {
        let name = self.name;
        let peer = topology::peer::decode(&record.name, &record.spec);
        let peer =
            peer.with_context(|| format!("peer/{name} is not valid; mend or delete it, or pass another NAME"))?;
        if peer.key != self.key {
            bail!(
                "peer/{name} has another public key, {}: pass --private-key FILE with the key that belongs to it, or \
                 another NAME, or delete it if nobody uses it",
                peer.key
            );
        }
        Ok(peer)
    }

    fn addresses_of(&self, peer: &Peer) -> anyhow::Result<Vec<IpNet>> {
        let listed = || peer.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if self.allowed_ips.is_empty() {
            let singles: Vec<IpNet> = peer.allowed_ips.iter().copied().filter(|net| is_single(*net)).collect();
            if singles.is_empty() {
                bail!(
                    "peer/{} has no single address but {}: pass the one to use with --allowed-ip",
                    peer.name,
                    listed()
                );
            }
            return Ok(singles);
        }
        let is_foreign = |own: &&IpNet| !peer.allowed_ips.iter().any(|net| net.contains(&own.addr()));
        if let Some(foreign) = self.allowed_ips.iter().find(is_foreign) {
            bail!(
                "--allowed-ip {foreign}: peer/{} has only {}; leave the flag out, or add it to spec.allowedIPs",
                peer.name,
                listed()
            );
        }
        Ok(self.allowed_ips.to_vec())
    }
}

/// The Peer object while this machine uses it.
pub struct Registration {
    client: Client,
    name: PeerName,
    key: PublicKey,
    path: PathBuf,
    standing: Standing,
}

impl Registration {
    /// Nothing is done yet. What is made will be remembered at `path`.
    pub fn new(client: Client, name: PeerName, key: PublicKey, path: PathBuf, standing: Standing) -> Self {
        Self { client, name, key, path, standing }
    }

    /// The object's name.
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// Removes what an earlier run has left, and creates the object if there is none.
    pub async fn begin(&self) -> anyhow::Result<()> {
        if let Some(leftover) = &self.standing.leftover
            && let Some(object) = self.client.peer(leftover).await?
        {
            self.client.delete_peer(leftover, &object.uid).await?;
            info!("peer/{leftover}: deleted; an earlier run had left it");
        }
        let Some(spec) = &self.standing.create else {
            info!("peer/{}: is there already", self.name);
            return if self.standing.is_ours { Ok(()) } else { self.forget() };
        };
        Memory { name: self.name.to_string(), public_key: self.key.to_string() }.store(&self.path)?;
        self.client.create_peer_object(manifest::object(&self.name, spec)).await?;
        info!("peer/{}: created, with {}", self.name, spec.allowed_ips.join(", "));
        Ok(())
    }

    /// Deletes the object, if it is ours and nobody has put another one in its place.
    pub async fn end(&self) -> anyhow::Result<()> {
        if !self.standing.is_ours {
            return Ok(());
        }
        let left = || format!("peer/{0} is left behind; delete it with: kubectl delete peer {0}", self.name);
        if let Some(object) =
            self.client.peer(self.name.as_str()).await.with_context(left)?.filter(|object| self.is_own(object))
        {
            self.client.delete_peer(self.name.as_str(), &object.uid).await.with_context(left)?;
            info!("peer/{}: deleted", self.name);
        }
        self.forget()
    }

    fn forget(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn is_own(&self, object: &PeerObject) -> bool {
        Memory { name: self.name.to_string(), public_key: self.key.to_string() }.is(&object.record)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey::new([n; 32]).unwrap()
    }

    fn record(name: &str, n: u8, allowed_ips: &[&str]) -> PeerRecord {
        let spec = json!({"publicKey": key(n).to_string(), "allowedIPs": allowed_ips});
        PeerRecord { name: name.to_owned(), spec }
    }

    fn memory(name: &str, n: u8) -> Memory {
        Memory { name: name.to_owned(), public_key: key(n).to_string() }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// How the machine `laptop` with key 1 stands.
    fn judge(asked: &[&str], peers: &[PeerRecord], memory: Option<Memory>) -> Result<Standing, String> {
        let wanted = Wanted {
            name: &"laptop".into(),
            key: key(1),
            allowed_ips: &nets(asked),
            default_allowed_ip: "10.10.10.10/32".parse().unwrap(),
            persistent_keepalive: 10,
        };
        wanted.judge(peers, memory.as_ref()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_missing_object_is_created_with_what_was_asked_for_or_the_default() {
        let others = [record("other", 2, &["10.5.0.2/32"])];
        for (asked, addresses, allowed) in [
            (vec![], vec!["10.10.10.10/32"], vec!["10.10.10.10/32"]),
            (
                vec!["10.5.0.7/24", "fd05::1/128"],
                vec!["10.5.0.7/24", "fd05::1/128"],
                vec!["10.5.0.0/24", "fd05::1/128"],
            ),
        ] {
            let standing = judge(&asked, &others, None).unwrap();
            assert_eq!((standing.addresses, standing.is_ours, standing.leftover), (nets(&addresses), true, None));
            let spec = standing.create.unwrap();
            assert_eq!(
                (spec.allowed_ips, spec.public_key),
                (allowed.into_iter().map(str::to_owned).collect(), key(1).to_string())
            );
            assert_eq!(spec.persistent_keepalive, 10);
        }
    }

    #[test]
    fn an_object_of_somebody_else_is_used_if_it_agrees_and_stays() {
        let present = [record("laptop", 1, &["10.5.0.0/24", "10.6.0.1/32", "fd06::1/128"])];
        let standing = judge(&[], &present, None).unwrap();
        let expected =
            Standing { addresses: nets(&["10.6.0.1/32", "fd06::1/128"]), create: None, is_ours: false, leftover: None };
        assert_eq!(standing, expected);
        assert_eq!(judge(&["10.5.0.9/32"], &present, None).unwrap().addresses, nets(&["10.5.0.9/32"]));
        for (asked, present, expected) in [
            (
                vec!["10.7.0.1/32"],
                record("laptop", 1, &["10.5.0.0/24"]),
                "--allowed-ip 10.7.0.1/32: peer/laptop has only 10.5.0.0/24",
            ),
            (vec![], record("laptop", 1, &["10.5.0.0/24"]), "peer/laptop has no single address but 10.5.0.0/24"),
            (vec![], record("laptop", 2, &["10.5.0.1/32"]), "peer/laptop has another public key"),
            (vec![], PeerRecord { name: "laptop".to_owned(), spec: json!("text") }, "peer/laptop is not valid"),
        ] {
            let error = judge(&asked, &[present], None).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn what_a_killed_run_made_is_taken_over_or_replaced() {
        // With the same key it is just as wanted; it goes at the end.
        let same = judge(&[], &[record("laptop", 1, &["10.5.0.1/32"])], Some(memory("laptop", 1))).unwrap();
        assert_eq!((same.create, same.is_ours, same.leftover), (None, true, None));
        // Of another key, or of another name.
        for name in ["laptop", "old-name"] {
            let leftover = record(name, 9, &["10.10.10.10/32"]);
            let standing = judge(&[], &[leftover], Some(memory(name, 9))).unwrap();
            assert!(standing.create.is_some() && standing.is_ours);
            assert_eq!(standing.leftover.as_deref(), Some(name));
        }
        // Somebody has put another one in its place, or removed it.
        assert!(judge(&[], &[record("laptop", 8, &["10.5.0.1/32"])], Some(memory("laptop", 9))).is_err());
        assert_eq!(judge(&[], &[], Some(memory("laptop", 9))).unwrap().leftover, None);
        // Under its old name it has the key that the new one is to have.
        let renamed = judge(&[], &[record("old-name", 1, &["10.5.0.1/32"])], Some(memory("old-name", 1))).unwrap();
        assert_eq!(renamed.leftover.as_deref(), Some("old-name"));
        assert!(renamed.create.is_some());
    }
}
