//! The handshake, Noise_IKpsk2 (WireGuard paper, sections 5.4.2 to 5.4.5). Each step takes the state before it by
//! value, so that none can be taken twice. MACs are `cookie`'s.

use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::Zeroizing;

use super::crypto::{HASH, Key, TAG, hash, kdf, open_once, seal_once};
use super::message::{INITIATION, RESPONSE, new_initiation, new_response, u32_at};
use super::session::Keys;
use crate::{PublicKey, Secret};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the parts of both messages stand.
const EPHEMERAL_OF_INITIATION: std::ops::Range<usize> = 8..40;
const STATIC: std::ops::Range<usize> = 40..88;
const TIMESTAMP: std::ops::Range<usize> = 88..116;
const EPHEMERAL_OF_RESPONSE: std::ops::Range<usize> = 12..44;
const NOTHING: std::ops::Range<usize> = 44..60;

/// This side's own key pair.
pub(crate) struct Local {
    secret: StaticSecret,
    public: PublicKey,
}

impl Local {
    pub(crate) fn new(secret: &Secret) -> Self {
        let secret = StaticSecret::from(*secret.as_bytes());
        let public = Point::from(&secret).to_bytes();
        Self { secret, public }
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }
}

/// The other side, as this side knows it.
pub(crate) struct Remote {
    public: PublicKey,
    /// What both static keys agree on: the same in every handshake.
    static_static: Key,
    preshared: Secret,
}

impl Remote {
    /// `None` if no handshake is possible with such a public key, because it has a low order.
    pub(crate) fn new(local: &Local, public: PublicKey, preshared: Option<&Secret>) -> Option<Self> {
        let static_static = agree(&local.secret, &public)?;
        let preshared = preshared.cloned().unwrap_or_else(|| Secret::from([0; 32]));
        Some(Self { public, static_static, preshared })
    }
}

/// When an initiation was made: TAI64N, in an order that bytes have too (paper, section 5.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp([u8; 12]);

impl Timestamp {
    /// The label of the second 0 of Unix time, with the ten seconds by which TAI was ahead of it.
    const EPOCH: u64 = (1 << 62) + 10;
    /// Two initiations in less time look as one: no clock is told more precisely than that.
    const GRANULARITY: u32 = 1 << 24;

    /// `since_epoch` is Unix time.
    pub(crate) fn new(since_epoch: std::time::Duration) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&Self::EPOCH.wrapping_add(since_epoch.as_secs()).to_be_bytes());
        let nanoseconds = since_epoch.subsec_nanos() & !(Self::GRANULARITY - 1);
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }
}

/// An initiator that waits for the response.
pub(crate) struct Initiated {
    symmetric: Symmetric,
    ephemeral: StaticSecret,
    local_index: u32,
}

/// Begins a handshake. `ephemeral` must be random and new.
pub(crate) fn initiate(
    local: &Local,
    remote: &Remote,
    ephemeral: StaticSecret,
    timestamp: Timestamp,
    local_index: u32,
) -> Option<([u8; INITIATION], Initiated)> {
    let mut message = new_initiation(local_index);
    let mut symmetric = Symmetric::new(&remote.public);
    let public = Point::from(&ephemeral).to_bytes();
    message[EPHEMERAL_OF_INITIATION].copy_from_slice(&public);
    symmetric.mix_ephemeral(&public);
    let key = symmetric.mix_key(&agree(&ephemeral, &remote.public)?[..]);
    symmetric.seal(&key, &local.public, &mut message[STATIC]);
    let key = symmetric.mix_key(&remote.static_static[..]);
    symmetric.seal(&key, &timestamp.0, &mut message[TIMESTAMP]);
    Some((message, Initiated { symmetric, ephemeral, local_index }))
}

impl Initiated {
    /// The index by which the response is addressed.
    pub(crate) fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Takes the response. A wrong one leaves this as it was, so that the right one may still come.
    pub(crate) fn finish(&self, local: &Local, remote: &Remote, response: &[u8; RESPONSE]) -> Option<Keys> {
        let (sender, receiver) = (u32_at(response, 4)?, u32_at(response, 8)?);
        if receiver != self.local_index {
            return None;
        }
        let theirs: PublicKey = response[EPHEMERAL_OF_RESPONSE].try_into().ok()?;
        let mut symmetric = self.symmetric.clone();
        symmetric.mix_ephemeral(&theirs);
        symmetric.mix_chain(&agree(&self.ephemeral, &theirs)?[..]);
        symmetric.mix_chain(&agree(&local.secret, &theirs)?[..]);
        let key = symmetric.mix_preshared(&remote.preshared);
        symmetric.open::<0>(&key, &response[NOTHING])?;
        let [send, receive] = symmetric.split();
        Some(Keys { send, receive, remote_index: sender, initiator: true })
    }
}

/// An initiation whose sender says who it is, which its timestamp has still to prove.
pub(crate) struct Identified<'a> {
    symmetric: Symmetric,
    message: &'a [u8; INITIATION],
    /// Who the sender says it is.
    pub(crate) public: PublicKey,
}

/// Finds out who sent an initiation, which takes one key agreement.
pub(crate) fn identify<'a>(local: &Local, message: &'a [u8; INITIATION]) -> Option<Identified<'a>> {
    let ephemeral: PublicKey = message[EPHEMERAL_OF_INITIATION].try_into().ok()?;
    let mut symmetric = Symmetric::new(&local.public);
    symmetric.mix_ephemeral(&ephemeral);
    let key = symmetric.mix_key(&agree(&local.secret, &ephemeral)?[..]);
    let public = symmetric.open(&key, &message[STATIC])?;
    Some(Identified { symmetric, message, public })
}

/// An initiation from who it says it is from.
pub(crate) struct Authenticated {
    symmetric: Symmetric,
    ephemeral: PublicKey,
    remote_index: u32,
    /// Must be later than that of every initiation accepted before.
    pub(crate) timestamp: Timestamp,
}

impl Identified<'_> {
    /// `remote` must be the peer with the key that was found.
    pub(crate) fn authenticate(mut self, remote: &Remote) -> Option<Authenticated> {
        let key = self.symmetric.mix_key(&remote.static_static[..]);
        let timestamp = Timestamp(self.symmetric.open(&key, &self.message[TIMESTAMP])?);
        let ephemeral = self.message[EPHEMERAL_OF_INITIATION].try_into().ok()?;
        let remote_index = u32_at(self.message, 4)?;
        Some(Authenticated { symmetric: self.symmetric, ephemeral, remote_index, timestamp })
    }
}

impl Authenticated {
    /// Answers, and has the keys. `ephemeral` must be random and new.
    pub(crate) fn respond(
        mut self,
        remote: &Remote,
        ephemeral: StaticSecret,
        local_index: u32,
    ) -> Option<([u8; RESPONSE], Keys)> {
        let mut message = new_response(local_index, self.remote_index);
        let public = Point::from(&ephemeral).to_bytes();
        message[EPHEMERAL_OF_RESPONSE].copy_from_slice(&public);
        self.symmetric.mix_ephemeral(&public);
        self.symmetric.mix_chain(&agree(&ephemeral, &self.ephemeral)?[..]);
        self.symmetric.mix_chain(&agree(&ephemeral, &remote.public)?[..]);
        let key = self.symmetric.mix_preshared(&remote.preshared);
        self.symmetric.seal(&key, &[], &mut message[NOTHING]);
        let [receive, send] = self.symmetric.split();
        Some((message, Keys { send, receive, remote_index: self.remote_index, initiator: false }))
    }
}

/// What both sides share at the same step: the chaining key and the hash of all that was said.
#[derive(Clone)]
struct Symmetric {
    chain: Key,
    hash: [u8; HASH],
}

impl Symmetric {
    fn new(responder: &PublicKey) -> Self {
        let chain = hash([CONSTRUCTION]);
        let mut symmetric = Self { chain: Zeroizing::new(chain), hash: hash([&chain, IDENTIFIER]) };
        symmetric.mix_hash(responder);
        symmetric
    }

    fn mix_hash(&mut self, said: &[u8]) {
        self.hash = hash([&self.hash, said]);
    }

    fn mix_chain(&mut self, input: &[u8]) {
        [self.chain] = kdf(&self.chain, input);
    }

    fn mix_key(&mut self, input: &[u8]) -> Key {
        let [chain, key] = kdf(&self.chain, input);
        self.chain = chain;
        key
    }

    fn mix_ephemeral(&mut self, public: &PublicKey) {
        self.mix_hash(public);
        self.mix_chain(public);
    }

    fn mix_preshared(&mut self, preshared: &Secret) -> Key {
        let [chain, said, key] = kdf(&self.chain, preshared.as_bytes());
        self.chain = chain;
        self.mix_hash(&*said);
        key
    }

    fn seal(&mut self, key: &Key, plain: &[u8], out: &mut [u8]) {
        debug_assert_eq!(out.len(), plain.len() + TAG);
        seal_once(key, plain, &self.hash, out);
        self.mix_hash(out);
    }

    fn open<const N: usize>(&mut self, key: &Key, sealed: &[u8]) -> Option<[u8; N]> {
        let plain = open_once(key, sealed, &self.hash)?;
        self.mix_hash(sealed);
        Some(plain)
    }

    /// The initiator's sending key, and its receiving key.
    fn split(self) -> [Key; 2] {
        kdf(&self.chain, &[])
    }
}

/// Key agreement; `None` if the other's key has a low order, so that the result would be known to all.
fn agree(secret: &StaticSecret, public: &PublicKey) -> Option<Key> {
    let shared = secret.diffie_hellman(&Point::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// A random ephemeral key, from random bytes.
pub(crate) fn ephemeral(random: [u8; 32]) -> StaticSecret {
    StaticSecret::from(random)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    pub(super) struct Sides {
        a: Local,
        b: Local,
        b_of_a: Remote,
        a_of_b: Remote,
    }

    fn sides(psk_of_a: u8, psk_of_b: u8) -> Sides {
        let (a, b) = (Local::new(&Secret::from([1; 32])), Local::new(&Secret::from([2; 32])));
        let b_of_a = Remote::new(&a, *b.public(), Some(&Secret::from([psk_of_a; 32]))).unwrap();
        let a_of_b = Remote::new(&b, *a.public(), Some(&Secret::from([psk_of_b; 32]))).unwrap();
        Sides { a, b, b_of_a, a_of_b }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(seconds))
    }

    #[test]
    fn both_sides_come_to_the_same_keys() {
        let Sides { a, b, b_of_a, a_of_b } = sides(5, 5);
        let (initiation, initiated) = initiate(&a, &b_of_a, ephemeral([3; 32]), at(9), 100).unwrap();
        let identified = identify(&b, &initiation).unwrap();
        assert_eq!(identified.public, *a.public());
        let authenticated = identified.authenticate(&a_of_b).unwrap();
        assert_eq!(authenticated.timestamp, at(9));
        let (response, theirs) = authenticated.respond(&a_of_b, ephemeral([4; 32]), 200).unwrap();
        let ours = initiated.finish(&a, &b_of_a, &response).unwrap();
        assert_eq!((&ours.send, &ours.receive), (&theirs.receive, &theirs.send));
        assert_ne!(ours.send, ours.receive);
        assert_eq!((ours.remote_index, theirs.remote_index), (200, 100));
        assert!(ours.initiator && !theirs.initiator);
    }

    #[test]
    fn another_preshared_key_fails_at_the_response() {
        let Sides { a, b, b_of_a, a_of_b } = sides(5, 6);
        let (initiation, initiated) = initiate(&a, &b_of_a, ephemeral([3; 32]), at(9), 100).unwrap();
        let authenticated = identify(&b, &initiation).unwrap().authenticate(&a_of_b).unwrap();
        let (response, _) = authenticated.respond(&a_of_b, ephemeral([4; 32]), 200).unwrap();
        assert!(initiated.finish(&a, &b_of_a, &response).is_none());
    }

    #[test]
    fn keys_of_low_order_are_refused() {
        let local = Local::new(&Secret::from([1; 32]));
        assert!(Remote::new(&local, [0; 32], None).is_none());
    }

    #[test]
    fn timestamps_are_in_the_order_of_time_and_tell_no_more_than_they_must() {
        let nanoseconds = |n| Timestamp::new(Duration::new(1_700_000_000, n));
        assert_eq!(nanoseconds(0), nanoseconds(Timestamp::GRANULARITY - 1));
        assert!(nanoseconds(0) < nanoseconds(Timestamp::GRANULARITY) && nanoseconds(999_999_999) < at(1_700_000_001));
        assert!(Timestamp::default() < at(0));
        assert_eq!(at(0).0, [0x40, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// One flipped bit anywhere before the MACs makes a message worthless.
        #[test]
        fn no_bit_may_differ(at_initiation in 8usize..116, at_response in 8usize..60, bit in 0u8..8) {
            let Sides { a, b, b_of_a, a_of_b } = sides(5, 5);
            let (initiation, initiated) = initiate(&a, &b_of_a, ephemeral([3; 32]), at(9), 100).unwrap();
            let mut bad = initiation;
            bad[at_initiation] ^= 1 << bit;
            // The top bit of a Curve25519 key is ignored (RFC 7748, section 5), but it is part of the hash.
            prop_assert!(identify(&b, &bad).and_then(|identified| identified.authenticate(&a_of_b)).is_none());
            let authenticated = identify(&b, &initiation).unwrap().authenticate(&a_of_b).unwrap();
            let (mut response, _) = authenticated.respond(&a_of_b, ephemeral([4; 32]), 200).unwrap();
            response[at_response] ^= 1 << bit;
            prop_assert!(initiated.finish(&a, &b_of_a, &response).is_none());
        }
    }
}
