//! A package's tensors under the names and in the shapes that a family's checkpoints have: what
//! [`crate::architecture::Decoder`] makes of a checkpoint, undone.

use super::ExportError;
use crate::architecture::{Layout, Order, Part, Source};
use haikuq_format::spec::TensorSpec;
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Named {
    pub(super) name: String,
    /// The canonical tensor that it is a part of, or all of.
    pub(super) canonical: String,
    pub(super) shape: Vec<usize>,
}

impl Named {
    pub(super) fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors of a decoder, in the order in which [`each`] makes them.
///
/// # Errors
/// If one is made of several canonical tensors, which no family's is.
pub(super) fn list(layout: &Layout) -> Result<Vec<Named>, ExportError> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for tensor in layout.spec.tensors() {
        let Some(source) = layout.sources.get(&tensor.name) else { continue };
        for named in of(source, &tensor) {
            if !seen.insert(named.name.clone()) {
                let why = format!("it is a part of {} and of another tensor", tensor.name);
                return Err(ExportError::Refused { what: named.name, format: "tensors of its class", why });
            }
            all.push(named);
        }
    }
    Ok(all)
}

/// Hands every tensor with its numbers to `take`, of canonical ones that `read` has.
pub(super) fn each(
    layout: &Layout,
    read: impl Fn(&str) -> Result<Vec<f32>, ExportError>,
    mut take: impl FnMut(&Named, Vec<f32>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    each_of(layout, |name| Ok(vec![read(name)?]), |named, tables| tables.into_iter().try_for_each(|numbers| take(named, numbers)))
}

/// The same for tensors of one table or several of the same shape, such as codes and scales.
pub(super) fn each_of(
    layout: &Layout,
    read: impl Fn(&str) -> Result<Vec<Vec<f32>>, ExportError>,
    mut take: impl FnMut(&Named, Vec<Vec<f32>>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    for tensor in layout.spec.tensors() {
        let Some(source) = layout.sources.get(&tensor.name) else { continue };
        let tables = read(&tensor.name)?;
        for named in of(source, &tensor) {
            take(&named, tables.iter().map(|values| undone(source, &tensor, values, &named)).collect())?;
        }
    }
    Ok(())
}

/// Whether the checkpoint's tensors are the canonical one's rows in some order, and their numbers the same.
pub(super) fn are_rows(source: &Source) -> bool {
    source.add == 0.0 && source.parts.iter().all(|part| !part.transposed && part.columns.is_none() && part.scale == 1.0)
}

/// The checkpoint's tensors that a canonical one is made of.
fn of(source: &Source, tensor: &TensorSpec) -> Vec<Named> {
    let shapes: BTreeMap<&str, Vec<usize>> =
        source.parts.iter().map(|part| (part.tensor.as_str(), part.shape_in(&tensor.shape))).collect();
    source
        .tensors()
        .into_iter()
        .map(|name| Named { name: name.into(), canonical: tensor.name.clone(), shape: shapes[name].clone() })
        .collect()
}

/// The numbers of one of these.
fn undone(source: &Source, tensor: &TensorSpec, values: &[f32], named: &Named) -> Vec<f32> {
    let width = if tensor.shape.len() == 1 { 1 } else { tensor.shape[1] };
    let mut out = vec![0.0; named.numbers()];
    let mut known = BTreeSet::new();
    let mut first = 0;
    for (number, part) in source.parts.iter().enumerate() {
        if part.tensor == named.name {
            for row in 0..part.rows {
                let canonical = match source.order {
                    Order::Stacked => first + row,
                    Order::Interleaved => number / 2 * 2 * part.rows + 2 * row + number % 2,
                };
                // A row that stands for several is the first of them.
                if part.rows > 1 || known.insert(part.first + row) || part.columns.is_some() {
                    let numbers = &values[canonical * width..][..width];
                    place(part, row, numbers, &mut out, |x| (x - source.add) / part.scale);
                }
            }
            if part.rows > 1 {
                known.insert(part.first);
            }
        }
        first += part.rows;
    }
    out
}

/// Puts a row of a part where the whole tensor has it.
fn place(part: &Part, row: usize, numbers: &[f32], out: &mut [f32], undo: impl Fn(f32) -> f32) {
    let (row, width) = (part.first + row, numbers.len());
    if part.transposed {
        numbers.iter().enumerate().for_each(|(column, x)| out[column * part.of + row] = undo(*x));
        return;
    }
    let [before, all] = part.columns.unwrap_or([0, width]);
    let begin = part.rows_are.stored(row) * all + before;
    out[begin..][..width].iter_mut().zip(numbers).for_each(|(out, x)| *out = undo(*x));
}
