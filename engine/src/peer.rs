//! One peer: its sessions, the handshake in progress, where it is, and its statistics.
//!
//! Everything is bookkeeping: bytes to send go to an [`Outbox`], and no lock is held when that is sent. The data path
//! takes [`send`](Peer::send) and [`open`](Peer::open), from any number of threads, and holds a lock only to pick a
//! session. All the rest is the control thread's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::identity::Identity;
use crate::noise::cookie::Stamp;
use crate::noise::crypto;
use crate::noise::handshake::{self, Identified, Initiated, Remote, Timestamp};
use crate::noise::message::{COOKIE_REPLY, DATA_HEADER, DATA_OVERHEAD, INITIATION, RESPONSE};
use crate::noise::session::{Keys, Session};
use crate::noise::timers::{Initiation, MAX_JITTER, REKEY_TIMEOUT, Timers};
use crate::outbox::{Kind, Outbox};
use crate::path::Path;
use crate::segment::Segments;
use crate::{PeerStats, PublicKey, Secret, packet, random};

/// Packets are padded to a multiple of this, within the MTU.
const PADDING: usize = 16;
/// DSCP AF41, which Linux gives to handshakes, but not to cookie replies (`HANDSHAKE_DSCP` in `messages.h`).
const HANDSHAKE_TRAFFIC_CLASS: u8 = 0x88;
/// Most packets that wait for a session; the oldest go first (`MAX_STAGED_PACKETS`).
const MAX_STAGED: usize = 128;
/// Most sessions that are only received with. Linux has one, as with it the answer to a handshake ends one's own. Here both
/// go on where both sides begin at once, so that neither waits for a retry, and then each sends with the session that it
/// began. When both renew these at once, the other's old one, the other's new one and our old one are in use for a moment.
const MAX_PREVIOUS: usize = 3;
/// Milliseconds between two initiations that are answered (`INITIATIONS_PER_SECOND`).
const MIN_INITIATION_GAP: u64 = 20;

pub(crate) struct Peer {
    public_key: PublicKey,
    /// The upper 24 bits of every index we give out for this peer.
    index: u32,
    sessions: RwLock<Sessions>,
    handshake: Mutex<Handshake>,
    /// Packets that wait for a session.
    staged: Mutex<VecDeque<Vec<u8>>>,
    timers: Timers,
    call: Call,
    /// Whether there are keys for a handshake.
    has_keys: AtomicBool,
    path: RwLock<Option<Path>>,
    last_handshake: Mutex<Option<SystemTime>>,
    persistent_keepalive: AtomicU16,
    /// A keepalive is to be sent as soon as the interface is up and an endpoint known.
    keepalive_due: AtomicBool,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
}

/// The sessions of a peer, as in Linux' `noise_keypairs`.
#[derive(Default)]
struct Sessions {
    /// The one to send with.
    current: Option<Arc<Session>>,
    /// Those before, the newest first, for what is still under way.
    previous: Vec<Arc<Session>>,
    /// Made in answer to an initiation, and used once the peer has confirmed it by data: only then is it certain that
    /// the initiation was not a replay (WireGuard paper, section 5.1).
    next: Option<Arc<Session>>,
}

impl Sessions {
    fn add(&mut self, session: Arc<Session>, initiator: bool, now: u64) {
        if initiator {
            let replaced = [self.next.take(), self.current.replace(session)];
            self.retire(replaced.into_iter().flatten(), now);
        } else {
            self.next = Some(session);
        }
    }

    fn by_index(&self, index: u32) -> Option<Arc<Session>> {
        let mut all = self.current.iter().chain(&self.next).chain(&self.previous);
        all.find(|session| session.local_index == index).cloned()
    }

    /// Whether this was the session that waited for confirmation.
    fn confirm(&mut self, session: &Arc<Session>, now: u64) -> bool {
        let Some(waited) = self.next.take_if(|next| Arc::ptr_eq(next, session)) else { return false };
        let replaced = self.current.replace(waited);
        self.retire(replaced.into_iter(), now);
        true
    }

    /// Keeps what is not sent with any more for as long as the peer may send with it.
    fn retire(&mut self, replaced: impl Iterator<Item = Arc<Session>>, now: u64) {
        self.previous.splice(..0, replaced);
        self.previous.retain(|session| session.is_alive(now));
        self.previous.truncate(MAX_PREVIOUS);
    }
}

/// What the control thread needs for handshakes with this peer.
struct Handshake {
    /// `None` while the device has no private key, or no handshake with the peer's key is possible.
    keys: Option<(Arc<Identity>, Remote)>,
    preshared_key: Option<Secret>,
    stamp: Stamp,
    initiated: Option<Initiated>,
    /// That of the last initiation that was answered.
    latest_timestamp: Timestamp,
    answered_at: Option<u64>,
    /// When an initiation or a response was sent last.
    sent_at: Option<u64>,
    /// The lower 8 bits of the next index.
    next_index: u8,
}

/// A call of the data path for a handshake.
#[derive(Default)]
struct Call(AtomicU8);

impl Call {
    const MADE: u8 = 1;
    const REPORTED: u8 = 2;

    fn make(&self) {
        // Most often it has been made or there is none to make, and only reading is cheap.
        if self.0.load(Ordering::Relaxed) == 0 {
            let _ = self.0.compare_exchange(0, Self::MADE, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether there is one that the control thread has not been told of.
    fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::MADE
            && self.0.compare_exchange(Self::MADE, Self::REPORTED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Why nothing can be sent to a peer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsendable {
    NoEndpoint,
    NoPrivateKey,
}

/// How far sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Finished,
    /// Send what is in the outbox and go on.
    OutboxFull,
    /// Everything waits for a session now; so many older packets made room.
    Staged(usize),
}

/// What a run of data messages contained.
#[derive(Default)]
pub(crate) struct Opened {
    /// Counters of the inner packets, and where in the buffer they lie, with their padding.
    pub(crate) packets: Vec<(u64, Range<usize>)>,
    /// Messages with wrong tag, replayed counter, or without session.
    pub(crate) rejected: usize,
}

impl Peer {
    pub(crate) fn new(public_key: PublicKey, index: u32) -> Self {
        Self {
            public_key,
            index,
            sessions: RwLock::default(),
            handshake: Mutex::new(Handshake {
                keys: None,
                preshared_key: None,
                stamp: Stamp::new(&public_key),
                initiated: None,
                latest_timestamp: Timestamp::default(),
                answered_at: None,
                sent_at: None,
                next_index: 0,
            }),
            staged: Mutex::default(),
            timers: Timers::default(),
            call: Call::default(),
            has_keys: AtomicBool::new(false),
            path: RwLock::default(),
            last_handshake: Mutex::default(),
            persistent_keepalive: AtomicU16::new(0),
            keepalive_due: AtomicBool::new(false),
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
        self.path().map(|path| path.remote)
    }

    /// From now on the peer is there, until it is heard from elsewhere.
    pub(crate) fn set_endpoint(&self, endpoint: SocketAddr) {
        if self.endpoint() != Some(endpoint) {
            self.set_path(endpoint.into());
        }
    }

    fn path(&self) -> Option<Path> {
        *self.path.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_path(&self, path: Path) {
        *self.path.write().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }

    pub(crate) fn preshared_key(&self) -> Option<Secret> {
        lock(&self.handshake).preshared_key.clone()
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

    /// Begins anew with these keys: sessions and handshakes in progress are forgotten. Initiations that were answered
    /// stay known, so that none can be replayed.
    pub(crate) fn rekey(&self, identity: Option<&Arc<Identity>>, preshared_key: Option<Secret>) {
        let mut handshake = lock(&self.handshake);
        handshake.keys = identity.and_then(|identity| {
            let remote = Remote::new(&identity.local, self.public_key, preshared_key.as_ref())?;
            Some((Arc::clone(identity), remote))
        });
        handshake.preshared_key = preshared_key;
        handshake.initiated = None;
        handshake.sent_at = None;
        self.has_keys.store(handshake.keys.is_some(), Ordering::Relaxed);
        self.timers.reset();
        self.call.clear();
        *self.sessions_mut() = Sessions::default();
        drop(handshake);
        self.keepalive_due_if_persistent();
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

    /// Calls for a handshake, unless there is a session or nowhere to send to. Returns whether it did.
    pub(crate) fn greet(&self, now: u64) -> bool {
        let calls = self.path().is_some() && self.session(now).is_none();
        if calls {
            self.call.make();
        }
        calls
    }

    /// Whether the control thread is to be told to look at this peer soon.
    pub(crate) fn takes_call(&self) -> bool {
        self.call.take()
    }

    /// Puts segments into the outbox until they or its room come to an end; without a session they are staged and a
    /// handshake is called for.
    pub(crate) fn send(
        &self,
        segments: &mut Segments<'_>,
        mtu: usize,
        outbox: &mut Outbox,
        now: u64,
    ) -> Result<Progress, Unsendable> {
        let path = self.path().ok_or(Unsendable::NoEndpoint)?;
        let Some(session) = self.session(now) else { return self.stage(segments, outbox, now, mtu) };
        let ecn = packet::outer_ecn(segments.packet());
        let room = segments.longest() + PADDING + DATA_OVERHEAD;
        let (mut bytes, mut progress) = (0, Progress::OutboxFull);
        while outbox.has_room(room) {
            let space = outbox.space();
            let Some(len) = segments.next_into(&mut space[DATA_HEADER..]) else {
                progress = Progress::Finished;
                break;
            };
            let Some(len) = begin_message(&session, space, len, mtu) else { break };
            outbox.commit_unsealed(len, path, ecn, &session);
            bytes += len;
        }
        self.sent_with(&session, bytes, true, now);
        Ok(progress)
    }

    /// The session to send with.
    fn session(&self, now: u64) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.current.as_ref().filter(|session| session.is_alive(now)).cloned()
    }

    fn stage(
        &self,
        segments: &mut Segments<'_>,
        outbox: &mut Outbox,
        now: u64,
        mtu: usize,
    ) -> Result<Progress, Unsendable> {
        if !self.has_keys.load(Ordering::Relaxed) {
            return Err(Unsendable::NoPrivateKey);
        }
        let mut lost = 0;
        let mut staged = lock(&self.staged);
        let mut packet = vec![0; segments.longest()];
        while let Some(len) = segments.next_into(&mut packet) {
            if staged.len() == MAX_STAGED {
                staged.pop_front();
                lost += 1;
            }
            staged.push_back(packet[..len].to_vec());
        }
        drop(staged);
        self.call.make();
        // A session may have come while this was written.
        self.send_staged(mtu, outbox, now);
        Ok(Progress::Staged(lost))
    }

    /// Sends what waited for a session, if there is one. Returns whether anything was sent.
    fn send_staged(&self, mtu: usize, outbox: &mut Outbox, now: u64) -> bool {
        let (Some(path), Some(session)) = (self.path(), self.session(now)) else { return false };
        let staged = std::mem::take(&mut *lock(&self.staged));
        let mut bytes = 0;
        for packet in &staged {
            outbox.make_room(packet.len() + PADDING + DATA_OVERHEAD);
            let space = outbox.space();
            space[DATA_HEADER..][..packet.len()].copy_from_slice(packet);
            let Some(len) = begin_message(&session, space, packet.len(), mtu) else { break };
            outbox.commit_unsealed(len, path, packet::outer_ecn(packet), &session);
            bytes += len;
        }
        self.sent_with(&session, bytes, true, now);
        bytes > 0
    }

    fn send_keepalive(&self, outbox: &mut Outbox, now: u64) {
        let (Some(path), Some(session)) = (self.path(), self.session(now)) else {
            self.call.make();
            return;
        };
        outbox.make_room(DATA_OVERHEAD);
        if let Some(len) = session.begin(outbox.space(), 0) {
            outbox.commit_unsealed(len, path, 0, &session);
            self.sent_with(&session, len, false, now);
        }
    }

    /// Opens in place the data messages at `run` of `buffer`, each of `size` bytes (the last may be shorter), which
    /// all have the receiver index `index`.
    pub(crate) fn open(
        &self,
        index: u32,
        (buffer, run, size): (&mut [u8], Range<usize>, usize),
        from: Path,
        opened: &mut Opened,
        now: u64,
    ) -> Reception {
        opened.packets.clear();
        let count = run.len().div_ceil(size);
        opened.rejected = count;
        let session = self.sessions.read().unwrap_or_else(PoisonError::into_inner).by_index(index);
        let Some(session) = session.filter(|session| session.is_alive(now)) else { return Reception::Known };
        session.open(buffer, run, size, &mut opened.packets);
        session.accept(&mut opened.packets);
        opened.rejected = count - opened.packets.len();
        if opened.packets.is_empty() {
            return Reception::Known;
        }
        let bytes = opened.packets.iter().map(|(_, packet)| packet.len() + DATA_OVERHEAD).sum();
        // Empty messages are keepalives.
        opened.packets.retain(|(_, packet)| !packet.is_empty());
        self.heard(bytes, from);
        self.timers.received(!opened.packets.is_empty(), now);
        if self.is_waiting(&session) && self.sessions_mut().confirm(&session, now) {
            self.handshake_completed();
            return Reception::Confirmed;
        }
        if session.is_stale_for_receiver(now) && self.timers.may_renew_late() {
            self.call.make();
        }
        Reception::Known
    }

    fn is_waiting(&self, session: &Arc<Session>) -> bool {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, session))
    }

    /// What is to be sent once a session was confirmed.
    pub(crate) fn confirmed(&self, mtu: usize, outbox: &mut Outbox, now: u64) {
        self.send_staged(mtu, outbox, now);
    }

    /// Answers an initiation that says it is from this peer. Returns whether it was.
    pub(crate) fn accept_initiation(
        &self,
        initiation: Identified<'_>,
        from: Path,
        outbox: &mut Outbox,
        now: u64,
    ) -> bool {
        let mut handshake = lock(&self.handshake);
        let answer = handshake.respond(initiation, |handshake| self.new_index(handshake), now);
        let Some((mut response, keys, index)) = answer else { return false };
        handshake.stamp.stamp(&mut response, now);
        handshake.sent_at = Some(now);
        self.add_session(&keys, index, now);
        drop(handshake);
        self.rx_bytes.fetch_add(INITIATION as u64, Ordering::Relaxed);
        // It may have been caught and sent on from elsewhere: the response goes there, but the peer's endpoint
        // stays until data confirms it.
        self.send_handshake(&response, from, outbox, now);
        true
    }

    /// Completes a handshake. Returns whether the response belongs to it.
    pub(crate) fn accept_response(
        &self,
        response: &[u8; RESPONSE],
        from: Path,
        mtu: usize,
        outbox: &mut Outbox,
        now: u64,
    ) -> bool {
        let mut handshake = lock(&self.handshake);
        let Some((keys, index)) = handshake.finish(response) else { return false };
        self.add_session(&keys, index, now);
        drop(handshake);
        self.heard(RESPONSE, from);
        self.handshake_completed();
        self.timers.received(false, now);
        // The peer may use the session only when it has heard something on it.
        if !self.send_staged(mtu, outbox, now) {
            self.send_keepalive(outbox, now);
        }
        true
    }

    /// Keeps a cookie for the next initiation. Not authenticated by the peer's key, so it moves no endpoint.
    pub(crate) fn accept_cookie(&self, reply: &[u8; COOKIE_REPLY], now: u64) -> bool {
        lock(&self.handshake).stamp.take_reply(reply, now)
    }

    /// One that names neither a session nor the handshake in progress: there are few of them, and many numbers.
    fn new_index(&self, handshake: &mut Handshake) -> u32 {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        loop {
            handshake.next_index = handshake.next_index.wrapping_add(1);
            let index = self.index << 8 | u32::from(handshake.next_index);
            let is_awaited = handshake.initiated.as_ref().is_some_and(|initiated| initiated.local_index() == index);
            if !is_awaited && sessions.by_index(index).is_none() {
                return index;
            }
        }
    }

    fn add_session(&self, keys: &Keys, index: u32, now: u64) {
        let session = Arc::new(Session::new(keys, index, now));
        crypto::clear_stack();
        self.sessions_mut().add(session, keys.initiator, now);
        self.timers.session_made(now);
    }

    /// Lets time pass: retries handshakes, renews and forgets sessions, sends keepalives. `since_epoch` is the wall
    /// clock. Returns how many packets have waited for a session in vain.
    pub(crate) fn tick(&self, interface_up: bool, outbox: &mut Outbox, now: u64, since_epoch: Duration) -> usize {
        let due = self.timers.due(now);
        if due.forget {
            self.forget_keys();
        }
        let lost = if due.give_up { self.forget_staged() } else { 0 };
        let Some(path) = self.path().filter(|_| interface_up) else {
            // It is due only once: kept for when it is possible.
            if due.initiation.is_some() {
                self.call.make();
            }
            return lost;
        };
        let path = if due.initiation.is_some() { self.without_own_address(path) } else { path };
        if due.keepalive || self.is_persistent_keepalive_due(now) {
            self.send_keepalive(outbox, now);
        }
        let reason = if self.call.is_open() { Some(Initiation::New) } else { due.initiation };
        if let Some(reason) = reason {
            self.initiate((reason, Timestamp::new(since_epoch)), path, outbox, now);
        }
        lost
    }

    /// Drops what waits for a session, and returns how many packets that are.
    pub(crate) fn forget_staged(&self) -> usize {
        std::mem::take(&mut *lock(&self.staged)).len()
    }

    /// No answer comes, and our address may be the reason.
    fn without_own_address(&self, path: Path) -> Path {
        if path.local.is_some() {
            self.set_path(path.routed());
        }
        path.routed()
    }

    fn is_persistent_keepalive_due(&self, now: u64) -> bool {
        let interval = u64::from(self.persistent_keepalive()) * 1000;
        self.keepalive_due.swap(false, Ordering::Relaxed) || (interval != 0 && self.timers.silence(now) >= interval)
    }

    fn initiate(&self, (reason, timestamp): (Initiation, Timestamp), path: Path, outbox: &mut Outbox, now: u64) {
        let mut handshake = lock(&self.handshake);
        if handshake.sent_at.is_some_and(|at| now.saturating_sub(at) < REKEY_TIMEOUT) {
            // As soon as it may be: what was sent last may be an answer that got lost, and nothing else reminds of it.
            self.call.make();
            return;
        }
        let index = self.new_index(&mut handshake);
        let Some(mut initiation) = handshake.initiate(index, timestamp) else { return };
        handshake.stamp.stamp(&mut initiation, now);
        handshake.sent_at = Some(now);
        drop(handshake);
        self.call.clear();
        let jitter = random::number().map_or(0, |number| u64::from(number) % MAX_JITTER);
        self.timers.initiation_sent(reason, jitter, now);
        self.send_handshake(&initiation, path, outbox, now);
    }

    fn send_handshake(&self, message: &[u8], to: Path, outbox: &mut Outbox, now: u64) {
        outbox.make_room(message.len());
        outbox.space()[..message.len()].copy_from_slice(message);
        outbox.commit(message.len(), to, HANDSHAKE_TRAFFIC_CLASS, Kind::Handshake);
        self.sent(message.len(), false, now);
    }

    fn forget_keys(&self) {
        lock(&self.handshake).initiated = None;
        *self.sessions_mut() = Sessions::default();
    }

    /// As [`sent`](Self::sent), for data messages, empty ones too: these are what renews a session.
    fn sent_with(&self, session: &Session, bytes: usize, data: bool, now: u64) {
        if bytes > 0 {
            self.sent(bytes, data, now);
        }
        if session.is_stale_for_sender(now) {
            self.call.make();
        }
    }

    fn sent(&self, bytes: usize, data: bool, now: u64) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.timers.sent(data, now);
    }

    /// An authenticated message arrived: its source is where the peer is now.
    fn heard(&self, bytes: usize, from: Path) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.path() != Some(from) {
            self.set_path(from);
        }
    }

    fn handshake_completed(&self) {
        self.call.clear();
        self.timers.handshake_completed();
        *lock(&self.last_handshake) = Some(SystemTime::now());
    }

    fn sessions_mut(&self) -> std::sync::RwLockWriteGuard<'_, Sessions> {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What receiving changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reception {
    /// Nothing.
    Known,
    /// A session may be used now: see [`Peer::confirmed`].
    Confirmed,
}

impl Handshake {
    fn initiate(&mut self, index: u32, timestamp: Timestamp) -> Option<[u8; INITIATION]> {
        let (identity, remote) = self.keys.as_ref()?;
        let ephemeral = handshake::ephemeral(random::bytes()?);
        let (message, initiated) = handshake::initiate(&identity.local, remote, ephemeral, timestamp, index)?;
        self.initiated = Some(initiated);
        Some(message)
    }

    /// Takes an index only for who has proven to be the peer: anybody can say so.
    fn respond(
        &mut self,
        initiation: Identified<'_>,
        new_index: impl FnOnce(&mut Self) -> u32,
        now: u64,
    ) -> Option<([u8; RESPONSE], Keys, u32)> {
        let (_, remote) = self.keys.as_ref()?;
        let authenticated = initiation.authenticate(remote)?;
        let is_flood = self.answered_at.is_some_and(|at| now.saturating_sub(at) < MIN_INITIATION_GAP);
        if is_flood || authenticated.timestamp <= self.latest_timestamp {
            return None;
        }
        self.latest_timestamp = authenticated.timestamp;
        self.answered_at = Some(now);
        let index = new_index(self);
        let (_, remote) = self.keys.as_ref()?;
        let (message, keys) = authenticated.respond(remote, handshake::ephemeral(random::bytes()?), index)?;
        Some((message, keys, index))
    }

    fn finish(&mut self, response: &[u8; RESPONSE]) -> Option<(Keys, u32)> {
        let (identity, remote) = self.keys.as_ref()?;
        let initiated = self.initiated.as_ref()?;
        let finished = (initiated.finish(&identity.local, remote, response)?, initiated.local_index());
        self.initiated = None;
        Some(finished)
    }
}

/// Begins the message of the packet of `len` bytes that stands behind the header's place in `space`.
fn begin_message(session: &Session, space: &mut [u8], len: usize, mtu: usize) -> Option<usize> {
    let padded = padded_len(len, mtu);
    space[DATA_HEADER + len..DATA_HEADER + padded].fill(0);
    session.begin(space, padded)
}

/// The length to send instead of `len`: padded, but not beyond the MTU.
fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu).max(len)
}

/// A panic of another thread leaves nothing half-done that would matter here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
