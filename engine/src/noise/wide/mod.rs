//! ChaCha20-Poly1305 (RFC 8439) of up to eight messages at once, for processors with AVX-512.
//!
//! A library seals one message after the other, and a message of 1,400 bytes is short for it: neither do its 23 blocks
//! fill wide registers, nor are they many enough to be worth the powers of the key that Poly1305 wants first. But the
//! messages of a tunnel come by the dozen, all of one length and under one key. So each gets a lane of its own: no work
//! is shared between them, none is left over at the end, and Poly1305 needs no powers.
//!
//! Lengths are the only thing that branches and addresses depend on, so the time taken tells nothing of keys and bytes.
//! The tests hold each length against `ring`, which stays in charge of everything else: single messages, handshakes, and
//! other processors.

#[cfg(target_arch = "x86_64")]
mod chacha20;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod poly1305;
#[cfg(test)]
mod tests;

use multiversion::multiversion;
use multiversion::target::match_target;
use zeroize::Zeroizing;

use super::crypto::{HASH, TAG};

/// Most messages at once.
pub(crate) const LANES: usize = 8;

/// Encrypts or decrypts packets in place and returns their tags, by the nonces with these counters. All packets are of one
/// length, but the last may be missing (empty).
type Run = fn(&[u32; HASH / 4], Way, &[u64; LANES], &mut [&mut [u8]; LANES]) -> [[u8; TAG]; LANES];

/// The function for this processor, if there is one.
#[multiversion(targets("x86_64+avx512f+avx512ifma"))]
fn run_here() -> Option<Run> {
    match_target! {
        "x86_64+avx512f+avx512ifma" => Some(lanes::run),
        _ => None,
    }
}

/// A transport key on a processor that has what this needs.
pub(crate) struct Key {
    words: Zeroizing<[u32; HASH / 4]>,
    run: Run,
}

impl Key {
    /// `None` if the processor has not what this needs.
    pub(crate) fn new(key: &[u8; HASH]) -> Option<Self> {
        let run = run_here()?;
        let (words, _) = key.as_chunks();
        Some(Self { words: Zeroizing::new(std::array::from_fn(|i| u32::from_le_bytes(words[i]))), run })
    }

    /// Seals in place messages of one length, each with room for a tag at its end, by the nonces with these counters.
    /// At most [`LANES`] of them.
    pub(crate) fn seal(&self, counters: &[u64; LANES], messages: &mut [&mut [u8]]) {
        let mut packets: [&mut [u8]; LANES] = Default::default();
        let mut tags: [&mut [u8]; LANES] = Default::default();
        let count = split(messages, &mut packets, &mut tags);
        let made = (self.run)(&self.words, Way::Seal, counters, &mut packets);
        for (tag, made) in tags.iter_mut().zip(made).take(count) {
            tag.copy_from_slice(&made);
        }
    }

    /// Opens in place messages of one length, each with its tag at its end. Returns which tags were right; of the other
    /// messages nothing may be used.
    pub(crate) fn open(&self, counters: &[u64; LANES], messages: &mut [&mut [u8]]) -> [bool; LANES] {
        let mut packets: [&mut [u8]; LANES] = Default::default();
        let mut tags: [&mut [u8]; LANES] = Default::default();
        let count = split(messages, &mut packets, &mut tags);
        let right = (self.run)(&self.words, Way::Open, counters, &mut packets);
        std::array::from_fn(|i| i < count && is_equal(&right[i], tags[i]))
    }
}

/// What happens to a packet. The tag is that of the encrypted bytes, which come out of the one and go into the other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Seal,
    Open,
}

/// Splits the tags from the ends of messages, and returns how many messages there are.
fn split<'a>(
    messages: &'a mut [&mut [u8]],
    packets: &mut [&'a mut [u8]; LANES],
    tags: &mut [&'a mut [u8]; LANES],
) -> usize {
    let len = messages.first().map_or(0, |message| message.len());
    assert!(messages.len() <= LANES && len >= TAG && messages.iter().all(|message| message.len() == len));
    let count = messages.len();
    for (i, message) in messages.iter_mut().enumerate() {
        (packets[i], tags[i]) = message.split_at_mut(len - TAG);
    }
    count
}

/// In a time that does not tell where they differ.
fn is_equal(a: &[u8; TAG], b: &[u8]) -> bool {
    b.first_chunk().is_some_and(|b| super::crypto::equal(a, b))
}
