//! A continuous exchange that proves that no packet was lost while something changed.
//!
//! One thread sends a numbered UDP datagram at a steady rate to the echo server of the target and notes
//! which numbers come back. Linux delivers datagrams of one flow over such a small network without loss
//! of its own, so a missing number is the mesh's doing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::patience;
use crate::servers::ECHO_PORT;
use crate::space::Space;
use crate::sys;

/// How long after the last datagram, or the last answer to it, more answers are still waited for, times [`patience`]:
/// on a slow machine many are on their way.
const LINGER: Duration = Duration::from_secs(2);

/// A running flow.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    returned: Arc<AtomicU64>,
    thread: JoinHandle<FlowReport>,
}

/// What became of a flow's datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowReport {
    /// Datagrams sent; they are numbered from 0.
    pub sent: u64,
    /// Numbers that never came back.
    pub lost: Vec<u64>,
    /// Longest time without any answer between the first one and the last.
    pub longest_gap: Duration,
}

impl Flow {
    /// Starts sending `per_second` datagrams a second from `space` to `target`.
    pub fn start(space: &Space, target: IpAddr, per_second: u32) -> Result<Flow> {
        let socket = space
            .run(|| -> io::Result<UdpSocket> {
                let any: SocketAddr = if target.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
                let socket = UdpSocket::bind(any)?;
                sys::enlarge_receive_buffer(&socket)?;
                socket.connect(SocketAddr::new(target, ECHO_PORT))?;
                Ok(socket)
            })?
            .with_context(|| format!("flow from {} to {target}", space.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let returned = Arc::new(AtomicU64::new(0));
        let interval = Duration::from_secs(1) / per_second.max(1);
        let thread = thread::spawn({
            let (stop, returned) = (stop.clone(), returned.clone());
            move || exchange(&socket, interval, &stop, &returned)
        });
        Ok(Flow { stop, returned, thread })
    }

    /// How many answers came so far. A test waits for this to grow, instead of for time to pass.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for the last answers and reports.
    pub fn stop(self) -> Result<FlowReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread of a flow panicked"))
    }
}

fn exchange(socket: &UdpSocket, interval: Duration, stop: &AtomicBool, returned: &AtomicU64) -> FlowReport {
    let mut sent = 0;
    let mut missing = BTreeSet::new();
    let mut gaps = Gaps::default();
    let mut note = |number, missing: &mut BTreeSet<u64>| {
        if missing.remove(&number) {
            returned.fetch_add(1, Ordering::Relaxed);
            gaps.answer(Instant::now());
        }
    };
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // An error is about an earlier datagram or says that there is no route: either way, a loss.
        let _ = socket.send(&u64::to_be_bytes(sent));
        missing.insert(sent);
        sent += 1;
        next += interval;
        while let Some(number) = receive(socket, next) {
            note(number, &mut missing);
        }
    }
    while !missing.is_empty()
        && let Some(number) = receive(socket, Instant::now() + LINGER * patience())
    {
        note(number, &mut missing);
    }
    FlowReport { sent, lost: missing.into_iter().collect(), longest_gap: gaps.longest }
}

/// The next number to arrive before `deadline`.
fn receive(socket: &UdpSocket, deadline: Instant) -> Option<u64> {
    let mut datagram = [0_u8; 8];
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        if let Ok(8) = socket.recv(&mut datagram) {
            return Some(u64::from_be_bytes(datagram));
        }
    }
}

#[derive(Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Duration,
}

impl Gaps {
    fn answer(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }
}
