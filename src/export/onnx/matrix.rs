//! [`Matrix`]: a package's matrix in the number formats that ONNX Runtime's operators have, number for number.
//!
//! `MatMulNBits` and `GatherBlockQuantized` read `(code − zero point) × scale`, with codes of 2, 4 or 8 bits and whole zero points.
//! Codes of 3 and 5 bits are written with 4 and 8.

use super::super::ExportError;
use super::graph::refused;
use crate::reference::stored::StoredWeights;
use haikuq_format::layout::padded;
use haikuq_format::scheme::{Bits, Codebook, Offset, Scheme};

/// Weights that share a scale, at least, and what rows are filled up to a multiple of.
const BLOCK: usize = 32;

/// A matrix \[rows, columns\].
#[derive(Clone, Debug)]
pub(super) enum Matrix {
    /// Numbers as they are, which a package has in f32 or in f16.
    Floats { columns: usize, half: bool, numbers: Vec<f32> },
    /// Codes in blocks.
    Codes(Codes),
}

/// Codes in blocks along rows, one scale a block.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    /// 4 or 8.
    pub(super) bits: u32,
    /// Weights in a block.
    pub(super) block: usize,
    pub(super) columns: usize,
    /// Blocks of a row; those of its end may be filled up.
    pub(super) blocks: usize,
    /// `blocks × block` a row.
    codes: Vec<u8>,
    /// `blocks` a row.
    pub(super) scales: Vec<f32>,
    /// As many as scales; all `2^(bits − 1)` where absent.
    zero_points: Option<Vec<u8>>,
}

/// Why a scheme's grid is none of these, if it is not.
pub(super) fn not_held(scheme: Scheme) -> Option<&'static str> {
    match scheme {
        Scheme::Grouped(g) if g.codebook == Codebook::Learned => Some("learned tables"),
        Scheme::Grouped(g) if g.offset == Offset::F16 => Some("offsets"),
        _ => None,
    }
}

impl Matrix {
    /// A package's matrix.
    pub(super) fn read(weights: &StoredWeights, name: &str) -> Result<Self, ExportError> {
        let missing = || refused(name, "the package has no such tensor");
        let tensor = weights.manifest.tensor(name).ok_or_else(missing)?;
        let (rows, columns) = (tensor.rows(), tensor.columns());
        let Scheme::Grouped(scheme) = tensor.scheme else {
            return Ok(Self::Floats { columns, half: tensor.scheme == Scheme::F16, numbers: weights.read(name)? });
        };
        let stored = weights.quantized(name)?.ok_or_else(missing)?;
        // A code here, of a code there.
        let with_zero = scheme.offset == Offset::U4;
        let (bits, times, plus) = match (scheme.bits, with_zero) {
            (Bits::B3, true) => (4, 2, 0),
            (Bits::B5, true) => (8, 1, 0),
            (Bits::B3, false) => (4, 1, 4),
            (Bits::B5, false) => (8, 1, 112),
            (Bits::B4, _) => (4, 1, 0),
            (Bits::B8, _) => (8, 1, 0),
        };
        let scale_by = if times == 2 { 0.5 } else { 1.0 };
        let block = if columns.is_multiple_of(scheme.group) { scheme.group } else { BLOCK };
        let (blocks, groups) = (columns.div_ceil(block), haikuq_format::layout::groups(columns, scheme.group));
        let (mut codes, mut scales) = (Vec::with_capacity(rows * blocks * block), Vec::with_capacity(rows * blocks));
        let mut zero_points = Vec::new();
        for row in 0..rows {
            let from = &stored.codes[row * padded(columns)..][..columns];
            codes.extend(from.iter().map(|code| code * times + plus));
            codes.resize((row + 1) * blocks * block, 1 << (bits - 1));
            for b in 0..blocks {
                let group = row * groups + b * block / scheme.group;
                scales.push(stored.scales.get(group) * scale_by);
                if with_zero {
                    zero_points.push(stored.zero_points[group] * if scheme.bits == Bits::B5 { 2 } else { 1 });
                }
            }
        }
        let zero_points = with_zero.then_some(zero_points);
        Ok(Self::Codes(Codes { bits, block, columns, blocks, codes, scales, zero_points }))
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Floats { columns, numbers, .. } => numbers.len() / (*columns).max(1),
            Self::Codes(codes) => codes.scales.len() / codes.blocks.max(1),
        }
    }

    /// Some of the rows.
    pub(super) fn take(&self, rows: Rows) -> Self {
        match self {
            Self::Floats { columns, half, numbers } => {
                Self::Floats { columns: *columns, half: *half, numbers: rows.of(numbers, *columns) }
            }
            Self::Codes(codes) => Self::Codes(Codes {
                codes: rows.of(&codes.codes, codes.blocks * codes.block),
                scales: rows.of(&codes.scales, codes.blocks),
                zero_points: codes.zero_points.as_ref().map(|zeros| rows.of(zeros, codes.blocks)),
                ..*codes
            }),
        }
    }
}

impl Codes {
    /// Bytes of a block.
    pub(super) fn blob(&self) -> usize {
        self.block * self.bits as usize / 8
    }

    /// Codes as they lie in a file, the first of two in the low bits of a byte.
    pub(super) fn packed(&self) -> Vec<u8> {
        pack(&self.codes, self.bits, self.blocks * self.block)
    }

    /// Zero points in the same way; each row begins with a byte of its own.
    pub(super) fn packed_zero_points(&self) -> Option<Vec<u8>> {
        self.zero_points.as_ref().map(|zeros| pack(zeros, self.bits, self.blocks))
    }
}

fn pack(numbers: &[u8], bits: u32, row: usize) -> Vec<u8> {
    if bits == 8 {
        return numbers.to_vec();
    }
    let byte = |pair: &[u8]| pair[0] | pair.get(1).map_or(0, |high| high << 4);
    numbers.chunks(row.max(1)).flat_map(|row| row.chunks(2).map(byte)).collect()
}

/// Rows of a canonical matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// So many from a first one on.
    From(usize, usize),
    /// Every other one, from the first or the second on.
    EveryOther(usize),
}

impl Rows {
    /// How many these are of so many.
    pub(super) fn count(self, all: usize) -> usize {
        match self {
            Self::From(_, count) => count,
            Self::EveryOther(_) => all / 2,
        }
    }

    /// The same rows of a row-major table.
    pub(super) fn of<T: Copy>(self, table: &[T], width: usize) -> Vec<T> {
        match self {
            Self::From(first, count) => table[first * width..(first + count) * width].to_vec(),
            Self::EveryOther(first) => table.chunks(width.max(1)).skip(first).step_by(2).flatten().copied().collect(),
        }
    }
}
