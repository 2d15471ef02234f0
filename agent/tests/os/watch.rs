use agent::os::watch::{Change, subscribe};
use tokio::sync::mpsc::Receiver;

use crate::namespace::{inside, ip, wire};

/// Waits for a change that needs to come; the test's deadline ends the wait.
async fn wait_for(changes: &mut Receiver<Change>, wanted: Change) {
    while changes.recv().await.expect("the subscription ended") != wanted {}
}

#[test]
fn each_kind_of_change_is_told() {
    inside(|_| async {
        wire();
        ip("route add 10.2.0.0/24 via 10.1.0.1 dev eth0 onlink proto static");
        ip("-6 route add fd02::/64 via fd01::1 dev eth0 onlink proto static");
        ip("rule add to 10.1.0.9 lookup 1107");
        let mut changes = subscribe().unwrap();
        ip("route replace 10.2.0.0/24 dev eth0");
        wait_for(&mut changes, Change::Route).await;
        ip("route replace 10.2.0.0/24 dev eth0 proto static");
        wait_for(&mut changes, Change::Route).await;
        ip("route del 10.2.0.0/24");
        wait_for(&mut changes, Change::Route).await;
        ip("-6 route del fd02::/64");
        wait_for(&mut changes, Change::Route).await;
        ip("route add default via 10.1.0.1");
        wait_for(&mut changes, Change::Route).await;
        ip("route replace default dev eth0");
        wait_for(&mut changes, Change::Route).await;
        ip("rule del to 10.1.0.9");
        wait_for(&mut changes, Change::Rule).await;
        ip("addr add 10.1.0.3/24 dev eth0");
        wait_for(&mut changes, Change::Address).await;
        ip("link set eth0 mtu 1400");
        wait_for(&mut changes, Change::Link).await;
    });
}

#[test]
fn a_flood_beyond_the_sockets_buffer_does_not_end_the_subscription() {
    inside(|_| async {
        wire();
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("batch");
        let lines: String = (0..20_000_u32)
            .map(|n| format!("route add 10.{}.{}.0/24 dev eth0 proto static\n", 2 + n / 256, n % 256))
            .collect();
        std::fs::write(&batch, lines).unwrap();
        let mut changes = subscribe().unwrap();
        // Nothing is received while ip(8) runs: it holds this thread, which is the runtime's only one.
        ip(&format!("-batch {}", batch.display()));
        ip("route flush proto static");
        // No interface has changed: this is told only because the kernel had to drop messages.
        wait_for(&mut changes, Change::Link).await;
        wait_for(&mut changes, Change::Rule).await;
        ip("rule add to 10.1.0.9 lookup 1107");
        wait_for(&mut changes, Change::Rule).await;
        ip("rule del to 10.1.0.9");
        wait_for(&mut changes, Change::Rule).await;
    });
}
