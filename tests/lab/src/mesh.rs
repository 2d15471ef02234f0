//! Who reaches whom: every pod and node probes every other, by ICMP and HTTP.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::lab::Lab;
use crate::probe::{self, Reached};

/// One probed pair.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Name of the probing pod or node.
    pub from: String,
    /// Name of the probed pod or node.
    pub to: String,
    /// The probed address.
    pub address: IpAddr,
    /// ICMP round-trip time, or what went wrong.
    pub ping: Result<Duration, String>,
    /// HTTP latency, or what went wrong; a translated source address and an answer from someone else
    /// are wrong too.
    pub http: Result<Duration, String>,
}

/// A pod or node, with the addresses that are probed.
pub(crate) type End = (String, Vec<IpAddr>);

/// What is wrong with the source address that an end, the second, saw of another.
pub(crate) type Judge<'a> = &'a (dyn Fn(&str, &str, &Reached) -> Result<(), String> + Sync);

/// What [`Lab::meet`] is about.
pub(crate) const ALL_MEET: &str = "every pod and node reaches every other";

/// When a source stops probing. Each failure costs seconds; while waiting, one is enough to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Never,
    AtFailure,
}

impl Pair {
    /// Whether both probes succeeded.
    pub fn is_ok(&self) -> bool {
        self.ping.is_ok() && self.http.is_ok()
    }

    /// One line that says what is wrong.
    pub fn describe(&self) -> String {
        let part = |name: &str, result: &Result<Duration, String>| match result {
            Ok(time) => format!("{name} {:.1} ms", time.as_secs_f64() * 1e3),
            Err(error) => format!("{name} failed ({error})"),
        };
        let Pair { from, to, address, .. } = self;
        format!("{from} -> {to} {address}: {}, {}", part("ping", &self.ping), part("http", &self.http))
    }
}

impl Lab {
    /// Probes from every pod and every node to every address of every other pod and to the internal
    /// IPv4 address of every other node; IPv6 only between pods that both have it. Sources work in
    /// parallel, each goes through its targets in turn.
    pub fn probe_mesh(&self) -> Result<Vec<Pair>> {
        self.probe_all(&self.ends()?, Stop::Never, &has_its_source)
    }

    /// As [`Lab::probe_mesh`], but one probe at a time, so that latencies are those of the network and
    /// not of the crowd. A source stops at its first failure.
    pub fn measure_mesh(&self) -> Result<Vec<Pair>> {
        let names = self.ends()?;
        let mut pairs = Vec::new();
        for (name, own) in &names {
            pairs.extend(self.space(name)?.run(|| probe_from(name, own, &names, Stop::AtFailure, &has_its_source))?);
        }
        Ok(pairs)
    }

    fn probe_all(&self, names: &[End], stop: Stop, judge: Judge<'_>) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        thread::scope(|scope| {
            let mut workers = Vec::new();
            for (name, own) in names {
                let space = self.space(name)?;
                workers.push(scope.spawn(move || space.run(|| probe_from(name, own, names, stop, judge))));
            }
            for worker in workers {
                pairs.extend(worker.join().map_err(|_| anyhow!("a probing thread panicked"))??);
            }
            Ok(pairs)
        })
    }

    /// Every pod and node with the addresses that are probed.
    pub(crate) fn ends(&self) -> Result<Vec<End>> {
        let mut names: Vec<End> = Vec::new();
        for pod in self.pods() {
            let addresses = self.pod_addresses(&pod)?;
            names.push((pod, addresses));
        }
        for node in self.nodes() {
            let address = self.addresses(&node)?.private;
            names.push((node, vec![address.into()]));
        }
        Ok(names)
    }

    /// Waits until [`Lab::probe_mesh`] would find no pair that fails, and gives what it finds then. On
    /// the deadline the failure names a failing target of each source that has one.
    pub fn wait_mesh(&self, limit: Duration) -> Result<Vec<Pair>> {
        let (ends, mut pairs) = (self.ends()?, Vec::new());
        self.wait_until(limit, ALL_MEET, || {
            pairs = self.meet(&ends, &has_its_source)?;
            Ok(true)
        })?;
        Ok(pairs)
    }

    /// As [`Lab::probe_mesh`], for these ends and with a judge of one's own; an error if a pair fails.
    pub(crate) fn meet(&self, ends: &[End], judge: Judge<'_>) -> Result<Vec<Pair>> {
        let pairs = self.probe_all(ends, Stop::AtFailure, judge)?;
        check(&pairs)?;
        Ok(pairs)
    }
}

/// An error that lists the pairs that failed, if any did.
pub fn check(pairs: &[Pair]) -> Result<()> {
    let failed: Vec<_> = pairs.iter().filter(|pair| !pair.is_ok()).map(Pair::describe).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let shown = failed.get(..10).unwrap_or(&failed).join("\n");
    bail!("{} of {} pairs fail:\n{shown}", failed.len(), pairs.len())
}

fn probe_from(from: &str, own: &[IpAddr], names: &[End], stop: Stop, judge: Judge<'_>) -> Vec<Pair> {
    let has_ipv6 = own.iter().any(IpAddr::is_ipv6);
    let others = names.iter().filter(|(to, _)| to != from);
    let targets = others.flat_map(|(to, addresses)| addresses.iter().map(move |address| (to, *address)));
    let mut pairs = Vec::new();
    for (to, address) in targets.filter(|(_, address)| address.is_ipv4() || has_ipv6) {
        pairs.push(Pair {
            from: from.to_owned(),
            to: to.clone(),
            address,
            ping: probe::ping_here(address).map_err(|error| format!("{error:#}")),
            http: answered_by(from, to, address, judge),
        });
        if stop == Stop::AtFailure && pairs.last().is_some_and(|pair| !pair.is_ok()) {
            break;
        }
    }
    pairs
}

fn answered_by(from: &str, to: &str, address: IpAddr, judge: Judge<'_>) -> Result<Duration, String> {
    let reached = probe::http_here(address, "/").map_err(|error| format!("{error:#}"))?;
    if reached.answer.name != to {
        return Err(format!("{} answered", reached.answer.name));
    }
    judge(from, to, &reached)?;
    Ok(reached.latency)
}

/// The strictest judge: nobody translates.
pub(crate) fn has_its_source(_: &str, _: &str, reached: &Reached) -> Result<(), String> {
    if reached.source_unchanged() {
        return Ok(());
    }
    Err(format!("source {} arrived as {}", reached.source, reached.answer.from))
}
