//! The configuration socket, spoken to by the real `wg` and by hand.

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::*;
use engine::{Device, Options};

/// A device whose socket is where `wg` looks, so its name must be unique on the machine.
fn device_for_wg(host: &Host) -> Device {
    let options = Options::new(&host.unique_interface);
    host.enter(|| Device::create(options)).expect("a device")
}

fn has_wg() -> bool {
    let has = std::process::Command::new("wg").arg("--version").output().is_ok();
    if !has {
        eprintln!("SKIPPED: needs the wg tool of wireguard-tools");
    }
    has
}

#[test]
fn the_wg_tool_sets_and_shows_everything() {
    if !can_run() || !has_wg() {
        return;
    }
    let host = Host::new("a");
    let device = device_for_wg(&host);
    let name = host.unique_interface.as_str();
    let key_file = std::env::temp_dir().join(format!("{}.key", host.name));
    let key_path = key_file.to_str().unwrap();
    let write_key = |key: &[u8; 32]| std::fs::write(&key_file, base64(key)).unwrap();
    let (two, three) = (private_key(2).public_key(), private_key(3).public_key());

    write_key(private_key(1).as_bytes());
    host.run(&["wg", "set", name, "private-key", key_path, "listen-port", "41820", "fwmark", "0x9"]);
    write_key(&[5; 32]);
    host.run(&[
        "wg",
        "set",
        name,
        "peer",
        &base64(&two),
        "preshared-key",
        key_path,
        "endpoint",
        "[fd99:0::2]:51820",
        "persistent-keepalive",
        "25",
        "allowed-ips",
        "10.0.0.0/8,fd00::/8",
        "peer",
        &base64(&three),
        "endpoint",
        "10.99.0.3:51820",
        "allowed-ips",
        "10.1.0.0/16",
    ]);
    std::fs::remove_file(&key_file).unwrap();

    let stats = device.stats();
    assert_eq!((stats.listen_port, stats.fwmark), (41820, 9));
    assert_eq!(stats.public_key, Some(private_key(1).public_key()));
    let second = stats_of(&device, 2);
    assert_eq!(second.endpoint, Some("[fd99::2]:51820".parse().unwrap()));
    assert_eq!(second.persistent_keepalive, 25);
    assert_eq!(second.allowed_ips, ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);

    let shown = host.run(&["wg", "show", name, "dump"]);
    let mut lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    let device_line = lines.remove(0);
    lines.sort_unstable();
    let (key1, public1) = (base64(private_key(1).as_bytes()), base64(&private_key(1).public_key()));
    assert_eq!(device_line, [&key1, &public1, "41820", "0x9"]);
    let psk = base64(&[5; 32]);
    let (two, three) = (base64(&two), base64(&three));
    let mut expected = vec![
        vec![two.as_str(), &psk, "[fd99::2]:51820", "10.0.0.0/8,fd00::/8", "0", "0", "0", "25"],
        vec![three.as_str(), "(none)", "10.99.0.3:51820", "10.1.0.0/16", "0", "0", "0", "off"],
    ];
    expected.sort_unstable();
    // No answer to handshakes here, but the one that the keepalive asks for counts as sent.
    for line in &mut lines {
        line[6] = "0";
    }
    assert_eq!(lines, expected);
    let config = host.run(&["wg", "showconf", name]);
    assert!(config.contains("ListenPort = 41820") && config.contains("AllowedIPs = 10.1.0.0/16"));

    host.run(&["wg", "set", name, "peer", &two, "remove", "peer", &three, "allowed-ips", ""]);
    assert_eq!(device.stats().peers.len(), 1);
    assert!(stats_of(&device, 3).allowed_ips.is_empty());
}

#[test]
fn handshake_times_are_wall_clock_times_that_stand_still() {
    if !can_run() || !has_wg() {
        return;
    }
    let (a, b) = (Host::new("a"), Host::new("b"));
    wire(0, (&a, 1), (&b, 2));
    let _device_a = device_for_wg(&a);
    configure_with_wg(&a, &a.unique_interface, 1, 2, &[]);
    let device_b = device(&b, 2, |_| ());
    device_b.set_peer(peer(1, None)).unwrap();
    a.ping("10.77.0.2");
    let read = || a.run(&["wg", "show", &a.unique_interface, "latest-handshakes"]);
    let first = read();
    let seconds: u64 = first.trim().rsplit('\t').next().unwrap().parse().unwrap();
    let age = UNIX_EPOCH.elapsed().unwrap().abs_diff(Duration::from_secs(seconds));
    assert!(age < SOON, "{age:?}");
    let clock = || UNIX_EPOCH.elapsed().unwrap().as_secs();
    let then = clock();
    wait_until("the clock has gone on", SOON, || clock() > then + 1);
    assert_eq!(read(), first);
}

/// A device with its socket in a directory of its own.
fn device_in(host: &Host, label: &str) -> (Device, PathBuf) {
    let directory = std::env::temp_dir().join(format!("kgeng-{}-{label}", std::process::id()));
    let made = device(host, 1, |options| options.uapi_dir = Some(directory.clone()));
    (made, directory)
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it takes it");
    stream.shutdown(std::net::Shutdown::Write).expect("half of it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn requests_by_hand() {
    if !can_run() {
        return;
    }
    let host = Host::new("a");
    let (device, directory) = device_in(&host, "hand");
    let socket = directory.join("wg0.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let hex: String = private_key(2).public_key().iter().map(|b| format!("{b:02x}")).collect();
    let set = |body: &str| ask(&socket, &format!("set=1\npublic_key={hex}\n{body}\n\n"));
    assert_eq!(set("update_only=true"), "errno=0\n\n");
    assert_eq!(device.stats().peers.len(), 0, "there was nothing to update");
    assert_eq!(set("allowed_ip=10.1.0.0/16\nallowed_ip=10.2.0.0/16"), "errno=0\n\n");
    assert_eq!(set("allowed_ip=-10.1.0.0/16"), "errno=0\n\n");
    assert_eq!(stats_of(&device, 2).allowed_ips, ["10.2.0.0/16".parse().unwrap()]);
    assert_eq!(set("allowed_ip=10.3.0.0"), "errno=-22\n\n");
    assert_eq!(ask(&socket, "nonsense\n\n"), "errno=-22\n\n");
    assert_eq!(ask(&socket, "get=1\n\nset=1\n\n").matches("errno=0\n\n").count(), 2);
    assert_eq!(ask(&socket, "set=1\nreplace_peers=true\n\n"), "errno=0\n\n");
    assert_eq!(device.stats().peers.len(), 0);
    drop(device);
    std::fs::remove_dir(directory).unwrap();
}

#[test]
fn sockets_left_behind_are_replaced_and_those_in_use_are_not() {
    if !can_run() {
        return;
    }
    let directory = std::env::temp_dir().join(format!("kgeng-{}-stale", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("wg0.sock");
    // Closing a listener leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    wait_until("nobody listens", SOON, || UnixStream::connect(&socket).is_err());
    let (one, two) = (Host::new("a"), Host::new("b"));
    let (device, _) = device_in(&one, "stale");
    assert!(ask(&socket, "get=1\n\n").ends_with("errno=0\n\n"));

    let options = Options { uapi_dir: Some(directory.clone()), ..Options::new("wg0") };
    let second = two.enter(|| Device::create(options)).map(drop);
    assert!(matches!(second, Err(engine::Error::Uapi { .. })), "{second:?}");
    assert!(ask(&socket, "get=1\n\n").ends_with("errno=0\n\n"), "the first one still answers");
    drop(device);
    std::fs::remove_dir(directory).unwrap();
}
