//! [`Room`]: how many windows a GPU's memory has room for at once.

use crate::accelerator::{Accelerator, LayerOnGpu};
use haikuq_format::DecoderSpec;

/// What fits into the memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::convert::calibrated) enum Room {
    /// Both streams, and all that a layer makes of them.
    All,
    /// So many windows at a time, with a layer's weights and what quantizing a matrix takes.
    Windows(usize),
    /// Not even one, which would take so many bytes.
    TooLittle(u64),
    /// There are no kernels for it.
    Unserved,
}

/// Bytes that the scores of attention take at most.
const SCORES: u64 = 512 << 20;

impl Room {
    /// For layer `index` of `spec`, over `windows` windows of `length` tokens.
    pub(in crate::convert::calibrated) fn for_layer(
        gpu: &Accelerator,
        spec: &DecoderSpec,
        index: usize,
        windows: usize,
        length: usize,
    ) -> Self {
        let serves = |windows| LayerOnGpu::serves(gpu, spec, index, windows, length);
        let limit = gpu.memory().1;
        if serves(windows) && layer_bytes(spec, index, windows, length, true) <= limit {
            return Self::All;
        }
        let mut at_once = windows.div_ceil(2).max(1);
        loop {
            match layer_bytes(spec, index, at_once, length, false) {
                _ if at_once == 1 && !serves(1) => return Self::Unserved,
                bytes if bytes <= limit && serves(at_once) => return Self::Windows(at_once),
                bytes if at_once == 1 => return Self::TooLittle(bytes),
                _ => at_once = at_once.div_ceil(2),
            }
        }
    }

    /// Whether the head fits, with both streams of so many tokens.
    pub(super) fn for_head(gpu: &Accelerator, spec: &DecoderSpec, tokens: usize) -> bool {
        let (hidden, vocabulary) = (spec.hidden_size as u64, spec.vocab_size as u64);
        4 * (4 * tokens as u64 * hidden + 4 * vocabulary * hidden) + squares(spec.hidden_size) <= gpu.memory().1
    }
}

/// Bytes of a Hessian, its factor and what is needed to find that.
fn squares(columns: usize) -> u64 {
    6 * 4 * (columns as u64).pow(2)
}

/// Bytes that a layer takes at most over so many windows at once: of all of them, with both streams and what is recorded of
/// each matrix, or of some.
fn layer_bytes(spec: &DecoderSpec, index: usize, windows: usize, length: usize, all: bool) -> u64 {
    let layer = &spec.layers[index];
    let (inner, up) = layer.mlp.as_ref().map_or((0, 0), |mlp| (mlp.intermediate_size, mlp.up_size()));
    let (hidden, mixed, mixer) = (spec.hidden_size, layer.mixer.output_columns(), layer.mixer.input_rows());
    let matrices = [mixer * hidden, hidden * mixed, up * hidden, hidden * inner].map(|n| n as u64);
    // The original weights together; a matrix corrected, rounded and as it is stored.
    let weights = 4 * (matrices.iter().sum::<u64>() + 4 * matrices.iter().max().copied().unwrap_or(0));
    let in_mixer = 3 * hidden + mixer + 2 * mixed;
    let in_feed_forward = 2 * hidden + up + 2 * inner;
    let kept = if all { 6 * hidden.max(mixed) } else { 2 * inner };
    let tokens = 4 * (windows * length) as u64 * (kept + in_mixer.max(in_feed_forward)) as u64;
    let heads = layer.attention().map_or(0, |attention| attention.num_heads);
    let scores = 4 * (windows * heads * length * length.next_multiple_of(32)) as u64;
    tokens + scores.min(SCORES) + weights + squares(hidden.max(mixed).max(inner))
}
