//! The implementations, as programs that are set up with `wg`.

use std::fmt::Write;
use std::fs;

use super::common::implementation::Implementation;
use super::common::{Host, Process, base64, private_key};

/// The argument with which this program is a device itself.
pub const DEVICE: &str = "device";

/// This engine, in a process of its own like all others.
pub fn ours() -> Implementation {
    let program = std::env::current_exe().expect("this program has a path").display().to_string();
    Implementation { name: "engine".to_owned(), program, arguments: &[DEVICE] }
}

/// Starts a daemon on a host and sets it up: addresses, keys, and these peers. `None`, and a message, if it does not
/// take them.
pub fn start(implementation: &Implementation, host: &Host, number: u8, peers: &[Peer]) -> Option<Process> {
    let daemon = implementation.start(host);
    let interface = host.unique_interface.as_str();
    // boringtun-cli gives all peers of one request the endpoint of the first.
    let at_once = if implementation.name == "boringtun-cli" { 1 } else { peers.len().max(1) };
    for (place, some) in peers.chunks(at_once).enumerate() {
        let (command, own) = if place == 0 { ("setconf", Some(number)) } else { ("addconf", None) };
        let path = std::env::temp_dir().join(format!("{interface}.conf"));
        fs::write(&path, configuration(own, some)).expect("a file for the configuration");
        // Some daemons stop answering instead of refusing.
        let output = host.try_run(&["timeout", "20", "wg", command, interface, &path.display().to_string()]);
        fs::remove_file(&path).expect("it was written");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("{} does not take {} peers: {}", implementation.name, peers.len(), said.trim());
            return None;
        }
    }
    host.run(&["ip", "address", "add", &format!("10.77.0.{number}/24"), "dev", interface]);
    host.run(&["ip", "link", "set", interface, "mtu", "1420", "up"]);
    Some(daemon)
}

/// One peer of a daemon.
pub struct Peer {
    pub public_key: [u8; 32],
    pub endpoint: Option<String>,
    pub allowed_ip: String,
}

impl Peer {
    /// The host with this number, on this network.
    pub fn host(number: u8, net: u8) -> Self {
        Self {
            public_key: private_key(number).public_key(),
            endpoint: Some(format!("10.99.{net}.{number}:51820")),
            allowed_ip: format!("10.77.0.{number}/32"),
        }
    }

    /// So many peers that are never heard of.
    pub fn silent(count: u16) -> impl Iterator<Item = Self> {
        (0..count).map(|number| {
            let [high, low] = number.to_be_bytes();
            let mut key = [0xee; 32];
            key[..2].copy_from_slice(&[high, low]);
            let public_key = engine::Secret::from(key).public_key();
            Self { public_key, endpoint: None, allowed_ip: format!("10.78.{high}.{low}/32") }
        })
    }
}

/// With the section of the interface for the device of this number.
fn configuration(number: Option<u8>, peers: &[Peer]) -> String {
    let mut text = String::new();
    if let Some(number) = number {
        let private = base64(private_key(number).as_bytes());
        let _ = writeln!(text, "[Interface]\nPrivateKey = {private}\nListenPort = 51820");
    }
    for peer in peers {
        let _ = writeln!(text, "[Peer]\nPublicKey = {}\nAllowedIPs = {}", base64(&peer.public_key), peer.allowed_ip);
        if let Some(endpoint) = &peer.endpoint {
            let _ = writeln!(text, "Endpoint = {endpoint}");
        }
    }
    text
}

/// Is a device until it is killed.
pub fn be_device(interface: &str) {
    let device = engine::Device::create(engine::Options::new(interface)).expect("a device");
    eprintln!("{} is there", device.name());
    loop {
        std::thread::park();
    }
}

/// User and system time of some processes, from `/proc/<pid>/stat` (`proc(5)`), in seconds.
pub fn cpu_seconds(processes: &[u32]) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let ticks = |id: &u32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let times = fields.split(' ').skip(11).take(2);
        times.map(|field| field.parse::<f64>().expect("a number")).sum()
    };
    processes.iter().map(ticks).sum::<f64>() / TICKS_PER_SECOND
}

/// Resident memory of a process in MB, from `/proc/<pid>/status`.
pub fn resident(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has memory");
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes / 1024.0
}
