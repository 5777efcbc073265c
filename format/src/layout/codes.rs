//! Codes of 3, 4, 5 and 8 bits in 32-bit words.
//!
//! All arrangements put weight `4k + b` into byte `b` of a word (`b` = 0 to 3), so that masking and shifting a
//! whole word leaves four neighbouring weights in its four bytes, which WGSL's `unpack4xU8` separates:
//!
//! * q8: word of 4 weights; byte `b` is weight `b`.
//! * q4: word of 8 weights; byte `b` holds weight `b` in its low and weight `4 + b` in its high nibble.
//! * q3: a word of 16 weights' low bits (bits `2k` and `2k + 1` of byte `b` belong to weight `4k + b`) and a word of
//!   32 weights' high bits (bit `k` of byte `b` belongs to weight `4k + b`).
//! * q5: words of low bits as q4's, and a word of 32 weights' high bits as q3's.

use super::UNIT;
use crate::scheme::Bits;

/// Words of codes (for q3 and q5: of low bits) in a unit of 32 weights.
pub const fn code_words(bits: Bits) -> usize {
    match bits {
        Bits::B3 => 2,
        Bits::B4 | Bits::B5 => 4,
        Bits::B8 => 8,
    }
}

/// Words of high bits in a unit of 32 weights.
pub const fn high_words(bits: Bits) -> usize {
    match bits {
        Bits::B3 | Bits::B5 => 1,
        Bits::B4 | Bits::B8 => 0,
    }
}

/// Packs `codes` (a multiple of 32 of them, each below `2^bits`) into `low`, and for q3 and q5 their highest bits into `high`.
///
/// # Panics
/// If the lengths do not fit together.
pub fn pack(bits: Bits, codes: &[u8], low: &mut [u32], high: &mut [u32]) {
    assert_eq!(codes.len() % UNIT, 0, "codes come in units of {UNIT}");
    let units = codes.len() / UNIT;
    assert_eq!(low.len(), units * code_words(bits));
    assert_eq!(high.len(), units * high_words(bits));
    match bits {
        Bits::B8 => {
            for (word, c) in low.iter_mut().zip(codes.chunks_exact(4)) {
                *word = bytes(c);
            }
        }
        Bits::B4 | Bits::B5 => {
            for (word, c) in low.iter_mut().zip(codes.chunks_exact(8)) {
                *word = bytes(&c[..4]) & 0x0f0f_0f0f | (bytes(&c[4..]) & 0x0f0f_0f0f) << 4;
            }
        }
        Bits::B3 => {
            for (word, c) in low.iter_mut().zip(codes.chunks_exact(16)) {
                *word = (0..4).fold(0, |w, k| w | (bytes(&c[4 * k..]) & 0x0303_0303) << (2 * k));
            }
        }
    }
    // Of schemes without high bits there are no such words.
    let top = bits.get() - 1;
    for (word, c) in high.iter_mut().zip(codes.chunks_exact(32)) {
        *word = (0..8).fold(0, |w, k| w | (bytes(&c[4 * k..]) >> top & 0x0101_0101) << k);
    }
}

/// The inverse of [`pack`].
///
/// # Panics
/// If the lengths do not fit together.
pub fn unpack(bits: Bits, low: &[u32], high: &[u32], codes: &mut [u8]) {
    assert_eq!(codes.len() % UNIT, 0, "codes come in units of {UNIT}");
    assert_eq!(low.len(), codes.len() / UNIT * code_words(bits));
    assert_eq!(high.len(), codes.len() / UNIT * high_words(bits));
    match bits {
        Bits::B8 => {
            for (word, c) in low.iter().zip(codes.chunks_exact_mut(4)) {
                c.copy_from_slice(&word.to_le_bytes());
            }
        }
        Bits::B4 | Bits::B5 => {
            for (word, c) in low.iter().zip(codes.chunks_exact_mut(8)) {
                c[..4].copy_from_slice(&(word & 0x0f0f_0f0f).to_le_bytes());
                c[4..].copy_from_slice(&(word >> 4 & 0x0f0f_0f0f).to_le_bytes());
            }
        }
        Bits::B3 => {
            for (unit, c) in codes.chunks_exact_mut(UNIT).enumerate() {
                for (k, four) in c.chunks_exact_mut(4).enumerate() {
                    four.copy_from_slice(&(low[2 * unit + k / 4] >> (2 * (k % 4)) & 0x0303_0303).to_le_bytes());
                }
            }
        }
    }
    let top = bits.get() - 1;
    for (word, c) in high.iter().zip(codes.chunks_exact_mut(UNIT)) {
        for (k, four) in c.chunks_exact_mut(4).enumerate() {
            let code = bytes(four) | (word >> k & 0x0101_0101) << top;
            four.copy_from_slice(&code.to_le_bytes());
        }
    }
}

fn bytes(c: &[u8]) -> u32 {
    u32::from_le_bytes([c[0], c[1], c[2], c[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_and_unpacking_gives_the_codes_back(
            units in 1usize..9,
            bits in prop_oneof![Just(Bits::B3), Just(Bits::B4), Just(Bits::B5), Just(Bits::B8)],
            seed in any::<u64>(),
        ) {
            let mut state = seed;
            let codes: Vec<u8> = (0..units * UNIT)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ((state >> 40) as u32 % bits.levels()) as u8
                })
                .collect();
            let mut low = vec![0; units * code_words(bits)];
            let mut high = vec![0; units * high_words(bits)];
            pack(bits, &codes, &mut low, &mut high);
            let mut back = vec![0; codes.len()];
            unpack(bits, &low, &high, &mut back);
            prop_assert_eq!(back, codes);
        }
    }

    #[test]
    fn the_bits_lie_where_the_format_page_says() {
        let one = |i: usize, code: u8, bits: Bits| {
            let mut codes = [0u8; 32];
            codes[i] = code;
            let mut low = vec![0; code_words(bits)];
            let mut high = vec![0; high_words(bits)];
            pack(bits, &codes, &mut low, &mut high);
            (low, high)
        };
        assert_eq!(one(5, 0xf, Bits::B4).0, [0xf << 12, 0, 0, 0], "weight 5 is the high nibble of byte 1");
        assert_eq!(one(10, 0xf, Bits::B4).0, [0, 0xf << 16, 0, 0], "weight 10 is the low nibble of byte 2 of word 1");
        assert_eq!(one(7, 0xff, Bits::B8).0[1], 0xff << 24);
        assert_eq!(one(22, 0b111, Bits::B3), (vec![0, 0b11 << 18], vec![1 << 21]), "weight 22 = 16 + 4 + 2: byte 2, k 1 and 5");
        assert_eq!(one(22, 0b11111, Bits::B5), (vec![0, 0, 0xf << 20, 0], vec![1 << 21]), "weight 22: as in q4, and as in q3");
    }
}
