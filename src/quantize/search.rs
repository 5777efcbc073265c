//! Scale search: for one group of weights, the scale (and offset) with the least squared error.
//!
//! Given codes, the best scale is a least-squares fit; given a scale, the best codes are rounding. Only the pair is
//! hard. So a fixed set of [`CANDIDATES`] scales, spread around the one that just reaches the largest weight, is
//! scored by the error that a fitted scale would leave, and the winner is refined by fitting and rounding in turn,
//! always with the scale as f16 will store it.
//!
//! The candidates lie side by side in vector lanes and the weights follow one another, so a sum is always taken in
//! the order of the weights: the result depends neither on the width of the CPU's vectors nor on the number of threads.

use haikuq_format::scheme::{Bits, Grouped, Offset};
use half::f16;

/// Scales tried in the first pass: four vectors of eight lanes.
pub(super) const CANDIDATES: usize = 32;

/// Rounds of fitting and rounding after the first pass.
const REFINEMENTS: usize = 2;

/// Adding and subtracting this rounds an f32 below 2²² to the nearest integer, ties to even, on every target and
/// without a call.
const ROUND: f32 = 12_582_912.0;

/// The parameters of one group, as they are stored: a weight is `scale × (code − zero)`, or with an f16 offset
/// `scale × code + offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fit {
    pub(super) scale: f16,
    pub(super) zero_point: u8,
    pub(super) offset: f16,
    /// Sum of squared errors over the group.
    pub(super) error: f32,
}

/// What a scheme makes possible.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    /// Largest code.
    max: f32,
    /// `2^bits / 16`: codes in a step of a u4 zero point.
    zero_step: f32,
    /// The zero point that stands for none: half of the codes lie below it.
    middle: u8,
    bits: Bits,
    offset: Offset,
}

impl Codes {
    pub(super) fn of(scheme: Grouped) -> Self {
        let levels = scheme.bits.levels() as f32;
        Self { max: levels - 1.0, zero_step: levels / 16.0, middle: 8, bits: scheme.bits, offset: scheme.offset }
    }

    /// Weights up to this size have a scale that f16 can hold, whichever candidate wins (the widest maps the largest
    /// weight to a little over half of the codes on its side).
    pub(super) fn largest_weight(&self) -> f32 {
        match self.offset {
            Offset::F16 => f16::MAX.to_f32() / 2.0,
            _ => f16::MAX.to_f32() * self.zero_step * 4.0,
        }
    }
}

/// Smallest magnitude that any f16 scale tells from zero: half of the smallest subnormal.
const NEARLY_ZERO: f32 = 2.98e-8;

/// Finds the parameters for `group` and writes its codes. `codes` may be longer than `group`: the rest is padding and
/// gets the code nearest to zero.
#[inline(always)]
pub(super) fn quantize_group(kind: Codes, group: &[f32], codes: &mut [u8]) -> Fit {
    let (mut low, mut high) = (0.0f32, 0.0f32);
    for &w in group {
        low = min(low, w);
        high = max(high, w);
    }
    let mut best = zero_group(kind, group);
    if max(-low, high) > NEARLY_ZERO {
        let (mut s, mut o, zero) = match kind.offset {
            Offset::None | Offset::U4 => first_pass_scaled(kind, group, low, high),
            Offset::F16 => first_pass_affine(kind, group),
        };
        for _ in 0..=REFINEMENTS {
            let rounded = Fit { scale: f16::from_f32(s), zero_point: zero, offset: f16::from_f32(o), error: 0.0 };
            let (fit, fitted) = evaluate(kind, group, rounded);
            if fit.error < best.error {
                best = fit;
            }
            (s, o) = fitted;
        }
    }
    write_codes(kind, group, best, codes);
    best
}

/// All weights stored as zero: where every group starts, and where nearly empty ones stay.
#[inline(always)]
fn zero_group(kind: Codes, group: &[f32]) -> Fit {
    let error = group.iter().fold(0.0, |sum, w| sum + w * w);
    Fit { scale: f16::ZERO, zero_point: kind.middle, offset: f16::ZERO, error }
}

/// Scores [`CANDIDATES`] scales and zero points by the squared error that is left when the scale is fitted to the
/// codes: `Σw² − (Σwu)² / Σu²` with `u = code − zero`. Returns the fitted scale of the best, and its zero point.
#[inline(always)]
fn first_pass_scaled(kind: Codes, group: &[f32], low: f32, high: f32) -> (f32, f32, u8) {
    let (mut inverse, mut zero) = ([0.0f32; CANDIDATES], [0.0f32; CANDIDATES]);
    let mut zero_points = [kind.middle; CANDIDATES];
    if kind.offset == Offset::U4 {
        zero_point_candidates(kind, low, high, &mut inverse, &mut zero_points);
    } else {
        let extreme = if -low > high { low } else { high };
        let grid = symmetric_grid(kind.bits);
        for k in 0..CANDIDATES {
            inverse[k] = grid[k] / extreme;
        }
    }
    for k in 0..CANDIDATES {
        zero[k] = f32::from(zero_points[k]) * kind.zero_step;
    }
    const LANES: usize = 16;
    let (mut best, mut best_score, mut scale) = (0, -1.0f32, 0.0f32);
    for first in (0..CANDIDATES).step_by(LANES) {
        let (mut wu, mut uu) = ([0.0f32; LANES], [0.0f32; LANES]);
        let (inverse, zero) = (&inverse[first..first + LANES], &zero[first..first + LANES]);
        for &w in group {
            for k in 0..LANES {
                let u = clamped_round(w * inverse[k] + zero[k], kind.max) - zero[k];
                wu[k] += w * u;
                uu[k] += u * u;
            }
        }
        for k in 0..LANES {
            let score = if uu[k] > 0.0 { wu[k] * wu[k] / uu[k] } else { 0.0 };
            if score > best_score {
                (best, best_score, scale) = (first + k, score, if uu[k] > 0.0 { wu[k] / uu[k] } else { 0.0 });
            }
        }
    }
    (scale, 0.0, zero_points[best])
}

/// As [`first_pass_scaled`] with `w ≈ s × code + o`: the error left by the best line is
/// `Var(w) − Cov(w, code)² / Var(code)`.
#[inline(always)]
fn first_pass_affine(kind: Codes, group: &[f32]) -> (f32, f32, u8) {
    let (mut low, mut high) = (group[0], group[0]);
    for &w in group {
        low = min(low, w);
        high = max(high, w);
    }
    let n = group.len() as f32;
    let mean = group.iter().fold(0.0, |sum, w| sum + w) / n;
    if high - low <= NEARLY_ZERO {
        return (0.0, mean, 0);
    }
    const LANES: usize = 16;
    let (mut best_score, mut best) = (-1.0f32, (0.0, mean, 0));
    for first in (0..CANDIDATES).step_by(LANES) {
        let (mut inverse, mut start) = ([0.0f32; LANES], [0.0f32; LANES]);
        for k in 0..LANES {
            // A grid of cuts from either end, as parts of the range.
            let (a, b) = AFFINE_CUTS[first + k];
            start[k] = low + a * (high - low);
            inverse[k] = kind.max / ((1.0 - a - b) * (high - low));
        }
        let (mut c1, mut c2, mut wc) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for &w in group {
            let centred = w - mean;
            for k in 0..LANES {
                let c = clamped_round((w - start[k]) * inverse[k], kind.max);
                c1[k] += c;
                c2[k] += c * c;
                wc[k] += centred * c;
            }
        }
        for k in 0..LANES {
            // Σ(w − mean) is zero, so Σ(w − mean)c is the covariance as it stands.
            let variance = c2[k] - c1[k] * c1[k] / n;
            let score = if variance > 0.0 { wc[k] * wc[k] / variance } else { 0.0 };
            if score > best_score {
                let scale = if variance > 0.0 { wc[k] / variance } else { 0.0 };
                (best_score, best) = (score, (scale, mean - scale * c1[k] / n, 0));
            }
        }
    }
    best
}

/// The error of stored parameters with their best codes, and the scale and offset fitted to those codes.
#[inline(always)]
fn evaluate(kind: Codes, group: &[f32], fit: Fit) -> (Fit, (f32, f32)) {
    const LANES: usize = 8;
    let p = Parameters::of(kind, fit);
    let (mut error, mut wu, mut uu) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
    let (mut w1, mut u1) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut add = |lane: usize, w: f32| {
        let u = p.code(w) - p.zero;
        let difference = w - p.value(u);
        error[lane] += difference * difference;
        wu[lane] += w * u;
        uu[lane] += u * u;
        w1[lane] += w;
        u1[lane] += u;
    };
    let whole = group.chunks_exact(LANES);
    let rest = whole.remainder();
    for eight in whole {
        for (lane, &w) in eight.iter().enumerate() {
            add(lane, w);
        }
    }
    for (lane, &w) in rest.iter().enumerate() {
        add(lane, w);
    }
    let (wu, uu, w1, u1, n) = (sum(wu), sum(uu), sum(w1), sum(u1), group.len() as f32);
    let fitted = if kind.offset == Offset::F16 {
        let variance = uu - u1 * u1 / n;
        let scale = if variance > 0.0 { (wu - w1 * u1 / n) / variance } else { 0.0 };
        // The offset is fitted to the scale as it will be stored.
        let stored = f16::from_f32(scale).to_f32();
        (scale, (w1 - stored * u1) / n)
    } else {
        (if uu > 0.0 { wu / uu } else { 0.0 }, 0.0)
    };
    (Fit { error: sum(error), ..fit }, fitted)
}

#[inline(always)]
fn write_codes(kind: Codes, group: &[f32], fit: Fit, codes: &mut [u8]) {
    let p = Parameters::of(kind, fit);
    let (inside, padding) = codes.split_at_mut(group.len());
    for (code, &w) in inside.iter_mut().zip(group) {
        *code = p.code(w) as u8;
    }
    padding.fill(p.code(0.0) as u8);
}

/// A fit's parameters as f32, to code and decode with.
#[derive(Clone, Copy)]
struct Parameters {
    scale: f32,
    inverse: f32,
    zero: f32,
    offset: f32,
    max: f32,
}

impl Parameters {
    #[inline(always)]
    fn of(kind: Codes, fit: Fit) -> Self {
        let scale = fit.scale.to_f32();
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let (zero, offset) = match kind.offset {
            Offset::F16 => (0.0, fit.offset.to_f32()),
            _ => (f32::from(fit.zero_point) * kind.zero_step, 0.0),
        };
        Self { scale, inverse, zero, offset, max: kind.max }
    }

    /// The nearest code.
    #[inline(always)]
    fn code(&self, w: f32) -> f32 {
        clamped_round((w - self.offset) * self.inverse + self.zero, self.max)
    }

    /// The stored weight, by the arithmetic of [`haikuq_format::layout::dequantize`].
    #[inline(always)]
    fn value(&self, u: f32) -> f32 {
        self.scale * u + self.offset
    }
}

/// Zero points around the one that centres the range, each with scales around the one that covers it.
#[inline(always)]
fn zero_point_candidates(kind: Codes, low: f32, high: f32, inverse: &mut [f32; CANDIDATES], zero_points: &mut [u8; CANDIDATES]) {
    // Zero lies within the range, since `low` ≤ 0 ≤ `high`.
    let range = high - low;
    let exact = clamped_round(-low / range * kind.max / kind.zero_step, 15.0);
    for k in 0..CANDIDATES {
        let zero = min(max(exact + (k % 4) as f32 - 1.0, 0.0), 15.0);
        zero_points[k] = zero as u8;
        inverse[k] = kind.max * (0.92 + 0.07 * (k / 4) as f32) / range;
    }
}

/// For symmetric codes: the code (before clamping) that the largest weight gets. Negative ones give the larger side
/// the extra code `−2^(bits−1)`, through a negative scale where that side is positive.
pub(super) fn symmetric_grid(bits: Bits) -> &'static [f32; CANDIDATES] {
    match bits {
        Bits::B3 => &GRID_3,
        Bits::B4 => &GRID_4,
        Bits::B5 => &GRID_5,
        Bits::B8 => &GRID_8,
    }
}

const GRID_3: [f32; CANDIDATES] = symmetric(-2.6, -0.18, 2.4, 0.18);
const GRID_4: [f32; CANDIDATES] = symmetric(-6.6, -0.22, 6.1, 0.22);
const GRID_5: [f32; CANDIDATES] = symmetric(-14.4, -0.22, 13.9, 0.22);
const GRID_8: [f32; CANDIDATES] = symmetric(-126.6, -0.14, 125.6, 0.14);

const fn symmetric(first: f32, step: f32, other: f32, other_step: f32) -> [f32; CANDIDATES] {
    let mut grid = [0.0; CANDIDATES];
    let mut k = 0;
    while k < CANDIDATES / 2 {
        grid[k] = first + step * k as f32;
        grid[CANDIDATES / 2 + k] = other + other_step * k as f32;
        k += 1;
    }
    grid
}

/// Parts of a group's range that are cut off at its low and its high end.
const AFFINE_CUTS: [(f32, f32); CANDIDATES] = {
    let mut cuts = [(0.0, 0.0); CANDIDATES];
    let mut k = 0;
    while k < CANDIDATES {
        cuts[k] = (-0.02 + 0.035 * (k % 6) as f32, -0.02 + 0.035 * (k / 6) as f32);
        k += 1;
    }
    cuts
};

/// The nearest integer, clamped to 0 to `max`.
#[inline(always)]
fn clamped_round(x: f32, max_code: f32) -> f32 {
    // Clamped first: rounding by addition is good for small numbers only.
    min(max(x, 0.0), max_code) + ROUND - ROUND
}

/// `f32::min` without its rule for NaN, which costs two instructions: weights are finite here.
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Lanes added in one fixed order.
#[inline(always)]
fn sum(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
