//! The agent's page in a real browser, without a mesh: agents on loopback addresses that tell what the test says.
//!
//! Screenshots are left in the directory that cargo has for a test's files (target/tmp) for people to look at.

mod webdriver;

use std::{
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent::{
    diagnose::Diagnoser,
    flags::Args,
    health::Pulse,
    http::{self, NodeAddresses, Reporter, Shared, Sources, Statistics},
    probe::Prober,
};
use clap::Parser;
use serde_json::json;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use topology::{
    Granularity, Input, Node, Peer, PeerStatistics, PublicKey, Topology,
    health::Limits,
    peer,
    report::{Backend, PeerReport, Report, unix_seconds},
};
use webdriver::{Browser, Driver};

/// What a name must never become.
const ATTACK: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script>'\"&\u{202e}]]>";

fn key(n: u8, kind: u8) -> PublicKey {
    let mut bytes = [kind; 32];
    bytes[0] = n;
    PublicKey::new(bytes).unwrap()
}

fn node(name: &str, location: &str, n: u8) -> Node {
    Node {
        name: name.into(),
        location: location.into(),
        endpoint: format!("203.0.113.{n}:51820").parse().ok(),
        key: Some(key(n, 1)),
        pod_cidrs: vec![format!("10.42.{n}.0/24").parse().unwrap()],
        internal_ips: vec![format!("10.1.{n}.1/24").parse().unwrap()],
        ..Node::default()
    }
}

/// The mesh of `nodes`. Its WireGuard addresses are loopback ones, so that "other agents" can listen at them.
fn mesh(nodes: &[Node], peers: &[Peer], granularity: Granularity) -> Arc<Topology> {
    let subnets = ["127.4.0.0/16".parse().unwrap()];
    let input = Input { nodes: nodes.iter().collect(), peers: peers.iter().collect(), granularity, subnets: &subnets };
    Arc::new(Topology::build(&input).unwrap())
}

/// What the agent of the leader `name` tells: the first tunnel has just shaken hands, the second did so an hour ago,
/// the others a minute ago.
fn report(name: &str, mesh: &Topology) -> Report {
    let now = unix_seconds(SystemTime::now());
    let others = mesh.segments.iter().filter(|segment| segment.leader().name.as_str() != name);
    let others = others.map(|segment| (segment.name.to_string(), segment.key));
    let outside = mesh.peers.iter().map(|peer| (format!("peer/{}", peer.name), peer.key));
    let peers = others.chain(outside).zip(0..).map(|((label, public_key), index)| PeerReport {
        label,
        public_key,
        endpoint: "203.0.113.9:51820".parse().ok(),
        last_handshake: Some(now - [1, 3600, 60][usize::min(index, 2)]),
        rx_bytes: 1_000_000,
        tx_bytes: 2_000_000,
        endpoint_changes: 0,
        allowed_ips: 3,
        address: None,
        rtt_microseconds: Some(12_500 + 40_000 * (index as u64 % 12)),
    });
    Report {
        backend: Some(Backend::Userspace),
        mtu: Some(1420),
        applied: Some(now),
        leader: true,
        left_out: [("never-seen".into(), "has no key".to_owned())].into(),
        peers: peers.collect(),
        ..Report::new(name.into(), "1.2.3", "kilo0".into())
    }
}

/// Has an agent called `name` answer at `listener`.
fn serve(runtime: &Runtime, listener: TcpListener, name: &str, mesh: &Arc<Topology>) {
    let port = listener.local_addr().unwrap().port();
    let report = report(name, mesh);
    let statistics = report.peers.iter().map(|peer| PeerStatistics {
        key: peer.public_key,
        endpoint: peer.endpoint,
        last_handshake: peer.last_handshake.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64)),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    });
    let statistics = Statistics { peers: statistics.collect(), ..Statistics::default() };
    let (questioner, mut questions) = mpsc::channel::<http::Question>(1);
    runtime.spawn(async move {
        while let Some(question) = questions.recv().await {
            _ = question.send(statistics.clone());
        }
    });
    let (name, latest) = (report.node.clone(), watch::channel(Some(mesh.clone())).1);
    let reported = watch::channel(report).1;
    let options = Args::parse_from(["kg", "--encapsulate=never"]).validate().unwrap();
    let sources = Sources {
        metrics: Arc::default(),
        pulse: Pulse::new(Duration::from_secs(3600)),
        stop: CancellationToken::new(),
        topology: latest.clone(),
        reporter: Reporter::new(reported.clone(), questioner),
        prober: Prober::new(name, "kilo0".into(), latest),
        diagnoser: Diagnoser::new(&options, reported),
        nodes: NodeAddresses::default(),
    };
    let limits = Limits { watch: Duration::from_secs(90), applied: Duration::from_secs(150) };
    let shared = Shared::new(sources, limits, options.http_allow, port);
    runtime.spawn(http::serve(listener, shared));
}

/// Where pictures go, and a new directory for a browser's profile.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&path).unwrap();
    path.join(name)
}

/// The page neither ran what a name says nor asked anybody but its agent.
fn is_unharmed(browser: &Browser, origin: &str) {
    assert_eq!(browser.read("window.hacked"), json!(null));
    assert_eq!(browser.read("document.querySelectorAll('img, #map script, #content script').length"), json!(0));
    let asked = "performance.getEntriesByType('resource').map((entry) => entry.name)";
    for url in browser.read(asked).as_array().unwrap() {
        assert!(url.as_str().unwrap().starts_with(origin), "{url}");
    }
    let wide = "document.scrollingElement.scrollWidth > window.innerWidth";
    assert_eq!(browser.read(wide), json!(false), "the page is wider than its window");
}

/// Checks that the whole map can be seen, and the legend beside it.
fn nothing_covers_the_map(browser: &Browser) {
    let covered = "[...document.querySelectorAll('.node circle')].filter((circle) => { \
                     const box = circle.getBoundingClientRect(); \
                     const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2); \
                     return !top?.closest('#map'); }).length";
    assert_eq!(browser.read(covered), json!(0), "nodes that cannot be clicked on");
    let beside = "(() => { const [map, legend] = ['#map', '#legend'].map((id) => \
                    document.querySelector(id).getBoundingClientRect()); \
                    return map.height > 100 && legend.height > 0 && \
                      legend.top >= map.bottom && legend.bottom <= window.innerHeight; })()";
    assert_eq!(browser.read(beside), json!(true), "the legend is below the map");
}

const TITLE: &str = "document.querySelector('#content h2')?.textContent ?? null";

/// Clicks through the page of `a-1`, one of four leaders.
fn click_through(browser: &Browser, origin: &str) {
    browser.open(origin);
    browser.wait("document.querySelectorAll('.node').length", &json!(7));
    browser.wait("document.querySelectorAll('.link').length", &json!(6 + 4));
    // Its own first tunnel works, its second does not.
    browser.wait("document.querySelectorAll('.link.good').length > 0", &json!(true));
    browser.wait("document.querySelectorAll('.link.bad').length > 0", &json!(true));
    assert!(
        browser.read("document.querySelector('#summary').textContent").as_str().unwrap().contains("1 more not ready")
    );

    browser.click(".node[data-id='b-1'] circle");
    browser.wait(TITLE, &json!("b-1"));
    // What only b-1's agent knows: this one asked it.
    browser.wait("document.querySelectorAll('#content table tbody tr').length", &json!(4));
    assert!(browser.read("document.querySelector('#content').textContent").as_str().unwrap().contains("userspace"));
    browser.click("#content tbody tr:last-child button");
    browser.wait(TITLE, &json!("laptop"));

    browser.read(
        "document.querySelector('.hit[data-from=\"a-1\"][data-to=\"b-1\"]').dispatchEvent(new MouseEvent('click'))",
    );
    browser.wait(TITLE, &json!("a-1 – b-1"));
    browser.wait("document.querySelectorAll('#content tbody tr').length", &json!(2));

    browser.read("document.querySelector('#mode').value = 'rtt', document.querySelector('#mode').dispatchEvent(new Event('change'))");
    assert_eq!(browser.read("document.querySelector('#legend li').textContent"), json!("up to 150 ms"));
    // An agent that does not answer is named, and so is what is in a hostile location.
    browser.click(".node[data-id='d-1'] circle");
    browser.wait("document.querySelector('#content').textContent.includes('could not be asked')", &json!(true));
    assert!(browser.read("document.querySelector('#content').textContent").as_str().unwrap().contains(ATTACK));
    is_unharmed(browser, origin);
    browser.click("#close");
    browser.wait("document.querySelector('#details').hidden", &json!(true));
    browser.write("#find", "b-1");
    browser.wait("document.querySelectorAll('.node:not(.faded)').length", &json!(1));
    browser.write("#find", "\u{e003}\u{e003}\u{e003}");
    browser.wait("document.querySelectorAll('.node.faded').length", &json!(0));
}

#[test]
fn a_person_clicks_through_the_mesh() {
    let driver = match Driver::start() {
        Ok(driver) => driver,
        Err(reason) => {
            // Past the test runner's capture.
            _ = writeln!(std::io::stderr(), "skipped: {reason}");
            return;
        }
    };
    let runtime = Runtime::new().unwrap();
    let bind = |n, port| runtime.block_on(TcpListener::bind((Ipv4Addr::new(127, 4, 0, n), port))).unwrap();

    let spec = json!({"publicKey": key(1, 9), "allowedIPs": ["10.5.0.1/32"]});
    let laptop = peer::decode("laptop", &spec).unwrap();
    let nodes = [
        node("a-1", "a", 1),
        node("a-2", "a", 2),
        node("b-1", "b", 3),
        node("c-1", "c", 4),
        node("d-1", &format!("d{ATTACK}"), 5),
    ];
    let small = mesh(&nodes, &[laptop], Granularity::Location);
    let first = bind(1, 0);
    let port = first.local_addr().unwrap().port();
    for (listener, name) in [(first, "a-1"), (bind(2, port), "b-1"), (bind(3, port), "c-1")] {
        serve(&runtime, listener, name, &small);
    }
    let large: Vec<Node> = (1..=200).map(|n| node(&format!("node-{n:03}"), &format!("region-{}", n % 20), n)).collect();
    let large = mesh(&large, &[], Granularity::Full);
    let large_listener = bind(1, 0);
    let large_port = large_listener.local_addr().unwrap().port();
    serve(&runtime, large_listener, "node-001", &large);

    let profile = tempfile::tempdir().unwrap();
    for (name, size, is_phone) in [("desktop", (1280, 800), false), ("phone", (390, 844), true)] {
        let browser = driver.browser(&profile.path().join(name), size, is_phone);
        let origin = format!("http://127.4.0.1:{port}/");
        click_through(&browser, &origin);
        nothing_covers_the_map(&browser);
        browser.screenshot(&directory(&format!("{name}.png")));
        browser.click(".node[data-id='a-1'] circle");
        browser.wait(TITLE, &json!("a-1"));
        browser.screenshot(&directory(&format!("{name}-details.png")));

        let origin = format!("http://127.4.0.1:{large_port}/");
        browser.open(&origin);
        browser.wait("document.querySelectorAll('.node').length", &json!(201));
        // With so many leaders only the tunnels of one are shown.
        browser.wait("document.querySelectorAll('.link').length", &json!(199));
        browser.wait("document.querySelectorAll('.link.good').length > 100", &json!(true));
        nothing_covers_the_map(&browser);
        browser.screenshot(&directory(&format!("{name}-200.png")));
        browser.write("#find", "node-150");
        browser.wait("document.querySelectorAll('.node:not(.faded)').length", &json!(1));
        browser.click(".node[data-id='node-150'] circle");
        browser.wait(TITLE, &json!("node-150"));
        browser.wait(
            "document.querySelectorAll('.hit:not([data-from=\"node-150\"]):not([data-to=\"node-150\"])').length",
            &json!(0),
        );
        browser.screenshot(&directory(&format!("{name}-200-details.png")));
        is_unharmed(&browser, &origin);
    }
}
