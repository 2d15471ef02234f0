//! Which routes, rules, tunnel and iptables' rules of the host are ours.
//!
//! Protocol `static` is what administrators use too, so the kernel's lists do not tell whose a route
//! is, nor who has `tunl0` in use. We remember what we made, in a file so that it survives our own death.
//! None of it survives the machine's, hence the file holds good only for one boot (`boot_id`, random(4)).

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use topology::{InterfaceName, Route, Rule, SetDiff};

use super::{
    Error, Netlink,
    file::{self, Survives},
    routes, rules,
};
use crate::host::Changes;

/// Where the kernel tells this boot from others.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The number of this boot.
pub(super) fn boot() -> Result<String, Error> {
    let boot = fs::read_to_string(BOOT_ID).map_err(|source| Error::file("read", BOOT_ID, source))?;
    Ok(boot.trim().to_owned())
}

/// What leads from `present` to `wanted` when only `owned` entries may go. What is wanted and present
/// already does not appear, whoever made it.
pub fn changes<T: Ord + Clone>(present: &BTreeSet<T>, owned: &BTreeSet<T>, wanted: &BTreeSet<T>) -> SetDiff<T> {
    let mut diff = SetDiff::between(present, wanted);
    diff.remove.retain(|entry| owned.contains(entry));
    diff
}

/// [`changes`] for routes, which may also take the place of a leftover.
pub fn route_changes(present: &BTreeSet<Route>, owned: &BTreeSet<Route>, wanted: &BTreeSet<Route>) -> SetDiff<Route> {
    let mut diff = SetDiff::between(present, wanted);
    let added = &diff.add;
    diff.remove.retain(|old| owned.contains(old) || added.iter().any(|new| is_leftover(old, new)));
    diff
}

/// Takes note of the size of `diff`. What is added although it is `owned` is put back.
fn count<T: Ord>(what: &'static str, diff: &SetDiff<T>, owned: &BTreeSet<T>, changes: &mut Changes) {
    let repaired = diff.add.iter().filter(|entry| owned.contains(entry)).count();
    changes.count(what, diff.add.len() + diff.remove.len(), repaired);
}

/// Whether `old`, which nobody remembers, stands where `new` is to go and looks like the work of an
/// agent whose memory was lost (or of upstream's): to a gateway `onlink`, or to the same interface.
fn is_leftover(old: &Route, new: &Route) -> bool {
    let same_place = (old.dst, old.table) == (new.dst, new.table);
    same_place && (old.onlink() || (old.dev == new.dev && new.via.is_none()))
}

/// The form in which a route is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredRoute {
    dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    via: Option<IpAddr>,
    dev: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    src: Option<IpAddr>,
    table: u32,
}

impl From<Route> for StoredRoute {
    fn from(Route { dst, via, dev, src, table }: Route) -> Self {
        Self { dst, via, dev: dev.to_string(), src, table }
    }
}

impl From<StoredRoute> for Route {
    fn from(StoredRoute { dst, via, dev, src, table }: StoredRoute) -> Self {
        Self { dst, via, dev: dev.into(), src, table }
    }
}

/// The form in which a rule is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<IpNet>,
    to: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iif: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unless_mark: Option<u32>,
    table: u32,
}

impl From<Rule> for StoredRule {
    fn from(Rule { from, to, iif, unless_mark, table }: Rule) -> Self {
        Self { from, to, iif: iif.map(|name| name.to_string()), unless_mark, table }
    }
}

impl From<StoredRule> for Rule {
    fn from(StoredRule { from, to, iif, unless_mark, table }: StoredRule) -> Self {
        Self { from, to, iif: iif.map(Into::into), unless_mark, table }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    boot: String,
    routes: Vec<StoredRoute>,
    rules: Vec<StoredRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lent_to_tunnel: Option<BTreeSet<IpNet>>,
    #[serde(default)]
    forward_rules: bool,
}

/// The tunnel interface that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTunnel {
    /// Its name.
    pub interface: InterfaceName,
    /// What of it is ours, where it is borrowed: these addresses; `None` where all of it is.
    pub lent: Option<BTreeSet<IpNet>>,
}

/// What we made, and the file that remembers it.
#[derive(Debug)]
pub struct Ownership {
    path: PathBuf,
    boot: String,
    owned: Owned,
    /// What the file says; `None` if it is not known to say anything.
    saved: Option<Owned>,
    changes: Changes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Owned {
    routes: BTreeSet<Route>,
    rules: BTreeSet<Rule>,
    tunnel: Option<OwnTunnel>,
    forward_rules: bool,
}

impl Ownership {
    /// What the file at `path` remembers of this boot. A file that is missing, of another boot or
    /// not to be understood counts as empty: the worst that follows is a route that stays behind.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let boot = boot()?;
        let saved = match fs::read(path) {
            Ok(text) => read(&text, &boot),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Owned::default()),
            Err(source) => return Err(Error::file("read", path, source)),
        };
        if saved.is_none() {
            tracing::info!(path = %path.display(), "the list of installed routes is of another boot or unreadable: ignored");
        }
        Ok(Self {
            path: path.to_owned(),
            boot,
            owned: saved.clone().unwrap_or_default(),
            saved,
            changes: Changes::default(),
        })
    }

    /// Makes `wanted` all of our routes; returns what failed.
    pub async fn set_routes(&mut self, netlink: &Netlink, wanted: &BTreeSet<Route>) -> Vec<Error> {
        let present = match routes::present(netlink).await {
            Ok(present) => present,
            Err(error) => return vec![error],
        };
        let diff = route_changes(&present, &self.owned.routes, wanted);
        count("routes", &diff, &self.owned.routes, &mut self.changes);
        // Remembered before they exist and until they are surely gone: whoever comes after a crash must
        // know them as ours. What is remembered in vain is forgotten at the next call.
        self.owned.routes = diff.remove.iter().chain(wanted).cloned().collect();
        let mut errors: Vec<Error> = self.save().err().into_iter().collect();
        let failures = routes::apply(netlink, &diff).await;
        if failures.is_empty() {
            self.owned.routes.clone_from(wanted);
        }
        errors.extend(self.save().err());
        errors.extend(failures);
        errors
    }

    /// Makes `wanted` all of our rules; returns what failed.
    pub async fn set_rules(&mut self, netlink: &Netlink, wanted: &BTreeSet<Rule>) -> Vec<Error> {
        let present = match rules::present(netlink).await {
            Ok(present) => present,
            Err(error) => return vec![error],
        };
        let diff = changes(&present, &self.owned.rules, wanted);
        count("rules", &diff, &self.owned.rules, &mut self.changes);
        self.owned.rules = diff.remove.iter().chain(wanted).cloned().collect();
        let mut errors: Vec<Error> = self.save().err().into_iter().collect();
        let failures = rules::apply(netlink, &diff).await;
        if failures.is_empty() {
            self.owned.rules.clone_from(wanted);
        }
        errors.extend(self.save().err());
        errors.extend(failures);
        errors
    }

    /// What was changed since this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The tunnel interface that we made, or took into use.
    pub fn tunnel(&self) -> Option<&OwnTunnel> {
        self.owned.tunnel.as_ref()
    }

    /// Remembers that this is our tunnel interface, or that there is none any more.
    pub fn own_tunnel(&mut self, tunnel: Option<OwnTunnel>) -> Result<(), Error> {
        self.owned.tunnel = tunnel;
        self.save()
    }

    /// Whether iptables may have rules of ours.
    pub fn has_forward_rules(&self) -> bool {
        self.owned.forward_rules
    }

    /// Remembers whether iptables may have rules of ours.
    pub fn own_forward_rules(&mut self, owned: bool) -> Result<(), Error> {
        self.owned.forward_rules = owned;
        self.save()
    }

    /// Writes the file if it does not say this already; there is none while nothing is owned.
    fn save(&mut self) -> Result<(), Error> {
        if self.saved.as_ref() == Some(&self.owned) {
            return Ok(());
        }
        self.saved = None;
        if self.owned == Owned::default() {
            file::remove(&self.path).map_err(|source| Error::file("remove", &self.path, source))?;
        } else {
            let text = write(&self.owned, &self.boot).map_err(|source| Error::file("write", &self.path, source))?;
            file::replace(&self.path, &text, 0o600, Survives::Crash)
                .map_err(|source| Error::file("write", &self.path, source))?;
        }
        self.saved = Some(self.owned.clone());
        Ok(())
    }
}

/// `None` unless `text` is a list of this boot.
fn read(text: &[u8], boot: &str) -> Option<Owned> {
    let stored: Stored = serde_json::from_slice(text).ok()?;
    if stored.boot != boot {
        return None;
    }
    Some(Owned {
        routes: stored.routes.into_iter().map(Into::into).collect(),
        rules: stored.rules.into_iter().map(Into::into).collect(),
        tunnel: stored.tunnel.map(|name| OwnTunnel { interface: name.into(), lent: stored.lent_to_tunnel }),
        forward_rules: stored.forward_rules,
    })
}

fn write(owned: &Owned, boot: &str) -> io::Result<Vec<u8>> {
    let stored = Stored {
        boot: boot.to_owned(),
        routes: owned.routes.iter().cloned().map(Into::into).collect(),
        rules: owned.rules.iter().cloned().map(Into::into).collect(),
        tunnel: owned.tunnel.as_ref().map(|tunnel| tunnel.interface.to_string()),
        lent_to_tunnel: owned.tunnel.as_ref().and_then(|tunnel| tunnel.lent.clone()),
        forward_rules: owned.forward_rules,
    };
    Ok(serde_json::to_vec(&stored)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(routes: &[&str]) -> BTreeSet<Route> {
        routes.iter().map(|route| route.parse().unwrap()).collect()
    }

    #[track_caller]
    fn check(present: &[&str], owned: &[&str], wanted: &[&str], remove: &[&str], add: &[&str]) {
        let diff = route_changes(&set(present), &set(owned), &set(wanted));
        assert_eq!((diff.remove.into_iter().collect(), diff.add.into_iter().collect()), (set(remove), set(add)));
    }

    const OLD: &str = "10.2.0.0/24 via 10.4.0.1 dev kilo0";
    const NEW: &str = "10.2.0.0/24 via 10.4.0.9 dev kilo0";
    const ADMINS: &str = "10.9.0.0/24 dev eth1";

    #[test]
    fn only_what_is_owned_goes() {
        check(&[OLD, ADMINS], &[OLD], &[], &[OLD], &[]);
        check(&[OLD, ADMINS], &[], &[], &[], &[]);
        // Someone removed it: nothing is left to remove.
        check(&[ADMINS], &[OLD], &[], &[], &[]);
    }

    #[test]
    fn what_is_there_already_is_adopted_and_what_is_missing_is_added() {
        check(&[OLD, ADMINS], &[], &[OLD, ADMINS], &[], &[]);
        check(&[ADMINS], &[OLD], &[OLD], &[], &[OLD]);
    }

    #[test]
    fn a_changed_gateway_replaces_an_owned_or_a_forgotten_route() {
        check(&[OLD], &[OLD], &[NEW], &[OLD], &[NEW]);
        check(&[OLD], &[], &[NEW], &[OLD], &[NEW]);
    }

    #[test]
    fn an_administrators_route_does_not_make_way() {
        let ours = "10.9.0.0/24 via 10.4.0.1 dev kilo0";
        check(&[ADMINS], &[], &[ours], &[], &[ours]);
        // The same destination in another table is another route.
        let elsewhere = "10.9.0.0/24 via 10.4.0.1 dev kilo0 table 1107";
        check(&[ours], &[], &[elsewhere], &[], &[elsewhere]);
    }

    #[test]
    fn the_memory_survives_a_restart_but_not_a_reboot() {
        let tunnel = |interface: &str, lent| Some(OwnTunnel { interface: interface.into(), lent });
        let mut owned = Owned {
            routes: &set(&[OLD, "fd02::/64 dev kilo0"]) | &[Route::throw("10.3.0.0/24".parse().unwrap(), 1108)].into(),
            rules: BTreeSet::from([Rule {
                from: None,
                to: "10.1.0.3/32".parse().unwrap(),
                iif: Some("kilo0".into()),
                unless_mark: Some(1108),
                table: 1107,
            }]),
            tunnel: tunnel("tunl0", None),
            forward_rules: true,
        };
        let text = write(&owned, "boot-1").unwrap();
        assert_eq!(read(&text, "boot-1").as_ref(), Some(&owned));
        owned.tunnel = tunnel("cilium_tunl", Some(["10.1.0.2/32".parse().unwrap()].into()));
        let text = write(&owned, "boot-1").unwrap();
        assert_eq!(read(&text, "boot-1").as_ref(), Some(&owned));
        assert_eq!(read(&text, "boot-2"), None);
        assert_eq!(read(&text[..text.len() - 1], "boot-1"), None);
        assert_eq!(read(b"", "boot-1"), None);
    }
}
