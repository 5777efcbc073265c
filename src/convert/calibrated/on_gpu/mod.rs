//! The same on a GPU: both streams of activations stay in its memory, and all that grows with their length or with the
//! square of a matrix's columns happens there. Weights come from and codes go to the processor, which learns
//! codebooks. Where its memory is too small for that, streams stay with the processor, and some windows at a time go
//! through the layer ([`room`]).

mod room;
mod tokens;

use super::super::staged::StagedMatrix;
use super::super::{ConvertError, Progress, cost};
use super::Run;
use super::correction::{CORRECTION, keeps_outputs};
use super::matrix::{energy, sampled};
use super::side::Side;
use super::streams::{Activations, Streams};
use crate::accelerator::{Accelerator, AcceleratorError, HeadColumns, LayerOnGpu, Matrix};
use crate::architecture::ArchitectureError;
use crate::kept::Kept;
use crate::quantize::{Hessian, SHRINKAGE, activation_order, quantize_matrix_on, serves};
use crate::reference::{ProjectionKind, with_numbers};
use crate::timings::Step;
use crate::zeros::zeros;
use candle_core::{Device, Tensor};
use haikuq_format::manifest::TensorEntry;
use haikuq_format::scheme::Scheme;
pub(super) use room::Room;
use std::collections::BTreeMap;
use std::time::Instant;
use tokens::{Held, Tokens};

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

/// A matrix's Hessian and its factor.
struct Moment {
    values: Matrix,
    diagonal: Vec<f32>,
    order: Vec<usize>,
    factor: Matrix,
}

/// What is kept of a matrix's pass through original weights, as by [`super::correction::Original`].
enum OriginalOnGpu {
    Inputs(Held),
    Outputs(Held),
}

impl OnGpu<'_> {
    /// All layers from `start` on and the head.
    pub(super) fn go(&self, start: Activations, streams: &mut Streams) -> Result<(), Stop> {
        let Self { run, gpu } = *self;
        let (spec, hidden) = (run.spec(), run.spec().hidden_size);
        let (windows, length) = (run.calibration.windows.len(), run.length());
        let (first, mut side) = (start.layer, Side::new(run)?);
        let (mut original, mut stored) = (Held::OnHost(start.original), Held::OnHost(start.stored));
        for layer in first..spec.num_layers() {
            if layer > first && streams.is_due() && side.is_made_anew() {
                let (original, stored) = (original.numbers(gpu)?, stored.numbers(gpu)?);
                streams.keep(&Activations { layer, original, stored })?;
            }
            let room = Room::for_layer(gpu, spec, layer, windows, length);
            if layer == first {
                self.tell(room, windows);
            }
            (original, stored) = match room {
                Room::All => {
                    let (o, s) = self.layer(layer, original.on_gpu(gpu, hidden)?, stored.on_gpu(gpu, hidden)?)?;
                    (Held::OnGpu(o), Held::OnGpu(s))
                }
                Room::Windows(at_once) => {
                    let (mut o, mut s) = (original.on_host(gpu)?, stored.on_host(gpu)?);
                    self.layer_in_parts(layer, &mut o, &mut s, at_once * length)?;
                    (Held::OnHost(o), Held::OnHost(s))
                }
                Room::TooLittle(_) | Room::Unserved => {
                    let (o, s) = (run.keep(original.on_host(gpu)?)?, run.keep(stored.on_host(gpu)?)?);
                    let (o, s) = run.layer_on_processor(layer, o, s, &mut side)?;
                    let numbers = |kept: Kept| -> Result<Held, ConvertError> {
                        Ok(Held::OnHost(with_numbers(&kept.take()?, <[f32]>::to_vec)?))
                    };
                    (numbers(o)?, numbers(s)?)
                }
            };
        }
        // Several residual streams become one on the processor.
        if spec.altup.is_none() && Room::for_head(gpu, spec, windows * length) {
            return self.head(&original.on_gpu(gpu, hidden)?, &stored.on_gpu(gpu, hidden)?);
        }
        Ok(run.head_on_processor(run.keep(original.on_host(gpu)?)?, run.keep(stored.on_host(gpu)?)?)?)
    }

    /// Says what of a layer the GPU has no room for.
    fn tell(&self, room: Room, windows: usize) {
        let (name, limit) = (&self.gpu.description().name, self.gpu.memory().1);
        let text = match room {
            Room::All => return,
            Room::Windows(at_once) => format!("{name} has room for {at_once} of {windows} windows at a time"),
            Room::TooLittle(needed) => {
                format!("{name} may use {limit} bytes of memory and a layer takes {needed}: the processor computes it")
            }
            Room::Unserved => format!("{name} has no kernels for such a layer: the processor computes it"),
        };
        (self.run.progress)(Progress::Repaired(&text));
    }

    /// As [`OnGpu::layer`], with streams that stay with the processor, of which `at_once` tokens go to the GPU at a time.
    fn layer_in_parts(&self, index: usize, original: &mut [f32], stored: &mut [f32], at_once: usize) -> Result<(), Stop> {
        let Self { run, gpu } = *self;
        let (spec, windows, length) = (run.spec(), run.calibration.windows.len(), run.length());
        let (layer_spec, part) = (&spec.layers[index], at_once * spec.hidden_size);
        let layer = LayerOnGpu::load(gpu, spec, index, length, |name| run.read(name))?;
        let flop = cost::layer(layer_spec, spec.hidden_size, windows, length);
        let kinds = [ProjectionKind::MixerInput, ProjectionKind::MixerOutput, ProjectionKind::Up, ProjectionKind::Down];
        let (mut hosts, mut weights) = (BTreeMap::<ProjectionKind, Vec<f32>>::new(), BTreeMap::<ProjectionKind, Matrix>::new());
        let mut originals = BTreeMap::<ProjectionKind, Kept>::new();
        for kind in kinds {
            let tensor = run.tensor(&kind.name(layer_spec, index))?;
            let host = run.read(&tensor.name)?;
            weights.insert(kind, gpu.upload(&host, tensor.columns())?);
            hosts.insert(kind, host);
            originals.insert(kind, Kept::new(run.spill).map_err(ConvertError::from)?);
        }
        run.timings.measure(Step::Forward, "", flop, || {
            for x in original.chunks_mut(part) {
                let after = layer.forward(&gpu.upload(x, spec.hidden_size)?, |kind, x| -> Result<Matrix, Stop> {
                    let weights = &weights[&kind];
                    let y = gpu.times_transposed(&x, weights)?;
                    let kept = if keeps_outputs(weights.rows(), weights.columns()) { &y } else { &x };
                    let numbers = Tensor::from_vec(gpu.download(kept)?, (kept.rows(), kept.columns()), &Device::Cpu)?;
                    let original = originals.get_mut(&kind).expect("one for each kind");
                    original.push(vec![numbers]).map_err(ConvertError::from)?;
                    Ok(y)
                })?;
                gpu.read(&after, 0, x)?;
            }
            Ok::<_, Stop>(())
        })?;
        drop(weights);
        // A matrix's inputs are those that all before it make as they are stored: the layer is begun anew for each.
        let mut values = BTreeMap::<ProjectionKind, Matrix>::new();
        for kind in kinds {
            let tensor = run.tensor(&kind.name(layer_spec, index))?;
            if let Some(finished) = run.finished(tensor)? {
                values.insert(kind, gpu.upload(&finished, tensor.columns())?);
                continue;
            }
            let mut inputs = Vec::with_capacity(stored.len() / spec.hidden_size * tensor.columns());
            run.timings.measure(Step::Forward, "", 0.0, || {
                for x in stored.chunks(part) {
                    let reached = layer.forward(&gpu.upload(x, spec.hidden_size)?, |at, x| match values.get(&at) {
                        Some(values) => Ok(gpu.times_transposed(&x, values)?),
                        None => Err(Reached::Inputs(x)),
                    });
                    match reached {
                        Err(Reached::Inputs(x)) => inputs.extend(gpu.download(&x)?),
                        Err(Reached::Failure(error)) => return Err(Stop::Gpu(error)),
                        Ok(_) => unreachable!("this matrix has no values yet"),
                    }
                }
                Ok(())
            })?;
            let host = hosts.remove(&kind).expect("one for each kind");
            let on_gpu = gpu.upload(&host, tensor.columns())?;
            let kept = originals.remove(&kind).expect("one for each kind").take().map_err(ConvertError::from)?;
            let numbers = Held::OnHost(with_numbers(&kept, <[f32]>::to_vec)?);
            drop(kept);
            let original = match keeps_outputs(tensor.rows(), tensor.columns()) {
                true => OriginalOnGpu::Outputs(numbers),
                false => OriginalOnGpu::Inputs(numbers),
            };
            let inputs = Tokens::OnHost { numbers: &inputs, columns: tensor.columns(), at_once };
            values.insert(kind, self.matrix(tensor, host, on_gpu, inputs, Some(original), None)?);
        }
        run.timings.measure(Step::Forward, "", flop, || {
            for x in stored.chunks_mut(part) {
                let after = layer.forward(&gpu.upload(x, spec.hidden_size)?, |kind, x| -> Result<Matrix, Stop> {
                    Ok(gpu.times_transposed(&x, &values[&kind])?)
                })?;
                gpu.read(&after, 0, x)?;
            }
            Ok(())
        })
    }

    /// Both streams after a layer, whose matrices are quantized on the way.
    fn layer(&self, index: usize, original: Matrix, stored: Matrix) -> Result<(Matrix, Matrix), Stop> {
        let Self { run, gpu } = *self;
        let (spec, windows, length) = (run.spec(), run.calibration.windows.len(), run.length());
        let layer_spec = &spec.layers[index];
        let layer = LayerOnGpu::load(gpu, spec, index, length, |name| run.read(name))?;
        let flop = cost::layer(layer_spec, spec.hidden_size, windows, length);
        let mut originals = BTreeMap::<ProjectionKind, OriginalOnGpu>::new();
        let mut weights = BTreeMap::<ProjectionKind, (Vec<f32>, Matrix)>::new();
        let after = run.timings.measure(Step::Forward, "", flop, || {
            let after = layer.forward(&original, |kind, x| -> Result<Matrix, Stop> {
                let host = run.read(&kind.name(layer_spec, index))?;
                let on_gpu = gpu.upload(&host, x.columns())?;
                let y = gpu.times_transposed(&x, &on_gpu)?;
                let original = match keeps_outputs(on_gpu.rows(), on_gpu.columns()) {
                    true => OriginalOnGpu::Outputs(Held::OnGpu(gpu.copy(&y)?)),
                    false => OriginalOnGpu::Inputs(Held::OnGpu(x)),
                };
                originals.insert(kind, original);
                weights.insert(kind, (host, on_gpu));
                Ok(y)
            })?;
            gpu.finish()?;
            Ok::<_, Stop>(after)
        })?;
        drop(original);
        let stored = run.timings.measure(Step::Forward, "", flop, || {
            let stored = layer.forward(&stored, |kind, x| -> Result<Matrix, Stop> {
                let (original, weights) = (originals.remove(&kind), weights.remove(&kind));
                let (host, on_gpu) = weights.expect("each kind is passed twice");
                let tensor = run.tensor(&kind.name(layer_spec, index))?;
                let values = self.matrix(tensor, host, on_gpu, Tokens::OnGpu(&x), original, None)?;
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
        let original = OriginalOnGpu::Inputs(Held::OnGpu(original));
        self.matrix(run.tensor(run.head())?, host, on_gpu, Tokens::OnGpu(&stored), Some(original), run.lookup())?;
        Ok(())
    }

    /// The twin of [`Run::matrix`]; the values of the matrix as they are stored.
    fn matrix(
        &self,
        tensor: &TensorEntry,
        weights: Vec<f32>,
        mut on_gpu: Matrix,
        stored: Tokens<'_>,
        original: Option<OriginalOnGpu>,
        lookup: Option<&[f32]>,
    ) -> Result<Matrix, Stop> {
        let Self { run, gpu } = *self;
        let (name, rows, columns, tokens) = (&tensor.name, tensor.rows(), tensor.columns(), stored.count());
        if let Some(values) = run.finished(tensor)? {
            return Ok(gpu.upload(&values, columns)?);
        }
        let begin = Instant::now();
        let flop = cost::moments(tokens, columns);
        // Steps end when the GPU has done them, so that each has its own time.
        let finished = |matrix: Matrix| gpu.finish().map(|()| matrix);
        let hessian = run.timings.measure(Step::Moments, name, flop, || stored.gram(gpu).and_then(finished))?;
        let correction = original.map(|original| {
            let flop = cost::correction(tokens, rows, columns);
            run.timings
                .measure(Step::Correction, name, flop, || self.correction(&on_gpu, stored, original, &hessian).and_then(finished))
        });
        let correction = correction.transpose()?;
        let hessian = self.solved(name, hessian, lookup)?;
        let corrected = match correction {
            Some(correction) => {
                let mut corrected = zeros(weights.len());
                run.timings.measure(Step::Solving, name, cost::solving(rows, columns), || {
                    let mut sum = gpu.solve_rows(&correction, &hessian.factor, &hessian.order)?;
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
                    let solved = (&hessian.order[..], &hessian.factor, &hessian.values);
                    quantize_matrix_on(gpu, scheme, corrected, &hessian.diagonal, solved)
                })?;
                run.packed(tensor, &weights, quantized)
            }
            _ => run.timings.measure(Step::Codes, name, 0.0, || run.searched(tensor, &corrected, &weights))?,
        };
        drop(hessian);
        let values = gpu.upload(&values, columns)?;
        let flop = cost::loss(sampled(tokens).map(|r| r.len()).sum(), rows, columns);
        let loss = run.timings.measure(Step::Loss, name, flop, || -> Result<f64, AcceleratorError> {
            let mut sample = Vec::new();
            for part in sampled(tokens) {
                stored.read(gpu, part, &mut sample)?;
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

    /// A Hessian of inputs shrunk and damped, with its factor.
    fn solved(&self, name: &str, mut values: Matrix, lookup: Option<&[f32]>) -> Result<Moment, Stop> {
        let Self { run, gpu } = *self;
        let columns = values.columns();
        let diagonal = run.timings.measure(Step::Moments, name, 0.0, || {
            let mut diagonal = gpu.diagonal(&values)?;
            let looked_up = |c: usize| lookup.and_then(|l| l.get(c)).copied().unwrap_or(0.0);
            diagonal.iter_mut().enumerate().for_each(|(c, d)| *d += looked_up(c));
            let damping = Hessian::damping(diagonal.iter().copied());
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
                let hessian = Hessian::prepared(columns, gpu.download(&values)?);
                let failed = |source| ConvertError::Hessian { tensor: name.into(), source };
                Ok(gpu.upload(&hessian.inverse_factor().map_err(failed)?, columns)?)
            };
            found.map_or_else(on_processor, Ok)
        })?;
        Ok(Moment { values, diagonal, order, factor })
    }

    /// The twin of [`Original::correction`](super::correction::Original::correction).
    fn correction(
        &self,
        weights: &Matrix,
        stored: Tokens<'_>,
        original: OriginalOnGpu,
        hessian: &Matrix,
    ) -> Result<Matrix, AcceleratorError> {
        let (gpu, columns) = (self.gpu, stored.columns());
        match original {
            OriginalOnGpu::Inputs(original) => {
                gpu.times(weights, &stored.cross(gpu, original, columns, Some((CORRECTION, -CORRECTION)))?)
            }
            OriginalOnGpu::Outputs(original) => {
                let mut correction = stored.cross(gpu, original, weights.rows(), None)?;
                gpu.combine(&mut correction, CORRECTION, &gpu.times(weights, hessian)?, -CORRECTION)?;
                Ok(correction)
            }
        }
    }
}

/// What ends a pass through a layer before its end.
enum Reached {
    /// The inputs of the matrix that is looked for.
    Inputs(Matrix),
    /// The GPU cannot go on.
    Failure(AcceleratorError),
}

impl From<AcceleratorError> for Reached {
    fn from(error: AcceleratorError) -> Self {
        Self::Failure(error)
    }
}
