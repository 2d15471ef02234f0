//! Handshakes from strangers.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::Host;

/// Messages in each second.
pub const RATE: f64 = 50_000.0;
/// Where they come from.
const STRANGER: &str = "10.99.0.66/24";
/// Messages between two looks at the clock.
const BURST: usize = 100;

/// Initiations with a right first MAC, from keys that the receiver does not know.
pub fn initiations(receiver: [u8; 32]) -> Vec<Vec<u8>> {
    let one = |number: usize| {
        let key = x25519::StaticSecret::from([number as u8 + 100; 32]);
        let mut tunn = Tunn::new(key, x25519::PublicKey::from(receiver), None, None, number as u32, None);
        let mut buffer = [0; 148];
        match tunn.format_handshake_initiation(&mut buffer, false) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("an initiation, not {other:?}"),
        }
    };
    (0..BURST).map(one).collect()
}

/// Ends what another thread does beside the work, also when that panics.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something while a host is flooded at [`RATE`]. Returns what that returns, and how many messages a second were sent.
pub fn during<T>(from: &Host, to: &str, receiver: [u8; 32], work: impl FnOnce() -> T) -> (T, f64) {
    during_at(RATE, from, to, receiver, work)
}

/// The same with as many messages a second as one likes.
pub fn during_at<T>(rate: f64, from: &Host, to: &str, receiver: [u8; 32], work: impl FnOnce() -> T) -> (T, f64) {
    let target: SocketAddr = to.parse().expect("an address");
    // Strangers have another address than the peers of the test.
    let _ = from.try_run(&["ip", "address", "add", STRANGER, "dev", "eth0"]);
    let socket = from.enter(|| UdpSocket::bind((STRANGER.trim_end_matches("/24"), 0))).expect("a socket");
    let messages = initiations(receiver);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (begin, mut sent) = (Instant::now(), 0usize);
            while !over.load(Ordering::Relaxed) {
                for message in &messages {
                    sent += usize::from(socket.send_to(message, target).is_ok());
                }
                let due = Duration::from_secs_f64(sent as f64 / rate);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
            sent as f64 / begin.elapsed().as_secs_f64()
        });
        let end = End(&over);
        let result = work();
        drop(end);
        (result, flood.join().expect("the flood ends"))
    })
}
