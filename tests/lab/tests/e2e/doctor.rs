//! `kgctl doctor`: each thing that can be broken is broken by itself, found, and found to be the only one; then
//! it is mended, by the command that was advised where that is one, and nothing is found any more.
//!
//! What agents are asked to try has tests of its own. A clock that is wrong and an agent of another version
//! or of upstream are stood in for: something else answers in the agent's place what it said before, changed,
//! because all processes of a machine share its clock and there is one version to test.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, PostParams};
use lab::Lab;
use serde_json::{Value, json};

use crate::support::{DEADLINE, PACE, annotation, bring_up, in_lab, pod_cidr, skipped, three_locations, wait};

/// Checks that have agents try something.
const ACTIVE: [&str; 3] = ["endpoint", "udp-port", "path-mtu"];

const AGENT_PORT: u16 = 1107;

#[test]
fn what_is_broken_is_found_and_nothing_else() -> Result<()> {
    in_lab("doctor", three_locations, |lab| {
        bring_up(lab, &[])?;
        let doctor = Doctor::new(lab)?;
        doctor.clean("at the start")?;
        host_settings(&doctor)?;
        container_network(&doctor)?;
        objects(&doctor)?;
        agents_flags(&doctor)?;
        agents_that_do_not_answer(&doctor)?;
        stand_ins(&doctor)?;
        two_uplinks(&doctor)?;
        strict_filtering_elsewhere(&doctor)?;
        definition(&doctor)?;
        api_server(&doctor)
    })
}

struct Doctor<'a> {
    lab: &'a Lab,
    /// The checks that only look, as arguments.
    checks: Vec<String>,
}

/// What was found.
#[derive(Debug)]
struct Finding {
    check: String,
    severity: String,
    object: String,
    evidence: String,
    remedy: String,
}

impl<'a> Doctor<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let list = lab.kgctl(&["doctor", "--list"])?;
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        let checks = names.filter(|name| !ACTIVE.contains(name)).map(|name| format!("--check={name}")).collect();
        Ok(Self { lab, checks })
    }

    /// All that is said, and the exit code.
    fn examine(&self) -> Result<(Value, Option<i32>)> {
        let checks = self.checks.iter().map(String::as_str);
        let arguments: Vec<&str> = ["doctor", "-o", "json"].into_iter().chain(checks).collect();
        let output = self.lab.kgctl_output(&arguments)?;
        let error = || String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((serde_json::from_slice(&output.stdout).with_context(error)?, output.status.code()))
    }

    /// Waits until this and nothing else is found, and gives it.
    fn finds(&self, check: &str, severity: &str, object: &str, words: &[&str]) -> Result<Finding> {
        let mut only = None;
        wait(self.lab, &format!("doctor finds {check} on {object}, and nothing else"), || {
            let (said, code) = self.examine()?;
            let mut found = findings(&said);
            ensure!(found.len() == 1, "{found:#?}");
            let finding = found.remove(0);
            ensure!(
                (&*finding.check, &*finding.severity, &*finding.object) == (check, severity, object),
                "{finding:#?}"
            );
            let text = format!("{} {}", finding.evidence, finding.remedy);
            ensure!(words.iter().all(|word| text.contains(word)), "{words:?} in {finding:#?}");
            let is_tolerable = said["severity"] == "warning";
            ensure!(code == Some(if is_tolerable { 0 } else { 3 }), "{code:?}: {} {finding:#?}", said["severity"]);
            only = Some(finding);
            Ok(true)
        })?;
        only.context("nothing was found")
    }

    /// Waits until nothing is wrong and everything was judged.
    fn clean(&self, when: &str) -> Result<()> {
        wait(self.lab, &format!("doctor finds nothing wrong {when}"), || {
            let (said, code) = self.examine()?;
            let found = findings(&said);
            ensure!(found.is_empty() && code == Some(0), "{code:?}: {found:#?} in {said:#}");
            Ok(true)
        })
    }

    /// Does on a host what is advised: the command before the first comma.
    fn follow(&self, host: &str, finding: &Finding) -> Result<()> {
        let command = finding.remedy.split(", ").next().unwrap_or_default();
        self.lab.exec(host, &["sh", "-c", command]).map(drop)
    }

    fn shell(&self, host: &str, command: &str) -> Result<()> {
        self.lab.exec(host, &["sh", "-c", command]).map(drop)
    }

    /// Starts the agent of a node anew, with these flags beside the usual ones.
    fn restart(&self, node: &str, flags: &[&str]) -> Result<()> {
        if self.lab.agent_runs(node)? {
            self.lab.stop_agent(node)?;
        }
        self.lab.start_agent(node, &[&PACE, flags].concat())
    }
}

/// All that is worse than worth knowing.
fn findings(said: &Value) -> Vec<Finding> {
    let checks = said["checks"].as_array().into_iter().flatten();
    let all = checks.flat_map(|check| check["findings"].as_array().into_iter().flatten());
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let finding = |it: &Value| Finding {
        check: text(it, "check"),
        severity: text(it, "severity"),
        object: text(it, "object"),
        evidence: text(it, "evidence"),
        remedy: text(it, "remedy"),
    };
    all.map(finding).filter(|finding| finding.severity != "note").collect()
}

fn host_settings(doctor: &Doctor) -> Result<()> {
    doctor.shell("paris-2", "sysctl -w net.ipv4.ip_forward=0")?;
    let finding = doctor.finds("forwarding", "error", "node/paris-2", &["net.ipv4.ip_forward is 0"])?;
    doctor.follow("paris-2", &finding)?;
    doctor.clean("after net.ipv4.ip_forward")?;

    let table = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }";
    doctor.shell("rome-1", &format!("nft '{table}'"))?;
    doctor.finds("forward-policy", "warning", "node/rome-1", &["ip filter FORWARD"])?;
    doctor.restart("rome-1", &["--iptables-forward-rules"])?;
    doctor.clean("with accepts before the policy")?;
    doctor.shell("rome-1", "nft delete table ip filter")?;
    doctor.restart("rome-1", &[])?;

    // A route that somebody else made where the agent's should be.
    let elsewhere = pod_cidr(doctor.lab, "oslo-1")?;
    doctor.shell("rome-1", &format!("ip route replace blackhole {elsewhere} proto boot"))?;
    doctor.finds("host", "error", "node/rome-1", &["routes: ", &elsewhere])?;
    doctor.shell("rome-1", &format!("ip route del blackhole {elsewhere}"))?;
    doctor.clean("after the route")
}

fn container_network(doctor: &Doctor) -> Result<()> {
    let other = r#"{"cniVersion":"0.4.0","name":"other","plugins":[{"type":"flannel"}]}"#;
    doctor.shell("paris-2", &format!("echo '{other}' > /etc/cni/net.d/05-other.conflist"))?;
    let words = ["05-other.conflist sorts before 10-kilo.conflist", "flannel"];
    let finding = doctor.finds("cni-config", "error", "node/paris-2", &words)?;
    doctor.follow("paris-2", &finding)?;
    doctor.clean("after another network's configuration")?;

    let own = doctor.lab.conflist_path("paris-2");
    let text = std::fs::read_to_string(&own)?;
    std::fs::write(&own, "{ not JSON")?;
    doctor.finds("cni-config", "error", "node/paris-2", &["10-kilo.conflist is not valid"])?;
    std::fs::write(&own, text)?;
    doctor.clean("after the broken configuration")
}

fn objects(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let peer = |key: &str, net: &str| json!({ "publicKey": key, "allowedIPs": [net] });
    lab.apply_peer("laptop", &peer("nonsense", "10.5.0.1/32"))?;
    doctor.finds("peers", "error", "peer/laptop", &["spec.publicKey", "kubectl edit peer laptop"])?;
    lab.apply_peer("laptop", &peer(key, "10.5.0.1/32"))?;
    doctor.clean("with a valid Peer")?;

    lab.apply_peer("tablet", &peer(key, "10.5.0.2/32"))?;
    doctor.finds("duplicates", "error", "peer/laptop, peer/tablet", &["the same public key"])?;
    lab.delete_peer("tablet")?;
    doctor.clean("without its twin")?;

    let pods = pod_cidr(lab, "oslo-1")?;
    let part = pods.replace("/24", "/25");
    lab.apply_peer("laptop", &peer(key, &part))?;
    doctor.finds("overlapping-cidrs", "warning", "peer/laptop", &[&part, &pods, "pods of node/oslo-1"])?;
    let mut endpoint = peer(key, "10.5.0.1/32");
    endpoint["endpoint"] = json!({ "dnsOrIP": { "dns": "gw.invalid" }, "port": 51820 });
    lab.apply_peer("laptop", &endpoint)?;
    let words = ["gw.invalid does not resolve on node/oslo-1, node/paris-1, node/paris-2, node/rome-1"];
    doctor.finds("dns-endpoints", "error", "peer/laptop", &words)?;
    lab.delete_peer("laptop")?;
    doctor.clean("without the Peer")?;

    lab.annotate("paris-2", "persistent-keepalive", Some("soon"))?;
    let finding =
        doctor.finds("annotations", "error", "node/paris-2", &["persistent-keepalive", "\"soon\" ignored"])?;
    ensure!(finding.remedy.contains("kubectl annotate node paris-2 --overwrite"), "{finding:?}");
    lab.annotate("paris-2", "persistent-keepalive", None)?;
    doctor.clean("without the annotation")
}

fn agents_flags(doctor: &Doctor) -> Result<()> {
    let wrong = |node: &str, flag: &str| doctor.restart(node, &[flag]);
    wrong("oslo-1", "--mesh-granularity=full")?;
    doctor.finds("granularity", "error", "cluster", &["full on node/oslo-1"])?;
    wrong("oslo-1", "--subnet=10.99.0.0/16")?;
    doctor.finds("kilo-subnet", "error", "cluster", &["10.99.0.0/16 on node/oslo-1"])?;
    wrong("oslo-1", "--mtu=1500")?;
    doctor.finds("mtu", "warning", "node/oslo-1", &["1500 of eth0", "leave --mtu out"])?;
    if Path::new("/sys/module/wireguard").exists() {
        skipped(&anyhow::anyhow!("a kernel without WireGuard, for kernel-module: this one has it"))?;
    } else {
        wrong("oslo-1", "--wireguard=kernel")?;
        doctor.finds("kernel-module", "error", "node/oslo-1", &["--wireguard=kernel", "--wireguard=auto"])?;
    }
    doctor.restart("oslo-1", &[])?;
    doctor.clean("with the right flags")?;

    let taken = doctor.lab.stop_agent("oslo-1").and_then(|_| {
        let socket = doctor.lab.space("oslo-1")?.run(|| UdpSocket::bind("0.0.0.0:51820"))?;
        Ok(socket?)
    })?;
    doctor.restart("oslo-1", &[])?;
    doctor.finds("port", "error", "node/oslo-1", &["UDP port 51820 is taken by another program (0.0.0.0:51820)"])?;
    drop(taken);
    doctor.clean("with the port free")
}

fn agents_that_do_not_answer(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    lab.kill_agent("rome-1")?;
    doctor.finds("agent", "unknown", "node/rome-1", &["the agent does not answer", "nodes/proxy"])?;
    let endpoint = annotation(lab, "rome-1", "endpoint")?;
    lab.annotate("rome-1", "endpoint", None)?;
    doctor.finds("ready", "error", "node/rome-1", &["has no kilo.squat.ai/endpoint"])?;
    lab.annotate("rome-1", "endpoint", Some(&endpoint))?;
    let seen: i64 = annotation(lab, "rome-1", "last-seen")?.parse()?;
    lab.annotate("rome-1", "last-seen", Some(&(seen - 300).to_string()))?;
    doctor.finds("ready", "error", "node/rome-1", &["does not check in any more", "kilo.squat.ai/last-seen"])?;
    lab.start_agent("rome-1", &PACE)?;
    doctor.clean("with the agent back")
}

fn stand_ins(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let url = format!("http://127.0.0.1:{AGENT_PORT}/diagnose");
    let said: Value = serde_json::from_str(&lab.exec("rome-1", &["curl", "-sf", &url])?)?;
    lab.kill_agent("rome-1")?;

    let other = said.clone();
    let stand_in = StandIn::start(lab, "rome-1", move || {
        let mut other = other.clone();
        (other["report"]["version"], other["clockMs"]) = (json!("0.0.1"), json!(clock_ms()));
        Some(other)
    })?;
    doctor.finds("version-skew", "warning", "cluster", &["0.0.1 on node/rome-1"])?;
    stand_in.stop();

    let stand_in = StandIn::start(lab, "rome-1", move || {
        let mut late = said.clone();
        late["clockMs"] = json!(clock_ms() - 3_600_000);
        Some(late)
    })?;
    doctor.finds("clock-skew", "error", "node/rome-1", &["s behind the API server's", "chronyc makestep"])?;
    stand_in.stop();

    for ours in ["internal-ips", "wireguard-ips"] {
        lab.annotate("rome-1", ours, None)?;
    }
    let stand_in = StandIn::start(lab, "rome-1", || None)?;
    doctor.finds("upstream-agent", "warning", "node/rome-1", &["upstream Kilo", "image"])?;
    stand_in.stop();
    lab.start_agent("rome-1", &PACE)?;
    doctor.clean("with our agent back")
}

/// A leader that another location's packets come to by one interface, while its answers leave by another.
fn two_uplinks(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let (rome, router) = (lab.space("rome-1")?, lab.space("router-rome")?);
    let public = |host: &str| lab.addresses(host)?.public.context("no public address");
    let (own, oslo) = (public("rome-1")?, public("oslo-1")?);
    let netns = rome.netns_path().file_name().context("rome-1 has no name")?.to_string_lossy().into_owned();
    let way_out = lab.exec("rome-1", &["ip", "route", "show", "default"])?;
    let gateway = way_out.split_whitespace().nth(2).context("no default route")?;
    let mac = lab.exec("rome-1", &["cat", "/sys/class/net/eth0/address"])?;
    // A bridge takes the lowest of its ports' hardware addresses: with this one, the router keeps its own.
    let port = "link add second address fe:ff:ff:ff:ff:fe type veth peer name eth1";
    router.ip(&format!("{port} netns {netns}\nlink set second master lan up\n"))?;
    // Whatever leaves by eth1, what is for the node still arrives by eth0.
    router.ip(&format!("neigh replace {own} lladdr {} dev lan nud permanent\n", mac.trim()))?;
    rome.ip(&format!("link set eth1 up\nroute add {oslo} via {gateway} dev eth1 src {own} onlink\n"))?;
    let pod = lab.pod_ip("rome-1-pod1")?;
    wait(lab, "a second uplink does no harm", || Ok(lab.ping("oslo-1-pod1", pod).is_ok()))?;
    doctor.clean("with a second uplink")?;

    doctor.shell("rome-1", "sysctl -w net.ipv4.conf.eth0.rp_filter=1")?;
    let finding = doctor.finds("rp-filter", "error", "node/rome-1", &["rp_filter of eth0 is 1", "leaves by eth1"])?;
    ensure!(lab.ping("oslo-1-pod1", pod).is_err(), "strict filtering drops what comes in by eth0");
    doctor.follow("rome-1", &finding)?;
    wait(lab, "loose filtering does not", || Ok(lab.ping("oslo-1-pod1", pod).is_ok()))?;
    doctor.clean("with loose filtering")?;
    router.ip(&format!("link del second\nneigh del {own} dev lan\n"))
}

fn api_server(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let reject = "table inet cut { chain out { type filter hook output priority 0; \
                  ip daddr 192.0.2.10 tcp dport { 6443, 8080 } reject with tcp reset; }; }";
    doctor.shell("paris-2", &format!("nft '{reject}'"))?;
    doctor.finds("api-server", "error", "node/paris-2", &["write the annotations of its Node"])?;
    doctor.shell("paris-2", "nft delete table inet cut")?;
    // A watch that works again says so when something happens.
    let news = json!({ "publicKey": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "allowedIPs": ["10.5.0.1/32"] });
    lab.apply_peer("news", &news)?;
    lab.delete_peer("news")?;
    doctor.clean("with the API server back")?;

    if let Err(reason) = lab.api_refuse("patch", "nodes", true) {
        return skipped(&reason.context("rbac"));
    }
    wait(lab, "doctor finds rbac on all nodes, and nothing else", || {
        let (said, code) = doctor.examine()?;
        let found = findings(&said);
        let objects: Vec<&str> = found.iter().map(|finding| finding.object.as_str()).collect();
        ensure!(objects == ["node/oslo-1", "node/paris-1", "node/paris-2", "node/rome-1"], "{found:#?}");
        let alike = |it: &Finding| it.check == "rbac" && it.remedy.contains("the verb patch on nodes");
        ensure!(found.iter().all(alike) && code == Some(3), "{code:?} {found:#?}");
        Ok(true)
    })?;
    lab.api_refuse("patch", "nodes", false)?;
    doctor.clean("with all rights")?;

    lab.api_refuse("list", "peers", true)?;
    doctor.finds("crd", "unknown", "cluster", &["you may not list Peers"])?;
    lab.api_refuse("list", "peers", false)?;
    doctor.clean("at the end")
}

/// Strict filtering harms nobody where the way back is the way in, which the mesh's routes and rules see to
/// inside a location, too.
fn strict_filtering_elsewhere(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let paris = ["paris-1", "paris-2"];
    for node in paris {
        doctor.restart(node, &["--encapsulate=always", "--encapsulation-device=vxlan"])?;
        doctor.shell(node, "sysctl -w net.ipv4.conf.all.rp_filter=1")?;
    }
    let (pod, host) = (lab.pod_ip("oslo-1-pod1")?, lab.addresses("oslo-1")?.private);
    for from in ["paris-1", "paris-2", "paris-2-pod1"] {
        wait(lab, &format!("{from} reaches another location"), || {
            Ok(lab.ping(from, pod).is_ok() && lab.ping(from, host).is_ok())
        })?;
    }
    doctor.clean("with encapsulation and strict filtering")?;
    for node in paris {
        doctor.restart(node, &[])?;
        doctor.shell(node, "sysctl -w net.ipv4.conf.all.rp_filter=0")?;
    }
    doctor.clean("without encapsulation")
}

fn definition(doctor: &Doctor) -> Result<()> {
    let lab = doctor.lab;
    let api = Api::<CustomResourceDefinition>::all(lab.client());
    lab.block_on(api.delete("peers.kilo.squat.ai", &DeleteParams::default()))?;
    doctor.finds("crd", "error", "cluster", &["is not defined", "kubectl apply -f manifests/crds.yaml"])?;
    let definition = serde_saphyr::from_str(include_str!("../../../../manifests/crds.yaml"))?;
    lab.block_on(api.create(&PostParams::default(), &definition))?;
    doctor.clean("with the definition")
}

/// Something that answers in an agent's place, until it is stopped.
struct StandIn {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl StandIn {
    /// Answers `/diagnose` on a node with what `diagnosis` gives, and all else, as that if it gives nothing,
    /// with 404.
    fn start(lab: &Lab, node: &str, diagnosis: impl Fn() -> Option<Value> + Send + 'static) -> Result<Self> {
        let mut listener = None;
        wait(lab, "the agent's port is free", || {
            listener = Some(lab.space(node)?.run(|| TcpListener::bind(("::", AGENT_PORT)))??);
            Ok(true)
        })?;
        let listener = listener.context("no listener")?;
        listener.set_nonblocking(true)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = stopped.clone();
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => _ = answer(stream, &diagnosis),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
                }
            }
        });
        Ok(Self { stopped, thread })
    }

    fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().expect("the stand-in does not panic");
    }
}

fn answer(mut stream: std::net::TcpStream, diagnosis: &impl Fn() -> Option<Value>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(DEADLINE * lab::patience()))?;
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let is_asked = request[..length].starts_with(b"GET /diagnose ");
    let (status, body) = match diagnosis().filter(|_| is_asked) {
        Some(diagnosis) => ("200 OK", diagnosis.to_string()),
        None => ("404 Not Found", "404 page not found\n".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}

fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
