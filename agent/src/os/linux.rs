//! This host, behind the agent's [`Host`] trait.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use ipnet::IpNet;
use topology::{Firewall, InterfaceName, Route, Rule, Tunnel, cni::PodNetwork, resume::LastPlan};

use super::{
    Error, Netlink, addresses, cni,
    facts::{self, Hostname},
    firewall::Table,
    iptables,
    last_plan::LastPlanFile,
    links,
    ownership::{self, OwnTunnel, Ownership},
    tunnel,
};
use crate::{
    host::{Changes, Facts, Failure, Host, Interface, Recalled},
    resolver,
};

/// What of the agent's flags concerns the host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The WireGuard interface.
    pub interface: InterfaceName,
    /// The node's name.
    pub hostname: String,
    /// Where what we made and cannot be told from others' is remembered; beside it, as `.plan.json`, the last plan.
    pub state: PathBuf,
    /// Whether there is to be a firewall table; if not, nftables is not touched.
    pub firewall: bool,
    /// Whether iptables is told what we forward.
    pub forward_rules: bool,
    /// The CNI configuration to keep; `None` leaves CNI to others.
    pub conflist: Option<PathBuf>,
}

/// The host that this process runs on: the network namespace of the thread that opened it.
pub struct Linux {
    netlink: Netlink,
    interface: InterfaceName,
    hostname: Hostname,
    ownership: Ownership,
    last_plan: LastPlanFile,
    table: Option<Table>,
    forward_rules: bool,
    conflist: Option<PathBuf>,
    changes: Changes,
}

impl Linux {
    /// Opens the host; nothing is changed yet.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        Ok(Self {
            netlink: Netlink::open()?,
            interface: settings.interface,
            hostname: Hostname::new(settings.hostname, resolver::system()),
            ownership: Ownership::load(&settings.state)?,
            last_plan: LastPlanFile::new(settings.state.with_extension("plan.json"), ownership::boot()?),
            table: settings.firewall.then(Table::default),
            forward_rules: settings.forward_rules,
            conflist: settings.conflist,
            changes: Changes::default(),
        })
    }

    async fn try_set_link(&self, up: bool, mtu: u16) -> Result<(), Error> {
        let link = match links::find(&self.netlink, &self.interface).await? {
            Some(link) => link,
            None if !up => return Ok(()),
            None => return Err(Error::NoLink { link: self.interface.clone() }),
        };
        links::set_mtu(&self.netlink, &link, mtu.into()).await?;
        links::set_up(&self.netlink, &link, up).await
    }

    async fn try_set_tunnel(&mut self, wanted: Option<(&Tunnel, u32)>) -> Vec<Error> {
        let name = wanted.map(|(tunnel, _)| &tunnel.interface);
        if let Some(OwnTunnel { interface, lent }) = self.ownership.tunnel().filter(|old| Some(&old.interface) != name)
        {
            let errors = match lent {
                Some(lent) => tunnel::give_back(&self.netlink, interface, lent).await,
                None => tunnel::remove(&self.netlink, interface).await,
            };
            if !errors.is_empty() {
                return errors;
            }
        }
        match wanted {
            None => Vec::from_iter(self.ownership.own_tunnel(None).err()),
            Some((tunnel, mtu)) if tunnel.borrowed => self.borrow_tunnel(tunnel, mtu).await,
            Some((tunnel, mtu)) => {
                // Remembered before it exists: whoever comes after a crash must know it as ours.
                let own = OwnTunnel { interface: tunnel.interface.clone(), lent: None };
                let mut errors = Vec::from_iter(self.ownership.own_tunnel(Some(own)).err());
                errors.extend(tunnel::set(&self.netlink, tunnel, mtu).await);
                errors
            }
        }
    }

    async fn borrow_tunnel(&mut self, tunnel: &Tunnel, mtu: u32) -> Vec<Error> {
        let own = |lent| Some(OwnTunnel { interface: tunnel.interface.clone(), lent: Some(lent) });
        let old = self.ownership.tunnel().filter(|old| old.interface == tunnel.interface);
        let former = old.and_then(|old| old.lent.clone());
        if former.is_none() {
            tracing::info!(interface = %tunnel.interface, "a network provider may use the tunnel, too: what it has there stays");
        }
        let former = former.unwrap_or_default();
        // Remembered before they are there, and until they are surely gone.
        let mut errors = Vec::from_iter(self.ownership.own_tunnel(own(&former | &tunnel.addresses)).err());
        let failures = tunnel::borrow(&self.netlink, tunnel, &former, mtu).await;
        if failures.is_empty() {
            errors.extend(self.ownership.own_tunnel(own(tunnel.addresses.clone())).err());
        }
        errors.extend(failures);
        errors
    }

    async fn try_set_forwarded(&mut self, wanted: Option<&BTreeSet<IpNet>>) -> Vec<Error> {
        let wanted = wanted.filter(|_| self.forward_rules);
        if wanted.is_none() && !self.ownership.has_forward_rules() {
            return Vec::new();
        }
        let mut errors = Vec::from_iter(wanted.and_then(|_| self.ownership.own_forward_rules(true).err()));
        let failures = iptables::set(wanted).await;
        if wanted.is_none() && failures.is_empty() {
            errors.extend(self.ownership.own_forward_rules(false).err());
        }
        errors.extend(failures);
        errors
    }
}

fn failures(doing: &'static str, errors: impl IntoIterator<Item = Error>) -> Vec<Failure> {
    errors.into_iter().map(|error| Failure::new(doing, error)).collect()
}

impl Host for Linux {
    async fn facts(&mut self) -> Result<Facts, Failure> {
        let hostname = self.hostname.resolve().await;
        facts::gather(&self.netlink, hostname).await.map_err(|error| Failure::new("facts", error))
    }

    async fn interfaces(&mut self) -> Result<BTreeMap<InterfaceName, Interface>, Failure> {
        facts::interfaces(&self.netlink).await.map_err(|error| Failure::new("facts", error))
    }

    async fn set_link(&mut self, up: bool, mtu: u16) -> Vec<Failure> {
        failures("link", self.try_set_link(up, mtu).await.err())
    }

    async fn set_addresses(&mut self, wanted: &BTreeSet<IpNet>) -> Vec<Failure> {
        let errors = match links::expect(&self.netlink, &self.interface).await {
            Ok(link) => addresses::set(&self.netlink, &link, wanted).await,
            Err(error) => vec![error],
        };
        failures("addresses", errors)
    }

    async fn set_routes(&mut self, wanted: &BTreeSet<Route>) -> Vec<Failure> {
        failures("routes", self.ownership.set_routes(&self.netlink, wanted).await)
    }

    async fn set_rules(&mut self, wanted: &BTreeSet<Rule>) -> Vec<Failure> {
        failures("rules", self.ownership.set_rules(&self.netlink, wanted).await)
    }

    async fn set_firewall(&mut self, wanted: Option<&Firewall>) -> Vec<Failure> {
        let Some(table) = &mut self.table else { return Vec::new() };
        let was_set = wanted.is_some_and(|wanted| table.was_set(wanted));
        let result = match wanted {
            Some(wanted) => table.set(wanted).await,
            None => table.remove().await.map(|()| false),
        };
        if let Ok(true) = result {
            self.changes.count("firewall", 1, was_set.into());
        }
        failures("firewall", result.err())
    }

    async fn set_tunnel(&mut self, wanted: Option<(&Tunnel, u32)>) -> Vec<Failure> {
        failures("tunnel", self.try_set_tunnel(wanted).await)
    }

    async fn set_forwarded(&mut self, wanted: Option<&BTreeSet<IpNet>>) -> Vec<Failure> {
        failures("iptables", self.try_set_forwarded(wanted).await)
    }

    async fn set_pod_network(&mut self, wanted: &PodNetwork) -> Vec<Failure> {
        let result = self.conflist.as_deref().map_or(Ok(false), |path| cni::keep(path, wanted));
        if let Ok(true) = result {
            self.changes.count("cni", 1, 0);
        }
        failures("cni", result.err())
    }

    async fn remember(&mut self, plan: Option<&LastPlan>) -> Vec<Failure> {
        let result = match plan {
            Some(plan) => self.last_plan.write(plan).await,
            None => self.last_plan.remove().await,
        };
        failures("state", result.err())
    }

    fn recall(&mut self) -> Option<Recalled> {
        self.last_plan.read()
    }

    fn take_changes(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        changes.extend(self.ownership.take_changes());
        changes
    }
}
