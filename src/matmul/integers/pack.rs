//! [`Packed`]: a matrix as 16-bit integers in the order in which kernels read it.

use super::{BLOCK, LARGEST, PAIRS};
use crate::zeros::zeros;
use rayon::prelude::*;

/// A matrix that is packed, as rows of a product's left or columns of its right side. Along the other dimension its terms
/// are added up.
pub(super) struct Source<'a> {
    values: &'a [f32],
    /// Numbers in a row of `values`.
    width: usize,
    /// Whether each row is terms; else each column is.
    terms_in_rows: bool,
}

impl<'a> Source<'a> {
    /// Row-major, each row of `terms` terms.
    pub(super) fn rows(values: &'a [f32], terms: usize) -> Self {
        Self { values, width: terms, terms_in_rows: true }
    }

    /// Row-major, each of the `width` columns of as many terms as there are rows.
    pub(super) fn columns(values: &'a [f32], width: usize) -> Self {
        Self { values, width, terms_in_rows: false }
    }

    /// How many, and their terms.
    fn sizes(&self) -> (usize, usize) {
        let height = self.values.len() / self.width;
        if self.terms_in_rows { (height, self.width) } else { (self.width, height) }
    }
}

/// Lanes (rows or columns of the product) in strips as wide as a tile. A strip has its blocks of terms one after the other, a
/// block its panels of so many lanes as a kernel takes, a panel its pairs of terms, a pair a number for each lane: the even
/// term's integer in the lower half, the odd one's in the upper half. Lanes that fill up the last panel are zero.
pub(super) struct Packed {
    lanes: usize,
    panel: usize,
    side: usize,
    terms: usize,
    blocks: usize,
    pairs: Vec<i32>,
    /// By strip, block and lane: what the integers are multiples of.
    scales: Vec<f32>,
}

/// A strip's part of one block.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) pairs: &'a [i32],
    pub(super) scales: &'a [f32],
    /// Pairs that have terms.
    pub(super) count: usize,
}

impl Packed {
    /// In panels of `panel` lanes for tiles of `side`, a multiple of it.
    pub(super) fn new(source: &Source<'_>, panel: usize, side: usize) -> Self {
        let (lanes, terms) = source.sizes();
        let (blocks, padded) = (terms.div_ceil(BLOCK), lanes.next_multiple_of(panel));
        let (pairs, scales) = (zeros(padded * blocks * PAIRS), zeros(padded * blocks));
        let mut packed = Self { lanes, panel, side, terms, blocks, pairs, scales };
        let strips = packed.pairs.par_chunks_mut(side * blocks * PAIRS).zip(packed.scales.par_chunks_mut(side * blocks));
        strips.enumerate().for_each(|(strip, (pairs, scales))| {
            let (first, padded) = (strip * side, scales.len() / blocks);
            let blocks = pairs.par_chunks_mut(padded * PAIRS).zip(scales.par_chunks_mut(padded)).enumerate();
            blocks.for_each(|(block, (pairs, scales))| {
                let begin = block * BLOCK;
                let part = Part { first, count: padded.min(lanes - first), begin, terms: BLOCK.min(terms - begin), panel };
                match source.terms_in_rows {
                    true => part.pack_rows(source.values, source.width, pairs, scales),
                    false => part.pack_columns(source.values, source.width, pairs, scales),
                }
            });
        });
        packed
    }

    /// Rows or columns of the product.
    pub(super) fn len(&self) -> usize {
        self.lanes
    }

    /// Terms of each.
    pub(super) fn terms(&self) -> usize {
        self.terms
    }

    /// Lanes in a panel.
    pub(super) fn panel(&self) -> usize {
        self.panel
    }

    /// Lanes in a strip, at most.
    pub(super) fn side(&self) -> usize {
        self.side
    }

    /// Blocks of terms of the strip `index`.
    pub(super) fn strip(&self, index: usize) -> impl Iterator<Item = Block<'_>> {
        let start = index * self.side;
        let padded = self.side.min(self.lanes.next_multiple_of(self.panel) - start);
        let scales = &self.scales[start * self.blocks..][..padded * self.blocks];
        let pairs = &self.pairs[start * self.blocks * PAIRS..][..padded * self.blocks * PAIRS];
        let blocks = pairs.chunks_exact(padded * PAIRS).zip(scales.chunks_exact(padded)).enumerate();
        blocks.map(|(i, (pairs, scales))| Block { pairs, scales, count: (self.terms - i * BLOCK).div_ceil(2).min(PAIRS) })
    }
}

/// Some lanes of a block.
#[derive(Clone, Copy)]
struct Part {
    /// The first lane, and how many.
    first: usize,
    count: usize,
    /// The first term, and how many.
    begin: usize,
    terms: usize,
    panel: usize,
}

/// What is added to a number of small magnitude so that its bits end in the nearest integer's.
const ROUND: f32 = 12_582_912.0;

/// Below this largest magnitude a block counts as zero: its scale's inverse would overflow.
const SMALLEST: f32 = 1e-30;

/// The factor that makes integers of numbers whose largest magnitude has the bits `largest`, and what undoes it. Not a
/// number and infinity have larger bits than all others, and stay what they are.
fn factors(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if largest < SMALLEST { (0.0, 0.0) } else { (LARGEST / largest, largest / LARGEST) }
}

/// The nearest integer in the lower 16 bits.
#[inline(always)]
fn integer(x: f32, by: f32) -> u32 {
    (x * by + ROUND).to_bits()
}

/// Two integers in one.
#[inline(always)]
fn pair(even: u32, odd: u32) -> i32 {
    ((even & 0xffff) | (odd << 16)).cast_signed()
}

/// The bits of a number's magnitude.
#[inline(always)]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

impl Part {
    /// Lanes are rows of `values`, whose rows have `width` numbers.
    fn pack_rows(self, values: &[f32], width: usize, pairs: &mut [i32], scales: &mut [f32]) {
        let mut rounded = [0; PAIRS];
        for lane in 0..self.count {
            let row = &values[(self.first + lane) * width + self.begin..][..self.terms];
            scales[lane] = round_row(row, &mut rounded);
            let panel = lane / self.panel * self.panel * PAIRS;
            let to = pairs[panel + lane % self.panel..].iter_mut().step_by(self.panel);
            to.zip(&rounded[..self.terms.div_ceil(2)]).for_each(|(to, pair)| *to = *pair);
        }
    }

    /// Lanes are columns of `values`.
    fn pack_columns(self, values: &[f32], width: usize, pairs: &mut [i32], scales: &mut [f32]) {
        let row = |term: usize| &values[(self.begin + term) * width + self.first..][..self.count];
        let mut largest = vec![0; self.count];
        (0..self.terms).for_each(|term| grow(&mut largest, row(term)));
        let mut by = vec![0.0; self.count];
        for ((by, scale), largest) in by.iter_mut().zip(scales).zip(largest) {
            (*by, *scale) = factors(largest);
        }
        let none = vec![0.0; self.count];
        for first in (0..self.terms).step_by(2) {
            let odd = if first + 1 < self.terms { row(first + 1) } else { &none };
            round_pairs(row(first), odd, &by, self.panel, &mut pairs[first / 2 * self.panel..]);
        }
    }
}

/// Pairs of neighbours in a row; returns what they are multiples of.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn round_row(row: &[f32], to: &mut [i32; PAIRS]) -> f32 {
    let (by, scale) = factors(row.iter().fold(0, |largest, x| largest.max(magnitude(*x))));
    let (twos, rest) = row.as_chunks::<2>();
    for (to, [even, odd]) in to.iter_mut().zip(twos) {
        *to = pair(integer(*even, by), integer(*odd, by));
    }
    if let [last] = rest {
        to[twos.len()] = pair(integer(*last, by), 0);
    }
    scale
}

/// Takes up larger magnitudes.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn grow(largest: &mut [u32], row: &[f32]) {
    largest.iter_mut().zip(row).for_each(|(largest, x)| *largest = (*largest).max(magnitude(*x)));
}

/// Pairs of two rows, to the panels of `to` from its start.
#[multiversion::multiversion(targets("x86_64+avx+avx2", "x86_64+avx+avx2+avx512f+avx512bw+avx512dq+avx512vl"))]
fn round_pairs(even: &[f32], odd: &[f32], by: &[f32], panel: usize, to: &mut [i32]) {
    let parts = even.chunks(panel).zip(odd.chunks(panel)).zip(by.chunks(panel));
    for (((even, odd), by), to) in parts.zip(to.chunks_mut(panel * PAIRS)) {
        for (((even, odd), by), to) in even.iter().zip(odd).zip(by).zip(to) {
            *to = pair(integer(*even, *by), integer(*odd, *by));
        }
    }
}
