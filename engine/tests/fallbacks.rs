//! Networks and kernels that cannot do what others can.

mod common;

use common::*;

/// With no checksum offload the kernel refuses UDP segmentation (EIO on some versions).
#[test]
fn an_underlay_without_checksum_offload() {
    underlay(&["ethtool", "-K", "eth0", "tx", "off"]);
}

#[test]
fn an_underlay_without_any_offload() {
    underlay(&["ethtool", "-K", "eth0", "tx", "off", "rx", "off", "gso", "off", "gro", "off"]);
}

/// The tunnel's datagrams are longer than the underlay's MTU, so they must be cut and fragmented.
#[test]
fn an_underlay_with_a_small_mtu() {
    underlay(&["ip", "link", "set", "eth0", "mtu", "1280"]);
}

fn underlay(change: &[&str]) {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    for host in [&pair.a, &pair.b] {
        if change[0] == "ethtool" && !host.try_run(&["ethtool", "--version"]).status.success() {
            eprintln!("SKIPPED: needs ethtool");
            return;
        }
        host.run(change);
    }
    for (address, from, to) in [("10.77.0.2", &pair.a, &pair.b), ("fd77::1", &pair.b, &pair.a)] {
        transfer(from, to, address.parse().unwrap(), 8 << 20);
    }
}
