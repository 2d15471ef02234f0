//! Poly1305 (RFC 8439, section 2.5) of eight messages at once, one in each 64-bit lane.
//!
//! Numbers are kept in limbs of 44, 44 and 42 bits, so that the 52-bit multiplications of AVX-512 IFMA take them with room
//! to spare: what a step leaves in its limbs is at most one bit longer.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_or_si512,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64,
};

use zeroize::Zeroize;

use super::LANES;
use crate::noise::crypto::TAG;

const LOW_44: u64 = (1 << 44) - 1;
const LOW_42: u64 = (1 << 42) - 1;
/// What `r` may have of its low and high eight bytes (section 2.5.1).
const CLAMP: [u64; 2] = [0x0fff_fffc_0fff_ffff, 0x0fff_fffc_0fff_fffc];
/// The bit behind each block's sixteen bytes, in the last limb.
const BEHIND: u64 = 1 << (128 - 88);

/// The state of eight one-time authenticators.
pub(super) struct Authenticators {
    accumulator: [__m512i; 3],
    r: [__m512i; 3],
    /// The upper two limbs of `r`, times 20: what is beyond 2^132 counts 20 times (2^130 is 5, modulo the prime).
    folded: [__m512i; 2],
    /// What is added in the end.
    s: [[u64; LANES]; 2],
}

impl Authenticators {
    /// `r` and `s` are the low and high eight bytes of each, by message.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn new(r: [__m512i; 2], s: [__m512i; 2]) -> Self {
        let [low, high] = [0, 1].map(|half| _mm512_and_si512(r[half], each(CLAMP[half])));
        let r = limbs(low, high);
        let folded =
            [r[1], r[2]].map(|limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb)));
        Self { accumulator: [_mm512_setzero_si512(); 3], r, folded, s: s.map(bytemuck::cast) }
    }

    /// Takes sixteen bytes of each message, as the low and high eight.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn update(&mut self, low: __m512i, high: __m512i) {
        let [m0, m1, m2] = limbs(low, high);
        let a0 = _mm512_add_epi64(self.accumulator[0], m0);
        let a1 = _mm512_add_epi64(self.accumulator[1], m1);
        let a2 = _mm512_add_epi64(self.accumulator[2], _mm512_or_si512(m2, each(BEHIND)));
        let [r0, r1, r2] = self.r;
        let [f1, f2] = self.folded;
        let rows = [[(a0, r0), (a1, f2), (a2, f1)], [(a0, r1), (a1, r0), (a2, f2)], [(a0, r2), (a1, r1), (a2, r0)]];
        // Products have up to 104 bits: the low 52 of each, and those above.
        let [low0, low1, low2] = rows
            .map(|row| row.into_iter().rfold(_mm512_setzero_si512(), |sum, (a, b)| _mm512_madd52lo_epu64(sum, a, b)));
        let [high0, high1, high2] = rows
            .map(|row| row.into_iter().rfold(_mm512_setzero_si512(), |sum, (a, b)| _mm512_madd52hi_epu64(sum, a, b)));
        // 52 bits are 8 more than a limb has, and 10 more than the last one has.
        let sum1 =
            _mm512_add_epi64(_mm512_add_epi64(low1, _mm512_slli_epi64::<8>(high0)), _mm512_srli_epi64::<44>(low0));
        let sum2 =
            _mm512_add_epi64(_mm512_add_epi64(low2, _mm512_slli_epi64::<8>(high1)), _mm512_srli_epi64::<44>(sum1));
        let carry = _mm512_add_epi64(_mm512_srli_epi64::<42>(sum2), _mm512_slli_epi64::<10>(high2));
        let sum0 = _mm512_add_epi64(_mm512_and_si512(low0, each(LOW_44)), times_5(carry));
        self.accumulator = [
            _mm512_and_si512(sum0, each(LOW_44)),
            _mm512_add_epi64(_mm512_and_si512(sum1, each(LOW_44)), _mm512_srli_epi64::<44>(sum0)),
            _mm512_and_si512(sum2, each(LOW_42)),
        ];
    }

    /// The tags.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn finish(self) -> [[u8; TAG]; LANES] {
        let limbs = self.accumulator.map(bytemuck::cast::<_, [u64; LANES]>);
        let [low, high] = &self.s;
        std::array::from_fn(|i| {
            let s = u128::from(low[i]) | u128::from(high[i]) << 64;
            reduced([limbs[0][i], limbs[1][i], limbs[2][i]]).wrapping_add(s).to_le_bytes()
        })
    }
}

impl Drop for Authenticators {
    fn drop(&mut self) {
        self.r.zeroize();
        self.folded.zeroize();
        self.s.zeroize();
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn each(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

#[target_feature(enable = "avx512f")]
#[inline]
fn times_5(value: __m512i) -> __m512i {
    _mm512_add_epi64(value, _mm512_slli_epi64::<2>(value))
}

/// The limbs of numbers of 128 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn limbs(low: __m512i, high: __m512i) -> [__m512i; 3] {
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [_mm512_and_si512(low, each(LOW_44)), _mm512_and_si512(middle, each(LOW_44)), _mm512_srli_epi64::<24>(high)]
}

/// The low 128 bits of a number modulo 2^130 - 5.
fn reduced([mut a0, mut a1, mut a2]: [u64; 3]) -> u128 {
    // The second time nothing can be left over the last limb but by this very carry.
    for _ in 0..2 {
        a1 += a0 >> 44;
        a2 += a1 >> 44;
        a0 = (a0 & LOW_44) + 5 * (a2 >> 42);
        (a1, a2) = (a1 & LOW_44, a2 & LOW_42);
    }
    a1 += a0 >> 44;
    a0 &= LOW_44;
    // It is not less than the prime if adding 5 reaches 2^130.
    let b0 = a0 + 5;
    let b1 = a1 + (b0 >> 44);
    let b2 = a2 + (b1 >> 44);
    let is_more = (b2 >> 42 & 1).wrapping_neg();
    let choose = |a: u64, b: u64| u128::from(a & !is_more | b & is_more);
    choose(a0, b0 & LOW_44) | choose(a1, b1 & LOW_44) << 44 | choose(a2, b2 & LOW_42) << 88
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIME: [u64; 3] = [LOW_44 - 4, LOW_44, LOW_42];

    #[test]
    fn numbers_at_the_prime_and_with_long_limbs_are_reduced() {
        let [p0, p1, p2] = PRIME;
        for (limbs, number) in [
            ([0, 0, 0], 0),
            ([p0 - 1, p1, p2], u128::MAX - 5),
            (PRIME, 0),
            ([p0 + 1, p1, p2], 1),
            ([LOW_44, LOW_44, LOW_42], 4),
            ([LOW_44 + 1, 0, 0], 1 << 44),
            ([7, LOW_44 + 1, 0], 7 | 1 << 88),
            // 2^130, by a carry through all limbs.
            ([LOW_44 + 1, LOW_44, LOW_42], 5),
            ([0, 2 * LOW_44 + 1, LOW_42], (LOW_44 as u128) << 44 | 5),
        ] {
            assert_eq!(reduced(limbs), number, "{limbs:x?}");
        }
    }
}
