//! One suite for every device: the fake that other tests rely on, userspace and the kernel must do the
//! same for the same plan. What each of the latter two has is read with wg(8).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    sync::atomic::{AtomicU32, Ordering},
};

use ipnet::IpNet;
use tokio::{
    task::yield_now,
    time::{Duration, Instant, sleep},
};
use topology::{DevicePeer, Endpoint, Seconds, SecretKey, ini::Conf};

use super::*;
use crate::{
    namespace::{inside, ip, run},
    os::{Netlink, kernel::has_wireguard, key::public},
    testing::Fake,
};

/// Clamped already (RFC 7748, section 5), as `wg genkey` makes it: the kernel shows it as it uses it.
const SECRET: [u8; 32] = [0x48; 32];

const MARK: u32 = 77;

/// Something that makes devices, and a way to see what they have.
struct Bench {
    interface: InterfaceName,
    factory: Box<dyn DeviceFactory>,
    fake: Option<Fake>,
}

fn own_key() -> PublicKey {
    public(&SecretKey::from(SECRET)).unwrap()
}

fn key(number: u16) -> PublicKey {
    let mut bytes = [9; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    PublicKey::new(bytes).unwrap()
}

/// A name that no other test uses: configuration sockets lie in a directory that all share.
fn unused_name() -> InterfaceName {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("t{}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)).into()
}

fn settings(interface: &InterfaceName) -> Settings {
    Settings { interface: interface.clone(), key: SECRET.into(), mark: MARK, make: true, persistent: true }
}

fn kernel(netlink: &Netlink, interface: &InterfaceName) -> Box<dyn DeviceFactory> {
    factory(Backend::Kernel, netlink.clone(), settings(interface))
}

fn userspace(netlink: &Netlink, interface: &InterfaceName) -> Box<dyn DeviceFactory> {
    factory(Backend::Userspace, netlink.clone(), settings(interface))
}

fn on_fake<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F) {
    let fake = Fake::default();
    fake.world().refused.insert(own_key());
    let bench = Bench { interface: "kilo0".into(), factory: Box::new(fake.clone()), fake: Some(fake) };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test(bench));
}

fn on_userspace<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F + Send + 'static) {
    inside(|netlink| {
        let interface = unused_name();
        test(Bench { factory: userspace(&netlink, &interface), interface, fake: None })
    });
}

/// Runs `test` where there is WireGuard in the kernel.
fn with_kernel<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
    inside(|netlink| async move {
        match has_wireguard(&netlink).await.unwrap() {
            true => test(netlink).await,
            false => println!("skipped: the kernel has no WireGuard"),
        }
    });
}

fn on_kernel<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F + Send + 'static) {
    with_kernel(|netlink| {
        let interface = unused_name();
        test(Bench { factory: kernel(&netlink, &interface), interface, fake: None })
    });
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod fake { $(#[test] fn $test() { super::on_fake(super::$test); })* }
        mod userspace { $(#[test] fn $test() { super::on_userspace(super::$test); })* }
        mod kernel { $(#[test] fn $test() { super::on_kernel(super::$test); })* }
    };
}

suite!(
    a_new_device_is_down_and_has_nothing_but_the_nodes_key,
    peers_become_what_they_are_told_to_be,
    what_is_not_wanted_any_more_is_cleared,
    an_endpoint_that_is_not_given_is_kept,
    allowed_ips_move_from_peer_to_peer,
    a_peer_can_be_removed_and_its_allowed_ips_given_to_another_at_once,
    the_device_itself_is_no_peer_and_the_others_are_set,
    thousands_of_peers_and_of_allowed_ips,
    the_port_can_change,
    a_port_that_somebody_has_is_told_and_had_once_it_is_free,
    a_peer_never_heard_of_has_no_time,
    what_is_something_else_is_left_alone,
    a_deleted_device_is_gone,
);

impl Bench {
    async fn make(&self) -> Box<dyn Device> {
        self.factory.create(1380).await.unwrap().device
    }

    /// Port and peers, without labels.
    fn has(&self) -> (u16, BTreeMap<PublicKey, DevicePeer>) {
        let Some(fake) = &self.fake else { return showconf(&self.interface) };
        let DevicePlan { listen_port, peers, .. } = fake.world().device.clone().unwrap();
        let unlabelled = |(key, peer)| (key, DevicePeer { label: String::new(), ..peer });
        (listen_port, peers.into_iter().map(unlabelled).collect())
    }

    #[track_caller]
    fn expect(&self, peers: &[(u16, DevicePeer)]) {
        let unlabelled =
            |(number, peer): &(u16, DevicePeer)| (key(*number), DevicePeer { label: String::new(), ..peer.clone() });
        assert_eq!(self.has().1, peers.iter().map(unlabelled).collect());
    }

    /// Runs ip(8) with the interface's name for `DEV`, if there is one.
    fn ip(&self, arguments: &str) -> Option<String> {
        self.fake.is_none().then(|| ip(&arguments.replace("DEV", self.interface.as_str())))
    }
}

/// What wg(8) says of an interface.
fn showconf(interface: &InterfaceName) -> (u16, BTreeMap<PublicKey, DevicePeer>) {
    let conf = Conf::parse(&run(&format!("wg showconf {interface}"))).unwrap();
    let peers = conf.peers.into_iter().map(|peer| {
        let endpoint = peer.endpoint.map(|endpoint| match endpoint {
            Endpoint::Address(address) => address,
            Endpoint::Name(..) => panic!("wg shows addresses"),
        });
        let (preshared_key, allowed_ips) = (peer.preshared_key, peer.allowed_ips.into_iter().collect());
        let persistent_keepalive = peer.persistent_keepalive;
        (
            peer.public_key,
            DevicePeer { label: String::new(), preshared_key, endpoint, persistent_keepalive, allowed_ips },
        )
    });
    (conf.interface.and_then(|interface| interface.listen_port).unwrap_or_default(), peers.collect())
}

fn bare(allowed_ips: &[&str]) -> DevicePeer {
    DevicePeer {
        label: "node:a".to_owned(),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive: Seconds(0),
        allowed_ips: allowed_ips.iter().map(|network| network.parse().unwrap()).collect(),
    }
}

fn full(allowed_ips: &[&str], endpoint: &str) -> DevicePeer {
    DevicePeer {
        preshared_key: Some(SecretKey::from([5; 32])),
        endpoint: Some(endpoint.parse().unwrap()),
        persistent_keepalive: Seconds(25),
        ..bare(allowed_ips)
    }
}

fn set(peers: &[(u16, DevicePeer)]) -> DeviceDiff {
    let set = peers.iter().map(|(number, peer)| (key(*number), peer.clone())).collect();
    DeviceDiff { set, ..DeviceDiff::default() }
}

#[track_caller]
fn no_errors(errors: Vec<DeviceError>) {
    assert!(errors.is_empty(), "{errors:?}");
}

async fn a_new_device_is_down_and_has_nothing_but_the_nodes_key(bench: Bench) {
    let made = bench.factory.create(1380).await.unwrap();
    assert_eq!(made.present.peers, BTreeMap::new());
    bench.expect(&[]);
    if let Some(shown) = bench.ip("-o link show dev DEV") {
        assert!(shown.contains("mtu 1380") && shown.contains("state DOWN"), "{shown}");
        assert!(shown.starts_with(&format!("{}: ", made.index)), "{shown}");
        assert_eq!(run(&format!("wg show {} public-key", bench.interface)).trim(), own_key().to_string());
        assert_eq!(run(&format!("wg show {} fwmark", bench.interface)).trim(), format!("{MARK:#x}"));
    }
}

async fn peers_become_what_they_are_told_to_be(bench: Bench) {
    let mut device = bench.make().await;
    let mut peers = vec![
        (1, bare(&[])),
        (2, full(&["10.42.1.0/24", "10.4.0.1/32", "fd42::/64"], "192.0.2.1:51820")),
        (3, full(&["0.0.0.0/0", "::/0"], "[2001:db8::1]:1")),
    ];
    no_errors(device.apply(&set(&peers)).await);
    bench.expect(&peers);
    peers[0].1 = full(&["10.42.2.0/24"], "[2001:db8::2]:2");
    peers[1].1 = full(&["10.42.1.0/24", "10.4.0.1/32", "fd42::/64", "10.42.3.0/24"], "192.0.2.2:51820");
    no_errors(device.apply(&set(&peers[..2])).await);
    bench.expect(&peers);
}

async fn what_is_not_wanted_any_more_is_cleared(bench: Bench) {
    let mut device = bench.make().await;
    let before = full(&["10.42.1.0/24", "10.42.2.0/24"], "192.0.2.1:51820");
    no_errors(device.apply(&set(&[(1, before.clone())])).await);
    let fewer = DevicePeer { allowed_ips: bare(&["10.42.2.0/24"]).allowed_ips, ..before.clone() };
    for after in
        [fewer, DevicePeer { preshared_key: None, persistent_keepalive: Seconds(0), allowed_ips: [].into(), ..before }]
    {
        no_errors(device.apply(&set(&[(1, after.clone())])).await);
        bench.expect(&[(1, after)]);
    }
}

async fn an_endpoint_that_is_not_given_is_kept(bench: Bench) {
    let mut device = bench.make().await;
    let known = full(&["10.42.1.0/24"], "192.0.2.1:51820");
    no_errors(device.apply(&set(&[(1, known.clone())])).await);
    let changed = DevicePeer { persistent_keepalive: Seconds(5), ..known };
    no_errors(device.apply(&set(&[(1, DevicePeer { endpoint: None, ..changed.clone() })])).await);
    bench.expect(&[(1, changed)]);
}

async fn allowed_ips_move_from_peer_to_peer(bench: Bench) {
    let mut device = bench.make().await;
    no_errors(device.apply(&set(&[(1, bare(&["10.42.1.0/24"])), (2, bare(&["10.42.2.0/24"]))])).await);
    for (first, second) in [
        (&["10.42.2.0/24"][..], &["10.42.1.0/24"][..]),
        (&["10.42.1.0/24", "10.42.2.0/24"], &[]),
        (&[], &["10.42.1.0/24", "10.42.2.0/24"]),
        (&["10.42.1.0/24"], &["10.42.2.0/24"]),
    ] {
        let peers = [(1, bare(first)), (2, bare(second))];
        no_errors(device.apply(&set(&peers)).await);
        bench.expect(&peers);
    }
}

async fn a_peer_can_be_removed_and_its_allowed_ips_given_to_another_at_once(bench: Bench) {
    let mut device = bench.make().await;
    no_errors(device.apply(&set(&[(1, full(&["10.42.1.0/24"], "192.0.2.1:1"))])).await);
    let next = (2, bare(&["10.42.1.0/24"]));
    no_errors(device.apply(&DeviceDiff { remove: vec![key(1), key(9)], ..set(std::slice::from_ref(&next)) }).await);
    bench.expect(&[next]);
    // One that comes back is a new one.
    let back = [(1, bare(&["10.42.1.0/24"]))];
    no_errors(device.apply(&DeviceDiff { remove: vec![key(2)], ..set(&back) }).await);
    bench.expect(&back);
}

async fn the_device_itself_is_no_peer_and_the_others_are_set(bench: Bench) {
    let mut device = bench.make().await;
    let mut diff = set(&[(1, bare(&["10.42.1.0/24"])), (2, bare(&["10.42.2.0/24"]))]);
    diff.set.insert(1, (own_key(), DevicePeer { label: "node:me".to_owned(), ..bare(&["10.42.3.0/24"]) }));
    let errors = device.apply(&diff).await;
    assert!(
        matches!(&errors[..], [DeviceError::Peer { key, label, .. }] if *key == own_key() && label == "node:me"),
        "{errors:?}"
    );
    bench.expect(&[(1, bare(&["10.42.1.0/24"])), (2, bare(&["10.42.2.0/24"]))]);
}

async fn thousands_of_peers_and_of_allowed_ips(bench: Bench) {
    const MANY: u16 = 5000;
    let network = |number: u16, v6: bool| -> IpNet {
        let text =
            if v6 { format!("fd42:{number:x}::/64") } else { format!("10.{}.{}.0/24", number / 256, number % 256) };
        text.parse().unwrap()
    };
    let mut device = bench.make().await;
    let mut peers: Vec<_> = (1..=MANY).map(|number| (number, full(&[], "[2001:db8::1]:51820"))).collect();
    for (number, peer) in &mut peers {
        peer.allowed_ips = BTreeSet::from([network(*number, false), network(*number, true)]);
    }
    no_errors(device.apply(&set(&peers)).await);
    bench.expect(&peers);
    assert_eq!(device.statistics().await.unwrap().len(), usize::from(MANY));

    let mut greedy = bare(&[]);
    greedy.allowed_ips = (1..=MANY).map(|number| network(number, number % 2 == 0)).collect();
    let remove = (2..=MANY).map(key).collect();
    no_errors(device.apply(&DeviceDiff { remove, ..set(&[(1, greedy.clone())]) }).await);
    let endpoint = peers[0].1.endpoint;
    bench.expect(&[(1, DevicePeer { endpoint, ..greedy.clone() })]);
    assert_eq!(device.statistics().await.unwrap().len(), 1, "one peer, in however many messages it comes");
    greedy.allowed_ips.pop_first();
    no_errors(device.apply(&set(&[(1, greedy.clone())])).await);
    bench.expect(&[(1, DevicePeer { endpoint, ..greedy })]);
}

async fn the_port_can_change(bench: Bench) {
    let mut device = bench.make().await;
    for port in [51820, 51821] {
        let diff = DeviceDiff { listen_port: Some(port), ..set(&[(1, bare(&[]))]) };
        no_errors(device.apply(&diff).await);
        bench.ip("link set DEV up");
        assert_eq!(bench.has().0, port);
    }
}

async fn a_port_that_somebody_has_is_told_and_had_once_it_is_free(bench: Bench) {
    let mut device = bench.make().await;
    let diff = DeviceDiff { listen_port: Some(1003), ..set(&[(1, bare(&[]))]) };
    let somebody = bench.fake.is_none().then(|| UdpSocket::bind("127.0.0.1:1003").unwrap());
    let taken = |taken| bench.fake.iter().for_each(|fake| fake.world().port_taken = taken);
    taken(true);
    for state in ["down", "up"] {
        bench.ip(&format!("link set DEV {state}"));
        let errors = device.apply(&diff).await;
        assert!(matches!(&errors[..], [DeviceError::ListenPort { port: 1003, .. }]), "{state}: {errors:?}");
        bench.expect(&[(1, bare(&[]))]);
    }
    drop(somebody);
    taken(false);
    apply_with_port(device.as_mut(), &diff).await;
    assert_eq!(bench.has().0, 1003);
}

async fn a_peer_never_heard_of_has_no_time(bench: Bench) {
    let mut device = bench.make().await;
    assert_eq!(device.statistics().await.unwrap(), []);
    no_errors(device.apply(&set(&[(1, bare(&[])), (2, full(&[], "192.0.2.1:1"))])).await);
    let mut known = device.statistics().await.unwrap();
    known.sort_by_key(|peer| peer.key);
    let never = |number, endpoint: &str| PeerStatistics {
        key: key(number),
        endpoint: endpoint.parse().ok(),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    assert_eq!(known, [never(1, ""), never(2, "192.0.2.1:1")]);
}

async fn what_is_something_else_is_left_alone(bench: Bench) {
    match &bench.fake {
        Some(fake) => _ = fake.world().facts.interfaces.insert("kilo0".into(), crate::host::Interface::default()),
        None => _ = bench.ip("link add DEV type veth peer name peer0"),
    }
    let error = bench.factory.create(1380).await.err().unwrap();
    assert!(matches!(&error, DeviceError::Taken { .. }), "{error}");
    assert!(
        error.to_string().contains(bench.interface.as_str()) && error.to_string().contains("--interface"),
        "{error}"
    );
    if let Some(shown) = bench.ip("-o -d link show dev DEV") {
        assert!(shown.contains("veth") && error.to_string().contains("veth"), "{error}: {shown}");
    }
}

async fn a_deleted_device_is_gone(bench: Bench) {
    let device = bench.make().await;
    device.delete().await.unwrap();
    if let Some(shown) = bench.ip("-o link show") {
        assert!(!shown.contains(bench.interface.as_str()), "{shown}");
    }
    // And there is room for the next one.
    bench.make().await;
}

/// Waits until both sides of a pair know when they shook hands, and gives what the first one knows. It is asked last:
/// if it began, then it may know before it has counted the answer, but the other one knows later.
async fn shaken_hands(devices: [&mut Box<dyn Device>; 2]) -> PeerStatistics {
    let [a, b] = devices;
    loop {
        let known = [b.statistics().await.unwrap(), a.statistics().await.unwrap()];
        match known.each_ref().map(Vec::as_slice) {
            [[b], [a]] if a.last_handshake.is_some() && b.last_handshake.is_some() => return a.clone(),
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A device that listens, up, with one peer at a port of this host.
async fn joined(factory: &dyn DeviceFactory, interface: &InterfaceName, port: u16, peer: PublicKey, at: u16) -> Made {
    let mut made = factory.create(1380).await.unwrap();
    let endpoint = Some(([127, 0, 0, 1], at).into());
    let peer = (peer, DevicePeer { endpoint, persistent_keepalive: Seconds(1), ..bare(&["10.9.0.0/16"]) });
    no_errors(made.device.apply(&DeviceDiff { listen_port: Some(port), remove: vec![], set: vec![peer] }).await);
    ip(&format!("link set {interface} up"));
    made
}

/// How long another test's program may take to begin: until its file is executed it has what this process had when it was
/// started, also devices and sockets that are dropped meanwhile.
const STARTED: Duration = Duration::from_secs(20);

/// The device that follows a dropped one.
async fn next(factory: &dyn DeviceFactory, mtu: u16) -> Made {
    let deadline = Instant::now() + STARTED;
    loop {
        match factory.create(mtu).await {
            Err(DeviceError::Taken { .. }) if Instant::now() < deadline => yield_now().await,
            made => return made.unwrap(),
        }
    }
}

/// Applies what has a port that was somebody else's.
async fn apply_with_port(device: &mut dyn Device, diff: &DeviceDiff) {
    let deadline = Instant::now() + STARTED;
    loop {
        let errors = device.apply(diff).await;
        if errors.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{errors:?}");
        yield_now().await;
    }
}

fn other_secret() -> SecretKey {
    SecretKey::from([8; 32])
}

fn other_end(netlink: &Netlink, interface: &InterfaceName) -> Box<dyn DeviceFactory> {
    let settings = Settings { key: other_secret(), ..settings(interface) };
    factory(Backend::Userspace, netlink.clone(), settings)
}

/// A pair with an own device of either kind and another one in userspace, which shake hands.
async fn shakes_hands(netlink: Netlink, interface: InterfaceName, factory: Box<dyn DeviceFactory>) {
    let other = unused_name();
    let far = other_end(&netlink, &other);
    let mut near = joined(factory.as_ref(), &interface, 1001, public(&other_secret()).unwrap(), 1002).await;
    let mut far = joined(far.as_ref(), &other, 1002, own_key(), 1001).await;
    let known = shaken_hands([&mut near.device, &mut far.device]).await;
    assert_eq!(known.endpoint, "127.0.0.1:1002".parse().ok());
    assert!(known.rx_bytes > 0 && known.tx_bytes > 0, "{known:?}");
    assert!(known.last_handshake.unwrap().elapsed().unwrap() < Duration::from_secs(300), "{known:?}");
}

#[test]
fn userspace_shakes_hands() {
    inside(|netlink| async move {
        let interface = unused_name();
        let factory = userspace(&netlink, &interface);
        shakes_hands(netlink, interface, factory).await;
    });
}

#[test]
fn the_kernel_shakes_hands_with_userspace() {
    with_kernel(|netlink| async move {
        let interface = unused_name();
        let factory = kernel(&netlink, &interface);
        shakes_hands(netlink, interface, factory).await;
    });
}

#[test]
fn the_kernels_device_outlives_the_agent_and_is_taken_as_it_is() {
    with_kernel(|netlink| async move {
        let (interface, other) = (unused_name(), unused_name());
        let factory = kernel(&netlink, &interface);
        let far = other_end(&netlink, &other);
        let far_key = public(&other_secret()).unwrap();
        let mut near = joined(factory.as_ref(), &interface, 1001, far_key, 1002).await;
        let mut far = joined(far.as_ref(), &other, 1002, own_key(), 1001).await;
        let before = shaken_hands([&mut near.device, &mut far.device]).await;
        no_errors(near.device.apply(&set(&[(1, full(&["10.42.1.0/24"], "192.0.2.1:1"))])).await);
        let (index, conf) = (near.index, showconf(&interface));
        drop(near);

        let mut taken = kernel(&netlink, &interface).create(1400).await.unwrap();
        assert_eq!(taken.index, index);
        assert_eq!((taken.present.listen_port, &taken.present.peers), (conf.0, &conf.1), "all of it is known");
        // Told the same, the kernel hears nothing; a peer that is not wanted is removed.
        let same = (far_key, DevicePeer { endpoint: None, ..conf.1[&far_key].clone() });
        no_errors(taken.device.apply(&DeviceDiff { listen_port: None, remove: vec![key(1)], set: vec![same] }).await);
        assert_eq!(showconf(&interface).1, BTreeMap::from([(far_key, conf.1[&far_key].clone())]));
        assert_eq!(shaken_hands([&mut taken.device, &mut far.device]).await.last_handshake, before.last_handshake);
    });
}

/// Packets wait for nobody's timer: the next device calls those whom the last one had sessions with.
#[test]
fn the_interface_of_a_device_in_userspace_outlives_the_agent_and_the_next_one_shakes_hands_again() {
    inside(|netlink| async move {
        let (interface, other) = (unused_name(), unused_name());
        let factory = userspace(&netlink, &interface);
        let far = other_end(&netlink, &other);
        let far_key = public(&other_secret()).unwrap();
        let mut near = joined(factory.as_ref(), &interface, 1001, far_key, 1002).await;
        let mut far = joined(far.as_ref(), &other, 1002, own_key(), 1001).await;
        assert!(!near.found);
        let before = shaken_hands([&mut near.device, &mut far.device]).await;
        ip(&format!("addr add 10.4.0.1/16 dev {interface}"));
        ip(&format!("route add 10.42.0.0/16 dev {interface}"));
        drop(near.device);
        assert!(ip(&format!("route show dev {interface}")).contains("10.42.0.0/16"));

        let mut next = next(factory.as_ref(), 1360).await;
        assert_eq!((next.found, next.index), (true, near.index));
        let shown = ip(&format!("-o addr show dev {interface}")) + &ip(&format!("link show dev {interface}"));
        assert!(shown.contains("10.4.0.1/16") && shown.contains("mtu 1360"), "{shown}");
        assert!(ip(&format!("route show dev {interface}")).contains("10.42.0.0/16"));
        // What the host sends before the peers are set waits for them, and gets no answer that ends connections.
        let sender = UdpSocket::bind("10.4.0.1:0").unwrap();
        sender.connect("10.42.0.1:9").unwrap();
        sender.send(b"early").unwrap();
        let endpoint = "127.0.0.1:1002".parse().ok();
        let diff = DeviceDiff {
            listen_port: Some(1001),
            remove: vec![],
            set: vec![(far_key, DevicePeer { endpoint, ..bare(&["10.42.0.0/16"]) })],
        };
        no_errors(next.device.apply(&diff).await);
        next.device.initiate_handshakes();
        let after = shaken_hands([&mut next.device, &mut far.device]).await;
        assert!(after.last_handshake > before.last_handshake);
        assert!(sender.take_error().unwrap().is_none());
        assert_eq!(next.device.drops()["no_peer"], 0);
        next.device.delete().await.unwrap();
        assert!(!ip("-o link show").contains(interface.as_str()));
    });
}

#[test]
fn an_interface_that_a_program_uses_or_that_is_not_like_ours_is_left_alone() {
    inside(|netlink| async move {
        let interface = unused_name();
        let running = userspace(&netlink, &interface).create(1380).await.unwrap();
        for factory in [userspace(&netlink, &interface), kernel(&netlink, &interface)] {
            let error = factory.create(1380).await.err().unwrap();
            assert!(matches!(&error, DeviceError::Taken { .. }) && error.to_string().contains("in use"), "{error}");
        }
        running.device.delete().await.unwrap();
        // As an administrator, or another program for itself, makes them.
        for options in
            ["mode tun", "mode tun vnet_hdr", "mode tun pi vnet_hdr user root", "mode tap vnet_hdr user root"]
        {
            ip(&format!("tuntap add dev {interface} {options}"));
            let error = userspace(&netlink, &interface).create(1380).await.err().unwrap();
            assert!(matches!(&error, DeviceError::Taken { .. }), "{options}: {error}");
            ip(&format!("link del {interface}"));
        }
        // The last agent had another number of cores.
        ip(&format!("tuntap add dev {interface} mode tun vnet_hdr multi_queue user root"));
        let queues = engine::Options::new("wg0").queues.get();
        let made = userspace(&netlink, &interface).create(1380).await.unwrap();
        assert_eq!(made.found, queues > 1);
    });
}

#[test]
fn an_interface_that_somebody_else_made_gets_the_nodes_key() {
    with_kernel(|netlink| async move {
        let interface = unused_name();
        ip(&format!("link add {interface} type wireguard"));
        ip(&format!("link set {interface} up"));
        run(&format!(
            "wg set {interface} listen-port 1001 peer {} allowed-ips 10.9.0.0/16 persistent-keepalive 7",
            key(1)
        ));
        let made = kernel(&netlink, &interface).create(1380).await.unwrap();
        assert_eq!(made.present.listen_port, 1001);
        let peer = &made.present.peers[&key(1)];
        assert_eq!(
            *peer,
            DevicePeer { label: String::new(), persistent_keepalive: Seconds(7), ..bare(&["10.9.0.0/16"]) }
        );
        assert_eq!(run(&format!("wg show {interface} public-key")).trim(), own_key().to_string());
    });
}

#[test]
fn an_interface_that_is_deleted_or_replaced_under_the_device_is_told() {
    with_kernel(|netlink| async move {
        let interface = unused_name();
        let mut made = kernel(&netlink, &interface).create(1380).await.unwrap();
        no_errors(made.device.apply(&set(&[(1, bare(&[]))])).await);
        ip(&format!("link del {interface}"));
        ip(&format!("link add {interface} type wireguard"));
        let errors = made.device.apply(&set(&[(2, bare(&[]))])).await;
        assert!(matches!(&errors[..], [DeviceError::Gone { .. }]), "{errors:?}");
        assert!(made.device.statistics().await.is_err());
        made.device.delete().await.unwrap();
        assert_eq!(showconf(&interface).1, BTreeMap::new(), "another one of the same name is never touched");
    });
}

#[test]
fn an_interface_that_shall_not_be_made_is_waited_for() {
    with_kernel(|netlink| async move {
        let interface = unused_name();
        let factory = factory(Backend::Kernel, netlink, Settings { make: false, ..settings(&interface) });
        let error = factory.create(1380).await.err().unwrap();
        assert!(matches!(error, DeviceError::Missing { .. }), "{error}");
        ip(&format!("link add {interface} type wireguard"));
        assert!(factory.create(1380).await.is_ok());
    });
}

#[test]
fn a_node_moves_between_userspace_and_the_kernel() {
    with_kernel(|netlink| async move {
        let interface = unused_name();
        let (kernel, userspace) = (kernel(&netlink, &interface), userspace(&netlink, &interface));
        let peers = [(1, full(&["10.42.1.0/24"], "192.0.2.1:1"))];
        let mut shown = Vec::new();
        for factory in [&userspace, &kernel, &userspace, &kernel] {
            let mut made = next(factory.as_ref(), 1380).await;
            assert_eq!(made.present.peers, BTreeMap::new());
            let diff = DeviceDiff { listen_port: Some(1001), ..set(&peers) };
            apply_with_port(made.device.as_mut(), &diff).await;
            ip(&format!("link set {interface} up"));
            shown.push(run(&format!("wg showconf {interface}")));
            drop(made);
        }
        assert!(shown[0].contains("PresharedKey"), "{}", shown[0]);
        assert!(shown.iter().all(|text| *text == shown[0]), "the same keys, addresses and peers: {shown:#?}");
    });
}

#[test]
fn a_kernel_without_wireguard_is_told_with_advice() {
    inside(|netlink| async move {
        let known = has_wireguard(&netlink).await.unwrap();
        let made = kernel(&netlink, &unused_name()).create(1380).await;
        assert_eq!(made.is_ok(), known);
        if let Err(error) = made {
            assert!(error.to_string().contains("--wireguard=userspace"), "{error}");
        }
    });
}
