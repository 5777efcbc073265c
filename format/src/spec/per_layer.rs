//! [`PerLayerEmbedding`]: numbers that a token brings along for each layer.

use super::Activation;
use serde::{Deserialize, Serialize};

/// Numbers that a token brings along for each layer (Gemma 3n and 4). A row of the table `per_layer_embedding`
/// \[vocab_size, layers × size\] has those of all layers, one layer after the other. With `e` the residual stream before the
/// first layer, layer `i` gets
///
/// `p_i = multiplier × (rms(projection_multiplier × (per_layer_projection e)_i) × per_layer_norm.gain + table_multiplier × row_i)`,
///
/// where `rms` divides by `√(mean(x²) + ε)` over a layer's numbers, with the epsilon of the decoder's norm, whatever the kind of that. After
/// its two blocks, and before its `output_scale`, each layer does
///
/// `x += norm(per_layer_output (activation(per_layer_gate x) × p_i))`
///
/// with the decoder's norm and `residual_multiplier`. The table is larger than all the rest of such a decoder, and a token needs
/// one row of it: a runtime may read that where the package lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PerLayerEmbedding {
    /// Numbers for a layer.
    pub size: usize,
    /// The activation of `per_layer_gate`.
    pub activation: Activation,
    /// Rows of the table are multiplied with this.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub table_multiplier: f32,
    /// Outputs of `per_layer_projection` are multiplied with this before they are normalized.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub projection_multiplier: f32,
    /// The sum of both is multiplied with this.
    #[serde(default = "super::one", skip_serializing_if = "super::is_one")]
    pub multiplier: f32,
}

impl PerLayerEmbedding {
    /// Canonical name of the table, of which a token needs one row.
    pub const TABLE: &'static str = "per_layer_embedding";

    /// Of `size` numbers, with nothing multiplied.
    pub const fn new(size: usize, activation: Activation) -> Self {
        Self { size, activation, table_multiplier: 1.0, projection_multiplier: 1.0, multiplier: 1.0 }
    }
}
