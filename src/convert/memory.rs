//! How much memory calibration takes, by what is known before: sizes of the decoder and numbers of tokens.
//!
//! The sums below follow what the code keeps at the moments at which it keeps most. They count numbers of f32, and add
//! two fifths for what threads hold in between and for what the allocator keeps of one stage in the next: measured on shapes of
//! 7 M, 135 M and 1.2 B weights, it is a tenth to a third.

use crate::calibrate::{self, sensitivity};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{LayerSpec, Mixer};

pub use crate::zeros::keep_large_buffers;

/// Sizes that activations and weights have, in the layer where they are largest.
struct Sizes {
    hidden: u64,
    /// Of all residual streams.
    stream: u64,
    /// Of what the mixer's last matrix reads, and of what its first writes.
    mixed: u64,
    mixer: u64,
    inner: u64,
    /// Experts that a token uses; 1 without.
    active: u64,
    vocabulary: u64,
    layers: u64,
    /// Numbers of a token for all layers, and those of keys and values that later layers see, in all layers.
    per_layer: u64,
    shared: u64,
    /// Weights of a layer, of a layer's largest matrix, and of the largest that is a stack of experts'.
    layer: u64,
    matrix: u64,
    stack: u64,
    jobs: u64,
    calibrated: Calibrated,
}

/// What of a calibrated conversion is not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calibrated {
    /// Activations that wait are on disk.
    pub spilled: bool,
    /// A GPU rounds, with all activations, Hessians and factors in its own memory.
    pub on_gpu: bool,
}

/// Bytes that measuring sensitivities of `spec` on a text of `text`'s sizes takes at most on `jobs` threads, beside the mapped
/// checkpoint.
pub fn measuring(spec: &DecoderSpec, text: &calibrate::Options, jobs: usize, calibrated: Calibrated) -> u64 {
    let window = text.window_tokens.min(spec.max_context).min(sensitivity::WINDOW_TOKENS) as u64;
    bytes(Sizes::new(spec, jobs, calibrated).sensitivities(text.sensitivity_tokens as u64, window))
}

/// Bytes that quantizing the matrices of `spec` for such a text takes at most.
pub fn rounding(spec: &DecoderSpec, text: &calibrate::Options, jobs: usize, calibrated: Calibrated) -> u64 {
    let tokens = (text.windows * text.window_tokens.min(spec.max_context)) as u64;
    let sizes = Sizes::new(spec, jobs, calibrated);
    // A head is whole buffers of one size, which leave little over.
    bytes(sizes.layer(tokens)).max(sizes.head(tokens) * 9 / 2)
}

/// Four bytes a number, and two fifths.
fn bytes(numbers: u64) -> u64 {
    numbers * 28 / 5
}

impl Sizes {
    fn new(spec: &DecoderSpec, jobs: usize, calibrated: Calibrated) -> Self {
        let hidden = spec.hidden_size as u64;
        // Of mixers, of the feed-forward network (all experts' together), and of numbers for each layer.
        let matrices = |layer: &LayerSpec| -> Vec<u64> {
            let of_mixers = layer.mixers().flat_map(|mixer| [mixer.input_rows(), mixer.output_columns()]);
            let of_mlp = layer.mlp.iter().flat_map(|m| [m.up_size(), m.intermediate_size].map(|n| m.num_experts() * n));
            let per_layer = spec.per_layer_embedding.map(|p| 2 * p.size);
            of_mixers.chain(of_mlp).chain(per_layer).chain(layer.laurel.map(|rank| 2 * rank)).map(|n| n as u64 * hidden).collect()
        };
        // Matrices of experts are quantized one by one.
        let of_one = |layer: &LayerSpec| {
            let experts = layer.num_experts().max(1) as u64;
            let of_mixers = 2 * layer.mixers().count();
            let of_one = move |(i, n): (usize, u64)| if (of_mixers..of_mixers + 2).contains(&i) { n / experts } else { n };
            matrices(layer).into_iter().enumerate().map(of_one)
        };
        let shared = spec.layers.iter().enumerate().filter(|(i, _)| spec.shares_kv(*i)).filter_map(|(_, l)| l.attention());
        let of_layers = || spec.layers.iter().map(matrices);
        let of_mixers = || spec.layers.iter().flat_map(LayerSpec::mixers);
        Self {
            hidden,
            stream: spec.stream_size() as u64,
            mixed: of_mixers().map(Mixer::output_columns).max().unwrap_or(0) as u64,
            mixer: of_mixers().map(Mixer::input_rows).max().unwrap_or(0) as u64,
            inner: spec.max_intermediate_size() as u64,
            active: spec.mlps().map(haikuq_format::spec::Mlp::num_active).max().unwrap_or(1) as u64,
            vocabulary: spec.vocab_size as u64,
            layers: spec.num_layers() as u64,
            per_layer: spec.per_layer_embedding.map_or(0, |p| p.size * spec.num_layers()) as u64,
            shared: shared.map(|a| 2 * a.kv_size()).sum::<usize>() as u64,
            layer: of_layers().map(|m| m.iter().sum()).max().unwrap_or(0),
            matrix: spec.layers.iter().flat_map(of_one).max().unwrap_or(0),
            stack: spec.layers.iter().filter(|l| l.num_experts() > 1).flat_map(matrices).max().unwrap_or(0),
            jobs: jobs as u64,
            calibrated,
        }
    }
}

/// Bytes of memory that the system can give without writing others' to disk; nothing where it does not tell.
pub fn available() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.available_memory();
    // A container's limit also counts files that were read. The system forgets these where memory is short, so they are free.
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(free.min(limit)).filter(|bytes| *bytes > 0)
}

impl Sizes {
    /// What waits, unless it does so on disk.
    fn waiting(&self, numbers: u64) -> u64 {
        if self.calibrated.spilled { 0 } else { numbers }
    }

    /// While sensitivities are measured: what goes into every layer, with the gradients and the last layer's outputs; and
    /// either the head, packed both ways, with each thread's logits, or a layer's weights, so packed too, with all that a
    /// window leaves in it on the way forward and the gradients on the way back.
    fn sensitivities(&self, tokens: u64, window: u64) -> u64 {
        let windows = tokens.div_ceil(window.max(1));
        let at_once = self.jobs.min(windows);
        // Numbers for each layer, their gradients and the table's rows; keys, values and theirs.
        let beside = tokens * (3 * self.per_layer + 2 * self.shared);
        let kept = 2 * tokens * self.stream + self.waiting(self.layers * tokens * self.stream) + beside;
        let logits = 2 * sensitivity::LOGIT_ROWS as u64 * self.vocabulary + 4 * self.vocabulary;
        let head = 2 * self.vocabulary * self.hidden + at_once * logits + 2 * self.vocabulary * windows;
        let of_experts = if self.active > 1 { self.active * (4 * self.hidden + 12 * self.inner) } else { 12 * self.inner };
        let graph = window * (14 * self.hidden + 6 * (self.stream - self.hidden) + 8 * self.mixer + of_experts);
        kept + head.max(2 * self.layer + at_once * graph)
    }

    /// While a layer is quantized: both streams, what is recorded of its matrices, and the activations between them,
    /// of all tokens; its weights; and what quantizing a matrix takes.
    fn layer(&self, tokens: u64) -> u64 {
        let Self { hidden, mixed, mixer, inner, .. } = *self;
        let in_feed_forward = 3 * hidden + 2 * inner;
        let in_mixer = 2 * hidden + mixer + 2 * mixed;
        let activations = tokens * (self.waiting(5 * hidden) + in_feed_forward.max(in_mixer) + 4 * (self.stream - hidden));
        // Inputs of each expert that a token uses wait, and codes of the experts before.
        let of_experts = if self.active > 1 { tokens * self.waiting(self.active * (hidden + inner)) + self.stack / 2 } else { 0 };
        let activations = activations + of_experts;
        // Keys and values of both streams; embeddings, from which the numbers for each layer are made.
        let beside = tokens * (2 * self.shared + if self.per_layer > 0 { hidden } else { 0 });
        self.beside_gpu(activations) + beside + 2 * self.layer + self.quantizing(self.matrix, inner.max(mixed).max(hidden))
    }

    /// While the head is quantized.
    fn head(&self, tokens: u64) -> u64 {
        let head = self.vocabulary * self.hidden;
        self.beside_gpu(tokens * (3 * self.hidden + self.waiting(self.hidden))) + head + self.quantizing(head, self.hidden)
    }

    /// Numbers that a GPU has in its own memory, if one rounds.
    fn beside_gpu(&self, numbers: u64) -> u64 {
        if self.calibrated.on_gpu { 0 } else { numbers }
    }

    /// What corrects weights, which become stored values; codes and packed words; the Hessian, and while it is factored
    /// its Cholesky factor, the inverse of that, and the two triangles that are kept.
    fn quantizing(&self, weights: u64, columns: u64) -> u64 {
        5 * weights / 2 + self.beside_gpu(5 * columns * columns)
    }
}
