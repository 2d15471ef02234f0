//! How many packets the data path moves with one system call: what offloads and batches are worth on this host.
//!
//! Each thread of the data path adds to counters of its own, which nobody else writes and which share no cache line
//! with those of another thread; anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Batch, Batches};

/// A system call that moves packets. Each is the field of that name in [`Batches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    TunRead,
    UdpSend,
    UdpReceive,
    TunWrite,
}

const CALLS: usize = Call::TunWrite as usize + 1;

/// The counters of one thread. Processors fetch cache lines of 64 bytes in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct ThreadCalls([Counter; CALLS]);

#[derive(Default)]
struct Counter {
    calls: AtomicU64,
    packets: AtomicU64,
}

impl ThreadCalls {
    /// Counts `calls` that moved so many packets together. For the one thread that these counters belong to.
    pub(crate) fn add(&self, call: Call, calls: usize, packets: usize) {
        let counter = &self.0[call as usize];
        advance(&counter.calls, calls);
        advance(&counter.packets, packets);
    }

    fn read(&self, call: Call) -> Batch {
        let Counter { calls, packets } = &self.0[call as usize];
        Batch { calls: calls.load(Ordering::Relaxed), packets: packets.load(Ordering::Relaxed) }
    }
}

/// Nobody else writes, so this need not be the far dearer `fetch_add`.
fn advance(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by as u64), Ordering::Relaxed);
}

/// The counters of every thread that moves packets.
pub(crate) struct Calls {
    pub(crate) control: ThreadCalls,
    /// One for each queue: of whoever has its turn ([`Shared::turns`](crate::shared::Shared::turns)).
    pub(crate) egress: Box<[ThreadCalls]>,
    /// One for each queue.
    pub(crate) ingress: Box<[ThreadCalls]>,
}

impl Calls {
    pub(crate) fn new(queues: usize) -> Self {
        let each = || (0..queues).map(|_| ThreadCalls::default()).collect();
        Self { control: ThreadCalls::default(), egress: each(), ingress: each() }
    }

    pub(crate) fn read(&self) -> Batches {
        let threads = || self.egress.iter().chain(&self.ingress).chain([&self.control]);
        let sum = |call| threads().map(|thread| thread.read(call)).fold(Batch::default(), Batch::plus);
        Batches {
            tun_read: sum(Call::TunRead),
            udp_send: sum(Call::UdpSend),
            udp_receive: sum(Call::UdpReceive),
            tun_write: sum(Call::TunWrite),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_all_threads_are_summed_by_kind() {
        let calls = Calls::new(2);
        calls.egress[0].add(Call::TunRead, 1, 40);
        calls.egress[1].add(Call::TunRead, 1, 2);
        calls.egress[1].add(Call::UdpSend, 2, 42);
        calls.ingress[0].add(Call::UdpReceive, 1, 7);
        calls.control.add(Call::UdpSend, 1, 1);
        let read = calls.read();
        assert_eq!(read.tun_read, Batch { calls: 2, packets: 42 });
        assert_eq!(read.udp_send, Batch { calls: 3, packets: 43 });
        assert_eq!(read.by_call()[2], ("udp_receive", Batch { calls: 1, packets: 7 }));
        assert_eq!(read.by_call()[3], ("tun_write", Batch::default()));
    }

    #[test]
    fn no_two_threads_share_a_cache_line() {
        assert_eq!(size_of::<ThreadCalls>(), 128);
        assert_eq!(align_of::<ThreadCalls>(), 128);
    }
}
