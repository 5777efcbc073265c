//! Scales of groups, as `quantize/scales.rs` finds them, to the bit.

use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_runtime::device::{Binding, grid_1d};
use rayon::prelude::*;
use std::ops::Range;

shader!(SCALES = "scales");
shader!(LARGEST = "largest");

/// Values of a table, at most, and candidates of a group.
const LEVELS: usize = 32;
const CANDIDATES: usize = 32;

/// Invocations of a workgroup.
const WORKGROUP: usize = 256;

/// Bytes of a matrix that is searched at a time, about.
const CHUNK_BYTES: usize = 256 << 20;

/// What the scale of a group is chosen from.
pub struct ScaleSearch<'a> {
    /// The table: up to 32 values, ascending.
    pub values: &'a [f32],
    /// Columns that share a scale: a multiple of four.
    pub group: usize,
    /// What a squared error costs, a column.
    pub importance: &'a [f32],
    /// All scales that can be stored, ascending.
    pub storable: &'a [f32],
    /// What is known of a group whose largest magnitude is this, for its candidates to follow from.
    pub known: &'a (dyn Fn(f32) -> f32 + Sync),
    /// A group's candidates.
    pub candidates: ScaleCandidates<'a>,
}

/// Which scales a group tries: 32 at most.
#[derive(Clone, Copy, Debug)]
pub enum ScaleCandidates<'a> {
    /// So many neighbours of `storable`, the first of which is known by its index.
    Neighbours(usize),
    /// The f16 number nearest to each of these parts of the known one; `storable` are f16 by their bits.
    Parts(&'a [f32]),
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    groups: u32,
    pitch: u32,
    group: u32,
    out_pitch: u32,
    candidates: u32,
    at_once: u32,
    zero: u32,
    values: [f32; LEVELS],
    middles: [f32; LEVELS],
    parts: [f32; CANDIDATES],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LargestParams {
    rows: u32,
    groups: u32,
    pitch: u32,
    group: u32,
    out_pitch: u32,
    padding: [u32; 3],
}

impl Accelerator {
    /// The scale of each group of `weights` `[rows, columns]`, row-major `[rows, groups]`: 0 where none loses less than zeros do.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if there is no room for 128 rows, [`AcceleratorError::Gpu`] if the device failed or was
    /// lost.
    ///
    /// # Panics
    /// If sizes do not fit together, or there are too many values or candidates.
    pub fn scales(&self, weights: &[f32], search: &ScaleSearch<'_>) -> Result<Vec<f32>, AcceleratorError> {
        let columns = search.importance.len();
        let at_once = (CHUNK_BYTES / (columns * 4)).max(1).next_multiple_of(128).min(self.panel_rows(columns)?);
        let mut scales = Vec::with_capacity(weights.len() / columns * columns.div_ceil(search.group));
        for weights in weights.chunks(at_once * columns) {
            scales.extend(self.scales_of(&self.upload(weights, columns)?, search)?);
        }
        Ok(scales)
    }

    /// As [`Accelerator::scales`], of weights in the GPU's memory.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if there is no room for what is known of groups and their scales,
    /// [`AcceleratorError::Gpu`] if the device failed or was lost.
    ///
    /// # Panics
    /// If sizes do not fit together, or there are too many values or candidates.
    pub fn scales_of(&self, weights: &Matrix, search: &ScaleSearch<'_>) -> Result<Vec<f32>, AcceleratorError> {
        let (levels, group) = (search.values.len(), search.group);
        let (rows, groups) = (weights.rows(), weights.columns().div_ceil(group));
        let (count, parts) = match search.candidates {
            ScaleCandidates::Neighbours(count) => (count, [].as_slice()),
            ScaleCandidates::Parts(parts) => (parts.len(), parts),
        };
        assert!((1..=LEVELS).contains(&levels) && (1..=CANDIDATES).contains(&count), "{levels} values, {count} candidates");
        assert!(group.is_multiple_of(4) && search.importance.len() == weights.columns());
        let mut largest = self.unwritten(rows, groups)?;
        self.largest(weights, group, &largest)?;
        let mut known = self.download(&largest)?;
        known.par_iter_mut().with_min_len(1 << 12).for_each(|x| *x = (search.known)(*x));
        self.write(&mut largest, 0, &known)?;
        let known = largest;

        let mut importance = search.importance.to_vec();
        importance.resize(weights.pitch(), 0.0);
        let importance = self.counted("importance", &importance)?;
        let inverse = |s: f32| if s > 0.0 { 1.0 / s } else { 0.0 };
        let storable: Vec<[f32; 2]> = search.storable.iter().map(|&s| [s, inverse(s)]).collect();
        let storable = self.counted("storable", &storable)?;
        let scales = self.unwritten(rows, groups)?;
        let mut params = Params {
            groups: groups as u32,
            pitch: (weights.pitch() / 4) as u32,
            group: (group / 4) as u32,
            out_pitch: scales.pitch() as u32,
            candidates: count as u32,
            at_once: (WORKGROUP / count) as u32,
            middles: [f32::INFINITY; LEVELS],
            ..Params::zeroed()
        };
        params.values[..levels].copy_from_slice(search.values);
        params.middles.iter_mut().zip(search.values.windows(2)).for_each(|(m, pair)| *m = 0.5 * (pair[0] + pair[1]));
        params.parts[..parts.len()].copy_from_slice(parts);
        let constants = [("LEVELS", levels as f64), ("PARTS", f64::from(u8::from(!parts.is_empty())))];
        for of in shared_panels(weights, &scales) {
            params.rows = of.len() as u32;
            let bindings = [
                (1, part(weights, &of)),
                (2, importance.buffer().into()),
                (3, part(&known, &of)),
                (4, storable.buffer().into()),
                (5, part(&scales, &of)),
            ];
            let grid = grid_1d((of.len() * groups).div_ceil(WORKGROUP / count) as u32);
            self.run(&SCALES, &constants, &params, &bindings, grid)?;
            self.count(of.len() * weights.pitch() * count * (2 * levels + 8));
        }
        self.download(&scales)
    }

    fn largest(&self, weights: &Matrix, group: usize, out: &Matrix) -> Result<(), AcceleratorError> {
        let groups = out.columns();
        for of in shared_panels(weights, out) {
            let params = LargestParams {
                rows: of.len() as u32,
                groups: groups as u32,
                pitch: (weights.pitch() / 4) as u32,
                group: (group / 4) as u32,
                out_pitch: out.pitch() as u32,
                padding: [0; 3],
            };
            let bindings = [(1, part(weights, &of)), (2, part(out, &of))];
            self.run(&LARGEST, &[], &params, &bindings, grid_1d((of.len() * groups).div_ceil(WORKGROUP) as u32))?;
        }
        Ok(())
    }
}

/// Rows that lie in one buffer of either matrix.
fn shared_panels(a: &Matrix, b: &Matrix) -> impl Iterator<Item = Range<usize>> {
    let of_b: Vec<_> = b.panels().map(|(rows, _)| rows).collect();
    let shared = move |(a, _): (Range<usize>, _)| {
        of_b.iter().map(|b| a.start.max(b.start)..a.end.min(b.end)).filter(|r| !r.is_empty()).collect::<Vec<_>>()
    };
    a.panels().flat_map(shared)
}

/// Rows of one panel of `matrix`, which begin at a multiple of 128.
fn part<'a>(matrix: &'a Matrix, rows: &Range<usize>) -> Binding<'a> {
    let ((first, buffer), bytes) = (matrix.panel_of(rows.start), 4 * matrix.pitch());
    Binding { buffer, offset: ((rows.start - first) * bytes) as u64, size: Some((rows.len() * bytes) as u64) }
}
