//! Together with another implementation: Debian's wireguard-go.

mod common;

use common::*;

#[test]
fn wireguard_go_at_the_other_end() {
    if !can_run() {
        return;
    }
    let installed = |name: &str| std::process::Command::new(name).arg("--version").output().is_ok();
    if !installed("wireguard-go") || !installed("wg") {
        eprintln!("SKIPPED: needs the packages wireguard-go and wireguard-tools");
        return;
    }
    let (a, b) = (Host::new("a"), Host::new("b"));
    wire(0, (&a, 1), (&b, 2));
    let device = device(&a, 1, |_| ());
    device.set_peer(peer(2, None)).unwrap();
    let _daemon = wireguard_go(&b, 2, 1);
    // Its handshake, then ours.
    b.ping("10.77.0.1");
    a.ping("fd77::2");
    device.remove_peer(&private_key(2).public_key());
    device.set_peer(peer(2, Some("10.99.0.2:51820"))).unwrap();
    a.ping("10.77.0.2");
    for (from, to, address) in [(&a, &b, "10.77.0.2"), (&b, &a, "fd77::1")] {
        transfer(from, to, address.parse().unwrap(), 16 << 20);
    }
}
