//! The dispatches of a step, built once for each number of tokens.
//!
//! A decode layer is six dispatches (seven where attention is split over the keys): norm and qkv; rope and cache;
//! attention; output projection and residual; norm, gate, up and activation; down projection and residual. Prefill has
//! two more, since its matrix products read normalized activations many times; so has decode with layer norms, which the
//! matrix-vector kernel does not do. A norm after a block is one more in both.

use super::cache::KvCache;
use super::weights::Weights;
use super::{Buffers, DecoderError, MAX_BATCH};
use crate::device::{Binding, Dispatch, Gpu, GpuError};
use crate::kernels::attention::{AttentionBuffers, AttentionShape, Scores};
use crate::kernels::attention_decode::{AttentionDecode, splits};
use crate::kernels::attention_prefill::AttentionPrefill;
use crate::kernels::embed::{Embed, Rows};
use crate::kernels::matmul::Matmul;
use crate::kernels::matvec::{Matvec, Norm};
use crate::kernels::projection::{Output, Projection};
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope_cache::{QkNormalization, Rope, RopeCache};
use crate::kernels::weights::GpuMatrix;
use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use haikuq_format::spec::{Attention, Mixer, Mlp, NormKind, NormPlacement, Residual};
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

    fn is_few(self) -> bool {
        matches!(self, Self::Few(_))
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

/// The shape of a layer's attention.
pub(super) fn attention_shape(attention: &Attention, cache_f16: bool, max_pages: usize) -> AttentionShape {
    AttentionShape {
        num_heads: attention.num_heads as u32,
        num_kv_heads: attention.num_kv_heads as u32,
        head_dim: attention.head_dim as u32,
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
pub(super) fn partials_bytes(gpu: &Gpu, spec: &DecoderSpec, cache: &KvCache) -> u64 {
    let bytes = |a: &Attention| {
        let shape = attention_shape(a, cache.precision.is_f16(), cache.max_pages);
        AttentionDecode::scratch_bytes(MAX_BATCH as u32, &shape, attention_splits(gpu, &shape, None))
    };
    spec.attentions().map(bytes).max().unwrap_or(0)
}

/// What graphs are built from.
pub(super) struct Context<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) spec: &'a DecoderSpec,
    pub(super) weights: &'a Weights,
    pub(super) cache: &'a KvCache,
    pub(super) buffers: &'a Buffers,
}

/// What a product reads.
struct Input<'a> {
    buffer: &'a wgpu::Buffer,
    /// A norm that it does on the way.
    norm: Option<Norm<'a>>,
}

impl<'a> Context<'a> {
    fn body(&self, step: Step) -> Result<Vec<Dispatch>, GpuError> {
        let spec = self.spec;
        let mut graph = self.embed("embedding", Rows::Ids { multiplier: spec.embedding_multiplier }, step)?;
        if spec.learned_positions {
            graph.extend(self.embed("positions", Rows::Positions, step)?);
        }
        for layer in 0..spec.num_layers() {
            self.layer(layer, step, &mut graph)?;
        }
        Ok(graph)
    }

    fn embed(&self, table: &str, rows: Rows, step: Step) -> Result<Vec<Dispatch>, GpuError> {
        let b = self.buffers;
        let (output, output_stride) = ((&b.hidden).into(), padded(self.spec.hidden_size));
        let tokens = (&b.tokens).into();
        Embed { matrix: self.weights.get(table), rows, tokens, output, output_stride, token_count: step.tokens() }.bind(self.gpu)
    }

    /// Both blocks up to their last projections, which alone write to the residual stream. Where the blocks are parallel, the
    /// second has read the stream before the first is added to it.
    fn layer(&self, layer: usize, step: Step, graph: &mut Vec<Dispatch>) -> Result<(), GpuError> {
        let (b, spec) = (self.buffers, &self.spec.layers[layer]);
        let (placement, mlp) = (spec.norm_placement, &spec.mlp);
        let Mixer::Attention(attention) = &spec.mixer;
        let name = |part: &str| format!("layers.{layer}.{part}");
        let input = self.block_input(step, placement, &name("mixer_norm"), graph)?;
        self.projection(step, &input, &name("qkv"), &b.qkv, Output::Store, graph)?;
        self.attention(layer, attention, step, graph)?;
        let add_attention = |graph: &mut Vec<Dispatch>| {
            self.add_block(step, &b.attention, &name("attention_output"), placement, &name("mixer_post_norm"), graph)
        };
        match spec.residual {
            Residual::Sequential => {
                add_attention(graph)?;
                let input = self.block_input(step, placement, &name("mlp_norm"), graph)?;
                self.activations(layer, mlp, step, &input, graph)?;
            }
            Residual::Parallel => {
                let input = self.block_input(step, placement, &name("mlp_norm"), graph)?;
                self.activations(layer, mlp, step, &input, graph)?;
                add_attention(graph)?;
            }
            Residual::ParallelShared => {
                self.activations(layer, mlp, step, &input, graph)?;
                add_attention(graph)?;
            }
        }
        self.add_block(step, b.mlp(mlp), &name("down"), placement, &name("mlp_post_norm"), graph)
    }

    /// From queries, keys and values to the heads' outputs.
    fn attention(&self, layer: usize, a: &Attention, step: Step, graph: &mut Vec<Dispatch>) -> Result<(), GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let (shape, num_tokens) = (attention_shape(a, self.cache.precision.is_f16(), self.cache.max_pages), step.tokens() as u32);
        let (keys, values) = &self.cache.pools[layer];
        let rope = a.rope.map(|i| Rope {
            inv_freq: (&b.inv_freqs[i]).into(),
            rotated: spec.ropes[i].inv_freq.len() as u32,
            factor: spec.ropes[i].factor,
        });
        let qk_norm = a.qk_norm.zip(b.qk_norms[layer].as_ref()).map(|(kind, buffer)| QkNormalization {
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

        let window = a.window.map(|w| w as u32);
        let scores = Scores { scale: a.scale, window, softcap: a.softcap };
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
        Ok(())
    }

    /// The feed-forward network's inner activations.
    fn activations(
        &self,
        layer: usize,
        mlp: &Mlp,
        step: Step,
        input: &Input<'_>,
        graph: &mut Vec<Dispatch>,
    ) -> Result<(), GpuError> {
        let output = if mlp.gated { Output::Glu(mlp.activation) } else { Output::Activate(mlp.activation) };
        self.projection(step, input, &format!("layers.{layer}.{}", mlp.up_name()), self.buffers.mlp(mlp), output, graph)
    }

    fn head(&self, rows: usize) -> Result<Vec<Dispatch>, GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let matrix = if spec.tied_head { "embedding" } else { "head" };
        let few = rows <= MAX_BATCH;
        let mut graph = Vec::new();
        let input = self.normed(few, rows, "final_norm", [&b.head_input, &b.head_normed], &mut graph)?;
        let projection = Projection {
            matrix: self.weights.get(matrix),
            input: input.buffer.into(),
            input_stride: padded(spec.hidden_size),
            output: (&b.logits).into(),
            output_stride: padded(spec.vocab_size),
            tokens: rows,
            bias: self.bias("head"),
            mode: Output::Logits { multiplier: spec.logit_multiplier, softcap: spec.logit_softcap },
        };
        graph.extend(product(self.gpu, few, projection, input.norm)?);
        Ok(graph)
    }

    /// The residual stream as a block reads it: normalized, or as it is where norms stand after the blocks alone.
    fn block_input(
        &self,
        step: Step,
        placement: NormPlacement,
        norm: &str,
        graph: &mut Vec<Dispatch>,
    ) -> Result<Input<'a>, GpuError> {
        let b = self.buffers;
        if placement == NormPlacement::Post {
            return Ok(Input { buffer: &b.hidden, norm: None });
        }
        self.normed(step.is_few(), step.tokens(), norm, [&b.hidden, &b.normed], graph)
    }

    /// Rows of `from`, normalized: by the product itself where that can (the matrix-vector kernel does root mean squares),
    /// else by a dispatch of its own, in `to`.
    fn normed(
        &self,
        few: bool,
        rows: usize,
        name: &str,
        [from, to]: [&'a wgpu::Buffer; 2],
        graph: &mut Vec<Dispatch>,
    ) -> Result<Input<'a>, GpuError> {
        let norm = self.spec.norm;
        if few && norm.kind == NormKind::Rms {
            let gain = self.vector(&format!("{name}.gain"));
            return Ok(Input { buffer: from, norm: Some(Norm { gain, epsilon: norm.epsilon }) });
        }
        graph.push(self.norm(rows, name, from, to, None)?);
        Ok(Input { buffer: to, norm: None })
    }

    /// A block's last projection, added to the residual stream, after a norm of its own where there is one.
    fn add_block(
        &self,
        step: Step,
        input: &'a wgpu::Buffer,
        matrix: &str,
        placement: NormPlacement,
        norm: &str,
        graph: &mut Vec<Dispatch>,
    ) -> Result<(), GpuError> {
        let (b, multiplier, input) = (self.buffers, self.spec.residual_multiplier, Input { buffer: input, norm: None });
        if placement == NormPlacement::Pre {
            return self.projection(step, &input, matrix, &b.hidden, Output::Residual { multiplier }, graph);
        }
        // Whatever was read from `normed` has been read.
        self.projection(step, &input, matrix, &b.normed, Output::Store, graph)?;
        graph.push(self.norm(step.tokens(), norm, &b.normed, &b.hidden, Some(multiplier))?);
        Ok(())
    }

    fn projection(
        &self,
        step: Step,
        input: &Input<'_>,
        matrix: &str,
        output: &wgpu::Buffer,
        mode: Output,
        graph: &mut Vec<Dispatch>,
    ) -> Result<(), GpuError> {
        let weights = self.weights.get(matrix);
        let projection = Projection {
            matrix: weights,
            input: input.buffer.into(),
            input_stride: padded(weights.columns),
            output: output.into(),
            output_stride: padded(mode.width(weights.rows)),
            tokens: step.tokens(),
            bias: self.bias(matrix),
            mode,
        };
        graph.extend(product(self.gpu, step.is_few(), projection, input.norm.clone())?);
        Ok(())
    }

    fn norm(
        &self,
        rows: usize,
        name: &str,
        from: &wgpu::Buffer,
        to: &wgpu::Buffer,
        residual: Option<f32>,
    ) -> Result<Dispatch, GpuError> {
        let (tokens, columns) = (rows as u32, self.spec.hidden_size as u32);
        let (gain, bias) = (self.vector(&format!("{name}.gain")), self.bias(name));
        RmsNorm { tokens, columns, norm: self.spec.norm, x: from.into(), gain, bias, residual, y: to.into() }.bind(self.gpu)
    }

    /// The bias of a projection or norm, if it has one.
    fn bias(&self, of: &str) -> Option<Binding<'a>> {
        self.weights.find(&format!("{of}.bias")).map(vector)
    }

    fn vector(&self, name: &str) -> Binding<'a> {
        vector(self.weights.get(name))
    }
}

/// Matrix times vectors for few tokens, times a matrix for many.
fn product(gpu: &Gpu, few: bool, projection: Projection<'_>, norm: Option<Norm<'_>>) -> Result<Vec<Dispatch>, GpuError> {
    if few { Matvec { projection, norm }.bind(gpu) } else { Matmul { projection }.bind(gpu) }
}

/// A vector's values: one row, padded to whole units.
fn vector(matrix: &GpuMatrix) -> Binding<'_> {
    let plane = &matrix.chunks[0].planes[0].1;
    Binding { buffer: &plane.buffer, offset: plane.offset, size: Some((padded(matrix.columns) * 4) as u64) }
}
