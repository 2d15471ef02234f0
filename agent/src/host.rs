//! The host behind a trait: what the mesh needs of an operating system, one desired state at a time.
//!
//! Each `set_…` reads what is there, makes the difference, and reports each part that failed by
//! itself; asking twice for the same is cheap and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
};

use ipnet::IpNet;
use topology::{Firewall, InterfaceName, Route, Rule, Tunnel, cni::PodNetwork, resume::LastPlan};

/// One thing that could not be done; the rest was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// What was being done, as it is counted: `routes`, `firewall`, …
    pub doing: &'static str,
    /// What went wrong, naming the route, rule or file.
    pub error: String,
}

impl Failure {
    /// `error` happened while `doing`.
    pub fn new(doing: &'static str, error: impl ToString) -> Self {
        Self { doing, error: error.to_string() }
    }
}

/// How much was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Entries added or removed, by what they are: `routes`, `firewall`, …
    pub made: BTreeMap<&'static str, u64>,
    /// Those among them that had been made before and were found missing or changed.
    pub repaired: BTreeMap<&'static str, u64>,
}

impl Changes {
    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        for (counts, more) in [(&mut self.made, others.made), (&mut self.repaired, others.repaired)] {
            more.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        }
    }

    /// So many entries were changed, `repaired` of them because somebody else had.
    pub fn count(&mut self, what: &'static str, made: usize, repaired: usize) {
        for (counts, count) in [(&mut self.made, made), (&mut self.repaired, repaired)] {
            if count > 0 {
                *counts.entry(what).or_default() += count as u64;
            }
        }
    }
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number for it; another interface that gets its name has another one.
    pub index: u32,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// What the host is like now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses that the hostname resolves to.
    pub hostname: Vec<IpAddr>,
    /// The interface of the default route.
    pub default_interface: Option<InterfaceName>,
    /// All interfaces.
    pub interfaces: BTreeMap<InterfaceName, Interface>,
}

/// A plan that was remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// The plan.
    pub plan: LastPlan,
    /// Whether it was applied since the host was started.
    pub same_boot: bool,
}

/// A host that can be told what it should be like.
pub trait Host {
    /// What it is like now.
    fn facts(&mut self) -> impl Future<Output = Result<Facts, Failure>>;

    /// All interfaces; a part of the facts that is there at once.
    fn interfaces(&mut self) -> impl Future<Output = Result<BTreeMap<InterfaceName, Interface>, Failure>>;

    /// Brings the WireGuard interface up or down, with an MTU in bytes. One that does not exist is down.
    fn set_link(&mut self, up: bool, mtu: u16) -> impl Future<Output = Vec<Failure>>;

    /// Gives the WireGuard interface exactly these addresses.
    fn set_addresses(&mut self, wanted: &BTreeSet<IpNet>) -> impl Future<Output = Vec<Failure>>;

    /// Makes these all of our routes.
    fn set_routes(&mut self, wanted: &BTreeSet<Route>) -> impl Future<Output = Vec<Failure>>;

    /// Makes these all of our rules.
    fn set_rules(&mut self, wanted: &BTreeSet<Rule>) -> impl Future<Output = Vec<Failure>>;

    /// Makes this our firewall table; `None` removes it.
    fn set_firewall(&mut self, wanted: Option<&Firewall>) -> impl Future<Output = Vec<Failure>>;

    /// Makes this the tunnel inside the location, with an MTU in bytes; `None` removes it.
    fn set_tunnel(&mut self, wanted: Option<(&Tunnel, u32)>) -> impl Future<Output = Vec<Failure>>;

    /// Has iptables accept what is forwarded from and to these, if that is asked for; `None` undoes it.
    fn set_forwarded(&mut self, wanted: Option<&BTreeSet<IpNet>>) -> impl Future<Output = Vec<Failure>>;

    /// Keeps this in the CNI configuration.
    fn set_pod_network(&mut self, wanted: &PodNetwork) -> impl Future<Output = Vec<Failure>>;

    /// Keeps the plan that was applied for the next start; `None` forgets it.
    fn remember(&mut self, plan: Option<&LastPlan>) -> impl Future<Output = Vec<Failure>>;

    /// The plan that was remembered last, perhaps by an earlier run.
    fn recall(&mut self) -> Option<Recalled>;

    /// What was changed since this was asked last.
    fn take_changes(&mut self) -> Changes;
}
