//! Calibrated quantization of a whole decoder, layer by layer, before anything is written to shards.
//!
//! Two streams of the calibration windows go through the layers: one through the original weights, one through the
//! weights as they are stored. At each matrix the second stream's inputs say what an error in a weight costs, and the
//! difference between the streams what earlier errors have changed, which the matrix corrects in part. Only one layer's weights and
//! activations exist at a time. All of this happens on the processor, or on a GPU (`on_gpu/`), which the processor follows
//! where it fails.
//!
//! Quantized matrices go to disk under `OUT.partial/matrices`. From there the pipeline takes them, and a resumed conversion
//! goes on.

pub(super) mod correction;
mod experts;
mod matrix;
mod on_gpu;
mod side;
mod streams;

use super::pipeline::is_staged;
use super::staged::Staged;
use super::{ConvertError, Options, Plan, Progress, cost};
use crate::accelerator::Accelerator;
use crate::architecture::ArchitectureError;
use crate::calibrate::Calibration;
use crate::kept::Kept;
use crate::quantize::Equalized;
use crate::reference::{Embedding, FinalNorm, LayerWindows, Observe, ProjectionKind, Routing, StreamEnds, with_numbers};
use crate::timings::{Step, Timings};
use crate::zeros::give_back;
use candle_core::{Device, Tensor};
use correction::{Original, keeps_outputs};
use experts::{Stack, with_enough_tokens};
use haikuq_format::DecoderSpec;
use haikuq_format::manifest::TensorEntry;
use haikuq_format::spec::TensorClass;
use on_gpu::{OnGpu, Room, Stop};
use side::{Side, Stream};
use std::collections::BTreeMap;
use std::path::Path;
use streams::{Activations, Streams};

/// Whether a GPU's memory has room for a decoder's layers, a window at a time at least.
pub(super) fn has_room(gpu: &Accelerator, spec: &DecoderSpec, window_tokens: usize) -> bool {
    let room = |layer| Room::for_layer(gpu, spec, layer, 1, window_tokens);
    (0..spec.num_layers()).any(|layer| matches!(room(layer), Room::All | Room::Windows(_)))
}

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
    let spill = options.spill.as_deref();
    let run = Run { weights, plan, calibration, staged, spill, timings, progress };
    let (tokens, width) = (calibration.windows.iter().map(Vec::len).sum::<usize>(), run.spec().stream_size());
    let mut streams = Streams::new(staged.folder().into(), tokens * width, options.save_interval);
    let start = run.start(&mut streams)?;
    match &options.accelerator {
        None => run.on_processor(start, &mut streams)?,
        Some(gpu) => match (OnGpu { run: &run, gpu }).go(start, &mut streams) {
            Ok(()) => {}
            Err(Stop::Conversion(error)) => return Err(error),
            Err(Stop::Gpu(error)) => {
                let name = &gpu.description().name;
                progress(Progress::Repaired(&format!("{name} cannot go on, so the processor does: {error}")));
                // Matrices that are finished stay so.
                let start = run.start(&mut streams)?;
                run.on_processor(start, &mut streams)?;
            }
        },
    }
    // Tables that are only looked up in: each row's error matters by itself.
    for tensor in plan.tensors.iter().filter(|t| t.class == TensorClass::Embedding && is_staged(t) && t.name != run.head()) {
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
            let in_front = |t: &TensorEntry| t.name.starts_with("altup_in.");
            let before = |t: &&TensorEntry| in_front(t) || (0..found.layer).any(|layer| t.name.starts_with(&name(layer)));
            self.matrices().filter(before).for_each(|t| (self.progress)(Progress::Matrix { name: &t.name, cost: None }));
            return Ok(found);
        }
        let embedded = self.embedded()?;
        let Some(ends) = self.ends()? else {
            let embedded = with_numbers(&embedded, <[f32]>::to_vec)?;
            return Ok(Activations { layer: 0, original: embedded.clone(), stored: embedded });
        };
        let both = [Kept::of(self.spill, embedded.clone())?, Kept::of(self.spill, embedded)?];
        let [original, stored] = self.through(0, both, |x, _, observer| Ok(ends.expand(x, observer)?))?;
        let numbers = |kept: Kept| Ok::<_, ConvertError>(with_numbers(&kept.take()?, <[f32]>::to_vec)?);
        Ok(Activations { layer: 0, original: numbers(original)?, stored: numbers(stored)? })
    }

    /// What goes into the first layer.
    fn embedded(&self) -> Result<Tensor, ConvertError> {
        self.timings.measure(Step::Forward, "", 0.0, || {
            Ok(Embedding::load(self.spec(), |name| self.read(name))?.embed(&self.calibration.windows)?)
        })
    }

    /// What makes several residual streams of one, if there are such.
    fn ends(&self) -> Result<Option<StreamEnds>, ConvertError> {
        let ends = StreamEnds::load(self.spec(), |name| self.read(name))?;
        Ok(ends.map(|ends| ends.in_integers(false)).transpose()?)
    }

    fn matrices(&self) -> impl Iterator<Item = &TensorEntry> {
        self.plan.tensors.iter().filter(|t| t.class.is_quantized())
    }

    /// A stream as a tensor.
    fn tensor_of(&self, numbers: Vec<f32>) -> candle_core::Result<Tensor> {
        let width = self.spec().stream_size();
        let rows = numbers.len() / width;
        Tensor::from_vec(numbers, (rows, width), &Device::Cpu)
    }

    /// All layers from `start` on and the head, on the processor.
    fn on_processor(&self, start: Activations, streams: &mut Streams) -> Result<(), ConvertError> {
        let (mut original, mut stored) = (self.keep(start.original)?, self.keep(start.stored)?);
        let mut side = Side::new(self)?;
        for layer in start.layer..self.spec().num_layers() {
            if layer > start.layer && streams.is_due() && side.is_made_anew() {
                let (o, s) = (original.take()?, stored.take()?);
                let numbers = |t: &Tensor| with_numbers(t, <[f32]>::to_vec);
                streams.keep(&Activations { layer, original: numbers(&o)?, stored: numbers(&s)? })?;
                (original, stored) = (Kept::of(self.spill, o)?, Kept::of(self.spill, s)?);
            }
            (original, stored) = self.layer_on_processor(layer, original, stored, &mut side)?;
        }
        self.head_on_processor(original, stored)
    }

    /// The head, from both streams after the last layer.
    fn head_on_processor(&self, original: Kept, stored: Kept) -> Result<(), ConvertError> {
        give_back();
        let [original, stored] = match self.ends()? {
            Some(ends) => self.through(0, [original, stored], |x, _, observer| Ok(ends.contract(x, observer)?))?,
            None => [original, stored],
        };
        let norm = FinalNorm::load(self.spec(), |name| self.read(name))?;
        let original = Kept::of(self.spill, norm.forward(&original.take()?)?)?;
        let stored = norm.forward(&stored.take()?)?;
        self.matrix(self.head(), &self.read(self.head())?, &stored, Some(Original::Inputs(original)), self.lookup())?;
        Ok(())
    }

    /// A stream that waits.
    fn keep(&self, numbers: Vec<f32>) -> Result<Kept, ConvertError> {
        Ok(Kept::of(self.spill, self.tensor_of(numbers)?)?)
    }

    /// Both streams after a layer, whose matrices are quantized on the way.
    fn layer_on_processor(
        &self,
        index: usize,
        original: Kept,
        stored: Kept,
        side: &mut Side,
    ) -> Result<(Kept, Kept), ConvertError> {
        let (spec, length) = (self.spec(), self.length());
        let layer = LayerWindows::load(spec, index, length, |name| self.read(name))?.in_integers(false)?;
        let flop = cost::layer(&spec.layers[index], spec.hidden_size, self.calibration.windows.len(), length);
        let [original, stored] = self.through(index, [original, stored], |x, stream, observer| {
            let beside = side.of(self, index, stream)?;
            let forward = || layer.forward_beside(x, &beside, observer);
            let (after, kv) = self.timings.measure(Step::Forward, "", flop, forward)?;
            side.keep(spec, index, stream, kv);
            Ok(after)
        })?;
        Ok((original, stored))
    }

    /// Both streams after `pass`, layer `index` or what is no layer's, whose matrices are quantized on the way.
    fn through(
        &self,
        index: usize,
        [original, stored]: [Kept; 2],
        mut pass: impl FnMut(&Tensor, Stream, &mut dyn Observe) -> Result<Tensor, ConvertError>,
    ) -> Result<[Kept; 2], ConvertError> {
        let tokens = self.calibration.windows.iter().map(Vec::len).sum();
        let mut recorder = Recorder { spill: self.spill, tokens, originals: BTreeMap::new(), routing: None };
        let mut kept = |x: Kept, stream: Stream, observer: &mut dyn Observe| -> Result<Kept, ConvertError> {
            let x = x.take()?;
            let after = pass(&x, stream, observer)?;
            drop(x);
            Ok(Kept::of(self.spill, after)?)
        };
        let original = kept(original, Stream::Original, &mut recorder)?;
        let Recorder { originals, routing, .. } = recorder;
        let mut quantizer = Quantizer { run: self, layer: index, originals, routing, stacks: BTreeMap::new(), failed: None };
        let result = kept(stored, Stream::Stored, &mut quantizer);
        // The cause goes first: what candle hands on of it is text.
        if let Some(error) = quantizer.failed {
            return Err(error);
        }
        let stored = result?;
        quantizer.stacks.into_values().try_for_each(|stack| self.finish_stack(stack))?;
        Ok([original, stored])
    }
}

/// What all matrices share.
struct Run<'a> {
    weights: &'a Equalized<'a>,
    plan: &'a Plan,
    calibration: &'a Calibration,
    staged: &'a Staged,
    /// Where activations wait that are not needed yet, in place of memory.
    spill: Option<&'a Path>,
    timings: &'a Timings,
    progress: &'a (dyn Fn(Progress) + Sync),
}

/// Keeps what correcting a layer's matrices takes.
struct Recorder<'a> {
    spill: Option<&'a Path>,
    /// Of all windows.
    tokens: usize,
    originals: BTreeMap<ProjectionKind, Original>,
    routing: Option<Routing>,
}

impl Observe for Recorder<'_> {
    fn replace(&mut self, kind: ProjectionKind, weights: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let (rows, columns) = weights.dims2()?;
        let original = match keeps_outputs(rows, columns) {
            true => Kept::new(self.spill).map(Original::Outputs),
            false => Kept::of(self.spill, input.clone()).map(Original::Inputs),
        };
        self.originals.insert(kind, original.map_err(candle_core::Error::wrap)?);
        Ok(None)
    }

    fn route(&mut self, routing: Routing) -> candle_core::Result<Routing> {
        let routing = with_enough_tokens(routing, self.tokens);
        self.routing = Some(routing.clone());
        Ok(routing)
    }

    fn output(&mut self, kind: ProjectionKind, output: Tensor) -> candle_core::Result<Tensor> {
        if let Some(Original::Outputs(kept)) = self.originals.get_mut(&kind) {
            kept.push(vec![output.clone()]).map_err(candle_core::Error::wrap)?;
        }
        Ok(output)
    }
}

/// Quantizes a layer's matrices as the stream of stored weights reaches them.
struct Quantizer<'a> {
    run: &'a Run<'a>,
    layer: usize,
    originals: BTreeMap<ProjectionKind, Original>,
    /// Where the original stream's tokens went.
    routing: Option<Routing>,
    /// Matrices of experts, by name.
    stacks: BTreeMap<String, Stack>,
    failed: Option<ConvertError>,
}

impl Quantizer<'_> {
    fn quantize(&mut self, kind: ProjectionKind, name: &str, weights: &[f32], input: &Tensor) -> Result<Vec<f32>, ConvertError> {
        let original = self.originals.remove(&kind);
        let Some(expert) = kind.expert() else { return self.run.matrix(name, weights, input, original, None) };
        if !self.stacks.contains_key(name) {
            let experts = self.run.spec().layers[self.layer].num_experts();
            self.stacks.insert(name.into(), self.run.stack(name, experts)?);
        }
        let stack = self.stacks.get_mut(name).ok_or_else(|| ConvertError::NotPlanned { tensor: name.into() })?;
        self.run.expert(stack, expert, weights, input, original)
    }
}

impl Observe for Quantizer<'_> {
    fn replace(&mut self, kind: ProjectionKind, weights: &Tensor, input: &Tensor) -> candle_core::Result<Option<Vec<f32>>> {
        let name = kind.name(&self.run.spec().layers[self.layer], self.layer);
        match with_numbers(weights, |weights| self.quantize(kind, &name, weights, input))? {
            Ok(values) => Ok(Some(values)),
            Err(error) => {
                let text = error.to_string();
                self.failed = Some(error);
                Err(candle_core::Error::Msg(text))
            }
        }
    }

    fn route(&mut self, routing: Routing) -> candle_core::Result<Routing> {
        Ok(self.routing.take().unwrap_or(routing))
    }
}

#[cfg(test)]
mod tests;
