//! Networks and kernels that cannot do what others can.

mod common;

use common::*;

/// Before Linux 6.11 the kernel refuses UDP segmentation there (EIO); a newer one does the checksums itself.
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

/// A queue of one packet between the host and the tunnel: what it drops, TCP sends again.
#[test]
fn a_queue_of_the_interface_that_is_always_full() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    for host in [&pair.a, &pair.b] {
        host.run(&["ip", "link", "set", "wg0", "txqueuelen", "1"]);
    }
    pair.a.ping("10.77.0.2");
    transfer(&pair.a, &pair.b, "fd77::2".parse().unwrap(), 2 << 20);
    transfer(&pair.b, &pair.a, "10.77.0.1".parse().unwrap(), 2 << 20);
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
