//! [`Decoder`]: a package's transformer on a GPU, with its key/value cache.
//!
//! A *step* runs the decoder over some tokens: a chunk of one sequence's prompt (prefill), or one token of each of up to
//! [`MAX_BATCH`] sequences (decode). Its [program](crate::program) is bound to buffers once (`bind.rs`); what changes from
//! step to step (ids, positions, whose turn it is) lies in small buffers. A decode step is one submission, sampling included,
//! and only token ids come back; the next step can be submitted before they do (`run_ahead.rs`).
//!
//! With exact numerics a token's arithmetic never depends on what else is in its step, so a sequence in a batch gets the
//! very tokens that it gets alone.

mod bind;
mod buffers;
mod cache;
mod error;
mod masked;
mod measure;
mod pages;
mod profile;
mod run_ahead;
mod score;
mod states;
mod support;
mod weights;

pub use crate::program::MAX_BATCH;
pub use cache::{CachePrecision, SequenceId};
pub use error::DecoderError;
pub use measure::Measure;
pub use profile::{OperationProfile, StepProfile};
pub use support::require_supported;
pub use weights::LoadProgress;

use crate::device::{Gpu, GpuError};
use crate::kernels::attention::Token;
use crate::kernels::candidate::Numerics;
use crate::kernels::choose::{Restrictions, check_pins};
use crate::kernels::measured::Measured;
use crate::kernels::sample::{SampleParams, seen_words};
use crate::kernels::weights::GpuMatrix;
use crate::package::{Package, TableRows};
use crate::program::place::place;
use crate::program::{Part, Program, Step, Value};
use crate::sampling::SamplingOptions;
use bind::{BoundParts, Needs};
use buffers::{Buffers, Sizes, qk_parameters};
use cache::KvCache;
use haikuq_format::layout::padded;
use haikuq_format::spec::{PerLayerEmbedding, TensorSpec};
use haikuq_format::{DecoderSpec, Scheme};
use run_ahead::Flights;
use std::collections::BTreeMap;
use std::sync::Arc;
use weights::Weights;

/// In a page, packages of at least so many bytes take longer to load than the kernels that are to be compared take to compile.
const COMPILED_MEANWHILE: u64 = 256 << 20;

/// How a package is loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DecoderOptions {
    /// Precision of the key/value cache.
    pub cache: CachePrecision,
    /// Sequences that can exist at once.
    pub max_sequences: usize,
    /// Positions of a sequence at most; the spec's `max_context` where absent or larger.
    pub max_context: Option<usize>,
    /// Tokens of a prompt that are computed in one step.
    pub prefill_chunk: usize,
    /// Whether only exact candidates are used; see [`Numerics`]. `f32` packages always are exact.
    pub exact: bool,
    /// Candidates by operation, to be taken where they can: to measure and to compare.
    pub pins: BTreeMap<String, String>,
    /// Times of candidates that an earlier load gave ([`Decoder::measured`]). Those of other devices or runtimes are ignored.
    pub measured: Option<Measured>,
    /// Whether shapes that are not among these are measured: 300 ms at most, the table decides the rest.
    pub measure: Measure,
    /// Decode steps that are submitted before the ids of those before them were read back, at most; what is best for the
    /// device where absent.
    pub run_ahead: Option<usize>,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        Self {
            cache: CachePrecision::Auto,
            max_sequences: MAX_BATCH,
            max_context: None,
            prefill_chunk: 512,
            exact: false,
            pins: BTreeMap::new(),
            measured: None,
            measure: Measure::default(),
            run_ahead: None,
        }
    }
}

/// How the next token of a sequence is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Temperature and kin.
    pub sampling: &'a SamplingOptions,
    /// Tokens chosen so far: which random number is used.
    pub step: u64,
}

impl Choice<'_> {
    fn params(&self, sequence: SequenceId) -> SampleParams {
        SampleParams::new(self.sampling, self.step, sequence.row as u32)
    }
}

/// A sequence's part in a decode step.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its newest token, whose keys and values are not in the cache yet.
    pub token: u32,
    /// How the token after it is chosen.
    pub choice: Choice<'a>,
}

/// What a loaded decoder takes of the GPU's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// Shards, but for a table of numbers for each layer, which stays where the package lies.
    pub weights: u64,
    /// Pools of keys and values as they are now.
    pub cache: u64,
    /// Activations and logits.
    pub scratch: u64,
}

/// A package's transformer on a GPU.
pub struct Decoder {
    gpu: Arc<Gpu>,
    spec: DecoderSpec,
    weights: Weights,
    cache: KvCache,
    buffers: Buffers,
    parts: BoundParts,
    flights: Flights,
    /// What tokens bring along for each layer, where the package lies.
    per_layer: Option<TableRows>,
    restrictions: Restrictions,
    numerics: Numerics,
    max_context: usize,
    prefill_chunk: usize,
    run_ahead: usize,
}

impl Decoder {
    /// Uploads a package's weights, shard by shard, each checked before it is used.
    ///
    /// # Errors
    /// [`DecoderError::Unsupported`] before anything is read, [`DecoderError::Package`] for damaged files,
    /// [`DecoderError::Gpu`] for a device that is too small.
    pub async fn load(
        gpu: Arc<Gpu>,
        package: &Package,
        options: &DecoderOptions,
        progress: &mut (impl FnMut(LoadProgress) + ?Sized),
    ) -> Result<Self, DecoderError> {
        let spec = package.manifest().spec.clone();
        require_supported(&spec)?;
        let max_context = options.max_context.map_or(spec.max_context, |n| n.clamp(1, spec.max_context));
        let (max_sequences, prefill_chunk) =
            (options.max_sequences.max(1), options.prefill_chunk.clamp(32, 4096).next_multiple_of(32));
        check_pins(&options.pins).map_err(|what| DecoderError::Unsupported { field: "pins", what })?;
        let weights = Weights::allocate(&gpu, package.manifest())?;
        let key = gpu.key();
        let measured = options.measured.clone().filter(|m| m.is_of(&key)).unwrap_or_else(|| Measured::on(key));
        let restrictions = Restrictions { exact: options.exact || weights.are_f32(), pins: options.pins.clone(), measured };
        let cache = KvCache::new(&gpu, &spec, options.cache, max_sequences, max_context)?;
        let shape = (cache.precision.is_f16(), cache.max_pages);
        let (profile, restricted) = (&gpu.profile, &restrictions);
        let mut choices =
            bind::Choices { profile, spec: &spec, weights: &weights, restrictions: restricted, cache: shape, undecided: false };
        let measures = options.measure.applies(&gpu);
        let tasks = if measures { choices.tasks(prefill_chunk, cache.unshared_positions()) } else { Vec::new() };
        choices.undecided = !tasks.is_empty();
        let per_layer = spec.per_layer_embedding.and_then(|_| package.rows_of(PerLayerEmbedding::TABLE));
        let table = per_layer.as_ref().map(|table| (table.scheme(), table.columns()));
        let (buffers, needs) = buffers(&choices, &gpu, prefill_chunk, max_sequences, table)?;
        let numerics = needs.numerics();
        // A browser says only later that there is no memory.
        gpu.finish().await?;
        let run_ahead =
            options.run_ahead.unwrap_or_else(|| run_ahead::depth(&gpu.profile)).min(buffers::MAX_IN_FLIGHT - run_ahead::TOGETHER);
        let (parts, flights) = (BoundParts::default(), Flights::default());
        let mut decoder = Self {
            gpu,
            spec,
            weights,
            cache,
            buffers,
            parts,
            flights,
            per_layer,
            restrictions,
            numerics,
            max_context,
            prefill_chunk,
            run_ahead,
        };
        if cfg!(target_arch = "wasm32") {
            decoder.compile()?;
            if decoder.weights.bytes >= COMPILED_MEANWHILE {
                decoder.prepare_measuring(&tasks);
            }
        }
        decoder.weights.fill(&decoder.gpu, package, progress).await?;
        decoder.join_qk_norms();
        if !tasks.is_empty() {
            decoder.measure(&tasks).await?;
        }
        decoder.gpu.check()?;
        Ok(decoder)
    }

    /// What the numbers of a token may depend on, by the choices as they are.
    fn chosen_numerics(&mut self) -> Result<Numerics, GpuError> {
        let chunk = self.prefill_chunk;
        let (_, context) = self.parts_and_context();
        let choices = context.choices();
        Ok(needs(&choices, &programs(&choices, chunk))?.numerics())
    }

    /// Copies each layer's norms of queries and keys to where `rope_cache` reads them, one after the other.
    fn join_qk_norms(&self) {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (layer, joined) in self.buffers.qk_norms.iter().enumerate() {
            let Some(joined) = joined else { continue };
            let mut at = 0;
            for part in qk_parameters(&self.weights, layer) {
                let (plane, bytes) = (&part.chunks[0].planes[0].1, part.columns as u64 * 4);
                encoder.copy_buffer_to_buffer(&plane.buffer, plane.offset, joined, at, bytes);
                at += bytes;
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// Binds the programs that every conversation needs. A browser compiles their pipelines on its own while weights are
    /// still on their way; elsewhere this waits, and the first step may as well do it.
    fn compile(&mut self) -> Result<(), DecoderError> {
        let (parts, context) = self.parts_and_context();
        for step in [Step::of_prefill(2), Step::of_decode(1)] {
            parts.get(&context, Part::Body(step))?;
        }
        for from in [Value::Hidden, Value::HeadRows] {
            parts.get(&context, Part::Head { rows: 1, from })?;
        }
        parts.get(&context, Part::Sample { rows: 1, advance: true, masked: false })?;
        Ok(())
    }

    /// The decoder's shape.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// The device it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// What the numbers of a token may depend on: exact where every candidate chosen is.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// Times of candidates on the device: those that were given, and those that this load measured. To be given to later
    /// loads on it, of any model.
    pub fn measured(&self) -> &Measured {
        &self.restrictions.measured
    }

    /// Positions that a sequence may have.
    pub fn max_context(&self) -> usize {
        self.max_context
    }

    /// GPU memory in use now.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { weights: self.weights.resident, cache: self.cache.bytes(), scratch: self.buffers.bytes() }
    }

    /// Bytes of weights that one decoded token reads: all matrices, the single rows of an untied embedding and of a table
    /// of positions aside; of experts the part that a token uses.
    pub fn bytes_per_token(&self) -> u64 {
        let tensors = self.spec.tensors();
        let one_row = |name: &str| name == "positions" || (name == "embedding" && !self.spec.tied_head);
        let read = tensors.iter().filter(|t| !one_row(&t.name));
        let bytes = |t: &TensorSpec| {
            let (active, all) = self.spec.active_share(&t.name);
            self.weights.find(&t.name).map_or(0, GpuMatrix::bytes) / all * active
        };
        read.map(bytes).sum()
    }

    /// A new, empty sequence.
    ///
    /// # Errors
    /// [`DecoderError::TooManySequences`].
    pub fn create_sequence(&mut self) -> Result<SequenceId, DecoderError> {
        self.cache.create()
    }

    /// Frees a sequence and its pages.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn remove_sequence(&mut self, id: SequenceId) -> Result<(), DecoderError> {
        self.cache.remove(id)
    }

    /// Positions that a sequence holds.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn sequence_len(&self, id: SequenceId) -> Result<usize, DecoderError> {
        self.cache.len(id)
    }

    /// Forgets a sequence's positions from `len` on. Where layers keep states, or the keys and values of a window alone, a
    /// sequence can be cut only where these are known, which may be earlier. Returns how many positions are left; the tokens after them are the
    /// caller's to give again.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<usize, DecoderError> {
        self.cache.truncate(&self.gpu, id, len)
    }

    /// Remembers the states and windows of a sequence as they are, if its layers have such, so that [`Decoder::truncate`] can cut it here.
    /// A sequence keeps a handful of these, the memory of which counts as cache; [`Decoder::prefill`] does the same.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn keep_states(&mut self, id: SequenceId) -> Result<(), DecoderError> {
        self.cache.keep_states(&self.gpu, id)
    }

    /// Appends a chunk of at most [`DecoderOptions::prefill_chunk`] tokens of a prompt to a sequence and leaves its last
    /// token's logits as row 0. Long prompts are given chunk by chunk, so that the caller can stop or show progress. This waits
    /// for a decoder's package alone, where rows of a table are read from there, and not for the GPU.
    ///
    /// # Errors
    /// [`DecoderError`]; the sequence keeps its length then.
    pub async fn prefill(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), DecoderError> {
        if tokens.len() > self.prefill_chunk {
            return Err(DecoderError::ContextOverflow { needed: tokens.len(), limit: self.prefill_chunk });
        }
        self.fit_ropes(id, tokens.len()).await?;
        let step = self.append(id, tokens).await?;
        self.submit_in_pieces(Part::Body(step))?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.copy_head_rows(&mut encoder, tokens.len() - 1, 1);
        self.encode(&mut encoder, &[Part::Head { rows: 1, from: Value::HeadRows }])?;
        self.gpu.queue.submit([encoder.finish()]);
        self.cache.advance(id, tokens)?;
        self.keep_states(id)
    }

    /// Says that a sequence is going to have `len` positions, before a prompt is given chunk by chunk. A model that
    /// rotates long sequences otherwise than short ones (see [`haikuq_format::spec::LongRope`]) would find out at some
    /// chunk, and compute those before it again.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn expect(&mut self, id: SequenceId, len: usize) -> Result<(), DecoderError> {
        self.cache.expect(id, len)
    }

    /// Makes a sequence that is about to get `more` tokens a long one if that is what it becomes, or one that is not.
    /// If that changes it, its tokens so far are computed anew.
    async fn fit_ropes(&mut self, id: SequenceId, more: usize) -> Result<(), DecoderError> {
        let Some(beyond) = self.spec.long_beyond() else { return Ok(()) };
        let earlier = self.cache.set_length(id, self.cache.len(id)? + more, beyond)?;
        for chunk in earlier.chunks(self.prefill_chunk) {
            let step = self.append(id, chunk).await?;
            self.submit_in_pieces(Part::Body(step))?;
            self.cache.advance(id, chunk)?;
        }
        Ok(())
    }

    /// Tokens that [`Decoder::prefill`] takes at once.
    pub fn prefill_chunk(&self) -> usize {
        self.prefill_chunk
    }

    /// Chooses the next token from the logits that [`Decoder::prefill`] left for `id`.
    ///
    /// # Errors
    /// [`DecoderError::Gpu`].
    pub async fn sample_first(&mut self, id: SequenceId, choice: Choice<'_>) -> Result<u32, DecoderError> {
        self.forget_flights();
        self.write_params(&[choice.params(id)]);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        // The next step is given its token by the host; that it is also advanced spares another pipeline.
        self.encode(&mut encoder, &[Part::Sample { rows: 1, advance: true, masked: false }])?;
        self.submit_sampling(encoder);
        Ok(self.land().await?[0])
    }

    /// Says which tokens count as having occurred in a sequence, for the repetition penalty.
    pub fn set_seen(&mut self, id: SequenceId, tokens: &[u32]) {
        let words = seen_words(self.spec.vocab_size as u32) as usize;
        let mut bits = vec![0u32; words];
        for token in tokens.iter().map(|t| *t as usize).filter(|t| *t < self.spec.vocab_size) {
            bits[token / 32] |= 1 << (token % 32);
        }
        self.gpu.write(&self.buffers.seen, (id.row * words * 4) as u64, &bits);
    }

    /// Reads the first `rows` rows of logits, \[rows, vocab_size\].
    ///
    /// # Errors
    /// [`DecoderError::Gpu`].
    pub async fn logits(&self, rows: usize) -> Result<Vec<f32>, DecoderError> {
        let (vocab, stride) = (self.spec.vocab_size, padded(self.spec.vocab_size));
        let mut all: Vec<f32> = self.gpu.read(self.buffers.value(Value::Logits), 0, rows * stride).await?;
        if stride != vocab {
            for row in 1..rows {
                all.copy_within(row * stride..row * stride + vocab, row * vocab);
            }
            all.truncate(rows * vocab);
        }
        Ok(all)
    }

    /// Checks ids, makes room and writes the step's token list for consecutive tokens of one sequence.
    async fn append(&mut self, id: SequenceId, tokens: &[u32]) -> Result<Step, DecoderError> {
        if tokens.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        let start = self.cache.len(id)?;
        self.check_ids(tokens.iter().copied())?;
        self.look_up(tokens).await?;
        self.reserve(id, start + tokens.len())?;
        let step = Step::of_prefill(tokens.len());
        let (sequence, long) = (id.row as u32, u32::from(self.cache.is_long(id)?));
        let entry = |(position, id): (usize, &u32)| Token { id: *id, position: position as u32, sequence, long };
        let mut entries: Vec<Token> = (start..).zip(tokens).map(entry).collect();
        entries.resize(step.tokens, Token::IDLE);
        self.gpu.write(&self.buffers.tokens, 0, &entries);
        Ok(step)
    }

    /// Gives the next step what its tokens, whose ids exist, bring along for each layer.
    async fn look_up(&mut self, ids: &[u32]) -> Result<(), DecoderError> {
        if let (Some(table), Some(rows)) = (&mut self.per_layer, &self.buffers.per_layer_rows) {
            let planes = table.gather(ids).await?;
            for ((_, plane), (_, bytes)) in rows.packed.chunks[0].planes.iter().zip(planes) {
                self.gpu.write(&plane.buffer, plane.offset, &bytes);
            }
            // A row that the table does not have is zeros, as an id is that no table has.
            let number = |(i, id): (usize, &u32)| [if (*id as usize) < table.len() { i as u32 } else { u32::MAX }, 0, 0, 0];
            self.gpu.write(&rows.numbers, 0, &ids.iter().enumerate().map(number).collect::<Vec<_>>());
        }
        Ok(())
    }

    fn check_ids(&self, mut ids: impl Iterator<Item = u32>) -> Result<(), DecoderError> {
        let vocab_size = self.spec.vocab_size;
        match ids.find(|id| *id as usize >= vocab_size) {
            Some(id) => Err(DecoderError::TokenOutOfRange { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn reserve(&mut self, id: SequenceId, len: usize) -> Result<(), DecoderError> {
        if self.cache.reserve(&self.gpu, id, len)? {
            self.parts.forget_bodies();
        }
        Ok(())
    }

    fn parts_and_context(&mut self) -> (&mut BoundParts, bind::Context<'_>) {
        let Self { gpu, spec, weights, cache, buffers, parts, restrictions, .. } = self;
        (parts, bind::Context { gpu, spec, weights, cache, buffers, restrictions })
    }

    /// Submits a part piece by piece: a GPU begins while the rest is still being encoded, which takes some 4 µs a dispatch.
    fn submit_in_pieces(&mut self, part: Part) -> Result<(), DecoderError> {
        let (bound, context) = self.parts_and_context();
        let dispatches: Vec<_> = bound.get(&context, part)?.iter().flat_map(|b| &b.dispatches).collect();
        for piece in dispatches.chunks(PIECE) {
            let mut encoder = context.gpu.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            piece.iter().for_each(|dispatch| dispatch.encode(&mut pass));
            drop(pass);
            context.gpu.queue.submit([encoder.finish()]);
        }
        Ok(())
    }

    /// Adds `parts`, one after the other, as one pass.
    fn encode(&mut self, encoder: &mut wgpu::CommandEncoder, parts: &[Part]) -> Result<(), DecoderError> {
        self.add_to(&mut encoder.begin_compute_pass(&Default::default()), parts)
    }

    /// Adds `parts`, one after the other, to a pass.
    fn add_to(&mut self, pass: &mut wgpu::ComputePass<'_>, parts: &[Part]) -> Result<(), DecoderError> {
        let (bound, context) = self.parts_and_context();
        for part in parts {
            for dispatch in bound.get(&context, *part)?.iter().flat_map(|b| &b.dispatches) {
                dispatch.encode(pass);
            }
        }
        Ok(())
    }

    /// Copies `count` rows of the residual stream, from row `first`, to where the head reads.
    fn copy_head_rows(&self, encoder: &mut wgpu::CommandEncoder, first: usize, count: usize) {
        let row = (padded(self.spec.hidden_size) * 4) as u64;
        let b = &self.buffers;
        let (hidden, picked) = (b.value(Value::Hidden), b.value(Value::HeadRows));
        encoder.copy_buffer_to_buffer(hidden, first as u64 * row, picked, 0, count as u64 * row);
    }
}

/// Dispatches of a prompt's chunk that are submitted together.
const PIECE: usize = 64;

/// Buffers for every step that may be asked for, and what its candidates need.
fn buffers(
    choices: &bind::Choices<'_>,
    gpu: &Gpu,
    chunk: usize,
    max_sequences: usize,
    table: Option<(Scheme, usize)>,
) -> Result<(Buffers, Needs), DecoderError> {
    let bind::Choices { spec, weights, .. } = *choices;
    let logit_rows = buffers::logit_rows(spec, chunk);
    let programs = programs(choices, chunk);
    let needs = needs(choices, &programs)?;
    let placement = place(spec, &programs, chunk, logit_rows);
    let sizes = Sizes { chunk, logit_rows, max_sequences, needs, table };
    Ok((Buffers::new(gpu, spec, weights, placement, &sizes), needs))
}

/// The programs of every step that may be asked for.
fn programs(choices: &bind::Choices<'_>, chunk: usize) -> Vec<Program> {
    let steps = (1..=MAX_BATCH).map(Step::of_decode).chain((2..=chunk).step_by(32).map(Step::of_prefill));
    let mut parts: Vec<_> = steps.map(Part::Body).collect();
    for rows in (1..=MAX_BATCH).chain([buffers::logit_rows(choices.spec, chunk)]) {
        parts.extend([Value::Hidden, Value::HeadRows].map(|from| Part::Head { rows, from }));
    }
    parts.push(Part::Sample { rows: 1, advance: true, masked: false });
    parts.iter().map(|part| choices.program(*part)).collect()
}

/// What the candidates of all `programs` need.
fn needs(choices: &bind::Choices<'_>, programs: &[Program]) -> Result<Needs, GpuError> {
    programs.iter().try_fold(Needs::default(), |needs, program| Ok(needs.and(choices.needs(program)?)))
}
