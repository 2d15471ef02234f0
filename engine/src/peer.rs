//! One peer: its Noise state machine (`boringtun::noise::Tunn`), where it is, and its statistics.
//!
//! The only module that knows `Tunn`. Everything is pure bookkeeping: bytes to send go to an
//! [`Outbox`], and no lock is held when that is sent.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use crate::PublicKey;
use crate::identity::Identity;
use crate::outbox::{Kind, Outbox};
use crate::packet;
use crate::segment::Segments;
use crate::{PeerStats, Secret};

/// Bytes a data message has beyond the packet: header and tag (WireGuard paper, section 5.4.6).
pub(crate) const DATA_OVERHEAD: usize = 32;
/// Packets are padded to a multiple of this, within the MTU.
const PADDING: usize = 16;
/// The longest handshake message: what any datagram of `Tunn`'s own making needs.
const HANDSHAKE_ROOM: usize = 148;
/// DSCP AF41, which Linux gives to handshakes (`HANDSHAKE_DSCP` in `messages.h`).
pub(crate) const HANDSHAKE_TRAFFIC_CLASS: u8 = 0x88;
/// `Tunn` keeps at most this many packets while it has no session.
const MAX_STAGED: usize = 256;
/// First byte of a data message.
const TYPE_DATA: u8 = 4;

pub(crate) struct Peer {
    public_key: PublicKey,
    /// The upper 24 bits of every index we give out for this peer.
    index: u32,
    tunnel: Mutex<Tunnel>,
    endpoint: Mutex<Option<SocketAddr>>,
    last_handshake: Mutex<Option<SystemTime>>,
    persistent_keepalive: AtomicU16,
    /// A keepalive is to be sent as soon as the interface is up and an endpoint known.
    keepalive_due: AtomicBool,
    /// When any authenticated packet last went either way, in device milliseconds.
    last_traffic: AtomicU64,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
}

#[derive(Default)]
struct Tunnel {
    /// `None` while the device has no private key.
    noise: Option<Tunn>,
    preshared_key: Option<Secret>,
    unconfirmed: Unconfirmed,
}

/// Sessions made in answer to initiations, until data arrives on them: only then is it certain
/// that the initiation was not a replay (WireGuard paper, section 5.1). `Tunn` keeps as many.
#[derive(Default)]
struct Unconfirmed([Option<u32>; 8]);

impl Unconfirmed {
    fn slot(&mut self, index: u32) -> &mut Option<u32> {
        &mut self.0[index as usize % 8]
    }

    fn add(&mut self, index: u32) {
        *self.slot(index) = Some(index);
    }

    /// Whether data with this index is the first that confirms its session.
    fn confirm(&mut self, index: u32) -> bool {
        self.slot(index).take_if(|waiting| *waiting == index).is_some()
    }
}

/// Why nothing can be sent to a peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsendable {
    NoEndpoint,
    NoPrivateKey,
}

/// What a run of data messages contained.
#[derive(Default)]
pub(crate) struct Opened {
    /// Where in the buffer the inner packets lie.
    pub(crate) packets: Vec<Range<usize>>,
    /// Messages with wrong tag, replayed counter, or without session.
    pub(crate) rejected: usize,
}

impl Peer {
    pub(crate) fn new(public_key: PublicKey, index: u32) -> Self {
        Self {
            public_key,
            index,
            tunnel: Mutex::new(Tunnel::default()),
            endpoint: Mutex::default(),
            last_handshake: Mutex::default(),
            persistent_keepalive: AtomicU16::new(0),
            keepalive_due: AtomicBool::new(false),
            last_traffic: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        *lock(&self.endpoint)
    }

    pub(crate) fn set_endpoint(&self, endpoint: SocketAddr) {
        *lock(&self.endpoint) = Some(endpoint);
    }

    pub(crate) fn preshared_key(&self) -> Option<Secret> {
        lock(&self.tunnel).preshared_key.clone()
    }

    pub(crate) fn persistent_keepalive(&self) -> u16 {
        self.persistent_keepalive.load(Ordering::Relaxed)
    }

    /// Sets the interval in seconds. Turning it on makes a first one due, as in Linux.
    pub(crate) fn set_persistent_keepalive(&self, seconds: u16) {
        let before = self.persistent_keepalive.swap(seconds, Ordering::Relaxed);
        if before == 0 && seconds != 0 {
            self.keepalive_due.store(true, Ordering::Relaxed);
        }
    }

    /// Begins anew with these keys: sessions and handshakes in progress are forgotten.
    pub(crate) fn rekey(&self, identity: Option<&Identity>, preshared_key: Option<Secret>) {
        let noise = identity.map(|identity| self.new_noise(identity, preshared_key.as_ref()));
        *lock(&self.tunnel) = Tunnel { noise, preshared_key, unconfirmed: Unconfirmed::default() };
        self.keepalive_due_if_persistent();
    }

    fn new_noise(&self, identity: &Identity, preshared_key: Option<&Secret>) -> Tunn {
        Tunn::new(
            identity.private_key(),
            x25519::PublicKey::from(self.public_key),
            preshared_key.map(|key| *key.as_bytes()),
            // The interval of a `Tunn` cannot be changed, so it is kept here.
            None,
            self.index,
            Some(Arc::clone(identity.unlimited())),
        )
    }

    /// To be called when the interface comes up.
    pub(crate) fn keepalive_due_if_persistent(&self) {
        if self.persistent_keepalive() != 0 {
            self.keepalive_due.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn stats(&self) -> PeerStats {
        PeerStats {
            public_key: self.public_key,
            endpoint: self.endpoint(),
            last_handshake: *lock(&self.last_handshake),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            persistent_keepalive: self.persistent_keepalive(),
            allowed_ips: Vec::new(),
        }
    }

    /// Seals segments until they or the outbox's room come to an end; without a session they
    /// are staged and a handshake is started. `scratch` must hold any segment and its padding.
    pub(crate) fn seal(
        &self,
        segments: &mut Segments<'_>,
        scratch: &mut [u8],
        mtu: usize,
        outbox: &mut Outbox,
        now: u64,
    ) -> Result<Progress, Unsendable> {
        let endpoint = self.endpoint().ok_or(Unsendable::NoEndpoint)?;
        let ecn = packet::ecn(segments.packet());
        let room = (segments.longest() + PADDING + DATA_OVERHEAD).max(HANDSHAKE_ROOM);
        let mut tunnel = lock(&self.tunnel);
        let noise = tunnel.noise.as_mut().ok_or(Unsendable::NoPrivateKey)?;
        while outbox.has_room(room) {
            let Some(len) = segments.next_into(scratch) else { return Ok(Progress::Finished) };
            let padded = padded_len(len, mtu);
            scratch[len..padded].fill(0);
            let written = Written::of(noise.encapsulate(&scratch[..padded], outbox.space()));
            self.commit(written, endpoint, ecn, outbox, now);
        }
        Ok(Progress::OutboxFull)
    }

    /// Opens data messages into `buffer` from `at` on. The buffer must have room for all.
    pub(crate) fn open<'a>(
        &self,
        messages: impl Iterator<Item = &'a [u8]>,
        from: SocketAddr,
        (buffer, mut at): (&mut [u8], usize),
        opened: &mut Opened,
        outbox: &mut Outbox,
        now: u64,
    ) {
        opened.packets.clear();
        opened.rejected = 0;
        let mut bytes = 0;
        let mut tunnel = lock(&self.tunnel);
        let Tunnel { noise, unconfirmed, .. } = &mut *tunnel;
        let mut confirmed = false;
        for message in messages {
            let Some(noise) = noise else {
                opened.rejected += 1;
                continue;
            };
            match noise.decapsulate(None, message, &mut buffer[at..]) {
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    opened.packets.push(at..at + packet.len());
                    at += packet.len();
                }
                // An empty message: a keepalive.
                TunnResult::Done => {}
                TunnResult::Err(_) | TunnResult::WriteToNetwork(_) => {
                    opened.rejected += 1;
                    continue;
                }
            }
            bytes += message.len();
            confirmed |= receiver_index(message).is_some_and(|index| unconfirmed.confirm(index));
        }
        if bytes > 0 {
            self.heard(bytes, from, now);
        }
        if confirmed {
            self.handshake_completed();
            self.send_staged(tunnel, outbox, now);
        }
    }

    /// Handles a handshake message whose MAC was verified. Returns whether it was accepted.
    pub(crate) fn handshake(&self, message: &[u8], from: SocketAddr, outbox: &mut Outbox, now: u64) -> bool {
        let mut tunnel = lock(&self.tunnel);
        let Some(noise) = tunnel.noise.as_mut() else { return false };
        outbox.make_room(HANDSHAKE_ROOM);
        let written = match noise.decapsulate(Some(from.ip()), message, outbox.space()) {
            TunnResult::Err(_) => return false,
            result => Written::of(result),
        };
        match written {
            // A cookie. Not authenticated by the peer's key, so it moves no endpoint.
            None => {}
            // A response, answered with a keepalive: the session stands.
            Some(Written { kind: Kind::Data, .. }) => {
                self.heard(message.len(), from, now);
                self.handshake_completed();
                self.commit(written, from, 0, outbox, now);
                self.send_staged(tunnel, outbox, now);
            }
            // An initiation, answered with a response. It may be a replay sent from elsewhere:
            // the response goes there, but the peer's endpoint stays until data confirms it.
            Some(Written { index, .. }) => {
                tunnel.unconfirmed.add(index);
                self.rx_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
                self.commit(written, from, 0, outbox, now);
            }
        }
        true
    }

    /// Lets time pass: retries handshakes, renews and forgets sessions, sends keepalives.
    pub(crate) fn tick(&self, interface_up: bool, outbox: &mut Outbox, now: u64) {
        let endpoint = self.endpoint();
        let mut tunnel = lock(&self.tunnel);
        let Some(noise) = tunnel.noise.as_mut() else { return };
        // Also when nothing can be sent: it is what moves the state machine's clock.
        outbox.make_room(HANDSHAKE_ROOM);
        let written = Written::of(noise.update_timers(outbox.space()));
        let Some(endpoint) = endpoint.filter(|_| interface_up) else { return };
        self.commit(written, endpoint, 0, outbox, now);
        if self.is_keepalive_due(now) {
            outbox.make_room(HANDSHAKE_ROOM);
            let written = Written::of(if noise.time_since_last_handshake().is_some() {
                noise.encapsulate(&[], outbox.space())
            } else {
                noise.format_handshake_initiation(outbox.space(), false)
            });
            self.commit(written, endpoint, 0, outbox, now);
        }
    }

    fn is_keepalive_due(&self, now: u64) -> bool {
        let interval = u64::from(self.persistent_keepalive()) * 1000;
        let silence = now.saturating_sub(self.last_traffic.load(Ordering::Relaxed));
        self.keepalive_due.swap(false, Ordering::Relaxed) || (interval != 0 && silence >= interval)
    }

    /// Sends what waited for a session.
    fn send_staged(&self, mut tunnel: MutexGuard<'_, Tunnel>, outbox: &mut Outbox, now: u64) {
        let (Some(endpoint), Some(noise)) = (self.endpoint(), tunnel.noise.as_mut()) else { return };
        for _ in 0..MAX_STAGED {
            outbox.make_room(usize::from(u16::MAX) + DATA_OVERHEAD);
            let written = Written::of(noise.decapsulate(None, &[], outbox.space()));
            if written.is_none() {
                return;
            }
            self.commit(written, endpoint, 0, outbox, now);
        }
    }

    /// Accepts what `Tunn` wrote to the outbox's space, if it did.
    fn commit(&self, written: Option<Written>, to: SocketAddr, ecn: u8, outbox: &mut Outbox, now: u64) {
        let Some(Written { len, kind, .. }) = written else { return };
        let traffic_class = if kind == Kind::Data { ecn } else { HANDSHAKE_TRAFFIC_CLASS };
        self.sent(len, now);
        outbox.commit(len, to, traffic_class, kind);
    }

    fn sent(&self, bytes: usize, now: u64) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_traffic.store(now, Ordering::Relaxed);
    }

    /// An authenticated message arrived: its source is where the peer is now.
    fn heard(&self, bytes: usize, from: SocketAddr, now: u64) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last_traffic.store(now, Ordering::Relaxed);
        let mut endpoint = lock(&self.endpoint);
        if *endpoint != Some(from) {
            *endpoint = Some(from);
        }
    }

    fn handshake_completed(&self) {
        *lock(&self.last_handshake) = Some(SystemTime::now());
    }
}

/// How far sealing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Finished,
    /// Send what is in the outbox and go on.
    OutboxFull,
}

/// The length to send instead of `len`: padded, but not beyond the MTU.
fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu).max(len)
}

/// The index after the type: the receiver's in a data message.
pub(crate) fn receiver_index(message: &[u8]) -> Option<u32> {
    message.get(4..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// A message that `Tunn` has written.
#[derive(Clone, Copy)]
struct Written {
    len: usize,
    kind: Kind,
    /// The first index in it: the receiver's in a data message, ours in a handshake.
    index: u32,
}

impl Written {
    fn of(result: TunnResult<'_>) -> Option<Self> {
        let TunnResult::WriteToNetwork(message) = result else { return None };
        let kind = if message.first() == Some(&TYPE_DATA) { Kind::Data } else { Kind::Handshake };
        Some(Self { len: message.len(), kind, index: receiver_index(message)? })
    }
}

/// A panic of another thread leaves nothing half-done that would matter here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_confirmed_once() {
        let mut unconfirmed = Unconfirmed::default();
        unconfirmed.add(0x101);
        unconfirmed.add(0x102);
        assert!(!unconfirmed.confirm(0x109), "another session in the same slot");
        assert!(unconfirmed.confirm(0x101));
        assert!(!unconfirmed.confirm(0x101));
        assert!(unconfirmed.confirm(0x102));
    }

    #[test]
    fn padding_stays_within_the_mtu() {
        for (len, padded) in [(1, 16), (16, 16), (17, 32), (1409, 1420), (1420, 1420), (1500, 1500)] {
            assert_eq!(padded_len(len, 1420), padded, "{len}");
        }
    }
}
