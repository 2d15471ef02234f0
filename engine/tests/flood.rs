//! Handshakes from strangers, more than anybody can answer, beside a flow that must go on.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::*;

#[test]
fn an_established_flow_survives_a_flood() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let session = stats_of(&pair.device_b, 1).last_handshake;
    let messages = flood::initiations(private_key(2).public_key());
    let socket = pair.a.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_nonblocking(true).unwrap();
    // As with Linux, cookie replies do not have the traffic class of handshakes. Where there is no nft they all pass.
    let rule = "udp sport 51820 udp length 72 ip dscp af41 drop";
    let table = format!("table inet classes {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}");
    let _ = pair.a.try_run(&["sh", "-c", &format!("nft '{table}'")]);
    let target: SocketAddr = "10.99.0.2:51820".parse().unwrap();

    let (over, cookies) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut answer = [0; 200];
            while !over.load(Ordering::Relaxed) {
                for message in &messages {
                    let _ = socket.send_to(message, target);
                    while let Ok(len) = socket.recv(&mut answer) {
                        cookies.fetch_add(usize::from(len == 64 && answer[0] == 3), Ordering::Relaxed);
                    }
                }
                // About 50,000 a second on an idle machine.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let end = flood::End(&over);
        transfer(&pair.a, &pair.b, "10.77.0.2".parse().unwrap(), 32 << 20);
        let drops = || pair.device_b.stats().drops;
        wait_until("cookies are asked for", SOON, || drops().handshake_deferred > 0);
        let told = || cookies.load(Ordering::Relaxed) > 0;
        wait_until("those who are put off are told how to prove themselves", SOON, told);
        wait_until("strangers are refused", SOON, || drops().handshake_rejected > 0);
        pair.a.ping("10.77.0.2");
        drop(end);
    });
    assert_eq!(stats_of(&pair.device_b, 1).last_handshake, session, "the flow's session stands");
}

#[test]
fn nonsense_is_counted_and_dropped() {
    if !can_run() {
        return;
    }
    let pair = Pair::new(true);
    pair.a.ping("10.77.0.2");
    let socket = pair.a.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let mut data = vec![0; 64];
    data[0] = 4;
    let mut handshake = vec![0; 148];
    handshake[0] = 1;
    for message in [&b"x"[..], &[9; 100], &data, &handshake, &[1, 0, 0, 0], &[]] {
        socket.send_to(message, "10.99.0.2:51820").unwrap();
    }
    wait_until("all of it is counted", SOON, || {
        let drops = pair.device_b.stats().drops;
        // The empty one counts for nothing; the four bytes are too short for an index.
        drops.udp_malformed == 3 && drops.unknown_index == 1 && drops.handshake_rejected == 1
    });
    pair.a.ping("10.77.0.2");
}
