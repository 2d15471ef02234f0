//! The MACs of handshake messages, and cookies (WireGuard paper, sections 5.3, 5.4.4 and 5.4.7).
//!
//! A message with a right first MAC was made by someone who knows the receiver's public key. Under load the receiver
//! answers it with a cookie instead of working on it, and the second MAC of the next try proves that its sender
//! receives at the address it sends from.

use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use super::crypto::{HASH, Key, MAC, TAG, XNONCE, equal, hash, mac, xopen, xseal};
use super::message::{COOKIE_REPLY, MACS, new_cookie_reply, u32_at};
use crate::PublicKey;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
/// Milliseconds for which a secret makes cookies.
const SECRET_AGE: u64 = 120_000;
/// Milliseconds for which a cookie is sent back: less than the above by a time that a message may travel.
const COOKIE_AGE: u64 = 115_000;

/// The two keys that a public key stands for here.
struct Labels {
    mac1: [u8; HASH],
    cookie: [u8; HASH],
}

impl Labels {
    fn of(receiver: &PublicKey) -> Self {
        Self { mac1: hash([LABEL_MAC1, receiver]), cookie: hash([LABEL_COOKIE, receiver]) }
    }
}

/// Splits a message before its MACs.
fn split(message: &[u8]) -> Option<(&[u8], &[u8; MAC], &[u8; MAC])> {
    let (body, macs) = message.split_at_checked(message.len().checked_sub(MACS)?)?;
    let (mac1, mac2) = macs.split_first_chunk()?;
    Some((body, mac1, mac2.first_chunk()?))
}

/// Whether a message's second MAC is left out, as by whoever has no cookie.
pub(crate) fn is_bare(message: &[u8]) -> bool {
    split(message).is_none_or(|(_, _, mac2)| *mac2 == [0; MAC])
}

/// What a message's MACs prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proof {
    Nothing,
    /// Its sender knows our public key.
    KnowsUs,
    /// Its sender receives at the address that it sends from, too.
    OwnsAddress,
}

/// The receiver's side.
pub(crate) struct Gate {
    labels: Labels,
    secret: Key,
    secret_from: u64,
}

impl Gate {
    /// `secret` must be random.
    pub(crate) fn new(own: &PublicKey, secret: [u8; 32], now: u64) -> Self {
        Self { labels: Labels::of(own), secret: Zeroizing::new(secret), secret_from: now }
    }

    /// Whether it is time for another secret.
    pub(crate) fn wants_secret(&self, now: u64) -> bool {
        now.saturating_sub(self.secret_from) >= SECRET_AGE
    }

    /// From now on cookies are made with this secret, which must be random.
    pub(crate) fn set_secret(&mut self, secret: [u8; 32], now: u64) {
        (self.secret, self.secret_from) = (Zeroizing::new(secret), now);
    }

    /// Looks at the MACs of an initiation or a response.
    pub(crate) fn judge(&self, message: &[u8], from: SocketAddr, now: u64) -> Proof {
        let Some((body, mac1, mac2)) = split(message) else { return Proof::Nothing };
        if !equal(&mac(&self.labels.mac1, [body]), mac1) {
            return Proof::Nothing;
        }
        let may_prove = !is_bare(message) && !self.wants_secret(now);
        if may_prove && equal(&mac(&self.cookie(from), [body, mac1]), mac2) {
            Proof::OwnsAddress
        } else {
            Proof::KnowsUs
        }
    }

    /// The answer to a message that is not worked on. `nonce` must be random.
    pub(crate) fn reply(&self, message: &[u8], from: SocketAddr, nonce: [u8; XNONCE]) -> Option<[u8; COOKIE_REPLY]> {
        let (_, mac1, _) = split(message)?;
        let sender = u32_at(message, 4)?;
        let mut cookie = self.cookie(from);
        let tag = xseal(&self.labels.cookie, &nonce, &mut cookie, mac1);
        Some(new_cookie_reply(sender, &nonce, &cookie, &tag))
    }

    fn cookie(&self, from: SocketAddr) -> [u8; MAC] {
        let port = from.port().to_be_bytes();
        match from.ip() {
            IpAddr::V4(address) => mac(&*self.secret, [&address.octets(), &port]),
            IpAddr::V6(address) => mac(&*self.secret, [&address.octets(), &port]),
        }
    }
}

/// The sender's side, one for each receiver.
pub(crate) struct Stamp {
    labels: Labels,
    /// The first MAC of the last message, which a cookie reply answers.
    last_mac1: Option<[u8; MAC]>,
    /// A cookie, and when it came.
    cookie: Option<([u8; MAC], u64)>,
}

impl Stamp {
    pub(crate) fn new(receiver: &PublicKey) -> Self {
        Self { labels: Labels::of(receiver), last_mac1: None, cookie: None }
    }

    /// Writes the MACs of an initiation or a response.
    pub(crate) fn stamp(&mut self, message: &mut [u8], now: u64) {
        let Some(body_len) = message.len().checked_sub(MACS) else { return };
        let (body, macs) = message.split_at_mut(body_len);
        let mac1 = mac(&self.labels.mac1, [body]);
        let fresh = |(_, came): &([u8; MAC], u64)| now.saturating_sub(*came) < COOKIE_AGE;
        let mac2 = self.cookie.filter(fresh).map_or([0; MAC], |(cookie, _)| mac(&cookie, [body, &mac1]));
        macs[..MAC].copy_from_slice(&mac1);
        macs[MAC..].copy_from_slice(&mac2);
        self.last_mac1 = Some(mac1);
    }

    /// Keeps the cookie in a reply to the last message. Returns whether it was one.
    pub(crate) fn take_reply(&mut self, reply: &[u8; COOKIE_REPLY], now: u64) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let Some((nonce, mut cookie, tag)) = fields(reply) else { return false };
        let genuine = xopen(&self.labels.cookie, &nonce, &mut cookie, &tag, &mac1);
        if genuine {
            // Whoever replays the reply changes nothing.
            (self.cookie, self.last_mac1) = (Some((cookie, now)), None);
        }
        genuine
    }
}

/// Nonce, sealed cookie and tag.
fn fields(reply: &[u8; COOKIE_REPLY]) -> Option<([u8; XNONCE], [u8; MAC], [u8; TAG])> {
    let (nonce, rest) = reply[8..].split_first_chunk()?;
    let (cookie, tag) = rest.split_first_chunk()?;
    Some((*nonce, *cookie, *tag.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::super::message::new_initiation;
    use super::*;

    const RECEIVER: PublicKey = [9; 32];

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_proves_an_address_until_the_secret_changes() {
        let (mut gate, mut stamp) = (Gate::new(&RECEIVER, [1; 32], 0), Stamp::new(&RECEIVER));
        let (home, elsewhere) = (from("192.0.2.1:1"), from("192.0.2.1:2"));
        let mut message = new_initiation(7);
        assert_eq!(gate.judge(&message, home, 0), Proof::Nothing);
        stamp.stamp(&mut message, 0);
        assert_eq!(gate.judge(&message, home, 0), Proof::KnowsUs);

        let reply = gate.reply(&message, home, [5; XNONCE]).unwrap();
        assert_eq!(u32_at(&reply, 4), Some(7));
        assert!(stamp.take_reply(&reply, 1));
        assert!(!stamp.take_reply(&reply, 1), "a reply is taken once");
        stamp.stamp(&mut message, 2);
        assert_eq!(gate.judge(&message, home, 2), Proof::OwnsAddress);
        assert_eq!(gate.judge(&message, elsewhere, 2), Proof::KnowsUs);
        assert_eq!(gate.judge(&message, home, SECRET_AGE), Proof::KnowsUs, "the secret is old");
        gate.set_secret([2; 32], SECRET_AGE);
        assert_eq!(gate.judge(&message, home, SECRET_AGE), Proof::KnowsUs);
        stamp.stamp(&mut message, 1 + COOKIE_AGE);
        assert_eq!(message[INITIATION_MAC2..], [0; MAC], "the cookie is old");
    }

    const INITIATION_MAC2: usize = super::super::message::INITIATION - MAC;

    #[test]
    fn replies_that_answer_nothing_are_refused() {
        let (gate, mut stamp) = (Gate::new(&RECEIVER, [1; 32], 0), Stamp::new(&RECEIVER));
        let mut message = new_initiation(7);
        Stamp::new(&RECEIVER).stamp(&mut message, 0);
        let mut reply = gate.reply(&message, from("[2001:db8::1]:1"), [5; XNONCE]).unwrap();
        assert!(!stamp.take_reply(&reply, 0), "nothing was sent");
        stamp.stamp(&mut message, 0);
        reply[63] ^= 1;
        assert!(!stamp.take_reply(&reply, 0));
        assert_eq!(gate.judge(&message[..31], from("192.0.2.1:1"), 0), Proof::Nothing);
        assert!(gate.reply(&message[..31], from("192.0.2.1:1"), [5; XNONCE]).is_none());
    }
}
