//! The dispatches of a step, built once for each number of tokens.
//!
//! A decode layer is six dispatches (seven where attention is split over the keys): norm and qkv; rope and cache;
//! attention; output projection and residual; norm, gate, up and activation; down projection and residual. Prefill has
//! two more, since its matrix products read normalized activations many times.

use super::cache::KvCache;
use super::weights::Weights;
use super::{Buffers, DecoderError, MAX_BATCH};
use crate::gpu::{Binding, Dispatch, Gpu, GpuError};
use crate::kernels::attention::{AttentionBuffers, AttentionShape, Scores};
use crate::kernels::attention_decode::{AttentionDecode, splits};
use crate::kernels::attention_prefill::AttentionPrefill;
use crate::kernels::embed::Embed;
use crate::kernels::matmul::Matmul;
use crate::kernels::matvec::{Matvec, Norm};
use crate::kernels::projection::{Output, Projection};
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope_cache::{QkNormalization, Rope, RopeCache};
use crate::kernels::weights::GpuMatrix;
use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use std::collections::HashMap;

/// Tokens of a prefill graph are a multiple of this; the last chunk of a prompt is filled up with idle tokens, so that a
/// handful of graphs serves prompts of every length.
const PREFILL_STEP: usize = 32;

/// Which graph a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Matrix-vector kernels: one token each of several sequences, or one of one.
    Few(usize),
    /// Matrix-matrix kernels: many consecutive tokens of one sequence.
    Many(usize),
}

impl Step {
    /// Consecutive tokens of one sequence. A handful would go faster through the matrix-vector kernels, once these are
    /// compiled for their number; the second turn of a chat would begin with seconds of compiling.
    pub(super) fn of_prefill(tokens: usize) -> Self {
        if tokens == 1 { Self::Few(1) } else { Self::Many(tokens.next_multiple_of(PREFILL_STEP)) }
    }

    /// One token of each of several sequences.
    pub(super) fn of_decode(tokens: usize) -> Self {
        Self::Few(tokens)
    }

    /// Tokens of the step, idle ones included.
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Few(n) | Self::Many(n) => n,
        }
    }
}

/// Graphs that were built so far.
#[derive(Default)]
pub(super) struct Graphs {
    bodies: HashMap<Step, Vec<Dispatch>>,
    heads: HashMap<usize, Vec<Dispatch>>,
    samples: HashMap<usize, Vec<Dispatch>>,
}

impl Graphs {
    /// From token ids to the last layer's residual stream.
    pub(super) fn body(&mut self, context: &Context<'_>, step: Step) -> Result<&[Dispatch], DecoderError> {
        cached(&mut self.bodies, step, || context.body(step))
    }

    /// From rows of the residual stream to logits.
    pub(super) fn head(&mut self, context: &Context<'_>, rows: usize) -> Result<&[Dispatch], DecoderError> {
        cached(&mut self.heads, rows, || context.head(rows))
    }

    /// From logits to chosen tokens.
    pub(super) fn sample(
        &mut self,
        rows: usize,
        bind: impl FnOnce() -> Result<Vec<Dispatch>, GpuError>,
    ) -> Result<&[Dispatch], DecoderError> {
        cached(&mut self.samples, rows, bind)
    }

    /// The cache's pools were replaced.
    pub(super) fn forget_bodies(&mut self) {
        self.bodies.clear();
    }
}

fn cached<K: Eq + std::hash::Hash>(
    graphs: &mut HashMap<K, Vec<Dispatch>>,
    key: K,
    build: impl FnOnce() -> Result<Vec<Dispatch>, GpuError>,
) -> Result<&[Dispatch], DecoderError> {
    Ok(match graphs.entry(key) {
        std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
        std::collections::hash_map::Entry::Vacant(e) => e.insert(build()?),
    })
}

/// The shape of attention, the same in every layer.
pub(super) fn attention_shape(spec: &DecoderSpec, cache_f16: bool, max_pages: usize) -> AttentionShape {
    AttentionShape {
        num_heads: spec.num_heads as u32,
        num_kv_heads: spec.num_kv_heads as u32,
        head_dim: spec.head_dim as u32,
        max_pages: max_pages as u32,
        cache_f16,
    }
}

/// Workgroups that share a sequence's keys. It depends on the device and the model alone, so that a sequence's sums are
/// rounded alike in every step.
fn attention_splits(gpu: &Gpu, shape: &AttentionShape, window: Option<u32>) -> u32 {
    // A processor has too few cores for splits to pay.
    if gpu.is_software() { 1 } else { splits(shape, window) }
}

/// Bytes for the partial results of split attention in the largest decode step.
pub(super) fn partials_bytes(gpu: &Gpu, shape: &AttentionShape) -> u64 {
    AttentionDecode::scratch_bytes(MAX_BATCH as u32, shape, attention_splits(gpu, shape, None))
}

/// What graphs are built from.
pub(super) struct Context<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) spec: &'a DecoderSpec,
    pub(super) weights: &'a Weights,
    pub(super) cache: &'a KvCache,
    pub(super) buffers: &'a Buffers,
}

impl Context<'_> {
    fn body(&self, step: Step) -> Result<Vec<Dispatch>, GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let embed = Embed {
            matrix: self.weights.get("embedding"),
            tokens: (&b.tokens).into(),
            output: (&b.hidden).into(),
            output_stride: padded(spec.hidden_size),
            token_count: step.tokens(),
            multiplier: spec.embedding_multiplier,
        };
        let mut graph = embed.bind(self.gpu)?;
        for layer in 0..spec.num_layers() {
            self.attention_block(layer, step, &mut graph)?;
            self.mlp_block(layer, step, &mut graph)?;
        }
        Ok(graph)
    }

    fn attention_block(&self, layer: usize, step: Step, graph: &mut Vec<Dispatch>) -> Result<(), GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let name = |part: &str| format!("layers.{layer}.{part}");
        self.normed_projection(step, &name("attention_norm"), &name("qkv"), &b.qkv, Output::Store, graph)?;

        let (shape, num_tokens) =
            (attention_shape(spec, self.cache.precision.is_f16(), self.cache.max_pages), step.tokens() as u32);
        let (keys, values) = &self.cache.pools[layer];
        let rope = spec.layers[layer].rope.map(|i| Rope {
            inv_freq: (&b.inv_freqs[i]).into(),
            rotated: spec.ropes[i].inv_freq.len() as u32,
            factor: spec.ropes[i].factor,
        });
        let qk_parameters = b.qk_norms.get(layer);
        let qk_norm = spec.qk_norm.zip(qk_parameters).map(|(kind, buffer)| QkNormalization {
            kind,
            norm: spec.norm,
            parameters: buffer.into(),
        });
        let rope_cache = RopeCache {
            num_tokens,
            shape,
            rope,
            qk_norm,
            qkv: (&b.qkv).into(),
            tokens: (&b.tokens).into(),
            pages: (&self.cache.table).into(),
            q: (&b.query).into(),
            keys: keys.into(),
            values: values.into(),
        };
        graph.push(rope_cache.bind(self.gpu)?);

        let window = spec.layers[layer].window.map(|w| w as u32);
        let scores = Scores { scale: spec.attention_scale, window, softcap: spec.attention_softcap };
        let buffers = AttentionBuffers {
            q: (&b.query).into(),
            tokens: (&b.tokens).into(),
            pages: (&self.cache.table).into(),
            keys: keys.into(),
            values: values.into(),
            output: (&b.attention).into(),
        };
        match step {
            Step::Few(_) => {
                let (splits, scratch) = (attention_splits(self.gpu, &shape, window), (&b.partials).into());
                graph.extend(AttentionDecode { num_tokens, shape, scores, splits, buffers, scratch }.bind(self.gpu)?);
            }
            Step::Many(_) => graph.push(AttentionPrefill { num_tokens, shape, scores, buffers }.bind(self.gpu)?),
        }

        let residual = Output::Residual { multiplier: spec.residual_multiplier };
        self.projection(step, None, &name("attention_output"), &b.attention, &b.hidden, residual, graph)
    }

    fn mlp_block(&self, layer: usize, step: Step, graph: &mut Vec<Dispatch>) -> Result<(), GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let name = |part: &str| format!("layers.{layer}.{part}");
        let (up, output) = if spec.gated_mlp {
            (name("gate_up"), Output::Glu(spec.activation))
        } else {
            (name("up"), Output::Activate(spec.activation))
        };
        self.normed_projection(step, &name("mlp_norm"), &up, &b.mlp, output, graph)?;
        let residual = Output::Residual { multiplier: spec.residual_multiplier };
        self.projection(step, None, &name("down"), &b.mlp, &b.hidden, residual, graph)
    }

    fn head(&self, rows: usize) -> Result<Vec<Dispatch>, GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let matrix = if spec.tied_head { "embedding" } else { "head" };
        let output = Output::Logits { multiplier: spec.logit_multiplier, softcap: spec.logit_softcap };
        let few = rows <= MAX_BATCH;
        let projection = Projection {
            matrix: self.weights.get(matrix),
            input: if few { &b.head_input } else { &b.head_normed }.into(),
            input_stride: padded(spec.hidden_size),
            output: (&b.logits).into(),
            output_stride: padded(spec.vocab_size),
            tokens: rows,
            bias: self.bias("head"),
            mode: output,
        };
        if few {
            return Matvec { projection, norm: Some(self.fused_norm("final_norm")) }.bind(self.gpu);
        }
        let mut graph = vec![self.norm(rows, "final_norm", &b.head_input, &b.head_normed)?];
        graph.extend(Matmul { projection }.bind(self.gpu)?);
        Ok(graph)
    }

    /// A projection of the normalized residual stream: one dispatch for few tokens, norm and product for many.
    fn normed_projection(
        &self,
        step: Step,
        norm: &str,
        matrix: &str,
        output: &wgpu::Buffer,
        mode: Output,
        graph: &mut Vec<Dispatch>,
    ) -> Result<(), GpuError> {
        let b = self.buffers;
        match step {
            Step::Few(_) => self.projection(step, Some(norm), matrix, &b.hidden, output, mode, graph),
            Step::Many(tokens) => {
                graph.push(self.norm(tokens, norm, &b.hidden, &b.normed)?);
                self.projection(step, None, matrix, &b.normed, output, mode, graph)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each names one operand of the product")]
    fn projection(
        &self,
        step: Step,
        norm: Option<&str>,
        matrix: &str,
        input: &wgpu::Buffer,
        output: &wgpu::Buffer,
        mode: Output,
        graph: &mut Vec<Dispatch>,
    ) -> Result<(), GpuError> {
        let weights = self.weights.get(matrix);
        let projection = Projection {
            matrix: weights,
            input: input.into(),
            input_stride: padded(weights.columns),
            output: output.into(),
            output_stride: padded(mode.width(weights.rows)),
            tokens: step.tokens(),
            bias: self.bias(matrix),
            mode,
        };
        graph.extend(match step {
            Step::Few(_) => Matvec { projection, norm: norm.map(|name| self.fused_norm(name)) }.bind(self.gpu)?,
            Step::Many(_) => Matmul { projection }.bind(self.gpu)?,
        });
        Ok(())
    }

    fn norm(&self, tokens: usize, name: &str, from: &wgpu::Buffer, to: &wgpu::Buffer) -> Result<Dispatch, GpuError> {
        let columns = self.spec.hidden_size as u32;
        let gain = self.vector(&format!("{name}.gain"));
        RmsNorm { tokens: tokens as u32, columns, norm: self.spec.norm, x: from.into(), gain, bias: None, y: to.into() }
            .bind(self.gpu)
    }

    fn fused_norm(&self, name: &str) -> Norm<'_> {
        Norm { gain: self.vector(&format!("{name}.gain")), epsilon: self.spec.norm.epsilon }
    }

    fn bias(&self, matrix: &str) -> Option<Binding<'_>> {
        self.weights.find(&format!("{matrix}.bias")).map(vector)
    }

    fn vector(&self, name: &str) -> Binding<'_> {
        vector(self.weights.get(name))
    }
}

/// A vector's values: one row, padded to whole units.
fn vector(matrix: &GpuMatrix) -> Binding<'_> {
    let plane = &matrix.chunks[0].planes[0].1;
    Binding { buffer: &plane.buffer, offset: plane.offset, size: Some((padded(matrix.columns) * 4) as u64) }
}
