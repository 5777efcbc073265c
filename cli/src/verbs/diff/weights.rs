//! Weights of a package read back as f32, a block of rows at a time.

use haikuq_format::layout::{PlaneKind, dequantize, plane_sizes};
use haikuq_format::manifest::{Chunk, TensorEntry};
use haikuq_runtime::package::{Package, PackageError};
use std::collections::BTreeMap;
use std::ops::Range;

/// Weights compared at once.
const BLOCK_WEIGHTS: usize = 1 << 20;

/// Shards kept in memory; tensors are read in the order of the table, which is that of the shards.
const SHARDS_KEPT: usize = 2;

/// Reads a package's weights.
pub(super) struct Reader<'a> {
    package: &'a Package,
    shards: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(package: &'a Package) -> Self {
        Self { package, shards: BTreeMap::new() }
    }

    /// Rows of a tensor, which may lie in several chunks.
    fn rows(&mut self, tensor: &TensorEntry, rows: Range<usize>) -> Result<Vec<f32>, PackageError> {
        let mut out = Vec::with_capacity(rows.len() * tensor.columns());
        for chunk in &tensor.chunks {
            let start = rows.start.max(chunk.first_row);
            let end = rows.end.min(chunk.first_row + chunk.rows);
            if start < end {
                out.extend(self.chunk_rows(tensor, chunk, start - chunk.first_row..end - chunk.first_row)?);
            }
        }
        Ok(out)
    }

    /// Rows of one chunk, counted from its first.
    fn chunk_rows(&mut self, tensor: &TensorEntry, chunk: &Chunk, rows: Range<usize>) -> Result<Vec<f32>, PackageError> {
        let columns = tensor.columns();
        // Eight rows fill whole words in every plane, so a run of rows is cut out of the planes from a multiple of eight on.
        let first = rows.start / 8 * 8;
        let (eight, run) = (plane_sizes(tensor.scheme, 8, columns), plane_sizes(tensor.scheme, rows.end - first, columns));
        let mut planes: Vec<(PlaneKind, Vec<u32>)> = Vec::new();
        for ((plane, eight), run) in chunk.planes.iter().zip(eight).zip(run) {
            let skip = if plane.kind == PlaneKind::Codebook { 0 } else { first / 8 * eight.words };
            let start = plane.offset as usize + skip * 4;
            let bytes = &self.shard(plane.shard)?[start..start + run.words * 4];
            planes.push((plane.kind, bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect()));
        }
        let borrowed: Vec<(PlaneKind, &[u32])> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
        let values = dequantize(tensor.scheme, rows.end - first, columns, &borrowed);
        Ok(values[(rows.start - first) * columns..].to_vec())
    }

    fn shard(&mut self, index: usize) -> Result<&[u8], PackageError> {
        if !self.shards.contains_key(&index) {
            let bytes = pollster::block_on(self.package.read_shard(index))?;
            while self.shards.len() >= SHARDS_KEPT {
                self.shards.pop_first();
            }
            self.shards.insert(index, bytes);
        }
        Ok(&self.shards[&index])
    }
}

/// `√(Σ(b − a)² / Σ a²)` of two tensors of one shape; infinite where only `a` is zero.
pub(super) fn relative_difference(
    reader_a: &mut Reader<'_>,
    a: &TensorEntry,
    reader_b: &mut Reader<'_>,
    b: &TensorEntry,
) -> Result<f64, PackageError> {
    let step = (BLOCK_WEIGHTS / a.columns().max(1)).max(8);
    let (mut difference, mut norm) = (0.0, 0.0);
    for start in (0..a.rows()).step_by(step) {
        let rows = start..a.rows().min(start + step);
        for (x, y) in reader_a.rows(a, rows.clone())?.iter().zip(reader_b.rows(b, rows)?) {
            difference += f64::from(y - x).powi(2);
            norm += f64::from(*x).powi(2);
        }
    }
    Ok(if difference == 0.0 { 0.0 } else { (difference / norm).sqrt() })
}
