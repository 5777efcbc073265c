//! [`Matrix`]: numbers in the GPU's memory.

use super::memory::Counted;
use super::{Accelerator, AcceleratorError};
use haikuq_runtime::device::{Binding, GpuError};
use std::ops::Range;

/// Numbers that lie between the beginnings of two rows are a multiple of this many; those beyond the columns are zero.
const PITCH: usize = 32;

/// Rows of a panel are a multiple of this many, but for the last panel; of the second number where so many fit, so that
/// windows of calibration lie in one.
pub(super) const PANEL_ROWS: usize = 128;
const WINDOW_ROWS: usize = 512;

/// A row-major matrix of f32 in the GPU's memory, in as many buffers of whole rows as the device's limits make necessary.
pub struct Matrix {
    rows: usize,
    columns: usize,
    pitch: usize,
    panel_rows: usize,
    panels: Vec<Counted>,
}

impl Matrix {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Numbers from row to row.
    pub(super) fn pitch(&self) -> usize {
        self.pitch
    }

    /// Each panel's rows and its buffer.
    pub(super) fn panels(&self) -> impl Iterator<Item = (Range<usize>, &wgpu::Buffer)> {
        let rows = |i: usize| i * self.panel_rows..self.rows.min((i + 1) * self.panel_rows);
        self.panels.iter().enumerate().map(move |(i, p)| (rows(i), p.buffer()))
    }

    /// The panel that row `row` is in: its first row and its buffer.
    pub(super) fn panel_of(&self, row: usize) -> (usize, &wgpu::Buffer) {
        let i = row / self.panel_rows;
        (i * self.panel_rows, self.panels[i].buffer())
    }

    /// Rows of each panel but the last.
    pub(super) fn panel_rows(&self) -> usize {
        self.panel_rows
    }
}

impl Accelerator {
    /// A matrix of zeros.
    ///
    /// # Errors
    /// [`AcceleratorError::Memory`] if it takes more than is left, [`AcceleratorError::Gpu`] if the device failed or 128 rows
    /// are more than one buffer of it holds.
    pub fn zeros(&self, rows: usize, columns: usize) -> Result<Matrix, AcceleratorError> {
        self.matrix(rows, columns, true)
    }

    /// A matrix all of whose numbers will be written; those beyond the columns are zero.
    pub(super) fn unwritten(&self, rows: usize, columns: usize) -> Result<Matrix, AcceleratorError> {
        self.matrix(rows, columns, !columns.is_multiple_of(PITCH))
    }

    fn matrix(&self, rows: usize, columns: usize, zeros: bool) -> Result<Matrix, AcceleratorError> {
        let pitch = columns.max(1).next_multiple_of(PITCH);
        let panel_rows = self.panel_rows(columns)?.min(rows.max(1));
        let panel = |i: usize| -> Result<Counted, AcceleratorError> {
            let bytes = ((rows - i * panel_rows).min(panel_rows) * pitch * 4) as u64;
            let (panel, is_zero) = self.buffer("matrix", bytes)?;
            if zeros && !is_zero {
                self.clear(panel.buffer());
            }
            Ok(panel)
        };
        let panels = (0..rows.div_ceil(panel_rows)).map(panel).collect::<Result<_, _>>()?;
        self.gpu.check()?;
        Ok(Matrix { rows, columns, pitch, panel_rows, panels })
    }

    pub(super) fn clear(&self, buffer: &wgpu::Buffer) {
        self.flush();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        encoder.clear_buffer(buffer, 0, None);
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// `values`, row-major with `columns` columns.
    ///
    /// # Errors
    /// As [`Accelerator::zeros`].
    ///
    /// # Panics
    /// If `values` is no whole number of rows.
    pub fn upload(&self, values: &[f32], columns: usize) -> Result<Matrix, AcceleratorError> {
        let mut matrix = self.unwritten(values.len() / columns, columns)?;
        self.write(&mut matrix, 0, values)?;
        Ok(matrix)
    }

    /// Calls `work` for every run of rows that lie in one buffer of `x` and in one of `out`, which has as many rows: with the first
    /// row, how many there are, and both as bindings.
    pub(super) fn for_common_rows(
        x: &Matrix,
        out: &Matrix,
        mut work: impl FnMut(usize, usize, [Binding<'_>; 2]) -> Result<(), AcceleratorError>,
    ) -> Result<(), AcceleratorError> {
        for (rows, from) in x.panels() {
            for (own, to) in out.panels() {
                let (begin, end) = (rows.start.max(own.start), rows.end.min(own.end));
                if begin >= end {
                    continue;
                }
                let at = |first: usize, pitch: usize, buffer| Binding {
                    buffer,
                    offset: ((begin - first) * pitch * 4) as u64,
                    size: Some(((end - begin) * pitch * 4) as u64),
                };
                work(begin, end - begin, [at(rows.start, x.pitch(), from), at(own.start, out.pitch(), to)])?;
            }
        }
        Ok(())
    }

    /// Rows of `columns` numbers that lie in one buffer, at most.
    pub(super) fn panel_rows(&self, columns: usize) -> Result<usize, AcceleratorError> {
        let row_bytes = (columns.max(1).next_multiple_of(PITCH) * 4) as u64;
        let rows = (self.panel_bytes / row_bytes) as usize;
        if rows >= PANEL_ROWS {
            let multiple = if rows >= WINDOW_ROWS { WINDOW_ROWS } else { PANEL_ROWS };
            return Ok(rows / multiple * multiple);
        }
        let (what, needed) = (format!("a matrix of {columns} columns"), row_bytes * PANEL_ROWS as u64);
        let (limit, available) = ("maxStorageBufferBindingSize", self.panel_bytes);
        Err(GpuError::Limit { what, needed, limit, available }.into())
    }
}
