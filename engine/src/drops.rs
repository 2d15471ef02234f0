//! Counters of packets that went nowhere. Many threads add, anybody reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Drops;

/// Why a packet went nowhere. Each cause is the field of that name in [`Drops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    TunMalformed,
    NoPeer,
    NoEndpoint,
    NoPrivateKey,
    NoSession,
    UdpSend,
    UdpMalformed,
    UnknownIndex,
    NotAuthenticated,
    PacketMalformed,
    SourceNotAllowed,
    TunWrite,
    HandshakeOverflow,
    HandshakeRejected,
    HandshakeDeferred,
}

const CAUSES: usize = Cause::HandshakeDeferred as usize + 1;

#[derive(Default)]
pub(crate) struct DropCounters([AtomicU64; CAUSES]);

impl DropCounters {
    pub(crate) fn add(&self, cause: Cause, packets: usize) {
        self.0[cause as usize].fetch_add(packets as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Drops {
        let count = |cause: Cause| self.0[cause as usize].load(Ordering::Relaxed);
        Drops {
            tun_malformed: count(Cause::TunMalformed),
            no_peer: count(Cause::NoPeer),
            no_endpoint: count(Cause::NoEndpoint),
            no_private_key: count(Cause::NoPrivateKey),
            no_session: count(Cause::NoSession),
            udp_send: count(Cause::UdpSend),
            udp_malformed: count(Cause::UdpMalformed),
            unknown_index: count(Cause::UnknownIndex),
            not_authenticated: count(Cause::NotAuthenticated),
            packet_malformed: count(Cause::PacketMalformed),
            source_not_allowed: count(Cause::SourceNotAllowed),
            tun_write: count(Cause::TunWrite),
            handshake_overflow: count(Cause::HandshakeOverflow),
            handshake_rejected: count(Cause::HandshakeRejected),
            handshake_deferred: count(Cause::HandshakeDeferred),
        }
    }
}
