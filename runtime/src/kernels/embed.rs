//! Embedding rows of the step's tokens, and rows of a table of positions.

use super::weights::{GpuChunk, GpuMatrix};
use crate::device::{Binding, Dispatch, Flag, Gpu, GpuError, Kernel, grid_1d};
use bytemuck::{Pod, Zeroable};
use haikuq_format::layout::padded;

super::shader!(EMBED = "embed");

/// `y[t] = multiplier × W[id]`, padded with zeros, for each token's id; zeros alone for an id that W does not have. Or
/// `y[t] += W[position]`; nothing for a position that W does not have.
#[derive(Clone, Debug)]
pub struct Embed<'a> {
    /// W: a row a token id, or a row a position.
    pub matrix: &'a GpuMatrix,
    /// Which of the two.
    pub rows: Rows,
    /// `token_count` entries of four u32, id and position first.
    pub tokens: Binding<'a>,
    /// y: rows of `output_stride` f32.
    pub output: Binding<'a>,
    /// Values from one row of y to the next; a multiple of 4, at least `padded(columns)`.
    pub output_stride: usize,
    /// Entries of `tokens`.
    pub token_count: usize,
}

/// What the rows of [`Embed::matrix`] are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rows {
    /// Token ids: y is overwritten.
    Ids {
        /// `embedding_multiplier` of the decoder.
        multiplier: f32,
    },
    /// Positions: added to y.
    Positions,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) rows: u32,
    pub(super) first_row: u32,
    pub(super) all_rows: u32,
    pub(super) columns: u32,
    pub(super) units: u32,
    pub(super) groups: u32,
    pub(super) group_units_log2: u32,
    pub(super) output_stride: u32,
    pub(super) tokens: u32,
    pub(super) multiplier: f32,
    pub(super) padding: [u32; 2],
}

impl Embed<'_> {
    /// One dispatch a chunk of the matrix, in any order.
    ///
    /// # Errors
    /// [`GpuError::Validation`] if sizes do not fit together, [`GpuError::Limit`] if a chunk is too large for the device.
    pub fn bind(&self, gpu: &Gpu) -> Result<Vec<Dispatch>, GpuError> {
        self.matrix.check()?;
        if !self.output_stride.is_multiple_of(4) || self.output_stride < padded(self.matrix.columns) {
            let (stride, columns) = (self.output_stride, self.matrix.columns);
            return Err(GpuError::Validation(format!("an embedding of {columns} columns into rows of {stride} values")));
        }
        let mut flags = self.matrix.flags();
        let multiplier = match self.rows {
            Rows::Ids { multiplier } => multiplier,
            Rows::Positions => {
                flags.push(Flag::Positions);
                1.0
            }
        };
        let (groups, group_units_log2) = self.matrix.groups();
        let units = self.matrix.units();
        let bind = |chunk: &GpuChunk| {
            let params = Params {
                rows: chunk.rows as u32,
                first_row: chunk.first_row as u32,
                all_rows: self.matrix.rows as u32,
                columns: self.matrix.columns as u32,
                units,
                groups,
                group_units_log2,
                output_stride: (self.output_stride / 4) as u32,
                tokens: self.token_count as u32,
                multiplier,
                padding: [0; 2],
            };
            let params = gpu.uniform("embed", &params);
            let mut bindings = chunk.bindings();
            bindings.extend([(0, (&params).into()), (1, self.tokens.clone()), (2, self.output.clone())]);
            let grid = grid_1d((self.token_count as u32 * units * 4).div_ceil(64));
            Kernel { shader: &EMBED, flags: &flags, constants: &[], bindings: &bindings, grid }.bind(gpu)
        };
        self.matrix.chunks.iter().map(bind).collect()
    }
}

/// The CPU twin: gathers rows of `weights` (`columns` wide) for `ids` into rows of `stride` values. Of positions it gives what
/// is added.
pub fn cpu(weights: &[f32], columns: usize, ids: &[u32], multiplier: f32, stride: usize) -> Vec<f32> {
    let mut y = vec![0.0; ids.len() * stride];
    for (id, y) in ids.iter().zip(y.chunks_exact_mut(stride)) {
        if let Some(row) = weights.chunks_exact(columns).nth(*id as usize) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y = multiplier * w);
        }
    }
    y
}
