//! How much memory calibration takes, by what is known before: sizes of the decoder and numbers of tokens.
//!
//! The sums below follow what the code keeps at the moments at which it keeps most. They count numbers of f32, and add
//! two fifths for what threads hold in between and for what the allocator keeps of one stage in the next: measured on shapes of
//! 7 M, 135 M and 1.2 B weights, it is a tenth to a third.

use crate::calibrate::{Calibration, sensitivity};
use haikuq_format::DecoderSpec;
use haikuq_format::spec::{LayerSpec, Mixer};

/// Sizes that activations and weights have, in the layer where they are largest.
struct Sizes {
    hidden: u64,
    /// Of the heads, together.
    attention: u64,
    qkv: u64,
    inner: u64,
    vocabulary: u64,
    layers: u64,
    /// Weights of a layer, and of a layer's largest matrix.
    layer: u64,
    matrix: u64,
    jobs: u64,
}

/// Bytes that measuring `calibration` and quantizing the matrices of `spec` for it on `jobs` threads take at most, beside
/// the mapped checkpoint.
pub(super) fn calibrated(spec: &DecoderSpec, calibration: &Calibration, jobs: usize) -> u64 {
    let hidden = spec.hidden_size as u64;
    let matrices = |layer: &LayerSpec| {
        let Mixer::Attention(attention) = &layer.mixer;
        let rows = [attention.qkv_size(), attention.attention_size(), layer.mlp.up_size(), layer.mlp.intermediate_size];
        rows.map(|n| n as u64 * hidden)
    };
    let of_layers = || spec.layers.iter().map(matrices);
    let sizes = Sizes {
        hidden,
        attention: spec.max_attention_size() as u64,
        qkv: spec.max_qkv_size() as u64,
        inner: spec.max_intermediate_size() as u64,
        vocabulary: spec.vocab_size as u64,
        layers: spec.num_layers() as u64,
        layer: of_layers().map(|m| m.iter().sum()).max().unwrap_or(0),
        matrix: of_layers().flatten().max().unwrap_or(0),
        jobs: jobs as u64,
    };
    let tokens = calibration.windows.iter().map(Vec::len).sum::<usize>() as u64;
    let window = calibration.windows.first().map_or(0, Vec::len).min(sensitivity::WINDOW_TOKENS) as u64;
    let ends = sizes.vocabulary * hidden * if spec.tied_head { 1 } else { 2 };
    let sensitivities = sizes.sensitivities(calibration.sensitivity_tokens as u64, window, ends);
    let numbers = sensitivities.max(sizes.layer(tokens)).max(sizes.ends(tokens, ends));
    // Four bytes each, and two fifths.
    numbers * 28 / 5
}

impl Sizes {
    /// While sensitivities are measured: what goes into every layer, with the gradients and the last layer's outputs; and
    /// either embedding and head with each thread's logits, or a layer's weights with
    /// all that a window leaves in it on the way forward and the gradients on the way back.
    fn sensitivities(&self, tokens: u64, window: u64, ends: u64) -> u64 {
        let kept = (self.layers + 2) * tokens * self.hidden;
        let logits = 2 * sensitivity::LOGIT_ROWS as u64 * self.vocabulary + 4 * self.vocabulary;
        let sums = 2 * self.vocabulary * tokens.div_ceil(window.max(1));
        let graph = window * (14 * self.hidden + 8 * self.qkv + 12 * self.inner);
        kept + (ends + self.jobs * logits + sums).max(2 * self.layer + self.jobs * graph)
    }

    /// While a layer is quantized: both streams, the recorded inputs of its matrices, and the activations between them,
    /// of all tokens; its weights; and what quantizing a matrix takes.
    fn layer(&self, tokens: u64) -> u64 {
        let Self { hidden, attention, qkv, inner, .. } = *self;
        let in_feed_forward = 6 * hidden + attention + 2 * inner;
        let in_attention = 7 * hidden + 2 * attention + qkv + inner;
        let before_down = 4 * hidden + 3 * inner;
        let activations = tokens * in_feed_forward.max(in_attention).max(before_down);
        activations + 2 * self.layer + Self::quantizing(self.matrix, inner.max(attention).max(hidden))
    }

    /// While the head is quantized, or before, while it is still needed for the final norm.
    fn ends(&self, tokens: u64, ends: u64) -> u64 {
        let head = self.vocabulary * self.hidden;
        (4 * tokens * self.hidden + ends).max(3 * tokens * self.hidden + head + Self::quantizing(head, self.hidden))
    }

    /// What corrects weights, which become stored values; codes and packed words; the second moment, that with what is
    /// corrected, and while it is factored its Cholesky factor (in f64) and the two triangles that are kept.
    fn quantizing(weights: u64, columns: u64) -> u64 {
        5 * weights / 2 + 6 * columns * columns
    }
}
