//! [`DecoderSpec`]: everything that a runtime needs to know of a decoder-only transformer.
//!
//! The spec speaks the field's own words and names no model family. Quirks that arithmetic can remove are removed
//! when a checkpoint is converted: Gemma's `1 + w` norm gains are stored as the sum, fused projections have one
//! canonical form, rope permutations are undone, rope scaling becomes a table of inverse frequencies. So the spec has
//! only what the arithmetic of a forward pass really depends on.
//!
//! Sizes and blocks belong to the [layers](LayerSpec), which may all differ. [`DecoderSpec`] has what all of them share,
//! and what stands before the first and after the last. A member that a reader does not know is an error and never
//! ignored: arithmetic would depend on it.

mod altup;
mod check;
mod layer;
mod per_layer;
mod tensors;

pub use altup::AltUp;
pub use check::SpecError;
pub use layer::{
    Activation, Attention, AttentionGate, DeltaNet, Experts, GatedNorm, LayerSpec, Mamba2, Mixer, Mlp, NormPlacement, QkNorm,
    QueryScaling, Residual, Scores, ShortConv,
};
pub use per_layer::PerLayerEmbedding;
pub use tensors::{TensorClass, TensorSpec};

use serde::{Deserialize, Serialize};

/// A decoder-only transformer's shape and arithmetic.
///
/// With `x` the residual stream and `norm` the spec's [`Norm`], a sequential layer computes
/// `x += mixer(norm(x)); x += mlp(norm(x))`, and the model ends with `head(norm(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DecoderSpec {
    /// Number of token ids, and rows of `embedding` and `head`.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Largest number of positions that the model was made for.
    pub max_context: usize,
    /// Normalization before or after each block (see [`LayerSpec::norm_placement`]) and before the head.
    pub norm: Norm,
    /// One entry a layer, in order.
    pub layers: Vec<LayerSpec>,
    /// Rotary tables that the layers refer to by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ropes: Vec<RopeTable>,
    /// Whether `head` is the transposed `embedding` and not a tensor of its own.
    #[serde(default)]
    pub tied_head: bool,
    /// Whether `head` has a bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head_bias: bool,
    /// Whether a learned table `positions` \[max_context, hidden_size\] is added to the embedding.
    #[serde(default, skip_serializing_if = "is_default")]
    pub learned_positions: bool,
    /// Numbers that each token brings along for each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_layer_embedding: Option<PerLayerEmbedding>,
    /// Several residual streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altup: Option<AltUp>,
    /// Output logits become `cap × tanh(logit / cap)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f32>,
    /// The embedding is multiplied with this.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub embedding_multiplier: f32,
    /// Each block's output is multiplied with this before it is added.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub residual_multiplier: f32,
    /// Output logits are multiplied with this (before a soft cap).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_multiplier: f32,
    /// Token ids that end a generation unless the caller says otherwise.
    #[serde(default)]
    pub eos_token_ids: Vec<u32>,
    /// Token id that starts a sequence, where the model wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
}

/// A rotary embedding: at position `p`, dimensions `i` and `i + n` of a head (`n = inv_freq.len()`, split halves)
/// rotate by `p × inv_freq[i]`; dimensions from `2n` on stay as they are.
///
/// Every scaling variant (llama3, yarn, longrope, linear) is only another table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RopeTable {
    /// Inverse frequencies in radians a position.
    pub inv_freq: Vec<f32>,
    /// Sine and cosine are multiplied with this (yarn's and longrope's attention factor).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub factor: f32,
    /// Other frequencies for long sequences (longrope).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongRope>,
}

/// The inverse frequencies that a rope table has for long sequences, for all of their positions: a sequence that grows
/// into a long one is computed anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LongRope {
    /// Most positions of a sequence that is not long.
    pub beyond: usize,
    /// As many as the table has otherwise.
    pub inv_freq: Vec<f32>,
}

/// A normalization over the last dimension, with a gain tensor and, for [`NormKind::Layer`], a bias tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Root mean square, or mean and variance with or without bias.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub epsilon: f32,
}

/// The normalizations in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / √(mean(x²) + ε) × gain`.
    Rms,
    /// `(x − mean(x)) / √(var(x) + ε) × gain + bias`.
    Layer,
    /// `(x − mean(x)) / √(var(x) + ε) × gain`.
    LayerNoBias,
}

impl NormKind {
    /// Whether the mean is taken off first.
    pub fn is_centred(self) -> bool {
        self != Self::Rms
    }

    /// Whether a norm has a bias tensor beside its gain.
    pub fn has_bias(self) -> bool {
        self == Self::Layer
    }
}

impl RopeTable {
    /// One table for sequences of all lengths, with a factor of 1.
    pub const fn new(inv_freq: Vec<f32>) -> Self {
        Self { inv_freq, factor: 1.0, long: None }
    }
}

impl LongRope {
    /// Other frequencies for sequences of more than `beyond` positions.
    pub const fn new(beyond: usize, inv_freq: Vec<f32>) -> Self {
        Self { beyond, inv_freq }
    }
}

impl DecoderSpec {
    /// A decoder of these sizes and layers, and nothing else: no ropes, a head of its own without bias, no learned
    /// positions, no soft cap, no multipliers, no tokens that start or end a text.
    pub const fn new(vocab_size: usize, hidden_size: usize, max_context: usize, norm: Norm, layers: Vec<LayerSpec>) -> Self {
        Self {
            vocab_size,
            hidden_size,
            max_context,
            norm,
            layers,
            ropes: Vec::new(),
            tied_head: false,
            head_bias: false,
            learned_positions: false,
            per_layer_embedding: None,
            altup: None,
            logit_softcap: None,
            embedding_multiplier: 1.0,
            residual_multiplier: 1.0,
            logit_multiplier: 1.0,
            eos_token_ids: Vec::new(),
            bos_token_id: None,
        }
    }

    /// Numbers of a token between layers: `hidden_size` for each residual stream.
    pub fn stream_size(&self) -> usize {
        self.altup.map_or(1, |a| a.num_streams) * self.hidden_size
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Attention of every layer that has it, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> + Clone {
        self.layers.iter().filter_map(LayerSpec::attention)
    }

    /// Attention of every layer that has it, in order, to change it.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.layers.iter_mut().filter_map(LayerSpec::attention_mut)
    }

    /// The feed-forward network of every layer that has one, in order.
    pub fn mlps(&self) -> impl Iterator<Item = &Mlp> + Clone {
        self.layers.iter().filter_map(|l| l.mlp.as_ref())
    }

    /// The feed-forward network of every layer, in order, to change it.
    pub fn mlps_mut(&mut self) -> impl Iterator<Item = &mut Mlp> {
        self.layers.iter_mut().filter_map(|l| l.mlp.as_mut())
    }

    /// Most rows of a layer's `qkv` matrix; 0 without attention.
    pub fn max_qkv_size(&self) -> usize {
        self.attentions().map(Attention::qkv_size).max().unwrap_or(0)
    }

    /// Largest width of a layer's concatenated heads; 0 without attention.
    pub fn max_attention_size(&self) -> usize {
        self.attentions().map(Attention::attention_size).max().unwrap_or(0)
    }

    /// Largest width inside a layer's feed-forward network.
    pub fn max_intermediate_size(&self) -> usize {
        self.mlps().map(|m| m.intermediate_size).max().unwrap_or(0)
    }

    /// Whether later layers see keys and values of this one.
    pub fn shares_kv(&self, layer: usize) -> bool {
        self.attentions().any(|a| a.kv_from == Some(layer))
    }

    /// Most positions of a sequence that is not a long one, if long ones are rotated otherwise.
    pub fn long_beyond(&self) -> Option<usize> {
        self.ropes.iter().find_map(|r| r.long.as_ref()).map(|l| l.beyond)
    }
}

const fn yes() -> bool {
    true
}
const fn one() -> f32 {
    1.0
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_true(x: &bool) -> bool {
    *x
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(x: &f32) -> bool {
    *x == 1.0
}
fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

#[cfg(test)]
mod tests;
