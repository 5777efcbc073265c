//! [`Decoder`]: a checkpoint under canonical names, every shape checked, rows read as f32.

use super::{ArchitectureError, Mapping, Source};
use crate::checkpoint::{Checkpoint, CheckpointError, Dtype, TensorView};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::TensorSpec;
use half::f16;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A checkpoint whose tensors have canonical names and shapes.
#[derive(Debug)]
pub struct Decoder {
    /// The decoder's shape and arithmetic.
    pub spec: DecoderSpec,
    checkpoint: Checkpoint,
    tensors: BTreeMap<String, Canonical>,
}

#[derive(Debug)]
struct Canonical {
    source: Source,
    /// Rows of each of the source's tensors, in order.
    part_rows: Vec<usize>,
    /// Numbers in a source row: columns of a matrix, 1 for vectors.
    width: usize,
    /// Source rows in a stored row: 1 for matrices, all of them for vectors, which are stored as one row.
    rows_per_row: usize,
    rows: usize,
}

impl Decoder {
    /// Finds the family, reads the config, and checks that exactly the tensors that it asks for are there in the
    /// shapes that it gives them.
    ///
    /// # Errors
    /// See [`ArchitectureError`].
    pub fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self, ArchitectureError> {
        let Mapping { spec, mut sources, may_ignore } = super::load(&checkpoint)?;
        let mut tensors = BTreeMap::new();
        for tensor in spec.tensors() {
            let source = sources
                .remove(&tensor.name)
                .ok_or_else(|| CheckpointError::Missing { path: checkpoint.root().into(), tensor: tensor.name.clone() })?;
            let canonical = resolve(&spec, &checkpoint, &tensor, source)?;
            tensors.insert(tensor.name, canonical);
        }
        let used: BTreeSet<&str> = tensors.values().flat_map(|t: &Canonical| t.source.tensors()).map(String::as_str).collect();
        let unused: Vec<&str> = checkpoint.tensor_names().filter(|n| !used.contains(n) && !may_ignore(n)).collect();
        if let Some(first) = unused.first() {
            let first = first.to_string();
            return Err(ArchitectureError::Unused { path: checkpoint.root().into(), count: unused.len(), first });
        }
        Ok(Self { spec, checkpoint, tensors })
    }

    /// The checkpoint's files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What a canonical tensor is made of.
    pub fn sources(&self, name: &str) -> Option<&Source> {
        self.tensors.get(name).map(|t| &t.source)
    }

    /// Reads rows of a canonical tensor as f32 into `out`, `rows.len() × columns` numbers. A vector is one row.
    ///
    /// # Errors
    /// If a number is NaN or infinite, or there are no such rows.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ArchitectureError> {
        let no_rows = || ArchitectureError::NoSuchRows { name: name.into(), start: rows.start, end: rows.end };
        let tensor = self.tensors.get(name).ok_or_else(no_rows)?;
        if rows.start > rows.end || rows.end > tensor.rows {
            return Err(no_rows());
        }
        let width = tensor.width;
        let wanted = rows.start * tensor.rows_per_row..rows.end * tensor.rows_per_row;
        assert_eq!(out.len(), wanted.len() * width, "rows {rows:?} of {name}");
        let views = tensor.source.tensors().iter().map(|t| self.checkpoint.tensor(t)).collect::<Result<Vec<_>, _>>()?;
        match &tensor.source {
            Source::Stacked(names) => {
                let (mut first, mut out) = (0, out);
                for ((view, name), &count) in views.iter().zip(names).zip(&tensor.part_rows) {
                    let start = wanted.start.clamp(first, first + count) - first;
                    let end = wanted.end.clamp(first, first + count) - first;
                    let (now, rest) = out.split_at_mut((end - start) * width);
                    read(view, name, start * width, now)?;
                    (first, out) = (first + count, rest);
                }
            }
            Source::Interleaved(names) => {
                for (row, out) in wanted.zip(out.chunks_exact_mut(width)) {
                    let part = row % names.len();
                    read(&views[part], &names[part], row / names.len() * width, out)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a whole canonical tensor as f32, row after row.
    ///
    /// # Errors
    /// As [`Decoder::read_rows`].
    pub fn read(&self, name: &str) -> Result<Vec<f32>, ArchitectureError> {
        let tensor =
            self.tensors.get(name).ok_or_else(|| ArchitectureError::NoSuchRows { name: name.into(), start: 0, end: 0 })?;
        let mut out = vec![0.0; tensor.rows * tensor.rows_per_row * tensor.width];
        self.read_rows(name, 0..tensor.rows, &mut out)?;
        Ok(out)
    }

    /// Lets the system drop the mapped pages of a canonical tensor that is done with.
    pub fn release(&self, name: &str) {
        for tensor in self.sources(name).map(Source::tensors).unwrap_or_default() {
            self.checkpoint.release(tensor);
        }
    }
}

/// Checks a canonical tensor's parts: each must be there as a matrix of the right columns, or a vector, and their
/// rows must be what the config says. Only `qkv` has parts of different sizes.
fn resolve(
    spec: &DecoderSpec,
    checkpoint: &Checkpoint,
    tensor: &TensorSpec,
    source: Source,
) -> Result<Canonical, ArchitectureError> {
    let parts = source.tensors().len();
    let all_rows = tensor.shape[0];
    let (q, kv) = (spec.attention_size(), spec.num_kv_heads * spec.head_dim);
    let part_rows = if parts == 3 && all_rows == q + 2 * kv { vec![q, kv, kv] } else { vec![all_rows / parts; parts] };
    for (name, &rows) in source.tensors().iter().zip(&part_rows) {
        let view = checkpoint.tensor(name)?;
        let mut expected = tensor.shape.clone();
        expected[0] = rows;
        if view.shape != expected {
            let (file, found) = (view.file.into(), view.shape.to_vec());
            return Err(ArchitectureError::Shape { file, tensor: name.clone(), found, expected });
        }
    }
    let is_vector = tensor.shape.len() == 1;
    Ok(Canonical {
        source,
        part_rows,
        width: if is_vector { 1 } else { tensor.shape[1] },
        rows_per_row: if is_vector { all_rows } else { 1 },
        rows: if is_vector { 1 } else { all_rows },
    })
}

/// Reads `out.len()` numbers from element `start` on and checks that they are finite.
fn read(view: &TensorView<'_>, tensor: &str, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
    let width = view.dtype.bytes();
    let data = &view.data[start * width..(start + out.len()) * width];
    let finite = match view.dtype {
        Dtype::F32 => convert(data, out, |b: [u8; 4]| f32::from_le_bytes(b)),
        Dtype::F16 => convert(data, out, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
        Dtype::Bf16 => convert(data, out, |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
    };
    if finite {
        return Ok(());
    }
    let at = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(CheckpointError::NotFinite { file: view.file.into(), tensor: tensor.into(), index: start + at, value: out[at] })
}

/// Converts every number and tells whether all are finite, without a branch in the loop.
fn convert<const N: usize>(data: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) -> bool {
    let mut finite = true;
    for (bytes, x) in data.as_chunks::<N>().0.iter().zip(out) {
        *x = number(*bytes);
        finite &= x.is_finite();
    }
    finite
}
