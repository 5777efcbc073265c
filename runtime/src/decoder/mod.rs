//! [`Decoder`]: a package's transformer on a GPU, with its key/value cache.
//!
//! A *step* runs the decoder over some tokens: a chunk of one sequence's prompt (prefill), or one token of each of up to
//! [`MAX_BATCH`] sequences (decode). Everything about a step that only its number of tokens decides is built once, as a
//! graph of dispatches (`graph.rs`); what changes from step to step (ids, positions, whose turn it is) lies in small buffers. A
//! decode step is one submission, sampling included, and only token ids come back.
//!
//! A token's arithmetic never depends on what else is in its step, so a sequence in a batch gets the very tokens that it
//! gets alone.

mod cache;
mod error;
mod graph;
mod score;
mod support;
mod weights;

pub use cache::{CachePrecision, SequenceId};
pub use error::DecoderError;
pub use support::require_supported;
pub use weights::LoadProgress;

use crate::device::{Dispatch, Gpu};
use crate::kernels::attention::{IDLE, Token};
use crate::kernels::rope_cache;
use crate::kernels::sample::{Sample, SampleParams, seen_words};
use crate::kernels::weights::GpuMatrix;
use crate::package::Package;
use crate::sampling::SamplingOptions;
use cache::KvCache;
use graph::{Graphs, Step};
use haikuq_format::DecoderSpec;
use haikuq_format::layout::padded;
use haikuq_format::spec::Mlp;
use std::collections::BTreeMap;
use std::sync::Arc;
use weights::Weights;

/// Sequences that one decode step serves; a larger batch takes several steps.
pub const MAX_BATCH: usize = 8;

/// Logits are computed for at most this many bytes at once.
const MAX_LOGIT_BYTES: usize = if cfg!(target_arch = "wasm32") { 16 << 20 } else { 64 << 20 };

/// How a package is loaded.
#[derive(Clone, Debug)]
pub struct DecoderOptions {
    /// Precision of the key/value cache.
    pub cache: CachePrecision,
    /// Sequences that can exist at once.
    pub max_sequences: usize,
    /// Positions of a sequence at most; the spec's `max_context` where absent or larger.
    pub max_context: Option<usize>,
    /// Tokens of a prompt that are computed in one step.
    pub prefill_chunk: usize,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        Self { cache: CachePrecision::Auto, max_sequences: MAX_BATCH, max_context: None, prefill_chunk: 512 }
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
    /// Shards.
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
    graphs: Graphs,
    max_context: usize,
    prefill_chunk: usize,
}

/// Activations and per-step inputs, sized for the largest step.
struct Buffers {
    /// `vec4<u32>` a token: id, position, row of the page table, unused.
    tokens: wgpu::Buffer,
    /// The residual stream \[chunk, padded(hidden)\].
    hidden: wgpu::Buffer,
    /// Its normalized copy, where a product does not normalize on the way; then a block's output on its way through a norm.
    normed: wgpu::Buffer,
    qkv: wgpu::Buffer,
    query: wgpu::Buffer,
    attention: wgpu::Buffer,
    /// Inside the feed-forward networks \[chunk, padded(intermediate_size)\], by [`mlp_key`].
    mlps: BTreeMap<usize, wgpu::Buffer>,
    /// Partial results of split attention.
    partials: wgpu::Buffer,
    /// Inverse frequencies of each rope table; after them those for long sequences, where there are such.
    inv_freqs: Vec<wgpu::Buffer>,
    /// Gains and biases of each layer's norms of queries and keys, where it has such.
    qk_norms: Vec<Option<wgpu::Buffer>>,
    /// Rows of the residual stream that logits are wanted for \[logit_rows, padded(hidden)\].
    head_input: wgpu::Buffer,
    head_normed: wgpu::Buffer,
    /// \[logit_rows, padded(vocab)\].
    logits: wgpu::Buffer,
    logit_rows: usize,
    /// Sampling parameters, one a row of a batch.
    sample_params: wgpu::Buffer,
    /// Where the sampling kernels work.
    sample_scratch: wgpu::Buffer,
    /// Tokens that have occurred, one bit an id, [`seen_words`] a sequence.
    seen: wgpu::Buffer,
    /// Chosen ids \[MAX_BATCH\].
    chosen: wgpu::Buffer,
    /// Mappable copy of `chosen`.
    chosen_staging: wgpu::Buffer,
}

impl Buffers {
    fn new(gpu: &Gpu, spec: &DecoderSpec, weights: &Weights, cache: &KvCache, chunk: usize, max_sequences: usize) -> Self {
        let rows = |label, width: usize, rows: usize| gpu.storage(label, (rows * padded(width) * 4) as u64);
        let hidden = |label| rows(label, spec.hidden_size, chunk);
        let logit_rows = (MAX_LOGIT_BYTES / (padded(spec.vocab_size) * 4)).clamp(MAX_BATCH, chunk.max(MAX_BATCH));
        let mut mlps = BTreeMap::<usize, usize>::new();
        for mlp in spec.mlps() {
            let width = mlps.entry(mlp_key(mlp)).or_default();
            *width = mlp.intermediate_size.max(*width);
        }
        Self {
            tokens: gpu.storage("tokens", chunk.max(MAX_BATCH) as u64 * 16),
            hidden: hidden("hidden"),
            normed: hidden("normed"),
            qkv: rows("qkv", spec.max_qkv_size(), chunk),
            query: rows("query", spec.max_attention_size(), chunk),
            attention: rows("attention", spec.max_attention_size(), chunk),
            mlps: mlps.into_iter().map(|(key, width)| (key, rows("mlp", width, chunk))).collect(),
            partials: gpu.storage("attention partials", graph::partials_bytes(gpu, spec, cache)),
            inv_freqs: spec.ropes.iter().map(|r| gpu.upload("inverse frequencies", &rope_cache::frequencies(r))).collect(),
            qk_norms: qk_norms(gpu, spec, weights),
            head_input: rows("head input", spec.hidden_size, logit_rows),
            head_normed: rows("head normed", spec.hidden_size, logit_rows),
            logits: rows("logits", spec.vocab_size, logit_rows),
            logit_rows,
            sample_params: gpu.storage("sample parameters", (MAX_BATCH * size_of::<SampleParams>()) as u64),
            sample_scratch: gpu.storage("sampling", Sample::scratch_bytes(MAX_BATCH as u32, spec.vocab_size as u32)),
            seen: gpu.storage("seen tokens", max_sequences as u64 * u64::from(seen_words(spec.vocab_size as u32)) * 4),
            chosen: gpu.storage("chosen tokens", (MAX_BATCH * 4) as u64),
            chosen_staging: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("chosen tokens, mapped"),
                size: (MAX_BATCH * 4) as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
        }
    }

    fn bytes(&self) -> u64 {
        [
            &self.tokens,
            &self.hidden,
            &self.normed,
            &self.qkv,
            &self.query,
            &self.attention,
            &self.partials,
            &self.head_input,
            &self.head_normed,
            &self.logits,
            &self.sample_params,
            &self.sample_scratch,
            &self.seen,
            &self.chosen,
            &self.chosen_staging,
        ]
        .into_iter()
        .chain(self.mlps.values())
        .map(|b| b.size())
        .sum()
    }

    /// Where a feed-forward network's inner activations stand.
    fn mlp(&self, mlp: &Mlp) -> &wgpu::Buffer {
        &self.mlps[&mlp_key(mlp)]
    }
}

/// Which buffer holds a feed-forward network's inner activations. Products read rows up to whole units and rely on zeros
/// beyond the true columns, which nothing writes: so each width has a buffer of its own, unless it needs no padding.
fn mlp_key(mlp: &Mlp) -> usize {
    let width = mlp.intermediate_size;
    if padded(width) == width { 0 } else { width }
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
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, DecoderError> {
        let spec = package.manifest().spec.clone();
        require_supported(&spec)?;
        let max_context = options.max_context.map_or(spec.max_context, |n| n.clamp(1, spec.max_context));
        let (max_sequences, prefill_chunk) =
            (options.max_sequences.max(1), options.prefill_chunk.clamp(32, 4096).next_multiple_of(32));
        let weights = Weights::allocate(&gpu, package.manifest())?;
        let cache = KvCache::new(&gpu, &spec, options.cache, max_sequences, max_context)?;
        let buffers = Buffers::new(&gpu, &spec, &weights, &cache, prefill_chunk, max_sequences);
        // A browser says only later that memory is not to be had.
        gpu.finish().await?;
        let mut decoder = Self { gpu, spec, weights, cache, buffers, graphs: Graphs::default(), max_context, prefill_chunk };
        if cfg!(target_arch = "wasm32") {
            decoder.compile()?;
        }
        decoder.weights.fill(&decoder.gpu, package, progress).await?;
        decoder.join_qk_norms();
        decoder.gpu.check()?;
        Ok(decoder)
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

    /// Builds the graphs that every conversation needs. A browser compiles their pipelines on its own while weights are
    /// still on their way; elsewhere this waits, and the first step may as well do it.
    fn compile(&mut self) -> Result<(), DecoderError> {
        let (graphs, context) = self.graphs_and_context();
        for step in [Step::of_prefill(2), Step::of_decode(1)] {
            graphs.body(&context, step)?;
        }
        graphs.head(&context, 1)?;
        self.sample_graph(1)?;
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

    /// Positions that a sequence may have.
    pub fn max_context(&self) -> usize {
        self.max_context
    }

    /// GPU memory in use now.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse { weights: self.weights.bytes, cache: self.cache.bytes(), scratch: self.buffers.bytes() }
    }

    /// Bytes of weights that one decoded token reads: all matrices, the single rows of an untied embedding and of a table
    /// of positions aside.
    pub fn bytes_per_token(&self) -> u64 {
        let tensors = self.spec.tensors();
        let one_row = |name: &str| name == "positions" || (name == "embedding" && !self.spec.tied_head);
        let read = tensors.iter().filter(|t| !one_row(&t.name));
        let bytes = read.filter_map(|t| self.weights.find(&t.name)).flat_map(|m| &m.chunks).flat_map(|c| &c.planes);
        bytes.map(|(_, p)| p.bytes).sum()
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

    /// Forgets a sequence's positions from `len` on.
    ///
    /// # Errors
    /// [`DecoderError::NoSuchSequence`].
    pub fn truncate(&mut self, id: SequenceId, len: usize) -> Result<(), DecoderError> {
        self.cache.truncate(id, len)
    }

    /// Appends a chunk of at most [`DecoderOptions::prefill_chunk`] tokens of a prompt to a sequence and leaves its last
    /// token's logits as row 0. Long prompts are given chunk by chunk, so that the caller can stop or show progress.
    ///
    /// # Errors
    /// [`DecoderError`]; the sequence keeps its length then.
    pub fn prefill(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), DecoderError> {
        if tokens.len() > self.prefill_chunk {
            return Err(DecoderError::ContextOverflow { needed: tokens.len(), limit: self.prefill_chunk });
        }
        self.fit_ropes(id, tokens.len())?;
        let step = self.append(id, tokens)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode_body(&mut encoder, step)?;
        self.copy_head_rows(&mut encoder, tokens.len() - 1, 1);
        self.encode_head(&mut encoder, 1)?;
        self.gpu.queue.submit([encoder.finish()]);
        self.cache.advance(id, tokens)
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
    /// What it holds is computed anew then.
    fn fit_ropes(&mut self, id: SequenceId, more: usize) -> Result<(), DecoderError> {
        let Some(beyond) = self.spec.long_beyond() else { return Ok(()) };
        let earlier = self.cache.set_length(id, self.cache.len(id)? + more, beyond)?;
        for chunk in earlier.chunks(self.prefill_chunk) {
            let step = self.append(id, chunk)?;
            let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
            self.encode_body(&mut encoder, step)?;
            self.gpu.queue.submit([encoder.finish()]);
            self.cache.advance(id, chunk)?;
        }
        Ok(())
    }

    /// Tokens that [`Decoder::prefill`] takes at once.
    pub fn prefill_chunk(&self) -> usize {
        self.prefill_chunk
    }

    /// Appends one token to each of up to [`MAX_BATCH`] sequences, leaves their logits as rows 0, 1, … and chooses each
    /// one's next token. One submission; the ids come back.
    ///
    /// # Errors
    /// [`DecoderError`]; the sequences keep their lengths then.
    pub async fn decode(&mut self, batch: &[Next<'_>]) -> Result<Vec<u32>, DecoderError> {
        for next in batch {
            self.fit_ropes(next.sequence, 1)?;
        }
        self.write_batch(batch)?;
        let params: Vec<_> = batch.iter().map(|n| n.choice.params(n.sequence)).collect();
        self.gpu.write(&self.buffers.sample_params, 0, &params);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode_body(&mut encoder, Step::of_decode(batch.len()))?;
        self.copy_head_rows(&mut encoder, 0, batch.len());
        self.encode_head(&mut encoder, batch.len())?;
        self.encode_sample(&mut encoder, batch.len())?;
        self.gpu.queue.submit([encoder.finish()]);
        for next in batch {
            self.cache.advance(next.sequence, &[next.token])?;
        }
        self.chosen(batch.len()).await
    }

    /// Chooses the next token from the logits that [`Decoder::prefill`] left for `id`.
    ///
    /// # Errors
    /// [`DecoderError::Gpu`].
    pub async fn sample_first(&mut self, id: SequenceId, choice: Choice<'_>) -> Result<u32, DecoderError> {
        self.gpu.write(&self.buffers.sample_params, 0, &[choice.params(id)]);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.encode_sample(&mut encoder, 1)?;
        self.gpu.queue.submit([encoder.finish()]);
        Ok(self.chosen(1).await?[0])
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
        let mut all: Vec<f32> = self.gpu.read(&self.buffers.logits, 0, rows * stride).await?;
        if stride != vocab {
            for row in 1..rows {
                all.copy_within(row * stride..row * stride + vocab, row * vocab);
            }
            all.truncate(rows * vocab);
        }
        Ok(all)
    }

    async fn chosen(&self, count: usize) -> Result<Vec<u32>, DecoderError> {
        let ids: Vec<u32> = self.gpu.map(&self.buffers.chosen_staging, count).await?;
        if ids.contains(&IDLE) { Err(DecoderError::NotFinite) } else { Ok(ids) }
    }

    /// Checks ids, makes room and writes the step's token list for consecutive tokens of one sequence.
    fn append(&mut self, id: SequenceId, tokens: &[u32]) -> Result<Step, DecoderError> {
        if tokens.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        let start = self.cache.len(id)?;
        self.check_ids(tokens.iter().copied())?;
        self.reserve(id, start + tokens.len())?;
        let step = Step::of_prefill(tokens.len());
        let (sequence, long) = (id.row as u32, u32::from(self.cache.is_long(id)?));
        let entry = |(position, id): (usize, &u32)| Token { id: *id, position: position as u32, sequence, long };
        let mut entries: Vec<Token> = (start..).zip(tokens).map(entry).collect();
        entries.resize(step.tokens(), Token::IDLE);
        self.gpu.write(&self.buffers.tokens, 0, &entries);
        Ok(step)
    }

    fn write_batch(&mut self, batch: &[Next<'_>]) -> Result<(), DecoderError> {
        if batch.is_empty() {
            return Err(DecoderError::NoTokens);
        }
        if batch.len() > MAX_BATCH {
            return Err(DecoderError::TooManySequences(MAX_BATCH));
        }
        self.check_ids(batch.iter().map(|n| n.token))?;
        let mut entries = Vec::with_capacity(batch.len());
        for Next { sequence, token, .. } in batch {
            let position = self.cache.len(*sequence)?;
            self.reserve(*sequence, position + 1)?;
            let long = u32::from(self.cache.is_long(*sequence)?);
            entries.push(Token { id: *token, position: position as u32, sequence: sequence.row as u32, long });
        }
        self.gpu.write(&self.buffers.tokens, 0, &entries);
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
            self.graphs.forget_bodies();
        }
        Ok(())
    }

    fn graphs_and_context(&mut self) -> (&mut Graphs, graph::Context<'_>) {
        let Self { gpu, spec, weights, cache, buffers, graphs, .. } = self;
        (graphs, graph::Context { gpu, spec, weights, cache, buffers })
    }

    fn encode_body(&mut self, encoder: &mut wgpu::CommandEncoder, step: Step) -> Result<(), DecoderError> {
        let (graphs, context) = self.graphs_and_context();
        encode(encoder, graphs.body(&context, step)?);
        Ok(())
    }

    fn encode_head(&mut self, encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<(), DecoderError> {
        let (graphs, context) = self.graphs_and_context();
        encode(encoder, graphs.head(&context, rows)?);
        Ok(())
    }

    fn sample_graph(&mut self, rows: usize) -> Result<&[Dispatch], DecoderError> {
        let b = &self.buffers;
        let sample = Sample {
            rows: rows as u32,
            vocab: self.spec.vocab_size as u32,
            logits: (&b.logits).into(),
            params: (&b.sample_params).into(),
            seen: (&b.seen).into(),
            scratch: (&b.sample_scratch).into(),
            chosen: (&b.chosen).into(),
            next: None,
        };
        self.graphs.sample(rows, || Ok(sample.bind(&self.gpu)?.into()))
    }

    fn encode_sample(&mut self, encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<(), DecoderError> {
        encode(encoder, self.sample_graph(rows)?);
        let b = &self.buffers;
        encoder.copy_buffer_to_buffer(&b.chosen, 0, &b.chosen_staging, 0, (MAX_BATCH * 4) as u64);
        Ok(())
    }

    /// Copies `count` rows of the residual stream, from row `first`, to where the head reads.
    fn copy_head_rows(&self, encoder: &mut wgpu::CommandEncoder, first: usize, count: usize) {
        let row = (padded(self.spec.hidden_size) * 4) as u64;
        let b = &self.buffers;
        encoder.copy_buffer_to_buffer(&b.hidden, first as u64 * row, &b.head_input, 0, count as u64 * row);
    }
}

fn encode(encoder: &mut wgpu::CommandEncoder, dispatches: &[Dispatch]) {
    let mut pass = encoder.begin_compute_pass(&Default::default());
    for dispatch in dispatches {
        dispatch.encode(&mut pass);
    }
}

/// Room for the norms of queries and keys of each layer that has such.
fn qk_norms(gpu: &Gpu, spec: &DecoderSpec, weights: &Weights) -> Vec<Option<wgpu::Buffer>> {
    let bytes = |layer: usize| qk_parameters(weights, layer).map(|m| m.columns as u64 * 4).sum::<u64>();
    let sizes = (0..spec.num_layers()).map(bytes);
    sizes.map(|bytes| (bytes > 0).then(|| gpu.storage("q and k norms", bytes))).collect()
}

/// Gains of queries and of keys, then their biases if there are any.
fn qk_parameters(weights: &Weights, layer: usize) -> impl Iterator<Item = &GpuMatrix> {
    let names = ["q_norm.gain", "k_norm.gain", "q_norm.bias", "k_norm.bias"];
    names.into_iter().filter_map(move |name| weights.find(&format!("layers.{layer}.{name}")))
}
