//! `kgctl connect` on machines that are no nodes.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, PostParams};
use lab::{Access, Background, CONTROL, Lab, NodeSpec, Spec};
use serde_json::json;

use crate::support::{
    UNHURRIED, annotation, bring_up, handshakes, in_lab, lossless, pod_cidr, same_sessions, same_snapshot, snapshot,
    wait, wait_answers, wait_leaders, wg_peer,
};

/// A location with two nodes, one of both families, one behind NAT; a laptop in the open, one in a café and a
/// desk beside nodes.
fn with_machines(spec: Spec) -> Spec {
    spec.location("paris", Access::Public)
        .location("rome", Access::Public)
        .location("home", Access::Masquerade)
        .location("abroad", Access::Public)
        .location("cafe", Access::Masquerade)
        .nodes("paris", 2)
        .node(NodeSpec::new("rome-1", "rome").dual_stack())
        .nodes("home", 1)
        .host("laptop", "abroad")
        .host("neighbour", "abroad")
        .host("phone", "cafe")
        .host("desk", "rome")
}

/// The smallest mesh, for tests of what has little to do with it.
fn one_node(spec: Spec) -> Spec {
    spec.location("paris", Access::Public).location("abroad", Access::Public).nodes("paris", 1).host("laptop", "abroad")
}

const PODS: [&str; 4] = ["paris-1-pod1", "paris-2-pod1", "rome-1-pod1", "home-1-pod1"];

const LEADERS: [&str; 3] = ["paris-1", "rome-1", "home-1"];

/// `kgctl connect HOST` on `host`.
fn connect(lab: &Lab, host: &str, arguments: &[&str]) -> Result<Background> {
    lab.start_kgctl(host, None, &[&["connect", host, "--resync-period=2s"], arguments].concat())
}

fn wait_said(lab: &Lab, program: &Background, text: &str) -> Result<()> {
    wait(lab, &format!("kgctl says: {text}"), || {
        let said = program.said()?;
        ensure!(said.contains(text), "{said}");
        Ok(true)
    })
}

fn wait_connected(lab: &Lab, program: &Background, nodes: &[&str]) -> Result<()> {
    nodes.iter().try_for_each(|node| wait_said(lab, program, &format!("connected to node/{node} ")))
}

/// Waits until the machine and each pod reach each other, with their own addresses as source.
fn wait_reached(lab: &Lab, host: &str, pods: &[&str], own: &str) -> Result<()> {
    let own: IpAddr = own.parse()?;
    wait(lab, &format!("{host} and {pods:?} reach each other"), || {
        for pod in pods {
            let like = |address: &IpAddr| address.is_ipv4() == own.is_ipv4();
            let target = lab.pod_addresses(pod)?.into_iter().find(like).context("no address of that family")?;
            let there = lab.http(host, target)?;
            ensure!(there.answer.name == *pod && there.answer.from == own, "{there:?}");
            let back = lab.http(pod, own)?;
            ensure!(back.answer.name == host && back.source_unchanged(), "{back:?}");
        }
        Ok(true)
    })
}

/// Ends it and fails if anything is left of it.
fn stop_without_a_trace(
    lab: &Lab,
    program: &mut Background,
    host: &str,
    before: &std::collections::BTreeSet<String>,
) -> Result<()> {
    program.signal(libc::SIGTERM)?;
    let status = program.wait()?;
    ensure!(status.success(), "{status}: {}", program.said()?);
    same_snapshot(before, &snapshot(lab, host)?, host)?;
    ensure!(state_files(lab, host)?.is_empty(), "{:?}", state_files(lab, host)?);
    ensure!(!lab.kgctl(&["graph"])?.contains(host), "the Peer is left");
    Ok(())
}

/// What `kgctl connect` has written down on a host.
fn state_files(lab: &Lab, host: &str) -> Result<Vec<String>> {
    let directory = lab.directory().join("hosts").join(host).join("kilo");
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn tunnel_routes(lab: &Lab, host: &str) -> Result<String> {
    let space = lab.space(host)?;
    // A table without routes does not exist.
    let listed = |family| space.output(["ip", family, "route", "show", "table", "1108"]);
    Ok(String::from_utf8_lossy(&[listed("-4")?.stdout, listed("-6")?.stdout].concat()).into_owned())
}

#[test]
fn a_machine_connects_stays_connected_and_leaves_nothing_behind() -> Result<()> {
    in_lab("connect", with_machines, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let before = snapshot(lab, "laptop")?;
        let mut laptop = connect(lab, "laptop", &["--allowed-ip=10.5.0.1/32", "--allowed-ip=fd05::1/128"])?;
        wait_connected(lab, &laptop, &LEADERS)?;
        wait_reached(lab, "laptop", &PODS, "10.5.0.1")?;
        wait_reached(lab, "laptop", &["rome-1-pod1"], "fd05::1")?;

        // Both ends behind NAT; and a machine in the location of a node, whose own network wins.
        let mut phone = connect(lab, "phone", &["--allowed-ip=10.5.0.2/32"])?;
        wait_connected(lab, &phone, &LEADERS)?;
        wait_reached(lab, "phone", &PODS, "10.5.0.2")?;
        let mut desk = connect(lab, "desk", &["-a", "10.5.0.3/32", "-i", "wgdesk", "--port=4040"])?;
        wait_reached(lab, "desk", &PODS, "10.5.0.3")?;
        let rome: IpAddr = lab.addresses("rome-1")?.private.into();
        ensure!(!tunnel_routes(lab, "desk")?.contains(&format!("{rome} dev")), "{}", tunnel_routes(lab, "desk")?);
        ensure!(lab.http("desk", rome)?.answer.from == IpAddr::from(lab.addresses("desk")?.private));

        // A leader changes: what goes elsewhere does not notice.
        let flow = lab.flow("laptop", lab.pod_ip("rome-1-pod1")?)?;
        wait_answers(lab, &flow, 20)?;
        let sessions = handshakes(lab, &["laptop"])?;
        let old = annotation(lab, "paris-1", "key")?;
        lab.annotate("paris-2", "leader", Some("true"))?;
        wait_leaders(lab, &["home-1", "paris-2", "rome-1"])?;
        wait_connected(lab, &laptop, &["paris-2"])?;
        wait_reached(lab, "laptop", &PODS, "10.5.0.1")?;
        let others = sessions.into_iter().filter(|((_, key), _)| *key != old).collect();
        same_sessions(&others, &handshakes(lab, &["laptop"])?, "while another leader was elected")?;

        // The API server goes and comes back; so does what somebody breaks meanwhile.
        lab.api_stop()?;
        wait_said(lab, &laptop, "the tunnel stays as it is")?;
        wait_answers(lab, &flow, 100)?;
        lossless(flow, "while a leader changed and the API server was away")?;
        is_mended(lab)?;
        wait_reached(lab, "laptop", &PODS, "10.5.0.1")?;
        lab.api_start()?;
        lab.annotate("rome-1", "allowed-location-ips", Some("172.30.1.0/24"))?;
        wait(
            lab,
            "the laptop follows again",
            || Ok(tunnel_routes(lab, "laptop")?.contains("172.30.1.0/24 dev kilo0")),
        )?;

        stop_without_a_trace(lab, &mut laptop, "laptop", &before)?;
        phone.signal(libc::SIGINT)?;
        ensure!(phone.wait()?.success());
        desk.signal(libc::SIGHUP)?;
        ensure!(desk.wait()?.success());
        Ok(())
    })
}

/// What somebody takes away from the laptop comes back.
fn is_mended(lab: &Lab) -> Result<()> {
    let whole = snapshot(lab, "laptop")?;
    for damage in ["ip route flush table 1108", "ip rule del pref 5200", "ip addr flush dev kilo0", "ip link del kilo0"]
    {
        lab.exec("laptop", &["sh", "-c", damage])?;
        wait(lab, &format!("the laptop recovers from: {damage}"), || {
            same_snapshot(&whole, &snapshot(lab, "laptop")?, damage)?;
            Ok(true)
        })?;
    }
    Ok(())
}

#[test]
fn what_carries_the_tunnel_and_the_machines_own_network_stay_outside() -> Result<()> {
    in_lab("connect-loop", with_machines, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        // Without marks in the way back, only what is routed outside passes this.
        lab.exec("laptop", &["sh", "-c", "echo 1 | tee /proc/sys/net/ipv4/conf/*/rp_filter"])?;
        let before = snapshot(lab, "laptop")?;
        // The API server, the ends of the tunnel, the laptop's own network: everything lies inside.
        let mut laptop = connect(lab, "laptop", &["-a", "10.5.0.1/32", "--allowed-ips=0.0.0.0/0"])?;
        wait_connected(lab, &laptop, &LEADERS)?;
        wait_reached(lab, "laptop", &PODS, "10.5.0.1")?;
        let routes = tunnel_routes(lab, "laptop")?;
        for outside in [
            CONTROL.to_string(),
            lab.addresses("paris-1")?.public.context("public")?.to_string(),
            lab.addresses("rome-1")?.public.context("public")?.to_string(),
        ] {
            ensure!(routes.contains(&format!("throw {outside} ")), "{outside} is not outside:\n{routes}");
        }
        ensure!(routes.contains("default dev kilo0"), "{routes}");
        let neighbour = lab.addresses("neighbour")?;
        for address in [neighbour.private, neighbour.public.context("public")?] {
            let reached = lab.http("laptop", address)?;
            ensure!(reached.answer.name == "neighbour" && reached.source_unchanged(), "{reached:?}");
        }

        // The rest of the internet is reached through the first node by name, which is at home.
        let reached = lab.http("laptop", lab.addresses("desk")?.public.context("public")?)?;
        let home = lab.exec("router-home", &["ip", "-4", "addr", "show", "dev", "wan"])?;
        ensure!(home.contains(&format!("inet {}/", reached.answer.from)), "{reached:?}: {home}");

        // The API server is heard when it matters: the old way through the tunnel is gone by then.
        lab.annotate("paris-2", "leader", Some("true"))?;
        wait_connected(lab, &laptop, &["paris-2"])?;
        wait_reached(lab, "laptop", &PODS, "10.5.0.1")?;

        no_loop_to_a_roamed_peer(lab)?;
        stop_without_a_trace(lab, &mut laptop, "laptop", &before)
    })
}

/// A peer has moved to an address that is reached through itself, which nobody could know: what is for it is
/// lost, and does not go round in circles.
fn no_loop_to_a_roamed_peer(lab: &Lab) -> Result<()> {
    let rome = annotation(lab, "rome-1", "key")?;
    let inside = lab.addresses("rome-1")?.private.to_string();
    let moved = format!("{inside}:51820");
    lab.exec("laptop", &["wg", "set", "kilo0", "peer", &rome, "endpoint", &moved])?;
    ensure!(wg_peer(lab, "laptop", "endpoints", &rome)? == moved);
    ensure!(lab.exec("laptop", &["ip", "route", "get", &inside])?.contains("dev kilo0"), "it is inside");
    let packets = || -> Result<u64> {
        let path = "/sys/class/net/kilo0/statistics/tx_packets";
        Ok(lab.exec("laptop", &["cat", path])?.trim().parse()?)
    };
    let before = packets()?;
    let flow = lab.flow("laptop", lab.pod_ip("rome-1-pod1")?)?;
    let other = lab.flow("laptop", lab.pod_ip("paris-1-pod1")?)?;
    wait_answers(lab, &other, 50)?;
    let report = flow.stop()?;
    let sent = packets()? - before;
    // Those of both flows, and what else there is to say; in a circle, each packet would become hundreds.
    let expected = 10 * (report.sent + 100);
    ensure!(sent < expected, "{sent} packets went into the tunnel, of {} sent", report.sent);
    lossless(other, "beside a peer that has moved away")
}

/// Runs `kgctl connect` on the laptop, after `wrapper`, to its end: it refuses, says `expected`, and has
/// changed nothing on the laptop or in the cluster.
fn refused(lab: &Lab, wrapper: &[&str], arguments: &[&str], expected: &str) -> Result<()> {
    let (host, cluster) = (snapshot(lab, "laptop")?, lab.kgctl(&["graph"])?);
    let argv = lab.kgctl_argv(&[&["connect"], arguments].concat())?;
    let argv = wrapper.iter().map(|word| (*word).to_owned()).chain(argv);
    let output = lab.space("laptop")?.output(argv)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains(expected), "{arguments:?}: {}: {said}", output.status);
    same_snapshot(&host, &snapshot(lab, "laptop")?, expected)?;
    ensure!(lab.kgctl(&["graph"])? == cluster, "{arguments:?}: the cluster was changed");
    ensure!(state_files(lab, "laptop")?.is_empty(), "{arguments:?}: {:?}", state_files(lab, "laptop")?);
    Ok(())
}

/// As [`refused`], while the laptop is as `before` makes it and until `after` unmakes it.
fn refused_while(lab: &Lab, before: &str, after: &str, expected: &str) -> Result<()> {
    lab.exec("laptop", &["sh", "-c", before])?;
    refused(lab, &[], &["me"], expected).with_context(|| before.to_owned())?;
    lab.exec("laptop", &["sh", "-c", after])?;
    Ok(())
}

/// A private key in a file of the laptop's, and its public key.
fn key_file(lab: &Lab, name: &str) -> Result<(String, String)> {
    let path = lab.directory().join("hosts/laptop").join(name);
    let secret = lab.exec("laptop", &["wg", "genkey"])?;
    let public = lab.space("laptop")?.exec_with_input(["wg", "pubkey"], &secret)?.trim().to_owned();
    fs::write(&path, secret)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok((path.display().to_string(), public))
}

#[test]
fn what_is_in_the_way_is_refused_before_anything_is_changed() -> Result<()> {
    in_lab("connect-refused", one_node, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let (key, public) = key_file(lab, "phone.key")?;
        lab.apply_peer("phone", &json!({ "publicKey": public, "allowedIPs": ["10.7.0.0/24"] }))?;
        let unused = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        lab.apply_peer("laptop", &json!({ "publicKey": unused, "allowedIPs": ["10.5.0.1/32"] }))?;
        let [a, b, c, d] = lab.addresses("laptop")?.private.octets();
        let cidr = pod_cidr(lab, "paris-1")?;

        for (arguments, expected) in [
            (["me", "--interface=sixteen-bytes-xx"], "cannot be the name of an interface"),
            (["me", &format!("--allowed-ip={a}.{b}.{c}.{d}/32")], "eth0 has this address already"),
            (["me", &format!("--allowed-ip={a}.{b}.{c}.77/32")], "the network of eth0; choose another one"),
            (["me", &format!("--allowed-ip={}", cidr.replace(".0/24", ".9/32"))], "of location:paris"),
            (["me", "--allowed-ip=10.4.0.77/32"], "of the Kilo subnet"),
            (["me", "--allowed-ip=10.7.0.1/32"], "overlaps 10.7.0.0/24 of peer/phone"),
            (["me", &format!("--private-key={key}")], "the private key belongs to peer/phone already"),
            (["me", "--private-key=/nowhere"], "no such file; make a key with: (umask 077; wg genkey > /nowhere)"),
            (["laptop", "--mtu=1400"], "peer/laptop has another public key"),
            (["me", &format!("--allowed-ips={a}.{b}.0.0/16")], "the network of eth0; pass --exclude"),
            (["me", "--dns=apply"], "pass --dns-server ADDRESS"),
        ] {
            refused(lab, &[], &arguments, expected)?;
        }
        refused(lab, &[], &["me", "--dns=apply", "--dns-server=10.96.0.10"], "set names up as told above")?;
        refused(
            lab,
            &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
            &["me"],
            "no right to change the network",
        )?;
        let interface = "--interface kilo0: there is one of this name already";
        refused_while(lab, "ip link add kilo0 type veth", "ip link del kilo0", interface)?;
        refused_while(lab, "ip tuntap add kilo0 mode tun", "ip link del kilo0", interface)?;
        refused_while(lab, "mount -t tmpfs none /dev/net", "umount /dev/net", "there is no /dev/net/tun")?;
        let detour = format!("ip route add {cidr} via {a}.{b}.{c}.1");
        let undo = format!("ip route del {cidr}");
        refused_while(lab, &detour, &undo, &format!("pass --exclude {cidr}"))?;
        let socket = lab.space("laptop")?.run(|| std::net::UdpSocket::bind("0.0.0.0:51820"))??;
        refused(lab, &[], &["me"], "--port 51820: cannot listen there")?;
        drop(socket);

        // With what the message says, it connects.
        lab.exec("laptop", &["sh", "-c", &detour])?;
        let program = lab.start_kgctl("laptop", None, &["connect", "me", &format!("--exclude={cidr}")])?;
        wait_connected(lab, &program, &["paris-1"])?;
        ensure!(!tunnel_routes(lab, "laptop")?.contains(&cidr), "{}", tunnel_routes(lab, "laptop")?);
        Ok(())
    })
}

#[test]
fn a_run_that_failed_or_was_killed_leaves_nothing_that_harms_the_next() -> Result<()> {
    in_lab("connect-life", one_node, |lab| {
        bring_up(lab, &[&UNHURRIED])?;
        let before = snapshot(lab, "laptop")?;
        let pods = &PODS[..1];

        // In the middle: the address cannot be set.
        lab.exec("laptop", &["sysctl", "-w", "net.ipv6.conf.default.disable_ipv6=1"])?;
        let mut program = connect(lab, "laptop", &["--allowed-ip=10.5.0.1/32,fd05::1/128"])?;
        ensure!(program.wait()?.code() == Some(1), "{}", program.said()?);
        for text in ["peer/laptop: created", "cannot connect: cannot add address fd05::1/128", "peer/laptop: deleted"] {
            ensure!(program.said()?.contains(text), "{text}: {}", program.said()?);
        }
        same_snapshot(&before, &snapshot(lab, "laptop")?, "after a failure")?;
        ensure!(state_files(lab, "laptop")?.is_empty(), "{:?}", state_files(lab, "laptop")?);
        lab.exec("laptop", &["sysctl", "-w", "net.ipv6.conf.default.disable_ipv6=0"])?;

        // Killed, twice; the second time it had another name. Each has a key of its own.
        for (name, address) in [("laptop", "10.5.0.1"), ("laptop", "10.5.0.1"), ("renamed", "10.5.0.1")] {
            let address = format!("--allowed-ip={address}/32");
            let program = lab.start_kgctl("laptop", None, &["connect", name, &address])?;
            wait_connected(lab, &program, &["paris-1"])?;
            program.signal(libc::SIGKILL)?;
        }
        ensure!(lab.exec("laptop", &["ip", "rule"])?.contains("lookup 1108"), "the rule is left");
        let mut program = connect(lab, "laptop", &["--allowed-ip=10.5.0.1/32"])?;
        wait_said(lab, &program, "peer/renamed: deleted; an earlier run had left it")?;
        wait_reached(lab, "laptop", pods, "10.5.0.1")?;
        stop_without_a_trace(lab, &mut program, "laptop", &before)?;
        ensure!(!lab.kgctl(&["graph"])?.contains("renamed"), "a Peer is left");

        // Without clean-up the Peer stays, and is taken over by its key.
        let (key, public) = key_file(lab, "laptop.key")?;
        let key = format!("--private-key={key}");
        let mut program = connect(lab, "laptop", &[&key, "--clean-up=false"])?;
        wait_connected(lab, &program, &["paris-1"])?;
        program.signal(libc::SIGTERM)?;
        ensure!(program.wait()?.success() && lab.kgctl(&["graph"])?.contains("laptop"));
        let mut program = connect(lab, "laptop", &[&key])?;
        wait_reached(lab, "laptop", pods, "10.10.10.10")?;
        stop_without_a_trace(lab, &mut program, "laptop", &before)?;

        // Somebody else's Peer is used, with the address it has, and stays.
        lab.apply_peer("laptop", &json!({ "publicKey": public, "allowedIPs": ["10.5.0.7/32"] }))?;
        let mut program = connect(lab, "laptop", &[&key])?;
        wait_said(lab, &program, "peer/laptop: is there already")?;
        wait_reached(lab, "laptop", pods, "10.5.0.7")?;
        // Until it is taken away.
        lab.delete_peer("laptop")?;
        wait_said(lab, &program, "peer/laptop is not in the cluster any more")?;
        program.signal(libc::SIGTERM)?;
        ensure!(program.wait()?.success());
        same_snapshot(&before, &snapshot(lab, "laptop")?, "at the end")
    })
}

#[test]
fn names_of_the_cluster_are_set_up_and_names_of_nodes_are_followed() -> Result<()> {
    in_lab("connect-names", one_node, |lab| {
        let public: IpAddr = lab.addresses("paris-1")?.public.context("public")?.into();
        lab.annotate("paris-1", "force-endpoint", Some("paris.example:51820"))?;
        lab.set_names("laptop", &[("paris.example", "192.0.2.200".parse()?)])?;
        bring_up(lab, &[&UNHURRIED])?;
        dns_service(lab, "10.96.0.10")?;
        let tells_services = service_cidr(lab, "10.96.0.0/16").is_ok();
        let resolvectl = FakeResolvectl::new(lab)?;

        let before = snapshot(lab, "laptop")?;
        let mut program = lab.start_kgctl(
            "laptop",
            Some(&resolvectl.directory),
            &["connect", "laptop", "--dns=apply", "--dns-domain=corp.example.", "--resync-period=2s"],
        )?;
        wait_said(lab, &program, "names in corp.example are asked of 10.96.0.10")?;
        let hint = "services have addresses in 10.96.0.0/16, which is not routed: add --allowed-ips 10.96.0.0/16";
        ensure!(program.said()?.contains(hint) == tells_services, "{}", program.said()?);
        ensure!(resolvectl.calls()? == ["dns", "dns kilo0 10.96.0.10", "domain kilo0 ~corp.example"]);
        ensure!(lab.exec("laptop", &["ip", "route", "get", "10.96.0.10"])?.contains("dev kilo0"), "it is reached");
        wait_said(lab, &program, "no answer from node/paris-1 (location:paris) at 192.0.2.200:51820")?;
        lab.set_names("laptop", &[("paris.example", public)])?;
        wait_connected(lab, &program, &["paris-1"])?;
        lab.exec("laptop", &["ip", "link", "del", "kilo0"])?;
        wait(lab, "an interface that was made anew is set up, too", || Ok(resolvectl.calls()?.len() == 5))?;
        stop_without_a_trace(lab, &mut program, "laptop", &before)?;
        ensure!(resolvectl.calls()?.last().is_some_and(|call| call == "revert kilo0"), "{:?}", resolvectl.calls()?);

        let mut program = connect(lab, "laptop", &["--dns=print", "--allowed-ips=10.96.0.0/16"])?;
        wait_said(lab, &program, "server=/cluster.local/10.96.0.10")?;
        ensure!(tunnel_routes(lab, "laptop")?.contains("10.96.0.0/16 dev kilo0"));
        ensure!(resolvectl.calls()?.len() == 6, "nothing more was set up: {:?}", resolvectl.calls()?);
        stop_without_a_trace(lab, &mut program, "laptop", &before)
    })
}

/// The Service that a cluster has for its DNS server.
fn dns_service(lab: &Lab, address: &str) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "kube-dns", "namespace": "kube-system" },
        "spec": { "clusterIP": address, "ports": [{ "port": 53, "protocol": "UDP" }] },
    }))?;
    let api: Api<Service> = Api::namespaced(lab.client(), "kube-system");
    lab.block_on(api.create(&PostParams::default(), &service))?;
    Ok(())
}

/// What the cluster's services get their addresses from; API servers before 1.33 cannot tell.
fn service_cidr(lab: &Lab, cidr: &str) -> Result<()> {
    let object: ServiceCIDR =
        serde_json::from_value(json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": [cidr] } }))?;
    lab.block_on(Api::all(lab.client()).create(&PostParams::default(), &object))?;
    Ok(())
}

/// A program in the place of systemd-resolved's, which no host of a lab has: it writes down how it is called.
struct FakeResolvectl {
    directory: String,
}

impl FakeResolvectl {
    fn new(lab: &Lab) -> Result<Self> {
        let directory = lab.directory().join("hosts/laptop/bin");
        fs::create_dir(&directory)?;
        let program = directory.join("resolvectl");
        fs::write(&program, "#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/calls\"\n")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self { directory: directory.display().to_string() })
    }

    fn calls(&self) -> Result<Vec<String>> {
        let calls = fs::read_to_string(format!("{}/calls", self.directory))?;
        Ok(calls.lines().map(str::to_owned).collect())
    }
}
