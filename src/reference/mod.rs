//! The reference forward pass: a [`DecoderSpec`] with its canonical tensors, computed in f32 on the CPU.
//!
//! It is written for being right and readable, and is the yardstick for everything else: golden outputs are recorded
//! from it, and kernels and packages are measured against them. It is itself measured against Hugging Face
//! transformers (`tests/reference.rs`). It knows no model family, only the spec.

mod attention;
mod cache;
mod causal_conv;
mod delta_net;
mod elementwise;
mod embedding;
mod experts;
mod gate;
mod heads;
mod layer;
mod mamba2;
mod norm;
mod numbers;
mod observe;
mod output;
mod per_layer;
mod product;
mod rope;
mod rows;
mod short_conv;
pub mod stored;
mod streams;
mod vectors;
mod weights;
mod windows;

use crate::model::{BoxError, LanguageModel, greedy};
use cache::LayerCache;
use candle_core::Tensor;
use haikuq_format::DecoderSpec;
use layer::Layer;
use observe::Unobserved;
use rope::cos_sin;
use weights::Weights;

pub use cache::KeysValues;
pub use embedding::Embedding;
pub use layer::Beside;
pub use numbers::{numbers, with_numbers};
pub use observe::{Observe, ProjectionKind, Routing};
pub use output::{FinalNorm, OutputHead};
pub use per_layer::PerLayerInputs;
pub use product::GpuProducts;
pub use streams::StreamEnds;
pub use windows::LayerWindows;

/// Positions that are computed together, which bounds the memory of attention scores to
/// `heads × 512 × context` numbers.
const CHUNK: usize = 512;

/// Positions whose logits exist at the same time: 64 MB for a vocabulary of 128 Ki.
const LOGIT_ROWS: usize = 128;

/// What stops the reference forward.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A tensor could not be read.
    #[error("tensor {tensor}: {source}")]
    Read {
        /// Canonical name.
        tensor: String,
        /// What the reader said.
        source: BoxError,
    },
    /// A tensor has another number of elements than the spec gives it.
    #[error("tensor {tensor} has {have} numbers where the spec's shape {shape:?} needs {need}")]
    Shape {
        /// Canonical name.
        tensor: String,
        /// The spec's shape.
        shape: Vec<usize>,
        /// Elements expected.
        need: usize,
        /// Elements read.
        have: usize,
    },
    /// The spec contradicts itself.
    #[error("decoder spec: {0}")]
    Spec(#[from] haikuq_format::spec::SpecError),
    /// A token id outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The id.
        id: u32,
        /// Where it stands in the sequence.
        position: usize,
        /// Ids that exist.
        vocab_size: usize,
    },
    /// A sequence longer than the model was made for.
    #[error("{length} positions are more than the model's context of {max_context}")]
    Context {
        /// Positions asked for.
        length: usize,
        /// The spec's limit.
        max_context: usize,
    },
    /// Nothing to continue.
    #[error("a prompt has no tokens")]
    EmptyPrompt,
    /// Tensor arithmetic failed: a bug, or no memory.
    #[error("reference forward: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A decoder with f32 weights in memory.
pub struct Reference {
    embedding: Embedding,
    head: OutputHead,
    layers: Vec<Layer>,
    streams: Option<StreamEnds>,
}

/// Keys and values of the positions computed so far, for one sequence.
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// The ids whose keys and values these are.
    ids: Vec<u32>,
}

impl KvCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether nothing has been computed yet.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Reference {
    /// Reads every canonical tensor of `spec` through `read` (canonical name to row-major f32 numbers).
    ///
    /// # Errors
    /// If a tensor cannot be read, or has not as many numbers as the spec says.
    pub fn load<E>(spec: &DecoderSpec, read: impl FnMut(&str) -> Result<Vec<f32>, E>) -> Result<Self, ReferenceError>
    where
        E: Into<BoxError>,
    {
        spec.check()?;
        let mut weights = Weights::new(spec, read);
        let embedding = Embedding::take(spec, &mut weights)?;
        let tied = spec.tied_head.then(|| embedding.table());
        let head = OutputHead::take(spec, &mut weights, tied)?;
        let layers = (0..spec.num_layers()).map(|i| Layer::load(spec, i, &mut weights)).collect::<Result<_, _>>()?;
        let streams = StreamEnds::take(spec, &mut weights)?;
        Ok(Self { embedding, head, layers, streams })
    }

    /// The decoder's spec.
    pub fn spec(&self) -> &DecoderSpec {
        self.embedding.spec()
    }

    /// A cache for a new sequence.
    pub fn new_cache(&self) -> KvCache {
        KvCache { layers: self.layers.iter().map(|_| LayerCache::default()).collect(), ids: Vec::new() }
    }

    /// Appends `ids` to the cache's sequence and hands `on_row` the logits (`[vocab_size]`) of each of them, in order,
    /// with its index in `ids`.
    ///
    /// # Errors
    /// If an id is outside the vocabulary, or the sequence grows over the model's context.
    pub fn forward(&self, ids: &[u32], cache: &mut KvCache, mut on_row: impl FnMut(usize, &[f32])) -> Result<(), ReferenceError> {
        let end = self.prepare(ids, cache)?;
        for (chunk, ids) in ids.chunks(CHUNK).enumerate() {
            let hidden = self.hidden(ids, end, cache)?;
            for first in (0..ids.len()).step_by(LOGIT_ROWS) {
                let rows = LOGIT_ROWS.min(ids.len() - first);
                let logits = self.head.logits(&hidden.narrow(0, first, rows)?)?.flatten_all()?.to_vec1::<f32>()?;
                for (row, logits) in logits.chunks_exact(self.spec().vocab_size).enumerate() {
                    on_row(chunk * CHUNK + first + row, logits);
                }
            }
        }
        Ok(())
    }

    /// As [`Reference::forward`], with the last id's logits alone.
    ///
    /// # Errors
    /// As [`Reference::forward`], and if `ids` is empty.
    pub fn last_logits(&self, ids: &[u32], cache: &mut KvCache) -> Result<Vec<f32>, ReferenceError> {
        let end = self.prepare(ids, cache)?;
        let mut last = None;
        for ids in ids.chunks(CHUNK) {
            last = Some(self.hidden(ids, end, cache)?.narrow(0, ids.len() - 1, 1)?);
        }
        let last = last.ok_or(ReferenceError::EmptyPrompt)?;
        Ok(self.head.logits(&last)?.flatten_all()?.to_vec1()?)
    }

    /// Up to `max_new` ids that follow `prompt`, each the one with the largest logit (the lowest id among equals).
    /// Ends early after an end token, which is part of the result, and where the context is full.
    ///
    /// # Errors
    /// If the prompt is empty, longer than the context, or has an id outside the vocabulary.
    pub fn generate_greedy(&self, prompt: &[u32], max_new: usize) -> Result<Vec<u32>, ReferenceError> {
        let mut cache = self.new_cache();
        greedy(self.spec(), prompt, max_new, |ids| Ok(crate::logits::argmax(&self.last_logits(ids, &mut cache)?)))
    }

    /// Checks `ids` and returns how many positions the sequence has with them. A sequence that becomes a long one is
    /// computed anew, since its keys were rotated as a short one's are.
    fn prepare(&self, ids: &[u32], cache: &mut KvCache) -> Result<usize, ReferenceError> {
        let end = self.embedding.check(ids, cache.len())?;
        let becomes_long = |beyond| !cache.is_empty() && cache.len() <= beyond && end > beyond;
        if self.spec().long_beyond().is_some_and(becomes_long) {
            let earlier = std::mem::replace(cache, self.new_cache()).ids;
            for ids in earlier.chunks(CHUNK) {
                self.hidden(ids, end, cache)?;
            }
        }
        Ok(end)
    }

    /// The residual stream after the last layer and norm, `[ids, hidden_size]`, in a sequence of `end` positions.
    fn hidden(&self, ids: &[u32], end: usize, cache: &mut KvCache) -> Result<Tensor, ReferenceError> {
        let mut x = self.embedding.embed_from(ids, cache.len())?;
        let rope = |table| cos_sin(table, cache.len(), ids.len(), end);
        let ropes = self.spec().ropes.iter().map(rope).collect::<Result<Vec<_>, _>>()?;
        let (first, numbers) = (cache.len(), self.embedding.per_layer(ids, &x)?);
        if let Some(streams) = &self.streams {
            x = streams.expand(&x, &mut Unobserved)?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let of_layer = numbers.as_ref().map(|(all, size)| all.narrow(1, i * size, *size)).transpose()?;
            if let Some(from) = layer.kv_from() {
                cache.layers[i] = LayerCache::of(cache.layers[from].kept());
            }
            x = layer.forward(self.spec(), &x, &ropes, first, &mut cache.layers[i], of_layer.as_ref())?;
        }
        if let Some(streams) = &self.streams {
            x = streams.contract(&x, &mut Unobserved)?;
        }
        cache.ids.extend(ids);
        self.head.normed(&x)
    }
}

impl LanguageModel for Reference {
    fn score_window(&mut self, ids: &[u32], on_row: &mut dyn FnMut(usize, &[f32])) -> Result<(), BoxError> {
        Ok(self.forward(ids, &mut self.new_cache(), on_row)?)
    }

    fn generate_greedy(&mut self, prompt: &[u32], max_new: usize) -> Result<Vec<u32>, BoxError> {
        Ok(Self::generate_greedy(self, prompt, max_new)?)
    }
}
