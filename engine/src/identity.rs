//! The device's own key, and what follows from it: who knocks, and how often.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::noise::cookie::{self, Gate, Proof};
use crate::noise::handshake::Local;
use crate::noise::message::{COOKIE_REPLY, Handshake};
use crate::source_limit::Load;
use crate::{PublicKey, Secret, random};

pub(crate) struct Identity {
    secret: Secret,
    pub(crate) local: Local,
    door: Mutex<Door>,
}

struct Door {
    gate: Gate,
    /// Of messages that knew our key: while there are too many, they have to bring a cookie (WireGuard paper, section 5.3).
    load: Load,
}

/// What is to be done with a handshake message.
pub(crate) enum Judgement<'a> {
    Passed(Handshake<'a>),
    /// Too many now: this is to be sent back.
    Deferred([u8; COOKIE_REPLY]),
    Rejected,
}

impl Identity {
    /// `None` if the kernel has no randomness.
    pub(crate) fn new(secret: Secret, now: u64) -> Option<Self> {
        let local = Local::new(&secret);
        let gate = Gate::new(local.public(), random::bytes()?, now);
        Some(Self { secret, local, door: Mutex::new(Door { gate, load: Load::default() }) })
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        *self.local.public()
    }

    /// Checks a message's MACs, before anything expensive is done with it.
    pub(crate) fn judge<'a>(&self, message: &'a [u8], from: SocketAddr, now: u64) -> Judgement<'a> {
        let Some(handshake) = Handshake::parse(message) else { return Judgement::Rejected };
        if matches!(handshake, Handshake::CookieReply(_)) {
            return Judgement::Passed(handshake);
        }
        let mut door = self.door();
        let proof = door.gate.judge(message, from, now);
        if proof == Proof::Nothing {
            return Judgement::Rejected;
        }
        if !door.load.add(now) || proof == Proof::OwnsAddress {
            return Judgement::Passed(handshake);
        }
        let reply = random::bytes().and_then(|nonce| door.gate.reply(message, from, nonce));
        reply.map_or(Judgement::Rejected, Judgement::Deferred)
    }

    /// Whether a message returns a cookie of ours. Costs next to nothing if it returns none at all.
    pub(crate) fn has_cookie(&self, message: &[u8], from: SocketAddr, now: u64) -> bool {
        !cookie::is_bare(message) && self.door().gate.judge(message, from, now) == Proof::OwnsAddress
    }

    /// To be called now and then: cookies are made with a new secret every two minutes.
    pub(crate) fn tick(&self, now: u64) {
        let mut door = self.door();
        if door.gate.wants_secret(now)
            && let Some(secret) = random::bytes()
        {
            door.gate.set_secret(secret, now);
        }
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::cookie::Stamp;
    use crate::noise::message::new_response;
    use crate::source_limit::UNDER_LOAD;

    #[test]
    fn beyond_the_limit_an_address_must_be_proven() {
        let identity = Identity::new(Secret::from([1; 32]), 0).unwrap();
        let from = "192.0.2.1:1".parse().unwrap();
        let mut stamp = Stamp::new(&identity.public_key());
        let mut message = new_response(1, 2);
        assert!(matches!(identity.judge(&message, from, 0), Judgement::Rejected), "without MAC");
        stamp.stamp(&mut message, 0);
        for _ in 0..UNDER_LOAD {
            assert!(matches!(identity.judge(&message, from, 0), Judgement::Passed(_)));
        }
        let Judgement::Deferred(reply) = identity.judge(&message, from, 999) else { panic!("passed") };
        assert!(matches!(identity.judge(&reply, from, 999), Judgement::Passed(_)), "cookie replies cost little");
        assert!(!identity.has_cookie(&message, from, 999));
        assert!(stamp.take_reply(&reply, 999));
        stamp.stamp(&mut message, 999);
        assert!(identity.has_cookie(&message, from, 999));
        assert!(!identity.has_cookie(&message, "192.0.2.2:1".parse().unwrap(), 999), "another's cookie");
        assert!(matches!(identity.judge(&message, from, 999), Judgement::Passed(_)));
        assert!(matches!(identity.judge(&message, from, 2000), Judgement::Passed(_)), "another second");
    }
}
