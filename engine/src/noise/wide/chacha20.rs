//! ChaCha20 (RFC 8439, section 2.3): sixteen blocks at once, one in each 32-bit lane.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use zeroize::Zeroize;

use super::LANES;

/// Blocks that are made at once.
const BLOCKS: usize = 16;
/// Twenty rounds, by columns and by diagonals in turn.
pub(super) const DOUBLE_ROUNDS: usize = 10;
/// `expand 32-byte k`.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// The word of the state that counts blocks.
const COUNTER: usize = 12;

/// The key stream of eight messages: two blocks of each at a time.
pub(super) struct KeyStream {
    /// Word `i` of all blocks.
    state: [__m512i; 16],
}

impl KeyStream {
    /// From block 0, which is the key of Poly1305 (section 2.6). The nonces are four zero bytes and the little-endian
    /// counter (WireGuard paper, section 5.4.6).
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &[u32; 8], counters: &[u64; LANES]) -> Self {
        let each = |word: u32| _mm512_set1_epi32(word.cast_signed());
        let by_lane = |word: &dyn Fn(usize) -> u32| bytemuck::cast(std::array::from_fn::<u32, BLOCKS, _>(word));
        let mut state = [_mm512_setzero_si512(); 16];
        for (word, value) in state.iter_mut().zip(CONSTANTS.iter().chain(key)) {
            *word = each(*value);
        }
        state[COUNTER] = by_lane(&|lane| (lane / LANES) as u32);
        state[COUNTER + 2] = by_lane(&|lane| counters[lane % LANES] as u32);
        state[COUNTER + 3] = by_lane(&|lane| (counters[lane % LANES] >> 32) as u32);
        Self { state }
    }

    /// The next block of each message, and the one after it. `meanwhile` is called [`DOUBLE_ROUNDS`] times, with how often
    /// it was called before: for what neither waits for the rounds nor they for it, so that a processor can do some of it
    /// in their gaps.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn next(&mut self, mut meanwhile: impl FnMut(usize)) -> [[__m512i; LANES]; 2] {
        let mut words = self.state;
        for round in 0..DOUBLE_ROUNDS {
            for [a, b, c, d] in [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]] {
                quarter_round(&mut words, a, b, c, d);
            }
            for [a, b, c, d] in [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]] {
                quarter_round(&mut words, a, b, c, d);
            }
            meanwhile(round);
        }
        for (word, before) in words.iter_mut().zip(&self.state) {
            *word = _mm512_add_epi32(*word, *before);
        }
        self.state[COUNTER] = _mm512_add_epi32(self.state[COUNTER], _mm512_set1_epi32(2));
        bytemuck::cast(blocks_of(&words))
    }
}

impl Drop for KeyStream {
    fn drop(&mut self) {
        self.state.zeroize();
    }
}

/// Section 2.1.
#[target_feature(enable = "avx512f")]
#[inline]
fn quarter_round(words: &mut [__m512i; 16], a: usize, b: usize, c: usize, d: usize) {
    words[a] = _mm512_add_epi32(words[a], words[b]);
    words[d] = _mm512_rol_epi32::<16>(_mm512_xor_si512(words[d], words[a]));
    words[c] = _mm512_add_epi32(words[c], words[d]);
    words[b] = _mm512_rol_epi32::<12>(_mm512_xor_si512(words[b], words[c]));
    words[a] = _mm512_add_epi32(words[a], words[b]);
    words[d] = _mm512_rol_epi32::<8>(_mm512_xor_si512(words[d], words[a]));
    words[c] = _mm512_add_epi32(words[c], words[d]);
    words[b] = _mm512_rol_epi32::<7>(_mm512_xor_si512(words[b], words[c]));
}

/// From the words of sixteen blocks, a register for each word, to the blocks, a register for each.
#[target_feature(enable = "avx512f")]
#[inline]
fn blocks_of(words: &[__m512i; 16]) -> [__m512i; BLOCKS] {
    // Four words of block 4k + j in part k of `quarters[j]`, for each four words.
    let quarters: [[__m512i; 4]; 4] = std::array::from_fn(|four| {
        let [a, b, c, d] = [words[4 * four], words[4 * four + 1], words[4 * four + 2], words[4 * four + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab_low, cd_low),
            _mm512_unpackhi_epi64(ab_low, cd_low),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    });
    let mut blocks = [_mm512_setzero_si512(); BLOCKS];
    for j in 0..4 {
        let four = transpose_parts([quarters[0][j], quarters[1][j], quarters[2][j], quarters[3][j]]);
        for (k, block) in four.into_iter().enumerate() {
            blocks[4 * k + j] = block;
        }
    }
    blocks
}

/// Transposes four registers of four 128-bit parts each: part `i` of result `k` is part `k` of register `i`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose_parts([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    /// Parts 0 and 2 of both, and parts 1 and 3.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<ODD>(a, b));
    let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<EVEN>(c, d), _mm512_shuffle_i32x4::<ODD>(c, d));
    [
        _mm512_shuffle_i32x4::<EVEN>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<EVEN>(ab_odd, cd_odd),
        _mm512_shuffle_i32x4::<ODD>(ab_even, cd_even),
        _mm512_shuffle_i32x4::<ODD>(ab_odd, cd_odd),
    ]
}
