//! The demo: a mesh over three locations, and the proof that it works and hides what it carries.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lab::{Access, Api, Capture, Frames, Lab, NodeSpec, Outsider, Pair, Spec};

use crate::report::{self, Probe};
use crate::{ApiName, DemoArguments};

const LOCATIONS: [(&str, Access, &str, usize); 3] = [
    ("paris", Access::Public, "public addresses", 3),
    ("oslo", Access::Elastic, "1:1 NAT", 2),
    ("home", Access::Masquerade, "behind a masquerading router", 2),
];
/// The nodes with IPv6 pods: the first of two locations, so that IPv6 has to cross.
const DUAL_STACK: [&str; 2] = ["paris-1", "oslo-1"];
const PODS_PER_NODE: usize = 2;
const PEER: &str = "laptop";
const PEER_ADDRESS: &str = "10.5.0.1/32";
const MARKER: &str = "this-is-what-the-pods-say-in-clear-text";
const MARKED_REQUESTS: usize = 20;
const MESH_LIMIT: Duration = Duration::from_secs(90);
const ENDS: [(&str, &str); 2] = [("paris", "paris-1-pod1"), ("oslo", "oslo-2-pod1")];

/// A lab with its one peer. Fields drop in this order.
pub struct Demo {
    _peer: Outsider,
    /// The lab.
    pub lab: Lab,
}

/// Brings everything up, shows it and gives the lab, and whether all probes succeeded.
pub fn run(arguments: &DemoArguments) -> Result<(Demo, bool)> {
    lab::program("kg")?;
    lab::program("kgctl")?;
    let mut progress = Progress { start: Instant::now() };
    let api = match arguments.api {
        ApiName::Embedded => Api::Embedded,
        ApiName::Real => Api::Real,
    };
    let lab = Lab::start(spec(&arguments.name, api))?;
    let (nodes, locations) = (lab.nodes().len(), LOCATIONS.len());
    progress.done(&format!("{nodes} nodes in {locations} locations, and the API server"));
    lab.start_agents(&[&format!("--mesh-granularity={}", arguments.granularity)])?;
    progress.done("agents started");
    lab.add_pods(PODS_PER_NODE)?;
    progress.done(&format!("{} pods attached by the CNI plugins", lab.pods().len()));
    let peer = lab.start_peer(PEER, PEER, PEER_ADDRESS.parse()?)?;
    let mesh = lab.wait_mesh(MESH_LIMIT);
    progress.done("every pod and node has been probed from every other");
    let peer_works = join(&lab, &peer);
    progress.done(&format!("peer {PEER} has joined"));

    show_leaders(&lab)?;
    let pairs = if mesh.is_ok() { lab.measure_mesh()? } else { lab.probe_mesh()? };
    show_matrix(&lab, &pairs);
    let mut passed =
        verdict("every pod reaches every pod and node, source addresses unchanged", mesh.and(lab::check(&pairs)));
    passed &= verdict("IPv6 between locations", show_ipv6(&pairs));
    passed &= verdict(&format!("peer {PEER} reaches every pod and is reached by every pod"), peer_works);
    passed &= verdict("between locations nothing is in clear text", prove_encryption(&lab));
    let picture = draw(&lab, &arguments.out);
    if let Ok(path) = &picture {
        println!("\nThe picture of the mesh: {}", path.display());
    }
    passed &= verdict("the mesh can be drawn", picture.map(drop));
    if arguments.keep {
        show_what_to_look_at(&lab)?;
    }
    std::io::stdout().flush()?;
    Ok((Demo { _peer: peer, lab }, passed))
}

fn spec(name: &str, api: Api) -> Spec {
    let mut spec = Spec::named(name).api(api);
    for (location, access, _, nodes) in LOCATIONS {
        spec = spec.location(location, access);
        for number in 1..=nodes {
            let node = NodeSpec::new(&format!("{location}-{number}"), location);
            let dual_stack = DUAL_STACK.contains(&format!("{location}-{number}").as_str());
            spec = spec.node(if dual_stack { node.dual_stack() } else { node });
        }
    }
    spec.location("cafe", Access::Public).host(PEER, "cafe")
}

struct Progress {
    start: Instant,
}

impl Progress {
    fn done(&mut self, what: &str) {
        println!("{:5.1} s  {what}", self.start.elapsed().as_secs_f64());
    }
}

/// Prints what was to be shown and whether it was; the reason of a failure goes to stderr.
fn verdict(what: &str, result: Result<()>) -> bool {
    println!("{}  {what}", if result.is_ok() { "ok    " } else { "FAILED" });
    if let Err(error) = &result {
        eprintln!("        {error:#}");
    }
    result.is_ok()
}

fn show_leaders(lab: &Lab) -> Result<()> {
    println!("\nLeaders");
    for (node, address) in lab.leaders()? {
        let region = lab.node(&node)?.metadata.labels.unwrap_or_default().remove(lab::REGION).unwrap_or_default();
        let kind = LOCATIONS.iter().find(|(name, ..)| *name == region).map_or("", |(_, _, kind, _)| kind);
        let forced = lab.annotation(&node, "force-endpoint")?;
        let endpoint = forced.or(lab.annotation(&node, "endpoint")?).unwrap_or_default();
        println!("  {region:6} {node:8} {address:14} endpoint {endpoint:22} ({kind})");
    }
    Ok(())
}

fn show_matrix(lab: &Lab, pairs: &[Pair]) {
    let names = [lab.pods(), lab.nodes()].concat();
    for (probe, title) in [(Probe::Icmp, "ICMP"), (Probe::Http, "HTTP")] {
        println!("\n{title}, IPv4, milliseconds; a row probes the columns");
        print!("{}", report::matrix(&names, pairs, probe));
    }
    println!();
}

/// Prints the IPv6 latencies between locations; there must be some.
fn show_ipv6(pairs: &[Pair]) -> Result<()> {
    let location = |name: &str| name.split('-').next().map(str::to_owned);
    let crossing = pairs.iter().filter(|pair| pair.address.is_ipv6() && location(&pair.from) != location(&pair.to));
    let times: Vec<_> = crossing.filter_map(|pair| Some((pair.ping.clone().ok()?, pair.http.clone().ok()?))).collect();
    let (pings, https) = times.iter().copied().unzip();
    match (report::median(pings), report::median(https)) {
        (Some(ping), Some(http)) => {
            let (ping, http) = (report::milliseconds(ping), report::milliseconds(http));
            println!("IPv6: {} pairs of pods in different locations, median ICMP {ping}, HTTP {http}", times.len());
            Ok(())
        }
        _ => bail!("no IPv6 pair between locations answered"),
    }
}

/// Configures the peer and waits until it reaches every pod and every pod reaches it.
fn join(lab: &Lab, peer: &Outsider) -> Result<()> {
    let address = PEER_ADDRESS.parse::<ipnet::IpNet>()?.addr();
    lab.wait_until(MESH_LIMIT, "the peer and every pod reach each other", || {
        peer.sync(lab)?;
        for pod in lab.pods() {
            for reached in [lab.http(PEER, lab.pod_ip(&pod)?)?, lab.http(&pod, address)?] {
                if !reached.source_unchanged() {
                    bail!("{pod}: source {} arrived as {}", reached.source, reached.answer.from);
                }
            }
        }
        Ok(true)
    })
}

/// Pods of two locations exchange a marked text while the links are watched: it must show up in the
/// pod's own link (else this check could not fail) and not between the locations.
fn prove_encryption(lab: &Lab) -> Result<()> {
    let [(here, from), (there, to)] = ENDS;
    let target = lab.pod_ip(to)?;
    let captures = [lab.capture_uplink(here)?, lab.capture_uplink(there)?, lab.capture(from, "eth0")?];
    let sent = send_marked(lab, from, target);
    let frames: Vec<Frames> = captures.into_iter().map(Capture::stop).collect::<Result<_>>()?;
    sent?;
    let [near, far, pod] = frames.as_slice() else { bail!("a capture is missing") };
    println!("\n{MARKED_REQUESTS} requests with a marked text from {from} to {to}; packets seen:");
    for (link, frames) in [(format!("{here} - internet"), near), (format!("internet - {there}"), far)] {
        let (tunnel, clear) = (frames.wireguard_data(), frames.containing(MARKER));
        println!("  link {link:20} {tunnel:4} WireGuard data, {clear:3} with the text in clear");
    }
    let clear = pod.containing(MARKER);
    println!("  link of {from:17} {:4} WireGuard data, {clear:3} with the text in clear", pod.wireguard_data());
    let outside = [near, far];
    if outside.iter().any(|frames| frames.dropped > 0) {
        bail!("a capture has gaps");
    }
    if outside.iter().any(|frames| frames.containing(MARKER) > 0) {
        bail!("the marked text was seen between locations");
    }
    if outside.iter().any(|frames| frames.wireguard_data() < MARKED_REQUESTS) || clear < MARKED_REQUESTS {
        bail!("the traffic was not seen at all");
    }
    Ok(())
}

fn send_marked(lab: &Lab, from: &str, target: IpAddr) -> Result<()> {
    let space = lab.space(from)?;
    (0..MARKED_REQUESTS).try_for_each(|_| lab::http_with_marker(&space, target, MARKER).map(drop))
}

/// Writes the picture of the mesh as SVG; gives its path.
fn draw(lab: &Lab, directory: &Path) -> Result<PathBuf> {
    let svg = lab.kgctl(&["graph", "-o", "svg"])?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let path = directory.join("mesh.svg");
    fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn show_what_to_look_at(lab: &Lab) -> Result<()> {
    let own = std::env::current_exe()?;
    let own = own.strip_prefix(std::env::current_dir()?).unwrap_or(&own).display().to_string();
    let name = lab.name();
    let option = if name == "demo" { String::new() } else { format!(" --name {name}") };
    let leader = lab.leaders()?.into_iter().next().map(|(node, _)| node);
    let leader = leader.ok_or_else(|| anyhow!("nobody leads"))?;
    println!("\nThe lab stays up. To look inside:");
    println!("  KUBECONFIG={} kubectl get nodes -o yaml", lab.kubeconfig().display());
    for command in ["wg show".to_owned(), "ip route".to_owned(), "nft list ruleset".to_owned()] {
        println!("  {own} exec{option} {leader} -- {command}");
    }
    println!("  {own} exec{option} {leader}-pod1 -- ping {}", lab.pod_ip(ENDS[1].1)?);
    println!("  {own} list");
    println!("  {own} down{option}");
    Ok(())
}
