//! [`E4M4`]: the unsigned 8-bit float of small scales.

/// An unsigned float of four exponent and four mantissa bits: with `e = byte >> 4` and `m = byte & 15` the value
/// `2^(e − 15) × (1 + m / 16)`, and 0 for byte 0. There are no infinities, no NaN and no subnormals: the smallest value
/// but 0 is [`E4M4::MIN_POSITIVE`] (byte 1), the largest [`E4M4::MAX`] (byte 255). Bytes are in the order of their values.
///
/// ```
/// use haikuq_format::E4M4;
///
/// assert_eq!(E4M4::from_bits(0xf8).to_f32(), 1.5);
/// assert_eq!(E4M4::from_f32(0.3).to_f32(), 0.296875);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct E4M4(u8);

/// Mantissa bits that an f32 has and an [`E4M4`] has not.
const DROPPED_BITS: u32 = 19;

/// What the exponent's bias of f32 (127) has over that of [`E4M4`] (15), at the place of an f32's exponent.
const REBIAS: u32 = 112 << 23;

impl E4M4 {
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// The smallest value above zero: 2⁻¹⁵ × 17/16.
    pub const MIN_POSITIVE: Self = Self(1);
    /// The largest value: 1.9375.
    pub const MAX: Self = Self(0xff);

    /// The number that `bits` stand for.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The byte that is stored.
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The nearest number, of two equally near ones the one with the even byte. Values above the largest become the
    /// largest; negative values and NaN become zero.
    pub fn from_f32(value: f32) -> Self {
        let smallest = Self::MIN_POSITIVE.to_f32();
        if value.is_nan() || value <= 0.5 * smallest {
            return Self::ZERO;
        }
        if value <= smallest {
            return Self::MIN_POSITIVE;
        }
        let bits = value.to_bits() - REBIAS;
        let half_less_one = (1 << (DROPPED_BITS - 1)) - 1;
        let rounded = (bits + half_less_one + (bits >> DROPPED_BITS & 1)) >> DROPPED_BITS;
        Self(rounded.min(0xff) as u8)
    }

    /// The value, exactly.
    pub const fn to_f32(self) -> f32 {
        if self.0 == 0 { 0.0 } else { f32::from_bits(((self.0 as u32) << DROPPED_BITS) + REBIAS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> impl Iterator<Item = E4M4> {
        (0..=255).map(E4M4::from_bits)
    }

    #[test]
    fn every_byte_has_the_value_of_the_format_page_and_comes_back() {
        for number in all() {
            let (e, m) = (i32::from(number.to_bits() >> 4), f32::from(number.to_bits() & 15));
            let value = if number == E4M4::ZERO { 0.0 } else { 2f32.powi(e - 15) * (1.0 + m / 16.0) };
            assert_eq!(number.to_f32(), value);
            assert_eq!(E4M4::from_f32(value), number);
        }
        assert_eq!(E4M4::MAX.to_f32(), 1.9375);
    }

    #[test]
    fn larger_bytes_are_larger_numbers() {
        assert!(all().zip(all().skip(1)).all(|(a, b)| a.to_f32() < b.to_f32() && a < b));
    }

    #[test]
    fn between_two_numbers_the_nearer_is_taken_and_in_the_middle_the_even_byte() {
        for (a, b) in all().zip(all().skip(1)) {
            let middle = (a.to_f32() + b.to_f32()) / 2.0;
            assert_eq!(E4M4::from_f32(middle.next_down()), a);
            assert_eq!(E4M4::from_f32(middle), if a.to_bits().is_multiple_of(2) { a } else { b });
            assert_eq!(E4M4::from_f32(middle.next_up()), b);
        }
    }

    #[test]
    fn what_lies_outside_becomes_the_nearest_end() {
        for large in [1.94, 2.0, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!(E4M4::from_f32(large), E4M4::MAX);
        }
        for small in [0.0, -0.0, -1.0, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1.6e-5, f32::NAN] {
            assert_eq!(E4M4::from_f32(small), E4M4::ZERO);
        }
    }

    proptest! {
        #[test]
        fn no_number_is_nearer_than_the_one_chosen(value in 0f32..2.2) {
            let chosen = (E4M4::from_f32(value).to_f32() - value).abs();
            prop_assert!(all().all(|other| (other.to_f32() - value).abs() >= chosen));
        }
    }
}
