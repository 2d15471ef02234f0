//! What all threads of a device see.
//!
//! Locks are held to look something up or to change it, never across a system call on a packet
//! or across cryptography, but for a peer's handshake, which only the control thread does, and for the turn of a queue,
//! which is between its own two threads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use crate::DeviceStats;
use crate::calls::Calls;
use crate::drops::DropCounters;
use crate::greetings::Greetings;
use crate::identity::Identity;
use crate::inbox::Inbox;
use crate::net::Sockets;
use crate::peer::Peer;
use crate::sys::clock::since_boot;
use crate::table::Table;
use crate::tun::Tun;
use crate::turn::Turn;
use crate::wake::Wake;

pub(crate) struct Shared {
    pub(crate) tun: Tun,
    pub(crate) mtu: u16,
    pub(crate) inbox: Inbox,
    pub(crate) greetings: Greetings,
    pub(crate) drops: DropCounters,
    pub(crate) calls: Calls,
    pub(crate) wakes: Wakes,
    /// One for each queue.
    pub(crate) turns: Vec<Turn>,
    /// Held by whoever changes anything, so that changes do not interleave.
    writer: Mutex<()>,
    table: RwLock<Table>,
    sockets: RwLock<Arc<Sockets>>,
    identity: RwLock<Option<Arc<Identity>>>,
    mark: AtomicU32,
    /// Set as soon as packets may be taken.
    passing: OnceLock<()>,
    closing: AtomicBool,
    /// By the clock that goes on while the machine sleeps.
    started: Duration,
}

/// What wakes each thread that waits in poll.
pub(crate) struct Wakes {
    /// One for each queue.
    pub(crate) egress: Vec<Wake>,
    pub(crate) ingress: Vec<Wake>,
    pub(crate) uapi: Wake,
}

impl Shared {
    pub(crate) fn new(tun: Tun, mtu: u16, sockets: Sockets, wakes: Wakes) -> Self {
        Self {
            tun,
            mtu,
            inbox: Inbox::default(),
            greetings: Greetings::default(),
            drops: DropCounters::default(),
            turns: wakes.egress.iter().map(|_| Turn::default()).collect(),
            calls: Calls::new(wakes.ingress.len()),
            wakes,
            writer: Mutex::default(),
            table: RwLock::default(),
            sockets: RwLock::new(Arc::new(sockets)),
            identity: RwLock::default(),
            mark: AtomicU32::new(0),
            passing: OnceLock::new(),
            closing: AtomicBool::new(false),
            started: since_boot(),
        }
    }

    /// Milliseconds since the device was made.
    pub(crate) fn now(&self) -> u64 {
        since_boot().saturating_sub(self.started).as_millis() as u64
    }

    pub(crate) fn stats(&self) -> DeviceStats {
        DeviceStats {
            public_key: self.identity().map(|identity| identity.public_key()),
            peers: self.table().stats(),
            listen_port: self.sockets().port(),
            fwmark: self.mark(),
            drops: self.drops.read(),
        }
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer to which a receiver index was given.
    pub(crate) fn peer_by_receiver_index(&self, index: Option<u32>) -> Option<Arc<Peer>> {
        self.table().by_receiver_index(index?).cloned()
    }

    /// All peers, to be gone through without holding the table.
    pub(crate) fn all_peers(&self) -> Vec<Arc<Peer>> {
        self.table().peers().cloned().collect()
    }

    pub(crate) fn sockets(&self) -> Arc<Sockets> {
        Arc::clone(&self.sockets.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace_sockets(&self, sockets: Sockets) {
        *self.sockets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sockets);
        // They wait at the old ones, which are closed when all let go of them.
        self.wakes.ingress.iter().for_each(Wake::signal);
    }

    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_identity(&self, identity: Option<Arc<Identity>>) {
        *self.identity.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(crate) fn mark(&self) -> u32 {
        self.mark.load(Ordering::Relaxed)
    }

    pub(crate) fn set_mark(&self, mark: u32) {
        self.mark.store(mark, Ordering::Relaxed);
    }

    /// Lets the threads that move packets begin.
    pub(crate) fn pass_packets(&self) {
        self.passing.get_or_init(|| ());
    }

    /// Waits until packets may be taken, or the device is closed.
    pub(crate) fn wait_to_pass_packets(&self) {
        self.passing.wait();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Asks every thread to end.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.pass_packets();
        self.inbox.close();
        self.wakes.egress.iter().chain(&self.wakes.ingress).for_each(Wake::signal);
        self.wakes.uapi.signal();
    }
}
