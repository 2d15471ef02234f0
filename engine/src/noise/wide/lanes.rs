//! The two together (RFC 8439, section 2.8), without additional data, as in WireGuard's data messages.

use std::arch::x86_64::{
    __m512i, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::chacha20::{DOUBLE_ROUNDS, KeyStream, transpose_parts};
use super::poly1305::Authenticators;
use super::{LANES, Way};
use crate::noise::crypto::TAG;

/// Bytes of a block of ChaCha20.
const BLOCK: usize = 64;
/// Bytes of a block of Poly1305.
const PART: usize = 16;
const PARTS: usize = BLOCK / PART;
const _: () = assert!(2 * PARTS <= DOUBLE_ROUNDS, "all of it is authenticated while the next blocks are made");

/// See [`Run`](super::Run).
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn run(
    key: &[u32; 8],
    way: Way,
    counters: &[u64; LANES],
    packets: &mut [&mut [u8]; LANES],
) -> [[u8; TAG]; LANES] {
    let len = packets[0].len();
    let mut stream = KeyStream::new(key, counters);
    let [one_time, first] = stream.next(|_| {});
    let [r, s, ..] = parts_of(&one_time);
    let mut tags = Authenticators::new(r, s);
    let mut encrypted = Encrypted { parts: [[_mm512_setzero_si512(); 2]; 2 * PARTS], count: 0 };
    encrypted.pass(way, &first, packets, 0);
    for at in (BLOCK..len).step_by(2 * BLOCK) {
        let [even, odd] = stream.next(|round| encrypted.authenticate(round, &mut tags));
        encrypted.count = 0;
        encrypted.pass(way, &even, packets, at);
        encrypted.pass(way, &odd, packets, at + BLOCK);
    }
    for part in 0..encrypted.count {
        encrypted.authenticate(part, &mut tags);
    }
    tags.update(_mm512_setzero_si512(), _mm512_set1_epi64(len as i64));
    tags.finish()
}

/// Up to two blocks of each packet that the tags still have to be computed of.
struct Encrypted {
    /// Sixteen bytes of all packets, as the low and high eight.
    parts: [[__m512i; 2]; 2 * PARTS],
    count: usize,
}

impl Encrypted {
    /// Passes up to one block of each packet, from `at` on.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn pass(&mut self, way: Way, stream: &[__m512i; LANES], packets: &mut [&mut [u8]; LANES], at: usize) {
        let len = packets[0].len().saturating_sub(at).min(BLOCK);
        let encrypted = std::array::from_fn(|i| {
            let rest = packets[i].get_mut(at..).unwrap_or_default();
            if let Some(block) = rest.first_chunk_mut() {
                pass_block(way, block, stream[i])
            } else if rest.is_empty() {
                _mm512_setzero_si512()
            } else {
                pass_last(way, rest, stream[i])
            }
        });
        if let Some(parts) = self.parts[self.count..].first_chunk_mut() {
            *parts = parts_of(&encrypted);
        }
        self.count += len.div_ceil(PART);
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn authenticate(&self, part: usize, tags: &mut Authenticators) {
        if let Some([low, high]) = self.parts[..self.count].get(part) {
            tags.update(*low, *high);
        }
    }
}

/// Passes a block, and returns what is encrypted of it.
#[target_feature(enable = "avx512f")]
#[inline]
fn pass_block(way: Way, block: &mut [u8; BLOCK], stream: __m512i) -> __m512i {
    let before = bytemuck::cast(*block);
    let after = _mm512_xor_si512(before, stream);
    *block = bytemuck::cast(after);
    if way == Way::Seal { after } else { before }
}

/// The same for less than a block, with zeros behind.
#[target_feature(enable = "avx512f")]
#[inline(never)]
fn pass_last(way: Way, rest: &mut [u8], stream: __m512i) -> __m512i {
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    let mut passed = block;
    pass_block(way, &mut passed, stream);
    rest.copy_from_slice(&passed[..rest.len()]);
    if way == Way::Seal {
        block[..rest.len()].copy_from_slice(rest);
    }
    bytemuck::cast(block)
}

/// From a block of each message to sixteen bytes of all of them, as the low and high eight.
#[target_feature(enable = "avx512f")]
#[inline]
fn parts_of(blocks: &[__m512i; LANES]) -> [[__m512i; 2]; PARTS] {
    let low = transpose_parts(std::array::from_fn(|i| _mm512_unpacklo_epi64(blocks[2 * i], blocks[2 * i + 1])));
    let high = transpose_parts(std::array::from_fn(|i| _mm512_unpackhi_epi64(blocks[2 * i], blocks[2 * i + 1])));
    std::array::from_fn(|i| [low[i], high[i]])
}
