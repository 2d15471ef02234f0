//! The lab itself: do its network, its API servers, its pods and its instruments do what they claim?
//!
//! No agent runs here. The tests need root; without it they say so and end.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Access, Api, Lab, NodeSpec, Spec};

/// How long anything may take that a test waits for: the machine may be busy with other things.
const SOON: Duration = Duration::from_secs(60);

/// Whether the test cannot run; says why.
fn skipped(api: Api) -> bool {
    let reason = match lab::available(api) {
        Ok(()) => return false,
        Err(reason) => reason,
    };
    // Not eprint!, which the test runner keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {reason:#}");
    true
}

fn three_kinds(label: &str, api: Api) -> Spec {
    Spec::unique(label)
        .api(api)
        .location("paris", Access::Public)
        .location("oslo", Access::Elastic)
        .location("home", Access::Masquerade)
}

#[test]
fn locations_meet_the_internet_as_their_kind_says() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let spec = three_kinds("kinds", Api::Embedded)
        .host("paris-1", "paris")
        .host("paris-2", "paris")
        .host("oslo-1", "oslo")
        .host("oslo-2", "oslo")
        .host("home-1", "home");
    let lab = Lab::start(spec)?;
    let (paris, oslo, home) = (lab.addresses("paris-1")?, lab.addresses("oslo-1")?, lab.addresses("home-1")?);
    let public = |addresses: lab::Addresses| IpAddr::from(addresses.public.expect("this kind has a public address"));

    // Public: both ways, with the address as it is; private between neighbours.
    let reached = lab.http("oslo-1", public(paris))?;
    assert_eq!(reached.answer.name, "paris-1");
    assert_eq!(reached.answer.from, public(oslo), "1:1 translation shows the public address");
    assert!(!reached.source_unchanged());
    assert!(lab.http("paris-2", paris.private)?.source_unchanged());
    assert!(lab.http("paris-2", paris.private6)?.source_unchanged());
    lab.ping("paris-2", paris.public6.expect("public nodes have public IPv6"))?;

    // Elastic: reachable from outside and by neighbours through its public address.
    assert_eq!(lab.http("paris-1", public(oslo))?.answer.name, "oslo-1");
    let hairpin = lab.http("oslo-2", public(oslo))?;
    assert_eq!(hairpin.answer.name, "oslo-1");
    assert_eq!(hairpin.answer.from, public(lab.addresses("oslo-2")?));

    // Masquerade: out yes, in no.
    let router = lab.http("home-1", public(paris))?.answer.from;
    assert_ne!(router, IpAddr::from(home.private));
    assert!(home.public.is_none());
    assert!(lab.http("paris-1", router).is_err());

    // Private addresses stay at home.
    for target in [oslo.private, home.private] {
        assert!(lab.ping("paris-1", target).is_err(), "{target} reached from paris");
    }
    assert!(lab.ping("paris-1", oslo.private6).is_err());
    Ok(())
}

#[test]
fn pods_networks_do_not_cross_locations_by_themselves() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let spec = three_kinds("pods", Api::Embedded).node(NodeSpec::new("paris-1", "paris").dual_stack()).nodes("oslo", 1);
    let lab = Lab::start(spec)?;
    for node in lab.nodes() {
        lab.fill_conflist(&node)?;
    }
    lab.add_pods(2)?;
    assert_eq!(lab.pods(), ["oslo-1-pod1", "oslo-1-pod2", "paris-1-pod1", "paris-1-pod2"]);

    // The bridge plugin joins pods of one node, in both families.
    let neighbour = lab.pod_addresses("paris-1-pod2")?;
    assert_eq!(neighbour.len(), 2);
    for address in neighbour {
        let reached = lab.http("paris-1-pod1", address)?;
        assert_eq!(reached.answer.name, "paris-1-pod2");
        assert!(reached.source_unchanged());
        lab.ping("paris-1-pod1", address)?;
    }
    assert_eq!(lab.pod_addresses("oslo-1-pod1")?.len(), 1);

    // Nothing joins nodes yet, and that is visible.
    let pairs = lab.probe_mesh()?;
    let failure = lab::check(&pairs).expect_err("there is no mesh").to_string();
    assert!(failure.contains("pairs fail"), "{failure}");
    assert!(lab.ping("paris-1-pod1", lab.pod_ip("oslo-1-pod1")?).is_err());

    // DEL gives the address back and takes the link away.
    let links = lab.exec("oslo-1", &["ip", "link"])?.lines().count();
    lab.remove_pod("oslo-1-pod1")?;
    assert!(lab.exec("oslo-1", &["ip", "link"])?.lines().count() < links);
    assert!(lab.space("oslo-1-pod1").is_err());
    Ok(())
}

fn nodes_and_peers_are_objects_of_the_api(api: Api) -> Result<()> {
    if skipped(api) {
        return Ok(());
    }
    let spec = three_kinds("objects", api)
        .node(NodeSpec::new("paris-1", "paris").annotation("leader", "yes").dual_stack())
        .nodes("oslo", 1)
        .nodes("home", 1);
    let lab = Lab::start(spec)?;
    assert_eq!(lab.annotation("paris-1", "leader")?.as_deref(), Some("yes"));
    assert_eq!(lab.annotation("home-1", "persistent-keepalive")?.as_deref(), Some("5"));
    let public = lab.addresses("oslo-1")?.public.expect("elastic hosts have a public address");
    assert_eq!(lab.annotation("oslo-1", "force-endpoint")?, Some(format!("{public}:51820")));

    let node = lab.node("paris-1")?;
    assert_eq!(node.spec.and_then(|spec| spec.pod_cidrs).map(|cidrs| cidrs.len()), Some(2));
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    assert!(addresses.iter().any(|address| address.type_ == "InternalIP"));

    lab.annotate("paris-1", "leader", None)?;
    assert_eq!(lab.annotation("paris-1", "leader")?, None);

    let peer = |address: &str| {
        serde_json::json!({
            "allowedIPs": [address],
            "publicKey": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "endpoint": { "dnsOrIP": { "dns": "laptop.example" }, "port": 51820 },
        })
    };
    lab.apply_peer("laptop", &peer("10.5.0.1/32"))?;
    lab.apply_peer("laptop", &peer("10.5.0.2/32"))?;
    let kubeconfig = format!("--kubeconfig={}", lab.kubeconfig().display());
    let jsonpath = "-o=jsonpath={.items[*].spec.allowedIPs[0]}";
    let kubectl = Command::new("kubectl").args([&kubeconfig, "get", "peers", jsonpath]).output()?;
    assert_eq!(String::from_utf8_lossy(&kubectl.stdout), "10.5.0.2/32", "{kubectl:?}");

    // An outage keeps the objects.
    lab.api_stop()?;
    assert!(lab.node("paris-1").is_err(), "the API server answers after it was stopped");
    lab.api_start()?;
    lab.wait_until(SOON, "the API server answers again", || Ok(lab.node("paris-1").is_ok()))?;
    lab.delete_peer("laptop")?;
    lab.delete_node("oslo-1")?;
    assert_eq!(lab.nodes(), ["home-1", "paris-1"]);
    assert!(lab.node("oslo-1").is_err());
    Ok(())
}

#[test]
fn nodes_and_peers_are_objects_of_the_embedded_api() -> Result<()> {
    nodes_and_peers_are_objects_of_the_api(Api::Embedded)
}

#[test]
fn nodes_and_peers_are_objects_of_the_real_api() -> Result<()> {
    nodes_and_peers_are_objects_of_the_api(Api::Real)
}

#[test]
fn hosts_reach_the_api_server_and_have_names_and_files_of_their_own() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let lab = Lab::start(three_kinds("files", Api::Embedded).host("home-1", "home").host("home-2", "home"))?;
    lab.exec("home-1", &["curl", "-sf", "-m", "20", "http://192.0.2.10:8080/api/v1/nodes"])?;
    assert_eq!(lab.exec("home-1", &["hostname"])?.trim(), "home-1");

    lab.set_names("home-1", &[("laptop.example", Ipv4Addr::new(203, 0, 113, 99).into())])?;
    assert!(lab.exec("home-1", &["getent", "hosts", "laptop.example"])?.starts_with("203.0.113.99"));
    assert!(lab.exec("home-2", &["getent", "hosts", "laptop.example"]).is_err());

    lab.exec("home-1", &["touch", "/var/lib/kilo/mine", "/run/wireguard/mine"])?;
    assert!(lab.exec("home-2", &["ls", "/var/lib/kilo/mine"]).is_err());
    assert!(!std::path::Path::new("/var/lib/kilo/mine").exists());
    let links = lab.exec("home-1", &["ls", "/sys/class/net"])?;
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    Ok(())
}

#[test]
fn a_host_moves_to_another_location() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let lab = Lab::start(three_kinds("move", Api::Embedded).host("van", "oslo").host("paris-1", "paris"))?;
    let before = lab.addresses("van")?;
    let after = lab.move_host("van", "paris")?;
    assert_ne!(before, after);
    assert!(lab.http("paris-1", after.private)?.source_unchanged());
    let old = before.public.expect("elastic hosts have a public address");
    assert!(lab.ping("paris-1", old).is_err(), "the old public address still answers");
    Ok(())
}

#[test]
fn a_flow_counts_what_is_lost() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let lab = Lab::start(three_kinds("flow", Api::Embedded).host("paris-1", "paris").host("oslo-1", "oslo"))?;
    let target = lab.addresses("paris-1")?.public.expect("public hosts have a public address");
    let grows = |flow: &lab::Flow, what: &str| {
        let before = flow.returned();
        lab.wait_until(SOON, what, || Ok(flow.returned() > before + 20))
    };

    let flow = lab.flow("oslo-1", target)?;
    grows(&flow, "the flow runs")?;
    let report = flow.stop()?;
    assert!(report.lost.is_empty(), "{report:?}");

    let flow = lab.flow("oslo-1", target)?;
    grows(&flow, "the flow runs")?;
    // A filter, not a link that is down: there neighbours would queue packets and deliver them later.
    let cut = "add table ip cut; add chain ip cut f { type filter hook forward priority -200; policy drop; }";
    lab.exec("router-paris", &["nft", cut])?;
    assert!(lab.ping("oslo-1", target).is_err());
    lab.exec("router-paris", &["nft", "delete table ip cut"])?;
    grows(&flow, "the flow runs again")?;
    let report = flow.stop()?;
    assert!(!report.lost.is_empty() && report.longest_gap > Duration::from_millis(500), "{report:?}");
    Ok(())
}

#[test]
fn a_capture_sees_clear_text_and_writes_pcap() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let lab = Lab::start(three_kinds("capture", Api::Embedded).host("paris-1", "paris").host("oslo-1", "oslo"))?;
    let target = lab.addresses("paris-1")?.public.expect("public hosts have a public address");
    let link = lab.capture_uplink("paris")?;
    let other = lab.capture_uplink("home")?;
    lab::http_with_marker(&*lab.space("oslo-1")?, target.into(), "open-sesame")?;
    let (link, other) = (link.stop()?, other.stop()?);
    assert_eq!(link.dropped, 0);
    assert!(link.containing("open-sesame") > 0);
    assert_eq!(link.wireguard_data(), 0);
    assert_eq!(other.containing("open-sesame"), 0);

    let path = lab.directory().join("link.pcap");
    link.write_pcap(&path)?;
    let read = Command::new("tcpdump").arg("-nr").arg(&path).output()?;
    let lines = String::from_utf8_lossy(&read.stdout).lines().count();
    assert_eq!(lines, link.len(), "{read:?}");
    Ok(())
}

#[test]
fn everything_is_gone_afterwards() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let lab = Lab::start(three_kinds("gone", Api::Embedded).host("paris-1", "paris"))?;
    let prefix = format!("kglab-{}-", lab.name());
    let links = || -> Result<usize> {
        let names = std::fs::read_dir("/run/netns")?.filter_map(Result::ok).map(|entry| entry.file_name());
        Ok(names.filter(|name| name.to_string_lossy().starts_with(&prefix)).count())
    };
    let (directory, name) = (lab.directory().to_owned(), lab.name().to_owned());
    assert!(links()? >= 6 && directory.exists());
    assert!(lab::state::running()?.contains(&name));
    drop(lab);
    assert_eq!(links()?, 0);
    assert!(!directory.exists());
    assert!(!lab::state::running()?.contains(&name));
    Ok(())
}

/// Set in a process that [`start_victim`] starts: the name of its lab.
const VICTIM: &str = "LAB_TEST_VICTIM";

/// Holds a lab until it is killed.
fn be_victim(name: &str) -> Result<()> {
    let lab = Lab::start(Spec::named(name).location("paris", Access::Public).host("paris-1", "paris"))?;
    let told = lab.directory().join("sleeper").display().to_string();
    lab.exec("paris-1", &["sh", "-c", "echo $$ >$0.new && mv $0.new $0 && exec sleep 200", &told])?;
    Ok(())
}

/// Starts this program again, for [`a_killed_lab_leaves_nothing`] alone, which then only holds a lab; and waits until it runs a command on a host of it. Gives the
/// process and the place of the command in /proc.
fn start_victim(name: &str) -> Result<(Child, PathBuf)> {
    let victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_lab_leaves_nothing"])
        .env(VICTIM, name)
        .stdout(Stdio::null())
        .spawn()?;
    let told = format!("/run/kg-lab/{name}/sleeper");
    wait("the victim's command runs", || Ok(Path::new(&told).exists()))?;
    let sleeper = Path::new("/proc").join(std::fs::read_to_string(&told)?.trim());
    assert!(sleeper.exists());
    Ok((victim, sleeper))
}

#[test]
fn a_killed_lab_leaves_nothing() -> Result<()> {
    if let Ok(name) = std::env::var(VICTIM) {
        return be_victim(&name);
    }
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let name = format!("killed-{}", std::process::id());
    let (mut victim, sleeper) = start_victim(&name)?;
    let link = format!("/run/netns/kglab-{name}-paris-1");
    assert!(Path::new(&link).exists(), "the link leads to a namespace");
    victim.kill()?;
    victim.wait()?;

    wait("the victim's command ends with it", || Ok(!sleeper.exists()))?;
    wait("the namespace ends with its lab", || Ok(!Path::new(&link).exists()))?;
    assert!(!lab::state::running()?.contains(&name));
    // The next lab removes what points nowhere.
    let next = Lab::start(Spec::unique("next"))?;
    assert!(Path::new(&link).symlink_metadata().is_err());
    assert!(!next.directory().with_file_name(&name).exists());
    Ok(())
}

#[test]
fn another_process_can_look_into_a_lab_and_end_it() -> Result<()> {
    if skipped(Api::Embedded) {
        return Ok(());
    }
    let name = format!("ended-{}", std::process::id());
    let (mut victim, sleeper) = start_victim(&name)?;
    let lab = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output()?;
        anyhow::ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    assert!(lab(&["list"])?.contains(&name));
    let hosts = lab(&["exec", "--name", &name, "paris-1", "--", "cat", "/etc/hosts"])?;
    assert!(hosts.contains("10.101.0.11 paris-1"), "{hosts}");
    let nodes = lab(&["exec", "--name", &name, "paris-1", "--", "kubectl", "get", "nodes", "-o", "name"])?;
    assert_eq!(nodes, "");
    let wrong = lab(&["exec", "--name", &name, "rome-1", "--", "true"]).expect_err("there is no such host");
    assert!(wrong.to_string().contains("it has control internet paris-1"), "{wrong}");

    // The victim is a zombie until it is waited for, and still `down` has to remove every trace.
    lab(&["down", "--name", &name])?;
    let link = format!("/run/netns/kglab-{name}-paris-1");
    assert!(Path::new(&link).symlink_metadata().is_err());
    victim.wait()?;
    wait("the victim's command ends with it", || Ok(!sleeper.exists()))?;
    assert!(!Path::new("/run/kg-lab").join(&name).exists());
    Ok(())
}

fn wait(what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON * lab::patience();
    while !condition()? {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
