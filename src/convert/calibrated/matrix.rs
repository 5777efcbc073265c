//! One matrix: from the inputs that it will have to its planes on disk.

use super::super::pipeline::store_block;
use super::super::plan::block_rows;
use super::super::staged::StagedMatrix;
use super::super::{ConvertError, MatrixCost, Progress, cost};
use super::Run;
use super::correction::Original;
use crate::matmul::integers::Inputs;
use crate::matmul::times_transposed;
use crate::quantize::{Hessian, NotPositive, QuantizedMatrix, quantize_matrix, quantize_table, serves};
use crate::reference::with_numbers;
use crate::timings::Step;
use crate::zeros::zeros;
use candle_core::Tensor;
use haikuq_format::layout::{PlaneBuffers, PlaneKind, QuantizedRows, dequantize, groups, pack_quantized, padded};
use haikuq_format::manifest::TensorEntry;
use haikuq_format::scheme::Scheme;
use rayon::prelude::*;
use std::ops::Range;
use std::time::Instant;

/// Tokens on which a matrix's loss is measured, at most, those that follow each other, and rows of the matrix whose outputs for
/// them exist at a time.
const SAMPLE_TOKENS: usize = 256;
const SAMPLE_RUN: usize = 16;
const SAMPLE_ROWS: usize = 4096;

/// Rows that a thread packs at a time.
const PACKED_ROWS: usize = 256;

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 16;

impl Run<'_> {
    pub(super) fn tensor(&self, name: &str) -> Result<&TensorEntry, ConvertError> {
        let missing = || ConvertError::NotPlanned { tensor: name.into() };
        self.plan.tensors.iter().find(|t| t.name == name).ok_or_else(missing)
    }

    /// The values of a matrix of `weights` as they are stored, quantized now unless an earlier run did it. `stored` are its
    /// inputs `[tokens, columns]` after stored weights, `original` what is known of the original ones; `lookup` says for each column
    /// how much a squared error costs where the matrix is also looked up in.
    pub(super) fn matrix(
        &self,
        name: &str,
        weights: &[f32],
        stored: &Tensor,
        original: Option<Original>,
        lookup: Option<&[f32]>,
    ) -> Result<Vec<f32>, ConvertError> {
        let tensor = self.tensor(name)?;
        if let Some(values) = self.finished(tensor)? {
            return Ok(values);
        }
        let begin = Instant::now();
        let (rows, columns, tokens) = (tensor.rows(), tensor.columns(), stored.dim(0)?);
        let failed = |source| ConvertError::Hessian { tensor: name.into(), source };
        let (hessian, corrected) = self.corrected(name, weights, stored, original, lookup)?;
        let (staged, out) = match tensor.scheme {
            Scheme::Grouped(scheme) if serves(scheme) => {
                let quantize = || quantize_matrix(scheme, corrected, &hessian);
                let quantized = self.timings.measure(Step::Codes, name, cost::codes(rows, columns), quantize).map_err(failed)?;
                drop(hessian);
                self.packed(tensor, weights, quantized)
            }
            _ => self.timings.measure(Step::Codes, name, 0.0, || self.searched(tensor, &corrected, weights))?,
        };
        let flop = cost::loss(tokens.min(SAMPLE_TOKENS), rows, columns);
        let loss = self.timings.measure(Step::Loss, name, flop, || self.relative_loss(weights, &out, stored))?;
        self.finish(tensor, &staged, begin, loss)?;
        Ok(out)
    }

    /// The Hessian of a matrix's inputs, factored, and the weights that are rounded: those that correct what the errors of matrices before
    /// this one have changed. Arguments are as those of [`Run::matrix`].
    pub(super) fn corrected(
        &self,
        name: &str,
        weights: &[f32],
        stored: &Tensor,
        original: Option<Original>,
        lookup: Option<&[f32]>,
    ) -> Result<(Hessian, Vec<f32>), ConvertError> {
        let (tokens, columns) = stored.dims2()?;
        let rows = weights.len() / columns.max(1);
        let failed = |source| ConvertError::Hessian { tensor: name.into(), source };
        let (hessian, correction) = with_numbers(stored, |stored| -> Result<_, ConvertError> {
            let (inputs, mut hessian) = self.timings.measure(Step::Moments, name, cost::moments(tokens, columns), || {
                let inputs = Inputs::new(stored, columns);
                let hessian = inputs.gram();
                (inputs, hessian)
            });
            let correction = original.map(|original| {
                let flop = cost::correction(tokens, rows, columns);
                self.timings.measure(Step::Correction, name, flop, || original.correction(weights, stored, &inputs, &hessian))
            });
            for (c, extra) in lookup.unwrap_or_default().iter().enumerate() {
                hessian[c * columns + c] += extra;
            }
            Ok((Hessian::new(columns, hessian), correction.transpose()?))
        })??;
        self.timings.measure(Step::Factorization, name, cost::factorization(columns), || hessian.factorize()).map_err(failed)?;
        let corrected = match correction {
            Some(mut sum) => {
                let solve = || -> Result<(), NotPositive> {
                    hessian.solve_rows(&mut sum)?;
                    sum.par_chunks_mut(PART).zip(weights.par_chunks(PART)).for_each(|(sum, weights)| {
                        sum.iter_mut().zip(weights).for_each(|(sum, w)| *sum += w);
                    });
                    Ok(())
                };
                self.timings.measure(Step::Solving, name, cost::solving(rows, columns), solve).map_err(failed)?;
                sum
            }
            None => weights.to_vec(),
        };
        Ok((hessian, corrected))
    }

    /// The values of a matrix that an earlier run quantized.
    pub(super) fn finished(&self, tensor: &TensorEntry) -> Result<Option<Vec<f32>>, ConvertError> {
        let Some(matrix) = self.staged.read(tensor)? else { return Ok(None) };
        (self.progress)(Progress::Matrix { name: &tensor.name, cost: None });
        Ok(Some(values(tensor, &matrix.planes)))
    }

    /// A quantized matrix as it is stored, with its values.
    pub(super) fn packed(&self, tensor: &TensorEntry, weights: &[f32], quantized: QuantizedMatrix) -> (StagedMatrix, Vec<f32>) {
        let pack = || packed(tensor, &quantized.rows);
        let planes = self.timings.measure(Step::Packing, &tensor.name, 0.0, pack);
        let errors = || StagedMatrix::new(planes, weights, &quantized.values);
        (self.timings.measure(Step::Loss, &tensor.name, 0.0, errors), quantized.values)
    }

    /// A table of embeddings or positions.
    pub(super) fn table(&self, tensor: &TensorEntry) -> Result<(), ConvertError> {
        if self.staged.read(tensor)?.is_some() {
            (self.progress)(Progress::Matrix { name: &tensor.name, cost: None });
            return Ok(());
        }
        let begin = Instant::now();
        let weights = self.timings.measure(Step::Reading, &tensor.name, 0.0, || self.weights.read(&tensor.name))?;
        let lookup = self.calibration.sensitivities.get("embedding").map(|s| s.lookup.as_slice());
        let importance = lookup.filter(|l| l.len() == tensor.columns());
        let staged = match tensor.scheme {
            Scheme::Grouped(scheme) if serves(scheme) => {
                let quantize = || quantize_table(scheme, &weights, tensor.columns(), importance);
                let quantized = self.timings.measure(Step::Codes, &tensor.name, 0.0, quantize);
                self.packed(tensor, &weights, quantized).0
            }
            _ => self.timings.measure(Step::Codes, &tensor.name, 0.0, || self.searched(tensor, &weights, &weights))?.0,
        };
        let loss = staged.relative_error();
        self.finish(tensor, &staged, begin, loss)
    }

    /// A matrix in a scheme that search serves.
    pub(super) fn searched(
        &self,
        tensor: &TensorEntry,
        weights: &[f32],
        unchanged: &[f32],
    ) -> Result<(StagedMatrix, Vec<f32>), ConvertError> {
        let columns = tensor.columns();
        let rows = block_rows(columns);
        let block = |(i, block): (usize, &[f32])| store_block(tensor, i * rows, block);
        let blocks: Vec<Result<_, ConvertError>> = weights.par_chunks(rows * columns).enumerate().map(block).collect();
        let mut planes: Vec<(_, Vec<u32>)> = Vec::new();
        for block in blocks {
            for (i, (kind, words)) in block?.planes.into_iter().enumerate() {
                match planes.get_mut(i) {
                    Some((_, plane)) => plane.extend(words),
                    None => planes.push((kind, words)),
                }
            }
        }
        let out = values(tensor, &planes);
        Ok((StagedMatrix::new(planes, unchanged, &out), out))
    }

    /// `E|(W − Ŵ) x|² / E|W x|²` over some of the inputs of stored weights.
    fn relative_loss(&self, weights: &[f32], out: &[f32], inputs: &Tensor) -> Result<f64, ConvertError> {
        let (lost, all) = self.losses(weights, out, inputs)?;
        Ok(lost / all.max(f64::MIN_POSITIVE))
    }

    /// Both of its parts.
    pub(super) fn losses(&self, weights: &[f32], out: &[f32], inputs: &Tensor) -> Result<(f64, f64), ConvertError> {
        let ((tokens, columns), mut sample) = (inputs.dims2()?, Vec::new());
        with_numbers(inputs, |inputs| {
            sampled(tokens).for_each(|rows| sample.extend_from_slice(&inputs[rows.start * columns..rows.end * columns]));
        })?;
        let energy = |w: &[f32]| energy(&times_transposed(w, &sample, columns));
        let (mut lost, mut all) = (0.0, 0.0);
        for (weights, out) in weights.chunks(SAMPLE_ROWS * columns).zip(out.chunks(SAMPLE_ROWS * columns)) {
            let difference = difference(weights, out, 1.0);
            lost += energy(&difference);
            all += energy(weights);
        }
        Ok((lost, all))
    }

    pub(super) fn finish(
        &self,
        tensor: &TensorEntry,
        matrix: &StagedMatrix,
        begin: Instant,
        loss: f64,
    ) -> Result<(), ConvertError> {
        self.timings.measure(Step::Packing, &tensor.name, 0.0, || self.staged.write(tensor, matrix))?;
        let bits = tensor.bytes() as f64 * 8.0 / (tensor.rows() * tensor.columns()) as f64;
        let cost = MatrixCost { seconds: begin.elapsed().as_secs_f64(), bits, relative_loss: loss };
        (self.progress)(Progress::Matrix { name: &tensor.name, cost: Some((tensor.scheme, cost)) });
        Ok(())
    }
}

/// Parts of the tokens on which a matrix's loss is measured: some from everywhere say it well enough.
pub(super) fn sampled(tokens: usize) -> impl Iterator<Item = Range<usize>> {
    let step = tokens.div_ceil(SAMPLE_TOKENS / SAMPLE_RUN).max(SAMPLE_RUN);
    (0..tokens).step_by(step).map(move |first| first..tokens.min(first + SAMPLE_RUN))
}

/// `(a − b) × by`, number by number.
pub(super) fn difference(a: &[f32], b: &[f32], by: f32) -> Vec<f32> {
    let mut out = zeros(a.len());
    out.par_chunks_mut(PART).zip(a.par_chunks(PART)).zip(b.par_chunks(PART)).for_each(|((out, a), b)| {
        out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = (a - b) * by);
    });
    out
}

/// The sum of squares.
pub(super) fn energy(numbers: &[f32]) -> f64 {
    // Parts are added in order, whatever thread each is from.
    let of_part = |part: &[f32]| part.iter().map(|&y| f64::from(y * y)).sum::<f64>();
    numbers.par_chunks(1 << 16).map(of_part).collect::<Vec<f64>>().iter().sum()
}

/// Planes of a quantized matrix, packed by all threads.
pub(super) fn packed(tensor: &TensorEntry, rows: &QuantizedRows) -> PlaneBuffers {
    let Scheme::Grouped(scheme) = tensor.scheme else { unreachable!("quantized without groups") };
    let (columns, width) = (tensor.columns(), padded(tensor.columns()));
    let per_row = groups(columns, scheme.group);
    // Whole eights of rows fill whole words of each plane.
    let parts: Vec<PlaneBuffers> = rows
        .codes
        .par_chunks(PACKED_ROWS * width)
        .enumerate()
        .map(|(i, codes)| {
            let count = codes.len() / width;
            let scales = rows.scales.part(i * PACKED_ROWS * per_row..(i * PACKED_ROWS + count) * per_row);
            let codebook = rows.codebook.clone();
            pack_quantized(
                scheme,
                count,
                columns,
                &QuantizedRows { codes: codes.to_vec(), scales, codebook, ..QuantizedRows::default() },
            )
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut planes = parts.next().unwrap_or_default();
    for part in parts {
        for ((kind, plane), (_, words)) in planes.iter_mut().zip(part) {
            if *kind != PlaneKind::Codebook {
                plane.extend(words);
            }
        }
    }
    planes
}

fn values(tensor: &TensorEntry, planes: &PlaneBuffers) -> Vec<f32> {
    let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
    dequantize(tensor.scheme, tensor.rows(), tensor.columns(), &planes)
}
