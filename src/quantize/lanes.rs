//! Rows side by side in vector lanes: how the calibrated algorithms hold a matrix.
//!
//! Rows of a matrix are quantized independently, each by a long chain of steps along its columns. So [`ROWS`] rows are
//! taken together, a column of them in one vector: every step is one vector operation, sums run in the order of the
//! columns, and results depend neither on the width of the CPU's vectors nor on the number of threads.

use faer::{MatMut, MatRef};
use std::ops::Range;

/// Rows in a block.
pub(super) const ROWS: usize = 16;

/// One column of a block of rows.
pub(super) type Lanes = [f32; ROWS];

/// Rows `first..` of a row-major matrix with `columns` columns as lanes, column by column. Rows beyond the last are
/// zero.
pub(super) fn gather(matrix: &[f32], columns: usize, first: usize) -> Vec<Lanes> {
    let mut lanes = vec![[0.0; ROWS]; columns];
    for (lane, row) in matrix[first * columns..].chunks_exact(columns).take(ROWS).enumerate() {
        for (column, &value) in lanes.iter_mut().zip(row) {
            column[lane] = value;
        }
    }
    lanes
}

/// Some blocks of rows side by side: `[columns, width × ROWS]`, a row of it for each column of the matrix.
///
/// Products with factors of the Hessian take a strip at a time, each step along its columns a block of rows.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    /// Blocks of rows.
    pub(super) width: usize,
    /// Column by column, block after block.
    pub(super) lanes: Vec<Lanes>,
}

impl Strip {
    pub(super) fn zeros(columns: usize, width: usize) -> Self {
        Self { width, lanes: vec![[0.0; ROWS]; columns * width] }
    }

    /// Blocks of rows next to each other.
    pub(super) fn of(blocks: &[Vec<Lanes>]) -> Self {
        let (width, columns) = (blocks.len(), blocks.first().map_or(0, Vec::len));
        let lanes = (0..columns).flat_map(|c| blocks.iter().map(move |block| block[c])).collect();
        Self { width, lanes }
    }

    /// One column of all blocks.
    pub(super) fn column(&self, c: usize) -> &[Lanes] {
        &self.lanes[c * self.width..(c + 1) * self.width]
    }

    /// Columns as rows of a matrix `[columns, width × ROWS]`.
    pub(super) fn matrix(&self, columns: Range<usize>) -> MatRef<'_, f32> {
        let numbers = self.lanes[columns.start * self.width..columns.end * self.width].as_flattened();
        MatRef::from_row_major_slice(numbers, columns.len(), self.width * ROWS)
    }

    /// As [`Strip::matrix`], to be written.
    pub(super) fn matrix_mut(&mut self, columns: Range<usize>) -> MatMut<'_, f32> {
        let numbers = self.lanes[columns.start * self.width..columns.end * self.width].as_flattened_mut();
        MatMut::from_row_major_slice_mut(numbers, columns.len(), self.width * ROWS)
    }
}

/// The nearest entries of a table with ascending values.
#[derive(Clone, Debug)]
pub(super) struct Table {
    values: Vec<f32>,
    /// Where the nearest entry changes, between two values each.
    middles: Vec<f32>,
}

impl Table {
    /// # Panics
    /// If there is no value, or they do not ascend.
    pub(super) fn new(values: Vec<f32>) -> Self {
        assert!(!values.is_empty() && values.is_sorted(), "{values:?}");
        let middles = values.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        Self { values, middles }
    }

    /// Its values.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Largest magnitude.
    pub(super) fn reach(&self) -> f32 {
        self.values.iter().fold(0.0, |a, v| a.max(v.abs()))
    }

    /// For each lane the nearest value.
    #[inline(always)]
    pub(super) fn nearest(&self, x: &Lanes) -> Lanes {
        let mut value = [self.values[0]; ROWS];
        for (&middle, &next) in self.middles.iter().zip(&self.values[1..]) {
            for lane in 0..ROWS {
                value[lane] = if x[lane] > middle { next } else { value[lane] };
            }
        }
        value
    }

    /// For each lane the nearest value and its index.
    #[inline(always)]
    pub(super) fn nearest_code(&self, x: &Lanes) -> (Lanes, [i32; ROWS]) {
        let (mut value, mut code) = ([self.values[0]; ROWS], [0i32; ROWS]);
        for (&middle, &next) in self.middles.iter().zip(&self.values[1..]) {
            for lane in 0..ROWS {
                let above = x[lane] > middle;
                value[lane] = if above { next } else { value[lane] };
                code[lane] += i32::from(above);
            }
        }
        (value, code)
    }
}
