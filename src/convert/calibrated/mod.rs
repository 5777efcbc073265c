//! Calibrated quantization of a whole decoder, layer by layer, before anything is written to shards.
//!
//! Two streams of the calibration windows go through the layers: one through the original weights, one through the
//! weights as they are stored. At each matrix the second stream's inputs say what an error in a weight costs, and the
//! difference between the streams what earlier errors have changed, which the matrix makes good as far as it can. Only
//! one layer's weights and activations exist at a time.
//!
//! What a matrix becomes is put on disk under `OUT.partial/matrices`, from where the pipeline takes it and a resumed
//! conversion goes on.

mod streams;

use super::pipeline::store_block;
use super::staged::{Staged, StagedMatrix};
use super::{ConvertError, MatrixCost, Options, Plan, Progress, cost};
use crate::architecture::ArchitectureError;
use crate::calibrate::Calibration;
use crate::golden::reference::{Ends, LayerWindows, Observe, ReferenceError, Site, with_numbers};
use crate::matmul::{cross, gram, times, times_transposed};
use crate::quantize::{Equalized, NotPositive, SecondMoment, quantize_matrix, quantize_table, serves};
use crate::timings::{Step, Timings};
use candle_core::{Device, Tensor};
use haikuq_format::DecoderSpec;
use haikuq_format::layout::{PlaneBuffers, dequantize, pack_quantized};
use haikuq_format::manifest::TensorEntry;
use haikuq_format::scheme::Scheme;
use haikuq_format::spec::TensorClass;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;
use streams::{Activations, Streams};

/// How much of what earlier errors changed in its inputs a matrix makes good. All of it follows the calibration text
/// too closely; measured on SmolLM2-135M at 4.25 bits, KL is 0.081 with 0, 0.068 with a half, 0.081 with all.
const CORRECTION: f32 = 0.5;

/// Tokens on which a matrix's loss is measured, at most, and rows whose outputs for them exist at a time.
const SAMPLE_TOKENS: usize = 256;
const SAMPLE_ROWS: usize = 4096;

/// Quantizes every matrix that is not staged yet.
pub(super) fn stage(
    weights: &Equalized<'_>,
    plan: &Plan,
    calibration: &Calibration,
    staged: &Staged,
    options: &Options,
    timings: &Timings,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), ConvertError> {
    let run = Run { weights, plan, calibration, staged, timings, progress };
    let (tokens, hidden) = (calibration.windows.iter().map(Vec::len).sum::<usize>(), run.spec().hidden_size);
    let mut streams = Streams::new(staged.folder().into(), tokens * hidden, options.save_interval);
    let start = run.start(&mut streams)?;
    run.on_processor(start, &mut streams)?;
    // Tables that are only looked up in: each row's error matters by itself.
    for tensor in plan.tensors.iter().filter(|t| t.class == TensorClass::Embedding && t.name != run.head()) {
        run.table(tensor)?;
    }
    Ok(())
}

impl Run<'_> {
    fn spec(&self) -> &DecoderSpec {
        &self.weights.decoder().spec
    }

    /// Name of the matrix that makes logits.
    fn head(&self) -> &'static str {
        if self.spec().tied_head { "embedding" } else { "head" }
    }

    /// What a squared error of the head costs where it is also looked up in, a column.
    fn lookup(&self) -> Option<&[f32]> {
        let lookup = self.calibration.sensitivities.get("embedding").map(|s| s.lookup.as_slice());
        lookup.filter(|_| self.spec().tied_head)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ArchitectureError> {
        let values = self.timings.measure(Step::Reading, name, 0.0, || self.weights.read(name));
        self.weights.decoder().release(name);
        values
    }

    fn ends(&self) -> Result<Ends, ReferenceError> {
        Ends::load(self.spec(), |name| self.read(name))
    }

    /// Tokens of a window.
    fn length(&self) -> usize {
        self.calibration.windows.first().map_or(0, Vec::len)
    }

    /// What goes into the first layer, or into that at which an interrupted run was, if all matrices before it are there.
    fn start(&self, streams: &mut Streams) -> Result<Activations, ConvertError> {
        let name = |layer: usize| format!("layers.{layer}.");
        let is_there = |tensor: &TensorEntry| Ok::<_, ConvertError>(self.staged.read(tensor)?.is_some());
        let mut whole = 0;
        'layers: for layer in 0..self.spec().num_layers() {
            for tensor in self.matrices().filter(|t| t.name.starts_with(&name(layer))) {
                if !is_there(tensor)? {
                    break 'layers;
                }
            }
            whole = layer + 1;
        }
        if let Some(found) = streams.take_up(whole)? {
            let before = |t: &&TensorEntry| (0..found.layer).any(|layer| t.name.starts_with(&name(layer)));
            let weights = self.matrices().filter(before).map(|t| (t.rows() * t.columns()) as u64).sum();
            (self.progress)(Progress::Weights(weights));
            return Ok(found);
        }
        let embed = || -> Result<_, ConvertError> { Ok(self.ends()?.embed(&self.calibration.windows)?) };
        let embedded = with_numbers(&self.timings.measure(Step::Forward, "", 0.0, embed)?, <[f32]>::to_vec)?;
        Ok(Activations { layer: 0, original: embedded.clone(), stored: embedded })
    }

    fn matrices(&self) -> impl Iterator<Item = &TensorEntry> {
        self.plan.tensors.iter().filter(|t| t.class != TensorClass::Vector)
    }

    /// All layers from `start` on and the head, on the processor.
    fn on_processor(&self, start: Activations, streams: &mut Streams) -> Result<(), ConvertError> {
        let (spec, length) = (self.spec(), self.length());
        let tensor = |numbers: Vec<f32>| {
            let rows = numbers.len() / spec.hidden_size;
            Tensor::from_vec(numbers, (rows, spec.hidden_size), &Device::Cpu)
        };
        let (mut original, mut stored) = (tensor(start.original)?, tensor(start.stored)?);
        for (index, layer_spec) in spec.layers.iter().enumerate().skip(start.layer) {
            if index > start.layer && streams.is_due() {
                let numbers = |t: &Tensor| with_numbers(t, <[f32]>::to_vec);
                streams.keep(&Activations { layer: index, original: numbers(&original)?, stored: numbers(&stored)? })?;
            }
            let layer = LayerWindows::load(spec, index, length, |name| self.read(name))?;
            let mut recorder = Recorder::default();
            let flop = cost::layer(layer_spec, spec.hidden_size, self.calibration.windows.len(), length);
            original = self.timings.measure(Step::Forward, "", flop, || layer.forward(&original, &mut recorder))?;
            let gated = layer_spec.mlp.gated;
            let mut quantizer = Quantizer { run: self, layer: index, gated, inputs: recorder.inputs, failed: None };
            let result = self.timings.measure(Step::Forward, "", flop, || layer.forward(&stored, &mut quantizer));
            // The cause goes first: what candle hands on of it is text.
            if let Some(error) = quantizer.failed {
                return Err(error);
            }
            stored = result?;
        }
        let ends = self.ends()?;
        original = ends.normed(&original)?;
        stored = ends.normed(&stored)?;
        drop(ends);
        self.matrix(self.head(), &self.read(self.head())?, &stored, Some(original), self.lookup())?;
        Ok(())
    }
}

/// What all matrices share.
struct Run<'a> {
    weights: &'a Equalized<'a>,
    plan: &'a Plan,
    calibration: &'a Calibration,
    staged: &'a Staged,
    timings: &'a Timings,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Run<'_> {
    fn tensor(&self, name: &str) -> Result<&TensorEntry, ConvertError> {
        let missing = || ConvertError::NotPlanned { tensor: name.into() };
        self.plan.tensors.iter().find(|t| t.name == name).ok_or_else(missing)
    }

    /// The values of a matrix of `weights` as they are stored, quantized now unless an earlier run did it. `stored` are its
    /// inputs `[tokens, columns]` after stored weights, `original` those after the original ones; `lookup` what a squared error costs where the matrix is also looked up in, a column.
    fn matrix(
        &self,
        name: &str,
        weights: &[f32],
        stored: &Tensor,
        original: Option<Tensor>,
        lookup: Option<&[f32]>,
    ) -> Result<Vec<f32>, ConvertError> {
        let tensor = self.tensor(name)?;
        if let Some(matrix) = self.staged.read(tensor)? {
            (self.progress)(Progress::Weights((tensor.rows() * tensor.columns()) as u64));
            return Ok(values(tensor, &matrix.planes));
        }
        let begin = Instant::now();
        let (rows, columns, tokens) = (tensor.rows(), tensor.columns(), stored.dim(0)?);
        let failed = |source| ConvertError::Moment { tensor: name.into(), source };
        let moment = self.timings.measure(Step::Moments, name, cost::moments(tokens, columns), || {
            let mut moment = with_numbers(stored, |inputs| gram(inputs, columns))?;
            for (c, extra) in lookup.unwrap_or_default().iter().enumerate() {
                moment[c * columns + c] += extra;
            }
            candle_core::Result::Ok(SecondMoment::new(columns, moment))
        })?;
        self.timings.measure(Step::Factorization, name, cost::factorization(columns), || moment.factorize()).map_err(failed)?;
        let corrected = match original {
            Some(original) => {
                let flop = cost::correction(tokens, rows, columns);
                let correct = || self.corrected(weights, stored, original, &moment).map(|c| c.map_err(failed));
                self.timings.measure(Step::Correction, name, flop, correct)??
            }
            None => weights.to_vec(),
        };
        let (staged, out) = match tensor.scheme {
            Scheme::Grouped(scheme) if serves(scheme) => {
                let quantize = || quantize_matrix(scheme, corrected, &moment);
                let quantized = self.timings.measure(Step::Codes, name, cost::codes(rows, columns), quantize).map_err(failed)?;
                drop(moment);
                let pack = || pack_quantized(scheme, rows, columns, &quantized.rows);
                let planes = self.timings.measure(Step::Packing, name, 0.0, pack);
                let errors = || StagedMatrix::new(planes, weights, &quantized.values);
                (self.timings.measure(Step::Loss, name, 0.0, errors), quantized.values)
            }
            _ => self.timings.measure(Step::Codes, name, 0.0, || self.searched(tensor, &corrected, weights))?,
        };
        let flop = cost::loss(tokens.min(SAMPLE_TOKENS), rows, columns);
        let loss = self.timings.measure(Step::Loss, name, flop, || self.relative_loss(weights, &out, stored))?;
        self.finish(tensor, &staged, begin, loss)?;
        Ok(out)
    }

    /// `weights` with what corrects a part of the difference between the `original` and the `stored` inputs.
    fn corrected(
        &self,
        weights: &[f32],
        stored: &Tensor,
        original: Tensor,
        moment: &SecondMoment,
    ) -> candle_core::Result<Result<Vec<f32>, NotPositive>> {
        let mut corrected = with_numbers(stored, |stored| {
            let shift = with_numbers(&original, |original| shift(original, stored))?;
            drop(original);
            candle_core::Result::Ok(shifted(weights, &shift, stored, moment.columns()))
        })??;
        let solved = moment.solve_rows(&mut corrected);
        corrected.par_chunks_mut(1 << 16).zip(weights.par_chunks(1 << 16)).for_each(|(corrected, weights)| {
            corrected.iter_mut().zip(weights).for_each(|(c, w)| *c += w);
        });
        Ok(solved.map(|()| corrected))
    }

    /// A table of embeddings or positions.
    fn table(&self, tensor: &TensorEntry) -> Result<(), ConvertError> {
        if self.staged.read(tensor)?.is_some() {
            (self.progress)(Progress::Weights((tensor.rows() * tensor.columns()) as u64));
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
                let pack = || pack_quantized(scheme, tensor.rows(), tensor.columns(), &quantized.rows);
                let planes = self.timings.measure(Step::Packing, &tensor.name, 0.0, pack);
                StagedMatrix::new(planes, &weights, &quantized.values)
            }
            _ => self.timings.measure(Step::Codes, &tensor.name, 0.0, || self.searched(tensor, &weights, &weights))?.0,
        };
        let loss = staged.relative_error();
        self.finish(tensor, &staged, begin, loss)
    }

    /// A matrix in a scheme that search serves.
    fn searched(
        &self,
        tensor: &TensorEntry,
        weights: &[f32],
        unchanged: &[f32],
    ) -> Result<(StagedMatrix, Vec<f32>), ConvertError> {
        let columns = tensor.columns();
        let rows = super::plan::block_rows(columns);
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

    /// `E|(W − Ŵ) x|² / E|W x|²` over the inputs of stored weights.
    fn relative_loss(&self, weights: &[f32], out: &[f32], inputs: &Tensor) -> Result<f64, ConvertError> {
        let ((tokens, columns), mut sample) = (inputs.dims2()?, Vec::new());
        with_numbers(inputs, |inputs| {
            // Some tokens from everywhere say it well enough.
            let every = tokens.div_ceil(SAMPLE_TOKENS).max(1);
            inputs.chunks_exact(columns).step_by(every).for_each(|row| sample.extend_from_slice(row));
        })?;
        let energy = |w: &[f32]| times_transposed(w, &sample, columns).par_chunks(1 << 16).map(squares).collect::<Vec<f64>>();
        let (mut lost, mut all) = (0.0, 0.0);
        for (weights, out) in weights.chunks(SAMPLE_ROWS * columns).zip(out.chunks(SAMPLE_ROWS * columns)) {
            let difference: Vec<f32> = weights.par_iter().with_min_len(1 << 14).zip(out).map(|(a, b)| a - b).collect();
            lost += energy(&difference).iter().sum::<f64>();
            all += energy(weights).iter().sum::<f64>();
        }
        Ok(lost / all.max(f64::MIN_POSITIVE))
    }

    fn finish(&self, tensor: &TensorEntry, matrix: &StagedMatrix, begin: Instant, loss: f64) -> Result<(), ConvertError> {
        self.timings.measure(Step::Packing, &tensor.name, 0.0, || self.staged.write(tensor, matrix))?;
        (self.progress)(Progress::Weights((tensor.rows() * tensor.columns()) as u64));
        let bits = tensor.bytes() as f64 * 8.0 / (tensor.rows() * tensor.columns()) as f64;
        let cost = MatrixCost { seconds: begin.elapsed().as_secs_f64(), bits, relative_loss: loss };
        (self.progress)(Progress::Matrix(&tensor.name, tensor.scheme, cost));
        Ok(())
    }
}

fn squares(numbers: &[f32]) -> f64 {
    numbers.iter().map(|&y| f64::from(y * y)).sum()
}

/// Part of the way from the stored inputs to the original ones.
fn shift(original: &[f32], stored: &[f32]) -> Vec<f32> {
    original.par_iter().with_min_len(1 << 14).zip(stored).map(|(o, s)| (o - s) * CORRECTION).collect()
}

/// `W · E[shift xᵀ]` over the inputs `x`, by whichever order of products takes fewer operations.
fn shifted(weights: &[f32], shift: &[f32], inputs: &[f32], columns: usize) -> Vec<f32> {
    let rows = weights.len() / columns;
    match 2 * rows < columns {
        true => cross(&times_transposed(shift, weights, columns), inputs, rows, columns),
        false => times(weights, &cross(shift, inputs, columns, columns), columns),
    }
}

fn values(tensor: &TensorEntry, planes: &PlaneBuffers) -> Vec<f32> {
    let planes: Vec<_> = planes.iter().map(|(kind, words)| (*kind, words.as_slice())).collect();
    dequantize(tensor.scheme, tensor.rows(), tensor.columns(), &planes)
}

/// Keeps the inputs of a layer's matrices.
#[derive(Default)]
struct Recorder {
    inputs: BTreeMap<Site, Tensor>,
}

impl Observe for Recorder {
    fn replace(&mut self, site: Site, _: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        self.inputs.insert(site, input.clone());
        Ok(None)
    }
}

/// Quantizes a layer's matrices as the stream of stored weights reaches them.
struct Quantizer<'a> {
    run: &'a Run<'a>,
    layer: usize,
    gated: bool,
    inputs: BTreeMap<Site, Tensor>,
    failed: Option<ConvertError>,
}

impl Observe for Quantizer<'_> {
    fn replace(&mut self, site: Site, weights: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let name = format!("layers.{}.{}", self.layer, site.matrix(self.gated));
        let original = self.inputs.remove(&site);
        match with_numbers(weights, |weights| self.run.matrix(&name, weights, input, original, None))? {
            Ok(values) => Ok(Some(values)),
            Err(error) => {
                let text = error.to_string();
                self.failed = Some(error);
                Err(candle_core::Error::Msg(text))
            }
        }
    }
}
