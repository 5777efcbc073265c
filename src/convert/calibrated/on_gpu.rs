//! The same on a GPU: both streams of activations stay in its memory, and all that grows with their length or with the
//! square of a matrix's columns happens there. Weights come from and codes go to the processor, which learns
//! codebooks.

use super::super::staged::StagedMatrix;
use super::super::{ConvertError, cost};
use super::correction::{CORRECTION, keeps_outputs};
use super::matrix::{energy, sampled};
use super::streams::{Activations, Streams};
use super::{Run, name_of};
use crate::accelerator::{Accelerator, AcceleratorError, HeadColumns, LayerOnGpu, Matrix};
use crate::architecture::ArchitectureError;
use crate::golden::reference::{Site, with_numbers};
use crate::kept::Kept;
use crate::quantize::{SHRINKAGE, SecondMoment, activation_order, quantize_matrix_on, serves};
use crate::timings::Step;
use crate::zeros::zeros;
use haikuq_format::manifest::TensorEntry;
use haikuq_format::scheme::Scheme;
use std::collections::BTreeMap;
use std::time::Instant;

/// What ends a conversion on a GPU.
pub(super) enum Stop {
    /// The GPU cannot go on; the processor can.
    Gpu(AcceleratorError),
    /// Nothing can.
    Conversion(ConvertError),
}

impl From<AcceleratorError> for Stop {
    fn from(error: AcceleratorError) -> Self {
        Self::Gpu(error)
    }
}

impl From<ConvertError> for Stop {
    fn from(error: ConvertError) -> Self {
        Self::Conversion(error)
    }
}

impl From<ArchitectureError> for Stop {
    fn from(error: ArchitectureError) -> Self {
        Self::Conversion(error.into())
    }
}

impl From<candle_core::Error> for Stop {
    fn from(error: candle_core::Error) -> Self {
        Self::Conversion(error.into())
    }
}

/// A conversion on a GPU.
pub(super) struct OnGpu<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) gpu: &'a Accelerator,
}

/// A matrix's second moment and its factor.
struct Moment {
    values: Matrix,
    diagonal: Vec<f32>,
    order: Vec<usize>,
    factor: Matrix,
}

/// What is kept of a matrix's pass through original weights, as by [`super::correction::Original`].
enum OriginalOnGpu {
    Inputs(Matrix),
    Outputs(Matrix),
}

impl OnGpu<'_> {
    /// All layers from `start` on and the head.
    pub(super) fn go(&self, start: Activations, streams: &mut Streams) -> Result<(), Stop> {
        let Self { run, gpu } = *self;
        let (spec, hidden) = (run.spec(), run.spec().hidden_size);
        let (mut original, mut stored) = (gpu.upload(&start.original, hidden)?, gpu.upload(&start.stored, hidden)?);
        let first = start.layer;
        drop(start);
        for layer in first..spec.num_layers() {
            if layer > first && streams.is_due() {
                let (original, stored) = (gpu.download(&original)?, gpu.download(&stored)?);
                streams.keep(&Activations { layer, original, stored })?;
            }
            if LayerOnGpu::serves(gpu, spec, layer, run.calibration.windows.len(), run.length()) {
                (original, stored) = self.layer(layer, original, stored)?;
                continue;
            }
            let before = (run.keep(gpu.download(&original)?)?, run.keep(gpu.download(&stored)?)?);
            drop((original, stored));
            let (o, s) = run.layer_on_processor(layer, before.0, before.1)?;
            let upload = |kept: Kept| -> Result<Matrix, Stop> {
                let tensor = kept.take().map_err(ConvertError::from)?;
                Ok(with_numbers(&tensor, |x| gpu.upload(x, hidden))??)
            };
            (original, stored) = (upload(o)?, upload(s)?);
        }
        self.head(&original, &stored)
    }

    /// Both streams after a layer, whose matrices are quantized on the way.
    fn layer(&self, index: usize, original: Matrix, stored: Matrix) -> Result<(Matrix, Matrix), Stop> {
        let Self { run, gpu } = *self;
        let (spec, windows, length) = (run.spec(), run.calibration.windows.len(), run.length());
        let layer_spec = &spec.layers[index];
        let layer = LayerOnGpu::load(gpu, spec, index, length, |name| run.read(name))?;
        let flop = cost::layer(layer_spec, spec.hidden_size, windows, length);
        let mut originals = BTreeMap::<Site, OriginalOnGpu>::new();
        let mut weights = BTreeMap::<Site, (Vec<f32>, Matrix)>::new();
        let after = run.timings.measure(Step::Forward, "", flop, || {
            let after = layer.forward(&original, |site, x| -> Result<Matrix, Stop> {
                let host = run.read(&name_of(layer_spec, index, site))?;
                let on_gpu = gpu.upload(&host, x.columns())?;
                let y = gpu.times_transposed(&x, &on_gpu)?;
                let original = match keeps_outputs(on_gpu.rows(), on_gpu.columns()) {
                    true => OriginalOnGpu::Outputs(gpu.copy(&y)?),
                    false => OriginalOnGpu::Inputs(x),
                };
                originals.insert(site, original);
                weights.insert(site, (host, on_gpu));
                Ok(y)
            })?;
            gpu.finish()?;
            Ok::<_, Stop>(after)
        })?;
        drop(original);
        let stored = run.timings.measure(Step::Forward, "", flop, || {
            let stored = layer.forward(&stored, |site, x| -> Result<Matrix, Stop> {
                let (original, weights) = (originals.remove(&site), weights.remove(&site));
                let (host, on_gpu) = weights.expect("each site is passed twice");
                let tensor = run.tensor(&name_of(layer_spec, index, site))?;
                let values = self.matrix(tensor, host, on_gpu, &x, original, None)?;
                Ok(gpu.times_transposed(&x, &values)?)
            })?;
            gpu.finish()?;
            Ok::<_, Stop>(stored)
        })?;
        Ok((after, stored))
    }

    /// The matrix that makes logits, from both streams after the last layer.
    fn head(&self, original: &Matrix, stored: &Matrix) -> Result<(), Stop> {
        let Self { run, gpu } = *self;
        let norm = run.spec().norm;
        let gain = run.read("final_norm.gain")?;
        let bias = norm.kind.has_bias().then(|| run.read("final_norm.bias")).transpose()?;
        let normed = |x: &Matrix| {
            let whole = HeadColumns { first: 0, heads: 1, width: x.columns() };
            let mut normed = gpu.copy(x)?;
            gpu.norm(&mut normed, whole, norm, &gain, bias.as_deref())?;
            Ok::<_, AcceleratorError>(normed)
        };
        let (original, stored) = (normed(original)?, normed(stored)?);
        let host = run.read(run.head())?;
        let on_gpu = gpu.upload(&host, run.spec().hidden_size)?;
        self.matrix(run.tensor(run.head())?, host, on_gpu, &stored, Some(OriginalOnGpu::Inputs(original)), run.lookup())?;
        Ok(())
    }

    /// The twin of [`Run::matrix`]; the values of the matrix as they are stored.
    fn matrix(
        &self,
        tensor: &TensorEntry,
        weights: Vec<f32>,
        mut on_gpu: Matrix,
        stored: &Matrix,
        original: Option<OriginalOnGpu>,
        lookup: Option<&[f32]>,
    ) -> Result<Matrix, Stop> {
        let Self { run, gpu } = *self;
        let (name, rows, columns, tokens) = (&tensor.name, tensor.rows(), tensor.columns(), stored.rows());
        if let Some(values) = run.finished(tensor)? {
            return Ok(gpu.upload(&values, columns)?);
        }
        let begin = Instant::now();
        let flop = cost::moments(tokens, columns);
        let moment = run.timings.measure(Step::Moments, name, flop, || gpu.gram(stored))?;
        let correction = original.map(|original| {
            let flop = cost::correction(tokens, rows, columns) - cost::solution(rows, columns);
            run.timings.measure(Step::Correction, name, flop, || self.correction(&on_gpu, stored, original, &moment))
        });
        let correction = correction.transpose()?;
        let moment = self.solved(name, moment, lookup)?;
        let corrected = match correction {
            Some(correction) => {
                let mut corrected = zeros(weights.len());
                run.timings.measure(Step::Correction, name, cost::solution(rows, columns), || {
                    let mut sum = gpu.solve_rows(&correction, &moment.factor, &moment.order)?;
                    drop(correction);
                    gpu.combine(&mut sum, 1.0, &on_gpu, 1.0)?;
                    gpu.read(&sum, 0, &mut corrected)
                })?;
                corrected
            }
            None => weights.clone(),
        };
        let (staged, values): (StagedMatrix, Vec<f32>) = match tensor.scheme {
            Scheme::Grouped(scheme) if serves(scheme) => {
                let quantized = run.timings.measure(Step::Codes, name, cost::codes(rows, columns), || {
                    let solved = (&moment.order[..], &moment.factor, &moment.values);
                    quantize_matrix_on(gpu, scheme, corrected, &moment.diagonal, solved)
                })?;
                run.packed(tensor, &weights, quantized)
            }
            _ => run.timings.measure(Step::Codes, name, 0.0, || run.searched(tensor, &corrected, &weights))?,
        };
        drop(moment);
        let values = gpu.upload(&values, columns)?;
        let flop = cost::loss(sampled(tokens).map(|r| r.len()).sum(), rows, columns);
        let loss = run.timings.measure(Step::Loss, name, flop, || -> Result<f64, AcceleratorError> {
            let mut sample = Vec::new();
            for part in sampled(tokens) {
                let from = sample.len();
                sample.resize(from + part.len() * columns, 0.0);
                gpu.read(stored, part.start, &mut sample[from..])?;
            }
            let sample = gpu.upload(&sample, columns)?;
            let all = energy(&gpu.download(&gpu.times_transposed(&sample, &on_gpu)?)?);
            gpu.combine(&mut on_gpu, 1.0, &values, -1.0)?;
            let lost = energy(&gpu.download(&gpu.times_transposed(&sample, &on_gpu)?)?);
            Ok(lost / all.max(f64::MIN_POSITIVE))
        })?;
        run.finish(tensor, &staged, begin, loss)?;
        Ok(values)
    }

    /// A second moment of inputs shrunk and damped, with its factor.
    fn solved(&self, name: &str, mut values: Matrix, lookup: Option<&[f32]>) -> Result<Moment, Stop> {
        let Self { run, gpu } = *self;
        let columns = values.columns();
        let diagonal = run.timings.measure(Step::Moments, name, 0.0, || {
            let mut diagonal = gpu.diagonal(&values)?;
            let looked_up = |c: usize| lookup.and_then(|l| l.get(c)).copied().unwrap_or(0.0);
            diagonal.iter_mut().enumerate().for_each(|(c, d)| *d += looked_up(c));
            let damping = SecondMoment::damping(diagonal.iter().copied());
            let added: Vec<f32> = (0..columns).map(|c| looked_up(c) + damping).collect();
            gpu.shrink(&mut values, SHRINKAGE, &added)?;
            diagonal.iter_mut().for_each(|d| *d += damping);
            Ok::<_, AcceleratorError>(diagonal)
        })?;
        let order = activation_order(&diagonal);
        let factor = run.timings.measure(Step::Factorization, name, cost::factorization(columns), || {
            let found = match gpu.can_factor(columns) {
                true => gpu.inverse_factor(&values, &order)?,
                false => None,
            };
            // The processor has f64, in which there is one unless activations are not finite.
            let on_processor = || -> Result<Matrix, Stop> {
                let moment = SecondMoment::prepared(columns, gpu.download(&values)?);
                let failed = |source| ConvertError::Moment { tensor: name.into(), source };
                Ok(gpu.upload(&moment.inverse_factor().map_err(failed)?, columns)?)
            };
            found.map_or_else(on_processor, Ok)
        })?;
        Ok(Moment { values, diagonal, order, factor })
    }

    /// The twin of [`Original::correction`](super::correction::Original::correction).
    fn correction(
        &self,
        weights: &Matrix,
        stored: &Matrix,
        original: OriginalOnGpu,
        moment: &Matrix,
    ) -> Result<Matrix, AcceleratorError> {
        let gpu = self.gpu;
        match original {
            OriginalOnGpu::Inputs(mut shift) => {
                gpu.combine(&mut shift, CORRECTION, stored, -CORRECTION)?;
                gpu.times(weights, &gpu.cross(&shift, stored)?)
            }
            OriginalOnGpu::Outputs(outputs) => {
                let mut correction = gpu.cross(&outputs, stored)?;
                drop(outputs);
                gpu.combine(&mut correction, CORRECTION, &gpu.times(weights, moment)?, -CORRECTION)?;
                Ok(correction)
            }
        }
    }
}
