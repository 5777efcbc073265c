//! Planes back to f32: the reference reading of every scheme.

use super::{PlaneKind, UNIT, codes, groups, padded};
use crate::E4M4;
use crate::scheme::{Codebook, Offset, ScaleType, Scheme};
use half::f16;

/// Reads the weights of a chunk of `rows` × `columns` back as f32.
///
/// `planes` holds the chunk's planes in the order of [`super::plane_sizes`]; words beyond a plane's size (padding)
/// are ignored. Each value is computed in f32 as [`crate::scheme`] writes it, every operation rounded by itself, so
/// that readers in any language agree bit for bit.
///
/// # Panics
/// If a plane is missing or short.
pub fn dequantize(scheme: Scheme, rows: usize, columns: usize, planes: &[(PlaneKind, &[u32])]) -> Vec<f32> {
    let plane = |kind| planes.iter().find(|p| p.0 == kind).map_or(&[][..], |p| p.1);
    let width = padded(columns);
    let mut out = Vec::with_capacity(rows * columns);
    let g = match scheme {
        Scheme::F32 | Scheme::F16 => {
            let values = plane(PlaneKind::Values);
            for row in 0..rows {
                out.extend((0..columns).map(|c| match scheme {
                    Scheme::F32 => f32::from_bits(values[row * width + c]),
                    _ => half(values, row * width + c),
                }));
            }
            return out;
        }
        Scheme::Grouped(g) => g,
    };
    let (low, high) = (plane(PlaneKind::Codes), plane(PlaneKind::HighBits));
    let (scales, offsets, table) = (plane(PlaneKind::Scales), plane(PlaneKind::Offsets), plane(PlaneKind::Codebook));
    let per_row = groups(columns, g.group);
    let (low_words, high_words) = (width / UNIT * codes::code_words(g.bits), width / UNIT * codes::high_words(g.bits));
    let mut row_codes = vec![0u8; width];
    for row in 0..rows {
        let of = |plane: &'_ [u32], n: usize| row * n..(row * n + n).min(plane.len());
        codes::unpack(g.bits, &low[of(low, low_words)], &high[of(high, high_words)], &mut row_codes);
        for (c, &code) in row_codes[..columns].iter().enumerate() {
            let group = row * per_row + c / g.group;
            let code_f = f32::from(code);
            let scale = match g.scale {
                ScaleType::F16 => half(scales, group),
                ScaleType::E4M4 => {
                    let word = scales[row / 4 * per_row + c / g.group];
                    E4M4::from_bits((word >> (row % 4 * 8)) as u8).to_f32()
                }
            };
            out.push(match (g.codebook, g.offset) {
                (Codebook::Learned, _) => scale * f32::from_bits(table[usize::from(code)]),
                (_, Offset::None) => scale * (code_f - (g.bits.levels() / 2) as f32),
                (_, Offset::U4) => {
                    let zero = (offsets[group / 8] >> (group % 8 * 4) & 15) as f32;
                    scale * (code_f - zero * (g.bits.levels() as f32 / 16.0))
                }
                (_, Offset::F16) => scale * code_f + half(offsets, group),
            });
        }
    }
    out
}

fn half(words: &[u32], i: usize) -> f32 {
    f16::from_bits((words[i / 2] >> (i % 2 * 16)) as u16).to_f32()
}

#[cfg(test)]
mod tests {
    use super::super::{QuantizedRows, Scales, pack_f16, pack_f32, pack_quantized, unpack_quantized};
    use super::*;
    use crate::scheme::{Bits, Grouped};
    use proptest::prelude::*;

    fn borrow(planes: &super::super::PlaneBuffers) -> Vec<(PlaneKind, &[u32])> {
        planes.iter().map(|(k, p)| (*k, p.as_slice())).collect()
    }

    prop_compose! {
        fn schemes()(
            bits in prop_oneof![Just(Bits::B3), Just(Bits::B4), Just(Bits::B5), Just(Bits::B8)],
            group in prop_oneof![Just(32usize), Just(64), Just(128)],
            offset in prop_oneof![Just(Offset::None), Just(Offset::U4), Just(Offset::F16)],
            scale in prop_oneof![Just(ScaleType::F16), Just(ScaleType::E4M4)],
            learned in any::<bool>(),
        ) -> Grouped {
            let learned = learned && bits != Bits::B8;
            let codebook = if learned { Codebook::Learned } else { Codebook::Uniform };
            let offset = if learned || (bits, offset) == (Bits::B8, Offset::U4) { Offset::None } else { offset };
            let scale = if learned { scale } else { ScaleType::F16 };
            Grouped { bits, group, scale, offset, codebook }
        }
    }

    proptest! {
        #[test]
        fn every_scheme_reads_back_what_was_packed_at_odd_sizes(
            scheme in schemes(), rows in 1usize..6, columns in 1usize..300, seed in any::<u32>(),
        ) {
            let mut state = seed | 1;
            let mut next = |n: u32| { state ^= state << 13; state ^= state >> 17; state ^= state << 5; state % n };
            let n_groups = rows * groups(columns, scheme.group);
            let block = QuantizedRows {
                codes: (0..rows * padded(columns)).map(|_| next(scheme.bits.levels()) as u8).collect(),
                scales: Scales::nearest(scheme.scale, (0..n_groups).map(|_| next(1000) as f32 / 777.0)),
                zero_points: if scheme.offset == Offset::U4 { (0..n_groups).map(|_| next(16) as u8).collect() } else { vec![] },
                offsets: if scheme.offset == Offset::F16 { (0..n_groups).map(|_| f16::from_f32(next(1000) as f32 / 333.0)).collect() } else { vec![] },
                codebook: if scheme.codebook == Codebook::Learned { (0..scheme.bits.levels()).map(|i| (i * i) as f32 * 0.1 - 3.0).collect() } else { vec![] },
            };
            let planes = pack_quantized(scheme, rows, columns, &block);
            prop_assert_eq!(&unpack_quantized(scheme, rows, columns, &borrow(&planes)), &block);
            let values = dequantize(Scheme::Grouped(scheme), rows, columns, &borrow(&planes));
            prop_assert_eq!(values.len(), rows * columns);
            for (i, value) in values.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let group = row * groups(columns, scheme.group) + column / scheme.group;
                let (code, scale) = (block.codes[row * padded(columns) + column], block.scales.get(group));
                let expected = match (scheme.codebook, scheme.offset) {
                    (Codebook::Learned, _) => scale * block.codebook[code as usize],
                    (_, Offset::None) => scale * (code as f32 - scheme.bits.levels() as f32 / 2.0),
                    (_, Offset::U4) => scale * (code as f32 - block.zero_points[group] as f32 * scheme.bits.levels() as f32 / 16.0),
                    (_, Offset::F16) => scale * code as f32 + block.offsets[group].to_f32(),
                };
                prop_assert_eq!(*value, expected);
            }
        }

        #[test]
        fn floats_read_back_at_odd_sizes(rows in 1usize..5, columns in 1usize..100, seed in any::<u32>()) {
            let values: Vec<f32> = (0..rows * columns).map(|i| f16::from_f32((i as f32 + seed as f32 * 1e-9).sin()).to_f32()).collect();
            prop_assert_eq!(&dequantize(Scheme::F32, rows, columns, &borrow(&pack_f32(rows, columns, &values))), &values);
            prop_assert_eq!(&dequantize(Scheme::F16, rows, columns, &borrow(&pack_f16(rows, columns, &values))), &values);
        }
    }
}
