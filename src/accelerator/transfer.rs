//! Numbers from the processor's memory to the GPU's and back, through a few buffers that both of them see.
//!
//! Such buffers are slow to make and fast to use, so they are made once. Several threads fill or empty one while the GPU
//! copies others.

use super::{Accelerator, AcceleratorError, Matrix};
use crate::zeros::zeros;
use haikuq_runtime::device::{Gpu, GpuError};
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Bytes of a buffer that both see, and how many there are in each direction.
const PIECE: u64 = 32 << 20;
const PIECES: usize = 3;

/// Numbers that a thread copies at a time.
const PART: usize = 1 << 18;

/// The buffers of both directions.
#[derive(Default)]
pub(super) struct Staging {
    up: Mutex<Vec<Piece>>,
    down: Mutex<Vec<Piece>>,
}

/// One buffer, and the submission that used it last.
struct Piece {
    buffer: wgpu::Buffer,
    used: Option<wgpu::SubmissionIndex>,
}

impl Piece {
    fn new(gpu: &Gpu, usage: wgpu::BufferUsages, bytes: u64) -> Self {
        let mapped_at_creation = usage.contains(wgpu::BufferUsages::MAP_WRITE);
        let descriptor = wgpu::BufferDescriptor { label: Some("staging"), size: bytes, usage, mapped_at_creation };
        Self { buffer: gpu.device.create_buffer(&descriptor), used: None }
    }

    /// Submits a copy, and asks for the buffer to be mapped when that is done.
    fn submit(&mut self, gpu: &Gpu, encoder: wgpu::CommandEncoder, mode: wgpu::MapMode) {
        self.used = Some(gpu.queue.submit([encoder.finish()]));
        // A failure shows when the range is asked for.
        self.buffer.map_async(mode, .., |_| {});
    }

    /// Waits until the buffer is mapped.
    fn wait(&self, gpu: &Gpu) -> Result<(), GpuError> {
        match &self.used {
            Some(submission) => gpu.wait_for(submission),
            None => Ok(()),
        }
    }
}

fn not_mapped(gpu: &Gpu, error: &wgpu::MapRangeError) -> GpuError {
    gpu.check().err().unwrap_or_else(|| GpuError::Lost(error.to_string()))
}

/// The pieces of one direction; wide rows need larger ones than were made before.
fn pieces<'a>(gpu: &Gpu, pieces: &'a mut Vec<Piece>, usage: wgpu::BufferUsages, row_bytes: u64) -> &'a mut [Piece] {
    if pieces.first().is_none_or(|p| p.buffer.size() < row_bytes) {
        *pieces = (0..PIECES).map(|_| Piece::new(gpu, usage, PIECE.max(row_bytes))).collect();
    }
    pieces
}

impl Accelerator {
    /// Writes `values` over the rows of `matrix` from `first_row` on.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed or was lost.
    ///
    /// # Panics
    /// If `values` is no whole number of rows, or they are more than there are.
    pub fn write(&self, matrix: &mut Matrix, first_row: usize, values: &[f32]) -> Result<(), AcceleratorError> {
        let (columns, pitch) = (matrix.columns(), matrix.pitch());
        let count = values.len() / columns;
        assert_eq!(values.len(), count * columns, "whole rows of {columns} numbers");
        assert!(first_row + count <= matrix.rows(), "{first_row} + {count} rows in a matrix of {}", matrix.rows());
        let row_bytes = (pitch * 4) as u64;
        self.flush();
        let mut up = self.staging.up.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let pieces = pieces(&self.gpu, &mut up, usage, row_bytes);
        let rows_a_piece = (pieces[0].buffer.size() / row_bytes) as usize;
        let (mut row, mut turn) = (0, 0);
        while row < count {
            let (panel_first, panel) = matrix.panel_of(first_row + row);
            let in_panel = first_row + row - panel_first;
            let rows = rows_a_piece.min(count - row).min(matrix.panel_rows() - in_panel);
            let piece = &mut pieces[turn % PIECES];
            piece.wait(&self.gpu)?;
            let bytes = rows as u64 * row_bytes;
            let mut view = piece.buffer.get_mapped_range_mut(..bytes).map_err(|e| not_mapped(&self.gpu, &e))?;
            fill(view.slice(..), &values[row * columns..(row + rows) * columns], columns, pitch);
            drop(view);
            piece.buffer.unmap();
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&piece.buffer, 0, panel, in_panel as u64 * row_bytes, bytes);
            piece.submit(&self.gpu, encoder, wgpu::MapMode::Write);
            row += rows;
            turn += 1;
        }
        Ok(self.gpu.check()?)
    }

    /// The numbers of `matrix`, row-major.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed or was lost.
    pub fn download(&self, matrix: &Matrix) -> Result<Vec<f32>, AcceleratorError> {
        let mut out = zeros(matrix.rows() * matrix.columns());
        self.read(matrix, 0, &mut out)?;
        Ok(out)
    }

    /// The numbers of `matrix` from row `first_row` on, as many as `out` has room for.
    ///
    /// # Errors
    /// [`AcceleratorError::Gpu`] if the device failed or was lost.
    ///
    /// # Panics
    /// If `out` is no whole number of rows, or they are more than there are.
    pub fn read(&self, matrix: &Matrix, first_row: usize, out: &mut [f32]) -> Result<(), AcceleratorError> {
        self.read_bytes(matrix, first_row, bytemuck::cast_slice_mut(out), 4 * matrix.columns())
    }

    /// The first `width` bytes of rows of `matrix` from row `first_row` on, as many as `out` has room for.
    pub(super) fn read_bytes(
        &self,
        matrix: &Matrix,
        first_row: usize,
        out: &mut [u8],
        width: usize,
    ) -> Result<(), AcceleratorError> {
        let pitch = matrix.pitch();
        let count = out.len() / width;
        assert_eq!(out.len(), count * width, "whole rows of {width} bytes");
        assert!(first_row + count <= matrix.rows(), "{first_row} + {count} rows in a matrix of {}", matrix.rows());
        let row_bytes = (pitch * 4) as u64;
        self.flush();
        let mut down = self.staging.down.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let pieces = pieces(&self.gpu, &mut down, usage, row_bytes);
        let rows_a_piece = (pieces[0].buffer.size() / row_bytes) as usize;
        let mut parts = Vec::new();
        let mut row = 0;
        while row < count {
            let (panel_first, panel) = matrix.panel_of(first_row + row);
            let in_panel = first_row + row - panel_first;
            let rows = rows_a_piece.min(count - row).min(matrix.panel_rows() - in_panel);
            parts.push((panel, in_panel as u64 * row_bytes, row, rows));
            row += rows;
        }
        let copy = |piece: &mut Piece, (panel, at, _, rows): (&wgpu::Buffer, u64, usize, usize)| {
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(panel, at, &piece.buffer, 0, rows as u64 * row_bytes);
            piece.submit(&self.gpu, encoder, wgpu::MapMode::Read);
        };
        for (i, part) in parts.iter().take(PIECES).enumerate() {
            copy(&mut pieces[i], *part);
        }
        for (i, &(_, _, row, rows)) in parts.iter().enumerate() {
            let piece = &mut pieces[i % PIECES];
            piece.wait(&self.gpu)?;
            let view = piece.buffer.get_mapped_range(..rows as u64 * row_bytes).map_err(|e| not_mapped(&self.gpu, &e))?;
            empty(&view, &mut out[row * width..(row + rows) * width], width, pitch * 4);
            drop(view);
            piece.buffer.unmap();
            if let Some(part) = parts.get(i + PIECES) {
                copy(piece, *part);
            }
        }
        Ok(self.gpu.check()?)
    }
}

/// Copies rows of `columns` numbers to rows of `pitch` numbers, with zeros in between.
///
/// # Panics
/// If there is no room for them.
fn fill(mut to: wgpu::WriteOnly<'_, [u8]>, values: &[f32], columns: usize, pitch: usize) {
    let rows = (PART / pitch).max(1);
    assert!(values.len() / columns * pitch * 4 <= to.len(), "room for all rows");
    let begin = Begin(to.as_raw_element_ptr().as_ptr());
    values.par_chunks(rows * columns).enumerate().for_each(|(part, values)| {
        for (row, values) in values.chunks_exact(columns).enumerate() {
            // SAFETY: `to` is borrowed exclusively and has room for all rows; each row is written by one thread. Numbers and
            // zeros have no padding.
            unsafe {
                let row = begin.at((part * rows + row) * pitch * 4);
                row.copy_from_nonoverlapping(values.as_ptr().cast(), columns * 4);
                row.add(columns * 4).write_bytes(0, (pitch - columns) * 4);
            }
        }
    });
}

/// Where memory that threads share out begins: `WriteOnly` slices cannot be sent to them.
struct Begin(*mut u8);

impl Begin {
    /// # Safety
    /// As [`pointer::add`].
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

// SAFETY: the pointer is used as `fill` says.
unsafe impl Sync for Begin {}

/// Copies the first `width` bytes of rows of `pitch` bytes.
fn empty(from: &[u8], out: &mut [u8], width: usize, pitch: usize) {
    let rows = (4 * PART / pitch).max(1);
    out.par_chunks_mut(rows * width).zip(from.par_chunks(rows * pitch)).for_each(|(out, from)| {
        if width == pitch {
            return out.copy_from_slice(from);
        }
        for (out, from) in out.chunks_exact_mut(width).zip(from.chunks_exact(pitch)) {
            out.copy_from_slice(&from[..width]);
        }
    });
}
