//! Codes of a matrix by GPTQ and coordinate descent, as `quantize/gptq.rs` and `quantize/descent.rs` choose them.
//!
//! Columns are rounded one after the other in blocks, within which one kernel does everything (`round_block.wgsl`). The
//! changes that a block makes in the columns after it, and the gradient that the next one begins with, are products.

use super::memory::Counted;
use super::product::{Operand, Part, Product};
use super::{Accelerator, AcceleratorError, Matrix, shader};
use bytemuck::{Pod, Zeroable};
use haikuq_runtime::device::{Binding, grid_1d};

shader!(ROUND_BLOCK = "round_block");
shader!(ROUND_BLOCKS = "round_blocks");
shader!(ROUND_PACK = "round_pack");
shader!(ROUND_PREPARE = "round_prepare");

/// Columns of a block.
const BLOCK: usize = 128;

/// Rows of a workgroup of `round_block.wgsl`.
const ROWS: usize = 16;

/// Values of a table, at most.
const LEVELS: usize = 32;

/// Bytes of a matrix that is rounded at a time, about. There are three of its size.
const CHUNK_BYTES: usize = 256 << 20;

/// What codes are chosen by, beside the weights.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'a> {
    /// The table: up to 32 values, ascending.
    pub values: &'a [f32],
    /// Columns that share a scale.
    pub group: usize,
    /// Scales `[rows, groups]`, 0 where all of a group is zero.
    pub scales: &'a [f32],
    /// The columns in the order in which GPTQ fixes them.
    pub order: &'a [usize],
    /// Passes of coordinate descent.
    pub sweeps: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BlockParams {
    rows: u32,
    count: u32,
    first: u32,
    group: u32,
    groups: u32,
    state_pitch: u32,
    state_at: u32,
    coupling_pitch: u32,
    coupling_at: u32,
    pitch: u32,
    out_pitch: u32,
    levels: u32,
    values: [f32; LEVELS],
    middles: [f32; LEVELS],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PrepareParams {
    rows: u32,
    columns: u32,
    pitch: u32,
    group: u32,
    groups: u32,
    padding: [u32; 3],
    values: [f32; LEVELS],
}

impl Accelerator {
    /// Codes of `weights`, row-major with a byte a weight. `hessian` `[columns, columns]` is the Hessian of their inputs
    /// (`quantize::Hessian`), `factor` the lower triangle with `factor factorᵀ` the inverse of that in the order
    /// of fixing, with zeros above its diagonal.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if there is no room for three times 128 rows, [`AcceleratorError::Gpu`] if the device
    /// failed or was lost.
    ///
    /// # Panics
    /// If sizes do not fit together, or the table has no value or more than 32.
    pub fn round(
        &self,
        weights: &[f32],
        rounding: &Rounding<'_>,
        factor: &Matrix,
        hessian: &Matrix,
    ) -> Result<Vec<u8>, AcceleratorError> {
        let columns = rounding.order.len();
        let (rows, groups) = (weights.len() / columns, columns.div_ceil(rounding.group));
        assert!((1..=LEVELS).contains(&rounding.values.len()), "{} values in a table", rounding.values.len());
        assert_eq!((weights.len(), rounding.scales.len()), (rows * columns, rows * groups));
        for square in [factor, hessian] {
            assert_eq!((square.rows(), square.columns()), (columns, columns));
        }
        let columns_of = Columns::new(self, rounding, factor)?;
        let at_once = (CHUNK_BYTES / (columns * 4)).max(1).next_multiple_of(BLOCK).min(self.panel_rows(columns)?);
        let mut codes = vec![0; rows * columns];
        let chunks = weights.chunks(at_once * columns).zip(rounding.scales.chunks(at_once * groups));
        for ((weights, scales), codes) in chunks.zip(codes.chunks_mut(at_once * columns)) {
            let chunk = Chunk::new(self, weights, scales, rounding)?;
            chunk.gptq(self, &columns_of, factor)?;
            chunk.descend(self, &columns_of, hessian, rounding.sweeps)?;
            chunk.read_codes(self, codes)?;
        }
        Ok(codes)
    }
}

/// What all rows share.
struct Columns {
    order: Counted,
    /// The order of descent: as they are.
    ascending: Counted,
    /// Blocks of the factor's diagonal, transposed.
    blocks: Counted,
}

impl Columns {
    fn new(accelerator: &Accelerator, rounding: &Rounding<'_>, factor: &Matrix) -> Result<Self, AcceleratorError> {
        let columns = rounding.order.len();
        let order: Vec<u32> = rounding.order.iter().map(|&c| c as u32).collect();
        let ascending: Vec<u32> = (0..columns as u32).collect();
        let bytes = (columns.next_multiple_of(BLOCK) * BLOCK * 4) as u64;
        let (blocks, is_zero) = accelerator.buffer("blocks of a factor", bytes)?;
        if !is_zero {
            accelerator.clear(blocks.buffer());
        }
        for (rows, panel) in factor.panels() {
            let params = [columns as u32, factor.pitch() as u32, rows.start as u32, rows.len() as u32];
            let bindings = [(1, Binding::from(panel)), (2, blocks.buffer().into())];
            accelerator.run(&ROUND_BLOCKS, &[], &params, &bindings, [rows.len() as u32, 1, 1])?;
        }
        let (order, ascending) = (accelerator.counted("order", &order)?, accelerator.counted("order", &ascending)?);
        Ok(Self { order, ascending, blocks })
    }
}

/// Some rows, each matrix of which lies in one buffer.
struct Chunk {
    rows: usize,
    columns: usize,
    group: usize,
    levels: usize,
    values: [f32; LEVELS],
    middles: [f32; LEVELS],
    scales: Counted,
    weights: Matrix,
    /// What is left of the weights in the order of fixing; then, in the matrix's order, weights without stored values.
    left: Matrix,
    /// Moves of a block, or the gradient of one.
    moves: Matrix,
    /// A word a code.
    codes: Matrix,
}

impl Chunk {
    fn new(
        accelerator: &Accelerator,
        weights: &[f32],
        scales: &[f32],
        rounding: &Rounding<'_>,
    ) -> Result<Self, AcceleratorError> {
        let columns = rounding.order.len();
        let rows = weights.len() / columns;
        let levels = rounding.values.len();
        let (mut values, mut middles) = ([0.0; LEVELS], [f32::INFINITY; LEVELS]);
        values[..levels].copy_from_slice(rounding.values);
        middles.iter_mut().zip(rounding.values.windows(2)).for_each(|(m, pair)| *m = 0.5 * (pair[0] + pair[1]));
        Ok(Self {
            rows,
            columns,
            group: rounding.group,
            levels,
            values,
            middles,
            scales: accelerator.counted("scales", scales)?,
            weights: accelerator.upload(weights, columns)?,
            left: accelerator.unwritten(rows, columns)?,
            moves: accelerator.zeros(rows, BLOCK)?,
            codes: accelerator.zeros(rows, columns)?,
        })
    }

    fn gptq(&self, accelerator: &Accelerator, columns: &Columns, factor: &Matrix) -> Result<(), AcceleratorError> {
        self.prepare(accelerator, columns, false)?;
        for first in (0..self.columns).step_by(BLOCK) {
            let last = self.columns.min(first + BLOCK);
            let params = BlockParams {
                state_pitch: (self.left.pitch() / 4) as u32,
                state_at: (first / 4) as u32,
                coupling_pitch: (BLOCK / 4) as u32,
                coupling_at: (first * BLOCK / 4) as u32,
                out_pitch: self.moves.pitch() as u32,
                ..self.params(first, last)
            };
            let state = self.left.panel_of(0).1;
            let buffers = [state, columns.blocks.buffer(), columns.order.buffer(), self.moves.panel_of(0).1];
            self.block(accelerator, &params, buffers, false)?;
            if last < self.columns {
                let moves = Part { matrix: &self.moves, rows: 0..self.rows, columns: 0..BLOCK };
                let by = Part { matrix: factor, rows: last..self.columns, columns: first..last };
                let after = Part { matrix: &self.left, rows: 0..self.rows, columns: last..self.columns };
                let product = Product { a: Operand::Rows(moves), b: Operand::Rows(by), alpha: -1.0, add: true };
                product.run(accelerator, &after)?;
            }
        }
        Ok(())
    }

    fn descend(
        &self,
        accelerator: &Accelerator,
        columns: &Columns,
        hessian: &Matrix,
        sweeps: usize,
    ) -> Result<(), AcceleratorError> {
        if sweeps == 0 {
            return Ok(());
        }
        self.prepare(accelerator, columns, true)?;
        for first in (0..sweeps).flat_map(|_| (0..self.columns).step_by(BLOCK)) {
            let last = self.columns.min(first + BLOCK);
            let by = Part { matrix: hessian, rows: 0..self.columns, columns: first..last };
            let gradient = Part { matrix: &self.moves, rows: 0..self.rows, columns: 0..last - first };
            let product = Product { a: Operand::Rows((&self.left).into()), b: Operand::Terms(by), alpha: 1.0, add: false };
            product.run(accelerator, &gradient)?;
            let (row, panel) = hessian.panel_of(first);
            let params = BlockParams {
                state_pitch: (self.moves.pitch() / 4) as u32,
                state_at: 0,
                coupling_pitch: (hessian.pitch() / 4) as u32,
                coupling_at: (((first - row) * hessian.pitch() + first) / 4) as u32,
                out_pitch: self.left.pitch() as u32,
                ..self.params(first, last)
            };
            let buffers = [self.moves.panel_of(0).1, panel, columns.ascending.buffer(), self.left.panel_of(0).1];
            self.block(accelerator, &params, buffers, true)?;
        }
        Ok(())
    }

    /// Reads codes with a byte each.
    fn read_codes(&self, accelerator: &Accelerator, codes: &mut [u8]) -> Result<(), AcceleratorError> {
        let width = self.columns.div_ceil(4);
        let words = accelerator.unwritten(self.rows, width)?;
        let params = [self.rows, width, words.pitch(), self.codes.pitch() / 4].map(|n| n as u32);
        let bindings = [(1, Binding::from(self.codes.panel_of(0).1)), (2, words.panel_of(0).1.into())];
        let grid = grid_1d((self.rows * width).div_ceil(256) as u32);
        accelerator.run(&ROUND_PACK, &[], &params, &bindings, grid)?;
        accelerator.read_bytes(&words, 0, codes, self.columns)
    }

    fn params(&self, first: usize, last: usize) -> BlockParams {
        BlockParams {
            rows: self.rows as u32,
            count: (last - first) as u32,
            first: first as u32,
            group: self.group as u32,
            groups: self.columns.div_ceil(self.group) as u32,
            pitch: self.weights.pitch() as u32,
            levels: self.levels as u32,
            values: self.values,
            middles: self.middles,
            ..BlockParams::zeroed()
        }
    }

    /// Rounds a block: `buffers` are the state, what couples columns, their order, and where moves or differences go.
    fn block(
        &self,
        accelerator: &Accelerator,
        params: &BlockParams,
        [state, coupling, order, out]: [&wgpu::Buffer; 4],
        descent: bool,
    ) -> Result<(), AcceleratorError> {
        let bindings = [
            (1, Binding::from(state)),
            (2, coupling.into()),
            (3, self.scales.buffer().into()),
            (4, order.into()),
            (5, self.weights.panel_of(0).1.into()),
            (6, self.codes.panel_of(0).1.into()),
            (7, out.into()),
        ];
        let constants = [("DESCENT", f64::from(u8::from(descent)))];
        let grid = grid_1d(self.rows.div_ceil(ROWS) as u32);
        accelerator.run(&ROUND_BLOCK, &constants, params, &bindings, grid)
    }

    /// Fills `left`.
    fn prepare(&self, accelerator: &Accelerator, columns: &Columns, difference: bool) -> Result<(), AcceleratorError> {
        let params = PrepareParams {
            rows: self.rows as u32,
            columns: self.columns as u32,
            pitch: self.weights.pitch() as u32,
            group: self.group as u32,
            groups: self.columns.div_ceil(self.group) as u32,
            padding: [0; 3],
            values: self.values,
        };
        let bindings = [
            (1, Binding::from(self.weights.panel_of(0).1)),
            (2, columns.order.buffer().into()),
            (3, self.scales.buffer().into()),
            (4, self.codes.panel_of(0).1.into()),
            (5, self.left.panel_of(0).1.into()),
        ];
        let constants = [("DIFFERENCE", f64::from(u8::from(difference)))];
        let grid = [self.columns.div_ceil(256), self.rows.min(65_535), 1].map(|n| n as u32);
        accelerator.run(&ROUND_PREPARE, &constants, &params, &bindings, grid)
    }
}
