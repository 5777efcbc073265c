//! Measures [`Sensitivity`]: one pass forward that keeps what goes into each layer, and one backward.
//!
//! Only one layer's weights are in memory at a time. A layer's gradients come of automatic differentiation of a window
//! at a time, with a probe at each matrix's output that sees the gradient with respect to it.
//!
//! The loss of a token is its negative log-likelihood, `−ln p(y)`, where `y` is drawn from `p` and not taken from the
//! text. Gradients of different positions' losses are then uncorrelated, so that one backward pass of their sum gives the
//! mean square of each.

use super::{Calibration, CalibrationError, CalibrationText, Options, Sensitivity};
use crate::architecture::Decoder;
use crate::exponentials::exponentials;
use crate::kept::Kept;
use crate::model::BoxError;
use crate::reference::{
    Beside, Embedding, GpuProducts, KeysValues, LayerWindows, Observe, OutputHead, PerLayerInputs, ProjectionKind,
    ReferenceError, StreamEnds, numbers, with_numbers,
};
use crate::timings::Step;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, Var};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::PerLayerEmbedding;
use haikuq_runtime::sampling::uniform;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Longest window that gradients are taken through: what a layer keeps for it grows with its square.
pub(crate) const WINDOW_TOKENS: usize = 256;

/// Positions whose logits exist at the same time.
pub(crate) const LOGIT_ROWS: usize = 64;

/// Steps that [`measure`] reports, all in all.
pub fn steps(spec: &DecoderSpec) -> usize {
    2 * spec.num_layers() + 1
}

/// What the `step`-th of [`steps`] is, from 1 on.
pub fn step(spec: &DecoderSpec, step: usize) -> Step {
    match step.cmp(&(spec.num_layers() + 1)) {
        std::cmp::Ordering::Less => Step::CalibrationForward,
        std::cmp::Ordering::Equal => Step::CalibrationHead,
        std::cmp::Ordering::Greater => Step::CalibrationBackward,
    }
}

/// Operations of the `step`-th of [`steps`], for a text of at least `options.sensitivity_tokens`.
pub fn flop(spec: &DecoderSpec, options: &Options, step: usize) -> f64 {
    let length = options.window_tokens.min(spec.max_context).clamp(1, WINDOW_TOKENS);
    crate::convert::cost::sensitivities(spec, step, options.sensitivity_tokens.div_ceil(length), length)
}

/// Measures every matrix of `decoder` on `text`. `progress` is called with the number of [`steps`] done.
///
/// # Errors
/// If a tensor cannot be read, a token is outside the vocabulary, or numbers overflow.
pub fn measure(
    decoder: &Decoder,
    text: CalibrationText,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Calibration, CalibrationError> {
    measure_on(None, decoder, text, options, progress)
}

/// As [`measure`], with products on a GPU, if there is one and for as long as it can: [`GpuProducts::failure`] says whether it
/// could. Results differ from those of the processor in their last digits.
///
/// # Errors
/// As [`measure`].
pub fn measure_on(
    products: Option<&Arc<GpuProducts>>,
    decoder: &Decoder,
    text: CalibrationText,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Calibration, CalibrationError> {
    let windows = cut(&text.windows, options.sensitivity_tokens);
    let read = |name: &str| {
        let values = decoder.read(name);
        decoder.release(name);
        values
    };
    let products = products.map_or(Products::Integers, Products::OnGpu);
    let width = decoder.spec.per_layer_embedding.map_or(0, |p| p.size * decoder.spec.num_layers());
    let rows = |ids: &[u32]| decoder.look_up(PerLayerEmbedding::TABLE, ids, 0..width);
    let sensitivities = sensitivities(products, &decoder.spec, &windows, options, (read, rows), progress)?;
    let sensitivity_tokens = windows.iter().map(Vec::len).sum();
    Ok(Calibration { text: text.sources, windows: text.windows, sensitivities, sensitivity_tokens })
}

/// About `tokens` tokens of windows of one length, in parts of one length that are spread over them.
fn cut(windows: &[Vec<u32>], tokens: usize) -> Vec<Vec<u32>> {
    let length = windows.first().map_or(1, Vec::len).min(WINDOW_TOKENS).min(tokens.max(2));
    let parts: Vec<&[u32]> = windows.iter().flat_map(|w| w.chunks_exact(length)).collect();
    let n = (tokens / length).clamp(1, parts.len().max(1));
    (0..n.min(parts.len())).map(|i| parts[i * parts.len() / n].to_vec()).collect()
}

/// How products with weights are computed.
#[derive(Clone, Copy)]
enum Products<'a> {
    /// By the processor, in integers.
    Integers,
    /// By a GPU in f32, and what it cannot by the processor, in f32 too.
    OnGpu(&'a Arc<GpuProducts>),
    /// By the processor, in f32: what the others are compared with.
    #[cfg(test)]
    Floats,
}

impl Products<'_> {
    /// A layer for a pass forward, or for one with `gradients` back.
    fn of_layer<'a>(self, layer: LayerWindows<'a>, gradients: bool) -> Result<LayerWindows<'a>, ReferenceError> {
        match self {
            Self::Integers => layer.in_integers(gradients),
            Self::OnGpu(products) => layer.on(products),
            #[cfg(test)]
            Self::Floats => Ok(layer),
        }
    }

    fn of_inputs(self, inputs: PerLayerInputs) -> Result<PerLayerInputs, ReferenceError> {
        match self {
            Self::Integers => inputs.in_integers(true),
            Self::OnGpu(products) => inputs.on(products),
            #[cfg(test)]
            Self::Floats => Ok(inputs),
        }
    }

    fn of_ends(self, ends: StreamEnds) -> Result<StreamEnds, ReferenceError> {
        match self {
            Self::Integers => ends.in_integers(true),
            Self::OnGpu(products) => ends.on(products),
            #[cfg(test)]
            Self::Floats => Ok(ends),
        }
    }

    fn of_head(self, head: OutputHead) -> Result<OutputHead, ReferenceError> {
        match self {
            Self::Integers => head.in_integers(),
            Self::OnGpu(products) => head.on(products),
            #[cfg(test)]
            Self::Floats => Ok(head),
        }
    }
}

/// Sensitivities by canonical name, measured on windows of one length. A tensor is read whole, or rows of the table of all layers'
/// numbers.
fn sensitivities<E: Into<BoxError>>(
    products: Products<'_>,
    spec: &DecoderSpec,
    windows: &[Vec<u32>],
    options: &Options,
    (read, rows): (impl Fn(&str) -> Result<Vec<f32>, E>, impl Fn(&[u32]) -> Result<Vec<f32>, E>),
    progress: &mut dyn FnMut(usize),
) -> Result<BTreeMap<String, Sensitivity>, CalibrationError> {
    let length = windows.first().map_or(0, Vec::len);
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress(done);
    };
    let load = |index, gradients| -> Result<LayerWindows<'_>, CalibrationError> {
        Ok(products.of_layer(LayerWindows::load(spec, index, length, &read)?, gradients)?)
    };

    let embedding = Embedding::load(spec, &read)?;
    let mut residual: Vec<Tensor> = windows.iter().map(|w| embedding.embed(std::slice::from_ref(w))).collect::<Result<_, _>>()?;
    drop(embedding);
    let per_layer = match PerLayerInputs::load(spec, &read)? {
        Some(inputs) => Some(PerLayer::new(spec, products.of_inputs(inputs)?, windows, &residual, rows)?),
        None => None,
    };
    let ends = StreamEnds::load(spec, &read)?.map(|ends| products.of_ends(ends)).transpose()?;
    let embedded = residual.clone();
    if let Some(ends) = &ends {
        residual = embedded.iter().map(|x| ends.expand(x, &mut Unseen)).collect::<Result<_, _>>()?;
    }
    let mut shared = BTreeMap::<usize, Vec<Vec<KeysValues>>>::new();
    let beside =
        |shared: &BTreeMap<usize, Vec<Vec<KeysValues>>>, index: usize, window: usize| -> Result<Beside, CalibrationError> {
            let from = spec.layers[index].attention().and_then(|a| a.kv_from);
            let kv = from.and_then(|from| shared.get(&from)).map(|kv| kv[window].clone()).unwrap_or_default();
            Ok(Beside { kv, numbers: per_layer.as_ref().map(|p| p.of_layer(window, index)).transpose()? })
        };
    let mut inputs = Kept::new(options.spill.as_deref())?;
    for index in 0..spec.num_layers() {
        let layer = load(index, false)?;
        let forward = |(window, x): (usize, &Tensor)| -> Result<_, CalibrationError> {
            Ok(layer.forward_beside(x, &beside(&shared, index, window)?, &mut Unseen)?)
        };
        let after = residual.par_iter().enumerate().map(forward).collect::<Result<Vec<_>, _>>()?;
        let (next, kv) = after.into_iter().unzip();
        if spec.shares_kv(index) {
            shared.insert(index, kv);
        }
        inputs.push(std::mem::replace(&mut residual, next))?;
        step();
    }

    let streams = ends.as_ref().map(|_| residual.clone()).unwrap_or_default();
    if let Some(ends) = &ends {
        residual = streams.iter().map(|x| ends.contract(x, &mut Unseen)).collect::<Result<_, _>>()?;
    }
    let mut measured = BTreeMap::new();
    let output = products.of_head(OutputHead::load(spec, &read)?)?;
    let mut head = Sums::default();
    let end = |(window, x): (usize, &Tensor)| {
        let label = |position: usize| uniform(options.seed, (window * length + position) as u64);
        at_the_end(&output, x, &|position, weights, total| draw(weights, total, label(position)))
    };
    let found = residual.par_iter().enumerate().map(end).collect::<Result<Vec<_>, _>>()?;
    let mut gradients = Vec::with_capacity(windows.len());
    for end in found {
        head.merge(&end.head);
        gradients.push(end.gradient);
    }
    drop((output, residual));
    measured.insert(if spec.tied_head { "embedding" } else { "head" }.to_owned(), head.sensitivity());
    step();

    if let Some(ends) = &ends {
        measured.extend(through(spec, &streams, &mut gradients, |x, probes| ends.contract(x, probes))?);
    }
    drop(streams);

    // Gradients of keys and values that several layers see, by their own layer; of the layers' numbers, the last layer's first.
    let mut of_shared = BTreeMap::<usize, Vec<Vec<KeysValues>>>::new();
    let mut of_numbers: Vec<Vec<Tensor>> = windows.iter().map(|_| Vec::new()).collect();
    for index in (0..spec.num_layers()).rev() {
        let layer = load(index, true)?;
        let inputs = inputs.pop()?;
        let of_kv = of_shared.remove(&index);
        let window = |(window, (x, gradient)): (usize, (&Tensor, &mut Tensor))| -> Result<_, CalibrationError> {
            let beside = beside(&shared, index, window)?;
            let of_kv = of_kv.as_ref().map_or(&[][..], |of_kv| &of_kv[window]);
            let back = backward(&layer, x, &beside, gradient, of_kv)?;
            let sums = back.sums()?;
            *gradient = back.gradient;
            Ok((sums, back.kv, back.numbers))
        };
        let mut sums = BTreeMap::<ProjectionKind, Sums>::new();
        let back = inputs.par_iter().zip(&mut gradients).enumerate().map(window).collect::<Result<Vec<_>, _>>()?;
        let mut kv = Vec::with_capacity(windows.len());
        for ((of_window, of_kv, numbers), all) in back.into_iter().zip(&mut of_numbers) {
            of_window.iter().for_each(|(kind, sum)| sums.entry(*kind).or_default().merge(sum));
            kv.push(of_kv);
            all.extend(numbers);
        }
        if let Some(from) = spec.layers[index].attention().and_then(|a| a.kv_from) {
            match of_shared.get_mut(&from) {
                Some(all) => add(all, &kv)?,
                None => drop(of_shared.insert(from, kv)),
            }
        }
        measured.extend(by_matrix(spec, index, sums));
        step();
    }
    if let Some(ends) = &ends {
        measured.extend(through(spec, &embedded, &mut gradients, |x, probes| ends.expand(x, probes))?);
    }
    if let Some(per_layer) = &per_layer {
        let mut sums = Sums::default();
        for (window, (gradient, of_numbers)) in gradients.iter_mut().zip(of_numbers).enumerate() {
            let back = per_layer.backward(window, of_numbers)?;
            *gradient = (&*gradient + &back.gradient)?;
            back.sums()?.values().for_each(|sum| sums.merge(sum));
        }
        measured.insert("per_layer_projection".into(), sums.sensitivity());
    }

    let mut lookup = Squares::default();
    for gradient in &gradients {
        lookup.add(gradient)?;
    }
    let lookup = lookup.mean();
    if spec.learned_positions {
        measured.insert("positions".into(), Sensitivity { lookup: lookup.clone(), ..Sensitivity::default() });
    }
    let by = spec.embedding_multiplier.powi(2);
    measured.entry("embedding".into()).or_default().lookup = lookup.into_iter().map(|x| x * by).collect();
    for (name, sensitivity) in &measured {
        for (part, values) in sensitivity.parts() {
            if values.iter().any(|x| !x.is_finite()) {
                return Err(CalibrationError::NotFinite { what: format!("{name}, {part}") });
            }
        }
    }
    Ok(measured)
}

/// Sums of squares by column.
#[derive(Default)]
struct Squares {
    sums: Vec<f64>,
    rows: usize,
}

impl Squares {
    /// Adds the rows of `x` `[rows, columns]`, and returns the sum of squares of each.
    fn add(&mut self, x: &Tensor) -> candle_core::Result<Vec<f64>> {
        let (rows, columns) = x.dims2()?;
        self.rows += rows;
        self.sums.resize(columns, 0.0);
        with_numbers(&x.contiguous()?, |values| {
            let of_row = |row: &[f32]| {
                let mut sum = 0.0;
                for (of_column, &x) in self.sums.iter_mut().zip(row) {
                    let square = f64::from(x).powi(2);
                    *of_column += square;
                    sum += square;
                }
                sum
            };
            values.chunks_exact(columns).map(of_row).collect()
        })
    }

    /// Adds to each column; the caller counts rows.
    fn add_row(&mut self, squares: impl Iterator<Item = f64>, columns: usize) {
        self.sums.resize(columns, 0.0);
        self.sums.iter_mut().zip(squares).for_each(|(sum, x)| *sum += x);
    }

    fn merge(&mut self, other: &Self) {
        self.add_row(other.sums.iter().copied(), other.sums.len());
        self.rows += other.rows;
    }

    fn mean(self) -> Vec<f32> {
        self.sums.into_iter().map(|sum| (sum / self.rows as f64) as f32).collect()
    }
}

/// What is summed up over tokens for one matrix.
#[derive(Default)]
struct Sums {
    input: Squares,
    output: Squares,
    /// Of each token's `|gradient|² · |input|²`.
    joint: f64,
}

impl Sums {
    fn merge(&mut self, other: &Self) {
        self.input.merge(&other.input);
        self.output.merge(&other.output);
        self.joint += other.joint;
    }

    fn sensitivity(self) -> Sensitivity {
        let mean_of = |squares: &Squares| squares.sums.iter().sum::<f64>() / squares.rows as f64;
        let apart = mean_of(&self.input) * mean_of(&self.output);
        let coupling = if apart > 0.0 { (self.joint / self.input.rows as f64 / apart) as f32 } else { 1.0 };
        Sensitivity { input: self.input.mean(), output: self.output.mean(), coupling, lookup: Vec::new() }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What one window says about the head, and the gradient of its loss.
struct End {
    /// Outputs in expectation over labels, which needs no drawing.
    head: Sums,
    /// With respect to the residual stream after the last layer.
    gradient: Tensor,
}

/// Runs final norm and head on the residual stream `x` of one window, and back. `draw` chooses a position's label, given
/// `e^(logit − largest)` of all ids and their sum.
fn at_the_end(output: &OutputHead, x: &Tensor, draw: &dyn Fn(usize, &[f32], f64) -> usize) -> Result<End, CalibrationError> {
    let x = Var::from_tensor(&x.detach())?;
    let normed = output.normed(&x)?;
    let mut head = Sums::default();
    let energies = head.input.add(&normed)?;
    let (detached, positions) = (normed.detach(), normed.dim(0)?);
    let (mut blocks, mut variances) = (Vec::new(), Vec::new());
    for first in (0..positions).step_by(LOGIT_ROWS) {
        let rows = LOGIT_ROWS.min(positions - first);
        let logits = output.logits(&detached.narrow(0, first, rows)?)?;
        let vocab_size = logits.dim(1)?;
        let mut gradients = logits.flatten_all()?.to_vec1::<f32>()?;
        drop(logits);
        variances.resize(vocab_size, 0.0);
        for (row, logits) in gradients.chunks_exact_mut(vocab_size).enumerate() {
            let slopes = output.slopes(logits);
            if !exponentials(logits).is_finite() {
                return Err(CalibrationError::NotFinite { what: "logits".into() });
            }
            let total: f64 = logits.iter().map(|&w| f64::from(w)).sum();
            let label = draw(first + row, logits, total);
            variances.iter_mut().zip(&*logits).for_each(|(variance, &w)| {
                let p = f64::from(w) / total;
                *variance = p * (1.0 - p);
            });
            logits.iter_mut().for_each(|w| *w = (f64::from(*w) / total) as f32);
            logits[label] -= 1.0;
            if let Some(slopes) = &slopes {
                variances.iter_mut().zip(slopes).for_each(|(variance, slope)| *variance *= f64::from(*slope).powi(2));
                logits.iter_mut().zip(slopes).for_each(|(g, slope)| *g *= slope);
            }
            head.joint += energies[first + row] * variances.iter().sum::<f64>();
            head.output.add_row(variances.iter().copied(), vocab_size);
        }
        head.output.rows += rows;
        blocks.push(output.head_gradient(&Tensor::from_vec(gradients, (rows, vocab_size), &Device::Cpu)?)?);
    }
    let gradient = gradient_of(&normed, &Tensor::cat(&blocks, 0)?, &x)?;
    Ok(End { head, gradient })
}

/// The id at `uniform` of `[0, 1)` in the distribution that is proportional to `weights`.
fn draw(weights: &[f32], total: f64, uniform: f32) -> usize {
    let (target, mut sum) = (f64::from(uniform) * total, 0.0);
    let chosen = weights.iter().position(|&w| {
        sum += f64::from(w);
        sum > target
    });
    chosen.unwrap_or(weights.len().saturating_sub(1))
}

/// Adds gradients of keys and values, window by window.
fn add(all: &mut [Vec<KeysValues>], more: &[Vec<KeysValues>]) -> candle_core::Result<()> {
    for ((keys, values), (k, v)) in all.iter_mut().flatten().zip(more.iter().flatten()) {
        (*keys, *values) = ((&*keys + k)?, (&*values + v)?);
    }
    Ok(())
}

/// Runs `pass`, which is no layer's, on `x` of each window, and back from its gradient, whose place that of `x` takes. The sensitivities
/// of its matrices.
fn through(
    spec: &DecoderSpec,
    x: &[Tensor],
    gradients: &mut [Tensor],
    pass: impl Fn(&Tensor, &mut Probes) -> Result<Tensor, ReferenceError>,
) -> Result<Vec<(String, Sensitivity)>, CalibrationError> {
    let mut sums = BTreeMap::<ProjectionKind, Sums>::new();
    for (x, gradient) in x.iter().zip(gradients) {
        let (x, mut probes) = (Var::from_tensor(&x.detach())?, Probes::default());
        let y = pass(&x, &mut probes)?;
        let back = probes.back(gradient_of(&y, gradient, &x)?);
        back.sums()?.iter().for_each(|(kind, sum)| sums.entry(*kind).or_default().merge(sum));
        *gradient = back.gradient;
    }
    let named = |(kind, sums): (ProjectionKind, Sums)| (kind.name(&spec.layers[0], 0), sums.sensitivity());
    Ok(sums.into_iter().map(named).collect())
}

/// What all layers get beside the residual stream.
struct PerLayer {
    size: usize,
    inputs: PerLayerInputs,
    /// By window.
    embedded: Vec<Tensor>,
    rows: Vec<Tensor>,
    numbers: Vec<Tensor>,
}

impl PerLayer {
    /// Of `windows` whose embeddings are `embedded`; `read` gives rows of the table.
    fn new<E: Into<BoxError>>(
        spec: &DecoderSpec,
        inputs: PerLayerInputs,
        windows: &[Vec<u32>],
        embedded: &[Tensor],
        read: impl Fn(&[u32]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, CalibrationError> {
        let size = spec.per_layer_embedding.map_or(1, |p| p.size);
        let table = |source: E| ReferenceError::Read { tensor: PerLayerEmbedding::TABLE.into(), source: source.into() };
        let rows = |ids: &Vec<u32>| -> Result<Tensor, CalibrationError> {
            let shape = (ids.len(), spec.num_layers() * size);
            Ok(Tensor::from_vec(read(ids).map_err(table)?, shape, &Device::Cpu)?)
        };
        let rows = windows.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
        let numbers = |(x, rows): (&Tensor, &Tensor)| inputs.forward(x, rows, &mut Unseen);
        let numbers = embedded.iter().zip(&rows).map(numbers).collect::<Result<_, _>>()?;
        Ok(Self { size, inputs, embedded: embedded.to_vec(), rows, numbers })
    }

    /// `[length, size]`.
    fn of_layer(&self, window: usize, index: usize) -> candle_core::Result<Tensor> {
        self.numbers[window].narrow(1, index * self.size, self.size)?.contiguous()
    }

    /// Back from the gradients of the layers' numbers, the last layer's first, to the embeddings.
    fn backward(&self, window: usize, mut of_numbers: Vec<Tensor>) -> Result<Back, CalibrationError> {
        of_numbers.reverse();
        let x = Var::from_tensor(&self.embedded[window].detach())?;
        let mut probes = Probes::default();
        let y = self.inputs.forward(&x, &self.rows[window], &mut probes)?;
        let gradient = gradient_of(&y, &Tensor::cat(&of_numbers, 1)?, &x)?;
        Ok(probes.back(gradient))
    }
}

/// Goes back from `y`, whose gradient is given, to `x`.
fn gradient_of(y: &Tensor, gradient: &Tensor, x: &Var) -> candle_core::Result<Tensor> {
    let gradients = start(y, gradient)?.backward()?;
    of(&gradients, x)
}

/// Where gradients begin: at `y`, whose gradient is given.
fn start(y: &Tensor, gradient: &Tensor) -> candle_core::Result<Tensor> {
    y.apply_op1(Start { gradient: gradient.clone() })
}

fn of(gradients: &GradStore, x: &Var) -> candle_core::Result<Tensor> {
    gradients.get(x).map_or_else(|| x.zeros_like(), |gradient| Ok(gradient.clone()))
}

/// An unknown number of which only the gradient is known.
struct Start {
    gradient: Tensor,
}

impl CustomOp1 for Start {
    fn name(&self) -> &'static str {
        "start of gradients"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}

/// What one window says about one layer.
struct Back {
    /// With respect to the layer's input.
    gradient: Tensor,
    /// With respect to the keys and values of another layer that it sees.
    kv: Vec<KeysValues>,
    /// With respect to the tokens' numbers for it.
    numbers: Option<Tensor>,
    inputs: BTreeMap<ProjectionKind, (Squares, Vec<f64>)>,
    /// With respect to each matrix's output, or part of its rows.
    outputs: Vec<(ProjectionKind, Tensor)>,
}

/// Runs a layer on one window's residual stream `x`, and back from the gradient of its output, and from those of its keys and
/// values that other layers have found.
fn backward(
    layer: &LayerWindows,
    x: &Tensor,
    beside: &Beside,
    gradient: &Tensor,
    of_kv: &[KeysValues],
) -> Result<Back, CalibrationError> {
    let var = |x: &Tensor| Var::from_tensor(&x.detach());
    let (x, numbers) = (var(x)?, beside.numbers.as_ref().map(var).transpose()?);
    let kv = beside.kv.iter().map(|(k, v)| Ok((var(k)?, var(v)?))).collect::<candle_core::Result<Vec<_>>>()?;
    let beside = Beside {
        kv: kv.iter().map(|(k, v)| (k.as_tensor().clone(), v.as_tensor().clone())).collect(),
        numbers: numbers.as_ref().map(|n| n.as_tensor().clone()),
    };
    let mut probes = Probes::default();
    let (y, made) = layer.forward_beside(&x, &beside, &mut probes)?;
    let mut end = start(&y, gradient)?;
    for ((keys, values), (k, v)) in made.iter().zip(of_kv) {
        end = ((end + start(keys, k)?)? + start(values, v)?)?;
    }
    let gradients = end.backward()?;
    let back = probes.back(of(&gradients, &x)?);
    let kv = kv.iter().map(|(k, v)| Ok((of(&gradients, k)?, of(&gradients, v)?)));
    Ok(Back { kv: kv.collect::<candle_core::Result<_>>()?, numbers: numbers.map(|n| of(&gradients, &n)).transpose()?, ..back })
}

impl Back {
    /// Sums by kind.
    fn sums(&self) -> Result<BTreeMap<ProjectionKind, Sums>, CalibrationError> {
        let (mut sums, mut energies) = (BTreeMap::<ProjectionKind, Sums>::new(), BTreeMap::<ProjectionKind, Vec<f64>>::new());
        for (kind, gradient) in &self.outputs {
            let of_rows = sums.entry(*kind).or_default().output.add(gradient)?;
            energies.entry(*kind).or_default().extend(of_rows);
        }
        for (kind, (input, of_rows)) in &self.inputs {
            let sum = sums.entry(*kind).or_default();
            sum.input.merge(input);
            sum.joint = energies.get(kind).map_or(0.0, |outputs| dot(of_rows, outputs));
        }
        Ok(sums)
    }
}

/// Sums of a layer's kinds as sensitivities of its matrices. Those of experts are one: its rows' gradients are means over all tokens, of
/// which those that reach no row have none, and its inputs are means over the tokens that reach an expert.
fn by_matrix(spec: &DecoderSpec, layer: usize, sums: BTreeMap<ProjectionKind, Sums>) -> Vec<(String, Sensitivity)> {
    let of_layer = &spec.layers[layer];
    let name = |kind: ProjectionKind| format!("layers.{layer}.{}", kind.matrix(of_layer));
    let tokens = sums.get(&ProjectionKind::MixerInput).map_or(0, |sums| sums.input.rows);
    let (mut measured, mut stacks) = (Vec::new(), BTreeMap::<String, Vec<(usize, Sums)>>::new());
    for (kind, sums) in sums {
        match kind.expert() {
            Some(expert) => stacks.entry(name(kind)).or_default().push((expert, sums)),
            None => measured.push((name(kind), sums.sensitivity())),
        }
    }
    for (name, experts) in stacks {
        let mut all = Sums::default();
        let rows = experts.first().map_or(0, |(_, sums)| sums.output.sums.len());
        all.output = Squares { sums: vec![0.0; rows * of_layer.num_experts()], rows: tokens };
        let mut pairs = 0;
        for (expert, sums) in experts {
            all.output.sums[expert * rows..(expert + 1) * rows].copy_from_slice(&sums.output.sums);
            all.input.merge(&sums.input);
            pairs += sums.input.rows;
            all.joint += sums.joint;
        }
        // A mean over all tokens, as that of the outputs.
        all.joint *= pairs as f64 / tokens.max(1) as f64;
        measured.push((name, all.sensitivity()));
    }
    measured
}

/// Sees inputs on the way forward, and the gradients of outputs on the way back.
#[derive(Default)]
struct Probes {
    inputs: BTreeMap<ProjectionKind, (Squares, Vec<f64>)>,
    outputs: Vec<(ProjectionKind, Arc<OnceLock<Tensor>>)>,
}

impl Probes {
    /// Inputs and gradients that were seen, once these have come back.
    fn back(self, gradient: Tensor) -> Back {
        let outputs = self.outputs.into_iter().filter_map(|(kind, seen)| Some((kind, seen.get()?.clone())));
        Back { gradient, kv: Vec::new(), numbers: None, outputs: outputs.collect(), inputs: self.inputs }
    }
}

/// Changes nothing, and keeps the gradient that comes back.
#[derive(Default)]
struct Probe {
    gradient: Arc<OnceLock<Tensor>>,
}

impl CustomOp1 for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(numbers(x, layout)?.to_vec()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // Asked once for each output: gradients of one that is used twice are summed before.
        let _ = self.gradient.set(gradient.clone());
        Ok(Some(gradient.clone()))
    }
}

impl Observe for Probes {
    fn replace(&mut self, kind: ProjectionKind, _: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let mut squares = Squares::default();
        let of_rows = squares.add(input)?;
        self.inputs.insert(kind, (squares, of_rows));
        Ok(None)
    }

    fn output(&mut self, kind: ProjectionKind, output: Tensor) -> candle_core::Result<Tensor> {
        let probe = Probe::default();
        self.outputs.push((kind, probe.gradient.clone()));
        output.contiguous()?.apply_op1(probe)
    }
}

/// Looks at nothing.
struct Unseen;

impl Observe for Unseen {
    fn replace(&mut self, _: ProjectionKind, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
