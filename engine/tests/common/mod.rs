//! Hosts for the tests: network namespaces, a wire between two of them, devices inside.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod flood;
pub mod implementation;

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::{Device, Options, PeerConfig, PeerStats, Secret};

/// How long anything may take that happens at once when it works, on a machine that has much else to do.
pub const SOON: Duration = Duration::from_secs(60);

/// Whether namespaces and interfaces can be made here. Says so if not.
pub fn can_run() -> bool {
    // SAFETY: geteuid takes no arguments and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let able = root && std::path::Path::new("/dev/net/tun").exists();
    if !able {
        eprintln!("SKIPPED: needs root and /dev/net/tun");
    }
    able
}

/// A host: a network namespace that goes away with this value.
pub struct Host {
    pub name: String,
    /// A name for an interface whose configuration socket lies in the directory that all hosts
    /// share, so it must be unique on the machine.
    pub unique_interface: String,
}

impl Host {
    pub fn new(label: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kgeng-{}-{number}{label}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let unique_interface = format!("g{}.{number}", std::process::id());
        let host = Self { name, unique_interface };
        host.run(&["ip", "link", "set", "lo", "up"]);
        host
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(args);
        command
    }

    /// Runs a program that must succeed, and returns what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert!(output.status.success(), "{args:?} on {}: {output:?}", self.name);
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("ip runs")
    }

    /// Starts a program that is killed when the returned value is dropped.
    pub fn spawn(&self, args: &[&str]) -> Process {
        let child = self
            .command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip runs");
        Process(child)
    }

    /// Calls a function on a thread that lives on this host, as do the threads it starts.
    pub fn enter<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.name)).expect("exists");
                // SAFETY: setns takes an open descriptor and a flag, and changes this thread only.
                let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                call()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A few pings, some of which must be answered. The wait for the last is longer than a handshake takes of which the
    /// first message was lost.
    pub fn ping(&self, to: &str) {
        let output = self.try_run(&["ping", "-c", "3", "-i", "0.02", "-W", "20", "-n", to]);
        assert!(output.status.success(), "ping {to} from {}: {output:?}", self.name);
    }

    /// Whether a single ping is answered within a second.
    pub fn reaches(&self, to: &str) -> bool {
        self.try_run(&["ping", "-c", "1", "-W", "1", "-n", to]).status.success()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
        // Left behind by a program that was killed.
        let socket = format!("{}/{}.sock", engine::DEFAULT_UAPI_DIR, self.unique_interface);
        let _ = std::fs::remove_file(socket);
    }
}

pub struct Process(Child);

impl Process {
    /// Waits for the end and returns what it printed.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_string(&mut text).expect("text");
        }
        self.0.wait().expect("it was started");
        text
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it was started").is_some()
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks the program to end.
    pub fn terminate(&self) {
        // `ip netns exec` becomes the program that it runs, so this is its number.
        run(&["kill", "-TERM", &self.id().to_string()]);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(args: &[&str]) {
    let output = Command::new(args[0]).args(&args[1..]).output().expect("program runs");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// Waits until something is true, or fails saying what was waited for.
///
/// Also what was dropped is gone only after a moment: a program that another test starts has all descriptors of this
/// process until its file is executed.
pub fn wait_until(what: &str, within: Duration, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_true() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Joins two hosts by a wire: `eth0` here, `eth0` there, of both families.
/// Host number `n` of network `net` has 10.99.net.n and fd99:net::n.
pub fn wire(net: u8, (a, number_a): (&Host, u8), (b, number_b): (&Host, u8)) {
    let (eth, v4, v6) = (format!("eth{net}"), format!("10.99.{net}."), format!("fd99:{net}::"));
    run(&["ip", "link", "add", &eth, "netns", &a.name, "type", "veth", "peer", "name", &eth, "netns", &b.name]);
    for (host, number) in [(a, number_a), (b, number_b)] {
        host.run(&["ip", "address", "add", &format!("{v4}{number}/24"), "dev", &eth]);
        host.run(&["ip", "address", "add", &format!("{v6}{number}/64"), "dev", &eth, "nodad"]);
        host.run(&["ip", "link", "set", &eth, "up"]);
    }
}

/// The private key of the host with this number.
pub fn private_key(number: u8) -> Secret {
    Secret::from([number; 32])
}

/// A peer with the usual addresses: 10.77.0.n and fd77::n.
pub fn peer(number: u8, endpoint: Option<&str>) -> PeerConfig {
    PeerConfig {
        public_key: private_key(number).public_key(),
        preshared_key: None,
        endpoint: endpoint.map(|text| text.parse().expect("an endpoint")),
        persistent_keepalive: 0,
        allowed_ips: vec![
            format!("10.77.0.{number}/32").parse().expect("a network"),
            format!("fd77::{number}/128").parse().expect("a network"),
        ],
    }
}

/// A device named `wg0` with the host's usual key and addresses, port 51820, up.
pub fn device(host: &Host, number: u8, change: impl FnOnce(&mut Options)) -> Device {
    let mut options = Options { uapi_dir: None, ..Options::new("wg0") };
    change(&mut options);
    let device = host.enter(|| Device::create(options)).expect("a device");
    device.set_private_key(private_key(number)).expect("a key");
    device.set_listen_port(51820).expect("a free port");
    address_and_up(host, "wg0", number);
    device
}

/// Gives an interface the usual addresses: 10.77.0.n and fd77::n.
pub fn address_and_up(host: &Host, interface: &str, number: u8) {
    host.run(&["ip", "address", "add", &format!("10.77.0.{number}/24"), "dev", interface]);
    host.run(&["ip", "address", "add", &format!("fd77::{number}/64"), "dev", interface, "nodad"]);
    host.run(&["ip", "link", "set", interface, "up"]);
}

/// Two hosts, a wire, and a device on each that knows the other.
pub struct Pair {
    // Devices first: they go before the hosts they are on.
    pub device_a: Device,
    pub device_b: Device,
    pub a: Host,
    pub b: Host,
}

impl Pair {
    pub fn new(offload: bool) -> Self {
        Self::with(|options| options.offload = offload)
    }

    /// Both devices with other options than the usual ones.
    pub fn with(change: impl Fn(&mut Options)) -> Self {
        let (a, b) = (Host::new("a"), Host::new("b"));
        wire(0, (&a, 1), (&b, 2));
        let device_a = device(&a, 1, &change);
        let device_b = device(&b, 2, &change);
        device_a.set_peer(peer(2, Some("10.99.0.2:51820"))).expect("a peer");
        device_b.set_peer(peer(1, None)).expect("a peer");
        Self { device_a, device_b, a, b }
    }
}

/// What a device says about the peer with this number.
pub fn stats_of(device: &Device, number: u8) -> PeerStats {
    let key = private_key(number).public_key();
    device.stats().peers.into_iter().find(|peer| peer.public_key == key).expect("a peer")
}

/// Sends `len` bytes by TCP from one host to the other and checks that they arrive intact.
pub fn transfer(from: &Host, to: &Host, address: IpAddr, len: usize) {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0))).expect("listens");
    let address = listener.local_addr().expect("bound");
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("all of it");
        received
    });
    let sent = noise(len);
    let mut stream = from.enter(|| TcpStream::connect_timeout(&address, SOON)).expect("a connection");
    stream.set_write_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(&sent).expect("it takes all");
    drop(stream);
    let received = receiver.join().expect("the receiver ends");
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "the bytes differ");
}

/// Bytes without a pattern that segments could share (a linear congruential generator).
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sets up an interface that another program has made on this host, with the `wg` tool: the
/// usual key, port, addresses, and one peer on the wire, with more words about the peer.
pub fn configure_with_wg(host: &Host, interface: &str, number: u8, other: u8, words: &[&str]) {
    let key = std::env::temp_dir().join(format!("{}.key", host.name));
    std::fs::write(&key, base64(private_key(number).as_bytes())).expect("a file");
    let (public, endpoint) = (base64(&private_key(other).public_key()), format!("10.99.0.{other}:51820"));
    let networks = format!("10.77.0.{other}/32,fd77::{other}/128");
    let device = ["wg", "set", interface, "private-key", key.to_str().expect("text"), "listen-port", "51820"];
    let peer = ["peer", &public, "endpoint", &endpoint, "allowed-ips", &networks];
    host.run(&[&device[..], &peer, words].concat());
    std::fs::remove_file(&key).expect("the file");
    address_and_up(host, interface, number);
}

/// Base64 (RFC 4648) of a key, as the `wg` tool reads and prints it.
pub fn base64(key: &[u8; 32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in key.chunks(3) {
        let byte = |i: usize| chunk.get(i).map_or(0, |byte| u32::from(*byte));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text.push('=');
    text
}
