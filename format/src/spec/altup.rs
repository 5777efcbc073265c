//! [`AltUp`]: several residual streams, of which layers compute one.

use serde::{Deserialize, Serialize};

/// Alternating updates (C. Baykal et al., "Alternating Updates for Efficient Transformers", 2023): a token has `num_streams` residual
/// streams `x_0, x_1, …` \[hidden_size\]. Blocks compute the stream `active` alone, and small matrices of each layer guess the others.
///
/// * Before the first layer `x_0 = e`, the embedding, and `x_i` is `altup_in.i e` scaled to the size of `e`: times
///   `√(mean(e²)) / √(max(mean((altup_in.i e)²), 10⁻⁵))`.
/// * A layer begins with `r = tanh(altup.router (rms(x_a) × altup_norm.gain) / hidden_size)` of the active stream `x_a`, and
///   `x_i ← x_i + Σ_j C[i, j] x_j` with `C = altup.prediction r`, a row of `num_streams²` numbers read as a matrix.
///   The blocks make `y` of `x_a`, which stays.
/// * Then, with `r` made of `y` in the same way, `x_i ← x_i + (1 + (altup.correction r)_i) (y − x_a)`.
/// * Where tokens bring numbers along for each layer, `per_layer_gate` reads the corrected `x_a`, times `altup.scale` where
///   `output_scale` says so, and the output is added to all streams but `x_0`.
/// * After the last layer each `altup_out.i x_i` with `i > 0` is scaled to the size of `x_0`, as above, and the final norm reads the mean of
///   `x_0` and these.
///
/// `rms` has the epsilon of the decoder's norm, whatever the kind of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AltUp {
    /// Streams, 2 to 8.
    pub num_streams: usize,
    /// The one that blocks compute.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub active: usize,
    /// Whether the active stream is multiplied with gains before numbers for the layer are multiplied in.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub output_scale: bool,
}

impl AltUp {
    /// Most streams.
    pub const MAX_STREAMS: usize = 8;

    /// The smallest mean square that a stream is scaled by.
    pub const SMALLEST: f32 = 1e-5;

    /// So many streams, of which blocks compute the first.
    pub const fn new(num_streams: usize) -> Self {
        Self { num_streams, active: 0, output_scale: false }
    }

    /// Canonical names of the matrices that make the streams, and of those that read them at the end; the first stream has none.
    pub fn ends(self) -> impl Iterator<Item = [String; 2]> {
        (1..self.num_streams).map(|i| [format!("altup_in.{i}"), format!("altup_out.{i}")])
    }
}
