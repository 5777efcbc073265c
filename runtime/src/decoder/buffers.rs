//! Activations and per-step inputs of a decoder on the GPU, sized for its largest step.

use super::MAX_BATCH;
use super::bind::Needs;
use super::run_ahead::TOGETHER;
use super::weights::Weights;
use crate::device::Gpu;
use crate::kernels::rope_cache;
use crate::kernels::sample::{Sample, SampleParams, mask_words, seen_words};
use crate::kernels::weights::{GpuChunk, GpuMatrix};
use crate::program::Value;
use crate::program::place::Placement;
use haikuq_format::layout::{PlaneBuffers, padded, plane_sizes};
use haikuq_format::{DecoderSpec, Scheme};

/// Steps that may be on their way at a time: one is computed, others wait for it.
pub(super) const MAX_IN_FLIGHT: usize = 16;

/// Logits are computed for at most this many bytes at once.
const MAX_LOGIT_BYTES: usize = if cfg!(target_arch = "wasm32") { 16 << 20 } else { 64 << 20 };

/// Rows of logits that are computed at once, for chunks of `chunk` tokens.
pub(super) fn logit_rows(spec: &DecoderSpec, chunk: usize) -> usize {
    (MAX_LOGIT_BYTES / (padded(spec.vocab_size) * 4)).clamp(MAX_BATCH, chunk.max(MAX_BATCH))
}

/// Activations and per-step inputs.
pub(super) struct Buffers {
    /// [`Token`](crate::kernels::attention::Token)s of the step.
    pub(super) tokens: wgpu::Buffer,
    placement: Placement,
    slots: Vec<wgpu::Buffer>,
    /// Rows of the table of numbers for each layer, of the step's tokens.
    pub(super) per_layer_rows: Option<StepRows>,
    /// Where candidates work.
    pub(super) scratch: wgpu::Buffer,
    /// Where attention works in steps of decoding; see [`crate::kernels::attend::AttendJob`].
    pub(super) decode_scratch: wgpu::Buffer,
    /// Where products with experts work.
    pub(super) experts_scratch: wgpu::Buffer,
    /// Inverse frequencies of each rope table; after them those for long sequences, where there are such.
    pub(super) inv_freqs: Vec<wgpu::Buffer>,
    /// Gains and biases of each layer's norms of queries and keys, where it has such.
    pub(super) qk_norms: Vec<Option<wgpu::Buffer>>,
    /// Rows of [`Value::Logits`].
    pub(super) logit_rows: usize,
    /// Sampling parameters, one a row of a batch.
    pub(super) sample_params: wgpu::Buffer,
    /// Those of steps that are submitted together.
    pub(super) params_ahead: wgpu::Buffer,
    /// Where the sampling kernels work.
    pub(super) sample_scratch: wgpu::Buffer,
    /// Tokens that have occurred, one bit an id, [`seen_words`] a sequence.
    pub(super) seen: wgpu::Buffer,
    /// Tokens that may be chosen, one bit an id, [`mask_words`] a row of a batch.
    pub(super) mask: wgpu::Buffer,
    /// Chosen ids \[MAX_BATCH\].
    pub(super) chosen: wgpu::Buffer,
    /// Mappable copies of `chosen`, one for each submission on its way.
    pub(super) staging: Vec<wgpu::Buffer>,
}

/// What buffers are sized by.
pub(super) struct Sizes {
    /// Tokens of a step.
    pub(super) chunk: usize,
    /// Rows of logits.
    pub(super) logit_rows: usize,
    /// Sequences that can exist at once.
    pub(super) max_sequences: usize,
    /// What candidates work in.
    pub(super) needs: Needs,
    /// How a table is stored whose rows come with the step's tokens, and its columns.
    pub(super) table: Option<(Scheme, usize)>,
}

/// Rows of a table for the tokens of a step.
pub(super) struct StepRows {
    /// As they are stored, in turn.
    pub(super) packed: GpuMatrix,
    /// For each token an entry as in [`Buffers::tokens`], with the row of `packed` in the id's place.
    pub(super) numbers: wgpu::Buffer,
    /// f32 \[tokens\]\[padded(columns)\].
    pub(super) unpacked: wgpu::Buffer,
}

impl StepRows {
    fn new(gpu: &Gpu, scheme: Scheme, columns: usize, tokens: usize) -> Self {
        let planes: PlaneBuffers =
            plane_sizes(scheme, tokens, columns).into_iter().map(|size| (size.kind, vec![0; size.words])).collect();
        let chunks = vec![GpuChunk::upload(gpu, 0, tokens, &planes)];
        Self {
            packed: GpuMatrix { scheme, rows: tokens, columns, chunks, lookup: None },
            numbers: gpu.storage("rows of tokens", tokens as u64 * 16),
            unpacked: gpu.storage("rows for each layer", (padded(columns) * tokens * 4) as u64),
        }
    }

    fn bytes(&self) -> u64 {
        self.packed.bytes() + self.numbers.size() + self.unpacked.size()
    }
}

impl Buffers {
    pub(super) fn new(gpu: &Gpu, spec: &DecoderSpec, weights: &Weights, placement: Placement, sizes: &Sizes) -> Self {
        let slots = (0..placement.bytes.len()).map(|slot| gpu.storage(&label(&placement, slot), placement.bytes[slot])).collect();
        let tokens = sizes.chunk.max(MAX_BATCH);
        let staging = |_| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("chosen tokens, mapped"),
                size: (TOGETHER * MAX_BATCH * 4) as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        Self {
            tokens: gpu.storage("tokens", tokens as u64 * 16),
            slots,
            placement,
            per_layer_rows: sizes.table.map(|(scheme, columns)| StepRows::new(gpu, scheme, columns, tokens)),
            scratch: gpu.storage("scratch", sizes.needs.scratch),
            decode_scratch: gpu.storage("attention scratch", sizes.needs.decode_scratch),
            experts_scratch: gpu.storage("experts scratch", sizes.needs.experts_scratch),
            inv_freqs: spec.ropes.iter().map(|r| gpu.upload("inverse frequencies", &rope_cache::frequencies(r))).collect(),
            qk_norms: qk_norms(gpu, spec, weights),
            logit_rows: sizes.logit_rows,
            sample_params: gpu.storage("sample parameters", (MAX_BATCH * size_of::<SampleParams>()) as u64),
            params_ahead: gpu.storage("sample parameters ahead", (TOGETHER * MAX_BATCH * size_of::<SampleParams>()) as u64),
            sample_scratch: gpu.storage("sampling", Sample::scratch_bytes(MAX_BATCH as u32, spec.vocab_size as u32)),
            seen: gpu.storage("seen tokens", sizes.max_sequences as u64 * u64::from(seen_words(spec.vocab_size as u32)) * 4),
            mask: gpu.storage("tokens allowed", MAX_BATCH as u64 * u64::from(mask_words(spec.vocab_size as u32)) * 4),
            chosen: gpu.storage("chosen tokens", (MAX_BATCH * 4) as u64),
            staging: (0..MAX_IN_FLIGHT).map(staging).collect(),
        }
    }

    /// The buffer that a value lies in.
    pub(super) fn value(&self, value: Value) -> &wgpu::Buffer {
        let slot = self.placement.slots.get(&value).unwrap_or_else(|| panic!("the value {value} was not placed"));
        &self.slots[*slot]
    }

    /// Bytes of GPU memory.
    pub(super) fn bytes(&self) -> u64 {
        let own = [
            &self.tokens,
            &self.scratch,
            &self.decode_scratch,
            &self.experts_scratch,
            &self.sample_params,
            &self.params_ahead,
            &self.sample_scratch,
            &self.seen,
            &self.mask,
            &self.chosen,
        ];
        let rows = self.per_layer_rows.as_ref().map_or(0, StepRows::bytes);
        rows + own.into_iter().chain(&self.slots).chain(&self.staging).map(|b| b.size()).sum::<u64>()
    }
}

fn label(placement: &Placement, slot: usize) -> String {
    let names: Vec<_> = placement.slots.iter().filter(|(_, s)| **s == slot).map(|(value, _)| value.name()).collect();
    names.join(", ")
}

/// Room for the norms of queries and keys of each layer that has such.
fn qk_norms(gpu: &Gpu, spec: &DecoderSpec, weights: &Weights) -> Vec<Option<wgpu::Buffer>> {
    let bytes = |layer: usize| qk_parameters(weights, layer).map(|m| m.columns as u64 * 4).sum::<u64>();
    let sizes = (0..spec.num_layers()).map(bytes);
    sizes.map(|bytes| (bytes > 0).then(|| gpu.storage("q and k norms", bytes))).collect()
}

/// Gains of queries and of keys, then their biases if there are any.
pub(super) fn qk_parameters(weights: &Weights, layer: usize) -> impl Iterator<Item = &GpuMatrix> {
    let names = ["q_norm.gain", "k_norm.gain", "q_norm.bias", "k_norm.bias"];
    names.into_iter().filter_map(move |name| weights.find(&format!("layers.{layer}.{name}")))
}
