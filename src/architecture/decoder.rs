//! [`Decoder`]: a checkpoint under canonical names, every shape checked, rows read as f32.

use super::ArchitectureError;
use super::source::{Order, Part, Source};
use crate::checkpoint::{Checkpoint, CheckpointError, RowOrder, TensorView};
use crate::zeros::zeros;
use haikuq_format::DecoderSpec;
use haikuq_format::spec::TensorSpec;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Rows that a thread reads at a time.
const READ_ROWS: usize = 256;

/// A checkpoint whose tensors have canonical names and shapes.
#[derive(Debug)]
pub struct Decoder {
    /// The decoder's shape and arithmetic.
    pub spec: DecoderSpec,
    checkpoint: Checkpoint,
    tensors: BTreeMap<String, Canonical>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Canonical {
    source: Source,
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
    pub fn from_checkpoint(mut checkpoint: Checkpoint) -> Result<Self, ArchitectureError> {
        let mut mapping = super::load(&checkpoint)?;
        mapping.spec.tied_head = checkpoint.identify(&mapping.wanted())?;
        let mut sources = mapping.sources();
        let mut tensors = BTreeMap::new();
        for tensor in mapping.spec.tensors() {
            // `Names::sources` has all of them.
            let Some(source) = sources.remove(&tensor.name) else { continue };
            let canonical = resolve(&checkpoint, &tensor, source)?;
            tensors.insert(tensor.name, canonical);
        }
        let used: BTreeSet<&str> = tensors.values().flat_map(|t: &Canonical| t.source.tensors()).collect();
        let is_beside = |name: &&str| name.split('.').any(|part| mapping.beside.contains(&part));
        let is_unread = |name: &&str| mapping.unread.iter().any(|start| name.starts_with(start.as_str()));
        let (unread, others): (Vec<&str>, Vec<&str>) =
            checkpoint.tensor_names().filter(|n| !used.contains(n)).partition(is_unread);
        let (beside, unused): (Vec<&str>, Vec<&str>) = others.into_iter().partition(is_beside);
        if let Some(first) = unused.first() {
            let first = first.to_string();
            return Err(ArchitectureError::Unused { path: checkpoint.path().into(), count: unused.len(), first });
        }
        let mut notes = mapping.notes;
        if !beside.is_empty() {
            notes.push(format!("{} tensors of {} are left out, as in transformers", beside.len(), mapping.beside.join(", ")));
        }
        if let Some(first) = unread.first() {
            notes.push(format!("{} tensors, such as {first}, are left out: transformers does not use them either", unread.len()));
        }
        notes.extend(checkpoint.warnings().iter().cloned());
        Ok(Self { spec: mapping.spec, checkpoint, tensors, notes })
    }

    /// What a user should know of how config and files were read, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        let parts = &tensor.source.parts;
        let views = parts.iter().map(|p| self.checkpoint.tensor(&p.tensor)).collect::<Result<Vec<_>, _>>()?;
        match tensor.source.order {
            Order::Stacked => {
                let (mut first, mut rest) = (0, &mut *out);
                for (view, part) in views.iter().zip(parts) {
                    let start = wanted.start.clamp(first, first + part.rows) - first;
                    let end = wanted.end.clamp(first, first + part.rows) - first;
                    let (now, later) = rest.split_at_mut((end - start) * width);
                    read(view, part, start..end, now)?;
                    (first, rest) = (first + part.rows, later);
                }
            }
            Order::Interleaved => {
                let pair = 2 * parts.first().map_or(1, |p| p.rows).max(1);
                for (row, out) in wanted.zip(out.chunks_exact_mut(width)) {
                    let (part, row) = (row / pair * 2 + row % 2, row % pair / 2);
                    read(&views[part], &parts[part], row..row + 1, out)?;
                }
            }
        }
        if tensor.source.add != 0.0 {
            out.iter_mut().for_each(|x| *x += tensor.source.add);
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
        let (rows, stride) = (tensor.rows, tensor.rows_per_row * tensor.width);
        let mut out = zeros(rows * stride);
        // Of several errors, the first in the order of rows is reported, however the threads ran.
        let blocks = out.par_chunks_mut((READ_ROWS * stride).max(1)).enumerate();
        let read = |(i, out): (usize, &mut [f32])| {
            let first = i * READ_ROWS;
            self.read_rows(name, first..rows.min(first + READ_ROWS), out)
        };
        let read: Vec<_> = blocks.map(read).collect();
        read.into_iter().collect::<Result<(), _>>()?;
        Ok(out)
    }

    /// Columns of some rows of a canonical matrix, one row after the other: rows that are asked for twice are read once.
    ///
    /// # Errors
    /// As [`Decoder::read_rows`].
    pub fn look_up(&self, name: &str, rows: &[u32], columns: Range<usize>) -> Result<Vec<f32>, ArchitectureError> {
        let width = self.tensors.get(name).map_or(0, |tensor| tensor.width);
        let no_columns = || ArchitectureError::NoSuchRows { name: name.into(), start: columns.start, end: columns.end };
        let known: Vec<u32> = rows.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let read = |row: &u32| -> Result<Vec<f32>, ArchitectureError> {
            let mut whole = vec![0.0; width];
            self.read_rows(name, *row as usize..*row as usize + 1, &mut whole)?;
            Ok(whole.get(columns.clone()).ok_or_else(no_columns)?.to_vec())
        };
        let parts: Vec<Result<Vec<f32>, _>> = known.par_iter().map(read).collect();
        let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
        let place = |row: &u32| known.binary_search(row).unwrap_or_default();
        Ok(rows.iter().flat_map(|row| &parts[place(row)]).copied().collect())
    }

    /// Rows of a canonical matrix; none of what is not there.
    pub fn rows(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |tensor| tensor.rows)
    }

    /// Lets the system drop the mapped pages of a canonical tensor that is done with.
    pub fn release(&self, name: &str) {
        for tensor in self.sources(name).map(Source::tensors).unwrap_or_default() {
            self.checkpoint.release(tensor);
        }
    }
}

/// Checks a canonical tensor's parts: each must be there as a matrix of the right columns, or a vector, with the rows
/// that the config gives it.
fn resolve(checkpoint: &Checkpoint, tensor: &TensorSpec, source: Source) -> Result<Canonical, ArchitectureError> {
    let all_rows = tensor.shape[0];
    let rows: usize = source.parts.iter().map(|p| p.rows).sum();
    assert_eq!(rows, all_rows, "the parts of {}", tensor.name);
    for part in &source.parts {
        let view = checkpoint.tensor(&part.tensor)?;
        let expected = part.shape_in(&tensor.shape);
        if view.shape() != expected {
            let (file, found) = (view.file().into(), view.shape().to_vec());
            return Err(ArchitectureError::Shape { file, tensor: part.tensor.clone(), found, expected });
        }
    }
    let is_vector = tensor.shape.len() == 1;
    Ok(Canonical {
        source,
        width: if is_vector { 1 } else { tensor.shape[1] },
        rows_per_row: if is_vector { all_rows } else { 1 },
        rows: if is_vector { 1 } else { all_rows },
    })
}

/// Reads rows of a part, multiplied with its scale.
fn read(view: &TensorView<'_>, part: &Part, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
    stored(view, part, rows, out)?;
    if part.scale != 1.0 {
        out.iter_mut().for_each(|x| *x *= part.scale);
    }
    Ok(())
}

/// Reads rows of a part as they are stored.
fn stored(view: &TensorView<'_>, part: &Part, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
    let rows = part.first + rows.start..part.first + rows.end;
    if let Some([first, all]) = part.columns
        && !rows.is_empty()
    {
        let (width, mut whole) = (out.len() / rows.len(), zeros(rows.len() * all));
        view.read_rows(rows, &mut whole)?;
        let wanted = whole.chunks_exact(all).map(|row| &row[first..first + width]);
        wanted.zip(out.chunks_exact_mut(width)).for_each(|(row, out)| out.copy_from_slice(row));
        return Ok(());
    }
    if let Some(shape) = &part.shape {
        // A vector is read whole, and these rows are several numbers each.
        return view.read_rows(0..shape[0], out);
    }
    let read = |rows, out: &mut [f32]| if part.transposed { view.read_columns(rows, out) } else { view.read_rows(rows, out) };
    if part.rows_are == RowOrder::Same || rows.is_empty() {
        return read(rows, out);
    }
    let width = out.len() / rows.len();
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        let stored = part.rows_are.stored(row);
        read(stored..stored + 1, out)?;
    }
    Ok(())
}
