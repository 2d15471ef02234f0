//! The primitives of the WireGuard paper (section 5.4), by the names they have there.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::{AeadInPlace, XChaCha20Poly1305};
use hmac::SimpleHmac;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use super::wide::{self, LANES};

/// Bytes of a hash, and of a key.
pub(crate) const HASH: usize = 32;
/// Bytes of an authentication tag.
pub(crate) const TAG: usize = 16;
/// Bytes of a MAC, and of a cookie.
pub(crate) const MAC: usize = 16;
/// Bytes of the nonce that a cookie is sealed with.
pub(crate) const XNONCE: usize = 24;

/// A key that is forgotten when it is dropped.
pub(crate) type Key = Zeroizing<[u8; HASH]>;

/// `Hash`: BLAKE2s over the concatenation.
pub(crate) fn hash<const N: usize>(parts: [&[u8]; N]) -> [u8; HASH] {
    let mut state = Blake2s256::new();
    parts.iter().for_each(|part| Digest::update(&mut state, part));
    state.finalize().into()
}

/// `Mac`: keyed BLAKE2s with 16 bytes of output. A key that is too long, which none here is, gives another MAC
/// than everybody else's.
pub(crate) fn mac<const N: usize>(key: &[u8], parts: [&[u8]; N]) -> [u8; MAC] {
    let key = &key[..key.len().min(HASH)];
    let Ok(mut state) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; MAC] };
    parts.iter().for_each(|part| Mac::update(&mut state, part));
    state.finalize_fixed().into()
}

fn hmac<const N: usize>(key: &[u8; HASH], parts: [&[u8]; N]) -> Key {
    let Ok(mut state) = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    parts.iter().for_each(|part| Mac::update(&mut state, part));
    Zeroizing::new(state.finalize_fixed().into())
}

/// `Kdf`: HKDF with `N` outputs.
pub(crate) fn kdf<const N: usize>(chain: &[u8; HASH], input: &[u8]) -> [Key; N] {
    let secret = hmac(chain, [input]);
    let mut previous: Option<Key> = None;
    std::array::from_fn(|index| {
        let before = previous.as_ref().map_or(&[][..], |key| &key[..]);
        let output = hmac(&secret, [before, &[index as u8 + 1]]);
        previous = Some(output.clone());
        output
    })
}

/// A key as `ring` wants it.
struct Prepared(LessSafeKey);

/// `ring` lets nobody at the bytes. But an [`Option`] overwrites all of its own, and forgets what it held.
impl Zeroize for Prepared {
    fn zeroize(&mut self) {}
}

/// A key for ChaCha20Poly1305 that is overwritten where it lies when it is dropped.
pub(crate) struct Cipher {
    /// There until it is dropped.
    key: Option<Prepared>,
    /// For several messages at once, where the processor can.
    wide: Option<wide::Key>,
}

impl Cipher {
    /// For messages that come one by one.
    pub(crate) fn new(key: &[u8; HASH]) -> Self {
        Self { key: Some(prepared(key)), wide: None }
    }

    /// For many messages.
    pub(crate) fn for_transport(key: &[u8; HASH]) -> Self {
        Self { key: Some(prepared(key)), wide: wide::Key::new(key) }
    }

    /// Seals in place, and returns the tag. A nonce may be used once.
    pub(crate) fn seal(&self, nonce: Nonce, data: &[u8], plain: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self.ring()?.seal_in_place_separate_tag(nonce, Aad::from(data), plain).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Opens in place what ends with its tag; returns the plain part.
    pub(crate) fn open<'a>(&self, nonce: Nonce, data: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.ring()?.open_in_place(nonce, Aad::from(data), sealed).ok()
    }

    /// Seals in place up to [`LANES`] messages of one length, each with room for a tag at its end, without additional
    /// data. Each counter's [`nonce`] may be used once.
    pub(crate) fn seal_each(&self, counters: &[u64; LANES], messages: &mut [&mut [u8]]) {
        if let Some(wide) = self.wide_for(messages.len()) {
            return wide.seal(counters, messages);
        }
        for (counter, message) in counters.iter().zip(messages) {
            let (plain, room) = message.split_at_mut(message.len() - TAG);
            match self.seal(nonce(*counter), &[], plain) {
                Some(tag) => room.copy_from_slice(&tag),
                None => unreachable!("a packet is far shorter than the cipher's limit"),
            }
        }
    }

    /// The inverse of [`seal_each`](Self::seal_each): returns which messages have the right tag. The others' bytes may
    /// be changed, too.
    pub(crate) fn open_each(&self, counters: &[u64; LANES], messages: &mut [&mut [u8]]) -> [bool; LANES] {
        if let Some(wide) = self.wide_for(messages.len()) {
            return wide.open(counters, messages);
        }
        let mut right = [false; LANES];
        for ((counter, message), right) in counters.iter().zip(messages).zip(&mut right) {
            *right = self.open(nonce(*counter), &[], message).is_some();
        }
        right
    }

    fn ring(&self) -> Option<&LessSafeKey> {
        self.key.as_ref().map(|key| &key.0)
    }

    /// Eight messages at once take as long as about four by themselves.
    fn wide_for(&self, messages: usize) -> Option<&wide::Key> {
        self.wide.as_ref().filter(|_| messages > LANES / 2)
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        clear_stack();
        forget(&mut self.key);
    }
}

/// Overwrites all bytes by volatile writes. The last of these is an empty option, which has room for a key that is filled
/// from the stack: hence a frame of its own, which lies where the stack was cleared.
#[inline(never)]
fn forget(key: &mut Option<Prepared>) {
    key.zeroize();
}

/// Clears what functions that were called before have left behind on the stack, copies of keys among it.
#[inline(never)]
pub(crate) fn clear_stack() {
    /// More than the making of a session takes, far less than a thread has.
    const DEPTH: usize = 16 << 10;
    [0u64; DEPTH / size_of::<u64>()].zeroize();
}

fn prepared(key: &[u8; HASH]) -> Prepared {
    match UnboundKey::new(&CHACHA20_POLY1305, key) {
        Ok(key) => Prepared(LessSafeKey::new(key)),
        Err(_) => unreachable!("the key has the length that the algorithm wants"),
    }
}

/// The nonce of the message with this counter.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// `Aead` with counter 0, for keys that are used once: writes the sealed `plain` and its tag to `out`, which is
/// longer by [`TAG`].
pub(crate) fn seal_once(key: &[u8; HASH], plain: &[u8], hash: &[u8; HASH], out: &mut [u8]) {
    let (sealed, tag) = out.split_at_mut(plain.len());
    sealed.copy_from_slice(plain);
    match Cipher::new(key).seal(nonce(0), hash, sealed) {
        Some(made) => tag.copy_from_slice(&made),
        None => unreachable!("a handshake's fields are far shorter than the cipher's limit"),
    }
}

/// The inverse of [`seal_once`]; `None` if the tag is wrong or `sealed` has not `N` bytes and a tag.
pub(crate) fn open_once<const N: usize>(key: &[u8; HASH], sealed: &[u8], hash: &[u8; HASH]) -> Option<[u8; N]> {
    let mut buffer = sealed.to_vec();
    let plain = Cipher::new(key).open(nonce(0), hash, &mut buffer)?;
    <[u8; N]>::try_from(&*plain).ok()
}

/// `XAead`: seals in place, and returns the tag.
pub(crate) fn xseal(key: &[u8; HASH], nonce: &[u8; XNONCE], plain: &mut [u8], data: &[u8]) -> [u8; TAG] {
    match XChaCha20Poly1305::new(key.into()).encrypt_in_place_detached(nonce.into(), data, plain) {
        Ok(tag) => tag.into(),
        Err(_) => unreachable!("a cookie is far shorter than the cipher's limit"),
    }
}

/// The inverse of [`xseal`]. Returns whether the tag was right.
pub(crate) fn xopen(key: &[u8; HASH], nonce: &[u8; XNONCE], sealed: &mut [u8], tag: &[u8; TAG], data: &[u8]) -> bool {
    XChaCha20Poly1305::new(key.into()).decrypt_in_place_detached(nonce.into(), data, sealed, tag.into()).is_ok()
}

/// Whether two MACs agree, in a time that does not tell where they differ.
pub(crate) fn equal(a: &[u8; MAC], b: &[u8; MAC]) -> bool {
    a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 7693, appendix B.
    #[test]
    fn hash_is_blake2s() {
        assert_eq!(hex(&hash([b"a", b"bc"])), "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    }

    #[test]
    fn each_output_of_the_key_derivation_depends_on_the_one_before() {
        let [one] = kdf::<1>(&[7; 32], b"input");
        let [first, second, third] = kdf::<3>(&[7; 32], b"input");
        assert_eq!(*one, *first);
        assert_ne!(*second, *third);
        assert_eq!(*second, *hmac(&hmac(&[7; 32], [b"input"]), [&first[..], &[2]]));
    }

    #[test]
    fn what_is_sealed_once_is_opened_only_with_the_same_hash() {
        let mut sealed = [0; 5 + TAG];
        seal_once(&[1; 32], b"hello", &[2; 32], &mut sealed);
        assert_eq!(open_once::<5>(&[1; 32], &sealed, &[2; 32]), Some(*b"hello"));
        assert_eq!(open_once::<5>(&[1; 32], &sealed, &[3; 32]), None);
        assert_eq!(open_once::<4>(&[1; 32], &sealed, &[2; 32]), None);
    }
}
