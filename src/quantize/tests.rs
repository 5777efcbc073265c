//! Statements about the search: how good, how exact, how bounded.

use super::*;
use haikuq_format::layout::dequantize;
use haikuq_format::scheme::Bits;
use proptest::prelude::*;

fn grouped(bits: Bits, group: usize, offset: Offset) -> Grouped {
    let mut grouped = Grouped::new(bits, group);
    grouped.offset = offset;
    grouped
}

/// Normally distributed weights, by the sum of twelve uniform numbers.
fn weights(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02).collect()
}

fn read_back(scheme: Scheme, columns: usize, stored: &StoredRows, rows: usize) -> Vec<f32> {
    let planes: Vec<_> = stored.planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
    dequantize(scheme, rows, columns, &planes)
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum()
}

/// The least error over 3000 scales of either sign around the one that reaches the largest weight.
fn exhaustive(levels: f32, group: &[f32]) -> f64 {
    let extreme = group.iter().fold(0.0f32, |a, &w| if w.abs() > a.abs() { w } else { a });
    let middle = levels / 2.0;
    let error = |scale: f32| -> f64 {
        let nearest = |w: f32| scale * ((w / scale).round_ties_even().clamp(-middle, middle - 1.0));
        group.iter().map(|&w| f64::from(w - nearest(w)).powi(2)).sum()
    };
    let reach = |i: u32| middle * (0.45 + 1.3 * i as f32 / 1500.0);
    (0..1500).flat_map(|i| [extreme / reach(i), -extreme / reach(i)]).map(error).fold(f64::INFINITY, f64::min)
}

#[test]
fn the_search_is_within_half_a_percent_of_the_best_scale_there_is() {
    for (bits, group) in [(Bits::B4, 32), (Bits::B4, 64), (Bits::B3, 32), (Bits::B3, 64), (Bits::B5, 32)] {
        let values = weights(group * 200, 7);
        let found = store_rows(Scheme::Grouped(grouped(bits, group, Offset::None)), group, &values).unwrap().squared_error;
        let best: f64 = values.chunks(group).map(|g| exhaustive(bits.levels() as f32, g)).sum();
        assert!(found <= best * 1.005, "{bits:?}/{group}: {found} against {best}");
    }
}

#[test]
fn the_search_beats_rounding_to_the_largest_weight() {
    let values = weights(32 * 500, 3);
    let found = store_rows(Scheme::Grouped(grouped(Bits::B4, 32, Offset::None)), 32, &values).unwrap().squared_error;
    let plain: f64 = values
        .chunks(32)
        .map(|g| {
            let scale = g.iter().fold(0.0f32, |a, w| a.max(w.abs())) / 7.0;
            g.iter().map(|w| f64::from(w - (w / scale).round() * scale).powi(2)).sum::<f64>()
        })
        .sum();
    assert!(found < 0.75 * plain, "{found} against {plain}");
}

#[test]
fn the_larger_side_gets_the_extra_code() {
    // Sixteen evenly spaced values fit four bits exactly, on whichever side the extra one lies.
    for sign in [1.0f32, -1.0] {
        let values: Vec<f32> = (0..32).map(|i| sign * ((i % 16) as f32 - 8.0) * 0.25).collect();
        let stored = store_rows(Scheme::Grouped(grouped(Bits::B4, 32, Offset::None)), 32, &values).unwrap();
        assert_eq!(stored.squared_error, 0.0, "sign {sign}");
    }
}

#[test]
fn offsets_pay_where_a_group_is_one_sided() {
    let values: Vec<f32> = weights(32 * 100, 5).iter().map(|w| w + 0.1).collect();
    let error = |offset| store_rows(Scheme::Grouped(grouped(Bits::B4, 32, offset)), 32, &values).unwrap().squared_error;
    let symmetric = error(Offset::None);
    assert!(error(Offset::U4) < 0.6 * symmetric);
    assert!(error(Offset::F16) < 0.3 * symmetric);
}

#[test]
fn wide_and_narrow_vectors_give_the_same_bits() {
    // The dispatched version runs whatever this CPU has; the plain one is compiled for the baseline.
    for offset in [Offset::None, Offset::U4, Offset::F16] {
        let (scheme, values) = (grouped(Bits::B4, 64, offset), weights(577, 11));
        let kind = Codes::of(scheme);
        let (mut codes, mut fits) = ([vec![0u8; 608], vec![0u8; 608]], [vec![Fit::default(); 10], vec![Fit::default(); 10]]);
        quantize_row(kind, 64, &values, &mut codes[0], &mut fits[0]);
        for ((weights, codes), fit) in values.chunks(64).zip(codes[1].chunks_mut(64)).zip(&mut fits[1]) {
            *fit = search::quantize_group(kind, weights, codes);
        }
        assert_eq!(codes[0], codes[1]);
        assert_eq!(fits[0], fits[1]);
    }
}

#[test]
fn a_weight_beyond_f16_is_named() {
    let mut values = vec![0.5f32; 128];
    values[70] = -1e7;
    let q4 = Scheme::Grouped(grouped(Bits::B4, 32, Offset::None));
    for scheme in [q4, Scheme::F16] {
        let error = store_rows(scheme, 64, &values).unwrap_err();
        assert_eq!((error.row, error.column, error.value), (1, 6, -1e7));
    }
    assert_eq!(store_rows(Scheme::F32, 64, &values).unwrap().squared_error, 0.0);
}

#[test]
fn the_largest_weights_allowed_are_stored_well() {
    for offset in [Offset::None, Offset::U4, Offset::F16] {
        let scheme = grouped(Bits::B4, 32, offset);
        let limit = Codes::of(scheme).largest_weight();
        let values: Vec<f32> = weights(32, 1).iter().map(|w| w * 4.0 * limit).map(|w| w.clamp(-limit, limit)).collect();
        let stored = store_rows(Scheme::Grouped(scheme), 32, &values).unwrap();
        assert!(stored.squared_error < 0.02 * stored.squared_norm, "{offset:?}");
    }
}

proptest! {
    #[test]
    fn the_reported_error_is_that_of_the_stored_bits(
        bits in prop_oneof![Just(Bits::B3), Just(Bits::B4), Just(Bits::B5), Just(Bits::B8)],
        offset in prop_oneof![Just(Offset::None), Just(Offset::U4), Just(Offset::F16)],
        group in prop_oneof![Just(32usize), Just(64), Just(128)],
        columns in 1usize..300, rows in 1usize..4, seed in any::<u64>(), exponent in -30i32..12,
    ) {
        let offset = if bits == Bits::B8 && offset == Offset::U4 { Offset::None } else { offset };
        let scheme = Scheme::Grouped(grouped(bits, group, offset));
        let values: Vec<f32> = weights(rows * columns, seed).iter().map(|w| w * 2f32.powi(exponent)).collect();
        let stored = store_rows(scheme, columns, &values).unwrap();
        let actual = squared_error(&values, &read_back(scheme, columns, &stored, rows));
        prop_assert!((stored.squared_error - actual).abs() <= 1e-4 * actual + 1e-30, "{} against {actual}", stored.squared_error);
        prop_assert!(actual <= stored.squared_norm * 1.0001, "never worse than storing zeros");
    }

    #[test]
    fn zero_rows_and_padding_stay_zero(columns in 1usize..100, bits in prop_oneof![Just(Bits::B3), Just(Bits::B4), Just(Bits::B5), Just(Bits::B8)]) {
        let scheme = Scheme::Grouped(grouped(bits, 32, Offset::None));
        let stored = store_rows(scheme, columns, &vec![0.0; columns]).unwrap();
        prop_assert!(read_back(scheme, padded(columns), &stored, 1).iter().all(|&w| w == 0.0));
        let stored = store_rows(scheme, columns, &weights(columns, 2)).unwrap();
        prop_assert!(read_back(scheme, padded(columns), &stored, 1)[columns..].iter().all(|&w| w == 0.0));
    }
}
