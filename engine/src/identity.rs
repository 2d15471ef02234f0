//! The device's own key, and what follows from it: who knocks, and how often.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, TunnResult};
use boringtun::x25519;

use crate::{PublicKey, Secret};

/// Handshake messages a second that are worked on without asking for a cookie first
/// (WireGuard paper, section 5.3). Each costs a quarter of a millisecond at most.
pub(crate) const HANDSHAKES_PER_SECOND: u64 = 500;

pub(crate) struct Identity {
    secret: Secret,
    public: x25519::PublicKey,
    /// Judges every handshake message once, before anything expensive is done with it.
    gate: RateLimiter,
    /// For the state machines of the peers, which check again what has passed the gate.
    unlimited: Arc<RateLimiter>,
}

/// Whom a handshake message is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Addressee {
    /// The peer with this key says it sent an initiation.
    Key(PublicKey),
    /// An answer to a message of ours that had this index.
    Index(u32),
}

/// What the gate says about a message.
pub(crate) enum Judgement<'a> {
    Passed(Packet<'a>),
    /// Too many now: the reply, of this length, has been written.
    Deferred(usize),
    Rejected,
}

impl Identity {
    pub(crate) fn new(secret: Secret) -> Self {
        let public = x25519::PublicKey::from(&secret.to_static_secret());
        Self {
            secret,
            public,
            gate: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
        }
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.public.to_bytes()
    }

    pub(crate) fn private_key(&self) -> x25519::StaticSecret {
        self.secret.to_static_secret()
    }

    pub(crate) fn unlimited(&self) -> &Arc<RateLimiter> {
        &self.unlimited
    }

    /// To be called at least once a second.
    pub(crate) fn tick(&self) {
        self.gate.reset_count();
        self.unlimited.reset_count();
    }

    /// Checks a handshake message's MACs. A reply to send back instead is written to `reply`,
    /// which must hold 64 bytes.
    pub(crate) fn judge<'a>(&self, message: &'a [u8], from: IpAddr, reply: &mut [u8]) -> Judgement<'a> {
        match self.gate.verify_packet(Some(from), message, reply) {
            Ok(packet) => Judgement::Passed(packet),
            Err(TunnResult::WriteToNetwork(cookie)) => Judgement::Deferred(cookie.len()),
            Err(_) => Judgement::Rejected,
        }
    }

    /// Finds out whom a message is for, which for an initiation takes a key agreement.
    pub(crate) fn addressee(&self, packet: &Packet<'_>) -> Option<Addressee> {
        match packet {
            Packet::HandshakeInit(initiation) => {
                let half = parse_handshake_anon(&self.private_key(), &self.public, initiation).ok()?;
                Some(Addressee::Key(half.peer_static_public))
            }
            Packet::HandshakeResponse(response) => Some(Addressee::Index(response.receiver_idx)),
            Packet::PacketCookieReply(cookie) => Some(Addressee::Index(cookie.receiver_idx)),
            Packet::PacketData(_) => None,
        }
    }
}
