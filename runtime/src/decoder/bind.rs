//! From a program to dispatches: each operation's shape chooses a candidate, which is bound to buffers.

use super::cache::{KvCache, LayerCache};
use super::weights::Weights;
use super::{Buffers, DecoderError};
use crate::device::{Binding, Dispatch, Gpu, GpuError, Profile};
use crate::kernels::altup::{EndStream, StreamRows, UpdateStreams};
use crate::kernels::attend::{AttendJob, AttendShape};
use crate::kernels::attention::{AttentionBuffers, AttentionShape, Scores};
use crate::kernels::candidate::{Candidate, Kind, Numerics};
use crate::kernels::choose::{Decision, Means, Restrictions, able, choose, decide};
use crate::kernels::cut_gates::CutGates;
use crate::kernels::delta_net::{DeltaConv, DeltaScan, ScanJob, ScanShape};
use crate::kernels::embed::{Embed, Rows};
use crate::kernels::experts::{ChooseExperts, MatvecExperts};
use crate::kernels::gate_heads::GateHeads;
use crate::kernels::gated_norm::{GateAndNormalize, GroupNorm};
use crate::kernels::mamba2::{MambaConv, MambaScan, ScanJob as MambaJob, ScanShape as MambaShape};
use crate::kernels::matvec::Norm;
use crate::kernels::matvec_int8::Heads;
use crate::kernels::multiply::{Multiply, With};
use crate::kernels::norm::NormRows;
use crate::kernels::per_layer_inputs::PerLayerRows;
use crate::kernels::project::{ProjectHeadsJob, ProjectHeadsShape, ProjectJob, ProjectShape};
use crate::kernels::project_experts::{ExpertsJob, ExpertsShape};
use crate::kernels::projection::{Projection, Times};
use crate::kernels::rope_cache::{QkNormalization, Rope, RopeCache};
use crate::kernels::sample::Sample;
use crate::kernels::short_conv::ConvolveTokens;
use crate::kernels::tables;
use crate::kernels::weights::GpuMatrix;
use crate::program::rewrite::{Fusions, fuse};
use crate::program::{FusedNorm, Operation, Output, Part, Phase, Program, RowSource, Value, build};
use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use haikuq_format::spec::{
    Activation, Attention, DeltaNet, Experts, GatedNorm, Mamba2, Mlp, NormKind, PerLayerEmbedding, ShortConv,
};
use std::collections::HashMap;

/// One operation's dispatches.
pub(super) struct Bound {
    /// What it is for, without its layer.
    pub(super) operation: String,
    /// The candidate's name, or the kernel's.
    pub(super) candidate: &'static str,
    /// How the candidate was chosen, where there is a choice.
    pub(super) chosen: Option<Means>,
    /// Its sizes in words, for profiles.
    pub(super) shape: String,
    /// Bytes of weights that it reads.
    pub(super) bytes: u64,
    /// Multiplications and additions of its products.
    pub(super) flops: u64,
    /// The dispatches.
    pub(super) dispatches: Vec<Dispatch>,
}

/// Parts that were bound so far.
#[derive(Default)]
pub(super) struct BoundParts(HashMap<Part, Vec<Bound>>);

impl BoundParts {
    /// The dispatches of `part`, bound if it is the first time.
    pub(super) fn get(&mut self, context: &Context<'_>, part: Part) -> Result<&[Bound], DecoderError> {
        Ok(match self.0.entry(part) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => e.insert(context.bind(part)?),
        })
    }

    /// What was bound, if it was.
    pub(super) fn find(&self, part: Part) -> Option<&[Bound]> {
        self.0.get(&part).map(Vec::as_slice)
    }

    /// The cache's pools were replaced.
    pub(super) fn forget_bodies(&mut self) {
        self.0.retain(|part, _| !matches!(part, Part::Body(_)));
    }
}

/// What decides which candidates a program takes, before there are buffers.
#[derive(Clone, Copy)]
pub(super) struct Choices<'a> {
    pub(super) profile: &'a Profile,
    pub(super) spec: &'a DecoderSpec,
    pub(super) weights: &'a Weights,
    pub(super) restrictions: &'a Restrictions,
    pub(super) cache: CacheShape,
    /// Whether candidates are going to be measured: then there is room for each of them.
    pub(super) undecided: bool,
}

/// Candidates to compare for a shape, the table's choice first.
pub(super) struct Rivals {
    /// The operation.
    pub(super) operation: &'static str,
    /// [`Kind::measured_as`].
    pub(super) shape: String,
    /// The candidates.
    pub(super) names: Vec<&'static str>,
}

/// What the chosen candidates need and do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    /// Bytes that products work in, and attention in prefill.
    pub(super) scratch: u64,
    /// Bytes that attention works in when it decodes.
    pub(super) decode_scratch: u64,
    /// Bytes that products with experts work in.
    pub(super) experts_scratch: u64,
    /// Whether any of them is a fast one.
    pub(super) fast: bool,
}

impl Needs {
    /// What the chosen candidates do to numbers.
    pub(super) fn numerics(self) -> Numerics {
        if self.fast { Numerics::Fast } else { Numerics::Exact }
    }

    /// What both need.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            scratch: self.scratch.max(other.scratch),
            decode_scratch: self.decode_scratch.max(other.decode_scratch),
            experts_scratch: self.experts_scratch.max(other.experts_scratch),
            fast: self.fast || other.fast,
        }
    }
}

impl Choices<'_> {
    /// The program of a part, fused as the candidates can.
    pub(super) fn program(&self, part: Part) -> Program {
        let program = build(self.spec, part);
        let (rows, phase) = (program.rows, program.phase);
        let decode = phase == Phase::Decode;
        let rope = |layer: usize| decode && self.choose(tables::PROJECT_HEADS, &self.heads_shape(rows, phase, layer)).is_ok();
        fuse(program, Fusions { norm: decode, rope: &rope })
    }

    /// What the candidates for `program` need.
    pub(super) fn needs(&self, program: &Program) -> Result<Needs, GpuError> {
        program.operations.iter().try_fold(Needs::default(), |needs, operation| Ok(needs.and(self.need(program, operation)?)))
    }

    fn need(&self, program: &Program, operation: &Operation) -> Result<Needs, GpuError> {
        match operation {
            Operation::Project { matrix, bias, norm, output, .. } => {
                let weights = self.weights.get(matrix);
                let shape = project_shape(program.rows, program.phase, weights, *output, bias.is_some(), norm.is_some());
                self.need_of(tables::PROJECT, &shape)
            }
            Operation::ProjectTimes { matrix, activation, .. } => {
                self.need_of(tables::PROJECT, &self.times_shape(program, matrix, *activation))
            }
            Operation::ProjectRopeCache { layer, .. } => {
                self.need_of(tables::PROJECT_HEADS, &self.heads_shape(program.rows, program.phase, *layer))
            }
            Operation::Attend { layer, .. } => {
                let needs = self.need_of(tables::ATTEND, &self.attend_shape(program, *layer))?;
                Ok(match program.phase {
                    Phase::Decode => Needs { scratch: 0, decode_scratch: needs.scratch, ..needs },
                    Phase::Prefill => needs,
                })
            }
            Operation::DeltaScan { layer, .. } => {
                self.need_of(tables::DELTA_SCAN, &scan_shape(program, *delta_net(self.spec, *layer)))
            }
            Operation::MambaScan { layer, .. } => {
                self.need_of(tables::MAMBA_SCAN, &mamba_shape(program, *mamba2(self.spec, *layer)))
            }
            Operation::ProjectExperts { layer, matrix, bias, output, .. } => {
                let shape = self.experts_shape(program, *layer, matrix, bias.is_some(), *output);
                let needs = self.need_of(tables::PROJECT_EXPERTS, &shape)?;
                Ok(Needs { scratch: shape.each_bytes(), experts_scratch: needs.scratch, ..needs })
            }
            _ => Ok(Needs::default()),
        }
    }

    fn choose<K: Kind>(
        &self,
        table: &'static [&'static Candidate<K>],
        shape: &K::Shape,
    ) -> Result<&'static Candidate<K>, GpuError> {
        choose(table, self.profile, shape, self.restrictions)
    }

    fn need_of<K: Kind>(&self, table: &'static [&'static Candidate<K>], shape: &K::Shape) -> Result<Needs, GpuError> {
        let candidate = self.choose(table, shape)?;
        let (mut scratch, fast) = ((candidate.scratch)(self.profile, shape), candidate.numerics == Numerics::Fast);
        if self.undecided && K::measured_as(shape, self.restrictions.exact).is_some() {
            let able = able(table, self.profile, shape, self.restrictions);
            scratch = able.iter().map(|c| (c.scratch)(self.profile, shape)).fold(scratch, u64::max);
        }
        Ok(Needs { scratch, fast, ..Needs::default() })
    }

    /// The candidates among which a measurement would choose for an operation, if there is a choice and no pin.
    pub(super) fn rivals(&self, program: &Program, operation: &Operation) -> Option<Rivals> {
        match operation {
            Operation::Project { matrix, bias, norm, output, .. } => {
                let weights = self.weights.get(matrix);
                let shape = project_shape(program.rows, program.phase, weights, *output, bias.is_some(), norm.is_some());
                self.rivals_of(tables::PROJECT, &shape)
            }
            Operation::ProjectTimes { matrix, activation, .. } => {
                self.rivals_of(tables::PROJECT, &self.times_shape(program, matrix, *activation))
            }
            Operation::Attend { layer, .. } => self.rivals_of(tables::ATTEND, &self.attend_shape(program, *layer)),
            _ => None,
        }
    }

    fn rivals_of<K: Kind>(&self, table: &'static [&'static Candidate<K>], shape: &K::Shape) -> Option<Rivals> {
        let names: Vec<_> = able(table, self.profile, shape, self.restrictions).iter().map(|c| c.name).collect();
        let pinned = self.restrictions.pins.get(K::NAME).is_some_and(|pin| names.contains(&pin.as_str()));
        let shape = K::measured_as(shape, self.restrictions.exact).filter(|_| names.len() > 1 && !pinned)?;
        Some(Rivals { operation: K::NAME, shape, names })
    }

    /// The shape of a layer's queries, keys and values, normalized on the way where the spec's norms can be.
    fn times_shape(&self, program: &Program, matrix: &str, activation: Activation) -> ProjectShape {
        project_shape(program.rows, program.phase, self.weights.get(matrix), Output::Activate(activation), false, false)
    }

    fn heads_shape(&self, rows: usize, phase: Phase, layer: usize) -> ProjectHeadsShape {
        let (spec, weights) = (self.spec, self.weights.get(&format!("layers.{layer}.qkv")));
        let a = attention(spec, layer);
        // What a learned residual layer reads too is normalized before.
        let before = spec.layers[layer].norm_placement.is_before() && spec.layers[layer].laurel.is_none();
        let norm = before && spec.norm.kind == NormKind::Rms;
        ProjectHeadsShape {
            project: project_shape(rows, phase, weights, Output::Store, a.qkv_bias, norm),
            attention: attention_shape(a, self.cache),
            rotated: a.rope.map_or(0, |i| spec.ropes[i].inv_freq.len() as u32),
            norms: a.qk_norm.is_some() || a.value_norm,
            one_chunk: weights.chunks.len() == 1,
        }
    }

    fn experts_shape(&self, program: &Program, layer: usize, matrix: &str, bias: bool, output: Output) -> ExpertsShape {
        let (matrix, experts) = (self.weights.get(matrix), experts(self.spec, layer));
        let Experts { num_experts, num_active: active, .. } = *experts;
        let (rows, columns, scheme) = (matrix.rows / num_experts, matrix.columns, matrix.scheme);
        ExpertsShape { rows, columns, tokens: program.rows, phase: program.phase, num_experts, active, scheme, output, bias }
    }

    fn attend_shape(&self, program: &Program, layer: usize) -> AttendShape {
        let a = attention(self.spec, layer);
        let scores = Scores { scale: a.scale, window: a.window.map(|w| w as u32), softcap: a.softcap };
        let attention = attention_shape(a, self.cache);
        AttendShape { tokens: program.rows as u32, phase: program.phase, attention, scores }
    }
}

fn project_shape(tokens: usize, phase: Phase, matrix: &GpuMatrix, output: Output, bias: bool, norm: bool) -> ProjectShape {
    let GpuMatrix { rows, columns, scheme, .. } = *matrix;
    ProjectShape { rows, columns, tokens, phase, scheme, output, bias, norm }
}

/// Whether the cache holds f16, and pages in a row of its table.
pub(super) type CacheShape = (bool, usize);

/// The attention of a layer that has it.
fn attention(spec: &DecoderSpec, layer: usize) -> &Attention {
    spec.layers[layer].attention().unwrap_or_else(|| panic!("layer {layer} has no attention"))
}

/// The short convolution of a layer that has it.
fn short_conv(spec: &DecoderSpec, layer: usize) -> &ShortConv {
    spec.layers[layer].short_conv().unwrap_or_else(|| panic!("layer {layer} has no convolution"))
}

fn attention_shape(a: &Attention, (cache_f16, max_pages): CacheShape) -> AttentionShape {
    let [num_heads, num_kv_heads, head_dim, max_pages] = [a.num_heads, a.num_kv_heads, a.head_dim, max_pages].map(|n| n as u32);
    AttentionShape { num_heads, num_kv_heads, head_dim, max_pages, cache_f16 }
}

/// The gated delta net of a layer that has it.
fn delta_net(spec: &DecoderSpec, layer: usize) -> &DeltaNet {
    spec.layers[layer].delta_net().unwrap_or_else(|| panic!("layer {layer} has no gated delta net"))
}

/// The Mamba 2 mixer of a layer that has it.
fn mamba2(spec: &DecoderSpec, layer: usize) -> &Mamba2 {
    spec.layers[layer].mamba2().unwrap_or_else(|| panic!("layer {layer} has no Mamba mixer"))
}

/// What tokens bring along for each layer, of a decoder where they do.
fn per_layer(spec: &DecoderSpec) -> PerLayerEmbedding {
    spec.per_layer_embedding.unwrap_or_else(|| panic!("nothing for each layer"))
}

fn scan_shape(program: &Program, net: DeltaNet) -> ScanShape {
    ScanShape { tokens: program.rows as u32, phase: program.phase, net }
}

fn mamba_shape(program: &Program, mamba: Mamba2) -> MambaShape {
    MambaShape { tokens: program.rows as u32, phase: program.phase, mamba }
}

/// The experts of a layer that has them.
fn experts(spec: &DecoderSpec, layer: usize) -> &Experts {
    spec.layers[layer].mlp.as_ref().and_then(|mlp| mlp.experts.as_ref()).unwrap_or_else(|| panic!("layer {layer} has no experts"))
}

/// What programs are bound to.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) spec: &'a DecoderSpec,
    pub(super) weights: &'a Weights,
    pub(super) cache: &'a KvCache,
    pub(super) buffers: &'a Buffers,
    pub(super) restrictions: &'a Restrictions,
}

impl<'a> Context<'a> {
    /// The same with other restrictions.
    pub(super) fn with<'b>(&self, restrictions: &'b Restrictions) -> Context<'b>
    where
        'a: 'b,
    {
        Context { restrictions, ..*self }
    }

    fn bind(&self, part: Part) -> Result<Vec<Bound>, GpuError> {
        let program = self.choices().program(part);
        program.operations.iter().map(|operation| self.bind_operation(&program, operation)).collect()
    }

    pub(super) fn bind_operation(&self, program: &Program, operation: &Operation) -> Result<Bound, GpuError> {
        let mut bound = match operation {
            Operation::Embed { table, rows, into } => self.embed(program, table, *rows, *into),
            Operation::Norm { norm, parameters, from, into, residual, scale } => {
                let (gain, bias) = (self.vector(&format!("{parameters}.gain")), self.find(&format!("{parameters}.bias")));
                let (tokens, columns) = (program.rows as u32, self.spec.hidden_size as u32);
                let (x, y) = (self.value(*from), self.value(*into));
                let scale = scale.as_deref().map(|by| self.vector(by));
                let kernel = NormRows { tokens, columns, norm: *norm, x, gain, bias, residual: *residual, scale, y };
                Ok(Bound::new("norm", format!("{columns} × {tokens}"), vec![kernel.bind(self.gpu)?]))
            }
            Operation::Project { matrix, bias, norm, from, into, output } => {
                self.project(program, matrix, bias.as_deref(), norm.as_ref(), [*from, *into], *output)
            }
            Operation::ProjectTimes { layer, matrix, activation, from, times, into } => {
                self.project_times(program, matrix, *activation, [*from, *into], (*times, *layer))
            }
            Operation::RopeCache { layer, from, into, .. } => self.rope_cache(program, *layer, [*from, *into]),
            Operation::ProjectRopeCache { layer, matrix, bias, norm, from, into } => {
                self.project_heads(program, *layer, matrix, bias.as_deref(), norm.as_ref(), [*from, *into])
            }
            Operation::Attend { layer, from, into, .. } => self.attend(program, *layer, [*from, *into]),
            Operation::GateHeads { layer, from, into } => self.gate_heads(program, *layer, [*from, *into]),
            Operation::ShortConv { layer, from, into } => self.short_conv(program, *layer, [*from, *into]),
            Operation::DeltaConv { layer, from, into } => self.delta_conv(program, *layer, [*from, *into]),
            Operation::DeltaScan { layer, from, into } => self.delta_scan(program, *layer, [*from, *into]),
            Operation::DeltaNorm { layer, from, into } => self.delta_norm(program, *layer, [*from, *into]),
            Operation::MambaConv { layer, from, into } => self.mamba_conv(program, *layer, [*from, *into]),
            Operation::MambaScan { layer, from, into } => self.mamba_scan(program, *layer, [*from, *into]),
            Operation::MambaNorm { layer, from, into } => self.mamba_norm(program, *layer, [*from, *into]),
            Operation::PerLayerInputs { into } => self.per_layer_inputs(program, *into),
            Operation::TakeLayer { layer, from, into } => self.take_layer(program, *layer, [*from, *into]),
            Operation::Scale { by, into } => self.scale(program, by, *into),
            Operation::Laurel { from, into } => self.rows(program, With::Laurel, 0, [*from, *into]),
            Operation::TakeStream { stream, from, into } => {
                self.rows(program, With::Copy, stream * self.spec.hidden_size, [*from, *into])
            }
            Operation::CutGates { layer, from, into } => self.cut_gates(program, *layer, [*from, *into]),
            Operation::EndStream { end, multiplier, from, streams } => {
                let (rows, x) = (self.stream_rows(program, *streams), self.value(*from));
                let kernel = EndStream { rows, end: *end, multiplier: *multiplier, x };
                Ok(Bound::new("stream_ends", streams_shape(program, *streams, self.spec), vec![kernel.bind(self.gpu)?]))
            }
            Operation::AltUp { layer, correct, streams } => self.altup(program, *layer, *correct, *streams),
            Operation::ChooseExperts { layer, from, into } => self.choose_experts(program, *layer, [*from, *into]),
            Operation::ProjectExperts { layer, matrix, bias, routing, from, into, output } => {
                self.project_experts(program, *layer, matrix, bias.as_deref(), [*routing, *from, *into], *output)
            }
            Operation::Sample { from, advance, masked } => self.sample(program, *from, *advance, *masked),
        }?;
        bound.operation = operation.name();
        Ok(bound)
    }

    fn embed(&self, program: &Program, table: &str, rows: RowSource, into: Value) -> Result<Bound, GpuError> {
        let rows = match rows {
            RowSource::Ids { multiplier } => Rows::Ids { multiplier },
            RowSource::Positions => Rows::Positions,
        };
        let (output, output_stride) = (self.value(into), padded(self.spec.hidden_size));
        let tokens = (&self.buffers.tokens).into();
        let matrix = self.weights.get(table);
        let kernel = Embed { matrix, rows, tokens, output, output_stride, token_count: program.rows };
        Ok(Bound::new("embed", format!("{} × {}", matrix.columns, program.rows), kernel.bind(self.gpu)?))
    }

    fn project(
        &self,
        program: &Program,
        matrix: &str,
        bias: Option<&str>,
        norm: Option<&FusedNorm>,
        [from, into]: [Value; 2],
        output: Output,
    ) -> Result<Bound, GpuError> {
        let weights = self.weights.get(matrix);
        let shape = project_shape(program.rows, program.phase, weights, output, bias.is_some(), norm.is_some());
        let job = self.project_job(program, weights, bias, norm, [from, into], output);
        let mut bound = self.bind_best(tables::PROJECT, &shape, &job, project_words(&shape), &self.buffers.scratch)?;
        bound.count_product(weights, program.rows);
        Ok(bound)
    }

    /// An activation, multiplied with the numbers of a layer.
    fn project_times(
        &self,
        program: &Program,
        matrix: &str,
        activation: Activation,
        [from, into]: [Value; 2],
        (times, layer): (Value, usize),
    ) -> Result<Bound, GpuError> {
        let weights = self.weights.get(matrix);
        let shape = self.choices().times_shape(program, matrix, activation);
        let mut job = self.project_job(program, weights, None, None, [from, into], Output::Activate(activation));
        let (stride, first) = (padded(times.width(self.spec)), layer * into.width(self.spec));
        job.projection.times = Some(Times { values: self.value(times), stride, first });
        let mut bound = self.bind_best(tables::PROJECT, &shape, &job, project_words(&shape), &self.buffers.scratch)?;
        bound.count_product(weights, program.rows);
        Ok(bound)
    }

    fn project_heads(
        &self,
        program: &Program,
        layer: usize,
        matrix: &str,
        bias: Option<&str>,
        norm: Option<&FusedNorm>,
        [from, into]: [Value; 2],
    ) -> Result<Bound, GpuError> {
        let weights = self.weights.get(matrix);
        let shape = self.choices().heads_shape(program.rows, program.phase, layer);
        let LayerCache { table, keys, values } = self.cache.layer(layer);
        let job = ProjectHeadsJob {
            project: self.project_job(program, weights, bias, norm, [from, into], Output::Store),
            heads: Heads {
                shape: shape.attention,
                rope: self.rope(layer),
                query_scaling: attention(self.spec, layer).query_scaling,
                tokens: (&self.buffers.tokens).into(),
                pages: table.into(),
                keys: keys.into(),
                values: values.into(),
            },
        };
        let words = project_words(&shape.project);
        let mut bound = self.bind_best(tables::PROJECT_HEADS, &shape, &job, words, &self.buffers.scratch)?;
        bound.count_product(weights, program.rows);
        Ok(bound)
    }

    fn project_job(
        &self,
        program: &Program,
        matrix: &'a GpuMatrix,
        bias: Option<&str>,
        norm: Option<&FusedNorm>,
        [from, into]: [Value; 2],
        mode: Output,
    ) -> ProjectJob<'a> {
        ProjectJob {
            projection: Projection {
                matrix,
                input: self.value(from),
                input_stride: padded(matrix.columns),
                output: self.value(into),
                output_stride: padded(mode.width(matrix.rows)),
                tokens: program.rows,
                bias: bias.map(|name| self.vector(name)),
                mode,
                times: None,
            },
            norm: norm.map(|n| Norm { gain: self.vector(&format!("{}.gain", n.parameters)), epsilon: n.epsilon }),
            scratch: (&self.buffers.scratch).into(),
        }
    }

    fn rope(&self, layer: usize) -> Option<Rope<'a>> {
        let ropes = &self.spec.ropes;
        attention(self.spec, layer).rope.map(|i| Rope {
            inv_freq: (&self.buffers.inv_freqs[i]).into(),
            rotated: ropes[i].inv_freq.len() as u32,
            factor: ropes[i].factor,
        })
    }

    fn rope_cache(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let (spec, b) = (self.spec, self.buffers);
        let a = attention(spec, layer);
        let qk_norm = a.qk_norm.zip(b.qk_norms[layer].as_ref()).map(|(kind, buffer)| QkNormalization {
            kind,
            after_rope: a.qk_norm_after_rope,
            norm: spec.norm,
            parameters: buffer.into(),
        });
        let LayerCache { table, keys, values } = self.cache.layer(layer);
        let kernel = RopeCache {
            num_tokens: program.rows as u32,
            shape: attention_shape(a, self.cache_shape()),
            rope: self.rope(layer),
            qk_norm,
            query_scaling: a.query_scaling,
            own_kv: a.own_kv() as u32,
            value_norm: a.value_norm.then_some(spec.norm.epsilon),
            qkv: self.value(from),
            qkv_stride: padded(a.qkv_size()),
            tokens: (&b.tokens).into(),
            pages: table.into(),
            q: self.value(into),
            keys: keys.into(),
            values: values.into(),
        };
        Ok(Bound::new("rope_cache", format!("{} × {}", a.qkv_size(), program.rows), vec![kernel.bind(self.gpu)?]))
    }

    fn attend(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let a = attention(self.spec, layer);
        let LayerCache { table, keys, values } = self.cache.layer(layer);
        let shape = self.choices().attend_shape(program, layer);
        let buffers = AttentionBuffers {
            q: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            pages: table.into(),
            keys: keys.into(),
            values: values.into(),
            sinks: self.find(&format!("layers.{layer}.sinks")),
            output: self.value(into),
        };
        let decode = program.phase == Phase::Decode;
        let scratch = if decode { &self.buffers.decode_scratch } else { &self.buffers.scratch };
        let job = AttendJob { shape, buffers, scratch: scratch.into() };
        let words = format!("{}/{} heads of {} × {}", a.num_heads, a.num_kv_heads, a.head_dim, program.rows);
        self.bind_best(tables::ATTEND, &shape, &job, words, scratch)
    }

    fn gate_heads(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let a = attention(self.spec, layer);
        let kernel = GateHeads {
            tokens: program.rows as u32,
            columns: a.attention_size(),
            gates: a.gate_size(),
            x_columns: a.qkv_size(),
            x: self.value(from),
            y: self.value(into),
        };
        Ok(Bound::new("gate_heads", format!("{} × {}", a.attention_size(), program.rows), vec![kernel.bind(self.gpu)?]))
    }

    fn short_conv(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let conv = *short_conv(self.spec, layer);
        let name = |part: &str| format!("layers.{layer}.conv.{part}");
        let kernel = ConvolveTokens {
            num_tokens: program.rows as u32,
            conv,
            chunk: program.phase == Phase::Prefill,
            x: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            state: self.cache.states.columns(layer).into(),
            kernel: self.vector(&name("kernel")),
            bias: self.find(&name("bias")),
            y: self.value(into),
        };
        let shape = format!("{} × {}, {}", conv.channels, program.rows, conv.kernel_size);
        Ok(Bound::new("short_conv", shape, kernel.bind(self.gpu)?))
    }

    fn delta_conv(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let net = *delta_net(self.spec, layer);
        let vector = |part: &str| self.vector(&format!("layers.{layer}.delta.{part}"));
        let kernel = DeltaConv {
            num_tokens: program.rows as u32,
            net,
            chunk: program.phase == Phase::Prefill,
            x: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            columns: self.cache.states.columns(layer).into(),
            kernel: vector("kernel"),
            log_decay: vector("log_decay"),
            step_bias: vector("step_bias"),
            y: self.value(into),
        };
        Ok(Bound::new("delta_conv", format!("{} × {}", net.channels(), program.rows), kernel.bind(self.gpu)?))
    }

    fn delta_scan(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let net = *delta_net(self.spec, layer);
        let scan = DeltaScan {
            num_tokens: program.rows as u32,
            net,
            chunk: program.phase == Phase::Prefill,
            x: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            states: self.cache.states.matrices(layer).into(),
            y: self.value(into),
        };
        let shape = format!("{} heads of {} × {}, {}", net.num_value_heads, net.key_dim, net.value_dim, program.rows);
        let job = ScanJob { scan, scratch: (&self.buffers.scratch).into() };
        self.bind_best(tables::DELTA_SCAN, &scan_shape(program, net), &job, shape, &self.buffers.scratch)
    }

    fn delta_norm(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let net = *delta_net(self.spec, layer);
        let norm = GroupNorm {
            order: GatedNorm::BeforeGate,
            epsilon: self.spec.norm.epsilon,
            gain: self.vector(&format!("layers.{layer}.delta_norm.gain")),
            shared: true,
        };
        let sizes = [net.num_value_heads, net.value_dim, net.input_rows(), net.channels()];
        self.gated_norm(program, sizes, Some(norm), [from, into])
    }

    fn gated_norm(
        &self,
        program: &Program,
        [groups, width, x_columns, first_gate]: [usize; 4],
        norm: Option<GroupNorm<'_>>,
        [from, into]: [Value; 2],
    ) -> Result<Bound, GpuError> {
        let (x, y) = (self.value(from), self.value(into));
        let num_tokens = program.rows as u32;
        let kernel = GateAndNormalize { num_tokens, groups, width, norm, x, x_columns, first_gate, y };
        Ok(Bound::new("gated_norm", format!("{} × {num_tokens}", groups * width), vec![kernel.bind(self.gpu)?]))
    }

    fn mamba_conv(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let mamba = *mamba2(self.spec, layer);
        let name = |part: &str| format!("layers.{layer}.mamba.{part}");
        let kernel = MambaConv {
            num_tokens: program.rows as u32,
            mamba,
            chunk: program.phase == Phase::Prefill,
            x: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            columns: self.cache.states.columns(layer).into(),
            kernel: self.vector(&name("kernel")),
            bias: self.find(&name("bias")),
            log_decay: self.vector(&name("log_decay")),
            step_bias: self.vector(&name("step_bias")),
            y: self.value(into),
        };
        Ok(Bound::new("mamba_conv", format!("{} × {}", mamba.channels(), program.rows), kernel.bind(self.gpu)?))
    }

    fn mamba_scan(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let mamba = *mamba2(self.spec, layer);
        let scan = MambaScan {
            num_tokens: program.rows as u32,
            mamba,
            chunk: program.phase == Phase::Prefill,
            x: self.value(from),
            tokens: (&self.buffers.tokens).into(),
            skip: self.vector(&format!("layers.{layer}.mamba.skip")),
            states: self.cache.states.matrices(layer).into(),
            y: self.value(into),
        };
        let shape = format!("{} heads of {} × {}, {}", mamba.num_heads, mamba.head_dim, mamba.state_size, program.rows);
        let job = MambaJob { scan, scratch: (&self.buffers.scratch).into() };
        self.bind_best(tables::MAMBA_SCAN, &mamba_shape(program, mamba), &job, shape, &self.buffers.scratch)
    }

    fn mamba_norm(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let mamba = mamba2(self.spec, layer);
        let norm = mamba.norm.map(|order| GroupNorm {
            order,
            epsilon: self.spec.norm.epsilon,
            gain: self.vector(&format!("layers.{layer}.mamba_norm.gain")),
            shared: false,
        });
        let sizes = [mamba.num_groups, mamba.inner_size() / mamba.num_groups, mamba.input_rows(), 0];
        self.gated_norm(program, sizes, norm, [from, into])
    }

    fn per_layer_inputs(&self, program: &Program, into: Value) -> Result<Bound, GpuError> {
        let spec = per_layer(self.spec);
        let rows = self.buffers.per_layer_rows.as_ref().unwrap_or_else(|| panic!("no rows for each layer"));
        let unpack = Embed {
            matrix: &rows.packed,
            rows: Rows::Ids { multiplier: spec.table_multiplier },
            tokens: (&rows.numbers).into(),
            output: (&rows.unpacked).into(),
            output_stride: padded(rows.packed.columns),
            token_count: program.rows,
        };
        let kernel = PerLayerRows {
            tokens: program.rows as u32,
            layers: self.spec.num_layers() as u32,
            spec,
            epsilon: self.spec.norm.epsilon,
            gain: self.vector("per_layer_norm.gain"),
            rows: (&rows.unpacked).into(),
            x: self.value(into),
        };
        let mut dispatches = unpack.bind(self.gpu)?;
        dispatches.push(kernel.bind(self.gpu)?);
        Ok(Bound::new("per_layer_inputs", format!("{} × {}", into.width(self.spec), program.rows), dispatches))
    }

    fn take_layer(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        self.rows(program, With::Product, layer * into.width(self.spec), [from, into])
    }

    /// Rows of a value with those of another, whose numbers begin at `first`.
    fn rows(&self, program: &Program, with: With, first: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let (tokens, columns, x_pitch) = (program.rows as u32, into.width(self.spec), padded(from.width(self.spec)));
        let (x, y) = (self.value(from), self.value(into));
        let kernel = Multiply { tokens, columns, share: 1, first, x_pitch, with, x, y };
        Ok(Bound::new("multiply", format!("{columns} × {tokens}"), vec![kernel.bind(self.gpu)?]))
    }

    fn cut_gates(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let (tokens, width) = (program.rows as u32, into.width(self.spec));
        let Some(Mlp { activation, gate_cutoff: Some(cutoff), .. }) = self.spec.layers[layer].mlp else {
            panic!("layer {layer} has no gates that are cut off")
        };
        let kernel = CutGates { tokens, width, cutoff, activation, x: self.value(from), y: self.value(into) };
        Ok(Bound::new("cut_gates", format!("{width} × {tokens}"), vec![kernel.bind(self.gpu)?]))
    }

    fn stream_rows(&self, program: &Program, streams: Value) -> StreamRows<'a> {
        let spec = self.spec.altup.unwrap_or_else(|| panic!("one residual stream"));
        let (tokens, columns) = (program.rows as u32, self.spec.hidden_size);
        StreamRows { tokens, columns, spec, streams: self.value(streams), hidden: self.value(Value::Hidden) }
    }

    fn altup(&self, program: &Program, layer: usize, correct: bool, streams: Value) -> Result<Bound, GpuError> {
        let name = |part: &str| format!("layers.{layer}.altup{part}");
        let kernel = UpdateStreams {
            rows: self.stream_rows(program, streams),
            correct,
            epsilon: self.spec.norm.epsilon,
            gain: self.vector(&name("_norm.gain")),
            router: self.vector(&name(".router")),
            coefficients: self.vector(&name(if correct { ".correction" } else { ".prediction" })),
            scale: self.find(&name(".scale")).filter(|_| correct),
        };
        Ok(Bound::new("altup", streams_shape(program, streams, self.spec), vec![kernel.bind(self.gpu)?]))
    }

    fn scale(&self, program: &Program, by: &str, into: Value) -> Result<Bound, GpuError> {
        let columns = into.width(self.spec);
        let (x, y) = (self.vector(by), self.value(into));
        let (tokens, share) = (program.rows as u32, columns);
        let kernel = Multiply { tokens, columns, share, first: 0, x_pitch: 0, with: With::Product, x, y };
        Ok(Bound::new("multiply", format!("{columns} × {tokens}"), vec![kernel.bind(self.gpu)?]))
    }

    fn choose_experts(&self, program: &Program, layer: usize, [from, into]: [Value; 2]) -> Result<Bound, GpuError> {
        let experts = *experts(self.spec, layer);
        let kernel = ChooseExperts {
            tokens: program.rows as u32,
            experts,
            logits: self.value(from),
            selection_bias: self.find(&format!("layers.{layer}.router.selection_bias")),
            routing: self.value(into),
        };
        let shape = format!("{} of {} × {}", experts.num_active, experts.num_experts, program.rows);
        Ok(Bound::new("choose_experts", shape, vec![kernel.bind(self.gpu)?]))
    }

    fn project_experts(
        &self,
        program: &Program,
        layer: usize,
        matrix: &str,
        bias: Option<&str>,
        [routing, from, into]: [Value; 3],
        output: Output,
    ) -> Result<Bound, GpuError> {
        let shape = self.choices().experts_shape(program, layer, matrix, bias.is_some(), output);
        let matrix = self.weights.get(matrix);
        let projection = Projection {
            matrix,
            input: self.value(from),
            input_stride: padded(matrix.columns),
            output: self.value(into),
            output_stride: padded(self.spec.hidden_size),
            tokens: program.rows,
            bias: bias.map(|name| self.vector(name)),
            mode: output,
            times: None,
        };
        let ExpertsShape { num_experts, active, .. } = shape;
        let product = MatvecExperts { projection, num_experts, active, routing: self.value(routing) };
        let (scratch, each) = (&self.buffers.experts_scratch, (&self.buffers.scratch).into());
        let job = ExpertsJob { shape, product, scratch: scratch.into(), each };
        let (rows, pairs) = (shape.rows, shape.pairs());
        let words = format!("{}, {rows} × {} × {pairs}", matrix.scheme, matrix.columns);
        let mut bound = self.bind_best(tables::PROJECT_EXPERTS, &shape, &job, words, scratch)?;
        // As if no two tokens had an expert in common.
        bound.bytes = matrix.bytes() / num_experts as u64 * pairs.min(num_experts) as u64;
        bound.flops = 2 * (rows * matrix.columns * pairs) as u64;
        Ok(bound)
    }

    fn sample(&self, program: &Program, from: Value, advance: bool, masked: bool) -> Result<Bound, GpuError> {
        let b = self.buffers;
        let sample = Sample {
            rows: program.rows as u32,
            vocab: self.spec.vocab_size as u32,
            logits: self.value(from),
            params: (&b.sample_params).into(),
            seen: (&b.seen).into(),
            scratch: (&b.sample_scratch).into(),
            chosen: (&b.chosen).into(),
            next: advance.then(|| (&b.tokens).into()),
            mask: masked.then(|| (&b.mask).into()),
        };
        Ok(Bound::new("sample", format!("{} × {}", self.spec.vocab_size, program.rows), sample.bind(self.gpu)?.into()))
    }

    fn bind_best<K: Kind>(
        &self,
        table: &'static [&'static Candidate<K>],
        shape: &K::Shape,
        job: &K::Job<'_>,
        words: String,
        scratch: &wgpu::Buffer,
    ) -> Result<Bound, GpuError> {
        let Decision { candidate, by } = decide(table, &self.gpu.profile, shape, self.restrictions)?;
        let (needed, available) = ((candidate.scratch)(&self.gpu.profile, shape), scratch.size());
        if needed > available {
            let why = format!("{candidate:?} needs {needed} bytes to work in, and there are {available}");
            return Err(GpuError::Validation(why));
        }
        let bound = Bound::new(candidate.name, words, (candidate.bind)(self.gpu, job)?);
        Ok(Bound { chosen: Some(by), ..bound })
    }

    pub(super) fn choices(&self) -> Choices<'_> {
        let (profile, cache) = (&self.gpu.profile, self.cache_shape());
        let Self { spec, weights, restrictions, .. } = *self;
        Choices { profile, spec, weights, restrictions, cache, undecided: false }
    }

    fn cache_shape(&self) -> CacheShape {
        (self.cache.precision.is_f16(), self.cache.max_pages)
    }

    fn value(&self, value: Value) -> Binding<'a> {
        self.buffers.value(value).into()
    }

    fn find(&self, name: &str) -> Option<Binding<'a>> {
        self.weights.find(name).map(vector)
    }

    fn vector(&self, name: &str) -> Binding<'a> {
        vector(self.weights.get(name))
    }
}

impl Bound {
    fn count_product(&mut self, matrix: &GpuMatrix, tokens: usize) {
        self.bytes = matrix.bytes();
        self.flops = 2 * (matrix.rows * matrix.columns * tokens) as u64;
    }

    fn new(candidate: &'static str, shape: String, dispatches: Vec<Dispatch>) -> Self {
        Self { operation: String::new(), candidate, chosen: None, shape, bytes: 0, flops: 0, dispatches }
    }
}

fn streams_shape(program: &Program, streams: Value, spec: &DecoderSpec) -> String {
    format!("{} × {}", streams.width(spec), program.rows)
}

fn project_words(shape: &ProjectShape) -> String {
    format!("{}, {} × {} × {}", shape.scheme, shape.rows, shape.columns, shape.tokens)
}

/// A vector's values: one row, padded to whole units.
fn vector(matrix: &GpuMatrix) -> Binding<'_> {
    let plane = &matrix.chunks[0].planes[0].1;
    Binding { buffer: &plane.buffer, offset: plane.offset, size: Some((padded(matrix.columns) * 4) as u64) }
}
