//! Kubernetes' own rules for its network, asserted on a running lab, whoever attaches the pods.
//!
//! From the Kubernetes documentation ("Cluster Networking", "Services, Load Balancing, and Networking",
//! "Network Policies"):
//!
//! * all pods reach all others, on whatever node, without address translation;
//! * what runs on a node reaches all pods;
//! * the address that a pod sees as its own is the one that others see;
//! * a service's address leads to its pods, whichever node kube-proxy translates on;
//! * what enforces network policies in front of a pod sees the addresses of other pods.
//!
//! And the Internet's, which the above needs for all but small packets (RFC 1191, RFC 8201): what a path takes passes
//! whole, and who sends more is told.
//!
//! Both families, as far as nodes have pods of both.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::Value;

use crate::kube_proxy::{ProxyMode, Service};
use crate::lab::Lab;
use crate::mesh::{ALL_MEET, End, has_its_source};
use crate::probe::{self, Reached};
use crate::servers::HTTP_PORT;
use crate::underlay::Addresses;

/// What passes between locations in one packet, in bytes: WireGuard takes 80 of the 1500 of all networks of a lab.
pub const BETWEEN_LOCATIONS: usize = 1420;

/// The first node port.
const NODE_PORTS: u16 = 30000;

/// The rules, to be asserted on a lab that has pods on several nodes; see [`Lab::rules`].
pub struct Rules<'a> {
    lab: &'a Lab,
    limit: Duration,
    customs: Customs,
}

/// In what providers differ, within the rules.
#[derive(Clone, Copy)]
pub(crate) struct Customs {
    /// Whether nodes see pods of other nodes under an address of the pod's node.
    pub(crate) masquerades_to_nodes: bool,
    /// Whether pods see all nodes under an address of their own node, so that no policy tells nodes apart.
    pub(crate) masquerades_to_pods: bool,
    /// Makes services known to what translates for pods in place of kube-proxy.
    pub(crate) serve: fn(&Lab, &[Service]) -> Result<()>,
    /// Takes them back.
    pub(crate) unserve: fn(&Lab, &[Service]) -> Result<()>,
    /// Keeps a network policy.
    pub(crate) enforce: fn(&Lab, &Policy<'_>) -> Result<()>,
    /// Takes it back.
    pub(crate) relent: fn(&Lab, &Policy<'_>) -> Result<()>,
}

/// Those of a provider whose packets all pass the host's forwarding, and whose policies are rules there.
pub(crate) const ON_THE_HOST: Customs = Customs {
    masquerades_to_nodes: false,
    masquerades_to_pods: false,
    serve: |_, _| Ok(()),
    unserve: |_, _| Ok(()),
    enforce: |lab, policy| lab.space(policy.node)?.nft(&policy_rules(policy.server, policy.client)),
    relent: |lab, policy| lab.space(policy.node)?.nft("delete table inet netpol\n"),
};

/// A network policy in front of one address of a pod. Who may not come in has to be told so by a reset, so that the
/// test need not wait for a silence.
pub(crate) struct Policy<'a> {
    /// The node of the pod.
    pub(crate) node: &'a str,
    /// The pod's address.
    pub(crate) server: IpAddr,
    /// The only one that may come in, from another node.
    pub(crate) client: IpAddr,
}

/// One who asks: a pod or the host of a node.
struct Client {
    name: String,
    node: String,
    location: String,
    is_pod: bool,
    /// What others ask it at.
    addresses: Vec<IpAddr>,
    /// All that are on its interfaces, but link-local ones.
    own: Vec<IpAddr>,
    /// Whether it has a way to a service's address, IPv6, that could be translated: none behind routers that
    /// have IPv4 only.
    has_v6_default: bool,
}

impl Client {
    fn of_family(&self, like: IpAddr) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |ip| ip.is_ipv4() == like.is_ipv4())
    }

    fn speaks(&self, like: IpAddr) -> bool {
        self.of_family(like).next().is_some() && (like.is_ipv4() || self.has_v6_default)
    }
}

/// A service, with the names of the pods behind it.
type Named = (Service, Vec<String>);

/// A question and who may answer it from where.
struct Question<'a> {
    to: SocketAddr,
    /// Names of the pods of which one has to answer.
    answers: &'a [String],
    clients: &'a [Client],
    /// The source address that it has to see, where there is one.
    source: Source<'a>,
}

/// Which source address the pod that answers has to see.
enum Source<'a> {
    /// The one that the client has, unless it answers itself.
    Own,
    /// One of this node's, which masquerades.
    Node(&'a Client),
}

impl Lab {
    /// Kubernetes' rules for this lab, each of which may take as long as `limit` to come true.
    pub fn rules(&self, limit: Duration) -> Rules<'_> {
        self.rules_with(limit, ON_THE_HOST)
    }
}

impl Lab {
    /// As [`Lab::rules`], with the customs of a provider.
    pub(crate) fn rules_with(&self, limit: Duration, customs: Customs) -> Rules<'_> {
        Rules { lab: self, limit, customs }
    }
}

impl Rules<'_> {
    /// All of them, services by both modes of kube-proxy.
    pub fn all(&self) -> Result<()> {
        self.all_of_size(BETWEEN_LOCATIONS)
    }

    /// As [`Rules::all`], where packets of `mtu` bytes pass between pods of different locations.
    pub fn all_of_size(&self, mtu: usize) -> Result<()> {
        self.pods()?;
        self.services(ProxyMode::Nftables)?;
        self.services(ProxyMode::Iptables)?;
        self.policies()?;
        self.full_size(mtu)
    }

    /// Pods of different locations send each other packets of `mtu` bytes, and whoever sends more is told.
    pub fn full_size(&self, mtu: usize) -> Result<()> {
        let clients = self.clients()?;
        let pods = || clients.iter().filter(|client| client.is_pod);
        for from in pods() {
            for family in ["-4", "-6"] {
                // What it was told before must not stand in for what it is told now.
                self.lab.exec(&from.name, &["ip", family, "route", "flush", "cache"])?;
            }
            let elsewhere = pods().filter(|to| to.location != from.location);
            for to in elsewhere.flat_map(|to| &to.addresses).filter(|to| from.of_family(**to).next().is_some()) {
                self.lab.wait_until(self.limit, "full-size packets pass", || {
                    self.lab.takes_no_more_than(&from.name, *to, mtu)?;
                    Ok(true)
                })?;
            }
        }
        Ok(())
    }

    /// Pods and nodes reach each other's addresses, and those are the ones they see as their own.
    pub fn pods(&self) -> Result<()> {
        let mut clients = Vec::new();
        self.lab.wait_until(self.limit, ALL_MEET, || {
            // Anew each time: the nodes' addresses follow the mesh.
            clients = self.clients()?;
            self.meet(&clients)?;
            Ok(true)
        })?;
        for pod in clients.iter().filter(|client| client.is_pod) {
            self.has_its_addresses(pod)?;
        }
        Ok(())
    }

    fn meet(&self, clients: &[Client]) -> Result<()> {
        let ends: Vec<End> = clients.iter().map(|client| (client.name.clone(), client.addresses.clone())).collect();
        let is_pod = |name: &str| clients.iter().any(|client| client.name == name && client.is_pod);
        let node = |name: &str| node_of(name, clients).map(|node| node.name.clone());
        let judge = |from: &str, to: &str, reached: &Reached| match (is_pod(from), is_pod(to)) {
            _ if node(from) == node(to) => has_its_source(from, to, reached),
            (true, false) if self.customs.masquerades_to_nodes => comes_from_node_of(from, clients, reached),
            // Inside a location by the provider's own way.
            (false, true) if self.customs.masquerades_to_pods => {
                has_its_source(from, to, reached).or_else(|_| comes_from_node_of(to, clients, reached))
            }
            _ => has_its_source(from, to, reached),
        };
        self.lab.meet(&ends, &judge).map(drop)
    }

    /// Pods, and nodes with their internal addresses; IPv6 for nodes that have IPv6 pods.
    fn clients(&self) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for node in self.lab.nodes() {
            for pod in self.lab.pods_of(&node) {
                let addresses = self.lab.pod_addresses(&pod)?;
                clients.push(self.client(pod, &node, true, addresses)?);
            }
            let Addresses { private, private6, .. } = self.lab.addresses(&node)?;
            let cidrs = self.lab.node(&node)?.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
            let v6 = cidrs.iter().any(|cidr| cidr.contains(':')).then_some(private6.into());
            let addresses = [IpAddr::from(private)].into_iter().chain(v6).collect();
            clients.push(self.client(node.clone(), &node, false, addresses)?);
        }
        let pods = clients.iter().filter(|client| client.is_pod).count();
        ensure!(pods > 1, "the rules are about pods that meet: there are {pods}");
        Ok(clients)
    }

    fn client(&self, name: String, node: &str, is_pod: bool, addresses: Vec<IpAddr>) -> Result<Client> {
        let links: Value = serde_json::from_str(&self.lab.exec(&name, &["ip", "-json", "addr", "show"])?)?;
        let infos = links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array()).flatten();
        let texts = infos.filter(|info| info["scope"] == "global").filter_map(|info| info["local"].as_str());
        let own = texts.map(|text| text.parse().with_context(|| format!("ip -json addr on {name}: {text:?}")));
        let own = own.collect::<Result<_>>()?;
        let has_v6_default = !self.lab.exec(&name, &["ip", "-6", "route", "show", "default"])?.is_empty();
        let location = self.lab.location(node)?;
        Ok(Client { name, node: node.to_owned(), location, is_pod, addresses, own, has_v6_default })
    }

    fn has_its_addresses(&self, pod: &Client) -> Result<()> {
        for address in &pod.addresses {
            ensure!(pod.own.contains(address), "{} has {:?} on its interfaces, not {address}", pod.name, pod.own);
            let to_itself = self.lab.http(&pod.name, *address)?;
            ensure!(to_itself.answer.name == pod.name, "{address} from inside {}: {to_itself:?}", pod.name);
        }
        Ok(())
    }

    /// Each pod is behind a service of its own, all of them behind another one: pods and nodes ask their
    /// cluster IPs, and pods, nodes and the internet their node ports on each node.
    pub fn services(&self, mode: ProxyMode) -> Result<()> {
        self.with_services(mode, |_, services| {
            self.lab.wait_until(self.limit, &format!("services by {mode:?} lead to their pods"), || {
                let clients = &self.clients()?; // As above.
                let results: Vec<Result<()>> = thread::scope(|scope| {
                    let ask = |client| scope.spawn(move || self.asks(client, clients, services));
                    let workers: Vec<_> = clients.iter().map(ask).collect();
                    let joined = workers.into_iter().map(|worker| worker.join());
                    joined.map(|result| result.unwrap_or_else(|_| bail!("a thread of the lab panicked"))).collect()
                });
                results.into_iter().collect::<Result<()>>()?;
                self.internet_asks(clients, services)?;
                Ok(true)
            })
        })
    }

    /// Runs `steps` while kube-proxy's rules are on all nodes.
    fn with_services(&self, mode: ProxyMode, steps: impl FnOnce(&[Client], &[Named]) -> Result<()>) -> Result<()> {
        let clients = self.clients()?;
        let services = self.make_services(&clients)?;
        let plain: Vec<Service> = services.iter().map(|(service, _)| service.clone()).collect();
        let pods = self.lab.realm.all_pods().map(|cidr| cidr.parse::<IpNet>());
        let pods = pods.into_iter().collect::<Result<Vec<_>, _>>()?;
        for node in self.lab.nodes() {
            mode.install(&*self.lab.space(&node)?, &pods, &plain).with_context(|| format!("{mode:?} on {node}"))?;
        }
        (self.customs.serve)(self.lab, &plain)?;
        steps(&clients, &services)?;
        (self.customs.unserve)(self.lab, &plain)?;
        for node in self.lab.nodes() {
            mode.remove(&*self.lab.space(&node)?, &pods, &plain).with_context(|| format!("{mode:?} on {node}"))?;
        }
        Ok(())
    }

    /// Services with the names of the pods behind them.
    fn make_services(&self, clients: &[Client]) -> Result<Vec<Named>> {
        let networks = [self.lab.realm.services(), self.lab.realm.services6()];
        let mut services = Vec::new();
        for network in networks {
            let network: IpNet = network.parse()?;
            let is_v4 = network.addr().is_ipv4();
            let pods = clients.iter().filter(|client| client.is_pod);
            let addresses = pods.flat_map(|pod| pod.addresses.iter().map(|ip| (*ip, pod.name.clone())));
            let pods: Vec<(IpAddr, String)> = addresses.filter(|(ip, _)| ip.is_ipv4() == is_v4).collect();
            let groups = pods.chunks(1).chain([&pods[..]]).filter(|group| !group.is_empty());
            for ((group, number), address) in groups.zip(1_u16..).zip(network.hosts().skip(1)) {
                let (endpoints, names) = group.iter().cloned().unzip();
                let name = format!("s{number}");
                services.push((Service { name, address, node_port: NODE_PORTS + number, endpoints }, names));
            }
        }
        Ok(services)
    }

    /// All that one client asks for.
    fn asks(&self, client: &Client, clients: &[Client], services: &[Named]) -> Result<()> {
        let own_node = clients.iter().find(|other| other.name == client.node).context("the client's node")?;
        for (service, answers) in services.iter().filter(|(service, _)| client.speaks(service.address)) {
            // Kube-proxy masquerades what does not come from a pod.
            let source = if client.is_pod { Source::Own } else { Source::Node(own_node) };
            let to = SocketAddr::new(service.address, HTTP_PORT);
            self.ask(&client.name, &Question { to, answers, clients, source })?;
            for node in clients.iter().filter(|other| !other.is_pod && other.name != client.node) {
                for ip in node.of_family(service.address) {
                    let to = SocketAddr::new(ip, service.node_port);
                    self.ask(&client.name, &Question { to, answers, clients, source: Source::Node(node) })?;
                }
            }
        }
        Ok(())
    }

    /// The node ports of each node that has a public address.
    fn internet_asks(&self, clients: &[Client], services: &[Named]) -> Result<()> {
        for node in clients.iter().filter(|client| !client.is_pod) {
            let Some(public) = self.lab.addresses(&node.name)?.public else { continue };
            for (service, answers) in services.iter().filter(|(service, _)| service.address.is_ipv4()) {
                let to = SocketAddr::new(public.into(), service.node_port);
                self.ask("control", &Question { to, answers, clients, source: Source::Node(node) })?;
            }
        }
        Ok(())
    }

    fn ask(&self, from: &str, question: &Question<'_>) -> Result<()> {
        let Question { to, answers, clients, source } = question;
        let what = || format!("{from} asks {to} ({})", answers.join(", "));
        let reached = self.lab.space(from)?.run(|| probe::http_at(*to, "/"))?.with_context(what)?;
        let (answered, seen) = (&reached.answer.name, reached.answer.from);
        ensure!(answers.contains(answered), "{}: {answered} answered", what());
        match source {
            Source::Own if answered == from => {}
            Source::Own => ensure!(seen == reached.source, "{}: {} arrived as {seen}", what(), reached.source),
            Source::Node(node) if node.own.contains(&seen) => {}
            Source::Node(_) if self.customs.masquerades_to_pods => {
                comes_from_node_of(answered, clients, &reached).map_err(Error::msg).with_context(what)?;
            }
            Source::Node(node) => bail!("{}: {seen} arrived, not {}'s", what(), node.name),
        }
        Ok(())
    }

    /// In front of each pod a rule lets in one pod of another node and nobody else, by address: that one
    /// comes in, also by a service, and all others are turned away.
    pub fn policies(&self) -> Result<()> {
        self.with_services(ProxyMode::Nftables, |clients, services| {
            for server in clients.iter().filter(|client| client.is_pod) {
                for address in &server.addresses {
                    self.policy(server, *address, clients, services)
                        .with_context(|| format!("a network policy in front of {} {address}", server.name))?;
                }
            }
            Ok(())
        })
    }

    fn policy(&self, server: &Client, address: IpAddr, clients: &[Client], services: &[Named]) -> Result<()> {
        let told_apart = |client: &Client| client.is_pod || !self.customs.masquerades_to_pods;
        let others = clients.iter().filter(|client| client.speaks(address) && client.node != server.node);
        let others = others.filter(|client| told_apart(client));
        let pods = || others.clone().filter(|client| client.is_pod);
        // From another location, if there is one.
        let Some(welcome) = pods().find(|pod| pod.location != server.location).or(pods().next()) else { return Ok(()) };
        let source = welcome.of_family(address).next().context("an address of the family")?;
        let service = services.iter().find(|(service, _)| service.endpoints == [address]).context("its service")?;

        let policy = Policy { node: &server.node, server: address, client: source };
        (self.customs.enforce)(self.lab, &policy)?;
        for ip in [address, service.0.address] {
            let to = SocketAddr::new(ip, HTTP_PORT);
            let answers = std::slice::from_ref(&server.name);
            self.lab.wait_until(self.limit, "one comes in and nobody else", || {
                self.ask(&welcome.name, &Question { to, answers, clients, source: Source::Own })?;
                for other in others.clone().filter(|other| other.name != welcome.name) {
                    self.is_refused(&other.name, to)?;
                }
                Ok(true)
            })?;
        }
        (self.customs.relent)(self.lab, &policy)
    }

    fn is_refused(&self, from: &str, to: SocketAddr) -> Result<()> {
        let reached = self.lab.space(from)?.run(|| probe::http_at(to, "/"))?;
        let error = match reached {
            Ok(reached) => bail!("{from} came in: {reached:?}"),
            Err(error) => error,
        };
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{from} to {to} was not refused, but: {error:#}");
        Ok(())
    }
}

fn comes_from_node_of(name: &str, clients: &[Client], reached: &Reached) -> Result<(), String> {
    let seen = reached.answer.from;
    if node_of(name, clients).is_some_and(|node| node.own.contains(&seen)) {
        return Ok(());
    }
    Err(format!("{} arrived as {seen}, which is not of the node of {name}", reached.source))
}

/// The node that `name`, a pod or a node, is on.
fn node_of<'a>(name: &str, clients: &'a [Client]) -> Option<&'a Client> {
    let node = &clients.iter().find(|client| client.name == name)?.node;
    clients.iter().find(|client| !client.is_pod && client.name == *node)
}

/// What a policy engine has in front of the pod `server` that `client` alone may reach. It answers who is turned
/// away, so that the test need not wait for a silence.
fn policy_rules(server: IpAddr, client: IpAddr) -> String {
    let ip = if server.is_ipv4() { "ip" } else { "ip6" };
    format!(
        "table inet netpol {{ chain forward {{\n\
         type filter hook forward priority filter;\n\
         ct state established,related accept\n\
         {ip} daddr {server} {ip} saddr {client} accept\n\
         {ip} daddr {server} meta l4proto tcp reject with tcp reset\n}}\n}}\n"
    )
}
